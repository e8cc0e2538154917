//! Shows a running task from its events: bars on a terminal, plain lines elsewhere. Everything goes
//! to stderr, so that stdout is free for results.

mod bars;
mod lines;
mod tally;

use std::io::IsTerminal;
use std::time::Duration;

use dms_core::task::{Event, EventKind};
use tokio::sync::broadcast::{Receiver, error::RecvError};
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
        Self(tokio::spawn(async move {
            match look {
                Look::Bars => follow(events, Bars::new()).await,
                Look::Lines => follow(events, Lines::new()).await,
                Look::Quiet => follow(events, Quiet).await,
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
    /// The run has ended.
    fn end(&mut self);
}

const TICK: Duration = Duration::from_millis(200);

async fn follow(mut events: Receiver<Event>, mut display: impl Display) {
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
                tally.sample();
                display.tick(&tally);
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

    fn end(&mut self) {}
}
