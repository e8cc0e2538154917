//! The end of a buffer that apply reads.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dms_core::change::{ChangeEvent, decode_event};
use dms_core::position::Position;
use dms_core::{Error, ErrorKind, Result};

use super::log::Log;
use super::segment::{Frame, Kind, Opened, SegmentReader, file_name};
use super::skip::Skip;
use super::state::{Cursor, End, Shared};
use super::{BufferStatus, blocking, recover};

/// The end that events come out of, in the order they were put in.
///
/// Dropping it makes the writer's next push fail with `Stopped`.
#[derive(Debug)]
pub struct BufferReader {
    pub(super) shared: Arc<Shared>,
    pub(super) log: Arc<Mutex<Log>>,
    /// Away while it reads.
    pub(super) file: Option<SegmentReader>,
    pub(super) skip: Skip,
    pub(super) ready: VecDeque<ChangeEvent>,
    pub(super) ended: bool,
    /// What comes behind the last event.
    pub(super) error: Option<Error>,
}

/// What comes next.
enum Next {
    Memory(ChangeEvent),
    Disk,
    Nothing,
    End(Option<Error>),
}

impl BufferReader {
    /// The next event, as soon as there is one; `None` when the writer has ended. An error is the
    /// last item. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<ChangeEvent>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return self.error.take().map(Err);
            }
            match self.take() {
                Next::Memory(event) => self.skip.pass(event, &mut self.ready),
                Next::Disk => {
                    if let Err(error) = self.read().await {
                        self.ended = true;
                        return Some(Err(error));
                    }
                }
                Next::Nothing => self.shared.items.notified().await,
                Next::End(error) => {
                    // All of it before the wait, in which the future may be dropped.
                    self.ended = true;
                    self.error = error;
                    self.skip.end(&mut self.ready);
                    let log = Arc::clone(&self.log);
                    if let Err(error) = blocking(move || tidy(&log)).await {
                        self.error.get_or_insert(error);
                    }
                }
            }
        }
    }

    fn take(&self) -> Next {
        let mut state = self.shared.state();
        if let Some(entry) = state.memory.pop_front() {
            state.memory_bytes -= entry.bytes;
            if let Some(next) = entry.next {
                state.cursor = next;
            }
            if state.is_read() {
                self.shared.room.notify_one();
            }
            return Next::Memory(entry.event);
        }
        if state.on_disk > 0 {
            return Next::Disk;
        }
        match state.end.take() {
            None => Next::Nothing,
            Some(End::Closed) => Next::End(None),
            Some(End::Failed(error)) => Next::End(Some(error)),
        }
    }

    /// Reads the event at the cursor. The cursor goes on when the event is in hand, so that a call
    /// that is given up loses nothing.
    async fn read(&mut self) -> Result<()> {
        let (shared, log) = (Arc::clone(&self.shared), Arc::clone(&self.log));
        let file = self.file.take();
        let (event, file, next) = blocking(move || read_event(&shared, file)).await?;
        self.file = Some(file);
        self.skip.pass(event, &mut self.ready);
        let all_read = {
            let mut state = self.shared.state();
            state.cursor = next;
            state.on_disk -= 1;
            state.on_disk == 0
        };
        let left = self.shared.state().locate(next).is_none_or(|at| at.segment != next.segment);
        // What comes next is in another file: this one may be done with.
        if left {
            let shared = Arc::clone(&self.shared);
            blocking(move || match log.try_lock() {
                Ok(mut log) => log.tidy(),
                // Whoever writes sees to the current segment.
                Err(_) => shared.reclaim(),
            })
            .await?;
        }
        if all_read {
            self.shared.room.notify_one();
        }
        Ok(())
    }

    /// Says that the target holds everything up to a position, durably: nothing up to there is
    /// needed any more.
    ///
    /// # Errors
    /// `Unexpected` if a file cannot be removed.
    pub async fn done(&mut self, position: &Position) -> Result<()> {
        {
            let mut state = self.shared.state();
            state.done = state.done.max(Some(position.order));
        }
        if self.shared.durable {
            let shared = Arc::clone(&self.shared);
            blocking(move || shared.reclaim()).await?;
        }
        self.shared.room.notify_one();
        Ok(())
    }

    /// What the buffer holds.
    #[must_use]
    pub fn status(&self) -> BufferStatus {
        self.shared.status()
    }
}

impl Drop for BufferReader {
    fn drop(&mut self) {
        self.shared.state().reader_gone = true;
        self.shared.room.notify_one();
    }
}

fn tidy(log: &Mutex<Log>) -> Result<()> {
    log.lock().unwrap_or_else(PoisonError::into_inner).tidy()
}

/// Reads the next event from the segments, and where the one after it stands.
fn read_event(
    shared: &Shared,
    mut file: Option<SegmentReader>,
) -> Result<(ChangeEvent, SegmentReader, Cursor)> {
    let mut at = shared.state().cursor;
    loop {
        // Behind the shapes of a segment there may be no event.
        let found = shared.state().locate(at);
        at = found.ok_or_else(|| Error::unexpected("a cached change is not where it was put"))?;
        let path = shared.folder.join(file_name(at.segment));
        let mut reader = match file.take().filter(|file| file.header.number == at.segment) {
            Some(reader) => reader,
            None => match SegmentReader::open(&path)? {
                Opened::Segment(reader) => reader,
                Opened::Damaged => return Err(damaged(shared, &path)),
            },
        };
        let Frame::Whole(kind, payload, next) = reader.frame(at.offset)? else {
            return Err(damaged(shared, &path));
        };
        at.offset = next;
        if kind == Kind::Event {
            let event = decode_event(&payload)
                .map_err(|error| damaged(shared, &path).with_source(error))?;
            return Ok((event, reader, at));
        }
        file = Some(reader);
    }
}

fn damaged(shared: &Shared, path: &Path) -> Error {
    if shared.durable {
        return recover::damaged(path, "a frame of it is damaged");
    }
    Error::new(
        ErrorKind::Corrupt,
        "cached changes are damaged; check the disk and start the task again: the source sends \
         them again",
    )
    .context("file", path.display())
}
