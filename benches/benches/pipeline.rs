//! What the pipeline itself costs: from memory to memory, against a loop that only copies the
//! same batches of 65,536 rows. And what the steps on the way cost.

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::RecordBatch;
use benches::{CopyingSource, batches, deep_copy, lineitem, run};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dms_core::mapping::TableMapping;
use dms_core::memory::{MemorySource, MemoryTarget};
use tokio::runtime::Runtime;

fn runtime() -> Runtime {
    Runtime::new().unwrap_or_else(|error| panic!("no runtime: {error}"))
}

fn pipeline(c: &mut Criterion) {
    let runtime = runtime();
    let (table, batches) = runtime.block_on(batches(&lineitem(0.5)));
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let source = MemorySource::default();
    source.insert(table, batches.clone());
    let batches = Arc::new(batches);
    let source = Arc::new(CopyingSource(source));
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(rows as u64)).sample_size(20);
    // On the same kind of thread as the pipeline: memory of another arena has another price.
    group.bench_function("plain copy loop", |b| {
        b.iter(|| {
            let batches = Arc::clone(&batches);
            let copy = async move { batches.iter().map(deep_copy).collect::<Vec<_>>() };
            runtime.block_on(runtime.spawn(copy))
        });
    });
    group.bench_function("memory to memory, 1 worker", |b| {
        b.iter(|| {
            let target = Arc::new(MemoryTarget::default());
            runtime.block_on(run(Arc::<CopyingSource>::clone(&source), target.clone(), Some(1)));
            target
        });
    });
    group.finish();
}

fn transform(c: &mut Criterion) {
    let (table, batches) = runtime().block_on(batches(&lineitem(0.1)));
    let Some(batch) = batches.into_iter().next() else { return };
    let rule = |action: &str, more: &str| {
        let json = format!(
            r#"{{"rules": [
            {{"rule-type": "selection", "rule-id": 1, "rule-name": "1", "rule-action": "include",
              "object-locator": {{"schema-name": "%", "table-name": "%"}}}},
            {{"rule-type": "transformation", "rule-id": 2, "rule-name": "2",
              "rule-target": "column", "rule-action": "{action}",
              "object-locator": {{"schema-name": "%", "table-name": "%", "column-name": "l_partkey"}}
              {more}}}]}}"#
        );
        TableMapping::from_json(&json).and_then(|mapping| mapping.plan(&table))
    };
    let mut group = c.benchmark_group("transform");
    group.throughput(Throughput::Elements(batch.num_rows() as u64));
    for (name, action, more) in [
        ("nothing", "convert-lowercase", ""),
        ("rename", "rename", r#", "value": "part""#),
        ("change data type", "change-data-type", r#", "data-type": {"type": "string"}"#),
    ] {
        let plan = rule(action, more).unwrap_or_else(|error| panic!("{error}"));
        group.bench_function(name, |b| {
            b.iter(|| black_box(plan.transform(batch.clone())));
        });
    }
    group.finish();
}

criterion_group!(all, pipeline, transform);
criterion_main!(all);
