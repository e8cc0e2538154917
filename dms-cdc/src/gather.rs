//! Rows out of the batches that hold them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{concat, interleave};
use arrow::datatypes::{Field, Schema};
use dms_core::schema::TableSchema;
use dms_core::{Error, Result};

/// A record: the batch, and its place there.
pub(crate) type Place = (usize, usize);

/// How many records that follow one another are worth being taken together.
const RUN: usize = 16;

/// The values of a column at these places: without a copy where they follow one another in a batch,
/// as those of a large transaction do.
pub(crate) fn values(all: &[&dyn Array], places: &[Place]) -> Result<ArrayRef> {
    let mut runs: Vec<(Place, usize)> = Vec::new();
    for (batch, record) in places {
        match runs.last_mut() {
            Some(((of, from), length)) if of == batch && *from + *length == *record => *length += 1,
            _ => runs.push(((*batch, *record), 1)),
        }
        if runs.len() > places.len() / RUN + 1 {
            return Ok(interleave(all, places)?);
        }
    }
    let slice = |((batch, from), length): &(Place, usize)| {
        let array = all.get(*batch).filter(|array| from + length <= array.len());
        let array = array.ok_or_else(|| Error::unexpected("a change is not there"))?;
        Ok(array.slice(*from, *length))
    };
    let slices = runs.iter().map(slice).collect::<Result<Vec<ArrayRef>>>()?;
    match slices.as_slice() {
        [] => Ok(interleave(all, places)?),
        [one] => Ok(Arc::clone(one)),
        slices => Ok(concat(&slices.iter().map(AsRef::as_ref).collect::<Vec<_>>())?),
    }
}

/// A record batch of some of a table's columns.
pub(crate) fn record_batch(
    table: &TableSchema,
    columns: &[usize],
    arrays: Vec<ArrayRef>,
    count: usize,
) -> Result<RecordBatch> {
    let fields = columns
        .iter()
        .filter_map(|at| table.columns.get(*at))
        .map(|column| Field::new(&column.name, column.logical_type.arrow_type(), column.nullable));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let null = schema
        .fields()
        .iter()
        .zip(&arrays)
        .find(|(field, array)| !field.is_nullable() && array.null_count() > 0);
    if let Some((field, _)) = null {
        return Err(Error::data("a change holds NULL where the target's table allows none")
            .context("column", field.name()));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_are_those_at_their_places(
            lengths in prop::collection::vec(1usize..200, 1..5),
            cuts in prop::collection::vec((any::<prop::sample::Index>(),
                any::<prop::sample::Index>(), 1usize..100), 0..8),
        ) {
            let arrays: Vec<StringArray> = lengths.iter().enumerate().map(|(batch, length)| {
                (0..*length).map(|at| (at % 3 > 0).then(|| format!("{batch}/{at}"))).collect()
            }).collect();
            let all: Vec<&dyn Array> = arrays.iter().map(|array| array as &dyn Array).collect();
            let mut places = Vec::new();
            for (batch, from, length) in cuts {
                let batch = batch.index(all.len());
                let from = from.index(lengths[batch]);
                let end = (from + length).min(lengths[batch]);
                places.extend((from..end).map(|record| (batch, record)));
            }
            let expected = interleave(&all, &places).unwrap();
            prop_assert_eq!(&values(&all, &places).unwrap(), &expected);
        }
    }
}
