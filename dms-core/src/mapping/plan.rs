//! A mapping resolved for one table.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, LargeBinaryArray, LargeStringArray, RecordBatch, RecordBatchOptions,
};
use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

use super::cast::cast;
use super::limits;
use super::{Expression, Filter};
use crate::schema::{LogicalType, TableSchema};
use crate::value::Value;
use crate::{Error, Result};

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
///
/// The default is whole. DMS's is to cut them at 32 KB, which loses data that nobody said may be
/// lost.
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

/// Where a target column's values come from, and what is done to them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PlannedColumn {
    /// The source column at this place among those read, as it is.
    Read(usize),
    /// A source column in another type.
    Cast {
        /// Its place among those read.
        read: usize,
        /// Its type at the source.
        from: LogicalType,
    },
    /// A large object cut to so many bytes.
    Limited {
        /// Its place among those read.
        read: usize,
        /// The most bytes.
        bytes: u64,
    },
    /// Computed for every row.
    Expression(Expression),
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
        let schema = self.target.arrow_schema();
        if batch.schema_ref() == &schema && self.keeps_columns() {
            return Ok(batch);
        }
        let columns = self.columns.iter().zip(&self.target.columns).map(|(planned, column)| {
            let to = &column.logical_type;
            let transformed = match planned {
                PlannedColumn::Read(read) => read_column(&batch, *read),
                PlannedColumn::Cast { read, from } => {
                    read_column(&batch, *read).and_then(|array| cast(&array, from, to))
                }
                PlannedColumn::Limited { read, bytes } => {
                    read_column(&batch, *read).map(|array| limit(&array, *bytes))
                }
                PlannedColumn::Expression(expression) => self.evaluate(expression, &batch, to),
            };
            transformed.map_err(|error| {
                error.context("table", &self.source.name).context("column", &column.name)
            })
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(schema, columns, &options).map_err(|error| {
            Error::data("rows do not have the shape of the target table")
                .with_source(error)
                .context("table", &self.source.name)
        })
    }

    /// Whether every column that is read reaches the target, in its place and with its values.
    #[must_use]
    pub fn keeps_columns(&self) -> bool {
        self.columns.len() == self.read.len()
            && self.columns.iter().enumerate().all(|(i, c)| *c == PlannedColumn::Read(i))
    }

    fn evaluate(
        &self,
        expression: &Expression,
        batch: &RecordBatch,
        to: &LogicalType,
    ) -> Result<ArrayRef> {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let column = |name: &str| -> Result<Value> {
                let place = self.source.column_index(name);
                let read = place.and_then(|place| self.read.iter().position(|at| *at == place));
                let (Some(place), Some(read)) = (place, read) else {
                    return Err(Error::settings(format!("the table has no column ${name}")));
                };
                let Some(column) = self.source.columns.get(place) else { return Ok(Value::Null) };
                Value::from_array(&read_column(batch, read)?, row, &column.logical_type)
            };
            let value = expression.evaluate(&self.source.name, &column)?;
            arrays
                .push(value.to_array(to).map_err(|error| error.context("row of the batch", row))?);
        }
        let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
        if arrays.is_empty() {
            return Ok(arrow::array::new_empty_array(&to.arrow_type()));
        }
        let column = arrow::compute::concat(&arrays)?;
        limits::check(column.as_ref(), to)?;
        Ok(column)
    }
}

fn read_column(batch: &RecordBatch, read: usize) -> Result<ArrayRef> {
    batch.columns().get(read).cloned().ok_or_else(|| {
        Error::schema(format!("the source delivered {} columns", batch.num_columns()))
    })
}

/// Large objects cut to so many bytes, text at a character.
fn limit(array: &ArrayRef, bytes: u64) -> ArrayRef {
    let most = usize::try_from(bytes).unwrap_or(usize::MAX);
    match array.data_type() {
        DataType::LargeUtf8 => {
            let cut = |text: &str| text[..text.floor_char_boundary(most)].to_owned();
            let texts = array.as_string::<i64>().iter().map(|text| text.map(cut));
            Arc::new(texts.collect::<LargeStringArray>())
        }
        DataType::LargeBinary => {
            let blobs = array.as_binary::<i64>().iter();
            Arc::new(
                blobs.map(|b| b.map(|b| &b[..b.len().min(most)])).collect::<LargeBinaryArray>(),
            )
        }
        // Only large objects are limited.
        _ => ArrayRef::clone(array),
    }
}
