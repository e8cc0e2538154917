//! PostgreSQL's errors in our words.

use dms_core::{Error, ErrorKind};
use tokio_postgres::error::SqlState;

/// Says what happened and what to do; `doing` is the object and the act.
pub(super) fn convert(error: tokio_postgres::Error, doing: &str) -> Error {
    let Some(server) = error.as_db_error() else {
        if let Some(cause) = cause(&error, "invalid configuration") {
            let message = match cause.as_str() {
                "password missing" => format!(
                    "{doing}: the server asks for a password; name one in the url, by PGPASSWORD \
                     or in the password file"
                ),
                _ => format!("{doing}: {cause}"),
            };
            return Error::settings(message).with_source(error);
        }
        if let Some(cause) = cause(&error, "error performing TLS handshake") {
            let message = format!(
                "{doing}: TLS failed: {cause}; check sslmode, sslrootcert, sslcert and sslkey"
            );
            return Error::new(ErrorKind::Connection, message).with_source(error);
        }
        let broken = error.is_closed() || std::error::Error::source(&error).is_some();
        let converted = Error::new(
            ErrorKind::Connection,
            format!("{doing}; the server cannot be reached or the connection broke"),
        );
        let converted = if broken { converted.transient() } else { converted };
        return converted.with_source(error);
    };
    let code = server.code();
    let (kind, remedy, transient) = match (code.code().get(..2).unwrap_or_default(), code) {
        (_, &SqlState::INSUFFICIENT_PRIVILEGE) => {
            (ErrorKind::Denied, "; grant the role the right", false)
        }
        (_, &SqlState::TOO_MANY_CONNECTIONS) => (
            ErrorKind::Connection,
            "; the server has no connection left: raise max_connections or lower \
             MaxFullLoadSubTasks",
            true,
        ),
        (_, &SqlState::DISK_FULL) => (
            ErrorKind::Unexpected,
            "; the server's disk is full: make room and run the task again",
            false,
        ),
        (_, &SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN) => {
            (ErrorKind::Schema, "; it was dropped or renamed meanwhile", false)
        }
        (_, &SqlState::UNDEFINED_OBJECT) => (
            ErrorKind::Schema,
            "; create it on the target first, or read columns of the type as text by column-types",
            false,
        ),
        (_, &SqlState::INVALID_CATALOG_NAME) => (ErrorKind::NotFound, "", false),
        ("28", _) => (ErrorKind::Denied, "; check user and password", false),
        (_, &SqlState::CHARACTER_NOT_IN_REPERTOIRE | &SqlState::UNTRANSLATABLE_CHARACTER) => (
            ErrorKind::Data,
            "; the database's encoding does not have the character: correct the value, or use a \
             database in UTF8",
            false,
        ),
        // What a pooler says to a parameter that it does not know.
        (_, &SqlState::PROTOCOL_VIOLATION) => (ErrorKind::Unsupported, POOLER, false),
        ("22", _) => (ErrorKind::Data, "; the target cannot hold a value", false),
        ("23", _) => (
            ErrorKind::Constraint,
            "; the target's keys or checks refuse a row: correct the row or change the table",
            false,
        ),
        ("08" | "57", _) => (ErrorKind::Connection, "", true),
        ("40" | "53" | "55", _) => (ErrorKind::Connection, "", true),
        _ => (ErrorKind::Unexpected, "", false),
    };
    let mut message = format!("{doing}: {} ({})", server.message(), code.code());
    // The detail of a refused row shows its values.
    if let Some(column) = server.column().or_else(|| copied_column(server.where_()?)) {
        message.push_str(&format!(", column {column}"));
    }
    if let Some(constraint) = server.constraint() {
        message.push_str(&format!(", constraint {constraint}"));
    }
    if let Some(hint) = server.hint() {
        message.push_str(&format!("; {}", hint.trim_end_matches('.')));
    }
    message.push_str(remedy);
    let converted = Error::new(kind, message);
    if transient { converted.transient() } else { converted }
}

/// The cause of an error of the client's own that trying again does not mend, by how it begins.
fn cause(error: &tokio_postgres::Error, begins: &str) -> Option<String> {
    let cause = || std::error::Error::source(error).map(ToString::to_string);
    error.to_string().starts_with(begins).then(|| cause().unwrap_or_default())
}

/// What to do about a pooler.
pub(super) const POOLER: &str = "; connect to the PostgreSQL server itself: a pooler such as \
    PgBouncer does not keep a session's settings and snapshot";

/// The column of `COPY table, line 1, column c`, as an error's context has it.
fn copied_column(context: &str) -> Option<&str> {
    let (_, column) = context.lines().next()?.strip_prefix("COPY ")?.split_once(", column ")?;
    Some(column)
}
