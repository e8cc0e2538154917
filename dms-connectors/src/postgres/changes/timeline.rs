//! Timelines: a server that takes over from another, or is restored to a time before, goes on with a
//! log of its own from some place on. A position behind that place, of the log that was left, says
//! nothing in the new one, though its number does.

use dms_core::position::Position;
use dms_core::schema::TableSchema;
use dms_core::{Error, ErrorKind, Result};

use super::database::{Database, load_again};
use super::lsn::Lsn;
use super::walsender::Walsender;
use crate::postgres::settings::PostgresSettings;

/// Sees that the server's log holds what lies before a position: the change that the position is
/// behind is a part of it. `from` is where the log goes on after the position.
///
/// # Errors
/// `PositionLost` if the log is another one there; `Connection`.
pub(super) async fn check(
    settings: &PostgresSettings,
    database: &Database,
    position: &Position,
    from: Lsn,
    tables: &[TableSchema],
) -> Result<()> {
    const DOING: &str = "the history of the server's log cannot be read";
    let now = database.log.timeline;
    let Some(then) = database.log.timeline_of(position).filter(|then| *then != now) else {
        return Ok(());
    };
    let lost = |what: String| {
        let message = format!(
            "{what}, so that the target holds changes that the server does not have; {}",
            load_again(tables)
        );
        Err(Error::new(ErrorKind::PositionLost, message).context("position", position))
    };
    if then > now {
        return lost(format!(
            "the position is of timeline {then} of the server's log, and the server is on timeline \
             {now}: it was set back to an older copy, or is one that another took over from"
        ));
    }
    let mut walsender = Walsender::open(settings, database).await?;
    let answer = walsender.command(&format!("TIMELINE_HISTORY {now}"), DOING).await?;
    let [_, history] = answer.as_slice() else { return Err(Error::unexpected(DOING)) };
    match end_of(history, then) {
        Some(end) if from <= end => Ok(()),
        Some(end) => lost(format!(
            "the server took over from another one at {end} (timeline {now}), before the position"
        )),
        None => lost(format!(
            "timeline {then} of the position is no part of the server's log (timeline {now})"
        )),
    }
}

/// Where a timeline was left, by the history of one that came after it: `1<tab>0/3000060<tab>why`.
fn end_of(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let number: u32 = words.next()?.parse().ok()?;
        (number == timeline).then(|| Lsn::parse(words.next()?))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories() {
        let history = "1\t0/3000060\tno recovery target specified\n\n\
            # a comment\n2\t0/5000028\tbefore 2026-01-01\n";
        assert_eq!(end_of(history, 1), Some(Lsn(0x300_0060)));
        assert_eq!(end_of(history, 2), Some(Lsn(0x500_0028)));
        for (history, timeline) in [(history, 3), ("", 1), ("1", 1), ("1\tx\ty", 1)] {
            assert_eq!(end_of(history, timeline), None, "{history}");
        }
    }
}
