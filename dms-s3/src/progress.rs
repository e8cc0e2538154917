//! What a folder holds of a task.

use std::collections::BTreeMap;
use std::time::Duration;

use dms_core::endpoint::{Run, TableProgress, TaskProgress};
use dms_core::schema::TableName;
use dms_core::{Error, ErrorKind, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};

use crate::error::convert;
use crate::layout;
use crate::manifest::{Claim, LoadRecord, Manifest, PartitionRecord, VERSION};
use crate::store::{FolderStore, READS_AT_ONCE};

/// The newest claim in a place; 0 before the first.
async fn newest_claim(store: &FolderStore, place: &Path) -> Result<u64> {
    let claims = store.list(place).await?;
    Ok(claims.iter().filter_map(|claim| layout::claim_number(&claim.location)).max().unwrap_or(0))
}

/// How often a number is claimed. Each try that fails means that somebody else has claimed it.
const CLAIM_TRIES: u64 = 100;

/// Claims the next number of a place, which nobody else gets: of two that claim at once one creates
/// the object, the other counts on.
async fn claim(store: &FolderStore, place: &Path, task: &str) -> Result<u64> {
    let claim = Claim { version: VERSION, task: task.to_owned() };
    for tries in 0..CLAIM_TRIES {
        let number = newest_claim(store, place).await? + 1;
        let path = layout::claim(place, number);
        if !store.put(&path, &claim, true).await? {
            tokio::time::sleep(Duration::from_millis(tries.min(20))).await;
            continue;
        }
        store.check_conditional(&path, &claim).await?;
        // A claim that is not the newest may be one that was given out before and removed since.
        if newest_claim(store, place).await? == number {
            for old in store.list(place).await? {
                if layout::claim_number(&old.location).is_some_and(|old| old < number) {
                    store.delete(&old.location).await?;
                }
            }
            return Ok(number);
        }
    }
    // A listing without what a write was refused for would let this go on without end.
    Err(Error::new(
        ErrorKind::Connection,
        format!(
            "no number could be claimed in {place}: the store says that each is taken, though it \
             lists none; is something removing objects below _dms?"
        ),
    )
    .transient())
}

fn begins(object: &ObjectMeta, prefix: &str) -> bool {
    object.location.filename().is_some_and(|name| name.starts_with(prefix))
}

/// Claims the task and reads what is there of it.
pub(crate) async fn begin(store: &FolderStore, task: &str) -> Result<TaskProgress> {
    let epoch = claim(store, &layout::epochs(store, task), task).await?;
    let tables = tables(store, task).await?;
    Ok(TaskProgress { run: Run { task: task.to_owned(), epoch }, tables })
}

/// What there is of each table of a task.
async fn tables(store: &FolderStore, task: &str) -> Result<BTreeMap<TableName, TableProgress>> {
    let records = load_records(store, task).await?;
    let tables = futures::stream::iter(records).map(|record| async move {
        let progress = table_progress(store, task, &record).await?;
        Ok::<_, Error>((record.table.name, progress))
    });
    tables.buffered(READS_AT_ONCE).try_collect().await
}

/// Claims a generation of a table.
pub(crate) async fn claim_generation(
    store: &FolderStore,
    task: &str,
    table: &TableName,
) -> Result<u64> {
    claim(store, &layout::generations(store, table), task).await
}

/// Whether any task has ever begun to write the table.
pub(crate) async fn is_known(store: &FolderStore, table: &TableName) -> Result<bool> {
    Ok(newest_claim(store, &layout::generations(store, table)).await? > 0)
}

/// When a run claimed its task, by the store's clock, in microseconds since 1970.
pub(crate) async fn begun_at(store: &FolderStore, run: &Run) -> Result<i64> {
    let claim = layout::claim(&layout::epochs(store, &run.task), run.epoch);
    match store.inner().head(&claim).await {
        Ok(claim) => Ok(claim.last_modified.timestamp_micros()),
        Err(object_store::Error::NotFound { .. }) => Err(run.fenced()),
        Err(error) => Err(convert(error, &format!("{claim} cannot be looked at"))),
    }
}

/// Refuses when a newer run has claimed the task.
pub(crate) async fn check_epoch(store: &FolderStore, run: &Run) -> Result<()> {
    if newest_claim(store, &layout::epochs(store, &run.task)).await? == run.epoch {
        return Ok(());
    }
    Err(run.fenced())
}

/// The newest load of each table of a task.
pub(crate) async fn load_records(store: &FolderStore, task: &str) -> Result<Vec<LoadRecord>> {
    let mut newest: BTreeMap<TableName, LoadRecord> = BTreeMap::new();
    let mut listed = store.list(&layout::loads(store, task)).await?;
    listed.retain(|object| begins(object, "load-"));
    for record in store.get_all::<LoadRecord>(listed).await? {
        // In the order of paths, so that the highest load comes last.
        newest.insert(record.table.name.clone(), record);
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
    match listed.iter().rev().find(|object| begins(object, "load-")) {
        Some(object) => store.get(&object.location).await,
        None => Err(Error::schema("the table was not prepared").context("table", table)),
    }
}

/// Refuses when the run was fenced, or another task has begun the table anew.
pub(crate) async fn check_load(store: &FolderStore, run: &Run, record: &LoadRecord) -> Result<()> {
    check_epoch(store, run).await?;
    let place = layout::load(store, &run.task, &record.table.name, record.load);
    if store.exists(&place).await? {
        return Ok(());
    }
    let message = "the table is being loaded anew, by another task perhaps; this load ends here";
    Err(Error::new(ErrorKind::Stopped, message).context("table", &record.table.name))
}

/// The records that any task has of loads of a table: each load's own before its receipts, which
/// mean nothing without it.
pub(crate) async fn records_of_loads(store: &FolderStore, table: &TableName) -> Result<Vec<Path>> {
    let mut records = Vec::new();
    for task in store.folders(&layout::tasks(store)).await? {
        let listed = store.list(&layout::loads_below(&task, table)).await?;
        records.extend(listed.into_iter().map(|object| object.location));
    }
    Ok(records)
}

/// The number of a table's newest load by a task; 0 without one.
pub(crate) async fn newest_load(store: &FolderStore, task: &str, table: &TableName) -> Result<u64> {
    match load_record(store, task, table).await {
        Ok(record) => Ok(record.load),
        Err(error) if error.kind() == ErrorKind::Schema => Ok(0),
        Err(error) => Err(error),
    }
}

/// What there is of a task, without a claim; `None` if it was never begun.
pub(crate) async fn look_up(store: &FolderStore, task: &str) -> Result<Option<TaskProgress>> {
    let epoch = newest_claim(store, &layout::epochs(store, task)).await?;
    if epoch == 0 {
        return Ok(None);
    }
    let tables = tables(store, task).await?;
    Ok(Some(TaskProgress { run: Run { task: task.to_owned(), epoch }, tables }))
}

/// Removes the records of a task's loads, of some tables or all; the files stay until the next load
/// of the table begins.
pub(crate) async fn forget_loads(
    store: &FolderStore,
    task: &str,
    tables: Option<&[TableName]>,
) -> Result<()> {
    let places = match tables {
        None => vec![layout::loads(store, task)],
        Some(tables) => tables.iter().map(|t| layout::table_loads(store, task, t)).collect(),
    };
    for place in places {
        for object in store.list(&place).await? {
            store.delete(&object.location).await?;
        }
    }
    Ok(())
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
    let mut listed = store.list(&layout::table_loads(store, task, &record.table.name)).await?;
    listed.retain(|object| begins(object, prefix));
    for found in store.get_all::<PartitionRecord>(listed).await? {
        // A run that was fenced may have left a second one: the first counts.
        records.entry(found.receipt.partition).or_insert(found);
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
    let mut listed = store.list(&layout::table_manifests(store, table)).await?;
    listed.retain(|object| layout::is_manifest(&object.location));
    let newest = listed.pop();
    Ok(store.get_all(newest.into_iter().collect()).await?.pop())
}
