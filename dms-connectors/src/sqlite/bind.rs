//! Arrow values as parameters of a statement.

use arrow::array::RecordBatch;
use dms_core::schema::{Column, TableSchema};
use dms_core::{Error, Result};
use rusqlite::Statement;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::encode::{Bound, Encoder};
use super::error::convert;
use super::tables::Existing;
use super::types;

/// A column on its way from a batch into a statement.
pub(super) struct Parameter {
    /// Its place in the batches.
    pub(super) place: usize,
    /// Its name at the target.
    pub(super) name: String,
    pub(super) encoder: Encoder,
}

impl Parameter {
    /// The parameter of a column, encoded as the target's column holds it.
    ///
    /// # Errors
    /// `Unsupported` for a type that SQLite cannot hold.
    pub(super) fn new(place: usize, column: &Column, existing: Option<&Existing>) -> Result<Self> {
        let declaration = existing.map_or("", |found| &found.declaration);
        let encoder = Encoder::new(column)?.for_affinity(types::affinity(declaration));
        Ok(Self { place, name: column.name.clone(), encoder })
    }
}

/// Executes a statement with the values of one row; how many rows it changed.
pub(super) fn execute(
    statement: &mut Statement<'_>,
    parameters: &[Parameter],
    batch: &RecordBatch,
    row: usize,
    scratch: &mut String,
) -> Result<usize> {
    bind(statement, parameters, batch, row, scratch)?;
    statement
        .raw_execute()
        .map_err(|error| convert(error, "a row cannot be written").context("row of the batch", row))
}

/// Gives a statement the values of one row.
pub(super) fn bind(
    statement: &mut Statement<'_>,
    parameters: &[Parameter],
    batch: &RecordBatch,
    row: usize,
    scratch: &mut String,
) -> Result<()> {
    for (index, parameter) in parameters.iter().enumerate() {
        let located = |error: Error| {
            error.context("column", &parameter.name).context("row of the batch", row)
        };
        let array = batch
            .columns()
            .get(parameter.place)
            .ok_or_else(|| Error::schema("a batch has fewer columns than its table"))?;
        let bound = parameter.encoder.value(array.as_ref(), row, scratch).map_err(located)?;
        let value = match &bound {
            Bound::Null => ValueRef::Null,
            Bound::Integer(value) => ValueRef::Integer(*value),
            Bound::Real(value) => ValueRef::Real(*value),
            Bound::Text(text) => ValueRef::Text(text.as_bytes()),
            Bound::Scratch => ValueRef::Text(scratch.as_bytes()),
            Bound::RawText(bytes) => ValueRef::Text(bytes),
            Bound::Blob(bytes) => ValueRef::Blob(bytes),
            Bound::OwnedBlob(bytes) => ValueRef::Blob(bytes),
        };
        statement
            .raw_bind_parameter(index + 1, ToSqlOutput::Borrowed(value))
            .map_err(|error| located(convert(error, "a value cannot be written")))?;
    }
    Ok(())
}

/// The column of a target's table by its name, which SQLite takes in any case.
pub(super) fn find<'a>(existing: &'a [Existing], name: &str) -> Option<&'a Existing> {
    existing.iter().find(|found| found.name.eq_ignore_ascii_case(name))
}

/// The columns of a table that are written: those that the target does not generate itself.
pub(super) fn written(table: &TableSchema, existing: &[Existing]) -> Result<Vec<Parameter>> {
    let columns = table.columns.iter().enumerate();
    let columns = columns.map(|(place, column)| (place, column, find(existing, &column.name)));
    let columns = columns.filter(|(_, _, found)| !found.is_some_and(|found| found.generated));
    columns.map(|(place, column, found)| Parameter::new(place, column, found)).collect()
}
