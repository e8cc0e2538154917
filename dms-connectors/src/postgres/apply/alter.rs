//! Steps on tables: made, changed, emptied, dropped.

use std::sync::Arc;

use arrow::array::Array;
use dms_core::endpoint::Alteration;
use dms_core::schema::{Column, TableName, TableSchema};
use dms_core::value::Value;
use dms_core::{Error, ErrorKind, Result};
use tokio_postgres::Client;

use super::arrays;
use crate::postgres::error::convert;
use crate::postgres::prepare::{
    build_keys, check_names, create as create_table, create_type, exists, qualified,
};
use crate::postgres::state::CONTROL_TABLES;
use crate::postgres::types::{declaration, is_parsed_by_server};
use crate::sql::quote;

/// Makes a table that is not there, with its keys.
pub(super) async fn create(client: &Client, table: &TableSchema) -> Result<()> {
    check_names(table)?;
    if exists(client, &table.name).await? {
        return Err(Error::new(
            ErrorKind::Constraint,
            "the table is to be made and is there already; drop or rename it on the target",
        ));
    }
    create_table(client, table, false).await?;
    build_keys(client, table).await
}

pub(super) async fn drop_table(client: &Client, table: &TableName) -> Result<()> {
    not_ours(table)?;
    let sql = format!("DROP TABLE IF EXISTS {}", qualified(table));
    client.batch_execute(&sql).await.map_err(|error| convert(error, "the table cannot be dropped"))
}

/// Empties tables in one statement, so that foreign keys between them are no obstacle.
pub(super) async fn truncate(client: &Client, tables: &[TableName]) -> Result<()> {
    let Some((first, _)) = tables.split_first() else { return Ok(()) };
    tables.iter().try_for_each(not_ours)?;
    let names: Vec<String> = tables.iter().map(qualified).collect();
    let done = client.batch_execute(&format!("TRUNCATE {}", names.join(", "))).await;
    done.map_err(|error| {
        let error = match error.as_db_error() {
            Some(refused) if refused.code().code() == "0A000" => Error::new(
                ErrorKind::Constraint,
                format!(
                    "tables cannot be emptied: {}; drop the foreign key on the target",
                    refused.message()
                ),
            )
            .with_source(error),
            _ => convert(error, "tables cannot be emptied"),
        };
        error.context("table", first)
    })
}

fn not_ours(table: &TableName) -> Result<()> {
    if CONTROL_TABLES.contains(&table.name.as_str()) {
        return Err(Error::settings("the name is one of dms's control tables; rename the table"));
    }
    Ok(())
}

/// Changes the shape of a table.
pub(super) async fn alter(
    client: &Client,
    from: &TableSchema,
    to: &TableSchema,
    alterations: &[Alteration],
) -> Result<()> {
    check_names(to)?;
    let table = qualified(&from.name);
    // The columns as they are by now.
    let mut columns: Vec<Column> = from.columns.clone();
    for alteration in alterations {
        let altered = match alteration {
            Alteration::AddColumn { column, value } => {
                columns.push(column.clone());
                add(client, &table, column, value.as_ref()).await
            }
            Alteration::DropColumn { column } => {
                columns.retain(|held| held.name != *column);
                execute(client, &format!("ALTER TABLE {table} DROP COLUMN {}", quote(column))).await
            }
            Alteration::RenameColumn { from, to } => {
                for held in columns.iter_mut().filter(|held| held.name == *from) {
                    held.name.clone_from(to);
                }
                let (from, to) = (quote(from), quote(to));
                execute(client, &format!("ALTER TABLE {table} RENAME COLUMN {from} TO {to}")).await
            }
            Alteration::ChangeType { column } => {
                let held = columns.iter_mut().find(|held| held.name == column.name);
                let was_nullable = held.as_ref().is_none_or(|held| held.nullable);
                if let Some(held) = held {
                    held.clone_from(column);
                }
                change_type(client, &table, column, was_nullable).await
            }
            other => Err(Error::new(
                ErrorKind::Unsupported,
                format!("PostgreSQL's connector does not know the alteration {other:?}"),
            )),
        };
        altered.map_err(|error| error.context("column", name_of(alteration)))?;
    }
    if from.primary_key != to.primary_key || from.unique_indexes != to.unique_indexes {
        build_keys(client, to).await?;
    }
    Ok(())
}

fn name_of(alteration: &Alteration) -> &str {
    match alteration {
        Alteration::AddColumn { column, .. } | Alteration::ChangeType { column } => &column.name,
        Alteration::DropColumn { column } => column,
        Alteration::RenameColumn { from, .. } => from,
        _ => "",
    }
}

async fn execute(client: &Client, sql: &str) -> Result<()> {
    let done = client.batch_execute(sql).await;
    done.map_err(|error| convert(error, "the table cannot be altered"))
}

/// Adds a column. As a default that goes again, the value of the rows that are there costs no
/// rewrite of the table.
async fn add(client: &Client, table: &str, column: &Column, value: Option<&Value>) -> Result<()> {
    create_type(client, column).await?;
    let (name, declared) = (quote(&column.name), declaration(column));
    let required = if column.nullable { "" } else { " NOT NULL" };
    let value = match value {
        None | Some(Value::Null) => None,
        Some(value) => Some(literal(client, column, value).await?),
    };
    let Some(value) = value else {
        let sql = format!("ALTER TABLE {table} ADD COLUMN {name} {declared}{required}");
        return execute(client, &sql).await;
    };
    let sql = format!(
        "ALTER TABLE {table} ADD COLUMN {name} {declared} DEFAULT {value}::{declared}{required}; \
         ALTER TABLE {table} ALTER COLUMN {name} DROP DEFAULT"
    );
    execute(client, &sql).await
}

/// A value as a quoted literal, in the form that the server itself gives it.
async fn literal(client: &Client, column: &Column, value: &Value) -> Result<String> {
    let failed = |error| convert(error, "the value of the rows that are there cannot be given");
    let array = value.to_array(&column.logical_type)?;
    let (element, name): (u32, String) = if is_parsed_by_server(column) {
        (25, "pg_catalog.text[]".to_owned())
    } else {
        let sql = "SELECT t.oid, pg_catalog.format('%I.%I', n.nspname, l.typname) \
            FROM pg_catalog.pg_type t JOIN pg_catalog.pg_type l ON l.oid = t.typarray \
            JOIN pg_catalog.pg_namespace n ON n.oid = l.typnamespace \
            WHERE t.oid = pg_catalog.to_regtype($1)";
        let row = client.query_one(sql, &[&declaration(column)]).await.map_err(failed)?;
        (row.get(0), row.get(1))
    };
    let parameter = arrays::encode(column, Arc::as_ref(&array) as &dyn Array, element)?;
    let sql = format!("SELECT pg_catalog.format('%L', v) FROM unnest($1::{name}) v");
    let statement = client.prepare(&sql).await.map_err(failed)?;
    let row = client.query_one(&statement, &[&parameter]).await.map_err(failed)?;
    Ok(row.get(0))
}

async fn change_type(
    client: &Client,
    table: &str,
    column: &Column,
    was_nullable: bool,
) -> Result<()> {
    create_type(client, column).await?;
    let (name, declared) = (quote(&column.name), declaration(column));
    let mut sql =
        format!("ALTER TABLE {table} ALTER COLUMN {name} TYPE {declared} USING {name}::{declared}");
    match (was_nullable, column.nullable) {
        (false, true) => sql.push_str(&format!(", ALTER COLUMN {name} DROP NOT NULL")),
        (true, false) => sql.push_str(&format!(", ALTER COLUMN {name} SET NOT NULL")),
        _ => {}
    }
    execute(client, &sql).await
}
