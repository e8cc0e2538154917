//! What a source promises beyond the conformance suite: bounded batches, and no row of a table that
//! is not the one that was asked for.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use dms_core::ErrorKind;
use dms_core::batch::{BatchLimit, BatchStream};
use dms_core::endpoint::{
    Partition, PartitionGoal, ReadRequest, Snapshot, Source, TablePrepMode, Target,
};
use dms_core::mapping::{ParallelLoad, Selection};
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_s3::{FolderSettings, FolderSource, FolderStore, FolderTarget};
use futures::TryStreamExt;

fn table(columns: [&str; 2]) -> TableSchema {
    let columns = columns.map(|name| Column::new(name, LogicalType::text()));
    TableSchema::new(TableName::new("shop", "items"), columns.into_iter().collect())
}

fn batch(table: &TableSchema, rows: usize, text: &str) -> RecordBatch {
    let column = || -> ArrayRef { Arc::new(StringArray::from_iter_values(vec![text; rows])) };
    RecordBatch::try_new(table.arrow_schema(), vec![column(), column()]).unwrap()
}

async fn load(folder: &Path, table: &TableSchema, batches: Vec<RecordBatch>) {
    let mut settings = FolderSettings::new(format!("file://{}", folder.display()));
    settings.row_group_rows = 100_000;
    let target = FolderTarget::new(FolderStore::open(&settings).unwrap(), settings).unwrap();
    let run = target.begin("reading").await.unwrap().run;
    let whole = [Partition::whole()];
    target.prepare(&run, table, TablePrepMode::DropAndCreate, &whole, None).await.unwrap();
    let stream = BatchStream::from_batches(table.arrow_schema(), batches);
    target.load(&run, table, &whole[0], None, stream).await.unwrap();
    target.finish(&run, table).await.unwrap();
}

fn source(folder: &Path) -> Arc<FolderSource> {
    FolderSource::open(&format!("file://{}", folder.display())).unwrap()
}

async fn snapshot(folder: &Path) -> Arc<dyn Snapshot> {
    source(folder).snapshot(&[], 1).await.unwrap()
}

/// In a file, texts that repeat take next to no room; in memory each takes all of its own.
#[tokio::test]
async fn texts_that_repeat_do_not_come_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(["a", "b"]);
    // Many small rows, which keep the average small, and then a row group of large ones.
    let small = (0..40).map(|_| batch(&table, 10_000, "x"));
    let large = (0..64).map(|_| batch(&table, 10, &"y".repeat(64 << 10)));
    let batches = small.chain(large).collect();
    load(folder.path(), &table, batches).await;
    let mut request = ReadRequest::whole(Arc::new(table));
    request.limit = BatchLimit { rows: 65_536, bytes: 1 << 20 };
    let stream = snapshot(folder.path()).await.read(request).await.unwrap();
    let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 400_640);
    // The buffers behind a batch, not only the slice of them that it shows.
    let held = batches.iter().map(|batch| batch.column(0).get_buffer_memory_size());
    let most = held.max().unwrap();
    assert!(most <= 4 << 20, "{most} bytes at once");
}

/// Between discovery and snapshot the table is written anew, with its columns in another order.
#[tokio::test]
async fn a_table_that_has_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let before = table(["first", "last"]);
    load(folder.path(), &before, vec![batch(&before, 3, "x")]).await;
    let catalog = source(folder.path()).discover(&Selection::all()).await.unwrap();
    let after = table(["last", "first"]);
    load(folder.path(), &after, vec![batch(&after, 3, "y")]).await;
    let snapshot = snapshot(folder.path()).await;
    let goal = PartitionGoal { at_most: 4, bytes: 1, parallel_load: ParallelLoad::Auto };
    let error = snapshot.partitions(&catalog.tables[0], &goal).await;
    for error in
        [error.unwrap_err(), snapshot.read(ReadRequest::whole(Arc::new(before))).await.unwrap_err()]
    {
        assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
        assert!(error.to_string().contains("shop.items"), "{error}");
    }
    assert!(snapshot.read(ReadRequest::whole(Arc::new(after))).await.is_ok());
}

/// What a newer version writes may mean something else in words that this one knows.
#[tokio::test]
async fn a_manifest_of_a_newer_version_is_not_guessed_at() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(["a", "b"]);
    load(folder.path(), &table, vec![batch(&table, 3, "x")]).await;
    let path = folder.path().join("_dms/tables/shop/items/manifest-0000000001.json");
    let manifest = fs::read_to_string(&path).unwrap();
    for (version, kind) in [("2", ErrorKind::Unsupported), ("0", ErrorKind::Unsupported)] {
        let other = manifest.replacen("\"version\": 1", &format!("\"version\": {version}"), 1);
        assert_ne!(other, manifest);
        fs::write(&path, other).unwrap();
        let error = source(folder.path()).discover(&Selection::all()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("manifest-0000000001.json"), "{error}");
    }
}

/// Files that some program has put beside the manifests say nothing of tables.
#[tokio::test]
async fn what_is_no_manifest_is_not_read_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(["a", "b"]);
    load(folder.path(), &table, vec![batch(&table, 3, "x")]).await;
    for place in ["_dms/tables/.DS_Store", "_dms/tables/shop/items/zzz.json.bak"] {
        fs::write(folder.path().join(place), "of a file manager").unwrap();
    }
    let catalog = source(folder.path()).discover(&Selection::all()).await.unwrap();
    assert_eq!(catalog.tables.len(), 1);
    // The target looks at them too.
    load(folder.path(), &table, vec![batch(&table, 5, "x")]).await;
    let stream = snapshot(folder.path()).await.read(ReadRequest::whole(Arc::new(table))).await;
    let batches: Vec<RecordBatch> = stream.unwrap().try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 5);
}
