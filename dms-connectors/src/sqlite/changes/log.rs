//! The log of a task in the source's file, and places in it.
//!
//! ```text
//! dms_captures         task → number and identity of its log
//! dms_captured_tables  the tables of a log, as JSON of `Watch`
//! dms_changes_<n>      seq, mark, number of the table, its key: one row a touched row
//! ```
//!
//! A place is the identity of the log, the sequence of a row of it, and that row's random mark: a
//! file that was restored from a copy has other marks from there on. The newest row is never
//! deleted, nor is that of the acknowledged position, so that both can be found.

use dms_core::position::Position;
use dms_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension};

use super::watch::Watch;
use crate::control::from_json;
use crate::sql::quote;
use crate::sqlite::error::convert;
use crate::sqlite::state::LOG_PREFIX;

/// The log of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) number: u32,
    pub(super) identity: String,
}

/// A place in a log; identity and mark are missing from one that a person gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) sequence: i64,
    seal: Option<(String, i64)>,
}

impl Place {
    /// Reads a position.
    pub(super) fn of(position: &Position) -> Result<Self> {
        Self::parse(&position.token).filter(|place| place.order() == position.order).ok_or_else(
            || {
                Error::settings(
                    "the position is not one of a log of changes in a SQLite file; is this the \
                     source that it is of?",
                )
                .context("position", position)
            },
        )
    }

    fn parse(token: &str) -> Option<Self> {
        let Some((identity, rest)) = token.split_once(':') else {
            let sequence = token.parse().ok().filter(|sequence| *sequence >= 0)?;
            return Some(Self { sequence, seal: None });
        };
        let (sequence, mark) = rest.split_once(':')?;
        let sequence = sequence.parse().ok().filter(|sequence| *sequence >= 0)?;
        Some(Self { sequence, seal: Some((identity.to_owned(), mark.parse().ok()?)) })
    }

    fn order(&self) -> u64 {
        self.sequence.unsigned_abs()
    }
}

/// A position that a person wrote.
pub(super) fn parse_position(text: &str) -> Result<Position> {
    match Place::parse(text.trim()) {
        Some(place) => Ok(Position::new(place.order(), text.trim())),
        None => Err(Error::settings(format!(
            "{text:?} is no position of a SQLite source; write the number of a row of its log of \
             changes, for example 1234"
        ))),
    }
}

impl Log {
    /// The log of a task, if its capture was begun.
    pub(super) fn find(connection: &Connection, task: &str) -> Result<Option<Self>> {
        let failed = |error| convert(error, "the record of captures cannot be read");
        let there: bool = connection
            .query_row(
                "SELECT count(*) FROM main.sqlite_schema \
                 WHERE type = 'table' AND name = 'dms_captures'",
                [],
                |row| row.get(0),
            )
            .map_err(failed)?;
        if !there {
            return Ok(None);
        }
        connection
            .query_row(
                "SELECT number, identity FROM main.dms_captures WHERE task = ?1",
                [task],
                |row| Ok(Self { number: row.get(0)?, identity: row.get(1)? }),
            )
            .optional()
            .map_err(failed)
    }

    /// As [`find`](Self::find); it has to be there.
    pub(super) fn of(connection: &Connection, task: &str) -> Result<Self> {
        Self::find(connection, task)?.ok_or_else(|| {
            Error::new(
                ErrorKind::PositionLost,
                "the file holds no log of changes for the task: its capture was not begun, or the \
                 file was replaced; load the tables again",
            )
            .context("task", task)
        })
    }

    /// The name of its table.
    pub(super) fn table(&self) -> String {
        format!("{LOG_PREFIX}{}", self.number)
    }

    /// The tables that are watched.
    pub(super) fn watches(&self, connection: &Connection) -> Result<Vec<Watch>> {
        let failed = |error| convert(error, "the record of captures cannot be read");
        let mut statement = connection
            .prepare("SELECT watch FROM main.dms_captured_tables WHERE log = ?1 ORDER BY number")
            .map_err(failed)?;
        let rows =
            statement.query_map([self.number], |row| row.get::<_, String>(0)).map_err(failed)?;
        rows.map(|row| from_json(&row.map_err(failed)?, "dms_captured_tables")).collect()
    }

    /// The newest place.
    pub(super) fn end(&self, connection: &Connection) -> Result<Position> {
        self.outermost(connection, "DESC")
    }

    /// The oldest place from which changes are there.
    pub(super) fn start(&self, connection: &Connection) -> Result<Position> {
        self.outermost(connection, "ASC")
    }

    fn outermost(&self, connection: &Connection, order: &str) -> Result<Position> {
        let sql = format!(
            "SELECT seq, mark FROM main.{} ORDER BY seq {order} LIMIT 1",
            quote(&self.table())
        );
        let found: Option<(i64, i64)> = connection
            .prepare_cached(&sql)
            .and_then(|mut query| {
                query.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()
            })
            .map_err(|error| self.unreadable(error))?;
        let (sequence, mark) = found.ok_or_else(|| lost("the log of changes was emptied"))?;
        let token = format!("{}:{sequence}:{mark}", self.identity);
        Ok(Position::new(sequence.unsigned_abs(), token))
    }

    /// Sees that the log holds everything after a place.
    pub(super) fn check(&self, connection: &Connection, place: &Place) -> Result<()> {
        let sql = format!("SELECT mark FROM main.{} WHERE seq = ?1", quote(&self.table()));
        let mark: Option<i64> = connection
            .prepare_cached(&sql)
            .and_then(|mut query| query.query_row([place.sequence], |row| row.get(0)).optional())
            .map_err(|error| self.unreadable(error))?;
        let Some((identity, sealed)) = &place.seal else {
            let (start, end) = (self.start(connection)?, self.end(connection)?);
            if (start.order..=end.order).contains(&place.order()) {
                return Ok(());
            }
            return Err(lost(&format!(
                "the log of changes goes from {} to {} only",
                start.order, end.order
            ))
            .context("position", place.sequence));
        };
        let error = if *identity != self.identity {
            "the position is one of another log: the file was replaced, or the task's capture was \
             begun anew"
        } else if mark.is_none() {
            "the log of changes does not hold the position: the file was restored from an older \
             copy, or the log was shortened"
        } else if mark != Some(*sealed) {
            "the log of changes went another way: the file was restored from an older copy"
        } else {
            return Ok(());
        };
        Err(lost(error).context("position", place.sequence))
    }

    fn unreadable(&self, error: rusqlite::Error) -> Error {
        convert(error, &format!("the log of changes {} cannot be read", self.table()))
    }

    /// About how many bytes the log holds.
    pub(super) fn bytes(&self, connection: &Connection) -> Result<u64> {
        /// How many of the newest rows are looked at.
        const SAMPLE: u32 = 64;
        let rows = self.end(connection)?.order - self.start(connection)?.order + 1;
        let log = quote(&self.table());
        let width: u32 = connection
            .query_row(
                "SELECT count(*) FROM pragma_table_info(?1, 'main') WHERE name GLOB 'k[0-9]*'",
                [self.table()],
                |row| row.get(0),
            )
            .map_err(|error| self.unreadable(error))?;
        let key: String =
            (0..width).map(|place| format!(" + ifnull(octet_length(k{place}), 0)")).collect();
        let sql = format!(
            "SELECT CAST(avg(24{key}) AS INTEGER) FROM \
             (SELECT * FROM main.{log} ORDER BY seq DESC LIMIT {SAMPLE})"
        );
        let average: i64 = connection
            .query_row(&sql, [], |row| row.get(0))
            .map_err(|error| self.unreadable(error))?;
        Ok(rows.saturating_mul(average.unsigned_abs()))
    }
}

/// The error of changes that are not there any more.
pub(super) fn lost(what: &str) -> Error {
    let message = format!("{what}; changes may be missing, so load the tables again");
    Error::new(ErrorKind::PositionLost, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_back_and_others_refused() {
        for (text, order) in [("12", 12), (" 0 ", 0), ("ab:7:-9", 7)] {
            let position = parse_position(text).unwrap();
            assert_eq!(position.order, order);
            assert_eq!(Place::of(&position).unwrap().order(), order);
        }
        for text in ["", "-1", "0/1B3", "a:b", "a:1:x", "a:-1:2", "99999999999999999999"] {
            let error = parse_position(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Settings, "{text}");
        }
        let odd = Place::of(&Position::new(8, "ab:7:-9")).unwrap_err();
        assert_eq!(odd.kind(), ErrorKind::Settings);
    }
}
