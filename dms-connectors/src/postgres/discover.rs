//! What a database holds, from its catalogs.

use std::collections::BTreeMap;

use dms_core::mapping::Selection;
use dms_core::schema::{
    Catalog, Column, LogicalType, TableKind, TableName, TableSchema, UniqueIndex,
};
use dms_core::{Error, Result};
use tokio_postgres::{Client, Row};

use super::settings::PostgresSettings;
use super::state::CONTROL_TABLES;
use super::types::{CatalogType, catalog_type, logical_type};
use super::{ENGINE, error::convert};

const DOING: &str = "the database's catalogs cannot be read";

/// Tables with their partitions as one, views, materialized views. A partitioned table's rows and
/// bytes are those of its partitions.
const TABLES: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text,
    CASE c.relkind
        WHEN 'p' THEN (SELECT sum(greatest(l.reltuples, 0)) FROM pg_catalog.pg_partition_tree(c.oid) t
            JOIN pg_catalog.pg_class l ON l.oid = t.relid WHERE t.isleaf)::float8
        ELSE c.reltuples::float8 END,
    CASE c.relkind
        WHEN 'p' THEN (SELECT sum(pg_catalog.pg_table_size(t.relid))
            FROM pg_catalog.pg_partition_tree(c.oid) t WHERE t.isleaf)::int8
        WHEN 'v' THEN NULL
        ELSE pg_catalog.pg_table_size(c.oid) END
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
            AND d.deptype = 'e')
ORDER BY 2, 3";

/// A domain has the type that it is over, which is found through any number of domains.
const COLUMNS: &str = concat!(
    "
WITH RECURSIVE base(start, modifier, oid, typmod) AS (
    SELECT DISTINCT a.atttypid, a.atttypmod, a.atttypid, a.atttypmod
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.start, b.modifier, t.typbasetype, t.typtypmod
    FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
SELECT a.attrelid, a.attname::text, a.attnotnull, a.attgenerated::text <> '',
    ",
    catalog_type!(),
    ",
    EXISTS(SELECT FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')),
    a.attnum
FROM pg_catalog.pg_attribute a
JOIN base b ON b.start = a.atttypid AND b.modifier = a.atttypmod
JOIN pg_catalog.pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum"
);

/// Keys and unique indexes over plain columns that hold for every row.
const KEYS: &str = "
SELECT i.indrelid, i.indisprimary, x.relname::text,
    ARRAY(SELECT a.attname::text
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE k.place <= i.indnkeyatts ORDER BY k.place)
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
WHERE i.indrelid = ANY($1) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
    AND i.indexprs IS NULL
ORDER BY i.indrelid, x.relname";

/// The tables of a selection.
///
/// # Errors
/// `Settings` for a column's type that its values cannot be read as.
pub(super) async fn discover(
    client: &Client,
    settings: &PostgresSettings,
    selection: &Selection,
) -> Result<Catalog> {
    let failed = |error| convert(error, DOING);
    let mut tables = BTreeMap::new();
    for row in client.query(TABLES, &[]).await.map_err(failed)? {
        let mut table = table(&row);
        table.id = Some(row.get(0));
        let ours = CONTROL_TABLES.contains(&table.name.name.as_str());
        if !ours && selection.selects(&table.name, table.kind) {
            tables.insert(row.get::<_, u32>(0), table);
        }
    }
    columns(client, settings, &mut tables).await?;
    keys(client, &mut tables).await?;
    let mut tables: Vec<TableSchema> = tables.into_values().collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Catalog { tables })
}

/// Adds the columns of tables, by their object identifiers.
///
/// # Errors
/// As [`discover`].
pub(super) async fn columns(
    client: &Client,
    settings: &PostgresSettings,
    tables: &mut BTreeMap<u32, TableSchema>,
) -> Result<()> {
    let oids: Vec<u32> = tables.keys().copied().collect();
    let rows = client.query(COLUMNS, &[&oids]).await;
    for row in rows.map_err(|error| convert(error, DOING))? {
        if let Some(table) = tables.get_mut(&row.get(0)) {
            let mut column = column(&row);
            choose_type(settings, &table.name, &mut column)?;
            table.last_column = column.id;
            table.columns.push(column);
        }
    }
    Ok(())
}

/// Gives a column the type that the settings say, if any.
///
/// # Errors
/// `Settings` for a type that its values cannot be read as.
pub(super) fn choose_type(
    settings: &PostgresSettings,
    table: &TableName,
    column: &mut Column,
) -> Result<()> {
    if let Some(ty) = settings.column_type(table, &column.name) {
        column.logical_type = chosen(column, ty).map_err(|error| error.context("table", table))?;
    }
    Ok(())
}

/// Adds the keys and unique indexes of tables, by their object identifiers.
///
/// # Errors
/// `Connection`.
pub(super) async fn keys(client: &Client, tables: &mut BTreeMap<u32, TableSchema>) -> Result<()> {
    let oids: Vec<u32> = tables.keys().copied().collect();
    let rows = client.query(KEYS, &[&oids]).await;
    for row in rows.map_err(|error| convert(error, DOING))? {
        let Some(table) = tables.get_mut(&row.get(0)) else { continue };
        let columns: Vec<String> = row.get(3);
        if row.get(1) {
            table.primary_key = columns;
        } else {
            table.unique_indexes.push(UniqueIndex { name: row.get(2), columns });
        }
    }
    Ok(())
}

fn table(row: &Row) -> TableSchema {
    let name = TableName::new(row.get::<_, String>(1), row.get::<_, String>(2));
    let mut table = TableSchema::new(name, Vec::new());
    if matches!(row.get(3), "v" | "m") {
        table.kind = TableKind::View;
    }
    // -1 before the first ANALYZE.
    let rows: Option<f64> = row.get(4);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
    let rows = rows.filter(|rows| *rows >= 0.0).map(|rows| rows as u64);
    table.row_estimate = rows;
    table.byte_estimate = row.get::<_, Option<i64>>(5).and_then(|bytes| bytes.try_into().ok());
    table
}

/// The type that a setting gives a column, if its values can be read as that.
fn chosen(column: &Column, ty: &LogicalType) -> Result<LogicalType> {
    let is_number =
        matches!(column.logical_type, LogicalType::Decimal { .. } | LogicalType::Numeric);
    match ty {
        LogicalType::Text { limit: None } => Ok(ty.clone()),
        LogicalType::Numeric if is_number => Ok(ty.clone()),
        ty => Err(Error::settings(format!(
            "column-types gives a column of {} the type {ty}; it can be text, and a column of \
             numbers numeric; a transformation rule can change it further",
            column.logical_type
        ))
        .context("column", &column.name)),
    }
}

fn column(row: &Row) -> Column {
    let (name, modifier, declaration): (String, i32, String) = (row.get(4), row.get(5), row.get(6));
    let labels: Vec<String> = row.get(7);
    let ty = CatalogType { name: &name, modifier, declaration: &declaration, labels: &labels };
    let mut column = Column::new(row.get::<_, String>(1), logical_type(&ty));
    column.nullable = !row.get::<_, bool>(2);
    column.generated = row.get(3);
    column.auto_increment = row.get(8);
    column.id = u32::try_from(row.get::<_, i16>(9)).ok();
    column.with_native_type(ENGINE, declaration)
}
