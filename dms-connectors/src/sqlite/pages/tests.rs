//! What the pages say against what SQLite says.

use std::sync::Arc;

use dms_core::endpoint::{Partition, PartitionRange, ReadRequest};
use dms_core::mapping::Selection;
use dms_core::value::Value;
use proptest::prelude::*;
use rusqlite::types::ValueRef;
use tempfile::TempDir;

use super::*;
use crate::sqlite::SqliteSettings;
use crate::sqlite::discover::discover;

/// A database in a folder of its own.
struct Database {
    folder: TempDir,
    connection: Connection,
}

impl Database {
    fn new(sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("t.db")).unwrap();
        connection.execute_batch(sql).unwrap();
        Self { folder, connection }
    }

    /// A request for the stored columns of table `t`.
    fn request(&self, range: PartitionRange) -> ReadRequest {
        let settings = SqliteSettings::new(self.folder.path().join("t.db"));
        let catalog = discover(&self.connection, &settings, &Selection::all()).unwrap();
        let table = catalog.tables.into_iter().find(|table| table.name.name == "t").unwrap();
        let columns = stored_columns(&self.connection, &table).unwrap();
        let columns = columns.iter().map(|column| table.column_index(&column.name).unwrap());
        let columns = columns.collect();
        let partition = Partition { range, ..Partition::whole() };
        ReadRequest { columns, partition, ..ReadRequest::whole(Arc::new(table)) }
    }

    fn scan(&self, request: &ReadRequest) -> Option<PageScan<'_>> {
        let path = self.folder.path().join("t.db");
        PageScan::of(&self.connection, request, &path).unwrap()
    }

    /// The rows on the pages, as text of exactly what they are.
    fn on_pages(&self, range: PartitionRange) -> Result<Vec<String>> {
        let request = self.request(range);
        self.connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").unwrap();
        let mut found = Vec::new();
        let scanned = self.scan(&request).expect("a plain table").for_each(|rows| {
            let (first, rest) = rows.split_at(2);
            for rows in [first, rest] {
                for row in 0..rows.len() {
                    let cells = rows.columns().map(|column| show(column.cell(row)));
                    let cells: Vec<String> = cells.collect();
                    found.push(format!("{}: {}", rows.rowid(row).unwrap(), cells.join(", ")));
                }
            }
            Ok(true)
        });
        self.connection.execute_batch("ROLLBACK").unwrap();
        scanned.map(|()| found)
    }

    /// The rows that SQLite finds.
    fn by_query(&self, condition: &str) -> Vec<String> {
        let request = self.request(PartitionRange::Whole);
        let names = request.columns.iter().map(|at| column(&request.table.columns[*at].name));
        let names: Vec<String> = names.collect();
        let sql = format!(
            "SELECT {}, t.{} FROM t WHERE {condition} ORDER BY t._rowid_",
            names.join(", "),
            "_rowid_"
        );
        let mut statement = self.connection.prepare(&sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        let mut found = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let cells = (0..names.len()).map(|index| match row.get_ref(index).unwrap() {
                ValueRef::Null => show(Cell::Null),
                ValueRef::Integer(value) => show(Cell::Integer(value)),
                ValueRef::Real(value) => show(Cell::Real(value)),
                ValueRef::Text(value) => show(Cell::Text(value)),
                ValueRef::Blob(value) => show(Cell::Blob(value)),
            });
            let cells: Vec<String> = cells.collect();
            found.push(format!(
                "{}: {}",
                row.get::<_, i64>(names.len()).unwrap(),
                cells.join(", ")
            ));
        }
        found
    }

    fn is_same(&self) {
        assert_eq!(self.on_pages(PartitionRange::Whole).unwrap(), self.by_query("TRUE"));
    }
}

fn show(cell: Cell<'_>) -> String {
    match cell {
        Cell::Real(value) => format!("Real({:016x})", value.to_bits()),
        cell => format!("{cell:?}"),
    }
}

#[test]
fn values_of_every_storage_class_and_size() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, r REAL, n NUMERIC, x TEXT);
         INSERT INTO t VALUES
           (-9223372036854775808, NULL, 1, 1.0, ''), (9223372036854775807, 1.5, -0.0, 1e300, 'é'),
           (0, x'', 9e999, -9e999, char(0)), (5, 0, 281474976710657, '12', 1);
         INSERT INTO t (id, a, r, n, x) SELECT 100 + key, value, value, value, value FROM json_each(
           '[0,1,-1,127,128,-128,-129,32767,32768,-32768,-32769,8388607,8388608,-8388608,-8388609,
             2147483647,2147483648,-2147483648,-2147483649,140737488355327,140737488355328,
             -140737488355328,-140737488355329,9223372036854775807,-9223372036854775808,0.1]');",
    );
    database.is_same();
    assert_eq!(database.by_query("TRUE").len(), 30);
}

#[test]
fn rows_older_than_their_columns_have_the_defaults() {
    let database = Database::new(
        "CREATE TABLE t (a);
         INSERT INTO t VALUES (1), (2);
         ALTER TABLE t ADD COLUMN b;
         INSERT INTO t VALUES (3, 30);
         ALTER TABLE t ADD COLUMN c TEXT DEFAULT 7;
         ALTER TABLE t ADD COLUMN d REAL NOT NULL DEFAULT 2;
         ALTER TABLE t ADD COLUMN e DEFAULT x'00';
         INSERT INTO t VALUES (4, 40, NULL, 0, NULL);",
    );
    database.is_same();
}

#[test]
fn computed_columns_and_keys_that_are_no_rowid() {
    let database = Database::new(
        "CREATE TABLE t (v AS (a + 1), a INTEGER, s AS (a * 2) STORED, b);
         INSERT INTO t VALUES (1, 'x'), (2, 'y');",
    );
    database.is_same();
    let mut whole = database.request(PartitionRange::Whole);
    whole.columns = (0..4).collect();
    assert!(database.scan(&whole).is_none(), "a virtual column is computed by a query");
    for key in [
        "INTEGER PRIMARY KEY",
        "integer primary key",
        "INTEGER PRIMARY KEY DESC",
        "INT PRIMARY KEY",
    ] {
        let database =
            Database::new(&format!("CREATE TABLE t (b, k {key}); INSERT INTO t VALUES (1, 9);"));
        // Where the key is no rowid it may be NULL.
        let _ = database.connection.execute("INSERT INTO t VALUES (2, NULL)", []);
        database.is_same();
    }
}

#[test]
fn only_where_pages_are_the_snapshot() {
    let database =
        Database::new("CREATE TABLE t (a); CREATE TABLE w (a PRIMARY KEY) WITHOUT ROWID;");
    let request = database.request(PartitionRange::Whole);
    assert!(database.scan(&request).is_some());
    let mut filtered = request.clone();
    filtered.filter = Some(dms_core::mapping::Filter { columns: Vec::new() });
    assert!(database.scan(&filtered).is_none());
    database
        .connection
        .execute_batch("PRAGMA journal_mode = WAL; BEGIN; SELECT * FROM t;")
        .unwrap();
    assert!(database.scan(&request).is_some(), "the log is empty");
    database.connection.execute_batch("COMMIT; INSERT INTO t VALUES (1);").unwrap();
    assert!(database.scan(&request).is_none(), "the log has a row");
    let other = Database::new("PRAGMA encoding = 'UTF-16le'; CREATE TABLE t (a);");
    assert!(other.scan(&other.request(PartitionRange::Whole)).is_none());
}

#[test]
fn ranges_of_rowids_are_kept() {
    let database = Database::new(
        "PRAGMA page_size = 512;
         CREATE TABLE t (id INTEGER PRIMARY KEY, a);
         WITH RECURSIVE n(i) AS (SELECT -3000 UNION ALL SELECT i + 3 FROM n WHERE i < 3000)
         INSERT INTO t SELECT i, hex(randomblob(20)) FROM n;",
    );
    let bound = |at: Option<i64>| at.map(|at| vec![Value::Int(at)]);
    for (lower, upper, condition) in [
        (None, Some(0), "id < 0"),
        (Some(0), None, "id >= 0"),
        (Some(-1501), Some(1499), "id >= -1501 AND id < 1499"),
        (Some(1), Some(3), "FALSE"),
        (Some(7), Some(7), "FALSE"),
        (Some(9000), None, "FALSE"),
        (None, Some(i64::MIN), "FALSE"),
        (Some(i64::MIN), Some(i64::MAX), "TRUE"),
    ] {
        let range = PartitionRange::Columns {
            columns: vec!["id".to_owned()],
            lower: bound(lower),
            upper: bound(upper),
        };
        assert_eq!(database.on_pages(range).unwrap(), database.by_query(condition), "{condition}");
    }
}

/// Sizes about the thresholds at which a row goes on in overflow pages.
fn content() -> impl Strategy<Value = (u8, usize)> {
    let size = prop_oneof![0usize..40, 400usize..600, 3900usize..4200, 60_000usize..140_000];
    (0u8..5, size)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_rows_on_pages_of_any_size(
        page_size in prop::sample::select(vec![512, 1024, 4096, 65_536]),
        vacuum in prop::sample::select(vec!["NONE", "FULL", "INCREMENTAL"]),
        rows in prop::collection::btree_map(any::<i32>(), [content(), content()], 0..60),
        gone in 0usize..3,
    ) {
        let database = Database::new(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {vacuum};
             CREATE TABLE other (a); CREATE TABLE t (a, id INTEGER PRIMARY KEY, b);"
        ));
        for (id, values) in rows {
            let values = values.map(|(kind, size)| {
                let bytes: Vec<u8> = (b'a'..=b'z').cycle().take(size).collect();
                match kind {
                    0 => Sql::Null,
                    1 => Sql::Integer(i64::from(id) * i64::try_from(size).unwrap()),
                    2 => Sql::Real(size as f64 / 7.0),
                    3 => Sql::Text(String::from_utf8(bytes).unwrap()),
                    _ => Sql::Blob(bytes),
                }
            });
            let [a, b] = values;
            let sql = "INSERT INTO t (a, id, b) VALUES (?1, ?2, ?3)";
            database.connection.execute(sql, rusqlite::params![a, id, b]).unwrap();
            database.connection.execute("INSERT INTO other VALUES (randomblob(700))", []).unwrap();
        }
        let sql = format!("DELETE FROM t WHERE id % 3 < {gone}; DELETE FROM other");
        database.connection.execute_batch(&sql).unwrap();
        database.is_same();
    }

    /// A damaged file gives an error or other values, and the scan ends.
    #[test]
    fn damaged_pages_are_survived(at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let database = Database::new(
            "PRAGMA page_size = 512; CREATE TABLE t (a, b);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
             INSERT INTO t SELECT hex(randomblob(i % 50)), randomblob(i * 3) FROM n;",
        );
        let request = database.request(PartitionRange::Whole);
        let path = database.folder.path().join("t.db");
        let mut bytes = std::fs::read(&path).unwrap();
        // Not the schema's page.
        for (index, value) in at {
            let at = 512 + index.index(bytes.len() - 512);
            bytes[at] = value;
        }
        let damaged = database.folder.path().join("damaged.db");
        std::fs::write(&damaged, &bytes).unwrap();
        let connection = Connection::open(&damaged).unwrap();
        if let Ok(Some(scan)) = PageScan::of(&connection, &request, &damaged) {
            let mut rows = 0;
            let scanned = scan.for_each(|found| {
                rows += found.len();
                found.columns().for_each(|column| {
                    (0..column.len()).for_each(|row| drop(show(column.cell(row))));
                });
                Ok(true)
            });
            if let Err(error) = scanned {
                prop_assert_eq!(error.kind(), dms_core::ErrorKind::Corrupt, "{}", error);
            }
            prop_assert!(rows <= 100_000);
        }
    }
}
