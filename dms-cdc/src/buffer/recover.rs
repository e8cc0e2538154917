//! What an earlier run left in a folder.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dms_core::change::{ChangeEvent, decode_event, encode_event};
use dms_core::position::Position;
use dms_core::{Error, ErrorKind, Result, fault};

use super::log::{Shapes, note_shape, sync_folder};
use super::mark::{FILE as MARK, Mark};
use super::place::{Place, whole_part};
use super::segment::{
    Frame, Header, Kind, Opened, SegmentReader, SegmentWriter, failed, file_name, file_number,
};
use super::state::{Segment, remove};

/// A segment that is being written anew.
const REWRITTEN: &str = "rewritten.tmp";

/// What was found, ready to be read and written on.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) segments: VecDeque<Segment>,
    /// Events in the segments.
    pub(super) events: u64,
    pub(super) place: Place,
    /// Shapes at the beginning of the first segment.
    pub(super) first_shapes: Shapes,
    /// Shapes at the end.
    pub(super) shapes: Shapes,
    /// The log's identity, if there is a log.
    pub(super) id: Option<u64>,
    pub(super) next: u64,
    pub(super) previous: Option<(u64, u64)>,
}

/// A segment that is there. It is opened when it is read: there may be more of them than files that
/// may be open.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    header: Header,
    first: u64,
    bytes: u64,
}

impl Part {
    fn open(&self) -> Result<SegmentReader> {
        match SegmentReader::open(&self.path)? {
            Opened::Segment(reader) => Ok(reader),
            Opened::Damaged => Err(damaged(&self.path, "it changed while it was read")),
        }
    }
}

/// The segments of a folder.
#[derive(Debug, Default)]
struct Parts {
    /// Those that follow each other up to the end.
    held: Vec<Part>,
    /// Those behind, the newest first: not removed before it is clear that nobody needs them.
    doomed: Vec<PathBuf>,
    next: u64,
}

/// Where the last segment ends that counts.
struct Cut {
    offset: u64,
    place: Place,
    /// The whole transactions of the frame behind the offset, of which another is not whole.
    tail: Option<ChangeEvent>,
    shapes: Shapes,
}

/// Removes everything that a buffer has made in a folder.
pub(super) fn discard(folder: &Path) -> Result<()> {
    for (_, path) in files(folder)? {
        remove(&path)?;
    }
    remove(&folder.join(MARK))
}

/// Whether the segments of a folder are of a log that the source was told to forget; refuses those
/// of another task.
pub(super) fn check(folder: &Path, task: &str) -> Result<bool> {
    // Of a run that died before it took the name.
    remove(&folder.join(REWRITTEN))?;
    let mut durable = false;
    for (_, path) in files(folder)? {
        if let Opened::Segment(reader) = SegmentReader::open(&path)? {
            check_task(&reader.header.task, task, &path)?;
            durable |= reader.header.durable;
        }
    }
    Ok(durable || folder.join(MARK).exists())
}

/// Refuses what another task has left.
pub(super) fn check_task(held: &str, task: &str, path: &Path) -> Result<()> {
    if held == task {
        return Ok(());
    }
    let message = format!(
        "the folder of cached changes holds those of task {held}, and this is task {task}; give \
         each task a folder of its own"
    );
    Err(Error::settings(message).context("file", path.display()))
}

/// Takes up what is there. `after` is what the target holds.
///
/// The last segment that counts is written anew: up to its last whole transaction, and so that all
/// of it is on the disk, which it may not be though it can be read.
pub(super) fn recover(folder: &Path, task: &str, after: Option<&Position>) -> Result<Found> {
    let order = after.map(|position| position.order);
    let mark = Mark::open(folder, task)?;
    let mut found = parts(folder, order)?;
    let cut = cut(&mut found)?;
    let end = cut.as_ref().map_or_else(|| Place::after(after), |cut| cut.place.clone());
    let mut place = acknowledged(end, mark.place(), order, folder)?;
    for path in &found.doomed {
        remove(path)?;
    }
    let (parts, next) = (found.held, found.next);
    let Some(cut) = cut else {
        return Ok(Found { place, next, ..Found::default() });
    };
    let id = parts.last().map(|part| part.header.log);
    if place.touched() <= order {
        // The target holds everything; it may hold more than was on the disk.
        for part in &parts {
            remove(&part.path)?;
        }
        if order > place.whole.as_ref().map(|whole| whole.order) {
            place = Place { events: place.events, ..Place::after(after) };
        }
        return Ok(Found { place, next, ..Found::default() });
    }
    let last = parts.last().ok_or_else(|| Error::unexpected("a segment is gone"))?;
    let bytes = rewrite(folder, last, &cut)?;
    let previous = Some((last.header.number, bytes));
    let events = place.events - parts.first().map_or(0, |part| part.header.before.events);
    let first_shapes = match parts.first() {
        Some(first) => Arc::new(shapes_of(&mut first.open()?)?.0),
        None => Shapes::default(),
    };
    let mut segments = VecDeque::new();
    let ends: Vec<_> = parts.iter().skip(1).map(|part| part.header.before.touched()).collect();
    for (at, part) in parts.iter().enumerate() {
        let end = ends.get(at).copied();
        segments.push_back(Segment {
            number: part.header.number,
            first: part.first,
            bytes: if end.is_some() { part.bytes } else { bytes },
            touched: end.unwrap_or(place.touched()),
            closed: true,
        });
    }
    Ok(Found { segments, events, place, first_shapes, shapes: cut.shapes, id, next, previous })
}

/// The segments that follow each other up to the last; those that are applied are removed.
fn parts(folder: &Path, after: Option<u64>) -> Result<Parts> {
    let files = files(folder)?;
    let next = files.last().map_or(1, |(number, _)| number + 1);
    let (mut parts, mut doomed): (Vec<Part>, _) = (Vec::new(), Vec::new());
    let last = files.len().saturating_sub(1);
    for (at, (number, path)) in files.into_iter().enumerate() {
        match SegmentReader::open(&path)? {
            Opened::Segment(reader) if reader.header.number == number => {
                let (first, bytes) = (reader.first, reader.bytes()?);
                parts.push(Part { path, header: reader.header, first, bytes });
            }
            // Its header was being written.
            Opened::Damaged if at == last => doomed.push(path),
            _ => return Err(damaged(&path, "its header is damaged")),
        }
    }
    // Up to where the target holds everything, whatever is missing there.
    let applied = parts.iter().rposition(|part| at_rest(&part.header.before, after)).unwrap_or(0);
    for part in parts.drain(..applied) {
        remove(&part.path)?;
    }
    if let Some(first) = parts.first()
        && !at_rest(&first.header.before, after)
    {
        return Err(damaged(&first.path, "segments before it are missing"));
    }
    for pair in parts.windows(2) {
        let [one, two] = pair else { continue };
        if two.header.log != one.header.log {
            return Err(damaged(&two.path, "it is of another log than the segment before"));
        }
        match two.header.previous {
            Some((number, bytes)) if number == one.header.number => {
                if bytes != one.bytes {
                    return Err(damaged(&one.path, "it has not the size it had"));
                }
            }
            _ => return Err(damaged(&two.path, "the segment before it is missing")),
        }
    }
    Ok(Parts { held: parts, doomed, next })
}

/// Whether the target holds everything before a place.
fn at_rest(before: &Place, after: Option<u64>) -> bool {
    before.touched() <= after
}

/// Finds where the last whole transaction ends, and dooms the segments behind it.
fn cut(parts: &mut Parts) -> Result<Option<Cut>> {
    while let Some(part) = parts.held.pop() {
        if let Some(cut) = last_whole(&part)? {
            parts.held.push(part);
            return Ok(Some(cut));
        }
        // The newest goes first: what is left is a log that ends earlier.
        parts.doomed.push(part.path);
    }
    Ok(None)
}

fn last_whole(part: &Part) -> Result<Option<Cut>> {
    let mut reader = part.open()?;
    let mut place = part.header.before.clone();
    let (shapes, mut at) = shapes_of(&mut reader)?;
    let mut shapes = Arc::new(shapes);
    let start = Cut { offset: at, place: place.clone(), tail: None, shapes: Arc::clone(&shapes) };
    let mut cut = place.open.is_none().then_some(start);
    while let Frame::Whole(_, payload, next) = reader.frame(at)? {
        let event = decode_event(&payload)
            .map_err(|e| damaged(&part.path, "an event of it cannot be read").with_source(e))?;
        let held = place.whole.clone();
        place
            .advance(&event)
            .map_err(|e| damaged(&part.path, "its events are in disorder").with_source(e))?;
        note_shape(Arc::make_mut(&mut shapes), &event);
        if place.open.is_none() {
            cut = Some(Cut {
                offset: next,
                place: place.clone(),
                tail: None,
                shapes: Arc::clone(&shapes),
            });
        } else if place.whole != held {
            let whole = Place { open: None, ..place.clone() };
            let tail = whole_part(&event);
            cut = Some(Cut { offset: at, place: whole, tail, shapes: Arc::clone(&shapes) });
        }
        at = next;
    }
    Ok(cut)
}

/// The shapes that a segment begins with, and where its first event stands.
fn shapes_of(
    reader: &mut SegmentReader,
) -> Result<(BTreeMap<dms_core::schema::TableName, ChangeEvent>, u64)> {
    let mut shapes = BTreeMap::new();
    let mut at = reader.first;
    while let Frame::Whole(Kind::Shape, payload, next) = reader.frame(at)? {
        note_shape(&mut shapes, &decode_event(&payload)?);
        at = next;
    }
    Ok((shapes, at))
}

/// Writes a segment anew up to a cut; returns its bytes.
fn rewrite(folder: &Path, part: &Part, cut: &Cut) -> Result<u64> {
    let path = folder.join(REWRITTEN);
    let mut writer = SegmentWriter::create(path.clone(), &part.header)?;
    let mut reader = part.open()?;
    let mut at = part.first;
    while at < cut.offset {
        let Frame::Whole(kind, payload, next) = reader.frame(at)? else {
            return Err(damaged(&part.path, "it changed while it was read"));
        };
        writer.append(kind, &payload)?;
        at = next;
    }
    if let Some(tail) = &cut.tail {
        writer.append(Kind::Event, &encode_event(tail)?)?;
    }
    writer.sync()?;
    fault::point("buffer-recover")?;
    let renamed = std::fs::rename(&path, folder.join(file_name(part.header.number)));
    renamed.map_err(|e| failed(e, "cached changes cannot be replaced", &part.path))?;
    sync_folder(folder)?;
    fault::point("buffer-recover")?;
    Ok(writer.bytes)
}

/// Sees that nothing is missing of what the source was told to forget.
fn acknowledged(
    mut place: Place,
    mark: Option<&Place>,
    after: Option<u64>,
    folder: &Path,
) -> Result<Place> {
    let Some(mark) = mark else { return Ok(place) };
    let order = |place: &Place| place.whole.as_ref().map(|whole| whole.order);
    if order(mark) <= order(&place) || order(mark) <= after {
        return Ok(place);
    }
    if mark.transaction <= after.max(place.transaction) {
        // Behind the last transaction the source was idle.
        place.whole.clone_from(&mark.whole);
        return Ok(place);
    }
    let end = place.whole.as_ref().map_or("their beginning", |whole| &*whole.token);
    Err(damaged(folder, &format!("changes behind {end} are damaged or missing")))
}

/// Damage of what cannot be asked of the source again.
pub(super) fn damaged(path: &Path, what: &str) -> Error {
    let message = format!(
        "cached changes that the source need not send again cannot be used: {what}; restore the \
         file, or remove the folder of cached changes and load the tables again"
    );
    Error::new(ErrorKind::Corrupt, message).context("file", path.display())
}

/// The files of segments in a folder, in order.
fn files(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let read = |e| failed(e, "the folder of cached changes cannot be read", folder);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        if let Some(number) = entry.file_name().to_str().and_then(file_number) {
            files.push((number, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}
