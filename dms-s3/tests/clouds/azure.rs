//! Azure Blob Storage.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::types::Int64Type;
use arrow::array::{ArrayRef, AsArray, Int64Array, LargeBinaryArray, RecordBatch};
use async_trait::async_trait;
use dms_core::ErrorKind;
use dms_core::batch::BatchStream;
use dms_core::conformance::{Fixture, run};
use dms_core::endpoint::{
    EndpointSettings, Partition, ReadRequest, Registry, Source, TablePrepMode, Target,
};
use dms_core::full_load::FullLoad;
use dms_core::mapping::{Selection, TableMapping};
use dms_core::memory::{MemorySource, MemoryTarget};
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_s3::CONNECTORS;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};
use tokio_util::sync::CancellationToken;

use super::azurite::{Azurite, SIGNATURE};

/// Opened by its URL each time, as a task does.
struct Endpoint(EndpointSettings);

#[async_trait]
impl Fixture for Endpoint {
    async fn target(&self) -> Arc<dyn Target> {
        Registry::new(CONNECTORS.iter().copied()).target(&self.0).await.unwrap()
    }

    async fn source(&self) -> Arc<dyn Source> {
        Registry::new(CONNECTORS.iter().copied()).source(&self.0).await.unwrap()
    }

    fn schema(&self) -> &str {
        "shop"
    }
}

impl Endpoint {
    fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.0.options.insert(name.to_owned(), value.into());
        self
    }
}

async fn objects(azurite: &Azurite) -> Vec<ObjectMeta> {
    azurite.client().list(None).try_collect().await.unwrap()
}

async fn conforms(format: &str) {
    let azurite = Azurite::start().await;
    // Several row groups and files even of small tables.
    let endpoint = Endpoint(azurite.endpoint("az://lake/deep/prefix"))
        .with("data-format", format)
        .with("row-group-rows", 200)
        .with("max-file-size-bytes", 4096);
    run(&endpoint).await;
    let objects = objects(&azurite).await;
    assert!(objects.iter().all(|object| object.location.as_ref().starts_with("deep/prefix/")));
    let data = |object: &&ObjectMeta| object.location.as_ref().ends_with(format);
    assert!(objects.iter().filter(data).count() > 20, "it all went to the emulator");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Azurite: scripts/test-clouds"]
async fn parquet_in_a_container_conforms() {
    conforms("parquet").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Azurite: scripts/test-clouds"]
async fn csv_in_a_container_conforms() {
    conforms("csv").await;
}

const ROWS: i64 = 400;
const BLOB_BYTES: usize = 64 << 10;

fn pictures() -> TableSchema {
    let columns = vec![
        Column::new("id", LogicalType::Int64).required(),
        Column::new("bytes", LogicalType::Blob),
    ];
    TableSchema::new(TableName::new("shop", "pictures"), columns).with_primary_key(["id"])
}

fn picture(id: i64) -> Vec<u8> {
    vec![u8::try_from(id % 256).unwrap(); BLOB_BYTES]
}

/// 26 MB, which go up as several blocks.
fn pictures_rows() -> Vec<RecordBatch> {
    let batches = (0..ROWS).step_by(10).map(|from| {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 10));
        let blobs = (from..from + 10).map(picture);
        let blobs: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values(blobs));
        RecordBatch::try_new(pictures().arrow_schema(), vec![ids, blobs]).unwrap()
    });
    batches.collect()
}

fn of_blocks(azurite: &Azurite) -> Endpoint {
    Endpoint(azurite.endpoint("az://lake/raw/a b"))
        .with("compression", "none")
        .with("dictionary", "off")
}

/// A file of several blocks, in by one task and out by another.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Azurite: scripts/test-clouds"]
async fn a_file_of_several_blocks_comes_back() {
    let azurite = Azurite::start().await;
    let endpoint = of_blocks(&azurite);
    let source = MemorySource::default();
    source.insert(pictures(), pictures_rows());
    let all = || TableMapping::new().include("shop", "%");
    let target = endpoint.target().await;
    target.check().await.unwrap();
    assert!(target.info().address.contains("az://lake/raw"), "{}", target.info().address);
    let task = FullLoad::new(Arc::new(source), target, all()).named("in");
    let report = task.run(CancellationToken::new()).await.unwrap();
    assert!(report.tables.iter().all(|table| table.error.is_none()), "{report:?}");
    let objects = objects(&azurite).await;
    let file = "raw/a b/shop/pictures/LOAD00000001.parquet";
    let file = objects.iter().find(|object| object.location.as_ref() == file).unwrap();
    assert!(file.size > 20 << 20, "{file:?}");
    let back = MemoryTarget::default();
    // By a signature this time. Azurite takes none for deletions, so not for loads.
    let url = &endpoint.0.url;
    let endpoint = Endpoint(azurite.endpoint_with(url, ("sas-key", SIGNATURE)));
    let task = FullLoad::new(endpoint.source().await, Arc::new(back.clone()), all()).named("out");
    let report = task.run(CancellationToken::new()).await.unwrap();
    assert!(report.tables.iter().all(|table| table.error.is_none()), "{report:?}");
    let mut ids: Vec<i64> = Vec::new();
    for batch in back.table(&pictures().name).unwrap() {
        let batch_ids = batch.column(0).as_primitive::<Int64Type>().values();
        for (id, bytes) in batch_ids.iter().zip(batch.column(1).as_binary::<i64>()) {
            assert_eq!(bytes.unwrap(), picture(*id), "{id}");
        }
        ids.extend(batch_ids);
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..ROWS).collect::<Vec<_>>());
}

/// Blocks that no list names are no object, and harm none that is written later in their place.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Azurite: scripts/test-clouds"]
async fn an_upload_given_up_leaves_nothing() {
    let azurite = Azurite::start().await;
    let endpoint = of_blocks(&azurite);
    let target = endpoint.target().await;
    let run = target.begin("task").await.unwrap().run;
    let whole = [Partition::whole()];
    let mode = TablePrepMode::DropAndCreate;
    target.prepare(&run, &pictures(), mode, &whole, None).await.unwrap();
    let broken = pictures_rows().into_iter().map(Ok);
    let broken = broken.chain([Err(dms_core::Error::data("a value that does not fit"))]);
    let broken: Vec<_> = broken.collect();
    let stream = BatchStream::new(pictures().arrow_schema(), futures::stream::iter(broken));
    let error = target.load(&run, &pictures(), &whole[0], None, stream).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    let data = |object: &ObjectMeta| object.location.as_ref().contains("pictures/LOAD");
    assert!(!objects(&azurite).await.iter().any(data));
    let stream = BatchStream::from_batches(pictures().arrow_schema(), pictures_rows());
    target.load(&run, &pictures(), &whole[0], None, stream).await.unwrap();
    target.finish(&run, &pictures()).await.unwrap();
    let source = endpoint.source().await;
    let snapshot = source.snapshot(&[pictures()], 1).await.unwrap();
    let request = ReadRequest::whole(Arc::new(pictures()));
    let rows: Vec<RecordBatch> = snapshot.read(request).await.unwrap().try_collect().await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 400);
}

/// Conditional writes hold: of runs that begin at once no two get one number.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Azurite: scripts/test-clouds"]
async fn runs_that_begin_at_once_are_told_apart() {
    const RUNS: usize = 8;
    let azurite = Azurite::start().await;
    let endpoint = Endpoint(azurite.endpoint("az://lake"));
    let begun = (0..RUNS).map(|_| async {
        let target = endpoint.target().await;
        target.begin("task").await.unwrap().run.epoch
    });
    let begun = futures::stream::iter(begun).buffer_unordered(RUNS);
    let epochs: BTreeSet<u64> = begun.collect().await;
    assert_eq!(epochs.len(), RUNS, "{epochs:?}");
}

/// Names that Azure's URLs could take for something else.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Azurite: scripts/test-clouds"]
async fn tables_of_any_name_come_back() {
    let azurite = Azurite::start().await;
    let endpoint = Endpoint(azurite.endpoint("az://lake/raw%231/x"));
    let tables = [
        ("_dms", "tables"),
        ("", "items"),
        ("shop", ""),
        (".", ".."),
        ("a.", "b."),
        ("a/b", "c"),
        ("a", "b/c"),
        ("a%2Fb", "c"),
        ("a\\b", "c?d&e=f"),
        ("x#1", "y#1"),
        (" a ", "b+c"),
        ("Größe", "表 \u{1F600}"),
    ];
    let table = |(schema, name)| {
        let id = Column::new("id", LogicalType::Int64).required();
        TableSchema::new(TableName::new(schema, name), vec![id])
    };
    let target = endpoint.target().await;
    for (rows, name) in (1..).zip(tables) {
        let table = table(name);
        let run = target.begin("names").await.unwrap().run;
        let whole = [Partition::whole()];
        let mode = TablePrepMode::DropAndCreate;
        target.prepare(&run, &table, mode, &whole, None).await.unwrap();
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        let batch = RecordBatch::try_new(table.arrow_schema(), vec![ids]).unwrap();
        let stream = BatchStream::from_batches(table.arrow_schema(), vec![batch]);
        target.load(&run, &table, &whole[0], None, stream).await.unwrap();
        target.finish(&run, &table).await.unwrap();
    }
    let objects = objects(&azurite).await;
    let below = |object: &ObjectMeta| object.location.as_ref().starts_with("raw#1/x/");
    assert!(objects.iter().all(below), "{objects:?}");
    let source = endpoint.source().await;
    let catalog = source.discover(&Selection::all()).await.unwrap();
    assert_eq!(catalog.tables.len(), tables.len());
    let snapshot = source.snapshot(&[], 1).await.unwrap();
    for (expected, name) in (1..).zip(tables) {
        let request = ReadRequest::whole(Arc::new(table(name)));
        let read: Vec<RecordBatch> =
            snapshot.read(request).await.unwrap().try_collect().await.unwrap();
        assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), expected, "{name:?}");
    }
}

/// What each first contact says, and that it says it at once and names no secret.
async fn refused(endpoint: EndpointSettings, secret: &str) -> dms_core::Error {
    let endpoint = Endpoint(endpoint);
    let begun = Instant::now();
    let (target, source) = (endpoint.target().await, endpoint.source().await);
    let error = target.check().await.unwrap_err();
    let begin = target.begin("task").await.unwrap_err();
    let discover = source.discover(&Selection::all()).await.err().unwrap();
    let mut said = format!("{:?} {:?} {:?}", endpoint.0, target.info(), source.info());
    for each in [&error, &begin, &discover] {
        assert_eq!(each.kind(), error.kind(), "{each}");
        said += &format!(" {each} {each:?} {each:#?}");
        let mut cause = each.source();
        while let Some(each) = cause {
            said += &format!(" {each} {each:?}");
            cause = each.source();
        }
    }
    assert!(!said.contains(secret), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(!error.is_transient(), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Azurite: scripts/test-clouds"]
async fn wrong_credentials_are_denied_and_not_shown() {
    const WRONG: &str = "bm90LXRoZS1rZXktYXQtYWxs";
    let azurite = Azurite::start().await;
    let (signed, _) = SIGNATURE.split_once("sig=").unwrap();
    for (name, value) in [("account-key", WRONG), ("sas-key", &format!("{signed}sig={WRONG}"))] {
        let error = refused(azurite.endpoint_with("az://lake/raw", (name, value)), WRONG).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{name}: {error}");
        assert!(error.to_string().contains("check the credentials"), "{name}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Azurite: scripts/test-clouds"]
async fn a_missing_container_is_named() {
    let azurite = Azurite::start().await;
    let error =
        refused(azurite.endpoint("az://pond/raw"), "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1").await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("bucket does not exist"), "{error}");
}
