//! The control tables of a target: what it holds of each task.

use std::collections::BTreeMap;

use dms_core::endpoint::{Partition, Receipt, ReplicatedTable, Run, TableProgress, TaskProgress};
use dms_core::position::Position;
use dms_core::schema::{TableName, TableSchema};
use dms_core::{Error, Result, ResultExt};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::convert;
use crate::control::{corrupt, from_json, to_json};

/// The tables of ours that have one name; a source leaves them out.
const CONTROL_TABLES: &[&str] = &[
    "dms_status",
    "dms_tables",
    "dms_partitions",
    "dms_positions",
    "dms_replicated",
    "dms_apply_exceptions",
    "dms_captures",
    "dms_captured_tables",
];
/// What the name of a log of changes begins with; a number follows.
pub(super) const LOG_PREFIX: &str = "dms_changes_";

/// Whether a table is one of ours.
pub(super) fn is_control(table: &str) -> bool {
    let table = table.to_ascii_lowercase();
    let number = table.strip_prefix(LOG_PREFIX).unwrap_or_default();
    CONTROL_TABLES.contains(&table.as_str())
        || (!number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// `dms_status`: the newest epoch of each task. `dms_tables`: the load of each table.
/// `dms_partitions`: one row a loaded partition, written in the transaction of its rows.
/// `dms_positions`: how far changes are applied, written in their transaction. `dms_replicated`: what
/// is remembered of a table's replication. `dms_apply_exceptions`: changes that were passed over.
const CREATE: &str = "
CREATE TABLE IF NOT EXISTS dms_status (
    task TEXT NOT NULL PRIMARY KEY,
    epoch INTEGER NOT NULL,
    begun_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dms_tables (
    task TEXT NOT NULL, table_name TEXT NOT NULL,
    partitions TEXT NOT NULL, position TEXT, finished_at TEXT,
    PRIMARY KEY (task, table_name));
CREATE TABLE IF NOT EXISTS dms_partitions (
    task TEXT NOT NULL, table_name TEXT NOT NULL, partition INTEGER NOT NULL,
    rows INTEGER NOT NULL, receipt TEXT NOT NULL, committed_at TEXT NOT NULL,
    PRIMARY KEY (task, table_name, partition));
CREATE TABLE IF NOT EXISTS dms_positions (
    task TEXT NOT NULL PRIMARY KEY,
    position TEXT NOT NULL, committed_at INTEGER, applied_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dms_replicated (
    task TEXT NOT NULL, table_name TEXT NOT NULL, state TEXT NOT NULL,
    PRIMARY KEY (task, table_name));
CREATE TABLE IF NOT EXISTS dms_apply_exceptions (
    task TEXT NOT NULL, table_name TEXT NOT NULL, position TEXT NOT NULL,
    operation TEXT NOT NULL, row_key TEXT NOT NULL, error TEXT NOT NULL, noted_at TEXT NOT NULL);";

const DOING: &str = "the record of progress in the target cannot be kept";

/// Claims the task and reads what is there of it.
pub(super) fn begin(connection: &mut Connection, task: &str) -> Result<TaskProgress> {
    let failed = |error| convert(error, DOING);
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(failed)?;
    transaction.execute_batch(CREATE).map_err(failed)?;
    let epoch: i64 = transaction
        .query_row(
            "INSERT INTO dms_status (task, epoch, begun_at) VALUES (?1, 1, datetime('now')) \
             ON CONFLICT (task) DO UPDATE SET epoch = epoch + 1, begun_at = datetime('now') \
             RETURNING epoch",
            [task],
            |row| row.get(0),
        )
        .map_err(failed)?;
    let tables = tables(&transaction, task)?;
    transaction.commit().map_err(failed)?;
    let epoch = u64::try_from(epoch).map_err(|_| corrupt("dms_status", "a negative epoch"))?;
    Ok(TaskProgress { run: Run { task: task.to_owned(), epoch }, tables })
}

/// What is there of the loads of a task.
pub(super) fn tables(
    connection: &Connection,
    task: &str,
) -> Result<BTreeMap<TableName, TableProgress>> {
    let failed = |error| convert(error, DOING);
    let mut tables = BTreeMap::new();
    let mut statement = connection
        .prepare(
            "SELECT table_name, partitions, position, finished_at FROM dms_tables WHERE task = ?1",
        )
        .map_err(failed)?;
    let rows = statement
        .query_map([task], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, Option<String>>(2)?,
                row.get::<_, Option<String>>(3)?,
            ))
        })
        .map_err(failed)?;
    for row in rows {
        let (name, partitions, position, finished) = row.map_err(failed)?;
        let progress = TableProgress {
            partitions: from_json(&partitions, "dms_tables")?,
            position: position.map(|json| from_json(&json, "dms_tables")).transpose()?,
            receipts: receipts(connection, task, &name)?,
            finished: finished.is_some(),
        };
        tables.insert(TableName::new(super::types::SCHEMA, name), progress);
    }
    Ok(tables)
}

fn receipts(connection: &Connection, task: &str, table: &str) -> Result<Vec<Receipt>> {
    let failed = |error| convert(error, DOING);
    let mut statement = connection
        .prepare("SELECT receipt FROM dms_partitions WHERE task = ?1 AND table_name = ?2 ORDER BY partition")
        .map_err(failed)?;
    let rows = statement.query_map([task, table], |row| row.get::<_, String>(0)).map_err(failed)?;
    rows.map(|row| from_json(&row.map_err(failed)?, "dms_partitions")).collect()
}

/// Refuses when a newer run has claimed the task. Called inside every writing transaction.
pub(super) fn check_epoch(connection: &Connection, run: &Run) -> Result<()> {
    let epoch: Option<i64> = connection
        .query_row("SELECT epoch FROM dms_status WHERE task = ?1", [&run.task], |row| row.get(0))
        .optional()
        .map_err(|error| convert(error, DOING))?;
    if epoch.and_then(|epoch| u64::try_from(epoch).ok()) == Some(run.epoch) {
        return Ok(());
    }
    Err(run.fenced())
}

/// Whether rows of a load of the table are there that was not finished.
pub(super) fn is_loaded_in_part(connection: &Connection, run: &Run, table: &str) -> Result<bool> {
    connection
        .query_row(
            "SELECT count(*) > 0 FROM dms_tables JOIN dms_partitions USING (task, table_name) \
             WHERE task = ?1 AND table_name = ?2 AND finished_at IS NULL AND rows > 0",
            [&run.task, table],
            |row| row.get(0),
        )
        .map_err(|error| convert(error, DOING))
}

/// Forgets an earlier load of the table and records the partitions of a new one, and the shape that
/// changes will find: the source's may be another before the first of them is applied.
pub(super) fn begin_table(
    connection: &Connection,
    run: &Run,
    shape: &TableSchema,
    partitions: &[Partition],
    position: Option<&Position>,
) -> Result<()> {
    let failed = |error| convert(error, DOING);
    let table = shape.name.name.as_str();
    connection
        .execute(
            "DELETE FROM dms_partitions WHERE task = ?1 AND table_name = ?2",
            [&run.task, table],
        )
        .map_err(failed)?;
    connection
        .execute(
            "INSERT OR REPLACE INTO dms_replicated (task, table_name, state) VALUES (?1, ?2, ?3)",
            params![run.task, table, to_json(&ReplicatedTable::prepared(shape))?],
        )
        .map_err(failed)?;
    let position = position.map(to_json).transpose()?;
    connection
        .execute(
            "INSERT OR REPLACE INTO dms_tables (task, table_name, partitions, position) \
             VALUES (?1, ?2, ?3, ?4)",
            params![run.task, table, to_json(&partitions)?, position],
        )
        .map_err(failed)?;
    Ok(())
}

/// The receipt of a partition that is there already.
pub(super) fn receipt(
    connection: &Connection,
    run: &Run,
    table: &str,
    partition: u32,
) -> Result<Option<Receipt>> {
    let json: Option<String> = connection
        .query_row(
            "SELECT receipt FROM dms_partitions \
             WHERE task = ?1 AND table_name = ?2 AND partition = ?3",
            params![run.task, table, partition],
            |row| row.get(0),
        )
        .optional()
        .map_err(|error| convert(error, DOING))?;
    json.map(|json| from_json(&json, "dms_partitions")).transpose()
}

/// Records a partition; belongs into the transaction of its rows.
pub(super) fn add_receipt(
    connection: &Connection,
    run: &Run,
    table: &str,
    receipt: &Receipt,
) -> Result<()> {
    connection
        .execute(
            "INSERT INTO dms_partitions (task, table_name, partition, rows, receipt, committed_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, datetime('now'))",
            params![
                run.task,
                table,
                receipt.partition,
                i64::try_from(receipt.rows).unwrap_or(i64::MAX),
                to_json(receipt)?
            ],
        )
        .map(|_| ())
        .map_err(|error| convert(error, DOING))
}

/// Records that every partition of the table is there; refuses while one is missing.
pub(super) fn finish_table(connection: &Connection, run: &Run, table: &str) -> Result<()> {
    let failed = |error| convert(error, DOING);
    let planned: Option<String> = connection
        .query_row(
            "SELECT partitions FROM dms_tables WHERE task = ?1 AND table_name = ?2",
            [&run.task, table],
            |row| row.get(0),
        )
        .optional()
        .map_err(failed)?;
    let planned: Vec<Partition> = match planned {
        Some(json) => from_json(&json, "dms_tables")?,
        None => return Err(Error::schema("the table was not prepared").context("table", table)),
    };
    let held = receipts(connection, &run.task, table)?;
    Receipt::check_complete(&planned, &held).context("table", table)?;
    connection
        .execute(
            "UPDATE dms_tables SET finished_at = datetime('now') WHERE task = ?1 AND table_name = ?2",
            [&run.task, table],
        )
        .map(|_| ())
        .map_err(failed)
}
