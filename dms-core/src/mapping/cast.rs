//! A column's change of data type: exactly, or not at all.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::types::{Float32Type, Float64Type};
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, StringArray, StringBuilder,
};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;

use super::limits;
use crate::schema::LogicalType;
use crate::value::number::{float_text, parse_float32, parse_float64};
use crate::value::text::{parse_column, write_text};
use crate::{Error, ErrorKind, Result};

/// The column as values of `to`: the same number, the same instant (a clock without a zone is
/// UTC's), or the value's text form.
///
/// # Errors
/// `Data` with the row of the first value that `to` does not hold exactly; as [`check_types`].
pub(super) fn cast(array: &ArrayRef, from: &LogicalType, to: &LogicalType) -> Result<ArrayRef> {
    check_types(from, to)?;
    let (here, there) = (from.arrow_type(), to.arrow_type());
    // The one type that also spells its texts in its own way.
    let cast = if *to == LogicalType::Numeric {
        by_text(array.as_ref(), from, to)?
    } else if here == there {
        Arc::clone(array)
    } else if differ_in_width(&here, &there) {
        arrow::compute::cast(array, &there)?
    } else if is_binary(&here) && is_binary(&there) {
        there_and_back(array, to)?
    } else {
        by_text(array.as_ref(), from, to)?
    };
    limits::check(cast.as_ref(), to)?;
    Ok(cast)
}

/// Whether values of the one type can be values of the other at all. Two values with the same text
/// form are not the same value: `10` is an integer, two bits and the hexadecimal form of a byte.
///
/// # Errors
/// `Unsupported` naming the types.
pub(super) fn check_types(from: &LogicalType, to: &LogicalType) -> Result<()> {
    let allowed = match (family(from), family(to)) {
        (Family::List, _) | (_, Family::List) => false,
        // Only their engine knows what these may hold.
        _ if matches!(to, LogicalType::Geometry | LogicalType::Other { .. }) => false,
        (Family::Text, _) | (_, Family::Text) => true,
        (from, to) => from == to,
    };
    if allowed {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, format!("data type {from} cannot be changed to {to}")))
}

/// Types among which values can be the same.
#[derive(PartialEq)]
enum Family {
    Number,
    Text,
    Bytes,
    Time,
    Uuid,
    Json,
    Labels,
    Bits,
    List,
    Other,
}

fn family(ty: &LogicalType) -> Family {
    match ty {
        LogicalType::Text { .. } | LogicalType::Char { .. } | LogicalType::Clob => Family::Text,
        LogicalType::Binary { .. }
        | LogicalType::Bytes { .. }
        | LogicalType::Blob
        | LogicalType::Geometry => Family::Bytes,
        LogicalType::Date
        | LogicalType::Time { .. }
        | LogicalType::TimeTz { .. }
        | LogicalType::TimeSpan { .. }
        | LogicalType::Timestamp { .. }
        | LogicalType::TimestampTz { .. }
        | LogicalType::Interval => Family::Time,
        LogicalType::Uuid => Family::Uuid,
        LogicalType::Json => Family::Json,
        LogicalType::Enum { .. } | LogicalType::Set { .. } => Family::Labels,
        LogicalType::BitString { .. } => Family::Bits,
        LogicalType::Array(_) => Family::List,
        LogicalType::Other { .. } => Family::Other,
        _ => Family::Number,
    }
}

fn differ_in_width(a: &DataType, b: &DataType) -> bool {
    use DataType::{Binary, LargeBinary, LargeUtf8, Utf8};
    matches!((a, b), (Utf8, LargeUtf8) | (LargeUtf8, Utf8))
        || matches!((a, b), (Binary, LargeBinary) | (LargeBinary, Binary))
}

/// Numbers that the processor knows.
fn is_binary(ty: &DataType) -> bool {
    *ty == DataType::Boolean || ty.is_integer() || ty.is_floating()
}

/// Converts and proves by the way back that every number is the same.
fn there_and_back(array: &ArrayRef, to: &LogicalType) -> Result<ArrayRef> {
    // What does not fit becomes NULL, which is not what it was.
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let cast = cast_with_options(array, &to.arrow_type(), &options)?;
    let back = cast_with_options(&cast, array.data_type(), &options)?;
    let changed = match array.data_type() {
        DataType::Float32 => changed_float::<Float32Type>(array, &back),
        DataType::Float64 => changed_float::<Float64Type>(array, &back),
        _ => distinct(array, &back)?.iter().position(|changed| changed == Some(true)),
    };
    match changed {
        None => Ok(cast),
        Some(row) => Err(Error::data(format!("a number that type {to} does not hold exactly"))
            .context("row of the batch", row)),
    }
}

/// The first row whose number is another; all NaNs are alike, and so are zeros.
fn changed_float<T: ArrowPrimitiveType>(array: &dyn Array, back: &dyn Array) -> Option<usize>
where
    T::Native: Into<f64>,
{
    let mut rows = array.as_primitive::<T>().iter().zip(back.as_primitive::<T>());
    rows.position(|pair| match pair {
        (Some(a), Some(b)) => {
            let (a, b): (f64, f64) = (a.into(), b.into());
            a != b && !(a.is_nan() && b.is_nan())
        }
        (a, b) => a.is_some() != b.is_some(),
    })
}

fn by_text(array: &dyn Array, from: &LogicalType, to: &LogicalType) -> Result<ArrayRef> {
    let texts = texts_of(array, from, to);
    match to {
        LogicalType::Float32 => floats::<Float32Type>(&texts, to, parse_float32),
        LogicalType::Float64 => floats::<Float64Type>(&texts, to, parse_float64),
        _ => parse_column(&texts, to),
    }
}

fn floats<T: ArrowPrimitiveType>(
    texts: &StringArray,
    to: &LogicalType,
    parse: impl Fn(&str) -> Option<T::Native>,
) -> Result<ArrayRef> {
    let mut floats = PrimitiveArray::<T>::builder(texts.len());
    for (row, text) in texts.iter().enumerate() {
        let float = text.map(&parse);
        if float.is_some_and(|float| float.is_none()) {
            return Err(Error::data(format!("text that type {to} does not hold exactly"))
                .context("row of the batch", row));
        }
        floats.append_option(float.flatten());
    }
    Ok(Arc::new(floats.finish()))
}

/// Each value as `to` spells it.
fn texts_of(array: &dyn Array, from: &LogicalType, to: &LogicalType) -> StringArray {
    let to_digits = matches!(to, LogicalType::Decimal { .. } | LogicalType::Numeric);
    let mut texts = StringBuilder::with_capacity(array.len(), array.len() * 8);
    let mut text = String::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            texts.append_null();
            continue;
        }
        text.clear();
        match array.data_type() {
            DataType::Float32 if to_digits => {
                text.push_str(&float_text(array.as_primitive::<Float32Type>().value(row)));
            }
            DataType::Float64 if to_digits => {
                text.push_str(&float_text(array.as_primitive::<Float64Type>().value(row)));
            }
            _ => write_text(array, row, &mut text),
        }
        texts.append_value(respell(&text, from, to));
    }
    texts.finish()
}

/// The same value as the other type spells it, where the two spell it differently.
fn respell<'a>(text: &'a str, from: &LogicalType, to: &LogicalType) -> Cow<'a, str> {
    match (from, to) {
        (LogicalType::Boolean, LogicalType::Decimal { .. } | LogicalType::Numeric) => {
            if text == "true" { "1" } else { "0" }.into()
        }
        // 5.00 is the integer 5; 5.01 is none.
        (_, to) if to.arrow_type().is_integer() => match text.split_once('.') {
            Some((whole, fraction)) if fraction.bytes().all(|byte| byte == b'0') => whole.into(),
            _ => text.into(),
        },
        (_, LogicalType::Numeric) => text.strip_prefix('+').unwrap_or(text).into(),
        (LogicalType::Date, LogicalType::Timestamp { .. }) if !text.ends_with("infinity") => {
            format!("{text} 00:00:00").into()
        }
        (LogicalType::Timestamp { .. }, LogicalType::Date) => {
            text.strip_suffix(" 00:00:00").unwrap_or(text).into()
        }
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array};
    use proptest::prelude::*;

    use super::*;
    use crate::value::Value;

    /// The one value in another type, as its text.
    fn changed(value: &str, from: &str, to: &str) -> Result<String> {
        let (from, to): (LogicalType, LogicalType) = (from.parse()?, to.parse()?);
        let array = Value::Text(value.to_owned()).to_array(&from)?;
        let array = cast(&array, &from, &to)?;
        let mut text = String::new();
        write_text(array.as_ref(), 0, &mut text);
        Ok(text)
    }

    #[test]
    fn the_same_value_in_another_type() {
        for (value, from, to, expected) in [
            ("1152921504606846976", "int64", "float64", "1.152921504606847e18"),
            ("1152921504606846976", "float64", "int64", "1152921504606846976"),
            ("1152921504606846976", "float64", "decimal(19,0)", "1152921504606846976"),
            ("0.1", "float32", "decimal(3,2)", "0.10"),
            ("NaN", "numeric", "float64", "NaN"),
            ("true", "boolean", "numeric", "1"),
            ("5.00", "decimal(5,2)", "uint8", "5"),
            ("+5.10", "text", "numeric", "5.10"),
            ("1.10", "decimal(5,2)", "float64", "1.1"),
            ("infinity", "timestamp(9)", "timestamp(0)", "infinity"),
            ("2020-01-01", "date", "timestamp(3)", "2020-01-01 00:00:00"),
            ("10:00:00.5+02:00", "text", "timetz(1)", "10:00:00.5+02:00"),
            ("né", "clob", "text(2)", "né"),
            ("[1]", "clob", "json", "[1]"),
            ("x", "bytes", "blob", "78"),
        ] {
            assert_eq!(changed(value, from, to).unwrap(), expected, "{value} {from} {to}");
        }
    }

    #[test]
    fn another_value_is_refused() {
        for (value, from, to) in [
            ("9007199254740993", "int64", "float64"),
            ("16777217", "int32", "float32"),
            ("18446744073709551615", "uint64", "float64"),
            ("9223372036854775807", "int64", "float64"),
            ("9223372036854775808", "float64", "int64"),
            ("-1", "int64", "uint64"),
            ("NaN", "float64", "int64"),
            ("1e300", "float64", "float32"),
            ("2", "int8", "boolean"),
            ("0.12345678901234567890", "numeric", "float64"),
            ("0.1234567890123456789012345", "decimal(30,25)", "float64"),
            ("1e5", "text", "numeric"),
            (" 5", "text", "numeric"),
            ("5.01", "text", "int32"),
            ("10:00:00.123456", "time(6)", "time(3)"),
            ("10:00:00.1", "timespan(6)", "timespan(0)"),
            ("2020-01-01 00:00:00.001", "timestamptz(3)", "timestamptz(0)"),
            ("2020-01-01 00:00:01", "timestamp(0)", "date"),
            ("9999-12-31 00:00:00", "timestamp(6)", "timestamp(9)"),
            ("10:00:00.12+02", "text", "timetz(2)"),
            ("abc", "clob", "text(2)"),
            ("abc", "blob", "bytes(2)"),
            ("abc", "bytes", "binary(4)"),
            ("d", "enum('d')", "enum('a')"),
            ("a,d", "text", "set('a','b')"),
            ("101", "bit(3)", "bit(2)"),
            ("{", "text", "json"),
        ] {
            let error = changed(value, from, to).expect_err(&format!("{value} {from} {to}"));
            assert_eq!(error.kind(), ErrorKind::Data, "{value} {from} {to}: {error}");
            assert_eq!(error.context_value("row of the batch"), Some("0"), "{error}");
        }
    }

    #[test]
    fn a_text_form_in_common_is_not_a_value_in_common() {
        for (from, to) in [
            ("int32", "bytes"),
            ("bytes", "int32"),
            ("int32", "varbit"),
            ("bit(3)", "int32"),
            ("int64", "timestamp(6)"),
            ("bytes", "geometry"),
            ("text", "other('x')"),
            ("array(text)", "array(text(3))"),
        ] {
            let error = check_types(&from.parse().unwrap(), &to.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{from} {to}");
        }
    }

    proptest! {
        #[test]
        fn integers_go_there_and_back(values in prop::collection::vec(any::<Option<i64>>(), 0..9)) {
            let array: ArrayRef = Arc::new(Int64Array::from(values));
            for name in ["int8", "uint64", "float32", "float64", "decimal(19,0)", "numeric", "text"] {
                let (int, to) = (LogicalType::Int64, name.parse().unwrap());
                if let Ok(there) = cast(&array, &int, &to) {
                    prop_assert_eq!(&cast(&there, &to, &int).unwrap(), &array, "{}", name);
                }
            }
        }

        #[test]
        fn floats_go_there_and_back(bits in prop::collection::vec(any::<u64>(), 1..9)) {
            let floats: Vec<f64> = bits.into_iter().map(f64::from_bits).collect();
            let array: ArrayRef = Arc::new(Float64Array::from(floats));
            for name in ["int64", "float32", "decimal(38,6)", "numeric", "text"] {
                let (float, to) = (LogicalType::Float64, name.parse().unwrap());
                if let Ok(there) = cast(&array, &float, &to) {
                    let back = cast(&there, &to, &float).unwrap();
                    prop_assert_eq!(changed_float::<Float64Type>(&array, &back), None, "{}", name);
                }
            }
        }
    }
}
