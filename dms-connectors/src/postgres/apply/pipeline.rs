//! Statements on their way: sent one behind the other, their answers taken in order when somebody
//! has to know.

use std::collections::VecDeque;
use std::future::Future;

use dms_core::Result;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt, future::BoxFuture, poll};

/// How many bytes of statements may be on their way.
const BYTES: usize = 2 * super::arrays::PART_BYTES;

/// Statements whose answers nobody has waited for. All of them are polled together: an answer that
/// is not taken would hold up those behind it.
#[derive(Default)]
pub(super) struct Pipeline {
    answers: FuturesOrdered<BoxFuture<'static, Result<()>>>,
    bytes: VecDeque<usize>,
    held: usize,
}

impl Pipeline {
    /// Sends a statement of so many bytes behind those that were sent before; waits while too much
    /// is on its way. The error may be that of one of those.
    pub(super) async fn send(
        &mut self,
        bytes: usize,
        answer: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
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
        let mut settled = Ok(());
        while !self.answers.is_empty() {
            settled = settled.and(self.next().await);
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
