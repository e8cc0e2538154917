//! What the two ends of a buffer share.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dms_core::change::ChangeEvent;
use dms_core::{Error, Result};
use tokio::sync::Notify;

use super::segment::{failed, file_name};
use super::{BufferStatus, WhenFull};

/// A place in the segments: where the next frame stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// A segment's file that is there.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// Where its first frame stands.
    pub(super) first: u64,
    pub(super) bytes: u64,
    /// The last transaction of which it or one before it holds something.
    pub(super) touched: Option<u64>,
    /// Whether nothing more is written to it.
    pub(super) closed: bool,
}

/// An event in memory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) event: ChangeEvent,
    pub(super) bytes: usize,
    /// Where the event after it stands, if this one is in a segment too.
    pub(super) next: Option<Cursor>,
}

/// How the writer ended.
#[derive(Debug)]
pub(super) enum End {
    Closed,
    Failed(Error),
}

/// Events in order: first those in memory, then those that are only in segments.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) memory: VecDeque<Entry>,
    pub(super) memory_bytes: usize,
    /// Events behind those in memory.
    pub(super) on_disk: u64,
    pub(super) segments: VecDeque<Segment>,
    pub(super) cursor: Cursor,
    /// The order up to which the target holds everything.
    pub(super) done: Option<u64>,
    pub(super) end: Option<End>,
    pub(super) reader_gone: bool,
}

impl State {
    /// Whether an event may stay in memory: it comes next behind those there, and there is room, or
    /// nothing else.
    pub(super) fn takes(&self, bytes: usize, limit: usize) -> bool {
        self.on_disk == 0
            && (self.memory.is_empty() || self.memory_bytes.saturating_add(bytes) <= limit)
    }

    pub(super) fn keep(&mut self, event: ChangeEvent, bytes: usize, next: Option<Cursor>) {
        self.memory_bytes += bytes;
        self.memory.push_back(Entry { event, bytes, next });
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether everything written was read.
    pub(super) fn is_read(&self) -> bool {
        self.memory.is_empty() && self.on_disk == 0
    }

    /// The first place at or behind a cursor where something stands.
    pub(super) fn locate(&self, cursor: Cursor) -> Option<Cursor> {
        let Cursor { segment, offset } = cursor;
        self.segments.iter().find_map(|found| {
            if found.number == segment && offset < found.bytes {
                return Some(cursor);
            }
            let later = found.number > segment && found.first < found.bytes;
            later.then_some(Cursor { segment: found.number, offset: found.first })
        })
    }

    /// Takes out the segments that nobody needs any more: they were read, and the target holds all
    /// of them where that counts.
    fn spent(&mut self, durable: bool) -> Vec<u64> {
        let mut spent = Vec::new();
        while let Some(first) = self.segments.front() {
            let read = self.cursor.segment > first.number
                || (self.cursor.segment == first.number && self.cursor.offset >= first.bytes);
            let applied = !durable || first.touched <= self.done;
            if !first.closed || !read || !applied {
                break;
            }
            spent.push(first.number);
            self.segments.pop_front();
        }
        spent
    }
}

/// The state with what wakes the ends.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something came for the reader.
    pub(super) items: Notify,
    /// Something went that the writer may wait for.
    pub(super) room: Notify,
    pub(super) folder: PathBuf,
    pub(super) durable: bool,
    pub(super) memory_bytes: usize,
    pub(super) disk_bytes: u64,
    pub(super) when_full: WhenFull,
}

impl Shared {
    pub(super) fn new(settings: &super::BufferSettings, durable: bool, state: State) -> Self {
        Self {
            state: Mutex::new(state),
            items: Notify::new(),
            room: Notify::new(),
            folder: settings.folder.clone(),
            durable,
            memory_bytes: settings.memory_bytes,
            disk_bytes: settings.disk_bytes,
            when_full: settings.when_full,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the files of segments that nobody needs any more, the oldest first.
    pub(super) fn reclaim(&self) -> Result<()> {
        let spent = self.state().spent(self.durable);
        for number in &spent {
            remove(&self.folder.join(file_name(*number)))?;
        }
        if !spent.is_empty() {
            self.room.notify_one();
        }
        Ok(())
    }

    pub(super) fn status(&self) -> BufferStatus {
        let state = self.state();
        BufferStatus {
            events: state.memory.len() as u64 + state.on_disk,
            memory_bytes: state.memory_bytes,
            disk_bytes: state.disk_bytes(),
        }
    }
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed(error, "a file of cached changes cannot be removed", path))
        }
        _ => Ok(()),
    }
}
