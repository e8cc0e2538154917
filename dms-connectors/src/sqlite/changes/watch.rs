//! A table as capture knows it: its columns, what identifies its rows, and what else makes a row
//! give way to another.

use std::collections::BTreeMap;

use dms_core::schema::{TableKind, TableSchema};
use dms_core::{Error, ErrorKind, Result};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::sql::quote;
use crate::sqlite::error::convert;

/// A table that is watched, as it was when its capture began or went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Watch {
    /// Its number in the log.
    pub(super) number: u32,
    /// Its name.
    pub(super) table: String,
    pub(super) columns: Vec<WatchedColumn>,
    /// The columns that identify rows.
    pub(super) key: Vec<Part>,
    /// Whether the key is the rowid itself, an integer that is never NULL.
    pub(super) rowid_key: bool,
    /// Every unique index whose collision could remove a row, that of the key included.
    pub(super) unique: Vec<Unique>,
    /// The page that the table began at, which is another one when it was built anew.
    pub(super) root: i64,
    /// `PRAGMA schema_version` at that time; each change of the schema raises it by one.
    pub(super) schema_version: i64,
}

/// A column by an identity of our own, which survives a rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WatchedColumn {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) declaration: String,
    pub(super) generated: bool,
}

/// A unique index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unique {
    pub(super) parts: Vec<Part>,
    /// Which rows it holds, as SQL, if not all of them.
    pub(super) condition: Option<String>,
}

/// A column of a unique index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// The column's identity.
    pub(super) column: u32,
    /// How the index compares it.
    pub(super) collation: String,
    /// What REPLACE puts for a NULL in the column, as SQL.
    pub(super) default: Option<String>,
}

impl Watch {
    /// The name of a column by its identity.
    pub(super) fn name(&self, id: u32) -> Result<&str> {
        let column = self.columns.iter().find(|column| column.id == id);
        column.map(|column| column.name.as_str()).ok_or_else(|| {
            Error::schema("a column of the table's key is gone").context("table", &self.table)
        })
    }

    /// The names of the key's columns.
    pub(super) fn key_names(&self) -> Result<Vec<&str>> {
        self.key.iter().map(|part| self.name(part.column)).collect()
    }

    /// Watches a table as it is now.
    pub(super) fn of(connection: &Connection, table: &TableSchema, number: u32) -> Result<Self> {
        let ids = BTreeMap::new();
        let seen = Seen::of(connection, &table.name.name, &ids)?;
        let (key, rowid_key) = seen.key(table)?;
        let watch = Self {
            number,
            table: table.name.name.clone(),
            key,
            rowid_key,
            unique: seen.unique()?,
            columns: seen.columns,
            root: root(connection, &table.name.name)?,
            schema_version: schema_version(connection)?,
        };
        Ok(watch)
    }

    /// Refuses rows without a value in a key whose columns may be NULL: nothing identifies them.
    pub(super) fn check_nulls(&self, connection: &Connection, table: &TableSchema) -> Result<()> {
        let names = self.key_names()?;
        let nullable = |name: &&str| table.column(name).is_ok_and(|column| column.nullable);
        if names.iter().any(nullable) { self.refuse_nulls(connection) } else { Ok(()) }
    }

    /// Refuses rows without a value in the key.
    pub(super) fn refuse_nulls(&self, connection: &Connection) -> Result<()> {
        let nulls = self.key_names()?.into_iter().map(|name| format!("{} IS NULL", quote(name)));
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM main.{} WHERE {})",
            quote(&self.table),
            nulls.collect::<Vec<_>>().join(" OR ")
        );
        let found: bool = connection
            .query_row(&sql, [], |row| row.get(0))
            .map_err(|error| convert(error, "the table's key cannot be examined"))?;
        if found { Err(null_key(&self.table)) } else { Ok(()) }
    }
}

/// The error of a row that nothing identifies.
fn null_key(table: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "a row has NULL in its key, so that its changes cannot be followed; give the key's columns \
         values and declare them NOT NULL, or exclude the table",
    )
    .context("table", format!("main.{table}"))
}

/// The page that a table begins at.
pub(super) fn root(connection: &Connection, table: &str) -> Result<i64> {
    connection
        .query_row(
            "SELECT rootpage FROM main.sqlite_schema WHERE type = 'table' AND name = ?1",
            [table],
            |row| row.get(0),
        )
        .map_err(|error| convert(error, "the table's place in the file cannot be read"))
}

/// Grows with each change of the schema.
pub(super) fn schema_version(connection: &Connection) -> Result<i64> {
    connection
        .query_row("PRAGMA main.schema_version", [], |row| row.get(0))
        .map_err(|error| convert(error, "the schema's version cannot be read"))
}

/// A table as the file describes it now.
pub(super) struct Seen {
    pub(super) columns: Vec<WatchedColumn>,
    /// By the identity of a column: whether it must have a value, and its default.
    rules: BTreeMap<u32, (bool, Option<String>)>,
    indexes: Vec<Index>,
}

struct Index {
    name: String,
    /// `pk`: that of the primary key.
    origin: String,
    /// Of a partial index.
    condition: Option<String>,
    /// The columns' identities with their collations; `None` for an expression.
    parts: Vec<(Option<u32>, String)>,
}

impl Seen {
    /// Reads what the file says of a table; `ids` are the identities of columns by name, and others
    /// are numbered behind them.
    pub(super) fn of(
        connection: &Connection,
        table: &str,
        ids: &BTreeMap<String, u32>,
    ) -> Result<Self> {
        let failed = |error| convert(error, "the table's columns cannot be read");
        let mut next = ids.values().max().map_or(1, |id| id + 1);
        let mut statement = connection
            .prepare_cached(
                "SELECT name, type, hidden IN (2, 3), \"notnull\", dflt_value \
                 FROM pragma_table_xinfo(?1, 'main')",
            )
            .map_err(failed)?;
        let mut seen = Self { columns: Vec::new(), rules: BTreeMap::new(), indexes: Vec::new() };
        let mut rows = statement.query([table]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let name: String = row.get(0).map_err(failed)?;
            let id = ids.get(&name).copied().unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            let rule = (row.get(3).map_err(failed)?, row.get(4).map_err(failed)?);
            seen.rules.insert(id, rule);
            seen.columns.push(WatchedColumn {
                id,
                name,
                declaration: row.get(1).map_err(failed)?,
                generated: row.get(2).map_err(failed)?,
            });
        }
        seen.indexes = indexes(connection, table, &seen.columns)?;
        Ok(seen)
    }

    /// The columns that identify rows for ever, and whether they are the rowid's alias.
    fn key(&self, table: &TableSchema) -> Result<(Vec<Part>, bool)> {
        if table.kind == TableKind::View {
            return Err(unsupported("a view has no changes of its own; exclude it", &table.name));
        }
        if let Some(index) = self.indexes.iter().find(|index| index.origin == "pk") {
            return Ok((self.parts(index)?, false));
        }
        if let [only] = table.primary_key.as_slice() {
            let id = self.columns.iter().find(|column| column.name == *only).map(|c| c.id);
            let part =
                id.map(|column| Part { column, collation: "BINARY".to_owned(), default: None });
            return Ok((part.into_iter().collect(), true));
        }
        let required = |(id, _): &(Option<u32>, String)| {
            let column = self.columns.iter().find(|column| Some(column.id) == *id);
            column.is_some_and(|c| !c.generated)
                && id.and_then(|id| self.rules.get(&id)).is_some_and(|rule| rule.0)
        };
        let index =
            self.indexes.iter().find(|i| i.condition.is_none() && i.parts.iter().all(required));
        match index {
            Some(index) => Ok((self.parts(index)?, false)),
            None => Err(unsupported(
                "the table has no key that identifies its rows for ever (VACUUM may renumber \
                 rowids); declare a PRIMARY KEY or a UNIQUE key of NOT NULL columns, or exclude \
                 the table",
                &table.name,
            )),
        }
    }

    /// Every unique index, as REPLACE may remove a row for the sake of any of them.
    pub(super) fn unique(&self) -> Result<Vec<Unique>> {
        let indexes = self.indexes.iter().map(|index| {
            Ok(Unique { parts: self.parts(index)?, condition: index.condition.clone() })
        });
        indexes.collect()
    }

    fn parts(&self, index: &Index) -> Result<Vec<Part>> {
        let refuse = |what: &str| {
            let message = format!(
                "a unique index {what} cannot be watched for rows that REPLACE removes; drop the \
                 index, make it a plain one, or exclude the table"
            );
            Error::new(ErrorKind::Unsupported, message).context("index", &index.name)
        };
        if index.condition.as_deref() == Some("") {
            return Err(refuse("whose WHERE clause is not understood"));
        }
        let parts = index.parts.iter().map(|(id, collation)| {
            let column = self.columns.iter().find(|column| Some(column.id) == *id);
            let column = column.ok_or_else(|| refuse("over an expression"))?;
            if column.generated {
                return Err(refuse("over a generated column"));
            }
            let rule = self.rules.get(&column.id);
            let default = rule.filter(|rule| rule.0).and_then(|rule| rule.1.as_deref());
            let collation = collation.to_ascii_uppercase();
            Ok(Part { column: column.id, collation, default: default.map(as_expression) })
        });
        parts.collect()
    }
}

fn unsupported(message: &str, table: &dms_core::schema::TableName) -> Error {
    Error::new(ErrorKind::Unsupported, message).context("table", table)
}

/// A DEFAULT clause as an expression: a bare or quoted word there means text.
fn as_expression(default: &str) -> String {
    const WORDS: &[&str] =
        &["NULL", "TRUE", "FALSE", "CURRENT_TIME", "CURRENT_DATE", "CURRENT_TIMESTAMP"];
    let word = default.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !default.starts_with(|c: char| c.is_ascii_digit());
    let quoted = default.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match quoted {
        Some(text) => format!("'{}'", text.replace("\"\"", "\"").replace('\'', "''")),
        None if word && !WORDS.contains(&default.to_ascii_uppercase().as_str()) => {
            format!("'{default}'")
        }
        None => format!("({default})"),
    }
}

fn indexes(connection: &Connection, table: &str, columns: &[WatchedColumn]) -> Result<Vec<Index>> {
    let failed = |error| convert(error, "the table's indexes cannot be read");
    let mut statement = connection
        .prepare_cached(
            "SELECT name, origin, partial, \
             (SELECT sql FROM main.sqlite_schema AS s WHERE s.type = 'index' AND s.name = l.name) \
             FROM pragma_index_list(?1, 'main') AS l \
             WHERE \"unique\" ORDER BY origin <> 'pk', name",
        )
        .map_err(failed)?;
    let listed = statement
        .query_map([table], |row| {
            let partial: bool = row.get(2)?;
            let sql = row.get::<_, Option<String>>(3)?.unwrap_or_default();
            let condition = partial.then(|| condition(&sql).to_owned());
            Ok((row.get(0)?, row.get(1)?, condition))
        })
        .and_then(Iterator::collect::<rusqlite::Result<Vec<(String, String, Option<String>)>>>)
        .map_err(failed)?;
    let mut parts = connection
        .prepare_cached(
            "SELECT name, coll FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno",
        )
        .map_err(failed)?;
    let mut indexes = Vec::new();
    for (name, origin, condition) in listed {
        let found = parts
            .query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<(Option<String>, String)>>>)
            .map_err(failed)?;
        let id = |name: String| columns.iter().find(|column| column.name == name).map(|c| c.id);
        let parts = found.into_iter().map(|(name, coll)| (name.and_then(id), coll)).collect();
        indexes.push(Index { name, origin, condition, parts });
    }
    Ok(indexes)
}

/// The WHERE clause of a CREATE INDEX statement, without the word; empty if there is none.
fn condition(sql: &str) -> &str {
    let (mut depth, mut rest) = (0usize, sql);
    while let Some(first) = rest.chars().next() {
        let quoted = |end: &str, at: usize| {
            let text = rest.get(at..).unwrap_or_default();
            text.find(end).map_or(rest.len(), |length| at + length + end.len())
        };
        let length = match first {
            // A doubled quote ends one name and begins another, which comes to the same.
            '\'' | '"' | '`' => quoted(&first.to_string(), 1),
            '[' => quoted("]", 1),
            '-' if rest.starts_with("--") => quoted("\n", 2),
            '/' if rest.starts_with("/*") => quoted("*/", 2),
            c if c.is_alphanumeric() || c == '_' => {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
                let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
                if depth == 0 && word.eq_ignore_ascii_case("where") {
                    return after.trim();
                }
                word.len()
            }
            other => {
                depth = match other {
                    '(' => depth + 1,
                    ')' => depth.saturating_sub(1),
                    _ => depth,
                };
                other.len_utf8()
            }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_of_an_index_is_found_behind_its_columns() {
        for (sql, expected) in [
            ("CREATE UNIQUE INDEX i ON t (a)", ""),
            ("CREATE UNIQUE INDEX i ON t (a) WHERE b IS NULL", "b IS NULL"),
            ("CREATE UNIQUE INDEX \"a where b\" ON [x where] (a)\nwhere(b > 1)", "(b > 1)"),
            (
                "CREATE INDEX i ON t (a /* ) where */) -- where\n WHERE c = ' where '",
                "c = ' where '",
            ),
            ("CREATE INDEX 'it''s where' ON `w``here` (((a))) WHERE\tx", "x"),
            ("CREATE INDEX i ON nowhere (where_a)", ""),
            ("CREATE INDEX i ON t (a) -- where", ""),
        ] {
            assert_eq!(condition(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_default_is_an_expression_that_means_the_same() {
        for (default, expected) in [
            ("word", "'word'"),
            ("\"a'\"\"b\"", "'a''\"b'"),
            ("'x'", "('x')"),
            ("-1.5", "(-1.5)"),
            ("CURRENT_TIMESTAMP", "(CURRENT_TIMESTAMP)"),
            ("1 + 2", "(1 + 2)"),
            ("true", "(true)"),
            ("x'00'", "(x'00')"),
        ] {
            assert_eq!(as_expression(default), expected);
        }
    }
}
