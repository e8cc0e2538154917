//! What a type allows beyond its Arrow form: lengths, digits of a second, labels.

use std::collections::HashSet;

use arrow::array::types::{
    DurationMicrosecondType, DurationNanosecondType, Time64MicrosecondType, Time64NanosecondType,
    TimestampMicrosecondType, TimestampNanosecondType,
};
use arrow::array::{Array, ArrowPrimitiveType, AsArray};
use arrow::datatypes::{DataType, TimeUnit};
use serde::de::IgnoredAny;

use crate::schema::LogicalType;
use crate::value::number::is_numeric;
use crate::value::temporal::{NANOS, parse_time};
use crate::{Error, Result};

/// Refuses values that the type does not allow.
///
/// # Errors
/// `Data` with the row of the first.
pub(super) fn check(array: &dyn Array, ty: &LogicalType) -> Result<()> {
    let length = |length: u32| usize::try_from(length).unwrap_or(usize::MAX);
    match ty {
        LogicalType::Text { limit: Some(limit) } | LogicalType::Char { length: limit } => {
            let most = length(*limit);
            let fits = |text: &str| text.len() <= most || text.chars().count() <= most;
            texts(array, ty, &format!("a value of more than {limit} characters"), fits)
        }
        LogicalType::Bytes { limit: Some(limit) } => {
            let what = format!("a value of more than {limit} bytes");
            bytes(array, ty, &what, |value| value.len() <= length(*limit))
        }
        LogicalType::Binary { length: exactly } => {
            let what = format!("a value of other than {exactly} bytes");
            bytes(array, ty, &what, |value| value.len() == length(*exactly))
        }
        LogicalType::Numeric => texts(array, ty, "text that is not a plain number", is_numeric),
        LogicalType::Json => texts(array, ty, "text that is no JSON", |text| {
            serde_json::from_str::<IgnoredAny>(text).is_ok()
        }),
        LogicalType::TimeTz { precision } => {
            let what = "text that is no time with an offset, or has more digits of a second,";
            texts(array, ty, what, |text| is_time_with_offset(text, *precision).is_some())
        }
        LogicalType::Enum { labels } => {
            let labels: HashSet<&str> = labels.iter().map(String::as_str).collect();
            texts(array, ty, "a value that is none of the labels", |text| labels.contains(text))
        }
        LogicalType::Set { labels } => {
            let labels: HashSet<&str> = labels.iter().map(String::as_str).collect();
            texts(array, ty, "a value with other labels", |text| {
                text.is_empty() || text.split(',').all(|label| labels.contains(label))
            })
        }
        LogicalType::BitString { length: bits, varying } => {
            texts(array, ty, "a value that is not so many digits 0 and 1", |text| {
                let fits = bits.map(length).is_none_or(|bits| {
                    if *varying { text.len() <= bits } else { text.len() == bits }
                });
                fits && text.bytes().all(|digit| matches!(digit, b'0' | b'1'))
            })
        }
        LogicalType::Time { precision }
        | LogicalType::TimeSpan { precision }
        | LogicalType::Timestamp { precision }
        | LogicalType::TimestampTz { precision } => fractions(array, ty, *precision),
        _ => Ok(()),
    }
}

fn refuse(row: Option<usize>, ty: &LogicalType, what: &str) -> Result<()> {
    match row {
        None => Ok(()),
        Some(row) => {
            Err(Error::data(format!("{what} does not fit type {ty}"))
                .context("row of the batch", row))
        }
    }
}

fn texts(
    array: &dyn Array,
    ty: &LogicalType,
    what: &str,
    fits: impl Fn(&str) -> bool,
) -> Result<()> {
    let Some(texts) = array.as_string_opt::<i32>() else { return Ok(()) };
    refuse(texts.iter().position(|text| text.is_some_and(|text| !fits(text))), ty, what)
}

fn bytes(
    array: &dyn Array,
    ty: &LogicalType,
    what: &str,
    fits: impl Fn(&[u8]) -> bool,
) -> Result<()> {
    let Some(values) = array.as_binary_opt::<i32>() else { return Ok(()) };
    refuse(values.iter().position(|value| value.is_some_and(|value| !fits(value))), ty, what)
}

/// `HH:MM:SS[.f]±HH:MM[:SS]`.
fn is_time_with_offset(text: &str, precision: u8) -> Option<()> {
    let (time, offset) = text.split_at_checked(text.find(['+', '-'])?)?;
    let offset = offset.get(1..)?;
    let offset = if offset.len() == 5 { format!("{offset}:00") } else { offset.to_owned() };
    let (_, digits) = parse_time(time.as_bytes(), NANOS)?;
    let (_, offset_digits) = parse_time(offset.as_bytes(), NANOS)?;
    (digits <= precision && offset_digits == 0).then_some(())
}

/// No more digits of a second than declared; the infinities have none.
fn fractions(array: &dyn Array, ty: &LogicalType, precision: u8) -> Result<()> {
    fn position<T: ArrowPrimitiveType<Native = i64>>(
        array: &dyn Array,
        unit: u8,
        precision: u8,
    ) -> Option<usize> {
        let step = 10i64.pow(unit.saturating_sub(precision).into());
        let infinite = |value: i64| value == i64::MAX || value == i64::MIN;
        let values = array.as_primitive::<T>().iter();
        let mut values = values.map(|value| value.is_some_and(|v| v % step != 0 && !infinite(v)));
        values.position(|misfit| misfit)
    }
    let row = match array.data_type() {
        DataType::Time64(TimeUnit::Microsecond) => {
            position::<Time64MicrosecondType>(array, 6, precision)
        }
        DataType::Time64(_) => position::<Time64NanosecondType>(array, 9, precision),
        DataType::Duration(TimeUnit::Microsecond) => {
            position::<DurationMicrosecondType>(array, 6, precision)
        }
        DataType::Duration(_) => position::<DurationNanosecondType>(array, 9, precision),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            position::<TimestampMicrosecondType>(array, 6, precision)
        }
        DataType::Timestamp(..) => position::<TimestampNanosecondType>(array, 9, precision),
        _ => None,
    };
    refuse(row, ty, "a value with more digits of a second")
}
