//! Finding the keys in ranges whose checksums differ.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use futures::StreamExt;

use super::Side;
use super::digest::{Bucketing, hash_batch, hash_bucket, integer_keys};
use super::report::{Difference, DifferenceKind};
use crate::Result;
use crate::endpoint::Partition;
use crate::schema::TableSchema;
use crate::value::Value;

/// Rows of either side that are held at once, at about 100 bytes and a key each.
const ROWS_AT_ONCE: usize = 1 << 20;
/// Hash buckets that are opened in one further scan.
const BUCKETS_AT_ONCE: usize = 4096;

/// Rows of one key.
struct Rows {
    key: Vec<Value>,
    /// Column hashes of the first of them.
    columns: Vec<u64>,
    /// How many rows there are of each row hash.
    counts: HashMap<u128, u64>,
}

/// The differing keys within `ranges`, at most `most` of them, and whether those are all.
pub(super) async fn find(
    source: &Side,
    target: &Side,
    bucketing: &Bucketing,
    ranges: &[(i64, i64)],
    most: usize,
) -> Result<(Vec<Difference>, bool)> {
    let mut found = Vec::new();
    let mut complete = true;
    let steps: Vec<&[(i64, i64)]> = match bucketing {
        Bucketing::Ranges => ranges.chunks(1).collect(),
        Bucketing::Hashes => ranges.chunks(BUCKETS_AT_ONCE).collect(),
    };
    for step in steps {
        if found.len() >= most {
            return Ok((found, false));
        }
        let (mut left, whole_left) = source.rows_in(bucketing, step).await?;
        let (right, whole_right) = target.rows_in(bucketing, step).await?;
        complete &= whole_left && whole_right;
        if !(whole_left && whole_right) {
            // A part of a side says nothing about what is missing on it.
            continue;
        }
        for (key, rows) in right {
            let other = left.remove(&key);
            found.extend(difference(&source.compared, other, Some(rows)));
        }
        found.extend(
            left.into_values().filter_map(|rows| difference(&source.compared, Some(rows), None)),
        );
    }
    found.sort_by(|a, b| {
        let text = |d: &Difference| d.key.iter().map(order).collect::<Vec<_>>();
        (a.kind, text(a)).partial_cmp(&(b.kind, text(b))).unwrap_or(std::cmp::Ordering::Equal)
    });
    complete &= found.len() <= most;
    found.truncate(most);
    Ok((found, complete))
}

/// Numbers by size, everything else by its text.
fn order(value: &Value) -> (i64, String) {
    match value {
        Value::Int(number) => (*number, String::new()),
        other => (i64::MAX, other.to_string()),
    }
}

fn difference(table: &TableSchema, left: Option<Rows>, right: Option<Rows>) -> Option<Difference> {
    let missing = |rows: Rows, kind| {
        let count = rows.counts.values().sum();
        Some(Difference { kind, key: rows.key, columns: Vec::new(), rows: count })
    };
    let (left, right) = match (left, right) {
        (Some(left), Some(right)) => (left, right),
        (Some(left), None) => return missing(left, DifferenceKind::MissingTarget),
        (None, Some(right)) => return missing(right, DifferenceKind::MissingSource),
        (None, None) => return None,
    };
    if left.counts == right.counts {
        return None;
    }
    let (on_source, on_target): (u64, u64) =
        (left.counts.values().sum(), right.counts.values().sum());
    let kind = match on_source.cmp(&on_target) {
        std::cmp::Ordering::Greater => DifferenceKind::MissingTarget,
        std::cmp::Ordering::Less => DifferenceKind::MissingSource,
        std::cmp::Ordering::Equal => DifferenceKind::RecordDiff,
    };
    let columns = if kind == DifferenceKind::RecordDiff && on_source == 1 {
        let pairs = left.columns.iter().zip(&right.columns).zip(&table.columns);
        pairs.filter(|((a, b), _)| a != b).map(|(_, column)| column.name.clone()).collect()
    } else {
        Vec::new()
    };
    let rows = on_source.abs_diff(on_target).max(1);
    Some(Difference { kind, key: left.key, columns, rows })
}

impl Side {
    /// The rows in these ranges by key, and whether they are all.
    async fn rows_in(
        &self,
        bucketing: &Bucketing,
        ranges: &[(i64, i64)],
    ) -> Result<(HashMap<u128, Rows>, bool)> {
        let mut rows = HashMap::new();
        let partition = match (bucketing, ranges) {
            (Bucketing::Ranges, [(low, high)]) => self.key_range(*low, *high),
            _ => None,
        };
        let mut stream = self.read(partition.unwrap_or_else(Partition::whole)).await?;
        while let Some(batch) = stream.next().await {
            self.collect(&batch?, bucketing, ranges, &mut rows)?;
            if rows.len() > ROWS_AT_ONCE {
                return Ok((rows, false));
            }
        }
        Ok((rows, true))
    }

    fn collect(
        &self,
        batch: &RecordBatch,
        bucketing: &Bucketing,
        ranges: &[(i64, i64)],
        rows: &mut HashMap<u128, Rows>,
    ) -> Result<()> {
        let hashed = hash_batch(&self.compared, batch);
        let places: Vec<i64> = match bucketing {
            Bucketing::Ranges => integer_keys(&self.compared, batch),
            Bucketing::Hashes => hashed.keys.iter().map(|key| hash_bucket(*key)).collect(),
        };
        let key_columns: Vec<usize> = self
            .compared
            .primary_key
            .iter()
            .filter_map(|name| self.compared.column_index(name))
            .collect();
        for (row, ((place, key), hash)) in
            places.iter().zip(&hashed.keys).zip(&hashed.rows).enumerate()
        {
            // Ranges are disjoint and ascend.
            let after = ranges.partition_point(|(low, _)| low <= place);
            let inside = after.checked_sub(1).and_then(|at| ranges.get(at));
            if inside.is_none_or(|(_, high)| place > high) {
                continue;
            }
            let found = match rows.entry(*key) {
                std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
                std::collections::hash_map::Entry::Vacant(empty) => {
                    let values = key_columns.iter().filter_map(|at| {
                        let (array, column) =
                            (batch.columns().get(*at)?, self.compared.columns.get(*at)?);
                        Some(Value::from_array(array.as_ref(), row, &column.logical_type))
                    });
                    let columns = hashed.columns.iter().filter_map(|c| c.get(row).copied());
                    empty.insert(Rows {
                        key: values.collect::<Result<_>>()?,
                        columns: columns.collect(),
                        counts: HashMap::new(),
                    })
                }
            };
            *found.counts.entry(*hash).or_default() += 1;
        }
        Ok(())
    }
}
