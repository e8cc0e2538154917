//! Compares two SQLite files value by value, storage classes included, with SQLite alone: a second
//! opinion that shares no code with the engine it judges.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Result, Row};

/// The most differences of a table that are told.
const TOLD_MAX: usize = 5;

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Tables that both files have.
    pub tables: usize,
    /// Rows compared.
    pub rows: u64,
    /// What differs, in words; the first few of each table.
    pub differences: Vec<String>,
}

/// Compares every table of two files, but the engine's own control tables: names, columns, and
/// every value of every row by storage class and bytes.
///
/// # Errors
/// SQLite's, when a file cannot be read.
pub fn compare(left: &Path, right: &Path) -> Result<Comparison> {
    let (left, right) = (open(left)?, open(right)?);
    let mut found = Comparison::default();
    let (names, right_names) = (tables(&left)?, tables(&right)?);
    if names != right_names {
        found
            .differences
            .push(format!("tables {names:?} on the left, {right_names:?} on the right"));
    }
    for name in names.iter().filter(|name| right_names.contains(name)) {
        found.tables += 1;
        compare_table(&left, &right, name, &mut found)?;
    }
    Ok(found)
}

fn open(path: &Path) -> Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn tables(file: &Connection) -> Result<Vec<String>> {
    file.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'dms\\_%' ESCAPE '\\' \
         ORDER BY name",
    )?
    .query_map([], |row| row.get(0))?
    .collect()
}

/// The columns of a table and the place of each in the primary key, from 1; 0 is not in it.
fn columns(file: &Connection, table: &str) -> Result<Vec<(String, u32)>> {
    file.prepare("SELECT name, pk FROM pragma_table_info(?1)")?
        .query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

fn compare_table(
    left: &Connection,
    right: &Connection,
    table: &str,
    found: &mut Comparison,
) -> Result<()> {
    let (of_left, of_right) = (columns(left, table)?, columns(right, table)?);
    if of_left != of_right {
        let what = format!("{table}: columns and keys {of_left:?} on the left, {of_right:?} right");
        found.differences.push(what);
        return Ok(());
    }
    let query = ordered(table, &of_left);
    let (mut left, mut right) = (left.prepare(&query)?, right.prepare(&query)?);
    let (mut left, mut right) = (left.query([])?, right.query([])?);
    let mut told = 0;
    for number in 1_u64.. {
        let what = match (left.next()?, right.next()?) {
            (None, None) => break,
            (Some(left), Some(right)) => {
                found.rows += 1;
                match difference(left, right, &of_left)? {
                    Some(what) => what,
                    None => continue,
                }
            }
            (Some(_), None) => "missing on the right, and what follows".to_owned(),
            (None, Some(_)) => "missing on the left, and what follows".to_owned(),
        };
        let ends = what.starts_with("missing");
        found.differences.push(format!("{table}, row {number} in order: {what}"));
        told += 1;
        if ends || told == TOLD_MAX {
            break;
        }
    }
    Ok(())
}

/// All rows in an order that depends on their values only: by key, if there is one, and by all
/// columns with the storage class first, since 1 and 1.0 are equal to SQLite.
fn ordered(table: &str, columns: &[(String, u32)]) -> String {
    let mut key: Vec<_> = columns.iter().filter(|(_, place)| *place > 0).collect();
    key.sort_by_key(|(_, place)| *place);
    let mut order: Vec<String> = key.iter().map(|(name, _)| quote(name)).collect();
    let classes = columns.iter().map(|(name, _)| format!("typeof({0}), {0}", quote(name)));
    order.extend(classes);
    let all: Vec<String> = columns.iter().map(|(name, _)| quote(name)).collect();
    format!("SELECT {} FROM {} ORDER BY {}", all.join(", "), quote(table), order.join(", "))
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The first column in which two rows differ.
fn difference(
    left: &Row<'_>,
    right: &Row<'_>,
    columns: &[(String, u32)],
) -> Result<Option<String>> {
    for (place, (name, _)) in columns.iter().enumerate() {
        let (left, right) = (left.get_ref(place)?, right.get_ref(place)?);
        let same = match (left, right) {
            // Bits, so that -0.0 is not 0.0.
            (ValueRef::Real(left), ValueRef::Real(right)) => left.to_bits() == right.to_bits(),
            _ => left == right,
        };
        if !same {
            let (left, right) = (shown(left), shown(right));
            return Ok(Some(format!("column {name} is {left} on the left, {right} on the right")));
        }
    }
    Ok(None)
}

fn shown(value: ValueRef<'_>) -> String {
    let text = match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(value) => format!("integer {value}"),
        ValueRef::Real(value) => format!("real {value:?}"),
        ValueRef::Text(bytes) => format!("text {:?}", String::from_utf8_lossy(bytes)),
        ValueRef::Blob(bytes) => format!("blob of {} bytes {bytes:02x?}", bytes.len()),
    };
    if text.chars().count() > 60 { text.chars().take(59).chain(['…']).collect() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, name: &str, sql: &str) -> std::path::PathBuf {
        let path = folder.join(name);
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        path
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let base = "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (1, 'x'), (2, NULL);";
        let left = file(folder.path(), "left.db", base);
        for (number, (sql, equal)) in [
            (base, true),
            ("CREATE TABLE t (a, b); INSERT INTO t VALUES (2, NULL), (1, 'x'), (1, 'x');", true),
            ("CREATE TABLE t (a, b); INSERT INTO t VALUES (2, NULL), (1, 'x');", false),
            ("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (1.0, 'x'), (2, NULL);", false),
            ("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (1, x'78'), (2, NULL);", false),
            ("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (1, 'x'), (2, '');", false),
            ("CREATE TABLE t (a, c); INSERT INTO t VALUES (1, 'x'), (1, 'x'), (2, NULL);", false),
            ("CREATE TABLE u (a, b); INSERT INTO u VALUES (1, 'x'), (1, 'x'), (2, NULL);", false),
        ]
        .into_iter()
        .enumerate()
        {
            let right = file(folder.path(), &format!("right{number}.db"), sql);
            let found = compare(&left, &right).unwrap();
            assert_eq!(found.differences.is_empty(), equal, "{sql}: {:?}", found.differences);
        }
    }
}
