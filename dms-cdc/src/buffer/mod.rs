//! Changes between capture and apply: a queue in memory that goes on in files.
//!
//! ```text
//! BufferWriter --> memory --> segment files --> BufferReader
//!                  memory_bytes   disk_bytes
//! ```
//!
//! Events come out in the order they were put in. With [`Durability::Source`] the source is the
//! durable copy: files hold what memory does not, and are gone when they were read. With
//! [`Durability::Disk`] files hold everything until the target does, so that the source may forget
//! it ([`BufferWriter::sync`]), and the next run begins with what they hold.
//!
//! What a crash leaves at the end of the files, up to the last whole transaction, is cut off, and
//! [`Recovered::read_from`] says from where the source is to be read again. Whatever the source was
//! told to forget is never cut off: where that is damaged, the buffer does not open.

mod log;
mod mark;
mod place;
mod reader;
mod recover;
mod segment;
mod skip;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dms_core::position::Position;
use dms_core::{Error, Result};

pub use reader::BufferReader;
pub use writer::BufferWriter;

use log::Log;
use mark::Mark;
use place::Place;
use recover::Found;
use segment::failed;
use skip::Skip;
use state::{Shared, State};

/// The size at which a segment's file ends: large enough that files are few, small enough that the
/// disk is freed while changes are applied.
const SEGMENT_BYTES: u64 = 64 << 20;

/// How often a folder in use is tried, ten milliseconds apart.
const LOCK_TRIES: usize = 100;

/// Whose copy of cached changes counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The source's: it keeps its log until changes are applied.
    #[default]
    Source,
    /// The disk's: the source may forget what was [synced](BufferWriter::sync), however long the
    /// target takes.
    Disk,
}

/// What happens when the disk holds as much as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The writer waits, and with it the source.
    #[default]
    Wait,
    /// The push fails.
    Fail,
}

/// The limits of a buffer, and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferSettings {
    /// The folder of the files; one of each task's own. It is made when it is missing.
    pub folder: PathBuf,
    /// About how many bytes of events stay in memory; default 64 MiB. An event that is larger
    /// passes alone.
    pub memory_bytes: usize,
    /// How many bytes files may take; default 0, which is no limit.
    pub disk_bytes: u64,
    /// Whose copy of the changes counts; default the source's.
    pub durability: Durability,
    /// What happens at `disk_bytes`; default waiting.
    pub when_full: WhenFull,
}

impl BufferSettings {
    /// Default limits in a folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            memory_bytes: 64 << 20,
            disk_bytes: 0,
            durability: Durability::default(),
            when_full: WhenFull::default(),
        }
    }
}

/// What a buffer holds at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BufferStatus {
    /// Events that were not read yet.
    pub events: u64,
    /// Bytes of those in memory.
    pub memory_bytes: usize,
    /// Bytes of files.
    pub disk_bytes: u64,
}

/// What opening a buffer has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// After which position the source is to be read: the reader gets everything up to there. `None`
    /// if that is where capture began.
    pub read_from: Option<Position>,
    /// Events of an earlier run that come first.
    pub events: u64,
}

/// Changes between capture and apply.
#[derive(Debug)]
pub struct Buffer;

impl Buffer {
    /// Opens the buffer of a task whose target holds everything up to `after`. The reader gets what
    /// an earlier run left after that, transactions up to there left out.
    ///
    /// # Errors
    /// `Settings` if the folder is in use or another task's, or if it holds changes that the source
    /// was told to forget and durability is not the disk's; `Corrupt` if such changes are damaged
    /// or missing; `Unsupported` for files of another version.
    pub async fn open(
        settings: &BufferSettings,
        task: &str,
        after: Option<&Position>,
    ) -> Result<(BufferWriter, BufferReader, Recovered)> {
        Self::open_with(settings, task, after, SEGMENT_BYTES).await
    }

    async fn open_with(
        settings: &BufferSettings,
        task: &str,
        after: Option<&Position>,
        segment_bytes: u64,
    ) -> Result<(BufferWriter, BufferReader, Recovered)> {
        let (settings, task, after) = (settings.clone(), task.to_owned(), after.cloned());
        blocking(move || open(&settings, task, after.as_ref(), segment_bytes)).await
    }

    /// Removes what buffers have left in a folder, of a task whose tables are loaded from their
    /// first rows again, or that will not run any more.
    ///
    /// # Errors
    /// `Settings` if the folder is in use or another task's.
    pub async fn discard(folder: impl Into<PathBuf>, task: &str) -> Result<()> {
        let (folder, task) = (folder.into(), task.to_owned());
        blocking(move || {
            if !folder.exists() {
                return Ok(());
            }
            let _lock = lock(&folder)?;
            recover::check(&folder, &task)?;
            recover::discard(&folder)?;
            // What others have put there stays.
            let _ = std::fs::remove_file(folder.join("lock"));
            let _ = std::fs::remove_dir(&folder);
            Ok(())
        })
        .await
    }
}

fn open(
    settings: &BufferSettings,
    task: String,
    after: Option<&Position>,
    segment_bytes: u64,
) -> Result<(BufferWriter, BufferReader, Recovered)> {
    let folder = &settings.folder;
    let made = std::fs::create_dir_all(folder);
    made.map_err(|e| failed(e, "the folder of cached changes cannot be made", folder))?;
    let lock = lock(folder)?;
    let durable = settings.durability == Durability::Disk;
    let found = take_up(folder, &task, durable, after)?;
    let recovered = Recovered { read_from: found.place.whole.clone(), events: found.events };
    let done = after.map(|position| position.order);
    let state = State { on_disk: found.events, segments: found.segments, done, ..State::default() };
    let shared = Arc::new(Shared::new(settings, durable, state));
    let mark = if durable { Some(Mark::open(folder, &task)?) } else { None };
    let segment_bytes = match settings.disk_bytes {
        0 => segment_bytes,
        // So that there is room again before everything was read.
        limit => segment_bytes.min(limit / 4),
    };
    let log = Arc::new(Mutex::new(Log {
        shared: Arc::clone(&shared),
        _lock: lock,
        task,
        id: found.id.unwrap_or_else(random),
        segment_bytes,
        next: found.next.max(1),
        previous: found.previous,
        current: None,
        mark,
        folder_synced: false,
        failed: false,
    }));
    let writer = BufferWriter {
        shared: Arc::clone(&shared),
        log: Arc::clone(&log),
        place: found.place,
        shapes: found.shapes,
        busy: false,
    };
    let mut skip = Skip::new(done, Arc::unwrap_or_clone(found.first_shapes));
    let mut ready = VecDeque::new();
    if found.events == 0 {
        skip.end(&mut ready);
    }
    let reader = BufferReader { shared, log, file: None, skip, ready, ended: false, error: None };
    Ok((writer, reader, recovered))
}

/// What counts of an earlier run; the rest is removed.
fn take_up(folder: &Path, task: &str, durable: bool, after: Option<&Position>) -> Result<Found> {
    if !recover::check(folder, task)? {
        recover::discard(folder)?;
        return Ok(Found { place: Place::after(after), ..Found::default() });
    }
    let found = recover::recover(folder, task, after)?;
    if durable {
        return Ok(found);
    }
    if found.events > 0 {
        return Err(Error::settings(
            "the folder of cached changes holds changes that the source need not send again; run \
             the task with durability disk until they are applied",
        )
        .context("folder", folder.display()));
    }
    recover::discard(folder)?;
    Ok(Found { place: found.place, ..Found::default() })
}

/// Claims a folder for as long as the file is held.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file =
        opened.map_err(|e| failed(e, "the folder of cached changes cannot be used", &path))?;
    // A buffer that was dropped may still be reading or writing.
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::Error(error)) => {
                return Err(failed(error, "the folder of cached changes cannot be locked", &path));
            }
        }
    }
    Err(Error::settings(
        "the folder of cached changes is in use by another run; stop it, or give each task a \
         folder of its own",
    )
    .context("folder", folder.display()))
}

/// A number that no other log has.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Runs work that waits for the disk apart from the runtime's workers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::unexpected("blocking work ended abnormally").with_source(error))?
}
