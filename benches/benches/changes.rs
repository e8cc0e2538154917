//! Changes on their way to a target: PostgreSQL's log into record batches, and what many changes come
//! to (net changes), by keys of one number and of number and text. Throughput is in records.

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt8Array,
    UInt64Array,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dms_cdc::net::NetChanges;
use dms_connectors::postgres::decode_changes;
use dms_core::Result;
use dms_core::change::{ChangeBatch, ChangeEvent, Identity, Operation};
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

const RELATION: u32 = 16_400;

/// A message of `pgoutput` with these values, in binary form.
fn message(kind: u8, tuple: u8, values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(RELATION.to_be_bytes());
    out.push(tuple);
    out.extend(u16::try_from(values.len()).unwrap_or(0).to_be_bytes());
    for value in values {
        let Some(value) = value else {
            out.push(b'n');
            continue;
        };
        out.push(b'b');
        out.extend(u32::try_from(value.len()).unwrap_or(0).to_be_bytes());
        out.extend(*value);
    }
    out
}

/// The log of 50,000 changes: of ten, four inserts, four updates and two deletes.
fn log() -> Vec<Vec<u8>> {
    let change = |record: i64| {
        let (id, note) = (record.to_be_bytes(), format!("the note of {record}"));
        // 1234.56, with two digits behind the point (`numeric_send` of the server).
        let amount = [0, 2, 0, 0, 0, 0, 0, 2, 4, 210, 21, 224];
        let row: [Option<&[u8]>; 5] =
            [Some(&id), Some(&id), Some(&amount), Some(note.as_bytes()), Some(&id)];
        match record % 10 {
            0..4 => message(b'I', b'N', &row),
            4..8 => message(b'U', b'N', &row),
            _ => message(b'D', b'K', &[Some(&id), None, None, None, None]),
        }
    };
    (0..RECORDS).map(change).collect()
}

fn decode(c: &mut Criterion) {
    let (table, identity, log) = (orders(), Identity::Key(vec![0]), log());
    let events = || {
        let messages = log.iter().map(Vec::as_slice);
        decode_changes(&table, &identity, RELATION, 1 << 20, messages)
    };
    let count =
        events().unwrap_or_else(|error| panic!("{error}")).into_iter().map(|event| match event {
            ChangeEvent::Rows(rows) => rows.records(),
            _ => 0,
        });
    assert_eq!(count.sum::<usize>() as u64, RECORDS.unsigned_abs());
    let mut group = c.benchmark_group("pgoutput");
    group.throughput(Throughput::Elements(RECORDS.unsigned_abs())).sample_size(20);
    group.bench_function("decode", |b| b.iter(|| black_box(events())));
    group.finish();
}

criterion_group!(benches, decode, net);
criterion_main!(benches);
