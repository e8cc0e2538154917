//! Connections with a session that no default of the role can disturb.

use dms_core::Result;
use tokio_postgres::{Client, NoTls};

use super::error::convert;
use super::settings::PostgresSettings;

/// Timeouts that a role may carry do not end a load; names are always written with their schema;
/// text forms do not depend on the server's settings.
const SESSION: &str = "SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET search_path = ''; SET timezone = 'UTC'; \
    SET datestyle = 'ISO, YMD'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = 3; \
    SET bytea_output = 'hex'; SET xmloption = 'content'; SET quote_all_identifiers = off";

/// Opens a connection. It closes when the client is dropped, which ends its transaction.
pub(super) async fn connect(settings: &PostgresSettings) -> Result<Client> {
    let doing = format!("{} cannot be opened", settings.info());
    let connected = settings.config.connect(NoTls).await;
    let (client, connection) = connected.map_err(|error| convert(error, &doing))?;
    // What ends the connection is told to whoever waits for an answer.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client.batch_execute(SESSION).await.map_err(|error| convert(error, &doing))?;
    Ok(client)
}

/// The server's version, as 150004 for 15.4.
pub(super) async fn version(client: &Client) -> Result<u32> {
    let row = client.query_one("SELECT current_setting('server_version_num')", &[]).await;
    let row = row.map_err(|error| convert(error, "the server's version cannot be read"))?;
    Ok(row.get::<_, String>(0).parse().unwrap_or(0))
}
