//! Any history of a source comes to the same rows in the target: random changes of tables of every
//! kind while the replication runs, dies and goes on.

mod changes;
mod large;
mod shapes;

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::harness::{end, migrate, signal};
use crate::kill::Random;
use crate::server::Server;
use crate::session::{Rows, Session};
use shapes::Shapes;

/// A source, and a task that follows it.
struct Followed {
    folder: TempDir,
    _server: Server,
    source: String,
    target: String,
    settings: Json,
}

impl Followed {
    fn new(target_is_server: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&["wal_level=logical"]);
        let source = server.url("postgres");
        let target = if target_is_server {
            Session::open(&source).unwrap().must("CREATE DATABASE target");
            server.url("target")
        } else {
            format!("sqlite://{}", folder.path().join("target.db").display())
        };
        let settings = json!({
            "ChangeProcessingTuning": {"BatchApplyMemoryLimit": 1, "MemoryLimitTotal": 1},
            "ErrorBehavior": {"RecoverableErrorInterval": 1},
            "Engine": {"SpillFolder": folder.path().join("spill")},
        });
        Self { folder, _server: server, source, target, settings }
    }

    fn source(&self) -> Session {
        Session::open(&self.source).unwrap()
    }

    fn target(&self) -> Session {
        Session::open(&self.target).unwrap()
    }

    fn task(&self, stop_when: Option<&str>) -> String {
        let mut rules = vec![json!({
            "rule-type": "selection", "rule-id": 1, "rule-name": "1", "rule-action": "include",
            "object-locator": {"schema-name": "public", "table-name": "t_%"},
        })];
        if self.target.starts_with("sqlite") {
            rules.push(json!({
                "rule-type": "transformation", "rule-id": 2, "rule-name": "2",
                "rule-target": "schema", "rule-action": "rename", "value": "main",
                "object-locator": {"schema-name": "public"},
            }));
        }
        let mut task = json!({
            "name": "workload",
            "source": {"url": self.source},
            "target": {"url": self.target},
            "migration-type": "full-load-and-cdc",
            "table-mappings": {"rules": rules},
            "settings": self.settings,
        });
        if let Some(stop) = stop_when {
            task["stop-when"] = json!(stop);
        }
        let path = self.folder.path().join(stop_when.unwrap_or("task"));
        std::fs::write(&path, task.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn start(&self, stop_when: Option<&str>) -> Child {
        let mut command = migrate(&["run", "--quiet", &self.task(stop_when)]);
        command.stdout(Stdio::null()).stderr(File::create(self.log()).unwrap()).spawn().unwrap()
    }

    /// `kill -9` of a run that goes well.
    fn kill(&self, mut child: Child) {
        let ended = child.try_wait().unwrap();
        signal_and_wait(&mut child);
        assert!(ended.is_none(), "{}", std::fs::read_to_string(self.log()).unwrap());
    }

    fn catch_up(&self) {
        end(migrate(&["run", "--quiet", &self.task(Some("caught-up"))])).with_code(0);
    }

    /// Applies all that there is; returns how many tables have to be loaded again for it, since
    /// what became of their columns cannot be told from the log.
    fn catch_up_with_reloads(&self) -> usize {
        let task = self.task(Some("caught-up"));
        let mut ended = end(migrate(&["run", "--quiet", "--json", &task]));
        // A table that was emptied while it was loaded.
        if ended.stderr.contains("run the task again") {
            ended = end(migrate(&["run", "--quiet", "--json", &task]));
        }
        if ended.code == Some(0) {
            return 0;
        }
        let json = ended.json();
        let tables = json["tables"].as_array().into_iter().flatten();
        let suspended = tables.filter(|table| {
            let error = table["error"].as_str().unwrap_or_default();
            error.contains("load the table again") && error.contains("column")
        });
        let names = suspended.filter_map(|table| table["name"].as_str()).collect::<Vec<_>>();
        assert!(!names.is_empty(), "{ended:?}");
        let mut reload = vec!["reload", &task];
        reload.extend(names.iter().flat_map(|name| ["--table", name]));
        end(migrate(&reload)).with_code(0);
        self.catch_up();
        println!("loaded again: {}", ended.stderr);
        names.len()
    }

    #[track_caller]
    fn assert_equal(&self, tables: &[&str]) {
        let (mut source, mut target) = (self.source(), self.target());
        for table in tables {
            let (here, there) = (rows(&mut source, table), rows(&mut target, table));
            let notes = target.run(NOTES);
            assert_eq!(here.0, there.0, "columns of {table}: {notes:?}");
            let missing: Rows = minus(&here.1, &there.1);
            let extra: Rows = minus(&there.1, &here.1);
            assert!(
                missing.is_empty() && extra.is_empty(),
                "{table} ({:?}) of {} rows: missing {missing:.300?}, extra {extra:.300?}",
                here.0,
                here.1.len()
            );
        }
    }
}

/// What the target remembers of its tables.
const NOTES: &str = "SELECT table_name, suspended, shape FROM dms.dms_replicated";

fn signal_and_wait(child: &mut Child) {
    if child.try_wait().unwrap().is_none() {
        signal(child, "KILL");
    }
    child.wait().unwrap();
}

/// What stands in sorted rows `a` and not in `b`, each as often as it does; the first few, their
/// values cut short.
fn minus(a: &Rows, b: &Rows) -> Rows {
    let (mut found, mut at) = (Vec::new(), 0);
    for row in a {
        while b.get(at).is_some_and(|other| other < row) {
            at += 1;
        }
        if b.get(at) == Some(row) {
            at += 1;
        } else {
            let short = |value: &Option<String>| {
                value.as_ref().map(|text| text.chars().take(40).collect::<String>())
            };
            found.push(row.iter().map(short).collect());
        }
        if found.len() >= 4 {
            break;
        }
    }
    found
}

/// A table's columns and rows, both sorted, so that the order in which columns came is no matter.
fn rows(session: &mut Session, table: &str) -> (Vec<String>, Rows) {
    let columns = match session.is_postgres() {
        true => format!(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' \
             AND table_name = '{table}' ORDER BY column_name COLLATE \"C\""
        ),
        false => format!("SELECT name FROM pragma_table_info('{table}') ORDER BY name"),
    };
    let columns = session.must(&columns).into_iter().flatten().flatten();
    let columns: Vec<String> = columns.collect();
    let mut rows = session.must(&format!("SELECT {} FROM {table}", columns.join(", ")));
    rows.sort_unstable();
    (columns, rows)
}

/// How a history is written.
struct History {
    random: Random,
    shapes: Shapes,
    statements: u64,
    refused: u64,
}

impl History {
    /// One transaction of a few statements, some of them taken back.
    fn transaction(&mut self, source: &mut Session) {
        source.must("BEGIN");
        let count = 1 + self.random.below(6);
        let back_to = self.random.below(12);
        for number in 0..count {
            source.must(&format!("SAVEPOINT s{number}"));
            self.statements += 1;
            let sql = match self.random.below(30) {
                0 if self.shapes != Shapes::Kept => {
                    shapes::change(source, &mut self.random, self.shapes, self.statements)
                }
                _ => changes::change(&mut self.random),
            };
            if source.run(&sql).is_err() {
                self.refused += 1;
                source.must(&format!("ROLLBACK TO SAVEPOINT s{number}"));
            } else if self.random.below(10) == 0 {
                source.must(&format!("RELEASE SAVEPOINT s{number}; SAVEPOINT s{number}"));
            }
        }
        if back_to < count {
            source.must(&format!("ROLLBACK TO SAVEPOINT s{back_to}"));
        }
        let ends = if self.random.below(8) == 0 { "ROLLBACK" } else { "COMMIT" };
        source.must(ends);
    }
}

fn follow_any_history(target_is_server: bool, shapes: Shapes) {
    let followed = Followed::new(target_is_server);
    let mut source = followed.source();
    source.must(changes::MAKE);
    let (began, random) = (Instant::now(), Random::new());
    let mut history = History { random, shapes, statements: 0, refused: 0 };
    let mut reloads = 0;
    for round in 0..5 {
        let child = followed.start(None);
        let until = Instant::now() + Duration::from_millis(1500 + history.random.below(1500));
        while Instant::now() < until {
            history.transaction(&mut source);
        }
        followed.kill(child);
        // A target that is far behind, and one that is not.
        if round % 2 == 1 {
            reloads += followed.catch_up_with_reloads();
            followed.assert_equal(&changes::TABLES);
        }
    }
    reloads += followed.catch_up_with_reloads();
    followed.assert_equal(&changes::TABLES);
    let History { statements, refused, .. } = history;
    println!(
        "{statements} statements, {refused} refused, {reloads} reloads, {:?}",
        began.elapsed()
    );
    assert!(statements > 500 && refused < statements / 2);
    assert!(shapes == Shapes::Any || reloads == 0);
}

#[test]
fn workload_postgres_to_postgres() {
    follow_any_history(true, Shapes::Kept);
}

#[test]
fn workload_of_growing_tables_postgres_to_postgres() {
    follow_any_history(true, Shapes::Growing);
}

#[test]
fn workload_of_any_shape_postgres_to_postgres() {
    follow_any_history(true, Shapes::Any);
}

#[test]
fn workload_postgres_to_sqlite() {
    follow_any_history(false, Shapes::Kept);
}

#[test]
fn workload_of_growing_tables_postgres_to_sqlite() {
    follow_any_history(false, Shapes::Growing);
}

#[test]
fn workload_of_any_shape_postgres_to_sqlite() {
    follow_any_history(false, Shapes::Any);
}
