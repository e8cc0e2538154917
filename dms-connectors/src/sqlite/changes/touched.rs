//! The queries of the rows that a stretch of the log touched.

use dms_core::Result;
use rusqlite::Connection;

use super::watch::Watch;
use crate::sql::quote;
use crate::sqlite::error::convert;

/// The distinct keys that the log holds of a table between two places (`?1` and `?2`).
///
/// Keys that SQLite takes for equal though they are not the same (1 and 1.0, 0.0 and -0.0) stay
/// apart, zeros by not being joined at all, since nothing in SQL tells them apart. Those that differ
/// in case only are apart, as the log's columns have no collation.
fn keys(log: &str, watch: &Watch) -> String {
    let columns = (0..watch.key.len()).map(|place| format!("k{place}"));
    let columns = columns.collect::<Vec<_>>().join(", ");
    let apart = (0..watch.key.len()).map(|place| match watch.rowid_key {
        true => format!("k{place}"),
        false => format!(
            "typeof(k{place}), k{place}, \
             CASE WHEN typeof(k{place}) = 'real' AND k{place} = 0 THEN seq END"
        ),
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
        keys(log, watch),
        quote(&watch.table),
        same_key(watch)?
    ))
}

/// Columns of every row that has a touched key now.
pub(super) fn rows(log: &str, watch: &Watch, columns: &[&str]) -> Result<String> {
    let columns = columns.iter().map(|name| format!("t.{}", quote(name)));
    // CROSS JOIN has SQLite go from the keys to the rows, never the other way.
    Ok(format!(
        "SELECT {} FROM ({}) AS l CROSS JOIN main.{} AS t ON {}",
        columns.collect::<Vec<_>>().join(", "),
        keys(log, watch),
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
