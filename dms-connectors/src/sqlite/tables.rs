//! The tables of a target: making them, and what those are like that are there.

use dms_core::schema::{TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result};
use rusqlite::Connection;

use super::encode::Encoder;
use super::error::convert;
use super::state::is_control;
use super::{ENGINE, types};
use crate::sql::{quote, quote_all};

/// Refuses a name that a table cannot have here.
pub(super) fn check_name(name: &TableName) -> Result<()> {
    if name.schema != types::SCHEMA {
        return Err(Error::settings(format!(
            "a SQLite file has the one schema {}; rename schema {} to it in the table mapping",
            types::SCHEMA,
            name.schema
        )));
    }
    if is_control(&name.name) {
        return Err(Error::settings("the name is one of dms's control tables; rename the table"));
    }
    if name.name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_")) {
        return Err(Error::settings("SQLite keeps names with sqlite_ to itself; rename the table"));
    }
    Ok(())
}

/// The table with its primary key; unique indexes come after the rows.
pub(super) fn create(table: &TableSchema) -> Result<String> {
    let mut parts = Vec::new();
    for column in &table.columns {
        Encoder::new(column)?;
        let not_null = if column.nullable { "" } else { " NOT NULL" };
        parts.push(format!("{} {}{not_null}", quote(&column.name), types::declaration(column)));
    }
    if parts.is_empty() {
        return Err(Error::new(ErrorKind::Unsupported, "SQLite has no tables without columns"));
    }
    if !table.primary_key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", quote_all(&table.primary_key)));
    }
    let native = table.native_options.as_ref().filter(|options| options.engine == ENGINE);
    let strict_types = table.columns.iter().all(|column| {
        let declaration = types::declaration(column).to_ascii_uppercase();
        ["INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY"].contains(&declaration.as_str())
    });
    let options = native.map(|options| options.declaration.as_str()).unwrap_or_default();
    let options: Vec<&str> = options
        .split(", ")
        .filter(|option| match *option {
            "STRICT" => strict_types,
            "WITHOUT ROWID" => !table.primary_key.is_empty(),
            _ => false,
        })
        .collect();
    Ok(format!(
        "CREATE TABLE main.{} ({}) {}",
        quote(&table.name.name),
        parts.join(", "),
        options.join(", ")
    ))
}

/// A column of a table that is on the target.
pub(super) struct Existing {
    pub(super) name: String,
    pub(super) declaration: String,
    /// Whether it needs a value and nothing gives it one.
    required: bool,
    pub(super) generated: bool,
}

pub(super) fn existing_columns(connection: &Connection, table: &str) -> Result<Vec<Existing>> {
    let failed = |error| convert(error, "the existing table cannot be examined");
    let mut statement = connection
        .prepare_cached(
            "SELECT name, type, \"notnull\" AND dflt_value IS NULL AND pk = 0, hidden IN (2, 3) \
             FROM pragma_table_xinfo(?1, 'main')",
        )
        .map_err(failed)?;
    statement
        .query_map([table], |row| {
            Ok(Existing {
                name: row.get(0)?,
                declaration: row.get(1)?,
                required: row.get(2)?,
                generated: row.get(3)?,
            })
        })
        .map_err(failed)?
        .collect::<rusqlite::Result<_>>()
        .map_err(failed)
}

/// Refuses an existing table that lacks a column, needs more of them, or would change values.
pub(super) fn same_shape(connection: &Connection, table: &TableSchema) -> Result<()> {
    let existing = existing_columns(connection, &table.name.name)?;
    let is = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
    let refuse = |column: &str, problem: String| {
        Err(Error::schema(format!(
            "{problem}; change the target's table, map the column otherwise, or use \
             DROP_AND_CREATE"
        ))
        .context("column", column))
    };
    for column in &table.columns {
        let Some(found) = existing.iter().find(|found| is(&found.name, &column.name)) else {
            return refuse(
                &column.name,
                "the table exists on the target without this column".to_owned(),
            );
        };
        if found.generated && !column.generated {
            return refuse(
                &column.name,
                "the column exists on the target and is generated there".to_owned(),
            );
        }
        let affinity = types::affinity(&found.declaration);
        if !found.generated && !types::storage(column).is_kept_by(affinity) {
            let (there, needed) = (&found.declaration, types::declaration(column));
            return refuse(
                &column.name,
                format!(
                    "the column exists on the target as {there:?}, in which SQLite would change \
                     values of {needed:?}"
                ),
            );
        }
    }
    let has = |name: &str| table.columns.iter().any(|column| is(&column.name, name));
    match existing.iter().find(|found| found.required && !has(&found.name)) {
        None => Ok(()),
        Some(found) => refuse(
            &found.name,
            "the table exists on the target with one more column, which needs a value".to_owned(),
        ),
    }
}

/// Builds the unique indexes of a table that are not there.
pub(super) fn add_unique_indexes(connection: &Connection, table: &TableSchema) -> Result<()> {
    let failed = |error| convert(error, "the table's unique indexes cannot be built");
    for index in &table.unique_indexes {
        // Only SQLite may name automatic indexes, and a name serves one index of the whole file.
        let given = format!("{}_{}_key", table.name.name, index.columns.join("_"));
        let taken: bool = connection
            .query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE \
                 AND NOT (type = 'index' AND tbl_name = ?2 COLLATE NOCASE)",
                [&index.name, &table.name.name],
                |row| row.get(0),
            )
            .map_err(failed)?;
        let automatic = index.name.starts_with("sqlite_autoindex");
        let name = if automatic || taken { &given } else { &index.name };
        connection
            .execute_batch(&format!(
                "CREATE UNIQUE INDEX IF NOT EXISTS main.{} ON {} ({})",
                quote(name),
                quote(&table.name.name),
                quote_all(&index.columns)
            ))
            .map_err(|error| {
                convert(error, "a unique index cannot be built").context("index", name)
            })?;
    }
    Ok(())
}
