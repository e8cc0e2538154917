//! Connections that speak the replication protocol.

use std::path::PathBuf;

use dms_core::{Error, ErrorKind, Result};
use pgwire_replication::config::{ReplicationConfig, SslMode, TlsConfig};
use pgwire_replication::{PgWireError, ReplicationClient};
use tokio_postgres::config::{ChannelBinding, Host};

use super::database::Database;
use crate::postgres::connection::{SESSION, connect};
use crate::postgres::settings::PostgresSettings;
use crate::postgres::tls::Mode;

/// How our settings are said to the transport.
///
/// # Errors
/// `Settings` for what it cannot do.
pub(super) fn config(
    settings: &PostgresSettings,
    database: &Database,
) -> Result<ReplicationConfig> {
    let config = &settings.config;
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    if hosts.len() > 1 || addresses.len() > 1 {
        return Err(Error::settings(
            "changes are read from one server, and the url names several; name the primary",
        ));
    }
    if config.get_channel_binding() == ChannelBinding::Require {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "a replication connection cannot bind a password to its channel; leave \
             channel_binding=require away, and verify the server by sslmode=verify-full",
        ));
    }
    let name = match hosts.first() {
        Some(Host::Tcp(name)) => Some(name.clone()),
        Some(Host::Unix(folder)) => Some(folder.to_string_lossy().into_owned()),
        None => None,
    };
    let address = addresses.first().map(ToString::to_string);
    let host = address.or_else(|| name.clone()).unwrap_or_else(|| "localhost".to_owned());
    let password = config.get_password().map(std::str::from_utf8).transpose();
    let password = password.map_err(|_| {
        Error::settings("the password is not UTF-8, which a replication connection needs")
    })?;
    let mut replication = ReplicationConfig::new(
        host,
        config.get_user().unwrap_or(&database.user),
        password.unwrap_or_default(),
        database.name.clone(),
        "",
        "",
    )
    .with_port(config.get_ports().first().copied().unwrap_or(5432))
    .with_tls(tls(settings, name)?)
    .with_application_name(config.get_application_name().unwrap_or("dms"));
    if let Some(options) = config.get_options() {
        replication = replication.with_options(options);
    }
    Ok(replication)
}

fn tls(settings: &PostgresSettings, name: Option<String>) -> Result<TlsConfig> {
    let (mode, files) = (settings.tls_mode, &settings.tls_files);
    let root = files.or_default(files.root.as_ref(), "root.crt");
    let verifies = match mode {
        Mode::VerifyCa | Mode::VerifyFull => true,
        Mode::Require => root.is_some(),
        Mode::Disable | Mode::Prefer => false,
    };
    if verifies && root.as_deref().is_none_or(|root| root == "system") {
        return Err(Error::settings(
            "a replication connection does not know the authorities of the operating system; name \
             the file of the one that signed the server's certificate by sslrootcert",
        ));
    }
    let mode = match mode {
        Mode::Disable => SslMode::Disable,
        Mode::Prefer => SslMode::Prefer,
        Mode::VerifyFull => SslMode::VerifyFull,
        _ if verifies => SslMode::VerifyCa,
        _ => SslMode::Require,
    };
    if mode == SslMode::Disable {
        return Ok(TlsConfig::disabled());
    }
    Ok(TlsConfig {
        mode,
        ca_pem_path: root.filter(|_| verifies).map(PathBuf::from),
        sni_hostname: name,
        client_cert_pem_path: files
            .or_default(files.certificate.as_ref(), "postgresql.crt")
            .map(PathBuf::from),
        client_key_pem_path: files
            .or_default(files.key.as_ref(), "postgresql.key")
            .map(PathBuf::from),
    })
}

/// A replication connection that takes commands. Dropped while the server works on one, it ends
/// that too: a server does not see that its client is gone while it waits.
pub(super) struct Walsender {
    client: Option<ReplicationClient>,
    settings: PostgresSettings,
    /// Its process.
    pub(super) pid: i32,
    busy: bool,
}

impl Walsender {
    /// Opens a connection whose session has our settings.
    ///
    /// # Errors
    /// `Connection`, `Denied`.
    pub(super) async fn open(
        settings: &PostgresSettings,
        config: ReplicationConfig,
    ) -> Result<Self> {
        let doing = format!("{} cannot be opened for replication", settings.info());
        let failed = |error| convert(error, &doing);
        let opening = async {
            let mut client = ReplicationClient::connect_gated(config).await.map_err(failed)?;
            client.simple_query(SESSION).await.map_err(failed)?;
            let rows = client.simple_query("SELECT pg_catalog.pg_backend_pid()").await;
            let pid = text(&rows.map_err(failed)?, 0).and_then(|pid| pid.parse().ok());
            let pid =
                pid.ok_or_else(|| Error::unexpected("the server does not tell its process"))?;
            Ok(Self { client: Some(client), settings: settings.clone(), pid, busy: false })
        };
        let patience = settings.config.get_connect_timeout().copied();
        match tokio::time::timeout(patience.unwrap_or(std::time::Duration::MAX), opening).await {
            Ok(opened) => opened,
            Err(_) => {
                let message = format!("{doing}: the server does not answer");
                Err(Error::new(ErrorKind::Connection, message).transient())
            }
        }
    }

    /// Runs a command; returns the columns of its first row.
    ///
    /// # Errors
    /// What the server says; `doing` is the object and the act.
    pub(super) async fn command(&mut self, sql: &str, doing: &str) -> Result<Vec<String>> {
        let Some(client) = &mut self.client else { return Ok(Vec::new()) };
        self.busy = true;
        let rows = client.simple_query(sql).await;
        self.busy = false;
        let rows = rows.map_err(|error| convert(error, doing))?;
        let count = rows.first().map_or(0, Vec::len);
        Ok((0..count).map(|column| text(&rows, column).unwrap_or_default()).collect())
    }

    /// Begins to stream the log.
    ///
    /// # Errors
    /// What the server says.
    pub(super) async fn start(mut self) -> Result<ReplicationClient> {
        const DOING: &str = "changes cannot be streamed";
        let failed = |error| convert(error, DOING);
        let Some(mut client) = self.client.take() else {
            return Err(Error::unexpected(DOING));
        };
        client.start().await.map_err(failed)?;
        client.wait_started().await.map_err(failed)?;
        Ok(client)
    }
}

/// A value of the first row.
fn text(rows: &[pgwire_replication::QueryRow], column: usize) -> Option<String> {
    let value = rows.first()?.get(column)?.as_ref()?;
    String::from_utf8(value.to_vec()).ok()
}

impl Drop for Walsender {
    fn drop(&mut self) {
        let Some(mut client) = self.client.take() else { return };
        if !self.busy {
            return;
        }
        client.abort();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (settings, pid) = (self.settings.clone(), self.pid);
        runtime.spawn(async move {
            let ended = async {
                let client = connect(&settings).await?;
                let sql = "SELECT pg_catalog.pg_terminate_backend(a.pid) \
                    FROM pg_catalog.pg_stat_activity a \
                    WHERE a.pid = $1 AND a.backend_type = 'walsender'";
                let done = client.execute(sql, &[&pid]).await;
                done.map_err(|error| crate::postgres::error::convert(error, "it cannot be ended"))
            };
            if let Err(error) = ended.await {
                tracing::warn!(%error, pid, "a replication connection may go on to wait");
            }
        });
    }
}

const TLS: &str = "; check sslmode, sslrootcert, sslcert and sslkey (a replication connection checks the \
    host's name under verify-ca too, and does not trust a certificate that signed itself)";

/// The transport's errors in our words.
pub(super) fn convert(error: PgWireError, doing: &str) -> Error {
    let (kind, remedy, transient) = match &error {
        PgWireError::Server(text) => match code(text) {
            "42501" => (ErrorKind::Denied, "; grant the role the right", false),
            "53300" => (
                ErrorKind::Connection,
                "; the server has no connection left for replication: raise max_wal_senders",
                true,
            ),
            // The walsender of a slot that was invalidated, or whose log is gone.
            "55000" | "58P01" => (
                ErrorKind::PositionLost,
                "; if the slot has lost changes, drop it and load the tables again",
                false,
            ),
            "42704" => (ErrorKind::PositionLost, "; changes since are lost: load again", false),
            code if code.starts_with("28") => {
                (ErrorKind::Denied, "; check user, password and pg_hba.conf", false)
            }
            code if ["08", "53", "55", "57"].iter().any(|class| code.starts_with(class)) => {
                (ErrorKind::Connection, "", true)
            }
            _ => (ErrorKind::Unexpected, "", false),
        },
        PgWireError::Auth(_) => (ErrorKind::Denied, "; check user and password", false),
        PgWireError::Tls(_) => (ErrorKind::Connection, TLS, false),
        PgWireError::MessageTooLarge { .. } => (ErrorKind::Data, "", false),
        _ => {
            (ErrorKind::Connection, "; the server cannot be reached or the connection broke", true)
        }
    };
    let converted = Error::new(kind, format!("{doing}: {error}{remedy}"));
    if transient { converted.transient() } else { converted }
}

/// The state of `message (SQLSTATE 55006)`.
fn code(text: &str) -> &str {
    let (_, code) = text.rsplit_once("SQLSTATE ").unwrap_or_default();
    code.get(..5).unwrap_or_default()
}
