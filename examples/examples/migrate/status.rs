//! `migrate status`.

use std::path::Path;
use std::process::ExitCode;

use dms_core::endpoint::{LogStatus, TaskRecord};
use dms_core::task::{MigrationType, TaskDefinition};
use dms_core::{Result, ResultExt};
use indicatif::{DecimalBytes, HumanCount};
use serde_json::{Value as Json, json};

use crate::task;

/// Tells what the target holds of a task.
pub(crate) async fn status(path: &Path, as_json: bool) -> Result<ExitCode> {
    let definition = task::read(path)?;
    let target = task::change_target(&definition).await?;
    let record = target.look_up(&definition.name).await.context("side", "target")?;
    // Of a task that was deleted the target remembers that it was there, and no more.
    let record = record.filter(|record| {
        !record.progress.tables.is_empty() || record.replication.position.is_some()
    });
    let log = match definition.migration_type {
        MigrationType::FullLoad => None,
        _ if record.is_none() => None,
        _ => Some(log(&definition).await?),
    };
    if as_json {
        println!("{:#}", to_json(&definition, record.as_ref(), log.as_ref()));
    } else {
        print(&definition, record.as_ref(), log.as_ref());
    }
    Ok(ExitCode::SUCCESS)
}

async fn log(definition: &TaskDefinition) -> Result<LogStatus> {
    let source = task::change_source(definition).await?;
    source.log_status(&definition.name).await.context("side", "source")
}

/// A table's state in DMS's words.
fn state(finished: bool, suspended: Option<&String>) -> &'static str {
    match (finished, suspended) {
        (_, Some(_)) => "Table error",
        (true, None) => "Table completed",
        (false, None) => "Full load",
    }
}

fn to_json(
    definition: &TaskDefinition,
    record: Option<&TaskRecord>,
    log: Option<&LogStatus>,
) -> Json {
    let tables = record.into_iter().flat_map(|record| {
        record.progress.tables.iter().map(|(name, table)| {
            let noted = record.replication.tables.get(name);
            let suspended = noted.and_then(|noted| noted.suspended.as_ref());
            json!({
                "name": name.to_string(),
                "state": state(table.finished, suspended),
                "rows": table.receipts.iter().map(|receipt| receipt.rows).sum::<u64>(),
                "partitions": table.partitions.len(),
                "partitions-loaded": table.receipts.len(),
                "suspended": suspended,
            })
        })
    });
    let tables: Vec<Json> = tables.collect();
    json!({
        "task": definition.name,
        "known": record.is_some(),
        "position": record.and_then(|record| record.replication.position.as_ref()),
        "committed-at": record.and_then(|record| record.committed_at),
        "exceptions": record.map_or(0, |record| record.exceptions),
        "log-end": log.map(|log| &log.end),
        "log-retained-bytes": log.and_then(|log| log.retained_bytes),
        "tables": tables,
    })
}

fn print(definition: &TaskDefinition, record: Option<&TaskRecord>, log: Option<&LogStatus>) {
    println!("task {}", definition.name);
    let Some(record) = record else {
        println!("  the target knows nothing of it");
        return;
    };
    if let Some(position) = &record.replication.position {
        println!("  applied up to      {position}");
    }
    if let Some(log) = log {
        println!("  log ends at        {}", log.end);
        if let Some(bytes) = log.retained_bytes {
            println!("  log kept for it    {}", DecimalBytes(bytes));
        }
    }
    println!("  changes passed over {}", HumanCount(record.exceptions));
    for (name, table) in &record.progress.tables {
        let noted = record.replication.tables.get(name);
        let suspended = noted.and_then(|noted| noted.suspended.as_ref());
        let rows = table.receipts.iter().map(|receipt| receipt.rows).sum();
        println!("  {name}: {}, {} rows", state(table.finished, suspended), HumanCount(rows));
        if let Some(reason) = suspended {
            println!("    {reason}");
        }
    }
}
