//! SQLite's values into Arrow arrays: one decoder a column, chosen once a table.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType,
    DurationNanosecondType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Time64MicrosecondType, Time64NanosecondType,
    TimestampMicrosecondType, TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::array::{
    ArrayRef, BooleanBuilder, FixedSizeBinaryBuilder, GenericBinaryBuilder, GenericStringArray,
    GenericStringBuilder, OffsetSizeTrait, PrimitiveBuilder,
};
use arrow::datatypes::{DataType, IntervalMonthDayNano, i256};
use dms_core::schema::{Column, LogicalType};
use dms_core::value::decimal::{format_decimal, parse_decimal128, parse_decimal256};
use dms_core::value::temporal::{self, MICROS, NANOS};
use dms_core::value::{format_uuid, parse_uuid};
use dms_core::{Error, ErrorKind, Result};

use super::cursor::Cell;
use super::pages::PageColumn;
use super::settings::Temporal;
use super::{ENGINE, literal, types};

/// A value that is not one of its column's type; what would have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misfit(pub(super) &'static str);

/// Collects one column's values.
pub(super) trait Decode: Send {
    /// Appends a value; returns the bytes that its array grew by beyond the fixed width.
    fn append(&mut self, cell: Cell<'_>) -> std::result::Result<usize, Misfit>;

    /// Appends the values of rows; returns as [`append`](Self::append), with the row of a misfit.
    fn extend(&mut self, column: &PageColumn<'_>) -> std::result::Result<usize, (usize, Misfit)> {
        let mut bytes = 0;
        for row in 0..column.len() {
            bytes += self.append(column.cell(row)).map_err(|misfit| (row, misfit))?;
        }
        Ok(bytes)
    }

    /// The array of what was appended; the decoder is empty again.
    fn finish(&mut self) -> ArrayRef;
}

/// The decoder of a column.
///
/// # Errors
/// `Unsupported` for a type that SQLite values cannot be.
pub(super) fn decoder(column: &Column, spelling: Temporal) -> Result<Box<dyn Decode>> {
    let ty = &column.logical_type;
    let digits = types::fraction_digits(column);
    let unit = |precision: u8| if precision <= 6 { MICROS } else { NANOS };
    Ok(match ty {
        LogicalType::Boolean => Box::new(Booleans::default()),
        LogicalType::Int64 => {
            Primitive::<Int64Type, _>::boxed(ty, "an integer", |cell| match cell {
                Cell::Integer(value) => Some(value),
                _ => None,
            })
        }
        LogicalType::Int8 => integer::<Int8Type>(ty),
        LogicalType::Int16 => integer::<Int16Type>(ty),
        LogicalType::Int32 => integer::<Int32Type>(ty),
        LogicalType::UInt8 => integer::<UInt8Type>(ty),
        LogicalType::UInt16 => integer::<UInt16Type>(ty),
        LogicalType::UInt32 => integer::<UInt32Type>(ty),
        LogicalType::UInt64 => {
            let expected = "an integer from 0, or its text";
            Primitive::<UInt64Type, _>::boxed(ty, expected, |cell| match cell {
                Cell::Integer(value) => u64::try_from(value).ok(),
                cell => {
                    let text = text_of(cell)?;
                    text.parse::<u64>().ok().filter(|value| value.to_string() == text)
                }
            })
        }
        LogicalType::Float64 => Primitive::<Float64Type, _>::boxed(ty, "a real", float),
        LogicalType::Float32 => {
            Primitive::<Float32Type, _>::boxed(ty, "a real of single precision", |cell| {
                let wide = float(cell)?;
                #[expect(clippy::cast_possible_truncation, reason = "checked to be exact")]
                let narrow = wide as f32;
                (f64::from(narrow).to_bits() == wide.to_bits()).then_some(narrow)
            })
        }
        LogicalType::Decimal { precision, scale } if *precision <= 38 => {
            let to_decimal = Decimal::new(*precision, *scale);
            Primitive::<Decimal128Type, _>::boxed(
                ty,
                "a number that the decimal type holds exactly",
                move |cell| to_decimal.convert(cell),
            )
        }
        LogicalType::Decimal { precision, scale } => {
            let (precision, scale) = (*precision, *scale);
            // What a number can hold has no more than 38 digits.
            let of_number = Decimal::new(38, scale);
            Primitive::<Decimal256Type, _>::boxed(
                ty,
                "a number that the decimal type holds exactly",
                move |cell| {
                    let text = match cell {
                        Cell::Integer(value) => &value.to_string(),
                        Cell::Real(value) => return of_number.of_float(value).map(i256::from_i128),
                        cell => text_of(cell)?,
                    };
                    let value = parse_decimal256(text, precision, scale)?;
                    let same = || format_decimal(&value.to_string(), scale) == text;
                    (matches!(cell, Cell::Integer(_)) || same()).then_some(value)
                },
            )
        }
        LogicalType::Numeric if types::storage(column) == types::Storage::Number => {
            TextForm::boxed("a number", numeric)
        }
        LogicalType::Numeric => TextForm::boxed("the digits of a number as text", digits_as_text),
        LogicalType::Json => TextForm::boxed("JSON text or a number", json),
        LogicalType::Other { native } if native == types::ANY => {
            TextForm::boxed("any value", |cell, out| {
                literal::write(out, cell);
                out.len() <= VALUE_BYTES_MAX
            })
        }
        LogicalType::Clob => Box::new(Texts::<i64>::default()),
        LogicalType::Blob => Box::new(Blobs::<i64>::default()),
        LogicalType::Bytes { limit: None } | LogicalType::Geometry => {
            Box::new(Blobs::<i32>::default())
        }
        LogicalType::Bytes { limit: Some(limit) } => {
            Box::new(Blobs::<i32> { bytes: 0..=length(*limit), ..Blobs::default() })
        }
        LogicalType::Binary { length: exactly } => {
            let exactly = length(*exactly);
            Box::new(Blobs::<i32> { bytes: exactly..=exactly, ..Blobs::default() })
        }
        LogicalType::Text { limit: Some(limit) } | LogicalType::Char { length: limit } => {
            let limit = length(*limit);
            TextForm::boxed("text of at most the declared length", move |cell, out| {
                let Some(text) = text_of(cell) else { return false };
                out.push_str(text);
                text.len() <= limit || text.chars().count() <= limit
            })
        }
        LogicalType::BitString { length: bits, varying } => {
            let bits = match (bits.map(length), *varying) {
                (Some(bits), false) => bits..=bits,
                (bits, _) => 0..=bits.unwrap_or(usize::MAX),
            };
            TextForm::boxed("as many digits 0 and 1 as declared", move |cell, out| {
                let Some(text) = text_of(cell) else { return false };
                out.push_str(text);
                bits.contains(&text.len()) && text.bytes().all(|digit| matches!(digit, b'0' | b'1'))
            })
        }
        LogicalType::TimeTz { .. } => TextForm::boxed("a time HH:MM:SS+HH:MM", |cell, out| {
            let Some(text) = text_of(cell).filter(|text| is_zoned_time(text)) else {
                return false;
            };
            out.push_str(text);
            true
        }),
        LogicalType::Date => {
            Primitive::<Date32Type, _>::boxed(ty, "a date YYYY-MM-DD", |cell| match cell {
                Cell::Text(text) => temporal::parse_date(text),
                _ => None,
            })
        }
        LogicalType::Time { precision } => {
            let unit = unit(*precision);
            let convert = move |cell: Cell<'_>| {
                let text = spelled(text_of(cell)?, spelling);
                accept(temporal::parse_time(text.as_bytes(), unit)?, unit, digits, spelling)
            };
            let expected = "a time HH:MM:SS of the declared precision";
            if unit == MICROS {
                Primitive::<Time64MicrosecondType, _>::boxed(ty, expected, convert)
            } else {
                Primitive::<Time64NanosecondType, _>::boxed(ty, expected, convert)
            }
        }
        LogicalType::TimeSpan { precision } => {
            let unit = unit(*precision);
            let convert =
                move |cell: Cell<'_>| temporal::parse_time_span(text_of(cell)?.as_bytes(), unit);
            if unit == MICROS {
                Primitive::<DurationMicrosecondType, _>::boxed(ty, "a time span H:MM:SS", convert)
            } else {
                Primitive::<DurationNanosecondType, _>::boxed(ty, "a time span H:MM:SS", convert)
            }
        }
        LogicalType::Timestamp { precision } | LogicalType::TimestampTz { precision } => {
            let unit = unit(*precision);
            let zoned = matches!(ty, LogicalType::TimestampTz { .. });
            let convert = move |cell: Cell<'_>| timestamp(cell, unit, digits, zoned, spelling);
            let expected = if zoned {
                "a timestamp YYYY-MM-DD HH:MM:SS+00:00 of the declared precision"
            } else {
                "a timestamp YYYY-MM-DD HH:MM:SS of the declared precision"
            };
            if unit == MICROS {
                Primitive::<TimestampMicrosecondType, _>::boxed(ty, expected, convert)
            } else {
                Primitive::<TimestampNanosecondType, _>::boxed(ty, expected, convert)
            }
        }
        LogicalType::Interval => {
            Primitive::<IntervalMonthDayNanoType, _>::boxed(ty, "an ISO 8601 interval", |cell| {
                let (months, days, nanos) = temporal::parse_interval(text_of(cell)?)?;
                Some(IntervalMonthDayNano::new(months, days, nanos))
            })
        }
        LogicalType::Uuid => Box::new(Uuids(FixedSizeBinaryBuilder::new(16))),
        _ if ty.arrow_type() == DataType::Utf8 => Box::new(Texts::<i32>::default()),
        _ => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("a {ENGINE} source cannot read a column as {ty}; choose another type"),
            )
            .context("column", &column.name));
        }
    })
}

/// The most bytes of a value's text form: with a batch of `source::BATCH_BYTES_MAX` before it, it
/// stays below the 2^31 of Arrow's offsets.
const VALUE_BYTES_MAX: usize = 1 << 30;

fn length(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// Integers of less than 64 bits.
fn integer<T: ArrowPrimitiveType>(ty: &LogicalType) -> Box<dyn Decode>
where
    T::Native: TryFrom<i64>,
{
    Primitive::<T, _>::boxed(ty, "an integer in the type's range", |cell| match cell {
        Cell::Integer(value) => T::Native::try_from(value).ok(),
        _ => None,
    })
}

/// A clock, then an offset of `±HH`, `±HH:MM` or `±HH:MM:SS`.
fn is_zoned_time(text: &str) -> bool {
    let Some(at) = text.rfind(['+', '-']) else { return false };
    let (clock, offset) = text.split_at(at);
    let offset = match offset.len() {
        3 => format!("{}:00:00", &offset[1..]),
        6 => format!("{}:00", &offset[1..]),
        _ => offset[1..].to_owned(),
    };
    temporal::parse_time(clock.as_bytes(), NANOS).is_some()
        && temporal::parse_time(offset.as_bytes(), 1).is_some()
}

fn text_of(cell: Cell<'_>) -> Option<&str> {
    match cell {
        Cell::Text(text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

/// Integers up to 2^53 are floats too.
fn float(cell: Cell<'_>) -> Option<f64> {
    match cell {
        Cell::Real(value) => Some(value),
        Cell::Integer(value) if value.unsigned_abs() <= 1 << 53 =>
        {
            #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
            Some(value as f64)
        }
        _ => None,
    }
}

/// Numbers as decimals of one precision and scale, or not at all.
#[derive(Debug, Clone, Copy)]
struct Decimal {
    precision: u8,
    scale: i8,
    /// 10^scale, for floats.
    factor: f64,
    /// 10^scale, for integers; 0 when it does not fit.
    whole: i128,
    /// The first magnitude with too many digits.
    bound: i128,
}

impl Decimal {
    fn new(precision: u8, scale: i8) -> Self {
        let ten = |power: u32| 10i128.checked_pow(power).unwrap_or(0);
        let power = u32::try_from(scale).unwrap_or(u32::MAX);
        Self {
            precision,
            scale,
            factor: 10f64.powi(scale.into()),
            whole: ten(power),
            bound: 10i128.checked_pow(precision.into()).unwrap_or(i128::MAX),
        }
    }

    #[inline]
    fn convert(&self, cell: Cell<'_>) -> Option<i128> {
        let value = match cell {
            Cell::Real(value) => self.of_float(value)?,
            Cell::Integer(value) if self.whole != 0 => i128::from(value).checked_mul(self.whole)?,
            Cell::Text(text) => return self.of_text(text),
            _ => return None,
        };
        (-self.bound < value && value < self.bound).then_some(value)
    }

    /// Only if the text itself comes back, not only its number.
    fn of_text(&self, text: &[u8]) -> Option<i128> {
        let text = std::str::from_utf8(text).ok()?;
        let value = parse_decimal128(text, self.precision, self.scale)?;
        (format_decimal(&value.to_string(), self.scale) == text).then_some(value)
    }

    /// The decimal that reads back as the same float. A quotient of integers below 2^53 by a power
    /// of ten up to 10^22 is correctly rounded, so comparing it with the float is a proof.
    #[inline]
    fn of_float(&self, value: f64) -> Option<i128> {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        // Adding this leaves no bits for a fraction of numbers below 2^51, which is far cheaper than
        // to ask for the nearest integer.
        const NO_FRACTION: f64 = 6_755_399_441_055_744.0;
        let product = value * self.factor;
        let unscaled = if product.abs() < 2_251_799_813_685_248.0 {
            (product + NO_FRACTION) - NO_FRACTION
        } else {
            product.round_ties_even()
        };
        if unscaled.abs() >= EXACT || !(0..=22).contains(&self.scale) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "an integer below 2^53")]
        let unscaled = unscaled as i64;
        #[expect(clippy::cast_precision_loss, reason = "an integer below 2^53")]
        let back = unscaled as f64 / self.factor;
        (back.to_bits() == value.to_bits()).then(|| unscaled.into())
    }
}

fn numeric(cell: Cell<'_>, out: &mut String) -> bool {
    match cell {
        Cell::Integer(value) => {
            let _ = write!(out, "{value}");
        }
        Cell::Real(value) if value.is_finite() => {
            // Always with a point: an integer in SQLite's view has none.
            let _ = write!(out, "{value}");
            if !out.contains('.') {
                out.push_str(".0");
            }
        }
        Cell::Real(value) => out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" }),
        // SQLite would have made a number of text that is one.
        _ => return false,
    }
    true
}

fn digits_as_text(cell: Cell<'_>, out: &mut String) -> bool {
    let Some(text) = text_of(cell).filter(|text| is_number(text)) else { return false };
    out.push_str(text);
    true
}

/// Digits with at most one point, signed or not, or one of the special values.
fn is_number(text: &str) -> bool {
    matches!(text, "NaN" | "Infinity" | "-Infinity")
        || dms_core::value::decimal::unscale(text, i8::MAX).is_some()
}

fn json(cell: Cell<'_>, out: &mut String) -> bool {
    match cell {
        Cell::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => out.push_str(text),
            Err(_) => return false,
        },
        // A column declared JSON has NUMERIC affinity: SQLite stores a bare number as one.
        Cell::Integer(value) => {
            let _ = write!(out, "{value}");
        }
        Cell::Real(value) if value.is_finite() => literal::write_real(out, value),
        _ => return false,
    }
    true
}

/// The canonical spelling of an ISO spelling, if those are taken.
fn spelled(text: &str, spelling: Temporal) -> std::borrow::Cow<'_, str> {
    if spelling == Temporal::Canonical {
        return text.into();
    }
    let mut text = text.replace(['T', 't'], " ");
    if text.len() == 5 || text.len() == 16 {
        text.push_str(":00");
    }
    text.into()
}

/// Takes a value whose fraction was spelled with as many digits as the column's spelling has.
fn accept(
    (value, digits): (i64, u8),
    unit: i64,
    declared: Option<u8>,
    spelling: Temporal,
) -> Option<i64> {
    let canonical = match declared {
        Some(declared) => digits == declared,
        None => match digits {
            0 => true,
            6 => value.rem_euclid(unit) != 0,
            _ => false,
        },
    };
    (canonical || spelling == Temporal::Iso8601).then_some(value)
}

fn timestamp(
    cell: Cell<'_>,
    unit: i64,
    digits: Option<u8>,
    zoned: bool,
    spelling: Temporal,
) -> Option<i64> {
    let text = text_of(cell)?;
    if matches!(text, "infinity" | "-infinity") {
        return temporal::parse_timestamp(text.as_bytes(), unit).map(|(value, _)| value);
    }
    let (text, offset) = if zoned { split_offset(text, spelling)? } else { (text, 0) };
    let text = spelled(text, spelling);
    let local = temporal::parse_timestamp(text.as_bytes(), unit)?;
    accept(local, unit, digits, spelling)?.checked_sub(offset * unit)
}

/// The text before the offset, and the offset in seconds; canonically `+00:00`.
fn split_offset(text: &str, spelling: Temporal) -> Option<(&str, i64)> {
    if let Some(text) = text.strip_suffix("+00:00") {
        return Some((text, 0));
    }
    if spelling == Temporal::Canonical {
        return None;
    }
    if let Some(text) = text.strip_suffix(['Z', 'z']) {
        return Some((text, 0));
    }
    let at = text.len().checked_sub(6).filter(|at| text.is_char_boundary(*at))?;
    let (text, offset) = text.split_at(at);
    let sign = match offset.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (minutes, _) = temporal::parse_time(format!("{}:00", &offset[1..]).as_bytes(), 1)?;
    Some((text, sign * minutes))
}

/// A column of fixed width.
struct Primitive<T: ArrowPrimitiveType, F> {
    builder: PrimitiveBuilder<T>,
    data_type: DataType,
    expected: &'static str,
    convert: F,
}

impl<T, F> Primitive<T, F>
where
    T: ArrowPrimitiveType,
    F: Fn(Cell<'_>) -> Option<T::Native> + Send + 'static,
{
    fn boxed(ty: &LogicalType, expected: &'static str, convert: F) -> Box<dyn Decode> {
        let data_type = ty.arrow_type();
        let builder = PrimitiveBuilder::new().with_data_type(data_type.clone());
        Box::new(Self { builder, data_type, expected, convert })
    }
}

impl<T, F> Decode for Primitive<T, F>
where
    T: ArrowPrimitiveType,
    F: Fn(Cell<'_>) -> Option<T::Native> + Send + 'static,
{
    #[inline]
    fn append(&mut self, cell: Cell<'_>) -> std::result::Result<usize, Misfit> {
        match (self.convert)(cell) {
            Some(value) => self.builder.append_value(value),
            None if cell == Cell::Null => self.builder.append_null(),
            None => return Err(Misfit(self.expected)),
        }
        Ok(0)
    }

    fn finish(&mut self) -> ArrayRef {
        let array = self.builder.finish();
        self.builder = PrimitiveBuilder::with_capacity(arrow::array::Array::len(&array))
            .with_data_type(self.data_type.clone());
        Arc::new(array)
    }
}

#[derive(Default)]
struct Booleans(BooleanBuilder);

impl Decode for Booleans {
    fn append(&mut self, cell: Cell<'_>) -> std::result::Result<usize, Misfit> {
        match cell {
            Cell::Null => self.0.append_null(),
            Cell::Integer(0) => self.0.append_value(false),
            Cell::Integer(1) => self.0.append_value(true),
            _ => return Err(Misfit("the integer 0 or 1")),
        }
        Ok(0)
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

#[derive(Default)]
struct Texts<O: OffsetSizeTrait>(GenericBinaryBuilder<O>);

impl<O: OffsetSizeTrait> Decode for Texts<O> {
    #[inline]
    fn append(&mut self, cell: Cell<'_>) -> std::result::Result<usize, Misfit> {
        match cell {
            Cell::Text(text) if text.is_ascii() || std::str::from_utf8(text).is_ok() => {
                self.0.append_value(text);
                Ok(text.len())
            }
            Cell::Null => {
                self.0.append_null();
                Ok(0)
            }
            Cell::Text(_) => Err(Misfit("text in UTF-8")),
            _ => Err(Misfit("text")),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        let array = self.0.finish();
        let rows = arrow::array::Array::len(&array);
        self.0 = GenericBinaryBuilder::with_capacity(rows, array.value_data().len());
        // Every value was looked at, so that an error could name its row.
        Arc::new(GenericStringArray::from(array))
    }
}

struct Blobs<O: OffsetSizeTrait> {
    builder: GenericBinaryBuilder<O>,
    /// How long a value may be.
    bytes: RangeInclusive<usize>,
}

impl<O: OffsetSizeTrait> Default for Blobs<O> {
    fn default() -> Self {
        Self { builder: GenericBinaryBuilder::new(), bytes: 0..=usize::MAX }
    }
}

impl<O: OffsetSizeTrait> Decode for Blobs<O> {
    fn append(&mut self, cell: Cell<'_>) -> std::result::Result<usize, Misfit> {
        match cell {
            Cell::Blob(bytes) if self.bytes.contains(&bytes.len()) => {
                self.builder.append_value(bytes);
                Ok(bytes.len())
            }
            Cell::Null => {
                self.builder.append_null();
                Ok(0)
            }
            _ => Err(Misfit("a blob of the declared length")),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.builder.finish())
    }
}

/// A column whose values travel in a text form.
struct TextForm<F> {
    builder: GenericStringBuilder<i32>,
    /// The value being written, kept to reuse its memory.
    text: String,
    expected: &'static str,
    write: F,
}

impl<F: Fn(Cell<'_>, &mut String) -> bool + Send + 'static> TextForm<F> {
    fn boxed(expected: &'static str, write: F) -> Box<dyn Decode> {
        let builder = GenericStringBuilder::new();
        Box::new(Self { builder, text: String::new(), expected, write })
    }
}

impl<F: Fn(Cell<'_>, &mut String) -> bool + Send + 'static> Decode for TextForm<F> {
    fn append(&mut self, cell: Cell<'_>) -> std::result::Result<usize, Misfit> {
        if cell == Cell::Null {
            self.builder.append_null();
            return Ok(0);
        }
        self.text.clear();
        if !(self.write)(cell, &mut self.text) {
            return Err(Misfit(self.expected));
        }
        self.builder.append_value(&self.text);
        Ok(self.text.len())
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.builder.finish())
    }
}

struct Uuids(FixedSizeBinaryBuilder);

impl Decode for Uuids {
    fn append(&mut self, cell: Cell<'_>) -> std::result::Result<usize, Misfit> {
        let misfit = Misfit("a UUID as lower-case hyphenated text");
        if cell == Cell::Null {
            self.0.append_null();
            return Ok(0);
        }
        let text = text_of(cell).ok_or(misfit)?;
        let uuid = parse_uuid(text).filter(|uuid| format_uuid(uuid) == text).ok_or(misfit)?;
        self.0.append_value(uuid).map_err(|_| misfit)?;
        Ok(0)
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_float_is_a_decimal_only_if_it_comes_back(unscaled in -999_999_999_999_999i64..=999_999_999_999_999, noise in any::<f64>()) {
            let decimal = Decimal::new(15, 2);
            #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
            let value = unscaled as f64 / 100.0;
            prop_assert_eq!(decimal.convert(Cell::Real(value)), Some(i128::from(unscaled)));
            if let Some(back) = decimal.convert(Cell::Real(noise)) {
                #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
                let back = back as f64 / 100.0;
                prop_assert_eq!(back.to_bits(), noise.to_bits());
            }
        }
    }

    #[test]
    fn decimals_refuse_what_they_would_change() {
        let decimal = Decimal::new(5, 2);
        assert_eq!(decimal.convert(Cell::Integer(999)), Some(99_900));
        assert_eq!(decimal.convert(Cell::Integer(1000)), None);
        assert_eq!(decimal.convert(Cell::Real(0.005)), None);
        assert_eq!(decimal.convert(Cell::Real(f64::INFINITY)), None);
        assert_eq!(decimal.convert(Cell::Real(-0.0)), None, "a decimal has no negative zero");
        assert_eq!(decimal.convert(Cell::Text(b"1.50")), Some(150));
        assert_eq!(decimal.convert(Cell::Text(b"1.5")), None, "another spelling");
    }

    #[test]
    fn timestamps_by_spelling() {
        let at = |text: &str, digits, spelling| {
            timestamp(Cell::Text(text.as_bytes()), MICROS, digits, false, spelling)
        };
        let canonical = Temporal::Canonical;
        assert_eq!(at("1970-01-01 00:00:01", None, canonical), Some(1_000_000));
        assert_eq!(at("1970-01-01 00:00:01.500000", None, canonical), Some(1_500_000));
        assert_eq!(at("1970-01-01 00:00:01.5", None, canonical), None);
        assert_eq!(at("1970-01-01 00:00:01.000000", None, canonical), None);
        assert_eq!(at("1970-01-01 00:00:01.500", Some(3), canonical), Some(1_500_000));
        assert_eq!(at("1970-01-01T00:00:01.5", None, canonical), None);
        assert_eq!(at("1970-01-01T00:00:01.5", None, Temporal::Iso8601), Some(1_500_000));
        assert_eq!(at("1970-01-01T00:01", None, Temporal::Iso8601), Some(60_000_000));
        let zoned = |text: &str| {
            timestamp(Cell::Text(text.as_bytes()), MICROS, None, true, Temporal::Iso8601)
        };
        assert_eq!(zoned("1970-01-01T02:00:00+02:00"), Some(0));
        assert_eq!(zoned("1969-12-31T23:30:00-00:30"), Some(0));
        assert_eq!(zoned("1970-01-01 00:00:00Z"), Some(0));
        assert_eq!(zoned("1970-01-01 00:00:00"), None, "an instant needs an offset");
    }
}
