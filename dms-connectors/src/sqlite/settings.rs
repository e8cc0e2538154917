//! How a SQLite endpoint is opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dms_core::endpoint::{EndpointInfo, EndpointSettings};
use dms_core::mapping::Pattern;
use dms_core::schema::{LogicalType, TableName};
use dms_core::{Error, Result};
use serde::Deserialize;

use super::ENGINE;

/// Which spellings of dates and times a source takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Temporal {
    /// Only the one that a target writes, so that a round trip gives the same text:
    /// `YYYY-MM-DD`, `HH:MM:SS`, `YYYY-MM-DD HH:MM:SS`, with a fraction of exactly as many digits
    /// as the declared precision, or of none or six where none is declared.
    #[default]
    Canonical,
    /// Any spelling of ISO 8601 with the same meaning: `T` for the space, seconds left out, any
    /// number of digits. The value arrives, its spelling does not.
    #[serde(rename = "iso-8601")]
    Iso8601,
}

/// A SQLite endpoint.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SqliteSettings {
    /// The database file.
    pub path: PathBuf,
    /// How long to wait for a lock. Default 10 s.
    pub busy_timeout: Duration,
    /// Types of columns, by pattern of `schema.table.column`; the first in alphabetical order wins.
    pub column_types: Vec<(Pattern, LogicalType)>,
    /// Which spellings of dates and times a source takes.
    pub temporal: Temporal,
    /// The most bytes a target file may grow to; 0 is no bound.
    pub file_bytes_max: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Options {
    busy_timeout_ms: u64,
    column_types: BTreeMap<String, LogicalType>,
    temporal: Temporal,
    file_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            busy_timeout_ms: 10_000,
            column_types: BTreeMap::new(),
            temporal: Temporal::default(),
            file_bytes_max: 0,
        }
    }
}

impl SqliteSettings {
    /// A file with default options.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            busy_timeout: Duration::from_secs(10),
            column_types: Vec::new(),
            temporal: Temporal::default(),
            file_bytes_max: 0,
        }
    }

    /// Reads `sqlite:///absolute/path`, `sqlite://relative/path` or `sqlite:path`, percent-decoded,
    /// and the options `busy-timeout-ms`, `column-types`, `temporal` (`canonical`, `iso-8601`) and
    /// `file-bytes-max`.
    ///
    /// # Errors
    /// `Settings` naming the option.
    pub fn from_endpoint(endpoint: &EndpointSettings) -> Result<Self> {
        let rest = endpoint.url.strip_prefix("sqlite:").unwrap_or(&endpoint.url);
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() {
            return Err(Error::settings(
                "a sqlite url needs a path: sqlite:///absolute/path.db or sqlite:relative/path.db",
            ));
        }
        let options: Options = dms_core::json::parse_value(
            serde_json::Value::Object(endpoint.options.clone()),
            "options of the sqlite endpoint",
        )?;
        let types = options.column_types.into_iter();
        Ok(Self {
            path: percent_decode(path)?.into(),
            busy_timeout: Duration::from_millis(options.busy_timeout_ms),
            column_types: types.map(|(name, ty)| (Pattern::new(name), ty)).collect(),
            temporal: options.temporal,
            file_bytes_max: options.file_bytes_max,
        })
    }

    pub(super) fn info(&self) -> EndpointInfo {
        EndpointInfo { engine: ENGINE, address: format!("sqlite:{}", self.path.display()) }
    }

    /// The type that the settings give a column, if any.
    pub(super) fn column_type(&self, table: &TableName, column: &str) -> Option<&LogicalType> {
        let name = format!("{table}.{column}");
        self.column_types.iter().find(|(pattern, _)| pattern.matches(&name)).map(|(_, ty)| ty)
    }
}

impl From<&str> for SqliteSettings {
    fn from(path: &str) -> Self {
        Self::new(path)
    }
}

impl From<&Path> for SqliteSettings {
    fn from(path: &Path) -> Self {
        Self::new(path)
    }
}

fn percent_decode(text: &str) -> Result<String> {
    let wrong = || Error::settings(format!("sqlite url has a wrong %-escape: {text:?}"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_options() {
        for (url, path) in [
            ("sqlite:///var/a%20b.db", "/var/a b.db"),
            ("sqlite://a.db", "a.db"),
            ("sqlite:a.db", "a.db"),
        ] {
            let settings = SqliteSettings::from_endpoint(&EndpointSettings::new(url)).unwrap();
            assert_eq!(settings.path, Path::new(path));
        }
        let mut endpoint = EndpointSettings::new("sqlite:a.db");
        endpoint.options.insert("temporl".into(), "iso-8601".into());
        let error = SqliteSettings::from_endpoint(&endpoint).unwrap_err().to_string();
        assert!(error.contains("temporl") && error.contains("temporal"), "{error}");
        assert!(SqliteSettings::from_endpoint(&EndpointSettings::new("sqlite:a%zz")).is_err());
    }
}
