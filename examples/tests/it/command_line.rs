//! Exit codes, output, bad definitions, secrets.

use std::fs;

use serde_json::{Value as Json, json};

use crate::data;
use crate::harness::{Ended, Lane, Place, end, migrate};

/// A definition with one thing changed, run under a command.
fn with(place: &Place, command: &str, change: impl FnOnce(&mut Json)) -> Ended {
    let mut task: Json = serde_json::from_str(&fs::read_to_string(place.task()).unwrap()).unwrap();
    change(&mut task);
    let path = place.path("changed.json");
    fs::write(&path, task.to_string()).unwrap();
    let mut command = migrate(&[command, path.to_str().unwrap()]);
    command.env("DMS_TEST_PASSWORD", "hunter2").env("RUST_LOG", "trace");
    end(command)
}

#[test]
fn wrong_arguments_exit_with_2_and_help_with_0() {
    for arguments in [&["run"][..], &["walk"], &[], &["run", "--jsn", "x"], &["check", "a", "b"]] {
        end(migrate(arguments)).with_code(2);
    }
    let help = end(migrate(&["--help"])).with_code(0);
    assert!(help.stdout.contains("Exit codes"));
}

#[test]
fn wrong_definitions_exit_with_2_and_say_what_was_meant() {
    let place = Place::new(Lane::SqliteToParquet, &data::tables(10));
    type Change = fn(&mut Json);
    let cases: [(Change, &str); 11] = [
        (|t| t["setings"] = json!({}), "did you mean \"settings\""),
        (|t| t["settings"]["FullLoadSetings"] = json!({}), "did you mean \"FullLoadSettings\""),
        (
            |t| t["settings"]["Engine"]["PartitionByte"] = json!(1),
            "did you mean \"PartitionBytes\"",
        ),
        (|t| t["source"]["busy-timeout"] = json!(1), "busy-timeout-ms"),
        (|t| t["target"]["compresion"] = json!("zstd"), "did you mean \"compression\""),
        (|t| t["source"]["url"] = json!("sqlit:///x.db"), "no connector"),
        (|t| t["source"]["url"] = json!("sqlite:///${DMS_TEST_NOT_SET}"), "DMS_TEST_NOT_SET"),
        (|t| t["migration-type"] = json!("cdcc"), "cdcc"),
        (|t| t["stop-when"] = json!("caught-up"), "a full load ends when it is done"),
        (|t| t["start-at"] = json!({"position": "1"}), "use migration type cdc"),
        (|t| t["table-mappings"]["rules"][0]["rule-actoin"] = json!("include"), "rule-action"),
    ];
    for (change, says) in cases {
        for command in ["run", "check", "validate"] {
            let ended = with(&place, command, change).with_code(2);
            assert!(ended.stderr.contains(says), "{command}: no {says:?} in {ended:?}");
        }
    }
    assert!(!place.target().exists(), "a wrong definition changes nothing");

    let missing = end(migrate(&["run", "no-such-file.json"])).with_code(2);
    assert!(missing.stderr.contains("no-such-file.json"));
    let path = place.path("broken.json");
    fs::write(&path, "{\"name\": ").unwrap();
    end(migrate(&["run", path.to_str().unwrap()])).with_code(2);
}

#[test]
fn secrets_stay_hidden() {
    let place = Place::new(Lane::SqliteToParquet, &data::tables(10));
    for command in ["show", "run", "check", "validate"] {
        let in_url = with(&place, command, |t| {
            t["source"]["url"] = json!("postgres://app:${DMS_TEST_PASSWORD}@127.0.0.1:1/shop");
            t["source"]["password"] = json!("${DMS_TEST_PASSWORD}");
        });
        let in_option =
            with(&place, command, |t| t["target"]["password"] = json!("${DMS_TEST_PASSWORD}"));
        // Nobody listens there; and a folder has no password.
        for (ended, code) in [(in_url, 1), (in_option, 2)] {
            assert!(ended.code == Some(if command == "show" { 0 } else { code }), "{ended:?}");
            let all = format!("{ended:?}");
            assert!(!all.contains("hunter2"), "{command}: {all}");
        }
    }
}

#[test]
fn show_prints_every_default_and_can_be_run() {
    let place = Place::new(Lane::SqliteToSqlite, &data::tables(10));
    let shown = end(migrate(&["show", &place.task()])).with_code(0);
    let json = shown.json();
    assert_eq!(json["settings"]["FullLoadSettings"]["TargetTablePrepMode"], "DROP_AND_CREATE");
    assert_eq!(json["settings"]["Engine"]["PartitionBytes"], 16384);
    assert!(!place.target().exists());
    let path = place.path("shown.json");
    fs::write(&path, &shown.stdout).unwrap();
    end(migrate(&["run", path.to_str().unwrap()])).with_code(0);
    place.assert_equal();
}

#[test]
fn check_tells_of_every_column_and_changes_nothing() {
    let place = Place::new(Lane::SqliteToParquet, &data::tables(10));
    let ended = end(migrate(&["check", &place.task()])).with_code(0);
    for part in ["main.orders", "customer", "the task can run", "0 impossible"] {
        assert!(ended.stdout.contains(part), "{part}: {ended:?}");
    }
    assert!(!place.target().exists(), "check changes nothing");
}

#[test]
fn a_column_that_the_target_cannot_hold_is_marked_and_refused() {
    let place = Place::new(Lane::SqliteToSqlite, &data::tables(10));
    let arrays = |t: &mut Json| {
        t["source"]["column-types"] = json!({"main.orders.note": "array(int64)"});
    };
    let checked = with(&place, "check", arrays).with_code(2);
    let marked: Vec<&str> = checked.stdout.lines().filter(|l| l.starts_with("  ! ")).collect();
    assert!(matches!(&marked[..], [one] if one.contains("note: array(int64)")), "{checked:?}");
    assert!(checked.stdout.contains("1 impossible"), "{checked:?}");
    let run = with(&place, "run", arrays).with_code(2);
    assert!(run.stderr.contains("main.orders.note"), "{run:?}");
    assert!(!place.target().exists(), "nothing has begun");
}

#[test]
fn statistics_as_json() {
    let place = Place::new(Lane::SqliteToSqlite, &data::tables(200));
    let ended = end(place.run()).with_code(0);
    let json = ended.json();
    assert_eq!(json["task"], "task");
    assert_eq!(json["status"], "completed");
    assert!(json["seconds"].as_f64().unwrap() > 0.0);
    let tables = json["tables"].as_array().unwrap();
    let names: Vec<&str> = tables.iter().map(|table| table["name"].as_str().unwrap()).collect();
    let all =
        ["main.anything", "main.codes", "main.empty", "main.no_key", "main.orders", "main.pairs"];
    assert_eq!(names, all);
    for table in tables {
        let rows = if table["name"] == "main.empty" { 0 } else { 200 };
        assert_eq!(table["rows"], rows, "{table}");
        assert_eq!(table["state"], "Table completed");
        for zero in ["inserts", "updates", "deletes", "errors"] {
            assert_eq!(table[zero], 0, "{table}");
        }
        assert!(table["seconds"].is_f64() && table["bytes"].is_u64(), "{table}");
    }
    assert!(ended.stderr.is_empty(), "--quiet: {ended:?}");
    let loud = end(migrate(&["run", &place.task()])).with_code(0);
    assert!(loud.stdout.is_empty() && loud.stderr.contains("completed"), "{loud:?}");
    assert!(!loud.stderr.contains('\x1b'), "bars where there is no terminal: {loud:?}");
}

#[test]
fn validation_after_the_load() {
    let mut place = Place::new(Lane::SqliteToParquet, &data::tables(300));
    place.settings["ValidationSettings"] = json!({"EnableValidation": true});
    let ended = end(place.run()).with_code(0);
    assert!(ended.json()["validation"].is_object(), "{ended:?}");
    // The finished tables stay while the source goes on: the comparison says so.
    place.change_source("DELETE FROM orders WHERE id = 33");
    let ended = end(place.run()).with_code(1);
    assert!(ended.stderr.contains("main.orders") && ended.stderr.contains("33"), "{ended:?}");
}

/// PostgreSQL keeps microseconds: finer times are lost only if that is agreed to.
#[test]
fn a_loss_has_to_be_agreed_to() {
    let place = Place::new(
        Lane::SqliteToPostgres,
        "CREATE TABLE log (id INTEGER PRIMARY KEY, at TIMESTAMP(9));
         INSERT INTO log VALUES (1, '2020-01-01 00:00:00.123456789');",
    );
    let fine = |task: &mut Json| {
        task["source"]["column-types"] = json!({"main.log.at": "timestamp(9)"});
    };
    for command in ["check", "run"] {
        let refused = with(&place, command, fine).with_code(2);
        let said = format!("{refused:?}");
        assert!(said.contains("six digits"), "{said}");
    }
    let agreed = |task: &mut Json| {
        fine(task);
        task["settings"]["Engine"]["AcceptLoss"] = json!(["main.log.at"]);
    };
    let checked = with(&place, "check", agreed).with_code(0);
    assert!(checked.stdout.contains("1 lossy (1 accepted)"), "{checked:?}");
    with(&place, "run", agreed).with_code(0);
    let held = place.database().text("SELECT at::text FROM main.log");
    assert_eq!(held, "2020-01-01 00:00:00.123456");
}
