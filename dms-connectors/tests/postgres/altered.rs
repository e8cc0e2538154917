//! Tables that change their shape or their place while they are loaded: a load is right or says
//! so, and the next run completes.

use std::sync::Arc;

use dms_core::ErrorKind;
use dms_core::endpoint::{PartitionGoal, ReadRequest};
use dms_core::full_load::StartType;
use dms_core::mapping::{ParallelLoad, RuleAction, Selection, SelectionRule, TableType};
use dms_core::task::Report;
use futures::StreamExt;

use crate::meanwhile::{Moment, load_with, meanwhile, one_by_one};
use crate::{completed, server, source, target, text_of};

const TABLES: &str = "
    CREATE TABLE t (a int NOT NULL, b int NOT NULL, c varchar(5), pad text);
    INSERT INTO t SELECT i, -i, 'c' || i % 9, repeat('x', 400) FROM generate_series(1, 1000) i;
    CREATE TABLE other (id int);
    INSERT INTO other SELECT generate_series(1, 10);
    CREATE TABLE parts (a int NOT NULL, b int) PARTITION BY RANGE (a);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (500);
    CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (500) TO (1001) PARTITION BY LIST (b);
    CREATE TABLE parts_2_rest PARTITION OF parts_2 DEFAULT;
    INSERT INTO parts SELECT i, i FROM generate_series(1, 1000) i";

/// What happens to a table, and what the error says when it happened before the snapshot and
/// after it; `None` where the load is right all the same.
const CHANGES: &[(&str, Option<&str>, Option<&str>)] = &[
    ("ALTER TABLE t ADD COLUMN n int", None, None),
    ("ALTER TABLE t ADD COLUMN n float8 DEFAULT random()", None, Some("rewritten")),
    ("ALTER TABLE t DROP COLUMN b", Some("column b"), Some("column b")),
    ("ALTER TABLE t DROP COLUMN b, ADD COLUMN b int DEFAULT 7 NOT NULL", None, Some("column b")),
    // As wide as before: its bytes would pass for others.
    ("ALTER TABLE t ALTER COLUMN b TYPE real", Some("column b"), Some("rewritten")),
    ("ALTER TABLE t ALTER COLUMN c TYPE varchar(50)", Some("column c"), None),
    (
        "ALTER TABLE t ALTER COLUMN b DROP NOT NULL; UPDATE t SET b = NULL WHERE a % 3 = 0",
        Some("column b"),
        None,
    ),
    (
        "ALTER TABLE t RENAME a TO z; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME z TO b",
        None,
        Some("column"),
    ),
    ("TRUNCATE t", None, Some("rewritten")),
    ("DELETE FROM t WHERE a < 900; COMMIT; VACUUM FULL t", None, Some("rewritten")),
    ("CREATE INDEX i ON t (a); CLUSTER t USING i", None, Some("rewritten")),
    ("DROP TABLE t", Some("dropped or renamed"), Some("dropped or renamed")),
    ("ALTER TABLE t RENAME TO old; CREATE TABLE t (LIKE old)", None, Some("column a")),
    ("UPDATE t SET pad = 'y'; COMMIT; VACUUM t", None, None),
];

#[track_caller]
fn failed(report: &Report, says: &str) {
    assert!(!completed(report), "no error: {says}");
    for table in &report.tables {
        let Some(error) = &table.error else { continue };
        assert_eq!(table.name.name, "t");
        assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
        let error = error.to_string();
        assert!(error.contains("public.t") && error.contains(says), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_changed_meanwhile_is_loaded_right_or_named() {
    let server = server::shared();
    for (change, before, after) in CHANGES {
        for (moment, says) in [(Moment::Planned, before), (Moment::Read(3), after)] {
            let (from, to) = (server.database().await, server.database().await);
            let client = Arc::new(server::connect(&from).await);
            client.batch_execute(TABLES).await.unwrap();
            let columns = "(SELECT a, b, c, pad FROM t)";
            let as_planned = text_of(&from, columns).await;
            let changer = Arc::clone(&client);
            let changed = meanwhile(source(&from).await, moment, move || {
                let client = Arc::clone(&changer);
                async move {
                    for statement in change.split("; COMMIT; ") {
                        client.batch_execute(statement).await.unwrap();
                    }
                }
            });
            let report =
                load_with(one_by_one(), StartType::Resume, changed, target(&to)).await.unwrap();
            let context = format!("{change}, {moment:?}: {report}");
            match says {
                Some(says) => failed(&report, says),
                None => {
                    assert!(completed(&report), "{context}");
                    let there = match moment {
                        Moment::Planned => text_of(&from, columns).await,
                        _ => as_planned,
                    };
                    assert!(text_of(&to, columns).await == there, "{context}");
                }
            }
            // A table that was completed stays as it is until it is loaded again.
            let start = if says.is_some() { StartType::Resume } else { StartType::Reload };
            let again = load_with(one_by_one(), start, source(&from).await, target(&to)).await;
            let again = again.unwrap();
            assert!(completed(&again), "{context}, again: {again}");
            for table in again.tables {
                let name = &table.name.name;
                assert!(text_of(&to, name).await == text_of(&from, name).await, "{context}");
            }
        }
    }
}

/// What a read under a snapshot gives after a change.
async fn read_after(
    from: &str,
    change: &str,
    table: &str,
    by_parts: bool,
) -> Result<usize, String> {
    let source = source(from).await;
    let mut rule = SelectionRule::new(RuleAction::Include, "%", "%");
    rule.table_type = TableType::All;
    let mut selection = Selection::default();
    selection.push(rule);
    let tables = source.discover(&selection).await.unwrap().tables;
    let snapshot = source.snapshot(&tables, 1).await.unwrap();
    let table = tables.into_iter().find(|found| found.name.name == table).unwrap();
    let parallel_load = if by_parts { ParallelLoad::Auto } else { ParallelLoad::None };
    let goal = PartitionGoal { parallel_load, bytes: 8192, at_most: 10 };
    let partitions = snapshot.partitions(&table, &goal).await.unwrap();
    let client = server::connect(from).await;
    client.batch_execute(change).await.unwrap();
    let (table, mut rows) = (Arc::new(table), 0);
    for partition in partitions {
        let request = ReadRequest { partition, ..ReadRequest::whole(Arc::clone(&table)) };
        let mut batches = snapshot.read(request).await.unwrap();
        while let Some(batch) = batches.next().await {
            rows += batch.map_err(|error| error.to_string())?.num_rows();
        }
    }
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_and_views_changed_meanwhile() {
    let server = server::shared();
    for (change, table, by_parts, gives) in [
        ("SELECT", "parts", true, Ok(1000)),
        ("SELECT", "parts", false, Ok(1000)),
        ("SELECT", "over", false, Ok(500)),
        ("ALTER TABLE parts DETACH PARTITION parts_2", "parts", true, Ok(1000)),
        ("ALTER TABLE parts DETACH PARTITION parts_2", "parts", false, Err("partitions changed")),
        ("CREATE TABLE parts_3 PARTITION OF parts DEFAULT", "parts", true, Ok(1000)),
        ("CREATE TABLE parts_3 PARTITION OF parts DEFAULT", "parts", false, Err("public.parts")),
        ("TRUNCATE parts_1", "parts", false, Err("rewritten")),
        ("TRUNCATE parts_1", "parts", true, Err("rewritten")),
        ("DROP TABLE parts_1", "parts", true, Err("dropped")),
        (
            "ALTER TABLE parts_2 DETACH PARTITION parts_2_rest;
             CREATE TABLE parts_2_all PARTITION OF parts_2 DEFAULT",
            "parts",
            false,
            Err("partitions changed"),
        ),
        ("TRUNCATE t", "looks", false, Err("public.looks")),
        ("TRUNCATE parts_2", "over", false, Err("rewritten")),
        ("INSERT INTO t VALUES (0, 0, '', '')", "looks", false, Ok(500)),
        ("REFRESH MATERIALIZED VIEW kept", "kept", false, Err("public.kept")),
    ] {
        let from = server.database().await;
        let client = server::connect(&from).await;
        client.batch_execute(TABLES).await.unwrap();
        client
            .batch_execute(
                "CREATE TABLE second (k int) PARTITION BY HASH (k);
                 CREATE TABLE second_1 PARTITION OF second FOR VALUES WITH (MODULUS 1, REMAINDER 0);
                 CREATE VIEW looks AS SELECT a FROM t WHERE a > 500;
                 CREATE VIEW over AS SELECT l.a FROM looks l JOIN parts p ON p.a = l.a
                     WHERE l.a NOT IN (SELECT k FROM second);
                 CREATE MATERIALIZED VIEW kept AS SELECT * FROM other",
            )
            .await
            .unwrap();
        let found = read_after(&from, change, table, by_parts).await;
        match (found, gives) {
            (Ok(rows), Ok(wanted)) => assert_eq!(rows, wanted, "{change}: {table}"),
            (Err(error), Err(says)) => assert!(error.contains(says), "{change}: {error}"),
            (found, _) => panic!("{change}: {table} gave {found:?}"),
        }
    }
}
