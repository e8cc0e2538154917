//! What became of a table's columns: SQLite has no identities of columns, so what happened is told
//! from what is there before and after.

use std::collections::BTreeMap;

use dms_core::schema::{Column, TableSchema};
use dms_core::value::Value;
use dms_core::{Error, ErrorKind, Result, ResultExt};
use rusqlite::Connection;

use super::watch::{Seen, Unique, Watch, WatchedColumn, root, schema_version};
use crate::sqlite::cursor::Cursor;
use crate::sqlite::decode::decoder;
use crate::sqlite::error::convert;
use crate::sqlite::settings::Temporal;
use crate::sqlite::types::{self, Affinity};

/// What there is to do about a table that was rebuilt, or whose capture has a hole.
pub(super) const LOAD_AGAIN: &str = "load the table again";

/// The changes of the schema that it takes to build a table anew, besides its triggers: the new one is
/// made, the old one dropped, the new one renamed.
const REBUILD_CHANGES: i64 = 3;

/// The watch with the columns that the table has now, each with its old identity if it was there.
///
/// `ALTER TABLE` can add columns at the end, drop and rename them. Whatever else is different comes
/// of a table that was built anew, whose rows were written unseen.
pub(super) fn follow(connection: &Connection, watch: &Watch) -> Result<Watch> {
    let table = format!("main.{}", watch.table);
    let version = schema_version(connection)?;
    if version == watch.schema_version {
        return Ok(watch.clone());
    }
    let plain = Seen::of(connection, &watch.table, &ids(watch)).context("table", &table)?;
    let rebuilt = || {
        Error::new(
            ErrorKind::PositionLost,
            format!(
                "the table was built anew, or got a generated column, while it was watched; \
                 {LOAD_AGAIN}"
            ),
        )
        .context("table", &table)
    };
    let renamed = renamed(watch, &plain, version).context("table", &table)?;
    let names: BTreeMap<String, u32> = ids(watch).into_iter().chain(renamed).collect();
    let seen = Seen::of(connection, &watch.table, &names).context("table", &table)?;
    check_order(watch, &seen).ok_or_else(rebuilt)?;
    // VACUUM moves tables as well, in one change of the schema.
    let root = root(connection, &watch.table)?;
    let triggers = if watch.unique.is_empty() { 3 } else { 5 };
    if root != watch.root && version - watch.schema_version >= REBUILD_CHANGES + triggers {
        return Err(rebuilt());
    }
    let there = seen.unique().context("table", &table)?;
    let unique = same_indexes(&watch.unique, &there);
    if let Some(index) = there.iter().find(|index| !unique.contains(index)) {
        let column = index.parts.first().map_or(0, |part| part.column);
        let column = seen.columns.iter().find(|c| c.id == column).map_or("?", |c| &c.name);
        return Err(Error::new(
            ErrorKind::PositionLost,
            format!(
                "the table has a unique index that it had not, for which REPLACE may have removed \
                 rows unseen; {LOAD_AGAIN}"
            ),
        )
        .context("table", &table)
        .context("column", column));
    }
    Ok(Watch { columns: seen.columns, unique, root, schema_version: version, ..watch.clone() })
}

/// The identities of columns that got other names, by these.
///
/// Each change of a column is one change of the schema, so their number tells a rename from a column
/// dropped and another added. Where there were more, whatever a rename could have been a part of is
/// refused, as values would come into the wrong columns.
fn renamed(watch: &Watch, now: &Seen, version: i64) -> Result<BTreeMap<String, u32>> {
    let stays = |old: &WatchedColumn| now.columns.iter().any(|column| column.name == old.name);
    let is_known = |new: &WatchedColumn| watch.columns.iter().any(|column| column.id == new.id);
    let alike = |one: &WatchedColumn, other: &WatchedColumn| {
        one.declaration == other.declaration && one.generated == other.generated
    };
    let (kept, gone): (Vec<_>, Vec<_>) = watch.columns.iter().partition(|old| stays(old));
    let added: Vec<_> = now.columns.iter().filter(|new| !is_known(new)).collect();
    let changes = usize::try_from(version - watch.schema_version).unwrap_or(usize::MAX);
    let pairs = || watch.columns.iter().zip(&now.columns);
    let in_place = watch.columns.len() == now.columns.len()
        && pairs().all(|(old, new)| alike(old, new) && (old.name == new.name || !is_known(new)));
    if in_place && changes == gone.len() {
        let renamed = pairs().filter(|(old, new)| old.name != new.name);
        return Ok(renamed.map(|(old, new)| (new.name.clone(), old.id)).collect());
    }
    let is_among = |others: &[&WatchedColumn]| {
        gone.iter().any(|gone| others.iter().any(|other| alike(gone, other)))
    };
    if is_among(&added) || (changes != gone.len() + added.len() && is_among(&kept)) {
        return Err(Error::new(
            ErrorKind::PositionLost,
            format!(
                "a column was renamed or replaced by another, which cannot be told after several \
                 changes of the schema; {LOAD_AGAIN}"
            ),
        ));
    }
    Ok(BTreeMap::new())
}

/// The indexes that are watched, with the conditions that they have now: a rename of a column changes
/// their text.
fn same_indexes(watched: &[Unique], there: &[Unique]) -> Vec<Unique> {
    let now = watched.iter().map(|index| {
        let same = there.iter().find(|now| *now == index);
        let alike = |now: &&Unique| now.parts == index.parts && !watched.contains(now);
        same.or_else(|| there.iter().find(alike)).unwrap_or(index).clone()
    });
    now.collect()
}

fn ids(watch: &Watch) -> BTreeMap<String, u32> {
    watch.columns.iter().map(|column| (column.name.clone(), column.id)).collect()
}

/// Whether the columns that stayed are as they were and in their order, with new ones behind them.
fn check_order(watch: &Watch, seen: &Seen) -> Option<()> {
    let mut stayed = watch.columns.iter().filter(|old| seen.columns.iter().any(|c| c.id == old.id));
    let mut new = false;
    for column in &seen.columns {
        if watch.columns.iter().any(|old| old.id == column.id) {
            let old = stayed.next()?;
            let same = old.id == column.id
                && old.declaration == column.declaration
                && old.generated == column.generated;
            if new || !same {
                return None;
            }
        } else {
            // What a generated column is in rows that are there cannot be said.
            if column.generated {
                return None;
            }
            new = true;
        }
    }
    Some(())
}

/// What rows that are older than a column hold in it: its default, if that is a constant, as it is
/// in every column that was added to a table with rows.
pub(super) fn initial(
    connection: &Connection,
    table: &TableSchema,
    spelling: Temporal,
) -> Result<BTreeMap<usize, Option<Value>>> {
    let failed = |error| convert(error, "the columns' defaults cannot be read");
    let mut statement = connection
        .prepare_cached(
            "SELECT name, dflt_value FROM pragma_table_xinfo(?1, 'main') \
             WHERE dflt_value IS NOT NULL AND hidden = 0",
        )
        .map_err(failed)?;
    let defaults = statement
        .query_map([&table.name.name], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<(String, String)>>>)
        .map_err(failed)?;
    let mut initial = BTreeMap::new();
    for (name, default) in defaults {
        let Some(place) = table.column_index(&name) else { continue };
        let Some(column) = table.columns.get(place) else { continue };
        let value = constant(column, &default, spelling);
        if let Some(value) = value.context("table", &table.name)? {
            initial.insert(place, Some(value));
        }
    }
    Ok(initial)
}

/// The value of a default, as SQLite itself puts it into such a column; `None` for NULL and for an
/// expression, with which no column can be added to rows.
fn constant(column: &Column, default: &str, spelling: Temporal) -> Result<Option<Value>> {
    let failed = |error| convert(error, "a column's default cannot be read");
    if default.to_ascii_uppercase().starts_with("CURRENT_") {
        return Ok(None);
    }
    let affinity = match types::affinity(column.native_in(crate::sqlite::ENGINE).unwrap_or("")) {
        Affinity::Integer => "INTEGER",
        Affinity::Text => "TEXT",
        Affinity::Blob => "BLOB",
        Affinity::Real => "REAL",
        Affinity::Numeric => "NUMERIC",
    };
    let memory = Connection::open_in_memory().map_err(failed)?;
    let sql =
        format!("CREATE TABLE t (a, c {affinity} DEFAULT {default}); INSERT INTO t (a) VALUES (1)");
    if memory.execute_batch(&sql).is_err() {
        return Ok(None);
    }
    let mut cursor = Cursor::prepare(&memory, "SELECT c FROM t").map_err(failed)?;
    cursor.step().map_err(failed)?;
    let mut decoder = decoder(column, spelling)?;
    decoder.append(cursor.value(0)).map_err(|misfit| {
        Error::data(format!(
            "the column's default is {} where its type holds {}; set the column's type by the \
             source's option column-types",
            cursor.value(0).kind(),
            misfit.0
        ))
        .context("column", &column.name)
    })?;
    let array = decoder.finish();
    let value = Value::from_array(array.as_ref(), 0, &column.logical_type)?;
    Ok((value != Value::Null).then_some(value))
}
