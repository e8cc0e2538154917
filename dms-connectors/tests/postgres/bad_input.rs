//! What goes wrong says so, and a run after the cause is gone completes.

use std::sync::Arc;

use dms_connectors::postgres::{PostgresSettings, PostgresSource};
use dms_core::ErrorKind;
use dms_core::endpoint::EndpointSettings;
use dms_core::mapping::Selection;
use dms_core::task::{Report, TaskStatus};

use crate::server::Server;
use crate::{assert_moves, completed, load, server, settings, source, target, text_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_or_refuses() {
    let server = Server::start(&[]);
    let client = server::connect(&server.url("postgres")).await;
    client
        .batch_execute("CREATE ROLE locked LOGIN PASSWORD 'right'; CREATE ROLE out NOLOGIN")
        .await
        .unwrap();
    for (url, kind, says) in [
        (
            format!("postgres://dms@127.0.0.1:{}/nothing", server.port),
            ErrorKind::NotFound,
            "nothing",
        ),
        (
            format!("postgres://nobody@127.0.0.1:{}/postgres", server.port),
            ErrorKind::Denied,
            "nobody",
        ),
        (format!("postgres://out@127.0.0.1:{}/postgres", server.port), ErrorKind::Denied, "out"),
        ("postgres://dms:s3cret@127.0.0.1:1/postgres".into(), ErrorKind::Connection, "127.0.0.1:1"),
    ] {
        let error = PostgresSource::open(settings(&url)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{url}: {error}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}

fn failed_table(report: &Report) -> String {
    assert_ne!(report.status, TaskStatus::Completed);
    report.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_the_right_to_read_it_is_named() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let client = server::connect(&from).await;
    client
        .batch_execute(
            "CREATE ROLE reader LOGIN; CREATE TABLE open (id int); CREATE TABLE closed (id int);
             INSERT INTO open VALUES (1); GRANT SELECT ON open TO reader",
        )
        .await
        .unwrap();
    let as_reader = from.replace("dms@", "reader@");
    let report = load(source(&as_reader).await, target(&to)).await.unwrap();
    let said = failed_table(&report);
    assert!(said.contains("closed") && said.contains("permission denied"), "{said}");
    client.batch_execute("GRANT SELECT ON closed TO reader").await.unwrap();
    let report = load(source(&as_reader).await, target(&to)).await.unwrap();
    assert!(completed(&report), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_and_a_nan_in_a_decimal_are_named() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let client = server::connect(&from).await;
    client
        // Whole rows would carry it: money is decoded, and with it all columns.
        .batch_execute(
            "CREATE TABLE n (id int, v numeric(5,2), m money); INSERT INTO n VALUES (1, 'NaN')",
        )
        .await
        .unwrap();
    let said = failed_table(&load(source(&from).await, target(&to)).await.unwrap());
    assert!(said.contains("public.n") && said.contains("column v"), "{said}");
    assert!(said.contains("column-types"), "{said}");
    let mut endpoint = EndpointSettings::new(&from);
    for (ty, fits) in [("numeric", true), ("text", true), ("int32", false)] {
        endpoint.options.insert("column-types".into(), serde_json::json!({"public.n.v": ty}));
        let source = PostgresSource::open(PostgresSettings::from_endpoint(&endpoint).unwrap());
        let to = server.database().await;
        let moved = load(source.await.unwrap(), target(&to)).await;
        if fits {
            assert!(completed(moved.as_ref().unwrap()), "{moved:?}");
            assert_eq!(text_of(&to, "n").await, ["(1,NaN,)"]);
        } else {
            assert_eq!(moved.unwrap_err().kind(), ErrorKind::Settings);
        }
    }
    client.batch_execute("UPDATE n SET v = 1.5").await.unwrap();
    assert_moves(&from, &to, "n").await;
    let source = source(&from).await;
    let catalog = source.discover(&Selection::all()).await.unwrap();
    client.batch_execute("DROP TABLE n").await.unwrap();
    let snapshot = source.snapshot(&catalog.tables, 1).await.unwrap();
    let table = Arc::new(catalog.tables.into_iter().next().unwrap());
    let mut stream = snapshot.read(dms_core::endpoint::ReadRequest::whole(table)).await.unwrap();
    let error = futures::StreamExt::next(&mut stream).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
}

/// Timeouts of the role and a full house do not end a load.
#[tokio::test(flavor = "multi_thread")]
async fn a_hasty_role_still_loads() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let client = server::connect(&from).await;
    client
        .batch_execute(
            "CREATE ROLE hasty LOGIN SUPERUSER; ALTER ROLE hasty SET statement_timeout = 1;
             ALTER ROLE hasty SET datestyle = 'SQL, DMY'; ALTER ROLE hasty SET timezone = 'Asia/Tokyo';
             ALTER ROLE hasty SET bytea_output = 'escape'; ALTER ROLE hasty SET extra_float_digits = -15;
             CREATE TABLE slow (id int, at timestamptz, r daterange, p point);
             INSERT INTO slow SELECT i, '2020-05-04 03:02:01+00'::timestamptz + i * interval '1 s',
                 daterange('2020-05-04', '2020-06-07'), point(i / 3.0, 0.1)
                 FROM generate_series(1, 20000) i",
        )
        .await
        .unwrap();
    let hasty = |url: &str| url.replace("dms@", "hasty@");
    let report = load(source(&hasty(&from)).await, target(&hasty(&to))).await.unwrap();
    assert!(completed(&report), "{report}");
    assert_eq!(text_of(&to, "slow").await, text_of(&from, "slow").await);
}

/// The server goes away in the middle; the next run completes.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_an_error_and_no_loss() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let client = server::connect(&from).await;
    client
        .batch_execute(
            "CREATE TABLE t (id int, pad text);
             INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 100000) i",
        )
        .await
        .unwrap();
    for side in [&from, &to] {
        let database = side.rsplit('/').next().unwrap().to_owned();
        let killer = async {
            tokio::time::sleep(std::time::Duration::from_millis(60)).await;
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                       WHERE datname = $1 AND application_name = 'dms'";
            client.query_one(sql, &[&database]).await.unwrap().get::<_, i64>(0)
        };
        let (report, killed) = futures::join!(load(source(&from).await, target(&to)), killer);
        // A run that was faster than its killer is one that completed.
        if killed > 0
            && let Ok(report) = &report
            && !completed(report)
        {
            assert!(failed_table(report).contains("connection"), "{report}");
        }
        assert_moves(&from, &to, "t").await;
    }
}
