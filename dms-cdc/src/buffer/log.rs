//! The segments as they are written.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use dms_core::change::{ChangeEvent, encode_event};
use dms_core::position::Position;
use dms_core::schema::TableName;
use dms_core::{Error, Result, fault};

use super::mark::Mark;
use super::place::Place;
use super::segment::{Header, Kind, SegmentWriter, failed, file_name, frame_bytes};
use super::state::{Cursor, Segment, Shared};

/// The shape of each table at some place, as the events that told it.
pub(super) type Shapes = Arc<BTreeMap<TableName, ChangeEvent>>;

/// Takes what an event says of shapes.
pub(super) fn note_shape(shapes: &mut BTreeMap<TableName, ChangeEvent>, event: &ChangeEvent) {
    match event {
        ChangeEvent::Schema { table, .. } => {
            shapes.insert(table.name.clone(), as_known(event.clone()));
        }
        ChangeEvent::Dropped { table, .. } => {
            shapes.remove(table);
        }
        _ => {}
    }
}

/// A shape that is told once more, behind the transaction that made it.
fn as_known(mut event: ChangeEvent) -> ChangeEvent {
    if let ChangeEvent::Schema { altered, .. } = &mut event {
        *altered = None;
    }
    event
}

/// An event on its way into a segment.
pub(super) struct Write<'a> {
    pub(super) payload: &'a [u8],
    pub(super) before: &'a Place,
    pub(super) after: &'a Place,
    pub(super) shapes: &'a Shapes,
}

/// The segments of a folder, of which the last is written.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) shared: Arc<Shared>,
    /// Held while the folder is in use.
    pub(super) _lock: File,
    pub(super) task: String,
    pub(super) id: u64,
    pub(super) segment_bytes: u64,
    pub(super) next: u64,
    /// Number and bytes of the segment before the current one.
    pub(super) previous: Option<(u64, u64)>,
    pub(super) current: Option<SegmentWriter>,
    /// Of a durable log.
    pub(super) mark: Option<Mark>,
    /// Whether the names of all files are on the disk.
    pub(super) folder_synced: bool,
    /// Whether a write has failed: nothing may come behind it.
    pub(super) failed: bool,
}

impl Log {
    /// Whether there is room for an event, after what nobody needs was removed.
    pub(super) fn has_room(&mut self, payload: usize) -> Result<bool> {
        let limit = self.shared.disk_bytes;
        let frame = frame_bytes(payload);
        if limit == 0 || self.shared.state().disk_bytes() + frame <= limit {
            return Ok(true);
        }
        self.close()?;
        self.shared.reclaim()?;
        let used = self.shared.state().disk_bytes();
        Ok(used == 0 || used + frame <= limit)
    }

    /// Removes what nobody needs any more; where the source is the durable copy that is everything
    /// once it was read.
    pub(super) fn tidy(&mut self) -> Result<()> {
        if !self.shared.durable && self.shared.state().on_disk == 0 {
            self.close()?;
        }
        self.shared.reclaim()
    }

    /// Whether waiting for room is in vain: all that is there is of one transaction, whose end the
    /// target has to see first.
    pub(super) fn is_stuck(&self, place: &Place) -> bool {
        let state = self.shared.state();
        self.shared.durable
            && place.open.is_some()
            && state.is_read()
            && place.transaction <= state.done
    }

    /// Writes an event; returns where the next one will stand.
    pub(super) fn append(&mut self, write: &Write<'_>) -> Result<Cursor> {
        if self.failed {
            return Err(Error::unexpected(
                "cached changes could not be written before; start the task again",
            ));
        }
        let written = self.try_append(write);
        self.failed = written.is_err();
        written
    }

    fn try_append(&mut self, write: &Write<'_>) -> Result<Cursor> {
        fault::point("buffer-append")?;
        if self.current.as_ref().is_some_and(|current| current.bytes >= self.segment_bytes) {
            self.close()?;
        }
        let mut current = match self.current.take() {
            Some(current) => current,
            None => self.begin(write)?,
        };
        let offset = current.append(Kind::Event, write.payload)?;
        let cursor = Cursor { segment: current.number, offset };
        if let Some(segment) = self.shared.state().segments.back_mut() {
            segment.bytes = current.bytes;
            segment.touched = write.after.touched();
        }
        self.current = Some(current);
        Ok(cursor)
    }

    /// Begins the next segment.
    fn begin(&mut self, write: &Write<'_>) -> Result<SegmentWriter> {
        let number = self.next;
        let header = Header {
            task: self.task.clone(),
            log: self.id,
            number,
            durable: self.shared.durable,
            previous: self.previous,
            before: write.before.clone(),
        };
        fault::point("buffer-begin-segment")?;
        let path = self.shared.folder.join(file_name(number));
        let mut segment = SegmentWriter::create(path, &header)?;
        self.next += 1;
        self.folder_synced = false;
        let first = segment.bytes;
        if self.shared.durable {
            for shape in write.shapes.values() {
                segment.append(Kind::Shape, &encode_event(shape)?)?;
            }
        }
        self.shared.state().segments.push_back(Segment {
            number,
            first,
            bytes: segment.bytes,
            touched: write.before.touched(),
            closed: false,
        });
        fault::point("buffer-begin-segment")?;
        Ok(segment)
    }

    /// Ends the current segment. All but the last are on the disk, whatever comes.
    pub(super) fn close(&mut self) -> Result<()> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        if self.shared.durable
            && let Err(error) = current.sync().and_then(|()| self.sync_folder())
        {
            self.failed = true;
            return Err(error);
        }
        self.previous = Some((current.number, current.bytes));
        if let Some(segment) = self.shared.state().segments.back_mut() {
            segment.closed = true;
        }
        Ok(())
    }

    /// Makes everything written durable; returns up to where the source may forget.
    pub(super) fn sync(&mut self, place: &Place) -> Result<Option<Position>> {
        if self.failed {
            return Err(Error::unexpected(
                "cached changes could not be written before; start the task again",
            ));
        }
        let synced = self.try_sync(place);
        self.failed = synced.is_err();
        synced.map(|()| place.whole.clone())
    }

    fn try_sync(&mut self, place: &Place) -> Result<()> {
        if let Some(current) = &mut self.current {
            current.sync()?;
        }
        self.sync_folder()?;
        fault::point("buffer-before-mark")?;
        if let Some(mark) = &mut self.mark {
            mark.set(place)?;
        }
        fault::point("buffer-synced")
    }

    fn sync_folder(&mut self) -> Result<()> {
        if !self.folder_synced {
            sync_folder(&self.shared.folder)?;
            self.folder_synced = true;
        }
        Ok(())
    }
}

/// Makes the names of a folder's files durable.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced
        .map_err(|e| failed(e, "the folder of cached changes cannot be forced to the disk", folder))
}
