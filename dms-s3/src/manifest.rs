//! The small JSON objects that say what is there.

use dms_core::endpoint::{Partition, Receipt};
use dms_core::position::Position;
use dms_core::schema::TableSchema;
use serde::{Deserialize, Serialize};

use crate::settings::DataFormat;

/// The version of all objects here.
pub(crate) const VERSION: u32 = 1;

/// A data file that is complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DataFile {
    /// Relative to the folder.
    pub(crate) path: String,
    pub(crate) partition: u32,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// BLAKE3 of the file, hexadecimal.
    pub(crate) blake3: String,
    /// Rows of each Parquet row group.
    #[serde(default)]
    pub(crate) row_groups: Vec<u64>,
}

/// How CSV files are to be read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CsvDialect {
    pub(crate) delimiter: char,
    pub(crate) null_value: String,
    pub(crate) header: bool,
}

/// How the rows of a table are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileForm {
    pub(crate) format: DataFormat,
    pub(crate) csv: CsvDialect,
    /// Columns of text that stand before the table's own, by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) before: Vec<String>,
}

/// A complete table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) task: String,
    /// The table's generation that its load claimed; of several manifests the highest counts.
    pub(crate) load: u64,
    pub(crate) table: TableSchema,
    #[serde(flatten)]
    pub(crate) form: FileForm,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) position: Option<Position>,
    pub(crate) files: Vec<DataFile>,
}

/// A claim on a task or on a table's file names; the object's name is the number.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) version: u32,
    pub(crate) task: String,
}

/// A load of a table that began.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LoadRecord {
    pub(crate) version: u32,
    pub(crate) load: u64,
    pub(crate) table: TableSchema,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) position: Option<Position>,
    #[serde(flatten)]
    pub(crate) form: FileForm,
}

/// A partition that is complete.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PartitionRecord {
    pub(crate) version: u32,
    pub(crate) load: u64,
    pub(crate) receipt: Receipt,
    pub(crate) files: Vec<DataFile>,
}
