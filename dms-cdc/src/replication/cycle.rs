//! One pass of a replication: from what the target holds to a stop, an error, or new tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dms_core::endpoint::{
    Acknowledge, ChangeTarget, FeedRequest, ReplicationProgress, Run, TaskProgress,
};
use dms_core::full_load::FullLoad;
use dms_core::mapping::TablePlan;
use dms_core::position::Position;
use dms_core::task::{
    ErrorPolicy, MigrationType, SpillDurability, SpillFullPolicy, StartPoint, StopReason, StopWhen,
    TaskStatus,
};
use dms_core::{Error, ErrorKind, Result, ResultExt, fault};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::follow::Follower;
use super::load::LogSource;
use super::tables::{loaded_before, new_shapes};
use super::{Books, Replication, wanted};
use crate::apply::Applier;
use crate::buffer::{Buffer, BufferReader, BufferSettings, Durability, WhenFull};
use crate::capture::{Captured, capture};
use crate::status::Phase;

/// How much of the log an event may hold.
const EVENT_BYTES: usize = 1 << 20;

/// How long a stop may take that was asked for.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How long servers are told that a statement is given up.
const GOODBYE: Duration = Duration::from_millis(300);

/// How a cycle ended.
#[derive(Debug)]
pub(super) enum Ended {
    Stopped(StopReason),
    /// The source has tables that the task selects and does not follow yet, or others than planned.
    NewTables,
    /// The target refused a part of a large transaction: it has to be applied change by change.
    Careful,
}

pub(super) struct Cycle<'a> {
    pub(super) task: &'a Replication,
    pub(super) run: &'a Run,
    pub(super) stop: &'a CancellationToken,
    pub(super) careful: bool,
}

/// What the target holds of the task.
pub(super) struct Held {
    pub(super) progress: TaskProgress,
    pub(super) replication: ReplicationProgress,
}

impl Held {
    fn is_loaded(&self, plan: &TablePlan) -> bool {
        self.progress.tables.get(&plan.target.name).is_some_and(|table| table.finished)
    }
}

/// A running capture.
pub(super) struct Capture {
    pub(super) reader: BufferReader,
    pub(super) captured: Captured,
    pub(super) acknowledge: Arc<dyn Acknowledge>,
}

impl Cycle<'_> {
    pub(super) async fn run(&self, books: &mut Books) -> Result<Ended> {
        let mut tasks = JoinSet::new();
        let ended = tokio::select! {
            ended = self.run_with(&mut tasks, books) => ended,
            () = self.out_of_patience() => Ok(Ended::Stopped(StopReason::Normal)),
        };
        if self.stop.is_cancelled() {
            // What was given up tells the servers so, which would go on with it otherwise.
            tokio::time::sleep(GOODBYE).await;
        }
        // The next cycle uses what these hold.
        tasks.shutdown().await;
        ended
    }

    /// Ends when a stop was asked for and what is under way does not come to an end: the source may
    /// wait for others, and a statement may be long. What is given up leaves nothing behind.
    async fn out_of_patience(&self) {
        self.stop.cancelled().await;
        let phase = self.task.status.0.borrow().phase;
        if phase != Phase::Starting {
            tokio::time::sleep(STOP_PATIENCE).await;
        }
    }

    async fn run_with(&self, tasks: &mut JoinSet<()>, books: &mut Books) -> Result<Ended> {
        let Replication { source, status, settings, .. } = self.task;
        status.phase(Phase::Starting);
        let mut plans = self.task.plan().await?;
        plans.retain(|plan| !books.refused.contains(&plan.source.name));
        let captured = wanted(&plans);
        let name = &self.task.name;
        source.check_capture(name, &captured).await.context("side", "source")?;
        let mut held = self.held().await?;
        self.forget_others(&plans, &mut held).await?;
        self.forget_captures(&plans, &held).await?;
        let begun = source.begin_capture(name, &captured).await.context("side", "source")?;
        fault::point("cdc-capture-begun")?;
        let start = match self.goes_on_from(&held) {
            Some(applied) => applied,
            None => self.begin_anew(&held, begun).await?,
        };
        let capture = self.capture(&plans, &start, tasks).await?;
        if self.task.kind == MigrationType::FullLoadAndCdc {
            let Some(loaded) = self.load(&plans, &held, books).await? else {
                return Ok(Ended::NewTables);
            };
            let is_over = match loaded {
                TaskStatus::Failed => settings.table_error_policy == ErrorPolicy::StopTask,
                loaded => loaded == TaskStatus::Stopped,
            };
            if is_over || self.stop.is_cancelled() {
                return Ok(Ended::Stopped(StopReason::Normal));
            }
            held = self.held().await?;
        }
        fault::point("cdc-loaded")?;
        let tables = self.replicated(&plans, &held, &start, books)?;
        let position = held.replication.position.clone().unwrap_or_else(|| start.clone());
        let (target, run) = (Arc::clone(&self.task.target), self.run.clone());
        let applier = Applier::new(target, run, settings.changes.clone(), self.careful);
        let notes = new_shapes(&plans, &tables, &held);
        if !notes.is_empty() {
            applier.commit_position(&position, notes).await.context("side", "target")?;
        }
        if self.task.stop_when == StopWhen::FullLoadDone {
            return Ok(Ended::Stopped(self.task.stop_when.reason()));
        }
        let follower = Follower::begin(self, capture, applier, tables, position, tasks).await?;
        follower.run(&plans, books).await
    }

    pub(super) async fn held(&self) -> Result<Held> {
        let target = &self.task.target;
        let record = target.look_up(&self.task.name).await.context("side", "target")?;
        let replication = target.replication(self.run).await.context("side", "target")?;
        let progress = record.map(|record| record.progress.tables).unwrap_or_default();
        let progress = TaskProgress { run: self.run.clone(), tables: progress };
        Ok(Held { progress, replication })
    }

    /// After which position the changes go on that the target holds; `None` if there is nothing
    /// that they could go on for.
    fn goes_on_from(&self, held: &Held) -> Option<Position> {
        let applied = held.replication.position.clone()?;
        let is_loaded = held.progress.tables.values().any(|table| table.finished);
        (is_loaded || self.task.kind == MigrationType::Cdc).then_some(applied)
    }

    /// Begins to follow changes; returns after which position. That is durable before anything is
    /// captured: the source may be told to forget what is on disk before the first change is
    /// applied. What an earlier run has left on disk is of another beginning.
    async fn begin_anew(&self, held: &Held, begun: Position) -> Result<Position> {
        let start = match (self.task.kind, &self.task.start_point) {
            (MigrationType::Cdc, StartPoint::Position(text)) => {
                self.task.source.parse_position(text)?
            }
            (MigrationType::Cdc, StartPoint::Now) => begun,
            (MigrationType::FullLoad | MigrationType::FullLoadAndCdc, _) => {
                check_kept(held, &begun)?;
                begun
            }
        };
        Buffer::discard(self.task.spill_folder(), &self.task.name).await?;
        let apply = self.task.target.begin_apply(self.run).await.context("side", "target")?;
        apply.commit(&start, None).await.context("side", "target")?;
        Ok(start)
    }

    async fn capture(
        &self,
        plans: &[TablePlan],
        start: &Position,
        tasks: &mut JoinSet<()>,
    ) -> Result<Capture> {
        let changes = &self.task.settings.changes;
        let settings = BufferSettings {
            memory_bytes: changes.memory_bytes,
            disk_bytes: changes.spill_bytes_max,
            durability: match changes.spill_durability {
                SpillDurability::Source => Durability::Source,
                SpillDurability::Disk => Durability::Disk,
            },
            when_full: match changes.spill_full {
                SpillFullPolicy::Wait => WhenFull::Wait,
                SpillFullPolicy::StopTask => WhenFull::Fail,
            },
            ..BufferSettings::new(self.task.spill_folder())
        };
        let (writer, reader, recovered) =
            Buffer::open(&settings, &self.task.name, Some(start)).await?;
        let request = FeedRequest {
            task: self.task.name.clone(),
            tables: wanted(plans),
            after: recovered.read_from.unwrap_or_else(|| start.clone()),
            event_bytes: EVENT_BYTES.min(changes.batch_bytes),
            prefetch_bytes: 4 * EVENT_BYTES,
        };
        let feed = self.task.source.changes(request).await.context("side", "source")?;
        let acknowledge = Arc::clone(&feed.acknowledge);
        let captured = Captured::default();
        tasks.spawn(capture(feed, writer, Arc::clone(&captured)));
        Ok(Capture { reader, captured, acknowledge })
    }

    /// Loads the tables that are not loaded yet; returns how that ended, or `None` if one is not
    /// what was planned any more.
    async fn load(
        &self,
        plans: &[TablePlan],
        held: &Held,
        books: &mut Books,
    ) -> Result<Option<TaskStatus>> {
        let (loaded, missing): (Vec<_>, Vec<_>) =
            plans.iter().cloned().partition(|plan| held.is_loaded(plan));
        for plan in &loaded {
            let progress = held.progress.tables.get(&plan.target.name);
            let report = || loaded_before(plan, progress);
            books.tables.entry(plan.source.name.clone()).or_insert_with(report);
        }
        if missing.is_empty() {
            return Ok(Some(TaskStatus::Completed));
        }
        self.task.status.phase(Phase::FullLoad);
        let is_outdated = Arc::<AtomicBool>::default();
        let source = LogSource {
            source: Arc::clone(&self.task.source),
            task: self.task.name.clone(),
            mapping: self.task.mapping.clone(),
            is_outdated: Arc::clone(&is_outdated),
        };
        let target: Arc<dyn ChangeTarget> = Arc::clone(&self.task.target);
        let load = FullLoad::new(Arc::new(source), target, self.task.mapping.clone())
            .named(&self.task.name)
            .with_settings(self.task.settings.clone())
            .with_events(self.task.events.clone())
            .with_plans(missing)
            .begun(held.progress.clone());
        let report = match load.run(self.stop.clone()).await {
            Err(error) if is_outdated.load(Ordering::Relaxed) => {
                tracing::info!(%error, "the load begins again");
                return Ok(None);
            }
            ended => ended?,
        };
        for table in report.tables {
            books.tables.insert(table.name.clone(), table);
        }
        Ok(Some(report.status))
    }
}

/// Sees that what was loaded before can be followed from there on.
fn check_kept(held: &Held, begun: &Position) -> Result<()> {
    let mut loaded = held.progress.tables.iter().filter(|(_, table)| table.finished);
    let lost = loaded
        .find(|(_, progress)| progress.position.as_ref().is_none_or(|at| at.order < begun.order));
    match lost {
        None => Ok(()),
        Some((table, _)) => Err(Error::new(
            ErrorKind::PositionLost,
            "the source does not hold the changes since the table was loaded; load it again",
        )
        .context("table", table)),
    }
}
