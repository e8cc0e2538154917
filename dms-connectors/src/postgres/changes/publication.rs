//! The publication: which tables the log is decoded for.

use dms_core::schema::{TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result};

use super::database::{Database, arrays};
use super::names::Names;
use crate::postgres::error::convert;
use crate::sql::quote;

const PUBLICATION: &str = "
SELECT p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate, p.pubviaroot
FROM pg_catalog.pg_publication p WHERE p.pubname = $1";

/// Of each table whether it is published, with parts of its rows or columns only, or as a table
/// whose rows are published under the names of its partitions.
const COVERED: &str = "
SELECT w.schema, w.name,
    EXISTS(SELECT FROM pg_catalog.pg_publication_tables t
        WHERE t.pubname = $1 AND t.schemaname = w.schema AND t.tablename = w.name),
    EXISTS(SELECT FROM pg_catalog.pg_publication_rel r
        JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
        JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE p.pubname = $1 AND n.nspname = w.schema AND c.relname = w.name
            AND (to_jsonb(r) ->> 'prqual' IS NOT NULL OR to_jsonb(r) ->> 'prattrs' IS NOT NULL)),
    EXISTS(SELECT FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = w.schema AND c.relname = w.name AND c.relkind = 'p')
FROM unnest($2::text[], $3::text[]) w(schema, name)";

const DOING: &str = "the publication cannot be made";

/// Makes the publication, or completes it; one that the user has made is checked.
///
/// # Errors
/// `Denied`; `Settings` for one that does not have what is needed.
pub(super) async fn ensure(
    database: &Database,
    names: &Names,
    tables: &[TableSchema],
) -> Result<()> {
    let name = quote(&names.publication);
    let failed = |error| convert(error, DOING);
    if !names.is_given {
        let client = &database.client;
        let exists = client.query_opt(PUBLICATION, &[&names.publication]).await.map_err(failed)?;
        let with =
            "publish = 'insert, update, delete, truncate', publish_via_partition_root = true";
        match exists {
            None => {
                let sql =
                    format!("CREATE PUBLICATION {name} FOR TABLE {} WITH ({with})", list(tables));
                let sql = match tables.is_empty() {
                    true => format!("CREATE PUBLICATION {name} WITH ({with})"),
                    false => sql,
                };
                client.batch_execute(&sql).await.map_err(failed)?;
            }
            Some(row) => {
                if !(row.get::<_, bool>(0) && row.get::<_, bool>(1)) {
                    let sql = format!("ALTER PUBLICATION {name} SET ({with})");
                    client.batch_execute(&sql).await.map_err(failed)?;
                }
                let missing = missing(database, names, tables).await?;
                if !missing.is_empty() {
                    let sql = format!("ALTER PUBLICATION {name} ADD TABLE {}", list(&missing));
                    client.batch_execute(&sql).await.map_err(failed)?;
                }
            }
        }
    }
    check(database, names, tables).await
}

fn list(tables: &[TableSchema]) -> String {
    let name = |table: &TableSchema| {
        format!("ONLY {}.{}", quote(&table.name.schema), quote(&table.name.name))
    };
    tables.iter().map(name).collect::<Vec<_>>().join(", ")
}

async fn missing(
    database: &Database,
    names: &Names,
    tables: &[TableSchema],
) -> Result<Vec<TableSchema>> {
    let (schemas, tables_names) = arrays(tables);
    let rows = database.client.query(COVERED, &[&names.publication, &schemas, &tables_names]).await;
    let mut missing = Vec::new();
    for row in rows.map_err(|error| convert(error, DOING))? {
        let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        if !row.get::<_, bool>(2) {
            missing.extend(tables.iter().find(|table| table.name == name).cloned());
        }
    }
    Ok(missing)
}

/// Sees that a publication delivers every change of the tables.
///
/// # Errors
/// `Settings` naming what it lacks, and the command that helps.
pub(super) async fn check(
    database: &Database,
    names: &Names,
    tables: &[TableSchema],
) -> Result<()> {
    let publication = &names.publication;
    let failed = |error| convert(error, "the publication cannot be looked up");
    let client = &database.client;
    let Some(row) = client.query_opt(PUBLICATION, &[publication]).await.map_err(failed)? else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "there is no publication {publication} in database {}; make it with CREATE \
                 PUBLICATION {} FOR TABLE … WITH (publish_via_partition_root = true)",
                database.name,
                quote(publication)
            ),
        ));
    };
    if !row.get::<_, bool>(0) {
        return Err(Error::settings(format!(
            "publication {publication} leaves out operations; run ALTER PUBLICATION {} SET \
             (publish = 'insert, update, delete, truncate')",
            quote(publication)
        )));
    }
    let via_root: bool = row.get(1);
    let (schemas, table_names) = arrays(tables);
    let rows = client.query(COVERED, &[publication, &schemas, &table_names]).await;
    for row in rows.map_err(failed)? {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let (covered, in_part, partitioned): (bool, bool, bool) =
            (row.get(2), row.get(3), row.get(4));
        let (ours, of) =
            (quote(publication), format!("{}.{}", quote(&table.schema), quote(&table.name)));
        let what = if partitioned && !via_root {
            format!(
                "publication {publication} tells changes of partitions under their own names; run \
                 ALTER PUBLICATION {ours} SET (publish_via_partition_root = true)"
            )
        } else if !covered {
            format!(
                "publication {publication} does not have the table, so that its changes are not \
                 delivered; run ALTER PUBLICATION {ours} ADD TABLE {of} and load the table again"
            )
        } else if in_part {
            format!(
                "publication {publication} has a row filter or a list of columns for the table; \
                 run ALTER PUBLICATION {ours} DROP TABLE {of}, then ALTER PUBLICATION {ours} ADD \
                 TABLE {of}, and load the table again"
            )
        } else {
            continue;
        };
        return Err(Error::settings(what).context("table", table));
    }
    Ok(())
}

/// Removes what [`ensure`] made; one of the user stays.
///
/// # Errors
/// `Denied`.
pub(super) async fn remove(database: &Database, names: &Names) -> Result<()> {
    if names.is_given {
        return Ok(());
    }
    let sql = format!("DROP PUBLICATION IF EXISTS {}", quote(&names.publication));
    let dropped = database.client.batch_execute(&sql).await;
    dropped.map_err(|error| convert(error, "the publication cannot be dropped"))
}
