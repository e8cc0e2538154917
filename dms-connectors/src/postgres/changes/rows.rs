//! Changes of one table, in columns, as they come.

use std::sync::Arc;

use arrow::array::{BinaryBuilder, UInt8Array, UInt64Array};
use dms_core::change::{ChangeBatch, Identity, Operation};
use dms_core::{Error, ErrorKind, Result};

use super::form::append;
use super::pgoutput::{Field, Tuple};
use super::relation::Shape;
use crate::postgres::copy::Values;

/// Appends a value to those of a column.
#[inline]
fn put(shape: &Shape, values: &mut Values, place: usize, field: Field<'_>) -> Result<()> {
    let form = shape.forms.get(place).copied();
    form.ok_or("a column too many")
        .and_then(|form| append(values, form, field))
        .map_err(|what| shape.misfit(place, what))
}

/// Changes of a table that are not delivered yet.
pub(super) struct TableRows {
    pub(super) shape: Arc<Shape>,
    columns: Vec<Values>,
    operations: Vec<u8>,
    sequences: Vec<u64>,
    /// Records that do not hold all of their columns, and which they do not.
    masks: Vec<(usize, Vec<u8>)>,
}

impl TableRows {
    pub(super) fn new(shape: Arc<Shape>) -> Result<Self> {
        let columns = shape.table.columns.iter().map(Values::new).collect::<Result<_>>()?;
        let (operations, sequences) = (Vec::new(), Vec::new());
        Ok(Self { shape, columns, operations, sequences, masks: Vec::new() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Records so far.
    pub(super) fn len(&self) -> usize {
        self.operations.len()
    }

    pub(super) fn insert(&mut self, new: Tuple<'_>, sequence: &mut u64) -> Result<()> {
        self.check(new)?;
        let mut count = 0;
        for (place, (field, values)) in new.fields().zip(&mut self.columns).enumerate() {
            if field == Field::Unchanged {
                return Err(self.shape.misfit(place, "a value that the log does not hold"));
            }
            put(&self.shape, values, place, field)?;
            count += 1;
        }
        self.complete(count)?;
        self.push(Operation::Insert, sequence);
        Ok(())
    }

    pub(super) fn update(
        &mut self,
        old: Option<Tuple<'_>>,
        new: Tuple<'_>,
        sequence: &mut u64,
    ) -> Result<()> {
        self.check(new)?;
        let Some(old) = old else { return self.update_with(new.fields(), sequence) };
        self.check(old)?;
        // The old values of a key, or all of them: by these the row is found.
        let is_moved = self.shape.identity == Identity::WholeRow || {
            let pairs = old.fields().zip(new.fields()).zip(&self.shape.is_identity);
            pairs.into_iter().any(|((old, new), is_identity)| {
                *is_identity && new != Field::Unchanged && old != new
            })
        };
        if is_moved {
            self.identity_of(old, Operation::UpdateBefore, sequence)?;
        }
        // What did not change is in the old values, as far as the log has those: NULL it never was.
        let merged = old.fields().zip(new.fields()).map(|pair| match pair {
            (old, Field::Unchanged) if old != Field::Null => old,
            (_, new) => new,
        });
        self.update_with(merged, sequence)
    }

    fn update_with<'a>(
        &mut self,
        fields: impl Iterator<Item = Field<'a>>,
        sequence: &mut u64,
    ) -> Result<()> {
        let mut mask: Option<Vec<u8>> = None;
        let (mut count, width) = (0, self.columns.len());
        for (place, (field, values)) in fields.zip(&mut self.columns).enumerate() {
            if field == Field::Unchanged {
                if self.shape.is_identity.get(place) == Some(&true) {
                    return Err(self.shape.misfit(place, "a key that the log does not hold"));
                }
                let mask = mask.get_or_insert_with(|| vec![0; width.div_ceil(8)]);
                if let Some(bits) = mask.get_mut(place / 8) {
                    *bits |= 1 << (place % 8);
                }
            }
            put(&self.shape, values, place, field)?;
            count += 1;
        }
        self.complete(count)?;
        if let Some(mask) = mask {
            self.masks.push((self.operations.len(), mask));
        }
        self.push(Operation::Update, sequence);
        Ok(())
    }

    pub(super) fn delete(&mut self, old: Tuple<'_>, sequence: &mut u64) -> Result<()> {
        self.check(old)?;
        self.identity_of(old, Operation::Delete, sequence)
    }

    /// A record of no more than the identity of a row.
    fn identity_of(
        &mut self,
        old: Tuple<'_>,
        operation: Operation,
        sequence: &mut u64,
    ) -> Result<()> {
        let is_whole = self.shape.identity == Identity::WholeRow;
        let mut count = 0;
        let parts = old.fields().zip(&mut self.columns).zip(&self.shape.is_identity);
        for (place, ((field, values), is_identity)) in parts.enumerate() {
            count += 1;
            if !is_identity {
                values.append_null();
                continue;
            }
            if field == Field::Null && !is_whole {
                return Err(self.shape.misfit(place, "a key that the log does not hold"));
            }
            put(&self.shape, values, place, field)?;
        }
        self.complete(count)?;
        self.push(operation, sequence);
        Ok(())
    }

    fn push(&mut self, operation: Operation, sequence: &mut u64) {
        self.operations.push(operation.code());
        self.sequences.push(*sequence);
        *sequence += 1;
    }

    #[inline]
    fn check(&self, tuple: Tuple<'_>) -> Result<()> {
        self.complete(tuple.count)
    }

    #[inline]
    fn complete(&self, columns: usize) -> Result<()> {
        if columns == self.columns.len() {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Corrupt, "a row of the server's log has other columns");
        Err(error.context("table", &self.shape.table.name))
    }

    /// The records so far, of which there are none afterwards.
    pub(super) fn take(&mut self) -> Result<ChangeBatch> {
        let columns = self.columns.iter_mut().map(Values::finish).collect::<Result<_>>()?;
        let unchanged = (!self.masks.is_empty()).then(|| {
            let mut masks = std::mem::take(&mut self.masks).into_iter().peekable();
            let mut builder = BinaryBuilder::new();
            for record in 0..self.operations.len() {
                match masks.next_if(|(masked, _)| *masked == record) {
                    Some((_, mask)) => builder.append_value(mask),
                    None => builder.append_null(),
                }
            }
            builder.finish()
        });
        ChangeBatch::of_columns(
            Arc::clone(&self.shape.table),
            self.shape.identity.clone(),
            UInt8Array::from(std::mem::take(&mut self.operations)),
            UInt64Array::from(std::mem::take(&mut self.sequences)),
            unchanged,
            columns,
        )
    }
}
