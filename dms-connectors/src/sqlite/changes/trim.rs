//! Forgetting what the consumer holds, in transactions so short that they hinder no writer.

use std::time::{Duration, Instant};

use dms_core::Result;
use rusqlite::{Connection, ErrorCode};

use super::capture;
use super::log::Log;
use crate::sql::quote;
use crate::sqlite::error::convert;
use crate::sqlite::settings::SqliteSettings;

/// How many rows one transaction deletes, which takes milliseconds.
const ROWS: i64 = 10_000;
/// How many transactions come one after the other before changes are looked for again.
const ROUNDS: usize = 20;
/// How often to look whether there is something to forget.
const PERIOD: Duration = Duration::from_millis(500);
/// How long to wait for a writer; there is always a later.
const PATIENCE: Duration = Duration::from_millis(20);

/// What was deleted, and when.
#[derive(Default)]
pub(super) struct Trim {
    connection: Option<Connection>,
    upto: u64,
    at: Option<Instant>,
}

impl Trim {
    /// Deletes a part of what is before `order`, if it is time to. The row of `order` stays, so that
    /// a feed from there finds its place.
    pub(super) fn step(&mut self, settings: &SqliteSettings, log: &Log, order: u64) -> Result<()> {
        if order <= self.upto || self.at.is_some_and(|at| at.elapsed() < PERIOD) {
            return Ok(());
        }
        self.at = Some(Instant::now());
        let connection = match &mut self.connection {
            Some(connection) => connection,
            empty => match capture::open(settings) {
                Err(error) if error.is_transient() => return Ok(()),
                opened => empty.insert(opened?),
            },
        };
        let failed = |error| convert(error, "the log of changes cannot be shortened");
        connection.busy_timeout(PATIENCE).map_err(failed)?;
        let name = quote(&log.table());
        let sql = format!(
            "DELETE FROM main.{name} WHERE seq < min(?1, \
             (SELECT seq FROM main.{name} ORDER BY seq LIMIT 1) + {ROWS})"
        );
        let before = i64::try_from(order).unwrap_or(i64::MAX);
        for _ in 0..ROUNDS {
            match connection.prepare_cached(&sql).and_then(|mut delete| delete.execute([before])) {
                Ok(0) => {
                    self.upto = order;
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) if is_busy(&error) => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
        }
        // There is more to do, at once.
        self.at = None;
        Ok(())
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
