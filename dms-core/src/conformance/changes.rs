//! What sources and targets of changes promise.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;
use futures::StreamExt;

use super::{Fixture, batches, described, load_table, plain, snapshot};
use crate::ErrorKind;
use crate::change::{ChangeEvent, Identity, Operation};
use crate::endpoint::{
    Apply, ChangeForm, ChangeSource, ChangeTarget, FeedRequest, Note, ReadRequest, Run, Step,
};
use crate::mapping::Selection;
use crate::position::Position;
use crate::schema::TableSchema;
use crate::value::Value;

/// A place whose changes can be followed and that changes can be applied to.
#[async_trait]
pub trait ChangeFixture: Fixture {
    /// The place as a target of changes, opened anew as after a restart.
    async fn change_target(&self) -> Arc<dyn ChangeTarget>;

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

/// Runs the whole suite of changes.
///
/// # Panics
/// At the first expectation that does not hold.
pub async fn run_changes(fixture: &dyn ChangeFixture) {
    if fixture.change_target().await.change_form() == ChangeForm::Net {
        steps_do_as_they_say(fixture).await;
        rows_that_are_not_as_expected_are_told(fixture).await;
        a_guarded_step_leaves_the_transaction(fixture).await;
        a_dropped_transaction_leaves_nothing(fixture).await;
        a_newer_run_fences_the_older(fixture).await;
        notes_come_back_and_are_forgotten(fixture).await;
    }
    snapshot_and_feed_meet(fixture).await;
    a_feed_goes_on_where_it_is_told(fixture).await;
}

fn rows(table: &TableSchema, rows: &[(i64, &str)]) -> RecordBatch {
    let ids: Int64Array = rows.iter().map(|(id, _)| Some(*id)).collect();
    let values: StringArray = rows.iter().map(|(_, value)| Some(*value)).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(values)];
    RecordBatch::try_new(table.arrow_schema(), columns).unwrap()
}

fn keys(table: &TableSchema, ids: &[i64]) -> RecordBatch {
    let all: Vec<(i64, &str)> = ids.iter().map(|id| (*id, "")).collect();
    rows(table, &all).project(&[0]).unwrap()
}

fn insert(table: &TableSchema, new: &[(i64, &str)]) -> Step {
    Step::Insert { table: Arc::new(table.clone()), rows: rows(table, new) }
}

fn delete(table: &TableSchema, ids: &[i64], strict: bool) -> Step {
    let identity = Identity::Key(vec![0]);
    Step::Delete { table: Arc::new(table.clone()), identity, rows: keys(table, ids), strict }
}

fn update(table: &TableSchema, new: &[(i64, &str)]) -> Step {
    let (table, rows) = (Arc::new(table.clone()), rows(table, new));
    Step::Update { table, identity: Identity::Key(vec![0]), set: vec![1], rows }
}

fn upsert(table: &TableSchema, new: &[(i64, &str)]) -> Step {
    let (table, rows) = (Arc::new(table.clone()), rows(table, new));
    Step::Upsert { table, identity: Identity::Key(vec![0]), rows }
}

fn at(order: u64) -> Position {
    Position::new(order, format!("conformance {order}"))
}

/// A table of three rows, 1 to 3, each with the value "old".
async fn three(fixture: &dyn ChangeFixture, name: &str) -> TableSchema {
    let (table, _) = plain(fixture, name, 0);
    let three = rows(&table, &[(1, "old"), (2, "old"), (3, "old")]);
    load_table(fixture, &table, &[three]).await;
    table
}

/// The rows of the table, by id.
async fn held(fixture: &dyn ChangeFixture, table: &TableSchema) -> Vec<(i64, String)> {
    let source = fixture.source().await;
    let Some(table) = described(&*source, &table.name).await else { return Vec::new() };
    let snapshot = snapshot(&*source, &table).await;
    let read = batches(&*snapshot, ReadRequest::whole(Arc::new(table.clone()))).await;
    let mut rows = Vec::new();
    for batch in &read {
        for row in 0..batch.num_rows() {
            let value = |at: usize| {
                let ty = &table.columns[at].logical_type;
                Value::from_array(batch.column(at), row, ty).unwrap()
            };
            match (value(0), value(1)) {
                (Value::Int(id), Value::Text(text)) => rows.push((id, text)),
                other => panic!("{other:?}"),
            }
        }
    }
    rows.sort();
    rows
}

fn expected(rows: &[(i64, &str)]) -> Vec<(i64, String)> {
    rows.iter().map(|(id, value)| (*id, (*value).to_owned())).collect()
}

async fn begin(fixture: &dyn ChangeFixture) -> (Arc<dyn ChangeTarget>, Run) {
    let target = fixture.change_target().await;
    let run = target.begin("conformance").await.unwrap().run;
    (target, run)
}

/// Does steps and commits them, with a position that a target opened anew tells.
async fn apply(fixture: &dyn ChangeFixture, steps: &[Step], order: u64) {
    let (target, run) = begin(fixture).await;
    let mut transaction = target.begin_apply(&run).await.unwrap();
    for step in steps {
        transaction.step(step, false).await.unwrap();
    }
    transaction.commit(&at(order), Some(1)).await.unwrap();
    let (target, run) = begin(fixture).await;
    assert_eq!(target.replication(&run).await.unwrap().position, Some(at(order)));
}

async fn steps_do_as_they_say(fixture: &dyn ChangeFixture) {
    let table = three(fixture, "changes steps").await;
    let steps = [
        delete(&table, &[1], true),
        delete(&table, &[1, 99], false),
        update(&table, &[(2, "new")]),
        upsert(&table, &[(3, "set"), (4, "set")]),
        insert(&table, &[(1, "again"), (5, "")]),
    ];
    apply(fixture, &steps, 1).await;
    let rows = [(1, "again"), (2, "new"), (3, "set"), (4, "set"), (5, "")];
    assert_eq!(held(fixture, &table).await, expected(&rows));
    let moved = Step::Update {
        table: Arc::new(table.clone()),
        identity: Identity::Key(vec![0]),
        set: vec![0],
        rows: {
            let old = keys(&table, &[5]);
            let new: ArrayRef = Arc::new(Int64Array::from(vec![50]));
            let columns = vec![Arc::clone(old.column(0)), new];
            let field = old.schema().field(0).clone();
            let schema = arrow::datatypes::Schema::new(vec![field.clone(), field]);
            RecordBatch::try_new(Arc::new(schema), columns).unwrap()
        },
    };
    apply(fixture, &[moved], 2).await;
    let rows = [(1, "again"), (2, "new"), (3, "set"), (4, "set"), (50, "")];
    assert_eq!(held(fixture, &table).await, expected(&rows), "a key changes in place");
    apply(fixture, &[Step::Truncate { tables: vec![table.name.clone()] }], 3).await;
    assert_eq!(held(fixture, &table).await, []);
}

async fn rows_that_are_not_as_expected_are_told(fixture: &dyn ChangeFixture) {
    let table = three(fixture, "changes strict").await;
    for (what, step) in [
        ("a row to be deleted is missing", delete(&table, &[2, 7], true)),
        ("a row to be updated is missing", update(&table, &[(2, "x"), (7, "x")])),
        ("a row to be inserted is there", insert(&table, &[(9, "x"), (2, "x")])),
    ] {
        let (target, run) = begin(fixture).await;
        let mut transaction = target.begin_apply(&run).await.unwrap();
        // An answer may come as late as the commit.
        let told = match transaction.step(&step, false).await {
            Ok(()) => transaction.commit(&at(9), None).await,
            told => told,
        };
        assert_eq!(told.unwrap_err().kind(), ErrorKind::Constraint, "{what}");
        let old = expected(&[(1, "old"), (2, "old"), (3, "old")]);
        assert_eq!(held(fixture, &table).await, old, "{what}: nothing is done");
    }
}

async fn a_guarded_step_leaves_the_transaction(fixture: &dyn ChangeFixture) {
    let table = three(fixture, "changes guarded").await;
    let (target, run) = begin(fixture).await;
    let mut transaction = target.begin_apply(&run).await.unwrap();
    transaction.step(&insert(&table, &[(4, "new")]), true).await.unwrap();
    let refused = transaction.step(&insert(&table, &[(5, "x"), (1, "x")]), true).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Constraint);
    transaction.step(&delete(&table, &[2], true), true).await.unwrap();
    transaction.commit(&at(4), None).await.unwrap();
    let rows = [(1, "old"), (3, "old"), (4, "new")];
    assert_eq!(held(fixture, &table).await, expected(&rows));
}

async fn a_dropped_transaction_leaves_nothing(fixture: &dyn ChangeFixture) {
    let table = three(fixture, "changes dropped").await;
    apply(fixture, &[update(&table, &[(1, "kept")])], 5).await;
    let (target, run) = begin(fixture).await;
    let mut transaction = target.begin_apply(&run).await.unwrap();
    transaction.step(&delete(&table, &[1, 2, 3], true), false).await.unwrap();
    drop(transaction);
    let rows = expected(&[(1, "kept"), (2, "old"), (3, "old")]);
    assert_eq!(held(fixture, &table).await, rows);
    assert_eq!(target.replication(&run).await.unwrap().position, Some(at(5)));
}

async fn a_newer_run_fences_the_older(fixture: &dyn ChangeFixture) {
    let table = three(fixture, "changes fenced").await;
    let (older, run) = begin(fixture).await;
    let (newer, new_run) = begin(fixture).await;
    let told = commit_one(&*older, &run, &insert(&table, &[(4, "older")])).await;
    assert_eq!(told.unwrap_err().kind(), ErrorKind::Stopped);
    assert_eq!(older.forget(&run, None).await.unwrap_err().kind(), ErrorKind::Stopped);
    commit_one(&*newer, &new_run, &insert(&table, &[(4, "newer")])).await.unwrap();
    assert!(held(fixture, &table).await.contains(&(4, "newer".to_owned())));
}

async fn commit_one(target: &dyn ChangeTarget, run: &Run, step: &Step) -> crate::Result<()> {
    let mut transaction: Box<dyn Apply> = target.begin_apply(run).await?;
    transaction.step(step, false).await?;
    transaction.commit(&at(6), None).await
}

async fn notes_come_back_and_are_forgotten(fixture: &dyn ChangeFixture) {
    let table = three(fixture, "changes noted").await;
    let (target, run) = begin(fixture).await;
    let mut transaction = target.begin_apply(&run).await.unwrap();
    let suspended = Note::Suspended { table: table.name.clone(), reason: "a reason".to_owned() };
    transaction.note(&suspended).await.unwrap();
    transaction.commit(&at(7), None).await.unwrap();
    let (target, run) = begin(fixture).await;
    let noted = target.replication(&run).await.unwrap().tables;
    let reason = noted.get(&table.name).and_then(|table| table.suspended.as_deref());
    assert_eq!(reason, Some("a reason"));
    let record = target.look_up("conformance").await.unwrap().expect("the task is known");
    assert!(record.progress.tables.get(&table.name).is_some_and(|table| table.finished));
    target.forget(&run, Some(std::slice::from_ref(&table.name))).await.unwrap();
    let noted = target.replication(&run).await.unwrap().tables;
    assert!(noted.get(&table.name).is_none_or(|table| table.suspended.is_none()));
    let record = target.look_up("conformance").await.unwrap().expect("the task is known");
    assert!(!record.progress.tables.contains_key(&table.name), "the load is forgotten");
    assert_eq!(target.look_up("never run").await.unwrap(), None);
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
    let mut rows = held(fixture, &table).await;
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
