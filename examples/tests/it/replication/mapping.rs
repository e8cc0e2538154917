//! Rules of the table mapping hold for changes as for loads: what was loaded and then followed is
//! what a load of the same task finds at the end.

use serde_json::{Value as Json, json};

use super::task::{Pair, Side, Task, says};

const TABLE: &str = "
    CREATE TABLE t (id integer NOT NULL PRIMARY KEY, code text NOT NULL UNIQUE,
        amount numeric(12,2), note text, big text);
    ALTER TABLE t ALTER COLUMN big SET STORAGE EXTERNAL;
    INSERT INTO t SELECT i, 'code ' || i, i * 10, 'note ' || i, repeat('big ' || i, 1500)
        FROM generate_series(1, 40) i;
    INSERT INTO t VALUES (50, 'nulls', NULL, NULL, NULL);
    CREATE TABLE whole (a integer, b text, c integer);
    ALTER TABLE whole REPLICA IDENTITY FULL;
    INSERT INTO whole SELECT i % 5, 'row', i * 10 FROM generate_series(1, 30) i;
    INSERT INTO whole SELECT 1, 'twin', 100 FROM generate_series(1, 3);";

/// One workload after the other.
const CHANGES: [&str; 4] = [
    // Rows come; some change with their large value, which the log leaves out.
    "INSERT INTO t SELECT i, 'code ' || i, i * 10, 'note ' || i, repeat('new ' || i, 1500)
        FROM generate_series(100, 110) i;
     UPDATE t SET note = 'noted' WHERE id % 3 = 0;
     UPDATE t SET big = repeat('other', 2000) WHERE id = 4;
     INSERT INTO whole VALUES (7, 'come', 70), (7, 'come', 500);
     DELETE FROM t WHERE id IN (5, 100)",
    // Rows pass a filter on the amount that did not, and the other way round.
    "UPDATE t SET amount = amount + 200 WHERE id BETWEEN 6 AND 12;
     UPDATE t SET amount = 5 WHERE id BETWEEN 20 AND 25;
     UPDATE t SET amount = NULL WHERE id = 30;
     UPDATE t SET amount = 150 WHERE id = 50;
     UPDATE whole SET c = c + 100 WHERE a = 2;
     UPDATE whole SET c = 0 WHERE a = 3",
    // Keys change, in chains and there and back.
    "UPDATE t SET id = 1000 WHERE id = 1;
     UPDATE t SET id = id + 1000 WHERE id IN (2, 3);
     BEGIN; UPDATE t SET id = -7 WHERE id = 7; UPDATE t SET id = 7 WHERE id = 8;
     UPDATE t SET id = 8 WHERE id = -7; COMMIT;
     UPDATE t SET id = 2000, big = 'small now' WHERE id = 9;
     DELETE FROM t WHERE id = 10; INSERT INTO t VALUES (10, 'code again', 700, 'x', 'y')",
    "DELETE FROM t WHERE id > 30; UPDATE t SET code = 'C' || id, amount = amount - 1;
     DELETE FROM whole WHERE ctid IN (SELECT ctid FROM whole WHERE b = 'twin' LIMIT 1)",
];

fn rule(target: &str, action: &str, more: Json) -> Json {
    let mut rule = json!({
        "rule-type": "transformation", "rule-target": target, "rule-action": action,
        "object-locator": {"schema-name": "public"},
    });
    for (key, value) in more.as_object().unwrap() {
        match key.as_str() {
            "table" => rule["object-locator"]["table-name"] = value.clone(),
            "column" => rule["object-locator"]["column-name"] = value.clone(),
            _ => rule[key] = value.clone(),
        }
    }
    rule
}

/// Every row of every table that the engine wrote, by the table's name.
fn content(side: &Side) -> Vec<String> {
    let tables = match side {
        Side::Postgres(_) => {
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables \
             WHERE tablename NOT LIKE 'dms\\_%' \
             AND schemaname NOT IN ('pg_catalog', 'information_schema')"
        }
        Side::Sqlite(_) => {
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'dms%' \
             AND name NOT LIKE 'sqlite%'"
        }
    };
    let mut all = Vec::new();
    for table in side.query(tables).unwrap() {
        let table = table.trim_matches(['(', ')']).replace("\"\"", "\"");
        let table = match table.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(inner) if matches!(side, Side::Postgres(_)) => inner.to_owned(),
            _ => table,
        };
        all.extend(side.rows(&table).into_iter().map(|row| format!("{table}: {row}")));
    }
    all.sort_unstable();
    all
}

/// Follows all changes under these rules, and compares with a load after each of them.
fn follow(name: &str, rules: &[Json], settings: impl Fn(&mut Task)) {
    for pair in [Pair::Postgres, Pair::PostgresToSqlite] {
        for (one_by_one, at_once) in [(false, false), (false, true), (true, true)] {
            eprintln!("{name}: {pair:?}, one by one: {one_by_one}, at once: {at_once}");
            let mut task = Task::new(pair, TABLE);
            task.rules.extend(rules.iter().cloned());
            if pair == Pair::PostgresToSqlite {
                task.set("TargetMetadata", "TargetSchema", "main");
            }
            task.set("TargetMetadata", "BatchApplyEnabled", !one_by_one);
            settings(&mut task);
            task.catch_up().with_code(0);
            let last = CHANGES.len() - 1;
            for (at, changes) in CHANGES.iter().enumerate() {
                task.source.execute(changes);
                if !at_once || at == last {
                    task.catch_up().with_code(0);
                    let loaded = task.loaded_now();
                    let (found, wanted) = (content(&task.target), content(&loaded));
                    let differ = found.iter().zip(&wanted).find(|(one, other)| one != other);
                    assert!(found == wanted, "{name} {pair:?} {at}: {differ:?}");
                    assert!(!wanted.is_empty(), "nothing was compared");
                }
            }
        }
    }
}

#[test]
fn without_rules() {
    follow("none", &[], |_| {});
}

#[test]
fn renames_prefixes_and_case() {
    follow(
        "renames",
        &[
            rule("table", "add-prefix", json!({"table": "%", "value": "copy_of_"})),
            rule("column", "rename", json!({"table": "t", "column": "note", "value": "remark"})),
            rule("column", "convert-uppercase", json!({"table": "%", "column": "%"})),
            rule("column", "add-suffix", json!({"table": "t", "column": "id", "value": "_no"})),
        ],
        |_| {},
    );
}

#[test]
fn columns_that_are_left_out_and_computed() {
    follow(
        "columns",
        &[
            rule("column", "remove-column", json!({"table": "t", "column": "note"})),
            rule("column", "remove-column", json!({"table": "whole", "column": "b"})),
            rule(
                "column",
                "add-column",
                json!({"table": "t", "column": "%", "value": "label",
                    "expression": "$code || '/' || $id", "data-type": {"type": "string", "length": 80}}),
            ),
        ],
        |_| {},
    );
}

#[test]
fn types_that_are_changed() {
    follow(
        "types",
        &[
            rule(
                "column",
                "change-data-type",
                json!({"table": "t", "column": "id", "data-type": {"type": "int8"}}),
            ),
            rule(
                "column",
                "change-data-type",
                json!({"table": "t", "column": "amount", "data-type": {"type": "string", "length": 40}}),
            ),
        ],
        |_| {},
    );
}

/// Rows come into a filter and leave it, which takes a log that holds all of them.
#[test]
fn rows_that_a_filter_leaves_out() {
    follow("filter", &[], |task| {
        task.source.execute("ALTER TABLE t REPLICA IDENTITY FULL");
        let filter = |column: &str| {
            json!([{"filter-type": "source", "column-name": column, "filter-conditions": [
                {"filter-operator": "between", "start-value": "100", "end-value": "300"}]}])
        };
        for (table, column) in [("t", "amount"), ("whole", "c")] {
            let mut selection = super::task::selection("include", table);
            selection["object-locator"]["schema-name"] = json!("public");
            selection["filters"] = filter(column);
            task.rules.push(selection);
        }
        task.rules.remove(0);
    });
}

#[test]
fn another_primary_key() {
    follow(
        "key",
        &[rule(
            "table",
            "define-primary-key",
            json!({"table": "t", "primary-key-def": {"name": "by_code", "columns": ["code"]}}),
        )],
        |_| {},
    );
}

#[test]
fn large_values_that_are_cut() {
    follow("large", &[], |task| {
        task.set("TargetMetadata", "LimitedSizeLobMode", true);
        task.set("TargetMetadata", "LobMaxSize", 1);
    });
}

#[test]
fn a_row_that_comes_into_a_filter_and_is_not_in_the_log_says_so() {
    let mut task = Task::new(Pair::Postgres, TABLE);
    let mut selection = super::task::selection("include", "t");
    selection["object-locator"]["schema-name"] = json!("public");
    selection["filters"] = json!([{"filter-type": "source", "column-name": "amount",
        "filter-conditions": [{"filter-operator": "gte", "value": "100"}]}]);
    task.rules = vec![selection];
    task.catch_up().with_code(0);
    let held = content(&task.target);
    task.source.execute("UPDATE t SET amount = 1000 WHERE id = 3");
    let ended = task.catch_up().with_code(1);
    says(&ended.stderr, &["public.t", "filter", "REPLICA IDENTITY FULL"]);
    assert_eq!(content(&task.target), held);
    task.source.execute("ALTER TABLE t REPLICA IDENTITY FULL");
    task.call(&["reload", "--table", "public.t"]).with_code(0);
    task.source.execute("UPDATE t SET amount = 1000 WHERE id = 4");
    task.catch_up().with_code(0);
    assert_eq!(content(&task.target), content(&task.loaded_now()));
}

/// What the log does not hold, no rule can be computed from.
#[test]
fn a_rule_that_needs_what_the_log_does_not_hold_says_so() {
    let mut task = Task::new(Pair::Postgres, TABLE);
    task.rules.push(rule(
        "column",
        "add-column",
        json!({"table": "t", "column": "%", "value": "start",
            "expression": "substr($big, 1, 5)", "data-type": {"type": "string", "length": 80}}),
    ));
    task.catch_up().with_code(0);
    task.source.execute("UPDATE t SET note = 'noted' WHERE id = 3");
    let ended = task.catch_up().with_code(1);
    says(&ended.stderr, &["public.t", "REPLICA IDENTITY FULL"]);
    // As the message says; what was logged before stays as it is, so the table is loaded again.
    task.source.execute("ALTER TABLE t REPLICA IDENTITY FULL");
    task.call(&["reload", "--table", "public.t"]).with_code(0);
    task.catch_up().with_code(0);
    task.source.execute("UPDATE t SET note = 'again' WHERE id = 3");
    task.catch_up().with_code(0);
    assert_eq!(content(&task.target), content(&task.loaded_now()));
}

/// The mapping changes between runs.
#[test]
fn a_mapping_that_was_changed_is_followed_or_the_table_is_suspended() {
    let leave_out = rule("column", "remove-column", json!({"table": "t", "column": "big"}));
    let computed = rule(
        "column",
        "add-column",
        json!({"table": "t", "column": "%", "value": "label", "expression": "$code || 'x'",
            "data-type": {"type": "string", "length": 80}}),
    );
    let renamed =
        rule("column", "rename", json!({"table": "t", "column": "note", "value": "remark"}));
    for (before, after, followed) in [
        (None, Some(&leave_out), true),
        (Some(&leave_out), None, false),
        (None, Some(&computed), false),
        (None, Some(&renamed), true),
    ] {
        let mut task = Task::new(Pair::Postgres, TABLE);
        let all = task.rules.clone();
        task.rules.extend(before.cloned());
        task.catch_up().with_code(0);
        task.source.execute(CHANGES[0]);
        task.catch_up().with_code(0);
        task.rules = all;
        task.rules.extend(after.cloned());
        task.source.execute(CHANGES[1]);
        if !followed {
            let ended = task.catch_up().with_code(1);
            says(&ended.stdout, &["public.t", "again"]);
            task.call(&["reload", "--table", "public.t"]).with_code(0);
        }
        task.catch_up().with_code(0);
        assert!(content(&task.target) == content(&task.loaded_now()), "{before:?} {after:?}");
    }
}
