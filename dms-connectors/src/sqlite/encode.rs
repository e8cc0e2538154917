//! Arrow arrays into SQLite's values: one encoder a column, chosen once a table; the inverse of
//! `decode`.

use arrow::array::types::{
    Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType, DurationNanosecondType,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType, TimestampNanosecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, TimeUnit};
use dms_core::schema::{Column, LogicalType};
use dms_core::value::decimal::format_decimal;
use dms_core::value::format_uuid;
use dms_core::value::temporal::{self, MICROS, NANOS};
use dms_core::{Error, ErrorKind, Result};

use super::literal::{self, Literal};
use super::types::{Affinity, Storage};
use super::{ENGINE, types};

/// A value to bind; text forms are written into a scratch string.
#[derive(Debug, PartialEq)]
pub(super) enum Bound<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
    /// Text that is in the scratch string.
    Scratch,
    /// Text whose bytes are not UTF-8.
    RawText(Vec<u8>),
    /// A blob written as a literal.
    OwnedBlob(Vec<u8>),
}

/// How one column's values are stored.
#[derive(Debug, Clone)]
pub(super) enum Encoder {
    Boolean,
    Integer,
    UnsignedText,
    Float {
        /// Whether the column keeps the sign of a zero, which one of REAL affinity does not.
        signed_zero: bool,
    },
    /// As a number: integers where nothing is after the point, as NUMERIC affinity has it.
    Decimal {
        scale: i8,
        factor: f64,
        whole: Option<i128>,
    },
    DecimalText {
        scale: i8,
    },
    /// Unbounded numbers in a column of NUMERIC affinity.
    Number,
    Text,
    Bytes,
    Date,
    Time {
        unit: i64,
        digits: Option<u8>,
    },
    TimeSpan {
        unit: i64,
    },
    Timestamp {
        unit: i64,
        digits: Option<u8>,
        zoned: bool,
    },
    Interval,
    Uuid,
    /// SQL literals: any storage class.
    Any,
}

impl Encoder {
    /// The encoder of a column.
    ///
    /// # Errors
    /// `Unsupported` for a type that SQLite cannot hold.
    pub(super) fn new(column: &Column) -> Result<Self> {
        // Declared by SQLite without a precision: none or six. Of our own declaring: as it says.
        let ours = types::declaration(column);
        let from_sqlite = column.native_in(ENGINE) == Some(ours.as_str());
        let digits =
            |precision: u8| types::fraction_digits(column).or((!from_sqlite).then_some(precision));
        let unit = |precision: u8| if precision <= 6 { MICROS } else { NANOS };
        let storage = types::storage(column);
        Ok(match &column.logical_type {
            LogicalType::Boolean => Self::Boolean,
            LogicalType::Decimal { scale, .. } if storage == Storage::Number => Self::Decimal {
                scale: *scale,
                factor: 10f64.powi((*scale).into()),
                whole: u32::try_from(*scale).ok().and_then(|power| 10i128.checked_pow(power)),
            },
            LogicalType::Decimal { scale, .. } => Self::DecimalText { scale: *scale },
            LogicalType::Numeric if storage == Storage::Number => Self::Number,
            LogicalType::UInt64 if storage == Storage::Text => Self::UnsignedText,
            LogicalType::Date => Self::Date,
            LogicalType::Time { precision } => {
                Self::Time { unit: unit(*precision), digits: digits(*precision) }
            }
            LogicalType::TimeSpan { precision } => Self::TimeSpan { unit: unit(*precision) },
            LogicalType::Timestamp { precision } | LogicalType::TimestampTz { precision } => {
                Self::Timestamp {
                    unit: unit(*precision),
                    digits: digits(*precision),
                    zoned: matches!(column.logical_type, LogicalType::TimestampTz { .. }),
                }
            }
            LogicalType::Interval => Self::Interval,
            LogicalType::Uuid => Self::Uuid,
            LogicalType::Other { native } if native == types::ANY => Self::Any,
            LogicalType::Array(_) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "SQLite has no arrays; change the column's data type in the table mapping",
                )
                .context("column", &column.name));
            }
            _ => match storage {
                Storage::Integer => Self::Integer,
                Storage::Real => Self::Float { signed_zero: true },
                Storage::Blob => Self::Bytes,
                _ => Self::Text,
            },
        })
    }

    /// The same for a column that is declared otherwise than by us.
    pub(super) fn for_affinity(self, affinity: Affinity) -> Self {
        match self {
            Self::Float { .. } => Self::Float { signed_zero: affinity != Affinity::Real },
            other => other,
        }
    }

    /// The value at `row`, which the array has.
    ///
    /// # Errors
    /// `Data` for a value that SQLite cannot hold.
    #[inline]
    pub(super) fn value<'a>(
        &self,
        array: &'a dyn Array,
        row: usize,
        scratch: &mut String,
    ) -> Result<Bound<'a>> {
        if array.is_null(row) {
            return Ok(Bound::Null);
        }
        scratch.clear();
        match self {
            Self::Boolean => return Ok(Bound::Integer(array.as_boolean().value(row).into())),
            Self::Integer => return integer(array, row),
            Self::Float { signed_zero } => return float(array, row, *signed_zero),
            Self::Text => {
                return Ok(Bound::Text(match array.data_type() {
                    DataType::LargeUtf8 => array.as_string::<i64>().value(row),
                    _ => array.as_string::<i32>().value(row),
                }));
            }
            Self::Bytes => {
                return Ok(Bound::Blob(match array.data_type() {
                    DataType::LargeBinary => array.as_binary::<i64>().value(row),
                    _ => array.as_binary::<i32>().value(row),
                }));
            }
            Self::Decimal { scale, factor, whole } => {
                return decimal(array, row, *scale, *factor, *whole);
            }
            Self::Number => return number(array.as_string::<i32>().value(row), scratch),
            Self::Any => return any(array.as_string::<i32>().value(row)),
            Self::UnsignedText => {
                scratch.push_str(&array.as_primitive::<UInt64Type>().value(row).to_string());
            }
            Self::DecimalText { scale } => {
                let unscaled = match array.data_type() {
                    DataType::Decimal256(..) => {
                        array.as_primitive::<Decimal256Type>().value(row).to_string()
                    }
                    _ => array.as_primitive::<Decimal128Type>().value(row).to_string(),
                };
                scratch.push_str(&format_decimal(&unscaled, *scale));
            }
            Self::Date => {
                temporal::write_date(scratch, array.as_primitive::<Date32Type>().value(row))
            }
            Self::Time { unit, digits } => {
                let value = match array.data_type() {
                    DataType::Time64(TimeUnit::Nanosecond) => {
                        array.as_primitive::<Time64NanosecondType>().value(row)
                    }
                    _ => array.as_primitive::<Time64MicrosecondType>().value(row),
                };
                let digits = spelled(value, *unit, *digits)?;
                temporal::write_time(scratch, value, *unit, Some(digits));
            }
            Self::TimeSpan { unit } => {
                let value = match array.data_type() {
                    DataType::Duration(TimeUnit::Nanosecond) => {
                        array.as_primitive::<DurationNanosecondType>().value(row)
                    }
                    _ => array.as_primitive::<DurationMicrosecondType>().value(row),
                };
                temporal::write_time_span(scratch, value, *unit, None);
            }
            Self::Timestamp { unit, digits, zoned } => {
                let value = match array.data_type() {
                    DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                        array.as_primitive::<TimestampNanosecondType>().value(row)
                    }
                    _ => array.as_primitive::<TimestampMicrosecondType>().value(row),
                };
                let infinite = value == i64::MAX || value == i64::MIN;
                let digits = if infinite { 0 } else { spelled(value, *unit, *digits)? };
                temporal::write_timestamp(scratch, value, *unit, Some(digits));
                if *zoned && !infinite {
                    scratch.push_str("+00:00");
                }
            }
            Self::Interval => {
                let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
                temporal::write_interval(scratch, value.months, value.days, value.nanoseconds);
            }
            Self::Uuid => scratch.push_str(&format_uuid(array.as_fixed_size_binary().value(row))),
        }
        Ok(Bound::Scratch)
    }
}

/// How many digits the fraction is spelled with; an error if the declared ones are too few.
fn spelled(value: i64, unit: i64, declared: Option<u8>) -> Result<u8> {
    let fraction = value.rem_euclid(unit);
    let Some(declared) = declared else {
        // Undeclared precision: none or six, see `Temporal::Canonical`.
        return Ok(if fraction == 0 { 0 } else { 6 });
    };
    let width = if unit == NANOS { 9 } else { 6 };
    let dropped = 10i64.pow(u32::from(declared.min(width).abs_diff(width)));
    if fraction % dropped == 0 {
        Ok(declared)
    } else {
        Err(Error::data(format!(
            "a time has more than the {declared} digits after the second that its type declares"
        )))
    }
}

fn integer(array: &dyn Array, row: usize) -> Result<Bound<'_>> {
    Ok(Bound::Integer(match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => {
            let value = array.as_primitive::<UInt64Type>().value(row);
            i64::try_from(value).map_err(|_| Error::data("an integer of more than 63 bits"))?
        }
        _ => array.as_primitive::<Int64Type>().value(row),
    }))
}

fn float(array: &dyn Array, row: usize, signed_zero: bool) -> Result<Bound<'_>> {
    let value = match array.data_type() {
        DataType::Float32 => array.as_primitive::<Float32Type>().value(row).into(),
        _ => array.as_primitive::<Float64Type>().value(row),
    };
    if value.is_nan() {
        return Err(Error::data(
            "NaN, which SQLite stores as NULL; correct the value, or change the column's data type",
        ));
    }
    if !signed_zero && value == 0.0 && value.is_sign_negative() {
        return Err(Error::data(
            "negative zero, whose sign a REAL column of SQLite loses; declare the column without \
             a type, or use DROP_AND_CREATE",
        ));
    }
    Ok(Bound::Real(value))
}

fn decimal(
    array: &dyn Array,
    row: usize,
    scale: i8,
    factor: f64,
    whole: Option<i128>,
) -> Result<Bound<'_>> {
    let unscaled = match array.data_type() {
        DataType::Decimal256(..) => array.as_primitive::<Decimal256Type>().value(row).to_i128(),
        _ => Some(array.as_primitive::<Decimal128Type>().value(row)),
    };
    let unscaled = unscaled.unwrap_or(i128::MAX);
    if let Some(whole) = whole
        && unscaled % whole == 0
        && let Ok(integer) = i64::try_from(unscaled / whole)
    {
        return Ok(Bound::Integer(integer));
    }
    const EXACT: u128 = 1 << 53;
    if unscaled.unsigned_abs() < EXACT && scale <= 22 {
        #[expect(clippy::cast_precision_loss, reason = "an integer below 2^53")]
        return Ok(Bound::Real(unscaled as f64 / factor));
    }
    Err(Error::data(
        "a decimal with more digits than a SQLite number holds; let the table mapping change the \
         column's data type, so that it is declared as text",
    ))
}

/// An unbounded number as the storage class that gave this text.
fn number<'a>(text: &'a str, scratch: &mut String) -> Result<Bound<'a>> {
    if let Ok(integer) = text.parse::<i64>() {
        return Ok(Bound::Integer(integer));
    }
    let real = match text {
        "Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        _ => text.parse::<f64>().unwrap_or(f64::NAN),
    };
    scratch.push_str(&real.to_string());
    let same = scratch == text || text.strip_suffix(".0") == Some(scratch.as_str());
    if real.is_infinite() || (same && !real.is_nan()) {
        return Ok(Bound::Real(real));
    }
    Err(Error::data("a number with more digits than a SQLite number holds"))
}

fn any(text: &str) -> Result<Bound<'_>> {
    let literal = literal::parse(text).ok_or_else(|| {
        Error::data("text that is no SQL literal in a column of type other('sqlite any')")
    })?;
    Ok(match literal {
        Literal::Integer(value) => Bound::Integer(value),
        Literal::Real(value) => Bound::Real(value),
        Literal::Text(bytes) => Bound::RawText(bytes),
        Literal::Blob(bytes) => Bound::OwnedBlob(bytes),
    })
}
