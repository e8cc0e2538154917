//! Order-independent checksums of a table, apart for ranges of its key.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch};

use super::canonical::{hash_column, join};
use crate::schema::TableSchema;
use crate::value::Value;

/// Ranges that are kept apart at the most; when there are more, two become one.
const BUCKETS_MAX: usize = 1 << 16;

/// Sum of row hashes, and how many: equal multisets of rows give equal sums in any order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    hash: u128,
    rows: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.hash = self.hash.wrapping_add(other.hash);
        self.rows += other.rows;
    }
}

/// What rows are told apart by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bucketing {
    /// By ranges of the first key column, an integer: differing ranges can be read alone.
    Ranges,
    /// By a hash of these columns, or of the whole row when there are none.
    Hashes,
}

/// The rows of a batch as hashes.
pub(super) struct Hashed {
    /// One hash a column and row.
    pub(super) columns: Vec<Vec<u64>>,
    pub(super) rows: Vec<u128>,
    pub(super) keys: Vec<u128>,
}

pub(super) fn hash_batch(table: &TableSchema, batch: &RecordBatch) -> Hashed {
    let columns: Vec<Vec<u64>> = batch
        .columns()
        .iter()
        .zip(&table.columns)
        .map(|(array, column)| hash_column(array.as_ref(), &column.logical_type))
        .collect();
    let fold = |places: &[usize]| {
        let mut rows = vec![0u128; batch.num_rows()];
        for column in places.iter().filter_map(|place| columns.get(*place)) {
            rows.iter_mut().zip(column).for_each(|(row, hash)| *row = join(*row, *hash));
        }
        rows
    };
    let all: Vec<usize> = (0..columns.len()).collect();
    let rows = fold(&all);
    let key: Vec<usize> =
        table.primary_key.iter().filter_map(|name| table.column_index(name)).collect();
    let keys = if key.is_empty() { rows.clone() } else { fold(&key) };
    Hashed { columns, rows, keys }
}

/// The checksums of a table's rows.
#[derive(Debug, Clone)]
pub(super) struct Digest {
    bucketing: Bucketing,
    /// Range buckets hold `2^shift` keys each.
    shift: u32,
    buckets: BTreeMap<i64, Sum>,
}

impl Digest {
    pub(super) fn new(bucketing: Bucketing) -> Self {
        Self { bucketing, shift: 0, buckets: BTreeMap::new() }
    }

    /// Adds the rows of a batch.
    pub(super) fn add(&mut self, table: &TableSchema, batch: &RecordBatch) {
        let hashed = hash_batch(table, batch);
        let keys = match self.bucketing {
            Bucketing::Ranges => integer_keys(table, batch),
            Bucketing::Hashes => hashed.keys.iter().map(|key| hash_bucket(*key)).collect(),
        };
        // Neighbours mostly share a bucket, so the map is asked once for a run of them.
        let mut run: Option<(i64, Sum)> = None;
        for (key, hash) in keys.into_iter().zip(hashed.rows) {
            let bucket = self.bucket(key);
            let one = Sum { hash, rows: 1 };
            match &mut run {
                Some((current, sum)) if *current == bucket => sum.add(one),
                _ => {
                    self.take_run(run.take());
                    run = Some((self.bucket(key), one));
                }
            }
        }
        self.take_run(run);
    }

    fn bucket(&self, key: i64) -> i64 {
        match self.bucketing {
            Bucketing::Ranges => key >> self.shift,
            Bucketing::Hashes => key,
        }
    }

    fn take_run(&mut self, run: Option<(i64, Sum)>) {
        let Some((bucket, sum)) = run else { return };
        self.buckets.entry(bucket).or_default().add(sum);
        if self.buckets.len() > BUCKETS_MAX && self.bucketing == Bucketing::Ranges {
            self.widen(self.shift + 1);
        }
    }

    /// Makes buckets of `2^shift` keys.
    fn widen(&mut self, shift: u32) {
        let by = shift - self.shift;
        let mut wider: BTreeMap<i64, Sum> = BTreeMap::new();
        for (bucket, sum) in std::mem::take(&mut self.buckets) {
            wider.entry(bucket >> by).or_default().add(sum);
        }
        self.buckets = wider;
        self.shift = shift;
    }

    /// Adds the rows of another part of the same table.
    pub(super) fn merge(&mut self, mut other: Self) {
        let shift = self.shift.max(other.shift);
        self.widen(shift);
        other.widen(shift);
        for (bucket, sum) in other.buckets {
            self.buckets.entry(bucket).or_default().add(sum);
        }
        while self.bucketing == Bucketing::Ranges && self.buckets.len() > BUCKETS_MAX {
            self.widen(self.shift + 1);
        }
    }

    pub(super) fn rows(&self) -> u64 {
        self.buckets.values().map(|sum| sum.rows).sum()
    }

    /// The buckets in which two digests differ, as inclusive ranges of keys or of hash buckets.
    pub(super) fn differences(mut self, mut other: Self) -> Vec<(i64, i64)> {
        let shift = self.shift.max(other.shift);
        self.widen(shift);
        other.widen(shift);
        let mut buckets: Vec<i64> =
            self.buckets.keys().chain(other.buckets.keys()).copied().collect();
        buckets.sort_unstable();
        buckets.dedup();
        buckets.retain(|bucket| self.buckets.get(bucket) != other.buckets.get(bucket));
        let low = |bucket: i64| bucket << shift;
        let width = 1i64.checked_shl(shift).unwrap_or(i64::MAX);
        buckets.into_iter().map(|b| (low(b), low(b).saturating_add(width - 1))).collect()
    }
}

/// The hash bucket of a key.
pub(super) fn hash_bucket(key: u128) -> i64 {
    // 16 of its bits, which fit.
    i64::from(u16::from_le_bytes([key.to_le_bytes()[14], key.to_le_bytes()[15]]))
}

/// The values of the first key column, which `super::bucketing` has found to be an integer.
pub(super) fn integer_keys(table: &TableSchema, batch: &RecordBatch) -> Vec<i64> {
    let place = table.primary_key.first().and_then(|name| table.column_index(name));
    let column = place.and_then(|at| Some((table.columns.get(at)?, batch.columns().get(at)?)));
    let Some((column, array)) = column else { return vec![0; batch.num_rows()] };
    if let Some(values) =
        arrow::array::AsArray::as_primitive_opt::<arrow::array::types::Int64Type>(array.as_ref())
        && values.null_count() == 0
    {
        return values.values().to_vec();
    }
    (0..array.len())
        .map(|row| match Value::from_array(array.as_ref(), row, &column.logical_type) {
            Ok(Value::Int(key)) => key,
            Ok(Value::UInt(key)) => i64::try_from(key).unwrap_or(i64::MAX),
            _ => 0,
        })
        .collect()
}
