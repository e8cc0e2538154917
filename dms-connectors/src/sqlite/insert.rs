//! Rows into a table.

use arrow::array::RecordBatch;
use dms_core::Result;
use dms_core::schema::TableSchema;
use rusqlite::{CachedStatement, Connection};

use super::bind::{self, Parameter};
use super::error::convert;
use super::tables::existing_columns;
use crate::sql::{quote, quote_all};

/// A prepared INSERT with an encoder a column.
pub(super) struct Insert<'a> {
    statement: CachedStatement<'a>,
    parameters: Vec<Parameter>,
    scratch: String,
}

impl<'a> Insert<'a> {
    pub(super) fn new(connection: &'a Connection, table: &TableSchema) -> Result<Self> {
        let existing = existing_columns(connection, &table.name.name)?;
        let parameters = bind::written(table, &existing)?;
        let name = quote(&table.name.name);
        let sql = if parameters.is_empty() {
            format!("INSERT INTO main.{name} DEFAULT VALUES")
        } else {
            format!(
                "INSERT INTO main.{name} ({}) VALUES ({})",
                quote_all(parameters.iter().map(|parameter| &parameter.name)),
                vec!["?"; parameters.len()].join(", ")
            )
        };
        let statement = connection.prepare_cached(&sql);
        let statement = statement.map_err(|error| convert(error, "rows cannot be written"))?;
        Ok(Self { statement, parameters, scratch: String::new() })
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<()> {
        (0..batch.num_rows()).try_for_each(|row| self.row(batch, row))
    }

    pub(super) fn row(&mut self, batch: &RecordBatch, row: usize) -> Result<()> {
        bind::execute(&mut self.statement, &self.parameters, batch, row, &mut self.scratch)
            .map(|_| ())
    }
}
