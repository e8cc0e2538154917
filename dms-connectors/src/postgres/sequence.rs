//! Sequences that number new rows.

use dms_core::Result;
use dms_core::schema::TableName;
use tokio_postgres::GenericClient;

use super::error::convert;
use super::prepare::qualified;
use crate::sql::quote;

/// Sequences of a table's columns, by which serial and identity columns are numbered.
const OWNED: &str = "SELECT a.attname::text, s.oid::pg_catalog.regclass::text, q.seqincrement > 0 \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_catalog.pg_depend d ON d.refobjid = c.oid AND d.deptype IN ('a', 'i') \
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
        AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
    JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
    JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid \
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid \
    WHERE n.nspname = $1 AND c.relname = $2 \
        AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)";

/// Moves them behind what the table holds, so that new rows collide with none that was loaded.
pub(super) async fn advance(client: &impl GenericClient, table: &TableName) -> Result<()> {
    let failed = |error| convert(error, "a sequence cannot be moved behind the rows");
    let owned = client.query(OWNED, &[&table.schema, &table.name]).await.map_err(failed)?;
    for row in owned {
        let (column, sequence): (String, String) = (row.get(0), row.get(1));
        let (last, beyond) = if row.get(2) { ("max", ">") } else { ("min", "<") };
        let sql = format!(
            "SELECT pg_catalog.setval('{}', held.last) \
             FROM (SELECT {last}({})::int8 AS last FROM {}) held, {sequence} s \
             WHERE held.last {beyond} s.last_value OR held.last = s.last_value AND NOT s.is_called",
            sequence.replace('\'', "''"),
            quote(&column),
            qualified(table),
        );
        let moved = client.execute(&sql, &[]).await.map_err(failed);
        moved.map_err(|error| error.context("column", column))?;
    }
    Ok(())
}
