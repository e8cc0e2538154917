//! Decimal numbers as text, and back, without a float in between.

use arrow::datatypes::i256;

/// The text of an unscaled number: `digits` with the point `scale` places from the right.
#[must_use]
pub fn format_decimal(unscaled: &str, scale: i8) -> String {
    let (sign, digits) = match unscaled.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", unscaled),
    };
    if scale <= 0 {
        let zeros = if digits == "0" { 0 } else { usize::from(scale.unsigned_abs()) };
        return format!("{sign}{digits}{}", "0".repeat(zeros));
    }
    let scale = usize::from(scale.unsigned_abs());
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    format!("{sign}{whole}.{fraction}")
}

/// The unscaled digits (with sign) of a plain decimal text at `scale`; `None` if the text is no
/// plain number, or if digits other than zero would be lost.
#[must_use]
pub fn unscale(text: &str, scale: i8) -> Option<String> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() + fraction.len() == 0
        || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let mut unscaled = format!("{whole}{fraction}");
    let shift = i64::from(scale) - i64::try_from(fraction.len()).ok()?;
    if shift >= 0 {
        unscaled.push_str(&"0".repeat(usize::try_from(shift).ok()?));
    } else {
        let cut = usize::try_from(-shift).ok()?;
        let keep = unscaled.len().saturating_sub(cut);
        if unscaled.as_bytes()[keep..].iter().any(|byte| *byte != b'0') {
            return None;
        }
        unscaled.truncate(keep);
    }
    let trimmed = unscaled.trim_start_matches('0');
    Some(match (trimmed, negative) {
        ("", _) => "0".to_owned(),
        (digits, true) => format!("-{digits}"),
        (digits, false) => digits.to_owned(),
    })
}

fn digits(unscaled: &str) -> usize {
    unscaled.trim_start_matches('-').len()
}

/// Reads a plain decimal text as the unscaled value of `decimal(precision, scale)`, precision to
/// 38; `None` if it does not fit exactly.
#[must_use]
pub fn parse_decimal128(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let unscaled = unscale(text, scale)?;
    (digits(&unscaled) <= usize::from(precision)).then(|| unscaled.parse().ok())?
}

/// As [`parse_decimal128`], precision to 76.
#[must_use]
pub fn parse_decimal256(text: &str, precision: u8, scale: i8) -> Option<i256> {
    let unscaled = unscale(text, scale)?;
    (digits(&unscaled) <= usize::from(precision)).then(|| i256::from_string(&unscaled))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exact_or_nothing() {
        assert_eq!(parse_decimal128("1.10", 5, 2), Some(110));
        assert_eq!(parse_decimal128("1.1", 5, 2), Some(110));
        assert_eq!(parse_decimal128("-0.05", 5, 2), Some(-5));
        assert_eq!(parse_decimal128("1.100", 5, 2), Some(110));
        assert_eq!(parse_decimal128("1.101", 5, 2), None);
        assert_eq!(parse_decimal128("1000", 5, 2), None);
        assert_eq!(parse_decimal128("1200", 3, -2), Some(12));
        assert_eq!(parse_decimal128("1250", 3, -2), None);
        for wrong in ["", ".", "-", "1e5", "NaN", "1.2.3", " 1"] {
            assert_eq!(parse_decimal128(wrong, 38, 0), None, "{wrong}");
        }
        assert_eq!(format_decimal("-5", 2), "-0.05");
        assert_eq!(format_decimal("12", -2), "1200");
    }

    proptest! {
        #[test]
        fn round_trip(value in -(10i128.pow(37))..10i128.pow(37), scale in -10i8..37) {
            let text = format_decimal(&value.to_string(), scale);
            prop_assert_eq!(parse_decimal128(&text, 38, scale), Some(value), "{}", text);
            prop_assert_eq!(
                parse_decimal256(&text, 76, scale),
                Some(i256::from_i128(value))
            );
        }
    }
}
