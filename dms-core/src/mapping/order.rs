//! The order of values, by their logical type: what filters and ranges compare by.

use std::cmp::Ordering;

use arrow::array::types::{Float32Type, Float64Type};
use arrow::array::{Array, AsArray, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;

use crate::schema::LogicalType;
use crate::value::Value;
use crate::value::number::Number;
use crate::{Error, Result};

/// Compares the value in a row, which is there, with a bound.
pub(super) type Comparator<'a> = Box<dyn Fn(usize) -> Ordering + 'a>;

/// Compares values of a column with `bound`. Numbers are compared as numbers; zeros are equal
/// whatever their sign, and NaN is above all others.
///
/// # Errors
/// `Settings` for a bound that is no value of the type, and for types without an order.
pub(super) fn comparator<'a>(
    array: &'a dyn Array,
    bound: &Value,
    ty: &LogicalType,
) -> Result<Comparator<'a>> {
    if !is_ordered(ty) {
        return Err(Error::settings(format!(
            "values of type {ty} have no order to compare them by; choose rows by another column"
        )));
    }
    let bound = bound.to_array(ty).map_err(|error| {
        Error::settings("the value compared with is not one of its column").with_source(error)
    })?;
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
