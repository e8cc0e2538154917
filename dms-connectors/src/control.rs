//! What the control tables of SQL targets have in common: JSON in their columns, and what they say.

use dms_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::unexpected("progress cannot be written").with_source(error))
}

pub(crate) fn from_json<T: DeserializeOwned>(json: &str, table: &str) -> Result<T> {
    serde_json::from_str(json)
        .map_err(|error| corrupt(table, "a value of another version").with_source(error))
}

pub(crate) fn corrupt(table: &str, what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("control table {table} holds {what}; drop the dms_ tables and load again"),
    )
}

/// The refusal to load a table from its first row where mode `DO_NOTHING` keeps rows of this task.
pub(crate) fn keeps_a_part() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "the table holds a part of this task's rows, which mode DO_NOTHING keeps and a load from \
         the first row would double; empty the table, or use TRUNCATE_BEFORE_LOAD or \
         DROP_AND_CREATE",
    )
}
