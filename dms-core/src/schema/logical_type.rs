//! Logical types: the vocabulary between engines, each with one Arrow form.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result};

/// The most digits of a second's fraction that any type keeps.
pub const TEMPORAL_PRECISION_MAX: u8 = 9;

/// What a column's values are, apart from any engine.
///
/// Each type has exactly one Arrow form ([`arrow_type`](Self::arrow_type)), and a value is *exact*
/// when that form gives it back unchanged; the table says what that means. Temporal types of
/// precision 0 to 6 are carried in microseconds, 7 to 9 in nanoseconds.
///
/// | type | text form | Arrow | exact means |
/// |---|---|---|---|
/// | `Boolean` | `boolean` | Boolean | |
/// | `Int8` … `Int64` | `int8` … | Int8 … | |
/// | `UInt8` … `UInt64` | `uint8` … | UInt8 … | |
/// | `Float32`, `Float64` | `float32`, `float64` | Float32, Float64 | every bit, NaN payload excepted |
/// | `Decimal` | `decimal(p,s)` | Decimal128 to 38 digits, Decimal256 to 76 | the number; trailing zeros are the scale's |
/// | `Numeric` | `numeric` | Utf8 | the digits as the source writes them, `NaN`, `Infinity`, `-Infinity` |
/// | `Char` | `char(n)` | Utf8 | every character, padding as the source sends it |
/// | `Text` | `text`, `text(n)` | Utf8 | every character, NUL included; at most `n` characters |
/// | `Clob` | `clob` | LargeUtf8 | as `Text` |
/// | `Binary` | `binary(n)` | Binary | every byte; exactly `n` bytes |
/// | `Bytes` | `bytes`, `bytes(n)` | Binary | every byte; at most `n` bytes |
/// | `Blob` | `blob` | LargeBinary | every byte |
/// | `Date` | `date` | Date32 | proleptic Gregorian day; `i32::MAX` and `i32::MIN` are ±infinity |
/// | `Time` | `time(p)` | Time64(µs or ns) | 00:00:00 to 24:00:00 inclusive |
/// | `TimeTz` | `timetz(p)` | Utf8 | time and offset, `HH:MM:SS[.f]±HH:MM[:SS]` |
/// | `TimeSpan` | `timespan(p)` | Duration(µs or ns) | signed elapsed time, beyond a day (MySQL `TIME`) |
/// | `Timestamp` | `timestamp(p)` | Timestamp(µs or ns) | wall clock without zone; `i64::MAX` and `i64::MIN` are ±infinity; in ns from 1677 to 2262 |
/// | `TimestampTz` | `timestamptz(p)` | Timestamp(µs or ns, UTC) | the instant; the zone it was written in is not kept |
/// | `Interval` | `interval` | Interval(MonthDayNano) | months, days and time apart; time to ±292 years |
/// | `Uuid` | `uuid` | FixedSizeBinary(16) | big-endian, as written |
/// | `Json` | `json` | Utf8 | the text as the source gives it |
/// | `Enum`, `Set` | `enum('a','b')`, `set('a','b')` | Utf8 | the label; labels of a set joined by `,` |
/// | `BitString` | `bit(n)`, `varbit(n)`, `varbit` | Utf8 | its digits `0` and `1`, length included |
/// | `Array` | `array(T)` | List(T) | one dimension with lower bound 1 |
/// | `Geometry` | `geometry` | Binary | EWKB |
/// | `Other` | `other('X')` | Utf8 | the engine's own text form of its type `X` |
///
/// The text form is how types are written in settings, manifests and messages:
///
/// ```
/// use dms_core::schema::LogicalType;
///
/// let price: LogicalType = "decimal(15,2)".parse()?;
/// assert_eq!(price, LogicalType::Decimal { precision: 15, scale: 2 });
/// assert_eq!(price.to_string(), "decimal(15,2)");
/// # Ok::<(), dms_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogicalType {
    /// True or false.
    Boolean,
    /// Signed, 1 byte.
    Int8,
    /// Signed, 2 bytes.
    Int16,
    /// Signed, 4 bytes.
    Int32,
    /// Signed, 8 bytes.
    Int64,
    /// Unsigned, 1 byte.
    UInt8,
    /// Unsigned, 2 bytes.
    UInt16,
    /// Unsigned, 4 bytes.
    UInt32,
    /// Unsigned, 8 bytes.
    UInt64,
    /// IEEE 754 binary32.
    Float32,
    /// IEEE 754 binary64.
    Float64,
    /// A decimal number of fixed scale.
    Decimal {
        /// Digits in all, 1 to 76.
        precision: u8,
        /// Digits after the point; at most the precision, and negative for whole tens, hundreds, ….
        scale: i8,
    },
    /// A decimal number of any size and scale.
    Numeric,
    /// Character string of fixed length.
    Char {
        /// Length in characters.
        length: u32,
    },
    /// Character string.
    Text {
        /// The most characters, if limited.
        limit: Option<u32>,
    },
    /// Character large object.
    Clob,
    /// Byte string of fixed length.
    Binary {
        /// Length in bytes.
        length: u32,
    },
    /// Byte string.
    Bytes {
        /// The most bytes, if limited.
        limit: Option<u32>,
    },
    /// Binary large object.
    Blob,
    /// A calendar day.
    Date,
    /// A time of day.
    Time {
        /// Digits of the second's fraction, 0 to 9.
        precision: u8,
    },
    /// A time of day with an offset from UTC.
    TimeTz {
        /// Digits of the second's fraction, 0 to 9.
        precision: u8,
    },
    /// Signed elapsed time, not bound to a day.
    TimeSpan {
        /// Digits of the second's fraction, 0 to 9.
        precision: u8,
    },
    /// Date and time of a wall clock.
    Timestamp {
        /// Digits of the second's fraction, 0 to 9.
        precision: u8,
    },
    /// An instant.
    TimestampTz {
        /// Digits of the second's fraction, 0 to 9.
        precision: u8,
    },
    /// Months, days and time.
    Interval,
    /// A 128-bit identifier.
    Uuid,
    /// A JSON document.
    Json,
    /// One of a list of labels.
    Enum {
        /// The labels in order.
        labels: Vec<String>,
    },
    /// A subset of a list of labels.
    Set {
        /// The labels in order.
        labels: Vec<String>,
    },
    /// A string of bits.
    BitString {
        /// Exact length, or the most bits when `varying`; `None` is unlimited.
        length: Option<u32>,
        /// Whether the length varies.
        varying: bool,
    },
    /// A list of elements of one type.
    Array(Box<LogicalType>),
    /// A geometry or geography.
    Geometry,
    /// The text form of an engine's own type.
    Other {
        /// The engine's name of the type.
        native: String,
    },
}

impl LogicalType {
    /// Unlimited text.
    #[must_use]
    pub fn text() -> Self {
        Self::Text { limit: None }
    }

    /// Unlimited bytes.
    #[must_use]
    pub fn bytes() -> Self {
        Self::Bytes { limit: None }
    }

    /// The one Arrow type of this type's values.
    #[must_use]
    pub fn arrow_type(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int8 => DataType::Int8,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::UInt8 => DataType::UInt8,
            Self::UInt16 => DataType::UInt16,
            Self::UInt32 => DataType::UInt32,
            Self::UInt64 => DataType::UInt64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal { precision, scale } if *precision <= 38 => {
                DataType::Decimal128(*precision, *scale)
            }
            Self::Decimal { precision, scale } => DataType::Decimal256(*precision, *scale),
            Self::Clob => DataType::LargeUtf8,
            Self::Binary { .. } | Self::Bytes { .. } | Self::Geometry => DataType::Binary,
            Self::Blob => DataType::LargeBinary,
            Self::Date => DataType::Date32,
            Self::Time { precision } => DataType::Time64(time_unit(*precision)),
            Self::TimeSpan { precision } => DataType::Duration(time_unit(*precision)),
            Self::Timestamp { precision } => DataType::Timestamp(time_unit(*precision), None),
            Self::TimestampTz { precision } => {
                DataType::Timestamp(time_unit(*precision), Some("UTC".into()))
            }
            Self::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            Self::Uuid => DataType::FixedSizeBinary(16),
            Self::Array(element) => {
                DataType::List(Arc::new(Field::new_list_field(element.arrow_type(), true)))
            }
            Self::Numeric
            | Self::Char { .. }
            | Self::Text { .. }
            | Self::TimeTz { .. }
            | Self::Json
            | Self::Enum { .. }
            | Self::Set { .. }
            | Self::BitString { .. }
            | Self::Other { .. } => DataType::Utf8,
        }
    }

    /// Whether every value is a whole number of at most 64 bits.
    #[must_use]
    pub fn is_integer(&self) -> bool {
        matches!(
            self,
            Self::Int8
                | Self::Int16
                | Self::Int32
                | Self::Int64
                | Self::UInt8
                | Self::UInt16
                | Self::UInt32
                | Self::UInt64
        )
    }

    /// Whether values are large objects, to which LOB settings apply.
    #[must_use]
    pub fn is_lob(&self) -> bool {
        matches!(self, Self::Clob | Self::Blob)
    }
}

fn time_unit(precision: u8) -> TimeUnit {
    if precision <= 6 { TimeUnit::Microsecond } else { TimeUnit::Nanosecond }
}

impl fmt::Display for LogicalType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("boolean"),
            Self::Int8 => f.write_str("int8"),
            Self::Int16 => f.write_str("int16"),
            Self::Int32 => f.write_str("int32"),
            Self::Int64 => f.write_str("int64"),
            Self::UInt8 => f.write_str("uint8"),
            Self::UInt16 => f.write_str("uint16"),
            Self::UInt32 => f.write_str("uint32"),
            Self::UInt64 => f.write_str("uint64"),
            Self::Float32 => f.write_str("float32"),
            Self::Float64 => f.write_str("float64"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Numeric => f.write_str("numeric"),
            Self::Char { length } => write!(f, "char({length})"),
            Self::Text { limit: None } => f.write_str("text"),
            Self::Text { limit: Some(limit) } => write!(f, "text({limit})"),
            Self::Clob => f.write_str("clob"),
            Self::Binary { length } => write!(f, "binary({length})"),
            Self::Bytes { limit: None } => f.write_str("bytes"),
            Self::Bytes { limit: Some(limit) } => write!(f, "bytes({limit})"),
            Self::Blob => f.write_str("blob"),
            Self::Date => f.write_str("date"),
            Self::Time { precision } => write!(f, "time({precision})"),
            Self::TimeTz { precision } => write!(f, "timetz({precision})"),
            Self::TimeSpan { precision } => write!(f, "timespan({precision})"),
            Self::Timestamp { precision } => write!(f, "timestamp({precision})"),
            Self::TimestampTz { precision } => write!(f, "timestamptz({precision})"),
            Self::Interval => f.write_str("interval"),
            Self::Uuid => f.write_str("uuid"),
            Self::Json => f.write_str("json"),
            Self::Enum { labels } => write_labels(f, "enum", labels),
            Self::Set { labels } => write_labels(f, "set", labels),
            Self::BitString { length, varying } => {
                f.write_str(if *varying { "varbit" } else { "bit" })?;
                length.map_or(Ok(()), |length| write!(f, "({length})"))
            }
            Self::Array(element) => write!(f, "array({element})"),
            Self::Geometry => f.write_str("geometry"),
            Self::Other { native } => write_labels(f, "other", std::slice::from_ref(native)),
        }
    }
}

fn write_labels(f: &mut fmt::Formatter<'_>, name: &str, labels: &[String]) -> fmt::Result {
    f.write_str(name)?;
    for (i, label) in labels.iter().enumerate() {
        f.write_str(if i == 0 { "(" } else { "," })?;
        write!(f, "'{}'", label.replace('\'', "''"))?;
    }
    f.write_str(if labels.is_empty() { "()" } else { ")" })
}

impl FromStr for LogicalType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text.trim()).ok_or_else(|| {
            Error::settings(format!(
                "{text:?} is not a type; write for example int64, decimal(15,2), text, \
                 timestamp(6), enum('a','b') or other('X')"
            ))
        })
    }
}

/// `None` for anything that is not a type's text form.
fn parse(text: &str) -> Option<LogicalType> {
    let (name, arguments) = match text.split_once('(') {
        Some((name, rest)) => (name.trim(), Some(rest.trim_end().strip_suffix(')')?)),
        None => (text, None),
    };
    let number = |most: u32| -> Option<u32> {
        arguments?.trim().parse::<u32>().ok().filter(|number| *number <= most)
    };
    let optional = || {
        if arguments.is_some() { number(u32::MAX).map(Some) } else { Some(None) }
    };
    let precision = || match arguments {
        None => Some(6),
        Some(_) => u8::try_from(number(TEMPORAL_PRECISION_MAX.into())?).ok(),
    };
    let name = name.to_ascii_lowercase();
    let takes_none = matches!(
        name.as_str(),
        "boolean"
            | "int8"
            | "int16"
            | "int32"
            | "int64"
            | "uint8"
            | "uint16"
            | "uint32"
            | "uint64"
            | "float32"
            | "float64"
            | "numeric"
            | "clob"
            | "blob"
            | "date"
            | "interval"
            | "uuid"
            | "json"
            | "geometry"
    );
    if takes_none && arguments.is_some() {
        return None;
    }
    Some(match name.as_str() {
        "boolean" => LogicalType::Boolean,
        "int8" => LogicalType::Int8,
        "int16" => LogicalType::Int16,
        "int32" => LogicalType::Int32,
        "int64" => LogicalType::Int64,
        "uint8" => LogicalType::UInt8,
        "uint16" => LogicalType::UInt16,
        "uint32" => LogicalType::UInt32,
        "uint64" => LogicalType::UInt64,
        "float32" => LogicalType::Float32,
        "float64" => LogicalType::Float64,
        "decimal" => {
            let (precision, scale) = arguments?.split_once(',')?;
            let precision =
                precision.trim().parse::<i16>().ok().filter(|p| (1..=76).contains(p))?;
            let scale = scale.trim().parse().ok().filter(|s: &i8| i16::from(*s) <= precision)?;
            LogicalType::Decimal { precision: u8::try_from(precision).ok()?, scale }
        }
        "numeric" => LogicalType::Numeric,
        "char" => LogicalType::Char { length: number(u32::MAX)? },
        "text" => LogicalType::Text { limit: optional()? },
        "clob" => LogicalType::Clob,
        "binary" => LogicalType::Binary { length: number(u32::MAX)? },
        "bytes" => LogicalType::Bytes { limit: optional()? },
        "blob" => LogicalType::Blob,
        "date" => LogicalType::Date,
        "time" => LogicalType::Time { precision: precision()? },
        "timetz" => LogicalType::TimeTz { precision: precision()? },
        "timespan" => LogicalType::TimeSpan { precision: precision()? },
        "timestamp" => LogicalType::Timestamp { precision: precision()? },
        "timestamptz" => LogicalType::TimestampTz { precision: precision()? },
        "interval" => LogicalType::Interval,
        "uuid" => LogicalType::Uuid,
        "json" => LogicalType::Json,
        "enum" => LogicalType::Enum { labels: labels(arguments?)? },
        "set" => LogicalType::Set { labels: labels(arguments?)? },
        "bit" => LogicalType::BitString { length: optional()?, varying: false },
        "varbit" => LogicalType::BitString { length: optional()?, varying: true },
        "array" => LogicalType::Array(Box::new(parse(arguments?.trim())?)),
        "geometry" => LogicalType::Geometry,
        "other" => match labels(arguments?)?.as_slice() {
            [native] => LogicalType::Other { native: native.clone() },
            _ => return None,
        },
        _ => return None,
    })
}

/// Reads `'a','b''c'`.
fn labels(mut text: &str) -> Option<Vec<String>> {
    let mut labels = Vec::new();
    if text.is_empty() {
        return Some(labels);
    }
    loop {
        text = text.strip_prefix('\'')?;
        let mut label = String::new();
        loop {
            let (before, after) = text.split_once('\'')?;
            label.push_str(before);
            match after.strip_prefix('\'') {
                Some(rest) => {
                    label.push('\'');
                    text = rest;
                }
                None => {
                    text = after;
                    break;
                }
            }
        }
        labels.push(label);
        if text.is_empty() {
            return Some(labels);
        }
        text = text.strip_prefix(',')?;
    }
}

impl Serialize for LogicalType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LogicalType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| serde::de::Error::custom(error.message()))
    }
}
