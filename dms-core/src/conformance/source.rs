//! What a source promises.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use futures::StreamExt;

use super::{Fixture, batches, described, goal, ids_of, load_table, plain, snapshot};
use crate::batch::batch_bytes;
use crate::endpoint::{Partition, ReadRequest};
use crate::mapping::{Filter, FilterCondition, FilterOperator, ParallelLoad, Selection};
use crate::schema::TableSchema;
use crate::value::Value;

const ROWS: i64 = 1000;

async fn loaded(fixture: &dyn Fixture) -> (Arc<dyn crate::endpoint::Source>, Arc<TableSchema>) {
    let (table, rows) = plain(fixture, "read", ROWS);
    load_table(fixture, &table, &rows).await;
    let source = fixture.source().await;
    let table = described(&*source, &table.name).await.expect("the table that was loaded");
    (source, Arc::new(table))
}

/// Reads all partitions and compares with the whole.
async fn assert_complete(
    snapshot: &dyn crate::endpoint::Snapshot,
    table: &Arc<TableSchema>,
    partitions: Vec<Partition>,
) {
    let mut found = Vec::new();
    for (number, partition) in partitions.into_iter().enumerate() {
        assert_eq!(usize::try_from(partition.number), Ok(number), "numbered from 0");
        let request = ReadRequest { partition, ..ReadRequest::whole(Arc::clone(table)) };
        found.extend(ids_of(&batches(snapshot, request).await));
    }
    found.sort_unstable();
    assert_eq!(found, (0..ROWS).collect::<Vec<_>>());
}

/// Partitions do not overlap and miss nothing, however many there are.
pub(super) async fn partitions_hold_every_row_once(fixture: &dyn Fixture) {
    let (source, table) = loaded(fixture).await;
    let snapshot = snapshot(&*source, &table).await;
    for bytes in [1, 1000, u64::MAX] {
        let goal = goal(ParallelLoad::Auto, bytes);
        let partitions = snapshot.partitions(&table, &goal).await.unwrap();
        assert!(!partitions.is_empty() && partitions.len() <= goal.at_most);
        assert_eq!(snapshot.partitions(&table, &goal).await.unwrap(), partitions, "deterministic");
        assert_complete(&*snapshot, &table, partitions).await;
    }
    let one = snapshot.partitions(&table, &goal(ParallelLoad::None, 1)).await.unwrap();
    assert_eq!(one.len(), 1);
    assert_complete(&*snapshot, &table, one).await;
}

/// Ranges of columns are half-open, and NULL belongs to the first.
pub(super) async fn ranges_hold_every_row_once(fixture: &dyn Fixture) {
    let (source, table) = loaded(fixture).await;
    let snapshot = snapshot(&*source, &table).await;
    let text = |value: &str| Value::Text(value.to_owned());
    for (columns, boundaries) in [
        (vec!["id"], vec![vec![Value::Int(10)], vec![text("500")]]),
        (vec!["v"], vec![vec![text("value 3")], vec![text("value 7")]]),
        (vec!["v", "id"], vec![vec![text("value 4"), Value::Int(4)]]),
    ] {
        let load = ParallelLoad::Ranges {
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            names: Vec::new(),
            boundaries: boundaries.clone(),
        };
        let partitions = snapshot.partitions(&table, &goal(load, 1)).await.unwrap();
        assert_eq!(partitions.len(), boundaries.len() + 1);
        if columns == ["id"] {
            let middle = partitions[1].clone();
            let request = ReadRequest { partition: middle, ..ReadRequest::whole(table.clone()) };
            let mut found = ids_of(&batches(&*snapshot, request).await);
            found.sort_unstable();
            assert_eq!(found, (10..500).collect::<Vec<_>>(), "half-open");
        }
        if columns == ["v"] {
            let first = partitions[0].clone();
            let request = ReadRequest { partition: first, ..ReadRequest::whole(table.clone()) };
            let found = ids_of(&batches(&*snapshot, request).await);
            assert!(found.contains(&0), "NULL is in the first range");
        }
        assert_complete(&*snapshot, &table, partitions).await;
    }
    let missing = ParallelLoad::Ranges {
        columns: vec!["no such".to_owned()],
        boundaries: vec![vec![Value::Int(1)]],
        names: Vec::new(),
    };
    let error = snapshot.partitions(&table, &goal(missing, 1)).await.unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Settings, "{error}");
}

/// Only what was asked for is delivered, in the order and in the sizes asked for.
pub(super) async fn columns_filters_and_limits_are_kept(fixture: &dyn Fixture) {
    let (source, table) = loaded(fixture).await;
    let snapshot = snapshot(&*source, &table).await;
    let whole = || ReadRequest::whole(Arc::clone(&table));
    let only = batches(&*snapshot, ReadRequest { columns: vec![1], ..whole() }).await;
    assert!(only.iter().all(|batch| batch.num_columns() == 1));
    assert_eq!(only.iter().map(|b| b.column(0).null_count()).sum::<usize>(), 200);
    let turned = batches(&*snapshot, ReadRequest { columns: vec![1, 0], ..whole() }).await;
    assert_eq!(turned[0].schema().field(0).name(), "v");
    let condition = |operator, values: &[&str]| FilterCondition {
        operator,
        values: values.iter().map(|value| Value::Text((*value).to_owned())).collect(),
    };
    for (column, operator, values, expected) in [
        ("id", FilterOperator::Between, vec!["10", "19"], 10),
        ("id", FilterOperator::NotBetween, vec!["10", "19"], 990),
        ("id", FilterOperator::Gte, vec!["990"], 10),
        ("id", FilterOperator::Lte, vec!["9"], 10),
        ("id", FilterOperator::NotEq, vec!["5"], 999),
        ("v", FilterOperator::Eq, vec!["value 7"], 1),
        ("v", FilterOperator::Null, vec![], 200),
        ("v", FilterOperator::NotNull, vec![], 800),
        ("v", FilterOperator::NotEq, vec!["value 7"], 799),
    ] {
        let columns = vec![(column.to_owned(), vec![condition(operator, &values)])];
        // The filter's column need not be delivered.
        let request = ReadRequest { columns: vec![0], filter: Some(Filter { columns }), ..whole() };
        let found: usize =
            batches(&*snapshot, request).await.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(found, expected, "{column} {operator:?} {values:?}");
    }
    let mut request = whole();
    request.limit.rows = 64;
    let cut = batches(&*snapshot, request).await;
    assert!(cut.iter().all(|batch| batch.num_rows() <= 64));
    assert_eq!(cut.iter().map(RecordBatch::num_rows).sum::<usize>(), 1000);
    let mut request = whole();
    request.limit.bytes = 2000;
    let cut = batches(&*snapshot, request).await;
    assert!(cut.iter().all(|batch| batch_bytes(batch) < 4000), "about the limit");
    let nothing = source.discover(&Selection::default()).await.unwrap();
    assert!(nothing.tables.is_empty(), "what no rule selects is not there");
}

/// A stream that is given up costs nobody anything.
pub(super) async fn a_dropped_stream_harms_nothing(fixture: &dyn Fixture) {
    let (source, table) = loaded(fixture).await;
    let snapshot = snapshot(&*source, &table).await;
    for _ in 0..10 {
        let mut request = ReadRequest::whole(Arc::clone(&table));
        request.limit.rows = 10;
        request.prefetch_bytes = 1;
        let mut stream = snapshot.read(request).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
    }
    assert_complete(&*snapshot, &table, vec![Partition::whole()]).await;
}

/// Equal positions mean equal rows, and other rows another position.
pub(super) async fn a_position_stands_for_content(fixture: &dyn Fixture) {
    let (source, table) = loaded(fixture).await;
    let Some(before) = snapshot(&*source, &table).await.position() else { return };
    let again = snapshot(&*source, &table).await.position();
    assert_eq!(again.as_ref(), Some(&before), "nothing changed");
    let (other, rows) = plain(fixture, "read", 10);
    load_table(fixture, &other, &rows).await;
    let source = fixture.source().await;
    let after = snapshot(&*source, &table).await.position();
    assert_ne!(after, Some(before), "the table was loaded again");
}
