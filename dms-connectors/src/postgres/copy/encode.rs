//! Record batches as a binary `COPY`.

use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType,
    DurationNanosecondType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Time64MicrosecondType, Time64NanosecondType,
    TimestampMicrosecondType, TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::array::{Array, AsArray, BinaryArray, RecordBatch};
use arrow::datatypes::{DataType, TimeUnit};
use bytes::Bytes;
use dms_core::batch::row_form;
use dms_core::schema::{Column, LogicalType, TableSchema};
use dms_core::value::decimal::format_decimal;
use dms_core::value::text::write_text;
use dms_core::{Error, ErrorKind, Result};

use super::{EPOCH_DAYS, EPOCH_MICROS, ROW_FORM, SIGNATURE, numeric};
use crate::postgres::types::is_parsed_by_server;

/// Encodes the rows of a table.
#[derive(Debug)]
pub(in crate::postgres) struct Encoder {
    table: TableSchema,
    rows: u64,
}

/// Writes the value in a row, without its length; says why it cannot be written.
type Write<'a> = Box<dyn Fn(usize, &mut Vec<u8>) -> std::result::Result<(), &'static str> + 'a>;

impl Encoder {
    pub(in crate::postgres) fn new(table: TableSchema) -> Self {
        Self { table, rows: 0 }
    }

    /// What begins the stream.
    pub(in crate::postgres) fn header() -> Bytes {
        Bytes::from([SIGNATURE.as_slice(), &[0; 8]].concat())
    }

    /// What ends the stream.
    pub(in crate::postgres) fn end() -> Bytes {
        Bytes::from_static(&[0xff; 2])
    }

    /// The bytes of a batch, of values or of whole rows.
    ///
    /// # Errors
    /// `Data` for a value that PostgreSQL does not have, naming column and row.
    pub(in crate::postgres) fn encode(&mut self, batch: &RecordBatch) -> Result<Bytes> {
        if row_form(batch.schema_ref()) == Some(ROW_FORM)
            && let [rows] = batch.columns()
            && let Some(rows) = rows.as_binary_opt::<i32>()
        {
            return Ok(whole(rows));
        }
        let mut out = Vec::with_capacity(dms_core::batch::batch_bytes(batch) * 5 / 4);
        let columns = self.table.columns.iter().zip(batch.columns());
        let columns = columns.map(|(column, array)| Values::new(column, array.as_ref()));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let fields = i16::try_from(columns.len()).map_err(|_| {
            Error::new(ErrorKind::Unsupported, "PostgreSQL has no tables of so many columns")
        })?;
        for row in 0..batch.num_rows() {
            out.extend_from_slice(&fields.to_be_bytes());
            for values in &columns {
                values.append(row, &mut out).map_err(|error| {
                    error.context("row of the partition", self.rows + row as u64)
                })?;
            }
        }
        self.rows += batch.num_rows() as u64;
        Ok(out.into())
    }
}

/// The values of a column, ready to be written one by one.
pub(in crate::postgres) struct Values<'a> {
    column: &'a Column,
    array: &'a dyn Array,
    write: Write<'a>,
}

impl<'a> Values<'a> {
    /// The values of an array of the column's type.
    ///
    /// # Errors
    /// `Schema` for an array of another.
    pub(in crate::postgres) fn new(column: &'a Column, array: &'a dyn Array) -> Result<Self> {
        Ok(Self { column, array, write: writer(column, array)? })
    }

    /// Appends the value in a row after its length, which is -1 for NULL, as rows of a `COPY` and
    /// arrays have it.
    ///
    /// # Errors
    /// `Data` for a value that PostgreSQL does not have, naming the column.
    #[inline]
    pub(in crate::postgres) fn append(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        if self.array.is_null(row) {
            out.extend_from_slice(&(-1i32).to_be_bytes());
            return Ok(());
        }
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        (self.write)(row, out).map_err(|why| self.refused(why))?;
        let length = i32::try_from(out.len() - at - 4)
            .map_err(|_| self.refused("a value of more than 2 GiB"))?;
        if let Some(place) = out.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }

    #[cold]
    fn refused(&self, why: &str) -> Error {
        let ty = &self.column.logical_type;
        Error::data(format!("{why}; PostgreSQL cannot hold it as {ty}"))
            .context("column", &self.column.name)
    }
}

/// The bytes of rows, which lie one behind the other.
fn whole(rows: &BinaryArray) -> Bytes {
    let bytes = Bytes::from_owner(rows.values().clone());
    let place = |offset: Option<&i32>| offset.and_then(|at| usize::try_from(*at).ok()).unwrap_or(0);
    let offsets = rows.value_offsets();
    bytes.slice(place(offsets.first())..place(offsets.last()))
}

const TOO_MANY_DIGITS: &str = "a number of too many digits";
const NO_NUL: &str = "text with the character NUL";

fn text(value: &str, out: &mut Vec<u8>) -> std::result::Result<(), &'static str> {
    if value.as_bytes().contains(&0) {
        return Err(NO_NUL);
    }
    out.extend_from_slice(value.as_bytes());
    Ok(())
}

fn each<'a, T: ArrowPrimitiveType, const N: usize>(
    array: &'a dyn Array,
    bytes: impl Fn(T::Native) -> std::result::Result<[u8; N], &'static str> + 'a,
) -> Write<'a> {
    let values = array.as_primitive::<T>().values();
    Box::new(move |row, out| {
        let value = values.get(row).copied().unwrap_or_default();
        out.extend_from_slice(&bytes(value)?);
        Ok(())
    })
}

fn number<'a>(text: impl Fn(usize) -> String + 'a) -> Write<'a> {
    Box::new(move |row, out| numeric::write(&text(row), out).ok_or(TOO_MANY_DIGITS))
}

fn date(days: i32) -> std::result::Result<[u8; 4], &'static str> {
    Ok(match days {
        i32::MAX | i32::MIN => days,
        days => days.checked_sub(EPOCH_DAYS).ok_or("a date out of range")?,
    }
    .to_be_bytes())
}

fn timestamp(micros: i64) -> std::result::Result<[u8; 8], &'static str> {
    Ok(match micros {
        i64::MAX | i64::MIN => micros,
        micros => micros.checked_sub(EPOCH_MICROS).ok_or("a timestamp out of range")?,
    }
    .to_be_bytes())
}

fn interval(months: i32, days: i32, micros: i64) -> [u8; 16] {
    let mut bytes = [0; 16];
    let (time, rest) = bytes.split_at_mut(8);
    let (low, high) = rest.split_at_mut(4);
    time.copy_from_slice(&micros.to_be_bytes());
    low.copy_from_slice(&days.to_be_bytes());
    high.copy_from_slice(&months.to_be_bytes());
    bytes
}

/// Digits beyond microseconds are lost, with consent.
fn micros(nanos: i64) -> i64 {
    match nanos {
        i64::MAX | i64::MIN => nanos,
        nanos => nanos.div_euclid(1000),
    }
}

fn writer<'a>(column: &'a Column, array: &'a dyn Array) -> Result<Write<'a>> {
    let ty = &column.logical_type;
    if array.data_type() != &ty.arrow_type() {
        return Err(Error::schema("a batch does not have the shape of its table")
            .context("column", &column.name));
    }
    if is_parsed_by_server(column) {
        return Ok(in_text_form(array));
    }
    Ok(match array.data_type() {
        DataType::Boolean => {
            let flags = array.as_boolean();
            Box::new(move |row, out| {
                out.push(u8::from(flags.value(row)));
                Ok(())
            })
        }
        DataType::Int8 => each::<Int8Type, 2>(array, |v| Ok(i16::from(v).to_be_bytes())),
        DataType::Int16 => each::<Int16Type, 2>(array, |v| Ok(v.to_be_bytes())),
        DataType::Int32 => each::<Int32Type, 4>(array, |v| Ok(v.to_be_bytes())),
        DataType::Int64 => each::<Int64Type, 8>(array, |v| Ok(v.to_be_bytes())),
        DataType::UInt8 => each::<UInt8Type, 2>(array, |v| Ok(i16::from(v).to_be_bytes())),
        DataType::UInt16 => each::<UInt16Type, 4>(array, |v| Ok(i32::from(v).to_be_bytes())),
        // A column of PostgreSQL's own has four bytes, what other engines have becomes `bigint`.
        DataType::UInt32 if column.native_in(crate::postgres::ENGINE).is_some() => {
            each::<UInt32Type, 4>(array, |v| Ok(v.to_be_bytes()))
        }
        DataType::UInt32 => each::<UInt32Type, 8>(array, |v| Ok(i64::from(v).to_be_bytes())),
        DataType::UInt64 => {
            let values = array.as_primitive::<UInt64Type>();
            number(move |row| values.value(row).to_string())
        }
        DataType::Float32 => each::<Float32Type, 4>(array, |v| Ok(v.to_be_bytes())),
        DataType::Float64 => each::<Float64Type, 8>(array, |v| Ok(v.to_be_bytes())),
        DataType::Decimal128(_, scale) => {
            let (values, scale) = (array.as_primitive::<Decimal128Type>(), *scale);
            Box::new(move |row, out| {
                let (value, at) = (values.value(row), out.len());
                if numeric::write_unscaled(value, scale, out).is_some() {
                    return Ok(());
                }
                out.truncate(at);
                let text = format_decimal(&value.to_string(), scale);
                numeric::write(&text, out).ok_or(TOO_MANY_DIGITS)
            })
        }
        DataType::Decimal256(_, scale) => {
            let (values, scale) = (array.as_primitive::<Decimal256Type>(), *scale);
            number(move |row| format_decimal(&values.value(row).to_string(), scale))
        }
        DataType::Utf8 if *ty == LogicalType::Numeric => {
            let values = array.as_string::<i32>();
            Box::new(move |row, out| {
                numeric::write(values.value(row), out).ok_or("text that is not a number")
            })
        }
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            Box::new(move |row, out| text(values.value(row), out))
        }
        DataType::LargeUtf8 => {
            let values = array.as_string::<i64>();
            Box::new(move |row, out| text(values.value(row), out))
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>();
            Box::new(move |row, out| {
                out.extend_from_slice(values.value(row));
                Ok(())
            })
        }
        DataType::LargeBinary => {
            let values = array.as_binary::<i64>();
            Box::new(move |row, out| {
                out.extend_from_slice(values.value(row));
                Ok(())
            })
        }
        DataType::Date32 => each::<Date32Type, 4>(array, date),
        DataType::Time64(TimeUnit::Microsecond) => {
            each::<Time64MicrosecondType, 8>(array, |v| Ok(v.to_be_bytes()))
        }
        DataType::Time64(_) => {
            each::<Time64NanosecondType, 8>(array, |v| Ok(micros(v).to_be_bytes()))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            each::<TimestampMicrosecondType, 8>(array, timestamp)
        }
        DataType::Timestamp(_, _) => {
            each::<TimestampNanosecondType, 8>(array, |v| timestamp(micros(v)))
        }
        DataType::Interval(_) => each::<IntervalMonthDayNanoType, 16>(array, |v| {
            if v.nanoseconds % 1000 != 0 {
                return Err("an interval with nanoseconds");
            }
            Ok(interval(v.months, v.days, v.nanoseconds / 1000))
        }),
        DataType::Duration(TimeUnit::Microsecond) => {
            each::<DurationMicrosecondType, 16>(array, |v| Ok(interval(0, 0, v)))
        }
        DataType::Duration(_) => {
            each::<DurationNanosecondType, 16>(array, |v| Ok(interval(0, 0, v.div_euclid(1000))))
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            Box::new(move |row, out| {
                out.extend_from_slice(values.value(row));
                Ok(())
            })
        }
        _ => in_text_form(array),
    })
}

fn in_text_form(array: &dyn Array) -> Write<'_> {
    Box::new(move |row, out| {
        let mut form = String::new();
        write_text(array, row, &mut form);
        text(&form, out)
    })
}
