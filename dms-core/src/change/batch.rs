//! Changes of one table's rows as a record batch.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, RecordBatch, RecordBatchOptions, UInt8Array,
    UInt32Array, UInt64Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type, UInt64Type};

use super::{Identity, Operation};
use crate::batch::batch_bytes;
use crate::schema::TableSchema;
use crate::{Error, Result};

/// How many columns of a batch of changes come before the table's own: the operation (`UInt8`), the
/// sequence (`UInt64`) and the columns that are unchanged (`Binary`, NULL for none).
pub const CONTROL_COLUMNS: usize = 3;

/// The schema of changes of a table: [`CONTROL_COLUMNS`], then the table's columns, all of them
/// nullable since a record may hold no more than the identity of a row.
#[must_use]
pub fn change_schema(table: &TableSchema) -> SchemaRef {
    let control = [
        Field::new("dms:operation", DataType::UInt8, false),
        Field::new("dms:sequence", DataType::UInt64, false),
        Field::new("dms:unchanged", DataType::Binary, true),
    ];
    let columns = table
        .columns
        .iter()
        .map(|column| Field::new(&column.name, column.logical_type.arrow_type(), true));
    Arc::new(Schema::new(control.into_iter().chain(columns).collect::<Vec<_>>()))
}

/// Changes of rows of one table, in the order of their sequences.
#[derive(Debug, Clone)]
pub struct ChangeBatch {
    table: Arc<TableSchema>,
    identity: Identity,
    rows: RecordBatch,
}

impl ChangeBatch {
    /// Changes whose record batch has [`change_schema`] of the table. Sequences grow; operations are
    /// codes of [`Operation`]; a bit of an unchanged mask is a column's place, the lowest first.
    ///
    /// # Errors
    /// `Schema` for a batch of another shape, or without an operation for each record.
    pub fn new(table: Arc<TableSchema>, identity: Identity, rows: RecordBatch) -> Result<Self> {
        let wrong = |what: &str| Err(Error::schema(what).context("table", &table.name));
        let expected = change_schema(&table);
        let same = rows.num_columns() == expected.fields().len()
            && rows
                .columns()
                .iter()
                .zip(expected.fields())
                .all(|(column, field)| column.data_type() == field.data_type());
        if !same {
            return wrong("changes do not have the shape of their table");
        }
        if identity.columns(table.columns.len()).iter().any(|at| *at >= table.columns.len()) {
            return wrong("changes are identified by a column that is not there");
        }
        let batch = Self { table, identity, rows };
        if batch.codes().iter().any(|code| Operation::from_code(*code).is_none()) {
            return Err(Error::schema("a change has an operation that is not known")
                .context("table", &batch.table.name));
        }
        Ok(batch)
    }

    /// Changes of these parts; `unchanged` is `None` if every record holds all it is to hold.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_columns(
        table: Arc<TableSchema>,
        identity: Identity,
        operations: UInt8Array,
        sequences: UInt64Array,
        unchanged: Option<BinaryArray>,
        columns: Vec<ArrayRef>,
    ) -> Result<Self> {
        let count = operations.len();
        let unchanged = unchanged.unwrap_or_else(|| BinaryArray::new_null(count));
        let control: [ArrayRef; CONTROL_COLUMNS] =
            [Arc::new(operations), Arc::new(sequences), Arc::new(unchanged)];
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let columns = control.into_iter().chain(columns).collect();
        let rows = RecordBatch::try_new_with_options(change_schema(&table), columns, &options)
            .map_err(|error| {
                Error::schema("changes do not have the shape of their table")
                    .with_source(error)
                    .context("table", &table.name)
            })?;
        Self::new(table, identity, rows)
    }

    /// The table, with the columns that the records have.
    #[must_use]
    pub fn table(&self) -> &Arc<TableSchema> {
        &self.table
    }

    /// How rows are identified.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The record batch, control columns first.
    #[must_use]
    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// How many records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the records, as Arrow holds them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        batch_bytes(&self.rows)
    }

    /// The codes of the operations, one a record.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        self.rows.column(0).as_primitive::<UInt8Type>().values()
    }

    /// What a record says; records outside the batch do not exist.
    #[must_use]
    pub fn operation(&self, record: usize) -> Option<Operation> {
        self.codes().get(record).copied().and_then(Operation::from_code)
    }

    /// The records' places in their event.
    #[must_use]
    pub fn sequences(&self) -> &[u64] {
        self.rows.column(1).as_primitive::<UInt64Type>().values()
    }

    /// The masks of columns that records do not hold, since they did not change.
    #[must_use]
    pub fn unchanged(&self) -> &BinaryArray {
        self.rows.column(2).as_binary()
    }

    /// Whether a record does not hold a column, since it did not change. Never so in an insert.
    #[must_use]
    pub fn is_unchanged(&self, record: usize, column: usize) -> bool {
        let masks = self.unchanged();
        masks.is_valid(record) && mask_holds(masks.value(record), column)
    }

    /// The values of one of the table's columns.
    #[must_use]
    pub fn column(&self, column: usize) -> Option<&ArrayRef> {
        self.rows.columns().get(CONTROL_COLUMNS + column)
    }

    /// The table's columns.
    #[must_use]
    pub fn columns(&self) -> &[ArrayRef] {
        self.rows.columns().get(CONTROL_COLUMNS..).unwrap_or_default()
    }

    /// Some of the records, by place, in the order given.
    ///
    /// # Errors
    /// `Unexpected` for a place that is not there.
    pub fn take(&self, records: &UInt32Array) -> Result<Self> {
        let rows = take_record_batch(&self.rows, records)?;
        Ok(Self { table: Arc::clone(&self.table), identity: self.identity.clone(), rows })
    }

    /// A run of the records, without a copy.
    #[must_use]
    pub fn slice(&self, offset: usize, length: usize) -> Self {
        let rows = self.rows.slice(offset, length);
        Self { table: Arc::clone(&self.table), identity: self.identity.clone(), rows }
    }
}

/// Whether a mask of columns holds one.
pub(super) fn mask_holds(mask: &[u8], column: usize) -> bool {
    mask.get(column / 8).is_some_and(|bits| bits & (1 << (column % 8)) != 0)
}
