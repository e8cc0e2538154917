//! Calls of SQLite's C interface that `rusqlite` has no fast or no own form for: the only unsafe code
//! of this crate. Above all, stepping a query and reading its values where SQLite holds them.
//!
//! `rusqlite`'s rows cost four checked C calls a value, which was more than SQLite itself needs to
//! step over the row. Here a value costs one call to find it and one or two to read it, and text is
//! neither copied nor terminated.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::slice;

use rusqlite::types::Value;
use rusqlite::{Connection, ffi};

/// One value as SQLite holds it. Text is whatever bytes are there, UTF-8 or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell<'a> {
    /// NULL.
    Null,
    /// A signed integer.
    Integer(i64),
    /// A float, never NaN.
    Real(f64),
    /// Text in UTF-8, unless somebody stored other bytes.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

impl Cell<'_> {
    /// What kind of value it is, in SQLite's words.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Integer(_) => "integer",
            Self::Real(_) => "real",
            Self::Text(text) if std::str::from_utf8(text).is_err() => "text that is not UTF-8",
            Self::Text(_) => "text",
            Self::Blob(_) => "blob",
        }
    }
}

impl<'a> From<&'a Value> for Cell<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Cell::Null,
            Value::Integer(value) => Cell::Integer(*value),
            Value::Real(value) => Cell::Real(*value),
            Value::Text(value) => Cell::Text(value.as_bytes()),
            Value::Blob(value) => Cell::Blob(value),
        }
    }
}

/// Whether the file stores text as UTF-8.
pub(super) fn is_utf8(connection: &Connection) -> rusqlite::Result<bool> {
    let encoding: String = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
    Ok(encoding == "UTF-8")
}

/// The first bytes of the database file; zeros where it is shorter, as an empty file is a database
/// without tables.
pub(super) fn file_header(connection: &Connection) -> rusqlite::Result<[u8; 28]> {
    let mut header = [0u8; 28];
    match read_file(connection, &mut header, 0) {
        Err(rusqlite::Error::SqliteFailure(error, _))
            if error.extended_code == ffi::SQLITE_IOERR_SHORT_READ =>
        {
            Ok(header)
        }
        read => read.map(|()| header),
    }
}

/// Reads the database file from `offset` on.
///
/// By way of SQLite's own file handle, since a process that closes any handle of a file loses all
/// its locks on it (<https://sqlite.org/howtocorrupt.html> §2.2), those of SQLite's readers included.
pub(super) fn read_file(
    connection: &Connection,
    bytes: &mut [u8],
    offset: u64,
) -> rusqlite::Result<()> {
    let length = c_int::try_from(bytes.len()).map_err(|_| rusqlite::Error::InvalidQuery)?;
    let offset = i64::try_from(offset).map_err(|_| rusqlite::Error::InvalidQuery)?;
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    // SAFETY: the connection is open and borrowed, so its main database's file stays open during
    // the call and no other thread uses it; SQLite writes one pointer to `file`; `xRead` writes
    // exactly `length` bytes to `bytes`, zeros where the file is shorter.
    let code = unsafe {
        let code = ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast(),
        );
        let methods = if file.is_null() { None } else { (*file).pMethods.as_ref() };
        match (code, methods.and_then(|methods| methods.xRead)) {
            (ffi::SQLITE_OK, Some(read)) => read(file, bytes.as_mut_ptr().cast(), length, offset),
            (ffi::SQLITE_OK, None) => ffi::SQLITE_CANTOPEN,
            (code, _) => code,
        }
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// A query under way.
#[derive(Debug)]
pub(super) struct Cursor<'conn> {
    statement: NonNull<ffi::sqlite3_stmt>,
    database: *mut ffi::sqlite3,
    /// Whether the file stores text as UTF-8, so that it can be read in place.
    utf8: bool,
    columns: usize,
    /// The connection outlives the statement and is not used from another thread meanwhile.
    connection: PhantomData<&'conn Connection>,
}

impl<'conn> Cursor<'conn> {
    /// Prepares one query.
    pub(super) fn prepare(connection: &'conn Connection, sql: &str) -> rusqlite::Result<Self> {
        let utf8 = is_utf8(connection)?;
        let length = c_int::try_from(sql.len()).map_err(|_| rusqlite::Error::InvalidQuery)?;
        let mut statement = std::ptr::null_mut();
        // SAFETY: the handle is open for as long as the connection is borrowed and is never closed
        // here; `sql` is `length` readable bytes; SQLite writes one pointer to `statement`.
        let (database, code) = unsafe {
            let database = connection.handle();
            let code = ffi::sqlite3_prepare_v3(
                database,
                sql.as_ptr().cast::<c_char>(),
                length,
                0,
                &raw mut statement,
                std::ptr::null_mut(),
            );
            (database, code)
        };
        let Some(statement) = NonNull::new(statement) else {
            return Err(failure(database, code));
        };
        // SAFETY: `statement` was prepared above and is not finalized.
        let columns = unsafe { ffi::sqlite3_column_count(statement.as_ptr()) };
        Ok(Self {
            statement,
            database,
            utf8,
            columns: usize::try_from(columns).unwrap_or(0),
            connection: PhantomData,
        })
    }

    /// Binds parameter `index`, counted from 1; text and blobs are copied.
    pub(super) fn bind(&mut self, index: usize, value: Cell<'_>) -> rusqlite::Result<()> {
        let index = c_int::try_from(index).map_err(|_| rusqlite::Error::InvalidQuery)?;
        let statement = self.statement.as_ptr();
        let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        // SAFETY: the statement is not finalized; pointers and lengths describe live slices, which
        // SQLITE_TRANSIENT has SQLite copy before it returns; a wrong index is an error code.
        let code = unsafe {
            match value {
                Cell::Null => ffi::sqlite3_bind_null(statement, index),
                Cell::Integer(value) => ffi::sqlite3_bind_int64(statement, index, value),
                Cell::Real(value) => ffi::sqlite3_bind_double(statement, index, value),
                Cell::Text(text) => ffi::sqlite3_bind_text64(
                    statement,
                    index,
                    text.as_ptr().cast(),
                    length(text),
                    ffi::SQLITE_TRANSIENT(),
                    UTF8,
                ),
                Cell::Blob([]) => ffi::sqlite3_bind_zeroblob(statement, index, 0),
                Cell::Blob(bytes) => ffi::sqlite3_bind_blob64(
                    statement,
                    index,
                    bytes.as_ptr().cast(),
                    length(bytes),
                    ffi::SQLITE_TRANSIENT(),
                ),
            }
        };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(failure(self.database, code)) }
    }

    /// Goes to the next row; `false` after the last.
    pub(super) fn step(&mut self) -> rusqlite::Result<bool> {
        // SAFETY: the statement is not finalized. `&mut self` ends every borrow of the row's values.
        match unsafe { ffi::sqlite3_step(self.statement.as_ptr()) } {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            code => Err(failure(self.database, code)),
        }
    }

    /// How many columns a row has.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// The value in `column`, counted from 0, of the row that the last `step` went to. NULL before
    /// the first row and outside the row, as SQLite has it.
    #[inline]
    pub(super) fn value(&self, column: usize) -> Cell<'_> {
        let Ok(column) = c_int::try_from(column) else { return Cell::Null };
        // SAFETY: the statement is not finalized; an index out of range and a statement without a
        // row yield SQLite's static NULL value. The value and the bytes it points to stay until the
        // next step or conversion: steps need `&mut self`, and each value is only ever read as the
        // type it has, which converts nothing (UTF-16 text is converted once, to what is returned).
        unsafe {
            let value = ffi::sqlite3_column_value(self.statement.as_ptr(), column);
            match ffi::sqlite3_value_type(value) {
                ffi::SQLITE_INTEGER => Cell::Integer(ffi::sqlite3_value_int64(value)),
                ffi::SQLITE_FLOAT => Cell::Real(ffi::sqlite3_value_double(value)),
                ffi::SQLITE_TEXT => {
                    let text = if self.utf8 {
                        // As bytes: `sqlite3_value_text` would copy to append a NUL.
                        ffi::sqlite3_value_blob(value).cast::<u8>()
                    } else {
                        ffi::sqlite3_value_text(value)
                    };
                    Cell::Text(bytes(text, ffi::sqlite3_value_bytes(value)))
                }
                ffi::SQLITE_BLOB => {
                    let blob = ffi::sqlite3_value_blob(value).cast::<u8>();
                    Cell::Blob(bytes(blob, ffi::sqlite3_value_bytes(value)))
                }
                _ => Cell::Null,
            }
        }
    }
}

/// `SQLITE_UTF8` as the one byte that `sqlite3_bind_text64` takes.
const UTF8: std::ffi::c_uchar = 1;

/// # Safety
/// `start` is null or the start of `length` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *const u8, length: c_int) -> &'a [u8] {
    match usize::try_from(length) {
        // SAFETY: by this function's contract, and not null.
        Ok(length) if length > 0 && !start.is_null() => unsafe {
            slice::from_raw_parts(start, length)
        },
        _ => &[],
    }
}

fn failure(database: *mut ffi::sqlite3, code: c_int) -> rusqlite::Error {
    // SAFETY: the handle is open; the message is a NUL-terminated string of SQLite's that stays
    // until the next call on this connection, and is copied here.
    let message = unsafe {
        let message = ffi::sqlite3_errmsg(database);
        (!message.is_null())
            .then(|| std::ffi::CStr::from_ptr(message).to_string_lossy().into_owned())
    };
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), message)
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        // SAFETY: prepared in `prepare`, finalized only here.
        unsafe { ffi::sqlite3_finalize(self.statement.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(encoding: &str, sql: &str) -> Vec<String> {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(&format!("PRAGMA encoding = '{encoding}'")).unwrap();
        let mut cursor = Cursor::prepare(&connection, sql).unwrap();
        assert_eq!(cursor.value(0), Cell::Null, "before the first row");
        assert!(cursor.step().unwrap());
        assert_eq!(cursor.value(99), Cell::Null, "outside the row");
        let row = (0..cursor.columns()).map(|i| format!("{:?}", cursor.value(i))).collect();
        assert!(!cursor.step().unwrap());
        row
    }

    #[test]
    fn every_storage_class_in_every_encoding() {
        for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
            let row = row(encoding, "SELECT NULL, -7, 1.5, 'né', '', x'00FF', x'', 'a' || char(0)");
            let expected = [
                "Null".to_owned(),
                "Integer(-7)".to_owned(),
                "Real(1.5)".to_owned(),
                format!("Text({:?})", "né".as_bytes()),
                "Text([])".to_owned(),
                "Blob([0, 255])".to_owned(),
                "Blob([])".to_owned(),
                "Text([97, 0])".to_owned(),
            ];
            assert_eq!(row, expected, "{encoding}");
        }
    }

    #[test]
    fn bound_values_come_back_and_errors_have_their_code() {
        let connection = Connection::open_in_memory().unwrap();
        let cells = [
            Cell::Null,
            Cell::Integer(i64::MIN),
            Cell::Real(-0.0),
            Cell::Text(b""),
            Cell::Text(b"x\0y"),
            Cell::Blob(&[]),
            Cell::Blob(&[0]),
        ];
        for cell in cells {
            let mut cursor = Cursor::prepare(&connection, "SELECT ?1").unwrap();
            cursor.bind(1, cell).unwrap();
            assert!(cursor.step().unwrap());
            assert_eq!(cursor.value(0), cell);
            assert!(cursor.bind(2, cell).is_err(), "there is no second parameter");
        }
        let error = Cursor::prepare(&connection, "SELECT * FROM nowhere").unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
    }
}
