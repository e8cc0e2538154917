//! In which form the values of a column arrive, and how they become those that a load reads.

use dms_core::schema::{Column, LogicalType};

use super::pgoutput::Field;
use crate::postgres::copy::Values;
use crate::postgres::types::is_read_as_text;

/// How a column's values become those of a load. Chosen once for a shape of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As in a binary `COPY`, or text that is taken as it is.
    Plain,
    /// The server's text of a value that is not kept as text.
    Parsed,
    /// Text behind a byte with a version: `jsonb` in binary form.
    Versioned,
    /// `bit` and `varbit` in binary form.
    Bits,
    /// `boolean` where the column is read as text, as a cast writes it.
    Word,
    /// `char(n)` where the column is read as text: a cast cuts its padding.
    Trimmed,
    /// `inet`, of which a cast writes the length of the mask always.
    Masked,
}

impl Form {
    /// The form in a feed of binary values; `None` if it is not known here. `base` is the name of
    /// the type that the column's is over, with its schema unless that is `pg_catalog`.
    pub(super) fn binary(base: &str, column: &Column) -> Option<Self> {
        let ty = &column.logical_type;
        if !is_read_as_text(ty) {
            return Some(Self::Plain);
        }
        Some(match base {
            "text" | "varchar" | "name" | "json" => Self::Plain,
            "bpchar" => Self::Trimmed,
            "jsonb" => Self::Versioned,
            "bit" | "varbit" => Self::Bits,
            _ if matches!(ty, LogicalType::Enum { .. }) => Self::Plain,
            _ => return None,
        })
    }

    /// The form in a feed of texts.
    pub(super) fn text(base: &str, column: &Column) -> Self {
        match base {
            _ if !is_read_as_text(&column.logical_type) => Self::Parsed,
            "bool" => Self::Word,
            "bpchar" => Self::Trimmed,
            "inet" => Self::Masked,
            _ => Self::Plain,
        }
    }
}

/// Appends a value of a row; says what it is if it is none of the column's.
#[inline]
pub(super) fn append(
    values: &mut Values,
    form: Form,
    field: Field<'_>,
) -> Result<(), &'static str> {
    const OTHER: &str = "a value of another form";
    match (form, field) {
        (_, Field::Null | Field::Unchanged) => {
            values.append_null();
            Ok(())
        }
        (Form::Plain, Field::Binary(value) | Field::Text(value)) => values.append(value),
        (Form::Parsed, Field::Text(value)) => values.append_text(value),
        (Form::Versioned, Field::Binary([1, text @ ..])) => values.append(text),
        (Form::Bits, Field::Binary(value)) => values.append(&bits(value).ok_or(OTHER)?),
        (Form::Word, Field::Text(b"t")) => values.append(b"true"),
        (Form::Word, Field::Text(b"f")) => values.append(b"false"),
        (Form::Trimmed, Field::Text(value) | Field::Binary(value)) => {
            let length = value.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
            values.append(value.get(..length).unwrap_or(value))
        }
        (Form::Masked, Field::Text(value)) if value.contains(&b'/') => values.append(value),
        (Form::Masked, Field::Text(value)) => {
            let mask: &[u8] = if value.contains(&b':') { b"/128" } else { b"/32" };
            values.append(&[value, mask].concat())
        }
        _ => Err(OTHER),
    }
}

/// A number of bits, then these, as text (`varbit_send` in `src/backend/utils/adt/varbit.c`).
fn bits(value: &[u8]) -> Option<Vec<u8>> {
    let (count, bytes) = value.split_first_chunk()?;
    let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
    let bit = |at: usize| Some(b'0' + (bytes.get(at / 8)? >> (7 - at % 8) & 1));
    (bytes.len() == count.div_ceil(8)).then(|| (0..count).map(bit).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_as_text() {
        assert_eq!(bits(&[0, 0, 0, 10, 0b1010_0000, 0b1100_0000]).unwrap(), b"1010000011");
        assert_eq!(bits(&[0, 0, 0, 0]).unwrap(), b"");
        for wrong in [&[0, 0, 0][..], &[0, 0, 0, 9, 1], &[255, 255, 255, 255]] {
            assert_eq!(bits(wrong), None);
        }
    }
}
