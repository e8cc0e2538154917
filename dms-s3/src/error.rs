//! Errors of stores and formats in our words.

use std::error::Error as StdError;
use std::io;

use dms_core::{Error, ErrorKind};

/// Says what happened to which object and what to do.
pub(crate) fn convert(error: object_store::Error, doing: &str) -> Error {
    use object_store::Error as Store;
    let (kind, remedy, transient) = match &error {
        Store::NotFound { .. } => (ErrorKind::NotFound, "", false),
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
            (ErrorKind::Denied, "; check the credentials and the rights on the folder", false)
        }
        Store::UnknownConfigurationKey { .. } => (ErrorKind::Settings, "", false),
        Store::NotSupported { .. } | Store::NotImplemented { .. } => {
            (ErrorKind::Unsupported, "", false)
        }
        error => of_cause(error),
    };
    let converted = Error::new(kind, format!("{doing}{remedy}")).with_source(error);
    if transient { converted.transient() } else { converted }
}

/// Looks for the operating system's word in the chain of causes.
fn of_cause(error: &object_store::Error) -> (ErrorKind, &'static str, bool) {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge => (
                    ErrorKind::Unexpected,
                    "; the disk is full: make room and run the task again",
                    false,
                ),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    (ErrorKind::Denied, "; check the rights on the folder", false)
                }
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::TimedOut => (ErrorKind::Connection, "", true),
                _ => (ErrorKind::Unexpected, "", false),
            };
        }
        cause = error.source();
    }
    (ErrorKind::Unexpected, "", false)
}

/// Bytes that are not what the manifest says.
pub(crate) fn corrupt(path: &str, what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "file {path} {what}; it was changed or damaged after it was written, load it again"
        ),
    )
}
