//! Tables in memory as rows of values, for changes.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_empty_array};
use arrow::compute::concat;

use crate::change::Identity;
use crate::schema::TableSchema;
use crate::value::Value;
use crate::{Error, Result};

/// The rows of batches, value by value.
///
/// # Errors
/// `Schema` for batches of another table.
pub(super) fn rows_of(table: &TableSchema, batches: &[RecordBatch]) -> Result<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = table.columns.iter().zip(batch.columns());
            let values = values
                .map(|(column, array)| Value::from_array(array, row, &column.logical_type))
                .collect::<Result<_>>()?;
            rows.push(values);
        }
    }
    Ok(rows)
}

/// Rows as one batch.
///
/// # Errors
/// `Data` for a value that is none of its column's type.
pub(super) fn batch_of(table: &TableSchema, rows: &[Vec<Value>]) -> Result<RecordBatch> {
    let columns = table.columns.iter().enumerate().map(|(at, column)| -> Result<ArrayRef> {
        let values = rows
            .iter()
            .map(|row| row.get(at).unwrap_or(&Value::Null).to_array(&column.logical_type))
            .collect::<Result<Vec<_>>>()?;
        let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
        match values.is_empty() {
            true => Ok(new_empty_array(&column.logical_type.arrow_type())),
            false => Ok(concat(&values)?),
        }
    });
    let columns = columns.collect::<Result<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(table.arrow_schema(), columns, &options).map_err(|error| {
        Error::data("a row does not fit its table").with_source(error).context("table", &table.name)
    })
}

/// The values by which a row is found.
pub(super) fn key_of(row: &[Value], identity: &Identity) -> Vec<Value> {
    let places = identity.columns(row.len());
    places.iter().filter_map(|at| row.get(*at).cloned()).collect()
}

/// How a table's rows are found: by its primary key, or else whole.
#[must_use]
pub(super) fn identity_of(table: &TableSchema) -> Identity {
    let key: Option<Vec<usize>> =
        table.primary_key.iter().map(|name| table.column_index(name)).collect();
    match key {
        Some(key) if !key.is_empty() => Identity::Key(key),
        _ => Identity::WholeRow,
    }
}

/// The same table, with other rows.
pub(super) type Table = (Arc<TableSchema>, Vec<Vec<Value>>);
