//! Progress and rows become durable together, for one run at a time.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use dms_connectors::sqlite::{SqliteSettings, SqliteTarget};
use dms_core::endpoint::{Partition, PartitionRange, TablePrepMode, Target};
use dms_core::position::Position;
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_core::{Error, ErrorKind};
use rusqlite::Connection;
use tempfile::TempDir;

use super::{dump, stream};

fn numbers() -> TableSchema {
    let columns = vec![Column::new("n", LogicalType::Int64)];
    TableSchema::new(TableName::new("main", "numbers"), columns)
}

fn batch(table: &TableSchema, numbers: impl IntoIterator<Item = i64>) -> RecordBatch {
    let column = Arc::new(Int64Array::from_iter_values(numbers));
    RecordBatch::try_new(table.arrow_schema(), vec![column]).unwrap()
}

fn two_partitions() -> [Partition; 2] {
    [0, 1].map(|number| Partition {
        number,
        name: None,
        range: PartitionRange::Native(number.to_string()),
        byte_estimate: None,
    })
}

async fn target() -> (TempDir, SqliteSettings, Arc<SqliteTarget>) {
    let folder = tempfile::tempdir().unwrap();
    let settings = SqliteSettings::new(folder.path().join("target.db"));
    let target = SqliteTarget::open(settings.clone()).await.unwrap();
    (folder, settings, target)
}

fn count(settings: &SqliteSettings, table: &str) -> i64 {
    let connection = Connection::open(&settings.path).unwrap();
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_partition_is_loaded_once_and_remembered() {
    let (_folder, settings, target) = target().await;
    let (table, parts) = (numbers(), two_partitions());
    let position = Position::new(1, "here");
    let run = target.begin("task").await.unwrap().run;
    let mode = TablePrepMode::DropAndCreate;
    target.prepare(&run, &table, mode, &parts, Some(&position)).await.unwrap();
    let rows = || stream(&table, vec![batch(&table, 0..10), batch(&table, 10..15)], None);
    let receipt = target.load(&run, &table, &parts[0], Some(&position), rows()).await.unwrap();
    assert_eq!((receipt.partition, receipt.rows), (0, 15));
    let again = target.load(&run, &table, &parts[0], Some(&position), rows()).await.unwrap();
    assert_eq!(again, receipt);
    assert_eq!(count(&settings, "numbers"), 15);
    let error = target.finish(&run, &table).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema, "a partition is missing");

    // Another process goes on where this one was.
    let later = SqliteTarget::open(settings.clone()).await.unwrap();
    let progress = later.begin("task").await.unwrap();
    let held = &progress.tables[&table.name];
    assert_eq!(held.partitions, parts);
    assert_eq!(held.receipts, [receipt]);
    assert_eq!(held.position, Some(position.clone()));
    assert!(!held.finished);
    later.load(&progress.run, &table, &parts[1], Some(&position), rows()).await.unwrap();
    later.finish(&progress.run, &table).await.unwrap();
    later.finish(&progress.run, &table).await.unwrap();
    assert!(later.begin("task").await.unwrap().tables[&table.name].finished);
    assert!(later.begin("other task").await.unwrap().tables.is_empty());
    assert_eq!(count(&settings, "numbers"), 30);
}

#[tokio::test]
async fn a_load_that_fails_leaves_nothing() {
    let (_folder, settings, target) = target().await;
    let (table, parts) = (numbers(), two_partitions());
    let run = target.begin("task").await.unwrap().run;
    let mode = TablePrepMode::DropAndCreate;
    target.prepare(&run, &table, mode, &parts, None).await.unwrap();
    let broken = stream(&table, vec![batch(&table, 0..10)], Some(Error::data("broken source")));
    let error = target.load(&run, &table, &parts[0], None, broken).await.unwrap_err();
    assert_eq!(error.message(), "broken source");
    assert_eq!(count(&settings, "numbers"), 0);

    // A load that is given up halfway: its stream never ends.
    let first = futures::stream::iter([Ok(batch(&table, 0..10))]);
    let endless = futures::StreamExt::chain(first, futures::stream::pending());
    let endless = dms_core::batch::BatchStream::new(table.arrow_schema(), endless);
    let mut load = target.load(&run, &table, &parts[0], None, endless);
    for _ in 0..100 {
        assert!(futures::poll!(&mut load).is_pending());
        tokio::task::yield_now().await;
    }
    drop(load);
    let rows = stream(&table, vec![batch(&table, 0..10)], None);
    target.load(&run, &table, &parts[0], None, rows).await.unwrap();
    assert_eq!(count(&settings, "numbers"), 10);
}

#[tokio::test]
async fn an_earlier_run_of_the_task_is_fenced() {
    let (_folder, settings, target) = target().await;
    let (table, parts) = (numbers(), two_partitions());
    let old = target.begin("task").await.unwrap().run;
    let mode = TablePrepMode::DropAndCreate;
    target.prepare(&old, &table, mode, &parts, None).await.unwrap();
    let other = SqliteTarget::open(settings.clone()).await.unwrap();
    let new = other.begin("task").await.unwrap().run;
    assert!(new.epoch > old.epoch);
    let rows = || stream(&table, vec![batch(&table, 0..10)], None);
    for error in [
        target.prepare(&old, &table, mode, &parts, None).await.unwrap_err(),
        target.load(&old, &table, &parts[0], None, rows()).await.unwrap_err(),
        target.finish(&old, &table).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Stopped);
        assert!(error.to_string().contains("another run of task task took it over"), "{error}");
    }
    other.load(&new, &table, &parts[0], None, rows()).await.unwrap();
    assert_eq!(count(&settings, "numbers"), 10);
}

#[tokio::test]
async fn a_full_disk_is_named_and_the_run_can_be_repeated() {
    let (_folder, mut settings, _) = target().await;
    settings.file_bytes_max = 100_000;
    let small = SqliteTarget::open(settings.clone()).await.unwrap();
    let (table, parts) = (numbers(), [Partition::whole()]);
    let run = small.begin("task").await.unwrap().run;
    small.prepare(&run, &table, TablePrepMode::DropAndCreate, &parts, None).await.unwrap();
    let rows = || stream(&table, (0..20).map(|_| batch(&table, 0..5000)).collect(), None);
    let error = small.load(&run, &table, &parts[0], None, rows()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unexpected);
    assert!(error.to_string().contains("disk is full"), "{error}");
    drop(small);
    settings.file_bytes_max = 0;
    let roomy = SqliteTarget::open(settings.clone()).await.unwrap();
    let run = roomy.begin("task").await.unwrap().run;
    roomy.load(&run, &table, &parts[0], None, rows()).await.unwrap();
    roomy.finish(&run, &table).await.unwrap();
    assert_eq!(count(&settings, "numbers"), 100_000);
}

#[tokio::test]
async fn keys_refuse_rows_by_name() {
    let (_folder, _, target) = target().await;
    let mut table = numbers();
    table.unique_indexes.push(dms_core::schema::UniqueIndex {
        name: "one_each".to_owned(),
        columns: vec!["n".to_owned()],
    });
    let parts = [Partition::whole()];
    let run = target.begin("task").await.unwrap().run;
    let mode = TablePrepMode::DropAndCreate;
    target.prepare(&run, &table, mode, &parts, None).await.unwrap();
    let twice = || stream(&table, vec![batch(&table, [1, 1])], None);
    target.load(&run, &table, &parts[0], None, twice()).await.unwrap();
    let error = target.finish(&run, &table).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
    assert_eq!(error.context_value("table"), Some("main.numbers"));

    let mut keyed = numbers().with_primary_key(["n"]);
    keyed.name.name = "keyed".to_owned();
    target.prepare(&run, &keyed, mode, &parts, None).await.unwrap();
    let error = target.load(&run, &keyed, &parts[0], None, twice()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
    assert_eq!(error.context_value("table"), Some("main.keyed"));
}

#[tokio::test]
async fn preparation_keeps_empties_or_replaces() {
    let (_folder, settings, target) = target().await;
    let (table, parts) = (numbers(), [Partition::whole()]);
    let other = Connection::open(&settings.path).unwrap();
    let fresh = "DROP TABLE IF EXISTS numbers;
        CREATE TABLE numbers (n BIGINT, extra TEXT DEFAULT 'x'); INSERT INTO numbers VALUES (-1, 'y');";
    let run = target.begin("task").await.unwrap().run;
    for (mode, expected) in [
        (TablePrepMode::DoNothing, vec!["Integer(-1) | Text([121])", "Integer(5) | Text([120])"]),
        (TablePrepMode::TruncateBeforeLoad, vec!["Integer(5) | Text([120])"]),
        (TablePrepMode::DropAndCreate, vec!["Integer(5)"]),
    ] {
        other.execute_batch(fresh).unwrap();
        target.prepare(&run, &table, mode, &parts, None).await.unwrap();
        let rows = stream(&table, vec![batch(&table, [5])], None);
        target.load(&run, &table, &parts[0], None, rows).await.unwrap();
        target.finish(&run, &table).await.unwrap();
        assert_eq!(dump(&settings.path, "numbers"), expected, "{mode:?}");
    }
}

#[tokio::test]
async fn another_shape_is_refused_by_the_column() {
    let (_folder, settings, target) = target().await;
    let other = Connection::open(&settings.path).unwrap();
    let text = Column::new("n", LogicalType::text());
    let table = TableSchema::new(TableName::new("main", "numbers"), vec![text]);
    let run = target.begin("task").await.unwrap().run;
    for (sql, column) in [
        ("CREATE TABLE numbers (m TEXT)", "n"),
        // '007' would become 7.
        ("CREATE TABLE numbers (n INTEGER)", "n"),
        ("CREATE TABLE numbers (n TEXT, more TEXT NOT NULL)", "more"),
        ("CREATE TABLE numbers (a TEXT, n TEXT AS (a))", "n"),
    ] {
        other.execute_batch(&format!("DROP TABLE IF EXISTS numbers; {sql}")).unwrap();
        for mode in [TablePrepMode::DoNothing, TablePrepMode::TruncateBeforeLoad] {
            let prepared = target.prepare(&run, &table, mode, &[Partition::whole()], None).await;
            let error = prepared.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Schema, "{sql}");
            assert_eq!(error.context_value("column"), Some(column), "{sql}");
        }
    }
}

#[tokio::test]
async fn a_part_of_a_load_is_not_doubled() {
    let (_folder, settings, target) = target().await;
    let (table, parts) = (numbers(), two_partitions());
    let run = target.begin("task").await.unwrap().run;
    let mode = TablePrepMode::DoNothing;
    target.prepare(&run, &table, mode, &parts, None).await.unwrap();
    let rows = || stream(&table, vec![batch(&table, 0..10)], None);
    target.load(&run, &table, &parts[0], None, rows()).await.unwrap();
    let run = target.begin("task").await.unwrap().run;
    let error = target.prepare(&run, &table, mode, &parts, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    // What was said of the load before still holds, so that it can go on.
    target.load(&run, &table, &parts[0], None, rows()).await.unwrap();
    target.load(&run, &table, &parts[1], None, rows()).await.unwrap();
    target.finish(&run, &table).await.unwrap();
    assert_eq!(count(&settings, "numbers"), 20);
}

#[tokio::test]
async fn names_that_cannot_be_are_refused() {
    let (_folder, _, target) = target().await;
    let run = target.begin("task").await.unwrap().run;
    for (schema, name) in [("shop", "numbers"), ("main", "dms_status"), ("main", "sqlite_x")] {
        let mut table = numbers();
        table.name = TableName::new(schema, name);
        let mode = TablePrepMode::DropAndCreate;
        let prepared = target.prepare(&run, &table, mode, &[Partition::whole()], None).await;
        assert_eq!(prepared.unwrap_err().kind(), ErrorKind::Settings, "{schema}.{name}");
    }
}

#[tokio::test]
async fn a_check_changes_nothing_and_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.db");
    SqliteTarget::open(path.as_path()).await.unwrap().check().await.unwrap();
    assert!(!path.exists());
    let nowhere = SqliteTarget::open(folder.path().join("no/such.db").as_path()).await.unwrap();
    assert_eq!(nowhere.check().await.unwrap_err().kind(), ErrorKind::NotFound);
    std::fs::write(&path, "not a database ".repeat(100)).unwrap();
    let text = SqliteTarget::open(path.as_path()).await.unwrap();
    assert_eq!(text.check().await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_zero_keeps_its_sign_or_is_refused() {
    let (_folder, settings, target) = target().await;
    let other = Connection::open(&settings.path).unwrap();
    other.execute_batch("CREATE TABLE numbers (n REAL)").unwrap();
    let columns = vec![Column::new("n", LogicalType::Float64)];
    let table = TableSchema::new(TableName::new("main", "numbers"), columns);
    let parts = [Partition::whole()];
    let zero = Arc::new(arrow::array::Float64Array::from(vec![-0.0]));
    let zero = RecordBatch::try_new(table.arrow_schema(), vec![zero]).unwrap();
    let run = target.begin("task").await.unwrap().run;
    target.prepare(&run, &table, TablePrepMode::DoNothing, &parts, None).await.unwrap();
    let rows = || stream(&table, vec![zero.clone()], None);
    let error = target.load(&run, &table, &parts[0], None, rows()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    target.prepare(&run, &table, TablePrepMode::DropAndCreate, &parts, None).await.unwrap();
    target.load(&run, &table, &parts[0], None, rows()).await.unwrap();
    assert_eq!(dump(&settings.path, "numbers"), ["Real(8000000000000000)"]);
}
