//! What a table is: its name, columns, keys and size, in the words of no engine.

mod logical_type;

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

pub use logical_type::{LogicalType, TEMPORAL_PRECISION_MAX};

use crate::{Error, ErrorKind, Result};

/// The name of a table as its endpoint stores it: case and all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    /// The schema (for MySQL the database, for SQLite `main`, for a folder the first folder).
    pub schema: String,
    /// The table's own name.
    pub name: String,
}

impl TableName {
    /// A table's full name.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A column's type in its own engine's words, kept so that the same engine gets it back verbatim.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NativeType {
    /// The connector's name: `sqlite`, `postgres`, …
    pub engine: String,
    /// The declaration, e.g. `VARCHAR(10)`.
    pub declaration: String,
}

/// One column of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Column {
    /// The name as stored.
    pub name: String,
    /// What its values are.
    #[serde(rename = "type")]
    pub logical_type: LogicalType,
    /// Whether NULL is legal.
    pub nullable: bool,
    /// The type in the words of the engine it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native_type: Option<NativeType>,
    /// Whether the engine computes the value (generated column): it is not written to a target
    /// that computes it too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generated: bool,
    /// Whether the engine numbers rows that are inserted without a value (identity, serial,
    /// auto-increment): a target that does so too goes on behind the greatest number it holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_increment: bool,
    /// What its source knows it by, which survives a rename and which no other column of the table
    /// ever has (PostgreSQL: `attnum`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
}

impl Column {
    /// A nullable column.
    pub fn new(name: impl Into<String>, logical_type: LogicalType) -> Self {
        Self {
            name: name.into(),
            logical_type,
            nullable: true,
            native_type: None,
            generated: false,
            auto_increment: false,
            id: None,
        }
    }

    /// The same column, not nullable.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.nullable = false;
        self
    }

    /// The same column with its type in an engine's words.
    #[must_use]
    pub fn with_native_type(
        mut self,
        engine: impl Into<String>,
        declaration: impl Into<String>,
    ) -> Self {
        self.native_type =
            Some(NativeType { engine: engine.into(), declaration: declaration.into() });
        self
    }

    /// The declaration, if it is in the words of `engine`.
    #[must_use]
    pub fn native_in(&self, engine: &str) -> Option<&str> {
        self.native_type.as_ref().filter(|n| n.engine == engine).map(|n| n.declaration.as_str())
    }
}

/// A unique index, by the names of its columns in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UniqueIndex {
    /// The index's name at the source.
    pub name: String,
    /// Its columns, in index order.
    pub columns: Vec<String>,
}

/// What kind of relation a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableKind {
    /// A base table.
    #[default]
    Table,
    /// A view: full load only.
    View,
}

/// The shape of one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TableSchema {
    /// Its name.
    pub name: TableName,
    /// Table or view.
    #[serde(default)]
    pub kind: TableKind,
    /// Its columns, in the table's order.
    pub columns: Vec<Column>,
    /// The primary key's columns in key order; empty without one.
    #[serde(default)]
    pub primary_key: Vec<String>,
    /// Unique indexes besides the primary key.
    #[serde(default)]
    pub unique_indexes: Vec<UniqueIndex>,
    /// An estimate of its rows; `None` when unknown. Never relied on for correctness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_estimate: Option<u64>,
    /// An estimate of its bytes at the source; `None` when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub byte_estimate: Option<u64>,
    /// What the table's own engine would need to build it alike (SQLite: `WITHOUT ROWID`), in that
    /// engine's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native_options: Option<NativeType>,
    /// What its source knows it by, which another table of the same name does not have (PostgreSQL:
    /// `oid`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// The greatest [`id`](Column::id) of a column that it has or has had, those included that are
    /// left out here: columns that come later have greater ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_column: Option<u32>,
}

impl TableSchema {
    /// A table of these columns, without keys.
    #[must_use]
    pub fn new(name: TableName, columns: Vec<Column>) -> Self {
        Self {
            name,
            kind: TableKind::Table,
            columns,
            primary_key: Vec::new(),
            unique_indexes: Vec::new(),
            row_estimate: None,
            byte_estimate: None,
            native_options: None,
            id: None,
            last_column: None,
        }
    }

    /// The same table with a primary key over these columns.
    #[must_use]
    pub fn with_primary_key<S: Into<String>>(
        mut self,
        columns: impl IntoIterator<Item = S>,
    ) -> Self {
        self.primary_key = columns.into_iter().map(Into::into).collect();
        self
    }

    /// The place of a column by name, matched exactly.
    #[must_use]
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// A column by name, matched exactly.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] names the table and the column.
    pub fn column(&self, name: &str) -> Result<&Column> {
        self.columns.iter().find(|column| column.name == name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("table has no column {name:?}"))
                .context("table", &self.name)
        })
    }

    /// The shape of this table's record batches: one field a column, in order, each of its logical
    /// type's one Arrow type.
    #[must_use]
    pub fn arrow_schema(&self) -> SchemaRef {
        let fields = self.columns.iter().map(|column| {
            Field::new(&column.name, column.logical_type.arrow_type(), column.nullable)
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

/// What an endpoint holds, as far as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// Its tables, ordered by name.
    pub tables: Vec<TableSchema>,
}

impl Catalog {
    /// A table by its full name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] names the table.
    pub fn table(&self, name: &TableName) -> Result<&TableSchema> {
        self.tables.iter().find(|table| table.name == *name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "there is no such table").context("table", name)
        })
    }
}
