//! One state of all tables, whatever goes on meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dms_core::full_load::StartType;

use crate::meanwhile::{Moment, load_with, meanwhile, one_by_one};
use crate::{completed, load, server, source, target, text_of};

/// Money moves between tables while it is copied: every copy has all of it.
#[tokio::test(flavor = "multi_thread")]
async fn transfers_between_tables_are_seen_whole_or_not_at_all() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let client = server::connect(&from).await;
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY, money int, pad text);
             CREATE TABLE b (id int, money int, pad text);
             INSERT INTO a SELECT i, 100, repeat('a', 500) FROM generate_series(1, 5000) i;
             INSERT INTO b SELECT i, 100, repeat('b', 500) FROM generate_series(1, 5000) i;",
        )
        .await
        .unwrap();
    let (stop, transfers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = Vec::new();
    for writer in 0..3 {
        let (stop, transfers) = (Arc::clone(&stop), Arc::clone(&transfers));
        let client = server::connect(&from).await;
        writers.push(tokio::spawn(async move {
            let mut turn = writer;
            while !stop.load(Ordering::Relaxed) {
                turn = (turn + 3) % 5000;
                let id = turn + 1;
                client
                    .batch_execute(&format!(
                        "BEGIN; UPDATE a SET money = money - 7 WHERE id = {id};
                         UPDATE b SET money = money + 7 WHERE id = {id}; COMMIT"
                    ))
                    .await
                    .unwrap();
                transfers.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let vacuum = server::connect(&from).await;
    for _ in 0..3 {
        let before = transfers.load(Ordering::Relaxed);
        let moved = server::connect(&to).await;
        moved
            .batch_execute("DROP TABLE IF EXISTS a, b; DROP SCHEMA IF EXISTS dms CASCADE")
            .await
            .unwrap();
        let vacuuming = vacuum.batch_execute("VACUUM a");
        let (report, vacuumed) = futures::join!(load(source(&from).await, target(&to)), vacuuming);
        vacuumed.unwrap();
        let report = report.unwrap();
        assert!(completed(&report), "{report}");
        let sum = "SELECT (SELECT sum(money) FROM a) + (SELECT sum(money) FROM b), \
                   (SELECT count(*) FROM a) + (SELECT count(DISTINCT id) FROM b)";
        let row = moved.query_one(sum, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1_000_000, 10_000));
        assert!(transfers.load(Ordering::Relaxed) > before, "nothing went on meanwhile");
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Transactions that were open when the snapshot was taken end while it is read: none of them is
/// seen, whatever they did and however rows are cleaned up after them.
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_after_the_snapshot_is_not_seen() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let client = Arc::new(server::connect(&from).await);
    client
        .batch_execute(
            "CREATE TABLE t (id int, pad text);
             INSERT INTO t SELECT i % 99, repeat('x', 400) FROM generate_series(1, 2000) i",
        )
        .await
        .unwrap();
    let before = text_of(&from, "t").await;
    let old_reader = server::connect(&from).await;
    let old = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t";
    old_reader.batch_execute(old).await.unwrap();
    let writer = Arc::new(server::connect(&from).await);
    writer
        .batch_execute(
            "BEGIN; UPDATE t SET pad = 'new' WHERE id % 2 = 0; DELETE FROM t WHERE id % 5 = 0;
             INSERT INTO t SELECT i, 'more' FROM generate_series(1, 3000) i",
        )
        .await
        .unwrap();
    let ending = meanwhile(source(&from).await, Moment::Read(3), move || {
        let (writer, client) = (Arc::clone(&writer), Arc::clone(&client));
        async move {
            writer.batch_execute("COMMIT").await.unwrap();
            client.batch_execute("VACUUM t").await.unwrap();
        }
    });
    let report = load_with(one_by_one(), StartType::Resume, ending, target(&to)).await.unwrap();
    assert!(completed(&report), "{report}");
    assert!(text_of(&to, "t").await == before);
    let now = load_with(one_by_one(), StartType::Reload, source(&from).await, target(&to)).await;
    assert!(completed(&now.unwrap()));
    assert!(text_of(&to, "t").await == text_of(&from, "t").await);
}
