//! A batch of the source's transactions on its way to the target.

use std::collections::BTreeMap;

use dms_core::change::{ChangeBatch, ChangeRows, Operation, Transaction};
use dms_core::endpoint::{Note, Step};
use dms_core::position::Position;
use dms_core::schema::TableName;

/// Whole transactions of the source, or a part of one that is too large to be held at once, as the
/// target gets them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    pub(crate) items: Vec<Item>,
    /// Up to where the source's transactions are in this batch and those before it.
    pub(crate) position: Option<Position>,
    /// When the newest was committed.
    pub(crate) committed_at: Option<i64>,
    /// Whether the last transaction ends with this batch.
    pub(crate) complete: bool,
}

/// A part of a batch.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// Changes of rows.
    Rows(ChangeRows),
    /// An act on tables that stands between changes of rows.
    Step(Step),
    /// Something to remember.
    Note(Note),
}

/// Changes by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) inserts: u64,
    pub(crate) updates: u64,
    pub(crate) deletes: u64,
}

impl Counts {
    pub(crate) fn of(batch: &ChangeBatch) -> Self {
        let mut counts = Self::default();
        for code in batch.codes() {
            match Operation::from_code(*code) {
                Some(Operation::Insert) => counts.inserts += 1,
                Some(Operation::Update | Operation::Upsert) => counts.updates += 1,
                Some(Operation::Delete | Operation::Remove) => counts.deletes += 1,
                Some(Operation::UpdateBefore) | None => {}
            }
        }
        counts
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.inserts += other.inserts;
        self.updates += other.updates;
        self.deletes += other.deletes;
    }
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether the target would be as it is.
    pub(crate) fn changes_nothing(&self) -> bool {
        self.items.iter().all(|item| match item {
            Item::Rows(rows) => rows.batches.iter().all(ChangeBatch::is_empty),
            Item::Step(_) | Item::Note(_) => false,
        })
    }

    /// The tables that take no more changes from here on, and why.
    pub(crate) fn suspended(&self) -> Vec<(TableName, String)> {
        let suspended = self.items.iter().filter_map(|item| match item {
            Item::Note(Note::Suspended { table, reason }) => Some((table.clone(), reason.clone())),
            _ => None,
        });
        suspended.collect()
    }

    /// Bytes of the records.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = |item: &Item| match item {
            Item::Rows(rows) => rows.bytes(),
            Item::Step(_) | Item::Note(_) => 0,
        };
        self.items.iter().map(bytes).sum()
    }

    /// The changes of each table, by its name at the target.
    pub(crate) fn counts(&self) -> BTreeMap<TableName, Counts> {
        let mut counts: BTreeMap<TableName, Counts> = BTreeMap::new();
        for item in &self.items {
            let Item::Rows(rows) = item else { continue };
            for batch in &rows.batches {
                counts.entry(batch.table().name.clone()).or_default().add(Counts::of(batch));
            }
        }
        counts
    }

    /// The ends of its transactions, in order.
    fn transactions(&self) -> impl Iterator<Item = &Transaction> {
        let ends = self.items.iter().filter_map(|item| match item {
            Item::Rows(rows) => Some(rows.transactions.iter().filter(|t| t.complete)),
            Item::Step(_) | Item::Note(_) => None,
        });
        ends.flatten()
    }

    /// How many transactions end in it.
    pub(crate) fn len(&self) -> usize {
        self.transactions().count()
    }

    /// The first `count` transactions, and the rest.
    pub(crate) fn split(self, count: usize) -> (Self, Self) {
        let last = self.transactions().nth(count.saturating_sub(1)).cloned();
        let Some(last) = last else { return (self, Self::default()) };
        let mut first = Self {
            items: Vec::new(),
            position: Some(last.position.clone()),
            committed_at: last.committed_at,
            complete: true,
        };
        let mut rest = Self { items: Vec::new(), ..self };
        let mut is_first = true;
        for item in self.items {
            match item {
                Item::Rows(rows) if is_first => {
                    let cut = rows.transactions.iter().position(|t| t.position == last.position);
                    match cut.filter(|at| rows.transactions.get(*at).is_some_and(|t| t.complete)) {
                        Some(at) => {
                            let (before, after) = split_rows(&rows, at + 1);
                            first.items.push(Item::Rows(before));
                            if !after.transactions.is_empty() {
                                rest.items.push(Item::Rows(after));
                            }
                            is_first = false;
                        }
                        None => first.items.push(Item::Rows(rows)),
                    }
                }
                item if is_first => first.items.push(item),
                item => rest.items.push(item),
            }
        }
        (first, rest)
    }
}

impl Batch {
    /// Each transaction as a batch of its own, in order. What stands behind the last one's end goes
    /// with it.
    pub(crate) fn into_transactions(self) -> Vec<Self> {
        let mut left = self.len();
        let (mut done, mut items) = (Vec::with_capacity(left), Vec::new());
        for item in self.items {
            let Item::Rows(rows) = item else {
                items.push(item);
                continue;
            };
            let mut batches = rows.batches;
            for transaction in rows.transactions {
                let own = cut(&mut batches, transaction.end);
                let (position, committed_at) =
                    (transaction.position.clone(), transaction.committed_at);
                let ends = transaction.complete;
                items
                    .push(Item::Rows(ChangeRows { batches: own, transactions: vec![transaction] }));
                if ends && left > 1 {
                    left -= 1;
                    let items = std::mem::take(&mut items);
                    done.push(Self {
                        items,
                        position: Some(position),
                        committed_at,
                        complete: true,
                    });
                }
            }
        }
        let Self { position, committed_at, complete, .. } = self;
        done.push(Self { items, position, committed_at, complete });
        done
    }
}

/// Takes the records with a sequence below a bound out of batches.
fn cut(batches: &mut [ChangeBatch], bound: u64) -> Vec<ChangeBatch> {
    let mut own = Vec::new();
    for batch in batches {
        // Most have few records of a transaction: looking from the front is quicker than halving.
        let count = batch.sequences().iter().take_while(|sequence| **sequence < bound).count();
        if count > 0 {
            own.push(batch.slice(0, count));
            *batch = batch.slice(count, batch.len() - count);
        }
    }
    own
}

/// The first `count` transactions of rows, and the rest. Sequences stay as they are.
pub(crate) fn split_rows(rows: &ChangeRows, count: usize) -> (ChangeRows, ChangeRows) {
    let (before, after) = rows.transactions.split_at(count.min(rows.transactions.len()));
    let bound = before.last().map_or(0, |transaction| transaction.end);
    let (first, rest) = (below(rows, bound), above(rows, bound));
    (
        ChangeRows { batches: first, transactions: before.to_vec() },
        ChangeRows { batches: rest, transactions: after.to_vec() },
    )
}

/// The records with a sequence below a bound.
fn below(rows: &ChangeRows, bound: u64) -> Vec<ChangeBatch> {
    let part = |batch: &ChangeBatch| {
        let end = batch.sequences().partition_point(|sequence| *sequence < bound);
        batch.slice(0, end)
    };
    rows.batches.iter().map(part).filter(|batch| !batch.is_empty()).collect()
}

/// The records with a sequence at or above a bound.
fn above(rows: &ChangeRows, bound: u64) -> Vec<ChangeBatch> {
    let part = |batch: &ChangeBatch| {
        let start = batch.sequences().partition_point(|sequence| *sequence < bound);
        batch.slice(start, batch.len() - start)
    };
    rows.batches.iter().map(part).filter(|batch| !batch.is_empty()).collect()
}

/// The records of one batch with a sequence at or above a bound.
pub(crate) fn records_from(batch: &ChangeBatch, bound: u64) -> ChangeBatch {
    let start = batch.sequences().partition_point(|sequence| *sequence < bound);
    batch.slice(start, batch.len() - start)
}
