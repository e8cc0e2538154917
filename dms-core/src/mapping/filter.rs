//! Row filters of selection rules.

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use serde::{Deserialize, Serialize};

use super::order::{bound, comparator};
use crate::schema::{LogicalType, TableSchema};
use crate::value::Value;
use crate::{Error, Result};

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
    /// Less or equal; DMS calls it `ste`.
    #[serde(alias = "ste")]
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
    /// Sees that the columns are there and that their values compare with those of the filter, for
    /// a connector that hands it to its engine as for [`apply`](Self::apply).
    pub(super) fn check(&self, table: &TableSchema) -> Result<()> {
        for (name, alternatives) in &self.columns {
            let place = |error: Error| error.context("table", &table.name).context("column", name);
            let column = table.columns.iter().find(|column| column.name == *name);
            let column = column.ok_or_else(|| place(no_column()))?;
            let compares = alternatives.iter().any(|condition| !condition.values.is_empty());
            // Ranges need any order that puts each row into one of them; a filter needs the engine's.
            if compares && matches!(column.logical_type, LogicalType::Other { .. }) {
                return Err(place(Error::settings(format!(
                    "only the engine knows how values of type {} compare; choose rows by another \
                     column",
                    column.logical_type
                ))));
            }
            for value in alternatives.iter().flat_map(|condition| &condition.values) {
                bound(value, &column.logical_type).map_err(place)?;
            }
        }
        Ok(())
    }

    /// The rows of `batch` that pass; `table` describes its columns by name and type, in order.
    ///
    /// # Errors
    /// `Settings` if a column is missing, has no order, or a value is not of its type.
    pub fn apply(&self, table: &TableSchema, batch: &RecordBatch) -> Result<RecordBatch> {
        Ok(filter_record_batch(batch, &self.passes(table, batch)?)?)
    }

    /// Which rows of `batch` pass, as [`apply`](Self::apply).
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn passes(&self, table: &TableSchema, batch: &RecordBatch) -> Result<BooleanArray> {
        let mut keep = vec![true; batch.num_rows()];
        for (name, alternatives) in &self.columns {
            let place = |error: Error| error.context("table", &table.name).context("column", name);
            let (column, array) = table
                .column_index(name)
                .and_then(|at| Some((table.columns.get(at)?, batch.columns().get(at)?)))
                .ok_or_else(|| place(no_column()))?;
            let mut passes = vec![false; batch.num_rows()];
            for condition in alternatives {
                condition.mark(array.as_ref(), &column.logical_type, &mut passes).map_err(place)?;
            }
            keep.iter_mut().zip(passes).for_each(|(keep, passes)| *keep &= passes);
        }
        Ok(BooleanArray::from(keep))
    }
}

fn no_column() -> Error {
    Error::settings("the filter names no column of the table")
}

impl FilterCondition {
    /// Marks the rows for which the condition holds.
    fn mark(&self, array: &dyn Array, ty: &LogicalType, passes: &mut [bool]) -> Result<()> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let mut comparators = Vec::new();
        for value in &self.values {
            comparators.push(comparator(array, value, ty)?);
        }
        for (row, passes) in passes.iter_mut().enumerate() {
            let null = array.is_null(row);
            let ordering = |bound: usize| comparators.get(bound).map(|compare| compare(row));
            *passes |= match self.operator {
                FilterOperator::Null => null,
                _ if null => false,
                FilterOperator::NotNull => true,
                FilterOperator::Eq => ordering(0) == Some(Equal),
                FilterOperator::NotEq => ordering(0).is_some_and(|o| o != Equal),
                FilterOperator::Gte => ordering(0).is_some_and(|o| o != Less),
                FilterOperator::Lte => ordering(0).is_some_and(|o| o != Greater),
                FilterOperator::Between => {
                    ordering(0).is_some_and(|o| o != Less)
                        && ordering(1).is_some_and(|o| o != Greater)
                }
                FilterOperator::NotBetween => {
                    ordering(0) == Some(Less) || ordering(1) == Some(Greater)
                }
            };
        }
        Ok(())
    }
}
