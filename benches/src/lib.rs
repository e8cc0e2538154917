//! What the benchmarks share: TPC-H data, and a source that makes its batches as a reader would.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, RecordBatch, make_array};
use arrow::buffer::Buffer;
use async_trait::async_trait;
use dms_connectors::sqlite::{SqliteSettings, SqliteSource};
use dms_core::Result;
use dms_core::batch::BatchStream;
use dms_core::endpoint::{EndpointInfo, Partition, PartitionGoal, ReadRequest, Snapshot, Source};
use dms_core::full_load::{FullLoad, StartType};
use dms_core::mapping::{Selection, TableMapping};
use dms_core::memory::MemorySource;
use dms_core::position::Position;
use dms_core::schema::{Catalog, TableSchema};
use dms_core::task::{Report, TaskStatus};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

/// The lineitem table at a scale, made once and kept in the system's folder for temporary files.
///
/// # Panics
/// If it cannot be made: there is nothing to measure then.
#[must_use]
#[expect(clippy::expect_used, reason = "a benchmark without its data is over")]
pub fn lineitem(scale: f64) -> PathBuf {
    let path = std::env::temp_dir().join(format!("dms-bench-lineitem-{scale}.db"));
    if !path.exists() {
        let unfinished = path.with_extension("unfinished");
        let _ = std::fs::remove_file(&unfinished);
        dms_examples::tpch::create(&unfinished, scale, &["lineitem"]).expect("TPC-H data");
        std::fs::rename(&unfinished, &path).expect("the finished file gets its name");
    }
    path
}

/// The lineitem table of a file as record batches, with its schema.
///
/// # Panics
/// If it cannot be read.
#[expect(clippy::expect_used, reason = "a benchmark without its data is over")]
pub async fn batches(path: &Path) -> (TableSchema, Vec<RecordBatch>) {
    let source = SqliteSource::open(SqliteSettings::new(path)).await.expect("source");
    let catalog = source.discover(&Selection::all()).await.expect("catalog");
    let table = catalog.tables.into_iter().next().expect("lineitem");
    let snapshot = source.snapshot(&[], 1).await.expect("snapshot");
    let mut request = ReadRequest::whole(Arc::new(table.clone()));
    // Full batches of 65,536 rows, whatever their bytes.
    request.limit.bytes = usize::MAX;
    let mut stream = snapshot.read(request).await.expect("stream");
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        batches.push(batch.expect("batch"));
    }
    (table, batches)
}

/// The batch in memory of its own: what a reader has to do at least.
///
/// # Panics
/// Never: a copy is as valid as what it was copied from.
#[must_use]
#[expect(clippy::expect_used, reason = "a copy is as valid as its original")]
pub fn deep_copy(batch: &RecordBatch) -> RecordBatch {
    fn copy(data: &ArrayData) -> ArrayData {
        let buffers = data.buffers().iter().map(|b| Buffer::from_slice_ref(b.as_slice()));
        data.clone()
            .into_builder()
            .buffers(buffers.collect())
            .child_data(data.child_data().iter().map(copy).collect())
            .build()
            .expect("a copy")
    }
    let columns: Vec<ArrayRef> =
        batch.columns().iter().map(|column| make_array(copy(&column.to_data()))).collect();
    RecordBatch::try_new(batch.schema(), columns).expect("a copy")
}

/// A source in memory that copies every batch it delivers.
#[derive(Debug, Clone)]
pub struct CopyingSource(pub MemorySource);

#[async_trait]
impl Source for CopyingSource {
    fn info(&self) -> EndpointInfo {
        self.0.info()
    }

    async fn discover(&self, selection: &Selection) -> Result<Catalog> {
        self.0.discover(selection).await
    }

    async fn snapshot(&self, tables: &[TableSchema], readers: usize) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(CopyingSnapshot(self.0.snapshot(tables, readers).await?)))
    }
}

#[derive(Debug)]
struct CopyingSnapshot(Arc<dyn Snapshot>);

#[async_trait]
impl Snapshot for CopyingSnapshot {
    fn position(&self) -> Option<Position> {
        self.0.position()
    }

    async fn partitions(
        &self,
        table: &TableSchema,
        goal: &PartitionGoal,
    ) -> Result<Vec<Partition>> {
        self.0.partitions(table, goal).await
    }

    async fn read(&self, mut request: ReadRequest) -> Result<BatchStream> {
        // As they are: a batch is what is measured.
        request.limit.bytes = usize::MAX;
        let stream = self.0.read(request).await?;
        let schema = stream.schema();
        Ok(stream.map_batches(schema, |batch| Ok(deep_copy(&batch))))
    }
}

/// Runs a task over all tables from its start.
///
/// # Panics
/// If it does not complete.
#[expect(clippy::expect_used, reason = "a benchmark of a failed run says nothing")]
pub async fn run(
    source: Arc<dyn Source>,
    target: Arc<dyn dms_core::endpoint::Target>,
    parallel: Option<usize>,
) -> Report {
    let mut settings = dms_core::task::TaskSettings::default();
    if let Some(parallel) = parallel {
        settings.parallel = parallel;
    }
    let load = FullLoad::new(source, target, TableMapping::new().include("%", "%"))
        .named("bench")
        .with_settings(settings)
        .starting(StartType::Reload);
    let report = Box::pin(load.run(CancellationToken::new())).await.expect("a report");
    assert_eq!(report.status, TaskStatus::Completed, "{report}");
    report
}
