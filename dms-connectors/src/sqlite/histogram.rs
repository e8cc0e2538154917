//! How a table's rows lie along an integer key, found by looking at a few of them.

use std::collections::BinaryHeap;

use dms_core::Result;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, Statement};

use super::error::convert;

/// How many rows are looked at from each end of a stretch.
const SAMPLE: u64 = 32;

/// Keys from `low` to `high`, both of which exist, with about `rows` rows. Ordered by rows.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stretch {
    pub(super) rows: u64,
    pub(super) low: i64,
    pub(super) high: i64,
}

impl Stretch {
    fn can_be_halved(&self) -> bool {
        // Up to the sample the rows were counted, not estimated.
        self.low < self.high && self.rows > SAMPLE
    }
}

/// The stretches of a table along `column`, in order, about `finest` of them. The fullest stretch
/// is halved again and again, and what lies empty at its ends is cut off: gaps cost nothing, and
/// dense parts end up in small stretches wherever they lie. Empty if keys are no integers; keys of
/// other kinds beside integers lie below or above all stretches.
///
/// `table` and `column` are quoted.
pub(super) fn histogram(
    connection: &Connection,
    table: &str,
    column: &str,
    finest: usize,
) -> Result<Vec<Stretch>> {
    let mut sampler = Sampler::new(connection, table, column)?;
    let mut stretches = BinaryHeap::new();
    stretches.extend(sampler.stretch(i64::MIN, i64::MAX)?);
    while stretches.len() < finest && stretches.peek().is_some_and(Stretch::can_be_halved) {
        let Some(Stretch { low, high, .. }) = stretches.pop() else { break };
        // Half of a width always fits, and `low <= middle < high`.
        let middle = low.saturating_add_unsigned(high.abs_diff(low) / 2);
        stretches.extend(sampler.stretch(low, middle)?);
        stretches.extend(sampler.stretch(middle.saturating_add(1), high)?);
    }
    let mut stretches = stretches.into_vec();
    stretches.sort_unstable_by_key(|stretch| stretch.low);
    Ok(stretches)
}

/// Two seeks, one from each end of a range.
struct Sampler<'a> {
    from_low: Statement<'a>,
    from_high: Statement<'a>,
}

impl<'a> Sampler<'a> {
    fn new(connection: &'a Connection, table: &str, column: &str) -> Result<Self> {
        let prepare = |order: &str| {
            let sql = format!(
                "SELECT count(*), min(c), max(c) FROM (SELECT t.{column} AS c FROM {table} AS t \
                 WHERE t.{column} >= ?1 AND t.{column} <= ?2 ORDER BY t.{column} {order} LIMIT {})",
                SAMPLE + 1
            );
            connection.prepare(&sql).map_err(|error| convert(error, "the table cannot be sampled"))
        };
        Ok(Self { from_low: prepare("ASC")?, from_high: prepare("DESC")? })
    }

    /// The occupied part of a range; `None` if it is empty.
    fn stretch(&mut self, from: i64, to: i64) -> Result<Option<Stretch>> {
        let Some((rows, low, low_end)) = sample(&mut self.from_low, from, to)? else {
            return Ok(None);
        };
        if rows <= SAMPLE {
            return Ok(Some(Stretch { rows, low, high: low_end }));
        }
        let Some((_, high_start, high)) = sample(&mut self.from_high, from, to)? else {
            return Ok(None);
        };
        let width = u128::from(high.abs_diff(low)) + 1;
        // As many rows as there would be if all were as dense as at this end.
        let at = |span: u64| width * u128::from(SAMPLE) / u128::from(span.max(1));
        let rows = (at(low_end.abs_diff(low)) + at(high.abs_diff(high_start))) / 2;
        let rows = u64::try_from(rows).unwrap_or(u64::MAX).max(SAMPLE + 1);
        Ok(Some(Stretch { rows, low, high }))
    }
}

/// How many rows were seen, at most one above the sample, and their lowest and highest key.
fn sample(statement: &mut Statement<'_>, from: i64, to: i64) -> Result<Option<(u64, i64, i64)>> {
    let seen = statement.query_row([from, to], |row| {
        Ok(match (row.get(0)?, row.get(1)?, row.get(2)?) {
            (rows @ 1i64.., Sql::Integer(low), Sql::Integer(high)) => {
                Some((rows.unsigned_abs(), low, high))
            }
            _ => None,
        })
    });
    seen.map_err(|error| convert(error, "the table cannot be sampled"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: impl IntoIterator<Item = i64>, finest: usize) -> Vec<Stretch> {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (k INTEGER PRIMARY KEY); BEGIN").unwrap();
        let mut insert = connection.prepare("INSERT INTO t VALUES (?1)").unwrap();
        for key in keys {
            insert.execute([key]).unwrap();
        }
        histogram(&connection, "t", "\"k\"", finest).unwrap()
    }

    #[test]
    fn few_rows_are_counted() {
        assert_eq!(of([], 8), []);
        assert_eq!(of([7], 8), [Stretch { rows: 1, low: 7, high: 7 }]);
        let ends = of([i64::MIN, 0, i64::MAX], 8);
        assert_eq!(ends, [Stretch { rows: 3, low: i64::MIN, high: i64::MAX }]);
    }

    #[test]
    fn dense_parts_are_found_among_strays() {
        let strays = (1..=20).map(|n| n * (i64::MAX / 21));
        let dense = 5_000_000_000..5_000_050_000;
        let stretches = of(strays.chain(dense), 128);
        let rows: u64 = stretches.iter().map(|stretch| stretch.rows).sum();
        assert!((40_000..70_000).contains(&rows), "about 50,020: {rows}");
        let largest = stretches.iter().map(|stretch| stretch.rows).max();
        assert!(largest < Some(5_000), "{largest:?}");
    }
}
