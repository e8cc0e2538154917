//! What each table needs: nothing, the partitions that are missing, or a load from its first row.

use std::hash::Hasher;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use twox_hash::XxHash3_64;

use super::queue::{Queue, Table};
use super::{StartType, Unit};
use crate::endpoint::{
    Partition, PartitionGoal, Run, Snapshot, TablePrepMode, TableProgress, Target, TaskProgress,
};
use crate::fault;
use crate::mapping::TablePlan;
use crate::position::Position;
use crate::retry::until_stopped;
use crate::task::{EventKind, Events, TaskSettings};
use crate::{Error, ErrorKind, Result, ResultExt};

/// The most partitions of a table: receipts and plans stay small, and a table that needs more has
/// larger ones.
const PARTITIONS_MAX: usize = 10_000;

/// Makes the target ready and fills the work queue.
pub(super) struct Preparation<'a> {
    pub(super) snapshot: &'a dyn Snapshot,
    pub(super) target: &'a dyn Target,
    pub(super) settings: &'a TaskSettings,
    pub(super) events: &'a Events,
    pub(super) start: StartType,
    pub(super) stop: &'a CancellationToken,
}

impl Preparation<'_> {
    /// # Errors
    /// Errors of preparation concern the whole task only if the run is fenced, stopped or the
    /// policy says so; else the table alone is marked as failed.
    pub(super) async fn prepare(
        &self,
        plans: Vec<TablePlan>,
        mut progress: TaskProgress,
    ) -> Result<Queue> {
        let policy = self.settings.table_error_policy;
        let mut queue = Queue::new(self.events.clone(), self.stop, policy);
        for plan in plans {
            if self.stop.is_cancelled() {
                queue.push(Table::new(Arc::new(plan), &TableProgress::default()), Vec::new());
                continue;
            }
            let plan = Arc::new(plan);
            let held = match self.start {
                StartType::Resume => progress.tables.remove(&plan.target.name),
                StartType::Reload => None,
            };
            match until_stopped(self.stop, self.table(&progress.run, &plan, held)).await {
                Ok((table, units)) => queue.push(table, units),
                Err(error) if error.is_stop() => return Err(error),
                Err(error) => queue.push_failed(plan, error),
            }
        }
        queue.sort();
        Ok(queue)
    }

    async fn table(
        &self,
        run: &Run,
        plan: &Arc<TablePlan>,
        held: Option<TableProgress>,
    ) -> Result<(Table, Vec<Unit>)> {
        let stamp = stamp(self.snapshot.position(), plan)?;
        let progress = match held {
            Some(held) if held.finished => finished(held, &stamp, plan)?,
            Some(held) if self.can_go_on(&held, &stamp) => held,
            held => self.fresh(run, plan, held, &stamp).await?,
        };
        let missing = |partition: &&Partition| {
            !progress.receipts.iter().any(|receipt| receipt.partition == partition.number)
        };
        let units = progress.partitions.iter().filter(missing).map(|partition| Unit {
            run: run.clone(),
            plan: Arc::clone(plan),
            partition: partition.clone(),
            position: Some(stamp.clone()),
            batch: self.settings.batch,
            prefetch_bytes: self.settings.prefetch_bytes,
        });
        let units: Vec<Unit> = if progress.finished { Vec::new() } else { units.collect() };
        let table = Table::new(Arc::clone(plan), &progress);
        self.events.send(&plan.source.name, planned(plan, &progress));
        if units.is_empty() && !progress.finished {
            // All partitions were loaded, or there are none, but the end was not reached.
            self.target.finish(run, &plan.target).await.context("table", &plan.source.name)?;
            return Ok((table.completed(), units));
        }
        Ok((table, units))
    }

    fn can_go_on(&self, held: &TableProgress, stamp: &Position) -> bool {
        self.snapshot.position().is_some() && held.position.as_ref() == Some(stamp)
    }

    /// Splits the table and has the target begin it from the first row.
    async fn fresh(
        &self,
        run: &Run,
        plan: &Arc<TablePlan>,
        held: Option<TableProgress>,
        stamp: &Position,
    ) -> Result<TableProgress> {
        let mode = self.settings.table_prep_mode;
        let rows_held = held.iter().flat_map(|held| &held.receipts).any(|r| r.rows > 0);
        if mode == TablePrepMode::DoNothing && rows_held {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the table was loaded in part from a state that the source no longer has, and \
                 mode DO_NOTHING keeps those rows; empty the table, or use TRUNCATE_BEFORE_LOAD \
                 or DROP_AND_CREATE",
            )
            .context("table", &plan.target.name));
        }
        let goal = PartitionGoal {
            parallel_load: plan.parallel_load.clone(),
            bytes: self.settings.partition_bytes,
            at_most: PARTITIONS_MAX,
        };
        let partitions = self.snapshot.partitions(&plan.source, &goal).await;
        let partitions =
            partitions.context("side", "source").context("table", &plan.source.name)?;
        let prepare = || self.target.prepare(run, &plan.target, mode, &partitions, Some(stamp));
        let again = |error: &Error| {
            tracing::warn!(table = %plan.source.name, %error, "a table cannot be prepared, trying again");
        };
        let prepared = self.settings.retry_policy().run(self.stop, prepare, again).await;
        prepared.context("side", "target").context("table", &plan.source.name)?;
        fault::point("full-load-prepared")?;
        Ok(TableProgress { partitions, position: Some(stamp.clone()), ..TableProgress::default() })
    }
}

fn finished(held: TableProgress, stamp: &Position, plan: &TablePlan) -> Result<TableProgress> {
    let plan_of =
        |position: &Position| position.token.rsplit_once(PLAN_MARK).map(|p| p.1.to_owned());
    if held.position.as_ref().and_then(plan_of) == plan_of(stamp) {
        return Ok(held);
    }
    Err(Error::settings(
        "the table was loaded under another table mapping or source definition; load it again \
         (start type reload)",
    )
    .context("table", &plan.source.name))
}

fn planned(plan: &TablePlan, progress: &TableProgress) -> EventKind {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    EventKind::Planned {
        row_estimate: plan.source.row_estimate,
        partitions: count(progress.partitions.len()),
        partitions_held: count(progress.receipts.len()),
        rows_held: progress.receipts.iter().map(|receipt| receipt.rows).sum(),
    }
}

const PLAN_MARK: &str = " plan ";

/// What a load stands for: the rows of the snapshot under this plan. A load may only be completed
/// under the stamp that it was begun with.
fn stamp(position: Option<Position>, plan: &TablePlan) -> Result<Position> {
    let mut plan = plan.clone();
    for table in [&mut plan.source, &mut plan.target] {
        let table = Arc::make_mut(table);
        (table.row_estimate, table.byte_estimate) = (None, None);
    }
    let json = serde_json::to_vec(&plan)
        .map_err(|error| Error::unexpected("a table plan cannot be written").with_source(error))?;
    let mut hasher = XxHash3_64::new();
    hasher.write(&json);
    let position = position.unwrap_or_else(|| Position::new(0, "unknown"));
    let token = format!("{}{PLAN_MARK}{:016x}", position.token, hasher.finish());
    Ok(Position::new(position.order, token))
}
