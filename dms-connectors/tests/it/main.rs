//! The SQLite connector against real files.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod alter;
mod apply;
mod bad_input;
mod changes;
mod conformance;
mod feed;
mod partitions;
mod snapshot;
mod target;
mod types;
mod workload;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use dms_connectors::sqlite::{SqliteSettings, SqliteSource, SqliteTarget};
use dms_core::batch::{BatchLimit, BatchStream};
use dms_core::endpoint::{
    Partition, PartitionGoal, ReadRequest, Receipt, Run, Snapshot, Source, TablePrepMode, Target,
};
use dms_core::mapping::{ParallelLoad, Selection};
use dms_core::schema::TableSchema;
use dms_core::{Error, Result};
use futures::TryStreamExt;
use rusqlite::Connection;
use tempfile::TempDir;

/// A folder with a database that `sql` fills.
struct Database {
    folder: TempDir,
    path: PathBuf,
}

impl Database {
    fn new(sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source.db");
        let database = Self { folder, path };
        database.connect().execute_batch(sql).unwrap();
        database
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    /// A path beside the database.
    fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn source(&self) -> Arc<SqliteSource> {
        SqliteSource::open(self.path.as_path()).await.unwrap()
    }

    async fn table(&self, name: &str) -> TableSchema {
        table(&*self.source().await, name).await
    }
}

async fn table(source: &SqliteSource, name: &str) -> TableSchema {
    let catalog = source.discover(&Selection::all()).await.unwrap();
    catalog.tables.into_iter().find(|table| table.name.name == name).unwrap()
}

fn goal(bytes: u64) -> PartitionGoal {
    PartitionGoal { parallel_load: ParallelLoad::Auto, bytes, at_most: 1000 }
}

async fn read(
    snapshot: &dyn Snapshot,
    table: &TableSchema,
    partition: Partition,
) -> Result<Vec<RecordBatch>> {
    let request = ReadRequest { partition, ..ReadRequest::whole(Arc::new(table.clone())) };
    snapshot.read(request).await?.try_collect().await
}

/// All rows of a table of a file, or the error that reading it ends with.
async fn read_table(settings: SqliteSettings, name: &str) -> Result<Vec<RecordBatch>> {
    let source = SqliteSource::open(settings).await?;
    let catalog = source.discover(&Selection::all()).await?;
    let table = catalog.tables.into_iter().find(|table| table.name.name == name).unwrap();
    let snapshot = source.snapshot(std::slice::from_ref(&table), 1).await?;
    read(&*snapshot, &table, Partition::whole()).await
}

/// Copies every table of one file into another, in partitions as they come.
async fn copy(source: SqliteSettings, target: &Path) -> Result<Vec<TableSchema>> {
    let source = SqliteSource::open(source).await?;
    let target = SqliteTarget::open(target).await?;
    let catalog = source.discover(&Selection::all()).await?;
    let snapshot = source.snapshot(&catalog.tables, 2).await?;
    let run = target.begin("copy").await?.run;
    for table in &catalog.tables {
        let partitions = snapshot.partitions(table, &goal(1 << 20)).await?;
        let mode = TablePrepMode::DropAndCreate;
        target.prepare(&run, table, mode, &partitions, snapshot.position().as_ref()).await?;
        for partition in &partitions {
            load(&*snapshot, &*target, &run, table, partition).await?;
        }
        target.finish(&run, table).await?;
    }
    Ok(catalog.tables)
}

async fn load(
    snapshot: &dyn Snapshot,
    target: &dyn Target,
    run: &Run,
    table: &TableSchema,
    partition: &Partition,
) -> Result<Receipt> {
    let request = ReadRequest {
        partition: partition.clone(),
        limit: BatchLimit { rows: 1000, ..BatchLimit::default() },
        ..ReadRequest::whole(Arc::new(table.clone()))
    };
    let batches = snapshot.read(request).await?;
    target.load(run, table, partition, snapshot.position().as_ref(), batches).await
}

/// A stream of batches, and of the error at its end.
fn stream(table: &TableSchema, batches: Vec<RecordBatch>, error: Option<Error>) -> BatchStream {
    let items = batches.into_iter().map(Ok).chain(error.map(Err));
    BatchStream::new(table.arrow_schema(), futures::stream::iter(items.collect::<Vec<_>>()))
}

/// Every row of a table, in no order that means anything: each value as its storage class and exact
/// content.
fn dump(path: &Path, table: &str) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let mut dump = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let values = (0..columns).map(|index| match row.get_ref(index).unwrap() {
            rusqlite::types::ValueRef::Real(real) => format!("Real({:016x})", real.to_bits()),
            value => format!("{value:?}"),
        });
        dump.push(values.collect::<Vec<_>>().join(" | "));
    }
    dump.sort();
    dump
}
