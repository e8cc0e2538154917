//! The task that follows changes: full load and changes, or changes alone.
//!
//! ```text
//! begin capture → [full load, while changes are cached] → cached changes → ongoing replication
//! ```
//!
//! All tables are loaded from one place in the source's log, and changes are applied from there in
//! the source's order, as batches of whole transactions: once the first change is applied, the
//! target is at every moment what the source once was.

mod clock;
mod cycle;
mod follow;
mod load;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dms_core::endpoint::{ChangeSource, ChangeTarget, Run};
use dms_core::full_load::{Assessment, FullLoad, StartType};
use dms_core::mapping::{TableMapping, TablePlan};
use dms_core::schema::{TableName, TableSchema};
use dms_core::task::{
    Events, MigrationType, Report, StartPoint, StopReason, StopWhen, TableReport, TaskSettings,
    TaskStatus,
};
use dms_core::{Error, ErrorKind, Result, ResultExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::batch::Counts;
use crate::route::is_failure;
use crate::status::{Phase, ReplicationStatus, Teller};
use cycle::{Cycle, Ended};

/// A replication task.
///
/// ```
/// use std::sync::Arc;
/// use dms_cdc::{Replication, StopWhen};
/// use dms_core::mapping::TableMapping;
/// use dms_core::memory::{MemoryChange, MemorySource, MemoryTarget};
/// # use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
/// # use dms_core::value::Value;
/// use tokio_util::sync::CancellationToken;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> dms_core::Result<()> {
/// let source = MemorySource::default();
/// # let items = TableName::new("shop", "items");
/// # source.insert(TableSchema::new(items.clone(), vec![Column::new("id", LogicalType::Int64)])
/// #     .with_primary_key(["id"]), Vec::new());
/// # source.commit([MemoryChange::Insert(items, vec![Value::Int(1)])])?;
/// let target = Arc::new(MemoryTarget::default());
/// let tables = TableMapping::new().include("shop", "%");
/// let report = Replication::full_load_and_cdc(Arc::new(source), target, tables)
///     .named("shop")
///     .stopping(StopWhen::CaughtUp)
///     .run(CancellationToken::new())
///     .await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Replication {
    source: Arc<dyn ChangeSource>,
    target: Arc<dyn ChangeTarget>,
    mapping: TableMapping,
    settings: TaskSettings,
    name: String,
    kind: MigrationType,
    start: StartType,
    start_point: StartPoint,
    stop_when: StopWhen,
    events: Events,
    status: Teller,
}

impl Replication {
    /// A task that loads the tables that `mapping` selects and follows their changes, named
    /// `replication`.
    pub fn full_load_and_cdc(
        source: Arc<dyn ChangeSource>,
        target: Arc<dyn ChangeTarget>,
        mapping: TableMapping,
    ) -> Self {
        Self {
            source,
            target,
            mapping,
            settings: TaskSettings::default(),
            name: "replication".to_owned(),
            kind: MigrationType::FullLoadAndCdc,
            start: StartType::default(),
            start_point: StartPoint::default(),
            stop_when: StopWhen::default(),
            events: Events::new(),
            status: Teller::default(),
        }
    }

    /// A task that follows changes of tables that the target has already.
    pub fn cdc(
        source: Arc<dyn ChangeSource>,
        target: Arc<dyn ChangeTarget>,
        mapping: TableMapping,
    ) -> Self {
        let kind = MigrationType::Cdc;
        Self { kind, ..Self::full_load_and_cdc(source, target, mapping) }
    }

    /// The same task under this name; the target remembers its progress by it, and what capture
    /// needs at the source is called after it.
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

    /// The same task, its changes beginning here if it has none yet; for changes without a load.
    #[must_use]
    pub fn starting_at(mut self, point: StartPoint) -> Self {
        self.start_point = point;
        self
    }

    /// The same task, ending by itself.
    #[must_use]
    pub fn stopping(mut self, when: StopWhen) -> Self {
        self.stop_when = when;
        self
    }

    /// The run's events; subscribe before [`run`](Self::run).
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Where the task stands, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ReplicationStatus> {
        self.status.0.subscribe()
    }

    /// Reads the source's catalog and resolves the mapping for every selected table.
    ///
    /// # Errors
    /// As [`FullLoad::plan`].
    pub async fn plan(&self) -> Result<Vec<TablePlan>> {
        self.full_load().plan().await
    }

    /// Checks both endpoints and that changes can be captured, and tells what every column becomes,
    /// changing nothing.
    ///
    /// # Errors
    /// Those of [`plan`](Self::plan), [`ChangeSource::check_capture`] and of the target's check.
    pub async fn check(&self) -> Result<Assessment> {
        let load = self.full_load();
        let plans = load.plan().await?;
        let captured = self.source.check_capture(&self.name, &wanted(&plans)).await;
        captured.context("side", "source")?;
        load.with_plans(plans).check().await
    }

    fn full_load(&self) -> FullLoad {
        let source: Arc<dyn ChangeSource> = Arc::clone(&self.source);
        let target: Arc<dyn ChangeTarget> = Arc::clone(&self.target);
        FullLoad::new(source, target, self.mapping.clone())
            .named(&self.name)
            .with_settings(self.settings.clone())
            .with_events(self.events.clone())
    }

    /// Where the changes of this task wait on disk.
    fn spill_folder(&self) -> PathBuf {
        self.settings.changes.spill_folder.join(&self.name)
    }

    /// Runs the task until `stop` asks for an orderly stop, or until its own stop condition holds.
    /// What is applied stays, and the next run goes on from there. Dropping the future is safe too.
    ///
    /// Errors that may pass are tried again as the settings say; each try goes on where the target
    /// is.
    ///
    /// # Errors
    /// What keeps the task from going on, with what to do about it.
    pub async fn run(self, stop: CancellationToken) -> Result<Report> {
        let task = self.name.clone();
        self.run_named(stop).await.context("task", task)
    }

    async fn run_named(self, stop: CancellationToken) -> Result<Report> {
        let started = Instant::now();
        let retry = self.settings.retry_policy();
        let again = |error: &Error| tracing::warn!(%error, "the task cannot begin, trying again");
        let run = retry.run(&stop, || self.target.begin(&self.name), again).await;
        let run = run.context("side", "target")?.run;
        if self.start == StartType::Reload {
            let forgotten = retry.run(&stop, || self.target.forget(&run, None), again).await;
            forgotten.context("side", "target")?;
        }
        let mut books = Books::default();
        let reason = self.cycles(&run, &stop, &mut books).await?;
        Ok(books.report(self.name, started.elapsed(), reason))
    }

    /// Goes through cycles until one ends for good: another follows when something broke that may
    /// mend, when new tables are to be loaded, or when a refused change has to be found.
    async fn cycles(
        &self,
        run: &Run,
        stop: &CancellationToken,
        books: &mut Books,
    ) -> Result<StopReason> {
        let retry = self.settings.retry_policy();
        let (mut tries, mut wait, mut careful) = (0, retry.interval, false);
        loop {
            let before = books.commits;
            let cycle = Cycle { task: self, run, stop, careful };
            let error = match cycle.run(books).await {
                Ok(Ended::Stopped(reason)) => return Ok(reason),
                Ok(Ended::NewTables) => continue,
                Ok(Ended::Careful) => {
                    careful = true;
                    continue;
                }
                Err(error) if stop.is_cancelled() && (error.is_transient() || error.is_stop()) => {
                    return Ok(StopReason::Normal);
                }
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            if books.commits > before {
                (tries, wait) = (0, retry.interval);
            }
            if tries >= retry.retries {
                return Err(error);
            }
            tries += 1;
            tracing::warn!(%error, "the replication broke off, trying again");
            self.status.phase(Phase::Recovering);
            tokio::select! {
                () = stop.cancelled() => return Ok(StopReason::Normal),
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(retry.interval_max);
        }
    }
}

/// The tables of plans, with the columns that are read.
fn wanted(plans: &[TablePlan]) -> Vec<TableSchema> {
    let table = |plan: &TablePlan| {
        let mut table = (*plan.source).clone();
        let columns = plan.read.iter().filter_map(|at| plan.source.columns.get(*at).cloned());
        table.columns = columns.collect();
        table
    };
    plans.iter().map(table).collect()
}

/// What the report will say.
#[derive(Debug, Default)]
struct Books {
    tables: BTreeMap<TableName, TableReport>,
    counts: BTreeMap<TableName, Counts>,
    commits: u64,
    transactions: u64,
    /// The names at the source of the target's tables.
    names: BTreeMap<TableName, TableName>,
    suspended: BTreeMap<TableName, String>,
    /// Tables that came while the task ran and cannot be followed.
    refused: BTreeSet<TableName>,
}

impl Books {
    fn report(self, task: String, elapsed: Duration, reason: StopReason) -> Report {
        let mut tables = self.tables;
        for (target, counts) in self.counts {
            let name = self.names.get(&target).unwrap_or(&target);
            let Some(table) = tables.get_mut(name) else { continue };
            (table.inserts, table.updates, table.deletes) =
                (counts.inserts, counts.updates, counts.deletes);
        }
        for (target, reason) in self.suspended.into_iter().filter(|(_, why)| is_failure(why)) {
            let name = self.names.get(&target).unwrap_or(&target);
            let Some(table) = tables.get_mut(name) else { continue };
            table.state = dms_core::task::TableState::Error;
            table.error.get_or_insert_with(|| {
                let help = if reason.ends_with("again") { "" } else { "; load it again" };
                let message = format!("the table takes no more changes: {reason}{help}");
                Error::new(ErrorKind::Schema, message)
            });
        }
        let tables: Vec<TableReport> = tables.into_values().collect();
        let failed = tables.iter().any(|table| table.error.is_some());
        let status = match reason {
            _ if failed => TaskStatus::Failed,
            StopReason::Normal => TaskStatus::Stopped,
            _ => TaskStatus::Completed,
        };
        Report::new(task, status, tables, elapsed).stopped_for(reason)
    }
}
