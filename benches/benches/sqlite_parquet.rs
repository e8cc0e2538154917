//! SQLite and Parquet: decoding, encoding, and whole runs between the two, on TPC-H lineitem.

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::RecordBatch;
use benches::{batches, lineitem, run};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dms_connectors::sqlite::{SqliteSettings, SqliteSource, SqliteTarget};
use dms_core::endpoint::Source;
use dms_core::memory::MemorySource;
use dms_s3::{Compression, FolderSettings, FolderSource, FolderStore, FolderTarget};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tokio::runtime::Runtime;

const SCALE: f64 = 0.1;

fn runtime() -> Runtime {
    Runtime::new().unwrap_or_else(|error| panic!("no runtime: {error}"))
}

fn rows(batches: &[RecordBatch]) -> u64 {
    batches.iter().map(|batch| batch.num_rows() as u64).sum()
}

fn decode(c: &mut Criterion) {
    let runtime = runtime();
    let path = lineitem(SCALE);
    let count = rows(&runtime.block_on(batches(&path)).1);
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(count)).sample_size(10);
    group.bench_function("SQLite to record batches, 1 reader", |b| {
        b.iter(|| black_box(runtime.block_on(batches(&path))));
    });
    group.finish();
}

fn encode(c: &mut Criterion) {
    let runtime = runtime();
    let (table, batches) = runtime.block_on(batches(&lineitem(SCALE)));
    let source = MemorySource::default();
    source.insert(table, batches.clone());
    let source: Arc<dyn Source> = Arc::new(source);
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(rows(&batches))).sample_size(10);
    let zstd = ZstdLevel::try_new(1).unwrap_or_default();
    for (name, ours, codec) in [
        ("snappy", Compression::Snappy, Codec::SNAPPY),
        ("zstd 1", Compression::Zstd, Codec::ZSTD(zstd)),
    ] {
        group.bench_function(format!("bare arrow-rs, {name}"), |b| {
            b.iter(|| {
                let properties = WriterProperties::builder().set_compression(codec).build();
                let schema = batches[0].schema();
                let writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties));
                let mut writer = writer.unwrap_or_else(|error| panic!("{error}"));
                for batch in &batches {
                    writer.write(batch).unwrap_or_else(|error| panic!("{error}"));
                }
                black_box(writer.into_inner())
            });
        });
        group.bench_function(format!("folder target in memory, {name}, 1 worker"), |b| {
            b.iter(|| {
                let mut settings = FolderSettings::new("memory:///bench");
                settings.compression = ours;
                let store = FolderStore::open(&settings);
                let target = store.and_then(|store| FolderTarget::new(store, settings));
                let target = Arc::new(target.unwrap_or_else(|error| panic!("{error}")));
                runtime.block_on(run(Arc::clone(&source), target, Some(1)))
            });
        });
    }
    group.finish();
}

fn whole_runs(c: &mut Criterion) {
    let runtime = runtime();
    let path = lineitem(SCALE);
    let count = rows(&runtime.block_on(batches(&path)).1);
    let fail = |error: dms_core::Error| -> ! { panic!("{error}") };
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let lake = format!("file://{}/lake", folder.path().display());
    let open = || runtime.block_on(SqliteSource::open(SqliteSettings::new(&path)));
    let sqlite: Arc<dyn Source> = open().unwrap_or_else(|error| fail(error));
    let to_lake = || {
        let target = FolderTarget::open(&lake).unwrap_or_else(|error| fail(error));
        runtime.block_on(run(Arc::clone(&sqlite), target, None))
    };
    let mut group = c.benchmark_group("whole run");
    group.throughput(Throughput::Elements(count)).sample_size(10);
    group.bench_function("SQLite to Parquet", |b| b.iter(to_lake));
    to_lake();
    let copy = folder.path().join("copy.db");
    group.bench_function("Parquet to SQLite", |b| {
        b.iter_batched(
            || std::fs::remove_file(&copy).is_ok(),
            |_| {
                let source = FolderSource::open(&lake).unwrap_or_else(|error| fail(error));
                let target = runtime.block_on(SqliteTarget::open(SqliteSettings::new(&copy)));
                let target = target.unwrap_or_else(|error| fail(error));
                runtime.block_on(run(source, target, None))
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(all, decode, encode, whole_runs);
criterion_main!(all);
