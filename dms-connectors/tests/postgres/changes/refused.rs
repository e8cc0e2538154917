//! What cannot be followed is told before anything is made, with what helps.

use dms_connectors::postgres::{PostgresSettings, PostgresSource};
use dms_core::endpoint::{ChangeSource, EndpointSettings};
use dms_core::position::Position;
use dms_core::{Error, ErrorKind};

use super::{Capture, TASK, logical, tables};
use crate::server::{self, Server};
use crate::settings;

async fn refused(url: &str) -> Error {
    let source = PostgresSource::open(settings(url)).await.unwrap();
    let tables = tables(&*source).await;
    source.check_capture(TASK, &tables).await.unwrap_err()
}

/// Checks a database in which there is just this.
async fn check(sql: &str, kind: ErrorKind, says: &[&str]) {
    let url = logical().database().await;
    server::connect(&url).await.batch_execute(sql).await.unwrap();
    let error = refused(&url).await;
    assert_eq!(error.kind(), kind, "{error}");
    for says in says {
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_whose_changes_the_log_does_not_hold() {
    let no_key = &["replica identity", "public.t", "REPLICA IDENTITY FULL"];
    check("CREATE TABLE t (id int)", ErrorKind::Settings, no_key).await;
    check(
        "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY NOTHING",
        ErrorKind::Settings,
        &["ALTER TABLE \"public\".\"t\" REPLICA IDENTITY DEFAULT"],
    )
    .await;
    let unlogged = &["SET LOGGED", "public.t"];
    check("CREATE UNLOGGED TABLE t (id int PRIMARY KEY)", ErrorKind::Unsupported, unlogged).await;
    check(
        "CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id + 1) STORED)",
        ErrorKind::Unsupported,
        &["generated", "column g", "remove-column"],
    )
    .await;
    check(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE child () INHERITS (t);
         ALTER TABLE child ADD PRIMARY KEY (id)",
        ErrorKind::Unsupported,
        &["inherit", "public.t"],
    )
    .await;
    check(
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY LIST (id);
         CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); ALTER TABLE t1 REPLICA IDENTITY NOTHING",
        ErrorKind::Settings,
        &["partition public.t1", "ALTER TABLE public.t1 REPLICA IDENTITY FULL"],
    )
    .await;
    let error = {
        let url = logical().database().await;
        let client = server::connect(&url).await;
        client
            .batch_execute("CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW v AS TABLE t")
            .await
            .unwrap();
        let source = PostgresSource::open(settings(&url)).await.unwrap();
        let mut tables = tables(&*source).await;
        tables[0].name.name = "v".into();
        source.check_capture(TASK, &tables).await.unwrap_err()
    };
    assert!(error.to_string().contains("public.v"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_and_roles_that_do_not_give_changes() {
    let url = server::shared().database().await;
    let error = refused(&url).await;
    assert_eq!(error.kind(), ErrorKind::Settings);
    assert!(error.to_string().contains("ALTER SYSTEM SET wal_level = logical"), "{error}");

    let full = Server::start(&["wal_level=logical", "max_replication_slots=1"]);
    let error = refused(&full.database().await).await;
    assert!(error.to_string().contains("raise max_replication_slots"), "{error}");
    let full = Server::start(&["wal_level=logical", "max_wal_senders=1"]);
    let error = refused(&full.database().await).await;
    assert!(error.to_string().contains("raise max_wal_senders"), "{error}");

    let own = Server::start(super::LOGICAL);
    let url = own.database().await;
    let client = server::connect(&url).await;
    client
        .batch_execute(
            "CREATE ROLE reader LOGIN PASSWORD 's3cret'; CREATE TABLE t (id int PRIMARY KEY);
             GRANT SELECT ON t TO reader",
        )
        .await
        .unwrap();
    let as_reader = url.replace("dms@", "reader@");
    let error = refused(&as_reader).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("ALTER ROLE \"reader\" REPLICATION"), "{error}");
    client.batch_execute("ALTER ROLE reader REPLICATION").await.unwrap();
    let error = refused(&as_reader).await;
    assert!(error.to_string().contains("GRANT CREATE ON DATABASE"), "{error}");
    let grant = "DO $$BEGIN EXECUTE 'GRANT CREATE ON DATABASE ' || current_database() || ' TO reader'; END$$";
    client.batch_execute(grant).await.unwrap();
    let error = refused(&as_reader).await;
    assert!(error.to_string().contains("owner") && error.kind() == ErrorKind::Denied, "{error}");

    // A publication made by someone else will do, if it has everything.
    let mut endpoint = EndpointSettings::new(&as_reader);
    endpoint.options.insert("publication-name".into(), "Theirs".into());
    endpoint.options.insert("slot-name".into(), "of_mine".into());
    let source =
        PostgresSource::open(PostgresSettings::from_endpoint(&endpoint).unwrap()).await.unwrap();
    let tables = tables(&*source).await;
    for (sql, says) in [
        ("SELECT 1", "there is no publication Theirs"),
        ("CREATE PUBLICATION \"Theirs\" WITH (publish = 'insert')", "SET (publish ="),
        (
            "ALTER PUBLICATION \"Theirs\" SET (publish = 'insert, update, delete, truncate')",
            "ADD TABLE",
        ),
        ("ALTER PUBLICATION \"Theirs\" ADD TABLE t WHERE (id > 5)", "row filter"),
    ] {
        client.batch_execute(sql).await.unwrap();
        let error = source.check_capture(TASK, &tables).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    client
        .batch_execute(
            "ALTER PUBLICATION \"Theirs\" SET TABLE t; ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        )
        .await
        .unwrap();
    let error = source.check_capture(TASK, &tables).await.unwrap_err();
    assert!(error.to_string().contains("BYPASSRLS"), "{error}");
    client.batch_execute("ALTER TABLE t DISABLE ROW LEVEL SECURITY").await.unwrap();
    source.check_capture(TASK, &tables).await.unwrap();
    let from = source.begin_capture(TASK, &tables).await.unwrap();
    let capture = Capture { url: as_reader, client, source, tables, from };
    capture.run("INSERT INTO t VALUES (1)").await;
    let (mut feed, mut model) = (capture.feed().await, super::Model::default());
    capture.follow(&mut feed, &mut model).await;
    assert_eq!(model.table("t").len(), 1);
    drop(feed);
    capture.source.end_capture(TASK).await.unwrap();
    let left = capture.client.query_one("SELECT count(*) FROM pg_publication", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 1, "what others have made stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_are_not_ours_or_have_lost_changes() {
    let capture = Capture::of("CREATE TABLE t (id int PRIMARY KEY)").await;
    let fails = async |after: &Position| {
        capture.source.changes(capture.request(after, 1 << 20)).await.unwrap_err()
    };
    // Positions of others.
    let (_, rest) = capture.from.token.split_once('/').unwrap();
    let other = Position::new(capture.from.order, format!("4711/{rest}"));
    let error = fails(&other).await;
    assert_eq!(error.kind(), ErrorKind::Settings);
    assert!(error.to_string().contains("another PostgreSQL server"), "{error}");
    let beyond = capture.source.parse_position("FFFF/0").unwrap();
    let error = fails(&beyond).await;
    assert_eq!(error.kind(), ErrorKind::PositionLost);
    assert!(error.to_string().contains("ends at"), "{error}");
    // A second feed.
    let feed = capture.feed().await;
    let error = fails(&capture.from).await;
    assert!(error.is_transient() && error.to_string().contains("in use by process"), "{error}");
    // Confirmed beyond what is asked for.
    capture.run("INSERT INTO t VALUES (1)").await;
    let mut feed = feed;
    let events = capture.events(&mut feed).await;
    let dms_core::change::ChangeEvent::Rows(rows) = events
        .iter()
        .find(|event| matches!(event, dms_core::change::ChangeEvent::Rows(_)))
        .unwrap()
    else {
        panic!()
    };
    let position = rows.transactions[0].position.clone();
    feed.acknowledge.acknowledge(&position);
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    drop(feed);
    let error = fails(&capture.from).await;
    assert_eq!(error.kind(), ErrorKind::PositionLost);
    assert!(error.to_string().contains("load again: public.t"), "{error}");
    drop(capture.feed_after(&position, 1 << 20).await);
    // Gone.
    let drop_slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
        WHERE database = current_database()";
    while capture.client.batch_execute(drop_slot).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let error = fails(&position).await;
    assert_eq!(error.kind(), ErrorKind::PositionLost);
    assert!(error.to_string().contains("load again: public.t"), "{error}");
    // Someone else's.
    let name = capture.source.begin_capture("again", &capture.tables).await.map(|_| ());
    name.unwrap();
    let sql =
        "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()";
    let name: String = capture.client.query_one(sql, &[]).await.unwrap().get(0);
    capture.source.end_capture("again").await.unwrap();
    capture.run(&format!("SELECT pg_create_physical_replication_slot('{name}')")).await;
    let error = capture.source.begin_capture("again", &capture.tables).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings);
    assert!(error.to_string().contains("physical"), "{error}");
    capture.run(&format!("SELECT pg_drop_replication_slot('{name}')")).await;
    // A publication that has lost a table.
    let from = capture.source.begin_capture(TASK, &capture.tables).await.unwrap();
    capture.run("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY)").await;
    let error = fails(&from).await;
    assert!(error.to_string().contains("ADD TABLE \"public\".\"t\""), "{error}");
}

/// A slot whose log the server has thrown away.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_left_behind() {
    let server = Server::start(
        &[
            super::LOGICAL,
            &[
                "max_slot_wal_keep_size=1MB",
                "min_wal_size=32MB",
                "max_wal_size=32MB",
                "wal_keep_size=0",
            ],
        ]
        .concat(),
    );
    let capture =
        Capture::at(server.database().await, "CREATE TABLE t (id int PRIMARY KEY, x text)").await;
    for _ in 0..6 {
        capture
            .run("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 9000) i; TRUNCATE t; SELECT pg_switch_wal(); CHECKPOINT")
            .await;
    }
    let error = capture.source.changes(capture.request(&capture.from, 1 << 20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
    assert!(error.to_string().contains("load again: public.t"), "{error}");
    let error = capture.source.begin_capture(TASK, &capture.tables).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
}
