//! A binary `COPY` as it arrives, into Arrow arrays.

use std::sync::Arc;

use arrow::array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType, UInt32Type,
};
use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder,
    LargeStringBuilder, PrimitiveBuilder, RecordBatch, RecordBatchOptions, StringBuilder,
};
use arrow::datatypes::{IntervalMonthDayNano, SchemaRef};
use dms_core::batch::{BatchLimit, rows_schema};
use dms_core::schema::{Column, LogicalType, TableSchema};
use dms_core::value::temporal::{MICROS, write_time};
use dms_core::value::text::parse_column;
use dms_core::{Error, ErrorKind, Result};

use super::numeric::Numeric;
use super::{EPOCH_DAYS, EPOCH_MICROS, HEADER_BYTES, ROW_FORM, SIGNATURE};
use crate::postgres::ENGINE;

/// What a field of no value has for its length.
const NULL: i32 = -1;
/// What the last tuple has for its number of fields.
const END: i16 = -1;

/// Decodes the rows of a table.
pub(in crate::postgres) struct Decoder {
    table: TableSchema,
    schema: SchemaRef,
    /// How many columns arrive.
    fields: usize,
    columns: Vec<Values>,
    /// Whole rows, where columns are not decoded.
    whole: Option<BinaryBuilder>,
    limit: BatchLimit,
    /// The start of a row whose end has not arrived.
    pending: Vec<u8>,
    begun: bool,
    ended: bool,
    rows: usize,
    bytes: usize,
    /// Rows of batches before.
    rows_before: u64,
}

/// A row that cannot be decoded: the column, and why.
struct Misfit {
    column: usize,
    what: &'static str,
}

/// What is at the front of the bytes that arrived.
enum Front {
    /// A row of so many bytes, decoded.
    Row(usize),
    /// The end of the stream.
    End,
    /// Less than a row.
    Part,
}

impl Decoder {
    /// For rows of a table's columns, in their order.
    ///
    /// # Errors
    /// `Unsupported` for a type that a column of PostgreSQL does not have.
    pub(in crate::postgres) fn new(table: TableSchema, limit: BatchLimit) -> Result<Self> {
        let columns = table.columns.iter().map(Values::new).collect::<Result<_>>()?;
        let schema = table.arrow_schema();
        Ok(Self { columns, ..Self::undecided(table, schema, limit) })
    }

    /// Keeps the rows of a table as they arrive, in batches of [`ROW_FORM`].
    pub(in crate::postgres) fn of_whole_rows(table: TableSchema, limit: BatchLimit) -> Self {
        let whole = Some(BinaryBuilder::new());
        Self { whole, ..Self::undecided(table, rows_schema(ROW_FORM), limit) }
    }

    fn undecided(table: TableSchema, schema: SchemaRef, limit: BatchLimit) -> Self {
        Self {
            fields: table.columns.len(),
            table,
            schema,
            columns: Vec::new(),
            whole: None,
            limit,
            pending: Vec::new(),
            begun: false,
            ended: false,
            rows: 0,
            bytes: 0,
            rows_before: 0,
        }
    }

    /// Takes bytes, wherever they are cut; calls `full` with each batch that is full.
    ///
    /// # Errors
    /// `Data` for a value that is none of its column; `Schema` for rows of another shape.
    pub(in crate::postgres) fn feed(
        &mut self,
        bytes: &[u8],
        full: &mut Vec<RecordBatch>,
    ) -> Result<()> {
        if self.pending.is_empty() {
            let used = self.take(bytes, full)?;
            self.pending.extend_from_slice(bytes.get(used..).unwrap_or_default());
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(bytes);
            let used = self.take(&pending, full)?;
            pending.drain(..used.min(pending.len()));
            self.pending = pending;
        }
        Ok(())
    }

    /// The last batch, after the last bytes.
    ///
    /// # Errors
    /// A transient `Connection` error if the stream had no end.
    pub(in crate::postgres) fn finish(&mut self) -> Result<Option<RecordBatch>> {
        if !self.ended {
            return Err(Error::new(
                ErrorKind::Connection,
                "the rows of the table ended early; the connection broke",
            )
            .transient());
        }
        if self.rows == 0 { Ok(None) } else { self.batch().map(Some) }
    }

    /// Decodes whole rows; returns how many bytes they are.
    fn take(&mut self, bytes: &[u8], full: &mut Vec<RecordBatch>) -> Result<usize> {
        let mut used = 0;
        if !self.begun {
            let Some(header) = bytes.get(..HEADER_BYTES) else { return Ok(0) };
            if !header.starts_with(SIGNATURE) || header.get(11..).is_none_or(|r| r != [0; 8]) {
                return Err(Error::unexpected("the server's COPY has a header that is not known"));
            }
            self.begun = true;
            used = HEADER_BYTES;
        }
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            if self.ended {
                return Err(Error::unexpected("the server's COPY goes on after its end"));
            }
            match self.row(rest)? {
                Front::Part => break,
                Front::End => {
                    self.ended = true;
                    used += 2;
                }
                Front::Row(length) => {
                    used += length;
                    self.rows += 1;
                    if self.rows >= self.limit.rows || self.bytes >= self.limit.bytes {
                        full.push(self.batch()?);
                    }
                }
            }
        }
        Ok(used)
    }

    #[inline]
    fn row(&mut self, bytes: &[u8]) -> Result<Front> {
        // All of the row has to be there before any of it is appended.
        let Some(length) = self.length(bytes)? else { return Ok(Front::Part) };
        if length == 0 {
            return Ok(Front::End);
        }
        if let Some(whole) = &mut self.whole {
            let row = bytes.get(..length).unwrap_or_default();
            if whole.values_slice().len() + length > i32::MAX as usize {
                return Err(Error::data("rows of more than 2 GiB; lower BatchRows and BatchBytes"));
            }
            whole.append_value(row);
            self.bytes += length + 4;
            return Ok(Front::Row(length));
        }
        let mut rest = bytes.get(2..length).unwrap_or_default();
        for (column, values) in self.columns.iter_mut().enumerate() {
            let Some((length, after)) = rest.split_first_chunk() else { break };
            let length = i32::from_be_bytes(*length);
            let Ok(length) = usize::try_from(length) else {
                values.append_null();
                rest = after;
                continue;
            };
            let Some((value, after)) = after.split_at_checked(length) else { break };
            if let Err(what) = values.append(value) {
                return Err(self.misfit(&Misfit { column, what }));
            }
            self.bytes += length;
            rest = after;
        }
        self.bytes += self.columns.len() * 4;
        Ok(Front::Row(length))
    }

    /// The bytes of the row at the front, 0 for the end; `None` if they are not all there.
    #[inline]
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>> {
        let Some((fields, mut rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let fields = i16::from_be_bytes(*fields);
        if fields == END {
            return Ok(Some(0));
        }
        if usize::try_from(fields) != Ok(self.fields) {
            return Err(Error::schema("rows arrive with another number of columns")
                .context("table", &self.table.name));
        }
        let mut length = 2;
        for _ in 0..fields {
            let Some((field, after)) = rest.split_first_chunk() else { return Ok(None) };
            let field = i32::from_be_bytes(*field);
            let field =
                if field == NULL { 0 } else { usize::try_from(field).unwrap_or(usize::MAX) };
            let Some(after) = after.get(field..) else { return Ok(None) };
            rest = after;
            length += 4 + field;
        }
        Ok(Some(length))
    }

    fn misfit(&self, misfit: &Misfit) -> Error {
        let column = self.table.columns.get(misfit.column);
        let (name, ty) = column.map_or_else(Default::default, |column| {
            (column.name.clone(), column.logical_type.to_string())
        });
        Error::data(format!("{} is not a value of type {ty}", misfit.what))
            .context("table", &self.table.name)
            .context("column", name)
            .context("row of the partition", self.rows_before + self.rows as u64)
    }

    fn batch(&mut self) -> Result<RecordBatch> {
        let columns: Result<Vec<ArrayRef>> = match &mut self.whole {
            Some(whole) => Ok(vec![Arc::new(whole.finish())]),
            None => self.columns.iter_mut().map(Values::finish).collect(),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.rows_before += self.rows as u64;
        (self.rows, self.bytes) = (0, 0);
        let schema = Arc::clone(&self.schema);
        Ok(RecordBatch::try_new_with_options(schema, columns?, &options)?)
    }
}

/// The values of one column.
pub(in crate::postgres) enum Values {
    Boolean(BooleanBuilder),
    Int16(PrimitiveBuilder<Int16Type>),
    Int32(PrimitiveBuilder<Int32Type>),
    Int64(PrimitiveBuilder<Int64Type>),
    UInt32(PrimitiveBuilder<UInt32Type>),
    Float32(PrimitiveBuilder<Float32Type>),
    Float64(PrimitiveBuilder<Float64Type>),
    Decimal128 {
        values: PrimitiveBuilder<Decimal128Type>,
        scale: i8,
        bound: i128,
    },
    /// Above 38 digits: by way of their text.
    Decimal256 {
        texts: StringBuilder,
        ty: LogicalType,
    },
    Numeric(StringBuilder),
    Text(StringBuilder),
    Clob(LargeStringBuilder),
    Bytes(BinaryBuilder),
    Date(PrimitiveBuilder<Date32Type>),
    Time(PrimitiveBuilder<Time64MicrosecondType>),
    TimeTz(StringBuilder),
    Timestamp {
        values: PrimitiveBuilder<TimestampMicrosecondType>,
        utc: bool,
    },
    Interval(PrimitiveBuilder<IntervalMonthDayNanoType>),
    Uuid(FixedSizeBinaryBuilder),
}

fn primitive<T: ArrowPrimitiveType>() -> PrimitiveBuilder<T> {
    PrimitiveBuilder::new()
}

impl Values {
    /// # Errors
    /// `Unsupported` for a type that a column of PostgreSQL does not have.
    pub(in crate::postgres) fn new(column: &Column) -> Result<Self> {
        let ty = &column.logical_type;
        Ok(match ty {
            LogicalType::Boolean => Self::Boolean(BooleanBuilder::new()),
            LogicalType::Int16 => Self::Int16(primitive()),
            LogicalType::Int32 => Self::Int32(primitive()),
            LogicalType::Int64 => Self::Int64(primitive()),
            LogicalType::UInt32 => Self::UInt32(primitive()),
            LogicalType::Float32 => Self::Float32(primitive()),
            LogicalType::Float64 => Self::Float64(primitive()),
            LogicalType::Decimal { precision, scale } if *precision <= 38 => Self::Decimal128 {
                values: primitive::<Decimal128Type>().with_data_type(ty.arrow_type()),
                scale: *scale,
                bound: 10i128.checked_pow((*precision).into()).unwrap_or(i128::MAX),
            },
            LogicalType::Decimal { .. } => {
                Self::Decimal256 { texts: StringBuilder::new(), ty: ty.clone() }
            }
            LogicalType::Numeric => Self::Numeric(StringBuilder::new()),
            LogicalType::Clob => Self::Clob(LargeStringBuilder::new()),
            LogicalType::Bytes { .. } => Self::Bytes(BinaryBuilder::new()),
            LogicalType::Date => Self::Date(primitive()),
            LogicalType::Time { precision } if *precision <= 6 => Self::Time(primitive()),
            LogicalType::TimeTz { .. } => Self::TimeTz(StringBuilder::new()),
            LogicalType::Timestamp { precision } if *precision <= 6 => {
                Self::Timestamp { values: primitive(), utc: false }
            }
            LogicalType::TimestampTz { precision } if *precision <= 6 => {
                Self::Timestamp { values: primitive(), utc: true }
            }
            LogicalType::Interval => Self::Interval(primitive()),
            LogicalType::Uuid => Self::Uuid(FixedSizeBinaryBuilder::new(16)),
            LogicalType::Text { .. }
            | LogicalType::Char { .. }
            | LogicalType::Json
            | LogicalType::Enum { .. }
            | LogicalType::BitString { .. }
            | LogicalType::Other { .. } => Self::Text(StringBuilder::new()),
            other => {
                let message = format!("a {ENGINE} source cannot read a column as {other}");
                let error = Error::new(ErrorKind::Unsupported, message);
                return Err(error.context("column", &column.name));
            }
        })
    }

    #[inline]
    pub(in crate::postgres) fn append_null(&mut self) {
        match self {
            Self::Boolean(values) => values.append_null(),
            Self::Int16(values) => values.append_null(),
            Self::Int32(values) => values.append_null(),
            Self::Int64(values) => values.append_null(),
            Self::UInt32(values) => values.append_null(),
            Self::Float32(values) => values.append_null(),
            Self::Float64(values) => values.append_null(),
            Self::Decimal128 { values, .. } => values.append_null(),
            Self::Decimal256 { texts: values, .. }
            | Self::Numeric(values)
            | Self::Text(values)
            | Self::TimeTz(values) => values.append_null(),
            Self::Clob(values) => values.append_null(),
            Self::Bytes(values) => values.append_null(),
            Self::Date(values) => values.append_null(),
            Self::Time(values) => values.append_null(),
            Self::Timestamp { values, .. } => values.append_null(),
            Self::Interval(values) => values.append_null(),
            Self::Uuid(values) => values.append_null(),
        }
    }

    /// Appends a value; says what it is if it is none of the column's.
    #[inline]
    pub(in crate::postgres) fn append(
        &mut self,
        value: &[u8],
    ) -> std::result::Result<(), &'static str> {
        const LENGTH: &str = "a field of another length";
        match self {
            Self::Boolean(values) => match value {
                [flag] => values.append_value(*flag != 0),
                _ => return Err(LENGTH),
            },
            Self::Int16(values) => values.append_value(i16::from_be_bytes(exact(value)?)),
            Self::Int32(values) => values.append_value(i32::from_be_bytes(exact(value)?)),
            Self::Int64(values) => values.append_value(i64::from_be_bytes(exact(value)?)),
            Self::UInt32(values) => values.append_value(u32::from_be_bytes(exact(value)?)),
            Self::Float32(values) => values.append_value(f32::from_be_bytes(exact(value)?)),
            Self::Float64(values) => values.append_value(f64::from_be_bytes(exact(value)?)),
            Self::Decimal128 { values, scale, bound } => {
                let number = Numeric::read(value).ok_or(LENGTH)?;
                let number = number.unscaled(*scale).filter(|v| -*bound < *v && *v < *bound);
                values.append_value(number.ok_or(NOT_FINITE)?);
            }
            Self::Decimal256 { texts, .. } => {
                let mut text = String::new();
                Numeric::read(value).ok_or(LENGTH)?.write_text(&mut text);
                if text.ends_with(['N', 'y']) {
                    return Err(NOT_FINITE);
                }
                texts.append_value(text);
            }
            Self::Numeric(texts) => {
                let mut text = String::new();
                Numeric::read(value).ok_or(LENGTH)?.write_text(&mut text);
                texts.append_value(text);
            }
            Self::Text(values) => values.append_value(utf8(value)?),
            Self::Clob(values) => values.append_value(utf8(value)?),
            Self::Bytes(values) => values.append_value(value),
            Self::Date(values) => values.append_value(match i32::from_be_bytes(exact(value)?) {
                infinite @ (i32::MAX | i32::MIN) => infinite,
                days => days.checked_add(EPOCH_DAYS).ok_or("a date out of range")?,
            }),
            Self::Time(values) => values.append_value(i64::from_be_bytes(exact(value)?)),
            Self::TimeTz(texts) => {
                let (time, zone) = value.split_first_chunk().ok_or(LENGTH)?;
                let mut text = String::new();
                write_time(&mut text, i64::from_be_bytes(*time), MICROS, None);
                write_offset(&mut text, i32::from_be_bytes(exact(zone)?));
                texts.append_value(text);
            }
            Self::Timestamp { values, .. } => {
                values.append_value(match i64::from_be_bytes(exact(value)?) {
                    infinite @ (i64::MAX | i64::MIN) => infinite,
                    micros => micros.checked_add(EPOCH_MICROS).ok_or("a timestamp out of range")?,
                });
            }
            Self::Interval(values) => {
                let [micros @ .., d0, d1, d2, d3, m0, m1, m2, m3] = exact::<16>(value)?;
                let days = i32::from_be_bytes([d0, d1, d2, d3]);
                let months = i32::from_be_bytes([m0, m1, m2, m3]);
                let nanos = i64::from_be_bytes(micros).checked_mul(1000);
                let nanos = nanos.ok_or("an interval of more than 292 years in its time part")?;
                values.append_value(IntervalMonthDayNano::new(months, days, nanos));
            }
            Self::Uuid(values) => {
                values.append_value(exact::<16>(value)?).map_err(|_| LENGTH)?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// `Data` for a number of more digits than its type has.
    pub(in crate::postgres) fn finish(&mut self) -> Result<ArrayRef> {
        Ok(match self {
            Self::Boolean(values) => Arc::new(values.finish()),
            Self::Int16(values) => Arc::new(values.finish()),
            Self::Int32(values) => Arc::new(values.finish()),
            Self::Int64(values) => Arc::new(values.finish()),
            Self::UInt32(values) => Arc::new(values.finish()),
            Self::Float32(values) => Arc::new(values.finish()),
            Self::Float64(values) => Arc::new(values.finish()),
            Self::Decimal128 { values, .. } => Arc::new(values.finish()),
            Self::Decimal256 { texts, ty } => parse_column(&texts.finish(), ty)?,
            Self::Numeric(values) | Self::Text(values) | Self::TimeTz(values) => {
                Arc::new(values.finish())
            }
            Self::Clob(values) => Arc::new(values.finish()),
            Self::Bytes(values) => Arc::new(values.finish()),
            Self::Date(values) => Arc::new(values.finish()),
            Self::Time(values) => Arc::new(values.finish()),
            Self::Timestamp { values, utc } => {
                let array = values.finish();
                Arc::new(if *utc { array.with_timezone("UTC") } else { array })
            }
            Self::Interval(values) => Arc::new(values.finish()),
            Self::Uuid(values) => Arc::new(values.finish()),
        })
    }
}

pub(super) const NOT_FINITE: &str = "a number that is not finite or of more digits (the option column-types can \
    make the column numeric)";

const NOT_UTF8: &str = "text that is not UTF-8 (correct it at the source; text of Latin-1 by \
    convert_from(convert(convert_to(COLUMN, 'SQL_ASCII'), 'LATIN1', 'UTF8'), 'UTF8'))";

fn exact<const N: usize>(value: &[u8]) -> std::result::Result<[u8; N], &'static str> {
    value.try_into().map_err(|_| "a field of another length")
}

pub(super) fn utf8(value: &[u8]) -> std::result::Result<&str, &'static str> {
    std::str::from_utf8(value).map_err(|_| NOT_UTF8)
}

/// `+05:30` for an offset in seconds west of UTC.
pub(super) fn write_offset(out: &mut String, west: i32) {
    out.push(if west > 0 { '-' } else { '+' });
    let seconds = west.unsigned_abs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    out.push_str(&format!("{hours:02}:{minutes:02}"));
    if seconds != 0 {
        out.push_str(&format!(":{seconds:02}"));
    }
}
