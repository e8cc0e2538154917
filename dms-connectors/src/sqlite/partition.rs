//! Splitting a table, and a partition as a condition of SQL.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use dms_core::endpoint::{Partition, PartitionGoal, PartitionRange};
use dms_core::mapping::{Filter, FilterCondition, FilterOperator, ParallelLoad, ranges};
use dms_core::schema::{Column, LogicalType, TableSchema};
use dms_core::value::Value;
use dms_core::{Error, Result};
use rusqlite::Connection;
use rusqlite::types::Value as Sql;

use super::discover::rowid_name;
use super::error::convert;
use super::types;
use crate::sql::{quote, quote_all};

/// Rows below which a partition's fixed costs would show.
const PARTITION_ROWS_MIN: u64 = 50_000;
/// Partitions that keep every reader busy to a table's end, whatever its size in bytes.
const PARTITIONS_FOR_BALANCE: u64 = 8;

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
            let starts = starts(connection, table, &column, wanted)?;
            Ok(by_starts(table, &column, &starts))
        }
    }
}

/// The integer column that a table is split by: its rowid, or the first column of its key.
fn split_column(table: &TableSchema) -> Option<String> {
    if let Some(rowid) = rowid_name(table) {
        return Some(rowid.to_owned());
    }
    let first = table.column(table.primary_key.first()?).ok()?;
    (first.logical_type == LogicalType::Int64).then(|| first.name.clone())
}

fn wanted(table: &TableSchema, goal: &PartitionGoal) -> usize {
    let by_bytes = table.byte_estimate.unwrap_or(0).div_ceil(goal.bytes.max(1));
    let rows = table.row_estimate.unwrap_or(u64::MAX);
    let by_rows = (rows / PARTITION_ROWS_MIN).min(PARTITIONS_FOR_BALANCE);
    usize::try_from(by_bytes.max(by_rows)).unwrap_or(usize::MAX).clamp(1, goal.at_most.max(1))
}

/// Where each of about `wanted` partitions starts, each at a value that exists, by halving the
/// widest stretch again and again and cutting what lies empty at its ends: gaps cost nothing.
fn starts(
    connection: &Connection,
    table: &TableSchema,
    column: &str,
    wanted: usize,
) -> Result<Vec<i64>> {
    let failed = |error| convert(error, "the table cannot be split");
    let (column, table) = (quote(column), quote(&table.name.name));
    // Only integers: other storage classes lie below or above all of them and fall to the ends.
    let seek = |function: &str, from: i64, to: i64| -> Result<Option<i64>> {
        let sql = format!(
            "SELECT {function}({column}) FROM main.{table} WHERE {column} >= ?1 AND {column} <= ?2"
        );
        let found = connection.query_row(&sql, [from, to], |row| row.get(0)).map_err(failed)?;
        Ok(if let Sql::Integer(found) = found { Some(found) } else { None })
    };
    let occupied = |from: i64, to: i64| -> Result<Option<(u64, Reverse<i64>, i64)>> {
        let (Some(low), Some(high)) = (seek("min", from, to)?, seek("max", from, to)?) else {
            return Ok(None);
        };
        Ok(Some((high.abs_diff(low), Reverse(low), high)))
    };
    let mut stretches = BinaryHeap::new();
    stretches.extend(occupied(i64::MIN, i64::MAX)?);
    while stretches.len() < wanted {
        match stretches.peek() {
            Some((width, ..)) if *width > 0 => {}
            _ => break,
        }
        let Some((width, Reverse(low), high)) = stretches.pop() else { break };
        // Half of a width always fits, and `low + half < high`.
        let middle = low.saturating_add_unsigned(width / 2);
        stretches.extend(occupied(low, middle)?);
        stretches.extend(occupied(middle.saturating_add(1), high)?);
    }
    let mut starts: Vec<i64> = stretches.into_iter().map(|(_, Reverse(low), _)| low).collect();
    starts.sort_unstable();
    Ok(starts)
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

    /// Adds the rows of a partition.
    pub(super) fn partition(&mut self, table: &TableSchema, range: &PartitionRange) -> Result<()> {
        let (columns, lower, upper) = match range {
            PartitionRange::Whole => return Ok(()),
            PartitionRange::Columns { columns, lower, upper } => (columns, lower, upper),
            PartitionRange::Native(token) => {
                return Err(Error::settings(format!(
                    "partition {token:?} is not one of a SQLite table"
                )));
            }
        };
        let mut inside = Vec::new();
        for (bound, comparison) in [(lower, ">="), (upper, "<")] {
            let Some(bound) = bound else { continue };
            let values = columns.iter().zip(bound).map(|(column, value)| {
                let value = sql_value(value, table.column(column).ok());
                self.parameter(value)
            });
            let values: Vec<String> = values.collect();
            inside.push(format!("({}) {comparison} ({})", quote_all(columns), values.join(", ")));
        }
        // The rowid is never NULL, and a test for NULL would keep SQLite from seeking.
        let nullable = |name: &&String| table.column(name).is_ok_and(|column| column.nullable);
        let nulls: Vec<String> = columns.iter().filter(nullable).map(|name| quote(name)).collect();
        let is_null = |what: &str, join: &str| {
            nulls.iter().map(|name| format!("{name} IS {what}")).collect::<Vec<_>>().join(join)
        };
        if !nulls.is_empty() && lower.is_none() {
            let inside = if inside.is_empty() { "TRUE".to_owned() } else { inside.join(" AND ") };
            self.terms.push(format!("({inside} OR {})", is_null("NULL", " OR ")));
            return Ok(());
        }
        self.terms.extend(inside);
        if !nulls.is_empty() {
            self.terms.push(is_null("NOT NULL", " AND "));
        }
        Ok(())
    }

    /// Adds a filter as far as SQLite compares as we do: never fewer rows than the filter passes.
    pub(super) fn filter(&mut self, table: &TableSchema, filter: &Filter) {
        for (name, alternatives) in &filter.columns {
            let Ok(column) = table.column(name) else { continue };
            let terms: Option<Vec<String>> =
                alternatives.iter().map(|condition| self.condition(column, condition)).collect();
            if let Some(terms) = terms.filter(|terms| !terms.is_empty()) {
                self.terms.push(format!("({})", terms.join(" OR ")));
            }
        }
    }

    fn condition(&mut self, column: &Column, condition: &FilterCondition) -> Option<String> {
        let name = quote(&column.name);
        match condition.operator {
            FilterOperator::Null => return Some(format!("{name} IS NULL")),
            FilterOperator::NotNull => return Some(format!("{name} IS NOT NULL")),
            _ => {}
        }
        let pushed = match column.logical_type {
            LogicalType::Int64 | LogicalType::Float64 => true,
            LogicalType::Decimal { precision, scale } => types::decimal_as_number(precision, scale),
            LogicalType::Text { .. } | LogicalType::Clob => true,
            _ => false,
        };
        if !pushed {
            return None;
        }
        let mut values = Vec::new();
        for value in &condition.values {
            values.push(self.parameter(sql_value(value, Some(column))));
        }
        // Text is compared byte by byte, whatever collation the column declares.
        let name = format!("{name} COLLATE BINARY");
        Some(match (condition.operator, values.as_slice()) {
            (FilterOperator::Eq, [value]) => format!("{name} = {value}"),
            (FilterOperator::NotEq, [value]) => format!("{name} <> {value}"),
            (FilterOperator::Gte, [value]) => format!("{name} >= {value}"),
            (FilterOperator::Lte, [value]) => format!("{name} <= {value}"),
            (FilterOperator::Between, [low, high]) => format!("{name} BETWEEN {low} AND {high}"),
            (FilterOperator::NotBetween, [low, high]) => {
                format!("{name} NOT BETWEEN {low} AND {high}")
            }
            _ => return None,
        })
    }
}

/// A bound as SQLite stores values of the column's type.
fn sql_value(value: &Value, column: Option<&Column>) -> Sql {
    let number = |text: &str| match (text.trim().parse::<i64>(), text.trim().parse::<f64>()) {
        (Ok(integer), _) => Some(Sql::Integer(integer)),
        (_, Ok(real)) => Some(Sql::Real(real)),
        _ => None,
    };
    let numeric = column.is_none_or(|column| match column.logical_type {
        LogicalType::Int64 | LogicalType::Float64 | LogicalType::Numeric => true,
        LogicalType::Decimal { precision, scale } => types::decimal_as_number(precision, scale),
        _ => false,
    });
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
