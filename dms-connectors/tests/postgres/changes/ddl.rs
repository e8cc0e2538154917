//! Tables that are altered and dropped, as event triggers tell it.

use dms_connectors::postgres::PostgresSource;
use dms_core::ErrorKind;
use dms_core::change::ChangeEvent;
use dms_core::endpoint::ChangeSource;
use serde_json::json;
use tokio_postgres::Client;

use super::{Capture, TASK, logical, tables, with_options};
use crate::server;

/// What events say, in order: rows by their tables, shapes by the names of their columns. What a
/// transaction did is marked with `!`.
fn said(events: &[ChangeEvent]) -> Vec<String> {
    let mut said = Vec::new();
    for event in events {
        match event {
            ChangeEvent::Rows(rows) => {
                let names = rows.batches.iter().map(|batch| batch.table().name.name.clone());
                said.extend(names.map(|name| format!("rows {name}")));
            }
            ChangeEvent::Schema { table, altered, .. } => {
                let columns: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
                let mark = if altered.is_some() { "!" } else { "" };
                said.push(format!("{} {}{mark}", table.name.name, columns.join(" ")));
            }
            ChangeEvent::Dropped { table, transaction } => {
                let mark = if transaction.is_some() { "!" } else { "" };
                said.push(format!("dropped {}{mark}", table.name));
            }
            _ => {}
        }
    }
    said
}

/// What tasks have left in a database.
async fn left(client: &Client) -> Vec<String> {
    let sql = "SELECT 'trigger ' || evtname FROM pg_event_trigger WHERE evtname LIKE 'dms%'
        UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE proname LIKE 'dms%'
        UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'dms%'
        UNION ALL SELECT 'publication ' || pubname FROM pg_publication ORDER BY 1";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, a text);
    CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE v (id int PRIMARY KEY)";

#[tokio::test(flavor = "multi_thread")]
async fn what_no_row_follows_is_told_at_its_place() {
    let capture = Capture::of(TABLES).await;
    let mut feed = capture.feed().await;
    for (sql, told) in [
        (
            "INSERT INTO u VALUES (1)#DROP TABLE u#INSERT INTO v VALUES (1)",
            vec!["u id", "rows u", "dropped u!", "v id", "rows v"],
        ),
        ("ALTER TABLE t ADD b int DEFAULT 7", vec!["t id a b!"]),
        // Nothing that a change of a row would show.
        ("ALTER TABLE t SET (fillfactor = 90); COMMENT ON TABLE t IS 'x'; ANALYZE t", vec![]),
        ("INSERT INTO t VALUES (1, 'x', 1)", vec!["rows t"]),
        ("ALTER TABLE t RENAME a TO c#ALTER TABLE t DROP b", vec!["t id c b!", "t id c!"]),
        (
            "BEGIN; ALTER TABLE t ADD d int; ROLLBACK; BEGIN; SAVEPOINT s; DROP TABLE t; ROLLBACK TO s; COMMIT",
            vec![],
        ),
        (
            "BEGIN; INSERT INTO t VALUES (2, 'x'); ALTER TABLE t ADD d int; INSERT INTO v VALUES (2); \
             DROP TABLE v; COMMIT",
            vec!["rows t", "t id c d!", "v id", "rows v", "dropped v!"],
        ),
        // Of a savepoint.
        (
            "BEGIN; SAVEPOINT s; ALTER TABLE t DROP d; RELEASE s; INSERT INTO t VALUES (4, 'x'); \
             SAVEPOINT s; ALTER TABLE t ADD d int; RELEASE s; COMMIT",
            vec!["t id c", "rows t", "t id c d!"],
        ),
        // In no session do triggers that are always on stay silent.
        (
            "SET session_replication_role = replica; ALTER TABLE t ADD e int; RESET session_replication_role",
            vec!["t id c d e!"],
        ),
        ("ALTER TABLE t RENAME TO w", vec!["dropped t!"]),
        (
            "INSERT INTO w VALUES (3); CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)",
            vec![],
        ),
    ] {
        // Looks and log are at the same place only if one statement waits for the events of the last.
        let mut events = Vec::new();
        for sql in sql.split('#') {
            capture.run(sql).await;
            events.extend(capture.events(&mut feed).await);
        }
        assert_eq!(said(&events), told, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_ways_to_drop_and_rename_are_told() {
    let capture = Capture::of(
        "CREATE SCHEMA gone; CREATE SCHEMA before; CREATE TYPE pair AS (a int, b int);
         CREATE TABLE gone.a (id int PRIMARY KEY); CREATE TABLE gone.b (id int PRIMARY KEY);
         CREATE TABLE before.c (id int PRIMARY KEY);
         CREATE TABLE t (id int PRIMARY KEY, p pair, n int); CREATE INDEX n ON t (n);
         CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF parts DEFAULT",
    )
    .await;
    let mut feed = capture.feed().await;
    for (sql, mut told) in [
        ("DROP SCHEMA gone CASCADE", vec!["dropped a!", "dropped b!"]),
        ("ALTER SCHEMA before RENAME TO after", vec!["dropped c!"]),
        ("DROP TYPE pair CASCADE", vec!["t id n!"]),
        ("DROP INDEX CONCURRENTLY n", vec![]),
        ("CREATE INDEX CONCURRENTLY m ON t (n)", vec![]),
        (
            "CREATE TEMP TABLE t (id int); ALTER TABLE pg_temp.t ADD x int; DROP TABLE pg_temp.t",
            vec![],
        ),
        ("DO $$BEGIN EXECUTE 'ALTER TABLE t ADD x int'; END$$", vec!["t id n x!"]),
        ("ALTER TABLE parts ADD x int", vec!["parts id x!"]),
        ("ALTER TABLE parts DETACH PARTITION part; DROP TABLE part", vec![]),
        ("DROP TABLE parts", vec!["dropped parts!"]),
    ] {
        capture.run(sql).await;
        let mut events = said(&capture.events(&mut feed).await);
        // Shapes that are told for the first time.
        events.retain(|event| event != "parts id!" && event != "t id p n!");
        events.sort_unstable();
        told.sort_unstable();
        assert_eq!(events, told, "{sql}");
    }
}

/// A feed that is behind tells what is still so, and rows as they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_behind_tells_what_the_catalogs_bear_out() {
    let capture = Capture::of(TABLES).await;
    capture
        .run(
            "ALTER TABLE t ADD b int; INSERT INTO t VALUES (1, 'x', 2); ALTER TABLE t ALTER b TYPE bigint;
             INSERT INTO t VALUES (2, 'x', 3); ALTER TABLE t ADD c int;
             ALTER TABLE v RENAME TO w; ALTER TABLE w RENAME TO v; INSERT INTO v VALUES (1)",
        )
        .await;
    let mut feed = capture.feed().await;
    let events = capture.events(&mut feed).await;
    let told = ["t id a b", "rows t", "t id a b", "rows t", "t id a b c!", "v id!", "rows v"];
    assert_eq!(said(&events), told);
}

/// Tables that exchange their names are others from there on.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_exchange_names_are_told_as_gone() {
    let capture = Capture::of(TABLES).await;
    let mut feed = capture.feed().await;
    capture.run("INSERT INTO u VALUES (1); INSERT INTO v VALUES (2)").await;
    capture.events(&mut feed).await;
    let exchange =
        "BEGIN; ALTER TABLE u RENAME TO x; ALTER TABLE v RENAME TO u; ALTER TABLE x RENAME TO v;
        INSERT INTO u VALUES (3); COMMIT";
    capture.run(exchange).await;
    let mut told = said(&capture.events(&mut feed).await);
    told.sort_unstable();
    assert_eq!(told, ["dropped u!", "dropped v!"]);
}

/// Anybody may write into the log.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_others_change_nothing() {
    let capture = Capture::of(TABLES).await;
    let mut feed = capture.feed().await;
    let sql = "SELECT evtname::text FROM pg_event_trigger WHERE evtevent = 'ddl_command_end'";
    let prefix: String = capture.client.query_one(sql, &[]).await.unwrap().get(0);
    let id: u32 = capture.client.query_one("SELECT 't'::regclass::oid", &[]).await.unwrap().get(0);
    for content in [
        json!({"dropped": [id], "altered": []}).to_string(),
        json!({"dropped": [], "altered": [{"id": id, "schema": "public", "name": "x", "identity": "d",
            "columns": []}]})
        .to_string(),
        json!({"dropped": [], "altered": [{"id": id, "schema": "public", "name": "t", "identity": "d",
            "columns": [{"name": "id", "type": 23, "modifier": -1, "key": true}]}]})
        .to_string(),
        "words".to_owned(),
    ] {
        for transactional in [true, false] {
            let sql = "SELECT pg_logical_emit_message($1, $2, $3)";
            capture.client.execute(sql, &[&transactional, &prefix, &content]).await.unwrap();
        }
        assert_eq!(said(&capture.events(&mut feed).await), [""; 0], "{content}");
    }
    capture.run("INSERT INTO t VALUES (1, 'x')").await;
    assert_eq!(said(&capture.events(&mut feed).await), ["t id a", "rows t"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_task_has_its_own_triggers_and_takes_them_with_it() {
    let capture = Capture::of(TABLES).await;
    let one = left(&capture.client).await;
    assert_eq!(one.len(), 5, "{one:?}");
    let long = format!("Another \"task\" of a long näme {}", "x".repeat(100));
    capture.source.begin_capture(&long, &capture.tables).await.unwrap();
    assert_eq!(left(&capture.client).await.len(), 10);
    // What is as it has to be stays.
    let stamp = "SELECT string_agg(oid::text, ' ' ORDER BY oid) FROM pg_event_trigger";
    let before: String = capture.client.query_one(stamp, &[]).await.unwrap().get(0);
    capture.source.begin_capture(TASK, &capture.tables).await.unwrap();
    let after: String = capture.client.query_one(stamp, &[]).await.unwrap().get(0);
    assert_eq!(before, after);
    let from = capture.source.begin_capture(&long, &capture.tables).await.unwrap();
    let mut request = capture.request(&from, 1 << 20);
    request.task.clone_from(&long);
    let (mut ours, mut theirs) =
        (capture.feed().await, capture.source.changes(request).await.unwrap());
    capture.run("DROP TABLE u").await;
    for feed in [&mut ours, &mut theirs] {
        assert_eq!(said(&capture.events(feed).await), ["dropped u!"]);
    }
    drop(theirs);
    capture.source.end_capture(&long).await.unwrap();
    assert_eq!(left(&capture.client).await, one);
    capture.run("DROP TABLE v").await;
    assert_eq!(said(&capture.events(&mut ours).await), ["dropped v!"]);
    drop(ours);
    capture.source.end_capture(TASK).await.unwrap();
    capture.source.end_capture(TASK).await.unwrap();
    assert_eq!(left(&capture.client).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_the_right_goes_without_or_is_refused() {
    let url = logical().database().await;
    let admin = server::connect(&url).await;
    admin
        .batch_execute(
            "DO $$BEGIN CREATE ROLE no_super LOGIN REPLICATION; EXCEPTION WHEN duplicate_object THEN END$$;
             DO $$BEGIN EXECUTE 'GRANT CREATE ON DATABASE ' || current_database() || ' TO no_super'; END$$;
             GRANT ALL ON SCHEMA public TO no_super; SET ROLE no_super;
             CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)",
        )
        .await
        .unwrap();
    let theirs = url.replace("dms@", "no_super@");
    let always = PostgresSource::open(with_options(&theirs, json!({"capture-ddls": true})));
    let always = always.await.unwrap();
    let found = tables(&*always).await;
    for error in [
        always.check_capture(TASK, &found).await.unwrap_err(),
        always.begin_capture(TASK, &found).await.map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        let text = error.to_string();
        assert!(text.contains("CREATE EVENT TRIGGER") && text.contains("capture-ddls"), "{text}");
    }
    always.end_capture(TASK).await.unwrap();
    assert_eq!(left(&admin).await, [""; 0]);
    // Without being asked, it goes on as well as it can.
    let capture = {
        let source = PostgresSource::open(crate::settings(&theirs)).await.unwrap();
        let client = server::connect(&theirs).await;
        source.check_capture(TASK, &found).await.unwrap();
        let from = source.begin_capture(TASK, &found).await.unwrap();
        Capture { url: theirs, client, source, tables: found, from }
    };
    assert_eq!(left(&admin).await.len(), 1);
    let mut feed = capture.feed().await;
    capture.run("ALTER TABLE t ADD x int; INSERT INTO t VALUES (1, 2)").await;
    assert_eq!(said(&capture.events(&mut feed).await), ["t id x", "rows t"]);
    drop(feed);
    // Triggers that someone else has made for the task are used, and stay where they cannot be
    // removed.
    let by_admin = PostgresSource::open(with_options(&url, json!({"capture-ddls": "true"})));
    let by_admin = by_admin.await.unwrap();
    by_admin.check_capture(TASK, &capture.tables).await.unwrap();
    assert_eq!(left(&admin).await.len(), 1, "a look makes nothing");
    by_admin.begin_capture(TASK, &capture.tables).await.unwrap();
    assert_eq!(left(&admin).await.len(), 5);
    always.check_capture(TASK, &capture.tables).await.unwrap();
    let mut feed = capture.feed().await;
    capture.run("DROP TABLE u").await;
    assert_eq!(said(&capture.events(&mut feed).await).last().unwrap(), "dropped u!");
    drop(feed);
    let error = capture.source.end_capture(TASK).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("event triggers"), "{error}");
    assert_eq!(left(&admin).await.len(), 4, "the publication is gone all the same");
    // Not wanted.
    let never = PostgresSource::open(with_options(&url, json!({"capture-ddls": false})));
    let (never, found) = (never.await.unwrap(), tables(&*capture.source).await);
    never.begin_capture(TASK, &found).await.unwrap();
    assert_eq!(left(&admin).await.len(), 1);
    never.end_capture(TASK).await.unwrap();
}

/// Whatever is broken of the task's own, statements of users go on.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_breaks_no_statement_and_is_made_anew() {
    let capture = Capture::of(TABLES).await;
    let own = "SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname LIKE 'dms%'";
    let own: String = capture.client.query_one(own, &[]).await.unwrap().get(0);
    let healthy = left(&capture.client).await;
    let statements = "ALTER TABLE t ADD x int; CREATE TABLE y (id int); DROP TABLE y; \
        ALTER TABLE t DROP x";
    for harm in [
        // A function that may do nothing, and so fails whatever it tries.
        format!(
            "DO $$BEGIN CREATE ROLE nobody; EXCEPTION WHEN duplicate_object THEN END$$;
             ALTER EVENT TRIGGER {own} DISABLE; ALTER FUNCTION {own}.{own}() OWNER TO nobody;
             ALTER EVENT TRIGGER {own} ENABLE;
             REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC"
        ),
        format!("ALTER FUNCTION {own}.{own}() SET search_path = 'no_such_schema'"),
        format!("ALTER SCHEMA {own} RENAME TO other"),
        format!(
            "DROP SCHEMA IF EXISTS other CASCADE; DROP FUNCTION IF EXISTS {own}.{own}() CASCADE"
        ),
        format!("DROP SCHEMA {own} CASCADE"),
        format!("ALTER EVENT TRIGGER {own} DISABLE"),
        format!(
            "CREATE OR REPLACE FUNCTION {own}.{own}() RETURNS event_trigger LANGUAGE plpgsql
             AS 'BEGIN NULL; END'"
        ),
    ] {
        capture.run(&harm).await;
        capture.run(statements).await;
        capture.source.begin_capture(TASK, &capture.tables).await.unwrap();
        capture
            .run("GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO PUBLIC")
            .await;
        let mut feed = capture.feed_after(&capture.from, 1 << 20).await;
        capture.events(&mut feed).await;
        let (add, drop) = ("ALTER TABLE t ADD z int", "ALTER TABLE t DROP z");
        capture.run(add).await;
        assert_eq!(said(&capture.events(&mut feed).await), ["t id a z!"], "{harm}");
        capture.run(drop).await;
        capture.events(&mut feed).await;
        capture.run("DROP SCHEMA IF EXISTS other CASCADE").await;
        assert_eq!(left(&capture.client).await, healthy, "{harm}");
    }
}
