//! The full load: every selected table from a source to a target, in parallel, resumable.
//!
//! ```text
//! discover → plan → assess → snapshot → split → [read → transform → load] × N → finish table
//! ```
//!
//! Memory is bounded by settings: `parallel × (prefetch_bytes + a batch at the source + a batch at
//! the target)` and what the target itself buffers.

mod assessment;
mod queue;
mod tables;
mod unit;

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use assessment::{Assessment, ColumnAssessment, TableAssessment};
pub use unit::{Unit, run_unit};

use crate::endpoint::{Snapshot, Source, Target, TaskProgress};
use crate::fault;
use crate::mapping::{TableMapping, TablePlan};
use crate::retry::RetryPolicy;
use crate::schema::TableSchema;
use crate::task::{Events, Report, TaskSettings};
use crate::{Error, Result, ResultExt};
use queue::Queue;

/// Whether a run goes on where the last one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartType {
    /// Tables that the target holds whole stay; tables loaded in part go on if the source still has
    /// the rows of their snapshot, else they are loaded again (DMS `resume-processing`).
    #[default]
    Resume,
    /// Every table is loaded again (DMS `reload-target`).
    Reload,
}

/// A full-load task.
///
/// ```
/// use std::sync::Arc;
/// use dms_core::full_load::FullLoad;
/// use dms_core::mapping::TableMapping;
/// use dms_core::memory::{MemorySource, MemoryTarget};
/// use tokio_util::sync::CancellationToken;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> dms_core::Result<()> {
/// let source = Arc::new(MemorySource::default());
/// # source.insert(dms_core::schema::TableSchema::new(
/// #     dms_core::schema::TableName::new("shop", "items"),
/// #     vec![dms_core::schema::Column::new("id", dms_core::schema::LogicalType::Int64)],
/// # ), Vec::new());
/// let target = Arc::new(MemoryTarget::default());
/// let tables = TableMapping::new().include("shop", "%");
/// let report = FullLoad::new(source, target, tables)
///     .named("shop-to-lake")
///     .run(CancellationToken::new())
///     .await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FullLoad {
    source: Arc<dyn Source>,
    target: Arc<dyn Target>,
    mapping: TableMapping,
    settings: TaskSettings,
    name: String,
    start: StartType,
    events: Events,
    plans: Option<Vec<TablePlan>>,
    begun: Option<TaskProgress>,
}

impl FullLoad {
    /// A task over the tables that `mapping` selects, with default settings, named `full-load`.
    pub fn new(source: Arc<dyn Source>, target: Arc<dyn Target>, mapping: TableMapping) -> Self {
        Self {
            source,
            target,
            mapping,
            settings: TaskSettings::default(),
            name: "full-load".to_owned(),
            start: StartType::default(),
            events: Events::new(),
            plans: None,
            begun: None,
        }
    }

    /// The same task over these tables, instead of those that its mapping selects now.
    #[must_use]
    pub fn with_plans(mut self, plans: Vec<TablePlan>) -> Self {
        self.plans = Some(plans);
        self
    }

    /// The same task as a step of a run that has begun at the target already.
    #[must_use]
    pub fn begun(mut self, progress: TaskProgress) -> Self {
        self.begun = Some(progress);
        self
    }

    /// The same task telling its events to these subscribers.
    #[must_use]
    pub fn with_events(mut self, events: Events) -> Self {
        self.events = events;
        self
    }

    /// The same task under this name; the target remembers its progress by it.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The same task with these settings.
    #[must_use]
    pub fn with_settings(mut self, settings: TaskSettings) -> Self {
        self.settings = settings;
        self
    }

    /// The same task, going on or starting over.
    #[must_use]
    pub fn starting(mut self, start: StartType) -> Self {
        self.start = start;
        self
    }

    /// The run's events; subscribe before [`run`](Self::run).
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Reads the source's catalog and resolves the mapping for every selected table.
    ///
    /// # Errors
    /// Those of [`Source::discover`] and of the mapping; `Settings` if no table is selected.
    pub async fn plan(&self) -> Result<Vec<TablePlan>> {
        if let Some(plans) = &self.plans {
            return Ok(plans.clone());
        }
        let catalog = self.source.discover(self.mapping.selection()).await;
        let catalog = catalog.context("side", "source")?;
        if catalog.tables.is_empty() {
            return Err(Error::settings(format!(
                "the table mapping selects no table of {}; check schema and table names, which \
                 are case-sensitive",
                self.source.info()
            )));
        }
        self.mapping.plan_all(&catalog.tables)
    }

    /// Checks both endpoints and tells what every column becomes, changing nothing.
    ///
    /// # Errors
    /// Those of [`plan`](Self::plan) and of [`Target::check`].
    pub async fn check(&self) -> Result<Assessment> {
        let plans = self.plan().await?;
        self.target.check().await.context("side", "target")?;
        Ok(Assessment::new(&plans, &*self.target, &self.settings.accept_loss))
    }

    /// Runs the task to its end, or until `stop` asks for an orderly stop: partitions under way are
    /// given up, what is loaded stays, and the next run goes on from there. Dropping the future is
    /// safe too; it leaves the same behind.
    ///
    /// The report tells of failed tables; an error is what kept the task from running at all.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); `Unsupported` or `NeedsConsent` columns as `Settings`;
    /// errors of [`Target::begin`] and [`Source::snapshot`].
    pub async fn run(self, stop: CancellationToken) -> Result<Report> {
        let task = self.name.clone();
        self.run_named(stop).await.context("task", task)
    }

    async fn run_named(self, stop: CancellationToken) -> Result<Report> {
        let started = Instant::now();
        let retry = self.settings.retry_policy();
        let again = |error: &Error| tracing::warn!(%error, "the task cannot begin, trying again");
        let plans = retry.run(&stop, || self.plan(), again).await?;
        Assessment::new(&plans, &*self.target, &self.settings.accept_loss).accept()?;
        let progress = match self.begun.clone() {
            Some(progress) => progress,
            None => {
                let begun = retry.run(&stop, || self.target.begin(&self.name), again).await;
                begun.context("side", "target")?
            }
        };
        fault::point("full-load-begun")?;
        let snapshot = self.snapshot(&plans, &retry, &stop).await?;
        let queue = Arc::new(
            tables::Preparation {
                snapshot: &*snapshot,
                target: &*self.target,
                settings: &self.settings,
                events: &self.events,
                start: self.start,
                stop: &stop,
            }
            .prepare(plans, progress)
            .await?,
        );
        let worker = Worker {
            queue: Arc::clone(&queue),
            snapshot,
            target: self.target,
            retry,
            events: self.events,
        };
        let mut workers = JoinSet::new();
        for _ in 0..self.settings.parallel.min(queue.len()).max(1) {
            workers.spawn(worker.clone().work());
        }
        drop(worker);
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|error| {
                Error::unexpected("a load worker ended abnormally").with_source(error)
            })?;
        }
        Ok(queue.report(self.name, started.elapsed(), stop.is_cancelled()))
    }

    async fn snapshot(
        &self,
        plans: &[TablePlan],
        retry: &RetryPolicy,
        stop: &CancellationToken,
    ) -> Result<Arc<dyn Snapshot>> {
        let tables: Vec<TableSchema> = plans.iter().map(|plan| (*plan.source).clone()).collect();
        let snapshot = retry
            .run(
                stop,
                || self.source.snapshot(&tables, self.settings.parallel),
                |error| tracing::warn!(%error, "the source gave no snapshot, trying again"),
            )
            .await;
        snapshot.context("side", "source")
    }
}

/// Takes units from the queue until it is empty.
#[derive(Clone)]
struct Worker {
    queue: Arc<Queue>,
    snapshot: Arc<dyn Snapshot>,
    target: Arc<dyn Target>,
    retry: RetryPolicy,
    events: Events,
}

impl Worker {
    async fn work(self) {
        while let Some((table, unit)) = self.queue.take() {
            let loaded = self.load(table, &unit).await;
            let last = self.queue.loaded(table, &unit, loaded);
            if last {
                let finished = self.finish(table, &unit).await;
                self.queue.finished(table, finished);
            }
        }
    }

    async fn load(&self, table: usize, unit: &Unit) -> Result<crate::endpoint::Receipt> {
        let stop = self.queue.table_stop(table);
        let meter = Arc::new(unit::Meter::default());
        let receipt = self
            .retry
            .run(
                &stop,
                || {
                    let (snapshot, target) = (&*self.snapshot, &*self.target);
                    unit::run_metered(unit, snapshot, target, &self.events, &stop, &meter)
                },
                |error| self.queue.retried(table, unit, error, &meter),
            )
            .await;
        fault::point("full-load-partition-loaded")?;
        receipt
    }

    async fn finish(&self, table: usize, unit: &Unit) -> Result<()> {
        let stop = self.queue.table_stop(table);
        let target = &unit.plan.target;
        fault::point("full-load-before-finish")?;
        let finished =
            self.retry.run(&stop, || self.target.finish(&unit.run, target), |_| {}).await;
        finished.context("side", "target").context("table", &unit.plan.source.name)
    }
}
