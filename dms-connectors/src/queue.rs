//! The way from a feed of changes to its consumer: bounded in bytes.

use std::sync::Arc;

use dms_core::change::ChangeEvent;
use dms_core::{Error, Result};
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Room is counted in KiB, so that large bounds fit the semaphore's 32 bits.
const PERMIT_BYTES: usize = 1024;

type Item = (Result<ChangeEvent>, Option<OwnedSemaphorePermit>);

/// The sending half.
#[derive(Debug, Clone)]
pub(crate) struct EventSender {
    room: Arc<Semaphore>,
    permits: u32,
    sender: mpsc::UnboundedSender<Item>,
}

/// Nobody takes events any more.
#[derive(Debug)]
pub(crate) struct Gone;

/// Tells senders that the stream is dropped, and wakes one that waits for room.
struct CloseOnDrop(Arc<Semaphore>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A queue of about so many bytes; a single event that is larger passes alone.
pub(crate) fn queue(bytes: usize) -> (EventSender, BoxStream<'static, Result<ChangeEvent>>) {
    let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES).max(1)).unwrap_or(u32::MAX >> 4);
    let room = Arc::new(Semaphore::new(permits.try_into().unwrap_or(Semaphore::MAX_PERMITS)));
    let (sender, mut receiver) = mpsc::unbounded_channel::<Item>();
    let closes = CloseOnDrop(Arc::clone(&room));
    let mut ended = false;
    let events = futures::stream::poll_fn(move |cx| {
        let _ = &closes;
        if ended {
            return std::task::Poll::Ready(None);
        }
        receiver.poll_recv(cx).map(|item| {
            // An error is the end.
            ended = item.as_ref().is_none_or(|(event, _)| event.is_err());
            item.map(|(event, _permit)| event)
        })
    });
    (EventSender { room, permits, sender }, events.boxed())
}

impl EventSender {
    /// Sends an event as soon as there is room.
    pub(crate) async fn send(&self, event: ChangeEvent) -> std::result::Result<(), Gone> {
        let size = event.bytes().div_ceil(PERMIT_BYTES);
        let size = u32::try_from(size).unwrap_or(u32::MAX).clamp(1, self.permits);
        let permit = Arc::clone(&self.room).acquire_many_owned(size).await.map_err(|_| Gone)?;
        self.sender.send((Ok(event), Some(permit))).map_err(|_| Gone)
    }

    /// Ends the stream with an error.
    pub(crate) fn fail(&self, error: Error) {
        // Nobody to tell if the stream is gone.
        let _ = self.sender.send((Err(error), None));
    }

    /// Waits until the stream is dropped.
    #[cfg(feature = "postgres")]
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    /// Tells, from anywhere, whether the stream is dropped.
    #[cfg(feature = "sqlite")]
    pub(crate) fn watch(&self) -> impl Fn() -> bool + Send + use<> {
        let room = Arc::clone(&self.room);
        move || room.is_closed()
    }

    /// As [`send`](Self::send), from a plain thread; whether somebody is there to take it.
    #[cfg(feature = "sqlite")]
    pub(crate) fn send_blocking(&self, event: ChangeEvent) -> bool {
        futures::executor::block_on(self.send(event)).is_ok()
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn is_closed(&self) -> bool {
        self.room.is_closed()
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail(Error::unexpected("the reader of the changes panicked; this is a bug"));
        }
    }
}
