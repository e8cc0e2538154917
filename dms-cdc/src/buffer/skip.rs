//! What of an earlier run's events is delivered again: those after a position.

use std::collections::{BTreeMap, VecDeque};

use dms_core::change::{ChangeEvent, Transaction};
use dms_core::schema::TableName;

use super::log::note_shape;
use super::place::part_after;

/// The transaction that changed a table's shape, if that was told.
fn doer(event: &ChangeEvent) -> Option<&Transaction> {
    match event {
        ChangeEvent::Schema { altered, .. } => altered.as_ref(),
        ChangeEvent::Dropped { transaction, .. } => transaction.as_ref(),
        _ => None,
    }
}

/// Leaves out what is not after a position. The shapes of tables that were told before are told
/// once, as they are where the rest begins: the target may have followed a shape's change already,
/// and an older shape would take it back.
#[derive(Debug)]
pub(super) struct Skip {
    after: Option<u64>,
    shapes: BTreeMap<TableName, ChangeEvent>,
    /// What came behind the last transaction that is left out.
    waiting: Vec<ChangeEvent>,
    passed: bool,
}

impl Skip {
    pub(super) fn new(after: Option<u64>, shapes: BTreeMap<TableName, ChangeEvent>) -> Self {
        Self { after, shapes, waiting: Vec::new(), passed: false }
    }

    /// Leaves nothing out any more.
    pub(super) fn end(&mut self, out: &mut VecDeque<ChangeEvent>) {
        self.passed = true;
        // What a transaction did of which the rest was left out is left out with it.
        let is_held = |event: &ChangeEvent| {
            self.after.zip(doer(event)).is_some_and(|(after, by)| by.position.order <= after)
        };
        let held = self.waiting.iter().rposition(is_held).map_or(0, |last| last + 1);
        for event in self.waiting.drain(..held) {
            note_shape(&mut self.shapes, &event);
        }
        out.extend(std::mem::take(&mut self.shapes).into_values());
        out.extend(std::mem::take(&mut self.waiting));
    }

    /// Takes an event; adds what is to be delivered.
    pub(super) fn pass(&mut self, event: ChangeEvent, out: &mut VecDeque<ChangeEvent>) {
        if self.passed {
            out.push_back(event);
            return;
        }
        if matches!(event, ChangeEvent::Schema { .. } | ChangeEvent::Dropped { .. }) {
            self.waiting.push(event);
            return;
        }
        let is_idle = matches!(event, ChangeEvent::Idle { .. });
        if let Some(event) = part_after(event, self.after) {
            self.end(out);
            out.push_back(event);
        } else if !is_idle {
            for event in self.waiting.drain(..) {
                note_shape(&mut self.shapes, &event);
            }
        }
    }
}
