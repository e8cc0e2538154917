//! What a feed's events come to, kept in a map, for tests to compare with the file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dms_connectors::sqlite::SqliteSource;
use dms_core::Result;
use dms_core::change::{ChangeEvent, ChangeRows, Operation};
use dms_core::endpoint::{ChangeFeed, ChangeSource, FeedRequest, Partition, Snapshot, Source};
use dms_core::mapping::Selection;
use dms_core::position::Position;
use dms_core::schema::TableSchema;
use dms_core::value::Value;
use futures::StreamExt;

use super::read;

/// Rows by table and key, all as text that tells storage classes apart.
pub(crate) type Model = BTreeMap<String, BTreeMap<String, String>>;

pub(crate) const TASK: &str = "task";

pub(crate) async fn tables(source: &SqliteSource) -> Vec<TableSchema> {
    source.discover(&Selection::all()).await.unwrap().tables
}

pub(crate) fn request(tables: &[TableSchema], after: &Position) -> FeedRequest {
    FeedRequest {
        task: TASK.to_owned(),
        tables: tables.to_vec(),
        after: after.clone(),
        event_bytes: 1 << 20,
        prefetch_bytes: 1 << 20,
    }
}

/// A source whose capture of every table was begun, with the position.
pub(crate) async fn captured(path: &Path) -> (Arc<SqliteSource>, Vec<TableSchema>, Position) {
    let source = SqliteSource::open(path).await.unwrap();
    let tables = tables(&source).await;
    source.check_capture(TASK, &tables).await.unwrap();
    let position = source.begin_capture(TASK, &tables).await.unwrap();
    (source, tables, position)
}

/// The next event; the test fails if none comes.
pub(crate) async fn next(feed: &mut ChangeFeed) -> Result<ChangeEvent> {
    let next = tokio::time::timeout(Duration::from_secs(30), feed.events.next());
    next.await.expect("no event came").expect("the feed ended")
}

/// The columns that identify the rows of a table in a model.
fn key_of(table: &TableSchema) -> Vec<usize> {
    let key = match table.primary_key.as_slice() {
        [] => {
            let required = |name: &String| !table.column(name).unwrap().nullable;
            let mut indexes = table.unique_indexes.iter();
            &indexes.find(|index| index.columns.iter().all(required)).unwrap().columns
        }
        key => key,
    };
    key.iter().map(|name| table.column_index(name).unwrap()).collect()
}

/// Applies rows to a model; a transaction that is not complete leaves a hole in its middle, which
/// is the caller's to know.
pub(crate) fn apply(model: &mut Model, rows: &ChangeRows) {
    let mut seen = Vec::new();
    for batch in &rows.batches {
        let mut upserted = BTreeSet::new();
        let key = batch.identity().columns(batch.table().columns.len());
        let table = model.entry(batch.table().name.name.clone()).or_default();
        for record in batch.records() {
            let record = record.unwrap();
            seen.push(record.sequence);
            let values = key.iter().map(|place| record.values[*place].clone().unwrap());
            let name = format!("{:?}", values.collect::<Vec<_>>());
            match record.operation {
                Operation::Upsert => {
                    assert!(upserted.insert(name.clone()), "{name} comes twice");
                    let row: Vec<Value> = record.values.into_iter().map(Option::unwrap).collect();
                    table.insert(name, format!("{row:?}"));
                }
                Operation::Remove => {
                    table.remove(&name);
                }
                other => panic!("a SQLite feed has no {other:?}"),
            }
        }
    }
    seen.sort_unstable();
    let expected: Vec<u64> = (0..rows.transactions.last().unwrap().end).collect();
    assert_eq!(seen, expected, "sequences are dense, and all below the end");
}

/// Applies events until the feed says that it has reached `order`; checks each boundary.
pub(crate) async fn catch_up(
    feed: &mut ChangeFeed,
    model: &mut Model,
    order: u64,
    mut at_boundary: impl FnMut(&Model),
) -> Position {
    let mut last = 0;
    loop {
        match next(feed).await.unwrap() {
            ChangeEvent::Rows(rows) => {
                apply(model, &rows);
                let transaction = &rows.transactions[0];
                assert!(transaction.position.order >= last);
                last = transaction.position.order;
                if transaction.complete {
                    at_boundary(model);
                }
            }
            ChangeEvent::Idle { position } if position.order >= order => return position,
            ChangeEvent::Idle { .. } | ChangeEvent::Schema { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// What a snapshot holds.
pub(crate) async fn held(snapshot: &dyn Snapshot, tables: &[TableSchema]) -> Model {
    let mut model = Model::new();
    for table in tables {
        let key = key_of(table);
        let rows = model.entry(table.name.name.clone()).or_default();
        for batch in read(snapshot, table, Partition::whole()).await.unwrap() {
            for row in 0..batch.num_rows() {
                let values = table.columns.iter().zip(batch.columns());
                let values = values.map(|(column, array)| {
                    Value::from_array(array.as_ref(), row, &column.logical_type).unwrap()
                });
                let values: Vec<Value> = values.collect();
                let name: Vec<&Value> = key.iter().map(|place| &values[*place]).collect();
                rows.insert(format!("{name:?}"), format!("{values:?}"));
            }
        }
    }
    model
}

/// Without the tables that have no rows.
pub(crate) fn filled(model: &Model) -> Model {
    model.iter().filter(|(_, rows)| !rows.is_empty()).map(|(n, r)| (n.clone(), r.clone())).collect()
}
