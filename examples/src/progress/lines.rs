//! Progress as a line every few seconds, for logs and pipes.

use std::time::{Duration, Instant};

use dms_cdc::ReplicationStatus;
use dms_core::task::Event;
use indicatif::{DecimalBytes, HumanCount};

use super::tally::Tally;
use super::{Display, alarm, describe};

const INTERVAL: Duration = Duration::from_secs(3);

/// The most tables that a line names.
const NAMED_MAX: usize = 4;

pub(super) struct Lines {
    due: Instant,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { due: Instant::now() + INTERVAL }
    }
}

impl Display for Lines {
    fn event(&mut self, event: &Event, _: &Tally) {
        if let Some(line) = alarm(event) {
            eprintln!("{line}");
        }
    }

    fn tick(&mut self, tally: &Tally) {
        let now = Instant::now();
        if now < self.due || tally.tables.is_empty() {
            return;
        }
        self.due = now + INTERVAL;
        eprintln!("{}", line(tally));
    }

    fn changes(&mut self, status: &ReplicationStatus, rate: u64) {
        let now = Instant::now();
        if now < self.due {
            return;
        }
        self.due = now + INTERVAL;
        let (done, waiting) = describe(status, rate);
        eprintln!("{done}; {waiting}");
    }

    fn end(&mut self) {}
}

fn line(tally: &Tally) -> String {
    let (rows, bytes) = tally.speed();
    let mut line = format!(
        "{} s: {} rows, {}, {} rows/s, {}/s; {} of {} tables done",
        tally.begun.elapsed().as_secs(),
        HumanCount(tally.rows),
        DecimalBytes(tally.bytes),
        HumanCount(rows),
        DecimalBytes(bytes),
        tally.completed(),
        tally.tables.len(),
    );
    let loading: Vec<String> = tally
        .loading()
        .map(|(name, table)| match table.percent() {
            Some(percent) => format!("{name} {percent} %"),
            None => name.to_string(),
        })
        .collect();
    if !loading.is_empty() {
        line.push_str("; loading ");
        line.push_str(&loading[..loading.len().min(NAMED_MAX)].join(", "));
    }
    if loading.len() > NAMED_MAX {
        line.push_str(&format!(" and {} more", loading.len() - NAMED_MAX));
    }
    line
}
