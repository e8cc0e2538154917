//! A column's change of data type: exactly, or not at all.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::datatypes::DataType;

use crate::schema::LogicalType;
use crate::value::text::{has_text, parse_column, write_text};
use crate::{Error, ErrorKind, Result};

/// The column as values of `to`, by way of their text forms.
///
/// # Errors
/// `Data` with the row of the first value that `to` does not hold exactly; `Unsupported` for types
/// without text forms.
pub(super) fn cast(array: &ArrayRef, from: &LogicalType, to: &LogicalType) -> Result<ArrayRef> {
    if from.arrow_type() == to.arrow_type() {
        check_limit(array.as_ref(), to)?;
        if array.data_type() != &DataType::Utf8 || is_plain_text(to) {
            return Ok(ArrayRef::clone(array));
        }
    }
    if !has_text(from) || !has_text(to) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("data type {from} cannot be changed to {to}"),
        ));
    }
    let mut texts = StringBuilder::with_capacity(array.len(), array.len() * 8);
    let mut text = String::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            texts.append_null();
            continue;
        }
        text.clear();
        write_text(array.as_ref(), row, &mut text);
        texts.append_value(respell(&text, from, to));
    }
    let cast = parse_column(&texts.finish(), to)?;
    check_limit(cast.as_ref(), to)?;
    Ok(cast)
}

fn is_plain_text(ty: &LogicalType) -> bool {
    matches!(ty, LogicalType::Text { .. } | LogicalType::Char { .. } | LogicalType::Clob)
}

fn is_integer(ty: &LogicalType) -> bool {
    ty.arrow_type().is_integer()
}

/// The same value as the other type spells it, where the two spell it differently.
fn respell<'a>(text: &'a str, from: &LogicalType, to: &LogicalType) -> Cow<'a, str> {
    let numeric = |ty: &LogicalType| is_integer(ty) || ty.arrow_type().is_numeric();
    match (from, to) {
        (LogicalType::Boolean, to) if numeric(to) => if text == "true" { "1" } else { "0" }.into(),
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

/// Refuses values longer than the type allows.
fn check_limit(array: &dyn Array, ty: &LogicalType) -> Result<()> {
    let too_long = |row: usize, limit: u32, unit: &str| {
        Error::data(format!("a value longer than the {limit} {unit} of type {ty}"))
            .context("row of the batch", row)
    };
    match ty {
        LogicalType::Text { limit: Some(limit) } | LogicalType::Char { length: limit } => {
            let Some(texts) = array.as_string_opt::<i32>() else { return Ok(()) };
            let most = usize::try_from(*limit).unwrap_or(usize::MAX);
            let row = texts.iter().position(|text| text.is_some_and(|t| t.chars().count() > most));
            row.map_or(Ok(()), |row| Err(too_long(row, *limit, "characters")))
        }
        LogicalType::Bytes { limit: Some(limit) } => {
            let Some(bytes) = array.as_binary_opt::<i32>() else { return Ok(()) };
            let most = usize::try_from(*limit).unwrap_or(usize::MAX);
            let row = bytes.iter().position(|bytes| bytes.is_some_and(|b| b.len() > most));
            row.map_or(Ok(()), |row| Err(too_long(row, *limit, "bytes")))
        }
        _ => Ok(()),
    }
}
