//! PostgreSQL's numeric: digits of base 10,000, the power of the first, a sign and a scale
//! (`numeric_send` in `src/backend/utils/adt/numeric.c`).

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// A value as it travels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numeric<'a> {
    weight: i16,
    sign: u16,
    /// Decimal places shown.
    scale: u16,
    /// Two bytes a digit.
    digits: &'a [u8],
}

impl<'a> Numeric<'a> {
    #[inline]
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, digits @ ..] = bytes else { return None };
        let count = usize::from(u16::from_be_bytes([*a, *b]));
        (digits.len() == count * 2).then_some(Self {
            weight: i16::from_be_bytes([*c, *d]),
            sign: u16::from_be_bytes([*e, *f]),
            scale: u16::from_be_bytes([*g, *h]),
            digits,
        })
    }

    fn digits(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.digits.chunks_exact(2).map(|two| match two {
            [high, low] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        })
    }

    /// The value at a scale, if it is a number that 38 digits hold exactly.
    #[inline]
    pub(super) fn unscaled(&self, scale: i8) -> Option<i128> {
        if self.sign != 0 && self.sign != NEGATIVE {
            return None;
        }
        let mut value: i128 = 0;
        // The power of ten that a digit of base 10,000 counts, at the scale.
        let mut power = i32::from(self.weight) * 4 + i32::from(scale);
        for digit in self.digits() {
            let (factor, part) = match power {
                0.. => (10_000, digit),
                // The scale ends inside of this digit.
                -3..0 => {
                    let unit = 10u16.pow(power.unsigned_abs());
                    if digit % unit != 0 {
                        return None;
                    }
                    (i128::from(10_000 / unit), digit / unit)
                }
                _ if digit == 0 => continue,
                _ => return None,
            };
            value = value.checked_mul(factor)?.checked_add(part.into())?;
            power -= 4;
        }
        // Zeros at the end are not sent.
        let zeros = u32::try_from(power + 4).unwrap_or(0);
        if value != 0 && zeros > 0 {
            value = value.checked_mul(10i128.checked_pow(zeros)?)?;
        }
        Some(if self.sign == NEGATIVE { -value } else { value })
    }

    /// As the server's own text.
    pub(super) fn write_text(&self, out: &mut String) {
        match self.sign {
            NAN => return out.push_str("NaN"),
            INFINITY => return out.push_str("Infinity"),
            NEGATIVE_INFINITY => return out.push_str("-Infinity"),
            NEGATIVE => out.push('-'),
            _ => {}
        }
        let mut digits = self.digits();
        let weight = i32::from(self.weight);
        if weight < 0 {
            out.push('0');
        }
        for power in (0..=weight).rev() {
            let digit = digits.next().unwrap_or(0);
            let text = if power == weight { format!("{digit}") } else { format!("{digit:04}") };
            out.push_str(&text);
        }
        if self.scale == 0 {
            return;
        }
        out.push('.');
        let end = out.len() + usize::from(self.scale);
        // Digits that lie further right than the first place are preceded by zeros.
        for _ in weight + 1..0 {
            out.push_str("0000");
        }
        while out.len() < end {
            out.push_str(&format!("{:04}", digits.next().unwrap_or(0)));
        }
        out.truncate(end);
    }
}

/// Writes the number `unscaled / 10^scale`; `None` if it has too many digits for this way.
pub(super) fn write_unscaled(unscaled: i128, scale: i8, out: &mut Vec<u8>) -> Option<()> {
    let places = u16::try_from(scale).ok()?;
    // The digits of the fraction fill whole groups of four.
    let padding = (4 - places % 4) % 4;
    let mut rest = unscaled.unsigned_abs().checked_mul(10u128.pow(padding.into()))?;
    let mut groups = [0u16; 10];
    let mut count: u16 = 0;
    let mut zeros: u16 = 0;
    while rest != 0 {
        let (quotient, group) = match u64::try_from(rest) {
            // Far cheaper than in 128 bits.
            Ok(rest) => (u128::from(rest / 10_000), rest % 10_000),
            Err(_) => (rest / 10_000, u64::try_from(rest % 10_000).ok()?),
        };
        if group == 0 && zeros == count {
            zeros += 1;
        }
        *groups.get_mut(usize::from(count))? = u16::try_from(group).ok()?;
        count += 1;
        rest = quotient;
    }
    let weight =
        if count == 0 { 0 } else { count.cast_signed() - 1 - (places + padding).cast_signed() / 4 };
    let sign = if unscaled < 0 { NEGATIVE } else { 0 };
    for head in [count - zeros, weight.cast_unsigned(), sign, places] {
        out.extend_from_slice(&head.to_be_bytes());
    }
    let digits = groups.get(usize::from(zeros)..usize::from(count))?;
    digits.iter().rev().for_each(|digit| out.extend_from_slice(&digit.to_be_bytes()));
    Some(())
}

/// Writes a number given as plain decimal text, or `NaN`, `Infinity`, `-Infinity`; `None` if it is
/// none of these or too long.
pub(super) fn write(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let mut head = |digits: u16, weight: i16, sign: u16, scale: u16| -> Option<()> {
        out.extend_from_slice(&digits.to_be_bytes());
        out.extend_from_slice(&weight.to_be_bytes());
        out.extend_from_slice(&sign.to_be_bytes());
        out.extend_from_slice(&scale.to_be_bytes());
        Some(())
    };
    match text {
        "NaN" => return head(0, 0, NAN, 0),
        "Infinity" => return head(0, 0, INFINITY, 0),
        "-Infinity" => return head(0, 0, NEGATIVE_INFINITY, 0),
        _ => {}
    }
    let (sign, number) = match text.strip_prefix('-') {
        Some(number) => (NEGATIVE, number),
        None => (0, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let all = || whole.bytes().chain(fraction.bytes());
    if whole.len() + fraction.len() == 0 || !all().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scale = u16::try_from(fraction.len()).ok().filter(|scale| *scale < 0x4000)?;
    // Groups of four around the point.
    let lead = (4 - whole.len() % 4) % 4;
    let tail = (4 - fraction.len() % 4) % 4;
    let padded =
        std::iter::repeat_n(b'0', lead).chain(all()).chain(std::iter::repeat_n(b'0', tail));
    let mut groups = Vec::with_capacity((lead + whole.len() + fraction.len() + tail) / 4);
    let (mut group, mut filled) = (0u16, 0);
    for byte in padded {
        group = group * 10 + u16::from(byte - b'0');
        filled += 1;
        if filled == 4 {
            groups.push(group);
            (group, filled) = (0, 0);
        }
    }
    let zeros = groups.iter().take_while(|group| **group == 0).count();
    let end = groups.iter().rposition(|group| *group != 0).map_or(0, |last| last + 1);
    let digits = groups.get(zeros..end).unwrap_or_default();
    if digits.is_empty() {
        return head(0, 0, 0, scale);
    }
    let weight = i64::try_from((lead + whole.len()) / 4).ok()? - 1 - i64::try_from(zeros).ok()?;
    head(u16::try_from(digits.len()).ok()?, i16::try_from(weight).ok()?, sign, scale)?;
    digits.iter().for_each(|digit| out.extend_from_slice(&digit.to_be_bytes()));
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there_and_back(text: &str) -> String {
        let mut bytes = Vec::new();
        write(text, &mut bytes).unwrap();
        let mut back = String::new();
        Numeric::read(&bytes).unwrap().write_text(&mut back);
        back
    }

    #[test]
    fn text_there_and_back() {
        for text in [
            "0",
            "0.00",
            "1",
            "-1",
            "10000",
            "0.0001",
            "0.00001",
            "-0.00000000012",
            "123456789.5",
            "100000000",
            "1.10",
            "NaN",
            "Infinity",
            "-Infinity",
            "99999999999999999999999999.9",
        ] {
            assert_eq!(there_and_back(text), text);
        }
        for wrong in ["", ".", "-", "1e5", "abc", "1.2.3"] {
            assert_eq!(write(wrong, &mut Vec::new()), None, "{wrong}");
        }
    }

    #[test]
    fn what_no_decimal_holds() {
        let mut bytes = Vec::new();
        write("1.005", &mut bytes).unwrap();
        let number = Numeric::read(&bytes).unwrap();
        assert_eq!(number.unscaled(3), Some(1005));
        assert_eq!(number.unscaled(2), None);
        bytes.clear();
        write("NaN", &mut bytes).unwrap();
        assert_eq!(Numeric::read(&bytes).unwrap().unscaled(2), None);
    }

    proptest! {
        #[test]
        fn decimals_there_and_back(unscaled in any::<i64>(), scale in 0i8..20) {
            let text = dms_core::value::decimal::format_decimal(&unscaled.to_string(), scale);
            prop_assert_eq!(&there_and_back(&text), &text);
            let mut bytes = Vec::new();
            write(&text, &mut bytes).unwrap();
            prop_assert_eq!(Numeric::read(&bytes).unwrap().unscaled(scale), Some(unscaled.into()));
            let mut direct = Vec::new();
            write_unscaled(unscaled.into(), scale, &mut direct).unwrap();
            prop_assert_eq!(direct, bytes);
        }

        #[test]
        fn wide_decimals_alike(unscaled in any::<i128>(), scale in 0i8..38) {
            let text = dms_core::value::decimal::format_decimal(&unscaled.to_string(), scale);
            let (mut by_text, mut direct) = (Vec::new(), Vec::new());
            write(&text, &mut by_text).unwrap();
            if write_unscaled(unscaled, scale, &mut direct).is_some() {
                prop_assert_eq!(direct, by_text);
            }
        }

        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(number) = Numeric::read(&bytes) {
                let _ = number.unscaled(3);
            }
        }
    }
}
