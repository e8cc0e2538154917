//! How fast changes of PostgreSQL are read: `changes URL`, of a database that may be written to, on a
//! server with `wal_level = logical`.
//!
//! Makes 500,000 changes in 50,000 transactions, then drains them to nothing in turns: by
//! `pg_recvlogical`, which writes the server's bytes to `/dev/null`, and by the feed, which makes
//! record batches of them. Prints the seconds of each. `psql` and `pg_recvlogical` have to be found.

use std::process::Command;
use std::time::Instant;

use dms_connectors::postgres::{PostgresSettings, PostgresSource};
use dms_core::change::ChangeEvent;
use dms_core::endpoint::{ChangeSource, FeedRequest, Source};
use dms_core::mapping::TableMapping;
use futures::StreamExt;

type Failure = Box<dyn std::error::Error>;

const TASK: &str = "drain";
const CHANGES: usize = 500_000;
const TURNS: usize = 3;

const TABLE: &str = "DROP TABLE IF EXISTS drained; CREATE TABLE drained (id bigint PRIMARY KEY, n int, \
    price numeric(12,2), note text, at timestamptz)";

/// Ten changes a transaction.
const WORK: &str = "DO $$BEGIN FOR i IN 0..49999 LOOP
    INSERT INTO drained SELECT i * 4 + k, i, i / 7.0, 'note of the row ' || i, now()
        FROM generate_series(0, 3) k;
    UPDATE drained SET n = n + 1 WHERE id = i * 4;
    UPDATE drained SET price = price + 1 WHERE id = i * 4 + 1;
    UPDATE drained SET note = 'changed' WHERE id = i * 4 + 2;
    UPDATE drained SET n = 0 WHERE id = i * 4 + 3;
    DELETE FROM drained WHERE id = i * 4; DELETE FROM drained WHERE id = i * 4 + 1;
    COMMIT; END LOOP; END$$";

fn main() -> Result<(), Failure> {
    let Some(url) = std::env::args().nth(1) else { return Err("usage: changes URL".into()) };
    tokio::runtime::Runtime::new()?.block_on(Box::pin(run(&url)))
}

fn program(name: &str, arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new(name).args(arguments).output()?;
    if !output.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

async fn run(url: &str) -> Result<(), Failure> {
    let sql =
        |sql: &str| program("psql", &["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]);
    sql(TABLE)?;
    let source = PostgresSource::open(PostgresSettings::new(url)?).await?;
    let mapping = TableMapping::new().include("public", "drained");
    let tables = source.discover(mapping.selection()).await?.tables;
    source.end_capture(TASK).await?;
    let after = source.begin_capture(TASK, &tables).await?;
    let slot =
        sql("SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'dms_drain_%' \
        AND database = current_database()")?;
    sql(WORK)?;
    let end = sql("SELECT pg_current_wal_flush_lsn()")?;
    for _ in 0..TURNS {
        let peer = "dms_drain_peer";
        sql(&format!("SELECT pg_copy_logical_replication_slot('{slot}', '{peer}')"))?;
        let publication = format!("publication_names={slot}");
        let began = Instant::now();
        program(
            "pg_recvlogical",
            &[
                "-d",
                url,
                "--slot",
                peer,
                "--start",
                "-f",
                "/dev/null",
                "--endpos",
                &end,
                "--no-loop",
                "-o",
                "proto_version=1",
                "-o",
                "binary=true",
                "-o",
                "messages=true",
                "-o",
                &publication,
            ],
        )?;
        println!("pg_recvlogical {:.3}", began.elapsed().as_secs_f64());
        sql(&format!("SELECT pg_drop_replication_slot('{peer}')"))?;
        let began = Instant::now();
        let mut feed = source
            .changes(FeedRequest {
                task: TASK.to_owned(),
                tables: tables.clone(),
                after: after.clone(),
                event_bytes: 2 << 20,
                prefetch_bytes: 8 << 20,
            })
            .await?;
        let mut records = 0;
        while records < CHANGES {
            match feed.events.next().await.transpose()? {
                Some(ChangeEvent::Rows(rows)) => records += rows.records(),
                Some(_) => {}
                None => return Err("the feed ended".into()),
            }
        }
        println!("feed {:.3}", began.elapsed().as_secs_f64());
    }
    source.end_capture(TASK).await?;
    sql("DROP TABLE drained")?;
    Ok(())
}
