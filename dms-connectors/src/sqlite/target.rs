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
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, Statement, TransactionBehavior};
use tokio::sync::Mutex as AsyncMutex;

use super::encode::{Bound, Encoder};
use super::error::convert;
use super::settings::SqliteSettings;
use super::snapshot::blocking;
use super::{ENGINE, state, types};
use crate::control::keeps_a_part;
use crate::sql::{quote, quote_all};

/// A SQLite file that is written. One writer: partitions are loaded one after the other, each in
/// one transaction, while the next ones are read ahead.
#[derive(Debug)]
pub struct SqliteTarget {
    settings: SqliteSettings,
    /// Whose turn it is to write.
    turn: AsyncMutex<()>,
    /// Opened at the first use.
    writer: Arc<Mutex<Option<Connection>>>,
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
        let writer = Arc::default();
        Ok(Self { settings, turn: AsyncMutex::default(), writer })
    }

    /// Runs work on the one writing connection, apart from the runtime's workers.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (settings, writer) = (self.settings.clone(), Arc::clone(&self.writer));
        blocking(move || {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            let connection = match &mut *writer {
                Some(connection) => connection,
                empty => empty.insert(connect(&settings)?),
            };
            work(connection)
        })
        .await
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
        self.write(move |connection| state::begin(connection, &task)).await
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
        self.write(move |connection| {
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
        let write = self.write(move |connection| {
            load.run(connection, receiver).map_err(|error| error.context("table", &load.table.name))
        });
        let ((), receipt) = futures::join!(pull, write);
        receipt
    }

    async fn finish(&self, run: &Run, table: &TableSchema) -> Result<()> {
        let _turn = self.turn.lock().await;
        let (run, table) = (run.clone(), table.clone());
        self.write(move |connection| {
            finish(connection, &run, &table).map_err(|error| error.context("table", &table.name))
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
    if table.name.schema != types::SCHEMA {
        return Err(Error::settings(format!(
            "a SQLite file has the one schema {}; rename schema {} to it in the table mapping",
            types::SCHEMA,
            table.name.schema
        )));
    }
    if state::is_control(name) {
        return Err(Error::settings("the name is one of dms's control tables; rename the table"));
    }
    if name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_")) {
        return Err(Error::settings("SQLite keeps names with sqlite_ to itself; rename the table"));
    }
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
    state::begin_table(&transaction, run, name, partitions, position)?;
    fault::point("sqlite-target-prepare")?;
    transaction.commit().map_err(failed)
}

/// The table with its primary key; unique indexes come after the rows.
fn create(table: &TableSchema) -> Result<String> {
    let mut parts = Vec::new();
    for column in &table.columns {
        Encoder::new(column)?;
        let not_null = if column.nullable { "" } else { " NOT NULL" };
        parts.push(format!("{} {}{not_null}", quote(&column.name), types::declaration(column)));
    }
    if parts.is_empty() {
        return Err(Error::new(ErrorKind::Unsupported, "SQLite has no tables without columns"));
    }
    if !table.primary_key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", quote_all(&table.primary_key)));
    }
    let native = table.native_options.as_ref().filter(|options| options.engine == ENGINE);
    let strict_types = table.columns.iter().all(|column| {
        let declaration = types::declaration(column).to_ascii_uppercase();
        ["INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY"].contains(&declaration.as_str())
    });
    let options = native.map(|options| options.declaration.as_str()).unwrap_or_default();
    let options: Vec<&str> = options
        .split(", ")
        .filter(|option| match *option {
            "STRICT" => strict_types,
            "WITHOUT ROWID" => !table.primary_key.is_empty(),
            _ => false,
        })
        .collect();
    Ok(format!(
        "CREATE TABLE main.{} ({}) {}",
        quote(&table.name.name),
        parts.join(", "),
        options.join(", ")
    ))
}

/// A column of a table that is on the target.
struct Existing {
    name: String,
    declaration: String,
    /// Whether it needs a value and nothing gives it one.
    required: bool,
    generated: bool,
}

fn existing_columns(connection: &Connection, table: &str) -> Result<Vec<Existing>> {
    let failed = |error| convert(error, "the existing table cannot be examined");
    let mut statement = connection
        .prepare(
            "SELECT name, type, \"notnull\" AND dflt_value IS NULL AND pk = 0, hidden IN (2, 3) \
             FROM pragma_table_xinfo(?1, 'main')",
        )
        .map_err(failed)?;
    statement
        .query_map([table], |row| {
            Ok(Existing {
                name: row.get(0)?,
                declaration: row.get(1)?,
                required: row.get(2)?,
                generated: row.get(3)?,
            })
        })
        .map_err(failed)?
        .collect::<rusqlite::Result<_>>()
        .map_err(failed)
}

/// Refuses an existing table that lacks a column, needs more of them, or would change values.
fn same_shape(connection: &Connection, table: &TableSchema) -> Result<()> {
    let existing = existing_columns(connection, &table.name.name)?;
    let is = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
    let refuse = |column: &str, problem: String| {
        Err(Error::schema(format!(
            "{problem}; change the target's table, map the column otherwise, or use \
             DROP_AND_CREATE"
        ))
        .context("column", column))
    };
    for column in &table.columns {
        let Some(found) = existing.iter().find(|found| is(&found.name, &column.name)) else {
            return refuse(
                &column.name,
                "the table exists on the target without this column".to_owned(),
            );
        };
        if found.generated && !column.generated {
            return refuse(
                &column.name,
                "the column exists on the target and is generated there".to_owned(),
            );
        }
        let affinity = types::affinity(&found.declaration);
        if !found.generated && !types::storage(column).is_kept_by(affinity) {
            let (there, needed) = (&found.declaration, types::declaration(column));
            return refuse(
                &column.name,
                format!(
                    "the column exists on the target as {there:?}, in which SQLite would change \
                     values of {needed:?}"
                ),
            );
        }
    }
    let has = |name: &str| table.columns.iter().any(|column| is(&column.name, name));
    match existing.iter().find(|found| found.required && !has(&found.name)) {
        None => Ok(()),
        Some(found) => refuse(
            &found.name,
            "the table exists on the target with one more column, which needs a value".to_owned(),
        ),
    }
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

/// A prepared INSERT with an encoder a column.
struct Insert<'a> {
    statement: Statement<'a>,
    table: &'a TableSchema,
    /// By place in the table; the columns that the target generates are left out.
    encoders: Vec<(usize, Encoder)>,
    scratch: String,
}

impl<'a> Insert<'a> {
    fn new(connection: &'a Connection, table: &'a TableSchema) -> Result<Self> {
        let existing = existing_columns(connection, &table.name.name)?;
        let find = |name: &str| existing.iter().find(|e| e.name.eq_ignore_ascii_case(name));
        let written = table.columns.iter().enumerate();
        let written = written.filter(|(_, c)| !find(&c.name).is_some_and(|e| e.generated));
        let written: Vec<_> = written.collect();
        let name = quote(&table.name.name);
        let sql = if written.is_empty() {
            format!("INSERT INTO main.{name} DEFAULT VALUES")
        } else {
            format!(
                "INSERT INTO main.{name} ({}) VALUES ({})",
                quote_all(written.iter().map(|(_, column)| &column.name)),
                vec!["?"; written.len()].join(", ")
            )
        };
        let statement =
            connection.prepare(&sql).map_err(|error| convert(error, "rows cannot be written"))?;
        let encoders = written.into_iter().map(|(place, column)| {
            let declaration = find(&column.name).map_or("", |found| &found.declaration);
            Ok((place, Encoder::new(column)?.for_affinity(types::affinity(declaration))))
        });
        let encoders = encoders.collect::<Result<_>>()?;
        Ok(Self { statement, table, encoders, scratch: String::new() })
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<()> {
        for row in 0..batch.num_rows() {
            for (index, (place, encoder)) in self.encoders.iter().enumerate() {
                let array = batch
                    .columns()
                    .get(*place)
                    .ok_or_else(|| Error::schema("a batch has fewer columns than its table"))?;
                let bound = encoder.value(array.as_ref(), row, &mut self.scratch);
                let bound = bound.map_err(|error| self.place(error, *place, row))?;
                let value = match &bound {
                    Bound::Null => ValueRef::Null,
                    Bound::Integer(value) => ValueRef::Integer(*value),
                    Bound::Real(value) => ValueRef::Real(*value),
                    Bound::Text(text) => ValueRef::Text(text.as_bytes()),
                    Bound::Scratch => ValueRef::Text(self.scratch.as_bytes()),
                    Bound::RawText(bytes) => ValueRef::Text(bytes),
                    Bound::Blob(bytes) => ValueRef::Blob(bytes),
                    Bound::OwnedBlob(bytes) => ValueRef::Blob(bytes),
                };
                self.statement
                    .raw_bind_parameter(index + 1, ToSqlOutput::Borrowed(value))
                    .map_err(|error| {
                        self.place(convert(error, "a value cannot be written"), *place, row)
                    })?;
            }
            self.statement.raw_execute().map_err(|error| {
                convert(error, "a row cannot be written").context("row of the batch", row)
            })?;
        }
        Ok(())
    }

    fn place(&self, error: Error, column: usize, row: usize) -> Error {
        let name = self.table.columns.get(column).map_or("?", |column| &column.name);
        error.context("column", name).context("row of the batch", row)
    }
}

fn finish(connection: &mut Connection, run: &Run, table: &TableSchema) -> Result<()> {
    let failed = |error| convert(error, "the table cannot be finished");
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    state::check_epoch(&transaction, run)?;
    state::finish_table(&transaction, run, &table.name.name)?;
    for index in &table.unique_indexes {
        // Only SQLite may name automatic indexes, and a name serves one index of the whole file.
        let given = format!("{}_{}_key", table.name.name, index.columns.join("_"));
        let taken: bool = transaction
            .query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE \
                 AND NOT (type = 'index' AND tbl_name = ?2 COLLATE NOCASE)",
                [&index.name, &table.name.name],
                |row| row.get(0),
            )
            .map_err(failed)?;
        let automatic = index.name.starts_with("sqlite_autoindex");
        let name = if automatic || taken { &given } else { &index.name };
        transaction
            .execute_batch(&format!(
                "CREATE UNIQUE INDEX IF NOT EXISTS main.{} ON {} ({})",
                quote(name),
                quote(&table.name.name),
                quote_all(&index.columns)
            ))
            .map_err(|error| {
                convert(error, "a unique index cannot be built").context("index", name)
            })?;
    }
    fault::point("sqlite-target-finish")?;
    transaction.commit().map_err(failed)
}
