//! Changes are applied as they come, first those that were cached, until a stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dms_core::clock::now;
use dms_core::endpoint::Acknowledge;
use dms_core::mapping::TablePlan;
use dms_core::position::Position;
use dms_core::schema::TableName;
use dms_core::task::{EventKind, StopReason, StopWhen};
use dms_core::{Error, Result, ResultExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Books;
use super::clock::{Deadline, Ticker};
use super::cycle::{Capture, Cycle, Ended};
use crate::apply::{Applied, Applier};
use crate::buffer::BufferStatus;
use crate::capture::Captured;
use crate::cutter::Cutter;
use crate::feeder::{Feeder, Prepared, Told};
use crate::route::{Replicated, Router};
use crate::status::{Phase, age};
use crate::stop::Bound;

/// How often a position is made durable while nothing is to be applied.
const IDLE_COMMIT: Duration = Duration::from_secs(10);

/// How long ago the end of the log may have been asked for, to count as caught up.
const CAUGHT_UP: Duration = Duration::from_secs(1);

/// Applies what is captured.
pub(super) struct Follower<'a> {
    cycle: &'a Cycle<'a>,
    applier: Applier,
    captured: Captured,
    acknowledge: Arc<dyn Acknowledge>,
    batches: mpsc::Receiver<Result<Prepared>>,
    /// To the feeder.
    tell: mpsc::UnboundedSender<Told>,
    /// What the target holds.
    durable: Position,
    /// What the target is level with: places behind `durable` where nothing happened count.
    reached: Position,
    /// When something was made durable last.
    made_durable: Instant,
    goal: Goal,
}

/// Where the log ended when it was asked.
struct Goal {
    position: Position,
    asked: Instant,
}

impl<'a> Follower<'a> {
    /// Begins to gather what is captured, for tables whose changes are applied up to `position`.
    pub(super) async fn begin(
        cycle: &'a Cycle<'a>,
        capture: Capture,
        applier: Applier,
        tables: Vec<Replicated>,
        position: Position,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self> {
        let Capture { reader, captured, acknowledge } = capture;
        let (target, changes) = (&cycle.task.target, &cycle.task.settings.changes);
        let (sender, batches) = mpsc::channel(1);
        let (tell, told) = mpsc::unbounded_channel();
        let router = Router::new(
            cycle.task.mapping.clone(),
            changes.clone(),
            target.change_form(),
            position.order,
            tables,
        );
        let hint = target.batch_hint();
        let liked = hint.map_or(0, |hint| usize::try_from(hint.bytes).unwrap_or(usize::MAX));
        let feeder = Feeder {
            reader,
            router,
            bound: bound(cycle)?,
            batch_bytes: changes.batch_bytes.max(liked),
            batches: sender,
            told,
            age: hint.map(|hint| hint.age),
            is_ongoing: false,
            cutter: Cutter::default(),
        };
        tasks.spawn(feeder.run());
        Ok(Self {
            cycle,
            applier,
            captured,
            acknowledge,
            batches,
            tell,
            durable: position.clone(),
            reached: position,
            made_durable: Instant::now(),
            goal: Goal::ask(cycle).await?,
        })
    }

    /// Applies until a stop, an error, or until the source has tables that are to be loaded.
    pub(super) async fn run(mut self, plans: &[TablePlan], books: &mut Books) -> Result<Ended> {
        let task = self.cycle.task;
        task.status.phase(Phase::CachedChanges);
        task.status.tell(|status| status.position = Some(self.reached.clone()));
        let mut new_tables = Ticker::every(task.settings.changes.new_tables_interval);
        let deadline = deadline(&task.stop_when);
        loop {
            if self.reached.order >= self.goal.position.order
                && let Some(reason) = self.is_done().await?
            {
                return self.stop(reason).await;
            }
            let prepared = tokio::select! {
                biased;
                () = self.cycle.stop.cancelled() => return self.stop(StopReason::Normal).await,
                () = deadline.passed() => return self.stop(task.stop_when.reason()).await,
                prepared = self.batches.recv() => match prepared {
                    Some(prepared) => prepared?,
                    None => return Err(Error::unexpected("changes ended without an error")),
                },
                () = new_tables.tick() => {
                    if self.cycle.has_new_tables(plans, books).await? {
                        return Ok(Ended::NewTables);
                    }
                    continue;
                }
                () = self.goal.look_again() => continue,
            };
            let is_last = prepared.is_last;
            let waiting = prepared.waiting;
            let committed_at = prepared.batch.committed_at;
            let suspended = prepared.batch.suspended();
            let applied = match self.take(prepared).await {
                Err(_) if self.applier.wants_care => return Ok(Ended::Careful),
                applied => applied.context("side", "target")?,
            };
            if let Some(applied) = applied {
                self.book(&applied, suspended, books);
            }
            self.tell_status(books, waiting, committed_at);
            if is_last {
                return self.stop(task.stop_when.reason()).await;
            }
        }
    }

    /// Applies a batch; one without changes is only made durable from time to time.
    async fn take(&mut self, prepared: Prepared) -> Result<Option<Applied>> {
        let batch = &prepared.batch;
        let applied = if batch.changes_nothing() && batch.complete && !self.applier.is_inside() {
            let Some(position) = batch.position.clone() else { return Ok(None) };
            self.reached = position.clone();
            if self.made_durable.elapsed() < IDLE_COMMIT {
                return Ok(None);
            }
            self.applier.commit_position(&position, Vec::new()).await?;
            Applied { position: Some(position), ..Applied::default() }
        } else {
            self.applier.apply(prepared).await?
        };
        if let Some(position) = &applied.position {
            self.reached = position.clone();
            self.has_committed(position.clone());
        }
        Ok(Some(applied))
    }

    /// Lets those know who keep changes that the target holds by now.
    fn has_committed(&mut self, position: Position) {
        self.acknowledge.acknowledge(&position);
        let _ = self.tell.send(Told::Done(position.clone()));
        self.durable = position;
        self.made_durable = Instant::now();
    }

    /// Writes down what was applied.
    fn book(&self, applied: &Applied, suspended: Vec<(TableName, String)>, books: &mut Books) {
        for (table, reason) in suspended {
            tracing::warn!(%table, reason, "the table takes no more changes");
            books.suspended.insert(table, reason);
        }
        for table in &applied.suspended {
            let reason = "a change was refused".to_owned();
            books.suspended.entry(table.clone()).or_insert(reason);
            let _ = self.tell.send(Told::Suspended(table.clone()));
        }
        if applied.position.is_none() {
            return;
        }
        books.commits += 1;
        books.transactions += applied.transactions;
        for (table, counts) in &applied.counts {
            books.counts.entry(table.clone()).or_default().add(*counts);
            let name = books.names.get(table).unwrap_or(table);
            self.cycle.task.events.send(
                name,
                EventKind::Applied {
                    inserts: counts.inserts,
                    updates: counts.updates,
                    deletes: counts.deletes,
                },
            );
        }
    }

    fn tell_status(&self, books: &Books, waiting: BufferStatus, committed_at: Option<i64>) {
        let newest = self.captured.load(Ordering::Relaxed);
        self.cycle.task.status.tell(|status| {
            status.position = Some(self.reached.clone());
            status.applied = books.counts.values().map(|c| c.inserts + c.updates + c.deletes).sum();
            status.transactions = books.transactions;
            status.source_latency = age((newest != 0).then_some(newest));
            status.target_latency = age(committed_at);
            status.cached_events = waiting.events;
            status.cached_memory_bytes = waiting.memory_bytes;
            status.cached_disk_bytes = waiting.disk_bytes;
        });
    }

    /// Ends, once the position is durable that was reached without changes.
    async fn stop(mut self, reason: StopReason) -> Result<Ended> {
        if self.reached.order > self.durable.order {
            let reached = self.reached.clone();
            self.applier.commit_position(&reached, Vec::new()).await.context("side", "target")?;
            self.durable = reached;
        }
        // A run that came here before may have died before it told the source.
        self.acknowledge.acknowledge(&self.durable);
        Ok(Ended::Stopped(reason))
    }

    /// Why the task ends, if it does now that the goal is reached.
    async fn is_done(&mut self) -> Result<Option<StopReason>> {
        let task = self.cycle.task;
        match task.stop_when {
            StopWhen::CachedChangesApplied => return Ok(Some(task.stop_when.reason())),
            StopWhen::CaughtUp => {
                if self.goal.asked.elapsed() >= CAUGHT_UP {
                    self.goal = Goal::ask(self.cycle).await?;
                }
                if self.reached.order >= self.goal.position.order {
                    return Ok(Some(task.stop_when.reason()));
                }
            }
            _ => {
                task.status.phase(Phase::Ongoing);
                let _ = self.tell.send(Told::Ongoing);
                self.goal.position = Position::new(u64::MAX, "");
            }
        }
        Ok(None)
    }
}

impl Goal {
    async fn ask(cycle: &Cycle<'_>) -> Result<Self> {
        let status = cycle.task.source.log_status(&cycle.task.name).await;
        let position = status.context("side", "source")?.end;
        Ok(Self { position, asked: Instant::now() })
    }

    /// A busy source reaches a goal only by going on; an idle one may need to be asked again.
    async fn look_again(&self) {
        match self.position.order {
            u64::MAX => std::future::pending().await,
            _ => tokio::time::sleep(CAUGHT_UP).await,
        }
    }
}

fn bound(cycle: &Cycle<'_>) -> Result<Bound> {
    Ok(match &cycle.task.stop_when {
        StopWhen::Position(text) => {
            let position = cycle.task.source.parse_position(text)?;
            Bound { order: Some(position.order), ..Bound::default() }
        }
        StopWhen::CommitTime(at) => Bound { committed_at: Some(*at), ..Bound::default() },
        _ => Bound::default(),
    })
}

fn deadline(stop_when: &StopWhen) -> Deadline {
    match stop_when {
        StopWhen::ServerTime(at) => {
            let micros = u64::try_from(at - now()).unwrap_or(0);
            Deadline(Some(Instant::now() + Duration::from_micros(micros)))
        }
        _ => Deadline(None),
    }
}
