//! Connections: TLS in each of libpq's modes, client certificates, passwords, sockets.

use std::path::{Path, PathBuf};

use dms_connectors::postgres::{PostgresSettings, PostgresSource};
use dms_core::endpoint::ChangeSource;
use dms_core::{Error, ErrorKind};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::server::{self, Server};
use crate::{completed, load, source, target, text_of};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a host or a user, and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Files of a test, in a folder that ends with it.
struct Files(tempfile::TempDir);

impl Files {
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// A server with a certificate for `localhost`, which answers over TLS alone: anyone but `certified`,
/// who has to have a certificate, and `secret`, who has a password.
fn encrypted(files: &Files, (certificate, key): (String, String), root: &str) -> Server {
    let folder = tempfile::tempdir().unwrap().keep();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        server::give(&path);
        path
    };
    let setting = |name: &str, path: &Path| format!("{name}={}", path.display());
    let settings = [
        "wal_level=logical".to_owned(),
        "ssl=on".to_owned(),
        setting("ssl_cert_file", &write("server.crt", &certificate)),
        setting("ssl_key_file", &write("server.key", &key)),
        setting("ssl_ca_file", &write("root.crt", root)),
        setting(
            "hba_file",
            &write(
                "hba",
                "hostssl all certified all cert\nhostssl all secret all scram-sha-256\n\
                 hostssl all old all md5\nhostssl all plain all password\nhostssl all all all trust\nlocal all all trust\n",
            ),
        ),
    ];
    server::give(&folder);
    files.write("root.crt", root);
    Server::start(&settings.iter().map(String::as_str).collect::<Vec<_>>())
}

async fn open(url: &str) -> Result<(), Error> {
    PostgresSource::open(PostgresSettings::new(url)?).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_demands_what_it_says() {
    let authority = Authority::new();
    let files = Files(tempfile::tempdir().unwrap());
    let server = encrypted(&files, authority.sign("localhost"), &authority.pem);
    let root = files.0.path().join("root.crt");
    let other = files.write("other.crt", &Authority::new().pem);
    let url = |host: &str, mode: &str, root: Option<&Path>| {
        let root = root.map_or(String::new(), |root| format!("&sslrootcert={}", root.display()));
        format!("postgres://dms@{host}:{}/postgres?sslmode={mode}{root}", server.port)
    };
    for (host, mode, root) in [
        ("127.0.0.1", "prefer", None),
        ("127.0.0.1", "require", None),
        ("127.0.0.1", "verify-ca", Some(&root)),
        ("localhost", "verify-full", Some(&root)),
    ] {
        let opened = open(&url(host, mode, root.map(PathBuf::as_path))).await;
        assert!(opened.is_ok(), "{host} {mode}: {opened:?}");
    }
    for (host, mode, root) in [
        ("127.0.0.1", "verify-full", Some(&root)),
        ("localhost", "verify-full", Some(&other)),
        ("127.0.0.1", "verify-ca", Some(&other)),
        ("127.0.0.1", "require", Some(&other)),
    ] {
        let error = open(&url(host, mode, root.map(PathBuf::as_path))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{host} {mode}: {error}");
        assert!(error.to_string().contains("TLS failed"), "{host} {mode}: {error}");
        assert!(!error.is_transient(), "{error}");
    }
    let error = open(&url("127.0.0.1", "disable", None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_signed_its_own_certificate_is_trusted_by_name() {
    let files = Files(tempfile::tempdir().unwrap());
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = params.self_signed(&key).unwrap().pem();
    let server = encrypted(&files, (own.clone(), key.serialize_pem()), &own);
    let root = files.0.path().join("root.crt");
    let url = |host: &str| {
        let (port, root) = (server.port, root.display());
        format!("postgres://dms@{host}:{port}/postgres?sslmode=verify-full&sslrootcert={root}")
    };
    open(&url("localhost")).await.unwrap();
    let error = open(&url("127.0.0.1")).await.unwrap_err().to_string();
    assert!(error.contains("TLS failed"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_certificates_and_passwords() {
    let authority = Authority::new();
    let files = Files(tempfile::tempdir().unwrap());
    let server = encrypted(&files, authority.sign("localhost"), &authority.pem);
    let socket = format!("postgres:///postgres?host={}&user=dms", server.folder.display());
    // The port is that of the socket's name.
    let socket = format!("{socket}&port={}", server.port);
    let client = server::connect(&socket).await;
    client
        .batch_execute("CREATE ROLE certified LOGIN; CREATE ROLE secret LOGIN PASSWORD 's3:cr\\et'")
        .await
        .unwrap();
    open(&socket).await.unwrap();
    let (certificate, key) = authority.sign("certified");
    let (certificate, key) = (files.write("me.crt", &certificate), files.write("me.key", &key));
    let certified = format!("postgres://certified@localhost:{}/postgres", server.port);
    let shown = format!("?sslcert={}&sslkey={}", certificate.display(), key.display());
    open(&format!("{certified}{shown}")).await.unwrap();
    let error = open(&certified).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let swapped = format!("?sslcert={}&sslkey={}", key.display(), certificate.display());
    let error = open(&format!("{certified}{swapped}")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings, "{error}");

    let secret = |password: &str| {
        let port = server.port;
        format!("postgres://secret:{password}@localhost:{port}/postgres?channel_binding=require")
    };
    open(&secret("s3:cr%5Cet")).await.unwrap();
    let error = open(&secret("wr0ng")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!format!("{error:?}").contains("wr0ng"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_goes_over_tls_and_over_a_socket() {
    let authority = Authority::new();
    let files = Files(tempfile::tempdir().unwrap());
    let server = encrypted(&files, authority.sign("localhost"), &authority.pem);
    let place = format!("host={}&user=dms&port={}", server.folder.display(), server.port);
    let client = server::connect(&format!("postgres:///postgres?{place}")).await;
    for name in ["one", "two"] {
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    }
    let socket = |name: &str| format!("postgres:///{name}?{place}");
    server::connect(&socket("one"))
        .await
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT n, repeat('é', n % 300) FROM generate_series(1, 20000) n",
        )
        .await
        .unwrap();
    let over_tls = format!("postgres://dms@localhost:{}/one?sslmode=require", server.port);
    let report = load(source(&over_tls).await, target(&socket("two"))).await.unwrap();
    assert!(completed(&report), "{report}");
    assert_eq!(text_of(&socket("two"), "t").await, text_of(&socket("one"), "t").await);
}

/// Replication connections are no other client's than those of a load, but made in another way.
#[tokio::test(flavor = "multi_thread")]
async fn changes_are_read_over_every_way() {
    let authority = Authority::new();
    let files = Files(tempfile::tempdir().unwrap());
    let server = encrypted(&files, authority.sign("localhost"), &authority.pem);
    let root = files.0.path().join("root.crt");
    let socket = format!(
        "postgres:///postgres?host={}&user=dms&port={}",
        server.folder.display(),
        server.port
    );
    let client = server::connect(&socket).await;
    client
        .batch_execute(
            "CREATE ROLE certified LOGIN REPLICATION;
             CREATE ROLE secret LOGIN REPLICATION PASSWORD 's3:cr\\et';
             CREATE ROLE plain LOGIN REPLICATION PASSWORD 's3cret';
             SET password_encryption = md5; CREATE ROLE old LOGIN REPLICATION PASSWORD 's3cret'",
        )
        .await
        .unwrap();
    let (certificate, key) = authority.sign("certified");
    let (certificate, key) = (files.write("me.crt", &certificate), files.write("me.key", &key));
    let (at, root) = (format!("{}/postgres", server.port), root.display());
    let take = async |url: &str| -> Result<(), Error> {
        let source = PostgresSource::open(PostgresSettings::new(url)?).await?;
        source.log_snapshot("test", &[], 1).await.map(|_| ())
    };
    for url in [
        socket,
        format!("postgres://dms@127.0.0.1:{at}?sslmode=prefer"),
        format!("postgres://dms@127.0.0.1:{at}?sslmode=require"),
        format!("postgres://dms@localhost:{at}?sslmode=require&sslrootcert={root}"),
        format!("postgres://dms@localhost:{at}?sslmode=verify-ca&sslrootcert={root}"),
        format!("postgres://dms@127.0.0.1:{at}?sslmode=verify-ca&sslrootcert={root}"),
        format!("postgres://dms@localhost:{at}?sslmode=verify-full&sslrootcert={root}"),
        format!(
            "postgres://dms@localhost:{at}?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={root}"
        ),
        format!(
            "postgres://certified@localhost:{at}?sslcert={}&sslkey={}",
            certificate.display(),
            key.display()
        ),
        format!("postgres://secret:s3:cr%5Cet@localhost:{at}"),
        format!("postgres://old:s3cret@localhost:{at}"),
        format!("postgres://plain:s3cret@localhost:{at}"),
    ] {
        let taken = take(&url).await;
        assert!(taken.is_ok(), "{url}: {taken:?}");
    }
    for (url, says) in [
        (format!("postgres://secret:s3:cr%5Cet@localhost:{at}?channel_binding=require"), "channel"),
        (format!("postgres://dms@127.0.0.1,localhost:{at}"), "several"),
        (format!("postgres://secret:wrong@localhost:{at}"), "28P01"),
        (format!("postgres://old:wrong@localhost:{at}"), "28P01"),
        (format!("postgres://plain:wrong@localhost:{at}"), "28P01"),
        (format!("postgres://secret@localhost:{at}"), "password"),
        (
            format!("postgres://dms@127.0.0.1:{at}?sslmode=verify-full&sslrootcert={root}"),
            "not valid for name",
        ),
    ] {
        let error = take(&url).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(!format!("{error:?}").contains("s3:cr"), "{error:?}");
    }
}
