//! What a validation found.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::Error;
use crate::schema::TableName;
use crate::value::Value;

/// What is different about a key, in DMS's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DifferenceKind {
    /// Both sides have the row, with other values.
    RecordDiff,
    /// The target has a row that the source does not have.
    MissingSource,
    /// The source has a row that the target does not have.
    MissingTarget,
}

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// What is different.
    pub kind: DifferenceKind,
    /// The key's values in key order; empty for a table without a key.
    #[serde(serialize_with = "as_texts")]
    pub key: Vec<Value>,
    /// The columns that differ, if both sides have the row.
    pub columns: Vec<String>,
    /// How many rows: above one only where rows without a key are alike.
    pub rows: u64,
}

/// Whether a table's two sides are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValidationState {
    /// Every row of either side is on the other, value for value.
    Validated,
    /// Some rows differ.
    Mismatched,
    /// The table could not be compared.
    Error,
}

/// The comparison of one table.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct TableValidation {
    /// The table's name at the target.
    #[serde(serialize_with = "as_text")]
    pub name: TableName,
    /// How it ended.
    pub state: ValidationState,
    /// Rows of the source.
    pub source_rows: u64,
    /// Rows of the target.
    pub target_rows: u64,
    /// The differing keys, up to the number asked for.
    pub differences: Vec<Difference>,
    /// Whether there may be more differences than listed.
    pub more: bool,
    /// Why it could not be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl TableValidation {
    pub(super) fn new(
        name: TableName,
        (source_rows, target_rows): (u64, u64),
        differences: Vec<Difference>,
        complete: bool,
        differs: bool,
    ) -> Self {
        let state = if differs { ValidationState::Mismatched } else { ValidationState::Validated };
        Self { name, state, source_rows, target_rows, differences, more: !complete, error: None }
    }

    pub(super) fn failed(name: TableName, error: &Error) -> Self {
        Self {
            name,
            state: ValidationState::Error,
            source_rows: 0,
            target_rows: 0,
            differences: Vec::new(),
            more: false,
            error: Some(error.to_string()),
        }
    }
}

/// The comparison of a task's tables.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ValidationReport {
    /// Its tables, by name.
    pub tables: Vec<TableValidation>,
}

impl ValidationReport {
    /// Whether every table is equal on both sides.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.tables.iter().all(|table| table.state == ValidationState::Validated)
    }
}

impl fmt::Display for ValidationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            let TableValidation { name, source_rows, target_rows, .. } = table;
            match table.state {
                ValidationState::Validated => writeln!(f, "{name}: equal, {source_rows} rows")?,
                ValidationState::Error => {
                    writeln!(f, "{name}: {}", table.error.as_deref().unwrap_or("not compared"))?;
                }
                ValidationState::Mismatched => {
                    writeln!(
                        f,
                        "{name}: differs, {source_rows} rows at the source, {target_rows} at the target"
                    )?;
                    for difference in &table.differences {
                        writeln!(f, "  {difference}")?;
                    }
                    if table.more {
                        writeln!(f, "  … and more")?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            DifferenceKind::RecordDiff => "differs",
            DifferenceKind::MissingSource => "only on the target",
            DifferenceKind::MissingTarget => "only on the source",
        };
        if self.key.is_empty() {
            return write!(f, "{} row(s) without a key: {what}", self.rows);
        }
        let key: Vec<String> = self.key.iter().map(ToString::to_string).collect();
        write!(f, "key ({}): {what}", key.join(", "))?;
        if !self.columns.is_empty() {
            write!(f, " in {}", self.columns.join(", "))?;
        }
        if self.rows > 1 {
            write!(f, ", {} rows", self.rows)?;
        }
        Ok(())
    }
}

fn as_text<S: Serializer>(name: &TableName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

fn as_texts<S: Serializer>(key: &[Value], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(key.iter().map(ToString::to_string))
}
