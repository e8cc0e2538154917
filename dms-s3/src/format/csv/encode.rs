//! Writing CSV, column-wise where it pays: what a column's values are is decided once a batch.

use arrow::array::types::{
    Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type,
};
use arrow::array::{
    Array, AsArray, BooleanArray, LargeStringArray, PrimitiveArray, RecordBatch, StringArray,
};
use arrow::datatypes::DataType;
use dms_core::schema::TableSchema;
use dms_core::value::temporal::{civil_from_days, write_date};
use dms_core::value::text::write_text;

use crate::manifest::CsvDialect;
use crate::settings::FolderSettings;

/// One CSV file being written.
pub(crate) struct CsvEncoder {
    dialect: CsvDialect,
    delimiter: u8,
    header: Option<Vec<String>>,
}

impl CsvEncoder {
    pub(crate) fn new(table: &TableSchema, settings: &FolderSettings) -> Self {
        let names = || table.columns.iter().map(|column| column.name.clone()).collect();
        let dialect = settings.csv_dialect();
        Self {
            delimiter: u8::try_from(dialect.delimiter).unwrap_or(b','),
            dialect,
            header: settings.add_column_name.then(names),
        }
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Vec<u8> {
        self.write_lines(batch, |_| {})
    }

    /// As [`write`](Self::write), telling how many bytes there are at the end of each row.
    pub(crate) fn write_lines(
        &mut self,
        batch: &RecordBatch,
        mut ended: impl FnMut(usize),
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(batch.num_rows() * batch.num_columns() * 8);
        if let Some(names) = self.header.take() {
            for (at, name) in names.iter().enumerate() {
                if at > 0 {
                    out.push(self.delimiter);
                }
                self.text(&mut out, name);
            }
            out.push(b'\n');
        }
        let plain = self.numbers_are_plain();
        let columns: Vec<_> =
            batch.columns().iter().map(|column| Values::of(column.as_ref(), plain)).collect();
        let mut scratch = String::new();
        for row in 0..batch.num_rows() {
            for (at, (array, values)) in batch.columns().iter().zip(&columns).enumerate() {
                if at > 0 {
                    out.push(self.delimiter);
                }
                if array.is_null(row) {
                    out.extend_from_slice(self.dialect.null_value.as_bytes());
                    continue;
                }
                match values {
                    Values::Text(texts) => self.text(&mut out, texts.value(row)),
                    Values::LargeText(texts) => self.text(&mut out, texts.value(row)),
                    Values::Boolean(bits) => {
                        out.extend_from_slice(if bits.value(row) { b"true" } else { b"false" });
                    }
                    Values::Int64(values) => decimal(&mut out, values.value(row).into(), 0),
                    Values::Int32(values) => decimal(&mut out, values.value(row).into(), 0),
                    Values::Int16(values) => decimal(&mut out, values.value(row).into(), 0),
                    Values::Int8(values) => decimal(&mut out, values.value(row).into(), 0),
                    Values::UInt32(values) => decimal(&mut out, values.value(row).into(), 0),
                    Values::UInt16(values) => decimal(&mut out, values.value(row).into(), 0),
                    Values::UInt8(values) => decimal(&mut out, values.value(row).into(), 0),
                    Values::Decimal(values, scale) => {
                        decimal(&mut out, values.value(row), *scale);
                    }
                    Values::Date(values) => date(&mut out, values.value(row)),
                    Values::Other(array) => {
                        scratch.clear();
                        write_text(*array, row, &mut scratch);
                        self.text(&mut out, &scratch);
                    }
                }
            }
            out.push(b'\n');
            ended(out.len());
        }
        out
    }

    /// Whether no text of a number or date can be taken for a delimiter or for NULL.
    fn numbers_are_plain(&self) -> bool {
        let part_of_a_number = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.: ".contains(&byte);
        !part_of_a_number(self.delimiter)
            && !self
                .dialect
                .null_value
                .bytes()
                .next()
                .is_some_and(|first| part_of_a_number(first) && !first.is_ascii_uppercase())
    }

    fn text(&self, out: &mut Vec<u8>, text: &str) {
        let bytes = text.as_bytes();
        // Without leaving early, so that it is done many bytes at once.
        let special = bytes.iter().fold(false, |found, byte| {
            found
                | (*byte == b'"')
                | (*byte == b'\n')
                | (*byte == b'\r')
                | (*byte == self.delimiter)
        });
        let quoted = special
            || text == self.dialect.null_value
            || bytes.first() == Some(&b' ')
            || bytes.last() == Some(&b' ');
        if !quoted {
            out.extend_from_slice(bytes);
            return;
        }
        out.push(b'"');
        for (at, piece) in bytes.split(|byte| *byte == b'"').enumerate() {
            if at > 0 {
                out.extend_from_slice(b"\"\"");
            }
            out.extend_from_slice(piece);
        }
        out.push(b'"');
    }
}

/// A column's values as what they are.
enum Values<'a> {
    Text(&'a StringArray),
    LargeText(&'a LargeStringArray),
    Boolean(&'a BooleanArray),
    Int64(&'a PrimitiveArray<Int64Type>),
    Int32(&'a PrimitiveArray<Int32Type>),
    Int16(&'a PrimitiveArray<Int16Type>),
    Int8(&'a PrimitiveArray<Int8Type>),
    UInt32(&'a PrimitiveArray<UInt32Type>),
    UInt16(&'a PrimitiveArray<UInt16Type>),
    UInt8(&'a PrimitiveArray<UInt8Type>),
    /// Those that fit 64 bits, whatever the type allows, and their scale.
    Decimal(&'a PrimitiveArray<Decimal128Type>, usize),
    Date(&'a PrimitiveArray<Date32Type>),
    /// By the general way, whose text may need quotes.
    Other(&'a dyn Array),
}

impl<'a> Values<'a> {
    fn of(array: &'a dyn Array, plain: bool) -> Self {
        match array.data_type() {
            DataType::Utf8 => Self::Text(array.as_string()),
            DataType::LargeUtf8 => Self::LargeText(array.as_string()),
            _ if !plain => Self::Other(array),
            DataType::Boolean => Self::Boolean(array.as_boolean()),
            DataType::Int64 => Self::Int64(array.as_primitive()),
            DataType::Int32 => Self::Int32(array.as_primitive()),
            DataType::Int16 => Self::Int16(array.as_primitive()),
            DataType::Int8 => Self::Int8(array.as_primitive()),
            DataType::UInt32 => Self::UInt32(array.as_primitive()),
            DataType::UInt16 => Self::UInt16(array.as_primitive()),
            DataType::UInt8 => Self::UInt8(array.as_primitive()),
            DataType::Decimal128(_, scale) => match usize::try_from(*scale) {
                Ok(scale) => Self::Decimal(array.as_primitive(), scale),
                Err(_) => Self::Other(array),
            },
            DataType::Date32 => Self::Date(array.as_primitive()),
            _ => Self::Other(array),
        }
    }
}

/// Writes an unscaled decimal number, or with scale 0 an integer.
fn decimal(out: &mut Vec<u8>, unscaled: i128, scale: usize) {
    // Sign, 39 digits, and zeros before and a point within a fraction of at most 38.
    let mut text = [b'0'; 48];
    let mut at = text.len();
    let mut rest = unscaled.unsigned_abs();
    let mut digits = 0;
    while rest > 0 || digits <= scale {
        if digits == scale && scale > 0 {
            at -= 1;
            text[at] = b'.';
        }
        at -= 1;
        // Most numbers fit 64 bits, whose division is much cheaper.
        let digit = match u64::try_from(rest) {
            Ok(small) => {
                rest = (small / 10).into();
                u128::from(small % 10)
            }
            Err(_) => {
                let digit = rest % 10;
                rest /= 10;
                digit
            }
        };
        text[at] = b'0' + u8::try_from(digit).unwrap_or(0);
        digits += 1;
    }
    if unscaled < 0 {
        at -= 1;
        text[at] = b'-';
    }
    out.extend_from_slice(&text[at..]);
}

fn date(out: &mut Vec<u8>, days: i32) {
    let (year, month, day) = civil_from_days(days.into());
    match u32::try_from(year) {
        Ok(year) if year <= 9999 => {
            let digit = |number: u32| b'0' + u8::try_from(number % 10).unwrap_or(0);
            out.extend_from_slice(&[
                digit(year / 1000),
                digit(year / 100),
                digit(year / 10),
                digit(year),
                b'-',
                digit(month / 10),
                digit(month),
                b'-',
                digit(day / 10),
                digit(day),
            ]);
        }
        _ => {
            let mut text = String::new();
            write_date(&mut text, days);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dms_core::value::decimal::format_decimal;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn numbers_are_written_as_everywhere(
            wide: i128,
            narrow in -1_000_000i128..1_000_000,
            scale in 0i8..=38,
        ) {
            // The most that 38 digits hold.
            let wide = wide % 10i128.pow(38);
            for unscaled in [wide, narrow] {
                let expected = format_decimal(&unscaled.to_string(), scale);
                let scale = usize::try_from(scale).unwrap();
                prop_assert_eq!(written(|out| decimal(out, unscaled, scale)), expected);
            }
        }

        #[test]
        fn dates_are_written_as_everywhere(any: i32, near in -800_000..3_000_000) {
            for days in [any, near, i32::MAX, i32::MIN] {
                let mut expected = String::new();
                write_date(&mut expected, days);
                prop_assert_eq!(written(|out| date(out, days)), expected);
            }
        }
    }
}
