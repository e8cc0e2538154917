//! One state of the file for all readers.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use dms_core::batch::{BatchSender, BatchStream, channel};
use dms_core::endpoint::{Partition, PartitionGoal, ReadRequest, Snapshot};
use dms_core::position::Position;
use dms_core::schema::TableSchema;
use dms_core::{Error, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::convert;
use super::partition;
use super::settings::SqliteSettings;
use super::source::Reading;

/// How often readers are opened anew because somebody committed meanwhile.
const TRIES: usize = 20;

/// Opens the file for reading; a hot journal of a crashed writer is rolled back by SQLite.
pub(super) fn open(settings: &SqliteSettings) -> Result<Connection> {
    let doing = format!("database {} cannot be opened", settings.path.display());
    if let Err(error) = fs::metadata(&settings.path) {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::PermissionDenied => dms_core::ErrorKind::Denied,
            _ => dms_core::ErrorKind::NotFound,
        };
        return Err(Error::new(kind, doing).with_source(error));
    }
    let failed = |error| convert(error, &doing);
    // One thread at a time uses a connection, so SQLite needs no mutex. Writing is allowed to
    // SQLite only, for the recovery of a crashed writer's journal.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&settings.path, flags).map_err(failed)?;
    connection.busy_timeout(settings.busy_timeout).map_err(failed)?;
    // The source is left as it was found, its write-ahead log included.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    connection
        .execute_batch("PRAGMA query_only = ON; PRAGMA mmap_size = 0; PRAGMA cache_size = -8192;")
        .map_err(failed)?;
    // The first access to the file: not a database, locked, unreadable.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(failed)?;
    Ok(connection)
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
    for _ in 0..TRIES {
        let before = version()?;
        let opened = begin_all(settings, readers)?;
        if version()? == before {
            return Ok(opened);
        }
    }
    tracing::debug!("the source is written to all the time; its writers are kept out for a moment");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let writer = Connection::open_with_flags(&settings.path, flags).map_err(failed)?;
    writer.busy_timeout(settings.busy_timeout).map_err(failed)?;
    if writer.execute_batch("BEGIN IMMEDIATE").is_ok() {
        let opened = begin_all(settings, readers);
        writer.execute_batch("ROLLBACK").map_err(failed)?;
        return opened;
    }
    begin_all(settings, 1)
}

fn begin_all(settings: &SqliteSettings, readers: usize) -> Result<(Vec<Connection>, Position)> {
    let doing = format!("a read transaction on {} cannot begin", settings.path.display());
    let connections = (0..readers).map(|_| {
        let connection = open(settings)?;
        // BEGIN alone takes no lock: the first read fixes what the transaction sees.
        connection
            .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;")
            .map_err(|error| convert(error, &doing))?;
        Ok(connection)
    });
    let connections = connections.collect::<Result<Vec<_>>>()?;
    Ok((connections, fingerprint(&settings.path)?))
}

/// What changes with every commit: the file's size, time and change counter
/// (<https://sqlite.org/fileformat2.html#file_change_counter>), and the write-ahead log's size,
/// time and salts. Equal fingerprints mean equal content; a checkpoint changes the fingerprint
/// without changing content, which costs a reload at worst.
fn fingerprint(path: &Path) -> Result<Position> {
    let failed = |error: std::io::Error| {
        Error::unexpected(format!("{} cannot be examined", path.display())).with_source(error)
    };
    let part = |path: &Path, offset: usize, length: usize| -> std::io::Result<String> {
        let mut file = fs::File::open(path)?;
        let metadata = file.metadata()?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut header = Vec::new();
        file.by_ref().take(32).read_to_end(&mut header)?;
        let field = header.get(offset..offset + length).unwrap_or_default();
        let field: String = field.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{}-{}-{field}", metadata.len(), modified.as_nanos()))
    };
    let mut token = part(path, 24, 4).map_err(failed)?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    match fs::metadata(&log) {
        Ok(metadata) if metadata.len() > 0 => {
            token.push_str(" wal ");
            token.push_str(&part(Path::new(&log), 16, 8).map_err(failed)?);
        }
        _ => {}
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
        let reader = self.reader().await?;
        let schema = request.projected()?.arrow_schema();
        let (sender, stream) = channel(schema, request.prefetch_bytes);
        let spelling = self.settings.temporal;
        let work = move || read(&reader, &request, spelling, sender);
        thread::Builder::new().name("sqlite-reader".to_owned()).spawn(work).map_err(|error| {
            Error::unexpected("a reader thread cannot be started").with_source(error).transient()
        })?;
        Ok(stream)
    }
}

fn read(reader: &Reader, request: &ReadRequest, spelling: super::Temporal, sender: BatchSender) {
    let read = reader
        .connection()
        .and_then(|connection| Reading::new(connection, request, spelling)?.send_all(&sender));
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
