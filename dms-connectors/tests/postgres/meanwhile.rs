//! A source to which something happens at a known moment of a load.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use dms_core::Result;
use dms_core::batch::BatchStream;
use dms_core::endpoint::{
    EndpointInfo, Partition, PartitionGoal, ReadRequest, Snapshot, Source, Target,
};
use dms_core::full_load::{FullLoad, StartType};
use dms_core::mapping::{Selection, TableMapping};
use dms_core::position::Position;
use dms_core::schema::{Catalog, TableSchema};
use dms_core::task::{Report, TaskSettings};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

/// When it happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Moment {
    /// The tables are planned, and no snapshot is taken.
    Planned,
    /// So many partitions have been read.
    Read(i64),
    /// So many batches have arrived.
    Batch(i64),
}

type Event = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

#[derive(Clone)]
struct Happening {
    moment: Moment,
    reads: Arc<AtomicI64>,
    batches: Arc<AtomicI64>,
    event: Event,
}

impl std::fmt::Debug for Happening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.moment)
    }
}

impl Happening {
    async fn at(&self, moment: Moment) {
        if self.moment == moment {
            (self.event)().await;
        }
    }
}

#[derive(Debug)]
struct Between<T>(T, Happening);

#[async_trait]
impl Source for Between<Arc<dyn Source>> {
    fn info(&self) -> EndpointInfo {
        self.0.info()
    }

    async fn discover(&self, selection: &Selection) -> Result<Catalog> {
        self.0.discover(selection).await
    }

    async fn snapshot(&self, tables: &[TableSchema], readers: usize) -> Result<Arc<dyn Snapshot>> {
        self.1.at(Moment::Planned).await;
        Ok(Arc::new(Between(self.0.snapshot(tables, readers).await?, self.1.clone())))
    }
}

#[async_trait]
impl Snapshot for Between<Arc<dyn Snapshot>> {
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

    async fn read(&self, request: ReadRequest) -> Result<BatchStream> {
        self.1.at(Moment::Read(self.1.reads.fetch_add(1, Ordering::Relaxed))).await;
        let batches = self.0.read(request).await?;
        let (schema, happening) = (batches.schema(), self.1.clone());
        let batches = batches.then(move |batch| {
            let happening = happening.clone();
            async move {
                let number = happening.batches.fetch_add(1, Ordering::Relaxed);
                happening.at(Moment::Batch(number)).await;
                batch
            }
        });
        Ok(BatchStream::new(schema, batches))
    }
}

/// A source to which `event` happens at a moment.
pub(crate) fn meanwhile<F>(
    source: Arc<dyn Source>,
    moment: Moment,
    event: impl Fn() -> F + Send + Sync + 'static,
) -> Arc<dyn Source>
where
    F: Future<Output = ()> + Send + 'static,
{
    let happening = Happening {
        moment,
        reads: Arc::default(),
        batches: Arc::default(),
        event: Arc::new(move || Box::pin(event())),
    };
    Arc::new(Between(source, happening))
}

/// Small partitions and batches, one after the other.
pub(crate) fn one_by_one() -> TaskSettings {
    let mut settings = TaskSettings::default();
    settings.parallel = 1;
    settings.partition_bytes = 64 * 1024;
    settings.batch.rows = 100;
    settings.retry_interval = std::time::Duration::from_millis(10);
    settings
}

/// Loads every table under these settings.
pub(crate) async fn load_with(
    settings: TaskSettings,
    start: StartType,
    source: Arc<dyn Source>,
    target: Arc<dyn Target>,
) -> Result<Report> {
    let load = FullLoad::new(source, target, TableMapping::new().include("%", "%"))
        .named("test")
        .with_settings(settings)
        .starting(start);
    Box::pin(load.run(CancellationToken::new())).await
}
