//! Changes as the target gets them: the table mapping, applied to changes.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, RecordBatch, RecordBatchOptions, UInt8Array, UInt32Array,
    UInt64Array, new_null_array,
};
use arrow::compute::interleave;
use dms_core::change::{CONTROL_COLUMNS, ChangeBatch, Identity, Operation, change_schema};
use dms_core::mapping::{PlannedColumn, TablePlan};
use dms_core::schema::{LogicalType, TableSchema};
use dms_core::{Error, ErrorKind, Result};

/// What is done with the changes of one table whose rows have one shape.
#[derive(Debug)]
pub struct ChangePlan {
    plan: TablePlan,
    /// The same for records that hold no more than an identity: the other columns are left out.
    keys: TablePlan,
    /// The target's table, as it is.
    target: Arc<TableSchema>,
    identity: Identity,
    /// Whether records pass as they are.
    passes: bool,
}

impl ChangePlan {
    /// For changes of `plan.source`, whose rows are identified by `identity`.
    ///
    /// # Errors
    /// `Settings` if a column that identifies rows does not reach the target.
    pub fn new(plan: &TablePlan, identity: &Identity) -> Result<Self> {
        let place = |error: Error| error.context("table", &plan.source.name);
        let target_identity = match identity {
            Identity::WholeRow => Identity::WholeRow,
            Identity::Key(columns) => {
                let columns = columns.iter().map(|at| target_column(plan, *at));
                Identity::Key(columns.collect::<Result<_>>().map_err(place)?)
            }
        };
        let target = Arc::clone(&plan.target);
        let mut plan = plan.clone();
        // A record need not hold every column.
        for column in &mut Arc::make_mut(&mut plan.target).columns {
            column.nullable = true;
        }
        let mut keys = plan.clone();
        let places = target_identity.columns(target.columns.len());
        keys.columns = places.iter().filter_map(|at| plan.columns.get(*at).cloned()).collect();
        let of_keys = Arc::make_mut(&mut keys.target);
        of_keys.columns =
            places.iter().filter_map(|at| plan.target.columns.get(*at).cloned()).collect();
        let in_place = plan.read.iter().copied().eq(0..plan.source.columns.len());
        let passes = plan.filter.is_none() && in_place && plan.keeps_columns();
        Ok(Self { plan, keys, target, identity: target_identity, passes })
    }

    /// The table as the target has it.
    #[must_use]
    pub fn target(&self) -> &Arc<TableSchema> {
        &self.target
    }

    /// How its rows are identified there.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The source's column that a column of the target is, by name.
    #[must_use]
    pub fn source_column(&self, target: &str) -> Option<String> {
        let at = self.target.column_index(target)?;
        let place = *self.plan.read.get(read_place(self.plan.columns.get(at)?)?)?;
        Some(self.plan.source.columns.get(place)?.name.clone())
    }

    /// The same for a target whose table stays as it is: columns that it does not have are left
    /// out.
    ///
    /// # Errors
    /// `Schema` if it has one that changes do not hold any more.
    pub fn keep_to(&mut self, held: &Arc<TableSchema>) -> Result<()> {
        let places = held.columns.iter().map(|column| {
            let at = self.target.column_index(&column.name);
            at.filter(|at| {
                let now = self.target.columns.get(*at);
                now.is_some_and(|now| {
                    let is_other = now.id.zip(column.id).is_some_and(|(now, held)| now != held);
                    now.logical_type == column.logical_type && !is_other
                })
            })
            .ok_or_else(|| {
                Error::schema(format!(
                    "column {} went or changed its name or type at the source, and the policy is \
                     to ignore that: rows cannot be made without it; load the table again",
                    column.name
                ))
            })
        });
        let places = places.collect::<Result<Vec<usize>>>()?;
        self.plan.columns =
            places.iter().filter_map(|at| self.plan.columns.get(*at).cloned()).collect();
        self.plan.target = {
            let mut nullable = (**held).clone();
            nullable.columns.iter_mut().for_each(|column| column.nullable = true);
            Arc::new(nullable)
        };
        if let Identity::Key(columns) = &mut self.identity {
            for column in columns {
                *column = places.iter().position(|at| at == column).ok_or_else(|| {
                    Error::schema("a column that identifies rows is new at the source")
                })?;
            }
        }
        self.target = Arc::clone(held);
        self.passes = false;
        Ok(())
    }

    /// Changes of the source's table as changes of the target's.
    ///
    /// # Errors
    /// `Data` for a value that a rule cannot carry, or that a rule needs and the log does not hold.
    pub fn transform(&self, batch: &ChangeBatch) -> Result<ChangeBatch> {
        let made = if self.passes { self.rename(batch) } else { self.remake(batch) };
        made.map_err(|error| error.context("table", &self.plan.source.name))
    }

    fn rename(&self, batch: &ChangeBatch) -> Result<ChangeBatch> {
        // Not `with_schema`, which holds that a column of another name is another.
        let options = RecordBatchOptions::new().with_row_count(Some(batch.len()));
        let (schema, columns) = (change_schema(&self.target), batch.rows().columns().to_vec());
        let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
        ChangeBatch::new(Arc::clone(&self.target), self.identity.clone(), rows)
    }

    fn remake(&self, batch: &ChangeBatch) -> Result<ChangeBatch> {
        let (operations, kept) = self.choose(batch)?;
        let batch = batch.take(&kept)?;
        let columns = self.columns(&batch)?;
        let sequences = UInt64Array::from(batch.sequences().to_vec());
        let table = Arc::clone(&self.target);
        let masks = self.masks(&batch);
        let identity = self.identity.clone();
        ChangeBatch::of_columns(table, identity, operations, sequences, Some(masks), columns)
    }

    /// What the filter leaves: a change of a row that passes, or that may have passed before.
    fn choose(&self, batch: &ChangeBatch) -> Result<(UInt8Array, UInt32Array)> {
        let Some(filter) = &self.plan.filter else {
            let all = 0..u32::try_from(batch.len()).unwrap_or(u32::MAX);
            return Ok((UInt8Array::from(batch.codes().to_vec()), all.collect()));
        };
        let source = &self.plan.source;
        let passes = filter.passes(source, &values(batch)?)?;
        let whole = self.identity == Identity::WholeRow;
        let (mut operations, mut kept) = (Vec::new(), Vec::new());
        for record in 0..batch.len() {
            let Some(operation) = batch.operation(record) else { continue };
            for (name, _) in filter.columns.iter().filter(|_| operation.has_row()) {
                let at = source.column_index(name);
                if at.is_some_and(|at| batch.is_unchanged(record, at)) {
                    return Err(not_held("the filter needs").context("column", name));
                }
            }
            let passed = passes.value(record);
            let now = match operation {
                Operation::Delete | Operation::UpdateBefore if whole => {
                    passed.then_some(Operation::Delete)
                }
                Operation::Update if whole => passed.then_some(Operation::Insert),
                Operation::Insert => passed.then_some(Operation::Insert),
                // Whether the row passed before is not known.
                Operation::Update if passed && !batch.unchanged().is_valid(record) => {
                    Some(Operation::Upsert)
                }
                Operation::Update | Operation::Upsert if passed => Some(operation),
                _ => Some(Operation::Remove),
            };
            if let Some(now) = now {
                operations.push(now.code());
                kept.push(u32::try_from(record).unwrap_or(u32::MAX));
            }
        }
        Ok((UInt8Array::from(operations), UInt32Array::from(kept)))
    }

    /// The target's columns: all of them for records that hold a row, the identity's for others.
    fn columns(&self, batch: &ChangeBatch) -> Result<Vec<ArrayRef>> {
        let whole = self.identity == Identity::WholeRow;
        let has_row =
            |record: &usize| whole || batch.operation(*record).is_some_and(Operation::has_row);
        let (with_row, with_key): (Vec<usize>, Vec<usize>) = (0..batch.len()).partition(has_row);
        self.check_expressions(batch, &with_row)?;
        let rows = transformed(&self.plan, &self.plan.read, batch, &with_row)?;
        if with_key.is_empty() {
            return Ok(rows.columns().to_vec());
        }
        let keys = transformed(&self.keys, &self.plan.read, batch, &with_key)?;
        let mut places = vec![(0, 0); batch.len()];
        for (part, records) in [&with_row, &with_key].into_iter().enumerate() {
            for (row, record) in records.iter().enumerate() {
                if let Some(place) = places.get_mut(*record) {
                    *place = (part, row);
                }
            }
        }
        let identity = self.identity.columns(self.target.columns.len());
        let columns = self.target.columns.iter().enumerate().map(|(at, column)| {
            let key = identity.iter().position(|of| *of == at).and_then(|k| keys.columns().get(k));
            let nulls = || new_null_array(&column.logical_type.arrow_type(), with_key.len());
            let key = key.cloned().unwrap_or_else(nulls);
            let row = rows.columns().get(at).ok_or_else(|| Error::schema("a column is missing"))?;
            Ok(interleave(&[row.as_ref(), key.as_ref()], &places)?)
        });
        columns.collect()
    }

    /// Refuses to compute a value from one that the log does not hold.
    fn check_expressions(&self, batch: &ChangeBatch, records: &[usize]) -> Result<()> {
        let partial = |record: &&usize| batch.unchanged().is_valid(**record);
        let records: Vec<usize> = records.iter().filter(partial).copied().collect();
        if records.is_empty() {
            return Ok(());
        }
        for planned in &self.plan.columns {
            let PlannedColumn::Expression(expression) = planned else { continue };
            for name in expression.columns() {
                let at = self.plan.source.column_index(name);
                if at.is_some_and(|at| records.iter().any(|r| batch.is_unchanged(*r, at))) {
                    return Err(not_held("an expression needs").context("column", name));
                }
            }
        }
        Ok(())
    }

    /// Which of the target's columns records do not hold.
    fn masks(&self, batch: &ChangeBatch) -> BinaryArray {
        let places: Vec<Option<usize>> = self
            .plan
            .columns
            .iter()
            .map(|planned| read_place(planned).and_then(|read| self.plan.read.get(read).copied()))
            .collect();
        let mask = |record: usize| {
            if batch.unchanged().is_null(record) {
                return None;
            }
            let mut mask = vec![0u8; places.len().div_ceil(8)];
            for (column, _) in places
                .iter()
                .enumerate()
                .filter(|(_, place)| place.is_some_and(|at| batch.is_unchanged(record, at)))
            {
                if let Some(bits) = mask.get_mut(column / 8) {
                    *bits |= 1 << (column % 8);
                }
            }
            mask.iter().any(|bits| *bits != 0).then_some(mask)
        };
        (0..batch.len()).map(mask).collect()
    }
}

fn not_held(who: &str) -> Error {
    Error::data(format!(
        "{who} a column whose value the log does not hold, since it is large and did not change; \
         let the log hold whole rows (PostgreSQL: ALTER TABLE … REPLICA IDENTITY FULL)"
    ))
}

/// The table's columns of a batch of changes.
fn values(batch: &ChangeBatch) -> Result<RecordBatch> {
    let places: Vec<usize> = (CONTROL_COLUMNS..batch.rows().num_columns()).collect();
    Ok(batch.rows().project(&places)?)
}

/// Some records' columns, those that are `read`, as a plan makes them.
fn transformed(
    plan: &TablePlan,
    read: &[usize],
    batch: &ChangeBatch,
    records: &[usize],
) -> Result<RecordBatch> {
    let chosen = records.iter().map(|record| u32::try_from(*record).ok());
    let chosen: UInt32Array = chosen.collect();
    let taken;
    let batch = if records.len() == batch.len() {
        batch
    } else {
        taken = batch.take(&chosen)?;
        &taken
    };
    let values = values(batch)?;
    // Projection to no column at all would forget how many rows there are.
    let options = RecordBatchOptions::new().with_row_count(Some(values.num_rows()));
    let columns = read.iter().filter_map(|at| values.columns().get(*at).cloned()).collect();
    let schema = Arc::new(values.schema().project(read)?);
    plan.transform(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// Which of the columns read a target column is made of, if it is one.
fn read_place(planned: &PlannedColumn) -> Option<usize> {
    match planned {
        PlannedColumn::Read(read)
        | PlannedColumn::Cast { read, .. }
        | PlannedColumn::Limited { read, .. } => Some(*read),
        _ => None,
    }
}

/// The column of the target that a column of the source becomes.
fn target_column(plan: &TablePlan, place: usize) -> Result<usize> {
    let read = plan.read.iter().position(|at| *at == place);
    let found = read.and_then(|read| {
        plan.columns.iter().position(|planned| {
            !matches!(planned, PlannedColumn::Limited { .. }) && read_place(planned) == Some(read)
        })
    });
    found.ok_or_else(|| {
        let name = plan.source.columns.get(place).map_or("", |column| &column.name);
        Error::settings(
            "the column identifies rows, so that changes cannot be applied without it; keep it in \
             the table mapping",
        )
        .context("column", name)
    })
}

/// Whether two values of a type are equal exactly if their bytes are, so that changes of a row can
/// be gathered by its key. Elsewhere changes are applied in the source's order.
#[must_use]
pub(crate) fn is_equal_by_bytes(ty: &LogicalType) -> bool {
    ty.is_integer()
        || matches!(
            ty,
            LogicalType::Boolean
                | LogicalType::Decimal { .. }
                | LogicalType::Char { .. }
                | LogicalType::Text { .. }
                | LogicalType::Clob
                | LogicalType::Binary { .. }
                | LogicalType::Bytes { .. }
                | LogicalType::Blob
                | LogicalType::Date
                | LogicalType::Time { .. }
                | LogicalType::Timestamp { .. }
                | LogicalType::TimestampTz { .. }
                | LogicalType::Uuid
                | LogicalType::Enum { .. }
        )
}

/// The refusal of a table whose changes cannot be applied at all.
///
/// # Errors
/// `Unsupported` for a key over columns that are not there.
pub(crate) fn check_identity(table: &TableSchema, identity: &Identity) -> Result<()> {
    match identity {
        Identity::Key(columns) if columns.is_empty() => Err(Error::new(
            ErrorKind::Unsupported,
            "rows of the table cannot be identified; give it a primary key, or leave it out",
        )
        .context("table", &table.name)),
        _ => Ok(()),
    }
}
