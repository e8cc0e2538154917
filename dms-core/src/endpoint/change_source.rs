//! The reading side of replication.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::{Snapshot, Source};
use crate::Result;
use crate::change::ChangeEvent;
use crate::position::Position;
use crate::schema::{TableName, TableSchema};

/// A source whose changes can be followed.
#[async_trait]
pub trait ChangeSource: Source {
    /// Sees that the changes of `tables` can be captured for a task: the log is on, the role has
    /// the right, each row of each table can be identified, and the log carries every column that
    /// `tables` have. Changes nothing.
    ///
    /// # Errors
    /// `Settings`, `Denied` or `Unsupported`, saying what to change on the source.
    async fn check_capture(&self, task: &str, tables: &[TableSchema]) -> Result<()>;

    /// Makes what capture needs at the source, or takes up what an earlier run of the task has made
    /// there; with tables that were not there before, adds them. From the position returned on, the
    /// source keeps the changes of `tables` until they are acknowledged.
    ///
    /// # Errors
    /// As [`check_capture`](Self::check_capture); `PositionLost` if what was made has lost changes.
    async fn begin_capture(&self, task: &str, tables: &[TableSchema]) -> Result<Position>;

    /// Gives up what was captured of tables that are to be loaded again:
    /// [`begin_capture`](Self::begin_capture) takes them for new ones, whatever became of them
    /// meanwhile. Tables that were not captured are no error.
    ///
    /// # Errors
    /// `Connection` and `Denied`.
    async fn forget_capture(&self, task: &str, tables: &[TableName]) -> Result<()>;

    /// As [`Source::snapshot`], but one whose position is a place in the log that is kept: it holds
    /// every transaction with an order up to the position's, and no other.
    ///
    /// # Errors
    /// As [`Source::snapshot`].
    async fn log_snapshot(
        &self,
        task: &str,
        tables: &[TableSchema],
        readers: usize,
    ) -> Result<Arc<dyn Snapshot>>;

    /// The changes of the task's tables after a position, in the order of the log, transactions
    /// with an order up to the position's left out. There is one feed of a task at a time. It does
    /// not end; it answers to the source while nobody takes its events; dropping it ends it.
    ///
    /// # Errors
    /// `PositionLost` if the source does not hold the position any more, saying which tables have
    /// to be loaded again; `Settings` if the position is another source's. In the stream, a
    /// transient `Connection` error when the connection breaks: a new feed goes on.
    async fn changes(&self, request: FeedRequest) -> Result<ChangeFeed>;

    /// Where the log of the source ends now, and how much of it is kept for the task.
    ///
    /// # Errors
    /// `Connection`.
    async fn log_status(&self, task: &str) -> Result<LogStatus>;

    /// A position given by a person, in the source's own words (PostgreSQL: an LSN).
    ///
    /// # Errors
    /// `Settings` saying how positions are written.
    fn parse_position(&self, text: &str) -> Result<Position>;

    /// Removes what capture needed, after a task that will not run again. Nothing to remove is no
    /// error.
    ///
    /// # Errors
    /// `Connection` and `Denied`.
    async fn end_capture(&self, task: &str) -> Result<()>;
}

/// What [`ChangeSource::changes`] delivers.
#[derive(Debug, Clone)]
pub struct FeedRequest {
    /// The task that capture was begun for.
    pub task: String,
    /// The tables to follow, with the columns that are wanted.
    pub tables: Vec<TableSchema>,
    /// After which position.
    pub after: Position,
    /// About how many bytes of records one event holds at the most; a transaction larger than this
    /// comes in several.
    pub event_bytes: usize,
    /// How many bytes may be read ahead of the consumer.
    pub prefetch_bytes: usize,
}

/// Changes as they happen.
pub struct ChangeFeed {
    /// The events, in order. An error ends the stream.
    pub events: BoxStream<'static, Result<ChangeEvent>>,
    /// Tells the source what need not be kept any more.
    pub acknowledge: Arc<dyn Acknowledge>,
}

impl fmt::Debug for ChangeFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeFeed").field("acknowledge", &self.acknowledge).finish_non_exhaustive()
    }
}

/// The way back to a source.
pub trait Acknowledge: fmt::Debug + Send + Sync {
    /// Everything up to a position that the feed has delivered is durable elsewhere: the source may
    /// forget it. Never waits; positions only grow.
    fn acknowledge(&self, position: &Position);
}

/// What a source says of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStatus {
    /// Where it ends.
    pub end: Position,
    /// Bytes that it keeps for the task; `None` if that cannot be told.
    pub retained_bytes: Option<u64>,
}
