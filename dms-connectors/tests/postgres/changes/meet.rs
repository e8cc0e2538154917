//! A load and the changes behind it meet exactly, whatever goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dms_core::change::ChangeEvent;
use dms_core::endpoint::ChangeSource;
use futures::StreamExt;

use super::{Capture, Model, TASK, rows_of};
use crate::server;

/// Each transaction of the writers moves money between two tables, changes keys, inserts and
/// deletes.
const TURN: &str = "BEGIN; UPDATE a SET money = money - {n} WHERE id = {i};
    UPDATE b SET money = money + {n} WHERE id = {j};
    DELETE FROM c WHERE id = {i}; INSERT INTO c VALUES ({i}, {n}) ON CONFLICT DO NOTHING;
    UPDATE c SET id = id + 1000 WHERE id = {j}; UPDATE c SET id = id - 1000 WHERE id >= 1000; COMMIT";

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_and_feed_meet_under_writers() {
    let capture = Capture::of(
        "CREATE TABLE a (id int PRIMARY KEY, money int); CREATE TABLE b (id int PRIMARY KEY, money int);
         CREATE TABLE c (id int PRIMARY KEY, n int);
         INSERT INTO a SELECT i, 100 FROM generate_series(0, 99) i;
         INSERT INTO b SELECT i, 100 FROM generate_series(0, 99) i;",
    )
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..3 {
        let (stop, client) = (Arc::clone(&stop), server::connect(&capture.url).await);
        writers.push(tokio::spawn(async move {
            let mut turn: usize = writer;
            while !stop.load(Ordering::Relaxed) {
                turn = (turn * 7919 + 13) % 100_003;
                let sql = TURN
                    .replace("{n}", &(turn % 9).to_string())
                    .replace("{i}", &(turn % 100).to_string())
                    .replace("{j}", &(turn / 100 % 100).to_string());
                // Writers that collide are rolled back, which is a part of the test.
                if client.batch_execute(&sql).await.is_err() {
                    client.batch_execute("ROLLBACK").await.unwrap();
                }
            }
        }));
    }
    let mut loads = Vec::new();
    for _ in 0..4 {
        let snapshot = capture.source.log_snapshot(TASK, &capture.tables, 2).await.unwrap();
        let position = snapshot.position().unwrap();
        assert!(position.order >= capture.from.order);
        loads.push((position, rows_of(&*snapshot, &capture.tables).await));
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    for (position, rows) in loads {
        let mut feed = capture.feed_after(&position, 64 << 10).await;
        let mut model = Model::holding(rows);
        capture.follow(&mut feed, &mut model).await;
        assert!(model.transactions.len() > 50, "{}", model.transactions.len());
        assert!(model.transactions[0].order > position.order);
        capture.assert_same(&model).await;
        // The next feed waits until the server has seen that this one is gone.
        drop(feed);
    }
}

/// Transactions that are under way when a snapshot is wanted are waited for; dropping the wait leaves
/// nothing behind. A prepared transaction that is committed later is in the feed.
#[tokio::test(flavor = "multi_thread")]
async fn open_transactions_are_waited_for() {
    let server =
        server::Server::start(&[super::LOGICAL, &["max_prepared_transactions=5"]].concat());
    let capture = Capture::at(server.database().await, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let holder = server::connect(&capture.url).await;
    holder.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let source = Arc::clone(&capture.source);
    let begins = source.begin_capture("other", &capture.tables);
    let snapshots = source.log_snapshot(TASK, &capture.tables, 1);
    let patience = std::time::Duration::from_secs(3);
    assert!(tokio::time::timeout(patience, begins).await.is_err());
    assert!(tokio::time::timeout(patience, snapshots).await.is_err());
    let left = "SELECT count(*) FROM pg_replication_slots WHERE slot_name NOT LIKE 'dms_test_%'";
    let senders = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'";
    for sql in [left, senders] {
        let mut count = 1;
        for _ in 0..50 {
            count = capture.client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
            if count == 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(count, 0, "{sql}");
    }
    holder.batch_execute("PREPARE TRANSACTION 'later'").await.unwrap();
    let later = capture.url.clone();
    let commits = tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let client = server::connect(&later).await;
        client.batch_execute("COMMIT PREPARED 'later'").await.unwrap();
    });
    let snapshot = capture.source.log_snapshot(TASK, &capture.tables, 1).await.unwrap();
    commits.await.unwrap();
    let rows = rows_of(&*snapshot, &capture.tables).await;
    assert_eq!(rows.values().next().unwrap().len(), 1, "it was waited for");
    let (mut feed, mut model) = (capture.feed().await, Model::default());
    capture.follow(&mut feed, &mut model).await;
    capture.assert_same(&model).await;
}

/// Equal positions mean equal rows; a later one holds what was committed between.
#[tokio::test(flavor = "multi_thread")]
async fn positions_of_snapshots() {
    let capture = Capture::of("CREATE TABLE t (id int PRIMARY KEY)").await;
    let (first, empty) = capture.loaded().await;
    assert!(empty.values().all(std::collections::BTreeMap::is_empty));
    capture.run("INSERT INTO t VALUES (1)").await;
    let (second, one) = capture.loaded().await;
    assert!(first.order < second.order && one.values().all(|rows| rows.len() == 1));
    let mut feed = capture.feed_after(&second, 1 << 20).await;
    capture.run("INSERT INTO t VALUES (2)").await;
    let rows: Vec<ChangeEvent> = capture.events(&mut feed).await;
    let records: usize = rows
        .iter()
        .map(|event| if let ChangeEvent::Rows(rows) = event { rows.records() } else { 0 })
        .sum();
    assert_eq!(records, 1);
    drop(feed);
    let mut feed = capture.feed_after(&first, 1 << 20).await;
    assert!(feed.events.next().await.unwrap().is_ok());
}
