//! A replication task between two databases of its own, driven by `migrate`.

use std::future::Future;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::harness::{Ended, end, migrate, sqlite, start, wait};
use crate::server::{self, Server};

/// The server of tests that hold no transaction open for long: making a slot waits for those of
/// every database of a server.
fn logical() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(own_server)
}

/// A server whose log holds changes.
pub(super) fn own_server() -> Server {
    Server::start(&["wal_level=logical", "max_replication_slots=2000", "max_wal_senders=100"])
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

/// A database, looked at and changed without the engine.
#[derive(Debug, Clone)]
pub(super) enum Side {
    Postgres(String),
    Sqlite(PathBuf),
}

impl Side {
    /// A new database of a server.
    pub(super) fn on(server: &Server) -> Self {
        Self::Postgres(block(server.database()))
    }

    pub(super) fn url(&self) -> String {
        match self {
            Self::Postgres(url) => url.clone(),
            Self::Sqlite(path) => sqlite(path),
        }
    }

    /// Runs statements, in a transaction of their own where they do not say otherwise.
    #[track_caller]
    pub(super) fn execute(&self, sql: &str) {
        match self {
            Self::Postgres(url) => {
                let done = block(async { server::connect(url).await.batch_execute(sql).await });
                done.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
            }
            Self::Sqlite(path) => {
                let file = rusqlite::Connection::open(path).unwrap();
                file.busy_timeout(Duration::from_secs(20)).unwrap();
                file.execute_batch(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
            }
        }
    }

    /// The rows that a query answers, each value as text; `None` if there is no such table.
    pub(super) fn query(&self, sql: &str) -> Option<Vec<String>> {
        match self {
            Self::Postgres(url) => {
                let wrapped = format!("SELECT r::text FROM ({sql}) r");
                let rows = block(async { server::connect(url).await.query(&wrapped, &[]).await });
                Some(rows.ok()?.iter().map(|row| row.get(0)).collect())
            }
            Self::Sqlite(path) => {
                let file = rusqlite::Connection::open(path).unwrap();
                file.busy_timeout(Duration::from_secs(20)).unwrap();
                let mut statement = file.prepare(sql).ok()?;
                let count = statement.column_count();
                let rows = statement.query_map([], |row| {
                    let values = (0..count).map(|at| Ok(text(row.get_ref(at)?)));
                    let values = values.collect::<rusqlite::Result<Vec<_>>>()?;
                    Ok(format!("({})", values.join(",")))
                });
                Some(rows.unwrap().map(Result::unwrap).collect())
            }
        }
    }

    /// Every row of a table, sorted.
    #[track_caller]
    pub(super) fn rows(&self, table: &str) -> Vec<String> {
        let rows = self.query(&format!("SELECT * FROM {table}"));
        let mut rows = rows.unwrap_or_else(|| panic!("no table {table} in {self:?}"));
        rows.sort_unstable();
        rows
    }

    pub(super) fn has(&self, table: &str) -> bool {
        self.query(&format!("SELECT 1 FROM {table} LIMIT 1")).is_some()
    }
}

fn text(value: rusqlite::types::ValueRef<'_>) -> String {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(value) => value.to_string(),
        ValueRef::Real(value) => value.to_string(),
        ValueRef::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
        ValueRef::Blob(bytes) => format!("{bytes:?}"),
    }
}

/// From what to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pair {
    Postgres,
    Sqlite,
    PostgresToSqlite,
}

pub(super) const ALIKE: [Pair; 2] = [Pair::Postgres, Pair::Sqlite];

/// A task with a source and a target of its own.
pub(super) struct Task {
    folder: TempDir,
    pub(super) name: String,
    pub(super) source: Side,
    pub(super) target: Side,
    pub(super) kind: &'static str,
    pub(super) rules: Vec<Json>,
    pub(super) settings: Json,
    pub(super) start_at: Json,
    pub(super) stop_when: Json,
    pub(super) source_options: Json,
    pub(super) target_options: Json,
}

impl Task {
    /// A task along a pair; `sql` makes its source.
    pub(super) fn new(pair: Pair, sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| Side::Sqlite(folder.path().join(name));
        let (source, target) = match pair {
            Pair::Postgres => (Side::on(logical()), Side::on(logical())),
            Pair::Sqlite => (file("source.db"), file("target.db")),
            Pair::PostgresToSqlite => (Side::on(logical()), file("target.db")),
        };
        Self::between(folder, source, target, sql)
    }

    /// A task between two databases.
    pub(super) fn between(folder: TempDir, source: Side, target: Side, sql: &str) -> Self {
        source.execute(sql);
        let settings = json!({
            "Engine": {"SpillFolder": folder.path().join("spill"), "NewTablesInterval": 0},
            "ErrorBehavior": {"RecoverableErrorInterval": 0, "RecoverableErrorCount": 2},
        });
        Self {
            folder,
            name: "follow".to_owned(),
            source,
            target,
            kind: "full-load-and-cdc",
            rules: vec![selection("include", "%")],
            settings,
            start_at: Json::Null,
            stop_when: Json::Null,
            source_options: json!({}),
            target_options: json!({}),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same task with a setting.
    pub(super) fn set(&mut self, group: &str, key: &str, value: impl Into<Json>) {
        self.settings[group][key] = value.into();
    }

    /// The task's file, written anew.
    pub(super) fn write(&self) -> String {
        self.write_stopping(&self.stop_when)
    }

    fn write_stopping(&self, stop_when: &Json) -> String {
        let endpoint = |url: String, options: &Json| {
            let mut endpoint = json!({"url": url});
            for (name, value) in options.as_object().unwrap() {
                endpoint[name] = value.clone();
            }
            endpoint
        };
        let mut task = json!({
            "name": self.name,
            "source": endpoint(self.source.url(), &self.source_options),
            "target": endpoint(self.target.url(), &self.target_options),
            "migration-type": self.kind,
            "table-mappings": {"rules": self.numbered_rules()},
            "settings": self.settings,
        });
        for (name, value) in [("start-at", &self.start_at), ("stop-when", stop_when)] {
            if !value.is_null() {
                task[name] = value.clone();
            }
        }
        let path = self.path("task.json");
        std::fs::write(&path, task.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `migrate run`, which ends as the task says.
    pub(super) fn command(&self) -> Command {
        migrate(&["run", "--json", "--quiet", &self.write()])
    }

    /// A run that ends when everything is applied; whatever its exit code.
    pub(super) fn catch_up(&self) -> Ended {
        let task = self.write_stopping(&json!("caught-up"));
        end(migrate(&["run", "--json", "--quiet", &task]))
    }

    /// Another command of `migrate` on the task.
    pub(super) fn call(&self, arguments: &[&str]) -> Ended {
        let task = self.write();
        let mut all = vec![arguments[0], task.as_str()];
        all.extend(&arguments[1..]);
        end(migrate(&all))
    }

    /// Starts a run that ends when it is asked to.
    pub(super) fn start(&self) -> Run {
        Run(Some(start(self.command())))
    }

    /// What `migrate status --json` says.
    pub(super) fn status(&self) -> Json {
        self.call(&["status", "--json"]).with_code(0).json()
    }

    /// A target into which a task of the same rules loads what the source holds now.
    pub(super) fn loaded_now(&self) -> Side {
        let target = match &self.target {
            Side::Postgres(_) => Side::on(logical()),
            Side::Sqlite(_) => {
                let file = self.path("loaded.db");
                let _ = std::fs::remove_file(&file);
                Side::Sqlite(file)
            }
        };
        let task = json!({
            "name": "load", "source": {"url": self.source.url()}, "target": {"url": target.url()},
            "migration-type": "full-load", "table-mappings": {"rules": self.numbered_rules()},
            "settings": self.settings,
        });
        let path = self.path("load.json");
        std::fs::write(&path, task.to_string()).unwrap();
        end(migrate(&["run", path.to_str().unwrap()])).with_code(0);
        target
    }

    fn numbered_rules(&self) -> Vec<Json> {
        let rules = self.rules.iter().enumerate().map(|(at, rule)| {
            let mut rule = rule.clone();
            (rule["rule-id"], rule["rule-name"]) = (json!(at.to_string()), json!(at.to_string()));
            rule
        });
        rules.collect()
    }

    /// Whether a table is the same on both sides, its columns included.
    #[track_caller]
    pub(super) fn assert_same(&self, table: &str) {
        assert_eq!(self.source.rows(table), self.target.rows(table), "{table}");
    }
}

/// A run that was started; it is ended with the test.
pub(super) struct Run(Option<Child>);

impl Run {
    pub(super) fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    /// Waits until something holds, which has to happen while the run goes on.
    #[track_caller]
    pub(super) fn until(&mut self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            if self.child().try_wait().unwrap().is_some() {
                let ended = self.wait();
                // It may have held at the last moment.
                assert!(holds(), "the run ended before {what}: {ended:?}");
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "waited for {what} in vain");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the run to end, and waits for that.
    #[track_caller]
    pub(super) fn stop(mut self) -> Ended {
        crate::harness::signal(self.child(), "INT");
        let began = Instant::now();
        let ended = self.wait();
        assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
        ended
    }

    pub(super) fn kill(mut self) {
        self.child().kill().unwrap();
        self.wait();
    }

    /// Waits for its end, which has to come.
    #[track_caller]
    pub(super) fn wait(&mut self) -> Ended {
        let began = Instant::now();
        // Its report is shorter than a pipe holds.
        while self.child().try_wait().unwrap().is_none() {
            if began.elapsed() > Duration::from_secs(90) {
                self.child().kill().unwrap();
                panic!("the run does not end: {:?}", wait(self.0.take().unwrap()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        wait(self.0.take().unwrap())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A selection rule for tables of any schema.
pub(super) fn selection(action: &str, table: &str) -> Json {
    json!({
        "rule-type": "selection", "rule-action": action,
        "object-locator": {"schema-name": "%", "table-name": table},
    })
}

/// What a message has to say.
#[track_caller]
pub(super) fn says(text: &str, needles: &[&str]) {
    for needle in needles {
        assert!(text.contains(needle), "no {needle:?} in: {text}");
    }
}
