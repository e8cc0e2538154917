//! Single values: for keys, bounds, filters, messages and programs that look at one row. Data moves
//! as record batches; this module is the only place where the two meet.

pub mod decimal;
pub mod number;
pub mod temporal;
pub mod text;

use std::fmt;
use std::sync::Arc;

use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType,
    DurationNanosecondType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Time64MicrosecondType, Time64NanosecondType,
    TimestampMicrosecondType, TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, FixedSizeBinaryArray, LargeBinaryArray,
    LargeStringArray, PrimitiveArray, StringArray, new_null_array,
};
use arrow::datatypes::{DataType, IntervalMonthDayNano};
use serde::{Deserialize, Serialize};

use crate::schema::LogicalType;
use crate::{Error, ErrorKind, Result};
use number::{float_text, is_numeric, parse_float32, parse_float64};
use temporal::{MICROS, NANOS};

/// One value. Decimals and temporal values are in their canonical text form (see [`decimal`] and
/// [`temporal`]), UUIDs as hyphenated text, arrays as JSON-like text for messages only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// SQL NULL.
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    UInt(u64),
    /// A float; NaN and infinities included.
    Float(f64),
    /// A decimal number as plain text.
    Decimal(String),
    /// Text, or the canonical text of a temporal value, UUID, enum, … .
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Value {
    /// What kind of value this is, for messages that must not show the value itself.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Bool(_) => "boolean",
            Self::Int(_) | Self::UInt(_) => "integer",
            Self::Float(_) => "float",
            Self::Decimal(_) => "decimal",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
        }
    }

    /// The value at `row` of a column of `logical_type`.
    ///
    /// # Errors
    /// [`ErrorKind::Schema`] if the array is not of the logical type's Arrow form, or the row is
    /// outside it.
    pub fn from_array(array: &dyn Array, row: usize, logical_type: &LogicalType) -> Result<Self> {
        if row >= array.len() {
            return Err(Error::schema(format!("row {row} of an array of {} rows", array.len())));
        }
        if array.data_type() != &logical_type.arrow_type() {
            return Err(Error::schema(format!(
                "a column of type {logical_type} is {}, got {}",
                logical_type.arrow_type(),
                array.data_type()
            )));
        }
        Ok(if array.is_null(row) { Self::Null } else { read(array, row, logical_type) })
    }

    /// An array of this one value in the Arrow form of `logical_type`. Text is parsed where the
    /// type is not text (as filters and range bounds of a mapping are all text).
    ///
    /// # Errors
    /// [`ErrorKind::Data`] if the value cannot be held exactly.
    pub fn to_array(&self, logical_type: &LogicalType) -> Result<ArrayRef> {
        if matches!(self, Self::Null) {
            return Ok(new_null_array(&logical_type.arrow_type(), 1));
        }
        build(self, logical_type).ok_or_else(|| {
            Error::new(
                ErrorKind::Data,
                format!("{} value {self} is not a value of type {logical_type}", self.kind()),
            )
        })
    }
}

fn primitive<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> T::Native {
    array.as_primitive::<T>().value(row)
}

fn read(array: &dyn Array, row: usize, logical_type: &LogicalType) -> Value {
    match array.data_type() {
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Int8 => Value::Int(primitive::<Int8Type>(array, row).into()),
        DataType::Int16 => Value::Int(primitive::<Int16Type>(array, row).into()),
        DataType::Int32 => Value::Int(primitive::<Int32Type>(array, row).into()),
        DataType::Int64 => Value::Int(primitive::<Int64Type>(array, row)),
        DataType::UInt8 => Value::UInt(primitive::<UInt8Type>(array, row).into()),
        DataType::UInt16 => Value::UInt(primitive::<UInt16Type>(array, row).into()),
        DataType::UInt32 => Value::UInt(primitive::<UInt32Type>(array, row).into()),
        DataType::UInt64 => Value::UInt(primitive::<UInt64Type>(array, row)),
        DataType::Float32 => Value::Float(primitive::<Float32Type>(array, row).into()),
        DataType::Float64 => Value::Float(primitive::<Float64Type>(array, row)),
        DataType::Decimal128(_, scale) => Value::Decimal(decimal::format_decimal(
            &primitive::<Decimal128Type>(array, row).to_string(),
            *scale,
        )),
        DataType::Decimal256(_, scale) => Value::Decimal(decimal::format_decimal(
            &primitive::<Decimal256Type>(array, row).to_string(),
            *scale,
        )),
        DataType::Utf8 => {
            let value = array.as_string::<i32>().value(row).to_owned();
            if *logical_type == LogicalType::Numeric {
                Value::Decimal(value)
            } else {
                Value::Text(value)
            }
        }
        DataType::LargeUtf8 => Value::Text(array.as_string::<i64>().value(row).to_owned()),
        DataType::Binary => Value::Bytes(array.as_binary::<i32>().value(row).to_vec()),
        DataType::LargeBinary => Value::Bytes(array.as_binary::<i64>().value(row).to_vec()),
        // Temporal values, UUIDs, intervals and, for messages, arrays: their canonical text.
        _ => {
            let mut out = String::new();
            text::write_text(array, row, &mut out);
            Value::Text(out)
        }
    }
}

/// `None` if the value is not exactly one of the type.
fn build(value: &Value, logical_type: &LogicalType) -> Option<ArrayRef> {
    fn one<T: ArrowPrimitiveType>(native: T::Native) -> ArrayRef {
        Arc::new(PrimitiveArray::<T>::from_iter_values([native]))
    }
    fn integer<T: ArrowPrimitiveType>(value: &Value) -> Option<ArrayRef>
    where
        T::Native: TryFrom<i128>,
    {
        let number: i128 = match value {
            Value::Int(number) => (*number).into(),
            Value::UInt(number) => (*number).into(),
            Value::Bool(flag) => (*flag).into(),
            Value::Float(number) => decimal::unscale(&float_text(*number), 0)?.parse().ok()?,
            Value::Text(text) | Value::Decimal(text) => {
                decimal::unscale(text.trim(), 0)?.parse().ok()?
            }
            _ => return None,
        };
        Some(one::<T>(T::Native::try_from(number).ok()?))
    }
    let text = || match value {
        Value::Text(text) | Value::Decimal(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Float(number) => Some(float_text(*number)),
        Value::Null | Value::Bytes(_) => None,
    };
    let bytes = || match value {
        Value::Bytes(bytes) => Some(bytes.clone()),
        Value::Text(text) => Some(text.clone().into_bytes()),
        _ => None,
    };
    // A text is also the float that it is the shortest text of; an integer is that number alone.
    let float = || match value {
        Value::Float(number) => Some(*number),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Int(_) | Value::UInt(_) => {
            let digits = text()?;
            digits.parse().ok().filter(|float: &f64| float_text(*float) == digits)
        }
        _ => parse_float64(text()?.trim()),
    };
    let characters = || match value {
        Value::Float(number) => {
            let mut out = String::new();
            text::write_float(&mut out, *number);
            Some(out)
        }
        _ => text(),
    };
    let unit = |precision: u8| if precision <= 6 { MICROS } else { NANOS };
    Some(match logical_type {
        LogicalType::Boolean => {
            let flag = match value {
                Value::Bool(flag) => *flag,
                Value::Int(0) | Value::UInt(0) => false,
                Value::Int(1) | Value::UInt(1) => true,
                Value::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                    "true" | "t" | "1" => true,
                    "false" | "f" | "0" => false,
                    _ => return None,
                },
                _ => return None,
            };
            Arc::new(BooleanArray::from(vec![flag]))
        }
        LogicalType::Int8 => integer::<Int8Type>(value)?,
        LogicalType::Int16 => integer::<Int16Type>(value)?,
        LogicalType::Int32 => integer::<Int32Type>(value)?,
        LogicalType::Int64 => integer::<Int64Type>(value)?,
        LogicalType::UInt8 => integer::<UInt8Type>(value)?,
        LogicalType::UInt16 => integer::<UInt16Type>(value)?,
        LogicalType::UInt32 => integer::<UInt32Type>(value)?,
        LogicalType::UInt64 => integer::<UInt64Type>(value)?,
        LogicalType::Float32 => one::<Float32Type>(match value {
            Value::Text(_) | Value::Decimal(_) => parse_float32(text()?.trim())?,
            _ => narrow(float()?)?,
        }),
        LogicalType::Float64 => one::<Float64Type>(float()?),
        LogicalType::Decimal { precision, scale } if *precision <= 38 => {
            let native = decimal::parse_decimal128(text()?.trim(), *precision, *scale)?;
            let array = PrimitiveArray::<Decimal128Type>::from_iter_values([native]);
            Arc::new(array.with_precision_and_scale(*precision, *scale).ok()?)
        }
        LogicalType::Decimal { precision, scale } => {
            let native = decimal::parse_decimal256(text()?.trim(), *precision, *scale)?;
            let array = PrimitiveArray::<Decimal256Type>::from_iter_values([native]);
            Arc::new(array.with_precision_and_scale(*precision, *scale).ok()?)
        }
        LogicalType::Clob => Arc::new(LargeStringArray::from(vec![characters()?])),
        LogicalType::Binary { .. } | LogicalType::Bytes { .. } | LogicalType::Geometry => {
            Arc::new(BinaryArray::from_iter_values([bytes()?]))
        }
        LogicalType::Blob => Arc::new(LargeBinaryArray::from_iter_values([bytes()?])),
        LogicalType::Date => one::<Date32Type>(temporal::parse_date(text()?.trim().as_bytes())?),
        LogicalType::Time { precision } => {
            let (native, _) = temporal::parse_time(text()?.trim().as_bytes(), unit(*precision))?;
            if *precision <= 6 {
                one::<Time64MicrosecondType>(native)
            } else {
                one::<Time64NanosecondType>(native)
            }
        }
        LogicalType::TimeSpan { precision } => {
            let native = temporal::parse_time_span(text()?.trim().as_bytes(), unit(*precision))?;
            if *precision <= 6 {
                one::<DurationMicrosecondType>(native)
            } else {
                one::<DurationNanosecondType>(native)
            }
        }
        LogicalType::Timestamp { precision } | LogicalType::TimestampTz { precision } => {
            let mut text = text()?.trim().to_owned();
            if text.len() == 10 {
                // A bound of a mapping may name the day alone.
                text.push_str(" 00:00:00");
            }
            let (native, _) = temporal::parse_timestamp(text.as_bytes(), unit(*precision))?;
            let zone: Option<Arc<str>> = match logical_type {
                LogicalType::TimestampTz { .. } => Some("UTC".into()),
                _ => None,
            };
            if *precision <= 6 {
                let array = PrimitiveArray::<TimestampMicrosecondType>::from_iter_values([native]);
                Arc::new(array.with_timezone_opt(zone))
            } else {
                let array = PrimitiveArray::<TimestampNanosecondType>::from_iter_values([native]);
                Arc::new(array.with_timezone_opt(zone))
            }
        }
        LogicalType::Interval => {
            let (months, days, nanos) = temporal::parse_interval(text()?.trim())?;
            one::<IntervalMonthDayNanoType>(IntervalMonthDayNano::new(months, days, nanos))
        }
        LogicalType::Uuid => {
            let uuid = match value {
                Value::Bytes(bytes) => <[u8; 16]>::try_from(bytes.as_slice()).ok()?,
                _ => parse_uuid(text()?.trim())?,
            };
            Arc::new(FixedSizeBinaryArray::try_from_iter([uuid].iter()).ok()?)
        }
        LogicalType::Array(_) => return None,
        LogicalType::Numeric => {
            let text = text()?;
            let number = text.trim();
            let number = number.strip_prefix('+').unwrap_or(number);
            is_numeric(number).then(|| Arc::new(StringArray::from(vec![number])))?
        }
        LogicalType::Char { .. }
        | LogicalType::Text { .. }
        | LogicalType::TimeTz { .. }
        | LogicalType::Json
        | LogicalType::Enum { .. }
        | LogicalType::Set { .. }
        | LogicalType::BitString { .. }
        | LogicalType::Other { .. } => Arc::new(StringArray::from(vec![characters()?])),
    })
}

/// The same number in 32 bits; `None` if there is none.
fn narrow(wide: f64) -> Option<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "checked to be exact")]
    let narrow = wide as f32;
    (f64::from(narrow).to_bits() == wide.to_bits() || wide.is_nan()).then_some(narrow)
}

/// The hyphenated lower-case text of 16 bytes.
#[must_use]
pub fn format_uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
        }
    }
    text
}

/// Reads hyphenated (or bare) hexadecimal text of 16 bytes.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    let hyphenated = bytes.len() == 36 && [8, 13, 18, 23].iter().all(|at| bytes[*at] == b'-');
    if !hyphenated && bytes.len() != 32 {
        return None;
    }
    let mut nibbles = bytes
        .iter()
        .enumerate()
        .filter(|(at, _)| !hyphenated || ![8, 13, 18, 23].contains(at))
        .map(|(_, byte)| char::from(*byte).to_digit(16));
    let mut uuid = [0u8; 16];
    for byte in &mut uuid {
        let (high, low) = (nibbles.next()??, nibbles.next()??);
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(uuid)
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::UInt(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Decimal(value) => f.write_str(value),
            Self::Text(value) => write!(f, "'{}'", value.replace('\'', "''")),
            Self::Bytes(value) => {
                f.write_str("X'")?;
                value.iter().try_for_each(|byte| write!(f, "{byte:02X}"))?;
                f.write_str("'")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(value: Value, ty: &str) -> Option<Value> {
        let ty: LogicalType = ty.parse().unwrap();
        let array = value.to_array(&ty).ok()?;
        Some(Value::from_array(array.as_ref(), 0, &ty).unwrap())
    }

    #[test]
    fn a_number_is_exact_or_refused() {
        let text = |text: &str| Value::Text(text.to_owned());
        let decimal = |text: &str| Value::Decimal(text.to_owned());
        for (value, ty, expected) in [
            (text("0.1"), "float64", Value::Float(0.1)),
            (text(" 1e3 "), "float64", Value::Float(1000.0)),
            (text("0.1"), "float32", Value::Float(0.1f32.into())),
            (decimal("2.50"), "float64", Value::Float(2.5)),
            (Value::Int(1 << 60), "float64", Value::Float(2f64.powi(60))),
            (Value::Float(2f64.powi(60)), "int64", Value::Int(1 << 60)),
            (Value::Float(-0.0), "uint8", Value::UInt(0)),
            (Value::Float(2.5), "decimal(2,1)", decimal("2.5")),
            (Value::Float(1e17), "numeric", decimal("100000000000000000")),
            (text("+5.10"), "numeric", decimal("5.10")),
            (Value::Float(1.0), "text", text("1.0")),
        ] {
            assert_eq!(held(value.clone(), ty).as_ref(), Some(&expected), "{value} {ty}");
        }
        for (value, ty) in [
            (text("0.12345678901234567890"), "float64"),
            (decimal("0.12345678901234567890"), "float64"),
            (Value::Int((1 << 53) + 1), "float64"),
            (Value::Int(1_152_921_504_606_847_000), "float64"),
            (Value::Float(0.1), "float32"),
            (Value::Float(0.5), "int64"),
            (Value::Float(f64::NAN), "int64"),
            (Value::Float(1e19), "int64"),
            (text("abc"), "numeric"),
            (text("1e5"), "numeric"),
            (text("inf"), "float64"),
        ] {
            assert_eq!(held(value.clone(), ty), None, "{value} {ty}");
        }
    }
}
