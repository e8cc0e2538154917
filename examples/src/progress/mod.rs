//! Shows a running task from its events: bars on a terminal, plain lines elsewhere. Everything goes
//! to stderr, so that stdout is free for results.

mod bars;
mod lines;
mod tally;

use std::io::IsTerminal;
use std::time::Duration;

use dms_cdc::{Phase, ReplicationStatus};
use dms_core::task::{Event, EventKind};
use indicatif::{DecimalBytes, HumanCount};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use bars::Bars;
use lines::Lines;
use tally::Tally;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A bar for every table that loads, and one for the whole.
    Bars,
    /// A line every few seconds.
    Lines,
    /// Nothing but failures.
    Quiet,
}

impl Look {
    /// Bars if stderr is a terminal and no log is written there, else lines; nothing if `quiet`.
    #[must_use]
    pub fn of_stderr(quiet: bool) -> Self {
        match () {
            () if quiet => Self::Quiet,
            () if std::io::stderr().is_terminal() && std::env::var_os("RUST_LOG").is_none() => {
                Self::Bars
            }
            () => Self::Lines,
        }
    }
}

/// Progress that is being shown.
#[derive(Debug)]
pub struct Progress(JoinHandle<()>);

impl Progress {
    /// Shows the events of a task until its run ends. Subscribe before the run:
    /// `Progress::show(load.events().subscribe(), look)`.
    #[must_use]
    pub fn show(events: Receiver<Event>, look: Look) -> Self {
        Self::show_with(events, None, look)
    }

    /// The same for a task that follows changes:
    /// `Progress::follow(task.events().subscribe(), task.status(), look)`.
    #[must_use]
    pub fn follow(
        events: Receiver<Event>,
        status: watch::Receiver<ReplicationStatus>,
        look: Look,
    ) -> Self {
        Self::show_with(events, Some(status), look)
    }

    fn show_with(
        events: Receiver<Event>,
        status: Option<watch::Receiver<ReplicationStatus>>,
        look: Look,
    ) -> Self {
        Self(tokio::spawn(async move {
            match look {
                Look::Bars => follow(events, status, Bars::new()).await,
                Look::Lines => follow(events, status, Lines::new()).await,
                Look::Quiet => follow(events, status, Quiet).await,
            }
        }))
    }

    /// Waits until the last event is shown. Call it when the run has ended.
    pub async fn finish(self) {
        // A display that failed is no reason to fail a migration.
        let _ = self.0.await;
    }
}

/// One way to show progress.
trait Display {
    /// Something happened, and `tally` has it already.
    fn event(&mut self, event: &Event, tally: &Tally);
    /// Time has passed.
    fn tick(&mut self, tally: &Tally);
    /// Time has passed since tables were loaded, and changes are followed.
    fn changes(&mut self, status: &ReplicationStatus, rate: u64);
    /// The run has ended.
    fn end(&mut self);
}

const TICK: Duration = Duration::from_millis(200);

async fn follow(
    mut events: Receiver<Event>,
    status: Option<watch::Receiver<ReplicationStatus>>,
    mut display: impl Display,
) {
    let mut tally = Tally::default();
    let mut ticks = tokio::time::interval_at(Instant::now() + TICK, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => {
                    tally.count(&event);
                    display.event(&event, &tally);
                }
                // Some were too fast to be shown; the report at the end counts them all.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            },
            _ = ticks.tick() => {
                let status = status.as_ref().map(|status| status.borrow().clone());
                match status {
                    Some(status) if !matches!(status.phase, Phase::Starting | Phase::FullLoad) => {
                        tally.sample_changes(status.applied);
                        display.changes(&status, tally.speed().0);
                    }
                    _ => {
                        tally.sample();
                        display.tick(&tally);
                    }
                }
            }
        }
    }
    display.end();
}

/// The line for an event that a user must see whatever the look.
fn alarm(event: &Event) -> Option<String> {
    match &event.kind {
        EventKind::Failed { error } => Some(format!("{} failed: {error}", event.table)),
        EventKind::PartitionRetried { partition, error, .. } => {
            Some(format!("{}, partition {partition}, is tried again: {error}", event.table))
        }
        _ => None,
    }
}

struct Quiet;

impl Display for Quiet {
    fn event(&mut self, event: &Event, _: &Tally) {
        if let Some(line) = alarm(event) {
            eprintln!("{line}");
        }
    }

    fn tick(&mut self, _: &Tally) {}

    fn changes(&mut self, _: &ReplicationStatus, _: u64) {}

    fn end(&mut self) {}
}

/// Where a replication stands, in two lines.
fn describe(status: &ReplicationStatus, rate: u64) -> (String, String) {
    let seconds = |micros: i64| format!("{}.{} s", micros / 1_000_000, micros / 100_000 % 10);
    let done = format!(
        "{}: {} changes of {} transactions applied, {} a second",
        status.phase,
        HumanCount(status.applied),
        HumanCount(status.transactions),
        HumanCount(rate),
    );
    let waiting = format!(
        "latency {} at the source, {} at the target; cached {} in memory, {} on disk",
        seconds(status.source_latency),
        seconds(status.target_latency),
        DecimalBytes(status.cached_memory_bytes as u64),
        DecimalBytes(status.cached_disk_bytes),
    );
    (done, waiting)
}
