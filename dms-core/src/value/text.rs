//! The canonical text form of whole columns: what a CSV file holds and what a change of data type
//! goes through. Every value but NULL has one text, and reading it gives the value back.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::types::{
    Date32Type, Decimal128Type, DurationMicrosecondType, DurationNanosecondType, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType, TimestampNanosecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryBuilder, BooleanArray,
    FixedSizeBinaryBuilder, LargeBinaryBuilder, LargeStringArray, PrimitiveArray, StringArray,
};
use arrow::datatypes::{DataType, Decimal256Type, IntervalMonthDayNano, TimeUnit};

use super::temporal::{self, MICROS, NANOS};
use super::{decimal, format_uuid, parse_uuid};
use crate::schema::LogicalType;
use crate::{Error, ErrorKind, Result};

/// Whether columns of the type have a text form.
#[must_use]
pub fn has_text(logical_type: &LogicalType) -> bool {
    !matches!(logical_type, LogicalType::Array(_))
}

/// Appends the text of the value at `row`, which is there and not NULL. Bytes are hexadecimal.
pub fn write_text(array: &dyn Array, row: usize, out: &mut String) {
    macro_rules! number {
        ($type:ty) => {{
            let _ = write!(out, "{}", array.as_primitive::<$type>().value(row));
        }};
    }
    // Writing to a string cannot fail.
    match array.data_type() {
        DataType::Utf8 => out.push_str(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => out.push_str(array.as_string::<i64>().value(row)),
        DataType::Int64 => number!(Int64Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int8 => number!(Int8Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::Float32 => write_float(out, array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => write_float(out, array.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => {
            out.push_str(if array.as_boolean().value(row) { "true" } else { "false" });
        }
        DataType::Decimal128(_, scale) => {
            let unscaled = array.as_primitive::<Decimal128Type>().value(row).to_string();
            out.push_str(&decimal::format_decimal(&unscaled, *scale));
        }
        DataType::Decimal256(_, scale) => {
            let unscaled = array.as_primitive::<Decimal256Type>().value(row).to_string();
            out.push_str(&decimal::format_decimal(&unscaled, *scale));
        }
        DataType::Date32 => {
            temporal::write_date(out, array.as_primitive::<Date32Type>().value(row))
        }
        DataType::Time64(unit) => match unit {
            TimeUnit::Nanosecond => {
                let value = array.as_primitive::<Time64NanosecondType>().value(row);
                temporal::write_time(out, value, NANOS, None);
            }
            _ => {
                let value = array.as_primitive::<Time64MicrosecondType>().value(row);
                temporal::write_time(out, value, MICROS, None);
            }
        },
        DataType::Duration(unit) => match unit {
            TimeUnit::Nanosecond => {
                let value = array.as_primitive::<DurationNanosecondType>().value(row);
                temporal::write_time_span(out, value, NANOS, None);
            }
            _ => {
                let value = array.as_primitive::<DurationMicrosecondType>().value(row);
                temporal::write_time_span(out, value, MICROS, None);
            }
        },
        DataType::Timestamp(unit, _) => match unit {
            TimeUnit::Nanosecond => {
                let value = array.as_primitive::<TimestampNanosecondType>().value(row);
                temporal::write_timestamp(out, value, NANOS, None);
            }
            _ => {
                let value = array.as_primitive::<TimestampMicrosecondType>().value(row);
                temporal::write_timestamp(out, value, MICROS, None);
            }
        },
        DataType::Interval(_) => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            temporal::write_interval(out, value.months, value.days, value.nanoseconds);
        }
        DataType::FixedSizeBinary(_) => {
            out.push_str(&format_uuid(array.as_fixed_size_binary().value(row)));
        }
        DataType::Binary => write_hex(out, array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => write_hex(out, array.as_binary::<i64>().value(row)),
        // Arrays have no text form, see `has_text`; this one is for messages.
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            out.push('[');
            for item in 0..items.len() {
                if item > 0 {
                    out.push(',');
                }
                if items.is_null(item) {
                    out.push_str("NULL");
                } else {
                    write_text(items.as_ref(), item, out);
                }
            }
            out.push(']');
        }
        // `LogicalType::arrow_type` yields no other form.
        other => {
            let _ = write!(out, "<{other}>");
        }
    }
}

/// The shortest digits that read back as the same float; `NaN`, `Infinity`, `-Infinity`.
pub(super) fn write_float<F: std::fmt::Debug + Into<f64> + Copy>(out: &mut String, value: F) {
    let wide: f64 = value.into();
    let _ = if wide.is_infinite() {
        out.write_str(if wide > 0.0 { "Infinity" } else { "-Infinity" })
    } else {
        write!(out, "{value:?}")
    };
}

fn write_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from(DIGITS[usize::from(nibble)]));
        }
    }
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

fn parse_float(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ if text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) => text.parse().ok(),
        _ => None,
    }
}

/// Reads a column of texts as values of a type.
///
/// # Errors
/// `Data` with the row of the first text that is no value of the type; `Unsupported` for arrays.
pub fn parse_column(texts: &StringArray, logical_type: &LogicalType) -> Result<ArrayRef> {
    fn primitive<T: ArrowPrimitiveType>(
        texts: &StringArray,
        logical_type: &LogicalType,
        parse: impl Fn(&str) -> Option<T::Native>,
    ) -> Result<ArrayRef> {
        let values = each(texts, logical_type, parse)?;
        let array = PrimitiveArray::<T>::from_iter(values);
        Ok(Arc::new(array.with_data_type(logical_type.arrow_type())))
    }
    macro_rules! integer {
        ($type:ty) => {
            primitive::<$type>(texts, logical_type, |text| text.parse().ok())
        };
    }
    let unit = |precision: u8| if precision <= 6 { MICROS } else { NANOS };
    match logical_type {
        LogicalType::Boolean => {
            let values = each(texts, logical_type, |text| match text {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            })?;
            Ok(Arc::new(BooleanArray::from(values)))
        }
        LogicalType::Int8 => integer!(Int8Type),
        LogicalType::Int16 => integer!(Int16Type),
        LogicalType::Int32 => integer!(Int32Type),
        LogicalType::Int64 => integer!(Int64Type),
        LogicalType::UInt8 => integer!(UInt8Type),
        LogicalType::UInt16 => integer!(UInt16Type),
        LogicalType::UInt32 => integer!(UInt32Type),
        LogicalType::UInt64 => integer!(UInt64Type),
        LogicalType::Float32 => primitive::<Float32Type>(texts, logical_type, |text| {
            // Parsed as what it is: through a double it could be rounded twice.
            parse_float(text).and_then(|wide| {
                #[expect(clippy::cast_possible_truncation, reason = "NaN and infinities only")]
                if wide.is_finite() { text.parse().ok() } else { Some(wide as f32) }
            })
        }),
        LogicalType::Float64 => primitive::<Float64Type>(texts, logical_type, parse_float),
        LogicalType::Decimal { precision, scale } if *precision <= 38 => {
            primitive::<Decimal128Type>(texts, logical_type, |text| {
                decimal::parse_decimal128(text, *precision, *scale)
            })
        }
        LogicalType::Decimal { precision, scale } => {
            primitive::<Decimal256Type>(texts, logical_type, |text| {
                decimal::parse_decimal256(text, *precision, *scale)
            })
        }
        LogicalType::Date => primitive::<Date32Type>(texts, logical_type, |text| {
            temporal::parse_date(text.as_bytes())
        }),
        LogicalType::Time { precision } => {
            let unit = unit(*precision);
            let parse = |text: &str| temporal::parse_time(text.as_bytes(), unit).map(|v| v.0);
            if unit == MICROS {
                primitive::<Time64MicrosecondType>(texts, logical_type, parse)
            } else {
                primitive::<Time64NanosecondType>(texts, logical_type, parse)
            }
        }
        LogicalType::TimeSpan { precision } => {
            let unit = unit(*precision);
            let parse = |text: &str| temporal::parse_time_span(text.as_bytes(), unit);
            if unit == MICROS {
                primitive::<DurationMicrosecondType>(texts, logical_type, parse)
            } else {
                primitive::<DurationNanosecondType>(texts, logical_type, parse)
            }
        }
        LogicalType::Timestamp { precision } | LogicalType::TimestampTz { precision } => {
            let unit = unit(*precision);
            let parse = |text: &str| temporal::parse_timestamp(text.as_bytes(), unit).map(|v| v.0);
            if unit == MICROS {
                primitive::<TimestampMicrosecondType>(texts, logical_type, parse)
            } else {
                primitive::<TimestampNanosecondType>(texts, logical_type, parse)
            }
        }
        LogicalType::Interval => {
            primitive::<IntervalMonthDayNanoType>(texts, logical_type, |text| {
                let (months, days, nanos) = temporal::parse_interval(text)?;
                Some(IntervalMonthDayNano::new(months, days, nanos))
            })
        }
        LogicalType::Uuid => {
            let mut builder = FixedSizeBinaryBuilder::with_capacity(texts.len(), 16);
            for value in each(texts, logical_type, parse_uuid)? {
                match value {
                    Some(uuid) => builder.append_value(uuid)?,
                    None => builder.append_null(),
                }
            }
            Ok(Arc::new(builder.finish()))
        }
        LogicalType::Bytes { .. } | LogicalType::Binary { .. } | LogicalType::Geometry => {
            let mut builder = BinaryBuilder::new();
            each(texts, logical_type, parse_hex)?
                .into_iter()
                .for_each(|v| builder.append_option(v));
            Ok(Arc::new(builder.finish()))
        }
        LogicalType::Blob => {
            let mut builder = LargeBinaryBuilder::new();
            each(texts, logical_type, parse_hex)?
                .into_iter()
                .for_each(|v| builder.append_option(v));
            Ok(Arc::new(builder.finish()))
        }
        LogicalType::Clob => Ok(Arc::new(texts.iter().collect::<LargeStringArray>())),
        LogicalType::Array(_) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("values of type {logical_type} have no text form"),
        )),
        _ => Ok(Arc::new(texts.clone())),
    }
}

fn each<T>(
    texts: &StringArray,
    logical_type: &LogicalType,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<Option<T>>> {
    texts
        .iter()
        .enumerate()
        .map(|(row, text)| match text {
            None => Ok(None),
            Some(text) => parse(text).map(Some).ok_or_else(|| {
                Error::data(format!("text that is not a value of type {logical_type}"))
                    .context("row of the batch", row)
            }),
        })
        .collect()
}
