//! Connections that speak the replication protocol, which the driver of ordinary connections does
//! not (<https://www.postgresql.org/docs/current/protocol-replication.html>).

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use dms_core::{Error, ErrorKind, Result};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ChannelBinding as Binding, ScramSha256};
use postgres_protocol::message::backend::{ErrorResponseBody, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation};
use tokio_postgres::fallible_iterator::FallibleIterator;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use super::database::Database;
use super::lsn::Lsn;
use super::names::Names;
use crate::postgres::connection::{SESSION, connect};
use crate::postgres::settings::PostgresSettings;
use crate::sql::quote;

/// What says that both sides begin to stream.
const COPY_BOTH: u8 = b'W';

/// A connection to a server.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(super) type Socket = Box<dyn Duplex>;

/// Refuses what a replication connection cannot do.
///
/// # Errors
/// `Settings`, `Unsupported`.
pub(super) fn check(settings: &PostgresSettings) -> Result<()> {
    let config = &settings.config;
    if config.get_hosts().len() > 1 || config.get_hostaddrs().len() > 1 {
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
    Ok(())
}

/// A replication connection that takes commands. Dropped while the server works on one, it ends
/// that too: a server does not see that its client is gone while it waits.
pub(super) struct Walsender {
    wire: Wire,
    settings: PostgresSettings,
    /// Its process.
    pub(super) pid: i32,
    busy: bool,
}

impl Walsender {
    /// Opens a connection whose session has our settings.
    ///
    /// # Errors
    /// `Connection`, `Denied`; those of [`check`].
    pub(super) async fn open(settings: &PostgresSettings, database: &Database) -> Result<Self> {
        check(settings)?;
        let doing = format!("{} cannot be opened for replication", settings.info());
        let opening = async {
            let mut wire = Wire::connect(settings, &doing).await?;
            let pid = wire.log_in(settings, database, &doing).await?;
            wire.query(SESSION, &doing).await?;
            Ok(Self { wire, settings: settings.clone(), pid, busy: false })
        };
        let patience = settings.config.get_connect_timeout().copied();
        match tokio::time::timeout(patience.unwrap_or(Duration::MAX), opening).await {
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
        self.busy = true;
        let row = self.wire.query(sql, doing).await;
        self.busy = false;
        row
    }

    /// Has the server stream changes from a place on; returns what speaks with it from then on, and
    /// what it has said already.
    ///
    /// # Errors
    /// What the server says.
    pub(super) async fn start(
        mut self,
        names: &Names,
        from: Lsn,
        binary: bool,
    ) -> Result<(Socket, BytesMut)> {
        const DOING: &str = "changes cannot be streamed";
        let publication = quote(&names.publication).replace('\'', "''");
        let sql = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names \
             '{publication}', messages 'true', binary '{binary}')",
            quote(&names.slot)
        );
        self.wire.send(|out| frontend::query(&sql, out), DOING).await?;
        loop {
            if self.wire.takes_copy_both(DOING).await? {
                let wire = std::mem::take(&mut self.wire);
                return wire.socket.map(|socket| (socket, wire.received)).ok_or_else(closed);
            }
            if let Message::ErrorResponse(said) = self.wire.next(DOING).await? {
                return Err(refused(&said, DOING));
            }
        }
    }
}

impl Drop for Walsender {
    fn drop(&mut self) {
        if !self.busy {
            return;
        }
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

/// Messages over a socket, one question after the other.
#[derive(Default)]
struct Wire {
    socket: Option<Socket>,
    /// What has come and is not taken.
    received: BytesMut,
}

impl Wire {
    async fn connect(settings: &PostgresSettings, doing: &str) -> Result<Self> {
        let broken = |error| broken(&error, doing);
        let config = &settings.config;
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let address = config.get_hostaddrs().first();
        let name = match config.get_hosts().first() {
            Some(Host::Unix(folder)) => {
                let path = folder.join(format!(".s.PGSQL.{port}"));
                let socket: Socket = Box::new(UnixStream::connect(path).await.map_err(broken)?);
                return Ok(Self { socket: Some(socket), ..Self::default() });
            }
            Some(Host::Tcp(name)) => name.clone(),
            None => address.map_or_else(|| "localhost".to_owned(), ToString::to_string),
        };
        let connected = match address {
            Some(address) => TcpStream::connect((*address, port)).await,
            None => TcpStream::connect((name.as_str(), port)).await,
        };
        let stream = connected.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        Ok(Self { socket: Some(secured(stream, settings, &name, doing).await?), ..Self::default() })
    }

    /// Becomes a replication connection to the database; returns the server's process.
    async fn log_in(
        &mut self,
        settings: &PostgresSettings,
        database: &Database,
        doing: &str,
    ) -> Result<i32> {
        let config = &settings.config;
        let user = config.get_user().unwrap_or(&database.user);
        let mut parameters = vec![
            ("user", user),
            ("database", &database.name),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", config.get_application_name().unwrap_or("dms")),
        ];
        parameters.extend(config.get_options().map(|options| ("options", options)));
        self.send(|out| frontend::startup_message(parameters, out), doing).await?;
        let password = || {
            config.get_password().ok_or_else(|| {
                let message = format!("{doing}: the server asks for a password; name one");
                Error::new(ErrorKind::Denied, message)
            })
        };
        let mut pid = 0;
        loop {
            match self.next(doing).await? {
                Message::AuthenticationOk => {}
                Message::AuthenticationCleartextPassword => {
                    let password = password()?;
                    self.send(|out| frontend::password_message(password, out), doing).await?;
                }
                Message::AuthenticationMd5Password(asked) => {
                    let hash = md5_hash(user.as_bytes(), password()?, asked.salt());
                    let hash = hash.as_bytes();
                    self.send(|out| frontend::password_message(hash, out), doing).await?;
                }
                Message::AuthenticationSasl(asked) => {
                    let mut mechanisms = asked.mechanisms();
                    if !mechanisms.any(|name| Ok(name == sasl::SCRAM_SHA_256)).unwrap_or(false) {
                        return Err(not_understood(doing));
                    }
                    self.scram(password()?, doing).await?;
                }
                Message::BackendKeyData(key) => pid = key.process_id(),
                Message::ReadyForQuery(_) => return Ok(pid),
                Message::ErrorResponse(said) => return Err(refused(&said, doing)),
                Message::ParameterStatus(_) | Message::NoticeResponse(_) => {}
                _ => return Err(not_understood(doing)),
            }
        }
    }

    /// <https://www.rfc-editor.org/rfc/rfc5802>
    async fn scram(&mut self, password: &[u8], doing: &str) -> Result<()> {
        let wrong = |error: io::Error| {
            let message = format!("{doing}: {error}; check user and password");
            Error::new(ErrorKind::Denied, message)
        };
        let mut scram = ScramSha256::new(password, Binding::unsupported());
        let first = |out: &mut BytesMut| {
            frontend::sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), out)
        };
        self.send(first, doing).await?;
        match self.next(doing).await? {
            Message::AuthenticationSaslContinue(body) => scram.update(body.data()),
            Message::ErrorResponse(said) => return Err(refused(&said, doing)),
            _ => return Err(not_understood(doing)),
        }
        .map_err(wrong)?;
        self.send(|out| frontend::sasl_response(scram.message(), out), doing).await?;
        match self.next(doing).await? {
            // A server that does not know the password either is not ours.
            Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(wrong),
            Message::ErrorResponse(said) => Err(refused(&said, doing)),
            _ => Err(not_understood(doing)),
        }
    }

    /// Runs statements; returns the columns of the first row.
    async fn query(&mut self, sql: &str, doing: &str) -> Result<Vec<String>> {
        self.send(|out| frontend::query(sql, out), doing).await?;
        let mut first = None;
        let mut failed = None;
        loop {
            let message = match self.next(doing).await {
                Err(broken) => return Err(failed.unwrap_or(broken)),
                Ok(message) => message,
            };
            match message {
                Message::DataRow(row) if first.is_none() => {
                    let values = row.ranges().map(|range| {
                        let value = range.and_then(|range| row.buffer().get(range));
                        Ok(value.map(String::from_utf8_lossy).unwrap_or_default().into_owned())
                    });
                    first = Some(values.collect().map_err(|error| broken(&error, doing))?);
                }
                Message::ErrorResponse(said) => failed = Some(refused(&said, doing)),
                Message::ReadyForQuery(_) => {
                    return match failed {
                        Some(error) => Err(error),
                        None => Ok(first.unwrap_or_default()),
                    };
                }
                _ => {}
            }
        }
    }

    async fn send(
        &mut self,
        message: impl FnOnce(&mut BytesMut) -> io::Result<()>,
        doing: &str,
    ) -> Result<()> {
        let mut out = BytesMut::new();
        let sent = match (message(&mut out), &mut self.socket) {
            (Ok(()), Some(socket)) => socket.write_all(&out).await,
            (Ok(()), None) => return Err(closed()),
            (unsendable, _) => unsendable,
        };
        sent.map_err(|error| broken(&error, doing))
    }

    /// The next message. Dropped before it has come, none is lost.
    async fn next(&mut self, doing: &str) -> Result<Message> {
        loop {
            match Message::parse(&mut self.received).map_err(|error| broken(&error, doing))? {
                Some(message) => return Ok(message),
                None => self.receive(doing).await?,
            }
        }
    }

    /// Whether the next message begins the stream; takes it then.
    async fn takes_copy_both(&mut self, doing: &str) -> Result<bool> {
        loop {
            let header = Header::parse(&self.received).map_err(|error| broken(&error, doing))?;
            let Some(header) = header else {
                self.receive(doing).await?;
                continue;
            };
            if header.tag() != COPY_BOTH {
                return Ok(false);
            }
            let length = usize::try_from(header.len()).unwrap_or(usize::MAX).saturating_add(1);
            if self.received.len() >= length {
                self.received.advance(length);
                return Ok(true);
            }
            self.receive(doing).await?;
        }
    }

    async fn receive(&mut self, doing: &str) -> Result<()> {
        let Some(socket) = &mut self.socket else { return Err(closed()) };
        match socket.read_buf(&mut self.received).await {
            Ok(0) => Err(broken(&io::ErrorKind::UnexpectedEof.into(), doing)),
            Ok(_) => Ok(()),
            Err(error) => Err(broken(&error, doing)),
        }
    }
}

/// The same stream under TLS, as the settings demand it.
async fn secured(
    mut stream: TcpStream,
    settings: &PostgresSettings,
    name: &str,
    doing: &str,
) -> Result<Socket> {
    let Some(mut tls) = settings.tls.clone() else { return Ok(Box::new(stream)) };
    let config = &settings.config;
    if config.get_ssl_negotiation() == SslNegotiation::Postgres {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        let asked = async {
            stream.write_all(&request).await?;
            stream.read_u8().await
        };
        if asked.await.map_err(|error| broken(&error, doing))? != b'S' {
            if config.get_ssl_mode() == SslMode::Prefer {
                return Ok(Box::new(stream));
            }
            let message = format!("{doing}: the server does not support TLS{TLS}");
            return Err(Error::new(ErrorKind::Connection, message));
        }
    }
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Connection, format!("{doing}: {error}{TLS}"))
    };
    let made = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, name);
    let connected = made.map_err(|error| failed(&error))?.connect(stream).await;
    Ok(Box::new(connected.map_err(|error| failed(&error))?))
}

const TLS: &str = "; check sslmode, sslrootcert, sslcert and sslkey";

/// A connection that broke, or one that cannot be made.
pub(super) fn broken(error: &io::Error, doing: &str) -> Error {
    let message = format!("{doing}: {error}; the server cannot be reached or the connection broke");
    Error::new(ErrorKind::Connection, message).transient()
}

/// A connection that was given to a stream, or lost before.
fn closed() -> Error {
    Error::unexpected("the replication connection is not open any more")
}

fn not_understood(doing: &str) -> Error {
    let message = format!(
        "{doing}: the server asks for a way of authentication that is not known here; use \
         scram-sha-256, md5, password, trust or cert in pg_hba.conf"
    );
    Error::new(ErrorKind::Unsupported, message)
}

/// The server's errors in our words.
pub(super) fn refused(said: &ErrorResponseBody, doing: &str) -> Error {
    let (mut code, mut message, mut more) = (String::new(), String::new(), String::new());
    let mut fields = said.fields();
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes());
        match field.type_() {
            b'C' => code = value.into_owned(),
            b'M' => message = value.into_owned(),
            b'D' | b'H' => more = format!("{more}; {value}"),
            _ => {}
        }
    }
    let (kind, remedy, transient) = match code.as_str() {
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
    };
    let error = Error::new(kind, format!("{doing}: {message} ({code}){more}{remedy}"));
    if transient { error.transient() } else { error }
}
