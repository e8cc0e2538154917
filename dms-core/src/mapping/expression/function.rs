//! Functions, with SQLite's meaning (<https://sqlite.org/lang_corefunc.html>).

use std::cmp::Ordering;
use std::ops::{Range, RangeInclusive};

use super::operator::{Operand, compare, integer, operand, text};
use crate::value::Value;
use crate::value::decimal::format_decimal;
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
        "hex" if first == null => return Ok(Value::Text(String::new())),
        _ if arguments.contains(null) => return Ok(Value::Null),
        _ => {}
    }
    let trim_set = || -> Result<Vec<char>> {
        if arguments.len() > 1 { Ok(text(second)?.chars().collect()) } else { Ok(vec![' ']) }
    };
    let length = |text: &str| Value::Int(i64::try_from(text.chars().count()).unwrap_or(i64::MAX));
    Ok(match name {
        "lower" => Value::Text(text(first)?.to_ascii_lowercase()),
        "upper" => Value::Text(text(first)?.to_ascii_uppercase()),
        "ltrim" => Value::Text(text(first)?.trim_start_matches(&*trim_set()?).to_owned()),
        "rtrim" => Value::Text(text(first)?.trim_end_matches(&*trim_set()?).to_owned()),
        "trim" => Value::Text(text(first)?.trim_matches(&*trim_set()?).to_owned()),
        "replace" => {
            let (from, to) = (text(second)?, text(arguments.get(2).unwrap_or(null))?);
            if from.is_empty() {
                first.clone()
            } else {
                Value::Text(text(first)?.replace(&from, &to))
            }
        }
        "substr" => {
            let length = arguments.get(2).map(integer).transpose()?;
            match first {
                Value::Bytes(bytes) => {
                    let range = range(bytes.len(), integer(second)?, length);
                    Value::Bytes(bytes.get(range).unwrap_or_default().to_vec())
                }
                value => {
                    let characters: Vec<char> = text(value)?.chars().collect();
                    let range = range(characters.len(), integer(second)?, length);
                    Value::Text(characters.get(range).unwrap_or_default().iter().collect())
                }
            }
        }
        "length" => match first {
            Value::Bytes(bytes) => Value::Int(i64::try_from(bytes.len()).unwrap_or(i64::MAX)),
            value => length(&text(value)?),
        },
        "instr" => {
            if let (Value::Bytes(hay), Value::Bytes(needle)) = (first, second) {
                let last = hay.len().saturating_sub(needle.len());
                let at =
                    (0..=last).find(|at| hay.get(*at..).is_some_and(|hay| hay.starts_with(needle)));
                return Ok(Value::Int(
                    at.map_or(0, |at| i64::try_from(at + 1).unwrap_or(i64::MAX)),
                ));
            }
            let (hay, needle) = (text(first)?, text(second)?);
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
                value => text(value)?.into_bytes(),
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
        "round" => round(operand(first)?.real(), integer(second)?),
        // Of equals the first is the greatest and the last the least.
        "max" => extreme(arguments, Ordering::is_lt),
        "min" => extreme(arguments, Ordering::is_ge),
        // The parser lets no other name through.
        _ => Value::Null,
    })
}

/// The argument that no later one replaces.
fn extreme(arguments: &[Value], replaces: fn(Ordering) -> bool) -> Value {
    let best = arguments.iter().reduce(
        |best, next| {
            if replaces(compare(best, next)) { next } else { best }
        },
    );
    best.unwrap_or(&Value::Null).clone()
}

/// To so many digits behind the point, of the digits that the float is written with.
fn round(real: f64, digits: i64) -> Value {
    // From here on all doubles are integers.
    const INTEGERS: f64 = 4_503_599_627_370_496.0;
    if real.is_nan() || real.abs() >= INTEGERS {
        return Value::Float(real);
    }
    let scale = i8::try_from(digits.clamp(0, 30)).unwrap_or(30);
    let rounded = || {
        let text = real.abs().to_string();
        let (whole, fraction) = text.split_once('.')?;
        let (kept, cut) = fraction.split_at_checked(usize::from(scale.unsigned_abs()))?;
        let up = u128::from(cut.bytes().next()? >= b'5');
        let number = format!("{whole}{kept}").parse::<u128>().ok()? + up;
        format_decimal(&number.to_string(), scale).parse::<f64>().ok()
    };
    Value::Float(rounded().map_or(real, |rounded| rounded.copysign(real)))
}

/// Places from `start`, counted from 1, or from the end when negative; a negative length is of
/// those before it. What lies outside counts and is not there.
fn range(count: usize, start: i64, length: Option<i64>) -> Range<usize> {
    let count = i128::try_from(count).unwrap_or(i128::MAX);
    let start = i128::from(start);
    // Place 0 is the one before the first.
    let from = if start < 0 { count + start } else { start - 1 };
    let (from, to) = match length.map(i128::from) {
        None => (from, count),
        Some(length) if length < 0 => (from + length, from),
        Some(length) => (from, from + length),
    };
    let place = |at: i128| usize::try_from(at.clamp(0, count)).unwrap_or(0);
    place(from)..place(to).max(place(from))
}
