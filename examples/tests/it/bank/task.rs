//! The task that follows the bank, as a process that dies again and again.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::crash::SIGABRT;
use crate::harness::{end, migrate, signal};

/// How long a process may take to come to a fault point.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Task {
    folder: PathBuf,
    /// Runs until it is killed.
    file: String,
    /// Runs until everything is applied.
    caught_up: String,
    /// How many processes were killed or died at a fault point.
    pub(super) deaths: u32,
    runs: u32,
}

impl Task {
    pub(super) fn new(folder: &Path, source: &str, target: Json, durability: &str) -> Self {
        let schemas = (schema(source), schema(target["url"].as_str().unwrap()));
        let mut rules = vec![json!({
            "rule-type": "selection", "rule-id": 1, "rule-name": "1", "rule-action": "include",
            "object-locator": {"schema-name": schemas.0, "table-name": "%"},
        })];
        if schemas.0 != schemas.1 {
            rules.push(json!({
                "rule-type": "transformation", "rule-id": 2, "rule-name": "2",
                "rule-target": "schema", "rule-action": "rename", "value": schemas.1,
                "object-locator": {"schema-name": schemas.0},
            }));
        }
        let mut task = json!({
            "name": "bank",
            "source": {"url": source},
            "target": target,
            "migration-type": "full-load-and-cdc",
            "table-mappings": {"rules": rules},
            "settings": {
                "FullLoadSettings": {"TargetTablePrepMode": "TRUNCATE_BEFORE_LOAD"},
                "ErrorBehavior": {"RecoverableErrorInterval": 1, "RecoverableErrorThrottlingMax": 1},
                "Engine": {
                    "PartitionBytes": 16384, "BatchRows": 256,
                    "SpillFolder": folder.join("spill"), "SpillDurability": durability,
                },
            },
        });
        let mut write = |name: &str, stop: Option<&str>| {
            if let Some(stop) = stop {
                task["stop-when"] = json!(stop);
            }
            let path = folder.join(name);
            std::fs::write(&path, task.to_string()).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let file = write("task.json", None);
        let caught_up = write("caught-up.json", Some("caught-up"));
        Self { folder: folder.to_owned(), file, caught_up, deaths: 0, runs: 0 }
    }

    /// Starts a run, which writes to a log of its own.
    pub(super) fn start(&mut self, fault: Option<&str>) -> Run {
        let mut command = migrate(&["run", "--quiet", &self.file]);
        self.runs += 1;
        let log = self.folder.join(format!("log-{}", self.runs));
        if let Some(fault) = fault {
            command.env("DMS_FAULT", fault);
        }
        command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Run { child: command.spawn().unwrap(), log }
    }

    /// Runs to a fault point and dies there. A run that need not come by is killed after a while.
    pub(super) fn die_at(&mut self, point: &str, passage: u64, must: bool) {
        let mut run = self.start(Some(&format!("{point}=abort:{passage}")));
        let began = Instant::now();
        let patience = if must { PATIENCE } else { Duration::from_millis(500) };
        while began.elapsed() < patience {
            if let Some(status) = run.child.try_wait().unwrap() {
                assert_eq!(status.signal(), Some(SIGABRT), "at {point}: {}", run.told());
                self.deaths += 1;
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!must, "the run never came by {point}");
        // It may come by this moment.
        let _ = run.child.kill();
        let status = run.child.wait().unwrap();
        assert!(status.signal().is_some(), "{status} at {point}: {}", run.told());
        self.deaths += 1;
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self, mut run: Run) {
        run.assert_runs();
        signal(&run.child, "KILL");
        run.child.wait().unwrap();
        self.deaths += 1;
    }

    /// Applies all that there is.
    #[track_caller]
    pub(super) fn catch_up(&self) {
        end(migrate(&["run", "--quiet", &self.caught_up])).with_code(0);
    }

    /// Whether every table is loaded.
    pub(super) fn is_loaded(&self) -> bool {
        let status = end(migrate(&["status", "--json", &self.file]));
        if status.code != Some(0) {
            return false;
        }
        let status = status.json();
        let tables = status["tables"].as_array().unwrap();
        tables.len() == super::tables::TABLES.len()
            && tables.iter().all(|table| table["state"] == "Table completed")
    }

    /// Has everything loaded again.
    pub(super) fn reload(&self) {
        end(migrate(&["reload", &self.file])).with_code(0);
    }
}

/// A running task.
pub(super) struct Run {
    child: Child,
    log: PathBuf,
}

impl Run {
    fn told(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Sees that nothing has ended it: not even what breaks its connections may.
    #[track_caller]
    pub(super) fn assert_runs(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "the run ended by itself, {ended:?}: {}", self.told());
    }

    /// Waits for something that the run is to bring about.
    #[track_caller]
    pub(super) fn wait_until(&mut self, what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            self.assert_runs();
            assert!(began.elapsed() < Duration::from_secs(60), "{what} takes too long");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Run {
    /// A failed test leaves no process behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn schema(url: &str) -> &'static str {
    if url.starts_with("sqlite") { "main" } else { "public" }
}
