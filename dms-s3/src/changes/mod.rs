//! Changes as files: DMS's layout beside a table's loaded files, and commits that name them.

mod apply;
mod chain;
mod file;
mod manifest;
mod ready;
mod rows;
mod transactions;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use dms_core::Result;
use dms_core::endpoint::{
    Apply, BatchHint, ChangeForm, ChangeTarget, ReplicatedTable, ReplicationProgress, Run,
    TaskRecord,
};
use dms_core::schema::TableName;
use tokio::sync::Mutex;

use apply::FolderApply;
use manifest::{Commit, Noted, Notes};

use crate::manifest::VERSION;
use crate::progress;
use crate::store::FolderStore;
use crate::target::FolderTarget;

/// What a target keeps in mind between commits.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// The newest commit of a run, as far as it is known.
    heads: Mutex<HashMap<(String, u64), Option<Commit>>>,
    /// The newest load of a table, as far as this run knows.
    loads: Mutex<HashMap<(String, u64, TableName), u64>>,
}

impl Shared {
    async fn head(&self, store: &FolderStore, run: &Run) -> Result<Option<Commit>> {
        let key = (run.task.clone(), run.epoch);
        if let Some(head) = self.heads.lock().await.get(&key) {
            return Ok(head.clone());
        }
        let head = chain::newest(store, &run.task).await?;
        self.heads.lock().await.insert(key, head.clone());
        Ok(head)
    }

    async fn set_head(&self, run: &Run, commit: Commit) {
        self.heads.lock().await.insert((run.task.clone(), run.epoch), Some(commit));
    }

    async fn forget_head(&self, run: &Run) {
        self.heads.lock().await.remove(&(run.task.clone(), run.epoch));
    }

    /// The load of a table that changes belong to; 0 without one.
    async fn load_of(&self, store: &FolderStore, run: &Run, table: &TableName) -> Result<u64> {
        let key = (run.task.clone(), run.epoch, table.clone());
        if let Some(load) = self.loads.lock().await.get(&key) {
            return Ok(*load);
        }
        let load = progress::newest_load(store, &run.task, table).await?;
        self.loads.lock().await.insert(key, load);
        Ok(load)
    }

    /// A table is loaded anew.
    pub(crate) async fn set_load(&self, run: &Run, table: &TableName, load: u64) {
        let key = (run.task.clone(), run.epoch, table.clone());
        self.loads.lock().await.insert(key, load);
    }
}

async fn notes(store: &FolderStore, commit: Option<&Commit>) -> Result<Vec<Noted>> {
    match commit.and_then(|commit| commit.notes.as_ref()) {
        None => Ok(Vec::new()),
        Some(path) => Ok(store.get::<Notes>(&store.absolute(path)).await?.tables),
    }
}

/// What a folder holds of a task's replication, as of its newest commit. The shape that a table was
/// prepared with stands in the record of its load, until another is noted: the source's may have
/// changed before the first change is committed.
async fn replication(
    store: &FolderStore,
    task: &str,
    commit: Option<&Commit>,
) -> Result<ReplicationProgress> {
    let (mut tables, mut loads) = (BTreeMap::new(), BTreeMap::new());
    for record in progress::load_records(store, task).await? {
        loads.insert(record.table.name.clone(), record.load);
        let prepared = ReplicatedTable::prepared(&record.table);
        tables.insert(record.table.name, prepared);
    }
    for Noted { table, load, noted } in notes(store, commit).await? {
        if loads.get(&table).copied().unwrap_or(0) == load {
            let held: &mut ReplicatedTable = tables.entry(table).or_default();
            held.shape = noted.shape.or(held.shape.take());
            held.suspended = noted.suspended;
        }
    }
    Ok(ReplicationProgress { position: commit.and_then(|commit| commit.to.clone()), tables })
}

#[async_trait]
impl ChangeTarget for FolderTarget {
    fn change_form(&self) -> ChangeForm {
        ChangeForm::Log
    }

    fn batch_hint(&self) -> Option<BatchHint> {
        Some(BatchHint {
            bytes: self.settings.cdc_min_file_size.saturating_mul(1024),
            age: Duration::from_secs(self.settings.cdc_max_batch_interval),
        })
    }

    async fn replication(&self, run: &Run) -> Result<ReplicationProgress> {
        progress::check_epoch(&self.store, run).await?;
        self.changes.forget_head(run).await;
        let head = self.changes.head(&self.store, run).await?;
        replication(&self.store, &run.task, head.as_ref()).await
    }

    async fn begin_apply(&self, run: &Run) -> Result<Box<dyn Apply>> {
        progress::check_epoch(&self.store, run).await?;
        let before = self.changes.head(&self.store, run).await?;
        let named_up_to = before.as_ref().and_then(|commit| commit.named_up_to);
        Ok(Box::new(FolderApply {
            store: self.store.clone(),
            settings: self.settings.clone(),
            shared: std::sync::Arc::clone(&self.changes),
            run: run.clone(),
            before,
            open: BTreeMap::new(),
            parts: BTreeMap::new(),
            transactions: None,
            transaction_parts: 0,
            named_up_to,
            acts: Vec::new(),
            notes: Vec::new(),
            exceptions: Vec::new(),
            broken: false,
        }))
    }

    async fn look_up(&self, task: &str) -> Result<Option<TaskRecord>> {
        let Some(progress) = progress::look_up(&self.store, task).await? else { return Ok(None) };
        let head = chain::newest(&self.store, task).await?;
        let replication = replication(&self.store, task, head.as_ref()).await?;
        Ok(Some(TaskRecord {
            progress,
            replication,
            committed_at: head.as_ref().and_then(|commit| commit.committed_at),
            exceptions: head.as_ref().map_or(0, |commit| commit.exceptions_total),
        }))
    }

    async fn forget(&self, run: &Run, tables: Option<&[TableName]>) -> Result<()> {
        progress::check_epoch(&self.store, run).await?;
        if tables.is_none() {
            let before = self.changes.head(&self.store, run).await?;
            // Without a position the task begins anew; the numbers go on.
            if let Some(before) = before.filter(|commit| commit.to.is_some()) {
                let commit = Commit {
                    version: VERSION,
                    task: run.task.clone(),
                    epoch: run.epoch,
                    number: before.number + 1,
                    from: before.to,
                    to: None,
                    committed_at: None,
                    acts: Vec::new(),
                    named_up_to: before.named_up_to,
                    exceptions: Vec::new(),
                    exceptions_total: 0,
                    notes: None,
                };
                self.changes.forget_head(run).await;
                chain::put(&self.store, run, &commit).await?;
            }
        }
        progress::forget_loads(&self.store, &run.task, tables).await
    }
}
