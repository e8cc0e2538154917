//! Where changes begin and when a run ends; what a task says of itself.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::task::{ALIKE, Pair, Side, Task, own_server, says};

const TABLE: &str = "
    CREATE TABLE t (id integer NOT NULL PRIMARY KEY, v text);
    INSERT INTO t VALUES (1, 'one'), (2, 'two');";

fn count(task: &Task) -> usize {
    if task.target.has("t") { task.target.rows("t").len() } else { 0 }
}

fn schema(pair: Pair) -> &'static str {
    if pair == Pair::Sqlite { "main" } else { "public" }
}

/// The one text that a query answers.
fn text(side: &Side, sql: &str) -> String {
    side.query(sql).unwrap()[0].trim_matches(['(', ')', '"']).to_owned()
}

#[track_caller]
fn ended_for(task: &Task, reason: &str) -> Json {
    let ended = crate::harness::end(task.command()).with_code(0).json();
    assert_eq!((&ended["status"], &ended["stop_reason"]), (&json!("completed"), &json!(reason)));
    ended
}

#[test]
fn a_run_ends_after_the_load_and_goes_on_from_there() {
    for pair in ALIKE {
        let mut task = Task::new(pair, TABLE);
        task.stop_when = json!("full-load-done");
        ended_for(&task, "STOPPED_AFTER_FULL_LOAD");
        task.source.execute("INSERT INTO t VALUES (3, 'three'); DELETE FROM t WHERE id = 1");
        ended_for(&task, "STOPPED_AFTER_FULL_LOAD");
        assert_eq!(count(&task), 2, "changes stay with the source");
        task.stop_when = json!("cached-changes-applied");
        ended_for(&task, "STOPPED_AFTER_CACHED_EVENTS");
        task.assert_same("t");
        task.source.execute("UPDATE t SET v = 'x'");
        task.stop_when = json!("caught-up");
        let ended = ended_for(&task, "STOPPED_WHEN_CAUGHT_UP");
        task.assert_same("t");
        assert_eq!(ended["tables"][0]["updates"], 2, "{ended}");
    }
}

#[test]
fn the_report_counts_what_was_applied() {
    let task = Task::new(Pair::Postgres, TABLE);
    task.catch_up().with_code(0);
    task.source.execute(
        "INSERT INTO t SELECT i, 'v' FROM generate_series(10, 29) i;
         UPDATE t SET v = 'w' WHERE id BETWEEN 10 AND 14; DELETE FROM t WHERE id = 29;",
    );
    let ended = task.catch_up().with_code(0).json();
    let table = &ended["tables"][0];
    let counts = ["inserts", "updates", "deletes", "rows", "rows_this_run"].map(|of| &table[of]);
    assert_eq!(counts, [&json!(20), &json!(5), &json!(1), &json!(2), &json!(0)], "{ended}");
    task.assert_same("t");
}

#[test]
fn a_run_ends_at_a_position() {
    for pair in ALIKE {
        let mut task = Task::new(pair, TABLE);
        task.catch_up().with_code(0);
        task.source.execute("INSERT INTO t VALUES (3, 'three')");
        let position = match pair {
            Pair::Sqlite => task.status()["log-end"]["token"].as_str().unwrap().to_owned(),
            _ => text(&task.source, "SELECT pg_current_wal_insert_lsn()::text"),
        };
        task.source.execute("INSERT INTO t VALUES (4, 'four')");
        task.stop_when = json!({"position": position});
        if pair == Pair::Postgres {
            ended_for(&task, "STOPPED_AT_POSITION");
            assert_eq!(count(&task), 3);
            ended_for(&task, "STOPPED_AT_POSITION");
            assert_eq!(count(&task), 3, "what lies beyond stays");
        } else {
            // One look at a file is one transaction, which reaches beyond the position.
            ended_for(&task, "STOPPED_AT_POSITION");
            assert!(count(&task) <= 3);
        }
        task.catch_up().with_code(0);
        task.assert_same("t");
        task.stop_when = json!({"position": "nonsense"});
        let ended = crate::harness::end(task.command()).with_code(2);
        says(&ended.stderr, &["nonsense"]);
    }
}

#[test]
fn a_run_ends_before_what_was_committed_after_a_time() {
    let mut task = Task::new(Pair::Postgres, TABLE);
    task.catch_up().with_code(0);
    task.source.execute("INSERT INTO t VALUES (3, 'three')");
    std::thread::sleep(Duration::from_millis(50));
    let sql = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', \
        'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let time = text(&task.source, sql);
    std::thread::sleep(Duration::from_millis(50));
    task.source.execute("INSERT INTO t VALUES (4, 'four')");
    task.stop_when = json!({"time": time});
    ended_for(&task, "STOPPED_AT_COMMIT_TIME");
    assert_eq!(count(&task), 3);
    task.catch_up().with_code(0);
    task.assert_same("t");
}

/// A run would go on for ever if it was to end by times that the source does not tell.
#[test]
fn a_source_without_times_refuses_to_end_by_one() {
    let mut task = Task::new(Pair::Sqlite, TABLE);
    task.catch_up().with_code(0);
    task.source.execute("INSERT INTO t VALUES (3, 'three')");
    task.stop_when = json!({"time": "2020-01-01T00:00:00Z"});
    let ended = task.start().wait().with_code(1);
    says(&ended.stderr, &["time", "server-time"]);
    assert_eq!(count(&task), 2);
}

#[test]
fn a_run_ends_at_a_time_of_this_machine() {
    for pair in ALIKE {
        let mut task = Task::new(pair, TABLE);
        task.catch_up().with_code(0);
        let server = Side::Sqlite(":memory:".into());
        let sql = "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+3 seconds')";
        task.stop_when = json!({"server-time": text(&server, sql)});
        let began = Instant::now();
        let mut run = task.start();
        task.source.execute("INSERT INTO t VALUES (3, 'three')");
        let ended = run.wait().with_code(0).json();
        assert!(began.elapsed() > Duration::from_millis(2500), "it ended too early");
        assert!(began.elapsed() < Duration::from_secs(10), "it ended too late");
        assert_eq!(ended["stop_reason"], "STOPPED_AT_SERVER_TIME");
        task.assert_same("t");
    }
}

#[test]
fn changes_alone_begin_now() {
    for pair in ALIKE {
        let mut task = Task::new(pair, TABLE);
        task.kind = "cdc";
        task.target.execute(TABLE);
        task.source.execute("INSERT INTO t VALUES (3, 'before')");
        task.catch_up().with_code(0);
        task.source.execute("INSERT INTO t VALUES (4, 'after'); UPDATE t SET v = 'x' WHERE id = 2");
        task.catch_up().with_code(0);
        task.source.execute("DELETE FROM t WHERE id = 1");
        task.catch_up().with_code(0);
        let rows = task.target.query("SELECT id FROM t ORDER BY id").unwrap();
        assert_eq!(rows, ["(2)", "(4)"]);
        let status = task.status();
        assert!(status["position"]["order"].as_u64().unwrap() > 0, "{status}");
    }
}

#[test]
fn changes_alone_begin_at_a_position() {
    let mut task = Task::new(Pair::Postgres, TABLE);
    task.kind = "cdc";
    task.target.execute(TABLE);
    task.source.execute("CREATE PUBLICATION mine FOR TABLE t");
    let slot = format!("mine_{}", std::process::id());
    task.source
        .execute(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    task.source_options = json!({"slot-name": slot, "publication-name": "mine"});
    task.source.execute("INSERT INTO t VALUES (3, 'before')");
    let position = text(&task.source, "SELECT pg_current_wal_insert_lsn()::text");
    task.source.execute("INSERT INTO t VALUES (4, 'after')");
    task.start_at = json!({"position": position});
    task.catch_up().with_code(0);
    let rows = task.target.query("SELECT id FROM t ORDER BY id").unwrap();
    assert_eq!(rows, ["(1)", "(2)", "(4)"]);

    // One that the slot does not hold any more.
    task.start_at = json!({"position": "0/100"});
    task.call(&["delete"]).with_code(0);
    task.source.execute("ALTER PUBLICATION mine SET TABLE t");
    task.source_options = json!({});
    let ended = task.catch_up().with_code(1);
    says(&ended.stderr, &["changes before are confirmed", "load"]);
    let rows = task.target.query("SELECT id FROM t ORDER BY id").unwrap();
    assert_eq!(rows.len(), 3);
}

#[test]
fn a_full_load_has_no_stop_condition() {
    let mut task = Task::new(Pair::Sqlite, TABLE);
    (task.kind, task.stop_when) = ("full-load", json!("caught-up"));
    let ended = crate::harness::end(task.command()).with_code(2);
    says(&ended.stderr, &["stop-when", "full-load-and-cdc"]);
    (task.kind, task.stop_when) = ("full-load-and-cdc", Json::Null);
    task.start_at = json!({"position": "0/1"});
    let ended = crate::harness::end(task.command()).with_code(2);
    says(&ended.stderr, &["start-at", "cdc"]);
}

/// Beginning waits for each transaction of the source that is under way.
#[test]
fn a_run_that_waits_for_the_source_can_be_stopped() {
    let server = own_server();
    let folder = tempfile::tempdir().unwrap();
    let target = Side::Sqlite(folder.path().join("target.db"));
    let mut task = Task::between(folder, Side::on(&server), target, TABLE);
    task.set("TargetMetadata", "TargetSchema", "main");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let blocker = runtime.block_on(crate::server::connect(&task.source.url()));
    let sql = "BEGIN; INSERT INTO t VALUES (50, 'open')";
    runtime.block_on(blocker.batch_execute(sql)).unwrap();
    let mut run = task.start();
    run.until("the slot to be waited for", || {
        let sql = "SELECT 1 FROM pg_stat_activity \
            WHERE query LIKE '%create_logical%' AND state = 'active' AND pid <> pg_backend_pid()";
        !task.source.query(sql).unwrap().is_empty()
    });
    run.stop().with_code(130);
    runtime.block_on(blocker.batch_execute("COMMIT")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let slots = task.source.query("SELECT slot_name FROM pg_replication_slots").unwrap();
    assert_eq!(slots.len(), 0, "{slots:?}");
    task.catch_up().with_code(0);
    task.assert_same("t");
}

#[test]
fn a_run_can_be_stopped_while_it_loads() {
    for pair in ALIKE {
        let mut task = Task::new(pair, TABLE);
        task.set("Engine", "PartitionBytes", 65536);
        task.source.execute(match pair {
            Pair::Sqlite => {
                "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) \
                 INSERT INTO t SELECT i, 'some text of a row ' || i FROM n"
            }
            _ => "INSERT INTO t SELECT i, 'some text of a row ' || i FROM generate_series(100, 200000) i",
        });
        // At first while the run begins, but not before it listens to signals.
        for (begun, milliseconds) in [(false, 400), (true, 30), (true, 200), (true, 500)] {
            let mut run = task.start();
            run.until("the table", || !begun || task.target.has("t"));
            std::thread::sleep(Duration::from_millis(milliseconds));
            task.source.execute("UPDATE t SET v = v || '!' WHERE id < 110");
            run.stop().with_code(130);
        }
        task.catch_up().with_code(0);
        task.assert_same("t");
    }
}

/// Another program holds the target's table, so that nothing can be applied.
#[test]
fn a_run_can_be_stopped_while_the_target_waits() {
    let task = Task::new(Pair::Postgres, TABLE);
    let mut run = task.start();
    run.until("the load", || count(&task) == 2);
    task.source.execute("INSERT INTO t VALUES (3, 'three')");
    run.until("a change", || count(&task) == 3);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let blocker = runtime.block_on(crate::server::connect(&task.target.url()));
    runtime.block_on(blocker.batch_execute("BEGIN; LOCK TABLE t")).unwrap();
    task.source.execute("UPDATE t SET v = 'changed'");
    let waits = "SELECT 1 FROM pg_stat_activity \
        WHERE wait_event_type = 'Lock' AND datname = current_database()";
    run.until("the lock to be waited for", || !task.target.query(waits).unwrap().is_empty());
    run.stop().with_code(130);
    runtime.block_on(blocker.batch_execute("COMMIT")).unwrap();
    task.catch_up().with_code(0);
    task.assert_same("t");
}

#[test]
fn a_run_can_be_stopped_while_the_source_is_away() {
    let server = own_server();
    let folder = tempfile::tempdir().unwrap();
    let target = Side::Sqlite(folder.path().join("target.db"));
    let mut task = Task::between(folder, Side::on(&server), target, TABLE);
    task.set("TargetMetadata", "TargetSchema", "main");
    task.set("ErrorBehavior", "RecoverableErrorCount", -1);
    task.set("ErrorBehavior", "RecoverableErrorInterval", 30);
    let mut run = task.start();
    run.until("the load", || count(&task) == 2);
    drop(server);
    std::thread::sleep(Duration::from_millis(1500));
    run.stop().with_code(130);
    assert_eq!(count(&task), 2);
}

#[test]
fn the_status_tells_where_a_task_stands() {
    for pair in ALIKE {
        let mut task = Task::new(pair, TABLE);
        let before = task.status();
        assert_eq!((&before["known"], &before["position"]), (&json!(false), &Json::Null));
        says(&task.call(&["status"]).with_code(0).stdout, &["follow", "knows nothing"]);

        task.stop_when = json!("full-load-done");
        ended_for(&task, "STOPPED_AFTER_FULL_LOAD");
        let loaded = task.status();
        let table = &loaded["tables"][0];
        assert_eq!((&table["state"], &table["rows"]), (&json!("Table completed"), &json!(2)));
        assert!(loaded["position"]["order"].as_u64().is_some(), "{loaded}");

        task.source.execute("INSERT INTO t VALUES (3, 'three')");
        task.stop_when = Json::Null;
        let mut run = task.start();
        run.until("a change", || count(&task) == 3);
        let ongoing = task.status();
        let order = |status: &Json, of: &str| status[of]["order"].as_u64().unwrap();
        assert!(order(&ongoing, "position") > order(&loaded, "position"), "{ongoing}");
        assert!(order(&ongoing, "log-end") >= order(&ongoing, "position"), "{ongoing}");
        assert!(ongoing["log-retained-bytes"].is_u64(), "{ongoing}");
        let shown = task.call(&["status"]).with_code(0).stdout;
        let name = format!("{}.t: Table completed, 2 rows", schema(pair));
        says(&shown, &["applied up to", "log ends at", "log kept for it", &name]);
        run.stop().with_code(130);
    }
}

#[test]
fn a_check_changes_nothing() {
    for pair in ALIKE {
        let task = Task::new(pair, TABLE);
        let checked = task.call(&["check"]).with_code(0);
        says(&checked.stdout, &["source", "target", "the task can run"]);
        let left = match pair {
            Pair::Sqlite => "SELECT 1 FROM sqlite_schema WHERE name LIKE '%dms%'",
            _ => {
                "SELECT 1 FROM pg_replication_slots WHERE database = current_database() \
                 UNION ALL SELECT 1 FROM pg_publication"
            }
        };
        assert_eq!(task.source.query(left).unwrap().len(), 0);
        assert!(!task.target.has("t"));
    }
}
