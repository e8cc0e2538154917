//! Bad sources and targets: a clear error, and once the cause is gone the same command completes.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::data;
use crate::harness::{Lane, Place, end, example, migrate};

#[test]
fn a_target_file_that_may_not_grow() {
    let mut place = Place::new(Lane::SqliteToSqlite, &data::tables(2000));
    place.target_options = json!({"file-bytes-max": 200_000});
    let ended = end(place.run()).with_code(1);
    assert!(ended.stderr.contains("the disk is full: make room"), "{ended:?}");
    place.target_options = json!({});
    end(place.run()).with_code(0);
    place.assert_equal();
}

#[test]
fn a_target_folder_without_room() {
    let mut place = Place::new(Lane::SqliteToParquet, &data::tables(4000));
    place.settings["Engine"]["PartitionBytes"] = json!(64 << 20);
    // A limit on the size of files stands for a full disk: writing fails with an error.
    let limited = "trap '' XFSZ; ulimit -f 32; exec \"$@\"";
    let mut command = Command::new("bash");
    command.args(["-c", limited, "bash"]).arg(example("migrate")).args([
        "run",
        "--json",
        &place.task(),
    ]);
    let ended = end(command).with_code(1);
    assert!(ended.stderr.contains("main.orders"), "the table is not named: {ended:?}");
    let ended_json = ended.json();
    let orders =
        ended_json["tables"].as_array().unwrap().iter().find(|t| t["name"] == "main.orders");
    assert_eq!(orders.unwrap()["state"], "Table error");
    end(place.run()).with_code(0);
    place.assert_equal();
}

#[test]
fn a_folder_that_holds_foreign_files() {
    let place = Place::new(Lane::SqliteToParquet, &data::tables(300));
    let foreign = place.target().join("main").join("orders").join("LOAD00000001.parquet");
    fs::create_dir_all(foreign.parent().unwrap()).unwrap();
    fs::write(&foreign, "somebody else's").unwrap();
    let ended = end(place.run()).with_code(1);
    assert!(ended.stderr.contains("LOAD00000001.parquet"), "{ended:?}");
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "somebody else's", "not ours to delete");
    fs::remove_file(&foreign).unwrap();
    end(place.run()).with_code(0);
    place.assert_equal();
}

#[test]
fn a_folder_that_another_task_loaded() {
    let first = Place::new(Lane::SqliteToParquet, &data::tables(500));
    end(first.run()).with_code(0);
    // Another task with other rows writes the same folder: its tables take the places of those.
    let second = Place::new(Lane::SqliteToParquet, &data::tables(300));
    fs::rename(first.target(), second.target()).unwrap();
    let task = fs::read_to_string(second.task()).unwrap();
    let other = second.path("other.json");
    fs::write(&other, task.replace(r#""name":"task""#, r#""name":"other""#)).unwrap();
    end(migrate(&["run", other.to_str().unwrap()])).with_code(0);
    second.assert_equal();
}

#[test]
fn a_source_that_is_not_there_yet() {
    let place = Place::new(Lane::SqliteToSqlite, &data::tables(300));
    let away = place.path("away.db");
    fs::rename(place.original(), &away).unwrap();
    for command in ["run", "check", "validate"] {
        let ended = end(migrate(&[command, &place.task()])).with_code(1);
        assert!(ended.stderr.contains("original.db"), "{command}: {ended:?}");
    }
    assert!(!place.original().exists(), "a missing source is not created");
    fs::rename(&away, place.original()).unwrap();
    end(place.run()).with_code(0);
    place.assert_equal();
}

#[test]
fn a_damaged_source() {
    let place = Place::new(Lane::SqliteToSqlite, &data::tables(2000));
    let whole = fs::read(place.original()).unwrap();
    let mut damaged = whole.clone();
    // A page in the middle of the tables.
    let page = damaged.len() / 2 / 4096 * 4096;
    damaged[page..page + 4096].fill(0xa5);
    fs::write(place.original(), damaged).unwrap();
    let ended = end(place.run()).with_code(1);
    assert!(ended.stderr.contains("corrupt"), "{ended:?}");
    fs::write(place.original(), whole).unwrap();
    end(place.run()).with_code(0);
    place.assert_equal();
}

#[test]
fn a_locked_target() {
    let mut place = Place::new(Lane::SqliteToSqlite, &data::tables(300));
    place.target_options = json!({"busy-timeout-ms": 50});
    place.settings["ErrorBehavior"] = json!({"RecoverableErrorCount": 0});
    let holder = rusqlite::Connection::open(place.target()).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let ended = end(place.run()).with_code(1);
    assert!(ended.stderr.contains("holds a lock"), "{ended:?}");
    holder.execute_batch("ROLLBACK").unwrap();
    end(place.run()).with_code(0);
    place.assert_equal();
}

#[test]
fn a_value_that_does_not_fit_its_column() {
    let place = Place::new(
        Lane::SqliteToParquet,
        "CREATE TABLE items (id INTEGER PRIMARY KEY, qty INTEGER);
         INSERT INTO items VALUES (1, 10), (2, 'many'), (3, 30);
         CREATE TABLE fine (id INTEGER PRIMARY KEY); INSERT INTO fine VALUES (1);",
    );
    let ended = end(place.run()).with_code(1);
    for part in ["main.items", "qty", "2"] {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
    assert!(!ended.stderr.contains("many"), "values are not for messages: {ended:?}");
    assert_eq!(ended.rows("main.fine"), (1, 1), "the other table is not held up");
    place.change_source("UPDATE items SET qty = 20 WHERE id = 2");
    end(place.run()).with_code(0);
    place.assert_equal();
}
