//! Steps on a file: what each does, what it refuses, and that a transaction is done whole or not.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::RecordBatch;
use dms_connectors::sqlite::{SqliteSettings, SqliteTarget};
use dms_core::change::Identity;
use dms_core::conformance::awkward_tables;
use dms_core::endpoint::{
    Apply, ApplyException, ChangeForm, ChangeTarget, Note, Partition, ReplicatedTable, Run, Step,
    TablePrepMode, Target,
};
use dms_core::position::Position;
use dms_core::schema::{Column, LogicalType, TableName, TableSchema, UniqueIndex};
use dms_core::value::Value;
use dms_core::{ErrorKind, Result};
use rusqlite::Connection;
use tempfile::TempDir;

use super::{dump, stream};

pub(crate) fn people() -> TableSchema {
    let columns = vec![
        Column::new("id", LogicalType::Int64).required(),
        Column::new("name", LogicalType::text()),
        Column::new("seat", LogicalType::Int64),
    ];
    let mut table =
        TableSchema::new(TableName::new("main", "people"), columns).with_primary_key(["id"]);
    let columns = vec!["seat".to_owned()];
    table.unique_indexes.push(UniqueIndex { name: "people_seat".to_owned(), columns });
    table
}

pub(crate) fn batch(table: &TableSchema, places: &[usize], rows: &[&[Value]]) -> RecordBatch {
    let columns: Vec<Column> = places.iter().map(|place| table.columns[*place].clone()).collect();
    let arrays = columns.iter().enumerate().map(|(at, column)| {
        let values: Vec<_> =
            rows.iter().map(|row| row[at].to_array(&column.logical_type).unwrap()).collect();
        let values: Vec<_> = values.iter().map(AsRef::as_ref).collect();
        arrow::compute::concat(&values).unwrap()
    });
    let arrays = arrays.collect();
    let schema = TableSchema::new(table.name.clone(), columns).arrow_schema();
    RecordBatch::try_new(schema, arrays).unwrap()
}

fn int(value: i64) -> Value {
    Value::Int(value)
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

fn person(id: i64, name: &str, seat: i64) -> [Value; 3] {
    [int(id), text(name), int(seat)]
}

fn insert(table: &TableSchema, rows: &[&[Value]]) -> Step {
    let all: Vec<usize> = (0..table.columns.len()).collect();
    Step::Insert { table: Arc::new(table.clone()), rows: batch(table, &all, rows) }
}

fn upsert(table: &TableSchema, rows: &[&[Value]]) -> Step {
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let rows = batch(table, &all, rows);
    Step::Upsert { table: Arc::new(table.clone()), identity: Identity::Key(vec![0]), rows }
}

fn update(table: &TableSchema, set: &[usize], rows: &[&[Value]]) -> Step {
    let places: Vec<usize> = [0].into_iter().chain(set.iter().copied()).collect();
    Step::Update {
        table: Arc::new(table.clone()),
        identity: Identity::Key(vec![0]),
        set: set.to_vec(),
        rows: batch(table, &places, rows),
    }
}

fn delete(table: &TableSchema, ids: &[i64], strict: bool) -> Step {
    let rows: Vec<[Value; 1]> = ids.iter().map(|id| [int(*id)]).collect();
    let rows: Vec<&[Value]> = rows.iter().map(<[Value; 1]>::as_slice).collect();
    let rows = batch(table, &[0], &rows);
    Step::Delete { table: Arc::new(table.clone()), identity: Identity::Key(vec![0]), rows, strict }
}

fn delete_whole(table: &TableSchema, rows: RecordBatch) -> Step {
    let table = Arc::new(table.clone());
    Step::Delete { table, identity: Identity::WholeRow, rows, strict: true }
}

struct File {
    _folder: TempDir,
    settings: SqliteSettings,
    target: Arc<SqliteTarget>,
    run: Run,
}

impl File {
    /// A target with the given tables in it.
    async fn with(tables: &[TableSchema]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = SqliteSettings::new(folder.path().join("target.db"));
        let target = SqliteTarget::open(settings.clone()).await.unwrap();
        let run = target.begin("task").await.unwrap().run;
        let file = Self { _folder: folder, settings, target, run };
        let steps = tables.iter().map(|table| Step::Create { table: Arc::new(table.clone()) });
        file.apply(&steps.collect::<Vec<_>>()).await.unwrap();
        file
    }

    async fn begin(&self) -> Box<dyn Apply> {
        self.target.begin_apply(&self.run).await.unwrap()
    }

    /// Does steps in one transaction.
    async fn apply(&self, steps: &[Step]) -> Result<()> {
        let mut apply = self.target.begin_apply(&self.run).await?;
        for step in steps {
            apply.step(step, false).await?;
        }
        apply.commit(&Position::new(1, "1"), None).await
    }

    fn dump(&self, table: &str) -> Vec<String> {
        dump(&self.settings.path, table)
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.settings.path).unwrap()
    }
}

fn shown(people: &[(i64, &str, i64)]) -> Vec<String> {
    let row = |(id, name, seat): &(i64, &str, i64)| {
        format!("Integer({id}) | Text({:?}) | Integer({seat})", name.as_bytes())
    };
    let mut rows: Vec<String> = people.iter().map(row).collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_step_does_what_it_says() {
    let table = people();
    let file = File::with(std::slice::from_ref(&table)).await;
    assert_eq!(file.target.change_form(), ChangeForm::Net);
    let three = [&person(1, "a", 10)[..], &person(2, "b", 20), &person(3, "c", 30)];
    file.apply(&[insert(&table, &three)]).await.unwrap();
    file.apply(&[
        update(&table, &[1], &[&[int(1), text("A")], &[int(3), text("C")]]),
        delete(&table, &[2], true),
        delete(&table, &[2, 77], false),
        upsert(&table, &[&person(3, "cc", 33), &person(4, "d", 40)]),
    ])
    .await
    .unwrap();
    assert_eq!(file.dump("people"), shown(&[(1, "A", 10), (3, "cc", 33), (4, "d", 40)]));
    file.apply(&[
        Step::Truncate { tables: vec![table.name.clone()] },
        insert(&table, &[&person(5, "e", 50)]),
    ])
    .await
    .unwrap();
    assert_eq!(file.dump("people"), shown(&[(5, "e", 50)]));
    file.apply(&[Step::Drop { table: table.name.clone() }]).await.unwrap();
    let progress = file.target.replication(&file.run).await.unwrap();
    assert_eq!(progress.position, Some(Position::new(1, "1")));
    let gone = file.apply(&[delete(&table, &[5], true)]).await.unwrap_err();
    assert_eq!(gone.context_value("table"), Some("main.people"), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_values_may_swap_and_shift_within_a_step() {
    let table = people();
    let file = File::with(std::slice::from_ref(&table)).await;
    // A column that only the target has stays as it is.
    file.connect().execute_batch("ALTER TABLE people ADD COLUMN note DEFAULT 'n'").unwrap();
    let rows = [&person(1, "a", 10)[..], &person(2, "b", 20), &person(3, "c", 30)];
    file.apply(&[insert(&table, &rows)]).await.unwrap();
    file.connect().execute_batch("UPDATE people SET note = name || '!'").unwrap();
    let swap = update(&table, &[2], &[&[int(1), int(20)], &[int(2), int(30)], &[int(3), int(10)]]);
    file.apply(&[swap]).await.unwrap();
    let noted = |id: i64, name: &str, seat: i64, note: &str| {
        let person = &shown(&[(id, name, seat)])[0];
        format!("{person} | Text({:?})", note.as_bytes())
    };
    let expected = |seats: [i64; 3]| -> Vec<String> {
        let notes = [(1, "a", "a!"), (2, "b", "b!"), (3, "c", "c!")];
        notes
            .iter()
            .zip(seats)
            .map(|((id, name, note), seat)| noted(*id, name, seat, note))
            .collect()
    };
    assert_eq!(file.dump("people"), expected([20, 30, 10]));
    let swap = upsert(&table, &[&person(4, "d", 20), &person(1, "a", 30), &person(2, "b", 21)]);
    file.apply(&[swap]).await.unwrap();
    let mut expected = expected([30, 21, 10]);
    expected.push(noted(4, "d", 20, "n"));
    assert_eq!(file.dump("people"), expected);

    // What really collides is refused, and so is a row that is not there.
    let taken = file.apply(&[upsert(&table, &[&person(5, "e", 10)])]).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Constraint, "{taken}");
    let missing =
        update(&table, &[2], &[&[int(1), int(21)], &[int(2), int(30)], &[int(9), int(5)]]);
    let missing = file.apply(&[missing]).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Constraint, "{missing}");
    assert_eq!(missing.context_value("row"), Some("id=9"), "{missing}");
    assert_eq!(file.dump("people"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_awkward_value_comes_goes_and_is_found() {
    let tables: Vec<_> = awkward_tables("main").into_iter().collect();
    let mut tried = 0;
    for awkward in tables {
        let mut table = awkward.table.clone();
        let column = file_type(&table);
        if matches!(table.columns[1].logical_type, LogicalType::Array(_)) {
            let folder = File::with(&[]).await;
            let refused = folder.apply(&[Step::Create { table: Arc::new(table) }]).await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
            continue;
        }
        tried += 1;
        let file = File::with(std::slice::from_ref(&table)).await;
        let name = table.name.name.clone();
        let shared = Arc::new(table.clone());
        let rows = awkward.batch.clone();
        let key = Identity::Key(vec![0]);
        let all = |rows: &RecordBatch| Step::Upsert {
            table: Arc::clone(&shared),
            identity: key.clone(),
            rows: rows.clone(),
        };
        let step = Step::Insert { table: Arc::clone(&shared), rows: rows.clone() };
        file.apply(&[step]).await.unwrap_or_else(|error| panic!("{column}: {error}"));
        let held = file.dump(&name);
        assert_eq!(held.len(), rows.num_rows());
        file.apply(&[all(&rows)]).await.unwrap();
        assert_eq!(file.dump(&name), held, "{column}: the same rows again");
        let step = Step::Update {
            table: Arc::clone(&shared),
            identity: key.clone(),
            set: vec![1],
            rows: rows.clone(),
        };
        file.connect().execute_batch(&format!("UPDATE {name} SET v = NULL")).unwrap();
        file.apply(&[step]).await.unwrap();
        assert_eq!(file.dump(&name), held, "{column}: updated");
        file.apply(&[delete_whole(&table, rows.clone())]).await.unwrap();
        assert_eq!(file.dump(&name), Vec::<String>::new(), "{column}: every row is found");
        // The value itself as the key.
        table.name.name = format!("{name}_key");
        table.primary_key = vec!["v".to_owned()];
        let some = rows.slice(1, rows.num_rows() - 1);
        let shared = Arc::new(table.clone());
        let identity = Identity::Key(vec![1]);
        let steps = [
            Step::Create { table: Arc::clone(&shared) },
            Step::Upsert {
                table: Arc::clone(&shared),
                identity: identity.clone(),
                rows: some.clone(),
            },
        ];
        file.apply(&steps).await.unwrap();
        let held = file.dump(&table.name.name).len();
        // 0.0 and -0.0 are one key.
        let zeros = usize::from(column.starts_with("float"));
        assert!(held == some.num_rows() || held == some.num_rows() - zeros, "{column}");
        let rows = some.project(&[1]).unwrap();
        let strict = held == some.num_rows();
        file.apply(&[Step::Delete { table: shared, identity, rows, strict }]).await.unwrap();
        assert_eq!(file.dump(&table.name.name), Vec::<String>::new(), "{column}: by key");
    }
    assert!(tried > 30);
}

fn file_type(table: &TableSchema) -> String {
    table.columns[1].logical_type.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_rows_that_are_alike_as_many_go_as_are_listed() {
    let any = LogicalType::Other { native: "sqlite any".to_owned() };
    let columns = vec![Column::new("v", any), Column::new("f", LogicalType::Float64)];
    let table = TableSchema::new(TableName::new("main", "bag"), columns);
    let file = File::with(std::slice::from_ref(&table)).await;
    let row = |v: &str, f: f64| {
        let v = if v.is_empty() { Value::Null } else { text(v) };
        [v, Value::Float(f)]
    };
    let (one, real, null) = (row("1", 0.0), row("1.0", 0.0), row("", -0.0));
    let (zero, letter, blob) = (row("", 0.0), row("'1'", 0.0), row("X'31'", 0.0));
    let rows: Vec<&[Value]> = vec![&one, &one, &one, &real, &null, &null, &zero, &letter, &blob];
    file.apply(&[insert(&table, &rows)]).await.unwrap();
    let gone: Vec<&[Value]> = vec![&real, &one, &one, &zero, &letter];
    file.apply(&[delete_whole(&table, batch(&table, &[0, 1], &gone))]).await.unwrap();
    let left = file.dump("bag");
    let expected = [
        "Blob([49]) | Real(0000000000000000)",
        "Integer(1) | Real(0000000000000000)",
        "Null | Real(8000000000000000)",
        "Null | Real(8000000000000000)",
    ];
    assert_eq!(left, expected);
    let too_many: Vec<&[Value]> = vec![&one, &one];
    let step = delete_whole(&table, batch(&table, &[0, 1], &too_many));
    let error = file.apply(&[step]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
    assert_eq!(file.dump("bag"), expected, "nothing of the transaction is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_step_that_fails_leaves_the_transaction_as_it_was() {
    let table = people();
    let file = File::with(std::slice::from_ref(&table)).await;
    file.apply(&[insert(&table, &[&person(1, "a", 10), &person(2, "b", 20)])]).await.unwrap();
    let mut apply = file.begin().await;
    apply.step(&upsert(&table, &[&person(3, "c", 30)]), true).await.unwrap();
    for refused in [
        delete(&table, &[1, 2, 9], true),
        update(&table, &[1], &[&[int(1), text("x")], &[int(9), text("x")]]),
        insert(&table, &[&person(5, "e", 50), &person(1, "a", 10)]),
        insert(&table, &[&person(5, "e", 50), &person(6, "f", 10)]),
    ] {
        let error = apply.step(&refused, true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
        assert_eq!(error.context_value("table"), Some("main.people"));
    }
    apply.step(&delete(&table, &[2], true), false).await.unwrap();
    apply.commit(&Position::new(7, "seven"), Some(5)).await.unwrap();
    assert_eq!(file.dump("people"), shown(&[(1, "a", 10), (3, "c", 30)]));

    // One that is not guarded leaves nothing but the end.
    let mut apply = file.begin().await;
    apply.step(&delete(&table, &[1, 9], true), false).await.unwrap_err();
    assert!(apply.step(&delete(&table, &[3], true), true).await.is_err());
    assert!(apply.commit(&Position::new(8, "eight"), None).await.is_err());
    assert_eq!(file.dump("people"), shown(&[(1, "a", 10), (3, "c", 30)]));
    let progress = file.target.replication(&file.run).await.unwrap();
    assert_eq!(progress.position, Some(Position::new(7, "seven")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_transaction_is_taken_back_and_the_next_one_goes_on() {
    let table = people();
    let file = File::with(std::slice::from_ref(&table)).await;
    let mut cut = 0;
    for round in 0..20 {
        let mut apply = file.begin().await;
        apply.step(&insert(&table, &[&person(round, "a", round)]), round % 2 == 0).await.unwrap();
        if round % 3 == 0 {
            // In the middle of a step.
            let rows: Vec<[Value; 3]> = (100..20_000).map(|id| person(id, "x", id)).collect();
            let rows: Vec<&[Value]> = rows.iter().map(<[Value; 3]>::as_slice).collect();
            let step = insert(&table, &rows);
            let mut doing = Box::pin(apply.step(&step, false));
            // Unless another thread was so quick as to have done it.
            cut += usize::from(futures::poll!(&mut doing).is_pending());
        }
        drop(apply);
    }
    assert!(cut > 0, "no step was cut");
    assert_eq!(file.target.replication(&file.run).await.unwrap().tables.len(), 0);
    assert_eq!(file.dump("people"), Vec::<String>::new());
    // And nothing keeps other writers out.
    file.connect().execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap();
    file.apply(&[insert(&table, &[&person(1, "a", 1)])]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_run_is_fenced() {
    let table = people();
    let file = File::with(std::slice::from_ref(&table)).await;
    let other = SqliteTarget::open(file.settings.clone()).await.unwrap();
    let run = other.begin("task").await.unwrap().run;
    let Err(begun) = file.target.begin_apply(&file.run).await else { panic!("it is fenced") };
    let read = file.target.replication(&file.run).await.unwrap_err();
    let forgot = file.target.forget(&file.run, None).await.unwrap_err();
    for error in [begun, read, forgot] {
        assert_eq!(error.kind(), ErrorKind::Stopped, "{error}");
    }
    let mut apply = other.begin_apply(&run).await.unwrap();
    apply.step(&insert(&table, &[&person(1, "a", 1)]), false).await.unwrap();
    apply.commit(&Position::new(2, "2"), None).await.unwrap();
    assert_eq!(other.replication(&run).await.unwrap().position, Some(Position::new(2, "2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_noted_is_remembered_until_the_table_is_loaded_again() {
    let table = people();
    let file = File::with(std::slice::from_ref(&table)).await;
    assert!(file.target.look_up("other").await.unwrap().is_none());
    let exception = ApplyException {
        table: table.name.clone(),
        position: Position::new(3, "3"),
        operation: "insert".to_owned(),
        key: "{\"id\":1}".to_owned(),
        error: "taken".to_owned(),
    };
    let other = TableName::new("main", "other");
    let mut apply = file.begin().await;
    for note in [
        Note::Shape(Arc::new(table.clone())),
        Note::Suspended { table: other.clone(), reason: "drift".to_owned() },
        Note::Exception(exception),
    ] {
        apply.note(&note).await.unwrap();
    }
    apply.commit(&Position::new(3, "3"), Some(42)).await.unwrap();
    let mut apply = file.begin().await;
    apply.note(&Note::Suspended { table: table.name.clone(), reason: "why".into() }).await.unwrap();
    drop(apply);
    let record = file.target.look_up("task").await.unwrap().unwrap();
    assert_eq!((record.committed_at, record.exceptions), (Some(42), 1));
    assert_eq!(record.progress.run, file.run);
    let held = &record.replication.tables;
    assert_eq!(held[&table.name].shape.as_deref(), Some(&table));
    assert_eq!(held[&table.name].suspended, None, "that transaction was dropped");
    assert_eq!(held[&other].suspended.as_deref(), Some("drift"));
    assert_eq!(file.target.replication(&file.run).await.unwrap(), record.replication);

    let parts = [Partition::whole()];
    let mode = TablePrepMode::DropAndCreate;
    file.target.prepare(&file.run, &table, mode, &parts, None).await.unwrap();
    file.target
        .load(&file.run, &table, &parts[0], None, stream(&table, vec![], None))
        .await
        .unwrap();
    file.target.finish(&file.run, &table).await.unwrap();
    let held = file.target.replication(&file.run).await.unwrap();
    let loaded = ReplicatedTable { shape: Some(table.clone().into()), suspended: None };
    assert_eq!(held.tables[&table.name], loaded, "as it was prepared");
    assert!(held.tables[&other].suspended.is_some());
    let again = file.target.begin("task").await.unwrap();
    assert!(again.tables[&table.name].finished);
    file.target.forget(&again.run, Some(std::slice::from_ref(&table.name))).await.unwrap();
    let record = file.target.look_up("task").await.unwrap().unwrap();
    assert!(record.progress.tables.is_empty());
    assert_eq!(record.replication.position, Some(Position::new(3, "3")));
    file.target.forget(&again.run, None).await.unwrap();
    let record = file.target.look_up("task").await.unwrap().unwrap();
    assert_eq!(record.replication, dms_core::endpoint::ReplicationProgress::default());
    assert_eq!(record.exceptions, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_an_earlier_version_is_looked_up_and_gets_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    let missing = SqliteTarget::open(path.as_path()).await.unwrap();
    assert!(missing.look_up("task").await.unwrap().is_none());
    assert!(!path.exists(), "looking makes no file");
    let old = "
        CREATE TABLE dms_status (task TEXT NOT NULL PRIMARY KEY, epoch INTEGER NOT NULL, begun_at TEXT NOT NULL);
        CREATE TABLE dms_tables (task TEXT NOT NULL, table_name TEXT NOT NULL, partitions TEXT NOT NULL,
            position TEXT, finished_at TEXT, PRIMARY KEY (task, table_name));
        CREATE TABLE dms_partitions (task TEXT NOT NULL, table_name TEXT NOT NULL, partition INTEGER NOT NULL,
            rows INTEGER NOT NULL, receipt TEXT NOT NULL, committed_at TEXT NOT NULL,
            PRIMARY KEY (task, table_name, partition));
        INSERT INTO dms_status VALUES ('task', 4, '2024-01-01');";
    Connection::open(&path).unwrap().execute_batch(old).unwrap();
    let target = SqliteTarget::open(path.as_path()).await.unwrap();
    let record = target.look_up("task").await.unwrap().unwrap();
    assert_eq!((record.progress.run.epoch, record.replication.position), (4, None));
    let run = target.begin("task").await.unwrap().run;
    let apply = target.begin_apply(&run).await.unwrap();
    apply.commit(&Position::new(1, "1"), None).await.unwrap();
    assert!(target.replication(&run).await.unwrap().position.is_some());
}

/// What a process does that is killed: three transactions that each add a row.
async fn three(path: &Path) -> Result<()> {
    let target = SqliteTarget::open(path).await?;
    let run = target.begin("task").await?.run;
    let done = target.replication(&run).await?.position.map_or(0, |position| position.order);
    let table = people();
    for number in done + 1..=3 {
        let mut apply = target.begin_apply(&run).await?;
        let id = i64::try_from(number).unwrap();
        if number == 1 {
            apply.step(&Step::Create { table: Arc::new(table.clone()) }, false).await?;
        }
        apply.step(&insert(&table, &[&person(id, "a", id)]), false).await?;
        apply.step(&upsert(&table, &[&person(id, "b", id)]), true).await?;
        apply.commit(&Position::new(number, number.to_string()), None).await?;
    }
    Ok(())
}

/// What the other process does; without a file given, in one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let own = tempfile::tempdir().unwrap();
    let given = std::env::var_os("DMS_TEST_FILE");
    let path = given.map_or_else(|| own.path().join("target.db"), Into::into);
    three(&path).await.unwrap();
    assert_eq!(dump(&path, "people"), shown(&[(1, "b", 1), (2, "b", 2), (3, "b", 3)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_whole_transactions_with_their_position() {
    let faults: &[(&str, usize)] = &[
        ("sqlite-apply-step=abort:1", 0),
        ("sqlite-apply-step=abort:4", 1),
        ("sqlite-apply-step=error:5", 1),
        ("sqlite-apply-before-commit=abort:1", 0),
        ("sqlite-apply-before-commit=abort:3", 2),
        ("sqlite-apply-before-commit=error:2", 1),
        ("sqlite-apply-committed=abort:1", 1),
        ("sqlite-apply-committed=abort:2", 2),
        ("sqlite-apply-committed=error:3", 3),
    ];
    for (fault, left) in faults {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target.db");
        let run = |fault: Option<&str>| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "apply::child"]).env("DMS_TEST_FILE", &path);
            command.env_remove("DMS_FAULT").envs(fault.map(|fault| ("DMS_FAULT", fault)));
            command.output().unwrap()
        };
        assert!(!run(Some(fault)).status.success(), "{fault} does not end the process");
        let rows = match Connection::open(&path).unwrap().prepare("SELECT * FROM people") {
            Ok(_) => dump(&path, "people").len(),
            Err(_) => 0,
        };
        let target = SqliteTarget::open(path.as_path()).await.unwrap();
        let record = target.look_up("task").await.unwrap().unwrap();
        let position = record.replication.position.map_or(0, |position| position.order);
        assert_eq!((rows, position), (*left, *left as u64), "{fault}");
        let ended = run(None);
        assert!(ended.status.success(), "{fault}: {}", String::from_utf8_lossy(&ended.stdout));
    }
}
