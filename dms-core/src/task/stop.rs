//! Where a replication begins and when it ends.

use serde::{Deserialize, Deserializer, Serialize};

use super::StopReason;
use crate::value::temporal::{MICROS, parse_timestamp, write_timestamp};
use crate::{Error, Result};

/// Where changes without a load begin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartPoint {
    /// With the first transaction after the task's beginning.
    #[default]
    Now,
    /// After a position, in the source's words; the source has to hold it.
    Position(String),
}

/// When a replication ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StopWhen {
    /// Not before it is asked to.
    #[default]
    Asked,
    /// When every table is loaded; cached changes stay with the source.
    FullLoadDone,
    /// When the changes that came while tables were loaded are applied.
    CachedChangesApplied,
    /// When everything that the source holds at the moment is applied.
    CaughtUp,
    /// Before the first transaction after a position, in the source's words.
    Position(String),
    /// Before the first transaction that was committed after a time by the source's clock, in
    /// microseconds since 1970.
    #[serde(rename = "time", deserialize_with = "read_time", serialize_with = "write_time")]
    CommitTime(i64),
    /// At a time by the clock of this machine, in microseconds since 1970.
    #[serde(deserialize_with = "read_time", serialize_with = "write_time")]
    ServerTime(i64),
}

impl StopWhen {
    /// What a report says of a replication that ended so.
    #[must_use]
    pub fn reason(&self) -> StopReason {
        match self {
            Self::Asked => StopReason::Normal,
            Self::FullLoadDone => StopReason::StoppedAfterFullLoad,
            Self::CachedChangesApplied => StopReason::StoppedAfterCachedEvents,
            Self::CaughtUp => StopReason::StoppedWhenCaughtUp,
            Self::Position(_) => StopReason::StoppedAtPosition,
            Self::CommitTime(_) => StopReason::StoppedAtCommitTime,
            Self::ServerTime(_) => StopReason::StoppedAtServerTime,
        }
    }
}

/// `2026-11-21T12:30:00Z` in UTC, as microseconds since 1970.
fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let plain = text.trim_end_matches('Z').replacen('T', " ", 1);
    let parsed = parse_timestamp(plain.as_bytes(), MICROS).map(|(micros, _)| micros);
    parsed.ok_or_else(|| {
        let message = format!("{text:?} is no time; write it as 2026-11-21T12:30:00Z, in UTC");
        serde::de::Error::custom(Error::settings(message).message())
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn write_time<S: serde::Serializer>(micros: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::new();
    write_timestamp(&mut text, *micros, MICROS, None);
    serializer.serialize_str(&(text.replacen(' ', "T", 1) + "Z"))
}
