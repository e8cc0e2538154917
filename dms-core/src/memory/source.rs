//! Tables in memory, read.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tokio::sync::Notify;

use super::ENGINE;
use super::feed::Logged;
use crate::batch::{BatchLimit, BatchStream, batch_bytes};
use crate::endpoint::{
    EndpointInfo, Partition, PartitionGoal, PartitionRange, ReadRequest, Snapshot, Source,
};
use crate::mapping::{ParallelLoad, Selection, ranges, rows_in_range};
use crate::position::Position;
use crate::schema::{Catalog, TableName, TableSchema};
use crate::{Error, ErrorKind, Result};

/// Tables in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemorySource {
    pub(super) tables: Arc<Mutex<Tables>>,
    /// Wakes feeds.
    pub(super) changed: Arc<Notify>,
    pub(super) acknowledged: Arc<AtomicU64>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    /// Counts the changes, as the position of snapshots.
    pub(super) version: u64,
    pub(super) tables: BTreeMap<TableName, (TableSchema, Vec<RecordBatch>)>,
    /// Transactions since the beginning.
    pub(super) log: Vec<Arc<Logged>>,
}

impl MemorySource {
    /// Puts a table there, in the place of one with the same name.
    pub fn insert(&self, mut table: TableSchema, batches: Vec<RecordBatch>) {
        let mut tables = self.lock();
        tables.version += 1;
        table.row_estimate = Some(batches.iter().map(|batch| batch.num_rows() as u64).sum());
        table.byte_estimate = Some(batches.iter().map(|batch| batch_bytes(batch) as u64).sum());
        tables.tables.insert(table.name.clone(), (table, batches));
    }

    /// The table's batches as they are now.
    ///
    /// # Errors
    /// `NotFound` if there is no such table.
    pub fn batches(&self, name: &TableName) -> Result<Vec<RecordBatch>> {
        let tables = self.lock();
        let (_, batches) = tables.tables.get(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "there is no such table").context("table", name)
        })?;
        Ok(batches.clone())
    }

    /// Every table with its batches, as they are now.
    #[must_use]
    pub fn tables(&self) -> Vec<(TableSchema, Vec<RecordBatch>)> {
        self.lock().tables.values().cloned().collect()
    }

    /// A copy that goes its own way.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { tables: Arc::new(Mutex::new(self.lock().clone())), ..Self::default() }
    }

    /// For a copy of tables whose changes are counted elsewhere.
    pub(super) fn set_version(&self, version: u64) {
        self.lock().version = version;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Source for MemorySource {
    fn info(&self) -> EndpointInfo {
        EndpointInfo { engine: ENGINE, address: "memory:".to_owned() }
    }

    async fn discover(&self, selection: &Selection) -> Result<Catalog> {
        let tables = self.lock();
        let selected = tables.tables.values().map(|(table, _)| table);
        let selected = selected.filter(|table| selection.selects(&table.name, table.kind));
        Ok(Catalog { tables: selected.cloned().collect() })
    }

    async fn snapshot(
        &self,
        _tables: &[TableSchema],
        _readers: usize,
    ) -> Result<Arc<dyn Snapshot>> {
        // Batches are immutable and shared: a copy of the map is a snapshot.
        Ok(Arc::new(MemorySnapshot(self.lock().clone())))
    }
}

#[derive(Debug)]
struct MemorySnapshot(Tables);

impl MemorySnapshot {
    fn batches(&self, table: &TableName) -> Result<&[RecordBatch]> {
        match self.0.tables.get(table) {
            Some((_, batches)) => Ok(batches),
            None => Err(Error::schema("the table is gone").context("table", table)),
        }
    }
}

#[async_trait]
impl Snapshot for MemorySnapshot {
    fn position(&self) -> Option<Position> {
        Some(Position::new(self.0.version, format!("version {}", self.0.version)))
    }

    async fn partitions(
        &self,
        table: &TableSchema,
        goal: &PartitionGoal,
    ) -> Result<Vec<Partition>> {
        let batches = self.batches(&table.name)?;
        match &goal.parallel_load {
            ParallelLoad::None => Ok(vec![Partition::whole()]),
            ParallelLoad::Ranges { columns, boundaries, names } => {
                ranges(table, columns, boundaries, names)
            }
            ParallelLoad::Partitions(_) => {
                Err(Error::settings("tables in memory have no physical partitions"))
            }
            ParallelLoad::Auto => {
                let bytes: usize = batches.iter().map(batch_bytes).sum();
                let wanted = (bytes as u64).div_ceil(goal.bytes.max(1));
                let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
                let count = wanted.min(goal.at_most).min(batches.len()).max(1);
                Ok((0..count)
                    .map(|number| {
                        let (from, to) =
                            (number * batches.len() / count, (number + 1) * batches.len() / count);
                        let bytes: usize =
                            batches.get(from..to).unwrap_or_default().iter().map(batch_bytes).sum();
                        Partition {
                            number: u32::try_from(number).unwrap_or(u32::MAX),
                            name: None,
                            range: PartitionRange::Native(format!("{from}..{to}")),
                            byte_estimate: Some(bytes as u64),
                        }
                    })
                    .collect())
            }
        }
    }

    async fn read(&self, request: ReadRequest) -> Result<BatchStream> {
        let all = self.batches(&request.table.name)?;
        let projected = request.projected()?;
        let batches = match &request.partition.range {
            PartitionRange::Native(token) => {
                let range = token
                    .split_once("..")
                    .and_then(|(from, to)| all.get(from.parse().ok()?..to.parse().ok()?));
                range.ok_or_else(|| {
                    Error::settings(format!("{token:?} is not a partition of this table"))
                })?
            }
            _ => all,
        };
        let schema = projected.arrow_schema();
        let delivered = Arc::clone(&schema);
        let batches: Vec<RecordBatch> = batches.to_vec();
        let stream = batches.into_iter().flat_map(move |batch| match select(&request, &batch) {
            Ok(batch) => cut(batch.with_schema(Arc::clone(&delivered)), request.limit),
            Err(error) => vec![Err(error)],
        });
        Ok(BatchStream::new(schema, futures::stream::iter(stream)))
    }
}

/// The rows and columns of a batch that a request asks for.
fn select(request: &ReadRequest, batch: &RecordBatch) -> Result<RecordBatch> {
    let mut batch = rows_in_range(&request.table, &request.partition.range, batch)?;
    if let Some(filter) = &request.filter {
        batch = filter.apply(&request.table, &batch)?;
    }
    Ok(batch.project(&request.columns)?)
}

/// Slices of a batch within the limit; no rows, no batch.
fn cut(
    batch: Result<RecordBatch, arrow::error::ArrowError>,
    limit: BatchLimit,
) -> Vec<Result<RecordBatch>> {
    let batch = match batch {
        Ok(batch) => batch,
        Err(error) => return vec![Err(error.into())],
    };
    let rows = batch.num_rows();
    if rows == 0 {
        return Vec::new();
    }
    let by_bytes = (limit.bytes / (batch_bytes(&batch) / rows).max(1)).max(1);
    let step = limit.rows.min(by_bytes).max(1);
    if step >= rows {
        return vec![Ok(batch)];
    }
    (0..rows).step_by(step).map(|at| Ok(batch.slice(at, step.min(rows - at)))).collect()
}
