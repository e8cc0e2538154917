//! The small JSON objects that say which changes are there.

use dms_core::endpoint::{Alteration, ApplyException, ReplicatedTable};
use dms_core::position::Position;
use dms_core::schema::{TableName, TableSchema};
use serde::{Deserialize, Serialize};

use crate::manifest::{CsvDialect, FileForm};

/// One commit: what has come since the one before. A reader takes the acts of all commits in the
/// order of their numbers, of each table those of its newest load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Commit {
    pub(crate) version: u32,
    pub(crate) task: String,
    /// Of the run that wrote it.
    pub(crate) epoch: u64,
    /// One more than that of the commit before.
    pub(crate) number: u64,
    /// Behind which position its changes begin.
    pub(crate) from: Option<Position>,
    /// Up to where all transactions are there; `None` where the task was forgotten.
    pub(crate) to: Option<Position>,
    /// When the newest transaction was committed at the source, in microseconds since 1970.
    pub(crate) committed_at: Option<i64>,
    pub(crate) acts: Vec<Act>,
    /// The time in the name of the newest file of transactions, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) named_up_to: Option<i64>,
    /// Changes that this commit passes over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) exceptions: Vec<ApplyException>,
    /// Changes that were passed over so far.
    pub(crate) exceptions_total: u64,
    /// The object with what is noted of tables, if anything is.
    pub(crate) notes: Option<String>,
}

/// What happened to a table, or to several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Act {
    /// Changes of its rows.
    Rows(ChangeFile),
    /// Changes of rows of all tables.
    Transactions(TransactionFile),
    /// It was emptied. Files stay as they are.
    Truncate { table: TableName, load: u64 },
    /// It has another shape from here on.
    Alter { table: TableSchema, load: u64, alterations: Vec<Alteration> },
    /// It came.
    Create { table: TableSchema, load: u64 },
    /// It went.
    Drop { table: TableName, load: u64 },
}

/// A file of changes of one table, in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChangeFile {
    #[serde(flatten)]
    pub(crate) file: WrittenFile,
    /// The load of the table that the changes are of; 0 if the task has not loaded it.
    pub(crate) load: u64,
    /// The table, with the columns of the file: `Op` first.
    pub(crate) table: TableSchema,
    #[serde(flatten)]
    pub(crate) form: FileForm,
}

/// A file of changes of all tables, in the order in which the source made them. Each line is
/// `op,table,schema,columns…`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TransactionFile {
    #[serde(flatten)]
    pub(crate) file: WrittenFile,
    pub(crate) csv: CsvDialect,
    /// The tables of which it has lines.
    pub(crate) tables: Vec<LoggedTable>,
}

/// A table of which a file of transactions has lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoggedTable {
    /// The load of the table that the changes are of; 0 if the task has not loaded it.
    pub(crate) load: u64,
    /// It, with the columns behind op, table and schema.
    pub(crate) table: TableSchema,
}

/// What is known of each file of changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct WrittenFile {
    /// Relative to the folder.
    pub(crate) path: String,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// BLAKE3 of the file, hexadecimal.
    pub(crate) blake3: String,
    /// The first and the last transaction of which it holds changes.
    pub(crate) first: Position,
    pub(crate) last: Position,
}

/// What is noted of the tables of a task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notes {
    pub(crate) version: u32,
    pub(crate) tables: Vec<Noted>,
}

/// What is noted of one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Noted {
    pub(crate) table: TableName,
    /// The load that it was noted of; with a newer one it is forgotten.
    pub(crate) load: u64,
    pub(crate) noted: ReplicatedTable,
}

/// From where to look for the newest commit, so that nobody lists all of them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hint {
    pub(crate) version: u32,
    pub(crate) number: u64,
}
