//! A stop ends what the servers are doing for the task.

use std::time::{Duration, Instant};

use dms_core::full_load::FullLoad;
use dms_core::mapping::TableMapping;
use dms_core::task::TaskStatus;
use tokio_util::sync::CancellationToken;

use crate::{completed, load, server, source, target, text_of};

/// Statements of tasks that wait in a database.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE application_name = 'dms' AND wait_event_type = 'Lock' AND datname = current_database()";

/// Waits until as many statements wait as are wanted.
async fn until_waiting(client: &tokio_postgres::Client, wanted: bool) {
    let began = Instant::now();
    loop {
        let waiting: i64 = client.query_one(WAITING, &[]).await.unwrap().get(0);
        if (waiting > 0) == wanted {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{waiting} statements wait");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Stops a load that waits for a lock in `locked`, and runs it again when the lock is gone.
async fn stops_while_waiting(locked: &str, from: &str, to: &str) {
    let holder = server::connect(locked).await;
    holder.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let watcher = server::connect(locked).await;
    let stop = CancellationToken::new();
    let task = FullLoad::new(source(from).await, target(to), TableMapping::new().include("%", "%"))
        .named("test")
        .run(stop.clone());
    let running = tokio::spawn(task);
    until_waiting(&watcher, true).await;
    stop.cancel();
    let ended = running.await.unwrap();
    if let Ok(report) = ended {
        assert_eq!(report.status, TaskStatus::Stopped, "{report}");
    }
    until_waiting(&watcher, false).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    let report = load(source(from).await, target(to)).await.unwrap();
    assert!(completed(&report), "{report}");
    assert_eq!(text_of(to, "t").await, text_of(from, "t").await);
}

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 1000) n";

#[tokio::test(flavor = "multi_thread")]
async fn while_the_source_waits_for_a_lock() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    server::connect(&from).await.batch_execute(TABLE).await.unwrap();
    stops_while_waiting(&from, &from, &to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_target_waits_for_a_lock() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    server::connect(&from).await.batch_execute(TABLE).await.unwrap();
    let there = server::connect(&to).await;
    there.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text)").await.unwrap();
    stops_while_waiting(&to, &from, &to).await;
}
