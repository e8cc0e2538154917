//! Rows as numbers: one hash a value, equal for equal values whatever type carries them.
//!
//! A value's *class* and canonical content are hashed, not its Arrow form: an integer is the same
//! number in 32 and 64 bits and as a decimal of any scale, a timestamp the same instant in
//! microseconds and nanoseconds, text the same in both widths. Floats compare by their bits, all
//! NaNs alike, and -0.0 is not 0.0. NULL equals NULL only.

use arrow::array::cast::AsArray;
use arrow::array::types::{
    Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType, DurationNanosecondType,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType, TimestampNanosecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{Array, ArrowPrimitiveType};
use arrow::datatypes::{DataType, TimeUnit};
use twox_hash::XxHash3_64;

use crate::schema::LogicalType;

/// Odd constants with well-mixed bits (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", 2014, and its successors).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
const MIX_1: u64 = 0xBF58_476D_1CE4_E5B9;
const MIX_2: u64 = 0x94D0_49BB_1331_11EB;

const NULL: u64 = 0x6E75_6C6C_0000_0001;
const NUMBER: u64 = 1;
const FLOAT: u64 = 2;
const TEXT: u64 = 3;
const BYTES: u64 = 4;
const DATE: u64 = 5;
const TIME: u64 = 6;
const SPAN: u64 = 7;
const TIMESTAMP: u64 = 8;
const INTERVAL: u64 = 9;
const LIST: u64 = 11;

#[inline]
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(MIX_1);
    let value = (value ^ (value >> 27)).wrapping_mul(MIX_2);
    value ^ (value >> 31)
}

#[inline]
fn pair(class: u64, high: u64, low: u64) -> u64 {
    mix(mix(low.wrapping_add(class.wrapping_mul(GOLDEN))) ^ high.wrapping_mul(MIX_2))
}

#[inline]
fn wide(class: u64, value: i128) -> u64 {
    let bytes = value.to_le_bytes();
    let (low, high) = bytes.split_at(8);
    let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    pair(class, word(high), word(low))
}

fn bytes(class: u64, value: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(class, value)
}

/// A number without the zeros that its scale brings along.
#[inline]
fn number(mut unscaled: i128, mut scale: i32) -> u64 {
    if unscaled == 0 {
        scale = 0;
    }
    if let Ok(mut narrow) = i64::try_from(unscaled) {
        while scale > 0 && narrow % 10 == 0 {
            narrow /= 10;
            scale -= 1;
        }
        unscaled = narrow.into();
    } else {
        while scale > 0 && unscaled % 10 == 0 {
            unscaled /= 10;
            scale -= 1;
        }
    }
    while scale < 0 {
        match unscaled.checked_mul(10) {
            Some(wider) => unscaled = wider,
            None => break,
        }
        scale += 1;
    }
    wide(NUMBER.wrapping_add(mix(scale.cast_unsigned().into())), unscaled)
}

/// A number in text form: as the number it is, or, if that has too many digits, as its digits.
fn number_text(text: &str) -> u64 {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let scale = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    match format!("{sign}0{whole}{fraction}").parse::<i128>() {
        Ok(unscaled) => number(unscaled, scale),
        Err(_) => bytes(NUMBER, format!("{sign}{whole}.{fraction}").as_bytes()),
    }
}

fn float(value: f64) -> u64 {
    pair(FLOAT, 0, if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() })
}

/// Nanoseconds; infinities stay apart from every finite value.
fn moment(class: u64, value: i64, unit: TimeUnit) -> u64 {
    let infinite = value == i64::MAX || value == i64::MIN;
    let factor = if unit == TimeUnit::Microsecond && !infinite { 1000 } else { 1 };
    let class = if infinite { class.wrapping_add(GOLDEN) } else { class };
    wide(class, i128::from(value) * factor)
}

/// The hash of each value of a column.
pub(super) fn hash_column(array: &dyn Array, ty: &LogicalType) -> Vec<u64> {
    fn each(array: &dyn Array, hash: impl Fn(usize) -> u64) -> Vec<u64> {
        (0..array.len()).map(|row| if array.is_null(row) { NULL } else { hash(row) }).collect()
    }
    fn integers<T: ArrowPrimitiveType>(array: &dyn Array) -> Vec<u64>
    where
        T::Native: Into<i128>,
    {
        let values = array.as_primitive::<T>();
        each(array, |row| number(values.value(row).into(), 0))
    }
    fn moments<T: ArrowPrimitiveType<Native = i64>>(
        array: &dyn Array,
        class: u64,
        unit: TimeUnit,
    ) -> Vec<u64> {
        let values = array.as_primitive::<T>();
        each(array, |row| moment(class, values.value(row), unit))
    }
    match array.data_type() {
        DataType::Boolean => {
            let values = array.as_boolean();
            each(array, |row| number(values.value(row).into(), 0))
        }
        DataType::Int8 => integers::<Int8Type>(array),
        DataType::Int16 => integers::<Int16Type>(array),
        DataType::Int32 => integers::<Int32Type>(array),
        DataType::Int64 => integers::<Int64Type>(array),
        DataType::UInt8 => integers::<UInt8Type>(array),
        DataType::UInt16 => integers::<UInt16Type>(array),
        DataType::UInt32 => integers::<UInt32Type>(array),
        DataType::UInt64 => integers::<UInt64Type>(array),
        DataType::Float32 => {
            let values = array.as_primitive::<Float32Type>();
            each(array, |row| float(values.value(row).into()))
        }
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>();
            each(array, |row| float(values.value(row)))
        }
        DataType::Decimal128(_, scale) => {
            let values = array.as_primitive::<Decimal128Type>();
            each(array, |row| number(values.value(row), (*scale).into()))
        }
        DataType::Decimal256(_, scale) => {
            let values = array.as_primitive::<Decimal256Type>();
            each(array, |row| {
                let unscaled = values.value(row);
                match unscaled.to_i128() {
                    Some(unscaled) => number(unscaled, (*scale).into()),
                    None => number_text(&crate::value::decimal::format_decimal(
                        &unscaled.to_string(),
                        *scale,
                    )),
                }
            })
        }
        DataType::Utf8 if *ty == LogicalType::Numeric => {
            let values = array.as_string::<i32>();
            each(array, |row| number_text(values.value(row)))
        }
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            each(array, |row| bytes(TEXT, values.value(row).as_bytes()))
        }
        DataType::LargeUtf8 => {
            let values = array.as_string::<i64>();
            each(array, |row| bytes(TEXT, values.value(row).as_bytes()))
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>();
            each(array, |row| bytes(BYTES, values.value(row)))
        }
        DataType::LargeBinary => {
            let values = array.as_binary::<i64>();
            each(array, |row| bytes(BYTES, values.value(row)))
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            each(array, |row| bytes(BYTES, values.value(row)))
        }
        DataType::Date32 => {
            let values = array.as_primitive::<Date32Type>();
            each(array, |row| wide(DATE, values.value(row).into()))
        }
        DataType::Time64(TimeUnit::Nanosecond) => {
            moments::<Time64NanosecondType>(array, TIME, TimeUnit::Nanosecond)
        }
        DataType::Time64(_) => moments::<Time64MicrosecondType>(array, TIME, TimeUnit::Microsecond),
        DataType::Duration(TimeUnit::Nanosecond) => {
            moments::<DurationNanosecondType>(array, SPAN, TimeUnit::Nanosecond)
        }
        DataType::Duration(_) => {
            moments::<DurationMicrosecondType>(array, SPAN, TimeUnit::Microsecond)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            moments::<TimestampNanosecondType>(array, TIMESTAMP, TimeUnit::Nanosecond)
        }
        DataType::Timestamp(..) => {
            moments::<TimestampMicrosecondType>(array, TIMESTAMP, TimeUnit::Microsecond)
        }
        DataType::Interval(_) => {
            let values = array.as_primitive::<IntervalMonthDayNanoType>();
            each(array, |row| {
                let value = values.value(row);
                let date = u64::from(value.months.cast_unsigned()) << 32
                    | u64::from(value.days.cast_unsigned());
                match date {
                    // Elapsed time and no more, which other engines have as a type of its own.
                    0 => moment(SPAN, value.nanoseconds, TimeUnit::Nanosecond),
                    date => pair(INTERVAL, date, value.nanoseconds.cast_unsigned()),
                }
            })
        }
        DataType::List(_) => {
            let values = array.as_list::<i32>();
            let element = match ty {
                LogicalType::Array(element) => element,
                other => other,
            };
            each(array, |row| {
                let items = hash_column(values.value(row).as_ref(), element);
                let length = items.len() as u64;
                items.into_iter().fold(pair(LIST, 0, length), |hash, item| pair(LIST, hash, item))
            })
        }
        // `LogicalType::arrow_type` yields no other form; its text is all that can be said.
        other => vec![bytes(TEXT, other.to_string().as_bytes()); array.len()],
    }
}

/// Joins the hashes of a row's columns; the order of columns counts.
#[inline]
pub(super) fn join(row: u128, column: u64) -> u128 {
    const FACTOR: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;
    (row ^ u128::from(column).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
        .wrapping_mul(FACTOR)
        .rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    fn hash(value: &str, ty: &str) -> u64 {
        let ty: LogicalType = ty.parse().unwrap();
        let array = Value::Text(value.to_owned()).to_array(&ty).unwrap();
        hash_column(array.as_ref(), &ty)[0]
    }

    #[test]
    fn equal_values_of_other_types_are_equal() {
        for [(a, ta), (b, tb)] in [
            [("5", "int8"), ("5", "int64")],
            [("5", "int32"), ("5.00", "decimal(10,2)")],
            [("5.10", "decimal(10,2)"), ("5.1", "decimal(40,1)")],
            [("5.10", "decimal(10,2)"), ("5.1", "numeric")],
            [("500", "decimal(3,-2)"), ("500", "int64")],
            [("0", "int8"), ("0.00", "numeric")],
            [("1", "int8"), ("true", "boolean")],
            [("x", "text"), ("x", "clob")],
            [("1.5", "float32"), ("1.5", "float64")],
            [("2020-01-01 00:00:00.5", "timestamp(6)"), ("2020-01-01 00:00:00.5", "timestamp(9)")],
            [("PT-5S", "interval"), ("-00:00:05", "timespan(0)")],
        ] {
            assert_eq!(hash(a, ta), hash(b, tb), "{a} {ta}, {b} {tb}");
        }
    }

    #[test]
    fn different_values_differ() {
        for [(a, ta), (b, tb)] in [
            [("5", "int8"), ("50", "int8")],
            [("5", "int8"), ("0.5", "decimal(2,1)")],
            [("5", "int8"), ("5", "text")],
            [("0.0", "float64"), ("-0.0", "float64")],
            [("1", "int8"), ("-1", "int8")],
            [("infinity", "timestamp(6)"), ("-infinity", "timestamp(6)")],
            [("P1M", "interval"), ("P30D", "interval")],
        ] {
            assert_ne!(hash(a, ta), hash(b, tb), "{a} {ta}, {b} {tb}");
        }
    }
}
