//! Feeds that break, begin again, idle, or carry more than fits into memory.

use std::time::{Duration, Instant};

use dms_core::ErrorKind;
use dms_core::change::ChangeEvent;
use dms_core::endpoint::{ChangeSource, Source};
use dms_core::position::Position;
use futures::StreamExt;

use super::{Capture, Model, TASK, logical, next_of};
use crate::server;

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_cut_goes_on_without_loss_or_doubling() {
    let capture = Capture::of("CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    let mut model = Model::default();
    let mut after = capture.from.clone();
    for round in 0..6 {
        let mut feed = capture.feed_after(&after, 4096).await;
        capture
            .run(&format!(
                "INSERT INTO t SELECT i, 0 FROM generate_series({0}, {0} + 99) i;
                 UPDATE t SET n = n + 1; DELETE FROM t WHERE id % 10 = {round}",
                round * 100
            ))
            .await;
        // Some transactions are taken as a whole, and confirmed now and then; the rest is cut.
        let mut held = Vec::new();
        let mut cut = false;
        let error = loop {
            match feed.events.next().await.unwrap() {
                Ok(event) => {
                    held.push(event);
                    if held.len() > round && !cut {
                        cut = true;
                        let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                             WHERE active_pid IS NOT NULL AND database = current_database()";
                        capture.client.execute(sql, &[]).await.unwrap();
                    }
                }
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
        assert!(error.is_transient(), "{error}");
        assert!(feed.events.next().await.is_none(), "an error is the end");
        // As a consumer does that forgets what has no end.
        let last = held.iter().rposition(|event| match event {
            ChangeEvent::Rows(rows) => rows.transactions.last().unwrap().complete,
            ChangeEvent::Idle { .. } => true,
            _ => false,
        });
        for event in held.iter().take(last.map_or(0, |last| last + 1)) {
            model.apply(event);
            match event {
                ChangeEvent::Rows(rows) => {
                    after = rows.transactions.last().unwrap().position.clone()
                }
                ChangeEvent::Idle { position } => after = position.clone(),
                _ => {}
            }
        }
        if round % 2 == 0 {
            feed.acknowledge.acknowledge(&after);
        }
    }
    let mut feed = capture.feed_after(&after, 1 << 20).await;
    capture.follow(&mut feed, &mut model).await;
    let mut ids = model.ids.clone();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), model.ids.len(), "no transaction twice");
    capture.assert_same(&model).await;
}

/// The server goes down without a word and comes up again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_loses_nothing() {
    let server = server::Server::start(super::LOGICAL);
    let mut capture =
        Capture::at(server.database().await, "CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    let (mut model, mut after) = (Model::default(), capture.from.clone());
    for round in 0..3 {
        let mut feed = capture.feed_after(&after, 4096).await;
        capture
            .run(&format!(
                "INSERT INTO t SELECT i, 0 FROM generate_series({0}, {0} + 99) i; UPDATE t SET n = n + 1",
                round * 100
            ))
            .await;
        capture.follow(&mut feed, &mut model).await;
        after = model.transactions.last().unwrap().clone();
        feed.acknowledge.acknowledge(&after);
        capture.run("DELETE FROM t WHERE id % 7 = 0").await;
        server.crash();
        let error = loop {
            match feed.events.next().await.unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(error.is_transient(), "{error}");
        capture.client = server::connect(&capture.url).await;
    }
    let mut feed = capture.feed_after(&after, 1 << 20).await;
    capture.follow(&mut feed, &mut model).await;
    capture.assert_same(&model).await;
}

/// A transaction of 200,000 rows comes in parts of the size that was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_comes_in_parts() {
    const EVENT: usize = 256 << 10;
    let capture = Capture::of("CREATE TABLE t (id int PRIMARY KEY, n int, note text)").await;
    capture
        .run(
            "INSERT INTO t VALUES (0, 0, 'before'); INSERT INTO t SELECT i, i % 7, repeat('n', i % 40)
             FROM generate_series(1, 200000) i; INSERT INTO t VALUES (-1, 0, 'behind')",
        )
        .await;
    let mut feed = capture.feed_after(&capture.from, EVENT).await;
    let (mut records, mut sum, mut parts, mut open) = (0, 0i64, 0, None);
    for event in capture.events(&mut feed).await {
        let ChangeEvent::Rows(rows) = event else { continue };
        assert!(rows.bytes() < EVENT * 2, "{}", rows.bytes());
        let last = rows.transactions.last().unwrap();
        if let Some(open) = open.take() {
            assert_eq!(open, rows.transactions[0].id);
        }
        open = (!last.complete).then(|| last.id.clone());
        parts += usize::from(!last.complete);
        records += rows.records();
        for batch in &rows.batches {
            use arrow::array::AsArray;
            let ids = batch.column(0).unwrap().as_primitive::<arrow::datatypes::Int32Type>();
            sum += ids.values().iter().map(|id| i64::from(*id)).sum::<i64>();
        }
    }
    assert_eq!((records, sum, open), (200_002, 200_000 * 200_001 / 2 - 1, None));
    assert!(parts > 10, "{parts}");
}

/// A consumer that takes nothing holds the stream, not the memory; the server stays content.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_waits_is_waited_for() {
    let server = server::Server::start(&[super::LOGICAL, &["wal_sender_timeout=2s"]].concat());
    let sql = "CREATE TABLE t (id int PRIMARY KEY, note text)";
    let capture = Capture::at(server.database().await, sql).await;
    let mut request = capture.request(&capture.from, 64 << 10);
    request.prefetch_bytes = 128 << 10;
    let mut feed = capture.source.changes(request).await.unwrap();
    capture.run("INSERT INTO t SELECT i, repeat('n', 500) FROM generate_series(1, 40000) i").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut model = Model::default();
    capture.follow(&mut feed, &mut model).await;
    assert_eq!(model.table("t").len(), 40_000);
}

/// Nothing happens in this database, much in another: the slot moves on all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_database_does_not_hold_back_the_log() {
    let capture = Capture::of("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut feed = capture.feed().await;
    let other = server::connect(&logical().database().await).await;
    other
        .batch_execute("CREATE TABLE busy AS SELECT i FROM generate_series(1, 10000) i")
        .await
        .unwrap();
    let (end, began) = (capture.end().await, Instant::now());
    let mut idle = Vec::new();
    let position = loop {
        match feed.events.next().await.unwrap().unwrap() {
            ChangeEvent::Idle { position } if position.order >= end => break position,
            ChangeEvent::Idle { .. } => idle.push(began.elapsed()),
            other => panic!("{other:?}"),
        }
    };
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(idle.len() < 20, "not too often: {idle:?}");
    feed.acknowledge.acknowledge(&position);
    // An older one changes nothing.
    feed.acknowledge.acknowledge(&capture.from);
    let confirmed = async || {
        let sql = "SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots \
             WHERE database = current_database()";
        capture.client.query_one(sql, &[]).await.unwrap().get::<_, Option<i64>>(0).unwrap()
    };
    let wanted = i64::try_from(next_of(&position)).unwrap();
    let began = Instant::now();
    while confirmed().await < wanted {
        assert!(began.elapsed() < Duration::from_secs(3), "the slot stands still");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(confirmed().await, wanted, "never more than was acknowledged");
    let status = capture.source.log_status(TASK).await.unwrap();
    assert!(status.end.order >= position.order && status.retained_bytes.is_some());
}

/// The log itself goes, not only the place that is confirmed: other databases write, a checkpoint
/// comes now and then, and nothing is written in the database that is followed.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_database_keeps_none_of_the_log_of_others() {
    let server = server::Server::start(super::LOGICAL);
    let url = server.database().await;
    let capture = Capture::at(url, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut feed = capture.feed().await;
    let other = server::connect(&server.database().await).await;
    let kept = async || capture.source.log_status(TASK).await.unwrap().retained_bytes.unwrap();
    let mut most = 0;
    for round in 0..6 {
        other
            .batch_execute(&format!(
                "CREATE TABLE busy_{round} AS SELECT i, repeat('x', 200) FROM generate_series(1, 20000) i;
                 CHECKPOINT"
            ))
            .await
            .unwrap();
        // A while in which nothing is made durable, as between two idle commits of a task.
        tokio::time::sleep(Duration::from_millis(500)).await;
        most = most.max(kept().await);
        let end = capture.end().await;
        let position = loop {
            match feed.events.next().await.unwrap().unwrap() {
                ChangeEvent::Idle { position } if position.order >= end => break position,
                ChangeEvent::Idle { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        feed.acknowledge.acknowledge(&position);
    }
    let began = Instant::now();
    while kept().await > 64 << 10 {
        assert!(began.elapsed() < Duration::from_secs(40), "{} bytes are kept", kept().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(most > 4 << 20 && most < 16 << 20, "{most}: of about one round, not of all");
}

/// What the server keeps for a task is held against a limit, whether changes are taken or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_for_which_too_much_log_is_kept_stops_if_it_is_to() {
    const MOST: u64 = 2 << 20;
    let server = server::Server::start(super::LOGICAL);
    let sql = "CREATE TABLE t (id int PRIMARY KEY, note text)";
    for (policy, takes) in [("warn", true), ("stop", true), ("stop", false)] {
        let url = server.database().await;
        let options = serde_json::json!({"retained-wal-max": MOST, "retained-wal-policy": policy});
        let capture = Capture::with(super::with_options(&url, options), url, sql).await;
        let mut request = capture.request(&capture.from, 64 << 10);
        request.prefetch_bytes = if takes { 64 << 20 } else { 128 << 10 };
        let mut feed = capture.source.changes(request).await.unwrap();
        // Nothing is acknowledged.
        capture
            .run("INSERT INTO t SELECT i, repeat('n', 500) FROM generate_series(1, 40000) i")
            .await;
        tokio::time::sleep(Duration::from_secs(12)).await;
        let error = loop {
            let next = tokio::time::timeout(Duration::from_secs(3), feed.events.next()).await;
            match next {
                Err(_) => break None,
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => break Some(error),
                Ok(None) => panic!("an end without a reason"),
            }
        };
        assert_eq!(error.is_some(), policy == "stop", "{error:?}");
        let sql =
            "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()";
        let slot: String = capture.client.query_one(sql, &[]).await.unwrap().get(0);
        let Some(error) = error else { continue };
        assert!(!error.is_transient(), "{error}");
        let retained = capture.source.log_status(TASK).await.unwrap().retained_bytes.unwrap();
        assert!(retained > MOST, "{retained}");
        let text = error.to_string();
        for says in
            [&*slot, "retained-wal-max (2097152)", "retained-wal-policy", "stays", "public.t"]
        {
            assert!(text.contains(says), "{says}: {text}");
        }
        // With a higher limit it goes on where it was, and nothing is lost.
        let options =
            serde_json::json!({"retained-wal-max": 1 << 30, "retained-wal-policy": "stop"});
        let settings = super::with_options(&capture.url, options);
        let source = dms_connectors::postgres::PostgresSource::open(settings).await.unwrap();
        let request = capture.request(&capture.from, 1 << 20);
        let (mut feed, mut model) = (source.changes(request).await.unwrap(), Model::default());
        capture.follow(&mut feed, &mut model).await;
        assert_eq!(model.table("t").len(), 40_000);
    }
}

/// A change is there at once, and a feed that is dropped frees its slot.
#[tokio::test(flavor = "multi_thread")]
async fn changes_come_soon_and_dropping_the_feed_frees_the_slot() {
    let capture = Capture::of("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut feed = capture.feed().await;
    let mut slowest = Duration::ZERO;
    for id in 0..20 {
        let began = Instant::now();
        capture.run(&format!("INSERT INTO t VALUES ({id})")).await;
        while !matches!(feed.events.next().await.unwrap().unwrap(), ChangeEvent::Rows(_)) {}
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    drop(feed);
    let began = Instant::now();
    let sql = "SELECT active FROM pg_replication_slots WHERE database = current_database()";
    while capture.client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(began.elapsed() < Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Tables come to a task, and the task ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_grows_and_ends() {
    let mut capture = Capture::of("CREATE TABLE t (id int PRIMARY KEY)").await;
    capture.run("CREATE TABLE new (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    capture.tables = super::tables(&*capture.source).await;
    let again = capture.source.begin_capture(TASK, &capture.tables).await.unwrap();
    assert_eq!(again, capture.from, "the slot stays where it is");
    let mut feed = capture.feed().await;
    capture.run("INSERT INTO new VALUES (1)").await;
    let mut model = Model::default();
    capture.follow(&mut feed, &mut model).await;
    capture.assert_same(&model).await;
    // The slot is in use, and goes all the same.
    capture.source.end_capture(TASK).await.unwrap();
    capture.source.end_capture(TASK).await.unwrap();
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()) \
        + (SELECT count(*) FROM pg_publication)";
    assert_eq!(capture.client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert!(capture.source.info().address.contains("127.0.0.1"));
    let position = capture.source.parse_position("0/10").unwrap();
    assert_eq!(position, Position::new(15, "0/10"));
}
