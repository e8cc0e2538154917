//! One state of the file for all readers.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use dms_core::batch::{BatchSender, BatchStream, channel};
use dms_core::endpoint::{Partition, PartitionGoal, ReadRequest, Snapshot};
use dms_core::position::Position;
use dms_core::schema::TableSchema;
use dms_core::{Error, ErrorKind, Result};
use futures::StreamExt;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::cursor::file_header;
use super::error::convert;
use super::partition;
use super::reading;
use super::settings::SqliteSettings;

/// How often readers are opened anew because somebody committed meanwhile.
const TRIES: usize = 20;
/// How many steps of SQLite's virtual machine go by, well below a millisecond, before it looks
/// whether to stop.
pub(super) const STOP_STEPS: i32 = 10_000;
/// More than the steps in which file systems count time.
const TIME_STEP: Duration = Duration::from_millis(25);
/// How long to wait between tries, and for a lock that readers themselves keep from passing.
const PAUSE: Duration = Duration::from_millis(7);

/// Opens the file for reading; a hot journal of a crashed writer is rolled back by SQLite.
pub(super) fn open(settings: &SqliteSettings) -> Result<Connection> {
    let path = &settings.path;
    let doing = format!("database {} cannot be opened", path.display());
    let there = fs::metadata(path).and_then(|metadata| {
        if metadata.is_dir() { Err(std::io::ErrorKind::IsADirectory.into()) } else { Ok(()) }
    });
    there.map_err(|error| {
        let (kind, remedy) = match error.kind() {
            std::io::ErrorKind::PermissionDenied => (ErrorKind::Denied, "check the rights on it"),
            _ => (ErrorKind::NotFound, "check its path"),
        };
        Error::new(kind, format!("{doing}; {remedy}")).with_source(error)
    })?;
    let failed = |error: rusqlite::Error| match error.sqlite_error_code() {
        // It is there, so it is a matter of rights.
        Some(ErrorCode::CannotOpen) => {
            let remedy = "check the rights on the file and its folder";
            Error::new(ErrorKind::Denied, format!("{doing}; {remedy}")).with_source(error)
        }
        _ => convert(error, &doing),
    };
    // One thread at a time uses a connection, so SQLite needs no mutex. Writing is allowed to
    // SQLite only, for the recovery of a crashed writer's journal.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(settings.busy_timeout).map_err(failed)?;
    // The source is left as it was found: a write-ahead log with content stays one.
    let keep_log = fs::metadata(log_of(path)).is_ok_and(|log| log.len() > 0);
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep_log)
        .map_err(failed)?;
    connection
        .execute_batch("PRAGMA query_only = ON; PRAGMA mmap_size = 0; PRAGMA cache_size = -8192;")
        .map_err(failed)?;
    // The first access to the file: not a database, locked.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(failed)?;
    Ok(connection)
}

pub(super) fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Readers in transactions that all began at one state of the file.
pub(super) struct SqliteSnapshot {
    readers: Arc<Readers>,
    position: Position,
    settings: SqliteSettings,
}

impl std::fmt::Debug for SqliteSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteSnapshot").field("position", &self.position).finish_non_exhaustive()
    }
}

/// The readers that nobody uses at the moment, one permit each.
struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

/// A reader in use; it goes back when dropped.
pub(super) struct Reader {
    connection: Option<Connection>,
    readers: Arc<Readers>,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    pub(super) fn connection(&self) -> Result<&Connection> {
        self.connection.as_ref().ok_or_else(|| Error::unexpected("the reader is gone"))
    }

    /// Has SQLite end its query when `stop` is set: one that finds nothing to send would not notice
    /// that nobody waits for it any more.
    fn stop_when(&mut self, stop: Option<Arc<AtomicBool>>) -> Result<()> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let handler = stop.map(|stop| move || stop.load(Ordering::Relaxed));
        connection
            .progress_handler(STOP_STEPS, handler)
            .map_err(|error| convert(error, "a reader cannot be made to stop"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut idle = self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.connection.take());
    }
}

impl SqliteSnapshot {
    /// Opens `readers` connections at one state; blocks.
    pub(super) fn open(settings: &SqliteSettings, readers: usize) -> Result<Self> {
        let (connections, position) = consistent(settings, readers.max(1))?;
        let permits = Arc::new(Semaphore::new(connections.len()));
        let readers = Arc::new(Readers { idle: Mutex::new(connections), permits });
        Ok(Self { readers, position, settings: settings.clone() })
    }

    /// The same readers, with a position that `position` reads in the state that they share.
    pub(super) fn at(
        mut self,
        position: impl FnOnce(&Connection) -> Result<Position>,
    ) -> Result<Self> {
        let idle = self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = idle.first().ok_or_else(|| Error::unexpected("the snapshot has no reader"))?;
        let position = position(reader)?;
        drop(idle);
        self.position = position;
        Ok(self)
    }

    async fn reader(&self) -> Result<Reader> {
        let permit = Arc::clone(&self.readers.permits).acquire_owned().await;
        let permit = permit.map_err(|_| Error::unexpected("the snapshot is closed"))?;
        let connection = self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Ok(Reader { connection, readers: Arc::clone(&self.readers), _permit: permit })
    }
}

/// Begins all read transactions with nobody's commit in between.
///
/// `PRAGMA data_version` of a further connection changes when any other connection, of any process,
/// commits (<https://sqlite.org/pragma.html#pragma_data_version>): unchanged before and after means
/// that all transactions began at one state. If writers are too busy for that, they are kept out
/// for the moment it takes; if that is not allowed, one reader is consistent with itself.
fn consistent(settings: &SqliteSettings, readers: usize) -> Result<(Vec<Connection>, Position)> {
    let doing = format!("a snapshot of {} cannot be taken", settings.path.display());
    let failed = |error| convert(error, &doing);
    let watcher = open(settings)?;
    let version = || -> Result<i64> {
        watcher.query_row("PRAGMA data_version", [], |row| row.get(0)).map_err(failed)
    };
    let connections = (0..readers).map(|_| open(settings)).collect::<Result<Vec<_>>>()?;
    for _ in 0..TRIES {
        let before = version()?;
        let begun = begin_all(&connections, settings)?;
        wait_until_settled(&settings.path);
        let position = fingerprint(settings, &connections[0])?;
        // Whoever keeps the watcher out is about to commit, once these readers are gone.
        watcher.busy_timeout(PAUSE).map_err(failed)?;
        let after = version();
        watcher.busy_timeout(settings.busy_timeout).map_err(failed)?;
        match after {
            Ok(after) if begun && after == before => return Ok((connections, position)),
            Err(error) if !error.is_transient() => return Err(error),
            _ => {}
        }
        end_all(&connections, settings)?;
        // Not in step with a writer that commits at regular times.
        thread::sleep(PAUSE);
    }
    tracing::debug!("the source is written to all the time; its writers are kept out for a moment");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let writer = Connection::open_with_flags(&settings.path, flags).map_err(failed)?;
    writer.busy_timeout(settings.busy_timeout).map_err(failed)?;
    if writer.execute_batch("BEGIN IMMEDIATE").is_ok() {
        let begun = begin_all(&connections, settings)?;
        wait_until_settled(&settings.path);
        let position = fingerprint(settings, &connections[0])?;
        writer.execute_batch("ROLLBACK").map_err(failed)?;
        if begun {
            return Ok((connections, position));
        }
        end_all(&connections, settings)?;
    }
    alone(connections, settings)
}

/// Waits until a commit from now on is sure to give the file or its log another time, which file
/// systems count in steps.
fn wait_until_settled(path: &Path) {
    for path in [path, &log_of(path)] {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
        // A time in the future is another machine's clock, which is not waited for.
        let age = modified.ok().and_then(|modified| modified.elapsed().ok());
        if let Some(rest) = age.and_then(|age| TIME_STEP.checked_sub(age)) {
            thread::sleep(rest);
        }
    }
}

/// One reader, at whatever state it finds; with a fingerprint if nobody commits meanwhile.
fn alone(
    mut connections: Vec<Connection>,
    settings: &SqliteSettings,
) -> Result<(Vec<Connection>, Position)> {
    connections.truncate(1);
    for _ in 0..TRIES {
        wait_until_settled(&settings.path);
        let before = fingerprint(settings, &connections[0])?;
        begin_all(&connections, settings)?;
        if fingerprint(settings, &connections[0])? == before {
            return Ok((connections, before));
        }
        end_all(&connections, settings)?;
    }
    Err(Error::new(
        ErrorKind::Connection,
        format!(
            "the state of {} cannot be told, as it is written to all the time; try again when \
             there is less to do, or allow writing to it for the time of opening",
            settings.path.display()
        ),
    )
    .transient())
}

/// Whether all transactions have begun. A writer of a rollback-mode file that waits for the readers
/// there are lets no further one in: then they have to give way.
fn begin_all(connections: &[Connection], settings: &SqliteSettings) -> Result<bool> {
    let doing = format!("a read transaction on {} cannot begin", settings.path.display());
    let failed = |error| convert(error, &doing);
    for (index, connection) in connections.iter().enumerate() {
        let patience = if index == 0 { settings.busy_timeout } else { PAUSE };
        connection.busy_timeout(patience).map_err(failed)?;
        // BEGIN alone takes no lock: the first read fixes what the transaction sees.
        let begun = connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;");
        connection.busy_timeout(settings.busy_timeout).map_err(failed)?;
        match begun {
            Err(error) if index > 0 && is_busy(&error) => return Ok(false),
            begun => begun.map_err(failed)?,
        }
    }
    Ok(true)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn end_all(connections: &[Connection], settings: &SqliteSettings) -> Result<()> {
    for connection in connections.iter().filter(|connection| !connection.is_autocommit()) {
        connection.execute_batch("ROLLBACK").map_err(|error| {
            let path = settings.path.display();
            convert(error, &format!("a read transaction on {path} cannot end"))
        })?;
    }
    Ok(())
}

/// Which file it is, as far as the system tells.
#[cfg(unix)]
pub(super) fn file_number(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
pub(super) fn file_number(_metadata: &fs::Metadata) -> u64 {
    0
}

/// What changes with every commit: the file's number, size, time and change counter
/// (<https://sqlite.org/fileformat2.html#file_change_counter>), and the write-ahead log's size,
/// time and salts. Equal fingerprints mean equal content; a checkpoint changes the fingerprint
/// without changing content, which costs a reload at worst.
fn fingerprint(settings: &SqliteSettings, reader: &Connection) -> Result<Position> {
    let path = &settings.path;
    let doing = format!("database {} cannot be examined", path.display());
    let failed = |error: std::io::Error| Error::unexpected(doing.clone()).with_source(error);
    let stamp = |metadata: fs::Metadata| -> std::io::Result<String> {
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(format!("{}-{}-{}", file_number(&metadata), metadata.len(), modified.as_nanos()))
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let header = file_header(reader).map_err(|error| convert(error, &doing))?;
    let file = fs::metadata(path).and_then(stamp).map_err(failed)?;
    let mut token = format!("{file}-{}", hex(&header[24..]));
    let log = log_of(path);
    if let Ok(metadata) = fs::metadata(&log)
        && metadata.len() > 0
    {
        // Nobody's locks are on this file: it may be opened and closed.
        let mut header = Vec::new();
        let opened = fs::File::open(&log).and_then(|log| log.take(24).read_to_end(&mut header));
        opened.map_err(failed)?;
        let salts = hex(header.get(16..24).unwrap_or_default());
        token.push_str(&format!(" wal {}-{salts}", stamp(metadata).map_err(failed)?));
    }
    Ok(Position::new(0, token))
}

#[async_trait]
impl Snapshot for SqliteSnapshot {
    fn position(&self) -> Option<Position> {
        Some(self.position.clone())
    }

    async fn partitions(
        &self,
        table: &TableSchema,
        goal: &PartitionGoal,
    ) -> Result<Vec<Partition>> {
        let reader = self.reader().await?;
        let (table, goal) = (table.clone(), goal.clone());
        blocking(move || partition::split(reader.connection()?, &table, &goal)).await
    }

    async fn read(&self, request: ReadRequest) -> Result<BatchStream> {
        let mut reader = self.reader().await?;
        let schema = request.projected()?.arrow_schema();
        let (sender, stream) = channel(Arc::clone(&schema), request.prefetch_bytes);
        let settings = self.settings.clone();
        let dropped = Arc::new(AtomicBool::new(false));
        reader.stop_when(Some(Arc::clone(&dropped)))?;
        let work = move || {
            read(&reader, &request, &settings, sender);
            // It was accepted before; and no handler is better than an old one.
            let _ = reader.stop_when(None);
        };
        thread::Builder::new().name("sqlite-reader".to_owned()).spawn(work).map_err(|error| {
            Error::unexpected("a reader thread cannot be started").with_source(error).transient()
        })?;
        let until_dropped = SetOnDrop(dropped);
        let batches = stream.inspect(move |_| {
            let _ = &until_dropped;
        });
        Ok(BatchStream::new(schema, batches))
    }
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn read(reader: &Reader, request: &ReadRequest, settings: &SqliteSettings, sender: BatchSender) {
    let read = reader
        .connection()
        .and_then(|connection| reading::read(connection, request, settings, &sender));
    if let Err(error) = read {
        sender.fail(error.context("table", &request.table.name));
    }
}

/// Runs blocking work apart from the runtime's workers.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::unexpected("blocking work ended abnormally").with_source(error))?
}
