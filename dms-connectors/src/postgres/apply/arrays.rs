//! Columns of a batch as parameters that hold arrays in their binary form: dimensions, whether there
//! are NULLs, the type of the elements, length and lower bound, then the elements, each after its
//! length (`array_recv` in
//! <https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/arrayfuncs.c>).

use std::error::Error as StdError;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use bytes::{Bytes, BytesMut};
use dms_core::batch::batch_bytes;
use dms_core::schema::Column;
use dms_core::{Error, Result};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::postgres::copy::Encoded as Fields;

/// About how many bytes of rows travel in one statement.
pub(super) const PART_BYTES: usize = 16 * 1024 * 1024;
/// How many rows travel in one statement: their values have four bytes more than in Arrow.
const PART_ROWS: usize = 200_000;

/// A parameter whose bytes are ready.
#[derive(Debug, Clone)]
pub(super) struct Encoded(Bytes);

impl Encoded {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl ToSql for Encoded {
    fn to_sql(
        &self,
        _ty: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    /// The statement names the types of its parameters itself.
    fn accepts(_ty: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The values of a column as an array of elements of the type `element`, by its number.
pub(super) fn encode(column: &Column, array: &dyn Array, element: u32) -> Result<Encoded> {
    let values = Fields::new(column, array)?;
    let count = i32::try_from(array.len())
        .map_err(|_| Error::unexpected("an array of more than 2^31 elements"))?;
    let has_nulls = i32::from(array.null_count() > 0);
    let bytes = array.to_data().get_slice_memory_size().unwrap_or_default();
    let mut out = Vec::with_capacity(20 + array.len() * 4 + bytes);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&has_nulls.to_be_bytes());
    out.extend_from_slice(&element.to_be_bytes());
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    for row in 0..array.len() {
        values.append(row, &mut out)?;
    }
    Ok(Encoded(out.into()))
}

/// Rows in parts of about [`PART_BYTES`] and at least one row, without a copy.
pub(super) fn parts(rows: &RecordBatch) -> Vec<RecordBatch> {
    if rows.num_rows() <= PART_ROWS && batch_bytes(rows) <= PART_BYTES {
        return vec![rows.clone()];
    }
    let (mut parts, mut start, mut held) = (Vec::new(), 0, 0);
    for row in 0..rows.num_rows() {
        let bytes: usize = rows.columns().iter().map(|column| value_bytes(column, row)).sum();
        if row > start && (held + bytes > PART_BYTES || row - start == PART_ROWS) {
            parts.push(rows.slice(start, row - start));
            (start, held) = (row, 0);
        }
        held += bytes;
    }
    parts.push(rows.slice(start, rows.num_rows() - start));
    parts
}

/// About how many bytes a value has.
fn value_bytes(array: &dyn Array, row: usize) -> usize {
    /// What a value of fixed length has at the most, its own length included.
    const FIXED: usize = 20;
    let between = |offsets: Option<&[i32]>| match offsets {
        Some([from, to]) => usize::try_from(to - from).unwrap_or(0),
        _ => 0,
    };
    let between_large = |offsets: Option<&[i64]>| match offsets {
        Some([from, to]) => usize::try_from(to - from).unwrap_or(0),
        _ => 0,
    };
    FIXED
        + match array.data_type() {
            DataType::Utf8 => between(array.as_string::<i32>().value_offsets().get(row..row + 2)),
            DataType::Binary => between(array.as_binary::<i32>().value_offsets().get(row..row + 2)),
            DataType::LargeUtf8 => {
                between_large(array.as_string::<i64>().value_offsets().get(row..row + 2))
            }
            DataType::LargeBinary => {
                between_large(array.as_binary::<i64>().value_offsets().get(row..row + 2))
            }
            _ => 0,
        }
}
