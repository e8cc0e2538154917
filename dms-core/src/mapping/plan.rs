//! A mapping resolved for one table.

use std::sync::Arc;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::Filter;
use crate::Result;
use crate::schema::TableSchema;
use crate::value::Value;

/// How a table is split for parallel reading (DMS `parallel-load`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParallelLoad {
    /// As the connector sees fit.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// By the engine's own physical partitions, all of them or those named.
    Partitions(Option<Vec<String>>),
    /// By ranges of columns: N ascending bounds make N + 1 half-open ranges; a row equal to a bound
    /// belongs to the range above it.
    Ranges {
        /// The columns compared, most significant first.
        columns: Vec<String>,
        /// The bounds, each with a value a column.
        boundaries: Vec<Vec<Value>>,
        /// Names of the segments, if given.
        names: Vec<String>,
    },
}

/// How large objects travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LobMode {
    /// Whole, whatever their size.
    #[default]
    Full,
    /// Cut to this many bytes (text at a character); lossy, and only when asked for.
    Limited(u64),
    /// Left out: LOB columns are not migrated.
    None,
}

/// Where a target column's values come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PlannedColumn {
    /// The source column at this place among those read.
    Read(usize),
}

/// What a task does with one table: read these columns and rows of `source`, make them the rows of
/// `target`. Serialisable, so that a unit of work can travel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TablePlan {
    /// The table as the source has it.
    pub source: Arc<TableSchema>,
    /// The table as the target gets it.
    pub target: Arc<TableSchema>,
    /// Which columns of `source` are read, by place; batches to transform have exactly these.
    pub read: Vec<usize>,
    /// Which rows.
    pub filter: Option<Filter>,
    /// One entry a target column.
    pub columns: Vec<PlannedColumn>,
    /// How it is split.
    pub parallel_load: ParallelLoad,
    /// Tables with a higher order load earlier (DMS `load-order`).
    pub load_order: u32,
}

impl TablePlan {
    /// The plan that changes nothing.
    #[must_use]
    pub fn identity(table: TableSchema) -> Self {
        let places: Vec<usize> = (0..table.columns.len()).collect();
        let table = Arc::new(table);
        Self {
            source: Arc::clone(&table),
            target: table,
            columns: places.iter().copied().map(PlannedColumn::Read).collect(),
            read: places,
            filter: None,
            parallel_load: ParallelLoad::Auto,
            load_order: 0,
        }
    }

    /// Makes target rows of rows as read: columns in the order of `read` come in, columns of
    /// `target` in its Arrow schema go out. Moves no value that no rule changes.
    ///
    /// # Errors
    /// `Data` for a value that a rule cannot carry exactly, naming table, column and value kind.
    pub fn transform(&self, batch: RecordBatch) -> Result<RecordBatch> {
        Ok(batch)
    }
}
