//! Operators, with SQLite's meaning (<https://sqlite.org/lang_expr.html>).
//!
//! Where SQLite would lose digits this is stricter: decimals are added and multiplied as what they
//! are, a float becomes text with all digits that name it, and what would be rounded is refused.

use std::cmp::Ordering;

use crate::value::Value;
use crate::value::decimal::{format_decimal, unscale};
use crate::value::number::{Number, float_text, parse_float64};
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
    Ok(match value {
        Value::Bool(flag) => Operand::Integer((*flag).into()),
        Value::Int(number) => Operand::Integer(*number),
        Value::Float(number) => Operand::Real(*number),
        Value::UInt(number) => Operand::Integer(i64::try_from(*number).map_err(|_| too_long())?),
        Value::Decimal(text) => match text.parse() {
            Ok(integer) => Operand::Integer(integer),
            Err(_) => Operand::Real(parse_float64(text).ok_or_else(too_long)?),
        },
        Value::Null => Operand::Integer(0),
        Value::Text(text) => prefix(text),
        Value::Bytes(bytes) => prefix(&String::from_utf8_lossy(bytes)),
    })
}

fn too_long() -> Error {
    Error::data(
        "an expression cannot calculate with a number of so many digits; change the column's type \
         instead, or leave the number out of the calculation",
    )
}

/// The value as an integer: of a text, the digits that it begins with.
pub(super) fn integer(value: &Value) -> Result<i64> {
    let digits = |text: &str| {
        let text = text.trim_start();
        let sign = usize::from(text.starts_with(['+', '-']));
        let rest = text.get(sign..).unwrap_or_default();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        match text.get(..sign + digits).unwrap_or_default() {
            _ if digits == 0 => 0,
            number => {
                number.parse().unwrap_or(if number.starts_with('-') { i64::MIN } else { i64::MAX })
            }
        }
    };
    #[expect(clippy::cast_possible_truncation, reason = "SQLite's conversion, which saturates")]
    Ok(match value {
        Value::Text(text) => digits(text),
        Value::Bytes(bytes) => digits(&String::from_utf8_lossy(bytes)),
        value => match operand(value)? {
            Operand::Integer(integer) => integer,
            Operand::Real(real) => real as i64,
        },
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

/// The value as text.
///
/// # Errors
/// `Data` for bytes that are no text.
pub(super) fn text(value: &Value) -> Result<String> {
    Ok(match value {
        Value::Null => String::new(),
        Value::Text(text) | Value::Decimal(text) => text.clone(),
        Value::Bytes(bytes) => String::from_utf8(bytes.clone()).map_err(|error| {
            Error::data("an expression takes bytes for text that are not UTF-8; use hex()")
                .with_source(error)
        })?,
        Value::Bool(flag) => u8::from(*flag).to_string(),
        Value::Float(number) => real_text(*number),
        other => other.to_string(),
    })
}

/// As SQLite writes a float, but with all digits that name it.
fn real_text(real: f64) -> String {
    let scientific = format!("{real:e}");
    match scientific.split_once('e') {
        None if real.is_infinite() => if real > 0.0 { "Inf" } else { "-Inf" }.to_owned(),
        _ if real == 0.0 => "0.0".to_owned(),
        Some((mantissa, exponent)) => match exponent.parse::<i32>() {
            Ok(exponent) if !(-4..15).contains(&exponent) => {
                let point = if mantissa.contains('.') { "" } else { ".0" };
                let sign = if exponent < 0 { '-' } else { '+' };
                format!("{mantissa}{point}e{sign}{:02}", exponent.unsigned_abs())
            }
            _ if real.fract() == 0.0 => format!("{real:.1}"),
            _ => real.to_string(),
        },
        None => scientific,
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
        Value::Float(number) => Number::parse(&float_text(*number)),
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
            (Value::Text(left), Value::Text(right)) => left.cmp(right),
            (Value::Bytes(left), Value::Bytes(right)) => left.cmp(right),
            (Value::Bytes(_), _) => Ordering::Greater,
            (_, Value::Bytes(_)) => Ordering::Less,
            // NULL is compared with nothing.
            _ => Ordering::Equal,
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
        "||" => Value::Text(text(left)? + &text(right)?),
        "=" | "==" => flag(compare(left, right).is_eq()),
        "<>" | "!=" => flag(compare(left, right).is_ne()),
        "<" => flag(compare(left, right).is_lt()),
        "<=" => flag(compare(left, right).is_le()),
        ">" => flag(compare(left, right).is_gt()),
        ">=" => flag(compare(left, right).is_ge()),
        "%" => remainder(left, right)?,
        "+" | "-" | "*" if is_long(left) || is_long(right) => match (decimal(left), decimal(right))
        {
            (Some(left), Some(right)) => exact(operator, left, right).ok_or_else(too_long)?,
            _ => arithmetic(operator, operand(left)?, operand(right)?),
        },
        operator => arithmetic(operator, operand(left)?, operand(right)?),
    })
}

/// Numbers that only a decimal holds.
fn is_long(value: &Value) -> bool {
    match value {
        Value::Decimal(_) => true,
        Value::UInt(number) => i64::try_from(*number).is_err(),
        _ => false,
    }
}

/// A number as an integer and how many of its digits are behind the point.
fn decimal(value: &Value) -> Option<(i128, i8)> {
    match value {
        Value::Bool(flag) => Some(((*flag).into(), 0)),
        Value::Int(number) => Some(((*number).into(), 0)),
        Value::UInt(number) => Some(((*number).into(), 0)),
        Value::Decimal(text) => {
            let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
            let scale = i8::try_from(fraction.len()).ok()?;
            Some((unscale(text, scale)?.parse().ok()?, scale))
        }
        _ => None,
    }
}

/// `None` for more digits than 128 bits hold.
fn exact(operator: &str, left: (i128, i8), right: (i128, i8)) -> Option<Value> {
    let (number, scale) = if operator == "*" {
        (left.0.checked_mul(right.0)?, left.1.checked_add(right.1)?)
    } else {
        let scale = left.1.max(right.1);
        let scaled = |(number, of): (i128, i8)| {
            let digits = u32::from(scale.abs_diff(of));
            number.checked_mul(10i128.checked_pow(digits)?)
        };
        let (left, right) = (scaled(left)?, scaled(right)?);
        let number =
            if operator == "+" { left.checked_add(right)? } else { left.checked_sub(right)? };
        (number, scale)
    };
    Some(match i64::try_from(number) {
        Ok(integer) if scale == 0 => Value::Int(integer),
        _ => Value::Decimal(format_decimal(&number.to_string(), scale)),
    })
}

fn arithmetic(operator: &str, left: Operand, right: Operand) -> Value {
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
    let result = match operator {
        "+" => left + right,
        "-" => left - right,
        "*" => left * right,
        _ if right == 0.0 => return Value::Null,
        _ => left / right,
    };
    // Infinity less infinity.
    let is_none = result.is_nan() && !left.is_nan() && !right.is_nan();
    if is_none { Value::Null } else { Value::Float(result) }
}

/// Of the integers that both are cut to.
fn remainder(left: &Value, right: &Value) -> Result<Value> {
    // -1 divides all; of the least integer the processor would not say so.
    let value = match (integer(left)?, integer(right)?) {
        (_, 0) => return Ok(Value::Null),
        (left, right) => left.wrapping_rem(right),
    };
    Ok(match (operand(left)?, operand(right)?) {
        (Operand::Integer(_), Operand::Integer(_)) => Value::Int(value),
        _ => Value::Float(Operand::Integer(value).real()),
    })
}
