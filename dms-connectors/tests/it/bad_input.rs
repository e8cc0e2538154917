//! Each kind of bad input ends in a clear typed error or in a correct result.

use dms_connectors::sqlite::{SqliteSettings, SqliteSource};
use dms_core::ErrorKind;
use dms_core::endpoint::{Partition, Source};
use dms_core::mapping::{Pattern, RuleAction, Selection, SelectionRule, TableType};
use rusqlite::Connection;

use super::{Database, copy, dump, read, read_table, table};

fn settings(database: &Database) -> SqliteSettings {
    SqliteSettings::new(&database.path)
}

#[tokio::test]
async fn a_missing_file_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing.db");
    let error = SqliteSource::open(path.as_path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("missing.db"), "{error}");
    assert!(!path.exists());
    let error = SqliteSource::open(folder.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "a folder: {error}");
}

#[tokio::test]
async fn a_locked_database_is_a_transient_error() {
    let database = Database::new("CREATE TABLE t (a INTEGER);");
    let source = database.source().await;
    let writer = database.connect();
    writer.execute_batch("BEGIN EXCLUSIVE; INSERT INTO t VALUES (1);").unwrap();
    let mut impatient = settings(&database);
    impatient.busy_timeout = std::time::Duration::from_millis(10);
    let error = SqliteSource::open(impatient).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.is_transient());
    assert!(error.to_string().contains("busy-timeout-ms"), "{error}");
    writer.execute_batch("COMMIT").unwrap();
    source.snapshot(&[], 2).await.unwrap();
}

#[tokio::test]
async fn what_is_no_database_is_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.db");
    std::fs::write(&path, "this is not a database, but long enough to be looked at ".repeat(40))
        .unwrap();
    let error = SqliteSource::open(path.as_path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn a_damaged_page_ends_the_read() {
    let database = Database::new(
        "PRAGMA page_size = 4096; CREATE TABLE t (a INTEGER, b TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO t SELECT i, hex(randomblob(50)) FROM n;",
    );
    let mut bytes = std::fs::read(&database.path).unwrap();
    let middle = bytes.len() / 4096 / 2 * 4096;
    bytes[middle..middle + 4096].fill(0xab);
    std::fs::write(&database.path, bytes).unwrap();
    let error = read_table(settings(&database), "t").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(error.context_value("table"), Some("main.t"));
}

#[tokio::test]
async fn an_empty_table_and_an_empty_file_are_nothing_special() {
    let database = Database::new("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT);");
    let target = database.beside("target.db");
    copy(settings(&database), &target).await.unwrap();
    assert!(dump(&target, "t").is_empty());
    let empty = database.beside("empty.db");
    std::fs::write(&empty, "").unwrap();
    let source = SqliteSource::open(empty.as_path()).await.unwrap();
    assert_eq!(source.discover(&Selection::all()).await.unwrap().tables, []);
    source.snapshot(&[], 2).await.unwrap();
}

#[tokio::test]
async fn two_thousand_columns() {
    let columns: Vec<String> = (0..2000).map(|n| format!("c{n} INTEGER")).collect();
    let values: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
    let database = Database::new(&format!(
        "CREATE TABLE t ({}); INSERT INTO t VALUES ({});",
        columns.join(", "),
        values.join(", ")
    ));
    let target = database.beside("target.db");
    copy(settings(&database), &target).await.unwrap();
    assert_eq!(dump(&target, "t"), dump(&database.path, "t"));
}

#[tokio::test]
async fn names_of_all_kinds() {
    let names = ["select", "a b", "q\"q", "it's", "größe 😀", "a;--", "rowid", "t", "%x_", "[b]"];
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut sql = String::new();
    for name in names {
        let columns = names.map(|column| format!("{} TEXT", quoted(column))).join(", ");
        let values = names.map(|column| format!("'{}'", column.replace('\'', "''"))).join(", ");
        sql.push_str(&format!(
            "CREATE TABLE {0} ({columns}, PRIMARY KEY ({1})); INSERT INTO {0} VALUES ({values});",
            quoted(name),
            quoted("q\"q"),
        ));
    }
    let database = Database::new(&sql);
    let target = database.beside("target file 'x'.db");
    assert_eq!(copy(settings(&database), &target).await.unwrap().len(), names.len());
    for name in names {
        let name = quoted(name);
        assert_eq!(dump(&target, &name), dump(&database.path, &name), "{name}");
    }
}

#[tokio::test]
async fn a_blob_of_200_megabytes() {
    let database =
        Database::new("CREATE TABLE t (a INTEGER, b BLOB); INSERT INTO t VALUES (1, x'01');");
    let large = vec![0x5a_u8; 200_000_000];
    database.connect().execute("INSERT INTO t VALUES (2, ?1)", [&large]).unwrap();
    let target = database.beside("target.db");
    copy(settings(&database), &target).await.unwrap();
    let connection = Connection::open(&target).unwrap();
    let found: Vec<u8> =
        connection.query_row("SELECT b FROM t WHERE a = 2", [], |row| row.get(0)).unwrap();
    assert!(found == large);
}

/// Reads a table whose one bad row is said to be at `row`; then again with the remedy.
async fn misfit(sql: &str, column: &str, row: &str, kind: &str) {
    let database = Database::new(sql);
    let error = read_table(settings(&database), "t").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert_eq!(error.context_value("table"), Some("main.t"));
    assert_eq!(error.context_value("column"), Some(column));
    assert_eq!(error.context_value("row"), Some(row));
    assert!(error.message().starts_with(kind), "{error}");
    assert!(error.message().contains("column-types"), "{error}");
    let mut remedied = settings(&database);
    let any = "other('sqlite any')".parse().unwrap();
    remedied.column_types.push((Pattern::new(format!("main.t.{column}")), any));
    let target = database.beside("target.db");
    copy(remedied, &target).await.unwrap();
    assert_eq!(dump(&target, "t"), dump(&database.path, "t"));
}

#[tokio::test]
async fn values_of_another_kind_than_declared() {
    let t = |rest: &str| format!("CREATE TABLE t (k INTEGER PRIMARY KEY, {rest}");
    misfit(
        &t("c TEXT); INSERT INTO t VALUES (1, 'x'), (7, CAST(x'ff' AS TEXT));"),
        "c",
        "7",
        "text that is not UTF-8",
    )
    .await;
    misfit(&t("c TEXT); INSERT INTO t VALUES (3, x'00');"), "c", "3", "blob").await;
    misfit(&t("c INTEGER); INSERT INTO t VALUES (-2, 'abc');"), "c", "-2", "text").await;
    misfit(&t("c INTEGER); INSERT INTO t VALUES (1, 1.5);"), "c", "1", "real").await;
    misfit(&t("c BOOLEAN); INSERT INTO t VALUES (1, 2);"), "c", "1", "integer").await;
    misfit(&t("c DECIMAL(5,2)); INSERT INTO t VALUES (1, 1.005);"), "c", "1", "real").await;
    misfit(&t("c DECIMAL(5,2)); INSERT INTO t VALUES (1, 1000);"), "c", "1", "integer").await;
    misfit(&t("c DATE); INSERT INTO t VALUES (1, '2024-02-30');"), "c", "1", "text").await;
    misfit(&t("c DATETIME); INSERT INTO t VALUES (1, 1700000000);"), "c", "1", "integer").await;
    misfit(
        &t("c UUID); INSERT INTO t VALUES (1, 'F0000000-0000-0000-0000-000000000000');"),
        "c",
        "1",
        "text",
    )
    .await;
    misfit(
        "CREATE TABLE t (k TEXT, n INT, c REAL, PRIMARY KEY (k, n)) WITHOUT ROWID;
         INSERT INTO t VALUES ('a', 5, 'x');",
        "c",
        "\"a\", 5",
        "text",
    )
    .await;
}

#[tokio::test]
async fn a_virtual_table_is_refused_only_when_it_is_wanted() {
    let database =
        Database::new("CREATE VIRTUAL TABLE docs USING fts5(body); CREATE TABLE t (a INTEGER);");
    let source = database.source().await;
    let mut selection = Selection::all();
    let error = source.discover(&selection).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.context_value("table"), Some("main.docs"));
    selection.push(SelectionRule::new(RuleAction::Exclude, "main", "docs"));
    let catalog = source.discover(&selection).await.unwrap();
    let names: Vec<_> = catalog.tables.iter().map(|table| table.name.name.as_str()).collect();
    assert_eq!(names, ["t"], "the tables behind the virtual one are not data");
}

#[tokio::test]
async fn a_view_is_read_when_it_is_asked_for() {
    let database = Database::new(
        "CREATE TABLE t (a INTEGER, b TEXT); INSERT INTO t VALUES (1, 'x');
         CREATE VIEW v AS SELECT b, a, a + 1 AS c FROM t;",
    );
    let source = database.source().await;
    let mut selection = Selection::default();
    let mut rule = SelectionRule::new(RuleAction::Include, "main", "v");
    rule.table_type = TableType::View;
    selection.push(rule);
    let catalog = source.discover(&selection).await.unwrap();
    let types: Vec<String> =
        catalog.tables[0].columns.iter().map(|c| c.logical_type.to_string()).collect();
    assert_eq!(types, ["text", "int64", "other('sqlite any')"]);
    let snapshot = source.snapshot(&catalog.tables, 1).await.unwrap();
    let batches = read(&*snapshot, &catalog.tables[0], Partition::whole()).await.unwrap();
    assert_eq!(batches[0].num_rows(), 1);
}

#[tokio::test]
async fn a_column_that_went_away_is_not_text() {
    let database =
        Database::new("CREATE TABLE t (a INTEGER, b TEXT); INSERT INTO t VALUES (1, 'x');");
    let source = database.source().await;
    let described = table(&source, "t").await;
    database.connect().execute_batch("ALTER TABLE t DROP COLUMN b").unwrap();
    let snapshot = source.snapshot(&[], 1).await.unwrap();
    let error = read(&*snapshot, &described, Partition::whole()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
}
