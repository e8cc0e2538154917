//! The database whose changes are followed, as a plain connection sees it.

use dms_core::schema::{Column, TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result};
use tokio_postgres::Client;

use super::lsn::{Log, Lsn};
use super::names::Names;
use crate::postgres::connection::{connect, version};
use crate::postgres::discover;
use crate::postgres::error::convert;
use crate::postgres::settings::PostgresSettings;
use crate::postgres::types::{CatalogType, catalog_type, logical_type};

/// The first version whose `pgoutput` delivers logical messages and values in binary form.
const VERSION_MIN: u32 = 140_000;

/// Which server this is, by the name of the file that it writes its log to: what a server knows
/// otherwise of its timeline is that of its last checkpoint.
const IDENTITY: &str = "
SELECT s.system_identifier::text, d.oid, d.datname::text, session_user::text,
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN c.timeline_id
        ELSE ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8))
            ::bit(32)::int4 END
FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_checkpoint() c,
    pg_catalog.pg_database d WHERE d.datname = current_database()";

/// A connection, and which database of which server that is.
pub(super) struct Database {
    pub(super) client: Client,
    pub(super) log: Log,
    /// Its name, and the role's.
    pub(super) name: String,
    pub(super) user: String,
    pub(super) version: u32,
}

impl Database {
    /// # Errors
    /// `Connection`; `Unsupported` for an old server.
    pub(super) async fn connect(settings: &PostgresSettings) -> Result<Self> {
        let client = connect(settings).await?;
        let version = version(&client).await?;
        if version < VERSION_MIN {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "changes are read from PostgreSQL 14 on; this server is {}",
                    version / 10_000
                ),
            ));
        }
        let row = client
            .query_one(IDENTITY, &[])
            .await
            .map_err(|error| convert(error, "the server does not tell its system identifier"))?;
        let log = Log::new(row.get(0), row.get(1), row.get::<_, i32>(4).unsigned_abs());
        Ok(Self { client, log, name: row.get(2), user: row.get(3), version })
    }

    /// Where the log ends.
    ///
    /// # Errors
    /// `Connection`.
    pub(super) async fn end(&self) -> Result<Lsn> {
        let sql = "SELECT pg_catalog.pg_current_wal_flush_lsn()::text";
        let row = self.client.query_one(sql, &[]).await;
        let row = row.map_err(|error| convert(error, "the end of the log cannot be read"))?;
        Lsn::parse(row.get(0)).ok_or_else(|| Error::unexpected("the server's log has no end"))
    }

    pub(super) fn names(&self, settings: &PostgresSettings, task: &str) -> Names {
        Names::of(settings, task, &self.name)
    }
}

/// Says which tables have to be loaded again.
pub(super) fn load_again(tables: &[TableSchema]) -> String {
    const NAMED: usize = 8;
    let names: Vec<String> = tables.iter().take(NAMED).map(|t| t.name.to_string()).collect();
    let more = tables.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match tables.is_empty() {
        true => "load the task's tables again".to_owned(),
        false => format!("load again: {}{more}", names.join(", ")),
    }
}

/// Schemas and names, as two arrays of a query.
pub(super) fn arrays(tables: &[TableSchema]) -> (Vec<&str>, Vec<&str>) {
    tables.iter().map(|table| (table.name.schema.as_str(), table.name.name.as_str())).unzip()
}

/// The columns of tables that the log carries, with the types they are over.
const COLUMNS: &str = concat!(
    "
WITH RECURSIVE base(schema, name, attname, oid, typmod) AS (
    SELECT w.schema, w.name, a.attname::text, a.atttypid, a.atttypmod
    FROM unnest($1::text[], $2::text[]) w(schema, name)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        AND NOT a.attisdropped AND a.attgenerated = ''
    UNION ALL
    SELECT b.schema, b.name, b.attname, t.typbasetype, t.typtypmod
    FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
SELECT b.schema, b.name, b.attname, ",
    catalog_type!(),
    "
FROM base b
JOIN pg_catalog.pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace"
);

/// Whether something is so of each column, given the name of the type that it is over.
///
/// # Errors
/// `Connection`; `Settings` for a type that values cannot be read as.
pub(super) async fn each_column(
    settings: &PostgresSettings,
    database: &Database,
    tables: &[TableSchema],
    is_so: impl Fn(&str, &Column) -> bool,
) -> Result<bool> {
    let (schemas, names) = arrays(tables);
    let rows = database.client.query(COLUMNS, &[&schemas, &names]).await;
    for row in rows.map_err(|error| convert(error, "the database's catalogs cannot be read"))? {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let (base, declaration): (&str, &str) = (row.get(3), row.get(5));
        let labels: Vec<String> = row.get(6);
        let ty = CatalogType { name: base, modifier: row.get(4), declaration, labels: &labels };
        let mut column = Column::new(row.get::<_, String>(2), logical_type(&ty));
        discover::choose_type(settings, &table, &mut column)?;
        if !is_so(base, &column) {
            return Ok(false);
        }
    }
    Ok(true)
}
