//! The suite that every endpoint passes: each sentence of the traits' contracts as a test.
//!
//! A connector implements [`Fixture`] once and calls [`run`] from its own tests:
//!
//! ```no_run
//! # use dms_core::conformance::{Fixture, run};
//! # async fn test(fixture: impl Fixture) {
//! run(&fixture).await;
//! # }
//! ```
//!
//! Tables are loaded through the target and read back through the source of the same place, so one
//! call tests both. A failed expectation panics and says which table it was about.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod awkward;
mod change_target;
mod changes;
mod source;
mod target;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;
use futures::StreamExt;

pub use awkward::{AwkwardTable, awkward_tables};
pub use change_target::{ChangeTargetFixture, run_change_target};
pub use changes::{ChangeFixture, Statement, run_changes};

use crate::batch::BatchStream;
use crate::endpoint::{
    Partition, PartitionGoal, ReadRequest, Receipt, Run, Snapshot, Source, TablePrepMode, Target,
};
use crate::mapping::{ParallelLoad, Selection};
use crate::position::Position;
use crate::schema::{Column, LogicalType, TableName, TableSchema};

/// A place that the suite may write to and read from.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The place as a target, opened anew as after a restart.
    async fn target(&self) -> Arc<dyn Target>;

    /// The place as a source, opened anew.
    async fn source(&self) -> Arc<dyn Source>;

    /// The schema to put tables in.
    fn schema(&self) -> &str;

    /// Whether the place has no such value of the type, given by its text form: loading one is a
    /// `Data` error.
    fn refuses(&self, _ty: &LogicalType, _value: &str) -> bool {
        false
    }
}

/// Runs the whole suite.
///
/// # Panics
/// At the first expectation that does not hold.
pub async fn run(fixture: &dyn Fixture) {
    target::every_type_comes_back(fixture).await;
    target::a_partition_is_loaded_once(fixture).await;
    target::a_failed_stream_leaves_nothing(fixture).await;
    target::a_dropped_load_leaves_nothing(fixture).await;
    target::a_newer_run_fences_the_older(fixture).await;
    target::progress_survives_a_restart(fixture).await;
    target::preparation_modes_do_as_they_say(fixture).await;
    target::a_table_without_rows_is_there(fixture).await;
    target::names_are_only_names(fixture).await;
    source::partitions_hold_every_row_once(fixture).await;
    source::ranges_hold_every_row_once(fixture).await;
    source::columns_filters_and_limits_are_kept(fixture).await;
    source::a_dropped_stream_harms_nothing(fixture).await;
    source::a_position_stands_for_content(fixture).await;
}

/// `(id, v)` with `id` 0 to `count - 1`; every fifth `v` is NULL.
fn plain(fixture: &dyn Fixture, name: &str, count: i64) -> (TableSchema, Vec<RecordBatch>) {
    let table = TableSchema::new(
        TableName::new(fixture.schema(), name),
        vec![
            Column::new("id", LogicalType::Int64).required(),
            Column::new("v", LogicalType::text()),
        ],
    )
    .with_primary_key(["id"]);
    let ids: Vec<i64> = (0..count).collect();
    let batches = ids.chunks(97).map(|ids| {
        let values: StringArray =
            ids.iter().map(|id| (id % 5 != 0).then(|| format!("value {id}"))).collect();
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(ids.to_vec())), Arc::new(values)];
        RecordBatch::try_new(table.arrow_schema(), columns).unwrap()
    });
    let batches = batches.collect();
    (table, batches)
}

fn parts(count: u32) -> Vec<Partition> {
    (0..count).map(|number| Partition { number, ..Partition::whole() }).collect()
}

fn position() -> Position {
    Position::new(1, "conformance")
}

/// Prepares a table of `count` partitions.
async fn prepare(target: &dyn Target, run: &Run, table: &TableSchema, count: u32) {
    let (mode, position) = (TablePrepMode::DropAndCreate, position());
    target.prepare(run, table, mode, &parts(count), Some(&position)).await.unwrap();
}

async fn load(
    target: &dyn Target,
    run: &Run,
    table: &TableSchema,
    partition: u32,
    batches: &[RecordBatch],
) -> crate::Result<Receipt> {
    let stream = BatchStream::from_batches(table.arrow_schema(), batches.to_vec());
    let partition = Partition { number: partition, ..Partition::whole() };
    target.load(run, table, &partition, Some(&position()), stream).await
}

/// Loads a whole table under a task of its own.
async fn load_table(fixture: &dyn Fixture, table: &TableSchema, batches: &[RecordBatch]) {
    let target = fixture.target().await;
    let run = target.begin("conformance").await.unwrap().run;
    prepare(&*target, &run, table, 1).await;
    load(&*target, &run, table, 0, batches).await.unwrap();
    target.finish(&run, table).await.unwrap();
}

/// The table as the source of the place describes it, if it is there.
async fn described(source: &dyn Source, name: &TableName) -> Option<TableSchema> {
    match source.discover(&Selection::all()).await {
        Ok(catalog) => catalog.tables.into_iter().find(|table| table.name == *name),
        Err(error) if error.kind() == crate::ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

async fn snapshot(source: &dyn Source, table: &TableSchema) -> Arc<dyn Snapshot> {
    source.snapshot(std::slice::from_ref(table), 2).await.unwrap()
}

fn goal(parallel_load: ParallelLoad, bytes: u64) -> PartitionGoal {
    PartitionGoal { parallel_load, bytes, at_most: 100 }
}

async fn batches(snapshot: &dyn Snapshot, request: ReadRequest) -> Vec<RecordBatch> {
    let mut stream = snapshot.read(request).await.unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        batches.push(batch.unwrap());
    }
    batches
}

/// The ids of [`plain`] tables that a place holds, sorted; empty if there is no such table.
async fn ids(fixture: &dyn Fixture, name: &TableName) -> Vec<i64> {
    let source = fixture.source().await;
    let Some(table) = described(&*source, name).await else { return Vec::new() };
    let snapshot = snapshot(&*source, &table).await;
    let mut ids = ids_of(&batches(&*snapshot, ReadRequest::whole(Arc::new(table))).await);
    ids.sort_unstable();
    ids
}

fn ids_of(batches: &[RecordBatch]) -> Vec<i64> {
    use arrow::array::AsArray;
    use arrow::array::types::Int64Type;
    let column =
        |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    batches.iter().flat_map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    use crate::endpoint::{ChangeSource, ChangeTarget};
    use crate::memory::{MemoryChange, MemorySource, MemoryTarget};
    use crate::value::Value;

    /// What is loaded, and the source made of it whose changes are followed.
    #[derive(Default)]
    struct Memory(MemoryTarget, Mutex<MemorySource>);

    #[async_trait]
    impl Fixture for Memory {
        async fn target(&self) -> Arc<dyn Target> {
            Arc::new(self.0.clone())
        }

        async fn source(&self) -> Arc<dyn Source> {
            Arc::new(self.0.as_source())
        }

        fn schema(&self) -> &str {
            "main"
        }
    }

    #[async_trait]
    impl ChangeTargetFixture for Memory {
        async fn change_target(&self) -> Arc<dyn ChangeTarget> {
            Arc::new(self.0.clone())
        }
    }

    #[async_trait]
    impl ChangeFixture for Memory {
        async fn change_source(&self) -> Arc<dyn ChangeSource> {
            let source = MemorySource::default();
            for (table, batches) in self.0.as_source().tables() {
                source.insert(table, batches);
            }
            *self.1.lock().unwrap() = source.clone();
            Arc::new(source)
        }

        async fn execute(&self, statement: Statement<'_>) {
            let text = |text: &str| Value::Text(text.to_owned());
            let change = match statement {
                Statement::Insert(table, id, v) => {
                    MemoryChange::Insert(table.name.clone(), vec![Value::Int(id), text(v)])
                }
                Statement::Update(table, id, v) => {
                    let row = vec![Some(Value::Int(id)), Some(text(v))];
                    MemoryChange::Update(table.name.clone(), vec![Value::Int(id)], row)
                }
                Statement::Move(table, id, to) => {
                    let row = vec![Some(Value::Int(to)), Some(text("old"))];
                    MemoryChange::Update(table.name.clone(), vec![Value::Int(id)], row)
                }
                Statement::Delete(table, id) => {
                    MemoryChange::Delete(table.name.clone(), vec![Value::Int(id)])
                }
            };
            self.1.lock().unwrap().commit([change]).unwrap();
        }
    }

    #[tokio::test]
    async fn tables_in_memory_conform() {
        run(&Memory::default()).await;
    }

    #[tokio::test]
    async fn changes_in_memory_conform() {
        run_changes(&Memory::default()).await;
    }
}
