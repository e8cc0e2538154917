//! The rows of one partition as record batches.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use dms_core::batch::BatchSender;
use dms_core::endpoint::{PartitionRange, ReadRequest};
use dms_core::mapping::{Filter, rows_in_range};
use dms_core::schema::{LogicalType, TableSchema};
use dms_core::{Error, Result};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode};

use super::cursor::{self, Cell, Cursor};
use super::decode::{Decode, Misfit, decoder};
use super::discover::rowid_name;
use super::error::convert;
use super::pages::{PageRows, PageScan};
use super::partition::{Condition, column};
use super::settings::{SqliteSettings, Temporal};
use super::types;
use crate::sql::quote;

const DOING: &str = "the table cannot be read";

/// The most bytes of a batch, whatever is asked for: with one more value, of SQLite's longest, its
/// columns stay below the 2^31 of Arrow's offsets.
const BATCH_BYTES_MAX: usize = 1 << 30;

/// Reads a partition and sends its batches; ends early, and in good order, when nobody takes them
/// any more.
pub(super) fn read(
    connection: &Connection,
    request: &ReadRequest,
    settings: &SqliteSettings,
    sender: &BatchSender,
) -> Result<()> {
    match PageScan::of(connection, request, &settings.path)? {
        Some(scan) => {
            let read = request.projected()?;
            let batches = Batches::new(request, None, read, settings.temporal, sender)?;
            read_pages(scan, batches)
        }
        None => read_query(connection, request, settings.temporal, sender),
    }
}

fn read_pages(scan: PageScan<'_>, mut batches: Batches<'_>) -> Result<()> {
    let mut wanted = true;
    scan.for_each(|rows| {
        let (mut now, mut rest) = rows.split_at(batches.room(rows));
        while now.len() > 0 && wanted {
            batches.extend(&now)?;
            wanted = batches.send_if_full()?;
            (now, rest) = rest.split_at(batches.room(&rest));
        }
        Ok(wanted)
    })?;
    if wanted { batches.send().map(|_| ()) } else { Ok(()) }
}

fn read_query(
    connection: &Connection,
    request: &ReadRequest,
    spelling: Temporal,
    sender: &BatchSender,
) -> Result<()> {
    let table = &*request.table;
    let mut condition = Condition::default();
    let utf8 = cursor::is_utf8(connection).map_err(|error| convert(error, DOING))?;
    let range = &request.partition.range;
    let range = (!condition.partition(table, range, utf8)?).then_some(range);
    if let Some(filter) = &request.filter {
        check(table, filter)?;
        condition.filter(table, filter, utf8);
    }
    let read = columns_read(request, range)?;
    let mut cursor = query(connection, table, &read, &condition)?;
    let width = read.columns.len();
    let mut batches = Batches::new(request, range, read, spelling, sender)?;
    while cursor.step().map_err(|error| convert(error, DOING))? {
        let appended = batches.append((0..width).map(|index| cursor.value(index)));
        appended.map_err(|(index, misfit)| {
            let locator: Vec<Cell<'_>> =
                (width..cursor.columns()).map(|place| cursor.value(place)).collect();
            misfit_error(&batches.read, index, cursor.value(index), &locator, misfit)
        })?;
        if !batches.send_if_full()? {
            return Ok(());
        }
    }
    batches.send().map(|_| ())
}

/// The requested columns, then those that rows are chosen by.
fn columns_read(request: &ReadRequest, range: Option<&PartitionRange>) -> Result<TableSchema> {
    let filtered = request.filter.iter().flat_map(|filter| &filter.columns);
    let mut chosen_by: Vec<&String> = filtered.map(|(name, _)| name).collect();
    if let Some(PartitionRange::Columns { columns, .. }) = range {
        chosen_by.extend(columns);
    }
    let mut places = request.columns.clone();
    for name in chosen_by {
        let place = request.table.column_index(name).ok_or_else(|| {
            Error::settings("the table does not have the column that rows are chosen by")
                .context("column", name)
        })?;
        if !places.contains(&place) {
            places.push(place);
        }
    }
    ReadRequest { columns: places, ..request.clone() }.projected()
}

/// Collects rows into batches and sends them.
struct Batches<'a> {
    request: &'a ReadRequest,
    /// The partition's range, unless the rows are all in it.
    range: Option<&'a PartitionRange>,
    /// What is read, and the Arrow schema of it.
    read: TableSchema,
    schema: SchemaRef,
    decoders: Vec<Box<dyn Decode>>,
    sender: &'a BatchSender,
    /// Bytes that every row takes at least.
    row_bytes: usize,
    /// Of the batch under way.
    rows: usize,
    bytes: usize,
}

impl<'a> Batches<'a> {
    fn new(
        request: &'a ReadRequest,
        range: Option<&'a PartitionRange>,
        read: TableSchema,
        spelling: Temporal,
        sender: &'a BatchSender,
    ) -> Result<Self> {
        let decoders = read.columns.iter().map(|column| decoder(column, spelling));
        Ok(Self {
            request,
            range,
            decoders: decoders.collect::<Result<_>>()?,
            row_bytes: read.columns.iter().map(|column| fixed_bytes(&column.logical_type)).sum(),
            schema: read.arrow_schema(),
            read,
            sender,
            rows: 0,
            bytes: 0,
        })
    }

    /// Decodes a row; or says which value is not of its column's type.
    #[inline]
    fn append<'r>(
        &mut self,
        row: impl Iterator<Item = Cell<'r>>,
    ) -> std::result::Result<(), (usize, Misfit)> {
        for (index, (decoder, cell)) in self.decoders.iter_mut().zip(row).enumerate() {
            self.bytes += decoder.append(cell).map_err(|misfit| (index, misfit))?;
        }
        self.rows += 1;
        self.bytes += self.row_bytes;
        Ok(())
    }

    /// Decodes rows of a page.
    fn extend(&mut self, rows: &PageRows<'_>) -> Result<()> {
        for (index, column) in rows.columns().enumerate() {
            let Some(decoder) = self.decoders.get_mut(index) else { break };
            match decoder.extend(&column) {
                Ok(bytes) => self.bytes += bytes,
                Err((row, misfit)) => {
                    let rowid = rows.rowid(row).map(Cell::Integer);
                    let cell = column.cell(row);
                    return Err(misfit_error(&self.read, index, cell, rowid.as_slice(), misfit));
                }
            }
        }
        self.rows += rows.len();
        self.bytes += self.row_bytes * rows.len();
        Ok(())
    }

    /// How many of the rows the batch may have: all that surely fit, else one by one.
    fn room(&self, rows: &PageRows<'_>) -> usize {
        let bytes = rows.bytes_at_most() + self.row_bytes * rows.len();
        let fits = self.rows + rows.len() <= self.request.limit.rows
            && self.bytes.saturating_add(bytes) <= self.request.limit.bytes;
        if fits { rows.len() } else { 1 }
    }

    /// Whether more rows are wanted.
    #[inline]
    fn send_if_full(&mut self) -> Result<bool> {
        let limit = self.request.limit;
        if self.rows < limit.rows && self.bytes < limit.bytes.min(BATCH_BYTES_MAX) {
            return Ok(true);
        }
        self.send()
    }

    /// Sends the rows collected, if any; whether more are wanted.
    fn send(&mut self) -> Result<bool> {
        if self.rows == 0 {
            return Ok(true);
        }
        let batch = self.batch(self.rows)?;
        (self.rows, self.bytes) = (0, 0);
        if batch.num_rows() == 0 {
            return Ok(!self.sender.is_closed());
        }
        // A reader that is gone wants nothing.
        Ok(self.sender.blocking_send(batch).is_ok())
    }

    fn batch(&mut self, rows: usize) -> Result<RecordBatch> {
        let columns = self.decoders.iter_mut().map(|decoder| decoder.finish()).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::clone(&self.schema);
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)
            .map_err(|error| self.null_misfit(error))?;
        if self.range.is_none() && self.request.filter.is_none() {
            return Ok(batch);
        }
        let batch = match self.range {
            Some(range) => rows_in_range(&self.read, range, &batch)?,
            None => batch,
        };
        let batch = match &self.request.filter {
            Some(filter) => filter.apply(&self.read, &batch)?,
            None => batch,
        };
        let requested: Vec<usize> = (0..self.request.columns.len()).collect();
        Ok(batch.project(&requested)?)
    }

    /// The only thing that a decoder cannot see is whether its column may be NULL.
    fn null_misfit(&self, error: arrow::error::ArrowError) -> Error {
        Error::data(
            "NULL in a column declared NOT NULL; correct the value (`PRAGMA integrity_check` finds \
             its row), or exclude the table",
        )
        .with_source(error)
    }
}

/// The error of a value of a column, by the column's number, in the row that `locator` names.
pub(super) fn misfit_error(
    read: &TableSchema,
    index: usize,
    cell: Cell<'_>,
    locator: &[Cell<'_>],
    misfit: Misfit,
) -> Error {
    let found = cell.kind();
    let Some(column) = read.columns.get(index) else {
        return Error::unexpected("a value outside the row");
    };
    let locator: Vec<String> = locator.iter().map(|cell| show(*cell)).collect();
    let temporal = matches!(
        column.logical_type,
        LogicalType::Time { .. } | LogicalType::Timestamp { .. } | LogicalType::TimestampTz { .. }
    );
    let remedy = if temporal && matches!(cell, Cell::Text(_)) {
        "take other spellings by the source's option temporal: \"iso-8601\", or "
    } else {
        ""
    };
    Error::data(format!(
        "{found} where a column of type {} holds {}; correct the value, or {remedy}carry the \
         column as it is by the source's option column-types: {{\"{}.{}\": \"other('{}')\"}}",
        column.logical_type,
        misfit.0,
        read.name,
        column.name,
        types::ANY
    ))
    .context("column", &column.name)
    .context("row", locator.join(", "))
}

/// The query of a partition's rows: the columns, then what names a row in an error.
fn query<'a>(
    connection: &'a Connection,
    table: &TableSchema,
    read: &TableSchema,
    condition: &Condition,
) -> Result<Cursor<'a>> {
    let mut list: Vec<String> = read.columns.iter().map(|c| column(&c.name)).collect();
    let locator: Vec<String> = match rowid_name(table) {
        Some(rowid) => vec![column(rowid)],
        None => table.primary_key.iter().map(|name| column(name)).collect(),
    };
    // A table may have as many columns as a query; then errors do without the row.
    let most = connection.limit(Limit::SQLITE_LIMIT_COLUMN).map_err(|e| convert(e, DOING))?;
    if usize::try_from(most).is_ok_and(|most| list.len() + locator.len() <= most) {
        list.extend(locator);
    }
    let list = if list.is_empty() { "NULL".to_owned() } else { list.join(", ") };
    let name = quote(&table.name.name);
    let sql = format!("SELECT {list} FROM main.{name} AS t{}", condition.clause());
    let mut cursor = Cursor::prepare(connection, &sql).map_err(|error| {
        let changed = error.sqlite_error_code() == Some(ErrorCode::Unknown);
        let doing = "the table is not as it was found; run the task again";
        if changed { Error::schema(doing).with_source(error) } else { convert(error, DOING) }
    })?;
    for (index, value) in condition.parameters.iter().enumerate() {
        cursor.bind(index + 1, Cell::from(value)).map_err(|error| convert(error, DOING))?;
    }
    Ok(cursor)
}

/// Refuses filters with values that their columns cannot hold.
fn check(table: &TableSchema, filter: &Filter) -> Result<()> {
    for (name, alternatives) in &filter.columns {
        let ty = &table.column(name)?.logical_type;
        for value in alternatives.iter().flat_map(|condition| &condition.values) {
            value.to_array(ty).map_err(|error| {
                Error::settings("a filter's value is not one of its column")
                    .with_source(error)
                    .context("column", name)
            })?;
        }
    }
    Ok(())
}

/// Bytes that a value of the type takes beside its variable part.
pub(super) fn fixed_bytes(ty: &LogicalType) -> usize {
    ty.arrow_type().primitive_width().unwrap_or(match ty {
        LogicalType::Uuid => 16,
        LogicalType::Boolean => 1,
        LogicalType::Clob | LogicalType::Blob => 8,
        _ => 4,
    })
}

/// A key value in a message: short, and readable whatever it holds.
fn show(cell: Cell<'_>) -> String {
    let text = match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Integer(value) => value.to_string(),
        Cell::Real(value) => value.to_string(),
        Cell::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
        Cell::Blob(bytes) => format!("blob of {} bytes", bytes.len()),
    };
    if text.chars().count() > 60 {
        text.chars().take(60).chain("…".chars()).collect()
    } else {
        text
    }
}
