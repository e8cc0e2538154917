//! How a folder is written and read.

use std::collections::BTreeMap;

use dms_core::endpoint::EndpointSettings;
use dms_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::columns;
use crate::date_partition::{DatePartitionDelimiter, DatePartitionSequence};
use crate::layout;
use crate::manifest::{CsvDialect, FileForm};

/// The format of data files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataFormat {
    /// Apache Parquet.
    #[default]
    Parquet,
    /// Comma-separated values.
    Csv,
}

impl DataFormat {
    /// The ending of file names.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
        }
    }
}

/// How Parquet pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all, as CSV files always are.
    None,
    /// Fast.
    #[default]
    Snappy,
    /// Smaller.
    Zstd,
}

/// Which Parquet columns get a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dictionary {
    /// Those whose first rows repeat values: a dictionary of mostly distinct values costs time and
    /// saves nothing.
    #[default]
    Auto,
    /// All.
    On,
    /// None.
    Off,
}

/// Which encodings of values a Parquet file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ParquetVersion {
    /// Those that the first version of the format had, for readers as old as that.
    #[serde(rename = "parquet-1-0")]
    V1,
    /// Also differences between integers and lengths of texts apart from them: files are a third
    /// smaller and written sooner. Pages stay of version 1, which all readers take.
    #[default]
    #[serde(rename = "parquet-2-0")]
    V2,
}

/// A folder or object store endpoint. What is not an option here and speaks of the store (`region`,
/// `endpoint`, `access-key-id`, …) goes to the store, by `object_store`'s own names; environment
/// variables count too. Of Azure they are `account-name`, `account-key` or `sas-key`, and `endpoint`
/// for one that is not at `https://account.blob.core.windows.net`; of Google `service-account` (a
/// file) or `service-account-key` (what is in it). `allow-http` is `true` for an address without
/// TLS.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[non_exhaustive]
pub struct FolderSettings {
    /// `file:///folder`, `s3://bucket/prefix`, …
    #[serde(skip)]
    pub url: String,
    /// Default Parquet.
    pub data_format: DataFormat,
    /// Of Parquet pages; default snappy.
    pub compression: Compression,
    /// Of zstd; default 1, which costs little more than snappy.
    pub compression_level: i32,
    /// The most rows of a row group; default 1,048,576, as Arrow's other writers have it.
    pub row_group_rows: usize,
    /// About the most encoded bytes of a row group, which is what a writer holds in memory; default
    /// 8 MiB, the size of a good ranged request to an object store.
    pub row_group_bytes: usize,
    /// A file ends at the first row group that brings it to this size; default 1 GiB, as in DMS.
    pub max_file_size_bytes: u64,
    /// Minimum and maximum of each column chunk; default true.
    pub enable_statistics: bool,
    /// Which columns get a dictionary; default auto.
    pub dictionary: Dictionary,
    /// Which encodings a file may hold; default `parquet-2-0`.
    pub parquet_version: ParquetVersion,
    /// About the most bytes of a page; default 1 MiB.
    pub data_page_size: usize,
    /// Between fields of CSV; default `,`.
    pub csv_delimiter: char,
    /// What stands for NULL in CSV, never quoted, while text that looks like it always is; default
    /// nothing.
    pub csv_null_value: String,
    /// Fields that need it are quoted, as RFC 4180 says; default true, and there is no false:
    /// without quotes a reader could not tell a delimiter in a value from one between two.
    pub rfc4180: bool,
    /// A first line with the columns' names; default false.
    pub add_column_name: bool,
    /// A column `Op` with an `I` in files of a load too; default false.
    pub include_op_for_full_load: bool,
    /// A column with a time as text, `yyyy-MM-dd HH:mm:ss.SSSSSS` in UTC; default none. In files of
    /// changes it is that of the transaction's commit at the source, in files of a load that of the
    /// rows' writing.
    pub timestamp_column_name: Option<String>,
    /// The time in files of a load is that of the run's beginning, by the store's clock, so that
    /// rows of a load sort before their changes; default false.
    pub use_task_start_time_for_full_load_timestamp: bool,
    /// A column of files of changes with the names, as a JSON array, of the columns that an update
    /// left as they were and the source did not log: they are NULL in the row. Default none: such
    /// an update is an error.
    pub cdc_unchanged_column: Option<String>,
    /// How many KiB of changes are gathered before files are written, as long as they are not older
    /// than `cdc-max-batch-interval`; default 32,000, as in DMS.
    pub cdc_min_file_size: u64,
    /// After how many seconds files are written, however small; default 60, as in DMS.
    pub cdc_max_batch_interval: u64,
    /// Only inserts are written, as DMS does without a column `Op` unless
    /// `include-op-for-full-load` asks for it; default false.
    pub cdc_inserts_only: bool,
    /// Only inserts and updates are written; default false.
    pub cdc_inserts_and_updates: bool,
    /// Changes of all tables go into the same files, `CDC_TXN-….csv` in `cdc-path`, in the order in
    /// which the source made them; always CSV, each row `op,table,schema,columns…`. Default false:
    /// each table's changes stand beside its loaded files.
    pub preserve_transactions: bool,
    /// The folder, below this one, for `preserve-transactions`; default none.
    pub cdc_path: Option<String>,
    /// Files of a table's changes stand in folders by the date of the commit, in UTC; default false.
    /// Of a source that does not tell that date, the first change is an error.
    pub date_partition_enabled: bool,
    /// Default `yyyymmdd`.
    pub date_partition_sequence: DatePartitionSequence,
    /// Default slash, which makes a folder of each part of the date.
    pub date_partition_delimiter: DatePartitionDelimiter,
    /// Whether a source compares every file with its checksum before it is read; default true.
    pub verify_checksums: bool,
    /// Whether a local folder's files are forced to the disk before they count as written, so that
    /// they survive a loss of power; default true. Object stores do that themselves.
    pub fsync: bool,
    /// Options of the store.
    #[serde(skip)]
    pub store: BTreeMap<String, String>,
}

impl Default for FolderSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            data_format: DataFormat::default(),
            compression: Compression::default(),
            compression_level: 1,
            row_group_rows: 1 << 20,
            row_group_bytes: 8 << 20,
            max_file_size_bytes: 1 << 30,
            enable_statistics: true,
            dictionary: Dictionary::default(),
            parquet_version: ParquetVersion::default(),
            data_page_size: 1 << 20,
            csv_delimiter: ',',
            csv_null_value: String::new(),
            rfc4180: true,
            add_column_name: false,
            include_op_for_full_load: false,
            timestamp_column_name: None,
            use_task_start_time_for_full_load_timestamp: false,
            cdc_unchanged_column: None,
            cdc_min_file_size: 32_000,
            cdc_max_batch_interval: 60,
            cdc_inserts_only: false,
            cdc_inserts_and_updates: false,
            preserve_transactions: false,
            cdc_path: None,
            date_partition_enabled: false,
            date_partition_sequence: DatePartitionSequence::default(),
            date_partition_delimiter: DatePartitionDelimiter::default(),
            verify_checksums: true,
            fsync: true,
            store: BTreeMap::new(),
        }
    }
}

/// The options above; everything else is the store's.
pub(crate) const OPTIONS: &[&str] = &[
    "data-format",
    "compression",
    "compression-level",
    "row-group-rows",
    "row-group-bytes",
    "max-file-size-bytes",
    "enable-statistics",
    "dictionary",
    "parquet-version",
    "data-page-size",
    "csv-delimiter",
    "csv-null-value",
    "rfc4180",
    "add-column-name",
    "include-op-for-full-load",
    "timestamp-column-name",
    "use-task-start-time-for-full-load-timestamp",
    "cdc-unchanged-column",
    "cdc-min-file-size",
    "cdc-max-batch-interval",
    "cdc-inserts-only",
    "cdc-inserts-and-updates",
    "preserve-transactions",
    "cdc-path",
    "date-partition-enabled",
    "date-partition-sequence",
    "date-partition-delimiter",
    "verify-checksums",
    "fsync",
];

impl FolderSettings {
    /// A folder with default options.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// Reads an endpoint's URL and options.
    ///
    /// # Errors
    /// `Settings` naming the option.
    pub fn from_endpoint(endpoint: &EndpointSettings) -> Result<Self> {
        let mut ours = serde_json::Map::new();
        let mut store = BTreeMap::new();
        let csv = endpoint.options.get("data-format").is_some_and(|format| format == "csv");
        let compression = endpoint.options.get("compression");
        if csv && compression.is_some_and(|compression| compression != "none") {
            return Err(Error::settings(
                "folder endpoint: CSV files are not compressed; set compression to none or leave \
                 it out",
            ));
        }
        let local = matches!(endpoint.scheme()?, "file" | "memory");
        for (name, value) in &endpoint.options {
            if OPTIONS.contains(&name.as_str()) {
                ours.insert(name.clone(), value.clone());
                continue;
            }
            let near = dms_core::json::nearest(name, OPTIONS);
            if local {
                let hint = near.map(|near| format!("; did you mean {near:?}?"));
                return Err(Error::settings(format!(
                    "options of the folder endpoint: unknown option {name:?}{}",
                    hint.unwrap_or_default()
                )));
            }
            let value = match value {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            store.insert(name.replace('-', "_"), value);
        }
        let mut settings: Self =
            dms_core::json::parse_value(ours.into(), "options of the folder endpoint")?;
        settings.url.clone_from(&endpoint.url);
        settings.store = store;
        settings.check()?;
        Ok(settings)
    }

    /// How the rows of a load are written.
    pub(crate) fn load_form(&self) -> FileForm {
        let before = columns::before_load(self);
        FileForm { format: self.data_format, csv: self.csv_dialect(), before }
    }

    /// How changes are written; all columns are those of their file's table.
    pub(crate) fn change_form(&self) -> FileForm {
        FileForm { format: self.data_format, csv: self.csv_dialect(), before: Vec::new() }
    }

    /// Whether files of changes say what each row is.
    pub(crate) fn changes_have_op(&self) -> bool {
        // Files of transactions have it always: rows of several tables need a fixed beginning.
        !self.cdc_inserts_only || self.include_op_for_full_load || self.preserve_transactions
    }

    /// The folders of `cdc-path`, the outermost first.
    pub(crate) fn cdc_folders(&self) -> impl Iterator<Item = &str> {
        self.cdc_path.iter().flat_map(|path| path.trim_matches('/').split('/'))
    }

    /// How CSV files are spelled.
    pub(crate) fn csv_dialect(&self) -> CsvDialect {
        CsvDialect {
            delimiter: self.csv_delimiter,
            null_value: self.csv_null_value.clone(),
            header: self.add_column_name,
        }
    }

    /// Refuses settings that contradict each other.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::settings(format!("folder endpoint: {message}")));
        if self.row_group_rows == 0 || self.row_group_bytes == 0 || self.data_page_size == 0 {
            return wrong("row-group-rows, row-group-bytes and data-page-size must not be 0");
        }
        if self.max_file_size_bytes == 0 {
            return wrong("max-file-size-bytes must not be 0");
        }
        if self.cdc_inserts_only && self.cdc_inserts_and_updates {
            return wrong("cdc-inserts-only and cdc-inserts-and-updates exclude each other");
        }
        self.check_transactions()?;
        if self.use_task_start_time_for_full_load_timestamp && self.timestamp_column_name.is_none()
        {
            return wrong(
                "use-task-start-time-for-full-load-timestamp needs timestamp-column-name, which \
                 names the column of the time",
            );
        }
        let names = [&self.timestamp_column_name, &self.cdc_unchanged_column];
        if names.into_iter().flatten().any(String::is_empty) {
            return wrong("timestamp-column-name and cdc-unchanged-column must not be empty");
        }
        if !(1..=22).contains(&self.compression_level) {
            return wrong("compression-level must be 1 to 22");
        }
        if !self.rfc4180 {
            return wrong(
                "rfc4180 must be true: without quotes a delimiter or line end inside a value \
                 could not be told from one between values",
            );
        }
        if !self.csv_delimiter.is_ascii() || "\"\r\n".contains(self.csv_delimiter) {
            return wrong("csv-delimiter must be one ASCII character, no quote and no line end");
        }
        if self.csv_null_value.contains(['"', '\r', '\n', self.csv_delimiter]) {
            return wrong("csv-null-value must not hold a quote, a line end or the delimiter");
        }
        Ok(())
    }
}

impl FolderSettings {
    /// Refuses what does not go with files of transactions.
    fn check_transactions(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::settings(format!("folder endpoint: {message}")));
        if self.preserve_transactions != self.cdc_path.is_some() {
            return wrong(
                "preserve-transactions and cdc-path go together: set preserve-transactions to \
                 true and cdc-path to a folder for files of transactions, or neither",
            );
        }
        if !self.preserve_transactions {
            return Ok(());
        }
        if self.date_partition_enabled {
            return wrong(
                "preserve-transactions and date-partition-enabled exclude each other: files of \
                 transactions stand in one folder, in their order",
            );
        }
        if self.add_column_name {
            return wrong(
                "preserve-transactions and add-column-name exclude each other: files of \
                 transactions have rows of several tables, with other columns each",
            );
        }
        if self.cdc_folders().any(|part| matches!(part, "" | "." | "..")) {
            return wrong(
                "cdc-path must be a folder below this one, like cdc or changes/all, without empty \
                 parts, . and ..",
            );
        }
        if self.cdc_folders().next().is_some_and(layout::is_ours) {
            return wrong("cdc-path must not be in _dms, which is dms's own folder");
        }
        Ok(())
    }
}

impl std::fmt::Debug for FolderSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Options of the store may be credentials.
        f.debug_struct("FolderSettings")
            .field("url", &EndpointSettings::new(&self.url).redacted_url())
            .field("data_format", &self.data_format)
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}
