//! A server that another one takes over from.

use std::time::{Duration, Instant};

use dms_connectors::postgres::PostgresSource;
use dms_core::ErrorKind;
use dms_core::endpoint::{ChangeFeed, ChangeSource};

use super::{Capture, LOGICAL, Model, TASK};
use crate::server::{self, Server};
use crate::settings;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)";

/// Waits until a standby has everything, or so much.
async fn caught_up(capture: &Capture, standby: &str) {
    let end: String = {
        let row = capture.client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await;
        row.unwrap().get(0)
    };
    let client = server::connect(standby).await;
    let began = Instant::now();
    let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn");
    while !client.query_one(&reached, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(began.elapsed() < Duration::from_secs(30), "the standby stands still");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A server with a standby, and a feed of it that has told the first transaction.
async fn followed() -> (Server, Server, Capture, ChangeFeed, Model) {
    let primary = Server::start(LOGICAL);
    let capture = Capture::at(primary.database().await, TABLES).await;
    let standby = Server::standby_of(&primary, LOGICAL);
    let (mut feed, mut model) = (capture.feed().await, Model::default());
    capture.run("INSERT INTO t VALUES (1)").await;
    capture.follow(&mut feed, &mut model).await;
    (primary, standby, capture, feed, model)
}

/// The standby of a capture's server takes over; what a source there is.
async fn promoted(standby: &Server, url: &str) -> Capture {
    let client = server::connect(url).await;
    client.execute("SELECT pg_promote()", &[]).await.unwrap();
    assert!(standby.port > 0);
    let source = PostgresSource::open(settings(url)).await.unwrap();
    let tables = super::tables(&*source).await;
    let from = source.log_status(TASK).await.unwrap().end;
    Capture { url: url.to_owned(), client, source, tables, from }
}

/// Slots are not copied to standbys.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_over_without_the_slot_is_told() {
    let (_primary, standby, capture, feed, model) = followed().await;
    let url = standby.url(capture.url.rsplit('/').next().unwrap());
    let after = model.transactions.last().unwrap().clone();
    drop(feed);
    caught_up(&capture, &url).await;
    // Changes cannot be read there before.
    let source = PostgresSource::open(settings(&url)).await.unwrap();
    let error = source.check_capture(TASK, &capture.tables).await.unwrap_err();
    assert!(error.to_string().contains("is a standby"), "{error}");
    let new = promoted(&standby, &url).await;
    let error = new.source.changes(new.request(&after, 1 << 20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("is not there") && text.contains("load again: public.t, public.u"),
        "{text}"
    );
    // As a run does it, which makes a new slot: the changes up to there are lost all the same.
    new.run("INSERT INTO t VALUES (2)").await;
    new.source.begin_capture(TASK, &new.tables).await.unwrap();
    for _ in 0..2 {
        let error = new.source.changes(new.request(&after, 1 << 20)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("took over") && text.contains("load again: public.t, public.u"),
            "{text}"
        );
    }
    // From there on all is well.
    let from = new.source.begin_capture(TASK, &new.tables).await.unwrap();
    let mut feed = new.feed_after(&from, 1 << 20).await;
    let mut model = Model::default();
    new.run("INSERT INTO t VALUES (3)").await;
    new.follow(&mut feed, &mut model).await;
    assert_eq!(model.table("t").len(), 1);
}

/// A standby with the slot, but without the last changes, whose log has grown beyond the position.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_over_without_the_last_changes_is_told() {
    let (_primary, standby, capture, mut feed, mut model) = followed().await;
    let url = standby.url(capture.url.rsplit('/').next().unwrap());
    let kept = model.transactions.last().unwrap().clone();
    caught_up(&capture, &url).await;
    let stop = "ALTER SYSTEM SET primary_conninfo = ''";
    let client = server::connect(&url).await;
    client.batch_execute(stop).await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let receives = "SELECT count(*) FROM pg_stat_wal_receiver";
    while client.query_one(receives, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    capture.run("INSERT INTO t VALUES (2)").await;
    capture.follow(&mut feed, &mut model).await;
    let lost = model.transactions.last().unwrap().clone();
    drop(feed);
    let new = promoted(&standby, &url).await;
    // As a tool that copies slots would have it.
    new.source.begin_capture(TASK, &new.tables).await.unwrap();
    new.run("INSERT INTO t SELECT generate_series(10, 5000)").await;
    let error = new.source.changes(new.request(&lost, 1 << 20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
    let text = error.to_string();
    assert!(text.contains("took over from another one at"), "{text}");
    assert!(
        text.contains("timeline 2") && text.contains("load again: public.t, public.u"),
        "{text}"
    );
    // A position that both logs have is not refused for its timeline.
    let error = new.source.changes(new.request(&kept, 1 << 20)).await.unwrap_err();
    assert!(error.to_string().contains("goes on at"), "{error}");
    // Nor the other way round: the server that was left does not have what came since.
    let since = new.source.log_status(TASK).await.unwrap().end;
    let error = capture.source.changes(capture.request(&since, 1 << 20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
    assert!(error.to_string().contains("set back to an older copy"), "{error}");
}
