//! Columns that stand before a table's own in files, as DMS has them.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use dms_core::clock::now;
use dms_core::schema::{Column, LogicalType, TableSchema};
use dms_core::{Error, Result};

use crate::clock::timestamp;
use crate::settings::FolderSettings;

/// The column of the operation.
pub(crate) const OP: &str = "Op";

/// The column of the operation: always there in a file that has it at all.
pub(crate) fn op() -> Column {
    Column::new(OP, LogicalType::text()).required()
}

/// A table as files have it.
///
/// # Errors
/// `Schema` if two columns have one name.
pub(crate) fn file_table(table: &TableSchema, columns: Vec<Column>) -> Result<TableSchema> {
    for (at, column) in columns.iter().enumerate() {
        if columns.iter().skip(at + 1).any(|other| other.name == column.name) {
            return Err(Error::schema(format!(
                "files would have two columns {}; rename the table's by a transformation rule, or \
                 choose another name where it is that of a setting",
                column.name
            ))
            .context("table", &table.name));
        }
    }
    Ok(TableSchema::new(table.name.clone(), columns))
}

/// A table with the columns before its own that [`before_load`] names.
///
/// # Errors
/// As [`file_table`].
pub(crate) fn load_table(table: &TableSchema, before: &[String]) -> Result<TableSchema> {
    if before.is_empty() {
        return Ok(table.clone());
    }
    let added = before.iter().map(|name| match name.as_str() {
        OP => op(),
        name => Column::new(name, LogicalType::text()),
    });
    file_table(table, added.chain(table.columns.iter().cloned()).collect())
}

/// The names of the columns before the table's own in files of a load, all of them texts.
pub(crate) fn before_load(settings: &FolderSettings) -> Vec<String> {
    let op = settings.include_op_for_full_load.then(|| OP.to_owned());
    op.into_iter().chain(settings.timestamp_column_name.clone()).collect()
}

/// A column of the same text in so many rows.
pub(crate) fn repeated(text: &str, rows: usize) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows)))
}

/// Rows of a load as files have them; `file` is what [`load_table`] made of their table. `begun` is
/// the time to tell, in microseconds since 1970, or `None` for that of this moment.
pub(crate) fn load_rows(
    rows: RecordBatch,
    file: &TableSchema,
    settings: &FolderSettings,
    begun: Option<i64>,
) -> Result<RecordBatch> {
    let same = |text| repeated(text, rows.num_rows());
    let mut columns = Vec::with_capacity(file.columns.len());
    if settings.include_op_for_full_load {
        columns.push(same("I"));
    }
    if settings.timestamp_column_name.is_some() {
        columns.push(same(&timestamp(begun.unwrap_or_else(now))));
    }
    if columns.is_empty() {
        return Ok(rows);
    }
    columns.extend(rows.columns().iter().cloned());
    Ok(RecordBatch::try_new(file.arrow_schema(), columns)?)
}
