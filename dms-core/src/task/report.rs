//! How a run ended.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::TableState;
use crate::Error;
use crate::schema::TableName;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskStatus {
    /// Everything asked for is done.
    Completed,
    /// Stopped in good order; the same task can be run again and goes on.
    Stopped,
    /// At least one table failed.
    Failed,
}

/// Why a replication ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum StopReason {
    /// It was asked to.
    Normal,
    /// Every table is loaded; cached changes are not applied.
    StoppedAfterFullLoad,
    /// The changes that came while tables were loaded are applied.
    StoppedAfterCachedEvents,
    /// Every change of the source is applied.
    StoppedWhenCaughtUp,
    /// The source's transactions up to a position are applied.
    StoppedAtPosition,
    /// The source's transactions up to a time are applied.
    StoppedAtCommitTime,
    /// It was to run until now.
    StoppedAtServerTime,
}

/// The final statistics of one table.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct TableReport {
    /// Its name at the source.
    #[serde(serialize_with = "as_text")]
    pub name: TableName,
    /// Its name at the target.
    #[serde(serialize_with = "as_text")]
    pub target: TableName,
    /// Where it stands.
    pub state: TableState,
    /// Rows that the target holds of its load, earlier runs included.
    pub rows: u64,
    /// Rows of those that this run loaded.
    pub rows_this_run: u64,
    /// Bytes of the values of `rows`, as Arrow held them.
    pub bytes: u64,
    /// Inserts applied by replication.
    pub inserts: u64,
    /// Updates applied by replication.
    pub updates: u64,
    /// Deletes applied by replication.
    pub deletes: u64,
    /// Errors met, retried ones included.
    pub errors: u64,
    /// From the first partition begun to the table finished.
    #[serde(serialize_with = "as_seconds", rename = "seconds")]
    pub elapsed: Duration,
    /// Why it failed.
    #[serde(serialize_with = "as_message", skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
}

/// The final statistics of a run.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The task's name.
    pub task: String,
    /// How it ended.
    pub status: TaskStatus,
    /// Its tables, by name.
    pub tables: Vec<TableReport>,
    /// How long the run took.
    #[serde(serialize_with = "as_seconds", rename = "seconds")]
    pub elapsed: Duration,
    /// Why a replication ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
}

impl TableReport {
    /// A table of which nothing is to be told but where it stands.
    #[must_use]
    pub fn new(name: TableName, target: TableName, state: TableState) -> Self {
        Self {
            name,
            target,
            state,
            rows: 0,
            rows_this_run: 0,
            bytes: 0,
            inserts: 0,
            updates: 0,
            deletes: 0,
            errors: 0,
            elapsed: Duration::ZERO,
            error: None,
        }
    }
}

impl Report {
    /// How a run ended.
    #[must_use]
    pub fn new(
        task: String,
        status: TaskStatus,
        tables: Vec<TableReport>,
        elapsed: Duration,
    ) -> Self {
        Self { task, status, tables, elapsed, stop_reason: None }
    }

    /// The same, of a replication that ended for this.
    #[must_use]
    pub fn stopped_for(mut self, reason: StopReason) -> Self {
        self.stop_reason = Some(reason);
        self
    }

    /// Rows over all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Bytes over all tables.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes).sum()
    }

    /// The first error, if a table failed.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.tables.iter().find_map(|table| table.error.as_ref())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self.status {
            TaskStatus::Completed => "completed",
            TaskStatus::Stopped => "stopped",
            TaskStatus::Failed => "failed",
        };
        write!(
            f,
            "task {} {status}: {} rows in {} tables, {:.1} s",
            self.task,
            self.rows(),
            self.tables.len(),
            self.elapsed.as_secs_f64()
        )?;
        for table in &self.tables {
            write!(f, "\n  {}: {}, {} rows", table.name, table.state, table.rows)?;
            let TableReport { inserts, updates, deletes, .. } = table;
            if inserts + updates + deletes > 0 {
                write!(f, ", then {inserts} inserts, {updates} updates, {deletes} deletes")?;
            }
            if let Some(error) = &table.error {
                write!(f, ", {error}")?;
            }
        }
        Ok(())
    }
}

fn as_seconds<S: Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((elapsed.as_secs_f64() * 1000.0).round() / 1000.0)
}

fn as_text<S: Serializer>(name: &TableName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

fn as_message<S: Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    match error {
        Some(error) => serializer.collect_str(error),
        None => serializer.serialize_none(),
    }
}
