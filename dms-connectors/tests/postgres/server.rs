//! A PostgreSQL server of the tests' own, in a temporary folder, on a free port of loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

/// A running server; it stops when this process ends, however it ends.
pub(crate) struct Server {
    pub(crate) port: u16,
    /// Its data, and its socket.
    #[allow(dead_code, reason = "one of the two test programs that share this file needs it")]
    pub(crate) folder: PathBuf,
    watched: Child,
    log: Mutex<Receiver<String>>,
}

/// The newest server that is installed.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .map(|version| version.path().join("bin"))
        .filter(|programs| programs.join("initdb").exists())
        .max_by_key(|programs| {
            let version = programs.parent().and_then(Path::file_name).unwrap_or_default();
            version.to_string_lossy().parse::<u32>().unwrap_or(0)
        });
    newest.expect("no PostgreSQL server: run ./scripts/test, or install the package postgresql")
}

/// The server refuses to run as root: then it runs as the user of its package, or nobody.
pub(crate) fn unprivileged() -> Option<(u32, u32)> {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| {
        use std::os::unix::fs::MetadataExt;
        process.uid() == 0
    });
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let postgres = users.lines().find_map(|user| {
        let fields: Vec<&str> = user.split(':').collect();
        (fields.first() == Some(&"postgres"))
            .then(|| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))?
    });
    is_root.then(|| postgres.unwrap_or((65534, 65534)))
}

/// Lets the server alone read a file or folder, which it insists on.
#[allow(dead_code, reason = "one of the two test programs that share this file needs it")]
pub(crate) fn give(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    if let Some((uid, gid)) = unprivileged() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

impl Server {
    /// Starts a server with more settings, `name=value` each.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::start_with("", settings)
    }

    /// Starts a standby of a server.
    #[allow(dead_code, reason = "one of the two test programs that share this file needs it")]
    pub(crate) fn standby_of(primary: &Self, settings: &[&str]) -> Self {
        let from = format!("--dbname=host=127.0.0.1 port={} user=dms", primary.port);
        let copy = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", &from, "--pgdata"];
        Self::start_from("", settings, "pg_basebackup", &copy)
    }

    /// Starts a server for which a shell runs a command each time, `$starts` being 1 at first.
    pub(crate) fn start_with(first: &str, settings: &[&str]) -> Self {
        let new = ["--username=dms", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"];
        let new = [&new[..], &["--pgdata"]].concat();
        Self::start_from(first, settings, "initdb", &new)
    }

    /// Starts a server whose data a program makes.
    fn start_from(first: &str, settings: &[&str], program: &str, arguments: &[&str]) -> Self {
        let (programs, user) = (programs(), unprivileged());
        let folder = tempfile::tempdir().unwrap().keep();
        let as_user = |program: &Path| {
            let mut command = Command::new(program);
            command.current_dir(&folder);
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let data = folder.join("data");
        let made = as_user(&programs.join(program)).args(arguments).arg(&data).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = as_user(Path::new("/bin/sh"));
        // The shell stops the server when its input ends, which it does with this process, and
        // removes its folder. A line lets the server crash and start again.
        let watch = format!(
            r#"starts=1; {first}
            "$@" & server=$!
            while read -r _; do
                kill -QUIT $server; wait $server; starts=2; {first}
                "$@" & server=$!
            done
            kill -INT $server; wait $server; rm -rf "$0""#
        );
        command
            .arg("-c")
            .arg(watch)
            .arg(&folder)
            .arg(programs.join("postgres"))
            .arg("-D")
            .arg(&data);
        let own = ["listen_addresses=127.0.0.1", "fsync=off", "max_connections=200"];
        let port_setting = format!("port={port}");
        let sockets = format!("unix_socket_directories={}", folder.display());
        for setting in own.iter().chain([&port_setting.as_str(), &sockets.as_str()]).chain(settings)
        {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut watched = command.spawn().unwrap();
        let log = watched.stderr.take().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // Reads to the end, so that the server never waits for its log to be read.
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let server = Self { port, folder, watched, log: Mutex::new(lines) };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&self) {
        let (began, lines) = (Instant::now(), self.log.lock().unwrap());
        let mut said = String::new();
        while !said.contains("ready to accept connections")
            && !said.contains("ready to accept read-only connections")
        {
            assert!(began.elapsed() < Duration::from_secs(60), "the server did not start: {said}");
            if let Ok(line) = lines.recv_timeout(Duration::from_millis(100)) {
                said.push_str(&line);
                said.push('\n');
            }
        }
    }

    /// Ends the server without a goodbye, as `pg_ctl stop -m immediate` does, and starts it again.
    pub(crate) fn crash(&self) {
        self.watched.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
        self.wait_until_ready();
    }

    /// A new database, by its URL.
    pub(crate) async fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let client = connect(&self.url("postgres")).await;
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        self.url(&name)
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://dms@127.0.0.1:{}/{database}", self.port)
    }
}

/// The server that tests share, each in a database of its own.
pub(crate) fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(&[]))
}

/// A client for the test itself.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
