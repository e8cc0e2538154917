//! Connections with a session that no default of the role can disturb.

use dms_core::{Error, ErrorKind, Result};
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{CancelToken, Client, Connection, NoTls, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{POOLER, convert};
use super::settings::{DIRECT, PostgresSettings};

/// Timeouts that a role may carry do not end a load; names are always written with their schema;
/// text forms do not depend on the server's settings.
pub(super) const SESSION: &str = "SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET search_path = ''; SET timezone = 'UTC'; \
    SET datestyle = 'ISO, YMD'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = 3; \
    SET bytea_output = 'hex'; SET xmloption = 'content'; SET quote_all_identifiers = off; \
    SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
        WHERE name IN ('idle_session_timeout', 'transaction_timeout')";

/// Opens a connection. It closes when the client is dropped, which ends its transaction.
pub(super) async fn connect(settings: &PostgresSettings) -> Result<Client> {
    let doing = format!("{} cannot be opened", settings.info());
    let failed = |error| convert(error, &doing);
    let client = match &settings.tls {
        None => {
            let (client, connection) = settings.config.connect(NoTls).await.map_err(failed)?;
            drive(connection);
            client
        }
        Some(tls) => {
            let connected = settings.config.connect(tls.clone()).await;
            let (client, connection) = connected.map_err(failed)?;
            drive(connection);
            client
        }
    };
    check_direct(&client, &doing).await?;
    client.batch_execute(SESSION).await.map_err(failed)?;
    Ok(client)
}

/// What ends the connection is told to whoever waits for an answer.
fn drive<S: TlsStream + Unpin + Send + 'static>(connection: Connection<Socket, S>) {
    tokio::spawn(async move {
        let _ = connection.await;
    });
}

/// Ends the statement that a connection is in when it is dropped before [`done`](Self::done): a
/// server does not see that its client is gone while it builds an index or waits for a lock.
pub(super) struct CancelOnDrop {
    token: Option<CancelToken>,
    tls: Option<MakeRustlsConnect>,
}

impl CancelOnDrop {
    pub(super) fn new(client: &Client, settings: &PostgresSettings) -> Self {
        Self { token: Some(client.cancel_token()), tls: settings.tls.clone() }
    }

    pub(super) fn done(mut self) {
        self.token = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let (Some(token), Ok(runtime)) = (self.token.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let tls = self.tls.take();
        runtime.spawn(async move {
            let cancelled = match tls {
                None => token.cancel_query(NoTls).await,
                Some(tls) => token.cancel_query(tls).await,
            };
            if let Err(error) = cancelled {
                tracing::warn!(%error, "a statement on the server could not be cancelled");
            }
        });
    }
}

/// Refuses a pooler that dropped the session's options. It would give the session's settings to one
/// connection and its statements to another, and values would be read in a form that loses digits.
async fn check_direct(client: &Client, doing: &str) -> Result<()> {
    let shown = client.simple_query("SHOW lock_timeout").await;
    let is_direct = shown.map_err(|error| convert(error, doing))?.iter().any(|message| {
        let SimpleQueryMessage::Row(row) = message else { return false };
        row.get(0).is_some_and(|shown| shown.trim_end_matches("ms") == DIRECT)
    });
    if is_direct {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, format!("{doing}: startup options are lost{POOLER}")))
}

/// The server's version, as 150004 for 15.4.
pub(super) async fn version(client: &Client) -> Result<u32> {
    let row = client.query_one("SELECT current_setting('server_version_num')", &[]).await;
    let row = row.map_err(|error| convert(error, "the server's version cannot be read"))?;
    Ok(row.get::<_, String>(0).parse().unwrap_or(0))
}
