//! The queries of the rows that a stretch of the log touched.

use dms_core::Result;
use rusqlite::Connection;

use super::watch::Watch;
use crate::sql::quote;
use crate::sqlite::error::convert;

/// The distinct keys that the log holds of a table between two places (`?1` and `?2`).
///
/// Keys of different storage class stay apart though SQLite takes them for equal (1 and 1.0), and so
/// do those that differ in case only, as the log's columns have no collation. Nothing in SQL tells
/// 0.0 from -0.0: where those are to be told apart, they come as often as they were logged.
fn keys(log: &str, watch: &Watch, zeros_apart: bool) -> String {
    let columns = (0..watch.key.len()).map(|place| format!("k{place}"));
    let columns = columns.collect::<Vec<_>>().join(", ");
    let apart = (0..watch.key.len()).map(|place| {
        let zeros = match zeros_apart {
            true => format!(", CASE WHEN typeof(k{place}) = 'real' AND k{place} = 0 THEN seq END"),
            false => String::new(),
        };
        match watch.rowid_key {
            true => format!("k{place}"),
            false => format!("typeof(k{place}), k{place}{zeros}"),
        }
    });
    let apart = apart.collect::<Vec<_>>().join(", ");
    format!(
        "SELECT {columns} FROM main.{} WHERE seq > ?1 AND seq <= ?2 AND number = {} \
         GROUP BY {apart}",
        quote(log),
        watch.number
    )
}

/// Whether a row has a logged key, as the key's own index compares.
fn same_key(watch: &Watch) -> Result<String> {
    let equal = watch.key.iter().enumerate().map(|(place, part)| {
        let name = quote(watch.name(part.column)?);
        Ok(format!("t.{name} = l.k{place} COLLATE {}", quote(&part.collation)))
    });
    Ok(equal.collect::<Result<Vec<_>>>()?.join(" AND "))
}

/// Every touched key as it was logged, then the key of the row that has it now, or NULLs.
pub(super) fn keys_and_found(log: &str, watch: &Watch) -> Result<String> {
    let logged = (0..watch.key.len()).map(|place| format!("l.k{place}"));
    let found = watch.key_names()?.into_iter().map(|name| format!("t.{}", quote(name)));
    Ok(format!(
        "SELECT {} FROM ({}) AS l LEFT JOIN main.{} AS t ON {}",
        logged.chain(found).collect::<Vec<_>>().join(", "),
        keys(log, watch, true),
        quote(&watch.table),
        same_key(watch)?
    ))
}

/// Columns of every row that has a touched key now, each row once: the key that was logged of it
/// itself, not that of another row whose key SQLite takes for equal.
pub(super) fn rows(log: &str, watch: &Watch, columns: &[&str]) -> Result<String> {
    let columns = columns.iter().map(|name| format!("t.{}", quote(name)));
    let exact = watch.key_names()?.into_iter().enumerate().map(|(place, name)| {
        let name = quote(name);
        format!("t.{name} COLLATE BINARY = l.k{place} AND typeof(t.{name}) = typeof(l.k{place})")
    });
    let exact = exact.collect::<Vec<_>>().join(" AND ");
    // CROSS JOIN has SQLite go from the keys to the rows, never the other way.
    Ok(format!(
        "SELECT {} FROM ({}) AS l CROSS JOIN main.{} AS t ON {} WHERE {exact}",
        columns.collect::<Vec<_>>().join(", "),
        keys(log, watch, false),
        quote(&watch.table),
        same_key(watch)?
    ))
}

/// Sees that rows can be looked up by the key: its collations have to be known here.
pub(super) fn probe(connection: &Connection, watch: &Watch) -> Result<()> {
    let columns = (0..watch.key.len()).map(|place| format!("NULL AS k{place}"));
    let sql = format!(
        "SELECT 1 FROM (SELECT {}) AS l JOIN main.{} AS t ON {}",
        columns.collect::<Vec<_>>().join(", "),
        quote(&watch.table),
        same_key(watch)?
    );
    let prepared = connection.prepare(&sql).map(drop);
    prepared.map_err(|error| convert(error, "the table's key cannot be looked up"))
}
