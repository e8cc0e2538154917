//! What a SQLite file holds.

use dms_core::mapping::Selection;
use dms_core::schema::{
    Catalog, Column, NativeType, TableKind, TableName, TableSchema, UniqueIndex,
};
use dms_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension};

use super::ENGINE;
use super::cursor::{Cell, Cursor};
use super::error::convert;
use super::histogram::histogram;
use super::partition::{STRETCHES_MIN, column as qualified, split_column};
use super::settings::SqliteSettings;
use super::state::is_control;
use super::types::{self, SCHEMA};
use crate::sql::quote;

/// How many rows are looked at to estimate a row's size.
const SAMPLE_ROWS: usize = 64;

/// The selected tables, with estimates that cost a few page reads each.
pub(super) fn discover(
    connection: &Connection,
    settings: &SqliteSettings,
    selection: &Selection,
) -> Result<Catalog> {
    let failed = |error| convert(error, "the schema cannot be read");
    let mut statement = connection
        .prepare(
            "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' \
             AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND type <> 'shadow' ORDER BY name",
        )
        .map_err(failed)?;
    let rows = statement.query_map([], Listed::of).map_err(failed)?;
    let mut catalog = Catalog::default();
    for listed in rows {
        let listed = listed.map_err(failed)?;
        let kind = if listed.kind == "view" { TableKind::View } else { TableKind::Table };
        if is_control(&listed.name.name) || !selection.selects(&listed.name, kind) {
            continue;
        }
        if listed.kind == "virtual" {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "virtual tables are not read; exclude the table from the selection",
            )
            .context("table", &listed.name));
        }
        let table = table(connection, settings, &listed, kind)
            .map_err(|error| error.context("table", &listed.name))?;
        catalog.tables.push(table);
    }
    Ok(catalog)
}

struct Listed {
    name: TableName,
    kind: String,
    without_rowid: bool,
    strict: bool,
}

impl Listed {
    fn of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            name: TableName::new(SCHEMA, row.get::<_, String>(0)?),
            kind: row.get(1)?,
            without_rowid: row.get(2)?,
            strict: row.get(3)?,
        })
    }
}

/// The shape of one table or view as it is now, without estimates; `None` if it is not there.
pub(super) fn shape(
    connection: &Connection,
    settings: &SqliteSettings,
    name: &str,
) -> Result<Option<TableSchema>> {
    let listed = connection
        .query_row(
            "SELECT name, type, wr, strict FROM pragma_table_list \
             WHERE schema = 'main' AND name = ?1",
            [name],
            Listed::of,
        )
        .optional()
        .map_err(|error| convert(error, "the schema cannot be read"))?;
    let Some(listed) = listed else { return Ok(None) };
    let kind = if listed.kind == "view" { TableKind::View } else { TableKind::Table };
    described(connection, settings, &listed, kind).map(Some)
}

fn table(
    connection: &Connection,
    settings: &SqliteSettings,
    listed: &Listed,
    kind: TableKind,
) -> Result<TableSchema> {
    let mut table = described(connection, settings, listed, kind)?;
    if kind == TableKind::Table {
        // However wrong an estimate is, no table is larger than its file.
        let file_bytes = file_bytes(connection)?;
        table.row_estimate = row_estimate(connection, &table)?.map(|rows| rows.min(file_bytes));
        let row_bytes = row_bytes(connection, &table)?;
        let bytes = table.row_estimate.map(|rows| rows.saturating_mul(row_bytes).min(file_bytes));
        table.byte_estimate = bytes;
    }
    Ok(table)
}

/// Columns and keys.
fn described(
    connection: &Connection,
    settings: &SqliteSettings,
    listed: &Listed,
    kind: TableKind,
) -> Result<TableSchema> {
    let failed = |error| convert(error, "the table's columns cannot be read");
    let mut statement = connection
        .prepare("SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?1, 'main')")
        .map_err(failed)?;
    let described = statement
        .query_map([&listed.name.name], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, bool>(2)?,
                row.get::<_, u32>(3)?,
                row.get::<_, u8>(4)?,
            ))
        })
        .map_err(failed)?
        .collect::<rusqlite::Result<Vec<_>>>()
        .map_err(failed)?;
    let key_columns = described.iter().filter(|column| column.3 > 0).count();
    let mut key: Vec<(u32, String)> = Vec::new();
    let mut columns = Vec::with_capacity(described.len());
    for (name, declaration, not_null, pk, hidden) in described {
        let given = settings.column_type(&listed.name, &name).cloned();
        let ty = given.unwrap_or_else(|| types::logical_type(&declaration));
        let mut column = Column::new(&name, ty).with_native_type(ENGINE, declaration);
        // Other key columns may hold NULL, which SQLite keeps for compatibility with its past.
        let rowid_alias = pk > 0 && key_columns == 1 && is_integer(&column);
        column.nullable = !(not_null || pk > 0 && (listed.without_rowid || rowid_alias));
        column.auto_increment = rowid_alias && !listed.without_rowid;
        column.generated = hidden == 2 || hidden == 3;
        columns.push(column);
        if pk > 0 {
            key.push((pk, name));
        }
    }
    key.sort();
    let mut table = TableSchema::new(listed.name.clone(), columns)
        .with_primary_key(key.into_iter().map(|(_, name)| name));
    table.kind = kind;
    if kind == TableKind::Table {
        table.unique_indexes = unique_indexes(connection, &listed.name.name)?;
        let options: Vec<&str> =
            [(listed.without_rowid, "WITHOUT ROWID"), (listed.strict, "STRICT")]
                .iter()
                .filter_map(|(set, option)| set.then_some(*option))
                .collect();
        if !options.is_empty() {
            let declaration = options.join(", ");
            table.native_options = Some(NativeType { engine: ENGINE.to_owned(), declaration });
        }
    }
    Ok(table)
}

fn is_integer(column: &Column) -> bool {
    column.native_in(ENGINE).is_some_and(|native| native.eq_ignore_ascii_case("INTEGER"))
}

/// Unique indexes over plain columns and all rows.
fn unique_indexes(connection: &Connection, table: &str) -> Result<Vec<UniqueIndex>> {
    let failed = |error| convert(error, "the table's indexes cannot be read");
    let mut statement = connection
        .prepare(
            "SELECT name FROM pragma_index_list(?1, 'main') \
             WHERE \"unique\" AND NOT partial AND origin <> 'pk' ORDER BY name",
        )
        .map_err(failed)?;
    let names: Vec<String> = statement
        .query_map([table], |row| row.get(0))
        .map_err(failed)?
        .collect::<rusqlite::Result<_>>()
        .map_err(failed)?;
    let mut indexes = Vec::new();
    for name in names {
        let mut statement = connection
            .prepare("SELECT name FROM pragma_index_info(?1, 'main') ORDER BY seqno")
            .map_err(failed)?;
        let columns: Vec<Option<String>> = statement
            .query_map([&name], |row| row.get(0))
            .map_err(failed)?
            .collect::<rusqlite::Result<_>>()
            .map_err(failed)?;
        // An expression has no name.
        if let Some(columns) = columns.into_iter().collect() {
            indexes.push(UniqueIndex { name, columns });
        }
    }
    Ok(indexes)
}

/// The name by which a table's rowid can be read, unless columns hide it.
pub(super) fn rowid_name(table: &TableSchema) -> Option<&'static str> {
    let without = table
        .native_options
        .as_ref()
        .is_some_and(|options| options.declaration.contains("WITHOUT ROWID"));
    if without || table.kind == TableKind::View {
        return None;
    }
    let hidden = |name: &str| table.columns.iter().any(|c| c.name.eq_ignore_ascii_case(name));
    ["rowid", "_rowid_", "oid"].into_iter().find(|name| !hidden(name))
}

fn row_estimate(connection: &Connection, table: &TableSchema) -> Result<Option<u64>> {
    let failed = |error| convert(error, "the table's size cannot be estimated");
    let analyzed = connection
        .query_row(
            "SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1' AND type = 'table'",
            [],
            |_| Ok(()),
        )
        .optional()
        .map_err(failed)?;
    if analyzed.is_some() {
        let stat: Option<String> = connection
            .query_row(
                "SELECT stat FROM sqlite_stat1 WHERE tbl = ?1 AND stat IS NOT NULL LIMIT 1",
                [&table.name.name],
                |row| row.get(0),
            )
            .optional()
            .map_err(failed)?;
        let rows = stat.as_deref().and_then(|stat| stat.split(' ').next()?.parse().ok());
        if rows.is_some() {
            return Ok(rows);
        }
    }
    let Some(column) = split_column(table) else { return Ok(None) };
    let name = format!("main.{}", quote(&table.name.name));
    let stretches = histogram(connection, &name, &quote(&column), STRETCHES_MIN)?;
    let rows = stretches.iter().fold(0u64, |sum, stretch| sum.saturating_add(stretch.rows));
    Ok(Some(rows))
}

fn file_bytes(connection: &Connection) -> Result<u64> {
    connection
        .query_row(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
            [],
            |row| row.get::<_, i64>(0),
        )
        .map(i64::unsigned_abs)
        .map_err(|error| convert(error, "the file's size cannot be read"))
}

/// The average size of the first rows, in bytes; at least 1.
fn row_bytes(connection: &Connection, table: &TableSchema) -> Result<u64> {
    let failed = |error| convert(error, "the table's size cannot be estimated");
    // The length of a value is in the row's header: large values are not read for it.
    let lengths = table.columns.iter().filter(|column| !column.generated);
    let lengths: Vec<String> =
        lengths.map(|column| format!("octet_length({})", qualified(&column.name))).collect();
    let sql = format!(
        "SELECT {} FROM main.{} AS t LIMIT {SAMPLE_ROWS}",
        if lengths.is_empty() { "1".to_owned() } else { lengths.join(", ") },
        quote(&table.name.name)
    );
    let mut cursor = Cursor::prepare(connection, &sql).map_err(failed)?;
    let (mut rows, mut bytes) = (0u64, 0u64);
    while cursor.step().map_err(failed)? {
        rows += 1;
        for column in 0..cursor.columns() {
            if let Cell::Integer(length) = cursor.value(column) {
                bytes = bytes.saturating_add(length.unsigned_abs() + 2);
            }
        }
    }
    Ok((bytes / rows.max(1)).max(1))
}
