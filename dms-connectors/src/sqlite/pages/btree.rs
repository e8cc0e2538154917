//! The tree of a rowid table (<https://sqlite.org/fileformat2.html#b_tree_pages>).

use dms_core::{Error, Result};

use super::file::{Page, PageFile};
use super::record::{Rows, varint};
use crate::sqlite::error;

/// Deeper than a tree of 2^32 pages gets.
const DEPTH_MAX: usize = 20;
/// Bytes of the file's header, before the first page's.
const FILE_HEADER: usize = 100;

/// Rowids from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowidRange {
    first: i64,
    last: i64,
    empty: bool,
}

impl RowidRange {
    pub(super) const ALL: Self = Self { first: i64::MIN, last: i64::MAX, empty: false };

    /// From `lower` on and below `upper`.
    pub(super) fn new(lower: Option<i64>, upper: Option<i64>) -> Self {
        let first = lower.unwrap_or(i64::MIN);
        match upper.map(|upper| upper.checked_sub(1)) {
            None => Self { first, last: i64::MAX, empty: false },
            Some(Some(last)) => Self { first, last, empty: first > last },
            Some(None) => Self { empty: true, ..Self::ALL },
        }
    }
}

/// What is shown the rows, some at a time, with the bytes they lie in. `false` ends the walk.
pub(super) type Show<'s> = &'s mut dyn FnMut(&Rows, &[u8]) -> Result<bool>;

/// Shows the rows of a range, of a table of so many stored columns, in the order of rowids.
pub(super) fn walk(
    file: &mut PageFile<'_>,
    root: u32,
    columns: usize,
    range: RowidRange,
    show: Show<'_>,
) -> Result<()> {
    if range.empty {
        return Ok(());
    }
    let rows = Rows::new(columns);
    let mut walk = Walk { file, range, before: None, pages: 0, rows, spilled: Vec::new(), show };
    walk.page(root, 0).map(|_| ())
}

struct Walk<'w, 'f, 's> {
    file: &'w mut PageFile<'f>,
    range: RowidRange,
    /// The last rowid seen: a tree whose rowids ascend holds no row twice.
    before: Option<i64>,
    /// Pages seen: a tree does not have more than its file.
    pages: u32,
    /// The rows to be shown next.
    rows: Rows,
    /// The record of a row that goes on in overflow pages.
    spilled: Vec<u8>,
    show: Show<'s>,
}

fn damaged(page: &Page) -> Error {
    error::damaged("a page is not one of a table").context("page", page.number)
}

fn u16_at(page: &[u8], at: usize) -> Option<usize> {
    let bytes = page.get(at..at + 2)?;
    Some(usize::from(u16::from_be_bytes(bytes.try_into().ok()?)))
}

fn u32_at(page: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(page.get(at..at + 4)?.try_into().ok()?))
}

impl Walk<'_, '_, '_> {
    /// Walks the tree from a page on; whether to go on behind it.
    fn page(&mut self, number: u32, depth: usize) -> Result<bool> {
        let page = self.file.page(number)?;
        self.pages += 1;
        if depth > DEPTH_MAX || self.pages > self.file.pages() {
            return Err(damaged(&page));
        }
        let header = if number == 1 { FILE_HEADER } else { 0 };
        match page.get(header) {
            Some(5) => self.interior(&page, header, depth),
            Some(13) => self.leaf(&page, header),
            _ => Err(damaged(&page)),
        }
    }

    /// Each cell is a page and the last rowid in it; the rightmost page is in the header.
    fn interior(&mut self, page: &Page, header: usize, depth: usize) -> Result<bool> {
        let cells = u16_at(page, header + 3).ok_or_else(|| damaged(page))?;
        for index in 0..cells {
            let cell = u16_at(page, header + 12 + 2 * index);
            let child = cell.and_then(|cell| Some((u32_at(page, cell)?, page.get(cell + 4..)?)));
            let (child, rest) = child.ok_or_else(|| damaged(page))?;
            let (last, _) = varint(rest).ok_or_else(|| damaged(page))?;
            let last = last.cast_signed();
            if last < self.range.first {
                continue;
            }
            if !self.page(child, depth + 1)? || last >= self.range.last {
                return Ok(false);
            }
        }
        let rightmost = u32_at(page, header + 8).ok_or_else(|| damaged(page))?;
        self.page(rightmost, depth + 1)
    }

    /// Each cell is a row: the bytes of its record, its rowid, its record.
    fn leaf(&mut self, page: &Page, header: usize) -> Result<bool> {
        let cells = u16_at(page, header + 3).ok_or_else(|| damaged(page))?;
        let pointers = page.get(header + 8..header + 8 + 2 * cells).ok_or_else(|| damaged(page))?;
        for pointer in pointers.chunks_exact(2) {
            let &[high, low] = pointer else { continue };
            let cell = page.get(usize::from(u16::from_be_bytes([high, low]))..);
            let row = cell.and_then(|cell| {
                let (bytes, rest) = varint(cell)?;
                let (rowid, rest) = varint(rest)?;
                Some((usize::try_from(bytes).ok()?, rowid.cast_signed(), rest))
            });
            let (bytes, rowid, rest) = row.ok_or_else(|| damaged(page))?;
            if self.before.is_some_and(|before| before >= rowid) {
                return Err(damaged(page));
            }
            self.before = Some(rowid);
            if rowid < self.range.first {
                continue;
            }
            if rowid > self.range.last {
                self.show(page)?;
                return Ok(false);
            }
            let start = page.len() - rest.len();
            let local = self.local_bytes(bytes);
            if local == bytes {
                let pushed = self.rows.push(rowid, page, start, start + bytes);
                pushed.ok_or_else(|| damaged(page))?;
                continue;
            }
            if !self.show(page)? {
                return Ok(false);
            }
            let begin = rest.get(..local).ok_or_else(|| damaged(page))?;
            let overflow = u32_at(rest, local).ok_or_else(|| damaged(page))?;
            self.spill(begin, bytes, overflow)?;
            let pushed = self.rows.push(rowid, &self.spilled, 0, bytes);
            pushed.ok_or_else(|| damaged(page))?;
            let spilled = std::mem::take(&mut self.spilled);
            let more = self.show(&spilled);
            self.spilled = spilled;
            if !more? {
                return Ok(false);
            }
        }
        self.show(page)
    }

    /// Shows the rows collected, if any.
    fn show(&mut self, bytes: &[u8]) -> Result<bool> {
        let more = self.rows.rowids().is_empty() || (self.show)(&self.rows, bytes)?;
        self.rows.clear();
        Ok(more)
    }

    /// How many of a record's bytes are on its leaf
    /// (<https://sqlite.org/fileformat2.html#cell_payload_overflow_pages>).
    fn local_bytes(&self, bytes: usize) -> usize {
        let usable = self.file.usable_bytes();
        let most = usable - 35;
        if bytes <= most {
            return bytes;
        }
        let least = (usable - 12) * 32 / 255 - 23;
        let even = least + (bytes - least) % (usable - 4);
        if even <= most { even } else { least }
    }

    /// Collects a record of `bytes` bytes that goes on in overflow pages.
    fn spill(&mut self, start: &[u8], bytes: usize, overflow: u32) -> Result<()> {
        // More than the file has would be a chain without an end.
        let file = u64::from(self.file.pages()) * self.file.usable_bytes() as u64;
        if bytes as u64 > file {
            return Err(error::damaged("a row is larger than the file").context("page", overflow));
        }
        self.spilled.clear();
        self.spilled.extend_from_slice(start);
        let mut next = overflow;
        while self.spilled.len() < bytes {
            let page = self.file.page(next)?;
            next = u32_at(&page, 0).ok_or_else(|| damaged(&page))?;
            let rest = bytes - self.spilled.len();
            let content = page.get(4..).unwrap_or_default();
            let content = content.get(..rest).unwrap_or(content);
            if content.is_empty() {
                return Err(damaged(&page));
            }
            self.spilled.extend_from_slice(content);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_rowids() {
        let all = |lower, upper| RowidRange::new(lower, upper);
        assert_eq!(all(None, None), RowidRange::ALL);
        assert_eq!(all(Some(1), Some(3)), RowidRange { first: 1, last: 2, empty: false });
        assert!(all(Some(3), Some(3)).empty);
        assert!(all(None, Some(i64::MIN)).empty);
    }
}
