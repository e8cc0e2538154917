//! Reading CSV from bytes that come in pieces.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringBuilder};
use dms_core::schema::TableSchema;
use dms_core::value::text::parse_column;
use dms_core::{Error, Result, ResultExt};

use crate::manifest::CsvDialect;

/// What Arrow's texts can hold in a batch.
const BATCH_BYTES_MAX: usize = 0x7fff_ffff;

/// Reads records from bytes that come in pieces.
pub(crate) struct CsvDecoder {
    dialect: CsvDialect,
    table: TableSchema,
    columns: Vec<StringBuilder>,
    rows: usize,
    /// Bytes of values collected since the last batch.
    bytes: usize,
    /// The record under way: its finished fields and whether each was quoted.
    field: Vec<u8>,
    at: usize,
    state: State,
    skip_header: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// At the start of a field.
    Start,
    Plain,
    Quoted,
    /// Behind a quote inside a quoted field: its end, or the first half of a doubled quote.
    QuoteInQuoted,
}

impl CsvDecoder {
    pub(crate) fn new(table: TableSchema, dialect: CsvDialect) -> Self {
        Self {
            columns: table.columns.iter().map(|_| StringBuilder::new()).collect(),
            skip_header: dialect.header,
            dialect,
            table,
            rows: 0,
            bytes: 0,
            field: Vec::new(),
            at: 0,
            state: State::Start,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the next bytes of the file, as far as to the end of a record that makes `enough` true;
    /// returns how many were taken.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        enough: impl Fn(usize, usize) -> bool,
    ) -> Result<usize> {
        let delimiter = u8::try_from(self.dialect.delimiter).unwrap_or(b',');
        for (taken, byte) in bytes.iter().enumerate() {
            match (self.state, *byte) {
                (State::Start, b'"') => self.state = State::Quoted,
                (State::Quoted, b'"') => self.state = State::QuoteInQuoted,
                (State::QuoteInQuoted, b'"') => {
                    self.field.push(b'"');
                    self.state = State::Quoted;
                }
                (State::Quoted, byte) => self.field.push(byte),
                (_, byte) if byte == delimiter => self.end_field()?,
                (_, b'\n') => {
                    self.end_field()?;
                    self.end_record()?;
                    if enough(self.rows, self.bytes) {
                        return Ok(taken + 1);
                    }
                }
                (State::QuoteInQuoted, _) => return Err(self.wrong("text behind a closing quote")),
                (_, byte) => {
                    self.field.push(byte);
                    self.state = State::Plain;
                }
            }
        }
        Ok(bytes.len())
    }

    /// Says that the file ends here.
    pub(crate) fn end(&self) -> Result<()> {
        if self.state == State::Start && self.at == 0 {
            return Ok(());
        }
        Err(self.wrong("an end inside a record"))
    }

    fn wrong(&self, what: &str) -> Error {
        Error::new(dms_core::ErrorKind::Corrupt, format!("CSV has {what}"))
            .context("row of the batch", self.rows)
    }

    fn end_field(&mut self) -> Result<()> {
        let quoted = self.state == State::QuoteInQuoted;
        if self.bytes + self.field.len() > BATCH_BYTES_MAX {
            return Err(self.wrong("a value too large for a batch"));
        }
        let text =
            std::str::from_utf8(&self.field).map_err(|_| self.wrong("bytes that are not UTF-8"))?;
        let Some(column) = self.columns.get_mut(self.at) else {
            return Err(self.wrong("a record with too many fields"));
        };
        if self.skip_header {
            // Names are not values.
        } else if !quoted && text == self.dialect.null_value {
            column.append_null();
        } else {
            column.append_value(text);
            self.bytes += text.len();
        }
        self.bytes += 4;
        self.field.clear();
        self.at += 1;
        self.state = State::Start;
        Ok(())
    }

    fn end_record(&mut self) -> Result<()> {
        if self.at != self.columns.len() {
            return Err(self.wrong("a record with too few fields"));
        }
        self.at = 0;
        if std::mem::take(&mut self.skip_header) {
            return Ok(());
        }
        self.rows += 1;
        Ok(())
    }

    /// The rows since the last batch.
    pub(crate) fn batch(&mut self) -> Result<RecordBatch> {
        let columns = self.columns.iter_mut().zip(&self.table.columns).map(|(texts, column)| {
            parse_column(&texts.finish(), &column.logical_type)
                .map_err(|error| {
                    Error::new(dms_core::ErrorKind::Corrupt, "CSV holds a wrong value")
                        .with_source(error)
                })
                .context("column", &column.name)
        });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        self.rows = 0;
        self.bytes = 0;
        RecordBatch::try_new(Arc::clone(&self.table.arrow_schema()), columns).map_err(|error| {
            Error::new(dms_core::ErrorKind::Corrupt, "CSV holds NULL where none may be")
                .with_source(error)
        })
    }
}
