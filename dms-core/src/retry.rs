//! Trying again after transient errors: the one place that waits.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{Error, ErrorKind, Result};

/// How often and how patiently work is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often after the first try; 0 is never.
    pub retries: u32,
    /// The wait before the first repetition; it doubles each time.
    pub interval: Duration,
    /// The longest wait.
    pub interval_max: Duration,
}

impl RetryPolicy {
    /// Runs `work` until it succeeds, fails for good, the tries are used up or `stop` is asked for.
    /// `failed` hears of every error that is going to be retried.
    ///
    /// # Errors
    /// The last error of `work`.
    pub async fn run<T, F, Fut>(
        &self,
        stop: &CancellationToken,
        mut work: F,
        mut failed: impl FnMut(&Error),
    ) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let mut wait = self.interval;
        for _ in 0..self.retries {
            match until_stopped(stop, work()).await {
                Err(error) if error.is_transient() && !stop.is_cancelled() => {
                    failed(&error);
                    tokio::select! {
                        () = stop.cancelled() => return Err(error),
                        () = tokio::time::sleep(wait) => {}
                    }
                    wait = (wait * 2).min(self.interval_max);
                }
                result => return result,
            }
        }
        until_stopped(stop, work()).await
    }
}

/// What a task is told that was asked to stop.
#[must_use]
pub fn stopped() -> Error {
    Error::new(ErrorKind::Stopped, "the task was stopped; run it again to go on")
}

/// How long work may take to end by itself when a stop is asked for.
const GRACE: Duration = Duration::from_secs(5);

/// Runs work that ends by itself when `stop` is asked for, or is dropped if it does not: a server
/// may let it wait for a lock or an index.
///
/// # Errors
/// `Stopped` for dropped work, else those of `work`.
pub async fn until_stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let given_up = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        result = work => result,
        () = given_up => Err(stopped()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::cell::Cell;

    const POLICY: RetryPolicy = RetryPolicy {
        retries: 3,
        interval: Duration::from_millis(1),
        interval_max: Duration::from_millis(2),
    };

    async fn tries(error: impl Fn() -> Error, succeeds_at: u32) -> (u32, Result<u32>) {
        let count = Cell::new(0);
        let result = POLICY
            .run(
                &CancellationToken::new(),
                || {
                    count.set(count.get() + 1);
                    let now = count.get();
                    let error = error();
                    async move { if now >= succeeds_at { Ok(now) } else { Err(error) } }
                },
                |_| {},
            )
            .await;
        (count.get(), result)
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_dropped_after_a_stop() {
        let stop = CancellationToken::new();
        stop.cancel();
        let ends = until_stopped(&stop, async {
            tokio::time::sleep(GRACE / 2).await;
            Ok(())
        });
        ends.await.unwrap();
        let hangs = POLICY.run(&stop, futures::future::pending::<Result<()>>, |_| {});
        assert!(hangs.await.unwrap_err().is_stop());
    }

    #[tokio::test]
    async fn only_transient_errors_are_tried_again_and_not_for_ever() {
        let lost = || Error::new(ErrorKind::Connection, "lost").transient();
        let denied = || Error::new(ErrorKind::Denied, "no");
        assert_eq!(tries(lost, 3).await.1.unwrap(), 3);
        assert_eq!(tries(denied, 3).await.0, 1);
        let (count, result) = tries(lost, 99).await;
        assert_eq!(count, 4);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Connection);
    }
}
