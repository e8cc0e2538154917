//! The figures behind the display.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use dms_core::schema::TableName;
use dms_core::task::{Event, EventKind, TableState};

/// Speed is that of the last so many samples.
const SAMPLES: usize = 16;

/// What is known of one table.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) state: Option<TableState>,
    pub(super) rows: u64,
    pub(super) rows_expected: Option<u64>,
    pub(super) begun: Option<Instant>,
}

impl Table {
    /// Percent done, if it can be told.
    pub(super) fn percent(&self) -> Option<u64> {
        let expected = self.rows_expected.filter(|rows| *rows > 0)?;
        Some((self.rows.saturating_mul(100) / expected).min(99))
    }
}

/// What is known of the whole run.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) tables: BTreeMap<TableName, Table>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) begun: Instant,
    samples: VecDeque<(Instant, u64, u64)>,
    /// Whether samples count rows that are loaded, not changes that are applied.
    is_loading: bool,
}

impl Default for Tally {
    fn default() -> Self {
        let begun = Instant::now();
        let samples = VecDeque::from([(begun, 0, 0)]);
        Self { tables: BTreeMap::new(), rows: 0, bytes: 0, begun, samples, is_loading: true }
    }
}

impl Tally {
    pub(super) fn count(&mut self, event: &Event) {
        let table = self.tables.entry(event.table.clone()).or_default();
        match &event.kind {
            EventKind::Planned { row_estimate, rows_held, .. } => {
                table.rows_expected = *row_estimate;
                table.rows = *rows_held;
            }
            EventKind::State(state) => {
                table.state = Some(*state);
                if *state == TableState::FullLoad {
                    table.begun = Some(Instant::now());
                }
            }
            EventKind::Progress { rows, bytes } => {
                table.rows += rows;
                self.rows += rows;
                self.bytes += bytes;
            }
            EventKind::PartitionRetried { rows, bytes, .. } => {
                table.rows = table.rows.saturating_sub(*rows);
                self.rows = self.rows.saturating_sub(*rows);
                self.bytes = self.bytes.saturating_sub(*bytes);
            }
            _ => {}
        }
    }

    /// Notes where things stand now, for the speed.
    pub(super) fn sample(&mut self) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((Instant::now(), self.rows, self.bytes));
    }

    /// The same of changes applied, of which there are so many.
    pub(super) fn sample_changes(&mut self, applied: u64) {
        if self.is_loading {
            self.samples.clear();
            self.is_loading = false;
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((Instant::now(), applied, 0));
    }

    /// Rows and bytes a second, lately.
    pub(super) fn speed(&self) -> (u64, u64) {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return (0, 0);
        };
        let millis = u64::try_from(last.0.duration_since(first.0).as_millis()).unwrap_or(u64::MAX);
        let rate = |from: u64, to: u64| {
            to.saturating_sub(from).saturating_mul(1000).checked_div(millis).unwrap_or(0)
        };
        (rate(first.1, last.1), rate(first.2, last.2))
    }

    /// Rows to expect over all tables, if every table has an estimate.
    pub(super) fn rows_expected(&self) -> Option<u64> {
        self.tables.values().map(|table| table.rows_expected.map(|rows| rows.max(table.rows))).sum()
    }

    /// Rows that the target holds, those of earlier runs included.
    pub(super) fn rows_held(&self) -> u64 {
        self.tables.values().map(|table| table.rows).sum()
    }

    /// How many tables are loaded.
    pub(super) fn completed(&self) -> usize {
        let completed = |table: &&Table| table.state == Some(TableState::Completed);
        self.tables.values().filter(completed).count()
    }

    /// The tables that load now.
    pub(super) fn loading(&self) -> impl Iterator<Item = (&TableName, &Table)> {
        self.tables.iter().filter(|(_, table)| table.state == Some(TableState::FullLoad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(table: &str, kind: EventKind) -> Event {
        Event { table: TableName::new("main", table), kind }
    }

    #[test]
    fn figures_follow_the_events() {
        let mut tally = Tally::default();
        let planned = |rows_held| EventKind::Planned {
            row_estimate: Some(100),
            partitions: 4,
            partitions_held: 1,
            rows_held,
        };
        for (table, kind) in [
            ("a", planned(25)),
            ("a", EventKind::State(TableState::FullLoad)),
            ("b", planned(100)),
            ("b", EventKind::State(TableState::Completed)),
            ("a", EventKind::Progress { rows: 50, bytes: 500 }),
            (
                "a",
                EventKind::PartitionRetried {
                    partition: 1,
                    rows: 20,
                    bytes: 200,
                    error: "busy".to_owned(),
                },
            ),
        ] {
            tally.count(&event(table, kind));
        }
        assert_eq!((tally.rows, tally.bytes), (30, 300), "what this run moved");
        assert_eq!(tally.rows_held(), 155, "with what was there before");
        assert_eq!(tally.rows_expected(), Some(200));
        assert_eq!(tally.completed(), 1);
        let loading: Vec<_> = tally.loading().map(|(name, t)| (&*name.name, t.percent())).collect();
        assert_eq!(loading, [("a", Some(55))]);
    }
}
