//! Steps that change the shape of tables.

use dms_core::endpoint::Alteration;
use dms_core::schema::{Column, LogicalType, TableSchema};
use dms_core::value::Value;
use dms_core::{Error, ErrorKind, Result, ResultExt};
use rusqlite::Connection;

use crate::sql::{quote, quote_all};
use crate::sqlite::bind::{self, Parameter, find};
use crate::sqlite::encode::Encoder;
use crate::sqlite::error::convert;
use crate::sqlite::tables::{self, add_unique_indexes, existing_columns};
use crate::sqlite::types::{self, Storage};

/// The name of a table that is built to take the place of another.
const REBUILT: &str = "dms_changes_0";

/// Makes a table with its keys.
pub(super) fn create(connection: &Connection, table: &TableSchema) -> Result<()> {
    tables::check_name(&table.name)?;
    let sql = tables::create(table)?;
    let created = connection.execute_batch(&sql);
    created.map_err(|error| convert(error, "the table cannot be created"))?;
    add_unique_indexes(connection, table)
}

/// Changes the shape of a table.
pub(super) fn alter(
    connection: &Connection,
    from: &TableSchema,
    to: &TableSchema,
    alterations: &[Alteration],
) -> Result<()> {
    let mut now = from.clone();
    if from.name != to.name {
        return Err(Error::new(ErrorKind::Unsupported, "a table keeps its name on the target"));
    }
    for alteration in alterations {
        match alteration {
            Alteration::AddColumn { column, value } => {
                add(connection, &now, column, value.as_ref()).context("column", &column.name)?;
                now.columns.push(column.clone());
            }
            Alteration::DropColumn { column } => {
                drop_column(connection, &now, column).context("column", column)?;
                now.columns.retain(|there| there.name != *column);
                now.unique_indexes.retain(|index| !index.columns.contains(column));
            }
            Alteration::RenameColumn { from, to } => {
                rename(connection, &mut now, from, to).context("column", from)?;
            }
            Alteration::ChangeType { column } => {
                change_type(connection, &mut now, column).context("column", &column.name)?;
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this change of a table's shape is not known here; load the table again",
                ));
            }
        }
    }
    // Indexes that came with the columns.
    add_unique_indexes(connection, to)
}

fn add(
    connection: &Connection,
    table: &TableSchema,
    column: &Column,
    value: Option<&Value>,
) -> Result<()> {
    let failed = |error| convert(error, "the column cannot be added");
    let name = quote(&table.name.name);
    Encoder::new(column)?;
    let value = value.filter(|value| **value != Value::Null);
    // SQLite takes NOT NULL with a default only; what the rows that are there get is a value for
    // them, not for rows to come.
    let sql = format!(
        "ALTER TABLE main.{name} ADD COLUMN {} {}",
        quote(&column.name),
        types::declaration(column)
    );
    connection.execute_batch(&sql).map_err(failed)?;
    let Some(value) = value else { return Ok(()) };
    let existing = existing_columns(connection, &table.name.name)?;
    let parameter = Parameter::new(0, column, find(&existing, &column.name))?;
    let array = value.to_array(&column.logical_type)?;
    let schema = TableSchema::new(table.name.clone(), vec![column.clone()]).arrow_schema();
    let batch = arrow::array::RecordBatch::try_new(schema, vec![array])?;
    let sql = format!("UPDATE main.{name} SET {} = ?1", quote(&column.name));
    let mut statement = connection.prepare(&sql).map_err(failed)?;
    bind::execute(&mut statement, &[parameter], &batch, 0, &mut String::new()).map(|_| ())
}

fn drop_column(connection: &Connection, table: &TableSchema, column: &str) -> Result<()> {
    let failed = |error| convert(error, "the column cannot be dropped");
    // Indexes of ours that have the column go with it.
    let mut statement = connection
        .prepare(
            "SELECT l.name FROM pragma_index_list(?1, 'main') AS l, \
             pragma_index_info(l.name, 'main') AS i \
             WHERE l.origin = 'c' AND i.name = ?2 COLLATE NOCASE",
        )
        .map_err(failed)?;
    let indexes = statement
        .query_map([&table.name.name, column], |row| row.get(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>)
        .map_err(failed)?;
    for index in indexes {
        let sql = format!("DROP INDEX IF EXISTS main.{}", quote(&index));
        connection.execute_batch(&sql).map_err(failed)?;
    }
    let sql = format!("ALTER TABLE main.{} DROP COLUMN {}", quote(&table.name.name), quote(column));
    connection.execute_batch(&sql).map_err(failed)
}

fn rename(connection: &Connection, table: &mut TableSchema, from: &str, to: &str) -> Result<()> {
    let sql = format!(
        "ALTER TABLE main.{} RENAME COLUMN {} TO {}",
        quote(&table.name.name),
        quote(from),
        quote(to)
    );
    let renamed = connection.execute_batch(&sql);
    renamed.map_err(|error| convert(error, "the column cannot be renamed"))?;
    let columns = table.columns.iter_mut().map(|column| &mut column.name);
    let keys = table.primary_key.iter_mut();
    let indexes = table.unique_indexes.iter_mut().flat_map(|index| index.columns.iter_mut());
    for name in columns.chain(keys).chain(indexes).filter(|name| *name == from) {
        to.clone_into(name);
    }
    Ok(())
}

fn change_type(connection: &Connection, table: &mut TableSchema, column: &Column) -> Result<()> {
    let place = table.column_index(&column.name);
    let Some(old) = place.and_then(|place| table.columns.get_mut(place)) else {
        return Err(Error::schema("the column is not there"));
    };
    let before = std::mem::replace(old, column.clone());
    let same = types::declaration(&before) == types::declaration(column);
    if same && before.nullable == column.nullable {
        return Ok(());
    }
    if !same && !are_stored_alike(&before, column) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "values of type {} are stored in another form than those of type {}; load the \
                 table again",
                before.logical_type, column.logical_type
            ),
        ));
    }
    rebuild(connection, table)
}

/// Whether every stored value of a column is what the other column stores for it.
fn are_stored_alike(from: &Column, to: &Column) -> bool {
    let text = |column: &Column| {
        matches!(
            column.logical_type,
            LogicalType::Text { .. }
                | LogicalType::Char { .. }
                | LogicalType::Clob
                | LogicalType::Enum { .. }
                | LogicalType::Set { .. }
        )
    };
    let boolean = |column: &Column| column.logical_type == LogicalType::Boolean;
    match (types::storage(from), types::storage(to)) {
        (Storage::Integer, Storage::Integer) => boolean(from) == boolean(to),
        (Storage::Integer, Storage::Number) => !boolean(from),
        (Storage::Number, Storage::Number) => true,
        (Storage::Blob, Storage::Blob) => true,
        // One of REAL affinity has no negative zeros, one of BLOB affinity takes all of its values.
        (Storage::Real, Storage::Real) => {
            let affinity = |column: &Column| types::affinity(&types::declaration(column));
            affinity(from) == affinity(to)
        }
        (Storage::Text, Storage::Text) => text(from) && text(to),
        (Storage::Spelled, Storage::Spelled) => from.logical_type == to.logical_type,
        _ => false,
    }
}

/// Builds a table anew with other declarations, as SQLite cannot change them
/// (<https://sqlite.org/lang_altertable.html> §7).
fn rebuild(connection: &Connection, table: &TableSchema) -> Result<()> {
    let failed = |error| convert(error, "the table cannot be built anew");
    let name = &table.name.name;
    let existing = existing_columns(connection, name)?;
    let more = existing.iter().find(|found| {
        !table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(&found.name))
    });
    if let Some(more) = more {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the table has column {:?} besides those of its source, which building it anew \
                 would drop; change the column's type on the target by hand",
                more.name
            ),
        ));
    }
    let mut kept = connection
        .prepare(
            "SELECT sql FROM main.sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE \
             AND type IN ('index', 'trigger') AND sql IS NOT NULL",
        )
        .map_err(failed)?;
    let kept = kept
        .query_map([name], |row| row.get(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>)
        .map_err(failed)?;
    let mut new = table.clone();
    REBUILT.clone_into(&mut new.name.name);
    connection.execute_batch(&tables::create(&new)?).map_err(failed)?;
    let columns =
        table.columns.iter().filter(|c| !find(&existing, &c.name).is_some_and(|e| e.generated));
    let columns = quote_all(columns.map(|column| &column.name));
    let copy = format!(
        "INSERT INTO main.{REBUILT} ({columns}) SELECT {columns} FROM main.{}",
        quote(name)
    );
    connection.execute_batch(&copy).map_err(failed)?;
    // Views of the table lose sight of it for a moment, which a rename would not suffer otherwise.
    let swap = format!(
        "DROP TABLE main.{0}; PRAGMA legacy_alter_table = ON; \
         ALTER TABLE main.{REBUILT} RENAME TO {0}; PRAGMA legacy_alter_table = OFF",
        quote(name)
    );
    connection.execute_batch(&swap).map_err(failed)?;
    kept.iter().try_for_each(|sql| connection.execute_batch(sql)).map_err(failed)?;
    add_unique_indexes(connection, table)
}
