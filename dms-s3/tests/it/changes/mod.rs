//! Changes in folders.

mod columns;
mod conformance;
mod dates;
mod transactions;
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray};
use dms_core::ErrorKind;
use dms_core::change::{ChangeBatch, ChangeRecord, ChangeRows, Identity, Operation};
use dms_core::endpoint::{
    ApplyException, ChangeTarget, Note, ReplicatedTable, Step, TablePrepMode, Target,
};
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_core::value::Value;
use dms_s3::{DataFormat, FolderSettings, FolderStore, FolderTarget};
use world::*;

#[tokio::test]
async fn commits_over_the_load_come_to_the_source() {
    for format in [DataFormat::Parquet, DataFormat::Csv] {
        for at_once in [1, 7, 100] {
            let place = tempfile::tempdir().unwrap();
            let target = target(place.path(), format);
            let run = load(&target).await;
            follow(&target, &run, at_once).await.unwrap();
            assert_eq!(replay(place.path()), history().1, "{format:?}, {at_once} at once");
            let (named, there) = files(place.path());
            assert_eq!(named, there);
            let progress = target.replication(&run).await.unwrap();
            assert_eq!(progress.position, Some(position(TRANSACTIONS)));
        }
    }
}

/// Runs alone in a process of its own, which may die; does nothing among the other tests.
#[tokio::test]
async fn child() {
    let Some(folder) = std::env::var_os("DMS_TEST_CHANGES") else { return };
    let target = target(Path::new(&folder), DataFormat::Parquet);
    let run = load(&target).await;
    follow(&target, &run, 5).await.unwrap();
}

fn run_child(folder: &Path, fault: &str) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "changes::child"]);
    command.env("DMS_TEST_CHANGES", folder).env("DMS_FAULT", fault);
    command.output().unwrap().status.success()
}

#[test]
fn a_killed_process_leaves_each_change_once() {
    for point in ["folder-apply-before-manifest", "folder-apply-committed"] {
        let place = tempfile::tempdir().unwrap();
        // Each run dies at its second commit, so that each makes one more at the least.
        let mut deaths = 0;
        while !run_child(place.path(), &format!("{point}=abort:2")) {
            deaths += 1;
            assert!(deaths < 20);
            replay(place.path());
        }
        assert!(deaths > 4, "{deaths}");
        assert_eq!(replay(place.path()), history().1, "{point}");
        let (named, there) = files(place.path());
        assert_eq!(named, there, "what is written again has the same names");
    }
}

#[tokio::test]
async fn a_fenced_run_commits_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (older, newer) =
        (target(place.path(), DataFormat::Parquet), target(place.path(), DataFormat::Parquet));
    let first = load(&older).await;
    let (transactions, _) = history();
    let mut apply = older.begin_apply(&first).await.unwrap();
    apply.step(&transactions[0].1[0], false).await.unwrap();
    let second = load(&newer).await;
    assert_eq!(newer.replication(&second).await.unwrap().position, None);
    let error = apply.commit(&position(1), None).await.unwrap_err();
    assert!(error.is_stop(), "{error}");
    assert!(older.begin_apply(&first).await.err().unwrap().is_stop());
    assert!(older.replication(&first).await.unwrap_err().is_stop());
    follow(&newer, &second, 10).await.unwrap();
    assert_eq!(replay(place.path()), history().1);
}

#[tokio::test]
async fn of_two_that_go_on_from_one_commit_one_is_told() {
    let place = tempfile::tempdir().unwrap();
    let target = target(place.path(), DataFormat::Parquet);
    let run = load(&target).await;
    let (transactions, _) = history();
    let mut both = Vec::new();
    for _ in 0..2 {
        let mut apply = target.begin_apply(&run).await.unwrap();
        apply.step(&transactions[0].1[0], false).await.unwrap();
        both.push(apply);
    }
    let second = both.pop().unwrap();
    // The same commit once more is what a lost answer looks like.
    both.pop().unwrap().commit(&position(1), Some(1)).await.unwrap();
    second.commit(&position(1), Some(1)).await.unwrap();
    let mut late = target.begin_apply(&run).await.unwrap();
    let early = target.begin_apply(&run).await.unwrap();
    late.step(&transactions[1].1[0], false).await.unwrap();
    early.commit(&position(1), None).await.unwrap();
    let error = late.commit(&position(2), None).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Connection && error.is_transient(), "{error}");
    follow(&target, &run, 7).await.unwrap();
    let done = target.replication(&run).await.unwrap();
    assert_eq!(done.position, Some(position(TRANSACTIONS)));
    let numbers: Vec<_> =
        commits(place.path()).iter().map(|commit| commit["number"].as_u64().unwrap()).collect();
    assert!(numbers.iter().enumerate().all(|(at, number)| *number == at as u64 + 1));
}

#[tokio::test]
async fn a_dropped_apply_is_as_none() {
    let place = tempfile::tempdir().unwrap();
    let target = target(place.path(), DataFormat::Csv);
    let run = load(&target).await;
    let (transactions, _) = history();
    let mut apply = target.begin_apply(&run).await.unwrap();
    for (_, steps) in &transactions[..3] {
        apply.step(&steps[0], false).await.unwrap();
    }
    drop(apply);
    assert!(commits(place.path()).is_empty());
    follow(&target, &run, 60).await.unwrap();
    assert_eq!(replay(place.path()), history().1);
}

/// Rows of the only file that these changes make, after the name of each operation.
async fn written(
    settings: impl FnOnce(&mut FolderSettings),
    identity: Identity,
    records: &[ChangeRecord],
) -> dms_core::Result<Vec<Vec<Option<String>>>> {
    written_step(settings, &rows_step(&table(true), identity, 1, records)).await
}

async fn written_step(
    settings: impl FnOnce(&mut FolderSettings),
    step: &Step,
) -> dms_core::Result<Vec<Vec<Option<String>>>> {
    let place = tempfile::tempdir().unwrap();
    let mut options = FolderSettings::new(format!("file://{}", place.path().display()));
    settings(&mut options);
    let target = FolderTarget::new(FolderStore::open(&options)?, options)?;
    let run = load(&target).await;
    commit_step(&target, &run, step).await?;
    let commits = commits(place.path());
    let acts = commits[0]["acts"].as_array().unwrap();
    Ok(acts.iter().flat_map(|act| read_file(place.path(), &act["rows"])).collect())
}

fn int(value: i64) -> Option<Value> {
    Some(Value::Int(value))
}

fn text(value: &str) -> Option<Value> {
    Some(Value::Text(value.into()))
}

fn line(op: &str, values: &[Option<&str>]) -> Vec<Option<String>> {
    let values = values.iter().map(|value| value.map(str::to_owned));
    std::iter::once(Some(op.to_owned())).chain(values).collect()
}

fn every_operation() -> Vec<ChangeRecord> {
    use Operation::{Delete, Insert, Remove, Update, UpdateBefore, Upsert};
    let whole = |id, name| vec![int(id), text(name), text("n")];
    let key = |id| vec![int(id), None, None];
    [
        (Insert, whole(60, "a")),
        (Update, whole(60, "b")),
        (UpdateBefore, key(60)),
        (Update, whole(61, "c")),
        // Some sources tell the old identity even where it stays.
        (UpdateBefore, key(61)),
        (Update, whole(61, "d")),
        (Delete, key(61)),
        (Upsert, whole(62, "e")),
        (Remove, key(62)),
    ]
    .into_iter()
    .zip(0..)
    .map(|((operation, values), sequence)| record(operation, sequence, values))
    .collect()
}

#[tokio::test]
async fn operations_are_written_as_dms_names_them() {
    let key = || Identity::Key(vec![0]);
    let gone = |id| line("D", &[Some(id), None, None]);
    let row = |op: &str, id, name| line(op, &[Some(id), Some(name), Some("n")]);
    let all = written(|_| {}, key(), &every_operation()).await.unwrap();
    let expected = vec![
        row("I", "60", "a"),
        row("U", "60", "b"),
        gone("60"),
        row("I", "61", "c"),
        row("U", "61", "d"),
        gone("61"),
        row("U", "62", "e"),
        gone("62"),
    ];
    assert_eq!(all, expected);
    let both =
        written(|s| s.cdc_inserts_and_updates = true, key(), &every_operation()).await.unwrap();
    let expected = [
        row("I", "60", "a"),
        row("U", "60", "b"),
        row("U", "61", "c"),
        row("U", "61", "d"),
        row("U", "62", "e"),
    ];
    assert_eq!(both, expected);
    let error = written(|s| s.cdc_inserts_only = true, key(), &every_operation()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("cdc-inserts-only") && error.contains("shop.items"), "{error}");
    let timed = |s: &mut FolderSettings| s.timestamp_column_name = Some("at".to_owned());
    let timed = written(timed, key(), &every_operation()[..1]).await.unwrap();
    let at = Some("2026-11-21 11:01:30.123456");
    assert_eq!(timed, [line("I", &[at, Some("60"), Some("a"), Some("n")])]);
}

/// A source may leave anything in a column that a record does not hold.
#[tokio::test]
async fn what_a_record_does_not_hold_is_not_written() {
    let texts = || -> ArrayRef { Arc::new(StringArray::from(vec!["left", "over"])) };
    let batch = ChangeBatch::of_columns(
        table(true),
        Identity::Key(vec![0]),
        vec![Operation::Delete.code(), Operation::Update.code()].into(),
        vec![0, 1].into(),
        Some(BinaryArray::from_opt_vec(vec![None, Some(&[0b100])])),
        vec![Arc::new(Int64Array::from(vec![1, 2])), texts(), texts()],
    );
    let rows = ChangeRows { batches: vec![batch.unwrap()], transactions: vec![transaction(1, 2)] };
    let named = |s: &mut FolderSettings| s.cdc_unchanged_column = Some("unchanged".to_owned());
    let rows = written_step(named, &Step::Log(rows)).await.unwrap();
    let expected = [
        line("D", &[Some("1"), None, None, None]),
        line("U", &[Some("2"), Some("over"), None, Some("[\"note\"]")]),
    ];
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn whole_rows_identify_rows_without_a_key() {
    let whole = |id, name| vec![int(id), text(name), Some(Value::Null)];
    let records = [
        record(Operation::UpdateBefore, 0, whole(1, "a")),
        record(Operation::Update, 1, whole(1, "b")),
        record(Operation::Delete, 2, whole(1, "b")),
    ];
    let rows = written(|_| {}, Identity::WholeRow, &records).await.unwrap();
    let row = |op: &str, name| line(op, &[Some("1"), Some(name), None]);
    assert_eq!(rows, [row("D", "a"), row("I", "b"), row("D", "b")]);
}

#[tokio::test]
async fn a_value_that_was_not_logged_is_never_null_in_silence() {
    let key = || Identity::Key(vec![0]);
    let partial = [record(Operation::Update, 0, vec![int(1), text("x"), None])];
    let error = written(|_| {}, key(), &partial).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    let text_of = error.to_string();
    assert!(text_of.contains("column note") && text_of.contains("table shop.items"), "{text_of}");

    let named = |s: &mut FolderSettings| s.cdc_unchanged_column = Some("unchanged".to_owned());
    let full = record(Operation::Update, 1, vec![int(2), text("y"), text("z")]);
    let rows = written(named, key(), &[partial[0].clone(), full]).await.unwrap();
    let expected = [
        line("U", &[Some("1"), Some("x"), None, Some("[\"note\"]")]),
        line("U", &[Some("2"), Some("y"), Some("z"), None]),
    ];
    assert_eq!(rows, expected);

    let moved = [
        record(Operation::UpdateBefore, 0, vec![int(1), None, None]),
        record(Operation::Update, 1, vec![int(2), text("x"), None]),
    ];
    assert_eq!(written(named, key(), &moved).await.unwrap_err().kind(), ErrorKind::Data);
}

#[tokio::test]
async fn a_refused_step_leaves_the_commit_good() {
    let place = tempfile::tempdir().unwrap();
    let target = target(place.path(), DataFormat::Parquet);
    let run = load(&target).await;
    let good = rows_step(
        &table(false),
        Identity::Key(vec![0]),
        1,
        &[record(Operation::Insert, 0, vec![int(70), text("x")])],
    );
    let bad = rows_step(
        &table(false),
        Identity::Key(vec![0]),
        2,
        &[record(Operation::Update, 0, vec![int(70), None])],
    );
    let mut apply = target.begin_apply(&run).await.unwrap();
    apply.step(&good, true).await.unwrap();
    assert_eq!(apply.step(&bad, true).await.unwrap_err().kind(), ErrorKind::Data);
    apply.commit(&position(2), None).await.unwrap();
    assert_eq!(replay(place.path()).len(), loaded().len() + 1);

    let clash = TableSchema::new(
        TableName::new("shop", "ops"),
        vec![Column::new("Op", LogicalType::text())],
    );
    let records = [record(Operation::Insert, 0, vec![text("x")])];
    let step = rows_step(&Arc::new(clash), Identity::WholeRow, 3, &records);
    let mut apply = target.begin_apply(&run).await.unwrap();
    let error = apply.step(&step, true).await.unwrap_err();
    assert!(error.to_string().contains("two columns Op"), "{error}");
}

#[tokio::test]
async fn notes_last_until_the_table_is_loaded_again() {
    let place = tempfile::tempdir().unwrap();
    let target = target(place.path(), DataFormat::Parquet);
    let run = load(&target).await;
    let (items, other) = (table(true).name.clone(), TableName::new("shop", "other"));
    let mut apply = target.begin_apply(&run).await.unwrap();
    apply.note(&Note::Shape(table(true))).await.unwrap();
    let reason = "why".to_owned();
    apply.note(&Note::Suspended { table: other.clone(), reason: reason.clone() }).await.unwrap();
    let exception = ApplyException {
        table: items.clone(),
        position: position(1),
        operation: "insert".to_owned(),
        key: "{}".to_owned(),
        error: "refused".to_owned(),
    };
    apply.note(&Note::Exception(exception)).await.unwrap();
    apply.commit(&position(1), Some(5)).await.unwrap();
    // Commits without notes keep them.
    target.begin_apply(&run).await.unwrap().commit(&position(2), None).await.unwrap();

    let shaped = ReplicatedTable { shape: Some(table(true)), suspended: None };
    let suspended = ReplicatedTable { shape: None, suspended: Some(reason) };
    let both = BTreeMap::from([(items.clone(), shaped), (other.clone(), suspended.clone())]);
    let progress = target.replication(&run).await.unwrap();
    assert_eq!((progress.position.clone(), progress.tables.clone()), (Some(position(2)), both));
    let record = target.look_up(TASK).await.unwrap().unwrap();
    assert_eq!(
        (record.replication, record.committed_at, record.exceptions),
        (progress, Some(5), 1)
    );
    assert!(record.progress.tables[&items].finished);
    assert_eq!(record.progress.run, run);
    assert!(target.look_up("nobody").await.unwrap().is_none());

    target.forget(&run, Some(std::slice::from_ref(&items))).await.unwrap();
    let progress = target.replication(&run).await.unwrap();
    assert_eq!(progress.position, Some(position(2)));
    assert_eq!(progress.tables, BTreeMap::from([(other, suspended)]));
    let again = load(&target).await;
    let loaded = &target.replication(&again).await.unwrap().tables[&items];
    assert_eq!(*loaded, ReplicatedTable::prepared(&table(false)), "of the new load");

    target.forget(&again, None).await.unwrap();
    let record = target.look_up(TASK).await.unwrap().unwrap();
    assert_eq!(record.replication, dms_core::endpoint::ReplicationProgress::default());
    assert!(record.progress.tables.is_empty());
    // The task begins anew, and its commits behind the old ones.
    let run = load(&target).await;
    let mut apply = target.begin_apply(&run).await.unwrap();
    apply.step(&history().0[0].1[0], false).await.unwrap();
    apply.commit(&position(1), None).await.unwrap();
    assert_eq!(target.replication(&run).await.unwrap().position, Some(position(1)));
}

/// A process may end between a table's preparation and its first change, and the source's columns
/// may be others when the next one looks.
#[tokio::test]
async fn the_shape_of_a_load_is_there_before_its_first_change() {
    let place = tempfile::tempdir().unwrap();
    let (items, whole) = (table(false).name.clone(), [dms_core::endpoint::Partition::whole()]);
    let first = target(place.path(), DataFormat::Parquet);
    let run = first.begin(TASK).await.unwrap().run;
    let mode = TablePrepMode::DropAndCreate;
    first.prepare(&run, &table(false), mode, &whole, None).await.unwrap();
    let shape = |progress: dms_core::endpoint::ReplicationProgress| {
        progress.tables.get(&items).and_then(|table| table.shape.clone())
    };
    let next = target(place.path(), DataFormat::Parquet);
    let run = next.begin(TASK).await.unwrap().run;
    assert_eq!(shape(next.replication(&run).await.unwrap()), Some(table(false)));
    let record = next.look_up(TASK).await.unwrap().unwrap();
    assert_eq!(shape(record.replication), Some(table(false)));
    // Something else that is noted takes nothing of it away; another shape does.
    let suspended = Note::Suspended { table: items.clone(), reason: "why".to_owned() };
    for (order, note, expected) in
        [(1, suspended, table(false)), (2, Note::Shape(table(true)), table(true))]
    {
        let mut apply = next.begin_apply(&run).await.unwrap();
        apply.note(&note).await.unwrap();
        apply.commit(&position(order), None).await.unwrap();
        let progress = next.replication(&run).await.unwrap();
        assert_eq!(progress.tables[&items].suspended.as_deref(), Some("why"));
        assert_eq!(shape(progress), Some(expected));
    }
    next.prepare(&run, &table(false), mode, &whole, None).await.unwrap();
    let held = next.replication(&run).await.unwrap().tables;
    assert_eq!(held[&items], ReplicatedTable::prepared(&table(false)));
}

#[tokio::test]
async fn a_reload_takes_the_files_of_changes_away_and_a_finish_does_not() {
    let place = tempfile::tempdir().unwrap();
    let target = target(place.path(), DataFormat::Parquet);
    let run = load(&target).await;
    follow(&target, &run, 20).await.unwrap();
    target.finish(&run, &table(false)).await.unwrap();
    assert_eq!(replay(place.path()), history().1);

    let whole = [dms_core::endpoint::Partition::whole()];
    let mode = TablePrepMode::DropAndCreate;
    target.prepare(&run, &table(false), mode, &whole, None).await.unwrap();
    assert_eq!(files(place.path()).1, Vec::<String>::new());
    // What comes now is of the new load.
    let step = rows_step(
        &table(false),
        Identity::Key(vec![0]),
        TRANSACTIONS + 1,
        &[record(Operation::Insert, 0, vec![int(70), text("x")])],
    );
    let mut apply = target.begin_apply(&run).await.unwrap();
    apply.step(&step, false).await.unwrap();
    apply.commit(&position(TRANSACTIONS + 1), None).await.unwrap();
    let commits = commits(place.path());
    let loads: Vec<_> = [&commits[0], commits.last().unwrap()]
        .into_iter()
        .map(|commit| commit["acts"][0]["rows"]["load"].as_u64().unwrap())
        .collect();
    assert!(loads[0] < loads[1], "{loads:?}");
}

#[tokio::test]
async fn only_changes_in_their_order_are_taken() {
    let place = tempfile::tempdir().unwrap();
    let target = target(place.path(), DataFormat::Parquet);
    let run = load(&target).await;
    let rows = arrow::array::RecordBatch::new_empty(table(false).arrow_schema());
    let mut apply = target.begin_apply(&run).await.unwrap();
    let step = Step::Insert { table: table(false), rows };
    assert!(apply.step(&step, false).await.is_err());
    assert!(apply.commit(&position(1), None).await.is_err(), "a step is missing");
}
