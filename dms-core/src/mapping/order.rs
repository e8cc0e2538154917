//! The order of values, by their logical type: what filters and ranges compare by.

use std::cmp::Ordering;

use arrow::array::types::{Float32Type, Float64Type};
use arrow::array::{Array, ArrayRef, AsArray, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;

use super::limits;
use crate::schema::LogicalType;
use crate::value::Value;
use crate::value::number::Number;
use crate::{Error, Result};

/// Compares the value in a row, which is there, with a bound.
pub(super) type Comparator<'a> = Box<dyn Fn(usize) -> Ordering + 'a>;

/// The value that a column of the type is compared with.
///
/// # Errors
/// `Settings` for a value that is none of the type, and for types without an order.
pub(super) fn bound(value: &Value, ty: &LogicalType) -> Result<ArrayRef> {
    if !is_ordered(ty) {
        return Err(Error::settings(format!(
            "values of type {ty} have no order to compare them by; choose rows by another column"
        )));
    }
    let wrong =
        || Error::settings(format!("the value compared with is not one of its column's type {ty}"));
    let bound = value.to_array(ty).map_err(|error| wrong().with_source(error))?;
    match ty {
        LogicalType::Enum { .. } => limits::check(bound.as_ref(), ty).map_err(|_| wrong())?,
        _ if bound.is_null(0) => return Err(wrong()),
        _ => {}
    }
    Ok(bound)
}

/// Compares values of a column with another. Numbers are compared as numbers, labels by their
/// place; zeros are equal whatever their sign, and NaN is above all others.
///
/// # Errors
/// As [`bound`].
pub(super) fn comparator<'a>(
    array: &'a dyn Array,
    value: &Value,
    ty: &'a LogicalType,
) -> Result<Comparator<'a>> {
    let bound = bound(value, ty)?;
    if let LogicalType::Enum { labels } = ty {
        let values = array.as_string::<i32>();
        // What is no label, which a source does not deliver, is above all.
        let place =
            |text: &str| labels.iter().position(|label| label == text).unwrap_or(labels.len());
        let bound = place(bound.as_string::<i32>().value(0));
        return Ok(Box::new(move |row| place(values.value(row)).cmp(&bound)));
    }
    if *ty == LogicalType::Numeric {
        let number = Number::parse(bound.as_string::<i32>().value(0))
            .ok_or_else(|| Error::settings("the value compared with is not a number"))?;
        let values = array.as_string::<i32>();
        // What is no number at all, which a source does not deliver, is above all.
        return Ok(Box::new(move |row| {
            Number::parse(values.value(row)).map_or(Ordering::Greater, |value| value.cmp(&number))
        }));
    }
    Ok(match array.data_type() {
        DataType::Float32 => {
            let (values, bound) =
                (array.as_primitive::<Float32Type>(), bound.as_primitive::<Float32Type>());
            let bound = f64::from(bound.value(0));
            Box::new(move |row| floats(values.value(row).into(), bound)) as Comparator<'a>
        }
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>();
            let bound = bound.as_primitive::<Float64Type>().value(0);
            Box::new(move |row| floats(values.value(row), bound))
        }
        _ => {
            let compare = make_comparator(array, &bound, SortOptions::default())?;
            Box::new(move |row| compare(row, 0))
        }
    })
}

fn floats(a: f64, b: f64) -> Ordering {
    // No value is neither less, equal nor greater unless one of the two is NaN.
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn is_ordered(ty: &LogicalType) -> bool {
    !matches!(
        ty,
        LogicalType::Json
            | LogicalType::Geometry
            | LogicalType::Interval
            | LogicalType::Array(_)
            | LogicalType::Set { .. }
            | LogicalType::TimeTz { .. }
    )
}
