//! Servers that fail, fill up or have no room: an error says so, or the load tries again; the next
//! run completes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use dms_core::ErrorKind;
use dms_core::full_load::StartType;
use dms_core::task::Report;

use crate::meanwhile::{Moment, load_with, meanwhile, one_by_one};
use crate::server::Server;
use crate::{assert_moves, completed, load, server, source, target, text_of};

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, pad text);
    INSERT INTO t SELECT i, repeat('x', 400) FROM generate_series(1, 1500) i;
    CREATE TABLE keyless (id int, pad text);
    INSERT INTO keyless SELECT i % 7, repeat('y', 400) FROM generate_series(1, 1500) i";

async fn filled(server: &Server) -> String {
    let from = server.database().await;
    server::connect(&from).await.batch_execute(TABLES).await.unwrap();
    from
}

/// Moves the rest, and compares.
async fn assert_completes(from: &str, to: &str) {
    assert_moves(from, to, "t").await;
    assert_eq!(text_of(to, "keyless").await, text_of(from, "keyless").await);
}

/// Checks the error of each table that failed.
#[track_caller]
pub(crate) fn assert_says(report: &Report, kind: ErrorKind, says: &[&str]) {
    let failed: Vec<_> = report.tables.iter().filter_map(|table| table.error.as_ref()).collect();
    assert!(!failed.is_empty(), "{report}");
    for error in failed {
        assert_eq!(error.kind(), kind, "{error}");
        let error = error.to_string();
        assert!(error.contains("table public."), "{error}");
        assert!(says.iter().all(|says| error.contains(says)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_crashes_is_an_error_and_no_loss() {
    for moment in [Moment::Read(2), Moment::Batch(5), Moment::Batch(13)] {
        // ANALYZE would make another state of the source.
        let server = Arc::new(Server::start(&["autovacuum=off"]));
        let (from, to) = (filled(&server).await, server::shared().database().await);
        let crashing = Arc::clone(&server);
        let crashed = meanwhile(source(&from).await, moment, move || {
            let server = Arc::clone(&crashing);
            async move { tokio::task::spawn_blocking(move || server.crash()).await.unwrap() }
        });
        let report = load_with(one_by_one(), StartType::Resume, crashed, target(&to)).await;
        let says = ["snapshot", "run the task again"];
        assert_says(&report.unwrap(), ErrorKind::Connection, &says);
        let again = load(source(&from).await, target(&to)).await.unwrap();
        assert!(completed(&again), "{again}");
        let loaded: u64 = again.tables.iter().map(|table| table.rows_this_run).sum();
        assert!(0 < loaded && loaded < 3000, "what was there is loaded again: {again}");
        assert_completes(&from, &to).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_crashes_is_tried_again() {
    for moment in [Moment::Read(2), Moment::Batch(5), Moment::Batch(13)] {
        for retries in [0, 5] {
            let server = Arc::new(Server::start(&[]));
            let (from, to) = (filled(server::shared()).await, server.database().await);
            let crashing = Arc::clone(&server);
            let crashing = meanwhile(source(&from).await, moment, move || {
                let server = Arc::clone(&crashing);
                async move { tokio::task::spawn_blocking(move || server.crash()).await.unwrap() }
            });
            let mut settings = one_by_one();
            settings.retries = retries;
            let report = load_with(settings, StartType::Resume, crashing, target(&to)).await;
            let report = report.unwrap();
            // Between two partitions nothing is connected to it.
            if retries == 0 && moment != Moment::Read(2) {
                assert_says(&report, ErrorKind::Connection, &["connection broke"]);
            } else {
                assert!(completed(&report), "{report}");
            }
            assert_completes(&from, &to).await;
        }
    }
}

/// Two kinds of full: a small file system of the server's own where it may be mounted (as root), and
/// a limit on the size of its files everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_room() {
    let from = server::shared().database().await;
    let client = server::connect(&from).await;
    client
        .batch_execute(
            "CREATE TABLE t (id int, pad text);
             INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 40000) i;
             CREATE TABLE keyless (id int);
             INSERT INTO keyless VALUES (1), (1)",
        )
        .await
        .unwrap();
    // A limit on files, which are of 16 MiB where they are those of the log.
    let limit = "[ $starts = 1 ] && ulimit -S -f 40960 || ulimit -S -f unlimited";
    let limited = Server::start_with(limit, &[]);
    let to = limited.database().await;
    let report = load(source(&from).await, target(&to)).await.unwrap();
    assert_says(&report, ErrorKind::Unexpected, &["File too large", "disk space"]);
    limited.crash();
    assert_completes(&from, &to).await;

    let server = Server::start(&[]);
    if let Some(small) = SmallDisk::mount(&server.folder.join("small")) {
        let client = server::connect(&server.url("postgres")).await;
        let path = small.0.display();
        let space = format!("CREATE TABLESPACE small LOCATION '{path}'");
        client.batch_execute(&space).await.unwrap();
        client.batch_execute("CREATE DATABASE small TABLESPACE small").await.unwrap();
        let to = server.url("small");
        let report = load(source(&from).await, target(&to)).await.unwrap();
        let says = ["No space left on device", "disk is full", "make room"];
        assert_says(&report, ErrorKind::Unexpected, &says);
        assert!(SmallDisk::run(&["mount", "-o", "remount,size=200m", &path.to_string()]));
        assert_completes(&from, &to).await;
    }
}

/// A file system with room for an empty database; only root may mount it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Option<Self> {
        let (uid, gid) = server::unprivileged()?;
        std::fs::create_dir(path).unwrap();
        let options = format!("size=32m,mode=700,uid={uid},gid={gid}");
        let path = path.to_owned();
        let folder = path.to_str().unwrap();
        Self::run(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", folder]).then_some(Self(path))
    }

    fn run(command: &[&str]) -> bool {
        Command::new(command[0]).args(&command[1..]).status().is_ok_and(|ended| ended.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Self::run(&["umount", "--lazy", self.0.to_str().unwrap()]);
    }
}

/// Clients that take every connection that a server has left.
#[derive(Clone, Default)]
struct Guests(Arc<tokio::sync::Mutex<Vec<tokio_postgres::Client>>>);

impl Guests {
    async fn come(self, url: String) {
        let mut here = self.0.lock().await;
        while let Ok((client, connection)) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await
        {
            tokio::spawn(connection);
            here.push(client);
        }
    }

    async fn leave(self) {
        self.0.lock().await.clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_house_is_said_or_waited_for() {
    for is_source in [true, false] {
        let server = Server::start(&["max_connections=5", "superuser_reserved_connections=0"]);
        let (from, to) = match is_source {
            true => (filled(&server).await, server::shared().database().await),
            false => (filled(server::shared()).await, server.database().await),
        };
        let (guests, url) = (Guests::default(), server.url("postgres"));
        let (coming, at) = (guests.clone(), url.clone());
        let crowded = meanwhile(source(&from).await, Moment::Read(3), move || {
            coming.clone().come(at.clone())
        });
        let mut settings = one_by_one();
        settings.retries = 2;
        let report = load_with(settings.clone(), StartType::Resume, crowded, target(&to));
        let says = ["too many clients", "max_connections", "MaxFullLoadSubTasks"];
        assert_says(&report.await.unwrap(), ErrorKind::Connection, &says);
        guests.clone().leave().await;
        while others(&url).await != Some(0) {}
        // Its third read is the third try of the first partition.
        let (coming, at, leaving) = (guests.clone(), url.clone(), guests.clone());
        let crowded = meanwhile(source(&from).await, Moment::Read(0), move || {
            coming.clone().come(at.clone())
        });
        let crowded = meanwhile(crowded, Moment::Read(2), move || leaving.clone().leave());
        settings.retries = 20;
        let report = load_with(settings, StartType::Resume, crowded, target(&to)).await.unwrap();
        assert!(completed(&report), "{report}");
        assert!(report.tables.iter().any(|table| table.errors > 0), "{report}");
        for table in ["t", "keyless"] {
            assert_eq!(text_of(&to, table).await, text_of(&from, table).await);
        }
    }
}

/// How many other clients a server has; `None` if it takes no more.
async fn others(url: &str) -> Option<i64> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.ok()?;
    tokio::spawn(connection);
    let sql = "SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'";
    Some(client.query_one(sql, &[]).await.ok()?.get(0))
}
