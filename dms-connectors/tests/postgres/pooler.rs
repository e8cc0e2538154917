//! A connection pooler between: it is refused, for what it does to sessions would change values.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use dms_connectors::postgres::PostgresSource;
use dms_core::ErrorKind;

use crate::server::{self, Server};
use crate::{assert_moves, settings, target};

/// A running PgBouncer; it ends when this process does.
struct Pooler {
    port: u16,
    _folder: tempfile::TempDir,
    _watched: Child,
}

impl Pooler {
    fn start(server: &Server, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=dms\n[pgbouncer]\nauth_type = any\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n{more}\n",
            server.port
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("/bin/sh");
        // It refuses to run as root, as the server does.
        if let Some((uid, gid)) = server::unprivileged() {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
            command.uid(uid).gid(gid);
        }
        let program = Path::new("/usr/sbin/pgbouncer");
        assert!(program.exists(), "run ./scripts/test, or install the package pgbouncer");
        command.args(["-c", r#""$0" -q "$1" & pooler=$!; read -r _; kill -INT $pooler"#]);
        command.arg(program).arg(&file).stdin(Stdio::piped()).stderr(Stdio::null());
        let watched = command.spawn().unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self { port, _folder: folder, _watched: watched }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_is_refused_with_a_word_on_what_to_do() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let sql = "CREATE TABLE t (id int); INSERT INTO t VALUES (1)";
    server::connect(&from).await.batch_execute(sql).await.unwrap();
    for more in [
        "pool_mode = transaction",
        "pool_mode = transaction\nignore_startup_parameters = options, extra_float_digits",
        "pool_mode = session\nignore_startup_parameters = options, extra_float_digits",
    ] {
        let pooler = Pooler::start(server, more);
        let by_pooler = |url: &str| url.replace(&server.port.to_string(), &pooler.port.to_string());
        let as_source = PostgresSource::open(settings(&by_pooler(&from))).await.unwrap_err();
        let as_target = target(&by_pooler(&to)).check().await.unwrap_err();
        for error in [as_source, as_target] {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{more}: {error}");
            assert!(!error.is_transient(), "{error}");
            let error = error.to_string();
            let address = format!("127.0.0.1:{}", pooler.port);
            for says in [&address, "connect to the PostgreSQL server itself", "PgBouncer"] {
                assert!(error.contains(says), "{more}: {error}");
            }
        }
    }
    assert_moves(&from, &to, "t").await;
}
