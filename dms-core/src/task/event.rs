//! The statistics of a run as events: the only thing a running task says.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::broadcast;

use crate::schema::TableName;

/// Where a table stands, in DMS's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum TableState {
    /// Selected, its load has not begun.
    #[serde(rename = "Before load")]
    BeforeLoad,
    /// Its load is running.
    #[serde(rename = "Full load")]
    FullLoad,
    /// Its load is done.
    #[serde(rename = "Table completed")]
    Completed,
    /// The task was stopped before its load was done.
    #[serde(rename = "Table cancelled")]
    Cancelled,
    /// Its load failed.
    #[serde(rename = "Table error")]
    Error,
}

impl fmt::Display for TableState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeforeLoad => "Before load",
            Self::FullLoad => "Full load",
            Self::Completed => "Table completed",
            Self::Cancelled => "Table cancelled",
            Self::Error => "Table error",
        })
    }
}

/// Something that happened to a table (by its source name).
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The table.
    pub table: TableName,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    /// The table is part of the task.
    Planned {
        /// Rows to expect, if known.
        row_estimate: Option<u64>,
        /// Its partitions.
        partitions: u32,
        /// Partitions that an earlier run loaded.
        partitions_held: u32,
        /// Rows of those.
        rows_held: u64,
    },
    /// Its state changed.
    State(TableState),
    /// Rows went into the target; not yet durable.
    Progress {
        /// Rows since the last such event of this table.
        rows: u64,
        /// Bytes of their values.
        bytes: u64,
    },
    /// A partition is durable.
    PartitionLoaded {
        /// Its number.
        partition: u32,
        /// Its rows.
        rows: u64,
        /// How long it took.
        elapsed: Duration,
    },
    /// A partition failed for the moment and is tried again; what it counted is taken back.
    PartitionRetried {
        /// Its number.
        partition: u32,
        /// Rows that count no more.
        rows: u64,
        /// Bytes that count no more.
        bytes: u64,
        /// Why.
        error: String,
    },
    /// Changes of its rows are applied and durable.
    Applied {
        /// Rows that came.
        inserts: u64,
        /// Rows that changed.
        updates: u64,
        /// Rows that went.
        deletes: u64,
    },
    /// The table failed.
    Failed {
        /// Why.
        error: String,
    },
}

/// Where a run's events go. A subscriber that is slower than [`Events::CAPACITY`] events loses the
/// oldest: progress is for showing, the [`Report`](super::Report) is for deciding.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<Event>);

impl Events {
    /// How many events are kept for a slow subscriber.
    pub const CAPACITY: usize = 4096;

    /// A channel without subscribers.
    #[must_use]
    pub fn new() -> Self {
        Self(broadcast::Sender::new(Self::CAPACITY))
    }

    /// Receives every event from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }

    /// Tells every subscriber.
    pub fn send(&self, table: &TableName, kind: EventKind) {
        if self.0.receiver_count() > 0 {
            // Fails only if the last subscriber left meanwhile.
            let _ = self.0.send(Event { table: table.clone(), kind });
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}
