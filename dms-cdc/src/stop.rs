//! Where a replication begins and when it ends.

use dms_core::task::StopReason;

/// Where changes without a load begin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StartPoint {
    /// With the first transaction after the task's beginning.
    #[default]
    Now,
    /// After a position, in the source's words; the source has to hold it.
    Position(String),
}

/// When a replication ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StopWhen {
    /// Not before it is asked to.
    #[default]
    Asked,
    /// When every table is loaded; cached changes stay with the source.
    FullLoadDone,
    /// When the changes that came while tables were loaded are applied.
    CachedChangesApplied,
    /// When everything that the source holds at the moment is applied.
    CaughtUp,
    /// Before the first transaction after a position, in the source's words.
    Position(String),
    /// Before the first transaction that was committed after a time by the source's clock, in
    /// microseconds since 1970.
    CommitTime(i64),
    /// At a time by the clock of this machine, in microseconds since 1970.
    ServerTime(i64),
}

impl StopWhen {
    pub(crate) fn reason(&self) -> StopReason {
        match self {
            Self::Asked => StopReason::Normal,
            Self::FullLoadDone => StopReason::StoppedAfterFullLoad,
            Self::CachedChangesApplied => StopReason::StoppedAfterCachedEvents,
            Self::CaughtUp => StopReason::StoppedWhenCaughtUp,
            Self::Position(_) => StopReason::StoppedAtPosition,
            Self::CommitTime(_) => StopReason::StoppedAtCommitTime,
            Self::ServerTime(_) => StopReason::StoppedAtServerTime,
        }
    }
}

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
