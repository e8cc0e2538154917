//! Runs `migrate` as a child process, and the lanes that the tests drive it along.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use dms_examples::exact;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::database::Database;

/// Where `cargo test` puts the examples of the package under test.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(2).unwrap();
    let binary = target.join("examples").join(name);
    assert!(
        binary.exists(),
        "{} is not built; `cargo test -p dms-examples` builds it, `cargo test --test it` alone \
         does not: run `cargo build -p dms-examples --examples` first",
        binary.display()
    );
    binary
}

/// A `migrate` command, not started yet; no fault, no log.
pub(crate) fn migrate(arguments: &[&str]) -> Command {
    let mut command = Command::new(example("migrate"));
    command.args(arguments).env_remove("DMS_FAULT").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// What a finished `migrate` left.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The JSON object on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Rows of a table: what the target holds, and how many of them this run loaded.
    #[track_caller]
    pub(crate) fn rows(&self, table: &str) -> (u64, u64) {
        let json = self.json();
        let tables = json["tables"].as_array().unwrap();
        let table = tables.iter().find(|found| found["name"] == table);
        let table = table.unwrap_or_else(|| panic!("no table: {self:?}"));
        (table["rows"].as_u64().unwrap(), table["rows_this_run"].as_u64().unwrap())
    }
}

/// Runs a command to its end.
pub(crate) fn end(mut command: Command) -> Ended {
    command.output().unwrap().into()
}

/// Starts a command whose output is read when it has ended.
pub(crate) fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for a started command.
pub(crate) fn wait(child: Child) -> Ended {
    child.wait_with_output().unwrap().into()
}

/// Sends a signal by its name.
pub(crate) fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// From what to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    SqliteToSqlite,
    SqliteToParquet,
    ParquetToSqlite,
    SqliteToPostgres,
    PostgresToSqlite,
    PostgresToParquet,
}

impl Lane {
    fn is_from_postgres(self) -> bool {
        matches!(self, Self::PostgresToSqlite | Self::PostgresToParquet)
    }

    pub(crate) fn is_to_parquet(self) -> bool {
        matches!(self, Self::SqliteToParquet | Self::PostgresToParquet)
    }
}

/// A task along a lane in a folder of its own.
pub(crate) struct Place {
    folder: TempDir,
    lane: Lane,
    /// The source or target where it is one of a server.
    database: Option<Database>,
    /// Sizes that make many partitions of little data.
    pub(crate) settings: Json,
    pub(crate) target_options: Json,
}

impl Place {
    /// A source made by these statements, and a task that moves all its tables.
    pub(crate) fn new(lane: Lane, sql: &str) -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
            lane,
            database: (lane == Lane::SqliteToPostgres || lane.is_from_postgres())
                .then(Database::new),
            settings: json!({
                "Engine": {"PartitionBytes": 16384, "BatchRows": 256},
                "ErrorBehavior": {"RecoverableErrorInterval": 0},
            }),
            target_options: json!({}),
        };
        place.change_source(sql);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The SQLite file that the rows come from, at first hand or by way of a folder or a server.
    pub(crate) fn original(&self) -> PathBuf {
        self.path("original.db")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.path(if self.lane.is_to_parquet() { "target" } else { "target.db" })
    }

    /// Changes the source; one that is no SQLite file is loaded anew from the changed file.
    pub(crate) fn change_source(&self, sql: &str) {
        rusqlite::Connection::open(self.original()).unwrap().execute_batch(sql).unwrap();
        if self.source() != sqlite(&self.original()) {
            let task = self.write_task(
                "make-source",
                &json!({"url": sqlite(&self.original())}),
                &json!({"url": self.source()}),
            );
            end(migrate(&["run", "--reload", &task])).with_code(0);
        }
    }

    /// The URL of the task's source.
    fn source(&self) -> String {
        match self.lane {
            Lane::ParquetToSqlite => folder(&self.path("source")),
            lane if lane.is_from_postgres() => self.database().url.clone(),
            _ => sqlite(&self.original()),
        }
    }

    /// The task's file, written anew.
    pub(crate) fn task(&self) -> String {
        let url = match self.lane {
            lane if lane.is_to_parquet() => folder(&self.target()),
            Lane::SqliteToPostgres => self.database().url.clone(),
            _ => sqlite(&self.target()),
        };
        let mut target = json!({"url": url});
        for (name, value) in self.target_options.as_object().unwrap() {
            target[name] = value.clone();
        }
        self.write_task("task", &json!({"url": self.source()}), &target)
    }

    fn write_task(&self, name: &str, source: &Json, target: &Json) -> String {
        let path = self.path(&format!("{name}.json"));
        let task = json!({
            "name": name,
            "source": source,
            "target": target,
            "migration-type": "full-load",
            "table-mappings": {"rules": [{
                "rule-type": "selection", "rule-id": "1", "rule-name": "all",
                "rule-action": "include",
                "object-locator": {"schema-name": "%", "table-name": "%"},
            }]},
            "settings": self.settings,
        });
        std::fs::write(&path, task.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `migrate run` of the task.
    pub(crate) fn run(&self) -> Command {
        migrate(&["run", "--json", "--quiet", &self.task()])
    }

    /// `migrate run` with a fault.
    pub(crate) fn run_with_fault(&self, fault: &str) -> Command {
        let mut command = self.run();
        command.env("DMS_FAULT", fault);
        command
    }

    /// Forgets what was loaded.
    pub(crate) fn clear_target(&self) {
        for name in ["target.db", "target.db-journal", "target.db-wal", "target.db-shm"] {
            let _ = std::fs::remove_file(self.path(name));
        }
        let _ = std::fs::remove_dir_all(self.path("target"));
        if self.lane == Lane::SqliteToPostgres {
            self.database().clear();
        }
    }

    pub(crate) fn database(&self) -> &Database {
        self.database.as_ref().unwrap()
    }

    /// How many partitions the target holds so far.
    pub(crate) fn partitions_held(&self) -> u32 {
        match self.lane {
            lane if lane.is_to_parquet() => receipts(&self.target()),
            Lane::SqliteToPostgres => self.database().partitions_held(),
            _ => {
                let Ok(target) = rusqlite::Connection::open_with_flags(
                    self.target(),
                    rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
                ) else {
                    return 0;
                };
                let count =
                    target.query_row("SELECT count(*) FROM dms_partitions", [], |row| row.get(0));
                count.unwrap_or(0)
            }
        }
    }

    /// Waits until a started run has committed this many partitions.
    pub(crate) fn wait_for_partitions(&self, child: &mut Child, wanted: u32) {
        while self.partitions_held() < wanted {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it was expected to");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets a started run commit this many partitions and holds it then (SIGSTOP), where it has no
    /// lock on the target.
    pub(crate) fn freeze_after(&self, child: &mut Child, partitions: u32) {
        self.wait_for_partitions(child, partitions);
        loop {
            signal(child, "STOP");
            while !is_stopped(child) {
                assert!(child.try_wait().unwrap().is_none(), "the run ended before it was held");
                std::thread::sleep(Duration::from_millis(5));
            }
            if self.lane.is_to_parquet() || is_unlocked(&self.target()) {
                break;
            }
            signal(child, "CONT");
        }
    }

    /// Compares every row and value of the target with the original.
    #[track_caller]
    pub(crate) fn assert_equal(&self) {
        let copy = match self.lane {
            Lane::SqliteToPostgres => return self.database().assert_equal(&self.original()),
            lane if lane.is_to_parquet() => {
                let back = self.path("back.db");
                let _ = std::fs::remove_file(&back);
                let task = self.write_task(
                    "read-back",
                    &json!({"url": folder(&self.target())}),
                    &json!({"url": sqlite(&back)}),
                );
                end(migrate(&["run", &task])).with_code(0);
                back
            }
            _ => self.target(),
        };
        if self.lane.is_from_postgres() {
            return self.database().assert_equal(&copy);
        }
        let found = exact::compare(&self.original(), &copy).unwrap();
        assert!(found.differences.is_empty(), "{:#?}", found.differences);
        assert!(found.tables > 0 && found.rows > 0, "nothing was compared");
    }
}

/// Whether a stop has reached every thread: until then one of them may still take a lock.
fn is_stopped(child: &Child) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    threads.map(|thread| thread.unwrap().path().join("stat")).all(|file| {
        // A thread that ended meanwhile has no file.
        let stat = std::fs::read_to_string(file).unwrap_or_default();
        // "pid (name) state …"; the name may hold anything.
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
    })
}

fn is_unlocked(file: &Path) -> bool {
    let file = rusqlite::Connection::open(file).unwrap();
    file.busy_timeout(Duration::ZERO).unwrap();
    file.execute_batch("BEGIN IMMEDIATE; ROLLBACK;").is_ok()
}

/// Receipts of partitions below a folder.
fn receipts(folder: &Path) -> u32 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| {
            let name = entry.file_name();
            let is_receipt = name.to_string_lossy().starts_with("receipt-")
                && name.to_string_lossy().ends_with(".json");
            if entry.path().is_dir() { receipts(&entry.path()) } else { u32::from(is_receipt) }
        })
        .sum()
}

pub(crate) fn sqlite(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

pub(crate) fn folder(path: &Path) -> String {
    format!("file://{}", path.display())
}
