//! Rows that are out of their table for a moment, since some would collide with others that are
//! still to be changed: values of a unique key that swap or shift.

use dms_core::Result;
use rusqlite::{Connection, Statement};

use crate::sql::quote;
use crate::sqlite::error::convert;

const DOING: &str = "rows cannot be changed together";

/// The place of the rows, a temporary table without keys.
pub(super) struct Moved<'a> {
    connection: &'a Connection,
    table: String,
    /// The columns that are not generated.
    columns: Vec<&'a str>,
}

impl<'a> Moved<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        table: &str,
        columns: Vec<&'a str>,
    ) -> Result<Self> {
        let moved = Self { connection, table: format!("main.{}", quote(table)), columns };
        let sql = format!(
            "DROP TABLE IF EXISTS temp.dms_moved; \
             CREATE TEMP TABLE dms_moved AS SELECT {} FROM {} WHERE 0",
            moved.list(&[]),
            moved.table
        );
        connection.execute_batch(&sql).map_err(|error| convert(error, DOING))?;
        Ok(moved)
    }

    /// The columns, those of `set` as parameters in that order.
    fn list(&self, set: &[&str]) -> String {
        let columns = self.columns.iter().map(|column| {
            match set.iter().position(|name| name.eq_ignore_ascii_case(column)) {
                Some(at) => format!("?{}", at + 1),
                None => quote(column),
            }
        });
        columns.collect::<Vec<_>>().join(", ")
    }

    fn prepare(&self, sql: &str) -> Result<Statement<'a>> {
        self.connection.prepare(sql).map_err(|error| convert(error, DOING))
    }

    /// Copies a row here, with the values of `set` changed.
    pub(super) fn take(&self, set: &[&str], key: &str) -> Result<Statement<'a>> {
        self.prepare(&format!(
            "INSERT INTO temp.dms_moved SELECT {} FROM {} WHERE {key}",
            self.list(set),
            self.table
        ))
    }

    /// Deletes a row there.
    pub(super) fn delete(&self, key: &str) -> Result<Statement<'a>> {
        self.prepare(&format!("DELETE FROM {} WHERE {key}", self.table))
    }

    /// Moves all rows back.
    pub(super) fn put_back(self) -> Result<()> {
        let list = self.list(&[]);
        let sql = format!(
            "INSERT INTO {} ({list}) SELECT {list} FROM temp.dms_moved; DROP TABLE temp.dms_moved",
            self.table
        );
        self.connection
            .execute_batch(&sql)
            .map_err(|error| convert(error, "rows cannot be written"))
    }
}
