//! One state of the file for all readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::array::types::Int64Type;
use dms_core::endpoint::{Partition, PartitionRange, ReadRequest, Snapshot, Source};
use dms_core::schema::TableSchema;
use dms_core::value::Value;
use futures::StreamExt;
use rusqlite::Connection;

use super::{Database, read};

const ACCOUNTS: i64 = 3000;

/// Moves money between accounts until told to stop; what it has all in all never changes.
fn transfer(path: &std::path::Path, stop: &AtomicBool, commits: &AtomicU32) {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
    let mut n: i64 = 1;
    while !stop.load(Ordering::Relaxed) {
        n = (n * 7919 + 13) % (ACCOUNTS * ACCOUNTS);
        let sql = format!(
            "BEGIN IMMEDIATE;
             UPDATE accounts SET money = money - 5 WHERE id = {};
             UPDATE accounts SET money = money + 5 WHERE id = {};
             COMMIT;",
            n % ACCOUNTS,
            n / ACCOUNTS
        );
        // A reader that came first may keep a rollback-mode writer out until it gives up.
        if connection.execute_batch(&sql).is_ok() {
            commits.fetch_add(1, Ordering::Relaxed);
        } else if !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK").unwrap();
        }
    }
}

async fn sum(snapshot: &dyn Snapshot, table: &TableSchema) -> (i64, i64) {
    let money = table.column_index("money").unwrap();
    let bound = |n: i64| vec![Value::Int(n)];
    let parts = (0..4).map(|n| {
        let range = PartitionRange::Columns {
            columns: vec!["id".to_owned()],
            lower: (n > 0).then(|| bound(n * ACCOUNTS / 4)),
            upper: (n < 3).then(|| bound((n + 1) * ACCOUNTS / 4)),
        };
        let partition = Partition { range, ..Partition::whole() };
        let table = table.clone();
        async move { read(snapshot, &table, partition).await.unwrap() }
    });
    let batches: Vec<_> = futures::future::join_all(parts).await.into_iter().flatten().collect();
    let money = |batch: &arrow::array::RecordBatch| -> i64 {
        batch.column(money).as_primitive::<Int64Type>().values().iter().sum()
    };
    let rows: usize = batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
    (batches.iter().map(money).sum(), i64::try_from(rows).unwrap())
}

async fn consistent_in(mode: &str) {
    let database = Database::new(&format!(
        "PRAGMA journal_mode = {mode};
         CREATE TABLE accounts (id INTEGER PRIMARY KEY, money INTEGER, filler TEXT);
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {ACCOUNTS} - 1)
         INSERT INTO accounts SELECT i, 1000, hex(zeroblob(100)) FROM n;"
    ));
    let (stop, commits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let writers: Vec<_> = (0..2)
        .map(|_| {
            let (path, stop, commits) =
                (database.path.clone(), Arc::clone(&stop), Arc::clone(&commits));
            thread::spawn(move || transfer(&path, &stop, &commits))
        })
        .collect();
    let source = database.source().await;
    let table = database.table("accounts").await;
    let mut positions = Vec::new();
    for _ in 0..8 {
        let before = commits.load(Ordering::Relaxed);
        while commits.load(Ordering::Relaxed) == before {
            tokio::task::yield_now().await;
        }
        // Busy writers may make it give up for the moment; a task tries again, and so does this.
        let snapshot = loop {
            match source.snapshot(&[], 4).await {
                Err(error) if error.is_transient() => continue,
                taken => break taken.unwrap(),
            }
        };
        // Twice: a snapshot stays what it is while it is held.
        for _ in 0..2 {
            assert_eq!(sum(&*snapshot, &table).await, (ACCOUNTS * 1000, ACCOUNTS), "{mode}");
        }
        positions.push(snapshot.position().unwrap().token);
    }
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let all = positions.len();
    positions.sort();
    positions.dedup();
    assert_eq!(positions.len(), all, "commits in between change the position");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_one_state_beside_writers_with_a_log() {
    consistent_in("WAL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_one_state_beside_writers_with_a_rollback_journal() {
    consistent_in("DELETE").await;
}

/// The story of a bug: taking the fingerprint opened the database file and closed it again, which
/// made the process lose all its locks on it, and writers of other processes walked into the
/// snapshot. Within one process SQLite keeps count of locks itself, so the writer is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_rollback_mode_file_holds_its_lock() {
    let database = Database::new("CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1);");
    let snapshot = database.source().await.snapshot(&[], 3).await.unwrap();
    let write = || {
        let program = std::env::current_exe().unwrap();
        let status = std::process::Command::new(program)
            .args(["snapshot::writes_as_another_process", "--exact", "--nocapture"])
            .env("SQLITE_TO_WRITE", &database.path)
            .output()
            .unwrap();
        String::from_utf8(status.stdout).unwrap()
    };
    assert!(write().contains("outcome: locked"), "the snapshot is held");
    drop(snapshot);
    assert!(write().contains("outcome: written"), "the snapshot is gone");
}

/// The other process of the test above; without its environment it has nothing to write.
#[test]
fn writes_as_another_process() {
    let Some(path) = std::env::var_os("SQLITE_TO_WRITE") else { return };
    let connection = Connection::open(path).unwrap();
    let written = connection.execute("INSERT INTO t VALUES (2)", []);
    println!("outcome: {}", if written.is_ok() { "written" } else { "locked" });
}

#[tokio::test]
async fn the_position_tells_whether_anything_was_committed() {
    for mode in ["DELETE", "WAL"] {
        let database = Database::new(&format!(
            "PRAGMA journal_mode = {mode}; CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1);"
        ));
        // Held open, so that the log is not folded into the file meanwhile.
        let writer = database.connect();
        let position = || async {
            let snapshot = database.source().await.snapshot(&[], 2).await.unwrap();
            snapshot.position().unwrap()
        };
        let mut last = position().await;
        assert_eq!(position().await, last, "{mode}: reading changes nothing");
        for n in 0..5 {
            // Of the same size, and quickly one after the other.
            writer.execute("UPDATE t SET a = ?1", [n]).unwrap();
            let now = position().await;
            assert_ne!(now, last, "{mode}: commit {n}");
            last = now;
        }
    }
}

#[tokio::test]
async fn a_source_leaves_nothing_behind() {
    for mode in ["DELETE", "WAL"] {
        let database = Database::new(&format!(
            "PRAGMA journal_mode = {mode}; CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1);"
        ));
        let before = std::fs::read(&database.path).unwrap();
        let table = database.table("t").await;
        let snapshot = database.source().await.snapshot(&[], 2).await.unwrap();
        read(&*snapshot, &table, Partition::whole()).await.unwrap();
        drop(snapshot);
        assert_eq!(std::fs::read(&database.path).unwrap(), before, "{mode}");
        // The reader's thread has its connection for a moment longer than the stream lasts.
        let begun = std::time::Instant::now();
        while std::fs::read_dir(database.folder.path()).unwrap().count() > 1 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{mode}: files stay behind");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_gives_its_reader_back() {
    let database = Database::new(
        "CREATE TABLE t (a INTEGER, b TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)
         INSERT INTO t SELECT i, 'x' FROM n;
         CREATE VIEW endless AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
             SELECT CAST(i AS INTEGER) AS a FROM n WHERE i < 0;",
    );
    let table = database.table("t").await;
    let snapshot = database.source().await.snapshot(&[], 1).await.unwrap();
    let mut request = ReadRequest::whole(Arc::new(table.clone()));
    request.prefetch_bytes = 1;
    request.limit.rows = 100;
    for _ in 0..3 {
        let mut stream = snapshot.read(request.clone()).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().num_rows(), 100);
    }
    // This query never finds a row: only an interrupt ends it.
    let mut views = dms_core::mapping::Selection::default();
    let mut rule = dms_core::mapping::SelectionRule::new(
        dms_core::mapping::RuleAction::Include,
        "main",
        "endless",
    );
    rule.table_type = dms_core::mapping::TableType::View;
    views.push(rule);
    let catalog = database.source().await.discover(&views).await.unwrap();
    let endless = ReadRequest::whole(Arc::new(catalog.tables[0].clone()));
    drop(snapshot.read(endless).await.unwrap());
    let batches = read(&*snapshot, &table, Partition::whole()).await.unwrap();
    assert_eq!(batches.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>(), 300_000);
}
