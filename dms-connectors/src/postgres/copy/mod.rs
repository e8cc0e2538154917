//! The binary format of `COPY`, from and into Arrow
//! (<https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS>).

mod decode;
mod encode;
mod numeric;

pub(super) use decode::Decoder;
pub(super) use encode::Encoder;

/// Rows as a `COPY` has them, for whoever takes rows whole.
pub(super) const ROW_FORM: &str = "postgres binary copy";

/// What a stream begins with; flags and the length of an extension follow, four bytes each.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, extension.
const HEADER_BYTES: usize = SIGNATURE.len() + 8;

/// From 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

#[cfg(test)]
mod tests;
