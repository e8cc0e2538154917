//! The writing side of replication.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Run, Target};
use crate::Result;
use crate::change::{ChangeRows, Identity};
use crate::position::Position;
use crate::schema::{Column, TableName, TableSchema};
use crate::value::Value;

/// A target that changes are applied to.
///
/// What is applied and how far that is become durable together: a task goes on after a crash from
/// [`ReplicationProgress::position`], and no transaction of the source is applied twice or in part.
#[async_trait]
pub trait ChangeTarget: Target {
    /// In which form this target takes changes.
    fn change_form(&self) -> ChangeForm;

    /// How many changes are best applied in one go, where that matters to the target: whoever
    /// applies them commits when either bound is reached.
    fn batch_hint(&self) -> Option<BatchHint> {
        None
    }

    /// What the target holds of the task's replication.
    ///
    /// # Errors
    /// `Connection`; `Corrupt` if the record of progress cannot be read; `Stopped` if the run is
    /// fenced.
    async fn replication(&self, run: &Run) -> Result<ReplicationProgress>;

    /// Begins a transaction of the target, in which any number of the source's are applied.
    ///
    /// # Errors
    /// `Connection`; `Stopped` if the run is fenced. Behind [`Apply::commit_soon`] they may come
    /// later, with those of the commit at the latest.
    async fn begin_apply(&self, run: &Run) -> Result<Box<dyn Apply>>;

    /// What the target holds of a task, without claiming it.
    ///
    /// # Errors
    /// `Connection`; `Corrupt` if the record cannot be read.
    async fn look_up(&self, task: &str) -> Result<Option<TaskRecord>>;

    /// Forgets the loads of these tables (by their names here), so that the next run of the task
    /// loads them again; or, without any, of the whole task.
    ///
    /// # Errors
    /// `Stopped` if the run is fenced.
    async fn forget(&self, run: &Run, tables: Option<&[TableName]>) -> Result<()>;
}

/// One transaction of a target. Dropping it takes back what it did.
#[async_trait]
pub trait Apply: Send {
    /// Does one step. If `guarded`, a step that fails leaves the transaction as it was before the
    /// step; else it may leave it good for nothing but to be dropped, and its error may come later,
    /// of a step or note that follows or of the commit, so that a target need not wait for each
    /// answer.
    ///
    /// # Errors
    /// `Constraint` if a row that is to be there is not, is there already, or is refused; `Data`
    /// for a value that the target does not hold.
    async fn step(&mut self, step: &Step, guarded: bool) -> Result<()>;

    /// Remembers something about the task, with the transaction.
    ///
    /// # Errors
    /// Those of the target.
    async fn note(&mut self, note: &Note) -> Result<()>;

    /// Makes everything durable, with the position up to which the source's transactions are
    /// applied now. `Ok` means durable.
    ///
    /// # Errors
    /// Those of steps that were not guarded; `Stopped` if the run is fenced; a transient `Connection`
    /// error when it is not known whether the transaction was committed:
    /// [`ChangeTarget::replication`] tells.
    async fn commit(self: Box<Self>, position: &Position, committed_at: Option<i64>) -> Result<()>;

    /// As [`commit`](Self::commit), of a transaction that others follow at once: seen by all from
    /// now on, with its position, and durable at the latest with the next `commit` of the run. What
    /// [`ChangeTarget::replication`] tells is durable in any case.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    async fn commit_soon(
        self: Box<Self>,
        position: &Position,
        committed_at: Option<i64>,
    ) -> Result<()> {
        self.commit(position, committed_at).await
    }
}

/// When a target had best commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHint {
    /// When so many bytes of changes have been gathered, about. Batches grow to it, whatever else
    /// is set for them.
    pub bytes: u64,
    /// When the oldest of them is so old.
    pub age: Duration,
}

/// How a target takes changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeForm {
    /// What they come to: steps that each concern a row at most once.
    Net,
    /// Every change, in order ([`Step::Log`]).
    Log,
}

/// One act on a target.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Step {
    /// Rows go. `rows` has the columns of the identity, in its order; with [`Identity::WholeRow`] a
    /// row that is listed n times goes n times.
    Delete {
        /// From which table.
        table: Arc<TableSchema>,
        /// How rows are found.
        identity: Identity,
        /// Which.
        rows: RecordBatch,
        /// Whether every one of them has to be there.
        strict: bool,
    },
    /// Rows change, all in the same columns; each has to be there. `rows` has the columns of the
    /// identity as they were, in its order, then the columns `set`. The identity is a key.
    Update {
        /// In which table.
        table: Arc<TableSchema>,
        /// How rows are found.
        identity: Identity,
        /// Which columns get a value, by place.
        set: Vec<usize>,
        /// Old identities and new values.
        rows: RecordBatch,
    },
    /// Rows come; none may be there already. `rows` has the schema of the table.
    Insert {
        /// Into which table.
        table: Arc<TableSchema>,
        /// Which.
        rows: RecordBatch,
    },
    /// Rows are this now, whether they were there or not. `rows` has the schema of the table. The
    /// identity is a key.
    Upsert {
        /// In which table.
        table: Arc<TableSchema>,
        /// How rows are found.
        identity: Identity,
        /// What they are.
        rows: RecordBatch,
    },
    /// Tables are emptied.
    Truncate {
        /// Which.
        tables: Vec<TableName>,
    },
    /// A table changes its shape.
    Alter {
        /// As it is.
        from: Arc<TableSchema>,
        /// As it becomes.
        to: Arc<TableSchema>,
        /// What leads from the one to the other, in order.
        alterations: Vec<Alteration>,
    },
    /// A table that is not there is made, with its keys.
    Create {
        /// Its shape.
        table: Arc<TableSchema>,
    },
    /// A table goes.
    Drop {
        /// Which.
        table: TableName,
    },
    /// Changes in their order, for targets of [`ChangeForm::Log`].
    Log(ChangeRows),
}

/// One change of a table's shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Alteration {
    /// A column is added at the end.
    AddColumn {
        /// It.
        column: Column,
        /// What the rows that are there get; NULL if nothing is said.
        value: Option<Value>,
    },
    /// A column goes.
    DropColumn {
        /// Its name.
        column: String,
    },
    /// A column gets another name.
    RenameColumn {
        /// The old.
        from: String,
        /// The new.
        to: String,
    },
    /// A column gets another type, which holds all its values.
    ChangeType {
        /// It, as it becomes.
        column: Column,
    },
}

/// What a target remembers of a task besides rows.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Note {
    /// A table's shape on the target, as the task maintains it.
    Shape(Arc<TableSchema>),
    /// A table takes no more changes until it is loaded again.
    Suspended {
        /// Which, by its name here.
        table: TableName,
        /// Why.
        reason: String,
    },
    /// A change that could not be applied and was passed over.
    Exception(ApplyException),
}

impl Note {
    /// The table of which [`ReplicatedTable::take`] remembers this; `None` for what is no state of
    /// a table.
    #[must_use]
    pub fn table(&self) -> Option<&TableName> {
        match self {
            Self::Shape(shape) => Some(&shape.name),
            Self::Suspended { table, .. } => Some(table),
            Self::Exception(_) => None,
        }
    }
}

/// A change that could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyException {
    /// The table, by its name at the target.
    pub table: TableName,
    /// The transaction's position.
    pub position: Position,
    /// What was to be done: `insert`, `update`, `delete`.
    pub operation: String,
    /// The identity of the row, as JSON.
    pub key: String,
    /// Why it could not.
    pub error: String,
}

/// What a target holds of a task's replication.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplicationProgress {
    /// Every transaction up to here is applied; `None` before the first.
    pub position: Option<Position>,
    /// The tables that notes were made of, by their names here.
    pub tables: BTreeMap<TableName, ReplicatedTable>,
}

/// What is remembered of one table's replication. When the table is prepared for a load, it is the
/// shape that it is prepared with, and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplicatedTable {
    /// Its shape, as it was loaded or noted since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Arc<TableSchema>>,
    /// Why it takes no changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<String>,
}

impl ReplicatedTable {
    /// A table as it is prepared for a load: its shape, and nothing else.
    #[must_use]
    pub fn prepared(table: &TableSchema) -> Self {
        Self { shape: Some(Arc::new(table.clone())), suspended: None }
    }

    /// Remembers a note of [this table](Note::table).
    pub fn take(&mut self, note: &Note) {
        match note {
            Note::Shape(shape) => self.shape = Some(Arc::clone(shape)),
            Note::Suspended { reason, .. } => self.suspended = Some(reason.clone()),
            Note::Exception(_) => {}
        }
    }
}

/// A task as a target remembers it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecord {
    /// Loads, by table.
    pub progress: super::TaskProgress,
    /// Replication.
    pub replication: ReplicationProgress,
    /// When the newest applied transaction was committed at the source, in microseconds since 1970.
    pub committed_at: Option<i64>,
    /// Changes that were passed over.
    pub exceptions: u64,
}
