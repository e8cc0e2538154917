//! What sources of changes promise.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::StreamExt;

use super::batches;
use super::change_target::{ChangeTargetFixture, expected, run_change_target, three};
use crate::change::{ChangeEvent, Operation};
use crate::endpoint::{ChangeSource, FeedRequest, ReadRequest};
use crate::mapping::Selection;
use crate::position::Position;
use crate::schema::TableSchema;
use crate::value::Value;

/// A place whose changes can be followed and that changes can be applied to.
#[async_trait]
pub trait ChangeFixture: ChangeTargetFixture {
    /// The place as a source of changes, opened anew.
    async fn change_source(&self) -> Arc<dyn ChangeSource>;

    /// Does this to the place as any application would, each statement a transaction of its own.
    async fn execute(&self, statement: Statement<'_>);
}

/// What an application does to a table `(id, v)`.
#[derive(Debug, Clone, Copy)]
pub enum Statement<'a> {
    /// A row comes.
    Insert(&'a TableSchema, i64, &'a str),
    /// The row's value changes.
    Update(&'a TableSchema, i64, &'a str),
    /// The row's key changes.
    Move(&'a TableSchema, i64, i64),
    /// The row goes.
    Delete(&'a TableSchema, i64),
}

/// Runs the whole suite of changes, that of [`run_change_target`] included.
///
/// # Panics
/// At the first expectation that does not hold.
pub async fn run_changes(fixture: &dyn ChangeFixture) {
    run_change_target(fixture).await;
    snapshot_and_feed_meet(fixture).await;
    a_feed_goes_on_where_it_is_told(fixture).await;
}

/// A feed of the table after a position.
async fn feed(
    source: &dyn ChangeSource,
    table: &TableSchema,
    after: Position,
) -> crate::endpoint::ChangeFeed {
    let request = FeedRequest {
        task: "conformance".to_owned(),
        tables: vec![table.clone()],
        after,
        event_bytes: 1 << 20,
        prefetch_bytes: 1 << 20,
    };
    source.changes(request).await.unwrap()
}

/// Does the feed's changes to rows until the feed has reached a position; tells the positions of
/// the transactions.
async fn follow(
    feed: &mut crate::endpoint::ChangeFeed,
    rows: &mut Vec<(i64, String)>,
    until: &Position,
) -> Vec<Position> {
    let mut positions: Vec<Position> = Vec::new();
    loop {
        let event = tokio::time::timeout(Duration::from_secs(30), feed.events.next()).await;
        let event = event.expect("the feed says that it is idle").expect("a feed has no end");
        match event.unwrap() {
            ChangeEvent::Rows(event) => {
                for batch in &event.batches {
                    replay(batch, rows);
                }
                positions.extend(event.transactions.into_iter().map(|t| t.position));
            }
            ChangeEvent::Idle { position } if position.order >= until.order => break,
            _ => {}
        }
    }
    assert!(positions.is_sorted_by_key(|position| position.order), "positions grow");
    rows.sort();
    positions
}

fn replay(batch: &crate::change::ChangeBatch, rows: &mut Vec<(i64, String)>) {
    let mut before = None;
    for record in batch.records() {
        let record = record.unwrap();
        let Some(Some(Value::Int(id))) = record.values.first().cloned() else {
            panic!("a change without a key")
        };
        let text = match record.values.get(1) {
            Some(Some(Value::Text(text))) => text.clone(),
            _ => String::new(),
        };
        let there = rows.iter().any(|row| row.0 == id);
        match record.operation {
            Operation::Insert => assert!(!there, "a row comes twice"),
            Operation::Delete => assert!(there, "a row goes that is not there"),
            Operation::UpdateBefore => {
                before = Some(id);
                continue;
            }
            Operation::Update => {
                let old = before.take().unwrap_or(id);
                assert!(rows.iter().any(|row| row.0 == old), "a row changes that is not there");
                rows.retain(|row| row.0 != old);
            }
            Operation::Upsert | Operation::Remove => {}
        }
        rows.retain(|row| row.0 != id);
        if record.operation.has_row() {
            rows.push((id, text));
        }
    }
}

async fn snapshot_and_feed_meet(fixture: &dyn ChangeFixture) {
    let table = three(fixture, "changes met").await;
    let source = fixture.change_source().await;
    let table = find(&*source, &table).await;
    let tables = std::slice::from_ref(&table);
    source.end_capture("conformance").await.unwrap();
    source.check_capture("conformance", tables).await.unwrap();
    let begun = source.begin_capture("conformance", tables).await.unwrap();
    fixture.execute(Statement::Update(&table, 1, "before")).await;
    let view = source.log_snapshot("conformance", tables, 1).await.unwrap();
    let position = view.position().expect("a place in the log");
    assert!(position.order >= begun.order);
    fixture.execute(Statement::Insert(&table, 4, "after")).await;
    fixture.execute(Statement::Move(&table, 2, 20)).await;
    fixture.execute(Statement::Delete(&table, 3)).await;
    let read = batches(&*view, ReadRequest::whole(Arc::new(table.clone()))).await;
    let mut rows: Vec<(i64, String)> = super::ids_of(&read).into_iter().zip(texts(&read)).collect();
    rows.sort();
    assert_eq!(rows, expected(&[(1, "before"), (2, "old"), (3, "old")]));
    let end = source.log_status("conformance").await.unwrap().end;
    let mut changes = feed(&*source, &table, position).await;
    follow(&mut changes, &mut rows, &end).await;
    assert_eq!(rows, expected(&[(1, "before"), (4, "after"), (20, "old")]));
    drop(changes);
    source.end_capture("conformance").await.unwrap();
}

fn texts(batches: &[RecordBatch]) -> Vec<String> {
    use arrow::array::AsArray;
    let column = |batch: &RecordBatch| {
        let texts = batch.column(1).as_string::<i32>();
        texts.iter().map(|text| text.unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    batches.iter().flat_map(column).collect()
}

/// The table as a source of changes describes it.
async fn find(source: &dyn ChangeSource, table: &TableSchema) -> TableSchema {
    let catalog = source.discover(&Selection::all()).await.unwrap();
    catalog.table(&table.name).unwrap().clone()
}

async fn a_feed_goes_on_where_it_is_told(fixture: &dyn ChangeFixture) {
    let table = three(fixture, "changes resumed").await;
    let source = fixture.change_source().await;
    let table = find(&*source, &table).await;
    let tables = std::slice::from_ref(&table);
    let begun = source.begin_capture("conformance", tables).await.unwrap();
    let mut rows = fixture.rows(&table).await;
    fixture.execute(Statement::Insert(&table, 4, "a")).await;
    let end = source.log_status("conformance").await.unwrap().end;
    let mut changes = feed(&*source, &table, begun.clone()).await;
    let positions = follow(&mut changes, &mut rows, &end).await;
    drop(changes);
    fixture.execute(Statement::Update(&table, 4, "b")).await;
    let end = source.log_status("conformance").await.unwrap().end;
    // Nothing was acknowledged: from the beginning again, all of it comes again.
    let mut again = expected(&[(1, "old"), (2, "old"), (3, "old")]);
    let mut changes = feed(&*source, &table, begun).await;
    follow(&mut changes, &mut again, &end).await;
    assert_eq!(again, expected(&[(1, "old"), (2, "old"), (3, "old"), (4, "b")]));
    drop(changes);
    let after = positions.last().expect("a transaction").clone();
    let mut changes = feed(&*source, &table, after.clone()).await;
    let more = follow(&mut changes, &mut rows, &end).await;
    assert_eq!(rows, again);
    assert!(more.iter().all(|position| position.order > after.order), "only what comes after");
    changes.acknowledge.acknowledge(&end);
    drop(changes);
    source.end_capture("conformance").await.unwrap();
}
