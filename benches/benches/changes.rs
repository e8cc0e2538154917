//! Changes on their way to a target: what many come to (net changes), by keys of one number and of
//! number and text. Throughput is in records.

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt8Array,
    UInt64Array,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dms_cdc::net::NetChanges;
use dms_core::Result;
use dms_core::change::{ChangeBatch, Identity, Operation};
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};

/// What a batch of some MiB holds.
const RECORDS: i64 = 50_000;
/// What one event of a feed holds.
const EVENT: i64 = 5_000;

fn orders() -> Arc<TableSchema> {
    let columns = vec![
        Column::new("id", LogicalType::Int64).required(),
        Column::new("customer", LogicalType::Int64),
        Column::new("amount", LogicalType::Decimal { precision: 12, scale: 2 }),
        Column::new("note", LogicalType::text()),
        Column::new("at", LogicalType::Timestamp { precision: 6 }),
    ];
    Arc::new(TableSchema::new(TableName::new("public", "orders"), columns).with_primary_key(["id"]))
}

/// Of ten records, four are of new rows, four of these rows again, and two of rows that go.
fn event(table: &Arc<TableSchema>, identity: &Identity, first: i64) -> Result<ChangeBatch> {
    let (mut operations, mut ids) = (Vec::new(), Vec::new());
    for record in first..first + EVENT {
        let (ten, place) = (record / 10, record % 10);
        let (operation, id) = match place {
            0..4 => (Operation::Insert, ten * 4 + place),
            4..8 => (Operation::Update, ten * 4 + place - 4),
            _ => (Operation::Delete, -1 - (ten * 2 + place - 8)),
        };
        operations.push(operation.code());
        ids.push(id);
    }
    let amounts = ids.iter().map(|id| Some(i128::from(id * 37))).collect::<Decimal128Array>();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(amounts.with_precision_and_scale(12, 2)?),
        Arc::new(ids.iter().map(|id| Some(format!("the note of {id}"))).collect::<StringArray>()),
        Arc::new(TimestampMicrosecondArray::from(ids)),
    ];
    let sequences: UInt64Array = (0..operations.len() as u64).map(Some).collect();
    let (table, operations) = (Arc::clone(table), UInt8Array::from(operations));
    ChangeBatch::of_columns(table, identity.clone(), operations, sequences, None, columns)
}

fn net(c: &mut Criterion) {
    let table = orders();
    let mut group = c.benchmark_group("net changes");
    group.throughput(Throughput::Elements(RECORDS.unsigned_abs())).sample_size(20);
    for (name, key) in [("key of a number", vec![0]), ("key of number and text", vec![0, 3])] {
        let identity = Identity::Key(key);
        let events = (0..RECORDS / EVENT).map(|number| event(&table, &identity, number * EVENT));
        let events: Vec<ChangeBatch> =
            events.collect::<Result<_>>().unwrap_or_else(|error| panic!("{error}"));
        let steps = || -> Result<usize> {
            let mut gathered = NetChanges::default();
            for event in &events {
                gathered.add(event.clone())?;
            }
            Ok(gathered.into_steps()?.len())
        };
        // Deletes of old rows, and inserts of new ones as they are in the end.
        assert_eq!(steps().unwrap_or_else(|error| panic!("{error}")), 2);
        group.bench_function(name, |b| b.iter(|| black_box(steps())));
    }
    group.finish();
}

criterion_group!(benches, net);
criterion_main!(benches);
