//! The values of a row (<https://sqlite.org/fileformat2.html#record_format>).

use crate::sqlite::cursor::Cell;

/// A number of 1 to 9 bytes, seven bits each, and what follows it.
#[inline]
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    match bytes {
        [byte, rest @ ..] if *byte < 0x80 => Some((u64::from(*byte), rest)),
        [high, low, rest @ ..] if *low < 0x80 => {
            Some((u64::from(high & 0x7f) << 7 | u64::from(*low), rest))
        }
        _ => long_varint(bytes),
    }
}

fn long_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate() {
        if index == 8 {
            // The ninth has eight bits.
            return Some((value << 8 | u64::from(*byte), bytes.get(9..)?));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if *byte < 0x80 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

/// Rows that lie in one stretch of bytes, and where their values are.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rowids: Vec<i64>,
    /// Of each row as many as there are stored columns.
    places: Vec<Place>,
    columns: usize,
    /// The fewest values of a row: rows older than a column do not have its.
    fewest: usize,
}

/// The type of a value and where it starts.
#[derive(Debug, Clone, Copy)]
struct Place {
    serial_type: u32,
    start: u32,
}

/// The type of a value that a row does not have; SQLite does not use it.
const ABSENT: u32 = 10;

impl Rows {
    /// For a table of so many stored columns.
    pub(super) fn new(columns: usize) -> Self {
        Self { columns, fewest: columns, ..Self::default() }
    }

    pub(super) fn clear(&mut self) {
        self.rowids.clear();
        self.places.clear();
        self.fewest = self.columns;
    }

    pub(super) fn rowids(&self) -> &[i64] {
        &self.rowids
    }

    /// How many of the first columns every row has.
    pub(super) fn fewest(&self) -> usize {
        self.fewest
    }

    /// Adds the record at `start..end` of the stretch; `None` if it is damaged.
    #[inline]
    pub(super) fn push(
        &mut self,
        rowid: i64,
        bytes: &[u8],
        start: usize,
        end: usize,
    ) -> Option<()> {
        let record = bytes.get(start..end)?;
        let (header, rest) = varint(record)?;
        let mut types = record.get(record.len() - rest.len()..usize::try_from(header).ok()?)?;
        let end = u32::try_from(end).ok()?;
        let mut at = u32::try_from(start).ok()?.checked_add(u32::try_from(header).ok()?)?;
        let mut values = 0;
        while !types.is_empty() {
            let (serial_type, rest) = varint(types)?;
            types = rest;
            let serial_type = u32::try_from(serial_type).ok()?;
            // A table has no fewer columns than its rows.
            values += 1;
            if values > self.columns {
                return None;
            }
            self.places.push(Place { serial_type, start: at });
            at = at.checked_add(value_bytes(serial_type)?)?;
            if at > end {
                return None;
            }
        }
        self.fewest = self.fewest.min(values);
        let absent = Place { serial_type: ABSENT, start: at };
        self.places.extend(std::iter::repeat_n(absent, self.columns - values));
        self.rowids.push(rowid);
        Some(())
    }

    /// The value of a row; `None` if the row does not have the column.
    #[expect(clippy::inline_always, reason = "once a value; measured")]
    #[inline(always)]
    pub(super) fn cell<'b>(&self, row: usize, column: usize, bytes: &'b [u8]) -> Option<Cell<'b>> {
        let Place { serial_type, start } = *self.places.get(row * self.columns + column)?;
        let start = usize::try_from(start).ok()?;
        match serial_type {
            0 => Some(Cell::Null),
            1..=6 => Some(Cell::Integer(integer(serial_type, bytes, start)?)),
            7 => Some(match f64::from_be_bytes(*bytes.get(start..)?.first_chunk()?) {
                // As SQLite has it.
                value if value.is_nan() => Cell::Null,
                value => Cell::Real(value),
            }),
            8 => Some(Cell::Integer(0)),
            9 => Some(Cell::Integer(1)),
            10 | 11 => None,
            _ => {
                let length = usize::try_from((serial_type - 12) / 2).ok()?;
                let value = bytes.get(start..start + length)?;
                Some(if serial_type % 2 == 1 { Cell::Text(value) } else { Cell::Blob(value) })
            }
        }
    }
}

/// An integer of 1 to 8 bytes.
#[inline]
fn integer(serial_type: u32, bytes: &[u8], start: usize) -> Option<i64> {
    let length = value_bytes(serial_type)?;
    // What follows the value is shifted out again.
    let eight = match bytes.get(start..)?.first_chunk::<8>() {
        Some(eight) => *eight,
        None => {
            let mut eight = [0; 8];
            let rest = bytes.get(start..)?;
            eight.get_mut(..rest.len())?.copy_from_slice(rest);
            eight
        }
    };
    Some(i64::from_be_bytes(eight) >> (64 - 8 * length))
}

/// How many bytes values of a type take; `None` for types that SQLite does not write.
#[inline]
fn value_bytes(serial_type: u32) -> Option<u32> {
    const SMALL: [u32; 10] = [0, 1, 2, 3, 4, 6, 8, 8, 0, 0];
    match serial_type {
        10 | 11 => None,
        12.. => Some((serial_type - 12) / 2),
        small => SMALL.get(usize::try_from(small).ok()?).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn varints_of_every_length() {
        for (bytes, value) in [
            (&[0x00u8][..], 0),
            (&[0x7f], 127),
            (&[0x81, 0x00], 128),
            (&[0x82, 0x80, 0x00], 32_768),
            (&[0xff; 9], u64::MAX),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x05], 5),
        ] {
            assert_eq!(varint(bytes), Some((value, &[][..])), "{bytes:?}");
        }
        for cut in [&[][..], &[0x80], &[0xff; 8]] {
            assert_eq!(varint(cut), None, "{cut:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail_otherwise_than_by_saying_so(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            columns in 0usize..5,
        ) {
            let mut rows = Rows::new(columns);
            if rows.push(1, &bytes, 0, bytes.len()).is_some() {
                for column in 0..columns {
                    prop_assert_eq!(rows.cell(0, column, &bytes).is_some(), column < rows.fewest());
                }
            }
        }

        #[test]
        fn integers_of_every_length(value in any::<i64>(), tail in 0usize..9) {
            for (serial_type, length) in [(1u32, 1), (2, 2), (3, 3), (4, 4), (5, 6), (6, 8)] {
                let expected = value >> (64 - 8 * length);
                let mut bytes = value.to_be_bytes()[..length].to_vec();
                bytes.extend(std::iter::repeat_n(0xff, tail));
                prop_assert_eq!(integer(serial_type, &bytes, 0), Some(expected));
            }
        }
    }
}
