//! Splitting a table, and a partition as a condition of SQL.

use dms_core::endpoint::{Partition, PartitionGoal, PartitionRange};
use dms_core::mapping::{Filter, FilterCondition, FilterOperator, ParallelLoad, ranges};
use dms_core::schema::{Column, LogicalType, TableSchema};
use dms_core::value::Value;
use dms_core::{Error, Result};
use rusqlite::Connection;
use rusqlite::types::Value as Sql;

use super::discover::rowid_name;
use super::histogram::{Stretch, histogram};
use super::types::{self, Storage, is_ordered_alike};
use crate::sql::quote;

/// Rows below which a partition's fixed costs would show.
const PARTITION_ROWS_MIN: u64 = 50_000;
/// Partitions that keep every reader busy to a table's end, whatever its size in bytes.
const PARTITIONS_FOR_BALANCE: u64 = 8;
/// Stretches that show where even a very uneven table has its rows.
pub(super) const STRETCHES_MIN: usize = 64;

/// Splits a table; see [`dms_core::endpoint::Snapshot::partitions`].
pub(super) fn split(
    connection: &Connection,
    table: &TableSchema,
    goal: &PartitionGoal,
) -> Result<Vec<Partition>> {
    let whole = Partition { byte_estimate: table.byte_estimate, ..Partition::whole() };
    match &goal.parallel_load {
        ParallelLoad::None => Ok(vec![whole]),
        ParallelLoad::Partitions(_) => Err(Error::settings(
            "SQLite has no physical partitions; use parallel-load type ranges, or none",
        )),
        ParallelLoad::Ranges { columns, boundaries, names } => {
            ranges(table, columns, boundaries, names)
        }
        ParallelLoad::Auto => {
            let Some(column) = split_column(table) else { return Ok(vec![whole]) };
            let wanted = wanted(table, goal);
            if wanted == 1 {
                return Ok(vec![whole]);
            }
            let name = format!("main.{}", quote(&table.name.name));
            let finest = wanted.saturating_mul(4).max(STRETCHES_MIN);
            let stretches = histogram(connection, &name, &quote(&column), finest)?;
            Ok(by_starts(table, &column, &starts(&stretches, wanted)))
        }
    }
}

/// The integer column that a table is split by: its rowid, or the first column of its key.
pub(super) fn split_column(table: &TableSchema) -> Option<String> {
    if let Some(rowid) = rowid_name(table) {
        return Some(rowid.to_owned());
    }
    let first = table.column(table.primary_key.first()?).ok()?;
    let integer = first.logical_type == LogicalType::Int64 && is_ordered_alike(first, true);
    integer.then(|| first.name.clone())
}

fn wanted(table: &TableSchema, goal: &PartitionGoal) -> usize {
    let by_bytes = table.byte_estimate.unwrap_or(0).div_ceil(goal.bytes.max(1));
    let rows = table.row_estimate.unwrap_or(0);
    let by_rows = rows.div_ceil(PARTITION_ROWS_MIN).min(PARTITIONS_FOR_BALANCE);
    usize::try_from(by_bytes.max(by_rows)).unwrap_or(usize::MAX).clamp(1, goal.at_most.max(1))
}

/// Where each of at most `wanted` partitions with about equally many rows starts.
fn starts(stretches: &[Stretch], wanted: usize) -> Vec<i64> {
    let total: u128 = stretches.iter().map(|stretch| u128::from(stretch.rows)).sum();
    let mut starts = Vec::new();
    let mut before: u128 = 0;
    for stretch in stretches {
        // The next one starts where the rows before it are its share.
        if before * (wanted as u128) >= total * (starts.len() as u128) {
            starts.push(stretch.low);
        }
        before += u128::from(stretch.rows);
    }
    starts
}

fn by_starts(table: &TableSchema, column: &str, starts: &[i64]) -> Vec<Partition> {
    let count = starts.len().max(1);
    let bytes = table.byte_estimate.map(|bytes| bytes / u64::try_from(count).unwrap_or(1));
    let bound = |index: usize| starts.get(index).map(|start| vec![Value::Int(*start)]);
    (0..count)
        .map(|index| Partition {
            number: u32::try_from(index).unwrap_or(u32::MAX),
            name: None,
            range: if count == 1 {
                PartitionRange::Whole
            } else {
                PartitionRange::Columns {
                    columns: vec![column.to_owned()],
                    // The ends are open: what is no integer has to fall somewhere too.
                    lower: (index > 0).then(|| bound(index)).flatten(),
                    upper: bound(index + 1),
                }
            },
            byte_estimate: bytes,
        })
        .collect()
}

/// A condition with its parameters, numbered from `?1`.
#[derive(Debug, Default)]
pub(super) struct Condition {
    terms: Vec<String>,
    pub(super) parameters: Vec<Sql>,
}

impl Condition {
    /// ` WHERE …`, or nothing.
    pub(super) fn clause(&self) -> String {
        if self.terms.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", self.terms.join(" AND "))
        }
    }

    fn parameter(&mut self, value: Sql) -> String {
        self.parameters.push(value);
        format!("?{}", self.parameters.len())
    }

    /// Adds the rows of a partition, if SQLite orders the columns as their types do; else says
    /// (`false`) that the range is left to be applied to what is read.
    pub(super) fn partition(
        &mut self,
        table: &TableSchema,
        range: &PartitionRange,
        utf8: bool,
    ) -> Result<bool> {
        let (columns, lower, upper) = match range {
            PartitionRange::Whole => return Ok(true),
            PartitionRange::Columns { columns, lower, upper } => (columns, lower, upper),
            PartitionRange::Native(token) => {
                return Err(Error::settings(format!(
                    "partition {token:?} is not one of a SQLite table"
                )));
            }
        };
        // Beside the table's columns there is only its rowid.
        let ordered = |name: &String| match table.column(name) {
            Ok(column) => is_ordered_alike(column, utf8),
            Err(_) => rowid_name(table) == Some(name.as_str()),
        };
        if !columns.iter().all(ordered) {
            return Ok(false);
        }
        let names = columns.iter().map(|name| compared(name, table.column(name).ok()));
        let names = names.collect::<Vec<_>>().join(", ");
        let mut inside = Vec::new();
        for (bound, comparison) in [(lower, ">="), (upper, "<")] {
            let Some(bound) = bound else { continue };
            let values = columns.iter().zip(bound).map(|(column, value)| {
                let value = sql_value(value, table.column(column).ok());
                self.parameter(value)
            });
            let values: Vec<String> = values.collect();
            inside.push(format!("({names}) {comparison} ({})", values.join(", ")));
        }
        // The rowid is never NULL, and a test for NULL would keep SQLite from seeking.
        let nullable = |name: &&String| table.column(name).is_ok_and(|column| column.nullable);
        let nulls: Vec<String> = columns.iter().filter(nullable).map(|name| column(name)).collect();
        let is_null = |what: &str, join: &str| {
            nulls.iter().map(|name| format!("{name} IS {what}")).collect::<Vec<_>>().join(join)
        };
        if !nulls.is_empty() && lower.is_none() {
            let inside = if inside.is_empty() { "TRUE".to_owned() } else { inside.join(" AND ") };
            self.terms.push(format!("({inside} OR {})", is_null("NULL", " OR ")));
            return Ok(true);
        }
        self.terms.extend(inside);
        if !nulls.is_empty() {
            self.terms.push(is_null("NOT NULL", " AND "));
        }
        Ok(true)
    }

    /// Adds a filter as far as SQLite compares as we do: never fewer rows than the filter passes.
    pub(super) fn filter(&mut self, table: &TableSchema, filter: &Filter, utf8: bool) {
        for (name, alternatives) in &filter.columns {
            let Ok(column) = table.column(name) else { continue };
            let parameters = self.parameters.len();
            let terms: Option<Vec<String>> = alternatives
                .iter()
                .map(|condition| self.condition(column, condition, utf8))
                .collect();
            match terms.filter(|terms| !terms.is_empty()) {
                Some(terms) => self.terms.push(format!("({})", terms.join(" OR "))),
                // A bound parameter that the statement does not have would be an error.
                None => self.parameters.truncate(parameters),
            }
        }
    }

    fn condition(
        &mut self,
        filtered: &Column,
        condition: &FilterCondition,
        utf8: bool,
    ) -> Option<String> {
        let name = column(&filtered.name);
        match condition.operator {
            FilterOperator::Null => return Some(format!("{name} IS NULL")),
            FilterOperator::NotNull => return Some(format!("{name} IS NOT NULL")),
            _ => {}
        }
        if !is_ordered_alike(filtered, utf8) {
            return None;
        }
        let name = compared(&filtered.name, Some(filtered));
        // A float may be a bound to SQLite and not to us (zeros by their sign, decimals of many
        // digits): asking for the others would leave it out.
        let exact = matches!(
            filtered.logical_type,
            LogicalType::Int64 | LogicalType::Text { .. } | LogicalType::Clob
        );
        let mut values = Vec::new();
        for value in &condition.values {
            values.push(self.parameter(sql_value(value, Some(filtered))));
        }
        Some(match (condition.operator, values.as_slice()) {
            (FilterOperator::Eq, [value]) => format!("{name} = {value}"),
            (FilterOperator::Gte, [value]) => format!("{name} >= {value}"),
            (FilterOperator::Lte, [value]) => format!("{name} <= {value}"),
            (FilterOperator::Between, [low, high]) => format!("{name} BETWEEN {low} AND {high}"),
            (FilterOperator::NotEq, [value]) if exact => format!("{name} <> {value}"),
            (FilterOperator::NotBetween, [low, high]) if exact => {
                format!("{name} NOT BETWEEN {low} AND {high}")
            }
            _ => return None,
        })
    }
}

/// A column of the table that is read. Always qualified: a bare quoted name that is not there would
/// be text to SQLite.
pub(super) fn column(name: &str) -> String {
    format!("t.{}", quote(name))
}

/// A column in comparisons: text byte by byte, whatever collation it declares.
fn compared(name: &str, described: Option<&Column>) -> String {
    let text = described.is_some_and(|described| {
        matches!(described.logical_type, LogicalType::Text { .. } | LogicalType::Clob)
    });
    if text { format!("{} COLLATE BINARY", column(name)) } else { column(name) }
}

/// A bound as SQLite stores values of the column's type; the rowid has no column.
fn sql_value(value: &Value, column: Option<&Column>) -> Sql {
    let number = |text: &str| match (text.trim().parse::<i64>(), text.trim().parse::<f64>()) {
        (Ok(integer), _) => Some(Sql::Integer(integer)),
        (_, Ok(real)) => Some(Sql::Real(real)),
        _ => None,
    };
    let numeric = column.is_none_or(|column| types::storage(column) != Storage::Text);
    match value {
        Value::Null => Sql::Null,
        Value::Bool(flag) => Sql::Integer((*flag).into()),
        Value::Int(integer) => Sql::Integer(*integer),
        Value::UInt(integer) => match i64::try_from(*integer) {
            Ok(integer) => Sql::Integer(integer),
            Err(_) => Sql::Text(integer.to_string()),
        },
        Value::Float(real) => Sql::Real(*real),
        Value::Decimal(text) | Value::Text(text) => {
            numeric.then(|| number(text)).flatten().unwrap_or_else(|| Sql::Text(text.clone()))
        }
        Value::Bytes(bytes) => Sql::Blob(bytes.clone()),
    }
}
