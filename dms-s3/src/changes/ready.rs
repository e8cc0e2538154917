//! Changes of a step, made ready for the files that they go into.

use arrow::array::RecordBatch;
use dms_core::change::{ChangeBatch, ChangeRows, Transaction};
use dms_core::schema::TableSchema;
use dms_core::{Error, Result};

use super::rows::{FileRows, file_rows, file_table};
use crate::date_partition;
use crate::settings::FolderSettings;

/// Rows of one table, ready for a file.
pub(crate) struct Ready {
    pub(crate) table: TableSchema,
    pub(crate) rows: RecordBatch,
    /// Below the table's own folder.
    pub(crate) folders: Vec<String>,
    pub(crate) first: Transaction,
    pub(crate) last: Transaction,
}

/// Turns changes into rows of files.
///
/// # Errors
/// `Schema` for a change of no transaction, and those of [`file_table`], [`file_rows`] and
/// [`folders`].
pub(crate) fn ready(rows: &ChangeRows, settings: &FolderSettings) -> Result<Vec<Ready>> {
    let mut ready = Vec::new();
    for batch in rows.batches.iter().filter(|batch| !batch.is_empty()) {
        let table = file_table(batch.table(), settings)?;
        for Run { changes, folders, first, last } in runs(batch, &rows.transactions, settings)? {
            let rows = file_rows(&changes, &rows.transactions, &table, settings)?;
            if let Some(FileRows { rows, .. }) = rows {
                let (table, first, last) = (table.clone(), first.clone(), last.clone());
                ready.push(Ready { table, rows, folders, first, last });
            }
        }
    }
    Ok(ready)
}

/// Changes of following transactions that go into one place.
struct Run<'a> {
    changes: ChangeBatch,
    folders: Vec<String>,
    first: &'a Transaction,
    last: &'a Transaction,
}

fn runs<'a>(
    batch: &ChangeBatch,
    transactions: &'a [Transaction],
    settings: &FolderSettings,
) -> Result<Vec<Run<'a>>> {
    let mut runs: Vec<Run<'a>> = Vec::new();
    let (mut from, mut at) = (0, 0);
    for transaction in transactions {
        let end = batch.sequences().partition_point(|sequence| *sequence < transaction.end);
        if end <= at {
            continue;
        }
        let folders = folders(batch.table(), transaction, settings)?;
        match runs.last_mut().filter(|run| run.folders == folders) {
            Some(run) => {
                run.changes = batch.slice(from, end - from);
                run.last = transaction;
            }
            None => {
                from = at;
                let changes = batch.slice(from, end - from);
                runs.push(Run { changes, folders, first: transaction, last: transaction });
            }
        }
        at = end;
    }
    if at < batch.len() {
        let error = Error::schema("a change is of no transaction");
        return Err(error.context("table", &batch.table().name));
    }
    Ok(runs)
}

/// The folders that a transaction's changes of a table go into, below the table's own.
///
/// # Errors
/// `Settings` if they are those of a date that the source does not tell.
fn folders(
    table: &TableSchema,
    transaction: &Transaction,
    settings: &FolderSettings,
) -> Result<Vec<String>> {
    if !settings.date_partition_enabled {
        return Ok(Vec::new());
    }
    let (sequence, delimiter) =
        (settings.date_partition_sequence, settings.date_partition_delimiter);
    match transaction.committed_at {
        Some(at) => Ok(date_partition::folders(at, sequence, delimiter)),
        None => Err(Error::settings(
            "the source does not tell when a transaction was committed, so that \
             date-partition-enabled has no folder for its changes; turn it off",
        )
        .context("table", &table.name)
        .context("position", &transaction.position)),
    }
}
