//! One pass of a replication: from what the target holds to a stop, an error, or new tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dms_core::endpoint::{FeedRequest, ReplicationProgress, Run, TaskProgress};
use dms_core::full_load::FullLoad;
use dms_core::mapping::TablePlan;
use dms_core::position::Position;
use dms_core::schema::TableName;
use dms_core::task::{
    EventKind, MigrationType, Report, SpillDurability, SpillFullPolicy, StartPoint, StopReason,
    StopWhen, TaskStatus,
};
use dms_core::{Error, ErrorKind, Result, ResultExt, fault};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::load::LogSource;
use super::tables::{loaded_before, new_shapes};
use super::{Books, Replication, wanted};
use crate::apply::{Applied, Applier};
use crate::buffer::{Buffer, BufferReader, BufferSettings, Durability, WhenFull};
use crate::capture::{Captured, capture};
use crate::feeder::{Feeder, Prepared, Told};
use crate::route::{Replicated, Router};
use crate::status::{Phase, age};
use crate::stop::Bound;

/// How often a position is made durable while nothing is to be applied.
const IDLE_COMMIT: Duration = Duration::from_secs(10);

/// How much of the log an event may hold.
const EVENT_BYTES: usize = 1 << 20;

/// How long ago the end of the log may have been asked for, to count as caught up.
const CAUGHT_UP: Duration = Duration::from_secs(1);

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

/// A running capture.
struct Capture {
    reader: BufferReader,
    captured: Captured,
    acknowledge: Arc<dyn dms_core::endpoint::Acknowledge>,
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
            if loaded.status == TaskStatus::Stopped || self.stop.is_cancelled() {
                return Ok(Ended::Stopped(StopReason::Normal));
            }
            if loaded.status == TaskStatus::Failed
                && settings.table_error_policy == dms_core::task::ErrorPolicy::StopTask
            {
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
        let following = Following { capture, applier, tables, position };
        self.follow(&plans, following, tasks, books).await
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
        let start = match (&self.task.kind, &self.task.start_point) {
            (MigrationType::Cdc, StartPoint::Position(text)) => {
                self.task.source.parse_position(text)?
            }
            (MigrationType::Cdc, StartPoint::Now) => begun,
            _ => {
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

    /// Loads the tables that are not loaded yet; `None` if one is not what was planned any more.
    async fn load(
        &self,
        plans: &[TablePlan],
        held: &Held,
        books: &mut Books,
    ) -> Result<Option<Report>> {
        let finished = |plan: &&TablePlan| {
            held.progress.tables.get(&plan.target.name).is_some_and(|table| table.finished)
        };
        let missing: Vec<TablePlan> = plans.iter().filter(|p| !finished(p)).cloned().collect();
        for plan in plans.iter().filter(finished) {
            let progress = held.progress.tables.get(&plan.target.name);
            let report = || loaded_before(plan, progress);
            books.tables.entry(plan.source.name.clone()).or_insert_with(report);
        }
        if missing.is_empty() {
            let none = Vec::new();
            let name = self.task.name.clone();
            return Ok(Some(Report::new(name, TaskStatus::Completed, none, Duration::ZERO)));
        }
        self.task.status.phase(Phase::FullLoad);
        let is_outdated = Arc::<AtomicBool>::default();
        let source = LogSource {
            source: Arc::clone(&self.task.source),
            task: self.task.name.clone(),
            mapping: self.task.mapping.clone(),
            is_outdated: Arc::clone(&is_outdated),
        };
        let target: Arc<dyn dms_core::endpoint::ChangeTarget> = Arc::clone(&self.task.target);
        let load = FullLoad::new(Arc::new(source), target, self.task.mapping.clone())
            .named(&self.task.name)
            .with_settings(self.task.settings.clone())
            .with_events(self.task.events.clone())
            .with_plans(missing)
            .begun(held.progress.clone());
        let mut report = match load.run(self.stop.clone()).await {
            Err(error) if is_outdated.load(Ordering::Relaxed) => {
                tracing::info!(%error, "the load begins again");
                return Ok(None);
            }
            ended => ended?,
        };
        let status = report.status;
        for table in report.tables.drain(..) {
            books.tables.insert(table.name.clone(), table);
        }
        Ok(Some(Report::new(self.task.name.clone(), status, Vec::new(), report.elapsed)))
    }

    async fn follow(
        &self,
        plans: &[TablePlan],
        following: Following,
        tasks: &mut JoinSet<()>,
        books: &mut Books,
    ) -> Result<Ended> {
        let Following { capture, mut applier, tables, position } = following;
        let Replication { source, target, settings, status, .. } = self.task;
        let Capture { reader, captured, acknowledge } = capture;
        let (batches, mut ready) = mpsc::channel(1);
        let (tell, told) = mpsc::unbounded_channel();
        let router = Router::new(
            self.task.mapping.clone(),
            settings.changes.clone(),
            target.change_form(),
            position.order,
            tables,
        );
        let bound = self.bound()?;
        let feeder = Feeder {
            reader,
            router,
            bound,
            batch_bytes: settings.changes.batch_bytes,
            batches,
            told,
            hint: target.batch_hint(),
            is_ongoing: false,
        };
        tasks.spawn(feeder.run());
        let mut goal = Goal::of(source.log_status(&self.task.name).await?.end);
        status.phase(Phase::CachedChanges);
        status.tell(|status| status.position = Some(position.clone()));
        let mut progress =
            Progress { durable: position.clone(), reached: position, at: Instant::now() };
        let mut new_tables = Ticker::every(settings.changes.new_tables_interval);
        let deadline = self.deadline();
        loop {
            if progress.reached.order >= goal.position.order
                && let Some(reason) = self.is_reached(&progress, &mut goal, &tell).await?
            {
                self.settle(&applier, &progress, &tell).await?;
                acknowledge.acknowledge(&progress.reached);
                return Ok(Ended::Stopped(reason));
            }
            let prepared = tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    self.settle(&applier, &progress, &tell).await?;
                    acknowledge.acknowledge(&progress.reached);
                    return Ok(Ended::Stopped(StopReason::Normal));
                }
                () = deadline.passed() => {
                    self.settle(&applier, &progress, &tell).await?;
                    return Ok(Ended::Stopped(self.task.stop_when.reason()));
                }
                prepared = ready.recv() => match prepared {
                    Some(prepared) => prepared?,
                    None => return Err(Error::unexpected("changes ended without an error")),
                },
                () = new_tables.tick() => {
                    if self.has_new_tables(plans, books).await? {
                        return Ok(Ended::NewTables);
                    }
                    continue;
                }
                () = goal.look_again() => continue,
            };
            let is_last = prepared.is_last;
            let waiting = prepared.waiting;
            let was_committed_at = prepared.batch.committed_at;
            let suspended = prepared.batch.suspended();
            if let Some(applied) =
                self.take(&mut applier, prepared, &mut progress).await.transpose()
            {
                let applied = match applied {
                    Err(_) if applier.wants_care => return Ok(Ended::Careful),
                    applied => applied.context("side", "target")?,
                };
                self.book(&applied, suspended, books, &tell);
                if applied.position.is_some() {
                    let _ = tell.send(Told::Done(progress.durable.clone()));
                    acknowledge.acknowledge(&progress.durable);
                }
            }
            status.tell(|status| {
                status.position = Some(progress.reached.clone());
                status.applied =
                    books.counts.values().map(|c| c.inserts + c.updates + c.deletes).sum();
                status.transactions = books.transactions;
                let newest = captured.load(Ordering::Relaxed);
                status.source_latency = if newest == 0 { 0 } else { age(Some(newest)) };
                status.target_latency = age(was_committed_at);
                status.cached_events = waiting.events;
                status.cached_memory_bytes = waiting.memory_bytes;
                status.cached_disk_bytes = waiting.disk_bytes;
            });
            if is_last {
                self.settle(&applier, &progress, &tell).await?;
                return Ok(Ended::Stopped(self.task.stop_when.reason()));
            }
        }
    }

    /// Applies a batch; one without changes is only made durable from time to time.
    async fn take(
        &self,
        applier: &mut Applier,
        prepared: Prepared,
        progress: &mut Progress,
    ) -> Result<Option<Applied>> {
        let position = prepared.batch.position.clone();
        let complete = prepared.batch.complete;
        let nothing = prepared.batch.changes_nothing() && !applier.is_inside();
        let applied = if nothing && complete {
            let Some(position) = &position else { return Ok(None) };
            progress.reached = position.clone();
            if progress.at.elapsed() < IDLE_COMMIT {
                return Ok(None);
            }
            applier.commit_position(position, Vec::new()).await?;
            Applied { position: Some(position.clone()), ..Applied::default() }
        } else {
            applier.apply(prepared).await?
        };
        if let Some(position) = &applied.position {
            progress.durable = position.clone();
            progress.reached = position.clone();
            progress.at = Instant::now();
        }
        Ok(Some(applied))
    }

    fn book(
        &self,
        applied: &Applied,
        suspended: Vec<(TableName, String)>,
        books: &mut Books,
        tell: &mpsc::UnboundedSender<Told>,
    ) {
        for (table, reason) in suspended {
            tracing::warn!(%table, reason, "the table takes no more changes");
            books.suspended.insert(table, reason);
        }
        for table in &applied.suspended {
            let reason = "a change was refused".to_owned();
            books.suspended.entry(table.clone()).or_insert(reason);
            let _ = tell.send(Told::Suspended(table.clone()));
        }
        if applied.position.is_none() {
            return;
        }
        books.commits += 1;
        books.transactions += applied.transactions;
        for (table, counts) in &applied.counts {
            books.counts.entry(table.clone()).or_default().add(*counts);
            let name = books.names.get(table).unwrap_or(table);
            self.task.events.send(
                name,
                EventKind::Applied {
                    inserts: counts.inserts,
                    updates: counts.updates,
                    deletes: counts.deletes,
                },
            );
        }
    }

    /// Makes the position durable that was reached without changes.
    async fn settle(
        &self,
        applier: &Applier,
        progress: &Progress,
        tell: &mpsc::UnboundedSender<Told>,
    ) -> Result<()> {
        if progress.reached.order > progress.durable.order {
            applier.commit_position(&progress.reached, Vec::new()).await?;
            let _ = tell.send(Told::Done(progress.reached.clone()));
        }
        Ok(())
    }

    fn bound(&self) -> Result<Bound> {
        Ok(match &self.task.stop_when {
            StopWhen::Position(text) => {
                let position = self.task.source.parse_position(text)?;
                Bound { order: Some(position.order), ..Bound::default() }
            }
            StopWhen::CommitTime(at) => Bound { committed_at: Some(*at), ..Bound::default() },
            _ => Bound::default(),
        })
    }

    fn deadline(&self) -> Deadline {
        match self.task.stop_when {
            StopWhen::ServerTime(at) => {
                let micros = u64::try_from(at - crate::status::now()).unwrap_or(0);
                Deadline(Some(Instant::now() + Duration::from_micros(micros)))
            }
            _ => Deadline(None),
        }
    }

    /// What the goal being reached means.
    async fn is_reached(
        &self,
        progress: &Progress,
        goal: &mut Goal,
        tell: &mpsc::UnboundedSender<Told>,
    ) -> Result<Option<StopReason>> {
        let reason = self.task.stop_when.reason();
        match self.task.stop_when {
            StopWhen::CachedChangesApplied => return Ok(Some(reason)),
            StopWhen::CaughtUp if goal.asked.elapsed() < CAUGHT_UP => return Ok(Some(reason)),
            StopWhen::CaughtUp => {
                *goal = Goal::of(self.task.source.log_status(&self.task.name).await?.end);
                if progress.reached.order >= goal.position.order {
                    return Ok(Some(reason));
                }
            }
            _ => {
                self.task.status.phase(Phase::Ongoing);
                let _ = tell.send(Told::Ongoing);
                goal.position = Position::new(u64::MAX, "");
            }
        }
        Ok(None)
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

/// What changes are followed with.
struct Following {
    capture: Capture,
    applier: Applier,
    tables: Vec<Replicated>,
    /// Up to where they are applied.
    position: Position,
}

/// How far the target is.
struct Progress {
    /// Durably.
    durable: Position,
    /// Counting places behind which nothing happened.
    reached: Position,
    /// When something was made durable last.
    at: Instant,
}

/// Where the log ended when it was asked.
struct Goal {
    position: Position,
    asked: Instant,
}

impl Goal {
    fn of(position: Position) -> Self {
        Self { position, asked: Instant::now() }
    }

    /// A busy source reaches a goal only by going on; an idle one may need to be asked again.
    async fn look_again(&self) {
        match self.position.order {
            u64::MAX => std::future::pending().await,
            _ => tokio::time::sleep(CAUGHT_UP).await,
        }
    }
}

struct Deadline(Option<Instant>);

impl Deadline {
    async fn passed(&self) {
        match self.0 {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

struct Ticker(Option<tokio::time::Interval>);

impl Ticker {
    fn every(seconds: u64) -> Self {
        Self((seconds > 0).then(|| {
            let period = Duration::from_secs(seconds);
            let mut interval = tokio::time::interval_at(Instant::now() + period, period);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            interval
        }))
    }

    async fn tick(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
