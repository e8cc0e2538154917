//! Changes in the source's own order, as small acts: always right, where the net effect of many may
//! not be (keys that are equal in ways their bytes do not show, rows that exchange a unique value),
//! and the way to find the one change that a target refuses.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use dms_core::change::{ChangeBatch, Identity, Operation};
use dms_core::endpoint::Step;
use dms_core::{Error, Result};

use crate::gather::record_batch;

/// Every change of a batch as an act of its own.
///
/// # Errors
/// `Data` if a row does not have the shape of its table.
pub fn steps(batch: &ChangeBatch) -> Result<Vec<Step>> {
    Ok(steps_with_sequences(batch)?.into_iter().map(|(_, step)| step).collect())
}

/// The same with each change's place in its event.
pub(crate) fn steps_with_sequences(batch: &ChangeBatch) -> Result<Vec<(u64, Step)>> {
    let mut steps = Vec::with_capacity(batch.len());
    let mut before = None;
    for (record, sequence) in batch.sequences().iter().enumerate() {
        let Some(operation) = batch.operation(record) else { continue };
        if operation == Operation::UpdateBefore {
            before = Some(record);
            continue;
        }
        let acts = step(batch, operation, before.take(), record)?;
        steps.extend(acts.into_iter().map(|act| (*sequence, act)));
    }
    Ok(steps)
}

/// One change: two acts for an update of a row that is identified by all of itself.
fn step(
    batch: &ChangeBatch,
    operation: Operation,
    before: Option<usize>,
    record: usize,
) -> Result<Vec<Step>> {
    let table = || Arc::clone(batch.table());
    let identity = || batch.identity().clone();
    let all: Vec<usize> = (0..batch.table().columns.len()).collect();
    let delete = |record, strict| -> Result<Step> {
        let rows = row(batch, &batch.identity().columns(all.len()), record)?;
        Ok(Step::Delete { table: table(), identity: identity(), rows, strict })
    };
    let insert =
        || -> Result<Step> { Ok(Step::Insert { table: table(), rows: row(batch, &all, record)? }) };
    Ok(match operation {
        Operation::Insert => vec![insert()?],
        Operation::Delete => vec![delete(record, true)?],
        Operation::Remove => vec![delete(record, false)?],
        Operation::Upsert => {
            let rows = row(batch, &all, record)?;
            vec![Step::Upsert { table: table(), identity: identity(), rows }]
        }
        Operation::Update if *batch.identity() == Identity::WholeRow => {
            let before = before.ok_or_else(|| Error::unexpected("an update of an unknown row"))?;
            vec![delete(before, true)?, insert()?]
        }
        Operation::Update => vec![update(batch, before, record)?],
        Operation::UpdateBefore => Vec::new(),
    })
}

/// The update of one row, in place.
///
/// # Errors
/// `Data` if a row does not have the shape of its table.
pub(crate) fn update(batch: &ChangeBatch, before: Option<usize>, record: usize) -> Result<Step> {
    let keys = batch.identity().columns(batch.table().columns.len());
    let set: Vec<usize> = (0..batch.table().columns.len())
        .filter(|at| !batch.is_unchanged(record, *at))
        .filter(|at| before.is_some() || !keys.contains(at))
        .collect();
    let old = row(batch, &keys, before.unwrap_or(record))?;
    let new = row(batch, &set, record)?;
    let columns: Vec<usize> = keys.iter().chain(&set).copied().collect();
    let arrays = old.columns().iter().chain(new.columns()).cloned().collect();
    let rows = record_batch(batch.table(), &columns, arrays, 1)?;
    let (table, identity) = (Arc::clone(batch.table()), batch.identity().clone());
    Ok(Step::Update { table, identity, set, rows })
}

fn row(batch: &ChangeBatch, columns: &[usize], record: usize) -> Result<RecordBatch> {
    let arrays: Vec<ArrayRef> = columns
        .iter()
        .filter_map(|at| batch.column(*at))
        .map(|array| array.slice(record, 1))
        .collect();
    record_batch(batch.table(), columns, arrays, 1)
}
