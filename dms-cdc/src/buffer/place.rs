//! How far a sequence of events has come, and parts of events.

use dms_core::change::{ChangeEvent, ChangeRows, Transaction};
use dms_core::position::Position;
use dms_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Where a sequence of events stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Everything up to here has been delivered whole.
    pub(super) whole: Option<Position>,
    /// The order of the last whole transaction; an idle source's position may be behind it.
    pub(super) transaction: Option<u64>,
    /// The order of the transaction that the next event goes on with.
    pub(super) open: Option<u64>,
    /// How many events there were.
    pub(super) events: u64,
}

impl Place {
    /// The place of a sequence that begins after a position.
    pub(super) fn after(position: Option<&Position>) -> Self {
        Self {
            whole: position.cloned(),
            transaction: position.map(|position| position.order),
            ..Self::default()
        }
    }

    /// The order of the last transaction of which anything was seen.
    pub(super) fn touched(&self) -> Option<u64> {
        self.open.or(self.transaction)
    }

    /// Takes one event more, if it may come here.
    ///
    /// # Errors
    /// `Unexpected` if transactions repeat, go back or interleave: nothing that comes after could
    /// be told from what was there before.
    pub(super) fn advance(&mut self, event: &ChangeEvent) -> Result<()> {
        match event {
            ChangeEvent::Rows(rows) => {
                for transaction in &rows.transactions {
                    self.take(transaction)?;
                }
            }
            ChangeEvent::Truncate { transaction, .. }
            | ChangeEvent::Dropped { transaction: Some(transaction), .. }
            | ChangeEvent::Schema { altered: Some(transaction), .. } => self.take(transaction)?,
            ChangeEvent::Idle { position } => {
                if self.open.is_some() {
                    return Err(disorder(
                        "says that nothing is open within a transaction",
                        position,
                    ));
                }
                if self.whole.as_ref().is_none_or(|whole| whole.order < position.order) {
                    self.whole = Some(position.clone());
                }
            }
            _ => {}
        }
        self.events += 1;
        Ok(())
    }

    fn take(&mut self, transaction: &Transaction) -> Result<()> {
        let position = &transaction.position;
        let follows = match self.open {
            Some(open) => open == position.order,
            None => self.whole.as_ref().is_none_or(|whole| whole.order < position.order),
        };
        if !follows {
            return Err(disorder("repeats a transaction, or begins one within another", position));
        }
        if transaction.complete {
            self.open = None;
            self.transaction = Some(position.order);
            self.whole = Some(position.clone());
        } else {
            self.open = Some(position.order);
        }
        Ok(())
    }
}

fn disorder(what: &str, position: &Position) -> Error {
    Error::unexpected(format!("the feed of changes {what}; start the task again"))
        .context("position", position)
}

/// The part of an event that is after a position, if there is any. Events without a transaction
/// count as a whole.
pub(super) fn part_after(event: ChangeEvent, after: Option<u64>) -> Option<ChangeEvent> {
    let Some(after) = after else { return Some(event) };
    match event {
        ChangeEvent::Rows(rows) => {
            let old = rows.transactions.partition_point(|t| t.position.order <= after);
            if old == 0 {
                return Some(ChangeEvent::Rows(rows));
            }
            let from = rows.transactions.get(old - 1).map_or(0, |t| t.end);
            let kept = rows.transactions.get(old..).unwrap_or_default().to_vec();
            part(&rows, kept, from, u64::MAX)
        }
        ChangeEvent::Truncate { transaction, .. } if transaction.position.order <= after => None,
        ChangeEvent::Idle { position } if position.order <= after => None,
        other => Some(other),
    }
}

/// The whole transactions of an event of rows, if there are any.
pub(super) fn whole_part(event: &ChangeEvent) -> Option<ChangeEvent> {
    let ChangeEvent::Rows(rows) = event else { return None };
    let kept: Vec<_> = rows.transactions.iter().filter(|t| t.complete).cloned().collect();
    let below = kept.last().map_or(0, |t| t.end);
    part(rows, kept, 0, below)
}

fn part(
    rows: &ChangeRows,
    transactions: Vec<Transaction>,
    from: u64,
    below: u64,
) -> Option<ChangeEvent> {
    if transactions.is_empty() {
        return None;
    }
    let batches = rows.batches.iter().map(|batch| {
        let sequences = batch.sequences();
        let first = sequences.partition_point(|sequence| *sequence < from);
        let end = sequences.partition_point(|sequence| *sequence < below);
        batch.slice(first, end.saturating_sub(first))
    });
    let batches = batches.filter(|batch| !batch.is_empty()).collect();
    Some(ChangeEvent::Rows(ChangeRows { batches, transactions }))
}
