//! Ranges of columns: a mapping's bounds as partitions, and which rows of a batch a range holds.

use std::cmp::Ordering;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;

use super::order::comparator;
use crate::endpoint::{Bound, Partition, PartitionRange};
use crate::schema::TableSchema;
use crate::{Error, Result};

/// Partitions by `boundaries`, ascending tuples of upper bounds: N bounds make N + 1 half-open
/// ranges, and a row equal to a bound belongs to the range above it.
///
/// # Errors
/// `Settings` for a missing column, a bound that is no value of its column, or bounds that do not
/// ascend.
pub fn ranges(
    table: &TableSchema,
    columns: &[String],
    boundaries: &[Bound],
    names: &[String],
) -> Result<Vec<Partition>> {
    let wrong = |message: &str| {
        Error::settings(format!("parallel-load ranges: {message}")).context("table", &table.name)
    };
    if columns.is_empty() || boundaries.iter().any(|bound| bound.len() != columns.len()) {
        return Err(wrong("every boundary needs a value for each column"));
    }
    for name in columns {
        table.column(name).map_err(|error| wrong("there is no such column").with_source(error))?;
    }
    for pair in boundaries.windows(2) {
        if let [low, high] = pair
            && compare(table, columns, low, high)? != Ordering::Less
        {
            return Err(wrong("the boundaries must ascend"));
        }
    }
    if let [only] = boundaries {
        compare(table, columns, only, only)?;
    }
    let count = boundaries.len() + 1;
    let bytes = table.byte_estimate.map(|bytes| bytes / count as u64);
    Ok((0..count)
        .map(|index| Partition {
            number: u32::try_from(index).unwrap_or(u32::MAX),
            name: names.get(index).cloned(),
            range: PartitionRange::Columns {
                columns: columns.to_vec(),
                lower: index.checked_sub(1).and_then(|index| boundaries.get(index).cloned()),
                upper: boundaries.get(index).cloned(),
            },
            byte_estimate: bytes,
        })
        .collect())
}

fn compare(table: &TableSchema, columns: &[String], a: &Bound, b: &Bound) -> Result<Ordering> {
    for (name, (a, b)) in columns.iter().zip(a.iter().zip(b)) {
        let ty = &table.column(name)?.logical_type;
        let place = |error: Error| {
            Error::settings("a boundary of parallel-load is not a value of its column")
                .with_source(error)
                .context("column", name)
        };
        let a = a.to_array(ty).map_err(place)?;
        let ordering = comparator(&a, b, ty).map_err(place)?(0);
        if ordering != Ordering::Equal {
            return Ok(ordering);
        }
    }
    Ok(Ordering::Equal)
}

/// The rows of `batch`, whose columns are `table`'s, that a range holds; for sources that cannot
/// seek. A [`PartitionRange::Native`] range is the connector's own business and holds all.
///
/// # Errors
/// `Settings` for a missing column or a bound that is no value of its column.
pub fn rows_in_range(
    table: &TableSchema,
    range: &PartitionRange,
    batch: &RecordBatch,
) -> Result<RecordBatch> {
    let PartitionRange::Columns { columns, lower, upper } = range else {
        return Ok(batch.clone());
    };
    let mut keep = vec![true; batch.num_rows()];
    // Against each bound, row by row: the first column that differs decides.
    for (bound, inside) in
        [(lower, [Ordering::Greater, Ordering::Equal]), (upper, [Ordering::Less; 2])]
    {
        let Some(bound) = bound else { continue };
        let mut comparators = Vec::new();
        for (name, value) in columns.iter().zip(bound) {
            let (column, array) = column(table, name, batch)?;
            let compare = comparator(array, value, &column.logical_type)
                .map_err(|error| error.context("table", &table.name).context("column", name))?;
            comparators.push(compare);
        }
        for (row, keep) in keep.iter_mut().enumerate() {
            let ordering = comparators
                .iter()
                .map(|compare| compare(row))
                .find(|ordering| *ordering != Ordering::Equal)
                .unwrap_or(Ordering::Equal);
            *keep &= inside.contains(&ordering);
        }
    }
    for name in columns {
        let (_, array) = column(table, name, batch)?;
        for (row, keep) in keep.iter_mut().enumerate() {
            if array.is_null(row) {
                *keep = lower.is_none();
            }
        }
    }
    Ok(filter_record_batch(batch, &BooleanArray::from(keep))?)
}

fn column<'a>(
    table: &'a TableSchema,
    name: &str,
    batch: &'a RecordBatch,
) -> Result<(&'a crate::schema::Column, &'a dyn Array)> {
    let place = table.column_index(name);
    place
        .and_then(|place| Some((table.columns.get(place)?, batch.columns().get(place)?.as_ref())))
        .ok_or_else(|| {
            Error::settings("the table has no such column")
                .context("table", &table.name)
                .context("column", name)
        })
}
