//! SQLite as a source.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use dms_core::batch::BatchSender;
use dms_core::endpoint::{EndpointInfo, ReadRequest, Snapshot, Source};
use dms_core::mapping::Selection;
use dms_core::schema::{Catalog, LogicalType, TableSchema};
use dms_core::{Error, Result};
use rusqlite::Connection;
use rusqlite::types::Value as Sql;

use super::cursor::{Cell, Cursor};
use super::decode::{Decode, Misfit, decoder};
use super::discover::{self, rowid_name};
use super::error::convert;
use super::partition::Condition;
use super::settings::{SqliteSettings, Temporal};
use super::snapshot::{self, SqliteSnapshot, blocking};
use super::types;
use crate::sql::{quote, quote_all};

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

/// One partition being read.
pub(super) struct Reading<'a> {
    cursor: Cursor<'a>,
    request: &'a ReadRequest,
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
        let mut places = request.columns.clone();
        for (name, _) in request.filter.iter().flat_map(|filter| &filter.columns) {
            let place = table.column_index(name).ok_or_else(|| {
                Error::settings("the filter names a column that the table does not have")
                    .context("column", name)
            })?;
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let read = ReadRequest { columns: places, ..request.clone() }.projected()?;
        let decoders = read.columns.iter().map(|column| decoder(column, spelling));
        let decoders = decoders.collect::<Result<Vec<_>>>()?;
        let mut condition = Condition::default();
        condition.partition(table, &request.partition.range)?;
        if let Some(filter) = &request.filter {
            condition.filter(table, filter);
        }
        let columns: Vec<String> = read.columns.iter().map(|column| quote(&column.name)).collect();
        // Behind the columns, what names a row in an error.
        let locator = match rowid_name(table) {
            Some(rowid) => vec![rowid.to_owned()],
            None => table.primary_key.iter().map(|name| quote(name)).collect(),
        };
        let list: Vec<String> = columns.into_iter().chain(locator).collect();
        let list = if list.is_empty() { "NULL".to_owned() } else { list.join(", ") };
        let sql = format!(
            "SELECT {list} FROM main.{}{}",
            quote_all([&table.name.name]),
            condition.clause()
        );
        let failed = |error| convert(error, "the table cannot be read");
        let mut cursor = Cursor::prepare(connection, &sql).map_err(failed)?;
        for (index, value) in condition.parameters.iter().enumerate() {
            cursor.bind(index + 1, cell(value)).map_err(failed)?;
        }
        let row_bytes = read.columns.iter().map(|column| fixed_bytes(&column.logical_type)).sum();
        Ok(Self { cursor, request, decoders, read_schema: read.arrow_schema(), read, row_bytes })
    }

    /// Sends every batch; ends early, and in good order, when nobody takes them any more.
    pub(super) fn send_all(mut self, sender: &BatchSender) -> Result<()> {
        let limit = self.request.limit;
        let (mut rows, mut bytes) = (0, 0);
        let failed = |error| convert(error, "the table cannot be read");
        while self.cursor.step().map_err(failed)? {
            bytes += self.row_bytes + self.append_row()?;
            rows += 1;
            if rows >= limit.rows || bytes >= limit.bytes {
                if sender.blocking_send(self.batch(rows)?).is_err() {
                    return Ok(());
                }
                (rows, bytes) = (0, 0);
            }
        }
        if rows > 0 {
            let batch = self.batch(rows)?;
            // A reader that is gone wants nothing.
            let _ = sender.blocking_send(batch);
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
        let batch =
            RecordBatch::try_new_with_options(schema, columns, &options).map_err(|error| {
                // The only thing a decoder cannot see is whether its column may be NULL.
                Error::data("a column declared NOT NULL holds NULL").with_source(error)
            })?;
        let Some(filter) = &self.request.filter else { return Ok(batch) };
        let batch = filter.apply(&self.read, &batch)?;
        let requested: Vec<usize> = (0..self.request.columns.len()).collect();
        Ok(batch.project(&requested)?)
    }

    fn misfit(&self, index: usize, misfit: Misfit) -> Error {
        let found = self.cursor.value(index).kind();
        let Some(column) = self.read.columns.get(index) else {
            return Error::unexpected("a value outside the row");
        };
        let locator = self.decoders.len()..self.cursor.columns();
        let row: Vec<String> = locator.map(|place| show(self.cursor.value(place))).collect();
        Error::data(format!(
            "{found} where a column of type {} holds {}; correct the value, or carry the column as \
             it is by the source's option column-types: {{\"{}.{}\": \"other('{}')\"}}",
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
