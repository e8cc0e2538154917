//! SQLite as a source.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use dms_core::batch::BatchSender;
use dms_core::endpoint::{EndpointInfo, PartitionRange, ReadRequest, Snapshot, Source};
use dms_core::mapping::{Filter, Selection, rows_in_range};
use dms_core::schema::{Catalog, LogicalType, TableSchema};
use dms_core::{Error, Result};
use rusqlite::limits::Limit;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, ErrorCode};

use super::cursor::{self, Cell, Cursor};
use super::decode::{Decode, Misfit, decoder};
use super::discover::{self, rowid_name};
use super::error::convert;
use super::partition::{Condition, column};
use super::settings::{SqliteSettings, Temporal};
use super::snapshot::{self, SqliteSnapshot, blocking};
use super::types;
use crate::sql::quote;

/// A SQLite file that is read.
#[derive(Debug, Clone)]
pub struct SqliteSource {
    settings: SqliteSettings,
}

impl SqliteSource {
    /// Opens a file by its path, with default options.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub async fn open(path: impl Into<SqliteSettings>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self::open_with(path.into()).await?))
    }

    /// Opens a file; it is read once to see that it is a database.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Corrupt` for the file; a transient `Connection` error while another
    /// process holds an exclusive lock.
    pub async fn open_with(settings: SqliteSettings) -> Result<Self> {
        let probe = settings.clone();
        blocking(move || snapshot::open(&probe).map(|_| ())).await?;
        Ok(Self { settings })
    }
}

#[async_trait]
impl Source for SqliteSource {
    fn info(&self) -> EndpointInfo {
        self.settings.info()
    }

    async fn discover(&self, selection: &Selection) -> Result<Catalog> {
        let (settings, selection) = (self.settings.clone(), selection.clone());
        blocking(move || {
            let connection = snapshot::open(&settings)?;
            discover::discover(&connection, &settings, &selection)
        })
        .await
    }

    async fn snapshot(&self, _tables: &[TableSchema], readers: usize) -> Result<Arc<dyn Snapshot>> {
        let settings = self.settings.clone();
        let snapshot = blocking(move || SqliteSnapshot::open(&settings, readers)).await?;
        Ok(Arc::new(snapshot))
    }
}

const DOING: &str = "the table cannot be read";

/// The most bytes of a batch, whatever is asked for: with one more value, of SQLite's longest, its
/// columns stay below the 2^31 of Arrow's offsets.
const BATCH_BYTES_MAX: usize = 1 << 30;

/// One partition being read.
pub(super) struct Reading<'a> {
    cursor: Cursor<'a>,
    request: &'a ReadRequest,
    /// The partition's range, unless SQLite sees to it.
    range: Option<&'a PartitionRange>,
    /// The requested columns, then those that only the filter looks at.
    decoders: Vec<Box<dyn Decode>>,
    /// As read, and as delivered.
    read: TableSchema,
    read_schema: SchemaRef,
    /// Bytes that every row takes at least.
    row_bytes: usize,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        request: &'a ReadRequest,
        spelling: Temporal,
    ) -> Result<Self> {
        let table = &*request.table;
        let mut condition = Condition::default();
        let utf8 = cursor::is_utf8(connection).map_err(|error| convert(error, DOING))?;
        let range = &request.partition.range;
        let range = (!condition.partition(table, range, utf8)?).then_some(range);
        if let Some(filter) = &request.filter {
            check(table, filter)?;
            condition.filter(table, filter, utf8);
        }
        // What rows are chosen by is read too.
        let filtered = request.filter.iter().flat_map(|filter| &filter.columns);
        let mut chosen_by: Vec<&String> = filtered.map(|(name, _)| name).collect();
        if let Some(PartitionRange::Columns { columns, .. }) = range {
            chosen_by.extend(columns);
        }
        let mut places = request.columns.clone();
        for name in chosen_by {
            let place = table.column_index(name).ok_or_else(|| {
                Error::settings("the table does not have the column that rows are chosen by")
                    .context("column", name)
            })?;
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let read = ReadRequest { columns: places, ..request.clone() }.projected()?;
        let decoders = read.columns.iter().map(|column| decoder(column, spelling));
        let decoders = decoders.collect::<Result<Vec<_>>>()?;
        let cursor = query(connection, table, &read, &condition)?;
        let row_bytes = read.columns.iter().map(|column| fixed_bytes(&column.logical_type)).sum();
        let read_schema = read.arrow_schema();
        Ok(Self { cursor, request, range, decoders, read_schema, read, row_bytes })
    }

    /// Sends every batch; ends early, and in good order, when nobody takes them any more.
    pub(super) fn send_all(mut self, sender: &BatchSender) -> Result<()> {
        let limit = self.request.limit;
        let bytes_max = limit.bytes.min(BATCH_BYTES_MAX);
        let (mut rows, mut bytes) = (0, 0);
        let failed = |error| convert(error, DOING);
        while self.cursor.step().map_err(failed)? {
            bytes += self.row_bytes + self.append_row()?;
            rows += 1;
            if rows >= limit.rows || bytes >= bytes_max {
                if !send(sender, self.batch(rows)?) {
                    return Ok(());
                }
                (rows, bytes) = (0, 0);
            }
        }
        if rows > 0 {
            // A reader that is gone wants nothing.
            send(sender, self.batch(rows)?);
        }
        Ok(())
    }

    /// Decodes the row; returns the bytes of its variable parts.
    fn append_row(&mut self) -> Result<usize> {
        let mut bytes = 0;
        for (index, decoder) in self.decoders.iter_mut().enumerate() {
            match decoder.append(self.cursor.value(index)) {
                Ok(appended) => bytes += appended,
                Err(misfit) => return Err(self.misfit(index, misfit)),
            }
        }
        Ok(bytes)
    }

    fn batch(&mut self, rows: usize) -> Result<RecordBatch> {
        let columns = self.decoders.iter_mut().map(|decoder| decoder.finish()).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::clone(&self.read_schema);
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

    fn misfit(&self, index: usize, misfit: Misfit) -> Error {
        let found = self.cursor.value(index).kind();
        let Some(column) = self.read.columns.get(index) else {
            return Error::unexpected("a value outside the row");
        };
        let locator = self.decoders.len()..self.cursor.columns();
        let row: Vec<String> = locator.map(|place| show(self.cursor.value(place))).collect();
        let temporal = matches!(
            column.logical_type,
            LogicalType::Time { .. }
                | LogicalType::Timestamp { .. }
                | LogicalType::TimestampTz { .. }
        );
        let remedy = if temporal && matches!(self.cursor.value(index), Cell::Text(_)) {
            "take other spellings by the source's option temporal: \"iso-8601\", or "
        } else {
            ""
        };
        Error::data(format!(
            "{found} where a column of type {} holds {}; correct the value, or {remedy}carry the \
             column as it is by the source's option column-types: {{\"{}.{}\": \"other('{}')\"}}",
            column.logical_type,
            misfit.0,
            self.read.name,
            column.name,
            types::ANY
        ))
        .context("column", &column.name)
        .context("row", row.join(", "))
    }
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
        cursor.bind(index + 1, cell(value)).map_err(|error| convert(error, DOING))?;
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

/// Whether the batch was wanted.
fn send(sender: &BatchSender, batch: RecordBatch) -> bool {
    if batch.num_rows() == 0 { !sender.is_closed() } else { sender.blocking_send(batch).is_ok() }
}

/// Bytes that a value of the type takes beside its variable part.
fn fixed_bytes(ty: &LogicalType) -> usize {
    ty.arrow_type().primitive_width().unwrap_or(match ty {
        LogicalType::Uuid => 16,
        LogicalType::Boolean => 1,
        LogicalType::Clob | LogicalType::Blob => 8,
        _ => 4,
    })
}

fn cell(value: &Sql) -> Cell<'_> {
    match value {
        Sql::Null => Cell::Null,
        Sql::Integer(value) => Cell::Integer(*value),
        Sql::Real(value) => Cell::Real(*value),
        Sql::Text(value) => Cell::Text(value.as_bytes()),
        Sql::Blob(value) => Cell::Blob(value),
    }
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
