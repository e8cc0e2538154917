//! The end of a buffer that capture writes.

use std::sync::{Arc, Mutex, PoisonError};

use dms_core::change::{ChangeEvent, encode_event};
use dms_core::position::Position;
use dms_core::{Error, ErrorKind, Result};

use super::log::{Log, Shapes, Write, note_shape};
use super::place::Place;
use super::state::{End, Shared};
use super::{BufferStatus, WhenFull, blocking};

/// The end that events are put into.
///
/// Dropping it ends the events for the reader, who gets all that were put in before.
#[derive(Debug)]
pub struct BufferWriter {
    pub(super) shared: Arc<Shared>,
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) place: Place,
    pub(super) shapes: Shapes,
    /// Whether a push is under way, or was given up in the middle.
    pub(super) busy: bool,
}

/// Whether an event is kept in memory alone.
enum Kept {
    Alone,
    /// There are files whose events were all read.
    BesideFiles,
    Not(ChangeEvent),
}

/// What became of an attempt to write.
enum Outcome {
    Written,
    Full,
    /// Full, and nothing will make room.
    Stuck,
}

impl BufferWriter {
    /// Puts an event in, behind all others. Waits for room on the disk if the buffer is
    /// [to wait](WhenFull::Wait). A future that is dropped before its end leaves a writer that
    /// takes no more, since nobody knows whether the event is in.
    ///
    /// # Errors
    /// `Stopped` if the reader is gone; `Unexpected` if the disk is full or fails, if the limit is
    /// reached and the buffer is [to fail](WhenFull::Fail), or if events are in disorder.
    pub async fn push(&mut self, event: ChangeEvent) -> Result<()> {
        if std::mem::replace(&mut self.busy, true) {
            return Err(Error::unexpected(
                "an earlier change was not cached; start the task again",
            ));
        }
        let mut after = self.place.clone();
        after.advance(&event)?;
        if self.shared.durable {
            note_shape(Arc::make_mut(&mut self.shapes), &event);
        }
        match self.keep(event)? {
            Kept::Not(event) => self.write(event, &after).await?,
            Kept::Alone => {}
            Kept::BesideFiles => {
                let log = Arc::clone(&self.log);
                blocking(move || log.lock().unwrap_or_else(PoisonError::into_inner).tidy()).await?;
            }
        }
        self.place = after;
        self.busy = false;
        self.shared.items.notify_one();
        Ok(())
    }

    /// Keeps an event in memory alone, if that is all that is to be done with it.
    fn keep(&self, event: ChangeEvent) -> Result<Kept> {
        let bytes = event.bytes();
        let mut state = self.shared.state();
        if state.reader_gone {
            return Err(reader_gone());
        }
        if self.shared.durable || !state.takes(bytes, self.shared.memory_bytes) {
            return Ok(Kept::Not(event));
        }
        state.keep(event, bytes, None);
        Ok(if state.segments.is_empty() { Kept::Alone } else { Kept::BesideFiles })
    }

    async fn write(&self, event: ChangeEvent, after: &Place) -> Result<()> {
        let (event, payload) = blocking(move || {
            let payload = encode_event(&event)?;
            Ok((event, payload))
        })
        .await?;
        let job = Arc::new(Job {
            payload,
            before: self.place.clone(),
            after: after.clone(),
            shapes: Arc::clone(&self.shapes),
            event: Mutex::new(Some(event)),
        });
        loop {
            let (shared, log) = (Arc::clone(&self.shared), Arc::clone(&self.log));
            let attempt = Arc::clone(&job);
            match blocking(move || attempt.attempt(&shared, &log)).await? {
                Outcome::Written => return Ok(()),
                Outcome::Stuck => return Err(self.full(
                    "a transaction is larger than what may be cached on the disk, and the target \
                     cannot finish it before its end has come",
                )),
                Outcome::Full if self.shared.when_full == WhenFull::Fail => {
                    return Err(self.full("more changes are cached than the disk may hold"));
                }
                Outcome::Full => {
                    self.shared.room.notified().await;
                    if self.shared.state().reader_gone {
                        return Err(reader_gone());
                    }
                }
            }
        }
    }

    fn full(&self, what: &str) -> Error {
        let limit = self.shared.disk_bytes;
        Error::unexpected(format!(
            "{what}; raise Engine.SpillBytesMax, which is {limit} bytes, or set it to 0 for no limit"
        ))
        .context("folder", self.shared.folder.display())
    }

    /// Makes all that was put in durable. Returns the position of the last whole transaction, or
    /// of the last time the source was idle: up to there the source may forget its changes. `None`
    /// if there is no such position, or if the buffer is not to be durable.
    ///
    /// # Errors
    /// `Unexpected` if the disk fails: nothing that was put in since the last time counts then, and
    /// the buffer takes no more.
    pub async fn sync(&mut self) -> Result<Option<Position>> {
        if !self.shared.durable {
            return Ok(None);
        }
        if self.busy {
            return Err(Error::unexpected(
                "an earlier change was not cached; start the task again",
            ));
        }
        let (log, place) = (Arc::clone(&self.log), self.place.clone());
        blocking(move || log.lock().unwrap_or_else(PoisonError::into_inner).sync(&place)).await
    }

    /// Ends the events with an error, which the reader gets behind all that were put in before.
    pub fn fail(self, error: Error) {
        self.shared.state().end = Some(End::Failed(error));
    }

    /// What the buffer holds.
    #[must_use]
    pub fn status(&self) -> BufferStatus {
        self.shared.status()
    }
}

impl Drop for BufferWriter {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.end.is_none() {
            state.end = Some(if std::thread::panicking() {
                End::Failed(Error::unexpected("the capture of changes panicked; this is a bug"))
            } else {
                End::Closed
            });
        }
        drop(state);
        self.shared.items.notify_one();
    }
}

fn reader_gone() -> Error {
    Error::new(ErrorKind::Stopped, "nobody reads the cached changes any more")
}

/// An event that is to be written.
struct Job {
    payload: Vec<u8>,
    before: Place,
    after: Place,
    shapes: Shapes,
    event: Mutex<Option<ChangeEvent>>,
}

impl Job {
    /// Writes the event if there is room, on a thread that may block. All of it happens here, so
    /// that the event is in or not, even if nobody waits for the answer any more.
    fn attempt(&self, shared: &Shared, log: &Mutex<Log>) -> Result<Outcome> {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if !log.has_room(self.payload.len())? {
            let stuck = log.is_stuck(&self.before);
            return Ok(if stuck { Outcome::Stuck } else { Outcome::Full });
        }
        let next = log.append(&Write {
            payload: &self.payload,
            before: &self.before,
            after: &self.after,
            shapes: &self.shapes,
        })?;
        let event = self.event.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut state = shared.state();
        match event {
            Some(event) if shared.durable && state.takes(event.bytes(), shared.memory_bytes) => {
                let bytes = event.bytes();
                state.keep(event, bytes, Some(next));
            }
            _ => state.on_disk += 1,
        }
        drop(state);
        shared.items.notify_one();
        Ok(Outcome::Written)
    }
}
