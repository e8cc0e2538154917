//! Values in the server's own text, into the arrays that their binary form goes into: for changes
//! of tables with a column whose binary form is not known here.

use arrow::datatypes::IntervalMonthDayNano;
use dms_core::value::decimal::parse_decimal128;
use dms_core::value::parse_uuid;
use dms_core::value::temporal::{MICROS, parse_date, parse_time, parse_timestamp, write_time};

use super::decode::{NOT_FINITE, Values, utf8, write_offset};

type Appended = Result<(), &'static str>;

impl Values {
    /// Appends a value that is written as a session with our settings writes it; says what it is if
    /// it is none of the column's.
    pub(in crate::postgres) fn append_text(&mut self, value: &[u8]) -> Appended {
        const OTHER: &str = "a text of another form";
        if let Self::Bytes(values) = self {
            values.append_value(hex(value).ok_or(OTHER)?);
            return Ok(());
        }
        let text = utf8(value)?;
        match self {
            Self::Boolean(values) => values.append_value(match text {
                "t" => true,
                "f" => false,
                _ => return Err(OTHER),
            }),
            Self::Int16(values) => values.append_value(text.parse().map_err(|_| OTHER)?),
            Self::Int32(values) => values.append_value(text.parse().map_err(|_| OTHER)?),
            Self::Int64(values) => values.append_value(text.parse().map_err(|_| OTHER)?),
            Self::UInt32(values) => values.append_value(text.parse().map_err(|_| OTHER)?),
            // Rust reads each form of PostgreSQL's: digits with an exponent, NaN, Infinity.
            Self::Float32(values) => values.append_value(text.parse().map_err(|_| OTHER)?),
            Self::Float64(values) => values.append_value(text.parse().map_err(|_| OTHER)?),
            Self::Decimal128 { values, scale, bound } => {
                let number = parse_decimal128(text, 38, *scale);
                let number = number.filter(|number| -*bound < *number && *number < *bound);
                values.append_value(number.ok_or(NOT_FINITE)?);
            }
            Self::Decimal256 { texts, .. } => {
                if text.ends_with(['N', 'y']) {
                    return Err(NOT_FINITE);
                }
                texts.append_value(text);
            }
            Self::Numeric(values) | Self::Text(values) => values.append_value(text),
            Self::Clob(values) => values.append_value(text),
            Self::Date(values) => values.append_value(date(text).ok_or(OTHER)?),
            Self::Time(values) => {
                let (micros, _) = parse_time(text.as_bytes(), MICROS).ok_or(OTHER)?;
                values.append_value(micros);
            }
            Self::TimeTz(texts) => texts.append_value(time_with_zone(text).ok_or(OTHER)?),
            Self::Timestamp { values, utc } => {
                values.append_value(timestamp(text, *utc).ok_or(OTHER)?);
            }
            Self::Interval(values) => {
                let (months, days, micros) = interval(text).ok_or(OTHER)?;
                let nanos = micros.checked_mul(1000);
                let nanos = nanos.ok_or("an interval of more than 292 years in its time part")?;
                values.append_value(IntervalMonthDayNano::new(months, days, nanos));
            }
            Self::Uuid(values) => {
                values.append_value(parse_uuid(text).ok_or(OTHER)?).map_err(|_| OTHER)?;
            }
            Self::Bytes(_) => return Err(OTHER),
        }
        Ok(())
    }
}

/// `\x00ff`.
fn hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.strip_prefix(b"\\x")?.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// `2020-01-31`, `0044-03-15 BC`, `12020-01-31` as this crate writes a date: the year before 1 AD
/// is 0, and years that have not four digits have a sign.
fn civil(text: &str, before_christ: bool) -> Option<String> {
    let (year, rest) = text.split_once('-')?;
    let mut year: i64 = year.parse().ok()?;
    if before_christ {
        year = 1 - year;
    }
    Some(match year {
        0..=9999 => format!("{year:04}-{rest}"),
        _ => format!("{year:+05}-{rest}"),
    })
}

fn date(text: &str) -> Option<i32> {
    parse_date(text.as_bytes()).or_else(|| {
        let (text, before_christ) = era(text);
        parse_date(civil(text, before_christ)?.as_bytes())
    })
}

fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

fn timestamp(text: &str, utc: bool) -> Option<i64> {
    let (text, before_christ) = era(text);
    // The session's zone is UTC.
    let text = match utc && !text.ends_with("infinity") {
        true => text.strip_suffix("+00")?,
        false => text,
    };
    let parsed = |text: &str| parse_timestamp(text.as_bytes(), MICROS).map(|(micros, _)| micros);
    if !before_christ && let Some(micros) = parsed(text) {
        return Some(micros);
    }
    parsed(&civil(text, before_christ)?)
}

/// `12:00:00+05:30`, whose offset may have no minutes or have seconds.
fn time_with_zone(text: &str) -> Option<String> {
    let (time, offset) = text.split_at_checked(text.rfind(['+', '-'])?)?;
    let (micros, _) = parse_time(time.as_bytes(), MICROS)?;
    let mut seconds = 0;
    let mut unit = 3600;
    for part in offset.get(1..)?.split(':') {
        seconds += part.parse::<u16>().map(i32::from).ok()? * unit;
        unit /= 60;
    }
    let west = if offset.starts_with('-') { seconds } else { -seconds };
    let mut out = String::new();
    write_time(&mut out, micros, MICROS, None);
    write_offset(&mut out, west);
    Some(out)
}

/// `P1Y2M-3DT4H5M-6.789S` as months, days and microseconds: each part has its own sign
/// (<https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-INTERVAL-OUTPUT>).
fn interval(text: &str) -> Option<(i32, i32, i64)> {
    let text = text.strip_prefix('P')?;
    let (date, time) = text.split_once('T').unwrap_or((text, ""));
    let (mut months, mut days, mut micros) = (0i64, 0i64, 0i64);
    for (number, unit) in parts(date)? {
        let number: i64 = number.parse().ok()?;
        match unit {
            'Y' => months = months.checked_add(number.checked_mul(12)?)?,
            'M' => months = months.checked_add(number)?,
            'D' => days = number,
            _ => return None,
        }
    }
    for (number, unit) in parts(time)? {
        let part = match unit {
            'H' => number.parse::<i64>().ok()?.checked_mul(3600 * MICROS)?,
            'M' => number.parse::<i64>().ok()?.checked_mul(60 * MICROS)?,
            'S' => seconds(number)?,
            _ => return None,
        };
        micros = micros.checked_add(part)?;
    }
    Some((i32::try_from(months).ok()?, i32::try_from(days).ok()?, micros))
}

/// Numbers and the letter behind each.
fn parts(text: &str) -> Option<Vec<(&str, char)>> {
    let mut rest = text;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (number, after) =
            rest.split_at_checked(rest.find(|c: char| c.is_ascii_alphabetic())?)?;
        let unit = after.chars().next()?;
        parts.push((number, unit));
        rest = after.get(1..)?;
    }
    Some(parts)
}

fn seconds(text: &str) -> Option<i64> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let micros = whole.parse::<i64>().ok()?.checked_mul(MICROS)?;
    let micros = micros.checked_add(format!("{fraction:0<6}").parse().ok()?)?;
    Some(if negative { -micros } else { micros })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_writes() {
        assert_eq!(date("1970-01-02"), Some(1));
        assert_eq!(date("infinity"), Some(i32::MAX));
        assert_eq!(date("0001-12-31 BC"), date("0001-01-01").map(|days| days - 1));
        assert_eq!(date("10000-01-01"), date("9999-12-31").map(|days| days + 1));
        assert_eq!(timestamp("1970-01-01 00:00:01.5+00", true), Some(1_500_000));
        assert_eq!(timestamp("-infinity", true), Some(i64::MIN));
        assert_eq!(timestamp("1970-01-01 00:00:01+01", true), None);
        assert_eq!(
            timestamp("0001-12-31 23:59:59.999999 BC", false),
            timestamp("0001-01-01 00:00:00", false).map(|micros| micros - 1)
        );
        for (text, is) in [
            ("24:00:00+00", "24:00:00+00:00"),
            ("00:00:00-15:59:59", "00:00:00-15:59:59"),
            ("12:00:00.5+05:30", "12:00:00.5+05:30"),
        ] {
            assert_eq!(time_with_zone(text).as_deref(), Some(is));
        }
        assert_eq!(interval("PT0S"), Some((0, 0, 0)));
        assert_eq!(interval("P1Y2M-3DT4H5M-6.789S"), Some((14, -3, 14_693_211_000)));
        assert_eq!(interval("P-178000000Y"), Some((-2_136_000_000, 0, 0)));
        assert_eq!(interval("PT-0.000001S"), Some((0, 0, -1)));
        assert_eq!(interval("P1X"), None);
        assert_eq!(hex(b"\\x00ff"), Some(vec![0, 255]));
        assert_eq!((hex(b"00"), hex(b"\\x0")), (None, None));
    }
}
