//! Changes of one table on their way into a batch.

use std::sync::Arc;

use arrow::array::{UInt8Array, UInt32Array, UInt64Array};
use dms_core::Result;
use dms_core::change::{ChangeBatch, Identity, Operation};
use dms_core::schema::TableSchema;

use crate::sqlite::cursor::Cell;
use crate::sqlite::decode::{Decode, Misfit, decoder};
use crate::sqlite::reading::{fixed_bytes, misfit_error};
use crate::sqlite::settings::Temporal;

/// Collects changes of one table.
pub(super) struct Records {
    table: Arc<TableSchema>,
    identity: Identity,
    /// The columns of the identity, by place.
    key: Vec<usize>,
    decoders: Vec<Box<dyn Decode>>,
    operations: Vec<u8>,
    sequences: Vec<u64>,
    /// Records that turned out to be none.
    void: usize,
    bytes: usize,
    row_bytes: usize,
}

/// The code of a record that is none; left out in the end.
const VOID: u8 = 0;

impl Records {
    pub(super) fn new(
        table: &Arc<TableSchema>,
        identity: &Identity,
        spelling: Temporal,
    ) -> Result<Self> {
        let decoders = table.columns.iter().map(|column| decoder(column, spelling));
        let fixed = table.columns.iter().map(|column| fixed_bytes(&column.logical_type));
        Ok(Self {
            decoders: decoders.collect::<Result<_>>()?,
            key: identity.columns(table.columns.len()),
            row_bytes: fixed.sum::<usize>() + 9,
            table: Arc::clone(table),
            identity: identity.clone(),
            operations: Vec::new(),
            sequences: Vec::new(),
            void: 0,
            bytes: 0,
        })
    }

    /// Bytes collected, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The row with this key is gone; whether that is a change. A key that is no value of its
    /// columns' types was never delivered, so there is nothing to take back.
    pub(super) fn remove(&mut self, key: &[Cell<'_>], sequence: u64) -> Result<bool> {
        let mut held = true;
        for (place, decoder) in self.decoders.iter_mut().enumerate() {
            let part = self.key.iter().position(|column| *column == place);
            let cell = part.and_then(|part| key.get(part)).copied().unwrap_or(Cell::Null);
            match decoder.append(cell) {
                Ok(bytes) => self.bytes += bytes,
                Err(_) => {
                    held = false;
                    self.bytes += decoder.append(Cell::Null).map_err(|misfit| {
                        misfit_error(&self.table, place, Cell::Null, &[], misfit)
                    })?;
                }
            }
        }
        let code = if held { Operation::Remove.code() } else { VOID };
        self.push(code, sequence);
        self.void += usize::from(!held);
        Ok(held)
    }

    /// The row is this now.
    pub(super) fn upsert<'r>(
        &mut self,
        row: impl Fn(usize) -> Cell<'r>,
        sequence: u64,
    ) -> Result<()> {
        for (place, decoder) in self.decoders.iter_mut().enumerate() {
            let appended = decoder.append(row(place));
            self.bytes += appended.map_err(|misfit: Misfit| {
                let key: Vec<Cell<'_>> = self.key.iter().map(|place| row(*place)).collect();
                misfit_error(&self.table, place, row(place), &key, misfit)
            })?;
        }
        self.push(Operation::Upsert.code(), sequence);
        Ok(())
    }

    fn push(&mut self, code: u8, sequence: u64) {
        self.operations.push(code);
        self.sequences.push(sequence);
        self.bytes += self.row_bytes;
    }

    /// What was collected, if anything.
    pub(super) fn finish(&mut self) -> Result<Option<ChangeBatch>> {
        self.bytes = 0;
        let operations = std::mem::take(&mut self.operations);
        let sequences = std::mem::take(&mut self.sequences);
        if operations.is_empty() {
            return Ok(None);
        }
        let columns = self.decoders.iter_mut().map(|decoder| decoder.finish());
        let columns = columns.collect::<Vec<_>>();
        let (mut operations, mut sequences) =
            (UInt8Array::from(operations), UInt64Array::from(sequences));
        let mut kept = columns;
        if std::mem::take(&mut self.void) > 0 {
            let places = operations.values().iter().zip(0u32..);
            let places = places.filter(|(code, _)| **code != VOID).map(|(_, place)| place);
            let places = UInt32Array::from_iter_values(places);
            if places.is_empty() {
                return Ok(None);
            }
            let columns = kept.iter().map(|c| arrow::compute::take(c.as_ref(), &places, None));
            kept = columns.collect::<std::result::Result<_, _>>()?;
            let take = |array: &dyn arrow::array::Array| arrow::compute::take(array, &places, None);
            operations = UInt8Array::from(take(&operations)?.to_data());
            sequences = UInt64Array::from(take(&sequences)?.to_data());
        }
        let (table, identity) = (Arc::clone(&self.table), self.identity.clone());
        ChangeBatch::of_columns(table, identity, operations, sequences, None, kept).map(Some)
    }
}
