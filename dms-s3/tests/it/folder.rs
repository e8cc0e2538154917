//! What the conformance suite does not say: layout, leftovers, damage and strangers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, LargeBinaryArray, RecordBatch};
use dms_core::ErrorKind;
use dms_core::batch::BatchStream;
use dms_core::endpoint::{
    EndpointSettings, Partition, ReadRequest, Run, Source, TablePrepMode, Target,
};
use dms_core::mapping::Selection;
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_s3::{FolderSettings, FolderSource, FolderTarget};
use futures::{StreamExt, TryStreamExt};

fn url(folder: &Path) -> String {
    format!("file://{}", folder.display())
}

fn table() -> TableSchema {
    TableSchema::new(
        TableName::new("shop", "items"),
        vec![Column::new("id", LogicalType::Int64).required()],
    )
}

fn batch() -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
    RecordBatch::try_new(table().arrow_schema(), vec![ids]).unwrap()
}

async fn begin(target: &FolderTarget, task: &str, mode: TablePrepMode) -> dms_core::Result<Run> {
    let run = target.begin(task).await?.run;
    target.prepare(&run, &table(), mode, &[Partition::whole()], None).await?;
    Ok(run)
}

async fn load(target: &FolderTarget, run: &Run) {
    let stream = BatchStream::from_batches(table().arrow_schema(), vec![batch()]);
    target.load(run, &table(), &Partition::whole(), None, stream).await.unwrap();
}

async fn loaded(folder: &Path) {
    let target = FolderTarget::open(&url(folder)).unwrap();
    let run = begin(&target, "first", TablePrepMode::DropAndCreate).await.unwrap();
    load(&target, &run).await;
    target.finish(&run, &table()).await.unwrap();
}

async fn read(folder: &Path) -> dms_core::Result<usize> {
    let source = FolderSource::open(&url(folder))?;
    let catalog = source.discover(&Selection::all()).await?;
    let snapshot = source.snapshot(&catalog.tables, 1).await?;
    let request = ReadRequest::whole(Arc::new(catalog.tables[0].clone()));
    let batches: Vec<RecordBatch> = snapshot.read(request).await?.try_collect().await?;
    Ok(batches.iter().map(RecordBatch::num_rows).sum())
}

fn data_file(folder: &Path) -> PathBuf {
    folder.join("shop/items/LOAD00000001.parquet")
}

#[tokio::test]
async fn files_have_the_names_that_dms_gives_them() {
    let folder = tempfile::tempdir().unwrap();
    loaded(folder.path()).await;
    assert!(data_file(folder.path()).exists());
    assert_eq!(read(folder.path()).await.unwrap(), 1000);
}

#[tokio::test]
async fn what_is_not_finished_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let target = FolderTarget::open(&url(folder.path())).unwrap();
    let run = begin(&target, "first", TablePrepMode::DropAndCreate).await.unwrap();
    load(&target, &run).await;
    let error = read(folder.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no manifest"), "{error}");
    target.finish(&run, &table()).await.unwrap();
    assert_eq!(read(folder.path()).await.unwrap(), 1000);
}

#[tokio::test]
async fn files_that_no_receipt_names_go_when_the_table_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let target = FolderTarget::open(&url(folder.path())).unwrap();
    let run = begin(&target, "first", TablePrepMode::DropAndCreate).await.unwrap();
    load(&target, &run).await;
    let left = folder.path().join("shop/items/LOAD000000FF.parquet");
    fs::write(&left, "of a run that was killed").unwrap();
    target.finish(&run, &table()).await.unwrap();
    assert!(!left.exists() && data_file(folder.path()).exists());
}

#[tokio::test]
async fn a_table_whose_files_are_gone_is_not_finished() {
    let folder = tempfile::tempdir().unwrap();
    let target = FolderTarget::open(&url(folder.path())).unwrap();
    let run = begin(&target, "first", TablePrepMode::DropAndCreate).await.unwrap();
    load(&target, &run).await;
    let path = data_file(folder.path());
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..100]).unwrap();
    let cut = target.finish(&run, &table()).await.unwrap_err();
    fs::remove_file(&path).unwrap();
    let gone = target.finish(&run, &table()).await.unwrap_err();
    for (error, says) in [(cut, "100 bytes"), (gone, "gone")] {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(says) && error.to_string().contains("LOAD"), "{error}");
    }
    assert_eq!(read(folder.path()).await.unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(&path, &whole).unwrap();
    target.finish(&run, &table()).await.unwrap();
    assert_eq!(read(folder.path()).await.unwrap(), 1000);
}

#[tokio::test]
async fn strangers_files_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let strange = folder.path().join("shop/items/notes.txt");
    fs::create_dir_all(strange.parent().unwrap()).unwrap();
    fs::write(&strange, "do not delete").unwrap();
    let target = FolderTarget::open(&url(folder.path())).unwrap();
    for mode in [TablePrepMode::DropAndCreate, TablePrepMode::TruncateBeforeLoad] {
        let error = begin(&target, "first", mode).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Constraint);
        assert!(error.to_string().contains("notes.txt"), "{error}");
    }
    fs::remove_file(&strange).unwrap();
    // Files named as DMS names them, but of no load of ours.
    let load = folder.path().join("shop/items/LOAD00000001.parquet");
    fs::write(&load, "of AWS").unwrap();
    let error = begin(&target, "first", TablePrepMode::DropAndCreate).await.unwrap_err();
    assert!(error.to_string().contains("LOAD00000001"), "{error}");
    assert_eq!(fs::read(&load).unwrap(), b"of AWS");
}

#[tokio::test]
async fn another_tasks_table_is_replaced_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    loaded(folder.path()).await;
    let target = FolderTarget::open(&url(folder.path())).unwrap();
    let error = begin(&target, "second", TablePrepMode::DoNothing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
    assert_eq!(read(folder.path()).await.unwrap(), 1000);
    begin(&target, "second", TablePrepMode::DropAndCreate).await.unwrap();
    assert!(read(folder.path()).await.is_err(), "the old table is gone, the new one not there yet");
}

#[tokio::test]
async fn damage_is_seen_before_a_row_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    loaded(folder.path()).await;
    let path = data_file(folder.path());
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (bytes, says) in [
        (Some(flipped), "checksum"),
        (Some(whole[..whole.len() - 1].to_vec()), "bytes"),
        (None, "gone"),
    ] {
        match bytes {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = read(folder.path()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(says) && error.to_string().contains("LOAD"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_200_megabytes_passes() {
    let folder = tempfile::tempdir().unwrap();
    let table = TableSchema::new(
        TableName::new("shop", "items"),
        vec![Column::new("b", LogicalType::Blob)],
    );
    let blob: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values([vec![7u8; 200 << 20]]));
    let batch = RecordBatch::try_new(table.arrow_schema(), vec![blob]).unwrap();
    let target = FolderTarget::open(&url(folder.path())).unwrap();
    let run = target.begin("blob").await.unwrap().run;
    let whole = [Partition::whole()];
    target.prepare(&run, &table, TablePrepMode::DropAndCreate, &whole, None).await.unwrap();
    let stream = BatchStream::from_batches(table.arrow_schema(), vec![batch.clone()]);
    target.load(&run, &table, &whole[0], None, stream).await.unwrap();
    target.finish(&run, &table).await.unwrap();
    let source = FolderSource::open(&url(folder.path())).unwrap();
    let snapshot = source.snapshot(&[], 1).await.unwrap();
    let mut stream = snapshot.read(ReadRequest::whole(Arc::new(table))).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), batch);
}

#[test]
fn wrong_settings_and_missing_features_say_so() {
    let read = |url: &str, option: (&str, serde_json::Value)| {
        let mut endpoint = EndpointSettings::new(url);
        endpoint.options.insert(option.0.to_owned(), option.1);
        FolderSettings::from_endpoint(&endpoint).map(|_| ()).unwrap_err().to_string()
    };
    let near = read("file:///x", ("compresion", "zstd".into()));
    assert!(near.contains("did you mean \"compression\""), "{near}");
    let level = read("file:///x", ("compression-level", 99.into()));
    assert!(level.contains("1 to 22"), "{level}");
    let null = read("file:///x", ("csv-null-value", "a,b".into()));
    assert!(null.contains("csv-null-value"), "{null}");
    #[cfg(not(feature = "gcp"))]
    {
        let error = FolderTarget::open("gs://bucket/x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("cargo feature gcp"), "{error}");
    }
}
