//! Which transactions a replication applies before it ends.

use dms_core::change::Transaction;
use dms_core::{Error, ErrorKind, Result};

/// Which transactions are not applied any more.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bound {
    pub(crate) order: Option<u64>,
    pub(crate) committed_at: Option<i64>,
}

impl Bound {
    /// Sees that transactions say what the bound asks.
    ///
    /// # Errors
    /// `Unsupported`.
    pub(crate) fn check(&self, transactions: &[Transaction]) -> Result<()> {
        if self.committed_at.is_some() && transactions.iter().any(|t| t.committed_at.is_none()) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the source does not tell when transactions were committed, so that the task cannot \
                 stop by that time; stop it by position or server-time",
            ));
        }
        Ok(())
    }

    /// Whether a transaction lies beyond.
    pub(crate) fn excludes(&self, transaction: &Transaction) -> bool {
        self.order.is_some_and(|order| transaction.position.order > order)
            || self.committed_at.zip(transaction.committed_at).is_some_and(|(bound, at)| at > bound)
    }
}
