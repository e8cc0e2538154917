//! Whether a table still is what was planned and what the snapshot saw.
//!
//! A snapshot holds rows, not tables: under it, a table that was truncated or rewritten since is
//! empty, `VACUUM FULL` moves rows to other pages, and a name may mean another table. None of that
//! is an error to the server. A lock that forbids it would stop the application for the whole load,
//! so that readers look instead.

use std::collections::BTreeMap;

use dms_core::schema::{Column, TableName, TableSchema};
use dms_core::{Error, Result};
use tokio_postgres::Client;

use super::settings::PostgresSettings;
use super::{ENGINE, discover, error::convert};

/// In the snapshot, catalogs are as they were; the functions answer for this moment. All that the
/// relation reads: its partitions (of which one may be half detached, since version 14) and heirs,
/// and the tables below a view.
const CHANGES: &str = "
WITH RECURSIVE read(oid) AS (
    SELECT c.oid FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2
    UNION
    SELECT below.oid FROM read CROSS JOIN LATERAL (
        SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = read.oid
            AND to_jsonb(i) @> '{\"inhdetachpending\": true}' IS NOT TRUE
        UNION ALL
        SELECT d.refobjid FROM pg_catalog.pg_rewrite r
        JOIN pg_catalog.pg_depend d ON d.objid = r.oid
            AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        WHERE r.ev_class = read.oid AND r.rulename = '_RETURN' AND d.refobjid <> r.ev_class
    ) below(oid))
SELECT c.oid, n.nspname = $1 AND c.relname = $2,
    pg_catalog.pg_relation_filenode(c.oid) IS DISTINCT FROM nullif(c.relfilenode, 0),
    c.relkind = 'p' AND
        (SELECT array_agg(t.relid::oid ORDER BY t.relid::oid)
            FROM pg_catalog.pg_partition_tree(c.oid) t WHERE t.parentrelid = c.oid)
        IS DISTINCT FROM (SELECT array_agg(i.inhrelid ORDER BY i.inhrelid)
            FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid
                AND to_jsonb(i) @> '{\"inhdetachpending\": true}' IS NOT TRUE),
    (SELECT a.attname::text FROM pg_catalog.pg_attribute a
        CROSS JOIN pg_catalog.pg_identify_object_as_address(
            'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, a.attnum) now
        WHERE a.attrelid = c.oid AND a.attname::text = ANY($3)
            AND now.object_names IS DISTINCT FROM
                ARRAY[n.nspname::text, c.relname::text, a.attname::text] LIMIT 1)
FROM read JOIN pg_catalog.pg_class c ON c.oid = read.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY 2 DESC";

const AGAIN: &str = "run the task again, which loads the table anew";

/// Refuses a relation that was changed since its columns were planned. Called in a transaction of
/// the snapshot that has locked it.
///
/// # Errors
/// `Schema` naming the column where one was changed.
pub(super) async fn check(
    client: &Client,
    settings: &PostgresSettings,
    relation: &TableName,
    planned: &TableSchema,
) -> Result<()> {
    let failed = |error| convert(error, "the database's catalogs cannot be read");
    let names: Vec<&str> = planned.columns.iter().map(|column| column.name.as_str()).collect();
    let rows = client.query(CHANGES, &[&relation.schema, &relation.name, &names]).await;
    let rows = rows.map_err(failed)?;
    let Some(first) = rows.first() else {
        // Nothing of this name was there.
        return Err(Error::schema(format!("the table was dropped or renamed meanwhile; {AGAIN}")));
    };
    if let Some(column) = first.get::<_, Option<String>>(4) {
        return Err(changed_column(&column));
    }
    if rows.iter().any(|row| row.get(2) || row.get(3)) {
        return Err(Error::schema(format!(
            "the table was rewritten while it was loaded, by ALTER TABLE, TRUNCATE, VACUUM FULL or \
             CLUSTER, or its partitions changed; {AGAIN}"
        )));
    }
    let mut seen = TableSchema::new(planned.name.clone(), Vec::new());
    let oid: u32 = first.get(0);
    let mut tables = BTreeMap::from([(oid, seen)]);
    discover::columns(client, settings, &mut tables).await?;
    seen = tables.remove(&oid).unwrap_or_else(|| planned.clone());
    for column in &planned.columns {
        if !seen.columns.iter().any(|seen| is_alike(seen, column)) {
            return Err(changed_column(&column.name));
        }
    }
    Ok(())
}

/// Whether values of a column can be read as those of a planned one.
fn is_alike(seen: &Column, planned: &Column) -> bool {
    seen.name == planned.name
        && seen.logical_type == planned.logical_type
        && seen.native_in(ENGINE) == planned.native_in(ENGINE)
        && (planned.nullable || !seen.nullable)
}

fn changed_column(name: &str) -> Error {
    Error::schema(format!("the column was changed, dropped or renamed meanwhile; {AGAIN}"))
        .context("column", name)
}
