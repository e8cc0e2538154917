//! SQLite's errors in our words.

use dms_core::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// Says what happened and what to do; `doing` is the object and the act, e.g. `table "t" cannot be
/// read`.
pub(super) fn convert(error: rusqlite::Error, doing: &str) -> Error {
    let code = error.sqlite_error_code();
    let (kind, remedy, transient) = match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            ErrorKind::Connection,
            "; another process holds a lock on the file: end its transaction or raise \
             busy-timeout-ms",
            true,
        ),
        Some(ErrorCode::NotADatabase) => {
            (ErrorKind::Corrupt, "; the file is not a SQLite database, or is encrypted", false)
        }
        Some(ErrorCode::DatabaseCorrupt) => (ErrorKind::Corrupt, DAMAGED, false),
        Some(ErrorCode::CannotOpen) => {
            (ErrorKind::NotFound, "; check the path and the rights on its folder", false)
        }
        Some(
            ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::AuthorizationForStatementDenied,
        ) => (ErrorKind::Denied, "; check the rights on the file and its folder", false),
        Some(ErrorCode::DiskFull) => {
            (ErrorKind::Unexpected, "; the disk is full: make room and run the task again", false)
        }
        Some(ErrorCode::ConstraintViolation) => (
            ErrorKind::Constraint,
            "; the target's keys or checks refuse a row: correct the row or change the table",
            false,
        ),
        Some(ErrorCode::TooBig) => (
            ErrorKind::Data,
            "; a value or row is above SQLite's limit of 1,000,000,000 bytes",
            false,
        ),
        Some(ErrorCode::SystemIoFailure) => {
            (ErrorKind::Unexpected, "; the file system failed: check the disk", false)
        }
        _ => (ErrorKind::Unexpected, "", false),
    };
    let converted = Error::new(kind, format!("{doing}{remedy}")).with_source(error);
    if transient { converted.transient() } else { converted }
}

const DAMAGED: &str =
    "; the file is damaged: restore it, or recover it with `sqlite3 FILE .recover`";

/// The error of a damaged file.
pub(super) fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{what}{DAMAGED}"))
}
