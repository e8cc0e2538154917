//! PostgreSQL on one side and a file on the other: every type, there and back again.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::database::Database;
use crate::harness::{Ended, end, migrate};

/// A column of every type, and their extreme values.
const EVERYTHING: &str = include_str!("../../../dms-connectors/tests/postgres/everything.sql");

/// Runs a command on a task that moves table `everything` of its schema.
fn command(folder: &TempDir, command: &str, source: &str, target: &str) -> Ended {
    let schema = if source.starts_with("sqlite:") { "main" } else { "public" };
    let select = json!({"rule-type": "selection", "rule-id": 1, "rule-name": "1",
        "rule-action": "include",
        "object-locator": {"schema-name": schema, "table-name": "everything"}});
    let rename = json!({"rule-type": "transformation", "rule-id": 2, "rule-name": "2",
        "rule-target": "schema", "rule-action": "rename", "value": "main",
        "object-locator": {"schema-name": "%"}});
    let mut rules = vec![select];
    if target.starts_with("sqlite:") {
        rules.push(rename);
    }
    let task = json!({
        "name": "pairs",
        "source": {"url": source},
        "target": {"url": target},
        "migration-type": "full-load",
        "table-mappings": {"rules": rules},
    });
    let path = folder.path().join("task.json");
    std::fs::write(&path, task.to_string()).unwrap();
    end(migrate(&[command, path.to_str().unwrap()]))
}

fn file(scheme: &str, folder: &TempDir, name: &str) -> String {
    let path: &Path = &folder.path().join(name);
    format!("{scheme}://{}", path.display())
}

/// From a database by way of a file to another: each step holds the same, the last the very texts.
fn there_and_back(scheme: &str) -> (Database, Database) {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (Database::new(), Database::new());
    from.execute(EVERYTHING);
    if scheme == "sqlite" {
        // Which SQLite stores as NULL, and so refuses.
        from.execute("UPDATE everything SET f8 = 0 WHERE f8 = 'NaN'");
    }
    let between = file(scheme, &folder, "between");
    for (source, target) in [(&from.url, &between), (&between, &to.url)] {
        command(&folder, "run", source, target).with_code(0);
        command(&folder, "validate", source, target).with_code(0);
    }
    (from, to)
}

#[test]
fn by_way_of_parquet_every_type_is_itself_again() {
    let (from, to) = there_and_back("file");
    let rows = "SELECT string_agg(everything::text, E'\\n' ORDER BY id) FROM everything";
    let types = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' \
        ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'everything'::regclass AND attnum > 0";
    assert_eq!(to.text(rows), from.text(rows));
    // A domain is not there on another server.
    let types_there = from.text(types).replace("dom price", "dom numeric(8,2)");
    assert_eq!(to.text(types), types_there.replace("dom2 cheap", "dom2 numeric(8,2)"));
}

#[test]
fn by_way_of_sqlite_every_value_is_there() {
    let (from, to) = there_and_back("sqlite");
    // SQLite keeps no engine's types: these have one text in both.
    let rows = |schema: &str| {
        format!(
            "SELECT string_agg(concat_ws('|', id, b, i2, i4, o, f8, n, n2, n0, wide, t, v, d, tm, \
             tstz, u, r, a, ip, mac, tv, lsn, dom), E'\\n' ORDER BY id) FROM {schema}.everything"
        )
    };
    assert_eq!(to.text(&rows("main")), from.text(&rows("public")));
}
