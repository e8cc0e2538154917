//! The binary format of `COPY`, from and into Arrow
//! (<https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS>).

mod decode;
mod encode;
mod numeric;
mod text;

use arrow::array::RecordBatch;
use bytes::Bytes;
use dms_core::Result;
use dms_core::batch::BatchLimit;
use dms_core::schema::TableSchema;

pub(super) use decode::{Decoder, Values};
pub(super) use encode::{Encoder, Values as Encoded};

/// Rows as a `COPY` has them, for whoever takes rows whole.
pub(super) const ROW_FORM: &str = "postgres binary copy";

/// What a stream begins with; flags and the length of an extension follow, four bytes each.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, extension.
const HEADER_BYTES: usize = SIGNATURE.len() + 8;

/// From 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
pub(super) const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Rows of a table as the bytes of a binary `COPY`, which the server or a file takes.
///
/// # Errors
/// `Data` for a value that PostgreSQL does not have, naming column and row.
pub fn encode_copy(table: &TableSchema, batches: &[RecordBatch]) -> Result<Bytes> {
    let mut encoder = Encoder::new(table.clone());
    let mut parts = vec![Encoder::header()];
    for batch in batches {
        parts.push(encoder.encode(batch)?);
    }
    parts.push(Encoder::end());
    Ok(parts.concat().into())
}

/// The rows of a binary `COPY`, as `COPY table TO 'file' (FORMAT binary)` writes it, of a table
/// whose columns are all of types that are read in their binary form.
///
/// # Errors
/// `Data` for a value that is none of its column; `Schema` for rows of another shape; `Connection`
/// if the end is missing.
pub fn decode_copy(
    table: &TableSchema,
    limit: BatchLimit,
    bytes: &[u8],
) -> Result<Vec<RecordBatch>> {
    let mut decoder = Decoder::new(table.clone(), limit)?;
    let mut batches = Vec::new();
    decoder.feed(bytes, &mut batches)?;
    batches.extend(decoder.finish()?);
    Ok(batches)
}

#[cfg(test)]
mod tests;
