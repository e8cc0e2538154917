//! What a target remembers of a task's replication.

use std::collections::BTreeMap;

use dms_core::endpoint::{
    Note, ReplicatedTable, ReplicationProgress, Run, TaskProgress, TaskRecord,
};
use dms_core::position::Position;
use dms_core::schema::TableName;
use dms_core::{Error, Result};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::control::{corrupt, from_json, to_json};
use crate::sqlite::error::convert;
use crate::sqlite::state;
use crate::sqlite::types::SCHEMA;

const DOING: &str = "the record of replication in the target cannot be kept";

/// What is there of a task's replication.
pub(super) fn progress(connection: &Connection, task: &str) -> Result<ReplicationProgress> {
    let failed = |error| convert(error, DOING);
    let position: Option<String> = connection
        .query_row("SELECT position FROM main.dms_positions WHERE task = ?1", [task], |row| {
            row.get(0)
        })
        .optional()
        .map_err(failed)?;
    let mut statement = connection
        .prepare("SELECT table_name, state FROM main.dms_replicated WHERE task = ?1")
        .map_err(failed)?;
    let mut rows = statement.query([task]).map_err(failed)?;
    let mut tables = BTreeMap::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let (name, state): (String, String) =
            (row.get(0).map_err(failed)?, row.get(1).map_err(failed)?);
        let state: ReplicatedTable = from_json(&state, "dms_replicated")?;
        tables.insert(TableName::new(SCHEMA, name), state);
    }
    let position = position.map(|json| from_json(&json, "dms_positions")).transpose()?;
    Ok(ReplicationProgress { position, tables })
}

/// Records how far the task is; belongs into the transaction of the changes.
pub(super) fn set_position(
    connection: &Connection,
    task: &str,
    position: &Position,
    committed_at: Option<i64>,
) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO main.dms_positions (task, position, committed_at, applied_at) \
             VALUES (?1, ?2, ?3, datetime('now')) ON CONFLICT (task) DO UPDATE SET \
             position = excluded.position, applied_at = excluded.applied_at, \
             committed_at = ifnull(excluded.committed_at, committed_at)",
        )
        .and_then(|mut statement| {
            let position = to_json(position)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            statement.execute(params![task, position, committed_at])
        })
        .map(|_| ())
        .map_err(|error| convert(error, DOING))
}

/// Records something about the task.
pub(super) fn note(connection: &Connection, task: &str, note: &Note) -> Result<()> {
    if let Some(table) = note.table() {
        return change(connection, task, table, note);
    }
    match note {
        Note::Exception(exception) => connection
            .execute(
                "INSERT INTO main.dms_apply_exceptions \
                 (task, table_name, position, operation, row_key, error, noted_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, datetime('now'))",
                params![
                    task,
                    exception.table.name,
                    to_json(&exception.position)?,
                    exception.operation,
                    exception.key,
                    exception.error
                ],
            )
            .map(|_| ())
            .map_err(|error| convert(error, DOING)),
        _ => Err(Error::unexpected("a note of a kind that this target does not know")),
    }
}

fn change(connection: &Connection, task: &str, table: &TableName, note: &Note) -> Result<()> {
    let failed = |error| convert(error, DOING);
    let json: Option<String> = connection
        .query_row(
            "SELECT state FROM main.dms_replicated WHERE task = ?1 AND table_name = ?2",
            [task, &table.name],
            |row| row.get(0),
        )
        .optional()
        .map_err(failed)?;
    let mut state: ReplicatedTable = match json {
        Some(json) => from_json(&json, "dms_replicated")?,
        None => ReplicatedTable::default(),
    };
    state.take(note);
    connection
        .execute(
            "INSERT INTO main.dms_replicated (task, table_name, state) VALUES (?1, ?2, ?3) \
             ON CONFLICT (task, table_name) DO UPDATE SET state = excluded.state",
            [task, &table.name, &to_json(&state)?],
        )
        .map(|_| ())
        .map_err(failed)
}

/// What is there of a task; files of earlier versions lack some of the tables.
pub(super) fn look_up(connection: &Connection, task: &str) -> Result<Option<TaskRecord>> {
    let failed = |error| convert(error, DOING);
    let has = |table: &str| -> Result<bool> {
        connection
            .query_row(
                "SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' AND name = ?1",
                [table],
                |row| row.get(0),
            )
            .map_err(failed)
    };
    // One state for all that is read.
    let transaction = connection.unchecked_transaction().map_err(failed)?;
    if !has("dms_status")? {
        return Ok(None);
    }
    let epoch: Option<i64> = transaction
        .query_row("SELECT epoch FROM main.dms_status WHERE task = ?1", [task], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    let Some(epoch) = epoch else { return Ok(None) };
    let epoch = u64::try_from(epoch).map_err(|_| corrupt("dms_status", "a negative epoch"))?;
    let run = Run { task: task.to_owned(), epoch };
    let progress_of_loads = TaskProgress { run, tables: state::tables(&transaction, task)? };
    let mut record = TaskRecord {
        progress: progress_of_loads,
        replication: ReplicationProgress::default(),
        committed_at: None,
        exceptions: 0,
    };
    if has("dms_positions")? {
        record.replication = progress(&transaction, task)?;
        record.committed_at = transaction
            .query_row("SELECT committed_at FROM main.dms_positions WHERE task = ?1", [task], |r| {
                r.get(0)
            })
            .optional()
            .map_err(failed)?
            .flatten();
        let sql = "SELECT count(*) FROM main.dms_apply_exceptions WHERE task = ?1";
        let count: i64 = transaction.query_row(sql, [task], |row| row.get(0)).map_err(failed)?;
        record.exceptions = count.unsigned_abs();
    }
    Ok(Some(record))
}

/// Forgets loads, so that tables are loaded again.
pub(super) fn forget(
    connection: &mut Connection,
    run: &Run,
    tables: Option<&[TableName]>,
) -> Result<()> {
    let failed = |error| convert(error, DOING);
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    state::check_epoch(&transaction, run)?;
    let of_tables = ["dms_tables", "dms_partitions", "dms_replicated"];
    match tables {
        Some(tables) => {
            for (table, from) in tables.iter().flat_map(|t| of_tables.map(|from| (t, from))) {
                let sql = format!("DELETE FROM main.{from} WHERE task = ?1 AND table_name = ?2");
                transaction.execute(&sql, [&run.task, &table.name]).map_err(failed)?;
            }
        }
        None => {
            for from in of_tables.into_iter().chain(["dms_positions", "dms_apply_exceptions"]) {
                let sql = format!("DELETE FROM main.{from} WHERE task = ?1");
                transaction.execute(&sql, [&run.task]).map_err(failed)?;
            }
        }
    }
    transaction.commit().map_err(failed)
}
