//! Pages of the database file.

use std::ops::Deref;
use std::rc::Rc;

use dms_core::Result;
use rusqlite::Connection;
use rusqlite::ffi::SQLITE_IOERR_SHORT_READ;

use crate::sqlite::cursor::read_file;
use crate::sqlite::error::{convert, damaged};

/// The most pages read at once.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// The database file under a connection's read transaction.
pub(super) struct PageFile<'a> {
    connection: &'a Connection,
    page_bytes: usize,
    usable_bytes: usize,
    pages: u32,
    /// Whether it has, or may have, a write-ahead log.
    log: bool,
    /// The pages read last, and the number of the first.
    chunk: Rc<Vec<u8>>,
    first: u32,
    /// How many are read at once; more while they are asked for one after the other.
    ahead: u32,
}

/// A page's bytes, without what is reserved at its end.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) number: u32,
    chunk: Rc<Vec<u8>>,
    at: usize,
    bytes: usize,
}

impl Deref for Page {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.chunk.get(self.at..self.at + self.bytes).unwrap_or_default()
    }
}

impl<'a> PageFile<'a> {
    /// The file, if its pages are plain and its text is in UTF-8.
    pub(super) fn of(connection: &'a Connection) -> Result<Option<Self>> {
        let failed = |error| convert(error, super::DOING);
        let mut header = [0u8; 100];
        read_file(connection, &mut header, 0).map_err(failed)?;
        let [
            b'S',
            b'Q',
            b'L',
            b'i',
            b't',
            b'e',
            b' ',
            b'f',
            b'o',
            b'r',
            b'm',
            b'a',
            b't',
            b' ',
            b'3',
            0,
            size_high,
            size_low,
            write_version,
            read_version,
            reserved,
            ..,
        ] = header
        else {
            return Ok(None);
        };
        let page_bytes = match u16::from_be_bytes([size_high, size_low]) {
            1 => 65_536,
            size if size >= 512 && size.is_power_of_two() => usize::from(size),
            _ => return Ok(None),
        };
        let utf8 = header.get(56..60) == Some(&[0, 0, 0, 1]);
        let usable_bytes = page_bytes - usize::from(reserved);
        if !utf8 || write_version > 2 || read_version > 2 || usable_bytes < 480 {
            return Ok(None);
        }
        let pages: u32 =
            connection.query_row("PRAGMA main.page_count", [], |row| row.get(0)).map_err(failed)?;
        Ok(Some(Self {
            connection,
            page_bytes,
            usable_bytes,
            pages,
            log: write_version == 2 || read_version == 2,
            chunk: Rc::default(),
            first: 0,
            ahead: 1,
        }))
    }

    /// Whether changes go to a write-ahead log first.
    pub(super) fn has_log(&self) -> bool {
        self.log
    }

    /// How many pages the database has.
    pub(super) fn pages(&self) -> u32 {
        self.pages
    }

    /// Bytes of a page that hold content.
    pub(super) fn usable_bytes(&self) -> usize {
        self.usable_bytes
    }

    /// A page by its number, counted from 1.
    pub(super) fn page(&mut self, number: u32) -> Result<Page> {
        if number == 0 || number > self.pages {
            return Err(damaged(&format!("the table refers to page {number} of {}", self.pages)));
        }
        let held = u32::try_from(self.chunk.len() / self.page_bytes).unwrap_or(0);
        if number.checked_sub(self.first).is_none_or(|at| at >= held) {
            let most = u32::try_from(READ_AHEAD_BYTES / self.page_bytes).unwrap_or(1).max(1);
            let follows = held > 0 && number == self.first + held;
            self.ahead = if follows { (self.ahead * 2).min(most) } else { 1 };
            self.read(number, self.ahead.min(self.pages - number + 1))?;
        }
        let at = usize::try_from(number - self.first).unwrap_or(0) * self.page_bytes;
        Ok(Page { number, chunk: Rc::clone(&self.chunk), at, bytes: self.usable_bytes })
    }

    fn read(&mut self, first: u32, count: u32) -> Result<()> {
        let bytes = usize::try_from(count).unwrap_or(0) * self.page_bytes;
        let mut chunk = Rc::try_unwrap(std::mem::take(&mut self.chunk)).unwrap_or_default();
        chunk.resize(bytes, 0);
        let offset = u64::from(first - 1) * u64::try_from(self.page_bytes).unwrap_or(0);
        let read = read_file(self.connection, &mut chunk, offset);
        read.map_err(|error| {
            let ends = matches!(&error, rusqlite::Error::SqliteFailure(code, _)
                if code.extended_code == SQLITE_IOERR_SHORT_READ);
            let error = if ends {
                damaged("the file ends before a page of the table")
            } else {
                convert(error, super::DOING)
            };
            error.context("page", first)
        })?;
        self.chunk = Rc::new(chunk);
        self.first = first;
        Ok(())
    }
}
