//! Where a replication stands, for whoever watches it.

use std::fmt;

use dms_core::clock::now;
use dms_core::position::Position;
use serde::Serialize;
use tokio::sync::watch;

/// The phases of a replication, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reading catalogs, preparing both sides.
    #[default]
    Starting,
    /// Existing rows move; changes are cached.
    FullLoad,
    /// The changes that came meanwhile are applied.
    CachedChanges,
    /// Changes are applied as they come.
    Ongoing,
    /// Something broke, and is tried again.
    Recovering,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::FullLoad => "full load",
            Self::CachedChanges => "cached changes",
            Self::Ongoing => "ongoing replication",
            Self::Recovering => "recovering",
        })
    }
}

/// Where a replication stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReplicationStatus {
    /// What it is doing.
    pub phase: Phase,
    /// Up to where changes are applied.
    pub position: Option<Position>,
    /// Changes applied by this run.
    pub applied: u64,
    /// Transactions of the source applied by this run.
    pub transactions: u64,
    /// How old the newest change that was captured is, in microseconds; 0 when the source is idle.
    pub source_latency: i64,
    /// How old the newest change that is applied is, in microseconds; 0 when there is none to apply.
    pub target_latency: i64,
    /// Events that wait between capture and apply.
    pub cached_events: u64,
    /// Bytes of them in memory.
    pub cached_memory_bytes: usize,
    /// Bytes of them on disk.
    pub cached_disk_bytes: u64,
}

/// Tells those who watch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Teller(pub(crate) watch::Sender<ReplicationStatus>);

impl Teller {
    pub(crate) fn phase(&self, phase: Phase) {
        self.0.send_if_modified(|status| {
            let is_new = status.phase != phase;
            status.phase = phase;
            is_new
        });
    }

    pub(crate) fn tell(&self, change: impl FnOnce(&mut ReplicationStatus)) {
        self.0.send_modify(change);
    }
}

/// How long ago something was; clocks of two machines differ, and the past is never negative.
pub(crate) fn age(committed_at: Option<i64>) -> i64 {
    committed_at.map_or(0, |at| (now() - at).max(0))
}
