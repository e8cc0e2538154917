//! Values that migrations get wrong, for every logical type.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Builder, Int64Array, ListBuilder, RecordBatch, StringArray};

use crate::schema::{Column, LogicalType, TableName, TableSchema};
use crate::value::text::{has_text, parse_column};

/// A table of one type's values: `id` and `v`.
#[derive(Debug, Clone)]
pub struct AwkwardTable {
    /// Its shape, with the primary key `id`.
    pub table: TableSchema,
    /// Its rows; the first `v` is NULL.
    pub batch: RecordBatch,
}

/// A table for each logical type, in the given schema. The same every time.
///
/// # Panics
/// Never: the values are legal ones of their types.
#[must_use]
pub fn awkward_tables(schema: &str) -> Vec<AwkwardTable> {
    let mut tables: Vec<AwkwardTable> = VALUES
        .iter()
        .enumerate()
        .map(|(number, (ty, values))| {
            let ty: LogicalType = ty.parse().unwrap();
            assert!(has_text(&ty));
            let texts: StringArray =
                std::iter::once(None).chain(values.iter().map(|value| Some(*value))).collect();
            table(schema, number, &ty, parse_column(&texts, &ty).unwrap())
        })
        .collect();
    let mut lists = ListBuilder::new(Int32Builder::new());
    lists.append_null();
    lists.append(true);
    lists.append_value([Some(1), None, Some(i32::MIN)]);
    let ty = LogicalType::Array(Box::new(LogicalType::Int32));
    tables.push(table(schema, tables.len(), &ty, Arc::new(lists.finish())));
    tables
}

fn table(schema: &str, number: usize, ty: &LogicalType, values: ArrayRef) -> AwkwardTable {
    let name = ty.to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let table = TableSchema::new(
        TableName::new(schema, format!("awkward_{number}_{name}")),
        vec![Column::new("id", LogicalType::Int64).required(), Column::new("v", ty.clone())],
    )
    .with_primary_key(["id"]);
    let count = i64::try_from(values.len()).unwrap();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
    let batch = RecordBatch::try_new(table.arrow_schema(), vec![ids, values]).unwrap();
    AwkwardTable { table, batch }
}

const TEXTS: &[&str] = &[
    "",
    " ",
    "NULL",
    "null",
    "\\N",
    "a,b",
    "a;b\tc",
    "\"quoted\"",
    "it's",
    "line\nend",
    "carriage\r\nreturn",
    "nul\0inside",
    "é",
    "日本語",
    "\u{1F980}\u{200D}",
    " padded ",
    "0",
    "007",
    "1e5",
    "true",
    "2020-01-01",
    "%_[]",
    "\\",
    "${HOME}",
];
const MOMENTS: &[&str] = &[
    "1970-01-01 00:00:00",
    "1969-12-31 23:59:59.999999",
    "0001-01-01 00:00:00",
    "9999-12-31 23:59:59.999999",
    "2038-01-19 03:14:08",
    "2000-02-29 12:00:00.000001",
    "-0043-03-15 12:00:00",
    "+12345-01-01 00:00:00",
    "infinity",
    "-infinity",
];

/// Types and values, both in their text forms.
const VALUES: &[(&str, &[&str])] = &[
    ("boolean", &["true", "false"]),
    ("int8", &["-128", "127", "0"]),
    ("int16", &["-32768", "32767", "0"]),
    ("int32", &["-2147483648", "2147483647", "0"]),
    ("int64", &["-9223372036854775808", "9223372036854775807", "0", "-1", "9007199254740993"]),
    ("uint8", &["0", "255"]),
    ("uint16", &["0", "65535"]),
    ("uint32", &["0", "4294967295"]),
    ("uint64", &["0", "9223372036854775808", "18446744073709551615"]),
    ("float32", &["0.0", "-0.0", "1e-45", "3.4028235e38", "0.1", "Infinity", "-Infinity"]),
    (
        "float64",
        &["0.0", "-0.0", "5e-324", "1.7976931348623157e308", "0.1", "Infinity", "-Infinity"],
    ),
    ("decimal(15,2)", &["0.00", "-0.01", "9999999999999.99", "-9999999999999.99", "1.10", "5.00"]),
    (
        "decimal(38,10)",
        &["0.0000000001", "-9999999999999999999999999999.9999999999", "1.0000000000"],
    ),
    (
        "decimal(76,20)",
        &[
            "0.00000000000000000001",
            "99999999999999999999999999999999999999999999999999999999.99999999999999999999",
            "-1.00000000000000000000",
        ],
    ),
    ("decimal(5,-2)", &["12300", "-9999900", "0"]),
    (
        "numeric",
        &[
            "0",
            "1.10",
            "1.1",
            "-0.000000000000000000000000000000000000000000001",
            "NaN",
            "Infinity",
            "-Infinity",
            "123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890",
        ],
    ),
    ("char(3)", &["abc", "a  ", "   "]),
    ("text", TEXTS),
    ("text(50)", TEXTS),
    ("clob", TEXTS),
    ("binary(4)", &["00000000", "ffffffff", "01000000"]),
    ("bytes", &["", "00", "ff00ff", "22272c0a0d5c"]),
    ("bytes(10)", &["", "00"]),
    ("blob", &["", "00", "ff00ff", "22272c0a0d5c"]),
    (
        "date",
        &[
            "1970-01-01",
            "1969-12-31",
            "0001-01-01",
            "9999-12-31",
            "2000-02-29",
            "-0043-03-15",
            "+5874897-12-31",
            "infinity",
            "-infinity",
        ],
    ),
    ("time(6)", &["00:00:00", "23:59:59.999999", "24:00:00", "12:00:00.5"]),
    ("time(0)", &["00:00:00", "24:00:00"]),
    ("time(9)", &["23:59:59.999999999"]),
    ("timetz(6)", &["12:00:00.123456+05:30", "00:00:00-15:59:59", "24:00:00+00:00"]),
    ("timespan(6)", &["00:00:00", "-838:59:59.999999", "838:59:59", "-00:00:00.000001"]),
    ("timestamp(6)", MOMENTS),
    ("timestamp(3)", &["1969-12-31 23:59:59.999", "2020-01-01 00:00:00"]),
    ("timestamp(0)", &["1969-12-31 23:59:59"]),
    (
        "timestamp(9)",
        &["1677-09-21 00:12:44", "2262-04-11 23:47:16.854775806", "1969-12-31 23:59:59.999999999"],
    ),
    ("timestamptz(6)", MOMENTS),
    ("timestamptz(9)", &["1969-12-31 23:59:59.999999999"]),
    ("interval", &["PT0S", "P1M", "P30D", "P1M-1DT-0.000001S", "P-178956970M", "PT9223372036S"]),
    (
        "uuid",
        &[
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "12345678-9abc-def0-1234-56789abcdef0",
        ],
    ),
    (
        "json",
        &[
            "null",
            "{}",
            "[1, 2]",
            "{\"b\":1, \"a\":1, \"a\":2}",
            "\"text\"",
            "1.0",
            "123",
            "123456789012345678901234567890",
        ],
    ),
    ("enum('a','b''c','')", &["a", "b'c", ""]),
    ("set('a','b')", &["", "a", "a,b"]),
    ("bit(3)", &["000", "101"]),
    ("varbit", &["", "1", "010101010101010101"]),
    ("geometry", &["0101000020e6100000000000000000f03f0000000000000040"]),
    ("other('tsvector')", &["'a':1 'b':2", ""]),
];
