//! Which transactions a replication applies before it ends.

/// Which transactions are not applied any more.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bound {
    pub(crate) order: Option<u64>,
    pub(crate) committed_at: Option<i64>,
}

impl Bound {
    /// Whether a transaction lies beyond.
    pub(crate) fn excludes(&self, transaction: &dms_core::change::Transaction) -> bool {
        self.order.is_some_and(|order| transaction.position.order > order)
            || self.committed_at.zip(transaction.committed_at).is_some_and(|(bound, at)| at > bound)
    }
}
