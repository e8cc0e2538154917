//! CSV that tells NULL from the empty text: what stands for NULL is never quoted, and a text that
//! looks like it always is. Otherwise RFC 4180, values in their canonical text form, bytes in
//! hexadecimal.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringBuilder};
use dms_core::schema::TableSchema;
use dms_core::value::text::{parse_column, write_text};
use dms_core::{Error, Result, ResultExt};

use crate::manifest::CsvDialect;
use crate::settings::FolderSettings;

/// One CSV file being written.
pub(crate) struct CsvEncoder {
    dialect: CsvDialect,
    header: Option<Vec<String>>,
}

impl CsvEncoder {
    pub(crate) fn new(table: &TableSchema, settings: &FolderSettings) -> Self {
        let names = || table.columns.iter().map(|column| column.name.clone()).collect();
        Self { dialect: settings.csv_dialect(), header: settings.add_column_name.then(names) }
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Vec<u8> {
        let mut out = String::with_capacity(batch.num_rows() * batch.num_columns() * 8);
        if let Some(names) = self.header.take() {
            for (at, name) in names.iter().enumerate() {
                self.field(&mut out, at, name);
            }
            out.push('\n');
        }
        let mut text = String::new();
        for row in 0..batch.num_rows() {
            for (at, column) in batch.columns().iter().enumerate() {
                if column.is_null(row) {
                    self.delimit(&mut out, at);
                    out.push_str(&self.dialect.null_value);
                } else {
                    text.clear();
                    write_text(column.as_ref(), row, &mut text);
                    self.field(&mut out, at, &text);
                }
            }
            out.push('\n');
        }
        out.into_bytes()
    }

    fn delimit(&self, out: &mut String, at: usize) {
        if at > 0 {
            out.push(self.dialect.delimiter);
        }
    }

    fn field(&self, out: &mut String, at: usize, text: &str) {
        self.delimit(out, at);
        let quoted = text == self.dialect.null_value
            || text.contains(['"', '\n', '\r', self.dialect.delimiter])
            || text.starts_with(' ')
            || text.ends_with(' ');
        if quoted {
            out.push('"');
            out.push_str(&text.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(text);
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, StringArray};
    use dms_core::schema::{Column, LogicalType, TableName};
    use proptest::prelude::*;

    fn table() -> TableSchema {
        let columns =
            ["a", "b"].map(|name| Column::new(name, LogicalType::text())).into_iter().collect();
        TableSchema::new(TableName::new("s", "t"), columns)
    }

    proptest! {
        #[test]
        fn every_text_comes_back(
            rows in proptest::collection::vec((
                proptest::option::of("[ -~\"\n\r,é]{0,6}"), proptest::option::of("(NULL|x|)")), 0..20),
            null_value in "(|NULL|x)",
            header: bool,
            cut in 1usize..7,
        ) {
            let a: StringArray = rows.iter().map(|row| row.0.as_deref()).collect();
            let b: StringArray = rows.iter().map(|row| row.1.as_deref()).collect();
            let batch = RecordBatch::try_new(
                table().arrow_schema(), vec![Arc::new(a), Arc::new(b)]).unwrap();
            let settings = FolderSettings {
                csv_null_value: null_value, add_column_name: header, ..FolderSettings::default() };
            let bytes = CsvEncoder::new(&table(), &settings).write(&batch);
            let mut decoder = CsvDecoder::new(table(), settings.csv_dialect());
            for piece in bytes.chunks(cut) {
                prop_assert_eq!(decoder.feed(piece, |_, _| false).unwrap(), piece.len());
            }
            decoder.end().unwrap();
            prop_assert_eq!(decoder.batch().unwrap(), batch);
        }
    }

    #[test]
    fn damage_is_seen() {
        for (bytes, says) in [
            (&b"1\n"[..], "too few"),
            (b"1,2,3\n", "too many"),
            (b"\"1\"x,2\n", "behind a closing quote"),
            (b"\xff,2\n", "UTF-8"),
            (b"1,\"2\n", "inside a record"),
        ] {
            let mut decoder = CsvDecoder::new(table(), FolderSettings::default().csv_dialect());
            let error = decoder.feed(bytes, |_, _| false).and_then(|_| decoder.end()).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_batch_ends_where_enough_is_said() {
        let mut decoder = CsvDecoder::new(table(), FolderSettings::default().csv_dialect());
        let taken = decoder.feed(b"1,2\n3,4\n5,6\n", |rows, _| rows == 2).unwrap();
        assert_eq!(taken, 8);
        let batch = decoder.batch().unwrap();
        assert_eq!(batch.column(1).as_string::<i32>().value(1), "4");
    }
}
