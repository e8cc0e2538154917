//! One file of cached changes.
//!
//! ```text
//! "DMSCDC", version u16 | header length u32, crc32c u32, header (JSON)
//! frames: length u32, crc32c u32, kind u8, payload
//! ```
//!
//! All numbers are little endian. The checksum of a frame also covers where it stands and which log
//! it is of, so that what a disk held there before is never taken for a frame.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use dms_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::place::Place;

const MAGIC: &[u8; 6] = b"DMSCDC";
const VERSION: u16 = 1;
/// Magic, version, length and checksum of the header.
const PREAMBLE: usize = 16;
/// Length, checksum and kind.
const FRAME_HEAD: usize = 9;
/// Headers hold a position and names; larger ones are damage.
const HEADER_MAX: u32 = 16 << 20;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An event.
    Event = 0,
    /// The shape of a table as it was at the beginning of the segment.
    Shape = 1,
}

/// The first thing in a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) task: String,
    /// Which log the segment is of.
    pub(super) log: u64,
    pub(super) number: u64,
    /// Whether the source is told to forget what is here.
    pub(super) durable: bool,
    /// The number and the bytes of the segment before, if there was one.
    pub(super) previous: Option<(u64, u64)>,
    /// Where the events before ended.
    pub(super) before: Place,
}

/// The name of a segment's file.
pub(super) fn file_name(number: u64) -> String {
    format!("changes-{number:020}.segment")
}

/// The number of a segment's file.
pub(super) fn file_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("changes-")?.strip_suffix(".segment")?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

fn checksum(log: u64, number: u64, offset: u64, kind: u8, payload: &[u8]) -> u32 {
    let mut sum = crc32c::crc32c(&log.to_le_bytes());
    for part in [&number.to_le_bytes()[..], &offset.to_le_bytes(), &[kind], payload] {
        sum = crc32c::crc32c_append(sum, part);
    }
    sum
}

/// Bytes of a frame with so large a payload.
pub(super) fn frame_bytes(payload: usize) -> u64 {
    (payload + FRAME_HEAD) as u64
}

/// An error of the file system, told with the file and what to do.
pub(super) fn failed(error: io::Error, doing: &str, path: &Path) -> Error {
    let message = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            format!(
                "{doing}: there is no room for cached changes; make room or choose another folder, \
                 and start the task again"
            )
        }
        _ => doing.to_owned(),
    };
    Error::unexpected(message).with_source(error).context("file", path.display())
}

/// A segment that is written.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    file: File,
    pub(super) path: PathBuf,
    pub(super) number: u64,
    pub(super) bytes: u64,
    log: u64,
    /// How much of it is known to be on the disk.
    synced: u64,
}

impl SegmentWriter {
    /// Begins a segment at a path where nothing is yet.
    pub(super) fn create(path: PathBuf, header: &Header) -> Result<Self> {
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = made.map_err(|e| failed(e, "a file of cached changes cannot be made", &path))?;
        let json = serde_json::to_vec(header)
            .map_err(|error| Error::unexpected("JSON cannot be written").with_source(error))?;
        let length = u32::try_from(json.len()).ok().filter(|length| *length <= HEADER_MAX);
        let length = length.ok_or_else(|| Error::unexpected("a position is larger than 16 MiB"))?;
        let mut bytes = Vec::with_capacity(PREAMBLE + json.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&json).to_le_bytes());
        bytes.extend_from_slice(&json);
        let (number, log) = (header.number, header.log);
        let mut writer = Self { file, path, number, bytes: 0, log, synced: 0 };
        writer.write(&[&bytes])?;
        Ok(writer)
    }

    /// Adds a frame; returns where the next will stand.
    pub(super) fn append(&mut self, kind: Kind, payload: &[u8]) -> Result<u64> {
        let length = u32::try_from(payload.len()).map_err(|_| {
            Error::unexpected("an event of changes is larger than 4 GiB; lower the event's bytes")
        })?;
        let sum = checksum(self.log, self.number, self.bytes, kind as u8, payload);
        let mut head = Vec::with_capacity(FRAME_HEAD);
        head.extend_from_slice(&length.to_le_bytes());
        head.extend_from_slice(&sum.to_le_bytes());
        head.push(kind as u8);
        self.write(&[&head, payload])?;
        Ok(self.bytes)
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<()> {
        for part in parts {
            if let Err(error) = self.file.write_all(part) {
                // A part of a frame is no frame.
                let _ = self.file.set_len(self.bytes);
                return Err(failed(error, "cached changes cannot be written", &self.path));
            }
        }
        self.bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(())
    }

    /// Forces everything written to the disk.
    pub(super) fn sync(&mut self) -> Result<()> {
        if self.synced == self.bytes {
            return Ok(());
        }
        let synced = dms_core::fault::point("buffer-sync").and_then(|()| {
            self.file
                .sync_data()
                .map_err(|e| failed(e, "cached changes cannot be forced to the disk", &self.path))
        });
        if let Err(error) = synced {
            // Whatever was written since the last time may be lost, though it can be read now.
            let _ = self.file.set_len(self.synced);
            return Err(error);
        }
        self.synced = self.bytes;
        Ok(())
    }
}

/// What a segment holds at some place.
#[derive(Debug)]
pub(super) enum Frame {
    /// A frame, and where the next stands.
    Whole(Kind, Vec<u8>, u64),
    /// Nothing: the file ends here.
    End,
    /// Something that is no frame.
    Damaged,
}

/// A segment that is read.
#[derive(Debug)]
pub(super) struct SegmentReader {
    file: File,
    path: PathBuf,
    pub(super) header: Header,
    /// Where the first frame stands.
    pub(super) first: u64,
    at: u64,
}

/// What a file that should be a segment is.
#[derive(Debug)]
pub(super) enum Opened {
    /// A segment.
    Segment(SegmentReader),
    /// One whose header was not written whole, or is damaged.
    Damaged,
}

impl SegmentReader {
    /// Opens a segment's file.
    ///
    /// # Errors
    /// `Unsupported` for a file of another version.
    pub(super) fn open(path: &Path) -> Result<Opened> {
        let read = |e| failed(e, "cached changes cannot be read", path);
        let mut file = File::open(path).map_err(read)?;
        let mut preamble = [0; PREAMBLE];
        if !fill(&mut file, &mut preamble).map_err(read)? || !preamble.starts_with(MAGIC) {
            return Ok(Opened::Damaged);
        }
        let [.., v0, v1, l0, l1, l2, l3, c0, c1, c2, c3] = preamble;
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "cached changes are of version {version}, and this program reads version \
                     {VERSION}; finish the task with the dms that wrote them, or remove their \
                     folder and load the tables again"
                ),
            )
            .context("file", path.display()));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let sum = u32::from_le_bytes([c0, c1, c2, c3]);
        if length > HEADER_MAX {
            return Ok(Opened::Damaged);
        }
        let mut json = vec![0; length as usize];
        if !fill(&mut file, &mut json).map_err(read)? || crc32c::crc32c(&json) != sum {
            return Ok(Opened::Damaged);
        }
        let Ok(header) = serde_json::from_slice(&json) else { return Ok(Opened::Damaged) };
        let first = PREAMBLE as u64 + u64::from(length);
        Ok(Opened::Segment(Self { file, path: path.to_owned(), header, first, at: first }))
    }

    /// The file's size.
    pub(super) fn bytes(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(|e| failed(e, "cached changes cannot be read", &self.path))?.len())
    }

    /// The frame at a place.
    pub(super) fn frame(&mut self, at: u64) -> Result<Frame> {
        let size = self.bytes()?;
        let path = &self.path;
        let read = |e| failed(e, "cached changes cannot be read", path);
        if at == size {
            return Ok(Frame::End);
        }
        if self.at != at {
            self.file.seek(SeekFrom::Start(at)).map_err(read)?;
        }
        // Wherever an error leaves the file, the next call seeks.
        self.at = u64::MAX;
        let mut head = [0; FRAME_HEAD];
        if !fill(&mut self.file, &mut head).map_err(read)? {
            return Ok(Frame::Damaged);
        }
        let [l0, l1, l2, l3, c0, c1, c2, c3, kind_code] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let next = at + frame_bytes(length as usize);
        let kind = match kind_code {
            0 => Kind::Event,
            1 => Kind::Shape,
            _ => return Ok(Frame::Damaged),
        };
        if next > size {
            return Ok(Frame::Damaged);
        }
        let mut payload = vec![0; length as usize];
        if !fill(&mut self.file, &mut payload).map_err(read)? {
            return Ok(Frame::Damaged);
        }
        let sum = u32::from_le_bytes([c0, c1, c2, c3]);
        if checksum(self.header.log, self.header.number, at, kind_code, &payload) != sum {
            return Ok(Frame::Damaged);
        }
        self.at = next;
        Ok(Frame::Whole(kind, payload, next))
    }
}

/// Reads as many bytes as are asked for; `false` if the file ends before.
fn fill(file: &mut File, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
