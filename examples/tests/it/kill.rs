//! `kill -9` at random moments, again and again, until a run gets through.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::data;
use crate::harness::{Lane, Place, end, start};

/// Numbers that a seed repeats (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// Of the environment variable `DMS_TEST_SEED`, or of the clock; printed, so that a failure can
    /// be repeated.
    pub(crate) fn new() -> Self {
        let seed = std::env::var("DMS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() & 0xffff_ffff
        });
        println!("DMS_TEST_SEED={seed}");
        Self(seed)
    }

    /// Of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

fn kill_until_done(lane: Lane) {
    let mut random = Random::new();
    let place = Place::new(lane, &data::tables(3000));
    let begun = Instant::now();
    end(place.run()).with_code(0);
    let whole = u64::try_from(begun.elapsed().as_millis()).unwrap();
    let mut killed = 0;
    for _ in 0..6 {
        place.clear_target();
        // Each time a run may live a little longer, so that the last ones get through.
        for life in 1..=5 {
            let mut child = start(place.run());
            std::thread::sleep(Duration::from_millis(random.below(whole * life / 3)));
            if child.try_wait().unwrap().is_none() {
                killed += 1;
            }
            child.kill().unwrap();
            let ended = child.wait_with_output().unwrap();
            if let Some(code) = ended.status.code() {
                assert_eq!(code, 0, "{}", String::from_utf8_lossy(&ended.stderr));
                break;
            }
        }
        end(place.run()).with_code(0);
        place.assert_equal();
    }
    assert!(killed >= 3, "only {killed} runs were killed: the data is too small for this test");
}

#[test]
fn kill_sqlite_to_sqlite() {
    kill_until_done(Lane::SqliteToSqlite);
}

#[test]
fn kill_sqlite_to_parquet() {
    kill_until_done(Lane::SqliteToParquet);
}

#[test]
fn kill_parquet_to_sqlite() {
    kill_until_done(Lane::ParquetToSqlite);
}

#[test]
fn kill_sqlite_to_postgres() {
    kill_until_done(Lane::SqliteToPostgres);
}

#[test]
fn kill_postgres_to_sqlite() {
    kill_until_done(Lane::PostgresToSqlite);
}

#[test]
fn kill_postgres_to_parquet() {
    kill_until_done(Lane::PostgresToParquet);
}
