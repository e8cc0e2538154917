//! CSV that tells NULL from the empty text: what stands for NULL is never quoted, and a text that
//! looks like it always is. Otherwise RFC 4180, values in their canonical text form, bytes in
//! hexadecimal.

mod decode;
mod encode;

pub(crate) use decode::CsvDecoder;
pub(crate) use encode::CsvEncoder;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::settings::FolderSettings;
    use arrow::array::{
        ArrayRef, AsArray, BinaryArray, Date32Array, Decimal128Array, Int64Array, RecordBatch,
        StringArray,
    };
    use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
    use proptest::prelude::*;

    fn table() -> TableSchema {
        let columns =
            ["a", "b"].map(|name| Column::new(name, LogicalType::text())).into_iter().collect();
        TableSchema::new(TableName::new("s", "t"), columns)
    }

    proptest! {
        #[test]
        fn every_text_comes_back(
            rows in proptest::collection::vec((
                proptest::option::of("[ -~\"\n\r,é]{0,6}"), proptest::option::of("(NULL|x|)")), 0..20),
            null_value in "(|NULL|x)",
            header: bool,
            cut in 1usize..7,
        ) {
            let a: StringArray = rows.iter().map(|row| row.0.as_deref()).collect();
            let b: StringArray = rows.iter().map(|row| row.1.as_deref()).collect();
            let batch = RecordBatch::try_new(
                table().arrow_schema(), vec![Arc::new(a), Arc::new(b)]).unwrap();
            let settings = FolderSettings {
                csv_null_value: null_value, add_column_name: header, ..FolderSettings::default() };
            let bytes = CsvEncoder::new(&table(), &settings).write(&batch);
            let mut decoder = CsvDecoder::new(table(), settings.csv_dialect());
            for piece in bytes.chunks(cut) {
                prop_assert_eq!(decoder.feed(piece, |_, _| false).unwrap(), piece.len());
            }
            decoder.end().unwrap();
            prop_assert_eq!(decoder.batch().unwrap(), batch);
        }
    }

    proptest! {
        /// Also where a delimiter or NULL looks like a part of a number.
        #[test]
        fn every_number_comes_back(
            rows in proptest::collection::vec((
                any::<Option<i64>>(), any::<Option<i32>>(), -99_999i128..99_999, any::<Vec<u8>>(),
            ), 0..20),
            delimiter in "[,;|1a.: \t-]",
            null_value in "(|NULL|0|-1|infinity|1970-01-01|0.00|00)",
        ) {
            let types = ["int64", "date", "decimal(5,2)", "bytes"];
            let columns = types.iter().map(|ty| Column::new(*ty, ty.parse().unwrap())).collect();
            let table = TableSchema::new(TableName::new("s", "t"), columns);
            let delimiter = delimiter.chars().next().unwrap();
            prop_assume!(!null_value.contains(delimiter));
            let decimals: Decimal128Array = rows.iter().map(|row| Some(row.2)).collect();
            let columns: Vec<ArrayRef> = vec![
                Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|row| row.1).collect::<Date32Array>()),
                Arc::new(decimals.with_precision_and_scale(5, 2).unwrap()),
                Arc::new(rows.iter().map(|row| Some(&row.3)).collect::<BinaryArray>()),
            ];
            let batch = RecordBatch::try_new(table.arrow_schema(), columns).unwrap();
            let settings = FolderSettings {
                csv_delimiter: delimiter, csv_null_value: null_value, ..FolderSettings::default() };
            let bytes = CsvEncoder::new(&table, &settings).write(&batch);
            let mut decoder = CsvDecoder::new(table, settings.csv_dialect());
            decoder.feed(&bytes, |_, _| false).unwrap();
            decoder.end().unwrap();
            prop_assert_eq!(decoder.batch().unwrap(), batch);
        }
    }

    #[test]
    fn damage_is_seen() {
        for (bytes, says) in [
            (&b"1\n"[..], "too few"),
            (b"1,2,3\n", "too many"),
            (b"\"1\"x,2\n", "behind a closing quote"),
            (b"\xff,2\n", "UTF-8"),
            (b"1,\"2\n", "inside a record"),
        ] {
            let mut decoder = CsvDecoder::new(table(), FolderSettings::default().csv_dialect());
            let error = decoder.feed(bytes, |_, _| false).and_then(|_| decoder.end()).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_batch_ends_where_enough_is_said() {
        let mut decoder = CsvDecoder::new(table(), FolderSettings::default().csv_dialect());
        let taken = decoder.feed(b"1,2\n3,4\n5,6\n", |rows, _| rows == 2).unwrap();
        assert_eq!(taken, 8);
        let batch = decoder.batch().unwrap();
        assert_eq!(batch.column(1).as_string::<i32>().value(1), "4");
    }
}
