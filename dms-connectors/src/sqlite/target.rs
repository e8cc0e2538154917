//! SQLite as a target.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use dms_core::batch::{BatchStream, batch_bytes};
use dms_core::endpoint::{
    ColumnMapping, EndpointInfo, Partition, Receipt, Run, TablePrepMode, Target, TaskProgress,
};
use dms_core::position::Position;
use dms_core::schema::TableSchema;
use dms_core::{Error, ErrorKind, Result, fault};
use futures::StreamExt;
use futures::executor::block_on;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tokio::sync::Mutex as AsyncMutex;

use super::error::convert;
use super::insert::Insert;
use super::settings::SqliteSettings;
use super::snapshot::blocking;
use super::tables::{add_unique_indexes, check_name, create, same_shape};
use super::{state, types};
use crate::control::keeps_a_part;
use crate::sql::quote;

/// How many prepared statements are kept: a few for each table that changes are applied to.
const STATEMENTS: usize = 256;

/// A SQLite file that is written. One writer: partitions are loaded one after the other, each in
/// one transaction, while the next ones are read ahead.
#[derive(Debug)]
pub struct SqliteTarget {
    pub(super) settings: SqliteSettings,
    /// Whose turn it is to write.
    pub(super) turn: Arc<AsyncMutex<()>>,
    pub(super) writer: Writer,
}

/// The one writing connection, opened at the first use.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    settings: SqliteSettings,
    connection: Arc<Mutex<Option<Connection>>>,
}

impl Writer {
    /// Runs work on the connection, apart from the runtime's workers.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let writer = self.clone();
        blocking(move || {
            let mut connection = writer.connection.lock().unwrap_or_else(PoisonError::into_inner);
            let connection = match &mut *connection {
                Some(connection) => connection,
                empty => empty.insert(connect(&writer.settings)?),
            };
            work(connection)
        })
        .await
    }

    /// Takes back a transaction that is open, and tells its owner while no work can begin; blocks
    /// while work is under way.
    pub(super) fn roll_back(&self, tell: impl FnOnce()) {
        let mut place = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        tell();
        let open = place.as_ref().is_some_and(|connection| !connection.is_autocommit());
        if open && place.as_ref().is_some_and(|c| c.execute_batch("ROLLBACK").is_err()) {
            // Closing it takes back what it did.
            *place = None;
        }
    }
}

impl SqliteTarget {
    /// A target file by its path, with default options; it is created when the first task begins.
    ///
    /// # Errors
    /// None at the moment; opening may look at the file in the future.
    pub async fn open(path: impl Into<SqliteSettings>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self::open_with(path.into())?))
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(settings: SqliteSettings) -> Result<Self> {
        let writer = Writer { settings: settings.clone(), connection: Arc::default() };
        Ok(Self { settings, turn: Arc::default(), writer })
    }
}

fn connect(settings: &SqliteSettings) -> Result<Connection> {
    let doing = format!("database {} cannot be opened for writing", settings.path.display());
    let failed = |error| convert(error, &doing);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&settings.path, flags).map_err(failed)?;
    connection.busy_timeout(settings.busy_timeout).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Appending to tables changes few old pages, so the rollback journal stays small and the rows
    // are written once. Foreign keys may point to tables that are not loaded yet.
    connection
        .execute_batch(
            "PRAGMA foreign_keys = OFF; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536; \
             PRAGMA temp_store = FILE;",
        )
        .map_err(failed)?;
    if settings.file_bytes_max > 0 {
        let page: u32 =
            connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(failed)?;
        let pages = settings.file_bytes_max / u64::from(page.max(1));
        connection
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
            .map_err(failed)?;
    }
    Ok(connection)
}

#[async_trait]
impl Target for SqliteTarget {
    fn info(&self) -> EndpointInfo {
        self.settings.info()
    }

    fn map_types(&self, table: &TableSchema) -> Vec<ColumnMapping> {
        table.columns.iter().map(types::mapping).collect()
    }

    async fn check(&self) -> Result<()> {
        let settings = self.settings.clone();
        blocking(move || check(&settings)).await
    }

    async fn begin(&self, task: &str) -> Result<TaskProgress> {
        let _turn = self.turn.lock().await;
        let task = task.to_owned();
        self.writer.run(move |connection| state::begin(connection, &task)).await
    }

    async fn prepare(
        &self,
        run: &Run,
        table: &TableSchema,
        mode: TablePrepMode,
        partitions: &[Partition],
        position: Option<&Position>,
    ) -> Result<()> {
        let _turn = self.turn.lock().await;
        let (run, table) = (run.clone(), table.clone());
        let (partitions, position) = (partitions.to_vec(), position.cloned());
        self.writer
            .run(move |connection| {
                prepare(connection, &run, &table, mode, &partitions, position.as_ref())
                    .map_err(|error| error.context("table", &table.name))
            })
            .await
    }

    async fn load(
        &self,
        run: &Run,
        table: &TableSchema,
        partition: &Partition,
        position: Option<&Position>,
        batches: BatchStream,
    ) -> Result<Receipt> {
        let _turn = self.turn.lock().await;
        let load = Load {
            run: run.clone(),
            table: table.clone(),
            partition: partition.number,
            position: position.cloned(),
        };
        // A dropped future drops the sender: the writer sees the end of its batches without the
        // word that they were all, and rolls back.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let pull = async move {
            let mut batches = batches;
            while let Some(batch) = batches.next().await {
                let ended = batch.is_err();
                if sender.send(Some(batch)).await.is_err() || ended {
                    return;
                }
            }
            // Fails only if the writer failed, which says so itself.
            let _ = sender.send(None).await;
        };
        let write = self.writer.run(move |connection| {
            load.run(connection, receiver).map_err(|error| error.context("table", &load.table.name))
        });
        let ((), receipt) = futures::join!(pull, write);
        receipt
    }

    async fn finish(&self, run: &Run, table: &TableSchema) -> Result<()> {
        let _turn = self.turn.lock().await;
        let (run, table) = (run.clone(), table.clone());
        self.writer
            .run(move |connection| {
                finish(connection, &run, &table)
                    .map_err(|error| error.context("table", &table.name))
            })
            .await
    }
}

fn check(settings: &SqliteSettings) -> Result<()> {
    let path = &settings.path;
    if path.exists() {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let doing = format!("database {} cannot be written", path.display());
        let failed = |error| convert(error, &doing);
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(settings.busy_timeout).map_err(failed)?;
        return connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK;").map_err(failed);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| std::path::Path::new("."));
    let metadata = fs::metadata(folder).map_err(|error| {
        Error::new(
            ErrorKind::NotFound,
            format!("folder {} of the target file is not there; create it", folder.display()),
        )
        .with_source(error)
    })?;
    if !metadata.is_dir() || metadata.permissions().readonly() {
        return Err(Error::new(
            ErrorKind::Denied,
            format!("no file can be created in {}; check its rights", folder.display()),
        ));
    }
    Ok(())
}

fn prepare(
    connection: &mut Connection,
    run: &Run,
    table: &TableSchema,
    mode: TablePrepMode,
    partitions: &[Partition],
    position: Option<&Position>,
) -> Result<()> {
    let failed = |error| convert(error, "the table cannot be prepared");
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    state::check_epoch(&transaction, run)?;
    let name = &table.name.name;
    check_name(&table.name)?;
    let exists: bool = transaction
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
            [name],
            |row| row.get(0),
        )
        .map_err(failed)?;
    match mode {
        _ if !exists => transaction.execute_batch(&create(table)?).map_err(failed)?,
        TablePrepMode::DropAndCreate => {
            transaction
                .execute_batch(&format!("DROP TABLE main.{}", quote(name)))
                .map_err(failed)?;
            transaction.execute_batch(&create(table)?).map_err(failed)?;
        }
        TablePrepMode::TruncateBeforeLoad => {
            same_shape(&transaction, table)?;
            transaction
                .execute_batch(&format!("DELETE FROM main.{}", quote(name)))
                .map_err(failed)?;
        }
        TablePrepMode::DoNothing => {
            same_shape(&transaction, table)?;
            if state::is_loaded_in_part(&transaction, run, name)? {
                return Err(keeps_a_part());
            }
        }
    }
    state::begin_table(&transaction, run, table, partitions, position)?;
    fault::point("sqlite-target-prepare")?;
    transaction.commit().map_err(failed)
}

/// One partition on its way into the file.
struct Load {
    run: Run,
    table: TableSchema,
    partition: u32,
    position: Option<Position>,
}

impl Load {
    fn run(
        &self,
        connection: &mut Connection,
        mut batches: tokio::sync::mpsc::Receiver<Option<Result<RecordBatch>>>,
    ) -> Result<Receipt> {
        let failed = |error| convert(error, "rows cannot be written");
        let name = &self.table.name.name;
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        state::check_epoch(&transaction, &self.run)?;
        if let Some(receipt) = state::receipt(&transaction, &self.run, name, self.partition)? {
            return Ok(receipt);
        }
        let (mut rows, mut bytes) = (0, 0);
        {
            let mut insert = Insert::new(&transaction, &self.table)?;
            loop {
                match block_on(batches.recv()) {
                    Some(Some(batch)) => {
                        let batch = batch?;
                        insert.batch(&batch)?;
                        rows += batch.num_rows() as u64;
                        bytes += batch_bytes(&batch) as u64;
                        fault::point("sqlite-target-mid-load")?;
                    }
                    Some(None) => break,
                    None => {
                        return Err(Error::new(ErrorKind::Stopped, "the load was given up"));
                    }
                }
            }
        }
        let receipt =
            Receipt { partition: self.partition, rows, bytes, position: self.position.clone() };
        state::add_receipt(&transaction, &self.run, name, &receipt)?;
        fault::point("sqlite-target-before-commit")?;
        transaction.commit().map_err(failed)?;
        fault::point("sqlite-target-after-commit")?;
        Ok(receipt)
    }
}

fn finish(connection: &mut Connection, run: &Run, table: &TableSchema) -> Result<()> {
    let failed = |error| convert(error, "the table cannot be finished");
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    state::check_epoch(&transaction, run)?;
    state::finish_table(&transaction, run, &table.name.name)?;
    add_unique_indexes(&transaction, table)?;
    fault::point("sqlite-target-finish")?;
    transaction.commit().map_err(failed)
}
