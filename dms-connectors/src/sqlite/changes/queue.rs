//! The bounded channel between the thread of a feed and whoever takes its events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dms_core::change::ChangeEvent;
use dms_core::{Error, Result};
use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::{self, BoxStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Permits are counted in KiB, so that large bounds fit the semaphore's 32 bits.
const PERMIT_BYTES: usize = 1024;

type Item = (Result<ChangeEvent>, Option<OwnedSemaphorePermit>);

/// The sending half; it works from a plain thread.
#[derive(Debug)]
pub(super) struct EventSender {
    room: Arc<Semaphore>,
    permits: u32,
    sender: mpsc::UnboundedSender<Item>,
    dropped: Arc<AtomicBool>,
}

/// A channel that holds about `bytes` of events at the most; one event above that passes alone.
pub(super) fn queue(bytes: usize) -> (EventSender, BoxStream<'static, Result<ChangeEvent>>) {
    let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES).max(1)).unwrap_or(u32::MAX);
    let room = Arc::new(Semaphore::new(permits.try_into().unwrap_or(Semaphore::MAX_PERMITS)));
    let (sender, mut receiver) = mpsc::unbounded_channel::<Item>();
    let dropped = Arc::new(AtomicBool::new(false));
    let closes = CloseOnDrop { room: Arc::clone(&room), dropped: Arc::clone(&dropped) };
    let events = stream::poll_fn(move |cx| {
        let _ = &closes;
        // The permit goes when the event is taken, which makes room for the next.
        receiver.poll_recv(cx).map(|item| item.map(|(event, _permit)| event))
    });
    (EventSender { room, permits, sender, dropped }, events.boxed())
}

struct CloseOnDrop {
    room: Arc<Semaphore>,
    dropped: Arc<AtomicBool>,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
        self.room.close();
    }
}

impl EventSender {
    /// Sends an event as soon as there is room; whether somebody is there to take it.
    pub(super) fn send(&self, event: ChangeEvent) -> bool {
        let size = event.bytes().div_ceil(PERMIT_BYTES);
        let size = u32::try_from(size).unwrap_or(u32::MAX).clamp(1, self.permits);
        match block_on(Arc::clone(&self.room).acquire_many_owned(size)) {
            Ok(permit) => self.sender.send((Ok(event), Some(permit))).is_ok(),
            Err(_) => false,
        }
    }

    /// Ends the feed with an error.
    pub(super) fn fail(&self, error: Error) {
        // Nobody to tell if the stream is gone.
        let _ = self.sender.send((Err(error), None));
    }

    /// Set when the stream is dropped.
    pub(super) fn dropped(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.dropped)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail(Error::unexpected("the reader of the changes panicked; this is a bug"));
        }
    }
}
