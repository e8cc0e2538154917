//! The other examples run and tell the truth.

use std::fs;
use std::process::Command;

use crate::harness::{end, example};

#[test]
fn quickstart_migrates_and_compares() {
    let folder = tempfile::tempdir().unwrap();
    let quickstart = || {
        let mut command = Command::new(example("quickstart"));
        command.arg(folder.path()).args(["--scale", "0.01"]);
        command
    };
    let ended = end(quickstart()).with_code(0);
    for part in ["Every row arrived unchanged", "rows/s", "peak memory", "to-parquet.json"] {
        assert!(ended.stdout.contains(part), "{part}: {ended:?}");
    }
    for part in [
        "full load",
        "cached changes",
        "ongoing replication",
        "by SQLite itself: equal",
        "source and Parquet: equal",
    ] {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
    for file in ["source.db", "copy.db", "to-parquet.json", "to-copy.json"] {
        assert!(folder.path().join(file).exists(), "{file}");
    }

    // What it proposes to do next works.
    for (command, task) in [("check", "to-parquet"), ("run", "to-parquet"), ("validate", "to-copy")]
    {
        let task = folder.path().join(format!("{task}.json"));
        let mut next = Command::new(example("migrate"));
        next.arg(command).arg(task);
        end(next).with_code(0);
    }

    // Nothing of what is there is touched by a second one.
    let before = fs::read(folder.path().join("source.db")).unwrap();
    let again = end(quickstart()).with_code(1);
    assert!(again.stderr.contains("is not empty"), "{again:?}");
    assert_eq!(fs::read(folder.path().join("source.db")).unwrap(), before);
}

#[test]
fn custom_endpoint_loads_and_reads_back() {
    let ended = end(Command::new(example("custom_endpoint"))).with_code(0);
    assert_eq!(ended.stdout.matches("completed: 800000 rows").count(), 2, "{ended:?}");
}
