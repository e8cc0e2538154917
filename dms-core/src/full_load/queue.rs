//! The work queue over the partitions of all tables, and the books kept on each table.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Unit;
use super::unit::Meter;
use crate::endpoint::{Receipt, TableProgress};
use crate::mapping::TablePlan;
use crate::task::{ErrorPolicy, EventKind, Events, Report, TableReport, TableState, TaskStatus};
use crate::{Error, Result};

/// The books on one table.
#[derive(Debug)]
pub(super) struct Table {
    plan: Arc<TablePlan>,
    state: TableState,
    rows: u64,
    rows_this_run: u64,
    bytes: u64,
    errors: u64,
    /// Units not yet loaded.
    remaining: usize,
    begun: Option<Instant>,
    elapsed: Duration,
    error: Option<Error>,
    stop: CancellationToken,
}

impl Table {
    pub(super) fn new(plan: Arc<TablePlan>, progress: &TableProgress) -> Self {
        let state = if progress.finished { TableState::Completed } else { TableState::BeforeLoad };
        Self {
            plan,
            state,
            rows: progress.receipts.iter().map(|receipt| receipt.rows).sum(),
            rows_this_run: 0,
            bytes: progress.receipts.iter().map(|receipt| receipt.bytes).sum(),
            errors: 0,
            remaining: 0,
            begun: None,
            elapsed: Duration::ZERO,
            error: None,
            stop: CancellationToken::new(),
        }
    }

    pub(super) fn completed(mut self) -> Self {
        self.state = TableState::Completed;
        self
    }
}

/// Units by urgency, and the tables they belong to.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    events: Events,
    stop: CancellationToken,
    policy: ErrorPolicy,
}

#[derive(Debug, Default)]
struct State {
    tables: Vec<Table>,
    units: VecDeque<(usize, Unit)>,
}

impl Queue {
    pub(super) fn new(events: Events, stop: &CancellationToken, policy: ErrorPolicy) -> Self {
        // A child of the caller's token: the policy may stop the task, never the caller.
        Self { state: Mutex::default(), events, stop: stop.child_token(), policy }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&mut self, mut table: Table, units: Vec<Unit>) {
        table.remaining = units.len();
        table.stop = self.stop.child_token();
        self.events.send(&table.plan.source.name, EventKind::State(table.state));
        let mut state = self.state();
        let number = state.tables.len();
        state.tables.push(table);
        state.units.extend(units.into_iter().map(|unit| (number, unit)));
    }

    pub(super) fn push_failed(&mut self, plan: Arc<TablePlan>, error: Error) {
        self.push(Table::new(plan, &TableProgress::default()), Vec::new());
        let number = self.state().tables.len() - 1;
        self.fail(&mut self.state(), number, error);
    }

    /// Orders by load order, then largest first: the end of a run is short when small units are
    /// left for it.
    pub(super) fn sort(&mut self) {
        let mut state = self.state();
        state.units.make_contiguous().sort_by_key(|(_, unit)| {
            let size = unit.partition.byte_estimate.unwrap_or(0);
            std::cmp::Reverse((unit.plan.load_order, size))
        });
    }

    pub(super) fn len(&self) -> usize {
        self.state().units.len()
    }

    /// The next unit, unless the task is to stop.
    pub(super) fn take(&self) -> Option<(usize, Unit)> {
        if self.stop.is_cancelled() {
            return None;
        }
        let mut state = self.state();
        let (number, unit) = state.units.pop_front()?;
        let table = state.tables.get_mut(number)?;
        if table.begun.is_none() {
            table.begun = Some(Instant::now());
            table.state = TableState::FullLoad;
            self.events.send(&unit.plan.source.name, EventKind::State(TableState::FullLoad));
        }
        Some((number, unit))
    }

    /// Ends when the table's work is pointless: the task stops, or the table has failed.
    pub(super) fn table_stop(&self, number: usize) -> CancellationToken {
        self.state().tables.get(number).map_or_else(|| self.stop.clone(), |t| t.stop.clone())
    }

    pub(super) fn retried(&self, number: usize, unit: &Unit, error: &Error, meter: &Meter) {
        tracing::warn!(table = %unit.plan.source.name, partition = unit.partition.number, %error,
            "a partition failed for the moment and is tried again");
        if let Some(table) = self.state().tables.get_mut(number) {
            table.errors += 1;
        }
        let event = EventKind::PartitionRetried {
            partition: unit.partition.number,
            rows: meter.rows.swap(0, Ordering::Relaxed),
            bytes: meter.bytes.swap(0, Ordering::Relaxed),
            error: error.to_string(),
        };
        self.events.send(&unit.plan.source.name, event);
    }

    /// Books a unit's end; `true` if it was the table's last and the table is to be finished.
    pub(super) fn loaded(&self, number: usize, unit: &Unit, loaded: Result<Receipt>) -> bool {
        let mut state = self.state();
        match loaded {
            Ok(receipt) => {
                let Some(table) = state.tables.get_mut(number) else { return false };
                table.rows += receipt.rows;
                table.rows_this_run += receipt.rows;
                table.bytes += receipt.bytes;
                table.remaining -= 1;
                let elapsed = table.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
                table.elapsed = elapsed;
                let partition = receipt.partition;
                let event = EventKind::PartitionLoaded { partition, rows: receipt.rows, elapsed };
                self.events.send(&unit.plan.source.name, event);
                table.remaining == 0 && table.error.is_none()
            }
            Err(error) => {
                self.fail(&mut state, number, error);
                false
            }
        }
    }

    pub(super) fn finished(&self, number: usize, finished: Result<()>) {
        let mut state = self.state();
        match finished {
            Ok(()) => {
                let Some(table) = state.tables.get_mut(number) else { return };
                table.state = TableState::Completed;
                table.elapsed = table.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
                let event = EventKind::State(TableState::Completed);
                self.events.send(&table.plan.source.name, event);
            }
            Err(error) => self.fail(&mut state, number, error),
        }
    }

    fn fail(&self, state: &mut State, number: usize, error: Error) {
        let Some(table) = state.tables.get_mut(number) else { return };
        let name = &table.plan.source.name;
        // Stopped by request, or because of the table's first error: not an error of its own.
        let by_request = error.is_stop() && table.stop.is_cancelled();
        if by_request {
            if table.error.is_none() {
                table.state = TableState::Cancelled;
                self.events.send(name, EventKind::State(TableState::Cancelled));
            }
            return;
        }
        tracing::error!(table = %name, %error, "the table failed");
        table.errors += 1;
        self.events.send(name, EventKind::Failed { error: error.to_string() });
        self.events.send(name, EventKind::State(TableState::Error));
        table.stop.cancel();
        table.state = TableState::Error;
        // A fenced run has lost the task, whatever the policy says.
        if self.policy == ErrorPolicy::StopTask || error.is_stop() {
            self.stop.cancel();
        }
        table.error.get_or_insert(error);
        state.units.retain(|(unit_table, _)| *unit_table != number);
    }

    pub(super) fn report(&self, task: String, elapsed: Duration, stopped: bool) -> Report {
        let tables = std::mem::take(&mut self.state().tables);
        let reports: Vec<TableReport> = tables.into_iter().map(TableReport::from).collect();
        let failed = reports.iter().any(|table| table.error.is_some());
        let done = reports.iter().all(|table| table.state == TableState::Completed);
        let status = match () {
            () if failed => TaskStatus::Failed,
            () if done => TaskStatus::Completed,
            () if stopped => TaskStatus::Stopped,
            () => TaskStatus::Failed,
        };
        Report::new(task, status, reports, elapsed)
    }
}

impl From<Table> for TableReport {
    fn from(table: Table) -> Self {
        let state = match table.state {
            TableState::FullLoad | TableState::BeforeLoad => TableState::Cancelled,
            state => state,
        };
        Self {
            name: table.plan.source.name.clone(),
            target: table.plan.target.name.clone(),
            state,
            rows: table.rows,
            rows_this_run: table.rows_this_run,
            bytes: table.bytes,
            inserts: 0,
            updates: 0,
            deletes: 0,
            errors: table.errors,
            elapsed: table.elapsed,
            error: table.error,
        }
    }
}
