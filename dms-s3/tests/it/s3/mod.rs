//! S3 itself, spoken over HTTP to a server in this process.

mod bucket;
mod death;
#[cfg(feature = "gcp")]
mod google;
mod race;
mod server;

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use dms_core::ErrorKind;
use dms_core::conformance::run;
use dms_core::endpoint::{EndpointSettings, Registry, Target};
use dms_core::full_load::FullLoad;
use dms_core::mapping::{Selection, TableMapping};
use dms_core::memory::{MemorySource, MemoryTarget};
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_s3::{CONNECTORS, DataFormat, FolderSettings, FolderSource, FolderStore, FolderTarget};
use object_store::path::Path;
use tokio_util::sync::CancellationToken;

use self::bucket::{Bucket, Quirk};
use self::server::{SECRET, Server};
use crate::conformance::{Store, settings};

async fn conforms(settings: FolderSettings) {
    let bucket = Arc::new(Bucket::default());
    let server = Server::start(&bucket).await;
    let store = Arc::new(server.client().build().unwrap());
    run(&Store { store, prefix: Path::from("deep/prefix"), settings }).await;
    assert!(bucket.keys().iter().all(|key| key.starts_with("deep/prefix/")));
    // What one table does concerns no other, whatever the names.
    let first = "deep/prefix/_dms/tables/shop/awkward_0_".to_owned();
    assert!(bucket.keys().iter().any(|key| key.starts_with(&first)), "{:?}", bucket.keys());
    assert!(bucket.requests() > 1000, "all of it went over the wire");
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_in_a_bucket_conforms() {
    conforms(settings(DataFormat::Parquet)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_in_a_bucket_conforms() {
    conforms(settings(DataFormat::Csv)).await;
}

fn table() -> TableSchema {
    let id = Column::new("id", LogicalType::Int64).required();
    TableSchema::new(TableName::new("shop", "items"), vec![id]).with_primary_key(["id"])
}

fn thousand_rows() -> Arc<MemorySource> {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
    let batch = RecordBatch::try_new(table().arrow_schema(), vec![ids]).unwrap();
    let source = MemorySource::default();
    source.insert(table(), vec![batch]);
    Arc::new(source)
}

/// By URL and options, as a task names endpoints: into the bucket, and out of it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_url_with_options_is_loaded_and_read() {
    let bucket = Arc::new(Bucket::default());
    let server = Server::start(&bucket).await;
    let mut endpoint = server.endpoint("s3://lake/raw/a b", SECRET);
    endpoint.options.insert("compression".to_owned(), "zstd".into());
    let registry = Registry::new(CONNECTORS.iter().copied());
    let all = || TableMapping::new().include("shop", "%");
    let target = registry.target(&endpoint).await.unwrap();
    assert!(target.info().address.contains("s3://lake/raw"), "{}", target.info().address);
    target.check().await.unwrap();
    let task = FullLoad::new(thousand_rows(), target, all()).named("in");
    let report = task.run(CancellationToken::new()).await.unwrap();
    assert!(report.tables.iter().all(|table| table.error.is_none()), "{report:?}");
    assert!(bucket.keys().contains(&"raw/a b/shop/items/LOAD00000001.parquet".to_owned()));
    let back = MemoryTarget::default();
    let source = registry.source(&endpoint).await.unwrap();
    let task = FullLoad::new(source, Arc::new(back.clone()), all()).named("out");
    task.run(CancellationToken::new()).await.unwrap();
    let rows = back.table(&table().name).unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1000);
}

/// All that a log or a person may see of an error.
fn all_said(error: &dms_core::Error) -> String {
    let mut said = format!("{error} {error:?} {error:#?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        said += &format!(" {error} {error:?}");
        cause = error.source();
    }
    said
}

/// What each first contact says, and that it says it at once.
async fn refused(endpoint: &EndpointSettings) -> dms_core::Error {
    let registry = Registry::new(CONNECTORS.iter().copied());
    let begun = Instant::now();
    let target = registry.target(endpoint).await.unwrap();
    let error = target.check().await.unwrap_err();
    let begin = target.begin("task").await.unwrap_err();
    let source = registry.source(endpoint).await.unwrap();
    let discover = source.discover(&Selection::all()).await.unwrap_err();
    for other in [&begin, &discover] {
        assert_eq!(other.kind(), error.kind(), "{other}");
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(!error.is_transient(), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_denied_and_not_repeated() {
    const WRONG: &str = "not-the-secret-at-all";
    let server = Server::start(&Arc::default()).await;
    let endpoint = server.endpoint("s3://lake/raw", WRONG);
    let error = refused(&endpoint).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("check the credentials"), "{error}");
    let mut said = all_said(&error);
    let registry = Registry::new(CONNECTORS.iter().copied());
    said += &format!("{:?}", registry.target(&endpoint).await.unwrap().info());
    let settings = FolderSettings::from_endpoint(&endpoint).unwrap();
    let store = FolderStore::open(&settings).unwrap();
    said += &format!("{endpoint:?} {settings:?} {store:?}");
    said += &format!("{:?}", FolderTarget::new(store.clone(), settings.clone()).unwrap());
    said += &format!("{:?}", FolderSource::new(store, settings));
    assert!(!said.contains(WRONG), "{said}");
}

/// A machine that offers no credentials, which is where a store looks that was given none.
#[tokio::test(flavor = "multi_thread")]
async fn missing_credentials_are_told() {
    let server = Server::start(&Arc::default()).await;
    // Nobody listens at the port of a server that is gone.
    let nobody = Server::start(&Arc::default()).await.url();
    let client = server.client_without_credentials().with_metadata_endpoint(nobody);
    let store = FolderStore::with_store(Arc::new(client.build().unwrap()), Path::default());
    let target = FolderTarget::new(store, FolderSettings::default()).unwrap();
    let error = target.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("no credentials were given"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_named() {
    let server = Server::start(&Arc::default()).await;
    let error = refused(&server.endpoint("s3://pond/raw", SECRET)).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("bucket does not exist"), "{error}");
}

/// Two runs could not be told apart in a store that creates what is there already.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_conditional_writes_is_refused() {
    let bucket = Arc::new(Bucket::with(Quirk::IgnoresConditions));
    let server = Server::start(&bucket).await;
    let endpoint = server.endpoint("s3://lake/raw", SECRET);
    let target = Registry::new(CONNECTORS.iter().copied()).target(&endpoint).await.unwrap();
    let error = target.begin("task").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("conditional"), "{error}");
}

/// A key that may write and not delete is told so, by a store whose answer is a success.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_delete_is_denied() {
    let bucket = Arc::new(Bucket::with(Quirk::ForbidsDeletes));
    let server = Server::start(&bucket).await;
    let endpoint = server.endpoint("s3://lake/raw", SECRET);
    let target = Registry::new(CONNECTORS.iter().copied()).target(&endpoint).await.unwrap();
    target.begin("task").await.unwrap();
    // The second claim removes the first.
    let error = target.begin("task").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("right to delete"), "{error}");
}
