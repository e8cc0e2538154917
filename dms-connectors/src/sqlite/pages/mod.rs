//! A table's rows straight from the pages of its file, as
//! <https://sqlite.org/fileformat2.html> lays them down.
//!
//! SQLite's virtual machine and the calls that fetch its values take most of a scan's time; here a
//! value goes from its page into an Arrow builder. SQLite still guards the file: it is read through
//! SQLite's own handle and under its read transaction, which keeps every page as it is in the
//! snapshot. Whatever is not a plain scan of a rowid table is left to a query, see [`PageScan::of`].

mod btree;
mod file;
mod record;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;

use dms_core::endpoint::{PartitionRange, ReadRequest};
use dms_core::schema::TableSchema;
use dms_core::value::Value;
use dms_core::{Error, Result};
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension};

use self::btree::RowidRange;
use self::file::PageFile;
use self::record::Rows;
use super::cursor::Cell;
use super::discover::rowid_name;
use super::error::convert;
use super::partition::column;
use super::snapshot::log_of;
use super::types::{Affinity, affinity};
use crate::sql::quote;

const DOING: &str = "the table's pages cannot be read";

/// A scan of a table's pages.
pub(super) struct PageScan<'a> {
    connection: &'a Connection,
    file: PageFile<'a>,
    /// Where the table's tree begins.
    root: u32,
    range: RowidRange,
    /// How many columns are stored.
    columns: usize,
    fields: Vec<Field>,
    /// The table and its rowid in SQL.
    table: String,
    rowid: &'static str,
}

/// Where a column's values are.
struct Field {
    name: String,
    /// Its place among the stored columns.
    place: usize,
    /// Whether a NULL stands for the rowid.
    is_rowid: bool,
    /// Whether integers stand for floats (<https://sqlite.org/datatype3.html> §2).
    is_real: bool,
    /// What rows have that are older than the column, once it is known.
    default: Option<Sql>,
}

/// Rows of a scan that were found together.
pub(super) struct PageRows<'a> {
    rows: &'a Rows,
    bytes: &'a [u8],
    fields: &'a [Field],
    /// Which of the rows.
    range: Range<usize>,
}

impl<'a> PageRows<'a> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    /// No fewer bytes than their values take on the page.
    pub(super) fn bytes_at_most(&self) -> usize {
        self.bytes.len()
    }

    /// The first of them, and the others.
    pub(super) fn split_at(&self, count: usize) -> (Self, Self) {
        let Self { rows, bytes, fields, range } = self;
        let middle = range.end.min(range.start + count);
        let part = |range| Self { rows, bytes, fields, range };
        (part(range.start..middle), part(middle..range.end))
    }

    /// The rowid of a row.
    pub(super) fn rowid(&self, row: usize) -> Option<i64> {
        self.rows.rowids().get(self.range.start + row).copied()
    }

    /// The values of each requested column.
    pub(super) fn columns(&self) -> impl Iterator<Item = PageColumn<'_>> {
        self.fields.iter().map(|field| PageColumn { rows: self, field })
    }
}

/// The values of one column in rows that were found together.
pub(super) struct PageColumn<'a> {
    rows: &'a PageRows<'a>,
    field: &'a Field,
}

impl<'a> PageColumn<'a> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The value in a row.
    #[expect(clippy::inline_always, reason = "once a value; measured")]
    #[inline(always)]
    pub(super) fn cell(&self, row: usize) -> Cell<'a> {
        let PageRows { rows, bytes, range, .. } = self.rows;
        match rows.cell(range.start + row, self.field.place, bytes) {
            None => self.field.default.as_ref().map_or(Cell::Null, Cell::from),
            Some(Cell::Null) if self.field.is_rowid => {
                self.rows.rowid(row).map_or(Cell::Null, Cell::Integer)
            }
            #[expect(clippy::cast_precision_loss, reason = "floats that SQLite found to be whole")]
            Some(Cell::Integer(value)) if self.field.is_real => Cell::Real(value as f64),
            Some(cell) => cell,
        }
    }
}

impl<'a> PageScan<'a> {
    /// The scan of a request, if it can be one: all rows of a rowid table or a range of rowids, of
    /// columns that are stored, in UTF-8, in a file whose pages are the snapshot. They are unless
    /// there is a write-ahead log with content: a log that is empty was so when the transaction
    /// began, as content stays while a reader may need it, and until the transaction ends nothing
    /// is moved from the log to the file (<https://sqlite.org/wal.html>).
    ///
    /// The connection is in a read transaction.
    pub(super) fn of(
        connection: &'a Connection,
        request: &ReadRequest,
        path: &Path,
    ) -> Result<Option<Self>> {
        let table = &*request.table;
        let Some(rowid) = rowid_name(table).filter(|_| request.filter.is_none()) else {
            return Ok(None);
        };
        let Some(file) = PageFile::of(connection)? else { return Ok(None) };
        if file.has_log() && std::fs::metadata(log_of(path)).is_ok_and(|log| log.len() > 0) {
            return Ok(None);
        }
        let failed = |error| convert(error, DOING);
        let root: Option<u32> = connection
            .query_row(
                "SELECT rootpage FROM main.sqlite_schema WHERE type = 'table' AND name = ?1",
                [&table.name.name],
                |row| row.get(0),
            )
            .optional()
            .map_err(failed)?;
        let Some(root) = root.filter(|root| *root > 0) else { return Ok(None) };
        let stored = stored_columns(connection, table).map_err(failed)?;
        let place_of = |name: &str| stored.iter().position(|stored| stored.name == name);
        let mut fields = Vec::with_capacity(request.columns.len());
        for at in &request.columns {
            let column = table.columns.get(*at).ok_or_else(|| {
                Error::unexpected("a request for a column that the table does not have")
            })?;
            // Computed when read, or gone: a query's matter.
            let Some(place) = place_of(&column.name) else { return Ok(None) };
            let Some(stored) = stored.get(place) else { return Ok(None) };
            fields.push(Field {
                name: column.name.clone(),
                place,
                is_rowid: stored.is_rowid,
                is_real: affinity(&stored.declaration) == Affinity::Real,
                default: None,
            });
        }
        let is_rowid = |name: &str| {
            name == rowid || stored.iter().any(|stored| stored.is_rowid && stored.name == name)
        };
        let Some(range) = rowids(&request.partition.range, is_rowid) else { return Ok(None) };
        let table = format!("main.{} AS t", quote(&table.name.name));
        let columns = stored.len();
        Ok(Some(Self { connection, file, root, range, columns, fields, table, rowid }))
    }

    /// Shows all rows, in the order of rowids and some at a time, until `show` says that no more
    /// are wanted.
    ///
    /// # Errors
    /// `Corrupt` for pages that are not those of a table, and those of `show`.
    pub(super) fn for_each(
        self,
        mut show: impl FnMut(&PageRows<'_>) -> Result<bool>,
    ) -> Result<()> {
        let Self { connection, mut file, root, range, columns, mut fields, table, rowid } = self;
        let newest = fields.iter().map(|field| field.place + 1).max().unwrap_or(0);
        btree::walk(&mut file, root, columns, range, &mut |rows, bytes| {
            if rows.fewest() < newest {
                for field in fields.iter_mut().filter(|field| field.default.is_none()) {
                    let rowids = rows.rowids().iter().enumerate();
                    let mut lacking =
                        rowids.filter(|(row, _)| rows.cell(*row, field.place, bytes).is_none());
                    let Some((_, lacks)) = lacking.next() else { continue };
                    let sql = format!(
                        "SELECT {} FROM {table} WHERE {} = ?1",
                        column(&field.name),
                        column(rowid)
                    );
                    let default = connection.query_row(&sql, [lacks], |row| row.get(0));
                    field.default = Some(default.map_err(|error| convert(error, DOING))?);
                }
            }
            show(&PageRows { rows, bytes, fields: &fields, range: 0..rows.rowids().len() })
        })
    }
}

/// A column as rows store it.
struct Stored {
    name: String,
    declaration: String,
    /// Whether it is another name of the rowid.
    is_rowid: bool,
}

/// The columns that rows store, in their order there.
fn stored_columns(connection: &Connection, table: &TableSchema) -> rusqlite::Result<Vec<Stored>> {
    let name = &table.name.name;
    // `INTEGER PRIMARY KEY DESC` is no rowid but a column with an index, for compatibility with
    // SQLite's past (<https://sqlite.org/lang_createtable.html#rowid>).
    let indexed_key = "SELECT 1 FROM pragma_index_list(?1, 'main') WHERE origin = 'pk'";
    let indexed_key = connection.prepare(indexed_key)?.exists([name])?;
    let mut statement = connection.prepare(
        "SELECT name, type, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
    )?;
    let columns = statement.query_map([name], |row| {
        let declaration: String = row.get(1)?;
        let key = row.get::<_, u32>(2)? > 0;
        let is_rowid = key && !indexed_key && declaration.eq_ignore_ascii_case("INTEGER");
        let computed_when_read = row.get::<_, u8>(3)? == 2;
        let stored = Stored { name: row.get(0)?, declaration, is_rowid };
        Ok((!computed_when_read).then_some(stored))
    })?;
    Ok(columns.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// A partition as rowids, if it is that.
fn rowids(range: &PartitionRange, is_rowid: impl Fn(&str) -> bool) -> Option<RowidRange> {
    let (columns, lower, upper) = match range {
        PartitionRange::Whole => return Some(RowidRange::ALL),
        PartitionRange::Columns { columns, lower, upper } => (columns, lower, upper),
        PartitionRange::Native(_) => return None,
    };
    let [only] = columns.as_slice() else { return None };
    let bound = |bound: &Option<Vec<Value>>| match bound.as_deref() {
        None => Some(None),
        Some([Value::Int(value)]) => Some(Some(*value)),
        Some(_) => None,
    };
    let (lower, upper) = (bound(lower)?, bound(upper)?);
    is_rowid(only).then(|| RowidRange::new(lower, upper))
}
