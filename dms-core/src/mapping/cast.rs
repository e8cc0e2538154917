//! A column's change of data type: exactly, or not at all.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::types::{Float32Type, Float64Type};
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray, StringBuilder};
use arrow::datatypes::DataType;

use super::limits;
use super::number::Number;
use crate::schema::LogicalType;
use crate::value::text::{has_text, parse_column, write_text};
use crate::{Error, ErrorKind, Result};

/// The column as values of `to`, by way of their text forms.
///
/// # Errors
/// `Data` with the row of the first value that `to` does not hold exactly; `Unsupported` for types
/// without text forms.
pub(super) fn cast(array: &ArrayRef, from: &LogicalType, to: &LogicalType) -> Result<ArrayRef> {
    let cast = if from.arrow_type() == to.arrow_type() && !is_numeric(to) && !needs_parsing(to) {
        Ok(Arc::clone(array))
    } else if *from == LogicalType::Float32 && *to == LogicalType::Float64 {
        // The same number, which is not the number of the same text.
        let narrow = array.as_primitive::<Float32Type>().iter();
        Ok(Arc::new(narrow.map(|value| value.map(f64::from)).collect::<Float64Array>()) as _)
    } else {
        by_text(array, from, to)
    }?;
    limits::check(cast.as_ref(), to)?;
    Ok(cast)
}

fn by_text(array: &ArrayRef, from: &LogicalType, to: &LogicalType) -> Result<ArrayRef> {
    if !has_text(from) || !has_text(to) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("data type {from} cannot be changed to {to}"),
        ));
    }
    let texts = texts_of(array.as_ref(), from, to);
    let cast = parse_column(&texts, to)?;
    if is_numeric(to) {
        same_numbers(array.as_ref(), &texts, cast.as_ref(), to)?;
    }
    Ok(cast)
}

/// Each value as `to` spells it.
fn texts_of(array: &dyn Array, from: &LogicalType, to: &LogicalType) -> StringArray {
    let mut texts = StringBuilder::with_capacity(array.len(), array.len() * 8);
    let mut text = String::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            texts.append_null();
            continue;
        }
        text.clear();
        if is_numeric(to) {
            write_positional(array, row, &mut text);
        } else {
            write_text(array, row, &mut text);
        }
        texts.append_value(respell(&text, from, to));
    }
    texts.finish()
}

/// Types whose Arrow form is text and whose values are not any text.
fn needs_parsing(ty: &LogicalType) -> bool {
    ty.arrow_type() == DataType::Utf8
        && !matches!(ty, LogicalType::Text { .. } | LogicalType::Char { .. })
}

fn is_numeric(ty: &LogicalType) -> bool {
    *ty == LogicalType::Numeric || ty.arrow_type().is_numeric()
}

/// The text of a value, floats without an exponent.
fn write_positional(array: &dyn Array, row: usize, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = match array.data_type() {
        DataType::Float32 => match array.as_primitive::<Float32Type>().value(row) {
            value if value.is_finite() => write!(out, "{value}"),
            _ => return write_text(array, row, out),
        },
        DataType::Float64 => match array.as_primitive::<Float64Type>().value(row) {
            value if value.is_finite() => write!(out, "{value}"),
            _ => return write_text(array, row, out),
        },
        _ => return write_text(array, row, out),
    };
}

/// The same value as the other type spells it, where the two spell it differently.
fn respell<'a>(text: &'a str, from: &LogicalType, to: &LogicalType) -> Cow<'a, str> {
    let is_integer = |ty: &LogicalType| ty.arrow_type().is_integer();
    match (from, to) {
        (LogicalType::Boolean, to) if is_numeric(to) => {
            if text == "true" { "1" } else { "0" }.into()
        }
        (from, LogicalType::Boolean) if is_integer(from) => match text {
            "0" => "false".into(),
            "1" => "true".into(),
            _ => text.into(),
        },
        // 5.00 is the integer 5; 5.01 is none.
        (_, to) if is_integer(to) => match text.split_once('.') {
            Some((whole, fraction)) if fraction.bytes().all(|byte| byte == b'0') => whole.into(),
            _ => text.into(),
        },
        (LogicalType::Date, LogicalType::Timestamp { .. }) if !text.ends_with("infinity") => {
            format!("{text} 00:00:00").into()
        }
        (LogicalType::Timestamp { .. }, LogicalType::Date) => {
            text.strip_suffix(" 00:00:00").unwrap_or(text).into()
        }
        _ => text.into(),
    }
}

/// Refuses numbers that were rounded, and texts that are no numbers.
fn same_numbers(
    from: &dyn Array,
    texts: &StringArray,
    cast: &dyn Array,
    to: &LogicalType,
) -> Result<()> {
    let mut back = String::new();
    for (row, text) in texts.iter().enumerate() {
        let Some(text) = text else { continue };
        back.clear();
        write_positional(cast, row, &mut back);
        // A double is narrowed only if it is the same number, not one that is written alike.
        let narrowed = match (from.as_primitive_opt::<Float64Type>(), cast.data_type()) {
            (Some(wide), DataType::Float32) => {
                let (wide, narrow) =
                    (wide.value(row), cast.as_primitive::<Float32Type>().value(row));
                f64::from(narrow).to_bits() != wide.to_bits() && !wide.is_nan()
            }
            _ => false,
        };
        if narrowed || Number::parse(text).is_none() || Number::parse(text) != Number::parse(&back)
        {
            return Err(Error::data(format!("a number that type {to} does not hold exactly"))
                .context("row of the batch", row));
        }
    }
    Ok(())
}
