//! The writing side of a full load.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{EndpointInfo, Partition};
use crate::batch::BatchStream;
use crate::position::Position;
use crate::schema::{TableName, TableSchema};
use crate::{Error, ErrorKind, Result};

/// An endpoint that is written.
///
/// The target is the truth about progress: what it holds of a task, it can say, and a partition and
/// its [`Receipt`] become durable together. Every method may be called again after a crash.
#[async_trait]
pub trait Target: fmt::Debug + Send + Sync {
    /// Its engine and address, for messages.
    fn info(&self) -> EndpointInfo;

    /// What each column of `table` becomes here, and whether that is exact; one entry a column, in
    /// order. Needs no connection.
    fn map_types(&self, table: &TableSchema) -> Vec<ColumnMapping>;

    /// Whether [`load`](Self::load) takes whole rows of the table in an engine's own form; see
    /// [`Snapshot::row_form`](super::Snapshot::row_form).
    fn takes_rows(&self, table: &TableSchema, form: &str) -> bool {
        let _ = (table, form);
        false
    }

    /// Checks, changing nothing, that a task may write here: the place exists or can be made, the
    /// rights are there.
    ///
    /// # Errors
    /// `Denied`, `NotFound` or `Connection`, saying what is missing.
    async fn check(&self) -> Result<()>;

    /// Claims the task for this run and tells what the target holds of it. A run that claimed the
    /// same task before is fenced: its next commit fails with `Stopped`.
    ///
    /// # Errors
    /// `Connection` and `Denied`; `Corrupt` if the record of progress cannot be read.
    async fn begin(&self, task: &str) -> Result<TaskProgress>;

    /// Makes the table ready for a load from its first row, and records which partitions the load
    /// consists of. Receipts of an earlier load of this table are forgotten in the same step.
    ///
    /// # Errors
    /// `Schema` if the table exists in another shape and the mode keeps it; `Stopped` if the run is
    /// fenced.
    async fn prepare(
        &self,
        run: &Run,
        table: &TableSchema,
        mode: TablePrepMode,
        partitions: &[Partition],
        position: Option<&Position>,
    ) -> Result<()>;

    /// Loads one partition: takes batches until the stream ends, then makes the rows and the
    /// receipt durable in one step. `Ok` means durable. An error in the stream, an error of the
    /// target or a dropped future leave nothing of the partition visible. A partition that the
    /// target already holds is not written again: its stored receipt is returned.
    ///
    /// # Errors
    /// The stream's error; `Data` or `Constraint` for a row that the target refuses; `Stopped` if
    /// the run is fenced.
    async fn load(
        &self,
        run: &Run,
        table: &TableSchema,
        partition: &Partition,
        position: Option<&Position>,
        batches: BatchStream,
    ) -> Result<Receipt>;

    /// Completes a table whose partitions are all loaded: what a load needs at the end (unique
    /// indexes, the manifest), and the record that it is done.
    ///
    /// # Errors
    /// `Constraint` if the rows do not satisfy a key; `Stopped` if the run is fenced.
    async fn finish(&self, run: &Run, table: &TableSchema) -> Result<()>;
}

/// One run's claim on a task; the epoch fences earlier runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The task's name.
    pub task: String,
    /// Grows with every [`Target::begin`] of the task.
    pub epoch: u64,
}

impl Run {
    /// What a run is told that a newer one has fenced.
    #[must_use]
    pub fn fenced(&self) -> Error {
        let task = &self.task;
        let message =
            format!("another run of task {task} took it over; this one may not write any more");
        Error::new(ErrorKind::Stopped, message)
    }
}

/// What [`Target::begin`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskProgress {
    /// This run's claim.
    pub run: Run,
    /// What is there of each table, by target name.
    pub tables: BTreeMap<TableName, TableProgress>,
}

/// What a target holds of one table's load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableProgress {
    /// The partitions that the load consists of.
    pub partitions: Vec<Partition>,
    /// The position of the snapshot they were split under.
    pub position: Option<Position>,
    /// The receipts of those that are loaded.
    pub receipts: Vec<Receipt>,
    /// Whether the table was finished.
    pub finished: bool,
}

/// The proof that one partition is durable in the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The partition's number.
    pub partition: u32,
    /// Rows written.
    pub rows: u64,
    /// Bytes of their values, as Arrow held them.
    pub bytes: u64,
    /// The position of the snapshot they were read at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

impl Receipt {
    /// Sees that there is a receipt for every partition of a load.
    ///
    /// # Errors
    /// `Schema` naming the first partition without one.
    pub fn check_complete<'a>(
        planned: &[Partition],
        held: impl IntoIterator<Item = &'a Self>,
    ) -> Result<()> {
        let held: BTreeSet<u32> = held.into_iter().map(|receipt| receipt.partition).collect();
        match planned.iter().find(|partition| !held.contains(&partition.number)) {
            None => Ok(()),
            Some(missing) => {
                Err(Error::schema("the table is not complete: a partition is missing")
                    .context("partition", missing.number))
            }
        }
    }
}

/// What becomes of a table that exists on the target (DMS `TargetTablePrepMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TablePrepMode {
    /// Keep it and its rows; create it if it is missing.
    DoNothing,
    /// Drop it and create it anew.
    #[default]
    DropAndCreate,
    /// Keep it, remove its rows; create it if it is missing.
    TruncateBeforeLoad,
}

/// What one column becomes on a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnMapping {
    /// The column's name on the target.
    pub column: String,
    /// Its type in the target's words.
    pub target_type: String,
    /// Whether every value arrives unchanged.
    pub fidelity: Fidelity,
}

/// The promise for one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fidelity {
    /// Every legal value arrives unchanged.
    Exact,
    /// Something is lost that the user has to agree to (setting `AcceptLoss`).
    NeedsConsent(
        /// What is lost.
        String,
    ),
    /// The target cannot hold the column.
    Impossible(
        /// Why, and which setting would make it possible.
        String,
    ),
}

impl fmt::Display for Fidelity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::NeedsConsent(loss) => write!(f, "needs consent: {loss}"),
            Self::Impossible(reason) => write!(f, "impossible: {reason}"),
        }
    }
}
