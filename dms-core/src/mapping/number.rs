//! Numbers of any size, compared as numbers though they are carried as text.

use std::cmp::Ordering;

/// A number apart from how it is written: `1.50`, `1.5` and `15e-1` are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Number {
    NegativeInfinity,
    Finite(Finite),
    Infinity,
    /// Equal to itself and above all others, as PostgreSQL has it.
    NaN,
}

/// A sign, digits without zeros at either end, and the power of ten of the last; no digits for zero,
/// which has no sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finite {
    negative: bool,
    digits: String,
    power: i64,
}

impl Number {
    /// Reads plain or scientific notation, `NaN`, `Infinity` and `-Infinity`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
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
        for text in ["", "-", ".", "1e", "abc", "1.2.3", "1 2"] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn as_integers_compare(a in any::<i64>(), b in any::<i64>()) {
            let number = |n: i64| Number::parse(&n.to_string()).unwrap();
            prop_assert_eq!(number(a).cmp(&number(b)), a.cmp(&b));
        }
    }
}
