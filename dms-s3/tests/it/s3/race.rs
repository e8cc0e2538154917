//! Two runs in one place, interleaved at the requests where it hurts.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use dms_core::ErrorKind;
use dms_core::batch::BatchStream;
use dms_core::change::{ChangeBatch, ChangeRecord, ChangeRows, Identity, Operation, Transaction};
use dms_core::endpoint::{
    Apply, ChangeTarget, Partition, ReadRequest, Run, Source, Step, TablePrepMode, Target,
};
use dms_core::mapping::Selection;
use dms_core::position::Position;
use dms_core::value::Value;
use dms_s3::{FolderSettings, FolderSource, FolderStore, FolderTarget};
use futures::TryStreamExt;
use object_store::path::Path;
use serde_json::Value as Json;

use super::bucket::{Bucket, Pause};
use super::server::Server;
use super::table;

fn store(server: &Server) -> FolderStore {
    FolderStore::with_store(Arc::new(server.client().build().unwrap()), Path::from("raw"))
}

fn target(server: &Server) -> Arc<FolderTarget> {
    target_with(server, FolderSettings::default())
}

fn target_with(server: &Server, settings: FolderSettings) -> Arc<FolderTarget> {
    Arc::new(FolderTarget::new(store(server), settings).unwrap())
}

/// With files of changes beside those of the table, and with files of transactions.
fn layouts() -> [FolderSettings; 2] {
    let mut preserving = FolderSettings::default();
    preserving.preserve_transactions = true;
    preserving.cdc_path = Some("cdc".to_owned());
    [FolderSettings::default(), preserving]
}

/// The lines of the files of transactions that commits name.
fn lines(bucket: &Bucket) -> Vec<String> {
    let object = |key: &str| bucket.get(key).unwrap().bytes;
    let commits = bucket.keys().into_iter().filter(|key| key.contains("/changes/commits/"));
    let commits = commits.map(|key| serde_json::from_slice::<Json>(&object(&key)).unwrap());
    let acts = commits.flat_map(|commit| commit["acts"].as_array().unwrap().clone());
    let paths = acts.map(|act| act["transactions"]["path"].as_str().unwrap().to_owned());
    let lines = paths.flat_map(|path| {
        let text = String::from_utf8(object(&format!("raw/{path}")).to_vec()).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    lines.collect()
}

async fn prepare(target: &FolderTarget, run: &Run) -> dms_core::Result<()> {
    let whole = [Partition::whole()];
    target.prepare(run, &table(), TablePrepMode::DropAndCreate, &whole, None).await
}

async fn load(target: &FolderTarget, run: &Run, rows: i64) {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let batch = RecordBatch::try_new(table().arrow_schema(), vec![ids]).unwrap();
    let stream = BatchStream::from_batches(table().arrow_schema(), vec![batch]);
    target.load(run, &table(), &Partition::whole(), None, stream).await.unwrap();
}

async fn rows(server: &Server) -> usize {
    let source = FolderSource::new(store(server), FolderSettings::default());
    let catalog = source.discover(&Selection::all()).await.unwrap();
    let snapshot = source.snapshot(&catalog.tables, 1).await.unwrap();
    let request = ReadRequest::whole(Arc::new(catalog.tables[0].clone()));
    let batches: Vec<RecordBatch> =
        snapshot.read(request).await.unwrap().try_collect().await.unwrap();
    batches.iter().map(RecordBatch::num_rows).sum()
}

/// A task is about to remove what its manifest does not name, when another begins the table anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_finishing_task_removes_nothing_of_the_next() {
    let bucket = Arc::new(Bucket::default());
    let server = Server::start(&bucket).await;
    let (older, newer) = (target(&server), target(&server));
    let first = older.begin("first").await.unwrap().run;
    prepare(&older, &first).await.unwrap();
    load(&older, &first, 10).await;
    let pause = bucket.pause_at("raw/shop/items/", false);
    let finishing = tokio::spawn({
        let older = Arc::clone(&older);
        async move { older.finish(&first, &table()).await }
    });
    pause.reached.notified().await;
    let second = newer.begin("second").await.unwrap().run;
    prepare(&newer, &second).await.unwrap();
    load(&newer, &second, 20).await;
    pause.go_on.notify_one();
    assert_eq!(finishing.await.unwrap().unwrap_err().kind(), ErrorKind::Stopped);
    newer.finish(&second, &table()).await.unwrap();
    assert_eq!(rows(&server).await, 20);
}

/// A run is about to clear the table, when the next run of its task takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_preparing_run_removes_nothing_of_the_next() {
    let bucket = Arc::new(Bucket::default());
    let server = Server::start(&bucket).await;
    let (older, newer) = (target(&server), target(&server));
    let first = older.begin("task").await.unwrap().run;
    let pause = bucket.pause_at("raw/shop/items/", false);
    let preparing = tokio::spawn({
        let older = Arc::clone(&older);
        async move { prepare(&older, &first).await }
    });
    pause.reached.notified().await;
    let second = newer.begin("task").await.unwrap().run;
    prepare(&newer, &second).await.unwrap();
    load(&newer, &second, 20).await;
    pause.go_on.notify_one();
    assert_eq!(preparing.await.unwrap().unwrap_err().kind(), ErrorKind::Stopped);
    newer.finish(&second, &table()).await.unwrap();
    assert_eq!(rows(&server).await, 20);
}

/// A table is loaded anew while a reader looks around.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_goes_is_not_there_for_a_reader() {
    let bucket = Arc::new(Bucket::default());
    let server = Server::start(&bucket).await;
    let target = target(&server);
    let run = target.begin("task").await.unwrap().run;
    prepare(&target, &run).await.unwrap();
    load(&target, &run, 10).await;
    target.finish(&run, &table()).await.unwrap();
    let pause = bucket.pause_at("raw/_dms/tables/", true);
    let source = FolderSource::new(store(&server), FolderSettings::default());
    let looking = tokio::spawn(async move { source.discover(&Selection::all()).await });
    pause.reached.notified().await;
    prepare(&target, &run).await.unwrap();
    pause.go_on.notify_one();
    let error = looking.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no manifest"), "{error}");
}

/// An insert of a row, in a transaction of its own.
fn insert(order: u64, id: i64) -> Step {
    let record = ChangeRecord {
        operation: Operation::Insert,
        sequence: 0,
        values: vec![Some(Value::Int(id))],
    };
    let batch = ChangeBatch::from_records(Arc::new(table()), Identity::Key(vec![0]), &[record]);
    let transaction = Transaction {
        position: Position::new(order, order.to_string()),
        committed_at: None,
        id: order.to_string(),
        end: 1,
        complete: true,
    };
    Step::Log(ChangeRows { batches: vec![batch.unwrap()], transactions: vec![transaction] })
}

/// A run that is about to commit a row, having seen that nobody took over; and the next run, which
/// has taken over since, saw nothing of it, and is about to commit that row and another.
struct Contest {
    bucket: Arc<Bucket>,
    server: Server,
    /// The older run's commit, which goes on when it is told to.
    committing: tokio::task::JoinHandle<dms_core::Result<()>>,
    pause: Pause,
    newer: Arc<FolderTarget>,
    run: Run,
    apply: Box<dyn Apply>,
}

impl Contest {
    async fn begin(settings: FolderSettings) -> Self {
        let bucket = Arc::new(Bucket::default());
        let server = Server::start(&bucket).await;
        let older = target_with(&server, settings.clone());
        let newer = target_with(&server, settings);
        let first = older.begin("task").await.unwrap().run;
        let mut apply = older.begin_apply(&first).await.unwrap();
        apply.step(&insert(1, 1), false).await.unwrap();
        let pause = bucket.pause_at("raw/_dms/tasks/task/epochs/", true);
        let commit = async move { apply.commit(&Position::new(1, "1"), None).await };
        let committing = tokio::spawn(commit);
        pause.reached.notified().await;
        let run = newer.begin("task").await.unwrap().run;
        assert_eq!(newer.replication(&run).await.unwrap().position, None);
        let mut apply = newer.begin_apply(&run).await.unwrap();
        apply.step(&insert(1, 1), false).await.unwrap();
        apply.step(&insert(2, 2), false).await.unwrap();
        Self { bucket, server, committing, pause, newer, run, apply }
    }
}

/// The next run commits first.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_behind_that_of_the_next_run_is_refused() {
    for settings in layouts() {
        let preserving = settings.preserve_transactions;
        let Contest { bucket, server, committing, pause, newer, run, apply } =
            Contest::begin(settings).await;
        let end = Position::new(2, "2");
        apply.commit(&end, None).await.unwrap();
        pause.go_on.notify_one();
        assert_eq!(committing.await.unwrap().unwrap_err().kind(), ErrorKind::Stopped);
        assert_eq!(newer.replication(&run).await.unwrap().position, Some(end));
        let commits = bucket.keys().into_iter().filter(|key| key.contains("/changes/commits/"));
        assert_eq!(commits.count(), 1);
        if preserving {
            assert_eq!(lines(&bucket), ["I,items,shop,1", "I,items,shop,2"]);
        }
        drop(server);
    }
}

/// The older run commits at the last moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_hears_of_a_commit_that_it_did_not_see() {
    for settings in layouts() {
        let preserving = settings.preserve_transactions;
        let Contest { bucket, server, committing, pause, newer, run, apply } =
            Contest::begin(settings).await;
        pause.go_on.notify_one();
        committing.await.unwrap().unwrap();
        let error = apply.commit(&Position::new(2, "2"), None).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Connection && error.is_transient(), "{error}");
        // It goes on from what is there.
        let there = newer.replication(&run).await.unwrap().position;
        assert_eq!(there, Some(Position::new(1, "1")));
        let mut apply = newer.begin_apply(&run).await.unwrap();
        apply.step(&insert(2, 2), false).await.unwrap();
        apply.commit(&Position::new(2, "2"), None).await.unwrap();
        if preserving {
            assert_eq!(lines(&bucket), ["I,items,shop,1", "I,items,shop,2"]);
        }
        drop(server);
    }
}
