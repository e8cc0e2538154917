//! The one error of all crates: a kind that policy decides on, a message for people, and the
//! place it happened.

use std::error::Error as StdError;
use std::fmt;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What policy needs to know of an error: whether to stop, retry, suspend a table or ask a person.
///
/// The side (source or target), table or column is context, never a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A definition, setting or mapping is wrong.
    Settings,
    /// The endpoint cannot be reached, or the connection broke.
    Connection,
    /// The endpoint refuses: password, privilege, read-only.
    Denied,
    /// A file, table, column or object is not there.
    NotFound,
    /// Something legal that this endpoint or version cannot do.
    Unsupported,
    /// The shape of a table is not what the plan expects.
    Schema,
    /// A value cannot be carried exactly.
    Data,
    /// The target refuses rows: key, check, foreign key.
    Constraint,
    /// The source's log no longer holds the position.
    PositionLost,
    /// Stored bytes are damaged.
    Corrupt,
    /// The run was stopped, or another run took the task over.
    Stopped,
    /// A fault that no other kind describes: disk full, an engine's internal error.
    Unexpected,
}

impl ErrorKind {
    /// The kind as it is printed: lower case, one word or two.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Connection => "connection",
            Self::Denied => "denied",
            Self::NotFound => "not found",
            Self::Unsupported => "unsupported",
            Self::Schema => "schema",
            Self::Data => "data",
            Self::Constraint => "constraint",
            Self::PositionLost => "position lost",
            Self::Corrupt => "corrupt",
            Self::Stopped => "stopped",
            Self::Unexpected => "unexpected",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error with its kind, its place and its cause.
///
/// `Display` is one line that names the object, what happened and what to do; `Debug` is many.
/// The error of the driver, if any, is the [`source`](StdError::source); no driver type is part of
/// a public signature.
///
/// ```
/// use dms_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Data, "text 'x' is not an integer")
///     .context("table", "main.items")
///     .context("column", "qty");
/// assert_eq!(
///     error.to_string(),
///     "data error: text 'x' is not an integer (table main.items, column qty)"
/// );
/// assert_eq!(error.kind(), ErrorKind::Data);
/// assert_eq!(error.context_value("column"), Some("qty"));
/// ```
#[derive(thiserror::Error)]
#[error("{}", self.line())]
pub struct Error {
    inner: Box<Inner>,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    transient: bool,
}

impl Error {
    /// An error of `kind`. The message is in lower case, without a full stop, and says what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let inner = Inner { kind, message: message.into(), context: Vec::new(), transient: false };
        Self { inner: Box::new(inner), source: None }
    }

    /// Shorthand for [`ErrorKind::Settings`].
    pub fn settings(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Settings, message)
    }

    /// Shorthand for [`ErrorKind::Data`].
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// Shorthand for [`ErrorKind::Schema`].
    pub fn schema(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Schema, message)
    }

    /// Shorthand for [`ErrorKind::Unexpected`].
    pub fn unexpected(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unexpected, message)
    }

    /// The error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Marks the error as one that may pass when the same work is tried again.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.inner.transient = true;
        self
    }

    /// Adds a place: `task`, `endpoint`, `side`, `table`, `column`, `partition`, `position`, `row`.
    /// The first value given for a key stays, since it was set nearest to the fault.
    #[must_use]
    pub fn context(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        if self.context_value(key).is_none() {
            self.inner.context.push((key, value.to_string()));
        }
        self
    }

    /// What kind of error this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The message alone, without kind and context.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The value of one context key.
    #[must_use]
    pub fn context_value(&self, key: &str) -> Option<&str> {
        self.inner.context.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str())
    }

    /// Whether the same work may succeed when it is tried again; read by `retry` alone.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.inner.transient
    }

    /// Whether the error only says that the work is to stop.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        self.inner.kind == ErrorKind::Stopped
    }

    fn line(&self) -> String {
        let Inner { kind, message, context, .. } = &*self.inner;
        let mut line = format!("{kind} error: {message}");
        if let Some(source) = &self.source {
            let cause = source.to_string();
            if !cause.is_empty() && !message.contains(&cause) {
                line.push_str(": ");
                line.push_str(&cause);
            }
        }
        for (i, (key, value)) in context.iter().enumerate() {
            line.push_str(if i == 0 { " (" } else { ", " });
            line.push_str(key);
            line.push(' ');
            line.push_str(value);
        }
        if !context.is_empty() {
            line.push(')');
        }
        line
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.line())?;
        let mut cause = self.source.as_deref().and_then(StdError::source);
        while let Some(error) = cause {
            writeln!(f, "  caused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Adds context to the error of a [`Result`].
pub trait ResultExt<T> {
    /// As [`Error::context`]; the value is only formatted on an error.
    ///
    /// # Errors
    /// The error of `self`, with the place added.
    fn context(self, key: &'static str, value: impl fmt::Display) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn context(self, key: &'static str, value: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.context(key, value))
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::unexpected("an Arrow operation failed").with_source(error)
    }
}
