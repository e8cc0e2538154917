//! Beginning and ending capture: the log, its triggers, and what is remembered of both.

use std::collections::BTreeMap;

use dms_core::position::Position;
use dms_core::schema::{TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result, ResultExt};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

use super::log::Log;
use super::shape::{LOAD_AGAIN, follow};
use super::touched;
use super::triggers::{prefix, triggers};
use super::watch::{Watch, schema_version};
use crate::control::to_json;
use crate::sql::quote;
use crate::sqlite::error::convert;
use crate::sqlite::settings::SqliteSettings;
use crate::sqlite::{discover, snapshot};

const DOING: &str = "the capture of changes cannot be set up";

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS main.dms_captures (
    task TEXT NOT NULL PRIMARY KEY, number INTEGER NOT NULL UNIQUE, identity TEXT NOT NULL,
    begun_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS main.dms_captured_tables (
    log INTEGER NOT NULL, number INTEGER NOT NULL, table_name TEXT NOT NULL, watch TEXT NOT NULL,
    PRIMARY KEY (log, number), UNIQUE (log, table_name));";

/// Opens the source's file for writing, which capture alone does.
pub(super) fn open(settings: &SqliteSettings) -> Result<Connection> {
    // Says what is wrong with the file, if anything is, and creates none.
    drop(snapshot::open(settings)?);
    let doing = format!("database {} cannot be opened for writing", settings.path.display());
    let failed = |error| convert(error, &doing);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&settings.path, flags).map_err(failed)?;
    connection.busy_timeout(settings.busy_timeout).map_err(failed)?;
    // Foreign keys concern no table of ours; renames of columns are to reach our triggers.
    connection
        .execute_batch("PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = OFF")
        .map_err(failed)?;
    if connection.is_readonly("main").map_err(failed)? {
        return Err(Error::new(
            ErrorKind::Denied,
            format!(
                "database {} is read-only, and following its changes takes triggers in it; allow \
                 writing to the file and its folder",
                settings.path.display()
            ),
        ));
    }
    Ok(connection)
}

/// Sees that tables can be watched, changing nothing.
pub(super) fn check(settings: &SqliteSettings, tables: &[TableSchema]) -> Result<()> {
    let mut connection = open(settings)?;
    let transaction = begin(&mut connection)?;
    for table in tables {
        watchable(&transaction, settings, table, 1).context("table", &table.name)?;
    }
    transaction.rollback().map_err(|error| convert(error, DOING))
}

fn begin(connection: &mut Connection) -> Result<Transaction<'_>> {
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|error| convert(error, DOING))
}

/// A watch of a table as it is now, if it can be one.
fn watchable(
    connection: &Connection,
    settings: &SqliteSettings,
    table: &TableSchema,
    number: u32,
) -> Result<Watch> {
    let now = discover::shape(connection, settings, &table.name.name)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the table is not there any more; run the task again")
    })?;
    for column in &table.columns {
        now.column(&column.name)?;
    }
    let watch = Watch::of(connection, &now, number)?;
    for name in watch.key_names()? {
        if table.column_index(name).is_none() {
            return Err(Error::settings(
                "a column of the table's key is left out, without which its changes cannot be \
                 followed; keep the column",
            )
            .context("column", name));
        }
    }
    watch.check_nulls(connection, &now)?;
    // A collation that only the writing program knows is found here.
    touched::probe(connection, &watch).map_err(|error| {
        Error::new(ErrorKind::Unsupported, "rows cannot be looked up by the table's key")
            .with_source(error)
    })?;
    Ok(watch)
}

/// Begins to capture, or takes up what is there; from the position returned on, the changes of
/// every one of the tables are there.
pub(super) fn begin_capture(
    settings: &SqliteSettings,
    task: &str,
    tables: &[TableSchema],
) -> Result<Position> {
    let failed = |error| convert(error, DOING);
    let mut connection = open(settings)?;
    let transaction = begin(&mut connection)?;
    let log = match Log::find(&transaction, task)? {
        Some(log) => log,
        None => create(&transaction, task)?,
    };
    let mut watches: BTreeMap<String, Watch> = BTreeMap::new();
    for watch in log.watches(&transaction)? {
        if discover::shape(&transaction, settings, &watch.table)?.is_some() {
            watches.insert(watch.table.clone(), watch);
        } else {
            forget(&transaction, &log, &watch)?;
        }
    }
    let mut next = watches.values().map(|watch| watch.number).max().unwrap_or(0) + 1;
    let mut added = false;
    for table in tables {
        let name = &table.name.name;
        let watch = match watches.get(name) {
            Some(watch) => {
                let watch = verify(&transaction, &log, watch).context("table", &table.name)?;
                watch.check_nulls(&transaction, table)?;
                watch
            }
            None => {
                let watch = watchable(&transaction, settings, table, next);
                let watch = watch.context("table", &table.name)?;
                add(&transaction, &log, &watch).context("table", &table.name)?;
                (next, added) = (next + 1, true);
                watch
            }
        };
        watches.insert(name.clone(), watch);
    }
    // Every watch is as of now, our own changes of the schema included.
    let schema_version = schema_version(&transaction)?;
    for watch in watches.into_values() {
        let asked = tables.iter().any(|table| table.name.name == watch.table);
        if asked {
            record(&transaction, &log, &Watch { schema_version, ..watch })?;
        }
    }
    let position = if added {
        let sql =
            format!("INSERT INTO main.{} (mark, number) VALUES (random(), 0)", quote(&log.table()));
        transaction.execute_batch(&sql).map_err(failed)?;
        log.end(&transaction)?
    } else {
        log.start(&transaction)?
    };
    transaction.commit().map_err(failed)?;
    Ok(position)
}

fn create(transaction: &Transaction<'_>, task: &str) -> Result<Log> {
    let failed = |error| convert(error, DOING);
    transaction.execute_batch(CREATE).map_err(failed)?;
    let (number, identity) = transaction
        .query_row(
            "INSERT INTO main.dms_captures (task, number, identity, begun_at) \
             SELECT ?1, ifnull(max(number), 0) + 1, lower(hex(randomblob(16))), datetime('now') \
             FROM main.dms_captures RETURNING number, identity",
            [task],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .map_err(failed)?;
    let log = Log { number, identity };
    let sql = format!(
        "CREATE TABLE main.{} (seq INTEGER PRIMARY KEY AUTOINCREMENT, mark INTEGER NOT NULL, \
         number INTEGER NOT NULL, k0)",
        quote(&log.table())
    );
    transaction.execute_batch(&sql).map_err(failed)?;
    Ok(log)
}

/// Watches one more table.
fn add(transaction: &Transaction<'_>, log: &Log, watch: &Watch) -> Result<()> {
    let failed = |error| convert(error, DOING);
    let name = log.table();
    let sql = "SELECT count(*) FROM pragma_table_info(?1, 'main') WHERE name GLOB 'k[0-9]*'";
    let width: u32 = transaction.query_row(sql, [&name], |row| row.get(0)).map_err(failed)?;
    let needed = u32::try_from(watch.key.len()).unwrap_or(u32::MAX);
    for place in width..needed {
        let sql = format!("ALTER TABLE main.{} ADD COLUMN k{place}", quote(&name));
        transaction.execute_batch(&sql).map_err(failed)?;
    }
    let before = compiles(transaction, watch);
    for (_, sql) in triggers(&name, watch)? {
        transaction.execute_batch(&sql).map_err(failed)?;
    }
    // Where the table's own triggers need functions of another program, nothing can be said.
    if before.is_ok() {
        compiles(transaction, watch)?;
    }
    record(transaction, log, watch)
}

/// Sees that every statement on the table can be run with its triggers: a trigger of ours that could
/// not would keep the source from writing.
fn compiles(connection: &Connection, watch: &Watch) -> Result<()> {
    let table = quote(&watch.table);
    let columns = watch.columns.iter().filter(|column| !column.generated);
    let set: Vec<String> =
        columns.map(|column| format!("{0} = {0}", quote(&column.name))).collect();
    for sql in [
        format!("INSERT INTO main.{table} DEFAULT VALUES"),
        format!("UPDATE main.{table} SET {}", set.join(", ")),
        format!("DELETE FROM main.{table}"),
    ] {
        let prepared = connection.prepare(&sql).map(drop);
        prepared.map_err(|error| convert(error, "triggers on the table cannot be run"))?;
    }
    Ok(())
}

fn record(transaction: &Transaction<'_>, log: &Log, watch: &Watch) -> Result<()> {
    transaction
        .execute(
            "INSERT INTO main.dms_captured_tables (log, number, table_name, watch) \
             VALUES (?1, ?2, ?3, ?4) ON CONFLICT (log, number) DO UPDATE SET watch = excluded.watch",
            params![log.number, watch.number, watch.table, to_json(watch)?],
        )
        .map(|_| ())
        .map_err(|error| convert(error, DOING))
}

/// Forgets a table that is gone, with the triggers that follow it if it was renamed.
fn forget(transaction: &Transaction<'_>, log: &Log, watch: &Watch) -> Result<()> {
    drop_triggers(transaction, &prefix(&log.table(), watch.number))?;
    transaction
        .execute(
            "DELETE FROM main.dms_captured_tables WHERE log = ?1 AND number = ?2",
            [log.number, watch.number],
        )
        .map(|_| ())
        .map_err(|error| convert(error, DOING))
}

/// Sees that a table was watched all the time; the watch with the columns of now.
pub(super) fn verify(connection: &Connection, log: &Log, watch: &Watch) -> Result<Watch> {
    let now = follow(connection, watch)?;
    let expected: BTreeMap<String, String> = triggers(&log.table(), &now)?.into_iter().collect();
    let failed = |error| convert(error, "the triggers of capture cannot be read");
    let mut statement = connection
        .prepare_cached(
            "SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger' \
             AND tbl_name = ?1 COLLATE NOCASE AND substr(name, 1, length(?2)) = ?2",
        )
        .map_err(failed)?;
    let found = statement
        .query_map([&watch.table, &prefix(&log.table(), watch.number)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .and_then(Iterator::collect::<rusqlite::Result<BTreeMap<String, String>>>)
        .map_err(failed)?;
    let differs = expected.iter().find(|(name, sql)| found.get(*name) != Some(*sql));
    match differs {
        None => Ok(now),
        Some((name, _)) => Err(Error::new(
            ErrorKind::PositionLost,
            format!(
                "trigger {name} is missing or was changed, so that changes of the table were lost \
                 (building a table anew drops its triggers); {LOAD_AGAIN}"
            ),
        )
        .context("table", format!("main.{}", watch.table))),
    }
}

/// Watches tables no more, until their capture begins anew.
pub(super) fn forget_capture(
    settings: &SqliteSettings,
    task: &str,
    tables: &[TableName],
) -> Result<()> {
    let failed = |error| convert(error, DOING);
    let is_forgotten = |watch: &Watch| tables.iter().any(|table| table.name == watch.table);
    let reader = snapshot::open(settings)?;
    let Some(log) = Log::find(&reader, task)? else { return Ok(()) };
    if !log.watches(&reader)?.iter().any(is_forgotten) {
        return Ok(());
    }
    drop(reader);
    let mut connection = open(settings)?;
    let transaction = begin(&mut connection)?;
    let Some(log) = Log::find(&transaction, task)? else { return Ok(()) };
    for watch in log.watches(&transaction)?.iter().filter(|watch| is_forgotten(watch)) {
        forget(&transaction, &log, watch)?;
    }
    transaction.commit().map_err(failed)
}

/// Removes the log of a task and its triggers.
pub(super) fn end_capture(settings: &SqliteSettings, task: &str) -> Result<()> {
    let doing = "the capture of changes cannot be removed";
    let failed = |error| convert(error, doing);
    if Log::find(&snapshot::open(settings)?, task)?.is_none() {
        return Ok(());
    }
    let mut connection = open(settings)?;
    let transaction = begin(&mut connection)?;
    let Some(log) = Log::find(&transaction, task)? else { return Ok(()) };
    drop_triggers(&transaction, &format!("{}_", log.table()))?;
    let sql = format!("DROP TABLE IF EXISTS main.{}", quote(&log.table()));
    transaction.execute_batch(&sql).map_err(failed)?;
    for sql in [
        "DELETE FROM main.dms_captured_tables WHERE log = ?1",
        "DELETE FROM main.dms_captures WHERE number = ?1",
    ] {
        transaction.execute(sql, [log.number]).map_err(failed)?;
    }
    let others: bool = transaction
        .query_row("SELECT EXISTS (SELECT 1 FROM main.dms_captures)", [], |row| row.get(0))
        .map_err(failed)?;
    if !others {
        let sql = "DROP TABLE main.dms_captured_tables; DROP TABLE main.dms_captures";
        transaction.execute_batch(sql).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

fn drop_triggers(transaction: &Transaction<'_>, prefix: &str) -> Result<()> {
    let failed = |error| convert(error, DOING);
    let mut statement = transaction
        .prepare(
            "SELECT name FROM main.sqlite_schema \
             WHERE type = 'trigger' AND substr(name, 1, length(?1)) = ?1",
        )
        .map_err(failed)?;
    let names = statement
        .query_map([prefix], |row| row.get(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>)
        .map_err(failed)?;
    for name in names {
        let sql = format!("DROP TRIGGER main.{}", quote(&name));
        transaction.execute_batch(&sql).map_err(failed)?;
    }
    Ok(())
}

/// Where a reader's state stands in the log; sees that the tables were watched up to it.
pub(super) fn position_of(
    reader: &Connection,
    task: &str,
    tables: &[TableSchema],
) -> Result<Position> {
    let log = Log::of(reader, task)?;
    let watches = log.watches(reader)?;
    for table in tables {
        let watch = watches.iter().find(|watch| watch.table == table.name.name);
        let watch = watch.ok_or_else(|| {
            Error::settings("the task's capture was not begun for the table; begin it again")
                .context("table", &table.name)
        })?;
        verify(reader, &log, watch)?.check_nulls(reader, table).context("table", &table.name)?;
    }
    log.end(reader)
}
