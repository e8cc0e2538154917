//! Changes one by one, for programs that look at each of them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, UInt8Array, UInt64Array, new_null_array};
use arrow::compute::concat;
use serde::{Deserialize, Serialize};

use super::{ChangeBatch, Identity, Operation};
use crate::Result;
use crate::schema::TableSchema;
use crate::value::Value;

/// One change of one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// What happened.
    pub operation: Operation,
    /// Its place in its event.
    pub sequence: u64,
    /// A value a column of the table; `None` for one that the record does not hold: unchanged in an
    /// update, or no part of the identity where the record is no more than that.
    pub values: Vec<Option<Value>>,
}

impl ChangeBatch {
    /// The changes one by one.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use dms_core::change::{ChangeBatch, ChangeRecord, Identity, Operation};
    /// use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
    /// use dms_core::value::Value;
    ///
    /// let table = Arc::new(TableSchema::new(
    ///     TableName::new("shop", "items"),
    ///     vec![Column::new("id", LogicalType::Int64), Column::new("name", LogicalType::text())],
    /// ));
    /// let change = ChangeRecord {
    ///     operation: Operation::Update,
    ///     sequence: 0,
    ///     values: vec![Some(Value::Int(7)), None],
    /// };
    /// let batch = ChangeBatch::from_records(table, Identity::Key(vec![0]), &[change.clone()])?;
    /// assert!(batch.is_unchanged(0, 1));
    /// assert_eq!(batch.records().next().transpose()?, Some(change));
    /// # Ok::<(), dms_core::Error>(())
    /// ```
    pub fn records(&self) -> impl Iterator<Item = Result<ChangeRecord>> + '_ {
        let identity = self.identity().columns(self.table().columns.len());
        (0..self.len()).map(move |record| {
            let operation = self.operation(record).unwrap_or(Operation::Update);
            let columns = self.table().columns.iter().zip(self.columns()).enumerate();
            let values = columns.map(|(at, (column, array))| {
                let held = if operation.has_row() {
                    !self.is_unchanged(record, at)
                } else {
                    identity.contains(&at)
                };
                let value = || Value::from_array(array.as_ref(), record, &column.logical_type);
                held.then(value).transpose()
            });
            let sequence = self.sequences().get(record).copied().unwrap_or_default();
            Ok(ChangeRecord { operation, sequence, values: values.collect::<Result<_>>()? })
        })
    }

    /// Changes given one by one, in the order of their sequences.
    ///
    /// # Errors
    /// `Data` for a value that is none of its column's type.
    pub fn from_records(
        table: Arc<TableSchema>,
        identity: Identity,
        records: &[ChangeRecord],
    ) -> Result<Self> {
        let operations: UInt8Array = records.iter().map(|r| Some(r.operation.code())).collect();
        let sequences: UInt64Array = records.iter().map(|r| Some(r.sequence)).collect();
        let masks: BinaryArray = records.iter().map(unchanged_mask).collect();
        let columns = table.columns.iter().enumerate().map(|(at, column)| {
            let null = || new_null_array(&column.logical_type.arrow_type(), 1);
            let values = records.iter().map(|record| match record.values.get(at) {
                Some(Some(value)) => value.to_array(&column.logical_type),
                _ => Ok(null()),
            });
            let values = values.collect::<Result<Vec<ArrayRef>>>()?;
            let values: Vec<_> = values.iter().map(AsRef::as_ref).collect();
            if values.is_empty() {
                return Ok(arrow::array::new_empty_array(&column.logical_type.arrow_type()));
            }
            Ok(concat(&values)?)
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Self::of_columns(table, identity, operations, sequences, Some(masks), columns)
    }
}

/// The columns that a record with a row does not hold.
fn unchanged_mask(record: &ChangeRecord) -> Option<Vec<u8>> {
    if !record.operation.has_row() || record.values.iter().all(Option::is_some) {
        return None;
    }
    let mut mask = vec![0; record.values.len().div_ceil(8)];
    for (at, _) in record.values.iter().enumerate().filter(|(_, value)| value.is_none()) {
        if let Some(bits) = mask.get_mut(at / 8) {
            *bits |= 1 << (at % 8);
        }
    }
    Some(mask)
}
