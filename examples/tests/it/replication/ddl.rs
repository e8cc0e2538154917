//! Tables change their shape while they are replicated.

use std::time::Duration;

use serde_json::json;

use super::task::{ALIKE, Pair, Task, says};

const TABLES: &str = "
    CREATE TABLE t (id integer NOT NULL PRIMARY KEY, a text, n integer);
    CREATE TABLE other (id integer NOT NULL PRIMARY KEY, v text);
    INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', NULL), (4, NULL, 4);
    INSERT INTO other VALUES (1, 'one');";

/// A change of table t and what is written before and after it.
struct Change {
    name: &'static str,
    sql: &'static str,
    after: &'static str,
    /// Whether the engine can do it.
    by: &'static [Pair],
    /// Whether a target can follow it.
    followed: bool,
    /// Whether a target that stays as it is can still take the changes of rows.
    ignorable: bool,
}

const BEFORE: &str = "
    INSERT INTO t (id, a, n) VALUES (5, 'e', 5);
    UPDATE t SET a = 'before' WHERE id = 2;
    DELETE FROM t WHERE id = 3;";

const CHANGES: &[Change] = &[
    Change {
        name: "add",
        sql: "ALTER TABLE t ADD COLUMN x text",
        after: "INSERT INTO t VALUES (10, 'j', 10, 'new'); UPDATE t SET x = 'u' WHERE id = 1",
        by: &ALIKE,
        followed: true,
        ignorable: true,
    },
    Change {
        name: "add with a default",
        sql: "ALTER TABLE t ADD COLUMN x text DEFAULT 'it''s'",
        after: "INSERT INTO t VALUES (10, 'j', 10, NULL); UPDATE t SET x = 'u' WHERE id = 1",
        by: &ALIKE,
        followed: true,
        ignorable: true,
    },
    Change {
        name: "add not null with a default",
        sql: "ALTER TABLE t ADD COLUMN x integer NOT NULL DEFAULT 7",
        after: "INSERT INTO t VALUES (10, 'j', 10, 8); UPDATE t SET x = 9 WHERE id = 1",
        by: &ALIKE,
        followed: true,
        ignorable: true,
    },
    Change {
        name: "drop",
        sql: "ALTER TABLE t DROP COLUMN a",
        after: "INSERT INTO t VALUES (10, 10); UPDATE t SET n = 99 WHERE id = 1",
        by: &ALIKE,
        followed: true,
        ignorable: false,
    },
    Change {
        name: "rename",
        sql: "ALTER TABLE t RENAME COLUMN a TO b",
        after: "INSERT INTO t VALUES (10, 'j', 10); UPDATE t SET b = 'u' WHERE id = 1",
        by: &ALIKE,
        followed: true,
        ignorable: false,
    },
    Change {
        name: "widen",
        sql: "ALTER TABLE t ALTER COLUMN n TYPE bigint",
        after: "INSERT INTO t VALUES (10, 'j', 10000000000)",
        by: &[Pair::Postgres],
        followed: true,
        ignorable: false,
    },
    Change {
        name: "change type",
        sql: "ALTER TABLE t ALTER COLUMN n TYPE text USING 'n' || n",
        after: "INSERT INTO t VALUES (10, 'j', 'ten')",
        by: &[Pair::Postgres],
        followed: false,
        ignorable: false,
    },
];

fn each(mut test: impl FnMut(Pair, &Change)) {
    for change in CHANGES {
        for pair in change.by {
            eprintln!("{pair:?}: {}", change.name);
            test(*pair, change);
        }
    }
}

fn table(pair: Pair) -> &'static str {
    if pair == Pair::Sqlite { "main.t" } else { "public.t" }
}

/// The table is loaded again, and is right from then on.
fn mend(task: &Task, pair: Pair) {
    task.call(&["reload", "--table", table(pair)]).with_code(0);
    task.catch_up().with_code(0);
    task.assert_same("t");
    task.source.execute("DELETE FROM t WHERE id = 1; UPDATE t SET id = 20 WHERE id = 10");
    task.catch_up().with_code(0);
    task.assert_same("t");
}

/// The table is out, the others go on, and the report says what to do.
fn assert_suspended(task: &Task, pair: Pair) {
    assert_suspended_with(task, pair, "INSERT INTO other VALUES (2, 'meanwhile')");
}

fn assert_suspended_with(task: &Task, pair: Pair, meanwhile: &str) {
    task.source.execute(meanwhile);
    let ended = task.catch_up().with_code(1);
    task.assert_same("other");
    says(&ended.stdout, &[table(pair), "again"]);
    let status = task.status();
    let tables = status["tables"].as_array().unwrap();
    let of = |name: &str| tables.iter().find(|t| t["name"] == name).unwrap();
    assert_eq!(of(table(pair))["state"], "Table error", "{status}");
}

#[test]
fn changes_of_columns_are_followed_while_the_task_runs() {
    each(|pair, change| {
        let task = Task::new(pair, TABLES);
        let mut run = task.start();
        run.until("the load", || task.target.has("t") && task.target.rows("t").len() == 4);
        task.source.execute(BEFORE);
        run.until("changes", || task.target.rows("t").len() == 4 && has(&task, "before"));
        task.source.execute(change.sql);
        task.source.execute(change.after);
        task.source.execute("INSERT INTO other VALUES (3, 'last')");
        run.until("the end", || task.target.rows("other").len() == 2);
        run.stop().with_code(if change.followed { 130 } else { 1 });
        if change.followed {
            task.catch_up().with_code(0);
            task.assert_same("t");
        } else {
            assert_suspended(&task, pair);
            mend(&task, pair);
        }
    });
}

fn has(task: &Task, value: &str) -> bool {
    task.target.rows("t").iter().any(|row| row.contains(value))
}

/// The change is the first of all that comes after the load, or one among others.
#[test]
fn changes_of_columns_are_followed_that_were_made_between_runs() {
    each(|pair, change| {
        for before in ["", BEFORE] {
            let task = Task::new(pair, TABLES);
            task.catch_up().with_code(0);
            if !before.is_empty() {
                task.source.execute(before);
                task.catch_up().with_code(0);
            }
            task.source.execute(change.sql);
            task.source.execute(change.after);
            // A file has no names of columns but those that the feed gives them.
            let is_told = pair != Pair::Sqlite || !before.is_empty() || change.name != "rename";
            if change.followed && is_told {
                task.catch_up().with_code(0);
                task.assert_same("t");
                task.source.execute("UPDATE t SET n = 77 WHERE id = 2");
                task.catch_up().with_code(0);
                task.assert_same("t");
            } else {
                assert_suspended(&task, pair);
                mend(&task, pair);
            }
        }
    });
}

#[test]
fn a_table_is_suspended_if_the_policy_says_so() {
    each(|pair, change| {
        let mut task = Task::new(pair, TABLES);
        task.set("ChangeProcessingDdlHandlingPolicy", "HandleSourceTableAltered", "SUSPEND_TABLE");
        task.catch_up().with_code(0);
        task.source.execute(BEFORE);
        task.catch_up().with_code(0);
        let held = task.target.rows("t");
        task.source.execute(change.sql);
        task.source.execute(change.after);
        assert_suspended(&task, pair);
        assert_eq!(task.target.rows("t"), held, "a suspended table stays as it is");
        mend(&task, pair);
    });
}

#[test]
fn the_task_stops_if_the_policy_says_so() {
    each(|pair, change| {
        let mut task = Task::new(pair, TABLES);
        task.set("ChangeProcessingDdlHandlingPolicy", "HandleSourceTableAltered", "STOP_TASK");
        task.catch_up().with_code(0);
        task.source.execute(BEFORE);
        task.catch_up().with_code(0);
        let held = task.target.rows("t");
        task.source.execute(change.sql);
        task.source.execute(change.after);
        for _ in 0..2 {
            let ended = task.catch_up().with_code(1);
            says(&ended.stderr, &[table(pair), "load the table again"]);
            assert_eq!(task.target.rows("t"), held);
        }
        // Another policy, or another load.
        if change.followed {
            task.set("ChangeProcessingDdlHandlingPolicy", "HandleSourceTableAltered", true);
            task.catch_up().with_code(0);
            task.assert_same("t");
        } else {
            mend(&task, pair);
        }
    });
}

#[test]
fn a_target_stays_as_it_is_if_the_policy_says_so() {
    each(|pair, change| {
        let mut task = Task::new(pair, TABLES);
        task.set("ChangeProcessingDdlHandlingPolicy", "HandleSourceTableAltered", false);
        task.catch_up().with_code(0);
        task.source.execute(BEFORE);
        task.catch_up().with_code(0);
        task.source.execute(change.sql);
        task.source.execute(change.after);
        if change.ignorable {
            for _ in 0..2 {
                task.catch_up().with_code(0);
                let source = task.source.query("SELECT id, a, n FROM t ORDER BY id");
                assert_eq!(task.target.query("SELECT * FROM t ORDER BY id"), source);
                task.source.execute(
                    "UPDATE t SET a = 'again', x = NULL WHERE id = 10"
                        .replace(
                            if change.name.contains("not null") { ", x = NULL" } else { "#" },
                            "",
                        )
                        .as_str(),
                );
            }
            // What was left out cannot be made up for by following it from now on.
            task.set("ChangeProcessingDdlHandlingPolicy", "HandleSourceTableAltered", true);
            assert_suspended(&task, pair);
        } else {
            assert_suspended(&task, pair);
        }
        mend(&task, pair);
    });
}

/// Columns change while the table loads: its rows are of one shape or another, never of both.
#[test]
fn changes_of_columns_during_the_load_are_followed() {
    each(|pair, change| {
        let task = Task::new(pair, TABLES);
        let rows = match pair {
            Pair::Sqlite => {
                "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
                 INSERT INTO t SELECT i, 'row ' || i, i FROM n"
            }
            _ => "INSERT INTO t SELECT i, 'row ' || i, i FROM generate_series(100, 20000) i",
        };
        task.source.execute(rows);
        let mut command = task.command();
        command.env("DMS_FAULT", "full-load-partition-loaded=abort:1");
        // One that dies in the load, and one that is under way while the columns change.
        drop(crate::harness::end(command));
        task.source.execute(BEFORE);
        let mut run = task.start();
        std::thread::sleep(Duration::from_millis(60));
        task.source.execute(change.sql);
        task.source.execute(change.after);
        let done = || task.target.has("other") && task.target.rows("other").len() == 1;
        run.until("the load", done);
        run.stop();
        let ended = task.catch_up();
        if ended.code == Some(1) {
            // The change came between the catalog and the rows, or cannot be followed.
            mend(&task, pair);
        } else {
            ended.with_code(0);
            task.assert_same("t");
        }
    });
}

#[test]
fn a_table_that_is_emptied_is_treated_as_the_policy_says() {
    for policy in [json!(true), json!(false), json!("SUSPEND_TABLE"), json!("STOP_TASK")] {
        let mut task = Task::new(Pair::Postgres, TABLES);
        task.set("ChangeProcessingDdlHandlingPolicy", "HandleSourceTableTruncated", policy.clone());
        task.catch_up().with_code(0);
        let held = task.target.rows("t");
        task.source.execute(
            "BEGIN; UPDATE t SET a = 'gone' WHERE id = 1; TRUNCATE t; \
             INSERT INTO t VALUES (50, 'fresh', 50); COMMIT",
        );
        match policy.as_str() {
            None if policy == json!(true) => {
                task.catch_up().with_code(0);
                task.assert_same("t");
            }
            None => {
                task.catch_up().with_code(0);
                let rows = task.target.rows("t");
                assert_eq!(rows.len(), 5, "{rows:?}");
                assert!(rows.contains(&"(50,fresh,50)".to_owned()), "{rows:?}");
            }
            Some("SUSPEND_TABLE") => {
                assert_suspended(&task, Pair::Postgres);
                task.call(&["reload", "--table", "public.t"]).with_code(0);
                task.catch_up().with_code(0);
                task.assert_same("t");
            }
            _ => {
                let ended = task.catch_up().with_code(1);
                says(&ended.stderr, &["public.t", "load the table again"]);
                assert_eq!(task.target.rows("t"), held);
                task.call(&["reload", "--table", "public.t"]).with_code(0);
                task.catch_up().with_code(0);
                task.assert_same("t");
            }
        }
    }
}

/// The feed tells that a table is gone while the task runs.
#[test]
fn a_table_that_is_dropped_is_treated_as_the_policy_says() {
    for (pair, how) in [
        (Pair::Postgres, "DROP TABLE t"),
        (Pair::Sqlite, "DROP TABLE t"),
        (Pair::Postgres, "ALTER TABLE t RENAME TO u"),
        (Pair::Sqlite, "ALTER TABLE t RENAME TO u"),
    ] {
        for policy in [json!(true), json!(false), json!("SUSPEND_TABLE"), json!("STOP_TASK")] {
            eprintln!("{pair:?}: {how}: {policy}");
            let mut task = Task::new(pair, TABLES);
            let group = "ChangeProcessingDdlHandlingPolicy";
            task.set(group, "HandleSourceTableDropped", policy.clone());
            let mut run = task.start();
            run.until("the load", || task.target.has("t") && task.target.rows("t").len() == 4);
            task.source.execute("UPDATE t SET a = 'last' WHERE id = 1");
            run.until("a change", || has(&task, "last"));
            task.source.execute(how);
            task.source.execute("INSERT INTO other VALUES (2, 'later')");
            if policy == json!("STOP_TASK") {
                let ended = run.wait().with_code(1);
                says(&ended.stderr, &[table(pair), "load the table again"]);
                assert_eq!(task.target.rows("t").len(), 4);
                if pair == Pair::Postgres {
                    // It is told at its place in the log.
                    assert_eq!(task.target.rows("other").len(), 1);
                }
                continue;
            }
            run.until("the others", || task.target.rows("other").len() == 2);
            if policy == json!(true) {
                run.until("the drop", || !task.target.has("t"));
            } else {
                let suspended =
                    || task.status()["tables"].to_string().contains("dropped the table");
                run.until("the end of the table", suspended);
                assert_eq!(task.target.rows("t").len(), 4, "the target's table stays");
            }
            run.stop();
            // One of the same name is another table.
            task.source.execute(
                "CREATE TABLE t (id integer NOT NULL PRIMARY KEY, z text);
                 INSERT INTO t VALUES (1, 'another')",
            );
            task.catch_up().with_code(0);
            task.assert_same("t");
            task.assert_same("other");
            if how.contains("RENAME") {
                task.assert_same("u");
            }
        }
    }
}

/// Where event triggers tell of it.
#[test]
fn a_change_of_columns_that_no_row_follows_is_followed() {
    for policy in [json!(true), json!(false), json!("SUSPEND_TABLE"), json!("STOP_TASK")] {
        let mut task = Task::new(Pair::Postgres, TABLES);
        task.set("ChangeProcessingDdlHandlingPolicy", "HandleSourceTableAltered", policy.clone());
        task.catch_up().with_code(0);
        let held = task.target.rows("t");
        task.source.execute("ALTER TABLE t ADD COLUMN x integer DEFAULT 7");
        task.source.execute("ALTER TABLE t RENAME COLUMN x TO y");
        task.source.execute("INSERT INTO other VALUES (2, 'behind')");
        match policy.as_str() {
            None if policy == json!(true) => {
                task.catch_up().with_code(0);
                task.assert_same("t");
                assert!(task.target.query("SELECT y FROM t").is_some());
                // And once only, though it is still in the log of a run that was told nothing else.
                task.source.execute("ALTER TABLE t DROP COLUMN y; ALTER TABLE t ADD COLUMN y text");
                task.catch_up().with_code(0);
                task.assert_same("t");
            }
            None => {
                task.catch_up().with_code(0);
                assert_eq!(task.target.rows("t"), held);
            }
            Some("SUSPEND_TABLE") => {
                assert_suspended_with(
                    &task,
                    Pair::Postgres,
                    "INSERT INTO other VALUES (3, 'more')",
                );
                assert_eq!(task.target.rows("t"), held);
            }
            _ => {
                let ended = task.catch_up().with_code(1);
                says(&ended.stderr, &["public.t", "load the table again"]);
                assert_eq!(task.target.rows("t"), held);
                assert_eq!(task.target.rows("other").len(), 1, "what is behind it waits");
            }
        }
        // Nothing of the task is left at the source.
        task.call(&["delete"]).with_code(0);
        let left = "SELECT evtname::text FROM pg_event_trigger UNION ALL \
            SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'dms%' UNION ALL \
            SELECT pubname::text FROM pg_publication UNION ALL \
            SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()";
        assert_eq!(task.source.query(left).unwrap(), [""; 0]);
    }
}

/// Another table under the old name is not taken for the old one, whose rows are not its.
#[test]
fn a_table_that_was_dropped_and_made_again_between_runs_is_loaded_again() {
    for pair in ALIKE {
        let task = Task::new(pair, TABLES);
        task.catch_up().with_code(0);
        task.source.execute("UPDATE t SET a = 'last' WHERE id = 1");
        task.catch_up().with_code(0);
        task.source.execute("UPDATE t SET a = 'never applied' WHERE id = 1");
        task.source.execute(
            "DROP TABLE t; CREATE TABLE t (id integer NOT NULL PRIMARY KEY, a text, n integer);
             INSERT INTO t VALUES (1, 'another', 1), (7, 'another', 7)",
        );
        task.source.execute("INSERT INTO other VALUES (2, 'two')");
        let ended = task.catch_up();
        if pair == Pair::Sqlite {
            // Only its triggers tell, which are missing.
            says(&ended.with_code(1).stderr, &["main.t", "load the table again"]);
            task.call(&["reload", "--table", "main.t"]).with_code(0);
            task.catch_up().with_code(0);
        } else {
            ended.with_code(0);
        }
        task.assert_same("t");
        task.assert_same("other");
        task.source.execute("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (8, 'h', 8)");
        task.catch_up().with_code(0);
        task.assert_same("t");
    }
}

/// Loads go into tables as they are, so that one more would double their rows.
#[test]
fn another_table_is_suspended_where_loads_go_into_tables_as_they_are() {
    let mut task = Task::new(Pair::Postgres, TABLES);
    task.set("FullLoadSettings", "TargetTablePrepMode", "DO_NOTHING");
    task.catch_up().with_code(0);
    let held = task.target.rows("t");
    task.source.execute(
        "DROP TABLE t; CREATE TABLE t (id integer NOT NULL PRIMARY KEY, a text, n integer);
         INSERT INTO t VALUES (1, 'another', 1), (7, 'another', 7)",
    );
    assert_suspended(&task, Pair::Postgres);
    assert_eq!(task.target.rows("t"), held);
    task.target.execute("TRUNCATE t");
    task.call(&["reload", "--table", "public.t"]).with_code(0);
    task.catch_up().with_code(0);
    task.assert_same("t");
}

/// Changes of one table that a feed tells as one, or that undo one another.
#[test]
fn several_changes_of_columns_are_followed_or_the_table_is_suspended() {
    for (changes, after, followed) in [
        // Another column of the old name has none of its values.
        (
            "ALTER TABLE t DROP COLUMN a; ALTER TABLE t ADD COLUMN a text",
            "UPDATE t SET n = 5 WHERE id = 1",
            true,
        ),
        (
            "ALTER TABLE t RENAME COLUMN a TO b; ALTER TABLE t ADD COLUMN a text DEFAULT 'new'",
            "UPDATE t SET n = 5 WHERE id = 1",
            true,
        ),
        (
            "ALTER TABLE t RENAME COLUMN a TO b; ALTER TABLE t DROP COLUMN n;
             ALTER TABLE t ADD COLUMN x integer NOT NULL DEFAULT 3",
            "UPDATE t SET b = 'u' WHERE id = 1",
            true,
        ),
        (
            "ALTER TABLE t RENAME COLUMN a TO c; ALTER TABLE t ALTER COLUMN n TYPE bigint;
             ALTER TABLE t RENAME COLUMN n TO a",
            "UPDATE t SET a = 50000000000 WHERE id = 1",
            true,
        ),
        (
            "ALTER TABLE t ADD COLUMN z text; ALTER TABLE t DROP COLUMN z",
            "UPDATE t SET n = 5 WHERE id = 1",
            true,
        ),
        // Names are exchanged, and the feed reads of the time before.
        (
            "ALTER TABLE t ADD COLUMN z text; UPDATE t SET z = 'z' || id;
             ALTER TABLE t RENAME COLUMN a TO x; ALTER TABLE t RENAME COLUMN z TO a;
             ALTER TABLE t RENAME COLUMN x TO z",
            "UPDATE t SET n = 5 WHERE id = 1",
            false,
        ),
        ("ALTER TABLE t RENAME COLUMN id TO key", "UPDATE t SET n = 5 WHERE key = 1", true),
        (
            "ALTER TABLE t ALTER COLUMN v DROP NOT NULL",
            "INSERT INTO t VALUES (60, 'x', 1, NULL)",
            true,
        ),
    ] {
        eprintln!("{changes}");
        let task = Task::new(Pair::Postgres, TABLES);
        task.source.execute("ALTER TABLE t ADD COLUMN v integer NOT NULL DEFAULT 1");
        task.catch_up().with_code(0);
        task.source.execute(changes);
        task.source.execute(after);
        if followed {
            task.catch_up().with_code(0);
        } else {
            assert_suspended(&task, Pair::Postgres);
            task.call(&["reload", "--table", "public.t"]).with_code(0);
            task.catch_up().with_code(0);
        }
        let columns = |side: &super::task::Side| {
            let sql = "SELECT json_object_agg(e.k, e.w ORDER BY e.k)::text AS content \
                FROM t, json_each_text(row_to_json(t)) AS e(k, w) GROUP BY t.ctid";
            let mut rows = side.query(sql).unwrap();
            rows.sort_unstable();
            rows
        };
        // Columns may stand in another order.
        assert_eq!(columns(&task.source), columns(&task.target), "{changes}");
    }
}
