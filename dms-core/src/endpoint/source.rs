//! The reading side of a full load.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::EndpointInfo;
use crate::Result;
use crate::batch::{BatchLimit, BatchStream};
use crate::mapping::{Filter, ParallelLoad, Selection};
use crate::position::Position;
use crate::schema::{Catalog, TableSchema};
use crate::value::Value;

/// An endpoint that is read.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// Its engine and address, for messages.
    fn info(&self) -> EndpointInfo;

    /// The tables (and, when the selection asks for them, views) that `selection` selects, with
    /// columns, keys and size estimates, ordered by name. Tables that belong to `dms` itself are
    /// left out.
    ///
    /// # Errors
    /// `Connection`, `Denied` or `NotFound` for the endpoint; `Unsupported` for a table that cannot
    /// be read, naming it.
    async fn discover(&self, selection: &Selection) -> Result<Catalog>;

    /// A view of `tables` that every read shares: one consistent state where the engine can give
    /// it. `readers` is how many reads will be under way at once. Dropping the last `Arc` releases
    /// it.
    ///
    /// # Errors
    /// `Connection` and `Denied`; a transient error when the source is locked just now.
    async fn snapshot(&self, tables: &[TableSchema], readers: usize) -> Result<Arc<dyn Snapshot>>;
}

/// One view of a source; see [`Source::snapshot`].
#[async_trait]
pub trait Snapshot: fmt::Debug + Send + Sync {
    /// Where this view stands in the source's history. Two snapshots with equal positions hold the
    /// same rows, so that a load interrupted under the one may be finished under the other. `None`:
    /// the source cannot tell.
    fn position(&self) -> Option<Position>;

    /// Splits a table for parallel reading. The partitions are numbered from 0, do not overlap, and
    /// together hold every row of the table, those with NULL in a key included. Deterministic: the
    /// same snapshot position and arguments give the same partitions.
    ///
    /// # Errors
    /// `Settings` when the mapping asks for a split that this table cannot have.
    async fn partitions(&self, table: &TableSchema, goal: &PartitionGoal)
    -> Result<Vec<Partition>>;

    /// In which engine's own form the rows of a request can be delivered without decoding them:
    /// whole rows that another endpoint of the engine takes as they are. A load asks for it when
    /// the plan changes no column and the target takes that form.
    fn row_form(&self, request: &ReadRequest) -> Option<&'static str> {
        let _ = request;
        None
    }

    /// Reads one partition. Each batch has the Arrow schema of the requested columns and respects
    /// `request.limit`; rows that fail the request's filter are not delivered. The call returns
    /// when reading has begun; back-pressure holds it; dropping the stream ends it.
    ///
    /// # Errors
    /// `Schema` if the table is not as described; in the stream, `Data` for a value that does not
    /// fit its column's logical type, naming table, column, row and value kind.
    async fn read(&self, request: ReadRequest) -> Result<BatchStream>;
}

/// What to split a table by.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionGoal {
    /// What the mapping says; [`ParallelLoad::Auto`] leaves it to the connector.
    pub parallel_load: ParallelLoad,
    /// The size to aim at, in bytes at the source.
    pub bytes: u64,
    /// The most partitions.
    pub at_most: usize,
}

/// A part of a table that is loaded as a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// Its number in the table, from 0.
    pub number: u32,
    /// The user's name for it, if any; it names folders of object targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which rows it holds.
    pub range: PartitionRange,
    /// An estimate of its bytes at the source, for ordering work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub byte_estimate: Option<u64>,
}

impl Partition {
    /// The whole table as its only partition.
    #[must_use]
    pub fn whole() -> Self {
        Self { number: 0, name: None, range: PartitionRange::Whole, byte_estimate: None }
    }
}

/// Which rows a partition holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionRange {
    /// All of them.
    Whole,
    /// Those whose columns lie lexicographically at or above `lower` and below `upper`. A range
    /// without `lower` also holds the rows with NULL in any of the columns.
    Columns {
        /// The columns compared, most significant first.
        columns: Vec<String>,
        /// Inclusive lower bound, one value a column; `None` is unbounded.
        lower: Option<Bound>,
        /// Exclusive upper bound; `None` is unbounded.
        upper: Option<Bound>,
    },
    /// In the connector's own words: rowid or ctid ranges, a file, a physical partition.
    Native(String),
}

/// One bound of a range, a value for each of its columns.
pub type Bound = Vec<Value>;

/// What [`Snapshot::read`] reads.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    /// The table as discovered.
    pub table: Arc<TableSchema>,
    /// Which of its columns, by place, in the order wanted.
    pub columns: Vec<usize>,
    /// Which rows; `None` is all of the partition.
    pub filter: Option<Filter>,
    /// Which part.
    pub partition: Partition,
    /// How large batches may be.
    pub limit: BatchLimit,
    /// How many bytes may be read ahead of the consumer.
    pub prefetch_bytes: usize,
    /// The form that [`Snapshot::row_form`] gave, if batches are to hold whole rows in it: then
    /// they have the schema of [`rows_schema`](crate::batch::rows_schema).
    pub form: Option<&'static str>,
}

impl ReadRequest {
    /// A request for all columns and rows of a table.
    #[must_use]
    pub fn whole(table: Arc<TableSchema>) -> Self {
        Self {
            columns: (0..table.columns.len()).collect(),
            table,
            filter: None,
            partition: Partition::whole(),
            limit: BatchLimit::default(),
            prefetch_bytes: BatchLimit::default().bytes,
            form: None,
        }
    }

    /// The table reduced to the requested columns: its Arrow schema is that of the batches.
    ///
    /// # Errors
    /// `Schema` if a requested place is outside the table.
    pub fn projected(&self) -> Result<TableSchema> {
        let mut projected = (*self.table).clone();
        projected.columns = self
            .columns
            .iter()
            .map(|place| {
                self.table.columns.get(*place).cloned().ok_or_else(|| {
                    crate::Error::schema(format!("there is no column {place}"))
                        .context("table", &self.table.name)
                })
            })
            .collect::<Result<_>>()?;
        Ok(projected)
    }
}
