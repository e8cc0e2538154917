//! Places in PostgreSQL's log.

use std::fmt;
use std::sync::Arc;

use dms_core::position::Position;
use dms_core::{Error, Result};

/// A place in the write-ahead log, as `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Lsn(pub(super) u64);

impl Lsn {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let half = |text: &str| {
            let is_hex =
                (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
            if is_hex { u64::from_str_radix(text, 16).ok() } else { None }
        };
        Some(Self(half(high)? << 32 | half(low)?))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Whose log it is: positions of one say nothing in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Log {
    /// `"<system identifier>/<oid of the database>"`.
    source: Arc<str>,
    /// The timeline that the server is on: another takes over with a new one.
    pub(super) timeline: u32,
}

impl Log {
    pub(super) fn new(system: &str, database: u32, timeline: u32) -> Self {
        Self { source: format!("{system}/{database}").into(), timeline }
    }

    /// A transaction's place: that of its commit record; its log goes on at `next`.
    pub(super) fn transaction(&self, commit: Lsn, next: Lsn) -> Position {
        Position::new(commit.0, format!("{}@{}/{next}", self.source, self.timeline))
    }

    /// Every transaction whose commit record lies before a place.
    pub(super) fn before(&self, next: Lsn) -> Position {
        self.transaction(Lsn(next.0.saturating_sub(1)), next)
    }

    /// The timeline and the place of a token of this source; one of an early version has no
    /// timeline.
    fn parts<'a>(&self, token: &'a str) -> Option<(Option<u32>, &'a str)> {
        let rest = token.strip_prefix(&*self.source)?;
        match rest.strip_prefix('@') {
            None => Some((None, rest.strip_prefix('/')?)),
            Some(rest) => {
                let (timeline, lsn) = rest.split_once('/')?;
                Some((Some(timeline.parse().ok()?), lsn))
            }
        }
    }

    /// The timeline of a position, if it says one.
    pub(super) fn timeline_of(&self, position: &Position) -> Option<u32> {
        self.parts(&position.token)?.0
    }

    /// Where the log goes on after a position.
    ///
    /// # Errors
    /// `Settings` for a position of another system or database.
    pub(super) fn next(&self, position: &Position) -> Result<Lsn> {
        let wrong = |what: &str| {
            Err(Error::settings(format!(
                "{what}; use the source that the task was begun with, or load the tables again"
            ))
            .context("position", position))
        };
        let lsn = match position.token.rsplit_once('/').and_then(|(rest, _)| rest.rsplit_once('/'))
        {
            // Given by a person, who has this source in mind.
            None => &position.token,
            Some((source, _)) => {
                let Some((_, lsn)) = self.parts(&position.token) else {
                    let (system, _) = self.source.split_once('/').unwrap_or_default();
                    return wrong(if source.split('/').next() == Some(system) {
                        "the position is one of another database of this server"
                    } else {
                        "the position is one of another PostgreSQL server"
                    });
                };
                lsn
            }
        };
        match Lsn::parse(lsn) {
            Some(lsn) => Ok(lsn),
            None => wrong("the position is none of a PostgreSQL log"),
        }
    }
}

/// A position as a person writes it.
///
/// # Errors
/// `Settings` saying how.
pub(super) fn parse_position(text: &str) -> Result<Position> {
    match Lsn::parse(text.trim()) {
        Some(lsn) if lsn.0 > 0 => Ok(Position::new(lsn.0 - 1, lsn.to_string())),
        _ => Err(Error::settings(format!(
            "{text:?} is no position of PostgreSQL; write a log sequence number as \
             pg_current_wal_lsn() gives it, for example 0/16B3748"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["0/16B3748", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/0"] {
            assert_eq!(Lsn::parse(text).unwrap().to_string(), text);
        }
        for wrong in ["", "16B3748", "0/", "/1", "0/x", "0/123456789", "0/+1", "1/2/3"] {
            assert_eq!(Lsn::parse(wrong), None, "{wrong}");
        }
        assert!(parse_position("0/0").is_err());
        assert_eq!(parse_position("0/10").unwrap(), Position::new(15, "0/10"));
    }

    #[test]
    fn positions_of_other_logs_are_refused() {
        let log = Log::new("7000", 5, 2);
        let position = log.transaction(Lsn(0x100), Lsn(0x130));
        assert_eq!((position.order, &*position.token), (0x100, "7000/5@2/0/130"));
        assert_eq!(log.timeline_of(&position), Some(2));
        let early = Position::new(0x100, "7000/5/0/130");
        assert_eq!((log.timeline_of(&early), log.next(&early).unwrap()), (None, Lsn(0x130)));
        assert_eq!(log.next(&position).unwrap(), Lsn(0x130));
        assert_eq!(log.next(&parse_position("0/130").unwrap()).unwrap(), Lsn(0x130));
        for (other, says) in [
            (Log::new("7000", 6, 2), "another database"),
            (Log::new("7000", 51, 2), "another database"),
            (Log::new("7001", 5, 2), "another PostgreSQL server"),
        ] {
            let error = other.next(&position).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(log.next(&Position::new(0, "7000/1/77/1:2:")).is_err());
    }
}
