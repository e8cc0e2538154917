//! What the source was told to forget, so that damage of it is never taken for an unwritten tail.
//!
//! Two slots that are written in turn; the newer of those that are whole counts. So a write that
//! is torn leaves the one before.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use dms_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::place::Place;
use super::recover::check_task;
use super::segment::failed;

/// The file's name.
pub(super) const FILE: &str = "acknowledged";
/// Room for a position in the source's words; MySQL's sets of GTIDs take some KiB.
const SLOT: usize = 64 << 10;
/// Turn, length and checksum.
const HEAD: usize = 16;

/// The file that holds the place.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    turn: u64,
    task: String,
    place: Option<Place>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    task: String,
    place: Place,
}

impl Mark {
    /// Opens the file of a folder, or makes it.
    ///
    /// # Errors
    /// `Settings` if it is another task's.
    pub(super) fn open(folder: &Path, task: &str) -> Result<Self> {
        let path = folder.join(FILE);
        let doing = "the record of what the source was told cannot be opened";
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|e| failed(e, doing, &path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| failed(e, doing, &path))?;
        let newest = bytes.chunks(SLOT).filter_map(slot).max_by_key(|(turn, _)| *turn);
        let (turn, record) = newest.map_or((0, None), |(turn, record)| (turn, Some(record)));
        if let Some(record) = &record {
            check_task(&record.task, task, &path)?;
        }
        Ok(Self { file, turn, task: task.to_owned(), place: record.map(|record| record.place) })
    }

    /// The place, if there is one.
    pub(super) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Makes a place durable.
    pub(super) fn set(&mut self, place: &Place) -> Result<()> {
        if self.place.as_ref().is_some_and(|held| held.whole == place.whole) {
            return Ok(());
        }
        let record = Record { task: self.task.clone(), place: place.clone() };
        let json = serde_json::to_vec(&record)
            .map_err(|error| Error::unexpected("JSON cannot be written").with_source(error))?;
        if json.len() + HEAD > SLOT {
            return Err(Error::unexpected("the source's position is larger than 64 KiB"));
        }
        let turn = self.turn + 1;
        let mut bytes = Vec::with_capacity(HEAD + json.len());
        bytes.extend_from_slice(&turn.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(json.len()).unwrap_or_default().to_le_bytes());
        bytes.extend_from_slice(&sum(turn, &json).to_le_bytes());
        bytes.extend_from_slice(&json);
        let written = self
            .file
            .seek(SeekFrom::Start((turn % 2) * SLOT as u64))
            .and_then(|_| self.file.write_all(&bytes))
            .and_then(|()| self.file.sync_data());
        written.map_err(|e| {
            failed(e, "the record of what the source was told cannot be written", Path::new(FILE))
        })?;
        self.turn = turn;
        self.place = Some(record.place);
        Ok(())
    }
}

fn sum(turn: u64, json: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&turn.to_le_bytes()), json)
}

fn slot(bytes: &[u8]) -> Option<(u64, Record)> {
    let (turn, rest) = bytes.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (crc, rest) = rest.split_first_chunk()?;
    let turn = u64::from_le_bytes(*turn);
    let json = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    if sum(turn, json) != u32::from_le_bytes(*crc) {
        return None;
    }
    Some((turn, serde_json::from_slice(json).ok()?))
}
