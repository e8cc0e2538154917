//! Functions, with SQLite's meaning (<https://sqlite.org/lang_corefunc.html>).

use std::ops::RangeInclusive;

use super::operator::{Operand, compare, operand, text};
use crate::value::Value;
use crate::{Error, Result};

/// How many arguments a function takes.
pub(super) fn arity(name: &str) -> RangeInclusive<usize> {
    match name {
        "ifnull" | "instr" | "nullif" => 2..=2,
        "replace" => 3..=3,
        "substr" => 2..=3,
        "ltrim" | "round" | "rtrim" | "trim" => 1..=2,
        "coalesce" | "max" | "min" => 2..=usize::MAX,
        _ => 1..=1,
    }
}

pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value> {
    let null = &Value::Null;
    let first = arguments.first().unwrap_or(null);
    let second = arguments.get(1).unwrap_or(null);
    match name {
        "coalesce" | "ifnull" => {
            return Ok(arguments.iter().find(|value| *value != null).unwrap_or(null).clone());
        }
        "nullif" => {
            let equal = first != null && second != null && compare(first, second).is_eq();
            return Ok(if equal { Value::Null } else { first.clone() });
        }
        _ if arguments.contains(null) => return Ok(Value::Null),
        _ => {}
    }
    let trim_set: Vec<char> =
        if arguments.len() > 1 { text(second).chars().collect() } else { vec![' '] };
    let length = |text: &str| Value::Int(i64::try_from(text.chars().count()).unwrap_or(i64::MAX));
    Ok(match name {
        "lower" => Value::Text(text(first).to_ascii_lowercase()),
        "upper" => Value::Text(text(first).to_ascii_uppercase()),
        "ltrim" => Value::Text(text(first).trim_start_matches(&*trim_set).to_owned()),
        "rtrim" => Value::Text(text(first).trim_end_matches(&*trim_set).to_owned()),
        "trim" => Value::Text(text(first).trim_matches(&*trim_set).to_owned()),
        "replace" => {
            let (from, to) = (text(second), text(arguments.get(2).unwrap_or(null)));
            let text = text(first);
            Value::Text(if from.is_empty() { text } else { text.replace(&from, &to) })
        }
        "substr" => {
            let length = arguments.get(2).map(integer).transpose()?;
            substr(&text(first), integer(second)?, length)
        }
        "length" => match first {
            Value::Bytes(bytes) => Value::Int(i64::try_from(bytes.len()).unwrap_or(i64::MAX)),
            value => length(&text(value)),
        },
        "instr" => {
            let (hay, needle) = (text(first), text(second));
            match hay.find(&needle) {
                Some(at) => match length(&hay[..at]) {
                    Value::Int(before) => Value::Int(before + 1),
                    other => other,
                },
                None => Value::Int(0),
            }
        }
        "hex" => {
            let bytes = match first {
                Value::Bytes(bytes) => bytes.clone(),
                value => text(value).into_bytes(),
            };
            Value::Text(bytes.iter().map(|byte| format!("{byte:02X}")).collect())
        }
        "abs" => match (first, operand(first)?) {
            (Value::Int(_) | Value::UInt(_) | Value::Bool(_), Operand::Integer(number)) => {
                let overflow = || Error::data("abs of the least integer is none");
                Value::Int(number.checked_abs().ok_or_else(overflow)?)
            }
            (_, number) => Value::Float(number.real().abs()),
        },
        "round" => {
            let digits = integer(second)?.clamp(0, 15);
            let factor = 10f64.powi(i32::try_from(digits).unwrap_or(0));
            Value::Float((operand(first)?.real() * factor).round() / factor)
        }
        "max" => arguments.iter().max_by(|a, b| compare(a, b)).unwrap_or(null).clone(),
        "min" => arguments.iter().min_by(|a, b| compare(a, b)).unwrap_or(null).clone(),
        // The parser lets no other name through.
        _ => Value::Null,
    })
}

/// As SQLite converts to one.
fn integer(value: &Value) -> Result<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "SQLite's conversion, which saturates")]
    operand(value).map(|number| match number {
        Operand::Integer(value) => value,
        Operand::Real(value) => value as i64,
    })
}

/// Characters from `start`, counted from 1, or from the end when negative; a negative length is of
/// the characters before it. What lies outside of the text counts and is not there.
fn substr(text: &str, start: i64, length: Option<i64>) -> Value {
    let characters: Vec<char> = text.chars().collect();
    let count = i128::try_from(characters.len()).unwrap_or(i128::MAX);
    let start = i128::from(start);
    // Place 0 is the one before the first.
    let from = if start < 0 { count + start } else { start - 1 };
    let (from, to) = match length.map(i128::from) {
        None => (from, count),
        Some(length) if length < 0 => (from + length, from),
        Some(length) => (from, from + length),
    };
    let place = |at: i128| usize::try_from(at.clamp(0, count)).unwrap_or(0);
    let slice = characters.get(place(from)..place(to));
    Value::Text(slice.unwrap_or_default().iter().collect())
}
