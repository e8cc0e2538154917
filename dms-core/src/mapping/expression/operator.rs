//! Operators, with SQLite's meaning (<https://sqlite.org/lang_expr.html>).
//!
//! One thing is stricter: a number that neither a 64-bit integer nor a double holds is compared as
//! it is, and refused where it would be rounded.

use std::cmp::Ordering;

use crate::value::Value;
use crate::value::number::Number;
use crate::{Error, Result};

/// A number to calculate with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operand {
    Integer(i64),
    Real(f64),
}

impl Operand {
    #[expect(clippy::cast_precision_loss, reason = "SQLite's conversion")]
    pub(super) fn real(self) -> f64 {
        match self {
            Self::Integer(value) => value as f64,
            Self::Real(value) => value,
        }
    }
}

/// The value as a number; text as the number that it begins with, else 0.
///
/// # Errors
/// `Data` for a number of more digits than can be calculated with.
pub(super) fn operand(value: &Value) -> Result<Operand> {
    let too_long = || {
        Error::data(
            "an expression cannot calculate with a number of so many digits; change the column's \
             type instead, or leave the number out of the calculation",
        )
    };
    Ok(match value {
        Value::Bool(flag) => Operand::Integer((*flag).into()),
        Value::Int(number) => Operand::Integer(*number),
        Value::Float(number) => Operand::Real(*number),
        Value::UInt(number) => Operand::Integer(i64::try_from(*number).map_err(|_| too_long())?),
        Value::Decimal(text) => match text.parse() {
            Ok(integer) => Operand::Integer(integer),
            Err(_) => {
                let real: f64 = text.parse().map_err(|_| too_long())?;
                if real.is_finite() && Number::parse(text) != Number::parse(&real.to_string()) {
                    return Err(too_long());
                }
                Operand::Real(real)
            }
        },
        Value::Null => Operand::Integer(0),
        Value::Text(text) => prefix(text),
        Value::Bytes(bytes) => prefix(&String::from_utf8_lossy(bytes)),
    })
}

/// The number that a text begins with.
fn prefix(text: &str) -> Operand {
    let text = text.trim_start();
    let mut end = 0;
    let mut seen = (false, false, false);
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        match byte {
            b'+' | b'-' if at == 0 || matches!(before, Some(b'e' | b'E')) => {}
            b'0'..=b'9' => {
                seen.0 = true;
                end = at + 1;
            }
            b'.' if !seen.1 && !seen.2 => {
                seen.1 = true;
                if seen.0 {
                    end = at + 1;
                }
            }
            b'e' | b'E' if seen.0 && !seen.2 => seen.2 = true,
            _ => break,
        }
    }
    let number = text.get(..end).unwrap_or_default();
    match number.parse() {
        Ok(integer) => Operand::Integer(integer),
        Err(_) => number.parse().map_or(Operand::Integer(0), Operand::Real),
    }
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Text(text) | Value::Decimal(text) => text.clone(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        Value::Float(number) => format!("{number:?}"),
        other => other.to_string(),
    }
}

pub(super) fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Null => None,
        Value::UInt(number) => Some(*number != 0),
        Value::Decimal(text) => Some(Number::parse(text) != Number::parse("0")),
        value => Some(operand(value).is_ok_and(|number| number.real() != 0.0)),
    }
}

/// A value that is a number, exactly.
fn number(value: &Value) -> Option<Number> {
    match value {
        Value::Bool(flag) => Number::parse(if *flag { "1" } else { "0" }),
        Value::Int(number) => Number::parse(&number.to_string()),
        Value::UInt(number) => Number::parse(&number.to_string()),
        Value::Float(number) if number.is_infinite() => {
            Some(if *number > 0.0 { Number::Infinity } else { Number::NegativeInfinity })
        }
        Value::Float(number) => Number::parse(&number.to_string()),
        Value::Decimal(text) => Number::parse(text),
        _ => None,
    }
}

/// SQLite's order of storage classes: numbers below text below bytes; text by its bytes.
pub(super) fn compare(left: &Value, right: &Value) -> Ordering {
    if let (Value::Int(left), Value::Int(right)) = (left, right) {
        return left.cmp(right);
    }
    match (number(left), number(right)) {
        (Some(left), Some(right)) => left.cmp(&right),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => match (left, right) {
            (Value::Bytes(left), Value::Bytes(right)) => left.cmp(right),
            (Value::Bytes(_), _) => Ordering::Greater,
            (_, Value::Bytes(_)) => Ordering::Less,
            _ => text(left).cmp(&text(right)),
        },
    }
}

pub(super) fn binary(operator: &str, left: &Value, right: &Value) -> Result<Value> {
    let flag = |flag: bool| Value::Int(flag.into());
    Ok(match operator {
        "AND" => match (truth(left), truth(right)) {
            (Some(false), _) | (_, Some(false)) => flag(false),
            (Some(true), Some(true)) => flag(true),
            _ => Value::Null,
        },
        "OR" => match (truth(left), truth(right)) {
            (Some(true), _) | (_, Some(true)) => flag(true),
            (Some(false), Some(false)) => flag(false),
            _ => Value::Null,
        },
        _ if *left == Value::Null || *right == Value::Null => Value::Null,
        "||" => Value::Text(text(left) + &text(right)),
        "=" | "==" => flag(compare(left, right).is_eq()),
        "<>" | "!=" => flag(compare(left, right).is_ne()),
        "<" => flag(compare(left, right).is_lt()),
        "<=" => flag(compare(left, right).is_le()),
        ">" => flag(compare(left, right).is_gt()),
        ">=" => flag(compare(left, right).is_ge()),
        operator => arithmetic(operator, operand(left)?, operand(right)?),
    })
}

fn arithmetic(operator: &str, left: Operand, right: Operand) -> Value {
    if operator == "%" {
        return remainder(left, right);
    }
    if let (Operand::Integer(left), Operand::Integer(right)) = (left, right) {
        let exact = match operator {
            "+" => left.checked_add(right),
            "-" => left.checked_sub(right),
            "*" => left.checked_mul(right),
            _ if right == 0 => return Value::Null,
            _ => left.checked_div(right),
        };
        if let Some(exact) = exact {
            return Value::Int(exact);
        }
    }
    let (left, right) = (left.real(), right.real());
    match operator {
        "+" => Value::Float(left + right),
        "-" => Value::Float(left - right),
        "*" => Value::Float(left * right),
        _ if right == 0.0 => Value::Null,
        _ => Value::Float(left / right),
    }
}

/// Of the integers that both are cut to.
fn remainder(left: Operand, right: Operand) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "SQLite's conversion, which saturates")]
    let integer = |operand| match operand {
        Operand::Integer(value) => value,
        Operand::Real(value) => value as i64,
    };
    // -1 divides all; of the least integer the processor would not say so.
    let value = match (integer(left), integer(right)) {
        (_, 0) => return Value::Null,
        (left, right) => left.wrapping_rem(right),
    };
    match (left, right) {
        (Operand::Integer(_), Operand::Integer(_)) => Value::Int(value),
        _ => Value::Float(Operand::Integer(value).real()),
    }
}
