//! Canonical text of dates, times and timestamps, and back.
//!
//! Years 0 to 9999 have four digits; others a sign and at least four. Year 0 is 1 BC, as in ISO
//! 8601. Infinite dates and timestamps are `infinity` and `-infinity`. A fraction without a fixed
//! number of digits is written without trailing zeros.

use std::fmt::Write;

/// Microseconds a second.
pub const MICROS: i64 = 1_000_000;
/// Nanoseconds a second.
pub const NANOS: i64 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;

/// Days since 1970-01-01 of a proleptic Gregorian day; month 1 to 12, day 1 to 31.
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
#[must_use]
#[inline]
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_shifted = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_shifted + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The (year, month, day) of a number of days since 1970-01-01.
#[must_use]
#[inline]
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    // Both are in 1..=31 by construction.
    (year, u32::try_from(month).unwrap_or(0), u32::try_from(day).unwrap_or(0))
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

fn write_civil(out: &mut String, days: i64) {
    let (year, month, day) = civil_from_days(days);
    // Writing to a string cannot fail.
    let _ = if (0..=9999).contains(&year) {
        write!(out, "{year:04}-{month:02}-{day:02}")
    } else {
        write!(out, "{year:+05}-{month:02}-{day:02}")
    };
}

fn write_clock(out: &mut String, seconds: i64, fraction: i64, unit: i64, digits: Option<u8>) {
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = write!(out, "{hour:02}:{minute:02}:{second:02}");
    let width = if unit == NANOS { 9 } else { 6 };
    match digits {
        Some(0) => {}
        Some(digits) => {
            let text = format!("{fraction:0width$}000");
            out.push('.');
            out.push_str(&text[..usize::from(digits)]);
        }
        None if fraction == 0 => {}
        None => {
            let text = format!("{fraction:0width$}");
            out.push('.');
            out.push_str(text.trim_end_matches('0'));
        }
    }
}

/// Writes a date in days since 1970-01-01.
pub fn write_date(out: &mut String, days: i32) {
    match days {
        i32::MAX => out.push_str("infinity"),
        i32::MIN => out.push_str("-infinity"),
        days => write_civil(out, days.into()),
    }
}

/// Writes a time of day in `unit`s a second since midnight, up to 24:00:00. `digits` fixes the
/// length of the fraction (at most 9).
pub fn write_time(out: &mut String, value: i64, unit: i64, digits: Option<u8>) {
    write_clock(out, value.div_euclid(unit), value.rem_euclid(unit), unit, digits);
}

/// Writes signed elapsed time as `[-]H…H:MM:SS[.f]`.
pub fn write_time_span(out: &mut String, value: i64, unit: i64, digits: Option<u8>) {
    if value < 0 {
        out.push('-');
    }
    // Quotient and remainder of a 64-bit magnitude by a unit of at least 10^6 fit.
    let magnitude = value.unsigned_abs();
    let seconds = (magnitude / unit.unsigned_abs()).cast_signed();
    let fraction = (magnitude % unit.unsigned_abs()).cast_signed();
    write_clock(out, seconds, fraction, unit, digits);
}

/// Writes a timestamp in `unit`s a second since 1970-01-01 00:00:00 as `YYYY-MM-DD HH:MM:SS[.f]`.
pub fn write_timestamp(out: &mut String, value: i64, unit: i64, digits: Option<u8>) {
    match value {
        i64::MAX => return out.push_str("infinity"),
        i64::MIN => return out.push_str("-infinity"),
        _ => {}
    }
    let seconds = value.div_euclid(unit);
    write_civil(out, seconds.div_euclid(DAY_SECONDS));
    out.push(' ');
    write_clock(out, seconds.rem_euclid(DAY_SECONDS), value.rem_euclid(unit), unit, digits);
}

/// Writes an interval as ISO 8601 with each part signed on its own: `P1M-2DT0.5S`, `PT0S`.
pub fn write_interval(out: &mut String, months: i32, days: i32, nanos: i64) {
    out.push('P');
    if months != 0 {
        let _ = write!(out, "{months}M");
    }
    if days != 0 {
        let _ = write!(out, "{days}D");
    }
    if nanos != 0 || (months == 0 && days == 0) {
        out.push('T');
        if nanos < 0 {
            out.push('-');
        }
        let _ = write!(out, "{}", nanos.unsigned_abs() / NANOS.unsigned_abs());
        let fraction = nanos.unsigned_abs() % NANOS.unsigned_abs();
        if fraction != 0 {
            out.push('.');
            out.push_str(format!("{fraction:09}").trim_end_matches('0'));
        }
        out.push('S');
    }
}

#[inline]
fn digits2(bytes: &[u8], at: usize) -> Option<u32> {
    let (tens, ones) = (bytes.get(at)?.wrapping_sub(b'0'), bytes.get(at + 1)?.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| u32::from(tens) * 10 + u32::from(ones))
}

/// Reads a date as [`write_date`] writes it; `None` for anything else.
#[must_use]
#[inline]
pub fn parse_date(text: &[u8]) -> Option<i32> {
    match text {
        b"infinity" => return Some(i32::MAX),
        b"-infinity" => return Some(i32::MIN),
        _ => {}
    }
    i32::try_from(parse_civil(text)?).ok().filter(|days| *days != i32::MAX && *days != i32::MIN)
}

#[inline]
fn parse_civil(text: &[u8]) -> Option<i64> {
    match <&[u8; 10]>::try_from(text) {
        Ok(text) => parse_year_of_four_digits(text).map(i64::from),
        Err(_) => parse_signed_year(text),
    }
}

/// Nearly every date there is, in arithmetic of 32 bits.
#[inline]
fn parse_year_of_four_digits(text: &[u8; 10]) -> Option<i32> {
    let [y3, y2, y1, y0, b'-', m1, m0, b'-', d1, d0] =
        text.map(|byte| if byte == b'-' { byte } else { byte.wrapping_sub(b'0') })
    else {
        return None;
    };
    if [y3, y2, y1, y0, m1, m0, d1, d0].into_iter().any(|digit| digit > 9) {
        return None;
    }
    let [y3, y2, y1, y0, m1, m0, d1, d0] = [y3, y2, y1, y0, m1, m0, d1, d0].map(i32::from);
    let (year, month, day) = (y3 * 1000 + y2 * 100 + y1 * 10 + y0, m1 * 10 + m0, d1 * 10 + d0);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day < 1 || day > last {
        return None;
    }
    // As `days_from_civil`, 400 years later so that nothing is negative.
    let (year, month) = if month <= 2 { (year + 399, month + 9) } else { (year + 400, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some(days - 719_468 - 146_097)
}

/// Years before 0 and after 9999, which have a sign.
fn parse_signed_year(text: &[u8]) -> Option<i64> {
    let split = text.len().checked_sub(6)?;
    let (year, rest) = text.split_at(split);
    if rest[0] != b'-' || rest[3] != b'-' {
        return None;
    }
    let year = match year {
        [sign @ (b'+' | b'-'), digits @ ..] if (4..=7).contains(&digits.len()) => {
            let mut value = 0i64;
            for digit in digits {
                value = value * 10 + i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
            }
            let value = if *sign == b'-' { -value } else { value };
            // One value has one text.
            if (0..=9999).contains(&value) || (digits.len() > 4 && digits[0] == b'0') {
                return None;
            }
            value
        }
        _ => return None,
    };
    let (month, day) = (digits2(rest, 1)?, digits2(rest, 4)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    Some(days_from_civil(year, month, day))
}

/// The clock part, as (seconds, fraction in `unit`s, digits of the fraction).
fn parse_clock(text: &[u8], unit: i64) -> Option<(i64, i64, u8)> {
    if text.len() < 8 || text[2] != b':' || text[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (digits2(text, 0)?, digits2(text, 3)?, digits2(text, 6)?);
    if hour > 24 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = i64::from(hour * 3600 + minute * 60 + second);
    let (fraction, digits) = parse_fraction(&text[8..], unit)?;
    if seconds > DAY_SECONDS || (seconds == DAY_SECONDS && fraction > 0) {
        return None;
    }
    Some((seconds, fraction, digits))
}

/// Reads `.f` of as many digits as the unit has, as (fraction in units, digits).
fn parse_fraction(text: &[u8], unit: i64) -> Option<(i64, u8)> {
    if text.is_empty() {
        return Some((0, 0));
    }
    let digits = text.strip_prefix(b".")?;
    let width = if unit == NANOS { 9 } else { 6 };
    if digits.is_empty() || digits.len() > width || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut fraction = 0i64;
    for digit in digits {
        fraction = fraction * 10 + i64::from(digit - b'0');
    }
    for _ in digits.len()..width {
        fraction *= 10;
    }
    Some((fraction, u8::try_from(digits.len()).ok()?))
}

/// Reads a time of day `HH:MM:SS[.f]`, up to 24:00:00, as (value in `unit`s, digits of the
/// fraction).
#[must_use]
pub fn parse_time(text: &[u8], unit: i64) -> Option<(i64, u8)> {
    let (seconds, fraction, digits) = parse_clock(text, unit)?;
    Some((seconds * unit + fraction, digits))
}

/// Reads elapsed time as [`write_time_span`] writes it.
#[must_use]
pub fn parse_time_span(text: &[u8], unit: i64) -> Option<i64> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let colon = text.iter().position(|byte| *byte == b':')?;
    if !(2..=12).contains(&colon) || text.get(colon + 3) != Some(&b':') {
        return None;
    }
    let mut hours = 0i64;
    for digit in &text[..colon] {
        hours = hours * 10 + i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    let (minute, second) = (digits2(text, colon + 1)?, digits2(text, colon + 4)?);
    if minute > 59 || second > 59 {
        return None;
    }
    let (fraction, _) = parse_fraction(&text[colon + 6..], unit)?;
    let seconds = i128::from(hours) * 3600 + i128::from(minute) * 60 + i128::from(second);
    let value = seconds * i128::from(unit) + i128::from(fraction);
    i64::try_from(if negative { -value } else { value }).ok()
}

/// Reads a timestamp `YYYY-MM-DD HH:MM:SS[.f]` as (value in `unit`s since 1970-01-01, digits of the
/// fraction); hour 24 is not legal here.
#[must_use]
pub fn parse_timestamp(text: &[u8], unit: i64) -> Option<(i64, u8)> {
    match text {
        b"infinity" => return Some((i64::MAX, 0)),
        b"-infinity" => return Some((i64::MIN, 0)),
        _ => {}
    }
    let space = text.iter().position(|byte| *byte == b' ')?;
    let days = parse_civil(&text[..space])?;
    let (seconds, fraction, digits) = parse_clock(&text[space + 1..], unit)?;
    if seconds >= DAY_SECONDS {
        return None;
    }
    let value = (i128::from(days) * i128::from(DAY_SECONDS) + i128::from(seconds))
        * i128::from(unit)
        + i128::from(fraction);
    let value = i64::try_from(value).ok().filter(|v| *v != i64::MAX && *v != i64::MIN)?;
    Some((value, digits))
}

/// Reads an interval as [`write_interval`] writes it.
#[must_use]
pub fn parse_interval(text: &str) -> Option<(i32, i32, i64)> {
    let (mut date, time) = match text.strip_prefix('P')?.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (text.strip_prefix('P')?, None),
    };
    if date.is_empty() && time.is_none() {
        return None;
    }
    let mut part = |unit: char| -> Option<i32> {
        match date.split_once(unit) {
            Some((number, rest)) => {
                date = rest;
                number.parse().ok()
            }
            None => Some(0),
        }
    };
    let (months, days) = (part('M')?, part('D')?);
    if !date.is_empty() {
        return None;
    }
    let nanos = match time {
        None => 0,
        Some(time) => {
            let time = time.strip_suffix('S')?;
            let (negative, time) = time.strip_prefix('-').map_or((false, time), |t| (true, t));
            let (whole, fraction) = time.find('.').map_or((time, ""), |point| time.split_at(point));
            let (fraction, _) = parse_fraction(fraction.as_bytes(), NANOS)?;
            let whole: u64 = whole.parse().ok()?;
            let nanos = i128::from(whole) * i128::from(NANOS) + i128::from(fraction);
            i64::try_from(if negative { -nanos } else { nanos }).ok()?
        }
    };
    Some((months, days, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timestamp(value: i64, unit: i64, digits: Option<u8>) -> String {
        let mut text = String::new();
        write_timestamp(&mut text, value, unit, digits);
        text
    }

    #[test]
    fn dates_at_the_edges() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (-719_528, "0000-01-01"),
            (-719_529, "-0001-12-31"),
            (2_932_896, "9999-12-31"),
            (2_932_897, "+10000-01-01"),
            (i32::MAX, "infinity"),
            (i32::MIN, "-infinity"),
        ] {
            let mut out = String::new();
            write_date(&mut out, days);
            assert_eq!(out, text);
            assert_eq!(parse_date(text.as_bytes()), Some(days), "{text}");
        }
        for wrong in ["2023-02-29", "2023-13-01", "2023-1-01", "+2023-01-01", "", "2023-01-00"] {
            assert_eq!(parse_date(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn fractions_are_trimmed_or_fixed() {
        assert_eq!(timestamp(1_500_000, MICROS, None), "1970-01-01 00:00:01.5");
        assert_eq!(timestamp(1_500_000, MICROS, Some(3)), "1970-01-01 00:00:01.500");
        assert_eq!(timestamp(1_500_000, MICROS, Some(0)), "1970-01-01 00:00:01");
        assert_eq!(timestamp(-1, NANOS, None), "1969-12-31 23:59:59.999999999");
        assert_eq!(parse_time(b"24:00:00", MICROS), Some((86_400 * MICROS, 0)));
        assert_eq!(parse_time(b"24:00:00.1", MICROS), None);
    }

    proptest! {
        #[test]
        fn dates_round_trip(days in any::<i32>()) {
            let mut text = String::new();
            write_date(&mut text, days);
            prop_assert_eq!(parse_date(text.as_bytes()), Some(days));
        }

        #[test]
        fn dates_of_four_digit_years_round_trip(days in -719_528..=2_932_896) {
            let mut text = String::new();
            write_date(&mut text, days);
            prop_assert_eq!(text.len(), 10);
            prop_assert_eq!(parse_date(text.as_bytes()), Some(days));
        }

        #[test]
        fn timestamps_round_trip(value in any::<i64>()) {
            for unit in [MICROS, NANOS] {
                let text = timestamp(value, unit, None);
                prop_assert_eq!(parse_timestamp(text.as_bytes(), unit).map(|v| v.0), Some(value));
            }
        }

        #[test]
        fn time_spans_round_trip(value in any::<i64>()) {
            let mut text = String::new();
            write_time_span(&mut text, value, MICROS, None);
            prop_assert_eq!(parse_time_span(text.as_bytes(), MICROS), Some(value), "{}", text);
        }

        #[test]
        fn intervals_round_trip(months in any::<i32>(), days in any::<i32>(), nanos in any::<i64>()) {
            let mut text = String::new();
            write_interval(&mut text, months, days, nanos);
            prop_assert_eq!(parse_interval(&text), Some((months, days, nanos)), "{}", text);
        }
    }
}
