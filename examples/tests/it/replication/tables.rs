//! Tables come to a task and leave it, are loaded again, and the task itself is deleted.

use serde_json::json;

use super::task::{ALIKE, Pair, Side, Task, says, selection};

const TABLES: &str = "
    CREATE TABLE a (id integer NOT NULL PRIMARY KEY, v text);
    CREATE TABLE b (id integer NOT NULL PRIMARY KEY, v text);
    INSERT INTO a VALUES (1, 'one'), (2, 'two');
    INSERT INTO b VALUES (1, 'one'), (2, 'two');";

const NEW: &str = "
    CREATE TABLE c (id integer NOT NULL PRIMARY KEY, v text);
    INSERT INTO c VALUES (1, 'new'), (2, 'new');";

fn schema(pair: Pair) -> &'static str {
    if pair == Pair::Sqlite { "main" } else { "public" }
}

#[test]
fn a_new_table_is_loaded_and_followed_while_the_task_runs() {
    for pair in ALIKE {
        let mut task = Task::new(pair, TABLES);
        task.set("Engine", "NewTablesInterval", 1);
        let mut run = task.start();
        run.until("the load", || task.target.has("b") && task.target.rows("b").len() == 2);
        task.source.execute("UPDATE a SET v = 'changed' WHERE id = 1");
        task.source.execute(NEW);
        task.source.execute("UPDATE c SET v = 'changed' WHERE id = 1; DELETE FROM b");
        run.until("the new table", || task.target.has("c") && task.target.rows("c").len() == 2);
        task.source.execute("INSERT INTO c VALUES (3, 'third'); INSERT INTO a VALUES (3, 'x')");
        run.until("its changes", || task.target.rows("c").len() == 3);
        let ended = run.stop().with_code(130);
        assert_eq!(ended.rows(&format!("{}.c", schema(pair))), (2, 2));
        task.catch_up().with_code(0);
        for table in ["a", "b", "c"] {
            task.assert_same(table);
        }
    }
}

#[test]
fn a_new_table_is_loaded_and_followed_that_came_between_runs() {
    for pair in ALIKE {
        let task = Task::new(pair, TABLES);
        task.catch_up().with_code(0);
        task.source.execute("UPDATE a SET v = 'changed' WHERE id = 1; DELETE FROM b WHERE id = 1");
        task.source.execute(NEW);
        task.source.execute("UPDATE c SET v = 'changed' WHERE id = 1");
        task.catch_up().with_code(0);
        task.source.execute("UPDATE c SET v = 'again'; INSERT INTO b VALUES (7, 'seven')");
        task.catch_up().with_code(0);
        for table in ["a", "b", "c"] {
            task.assert_same(table);
        }
    }
}

/// One that cannot be followed is no reason to stop following the others.
#[test]
fn a_new_table_that_cannot_be_followed_does_not_stop_the_others() {
    for pair in ALIKE {
        let mut task = Task::new(pair, TABLES);
        task.set("Engine", "NewTablesInterval", 1);
        let mut run = task.start();
        run.until("the load", || task.target.has("b") && task.target.rows("b").len() == 2);
        task.source.execute("CREATE TABLE no_key (v text); INSERT INTO no_key VALUES ('x')");
        std::thread::sleep(std::time::Duration::from_millis(2500));
        task.source.execute("INSERT INTO a VALUES (3, 'later')");
        run.until("a change", || task.target.rows("a").len() == 3);
        let ended = run.stop().with_code(1);
        says(&ended.stdout, &["no_key"]);
        // A run that begins with it says so before it does anything.
        let ended = task.catch_up();
        assert_ne!(ended.code, Some(0));
        says(&ended.stderr, &["no_key", "key"]);
        let mut without = selection("exclude", "no_key");
        without["rule-action"] = json!("exclude");
        task.rules.push(without);
        task.catch_up().with_code(0);
        task.assert_same("a");
    }
}

/// Changes of a table that is no part of the task for a while are not there when it is one again.
#[test]
fn a_table_that_left_the_task_is_loaded_again_when_it_comes_back() {
    for pair in ALIKE {
        let mut task = Task::new(pair, TABLES);
        task.catch_up().with_code(0);
        task.source.execute("INSERT INTO b VALUES (3, 'three'); INSERT INTO a VALUES (3, 'three')");
        task.catch_up().with_code(0);
        task.rules.push(selection("exclude", "b"));
        task.source.execute("DELETE FROM b WHERE id = 1; UPDATE a SET v = 'x' WHERE id = 1");
        task.catch_up().with_code(0);
        task.assert_same("a");
        assert_eq!(task.target.rows("b").len(), 3, "what left the task stays as it is");
        task.source.execute("INSERT INTO b VALUES (4, 'four'); UPDATE a SET v = 'y' WHERE id = 2");
        task.rules.pop();
        task.source.execute("INSERT INTO b VALUES (5, 'five')");
        task.catch_up().with_code(0);
        task.assert_same("a");
        task.assert_same("b");
    }
}

#[test]
fn one_table_is_loaded_again_while_the_others_have_changes() {
    for pair in ALIKE {
        let task = Task::new(pair, TABLES);
        task.catch_up().with_code(0);
        task.target.execute("DELETE FROM b; INSERT INTO b VALUES (99, 'not of the source')");
        task.source.execute("UPDATE a SET v = 'x'; DELETE FROM b WHERE id = 1");
        let name = format!("{}.b", schema(pair));
        task.call(&["reload", "--table", &name]).with_code(0);
        task.source.execute("INSERT INTO a VALUES (3, 'three'); INSERT INTO b VALUES (3, 'three')");
        let ended = task.catch_up().with_code(0);
        assert_eq!(ended.rows(&name), (2, 2));
        assert_eq!(ended.rows(&format!("{}.a", schema(pair))), (2, 0), "the other one is not");
        task.assert_same("a");
        task.assert_same("b");
        let wrong = task.call(&["reload", "--table", "nowhere.b"]).with_code(1);
        says(&wrong.stderr, &["nowhere.b", "schema.table"]);
    }
}

#[test]
fn all_tables_are_loaded_again() {
    for pair in ALIKE {
        let task = Task::new(pair, TABLES);
        task.catch_up().with_code(0);
        task.source.execute("UPDATE a SET v = 'x'; DELETE FROM b WHERE id = 1");
        task.target.execute("DELETE FROM a; INSERT INTO b VALUES (99, 'not of the source')");
        task.call(&["reload"]).with_code(0);
        let ended = task.catch_up().with_code(0);
        assert_eq!(ended.rows(&format!("{}.a", schema(pair))), (2, 2));
        task.assert_same("a");
        task.assert_same("b");
        task.source.execute("DELETE FROM a WHERE id = 2");
        task.catch_up().with_code(0);
        task.assert_same("a");
    }
}

/// A run that is under way gives way, and the next one loads the table.
#[test]
fn a_reload_ends_the_run_that_is_under_way() {
    for pair in ALIKE {
        let task = Task::new(pair, TABLES);
        let mut run = task.start();
        run.until("the load", || task.target.has("b") && task.target.rows("b").len() == 2);
        task.call(&["reload", "--table", &format!("{}.b", schema(pair))]).with_code(0);
        task.source.execute("INSERT INTO a VALUES (3, 'three')");
        let ended = run.wait().with_code(1);
        says(&ended.stderr, &["another run"]);
        let ended = task.catch_up().with_code(0);
        assert_eq!(ended.rows(&format!("{}.b", schema(pair))), (2, 2));
        task.assert_same("a");
    }
}

/// What is there of the engine at the source.
fn left_at_source(source: &Side) -> Vec<String> {
    let sql = match source {
        Side::Postgres(_) => {
            "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database() \
             UNION ALL SELECT pubname::text FROM pg_publication"
        }
        Side::Sqlite(_) => "SELECT name FROM sqlite_schema WHERE name LIKE '%dms%'",
    };
    source.query(sql).unwrap()
}

/// Rows of control tables. The number of a task's last run stays: it keeps away runs before it.
fn left_at_target(target: &Side) -> Vec<String> {
    let tables = match target {
        Side::Postgres(_) => {
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE tablename LIKE 'dms\\_%'"
        }
        Side::Sqlite(_) => {
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'dms%'"
        }
    };
    let tables = target.query(tables).unwrap();
    assert!(tables.len() > 3, "{tables:?}");
    let tables = tables.iter().map(|table| table.trim_matches(['(', ')']).to_owned());
    tables
        .filter(|table| !table.ends_with("dms_status"))
        .filter(|table| !target.rows(table).is_empty())
        .collect()
}

#[test]
fn nothing_is_left_of_a_task_that_is_deleted() {
    for pair in ALIKE {
        for is_running in [false, true] {
            let mut task = Task::new(pair, TABLES);
            task.set("Engine", "SpillDurability", "DISK");
            task.catch_up().with_code(0);
            task.source.execute("UPDATE a SET v = 'x'");
            task.catch_up().with_code(0);
            assert!(!left_at_source(&task.source).is_empty());
            let run = is_running.then(|| {
                let mut run = task.start();
                task.source.execute("INSERT INTO a VALUES (3, 'three')");
                run.until("a change", || task.target.rows("a").len() == 3);
                run
            });
            let said = task.call(&["delete"]).with_code(0);
            says(&said.stdout, &["nothing is left of task follow"]);
            if let Some(mut run) = run {
                task.source.execute("INSERT INTO a VALUES (4, 'four')");
                run.wait().with_code(1);
            }
            assert_eq!(left_at_source(&task.source), Vec::<String>::new(), "{pair:?}");
            assert_eq!(left_at_target(&task.target), Vec::<String>::new(), "{pair:?}");
            assert!(!task.path("spill").join("follow").exists());
            let status = task.status();
            assert_eq!((&status["known"], &status["tables"]), (&json!(false), &json!([])));
            // Again is no error.
            task.call(&["delete"]).with_code(0);
            task.source.execute("DELETE FROM b WHERE id = 1; INSERT INTO a VALUES (9, 'nine')");
            let ended = task.catch_up().with_code(0);
            assert_eq!(ended.rows(&format!("{}.b", schema(pair))), (1, 1), "it begins anew");
            task.assert_same("a");
            task.assert_same("b");
        }
    }
}
