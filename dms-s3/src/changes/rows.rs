//! Changes as rows of files: what happened, then the row.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, StringBuilder, UInt32Array};
use arrow::compute::{nullif, take_record_batch};
use dms_core::change::{ChangeBatch, Operation, Transaction};
use dms_core::schema::{Column, LogicalType, TableSchema};
use dms_core::value::Value;
use dms_core::{Error, Result};

use crate::settings::FolderSettings;
use crate::{clock, columns};

/// The columns that files of a table's changes have.
///
/// # Errors
/// `Schema` if the table has a column of a name that is needed.
pub(crate) fn file_table(table: &TableSchema, settings: &FolderSettings) -> Result<TableSchema> {
    let mut columns = Vec::with_capacity(table.columns.len() + 3);
    if settings.changes_have_op() {
        columns.push(columns::op());
    }
    let text = |name: &String| Column::new(name, LogicalType::text());
    columns.extend(settings.timestamp_column_name.as_ref().map(text));
    columns.extend(table.columns.iter().cloned().map(|mut column| {
        column.nullable = true;
        column
    }));
    columns.extend(settings.cdc_unchanged_column.as_ref().map(text));
    columns::file_table(table, columns)
}

/// A row of a file: which record, and what it is called there.
struct Line {
    record: u32,
    op: &'static str,
}

/// Rows of a file.
pub(crate) struct FileRows {
    pub(crate) rows: RecordBatch,
    /// The place of each in its event.
    pub(crate) sequences: Vec<u64>,
}

/// The records of a batch as rows of a file; `None` if none of them is written.
///
/// # Errors
/// `Data` for a row of which a column is not known; `Settings` for one that may have come or changed,
/// where that decides.
pub(crate) fn file_rows(
    batch: &ChangeBatch,
    transactions: &[Transaction],
    file: &TableSchema,
    settings: &FolderSettings,
) -> Result<Option<FileRows>> {
    let lines = lines(batch, settings)?;
    if lines.is_empty() {
        return Ok(None);
    }
    let records: UInt32Array = lines.iter().map(|line| Some(line.record)).collect();
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(file.columns.len());
    if settings.changes_have_op() {
        let ops = StringArray::from_iter_values(lines.iter().map(|line| line.op));
        columns.push(Arc::new(ops));
    }
    if settings.timestamp_column_name.is_some() {
        columns.push(times(batch, &lines, transactions));
    }
    let identity = batch.identity().columns(batch.table().columns.len());
    let values = take_record_batch(batch.rows(), &records)?;
    for (at, column) in values.columns().iter().skip(dms_core::change::CONTROL_COLUMNS).enumerate()
    {
        // What a record does not hold is NULL, whatever stands there.
        let hidden: BooleanArray = lines
            .iter()
            .map(|line| {
                let record = line.record as usize;
                let has_row = batch.operation(record).is_some_and(Operation::has_row);
                let held =
                    if has_row { !batch.is_unchanged(record, at) } else { identity.contains(&at) };
                Some(!held)
            })
            .collect();
        let column = if hidden.true_count() == 0 {
            Arc::clone(column)
        } else {
            nullif(column.as_ref(), &hidden)?
        };
        columns.push(column);
    }
    if settings.cdc_unchanged_column.is_some() {
        columns.push(unchanged(batch, &lines)?);
    }
    let rows = RecordBatch::try_new(file.arrow_schema(), columns)?;
    let sequences = lines.iter().map(|line| sequence_of(batch, line)).collect();
    Ok(Some(FileRows { rows, sequences }))
}

fn lines(batch: &ChangeBatch, settings: &FolderSettings) -> Result<Vec<Line>> {
    let updates = !settings.cdc_inserts_only;
    let deletes = updates && !settings.cdc_inserts_and_updates;
    let mut lines = Vec::with_capacity(batch.len());
    let mut moved_from = None;
    for record in 0..batch.len() {
        let number = u32::try_from(record)
            .map_err(|_| Error::unexpected("an event has more than 4 billion changes"))?;
        let mut line = |op, wanted: bool| {
            if wanted {
                lines.push(Line { record: number, op });
            }
        };
        match batch.operation(record) {
            Some(Operation::UpdateBefore) => {
                moved_from = Some(record);
                continue;
            }
            Some(Operation::Update) if moved_from.is_some_and(|old| moves(batch, old, record)) => {
                // Whoever goes by the key would keep the old row: it goes, and another comes.
                if has_unchanged(batch, record) && deletes {
                    return Err(unknown(batch, record));
                }
                let old = moved_from.unwrap_or(record);
                if deletes {
                    let old = u32::try_from(old).unwrap_or(number);
                    lines.push(Line { record: old, op: "D" });
                    lines.push(Line { record: number, op: "I" });
                } else {
                    line("U", updates);
                }
            }
            Some(Operation::Insert) => line("I", true),
            Some(Operation::Upsert) if !updates => {
                return Err(Error::settings(
                    "the source tells that a row is there now, not whether it came or changed, so \
                     that cdc-inserts-only cannot be kept; use cdc-inserts-and-updates",
                )
                .context("table", &batch.table().name));
            }
            Some(Operation::Update | Operation::Upsert) => line("U", updates),
            Some(Operation::Delete | Operation::Remove) => line("D", deletes),
            None => return Err(Error::schema("a change has an operation that is not known")),
        }
        moved_from = None;
    }
    if settings.cdc_unchanged_column.is_none()
        && let Some(line) = lines.iter().find(|line| has_unchanged(batch, line.record as usize))
    {
        return Err(unknown(batch, line.record as usize));
    }
    Ok(lines)
}

/// Whether an update gives a row another identity.
fn moves(batch: &ChangeBatch, old: usize, new: usize) -> bool {
    let columns = batch.table().columns.len();
    batch.identity().columns(columns).into_iter().any(|at| {
        let (Some(column), Some(array)) = (batch.table().columns.get(at), batch.column(at)) else {
            return true;
        };
        let value = |record| Value::from_array(array.as_ref(), record, &column.logical_type);
        if batch.is_unchanged(new, at) {
            return false;
        }
        match (value(old), value(new)) {
            (Ok(old), Ok(new)) => old != new,
            _ => true,
        }
    })
}

fn has_unchanged(batch: &ChangeBatch, record: usize) -> bool {
    batch.operation(record).is_some_and(Operation::has_row)
        && (0..batch.table().columns.len()).any(|at| batch.is_unchanged(record, at))
}

fn unknown(batch: &ChangeBatch, record: usize) -> Error {
    let column = batch
        .table()
        .columns
        .iter()
        .enumerate()
        .find(|(at, _)| batch.is_unchanged(record, *at))
        .map(|(_, column)| column.name.as_str());
    Error::data(
        "the source does not log a value that an update left as it was, so that the row cannot be \
         written; let it log whole rows (PostgreSQL: REPLICA IDENTITY FULL), or, for updates that \
         keep their key, set cdc-unchanged-column, which names such columns",
    )
    .context("column", column.unwrap_or_default())
    .context("table", &batch.table().name)
}

/// The names of the columns that a row does not hold, as a JSON array; NULL if it holds all.
fn unchanged(batch: &ChangeBatch, lines: &[Line]) -> Result<ArrayRef> {
    let mut texts = StringBuilder::new();
    for line in lines {
        let record = line.record as usize;
        if !has_unchanged(batch, record) {
            texts.append_null();
            continue;
        }
        let names: Vec<&str> = batch
            .table()
            .columns
            .iter()
            .enumerate()
            .filter(|(at, _)| batch.is_unchanged(record, *at))
            .map(|(_, column)| column.name.as_str())
            .collect();
        let json = serde_json::to_string(&names)
            .map_err(|error| Error::unexpected("JSON cannot be written").with_source(error))?;
        texts.append_value(json);
    }
    Ok(Arc::new(texts.finish()))
}

/// When each row's transaction was committed, as DMS writes it.
fn times(batch: &ChangeBatch, lines: &[Line], transactions: &[Transaction]) -> ArrayRef {
    let mut texts = StringBuilder::new();
    for line in lines {
        let at = transaction_of(transactions, sequence_of(batch, line));
        let at = at.and_then(|transaction| transaction.committed_at);
        match at {
            None => texts.append_null(),
            Some(at) => texts.append_value(clock::timestamp(at)),
        }
    }
    Arc::new(texts.finish())
}

fn sequence_of(batch: &ChangeBatch, line: &Line) -> u64 {
    batch.sequences().get(line.record as usize).copied().unwrap_or_default()
}

/// The transaction that a record is of.
pub(crate) fn transaction_of(transactions: &[Transaction], sequence: u64) -> Option<&Transaction> {
    transactions.get(transactions.partition_point(|transaction| transaction.end <= sequence))
}
