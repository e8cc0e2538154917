//! What goes wrong around a task: each is told with what helps, and nothing is lost.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::task::{ALIKE, Pair, Side, Task, own_server, says};
use crate::server::{self, Server};

const TABLE: &str = "
    CREATE TABLE t (id integer NOT NULL PRIMARY KEY, v text);
    INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three');";

/// A task from a database of a server to a file.
fn from(server: &Server) -> Task {
    let folder = tempfile::tempdir().unwrap();
    let target = Side::Sqlite(folder.path().join("target.db"));
    let mut task = Task::between(folder, Side::on(server), target, TABLE);
    task.set("TargetMetadata", "TargetSchema", "main");
    task
}

/// The target holds what the source does, in order.
#[track_caller]
fn assert_same(task: &Task) {
    let rows = |side: &Side| side.query("SELECT id, v FROM t ORDER BY id").unwrap();
    let rows = |side: &Side| rows(side).iter().map(|r| r.replace('"', "")).collect::<Vec<_>>();
    assert_eq!(rows(&task.source), rows(&task.target));
}

fn slot(task: &Task) -> String {
    let sql =
        "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()";
    let slots = task.source.query(sql).unwrap();
    assert_eq!(slots.len(), 1, "{slots:?}");
    slots[0].trim_matches(['(', ')']).to_owned()
}

#[test]
fn a_server_whose_log_holds_no_changes_is_refused() {
    let task = from(server::shared());
    for ended in [task.catch_up().with_code(2), task.call(&["check"]).with_code(2)] {
        says(&ended.stderr, &["wal_level is replica", "ALTER SYSTEM SET wal_level = logical"]);
    }
    assert!(!task.target.has("t"));
}

#[test]
fn a_role_that_may_not_read_the_log_is_refused() {
    let mut task = Task::new(Pair::Postgres, TABLE);
    task.source.execute(
        "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN; GRANT SELECT ON t TO reader",
    );
    let Side::Postgres(url) = &task.source else { unreachable!() };
    let as_reader = url.replace("dms@", "reader@");
    let source = std::mem::replace(&mut task.source, Side::Postgres(as_reader));
    for ended in [task.catch_up().with_code(1), task.call(&["check"]).with_code(1)] {
        says(&ended.stderr, &["may not read the log", "ALTER ROLE \"reader\" REPLICATION"]);
    }
    task.source = source;
    task.source.execute("DROP OWNED BY reader; DROP ROLE reader");
    task.catch_up().with_code(0);
    assert_same(&task);
}

#[test]
fn a_server_without_a_slot_to_spare_is_refused() {
    let server = Server::start(&["wal_level=logical", "max_replication_slots=1"]);
    let task = from(&server);
    let ended = task.catch_up().with_code(2);
    says(&ended.stderr, &["no replication slot left", "max_replication_slots"]);
    assert!(!task.target.has("t"));
}

#[test]
fn a_table_whose_rows_nothing_identifies_is_refused() {
    for pair in ALIKE {
        let task = Task::new(pair, TABLE);
        task.source.execute("CREATE TABLE no_key (v text)");
        let ended = task.catch_up();
        assert!(matches!(ended.code, Some(1 | 2)), "{ended:?}");
        says(&ended.stderr, &["no_key", "key"]);
        assert!(!task.target.has("t"), "nothing is begun");
        task.source.execute(match pair {
            Pair::Sqlite => "DROP TABLE no_key; CREATE TABLE no_key (v text NOT NULL UNIQUE)",
            _ => "ALTER TABLE no_key REPLICA IDENTITY FULL",
        });
        task.source.execute("INSERT INTO no_key VALUES ('x')");
        task.catch_up().with_code(0);
        task.assert_same("no_key");
    }
}

/// The server throws away what a slot still needed.
#[test]
fn a_log_that_was_cut_off_is_told() {
    let server = Server::start(&[
        "wal_level=logical",
        "max_slot_wal_keep_size=1MB",
        "max_wal_size=32MB",
        "min_wal_size=32MB",
    ]);
    let task = from(&server);
    task.catch_up().with_code(0);
    task.source.execute("UPDATE t SET v = 'never seen' WHERE id = 1");
    task.source.execute("CREATE SCHEMA aside; CREATE TABLE aside.x (v text)");
    for _ in 0..8 {
        let fill = "INSERT INTO aside.x SELECT repeat('x', 1000) FROM generate_series(1, 10000)";
        task.source.execute(fill);
        task.source.execute("TRUNCATE aside.x; SELECT pg_switch_wal(); CHECKPOINT");
    }
    let name = slot(&task);
    task.source.execute("DROP SCHEMA aside CASCADE");
    for _ in 0..2 {
        let ended = task.catch_up().with_code(1);
        says(&ended.stderr, &[&name, "lost changes", "pg_drop_replication_slot", "load"]);
    }
    // As the message says.
    task.source.execute(&format!("SELECT pg_drop_replication_slot('{name}')"));
    task.call(&["reload"]).with_code(0);
    task.catch_up().with_code(0);
    assert_same(&task);
}

#[test]
fn a_slot_that_was_dropped_is_told() {
    let task = Task::new(Pair::Postgres, TABLE);
    task.catch_up().with_code(0);
    task.source.execute("UPDATE t SET v = 'never seen' WHERE id = 1");
    task.source.execute(&format!("SELECT pg_drop_replication_slot('{}')", slot(&task)));
    task.source.execute("UPDATE t SET v = 'later' WHERE id = 2");
    let held = task.target.rows("t");
    for _ in 0..2 {
        let ended = task.catch_up().with_code(1);
        says(&ended.stderr, &["replication slot", "load", "public.t"]);
        assert_eq!(task.target.rows("t"), held);
    }
    task.call(&["reload"]).with_code(0);
    task.catch_up().with_code(0);
    assert_same(&task);
}

/// The server keeps its log from a place before the slot's, so that a byte is too much always.
#[test]
fn a_task_for_which_too_much_log_is_kept_stops_if_it_is_to() {
    let mut task = Task::new(Pair::Postgres, TABLE);
    task.source_options = json!({"retained-wal-max": 1, "retained-wal-policy": "stop"});
    let mut run = task.start();
    let ended = run.wait().with_code(1);
    let slot = slot(&task);
    says(&ended.stderr, &["retained-wal-max (1)", "retained-wal-policy", &slot, "stays"]);
    task.source.execute("UPDATE t SET v = 'meanwhile' WHERE id = 1");
    task.source_options = json!({"retained-wal-max": 1, "retained-wal-policy": "warn"});
    task.catch_up().with_code(0);
    assert_same(&task);
}

/// The triggers that note changes are dropped, and something is written without them.
#[test]
fn triggers_that_were_dropped_are_told() {
    let task = Task::new(Pair::Sqlite, TABLE);
    task.catch_up().with_code(0);
    let triggers = task.source.query("SELECT name FROM sqlite_schema WHERE type = 'trigger'");
    for trigger in triggers.unwrap() {
        task.source.execute(&format!("DROP TRIGGER \"{}\"", trigger.trim_matches(['(', ')'])));
    }
    task.source.execute("UPDATE t SET v = 'never seen' WHERE id = 1");
    let held = task.target.rows("t");
    for _ in 0..2 {
        let ended = task.catch_up().with_code(1);
        says(&ended.stderr, &["main.t", "load the table again"]);
        assert_eq!(task.target.rows("t"), held);
    }
    task.call(&["reload", "--table", "main.t"]).with_code(0);
    task.catch_up().with_code(0);
    task.assert_same("t");
}

/// A program of the server that reads the slot.
fn reader_of(task: &Task, slot: &str) -> std::process::Child {
    let Side::Postgres(url) = &task.source else { unreachable!() };
    let port = url.rsplit_once(':').unwrap().1.split_once('/').unwrap();
    let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap().flatten();
    let program: PathBuf =
        versions.map(|v| v.path().join("bin/pg_recvlogical")).find(|p| p.exists()).unwrap();
    std::process::Command::new(program)
        .args(["--host=127.0.0.1", "--username=dms", "--start", "--file=/dev/null"])
        // It confirms nothing.
        .args(["--fsync-interval=0", "--status-interval=600", "--option=proto_version=1"])
        .arg(format!("--option=publication_names={slot}"))
        .args([format!("--port={}", port.0), format!("--dbname={}", port.1)])
        .arg(format!("--slot={slot}"))
        .spawn()
        .unwrap()
}

#[test]
fn a_slot_that_another_program_reads_is_told() {
    let mut task = Task::new(Pair::Postgres, TABLE);
    task.set("ErrorBehavior", "RecoverableErrorCount", 0);
    task.catch_up().with_code(0);
    task.source.execute("UPDATE t SET v = 'x' WHERE id = 1");
    let name = slot(&task);
    let mut other = reader_of(&task, &name);
    let active =
        format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = '{name}' AND active");
    while task.source.query(&active).unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = task.catch_up();
    other.kill().unwrap();
    other.wait().unwrap();
    says(&ended.with_code(1).stderr, &[&name, "in use by process", "pg_terminate_backend"]);
    std::thread::sleep(Duration::from_millis(300));
    task.catch_up().with_code(0);
    assert_same(&task);
}

/// Another server, or an older copy of a file, stands where the source was.
#[test]
fn a_source_that_was_replaced_by_another_is_told() {
    let (first, second) = (own_server(), own_server());
    let mut task = from(&first);
    task.catch_up().with_code(0);
    let held = task.target.rows("t");
    let copy = Side::on(&second);
    copy.execute(TABLE);
    copy.execute("INSERT INTO t VALUES (9, 'of another server')");
    let source = std::mem::replace(&mut task.source, copy);
    let ended = task.catch_up();
    assert!(matches!(ended.code, Some(1 | 2)), "{ended:?}");
    says(&ended.stderr, &["another", "load"]);
    assert_eq!(task.target.rows("t"), held);
    task.source = source;
    task.catch_up().with_code(0);
    assert_same(&task);

    let task = Task::new(Pair::Sqlite, TABLE);
    task.catch_up().with_code(0);
    let (Side::Sqlite(file), copy) = (task.source.clone(), task.path("copy.db")) else {
        unreachable!()
    };
    std::fs::copy(&file, &copy).unwrap();
    task.source.execute("INSERT INTO t VALUES (4, 'four')");
    task.catch_up().with_code(0);
    let held = task.target.rows("t");
    std::fs::copy(&copy, &file).unwrap();
    task.source.execute("INSERT INTO t VALUES (5, 'of the copy')");
    let ended = task.catch_up();
    assert!(matches!(ended.code, Some(1 | 2)), "{ended:?}");
    says(&ended.stderr, &["load"]);
    assert_eq!(task.target.rows("t"), held);
}

/// Rows that someone removed from the target or put there, and what becomes of their changes.
#[test]
fn a_target_that_was_written_by_others_is_treated_as_the_policies_say() {
    const DRIFT: &str = "DELETE FROM t WHERE id IN (1, 2); INSERT INTO t VALUES (7, 'theirs')";
    let group = "ErrorBehavior";
    for pair in ALIKE {
        for (key, change, right) in [
            ("ApplyErrorUpdatePolicy", "UPDATE t SET v = 'x' WHERE id = 1", "UPDATE_RECORD"),
            ("ApplyErrorDeletePolicy", "DELETE FROM t WHERE id = 2", "IGNORE_RECORD"),
            ("ApplyErrorInsertPolicy", "INSERT INTO t VALUES (7, 'ours')", "INSERT_RECORD"),
        ] {
            if pair == Pair::Sqlite {
                // Its log says what rows are, not what was done, so that there is nothing to miss.
                let task = Task::new(pair, TABLE);
                task.catch_up().with_code(0);
                task.target.execute(DRIFT);
                task.source.execute(change);
                task.catch_up().with_code(0);
                continue;
            }
            for policy in ["STOP_TASK", "SUSPEND_TABLE", "LOG_ERROR", "IGNORE_RECORD", right] {
                eprintln!("{key} {policy}");
                let mut task = Task::new(pair, TABLE);
                task.set(group, key, policy);
                task.catch_up().with_code(0);
                task.target.execute(DRIFT);
                let held = task.target.rows("t");
                task.source.execute(change);
                task.source.execute("UPDATE t SET v = 'good' WHERE id = 3");
                let ended = task.catch_up();
                let rows = task.target.rows("t");
                let exceptions = || task.status()["exceptions"].as_u64().unwrap();
                if policy == "STOP_TASK" {
                    says(&ended.with_code(1).stderr, &["public.t", "\"id\"", key]);
                    assert_eq!(rows, held);
                    task.call(&["reload"]).with_code(0);
                    task.catch_up().with_code(0);
                    task.assert_same("t");
                    continue;
                }
                if policy == "SUSPEND_TABLE" {
                    says(&ended.with_code(1).stdout, &["public.t", "again"]);
                    assert_eq!(exceptions(), 1);
                    task.call(&["reload", "--table", "public.t"]).with_code(0);
                    task.catch_up().with_code(0);
                    task.assert_same("t");
                    continue;
                }
                ended.with_code(0);
                assert!(rows.contains(&"(3,good)".to_owned()), "{rows:?}");
                assert_eq!(exceptions(), u64::from(policy == "LOG_ERROR"));
                match policy {
                    "UPDATE_RECORD" => assert!(rows.contains(&"(1,x)".to_owned()), "{rows:?}"),
                    "INSERT_RECORD" => assert!(rows.contains(&"(7,ours)".to_owned()), "{rows:?}"),
                    _ if key.contains("Insert") => {
                        assert!(rows.contains(&"(7,theirs)".to_owned()), "{rows:?}");
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The older of two runs is the one that ends.
#[test]
fn of_two_runs_of_a_task_one_ends() {
    for pair in ALIKE {
        let mut task = Task::new(pair, TABLE);
        task.set("ErrorBehavior", "RecoverableErrorCount", 20);
        task.set("ErrorBehavior", "RecoverableErrorInterval", 1);
        let mut first = task.start();
        first.until("the load", || task.target.has("t") && task.target.rows("t").len() == 3);
        let mut second = task.start();
        task.source.execute("INSERT INTO t VALUES (4, 'four')");
        second.until("a change", || task.target.rows("t").len() == 4);
        task.source.execute("INSERT INTO t VALUES (5, 'five')");
        let ended = first.wait().with_code(1);
        says(&ended.stderr, &["another run"]);
        second.until("a change", || task.target.rows("t").len() == 5);
        second.stop().with_code(130);
        task.assert_same("t");
    }
}

#[test]
fn control_tables_that_cannot_be_read_are_told() {
    for pair in ALIKE {
        let schema = if pair == Pair::Sqlite { "main" } else { "dms" };
        for (sql, what) in [
            ("UPDATE {}.dms_positions SET position = 'nonsense'", "dms_positions"),
            ("ALTER TABLE {}.dms_positions RENAME COLUMN position TO place", "position"),
            ("UPDATE {}.dms_tables SET partitions = '{\"of\": \"a later version\"}'", "dms_tables"),
        ] {
            let task = Task::new(pair, TABLE);
            task.catch_up().with_code(0);
            task.source.execute("INSERT INTO t VALUES (4, 'four')");
            task.target.execute(&sql.replace("{}.", &format!("{schema}.")));
            let ended = task.catch_up().with_code(1);
            says(&ended.stderr, &[what]);
            assert_eq!(task.target.rows("t").len(), 3, "nothing is written");
        }
    }
}

/// Changes wait on disk while the target's table is locked.
struct Waiting {
    task: Task,
    run: super::task::Run,
    runtime: tokio::runtime::Runtime,
    blocker: tokio_postgres::Client,
}

impl Waiting {
    fn new(durability: &str) -> Self {
        let mut task = Task::new(Pair::Postgres, TABLE);
        task.set("Engine", "SpillDurability", durability);
        task.set("ChangeProcessingTuning", "MemoryLimitTotal", 1);
        task.set("ChangeProcessingTuning", "BatchApplyMemoryLimit", 1);
        let mut run = task.start();
        run.until("the load", || task.target.has("t") && task.target.rows("t").len() == 3);
        task.source.execute("UPDATE t SET v = 'first' WHERE id = 1");
        run.until("a change", || task.target.rows("t").contains(&"(1,first)".to_owned()));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let blocker = runtime.block_on(server::connect(&task.target.url()));
        runtime.block_on(blocker.batch_execute("BEGIN; LOCK TABLE t")).unwrap();
        Self { task, run, runtime, blocker }
    }
}

/// About 12 MB that hardly compress.
const MANY: &str = "
    INSERT INTO t SELECT i, (SELECT string_agg(md5(i::text || '-' || g), '')
        FROM generate_series(1, 18) g) FROM generate_series(10, 20009) i";

fn files(folder: PathBuf) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// The source may forget what is on disk; it is applied after a `kill -9` all the same.
#[test]
fn changes_that_wait_on_disk_survive_a_kill() {
    let Waiting { task, mut run, runtime, blocker } = Waiting::new("DISK");
    let confirmed = || {
        task.source.query("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()").unwrap()
    };
    let lsn = "SELECT pg_current_wal_insert_lsn()";
    task.source.execute(MANY);
    task.source.execute("DELETE FROM t WHERE id % 7 = 0; UPDATE t SET v = 'second' WHERE id = 1");
    let end = task.source.query(lsn).unwrap();
    let is_past = format!(
        "SELECT 1 FROM pg_replication_slots WHERE database = current_database() \
         AND confirmed_flush_lsn >= '{}'",
        end[0].trim_matches(['(', ')'])
    );
    run.until("the source may forget", || !task.source.query(&is_past).unwrap().is_empty());
    assert!(!confirmed().is_empty());
    run.kill();
    runtime.block_on(blocker.batch_execute("COMMIT")).unwrap();
    assert_eq!(task.target.rows("t").len(), 3, "nothing was applied");
    task.source.execute("INSERT INTO t VALUES (5, 'after the kill')");
    task.catch_up().with_code(0);
    assert_same(&task);
}

/// What the source has forgotten is gone for good if the disk loses it.
#[test]
fn changes_on_disk_that_are_damaged_or_gone_are_told() {
    for is_gone in [false, true] {
        let Waiting { task, mut run, runtime, blocker } = Waiting::new("DISK");
        task.source.execute(MANY);
        let end = task.source.query("SELECT pg_current_wal_insert_lsn()").unwrap();
        let is_past = format!(
            "SELECT 1 FROM pg_replication_slots WHERE database = current_database() \
             AND confirmed_flush_lsn >= '{}'",
            end[0].trim_matches(['(', ')'])
        );
        run.until("the source may forget", || !task.source.query(&is_past).unwrap().is_empty());
        run.kill();
        runtime.block_on(blocker.batch_execute("COMMIT")).unwrap();
        let held = task.target.rows("t");
        let spilled = files(task.path("spill"));
        let largest = spilled.iter().max_by_key(|file| std::fs::metadata(file).unwrap().len());
        let largest = largest.unwrap();
        if is_gone {
            for file in &spilled {
                std::fs::remove_file(file).unwrap();
            }
        } else {
            let mut bytes = std::fs::read(largest).unwrap();
            let middle = bytes.len() / 3;
            bytes[middle] ^= 0x40;
            std::fs::write(largest, bytes).unwrap();
        }
        let ended = task.catch_up().with_code(1);
        says(&ended.stderr, &["load"]);
        let rows = task.target.rows("t");
        assert!(rows.len() < 20_003, "a part of the changes is lost");
        assert!(rows.len() >= held.len());
        task.call(&["reload"]).with_code(0);
        task.catch_up().with_code(0);
        assert_same(&task);
    }
}

#[test]
fn a_spill_folder_that_cannot_be_written_is_told() {
    for durability in ["SOURCE", "DISK"] {
        let mut task = Task::new(Pair::Sqlite, TABLE);
        let file = task.path("file");
        std::fs::write(&file, "no folder").unwrap();
        task.set("Engine", "SpillFolder", file.join("spill").to_str().unwrap());
        task.set("Engine", "SpillDurability", durability);
        let ended = task.catch_up();
        if durability == "DISK" {
            assert!(matches!(ended.code, Some(1 | 2)), "{ended:?}");
            says(&ended.stderr, &[file.to_str().unwrap()]);
        }
        task.set("Engine", "SpillFolder", task.path("spill").to_str().unwrap());
        task.catch_up().with_code(0);
        task.assert_same("t");
    }
}

#[test]
fn a_full_spill_folder_is_treated_as_the_policy_says() {
    for policy in ["WAIT", "STOP_TASK"] {
        let Waiting { mut task, mut run, runtime, blocker } = {
            let waiting = Waiting::new("SOURCE");
            // With the setting from the beginning.
            let Waiting { mut task, run, runtime, blocker } = waiting;
            runtime.block_on(blocker.batch_execute("COMMIT")).unwrap();
            run.stop().with_code(130);
            task.set("Engine", "SpillBytesMax", 2_000_000);
            task.set("Engine", "SpillFullPolicy", policy);
            let mut run = task.start();
            task.source.execute("UPDATE t SET v = 'again' WHERE id = 1");
            run.until("a change", || task.target.rows("t").contains(&"(1,again)".to_owned()));
            runtime.block_on(blocker.batch_execute("BEGIN; LOCK TABLE t")).unwrap();
            Waiting { task, run, runtime, blocker }
        };
        // More than what waits at other places on the way too.
        task.source.execute(&MANY.replace("20009", "80009"));
        if policy == "STOP_TASK" {
            let waits = runtime.spawn(async move {
                tokio::time::sleep(Duration::from_secs(4)).await;
                blocker.batch_execute("COMMIT").await.unwrap();
            });
            let ended = run.wait().with_code(1);
            says(&ended.stderr, &["SpillBytesMax"]);
            runtime.block_on(waits).unwrap();
            task.set("Engine", "SpillBytesMax", 0);
        } else {
            std::thread::sleep(Duration::from_secs(2));
            assert!(run.child().try_wait().unwrap().is_none(), "it waits");
            runtime.block_on(blocker.batch_execute("COMMIT")).unwrap();
            run.until("all changes", || task.target.rows("t").len() == 80_003);
            run.stop().with_code(130);
        }
        task.catch_up().with_code(0);
        assert_same(&task);
    }
}

/// What has no log of changes is known before anything is begun.
#[test]
fn a_source_that_tells_no_changes_is_refused() {
    let mut task = Task::new(Pair::Sqlite, TABLE);
    let lake = format!("file://{}", task.path("lake").display());
    task.source_options = json!({"url": lake});
    let ended = task.catch_up().with_code(2);
    says(&ended.stderr, &["ongoing replication", "full-load"]);
    assert!(!task.target.has("t"));
}
