//! Validation on tables in memory, changed in every way that must be seen.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use proptest::prelude::*;

use super::*;
use crate::mapping::TableMapping;
use crate::memory::MemorySource;
use crate::schema::{Column, TableName};
use crate::value::Value;

type Row = (i64, Option<String>);

fn table(key: &[&str]) -> TableSchema {
    TableSchema::new(
        TableName::new("s", "t"),
        vec![
            Column::new("id", LogicalType::Int64).required(),
            Column::new("v", LogicalType::text()),
        ],
    )
    .with_primary_key(key.iter().copied())
}

/// The rows in batches of `step`.
fn source(key: &[&str], rows: &[Row], step: usize) -> Arc<MemorySource> {
    let source = MemorySource::default();
    let batches = rows.chunks(step.max(1)).map(|rows| {
        let ids: Int64Array = rows.iter().map(|row| Some(row.0)).collect();
        let values: StringArray = rows.iter().map(|row| row.1.as_deref()).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(values)];
        RecordBatch::try_new(table(key).arrow_schema(), columns).unwrap()
    });
    source.insert(table(key), batches.collect());
    Arc::new(source)
}

fn compare(key: &[&str], left: &[Row], right: &[Row], step: usize) -> TableValidation {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let plan = TableMapping::new().include("%", "%").plan(&table(key)).unwrap();
    let settings = TaskSettings { partition_bytes: 64, ..TaskSettings::default() };
    let validation = Validation::new(source(key, left, 3), source(key, right, step), vec![plan])
        .with_settings(settings);
    let report = runtime.block_on(validation.run(CancellationToken::new())).unwrap();
    report.tables.into_iter().next().unwrap()
}

fn rows(count: i64) -> Vec<Row> {
    (0..count).map(|id| (id * 7, (id % 5 != 0).then(|| format!("v{id}")))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn order_batches_and_partitions_do_not_matter(
        seed in any::<u64>(), step in 1usize..9, keyed: bool
    ) {
        let left = rows(50);
        let mut right = left.clone();
        // A permutation by sorting on a hash.
        right.sort_by_key(|row| row.0.unsigned_abs().wrapping_mul(seed | 1).rotate_left(17));
        let key: &[&str] = if keyed { &["id"] } else { &[] };
        prop_assert_eq!(compare(key, &left, &right, step).state, ValidationState::Validated);
    }

    #[test]
    fn every_change_is_found(at in 0usize..50, change in 0u8..5, keyed: bool, step in 1usize..9) {
        let left = rows(50);
        let mut right = left.clone();
        match change {
            0 => right[at].1 = Some("other".into()),
            1 => { right.remove(at); }
            2 => right.push(right[at].clone()),
            3 => right.push((100_000, None)),
            _ => {
                let next = (at + 1) % 50;
                let value = right[at].1.take();
                right[at].1 = std::mem::replace(&mut right[next].1, value);
                if right[at].1 == right[next].1 { right[at].1 = Some("x".into()); }
            }
        }
        let key: &[&str] = if keyed { &["id"] } else { &[] };
        let found = compare(key, &left, &right, step);
        prop_assert_eq!(found.state, ValidationState::Mismatched);
        prop_assert!(!found.differences.is_empty());
        if keyed {
            let id = if change == 3 { 100_000 } else { left[at].0 };
            prop_assert!(found.differences.iter().any(|d| d.key == [Value::Int(id)]), "{:?}", found);
        }
    }
}

#[test]
fn a_difference_says_what_it_is() {
    let left = rows(10);
    let mut right = left.clone();
    right[3].1 = Some("changed".into());
    right.remove(5);
    right.push((1000, None));
    let found = compare(&["id"], &left, &right, 4);
    let shown: Vec<String> = found.differences.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "key (21): differs in v",
            "key (1000): only on the target",
            "key (35): only on the source"
        ]
    );
    assert_eq!((found.source_rows, found.target_rows, found.more), (10, 10, false));
}
