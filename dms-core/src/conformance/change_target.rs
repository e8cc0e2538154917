//! What targets of changes promise, in either form.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;

use super::{Fixture, batches, described, load_table, plain, snapshot};
use crate::ErrorKind;
use crate::change::{ChangeBatch, ChangeRecord, ChangeRows, Identity, Operation, Transaction};
use crate::endpoint::{
    Apply, ChangeForm, ChangeTarget, Note, ReadRequest, ReplicatedTable, Run, Source, Step,
};
use crate::position::Position;
use crate::schema::TableSchema;
use crate::value::Value;

/// A place that changes can be applied to.
#[async_trait]
pub trait ChangeTargetFixture: Fixture {
    /// The place as a target of changes, opened anew as after a restart.
    async fn change_target(&self) -> Arc<dyn ChangeTarget>;

    /// The rows of a table `(id, v)` with every change that was committed, by id: what its source
    /// reads, unless that does not show changes.
    async fn rows(&self, table: &TableSchema) -> Vec<(i64, String)> {
        read(&*self.source().await, table).await
    }
}

/// Runs the suite of a target of changes. A target of [`ChangeForm::Log`] is not asked to refuse
/// what does not fit its rows, of which it knows nothing.
///
/// # Panics
/// At the first expectation that does not hold.
pub async fn run_change_target(fixture: &dyn ChangeTargetFixture) {
    steps_do_as_they_say(fixture).await;
    if fixture.change_target().await.change_form() == ChangeForm::Net {
        rows_that_are_not_as_expected_are_told(fixture).await;
        a_guarded_step_leaves_the_transaction(fixture).await;
    }
    a_dropped_transaction_leaves_nothing(fixture).await;
    a_newer_run_fences_the_older(fixture).await;
    notes_come_back_and_are_forgotten(fixture).await;
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

/// An update of a key alone.
fn moved(table: &TableSchema, from: i64, to: i64) -> Step {
    let ids = |id| -> ArrayRef { Arc::new(Int64Array::from(vec![id])) };
    let field = table.arrow_schema().field(0).clone();
    let schema = arrow::datatypes::Schema::new(vec![field.clone(), field]);
    Step::Update {
        table: Arc::new(table.clone()),
        identity: Identity::Key(vec![0]),
        set: vec![0],
        rows: RecordBatch::try_new(Arc::new(schema), vec![ids(from), ids(to)]).unwrap(),
    }
}

/// A step in the form that the target takes, of the transaction `order`, which may end with it.
fn formed(target: &dyn ChangeTarget, step: &Step, order: u64, complete: bool) -> Step {
    if target.change_form() == ChangeForm::Net {
        return step.clone();
    }
    let (operation, table, rows) = match step {
        Step::Insert { table, rows } => (Operation::Insert, table, rows),
        Step::Update { table, rows, .. } => (Operation::Update, table, rows),
        Step::Upsert { table, rows, .. } => (Operation::Upsert, table, rows),
        Step::Delete { table, rows, strict: true, .. } => (Operation::Delete, table, rows),
        Step::Delete { table, rows, .. } => (Operation::Remove, table, rows),
        step => return step.clone(),
    };
    let value = |row: usize, at: usize| {
        let array = rows.columns().get(at)?;
        Some(Value::from_array(array, row, &table.columns[at].logical_type).unwrap())
    };
    let records: Vec<_> = (0..)
        .zip(0..rows.num_rows())
        .map(|(sequence, row)| record(operation, sequence, vec![value(row, 0), value(row, 1)]))
        .collect();
    log(table, &records, order, complete)
}

fn record(operation: Operation, sequence: u64, values: Vec<Option<Value>>) -> ChangeRecord {
    ChangeRecord { operation, sequence, values }
}

fn log(table: &TableSchema, records: &[ChangeRecord], order: u64, complete: bool) -> Step {
    let table = Arc::new(table.clone());
    let batch = ChangeBatch::from_records(table, Identity::Key(vec![0]), records).unwrap();
    let transaction = Transaction {
        position: at(order),
        committed_at: Some(1),
        id: order.to_string(),
        end: records.len() as u64,
        complete,
    };
    Step::Log(ChangeRows { batches: vec![batch], transactions: vec![transaction] })
}

fn at(order: u64) -> Position {
    Position::new(order, format!("conformance {order}"))
}

/// A table of three rows, 1 to 3, each with the value "old".
pub(super) async fn three(fixture: &dyn ChangeTargetFixture, name: &str) -> TableSchema {
    let (table, _) = plain(fixture, name, 0);
    let three = rows(&table, &[(1, "old"), (2, "old"), (3, "old")]);
    load_table(fixture, &table, &[three]).await;
    table
}

/// The rows of the table as a source has them, by id.
async fn read(source: &dyn Source, table: &TableSchema) -> Vec<(i64, String)> {
    let Some(table) = described(source, &table.name).await else { return Vec::new() };
    let snapshot = snapshot(source, &table).await;
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

pub(super) fn expected(rows: &[(i64, &str)]) -> Vec<(i64, String)> {
    rows.iter().map(|(id, value)| (*id, (*value).to_owned())).collect()
}

async fn begin(fixture: &dyn ChangeTargetFixture) -> (Arc<dyn ChangeTarget>, Run) {
    let target = fixture.change_target().await;
    let run = target.begin("conformance").await.unwrap().run;
    (target, run)
}

/// Does steps and commits them, with a position that a target opened anew tells.
async fn apply(fixture: &dyn ChangeTargetFixture, steps: &[Step], order: u64) {
    let (target, run) = begin(fixture).await;
    let mut transaction = target.begin_apply(&run).await.unwrap();
    for (at, step) in steps.iter().enumerate() {
        let step = formed(&*target, step, order, at + 1 == steps.len());
        transaction.step(&step, false).await.unwrap();
    }
    transaction.commit(&at(order), Some(1)).await.unwrap();
    let (target, run) = begin(fixture).await;
    assert_eq!(target.replication(&run).await.unwrap().position, Some(at(order)));
}

async fn steps_do_as_they_say(fixture: &dyn ChangeTargetFixture) {
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
    assert_eq!(fixture.rows(&table).await, expected(&rows));
    let moved = match fixture.change_target().await.change_form() {
        ChangeForm::Net => moved(&table, 5, 50),
        ChangeForm::Log => {
            let before = record(Operation::UpdateBefore, 0, vec![Some(Value::Int(5)), None]);
            let row = vec![Some(Value::Int(50)), Some(Value::Text(String::new()))];
            log(&table, &[before, record(Operation::Update, 1, row)], 2, true)
        }
    };
    apply(fixture, &[moved], 2).await;
    let rows = [(1, "again"), (2, "new"), (3, "set"), (4, "set"), (50, "")];
    assert_eq!(fixture.rows(&table).await, expected(&rows), "a key changes in place");
    apply(fixture, &[Step::Truncate { tables: vec![table.name.clone()] }], 3).await;
    assert_eq!(fixture.rows(&table).await, []);
}

async fn rows_that_are_not_as_expected_are_told(fixture: &dyn ChangeTargetFixture) {
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
        assert_eq!(fixture.rows(&table).await, old, "{what}: nothing is done");
    }
}

async fn a_guarded_step_leaves_the_transaction(fixture: &dyn ChangeTargetFixture) {
    let table = three(fixture, "changes guarded").await;
    let (target, run) = begin(fixture).await;
    let mut transaction = target.begin_apply(&run).await.unwrap();
    transaction.step(&insert(&table, &[(4, "new")]), true).await.unwrap();
    let refused = transaction.step(&insert(&table, &[(5, "x"), (1, "x")]), true).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Constraint);
    transaction.step(&delete(&table, &[2], true), true).await.unwrap();
    transaction.commit(&at(4), None).await.unwrap();
    let rows = [(1, "old"), (3, "old"), (4, "new")];
    assert_eq!(fixture.rows(&table).await, expected(&rows));
}

async fn a_dropped_transaction_leaves_nothing(fixture: &dyn ChangeTargetFixture) {
    let table = three(fixture, "changes dropped").await;
    apply(fixture, &[update(&table, &[(1, "kept")])], 5).await;
    let (target, run) = begin(fixture).await;
    let mut transaction = target.begin_apply(&run).await.unwrap();
    let step = formed(&*target, &delete(&table, &[1, 2, 3], true), 6, true);
    transaction.step(&step, false).await.unwrap();
    drop(transaction);
    let rows = expected(&[(1, "kept"), (2, "old"), (3, "old")]);
    assert_eq!(fixture.rows(&table).await, rows);
    assert_eq!(target.replication(&run).await.unwrap().position, Some(at(5)));
}

async fn a_newer_run_fences_the_older(fixture: &dyn ChangeTargetFixture) {
    let table = three(fixture, "changes fenced").await;
    let (older, run) = begin(fixture).await;
    let (newer, new_run) = begin(fixture).await;
    let told = commit_one(&*older, &run, &insert(&table, &[(4, "older")])).await;
    assert_eq!(told.unwrap_err().kind(), ErrorKind::Stopped);
    assert_eq!(older.forget(&run, None).await.unwrap_err().kind(), ErrorKind::Stopped);
    commit_one(&*newer, &new_run, &insert(&table, &[(4, "newer")])).await.unwrap();
    assert!(fixture.rows(&table).await.contains(&(4, "newer".to_owned())));
}

async fn commit_one(target: &dyn ChangeTarget, run: &Run, step: &Step) -> crate::Result<()> {
    let mut transaction: Box<dyn Apply> = target.begin_apply(run).await?;
    transaction.step(&formed(target, step, 6, true), false).await?;
    transaction.commit(&at(6), None).await
}

async fn notes_come_back_and_are_forgotten(fixture: &dyn ChangeTargetFixture) {
    let table = three(fixture, "changes noted").await;
    let (target, run) = begin(fixture).await;
    let shape = |table: &ReplicatedTable| table.shape.as_deref().cloned();
    // The source's may be another before anything is noted.
    let prepared = target.replication(&run).await.unwrap().tables;
    assert_eq!(prepared.get(&table.name).and_then(shape).as_ref(), Some(&table), "as prepared");
    let mut transaction = target.begin_apply(&run).await.unwrap();
    let suspended = Note::Suspended { table: table.name.clone(), reason: "a reason".to_owned() };
    transaction.note(&suspended).await.unwrap();
    transaction.commit(&at(7), None).await.unwrap();
    let (target, run) = begin(fixture).await;
    let noted = target.replication(&run).await.unwrap().tables;
    let reason = noted.get(&table.name).and_then(|table| table.suspended.as_deref());
    assert_eq!(reason, Some("a reason"));
    assert_eq!(noted.get(&table.name).and_then(shape).as_ref(), Some(&table), "still as prepared");
    let record = target.look_up("conformance").await.unwrap().expect("the task is known");
    assert!(record.progress.tables.get(&table.name).is_some_and(|table| table.finished));
    target.forget(&run, Some(std::slice::from_ref(&table.name))).await.unwrap();
    let noted = target.replication(&run).await.unwrap().tables;
    assert!(noted.get(&table.name).is_none_or(|table| table.suspended.is_none()));
    let record = target.look_up("conformance").await.unwrap().expect("the task is known");
    assert!(!record.progress.tables.contains_key(&table.name), "the load is forgotten");
    assert_eq!(target.look_up("never run").await.unwrap(), None);
}
