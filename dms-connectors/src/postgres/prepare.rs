//! A target's tables: made before the rows, their keys after them.

use dms_core::endpoint::TablePrepMode;
use dms_core::schema::{TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result};
use tokio_postgres::GenericClient;

use super::error::convert;
use super::state::CONTROL_TABLES;
use super::types::declaration;
use crate::sql::{quote, quote_all};

const DOING: &str = "the table cannot be prepared";

fn failed(error: tokio_postgres::Error) -> Error {
    convert(error, DOING)
}

pub(super) fn qualified(table: &TableName) -> String {
    format!("{}.{}", quote(&table.schema), quote(&table.name))
}

/// Makes the table ready for its first row. Returns whether it keeps rows it had.
pub(super) async fn prepare(
    client: &impl GenericClient,
    table: &TableSchema,
    mode: TablePrepMode,
) -> Result<bool> {
    if CONTROL_TABLES.contains(&table.name.name.as_str()) {
        return Err(Error::settings("the name is one of dms's control tables; rename the table"));
    }
    if let Some(long) = std::iter::once(&table.name.name)
        .chain(table.columns.iter().map(|column| &column.name))
        .find(|name| name.len() > NAME_BYTES_MAX)
    {
        return Err(Error::settings(format!(
            "{long:?} is longer than the {NAME_BYTES_MAX} bytes of a name in PostgreSQL, which \
             would cut it; rename it in the table mapping"
        )));
    }
    let name = qualified(&table.name);
    let exists = client.query_one(EXISTS, &[&table.name.schema, &table.name.name]).await;
    let exists: bool = exists.map_err(failed)?.get(0);
    match mode {
        _ if !exists => create(client, table).await?,
        TablePrepMode::DropAndCreate => {
            client.batch_execute(&format!("DROP TABLE {name}")).await.map_err(failed)?;
            create(client, table).await?;
        }
        TablePrepMode::TruncateBeforeLoad => {
            same_shape(client, table).await?;
            client.batch_execute(&format!("TRUNCATE {name}")).await.map_err(failed)?;
        }
        TablePrepMode::DoNothing => {
            same_shape(client, table).await?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// `NAMEDATALEN` less its end.
const NAME_BYTES_MAX: usize = 63;

const EXISTS: &str = "SELECT count(*) > 0 FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";

async fn create(client: &impl GenericClient, table: &TableSchema) -> Result<()> {
    let schema = &table.name.schema;
    let there = "SELECT count(*) > 0 FROM pg_catalog.pg_namespace WHERE nspname = $1";
    let there: bool = client.query_one(there, &[schema]).await.map_err(failed)?.get(0);
    if !there {
        let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", quote(schema));
        client.batch_execute(&sql).await.map_err(failed)?;
    }
    let columns = table.columns.iter().map(|column| {
        let not_null = if column.nullable { "" } else { " NOT NULL" };
        format!("{} {}{not_null}", quote(&column.name), declaration(column))
    });
    let columns: Vec<String> = columns.collect();
    let sql = format!("CREATE TABLE {} ({})", qualified(&table.name), columns.join(", "));
    client.batch_execute(&sql).await.map_err(failed)
}

/// Refuses an existing table that lacks a column, needs more of them, or is of other types.
async fn same_shape(client: &impl GenericClient, table: &TableSchema) -> Result<()> {
    let rows = client
        .query(
            "SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), \
                 a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', \
                 a.attgenerated::text <> '' \
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped",
            &[&table.name.schema, &table.name.name],
        )
        .await
        .map_err(failed)?;
    let refuse = |column: &str, problem: String| {
        Err(Error::schema(format!(
            "{problem}; change the target's table, map the column otherwise, or use \
             DROP_AND_CREATE"
        ))
        .context("column", column))
    };
    for column in &table.columns {
        let Some(row) = rows.iter().find(|row| row.get::<_, &str>(0) == column.name) else {
            let problem = "the table exists on the target without this column";
            return refuse(&column.name, problem.to_owned());
        };
        if row.get(3) {
            let problem = "the column exists on the target and is generated there";
            return refuse(&column.name, problem.to_owned());
        }
        let needed = client
            .query_one(
                "SELECT pg_catalog.format_type(t.oid, NULL) FROM pg_catalog.pg_type t \
                 WHERE t.oid = $1::text::pg_catalog.regtype",
                &[&declaration(column)],
            )
            .await
            .map_err(failed)?;
        let needed: String = needed.get(0);
        let there: String = row.get(1);
        // Lengths and precisions are checked by the server, value by value.
        if there.split('(').next() != needed.split('(').next() && there != declaration(column) {
            let problem = format!("the column exists on the target as {there}, not {needed}");
            return refuse(&column.name, problem);
        }
    }
    let has = |name: &str| table.columns.iter().any(|column| column.name == name);
    match rows.iter().find(|row| row.get(2) && !has(row.get(0))) {
        None => Ok(()),
        Some(row) => refuse(
            row.get(0),
            "the table exists on the target with one more column, which needs a value".to_owned(),
        ),
    }
}

/// Builds the primary key and the unique indexes that are not there.
pub(super) async fn build_keys(client: &impl GenericClient, table: &TableSchema) -> Result<()> {
    let failed = |error: tokio_postgres::Error| convert(error, "a key cannot be built");
    let rows = client
        .query(
            "SELECT i.indisprimary, ARRAY(SELECT a.attname::text \
                 FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place) \
                 JOIN pg_catalog.pg_attribute a \
                     ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
                 WHERE k.place <= i.indnkeyatts ORDER BY k.place) \
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = $2 AND i.indisunique AND i.indisvalid \
                 AND i.indpred IS NULL AND i.indexprs IS NULL",
            &[&table.name.schema, &table.name.name],
        )
        .await
        .map_err(failed)?;
    let has = |columns: &[String]| rows.iter().any(|row| row.get::<_, Vec<String>>(1) == columns);
    let has_primary = rows.iter().any(|row| row.get(0));
    let name = qualified(&table.name);
    let missing = |columns: &[String]| {
        columns.iter().find(|name| table.column_index(name).is_none()).cloned()
    };
    for columns in std::iter::once(&table.primary_key)
        .chain(table.unique_indexes.iter().map(|index| &index.columns))
    {
        if let Some(missing) = missing(columns) {
            return Err(Error::new(ErrorKind::Schema, "a key names a column that is not there")
                .context("column", missing));
        }
    }
    if !table.primary_key.is_empty() && !has_primary && !has(&table.primary_key) {
        let sql = format!("ALTER TABLE {name} ADD PRIMARY KEY ({})", quote_all(&table.primary_key));
        client.batch_execute(&sql).await.map_err(failed)?;
    }
    for index in &table.unique_indexes {
        if !has(&index.columns) {
            let sql = format!("CREATE UNIQUE INDEX ON {name} ({})", quote_all(&index.columns));
            client.batch_execute(&sql).await.map_err(failed)?;
        }
    }
    Ok(())
}
