//! Numbers of any size, compared as numbers though they are carried as text; floats of decimal
//! text, exactly or not at all.

use std::cmp::Ordering;

/// A number apart from how it is written: `1.50`, `1.5` and `15e-1` are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Number {
    /// Below all others.
    NegativeInfinity,
    /// Any other.
    Finite(Finite),
    /// Above all but NaN.
    Infinity,
    /// Equal to itself and above all others, as PostgreSQL has it.
    NaN,
}

/// A sign, digits without zeros at either end, and the power of ten of the last; no digits for zero,
/// which has no sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finite {
    negative: bool,
    digits: String,
    power: i64,
}

impl Number {
    /// Reads plain or scientific notation, `NaN`, `Infinity` and `-Infinity`; `None` for anything
    /// else, spaces around a number included.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "NaN" => return Some(Self::NaN),
            "Infinity" => return Some(Self::Infinity),
            "-Infinity" => return Some(Self::NegativeInfinity),
            _ => {}
        }
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (text, 0),
        };
        let (negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(mantissa) => (true, mantissa),
            None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let kept = digits.trim_end_matches('0');
        let zeros = i64::try_from(digits.len() - kept.len()).ok()?;
        let kept = kept.trim_start_matches('0');
        if kept.is_empty() {
            return Some(Self::Finite(Finite { negative: false, digits: String::new(), power: 0 }));
        }
        let power =
            exponent.checked_add(zeros)?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        Some(Self::Finite(Finite { negative, digits: kept.to_owned(), power }))
    }
}

impl Finite {
    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    /// The place of the first digit.
    fn magnitude(&self) -> i128 {
        i128::from(self.power) + self.digits.len() as i128
    }
}

impl Ord for Finite {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_size = || {
            let sizes = self.magnitude().cmp(&other.magnitude());
            sizes.then_with(|| self.digits.cmp(&other.digits))
        };
        self.sign().cmp(&other.sign()).then_with(|| match self.sign() {
            0 => Ordering::Equal,
            1 => by_size(),
            _ => by_size().reverse(),
        })
    }
}

impl PartialOrd for Finite {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Whether a text is a value of type `numeric`: digits with a point at most and a minus at most,
/// `NaN`, `Infinity` or `-Infinity`.
#[must_use]
pub fn is_numeric(text: &str) -> bool {
    match text {
        "NaN" | "Infinity" | "-Infinity" => true,
        _ => !text.contains(['e', 'E', '+']) && Number::parse(text).is_some(),
    }
}

/// A float as plain decimal digits: every digit of a whole number, else the fewest that read back
/// as the same float; `NaN`, `Infinity` or `-Infinity`.
#[must_use]
pub fn float_text<F: Into<f64> + std::fmt::Display + Copy>(value: F) -> String {
    let wide: f64 = value.into();
    if wide.is_nan() {
        "NaN".to_owned()
    } else if wide.is_infinite() {
        if wide > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else if wide.fract() == 0.0 {
        // The fewest digits of 2^60 end in zeros that the number does not have.
        format!("{wide:.0}")
    } else {
        value.to_string()
    }
}

/// Reads a decimal text as a float: only if, as a number, it is the float's shortest text or the
/// float itself to its last digit.
#[must_use]
pub fn parse_float64(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    is_float(text, &format!("{value:?}"), value).then_some(value)
}

/// As [`parse_float64`], in 32 bits.
#[must_use]
pub fn parse_float32(text: &str) -> Option<f32> {
    let value: f32 = text.parse().ok()?;
    is_float(text, &format!("{value:?}"), value.into()).then_some(value)
}

fn is_float(text: &str, shortest: &str, value: f64) -> bool {
    let Some(number) = Number::parse(text) else { return false };
    if !value.is_finite() {
        return Number::parse(&float_text(value)) == Some(number);
    }
    let is = |text: &str| Number::parse(text).as_ref() == Some(&number);
    // No float has a digit beyond the 1074th after the point.
    text == shortest || is(shortest) || is(&format!("{value:.1074}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn in_order() {
        let texts = [
            "-Infinity",
            "-100",
            "-99.5",
            "-1e-3",
            "0",
            "0.00001",
            "0.1",
            "9",
            "9.50",
            "10",
            "1e2",
            "123456789012345678901234567890",
            "Infinity",
            "NaN",
        ];
        let numbers: Vec<Number> = texts.iter().map(|text| Number::parse(text).unwrap()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        for (a, b) in [("1.50", "15e-1"), ("-0", "0.00"), ("100", "1e2"), ("+5", "5.0")] {
            assert_eq!(Number::parse(a), Number::parse(b), "{a} {b}");
        }
        for text in ["", "-", ".", "1e", "abc", "1.2.3", "1 2", " 1", "inf", "--1"] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    #[test]
    fn floats_are_exact_or_none() {
        for (text, value) in [
            ("0.1", 0.1),
            ("+0.10", 0.1),
            ("1e3", 1000.0),
            ("0.1000000000000000055511151231257827021181583404541015625", 0.1),
            ("1152921504606846976", 2f64.powi(60)),
            ("-Infinity", f64::NEG_INFINITY),
        ] {
            assert_eq!(parse_float64(text), Some(value), "{text}");
        }
        for text in ["0.12345678901234567890", "9007199254740993", "1e400", "1e-400", "inf", " 1"] {
            assert_eq!(parse_float64(text), None, "{text}");
        }
        assert_eq!(parse_float32("0.1"), Some(0.1));
        assert_eq!(parse_float32("16777217"), None);
        assert_eq!(float_text(2f64.powi(60)), "1152921504606846976");
        assert_eq!(float_text(0.1f32), "0.1");
    }

    proptest! {
        #[test]
        fn floats_read_back(bits in any::<u64>(), narrow in any::<u32>()) {
            let value = f64::from_bits(bits);
            let back = parse_float64(&float_text(value)).unwrap();
            prop_assert!(back == value || (back.is_nan() && value.is_nan()));
            let value = f32::from_bits(narrow);
            let back = parse_float32(&float_text(value)).unwrap();
            prop_assert!(back == value || (back.is_nan() && value.is_nan()));
        }

        #[test]
        fn as_integers_compare(a in any::<i64>(), b in any::<i64>()) {
            let number = |n: i64| Number::parse(&n.to_string()).unwrap();
            prop_assert_eq!(number(a).cmp(&number(b)), a.cmp(&b));
        }
    }
}
