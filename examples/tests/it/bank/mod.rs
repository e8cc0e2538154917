//! Money moves between the tables of a bank while the replication of the bank is killed, cut off
//! and restarted at every place: at any moment the target holds a state that the source has had,
//! and in the end the same rows, none lost and none doubled.

mod tables;
mod task;
mod writers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::crash::fault_points;
use crate::kill::Random;
use crate::server::Server;
use crate::session::Session;
use tables::{MARKER, Observed};
use task::Task;
use writers::Writers;

/// Money on its way from one database to another.
struct Bank {
    folder: TempDir,
    source: End,
    target: End,
    random: Random,
}

/// A source or target.
struct End {
    url: String,
    /// None for a file.
    server: Option<Server>,
}

impl End {
    fn postgres() -> Self {
        let server = Server::start(&["wal_level=logical"]);
        Self { url: server.url("postgres"), server: Some(server) }
    }

    fn sqlite(folder: &TempDir, name: &str) -> Self {
        let url = format!("sqlite://{}", folder.path().join(name).display());
        Self { url, server: None }
    }

    /// A connection, as soon as there is a server again.
    fn session(&self) -> Session {
        session(&self.url)
    }

    /// Cuts every connection but the one that does it; of the task's at the least.
    fn cut(&self) {
        if self.server.is_some() {
            self.session().must(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE pid <> pg_backend_pid() AND datname IS NOT NULL",
            );
        }
    }
}

fn session(url: &str) -> Session {
    let began = Instant::now();
    loop {
        match Session::open(url) {
            Ok(session) => return session,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(30), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Looks at the target again and again.
struct Observer {
    stop: Arc<AtomicBool>,
    observed: Arc<AtomicU32>,
    thread: JoinHandle<()>,
}

impl Observer {
    fn start(url: &str) -> Self {
        let (stop, observed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (url, stopped, count) = (url.to_owned(), Arc::clone(&stop), Arc::clone(&observed));
        let thread = std::thread::spawn(move || {
            let (mut open, mut held) = (session(&url), 0);
            while !stopped.load(Ordering::Relaxed) {
                match Observed::read(&mut open) {
                    Ok(seen) if seen.is_marked => {
                        seen.assert_whole();
                        assert!(seen.transactions >= held, "the target went back: {seen:?}");
                        held = seen.transactions;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    // The load is not complete.
                    Ok(_) => {}
                    // The server is away, or the connection was cut.
                    Err(_) => open = session(&url),
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, observed, thread }
    }

    /// Panics if the observer saw what must not be; returns how often it looked.
    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
        self.observed.load(Ordering::Relaxed)
    }
}

impl Bank {
    fn new(source_is_server: bool, target_is_server: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let end = |is_server, name| match is_server {
            true => End::postgres(),
            false => End::sqlite(&folder, name),
        };
        let (source, target) =
            (end(source_is_server, "source.db"), end(target_is_server, "target.db"));
        tables::make_source(&mut source.session());
        let schema = if target_is_server { "public" } else { "main" };
        tables::make_target(&mut target.session(), schema);
        Self { folder, source, target, random: Random::new() }
    }

    fn task(&self, durability: &str) -> Task {
        let mut target = json!({"url": self.target.url});
        if self.target.server.is_some() {
            target["existing-indexes"] = json!("rebuild");
        }
        Task::new(self.folder.path(), &self.source.url, target, durability)
    }

    /// The fault points that a run along this lane may pass: of the load, and of the changes.
    fn points(&self, durability: &str) -> (Vec<String>, Vec<String>) {
        let end = |end: &End| if end.server.is_some() { "postgres" } else { "sqlite" };
        let target = end(&self.target);
        let all = fault_points(&["dms-core", "dms-cdc", "dms-connectors"]);
        let (mut load, mut changes) = (Vec::new(), Vec::new());
        for point in all {
            let starts = |with: &str| point.starts_with(with);
            if starts("full-load-") || starts(&format!("{target}-target-")) {
                load.push(point);
            } else if starts("cdc-") || starts(&format!("{target}-apply-")) {
                changes.push(point);
            } else if starts("buffer-") {
                if durability == "DISK" {
                    changes.push(point);
                }
            } else {
                let known = ["postgres-", "sqlite-"].iter().any(|of| starts(of));
                assert!(known, "fault point {point} belongs to no lane; add it to one");
            }
        }
        (load, changes)
    }

    /// Dies at every point of a load, which is begun again if it gets through.
    fn die_while_loading(&mut self, task: &mut Task, points: &[String]) {
        for point in points {
            if task.is_loaded() {
                task.reload();
            }
            task.die_at(point, 1, true);
            if self.random.below(3) == 0 {
                let passage = 2 + self.random.below(5);
                if task.is_loaded() {
                    task.reload();
                }
                task.die_at(point, passage, false);
            }
        }
    }

    fn die_while_following(&mut self, task: &mut Task, points: &[String]) {
        for point in points {
            // Cached changes are cut back only if a crash left a part of a transaction.
            task.die_at(point, 1, point != "buffer-recover");
            if self.random.below(3) == 0 {
                let passage = 2 + self.random.below(8);
                task.die_at(point, passage, false);
            }
        }
    }

    /// Kills at random moments.
    fn kill(&mut self, task: &mut Task, times: u64) {
        for _ in 0..times {
            let run = task.start(None);
            std::thread::sleep(Duration::from_millis(self.random.below(1200)));
            task.kill(run);
        }
    }

    /// Breaks what a run works with, which goes on.
    fn break_around(&mut self, task: &mut Task, times: u64) {
        let mut run = task.start(None);
        for _ in 0..times {
            std::thread::sleep(Duration::from_millis(300 + self.random.below(900)));
            match self.random.below(4) {
                0 => self.target.cut(),
                1 => self.source.cut(),
                2 => self.target.server.iter().for_each(Server::crash),
                _ => self.source.server.iter().for_each(Server::crash),
            }
            run.assert_runs();
        }
        task.kill(run);
    }

    fn prove(mut self, durability: &str, kills: u64) {
        let began = Instant::now();
        let mut task = self.task(durability);
        let (load, changes) = self.points(durability);
        let writers = Writers::start(&self.source.url, 4, &mut self.random);
        let observer = Observer::start(&self.target.url);

        self.die_while_loading(&mut task, &load);
        self.kill(&mut task, kills / 4);
        let mut run = task.start(None);
        run.wait_until("the load", || task.is_loaded());
        let marker = format!("INSERT INTO journal VALUES ({MARKER}, 0, 'loaded')");
        while self.source.session().run(&marker).is_err() {}
        task.kill(run);
        println!("loaded after {:?}, {} deaths", began.elapsed(), task.deaths);

        self.die_while_following(&mut task, &changes);
        self.kill(&mut task, kills - kills / 4);
        println!("died at every point after {:?}, {} deaths", began.elapsed(), task.deaths);
        let has_server = self.source.server.is_some() || self.target.server.is_some();
        if has_server {
            self.break_around(&mut task, 5);
        }
        // A last look while everything moves.
        let mut run = task.start(None);
        let (mut target, so_far) = (self.target.session(), writers.committed());
        run.wait_until("catching up", || {
            let held = target.run("SELECT count(*) FROM journal").unwrap_or_default();
            let held = held.into_iter().flatten().flatten().next().unwrap_or_default();
            held.parse::<u64>().is_ok_and(|held| held > so_far)
        });
        drop(run);

        let committed = writers.end();
        task.catch_up();
        let observed = observer.end();
        tables::assert_equal(&mut self.source.session(), &mut self.target.session());
        let last = Observed::read(&mut self.source.session()).unwrap();
        last.assert_whole();
        let took = began.elapsed();
        println!(
            "{committed} transactions, {} deaths, {observed} observations, {took:?}",
            task.deaths
        );
        assert!(task.deaths >= 15 && committed >= 200 && observed >= 20);
    }
}

#[test]
fn bank_postgres_to_postgres() {
    Bank::new(true, true).prove("DISK", 8);
}

#[test]
fn bank_postgres_to_sqlite() {
    Bank::new(true, false).prove("SOURCE", 8);
}

#[test]
fn bank_sqlite_to_postgres() {
    Bank::new(false, true).prove("SOURCE", 8);
}

#[test]
fn bank_sqlite_to_sqlite() {
    Bank::new(false, false).prove("DISK", 4);
}
