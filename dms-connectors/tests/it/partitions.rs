//! Partitions hold every row exactly once, whatever the keys are.

use std::collections::BTreeSet;

use arrow::array::AsArray;
use arrow::array::types::Int64Type;
use dms_core::endpoint::{Partition, PartitionGoal, PartitionRange, ReadRequest, Snapshot, Source};
use dms_core::mapping::{Filter, FilterCondition, FilterOperator, ParallelLoad};
use dms_core::schema::TableSchema;
use dms_core::value::Value;
use dms_core::{ErrorKind, Result};
use futures::TryStreamExt;
use proptest::prelude::*;

use super::{Database, goal, read};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(work)
}

/// The integers in column `id` of each partition.
async fn ids(
    snapshot: &dyn Snapshot,
    table: &TableSchema,
    partitions: &[Partition],
) -> Result<Vec<Vec<i64>>> {
    let place = table.column_index("id").unwrap();
    let mut ids = Vec::new();
    for partition in partitions {
        let batches = read(snapshot, table, partition.clone()).await?;
        let values = batches.iter().flat_map(|batch| {
            batch.column(place).as_primitive::<Int64Type>().values().iter().copied()
        });
        ids.push(values.collect());
    }
    Ok(ids)
}

fn once_each(parts: &[Vec<i64>], expected: &BTreeSet<i64>) {
    let mut all: Vec<i64> = parts.iter().flatten().copied().collect();
    all.sort_unstable();
    let expected: Vec<i64> = expected.iter().copied().collect();
    assert_eq!(all, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_rowids_are_read_once(
        scattered in proptest::collection::btree_set(any::<i64>(), 0..300),
        start in any::<i32>(), dense in 0i64..2000, without_rowid in any::<bool>(),
        bytes in 100u64..5000,
    ) {
        let start = i64::from(start);
        let keys: BTreeSet<i64> = scattered.into_iter().chain(start..start + dense).collect();
        block_on(async {
            let option = if without_rowid { "WITHOUT ROWID" } else { "" };
            let database =
                Database::new(&format!("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT) {option}"));
            let mut connection = database.connect();
            let transaction = connection.transaction().unwrap();
            for key in &keys {
                transaction.execute("INSERT INTO t VALUES (?1, 'value')", [key]).unwrap();
            }
            transaction.commit().unwrap();
            let table = database.table("t").await;
            let snapshot = database.source().await.snapshot(&[], 1).await.unwrap();
            let partitions = snapshot.partitions(&table, &goal(bytes)).await.unwrap();
            let again = snapshot.partitions(&table, &goal(bytes)).await.unwrap();
            assert_eq!(partitions, again, "the same arguments give the same partitions");
            let numbers: Vec<u32> = partitions.iter().map(|partition| partition.number).collect();
            assert_eq!(numbers, (0..u32::try_from(partitions.len()).unwrap()).collect::<Vec<_>>());
            once_each(&ids(&*snapshot, &table, &partitions).await.unwrap(), &keys);
        });
    }

    #[test]
    fn any_values_are_in_one_user_range(
        values in proptest::collection::vec(
            prop_oneof![
                Just("NULL".to_owned()), any::<i8>().prop_map(|n| n.to_string()),
                (-50..50i8).prop_map(|n| format!("{n}.5")), "'[a-cA-C]{0,2}'", "x'[0-9]{2}'"
            ], 0..60),
        mut boundaries in proptest::collection::btree_set("[a-cA-C]{0,2}", 1..4),
        numbers in proptest::collection::btree_set(any::<i8>(), 1..4),
        declared in prop_oneof![Just("TEXT COLLATE NOCASE"), Just("TEXT"), Just("NUMERIC"), Just("")],
    ) {
        let bounds: Vec<Vec<Value>> = if declared == "NUMERIC" {
            numbers.iter().map(|n| vec![Value::Text(n.to_string()), Value::Text("b".into())]).collect()
        } else if declared.is_empty() {
            // Literals of any storage class are ordered as the text that they are.
            boundaries = boundaries.iter().map(|b| format!("'{b}'")).collect();
            boundaries.iter().map(|b| vec![Value::Text(b.clone()), Value::Text("b".into())]).collect()
        } else {
            boundaries.iter().map(|b| vec![Value::Text(b.clone()), Value::Text("b".into())]).collect()
        };
        // What does not fit its column is another test's matter.
        let fits = |value: &str| match declared {
            "NUMERIC" => !value.starts_with(['\'', 'x']),
            "" => true,
            _ => !value.starts_with('x'),
        };
        let values: Vec<&String> = values.iter().filter(|value| fits(value)).collect();
        block_on(async {
            let rows = values.iter().enumerate().map(|(id, value)| format!("({id}, {value}, 'b')"));
            let rows = rows.collect::<Vec<_>>().join(", ");
            let insert = if rows.is_empty() { String::new() } else { format!("INSERT INTO t VALUES {rows}") };
            let database = Database::new(&format!(
                "CREATE TABLE t (id INTEGER, v {declared}, w TEXT); {insert}"
            ));
            let table = database.table("t").await;
            let snapshot = database.source().await.snapshot(&[], 1).await.unwrap();
            let ranges = ParallelLoad::Ranges {
                columns: vec!["v".to_owned(), "w".to_owned()],
                boundaries: bounds.clone(),
                names: Vec::new(),
            };
            let goal = PartitionGoal { parallel_load: ranges, ..goal(1) };
            let partitions = snapshot.partitions(&table, &goal).await.unwrap();
            assert_eq!(partitions.len(), bounds.len() + 1);
            let all = (0..i64::try_from(values.len()).unwrap()).collect();
            let parts = ids(&*snapshot, &table, &partitions).await.unwrap();
            once_each(&parts, &all);
            for (id, value) in values.iter().enumerate() {
                let id = i64::try_from(id).unwrap();
                assert!(*value != "NULL" || parts[0].contains(&id), "NULL is in the first segment");
            }
        });
    }
}

#[tokio::test]
async fn partitions_of_a_table_with_gaps_are_about_equal() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
         INSERT INTO t SELECT CASE WHEN i <= 20 THEN i * 400000000000000000
             WHEN i % 2 THEN i - 5000000000 ELSE i END, 'v' FROM n;",
    );
    let table = database.table("t").await;
    let estimate = table.row_estimate.unwrap();
    assert!((100_000..400_000).contains(&estimate), "{estimate}");
    let snapshot = database.source().await.snapshot(&[], 1).await.unwrap();
    let partitions = snapshot.partitions(&table, &goal(64 << 20)).await.unwrap();
    let parts = ids(&*snapshot, &table, &partitions).await.unwrap();
    assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 200_000);
    let largest = parts.iter().map(Vec::len).max().unwrap();
    assert!(largest < 200_000 * 4 / 5, "two readers have something to do: {largest}");
}

#[tokio::test]
async fn views_and_other_keys_are_read_whole() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER, k TEXT PRIMARY KEY) WITHOUT ROWID;
         INSERT INTO t VALUES (1, 'a'), (2, 'b');",
    );
    let table = database.table("t").await;
    let snapshot = database.source().await.snapshot(&[], 1).await.unwrap();
    let partitions = snapshot.partitions(&table, &goal(1)).await.unwrap();
    assert_eq!(partitions.len(), 1);
    assert_eq!(partitions[0].range, PartitionRange::Whole);
    let goal = PartitionGoal { parallel_load: ParallelLoad::Partitions(None), ..goal(1) };
    let error = snapshot.partitions(&table, &goal).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings);
}

#[tokio::test]
async fn filters_pass_the_rows_that_they_name() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER, v TEXT COLLATE NOCASE, d DATE, r REAL);
         INSERT INTO t VALUES (1, 'a', '2024-01-01', 0.5), (2, 'A', '2024-06-01', -1.5),
             (3, 'b', NULL, NULL), (4, NULL, '0001-01-01', 7);",
    );
    let table = database.table("t").await;
    let snapshot = database.source().await.snapshot(&[], 1).await.unwrap();
    let text = |value: &str| Value::Text(value.to_owned());
    use FilterOperator::{Between, Eq, Gte, Lte, NotBetween, NotEq, NotNull, Null};
    for (column, operator, values, expected) in [
        ("id", Gte, vec![text("3")], vec![3, 4]),
        ("id", NotBetween, vec![text("2"), text("3")], vec![1, 4]),
        ("v", Eq, vec![text("a")], vec![1]),
        ("v", NotEq, vec![text("a")], vec![2, 3]),
        ("v", Null, vec![], vec![4]),
        ("d", NotNull, vec![], vec![1, 2, 4]),
        ("d", Lte, vec![text("2024-01-01")], vec![1, 4]),
        ("r", Between, vec![text("-1.5"), text("0.5")], vec![1, 2]),
        ("r", NotEq, vec![text("7")], vec![1, 2]),
    ] {
        let condition = FilterCondition { operator, values };
        let filter = Filter { columns: vec![(column.to_owned(), vec![condition.clone()])] };
        // The filter's column need not be among those that are wanted.
        let request = ReadRequest {
            columns: vec![0],
            filter: Some(filter),
            ..ReadRequest::whole(std::sync::Arc::new(table.clone()))
        };
        let batches: Vec<_> = snapshot.read(request).await.unwrap().try_collect().await.unwrap();
        let ids: Vec<i64> = batches
            .iter()
            .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec())
            .collect();
        assert_eq!(ids, expected, "{column} {condition:?}");
    }
    let condition = FilterCondition { operator: Eq, values: vec![text("x")] };
    let filter = Filter { columns: vec![("id".to_owned(), vec![condition])] };
    let request = ReadRequest {
        filter: Some(filter),
        ..ReadRequest::whole(std::sync::Arc::new(table.clone()))
    };
    let ended = snapshot.read(request).await.unwrap().try_collect::<Vec<_>>().await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Settings);
}
