//! What a folder holds of a task.

use std::collections::BTreeMap;

use dms_core::endpoint::{Run, TableProgress, TaskProgress};
use dms_core::schema::TableName;
use dms_core::{Error, ErrorKind, Result};

use crate::layout;
use crate::manifest::{Claim, LoadRecord, Manifest, PartitionRecord, VERSION};
use crate::store::FolderStore;

/// The newest claim on a task; 0 before the first.
async fn newest_epoch(store: &FolderStore, task: &str) -> Result<u64> {
    let claims = store.list(&layout::epochs(store, task)).await?;
    let numbers = claims
        .iter()
        .filter_map(|claim| claim.location.filename()?.strip_suffix(".json")?.parse::<u64>().ok());
    Ok(numbers.max().unwrap_or(0))
}

/// Claims the task and reads what is there of it.
pub(crate) async fn begin(store: &FolderStore, task: &str) -> Result<TaskProgress> {
    let epoch = loop {
        let epoch = newest_epoch(store, task).await? + 1;
        let claim = Claim { version: VERSION, task: task.to_owned(), epoch };
        // Of two runs that begin at once one creates the object, the other counts on.
        if store.put(&layout::epoch(store, task, epoch), &claim, true).await? {
            break epoch;
        }
    };
    for old in store.list(&layout::epochs(store, task)).await? {
        if old.location < layout::epoch(store, task, epoch) {
            store.delete(&old.location).await?;
        }
    }
    let mut tables = BTreeMap::new();
    for record in load_records(store, task).await? {
        let progress = table_progress(store, task, &record).await?;
        tables.insert(record.table.name, progress);
    }
    Ok(TaskProgress { run: Run { task: task.to_owned(), epoch }, tables })
}

/// Refuses when a newer run has claimed the task.
pub(crate) async fn check_epoch(store: &FolderStore, run: &Run) -> Result<()> {
    if newest_epoch(store, &run.task).await? == run.epoch {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Stopped,
        format!("another run of task {} took it over; this one may not write any more", run.task),
    ))
}

/// The newest load of each table of a task.
async fn load_records(store: &FolderStore, task: &str) -> Result<Vec<LoadRecord>> {
    let mut newest: BTreeMap<TableName, LoadRecord> = BTreeMap::new();
    for object in store.list(&layout::loads(store, task)).await? {
        if object.location.filename().is_some_and(|name| name.starts_with("load-")) {
            let record: LoadRecord = store.get(&object.location).await?;
            // In the order of paths, so that the highest load comes last.
            newest.insert(record.table.name.clone(), record);
        }
    }
    Ok(newest.into_values().collect())
}

/// The newest load of one table.
pub(crate) async fn load_record(
    store: &FolderStore,
    task: &str,
    table: &TableName,
) -> Result<LoadRecord> {
    let listed = store.list(&layout::table_loads(store, task, table)).await?;
    let newest = listed
        .iter()
        .rev()
        .find(|object| object.location.filename().is_some_and(|name| name.starts_with("load-")));
    match newest {
        Some(object) => store.get(&object.location).await,
        None => Err(Error::schema("the table was not prepared").context("table", table)),
    }
}

/// The partitions of a load that are complete, one record each.
pub(crate) async fn partition_records(
    store: &FolderStore,
    task: &str,
    record: &LoadRecord,
) -> Result<Vec<PartitionRecord>> {
    records(store, task, record, &format!("receipt-{:010}-", record.load)).await
}

/// One partition of a load, if it is complete.
pub(crate) async fn partition_record(
    store: &FolderStore,
    task: &str,
    record: &LoadRecord,
    partition: u32,
) -> Result<Option<PartitionRecord>> {
    let prefix = format!("receipt-{:010}-{partition:06}-", record.load);
    Ok(records(store, task, record, &prefix).await?.into_iter().next())
}

async fn records(
    store: &FolderStore,
    task: &str,
    record: &LoadRecord,
    prefix: &str,
) -> Result<Vec<PartitionRecord>> {
    let mut records: BTreeMap<u32, PartitionRecord> = BTreeMap::new();
    for object in store.list(&layout::table_loads(store, task, &record.table.name)).await? {
        if object.location.filename().is_some_and(|name| name.starts_with(prefix)) {
            let found: PartitionRecord = store.get(&object.location).await?;
            // A run that was fenced may have left a second one: the first counts.
            records.entry(found.receipt.partition).or_insert(found);
        }
    }
    Ok(records.into_values().collect())
}

async fn table_progress(
    store: &FolderStore,
    task: &str,
    record: &LoadRecord,
) -> Result<TableProgress> {
    let records = partition_records(store, task, record).await?;
    let manifest = manifest(store, &record.table.name).await?;
    Ok(TableProgress {
        partitions: record.partitions.clone(),
        position: record.position.clone(),
        receipts: records.into_iter().map(|record| record.receipt).collect(),
        finished: manifest.is_some_and(|m| m.task == task && m.load == record.load),
    })
}

/// The manifest of a table, if it is complete.
pub(crate) async fn manifest(store: &FolderStore, table: &TableName) -> Result<Option<Manifest>> {
    let listed = store.list(&layout::table_manifests(store, table)).await?;
    match listed.last() {
        Some(newest) => store.get(&newest.location).await.map(Some),
        None => Ok(None),
    }
}
