//! The server dies in the middle of an upload or of a read.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::types::Int64Type;
use arrow::array::{ArrayRef, AsArray, Int64Array, LargeBinaryArray, RecordBatch};
use dms_core::ErrorKind;
use dms_core::endpoint::{ReadRequest, Source};
use dms_core::full_load::FullLoad;
use dms_core::mapping::{Selection, TableMapping};
use dms_core::memory::MemorySource;
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_core::task::TaskSettings;
use dms_s3::{Compression, FolderSettings, FolderSource, FolderStore, FolderTarget};
use futures::TryStreamExt;
use object_store::path::Path;
use tokio_util::sync::CancellationToken;

use super::bucket::{Bucket, Point};
use super::server::Server;

const ROWS: i64 = 400;
const BLOB_BYTES: usize = 64 << 10;

fn table() -> TableSchema {
    let columns = vec![
        Column::new("id", LogicalType::Int64).required(),
        Column::new("bytes", LogicalType::Blob),
    ];
    TableSchema::new(TableName::new("shop", "pictures"), columns).with_primary_key(["id"])
}

fn rows() -> MemorySource {
    let batches = (0..ROWS).step_by(10).map(|from| {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 10));
        let blobs = (from..from + 10).map(|id| vec![u8::try_from(id % 256).unwrap(); BLOB_BYTES]);
        let blobs: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values(blobs));
        RecordBatch::try_new(table().arrow_schema(), vec![ids, blobs]).unwrap()
    });
    let source = MemorySource::default();
    source.insert(table(), batches.collect());
    source
}

fn store(server: &Server) -> FolderStore {
    let store = server.client().build().unwrap();
    FolderStore::with_store(Arc::new(store), Path::from("raw"))
}

/// Files of two parts: 26 MB in two partitions of a file each.
async fn load(server: &Server) -> dms_core::Result<()> {
    let mut settings = FolderSettings::default();
    settings.compression = Compression::None;
    settings.dictionary = dms_s3::Dictionary::Off;
    let target = FolderTarget::new(store(server), settings)?;
    let mut settings = TaskSettings::default();
    settings.parallel = 1;
    settings.partition_bytes = 250 * BLOB_BYTES as u64;
    settings.retries = 1;
    settings.retry_interval = Duration::from_millis(1);
    let tables = TableMapping::new().include("shop", "%");
    let task = FullLoad::new(Arc::new(rows()), Arc::new(target), tables).named("death");
    let report = task.with_settings(settings).run(CancellationToken::new()).await?;
    report.tables.into_iter().find_map(|table| table.error).map_or(Ok(()), Err)
}

/// The ids that a reader finds.
async fn read(server: &Server) -> dms_core::Result<Vec<i64>> {
    let source = FolderSource::new(store(server), FolderSettings::default());
    let catalog = source.discover(&Selection::all()).await?;
    let snapshot = source.snapshot(&catalog.tables, 1).await?;
    let request = ReadRequest::whole(Arc::new(catalog.tables[0].clone()));
    let batches: Vec<RecordBatch> = snapshot.read(request).await?.try_collect().await?;
    let ids = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values());
    let mut ids: Vec<i64> = ids.copied().collect();
    ids.sort_unstable();
    Ok(ids)
}

async fn dies_at(point: Point, nth: u32) {
    let bucket = Arc::new(Bucket::default());
    let server = Server::start(&bucket).await;
    bucket.die_at(point, nth);
    let error = load(&server).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{point:?} {nth}: {error}");
    assert!(error.is_transient(), "{error}");
    // The bucket is served again. An upload that was not completed is no object.
    let server = Server::start(&bucket).await;
    let unfinished = bucket.uploads();
    assert_eq!(unfinished, usize::from(point != Point::Completed), "{point:?} {nth}");
    let error = read(&server).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "nothing is complete: {error}");
    load(&server).await.unwrap();
    assert_eq!(read(&server).await.unwrap(), (0..ROWS).collect::<Vec<_>>());
    let data = |key: &String| key.starts_with("raw/shop/");
    let files = bucket.keys().into_iter().filter(data).count();
    assert_eq!(files, 2, "what no manifest names is gone: {:?}", bucket.keys());
}

/// In the first and in the second file, before and after the moment that counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_an_upload_leaves_nothing_half() {
    for (point, nth) in [
        (Point::Part, 1),
        (Point::Part, 2),
        (Point::Part, 3),
        (Point::Completing, 1),
        (Point::Completing, 2),
        (Point::Completed, 1),
        (Point::Completed, 2),
    ] {
        dies_at(point, nth).await;
    }
}

/// A connection that breaks is no damage of the file: the same read may succeed later.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_a_read_is_not_taken_for_damage() {
    let bucket = Arc::new(Bucket::default());
    load(&Server::start(&bucket).await).await.unwrap();
    // With checksums the whole file comes first; then its end, its footer and its row groups.
    for (verify, nth) in [(true, 1), (true, 2), (false, 1), (false, 2), (false, 3), (false, 4)] {
        let server = Server::start(&bucket).await;
        let mut settings = FolderSettings::default();
        settings.verify_checksums = verify;
        let source = FolderSource::new(store(&server), settings);
        let catalog = source.discover(&Selection::all()).await.unwrap();
        let snapshot = source.snapshot(&catalog.tables, 1).await.unwrap();
        bucket.die_at(Point::Get, nth);
        let request = ReadRequest::whole(Arc::new(catalog.tables[0].clone()));
        let stream = snapshot.read(request).await.unwrap();
        let error = stream.try_collect::<Vec<RecordBatch>>().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{nth}: {error}");
        assert!(error.is_transient() && error.to_string().contains("LOAD"), "{nth}: {error}");
    }
    assert_eq!(read(&Server::start(&bucket).await).await.unwrap().len(), 400);
}
