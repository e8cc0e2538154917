//! Splitting a table, and a partition as SQL.

use dms_core::endpoint::{Partition, PartitionGoal, PartitionRange};
use dms_core::mapping::{Filter, FilterOperator, ParallelLoad, ranges};
use dms_core::schema::{LogicalType, TableKind, TableName, TableSchema};
use dms_core::value::Value;
use dms_core::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::error::convert;
use crate::sql::quote;

/// The first version that seeks to a range of pages instead of scanning all of them.
const SEEKS_PAGES: u32 = 140_000;

/// Pages of a table or of one of its partitions; the token of a native range.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// The partition that holds the rows: schema and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaf: Option<(String, String)>,
    /// The first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<i64>,
    /// The page after the last; rows that come later are beyond the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<i64>,
}

impl Part {
    /// The part that a range means; all of the table for ranges of columns.
    pub(super) fn of(range: &PartitionRange) -> Result<Self> {
        match range {
            PartitionRange::Native(token) => serde_json::from_str(token).map_err(|_| {
                Error::settings(format!("partition {token:?} is not one of a PostgreSQL table"))
            }),
            _ => Ok(Self::default()),
        }
    }

    /// The table that holds the rows.
    pub(super) fn read(&self, table: &TableName) -> TableName {
        match &self.leaf {
            Some((schema, name)) => TableName::new(schema, name),
            None => table.clone(),
        }
    }

    pub(super) fn relation(&self, table: &TableName) -> String {
        match &self.leaf {
            Some((schema, name)) => format!("ONLY {}.{}", quote(schema), quote(name)),
            None => format!("{}.{}", quote(&table.schema), quote(&table.name)),
        }
    }
}

/// The columns that a range compares.
pub(super) fn columns(range: &PartitionRange) -> &[String] {
    match range {
        PartitionRange::Columns { columns, .. } => columns,
        _ => &[],
    }
}

/// A table or partition with its pages.
struct Leaf {
    schema: String,
    name: String,
    pages: i64,
}

/// Splits a table; see [`dms_core::endpoint::Snapshot::partitions`].
pub(super) async fn split(
    client: &Client,
    version: u32,
    table: &TableSchema,
    goal: &PartitionGoal,
) -> Result<Vec<Partition>> {
    let whole = Partition { byte_estimate: table.byte_estimate, ..Partition::whole() };
    let named = match &goal.parallel_load {
        ParallelLoad::None => return Ok(vec![whole]),
        ParallelLoad::Ranges { columns, boundaries, names } => {
            return ranges(table, columns, boundaries, names);
        }
        ParallelLoad::Auto if table.kind == TableKind::View || version < SEEKS_PAGES => {
            return Ok(vec![whole]);
        }
        ParallelLoad::Auto => None,
        ParallelLoad::Partitions(named) => Some(named.as_deref()),
    };
    let (leaves, page_bytes) = leaves(client, &table.name).await?;
    let partition = |number: usize, part: &Part, pages: i64, name: Option<String>| {
        let token = serde_json::to_string(part)
            .map_err(|error| Error::unexpected("a partition cannot be named").with_source(error))?;
        Ok(Partition {
            number: u32::try_from(number).unwrap_or(u32::MAX),
            name,
            range: PartitionRange::Native(token),
            byte_estimate: u64::try_from(pages.saturating_mul(page_bytes)).ok(),
        })
    };
    let is_partitioned =
        leaves.iter().any(|leaf| leaf.schema != table.name.schema || leaf.name != table.name.name);
    let leaf_of = |leaf: &Leaf| is_partitioned.then(|| (leaf.schema.clone(), leaf.name.clone()));
    if let Some(named) = named {
        if !is_partitioned {
            return Err(Error::settings(
                "the table has no partitions; use parallel-load type ranges, or none",
            )
            .context("table", &table.name));
        }
        if let Some(missing) =
            named.and_then(|n| n.iter().find(|n| !leaves.iter().any(|leaf| leaf.name == **n)))
        {
            return Err(Error::settings(format!("the table has no partition {missing:?}"))
                .context("table", &table.name));
        }
        let wanted = |leaf: &&Leaf| named.is_none_or(|named| named.contains(&leaf.name));
        let parts = leaves.iter().filter(wanted).enumerate().map(|(number, leaf)| {
            let part = Part { leaf: leaf_of(leaf), from: None, to: None };
            partition(number, &part, leaf.pages, Some(leaf.name.clone()))
        });
        return parts.collect();
    }
    let pages: i64 = leaves.iter().map(|leaf| leaf.pages).sum();
    let at_most = i64::try_from(goal.at_most).unwrap_or(i64::MAX).max(1);
    let goal_pages = i64::try_from(goal.bytes).unwrap_or(i64::MAX) / page_bytes;
    // Each leaf is cut alone, which makes up to one part more of it.
    let room = (at_most - i64::try_from(leaves.len()).unwrap_or(0)).max(1);
    let step = goal_pages.max((pages + room - 1) / room).max(1);
    let mut parts = Vec::new();
    for leaf in &leaves {
        let mut from = 0;
        loop {
            let to = (from + step < leaf.pages).then_some(from + step);
            let part = Part { leaf: leaf_of(leaf), from: (from > 0).then_some(from), to };
            let length = to.unwrap_or(leaf.pages) - from;
            parts.push(partition(parts.len(), &part, length, None)?);
            match to {
                Some(to) => from = to,
                None => break,
            }
        }
    }
    if parts.len() > goal.at_most || parts.is_empty() {
        return Ok(vec![whole]);
    }
    Ok(parts)
}

/// The tables that hold the rows, and the bytes of a page. `pg_partition_tree` would lock them for
/// as long as the snapshot lives: an `ALTER TABLE` would wait for that, and readers for it.
async fn leaves(client: &Client, table: &TableName) -> Result<(Vec<Leaf>, i64)> {
    let failed = |error| convert(error, "the table's size cannot be read").context("table", table);
    let rows = client
        .query(
            "WITH RECURSIVE tree(oid, kind) AS ( \
                 SELECT c.oid, c.relkind FROM pg_catalog.pg_class c \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = $1 AND c.relname = $2 \
                 UNION ALL SELECT c.oid, c.relkind FROM tree t \
                 JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND t.kind = 'p' \
                     AND to_jsonb(i) @> '{\"inhdetachpending\": true}' IS NOT TRUE \
                 JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid) \
             SELECT n.nspname::text, c.relname::text, \
                 coalesce(pg_catalog.pg_relation_size(c.oid), 0) \
                     / current_setting('block_size')::int8, \
                 current_setting('block_size')::int8 \
             FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE t.kind <> 'p' ORDER BY 1, 2",
            &[&table.schema, &table.name],
        )
        .await
        .map_err(failed)?;
    let page_bytes = rows.first().map_or(8192, |row| row.get::<_, i64>(3)).max(1);
    let leaf = |row: &tokio_postgres::Row| Leaf {
        schema: row.get(0),
        name: row.get(1),
        pages: row.get(2),
    };
    Ok((rows.iter().map(leaf).collect(), page_bytes))
}

/// ` WHERE …` for what the server can tell as exactly as we do; the rest is chosen from what
/// arrives. Never fewer rows than wanted.
pub(super) fn condition(
    table: &TableSchema,
    part: &Part,
    range: &PartitionRange,
    filter: Option<&Filter>,
) -> String {
    let mut terms = Vec::new();
    terms.extend(part.from.map(|page| format!("ctid >= '({page},0)'::pg_catalog.tid")));
    terms.extend(part.to.map(|page| format!("ctid < '({page},0)'::pg_catalog.tid")));
    if let PartitionRange::Columns { columns, lower, upper } = range
        && let [only] = columns.as_slice()
    {
        let bound = |bound: &Option<Vec<Value>>| {
            bound.as_ref().and_then(|bound| integer(table, only, bound.first()?))
        };
        let name = quote(only);
        if let Some(lower) = bound(lower) {
            terms.push(format!("{name} >= {lower}"));
        }
        if let Some(upper) = bound(upper) {
            let null = if lower.is_none() { format!(" OR {name} IS NULL") } else { String::new() };
            terms.push(format!("({name} < {upper}{null})"));
        }
    }
    for (name, alternatives) in filter.iter().flat_map(|filter| &filter.columns) {
        let known: Option<Vec<String>> = alternatives
            .iter()
            .map(|condition| {
                let value = |at| integer(table, name, condition.values.get(at)?);
                let name = quote(name);
                Some(match condition.operator {
                    FilterOperator::Null => format!("{name} IS NULL"),
                    FilterOperator::NotNull => format!("{name} IS NOT NULL"),
                    FilterOperator::Eq => format!("{name} = {}", value(0)?),
                    FilterOperator::NotEq => format!("{name} <> {}", value(0)?),
                    FilterOperator::Gte => format!("{name} >= {}", value(0)?),
                    FilterOperator::Lte => format!("{name} <= {}", value(0)?),
                    FilterOperator::Between => {
                        format!("{name} BETWEEN {} AND {}", value(0)?, value(1)?)
                    }
                    FilterOperator::NotBetween => {
                        format!("{name} NOT BETWEEN {} AND {}", value(0)?, value(1)?)
                    }
                })
            })
            .collect();
        if let Some(known) = known.filter(|known| !known.is_empty()) {
            terms.push(format!("({})", known.join(" OR ")));
        }
    }
    if terms.is_empty() { String::new() } else { format!(" WHERE {}", terms.join(" AND ")) }
}

/// A value compared with an integer column, in SQL.
fn integer(table: &TableSchema, column: &str, value: &Value) -> Option<String> {
    let column = table.column(column).ok()?;
    let is_integer =
        matches!(column.logical_type, LogicalType::Int16 | LogicalType::Int32 | LogicalType::Int64);
    let number: i64 = match value {
        Value::Int(number) => *number,
        Value::Text(text) | Value::Decimal(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    is_integer.then(|| format!("'{number}'::pg_catalog.int8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_parts() {
        let part = Part { leaf: Some(("s".into(), "t".into())), from: Some(8), to: None };
        let token = serde_json::to_string(&part).unwrap();
        assert_eq!(token, r#"{"leaf":["s","t"],"from":8}"#);
        assert_eq!(Part::of(&PartitionRange::Native(token)).unwrap(), part);
        let wrong = Part::of(&PartitionRange::Native("1..2".into())).unwrap_err();
        assert!(wrong.to_string().contains("1..2"));
    }
}
