//! Statements on their way: sent one behind the other, their answers taken in order when somebody
//! has to know.

use std::collections::VecDeque;
use std::future::Future;

use dms_core::{Error, Result};
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt, future::BoxFuture, poll};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// How many bytes of statements may be on their way.
const BYTES: usize = 2 * super::arrays::PART_BYTES;
/// From how many bytes on the server gets them while nobody sends more.
const DRIVEN_BYTES: usize = 256 * 1024;

/// All answers are polled together: one that is not taken would hold up those behind it.
type Answers = FuturesOrdered<BoxFuture<'static, Result<()>>>;

/// Statements whose answers nobody has waited for.
#[derive(Default)]
pub(super) struct Pipeline {
    answers: Answers,
    bytes: VecDeque<usize>,
    held: usize,
    driver: Option<Driver>,
}

/// Polls the answers while nobody else does: the client sends no more of a large statement than is
/// asked for.
struct Driver {
    stop: Option<oneshot::Sender<()>>,
    /// One, which ends when this is dropped.
    task: JoinSet<(Answers, Vec<Result<()>>)>,
}

impl Pipeline {
    /// Sends a statement of so many bytes behind those that were sent before; waits while too much
    /// is on its way. The error may be that of one of those.
    pub(super) async fn send(
        &mut self,
        bytes: usize,
        answer: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
        self.take_back().await?;
        self.answers.push_back(answer.boxed());
        self.bytes.push_back(bytes);
        self.held += bytes;
        // The client sends when it is polled for the first time.
        while let std::task::Poll::Ready(Some(answered)) = poll!(self.answers.next()) {
            self.answered();
            answered?;
        }
        while self.held > BYTES && self.bytes.len() > 1 {
            self.next().await?;
        }
        Ok(())
    }

    /// Takes all answers. The error is the first one, for those behind it follow from it.
    pub(super) async fn settle(&mut self) -> Result<()> {
        let mut settled = self.take_back().await;
        while !self.answers.is_empty() {
            settled = settled.and(self.next().await);
        }
        settled
    }

    /// Lets large statements go on while nobody sends more.
    pub(super) fn drive(&mut self) {
        if self.held < DRIVEN_BYTES || self.driver.is_some() {
            return;
        }
        let mut answers = std::mem::take(&mut self.answers);
        let (stop, mut stopped) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut taken = Vec::new();
            while !answers.is_empty() {
                tokio::select! {
                    biased;
                    _ = &mut stopped => break,
                    answered = answers.next() => taken.extend(answered),
                }
            }
            (answers, taken)
        });
        self.driver = Some(Driver { stop: Some(stop), task });
    }

    /// Ends the driving. Given up in the middle, it goes on when it is called again.
    async fn take_back(&mut self) -> Result<()> {
        let Some(driver) = &mut self.driver else { return Ok(()) };
        if let Some(stop) = driver.stop.take() {
            // It may have ended.
            let _ = stop.send(());
        }
        let ended = driver.task.join_next().await;
        self.driver = None;
        let Some(Ok((answers, taken))) = ended else {
            return Err(Error::unexpected("the statements on their way are lost"));
        };
        self.answers = answers;
        let mut settled = Ok(());
        for answered in taken {
            self.answered();
            settled = settled.and(answered);
        }
        settled
    }

    async fn next(&mut self) -> Result<()> {
        let answered = self.answers.next().await.unwrap_or(Ok(()));
        self.answered();
        answered
    }

    fn answered(&mut self) {
        self.held -= self.bytes.pop_front().unwrap_or_default();
    }
}
