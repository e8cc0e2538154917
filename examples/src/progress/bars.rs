//! Progress as bars on a terminal.

use std::collections::BTreeMap;
use std::time::Duration;

use dms_cdc::ReplicationStatus;
use dms_core::schema::TableName;
use dms_core::task::{Event, EventKind, TableState};
use indicatif::{DecimalBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use super::tally::{Table, Tally};
use super::{Display, alarm, describe};

/// The most tables that have a bar at once: more would not fit on a screen.
const BARS_MAX: usize = 12;

/// Of the column of names; with it every line fits into 80 characters.
const NAME_WIDTH: usize = 24;

pub(super) struct Bars {
    screen: MultiProgress,
    tables: BTreeMap<TableName, ProgressBar>,
    total: ProgressBar,
}

impl Bars {
    pub(super) fn new() -> Self {
        let screen = MultiProgress::new();
        let total = screen.add(ProgressBar::no_length());
        total.set_style(style("{prefix:24} {spinner} {human_pos:>11} rows\n{msg}  {elapsed}"));
        total.set_prefix("total");
        total.enable_steady_tick(Duration::from_millis(100));
        Self { screen, tables: BTreeMap::new(), total }
    }

    fn begin(&mut self, name: &TableName) {
        if self.tables.len() >= BARS_MAX {
            return;
        }
        let bar = self.screen.insert_before(&self.total, ProgressBar::no_length());
        bar.set_prefix(shortened(&name.to_string()));
        self.tables.insert(name.clone(), bar);
    }

    /// A finished table leaves one line above the bars.
    fn complete(&mut self, name: &TableName, table: Option<&Table>) {
        let Some(bar) = self.tables.remove(name) else { return };
        bar.finish_and_clear();
        self.screen.remove(&bar);
        let Some(table) = table else { return };
        let seconds = table.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        let name = shortened(&name.to_string());
        let rows = HumanCount(table.rows).to_string();
        self.say(&format!("{name:NAME_WIDTH$} {rows:>13} rows  {seconds:.1} s"));
    }

    fn say(&self, line: &str) {
        // A terminal that is gone is no reason to stop.
        let _ = self.screen.println(line);
    }
}

impl Display for Bars {
    fn event(&mut self, event: &Event, tally: &Tally) {
        if let Some(line) = alarm(event) {
            self.say(&line);
        }
        match event.kind {
            EventKind::State(TableState::FullLoad) => self.begin(&event.table),
            EventKind::State(TableState::Completed) => {
                self.complete(&event.table, tally.tables.get(&event.table));
            }
            EventKind::State(TableState::Error | TableState::Cancelled) => {
                self.complete(&event.table, None);
            }
            _ => {}
        }
    }

    fn tick(&mut self, tally: &Tally) {
        for (name, bar) in &self.tables {
            let Some(table) = tally.tables.get(name) else { continue };
            show(bar, table.rows, table.rows_expected);
        }
        let (rows, bytes) = tally.speed();
        self.total.set_message(format!(
            "{:NAME_WIDTH$} {} rows/s  {}/s  {} of {} tables",
            "",
            HumanCount(rows),
            DecimalBytes(bytes),
            tally.completed(),
            tally.tables.len(),
        ));
        if let Some(expected) = tally.rows_expected().filter(|rows| *rows > 0) {
            self.total.set_style(style(
                "{prefix:24} [{bar:20}] {human_pos:>11} of ~{human_len}\n{msg}  {elapsed}",
            ));
            self.total.set_length(expected);
        }
        self.total.set_position(tally.rows_held());
    }

    fn changes(&mut self, status: &ReplicationStatus, rate: u64) {
        let (done, waiting) = describe(status, rate);
        self.total.set_style(style("{spinner} {prefix}\n  {msg}"));
        self.total.set_prefix(done);
        self.total.set_message(waiting);
    }

    fn end(&mut self) {
        for bar in self.tables.values() {
            bar.finish_and_clear();
        }
        self.total.finish_and_clear();
    }
}

/// A bar if the end is known, else a count.
fn show(bar: &ProgressBar, rows: u64, expected: Option<u64>) {
    match expected.filter(|expected| *expected > 0) {
        // Estimates may be low.
        Some(expected) => {
            bar.set_style(style("{prefix:24} [{bar:20}] {human_pos:>11} of ~{human_len}"));
            bar.set_length(expected.max(rows));
        }
        None => bar.set_style(style("{prefix:24} {spinner} {human_pos:>11} rows")),
    }
    bar.set_position(rows);
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; the fallback only saves an `unwrap`.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// A name in the width of its column.
fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_WIDTH {
        return name.to_owned();
    }
    name.chars().take(NAME_WIDTH - 1).chain(['…']).collect()
}
