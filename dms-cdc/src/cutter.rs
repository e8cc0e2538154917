//! Where what is gathered for the target is cut.

use crate::batch::Batch;

/// Cuts between transactions, so that a batch is of whole ones, or a part of one that is larger than
/// a batch and nothing else: that one is a transaction of the target of its own.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    /// Whether a part was cut of a transaction whose end was not.
    is_inside: bool,
}

impl Cutter {
    /// Takes of what was gathered what goes together, from its front.
    pub(crate) fn cut(&mut self, gathered: &mut Batch) -> Batch {
        let next = Batch { complete: gathered.complete, ..Batch::default() };
        let batch = std::mem::replace(gathered, next);
        let ends = batch.len();
        let count = if self.is_inside { ends.min(1) } else { ends };
        let goes_together = count == ends && (batch.complete || ends == 0);
        self.is_inside = goes_together && !batch.complete;
        if goes_together {
            return batch;
        }
        let (ready, rest) = batch.split(count);
        *gathered = if count == ends {
            // Its transaction ends later.
            Batch { position: None, committed_at: None, ..rest }
        } else {
            rest
        };
        ready
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dms_core::change::{
        ChangeBatch, ChangeRecord, ChangeRows, Identity, Operation, Transaction,
    };
    use dms_core::position::Position;
    use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
    use dms_core::value::Value;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::Item;

    /// Rows of transactions, each with its order and the number of its records; whether the last one
    /// ends.
    fn rows(transactions: &[(u64, u64)], complete: bool) -> ChangeRows {
        let column = Column::new("of", LogicalType::Int64);
        let table = TableSchema::new(TableName::new("shop", "items"), vec![column]);
        let (mut records, mut told) = (Vec::new(), Vec::new());
        for (at, (order, count)) in transactions.iter().enumerate() {
            let of = i64::try_from(*order).unwrap();
            for _ in 0..*count {
                let (operation, values) = (Operation::Insert, vec![Some(Value::Int(of))]);
                records.push(ChangeRecord { operation, sequence: records.len() as u64, values });
            }
            told.push(Transaction {
                position: Position::new(*order, ""),
                committed_at: None,
                id: String::new(),
                end: records.len() as u64,
                complete: complete || at + 1 < transactions.len(),
            });
        }
        let batch = ChangeBatch::from_records(Arc::new(table), Identity::WholeRow, &records);
        ChangeRows { batches: vec![batch.unwrap()], transactions: told }
    }

    /// The transaction of each record, and the orders of those that end.
    fn held(batch: &Batch) -> (Vec<u64>, Vec<u64>) {
        let (mut of, mut ended) = (Vec::new(), Vec::new());
        for item in &batch.items {
            let Item::Rows(rows) = item else { panic!("{item:?}") };
            for batch in &rows.batches {
                of.extend(batch.sequences().iter().map(|sequence| {
                    let its = rows.transactions.iter().find(|t| *sequence < t.end);
                    its.unwrap().position.order
                }));
            }
            let ends = rows.transactions.iter().filter(|t| t.complete);
            ended.extend(ends.map(|t| t.position.order));
        }
        (of, ended)
    }

    proptest! {
        /// Rows come in events that end anywhere; batches are cut at any moment.
        #[test]
        fn batches_are_of_whole_transactions_or_a_part_of_one(
            events in prop::collection::vec(
                (prop::collection::vec(1u64..5, 1..4), any::<bool>(), any::<bool>()), 1..20),
        ) {
            let (mut cutter, mut gathered) = (Cutter::default(), Batch::default());
            let (mut sent, mut all): (Vec<Batch>, Vec<u64>) = (Vec::new(), Vec::new());
            let (mut order, mut is_open) = (0, false);
            let count = events.len();
            for (at, (lengths, ends, cuts)) in events.into_iter().enumerate() {
                let complete = ends || at + 1 == count;
                let transactions: Vec<(u64, u64)> = lengths.into_iter().map(|length| {
                    order += u64::from(!std::mem::take(&mut is_open));
                    all.extend(std::iter::repeat_n(order, usize::try_from(length).unwrap()));
                    (order, length)
                }).collect();
                is_open = !complete;
                let rows = rows(&transactions, complete);
                if let Some(last) = rows.transactions.iter().rfind(|t| t.complete) {
                    gathered.position = Some(last.position.clone());
                }
                gathered.complete = complete;
                gathered.items.push(Item::Rows(rows));
                if cuts {
                    sent.push(cutter.cut(&mut gathered));
                }
            }
            while !gathered.is_empty() {
                sent.push(cutter.cut(&mut gathered));
            }
            let mut inside = None;
            for batch in &sent {
                let (of, ended) = held(batch);
                let is_part = inside.is_some() || !batch.complete;
                prop_assert!(!is_part || of.iter().all(|order| *order == of[0]), "{of:?}");
                prop_assert!(inside.is_none_or(|order| order == of[0]), "{of:?} {inside:?}");
                prop_assert_eq!(ended.is_empty(), !batch.complete);
                prop_assert_eq!(batch.position.as_ref().map(|p| p.order), ended.last().copied());
                inside = (!batch.complete).then(|| of[0]);
            }
            prop_assert_eq!(inside, None);
            let of: Vec<u64> = sent.iter().flat_map(|batch| held(batch).0).collect();
            prop_assert_eq!(of, all);
        }
    }
}
