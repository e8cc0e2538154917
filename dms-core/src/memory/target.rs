//! Tables in memory, written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::StreamExt;

use super::apply::TaskReplication;
use super::{ENGINE, MemorySource};
use crate::batch::{BatchStream, batch_bytes};
use crate::endpoint::{
    ColumnMapping, EndpointInfo, Fidelity, Partition, Receipt, ReplicatedTable, Run, TablePrepMode,
    TableProgress, Target, TaskProgress,
};
use crate::position::Position;
use crate::schema::{TableName, TableSchema};
use crate::{Error, ErrorKind, Result, ResultExt};

/// Tables in memory that tasks load. Clones share them, as two connections share a database.
#[derive(Debug, Clone, Default)]
pub struct MemoryTarget {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) epochs: BTreeMap<String, u64>,
    pub(super) progress: BTreeMap<(String, TableName), TableProgress>,
    pub(super) replication: BTreeMap<String, TaskReplication>,
    pub(super) tables: BTreeMap<TableName, (TableSchema, Vec<RecordBatch>)>,
    /// Counts the changes of tables, as the position of sources.
    pub(super) version: u64,
}

impl State {
    pub(super) fn check(&self, run: &Run) -> Result<()> {
        if self.epochs.get(&run.task) == Some(&run.epoch) {
            return Ok(());
        }
        Err(run.fenced())
    }

    fn progress(&mut self, run: &Run, table: &TableSchema) -> Result<&mut TableProgress> {
        self.progress.get_mut(&(run.task.clone(), table.name.clone())).ok_or_else(|| {
            Error::schema("the table was not prepared").context("table", &table.name)
        })
    }
}

impl MemoryTarget {
    /// The table's batches, in the order in which partitions were committed.
    ///
    /// # Errors
    /// `NotFound` if there is no such table.
    pub fn table(&self, name: &TableName) -> Result<Vec<RecordBatch>> {
        let state = self.lock();
        let (_, batches) = state.tables.get(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "there is no such table").context("table", name)
        })?;
        Ok(batches.clone())
    }

    /// What the target holds now, as a source.
    #[must_use]
    pub fn as_source(&self) -> MemorySource {
        let source = MemorySource::default();
        let state = self.lock();
        for (table, batches) in state.tables.values() {
            source.insert(table.clone(), batches.clone());
        }
        source.set_version(state.version);
        source
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Target for MemoryTarget {
    fn info(&self) -> EndpointInfo {
        EndpointInfo { engine: ENGINE, address: "memory:".to_owned() }
    }

    fn map_types(&self, table: &TableSchema) -> Vec<ColumnMapping> {
        let mapping = |column: &crate::schema::Column| ColumnMapping {
            column: column.name.clone(),
            target_type: column.logical_type.to_string(),
            fidelity: Fidelity::Exact,
        };
        table.columns.iter().map(mapping).collect()
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn begin(&self, task: &str) -> Result<TaskProgress> {
        let mut state = self.lock();
        let epoch = state.epochs.entry(task.to_owned()).or_default();
        *epoch += 1;
        let run = Run { task: task.to_owned(), epoch: *epoch };
        let tables = state.progress.iter().filter(|((of, _), _)| of == task);
        let tables = tables.map(|((_, table), progress)| (table.clone(), progress.clone()));
        Ok(TaskProgress { run, tables: tables.collect() })
    }

    async fn prepare(
        &self,
        run: &Run,
        table: &TableSchema,
        mode: TablePrepMode,
        partitions: &[Partition],
        position: Option<&Position>,
    ) -> Result<()> {
        let mut state = self.lock();
        state.check(run)?;
        state.version += 1;
        let fresh = (table.clone(), Vec::new());
        let existing = state.tables.entry(table.name.clone()).or_insert_with(|| fresh.clone());
        match mode {
            TablePrepMode::DropAndCreate => *existing = fresh,
            _ if existing.0.arrow_schema() != table.arrow_schema() => {
                return Err(Error::schema("the table exists on the target in another shape")
                    .context("table", &table.name));
            }
            TablePrepMode::TruncateBeforeLoad => existing.1.clear(),
            TablePrepMode::DoNothing => {}
        }
        let progress = TableProgress {
            partitions: partitions.to_vec(),
            position: position.cloned(),
            ..TableProgress::default()
        };
        state.progress.insert((run.task.clone(), table.name.clone()), progress);
        let replication = state.replication.entry(run.task.clone()).or_default();
        replication.progress.tables.insert(table.name.clone(), ReplicatedTable::prepared(table));
        Ok(())
    }

    async fn load(
        &self,
        run: &Run,
        table: &TableSchema,
        partition: &Partition,
        position: Option<&Position>,
        mut batches: BatchStream,
    ) -> Result<Receipt> {
        let held = |progress: &TableProgress| {
            progress.receipts.iter().find(|receipt| receipt.partition == partition.number).cloned()
        };
        let mut loaded = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            bytes += batch_bytes(&batch) as u64;
            loaded.push(batch);
        }
        let mut state = self.lock();
        state.check(run)?;
        let progress = state.progress(run, table)?;
        if let Some(receipt) = held(progress) {
            return Ok(receipt);
        }
        let receipt =
            Receipt { partition: partition.number, rows, bytes, position: position.cloned() };
        progress.receipts.push(receipt.clone());
        state.version += 1;
        if let Some((_, batches)) = state.tables.get_mut(&table.name) {
            batches.extend(loaded);
        }
        Ok(receipt)
    }

    async fn finish(&self, run: &Run, table: &TableSchema) -> Result<()> {
        let mut state = self.lock();
        state.check(run)?;
        let progress = state.progress(run, table)?;
        Receipt::check_complete(&progress.partitions, &progress.receipts)
            .context("table", &table.name)?;
        progress.finished = true;
        Ok(())
    }
}
