//! PostgreSQL's binary `COPY` into record batches and back, on TPC-H lineitem. Throughput is in
//! values: a row has 16.

use std::hint::black_box;

use arrow::array::RecordBatch;
use benches::{batches, lineitem};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dms_connectors::postgres::{decode_copy, encode_copy};
use dms_core::batch::BatchLimit;
use tokio::runtime::Runtime;

fn copy(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap_or_else(|error| panic!("no runtime: {error}"));
    let (table, batches) = runtime.block_on(batches(&lineitem(0.1)));
    let values = batches.iter().map(|batch| batch.num_rows() * batch.num_columns()).sum::<usize>();
    let bytes = encode_copy(&table, &batches).unwrap_or_else(|error| panic!("{error}"));
    let limit = BatchLimit::default();
    let decoded = decode_copy(&table, limit, &bytes).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        decoded.iter().map(RecordBatch::num_rows).sum::<usize>() * table.columns.len(),
        values
    );
    let mut group = c.benchmark_group("PostgreSQL COPY");
    group.throughput(Throughput::Elements(values as u64)).sample_size(20);
    group.bench_function("decode", |b| {
        b.iter(|| black_box(decode_copy(&table, limit, &bytes)));
    });
    group.bench_function("encode", |b| b.iter(|| black_box(encode_copy(&table, &batches))));
    group.finish();
}

criterion_group!(benches, copy);
criterion_main!(benches);
