//! A PostgreSQL database as a source or target, looked at without the engine that filled it.

use std::future::Future;
use std::path::Path;

use rusqlite::types::ValueRef;
use tokio_postgres::Client;

use crate::server;

/// A database of the tests' server.
pub(crate) struct Database {
    pub(crate) url: String,
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

impl Database {
    pub(crate) fn new() -> Self {
        Self { url: wait(server::shared().database()) }
    }

    fn with<T, F: Future<Output = T>>(&self, work: impl FnOnce(Client) -> F) -> T {
        wait(async { work(server::connect(&self.url).await).await })
    }

    /// Runs statements.
    pub(crate) fn execute(&self, sql: &str) {
        let sql = sql.to_owned();
        self.with(|client| async move { client.batch_execute(&sql).await.unwrap() });
    }

    /// Forgets what was loaded.
    pub(crate) fn clear(&self) {
        let sql = "DROP SCHEMA IF EXISTS dms CASCADE; DROP SCHEMA IF EXISTS main CASCADE";
        self.with(|client| async move { client.batch_execute(sql).await.unwrap() });
    }

    /// How many partitions are there so far.
    pub(crate) fn partitions_held(&self) -> u32 {
        let sql = "SELECT count(*) FROM dms.dms_partitions";
        let held = self.with(|client| async move { client.query_one(sql, &[]).await });
        held.map_or(0, |row| u32::try_from(row.get::<_, i64>(0)).unwrap())
    }

    /// The one text that a query answers.
    pub(crate) fn text(&self, sql: &str) -> String {
        let sql = sql.to_owned();
        self.with(|client| async move { client.query_one(&sql, &[]).await.unwrap().get(0) })
    }

    fn rows(&self, table: &str, columns: &[String]) -> Vec<Vec<Option<String>>> {
        let list: Vec<String> = columns.iter().map(|name| format!("\"{name}\"::text")).collect();
        let sql = format!("SELECT {} FROM main.\"{table}\"", list.join(", "));
        let rows = self.with(|client| async move { client.query(&sql, &[]).await.unwrap() });
        let row = |row: &tokio_postgres::Row| (0..columns.len()).map(|at| row.get(at)).collect();
        let mut rows: Vec<Vec<Option<String>>> = rows.iter().map(row).collect();
        rows.sort_unstable();
        rows
    }

    /// Compares every row and value of every table with a SQLite file, as text.
    #[track_caller]
    pub(crate) fn assert_equal(&self, file: &Path) {
        let original = rusqlite::Connection::open(file).unwrap();
        let mut tables = original
            .prepare(
                "SELECT name FROM sqlite_schema WHERE type = 'table' \
                 AND name NOT LIKE 'sqlite%' AND name NOT LIKE 'dms%'",
            )
            .unwrap();
        let tables = tables.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let (mut compared, mut names) = (0, 0);
        for table in tables {
            let table = table.unwrap();
            let mut statement = original.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
            let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
            // A column without a declared type holds literals.
            let untyped = statement.columns().all(|column| column.decl_type().is_none());
            let rows = statement.query_map([], |row| {
                (0..columns.len()).map(|at| Ok(text_of(row.get_ref(at)?, untyped))).collect()
            });
            let mut rows: Vec<Vec<Option<String>>> = rows.unwrap().map(Result::unwrap).collect();
            rows.sort_unstable();
            compared += rows.len();
            names += 1;
            let found = self.rows(&table, &columns);
            assert_eq!(found.len(), rows.len(), "rows of {table}");
            assert!(found == rows, "{table}: {:?}", found.iter().zip(&rows).find(|(a, b)| a != b));
        }
        let here = "SELECT count(*)::text FROM pg_tables WHERE schemaname = 'main'";
        assert_eq!(self.text(here), names.to_string(), "tables");
        assert!(compared > 0, "nothing was compared");
    }
}

/// A value as PostgreSQL writes it.
fn text_of(value: ValueRef<'_>, as_literal: bool) -> Option<String> {
    let hex = |bytes: &[u8], upper: bool| -> String {
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        let digits: String = digits.collect();
        if upper { digits.to_uppercase() } else { digits }
    };
    Some(match value {
        ValueRef::Null => return None,
        ValueRef::Integer(value) => value.to_string(),
        ValueRef::Real(value) if as_literal => format!("{value:?}"),
        ValueRef::Real(value) => value.to_string(),
        ValueRef::Text(text) if as_literal => format!("'{}'", String::from_utf8_lossy(text)),
        ValueRef::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
        ValueRef::Blob(bytes) if as_literal => format!("X'{}'", hex(bytes, true)),
        ValueRef::Blob(bytes) => format!("\\x{}", hex(bytes, false)),
    })
}
