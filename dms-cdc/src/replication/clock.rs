//! Moments that a replication waits for, and that may never come.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

/// A moment, if there is one.
pub(super) struct Deadline(pub(super) Option<Instant>);

impl Deadline {
    /// Waits for the moment, or for ever.
    pub(super) async fn passed(&self) {
        match self.0 {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// A moment that comes again and again.
pub(super) struct Ticker(Option<Interval>);

impl Ticker {
    /// Every so many seconds; 0 is never.
    pub(super) fn every(seconds: u64) -> Self {
        Self((seconds > 0).then(|| {
            let period = Duration::from_secs(seconds);
            let mut interval = interval_at(Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Waits for the next time, or for ever.
    pub(super) async fn tick(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
