//! What arrives is what was there: storage classes, bits, declarations.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use dms_connectors::sqlite::{SqliteSettings, SqliteTarget};
use dms_core::ErrorKind;
use dms_core::endpoint::{Fidelity, Partition, Source, TablePrepMode, Target};
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_core::value::Value;

use super::{Database, copy, dump, read, read_table, stream, table};

/// One column a type, and of each type values that are easily lost.
fn awkward() -> Vec<(&'static str, Vec<Value>)> {
    let int = |values: &[i64]| values.iter().map(|v| Value::Int(*v)).collect::<Vec<_>>();
    let text =
        |values: &[&str]| values.iter().map(|v| Value::Text((*v).to_owned())).collect::<Vec<_>>();
    let float = |values: &[f64]| values.iter().map(|v| Value::Float(*v)).collect::<Vec<_>>();
    let bytes =
        |values: &[&[u8]]| values.iter().map(|v| Value::Bytes(v.to_vec())).collect::<Vec<_>>();
    let texts = text(&["", "a\0b", "'\"", "007", "1e5", "né 😀", " 1 ", "NULL", "x'00'"]);
    vec![
        ("boolean", vec![Value::Bool(true), Value::Bool(false)]),
        ("int8", int(&[-128, 0, 127])),
        ("int16", int(&[-32768, 32767])),
        ("int32", int(&[i32::MIN.into(), i32::MAX.into()])),
        ("int64", int(&[i64::MIN, -1, 0, i64::MAX])),
        ("uint8", int(&[0, 255])),
        ("uint16", int(&[0, 65535])),
        ("uint32", int(&[0, u32::MAX.into()])),
        ("uint64", vec![Value::UInt(0), Value::UInt(u64::MAX), Value::UInt(1 << 63)]),
        (
            "float32",
            float(&[0.0, -0.0, 1.5, f64::from(f32::MAX), f64::INFINITY, f64::NEG_INFINITY]),
        ),
        ("float64", float(&[0.0, -0.0, 0.1, 5e-324, f64::MAX, f64::INFINITY, 9007199254740993.0])),
        ("decimal(15,2)", text(&["0.00", "-0.01", "9999999999999.99", "5.00"])),
        ("decimal(38,10)", text(&["0.0000000001", "-9999999999999999999999999999.9999999999"])),
        ("decimal(76,2)", text(&["-1.10", "12345678901234567890123456789012345678901234.56"])),
        ("decimal(5,-2)", text(&["1200", "-9900"])),
        ("numeric", text(&["1.10", "-0", "123456789012345678901234567890.5", "NaN", "Infinity"])),
        ("char(3)", text(&["abc", "a  ", "ééé"])),
        ("text", texts.clone()),
        ("text(9)", texts.clone()),
        ("clob", texts.clone()),
        ("binary(4)", bytes(&[&[0, 0, 0, 0], &[255, 0, 1, 2]])),
        ("bytes", bytes(&[b"", b"\0", b"123"])),
        ("bytes(3)", bytes(&[b"", b"123"])),
        ("blob", bytes(&[b"", b"\xff\0"])),
        ("date", text(&["1970-01-01", "0001-01-01", "-0044-03-15", "+10000-01-01", "infinity"])),
        ("time(0)", text(&["00:00:00", "24:00:00"])),
        ("time(9)", text(&["23:59:59.999999999"])),
        ("timetz(6)", text(&["23:59:59.5+05:30", "00:00:00-12:00"])),
        ("timespan(6)", text(&["-838:59:59", "00:00:00.000001"])),
        ("timestamp(0)", text(&["2024-02-29 23:59:59", "-infinity"])),
        ("timestamp(6)", text(&["0001-01-01 00:00:00.000001", "infinity"])),
        ("timestamp(9)", text(&["1969-12-31 23:59:59.999999999"])),
        ("timestamptz(3)", text(&["2024-02-29 23:59:59.123"])),
        ("interval", text(&["P1M-2DT0.5S", "PT0S"])),
        (
            "uuid",
            text(&["00000000-0000-0000-0000-000000000000", "ffffffff-1111-2222-3333-123456789abc"]),
        ),
        ("json", text(&["5", "1.0", "{\"a\": [1, null]}", "\"x\""])),
        ("enum('new','a int')", text(&["new", "a int"])),
        ("set('a','b')", text(&["", "a,b"])),
        ("bit(3)", text(&["010", "111"])),
        ("varbit", text(&["", "0101"])),
        ("geometry", bytes(&[&[1, 2, 3]])),
        ("other('tsvector')", text(&["'a':1 'b':2"])),
        ("other('point')", text(&["(1,2)", "1"])),
        (
            "other('sqlite any')",
            text(&["1", "1.0", "9e999", "'te''xt'", "X'AB'", "CAST(X'FF00' AS TEXT)"]),
        ),
    ]
}

fn column_of(ty: &LogicalType, values: &[Value]) -> ArrayRef {
    let arrays: Vec<ArrayRef> = values
        .iter()
        .chain(&[Value::Null])
        .map(|value| value.to_array(ty).unwrap_or_else(|error| panic!("{ty}: {error}")))
        .collect();
    let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
    arrow::compute::concat(&arrays).unwrap()
}

#[tokio::test]
async fn every_logical_type_comes_back_with_its_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("types.db");
    let target = SqliteTarget::open(path.as_path()).await.unwrap();
    let run = target.begin("types").await.unwrap().run;
    for (number, (ty, values)) in awkward().into_iter().enumerate() {
        let ty: LogicalType = ty.parse().unwrap();
        let name = TableName::new("main", format!("t{number}"));
        let written = TableSchema::new(name, vec![Column::new("c", ty.clone())]);
        for mapping in target.map_types(&written) {
            assert_eq!(mapping.fidelity, Fidelity::Exact, "{ty}");
        }
        let array = column_of(&ty, &values);
        let batch = RecordBatch::try_new(written.arrow_schema(), vec![Arc::clone(&array)]).unwrap();
        let whole = [Partition::whole()];
        let mode = TablePrepMode::DropAndCreate;
        target.prepare(&run, &written, mode, &whole, None).await.unwrap();
        let batches = stream(&written, vec![batch], None);
        let receipt = target.load(&run, &written, &whole[0], None, batches).await.unwrap();
        assert_eq!(receipt.rows, u64::try_from(array.len()).unwrap());
        target.finish(&run, &written).await.unwrap();

        let source = dms_connectors::sqlite::SqliteSource::open(path.as_path()).await.unwrap();
        let found = table(&source, &written.name.name).await;
        assert_eq!(found.columns[0].logical_type, ty, "{:?}", found.columns[0].native_type);
        let snapshot = source.snapshot(std::slice::from_ref(&found), 1).await.unwrap();
        let batches = read(&*snapshot, &found, Partition::whole()).await.unwrap();
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].column(0), &array, "{ty}");
    }
}

#[tokio::test]
async fn what_sqlite_cannot_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let target = SqliteTarget::open(folder.path().join("t.db").as_path()).await.unwrap();
    let run = target.begin("t").await.unwrap().run;
    for (ty, value) in [
        ("float64", Value::Float(f64::NAN)),
        ("float32", Value::Float(f64::NAN)),
        // The literals of a column of any storage class have one form.
        ("other('sqlite any')", Value::Text("no literal".to_owned())),
        ("timestamp(0)", Value::Text("2024-01-01 00:00:00.5".to_owned())),
    ] {
        let ty: LogicalType = ty.parse().unwrap();
        let table =
            TableSchema::new(TableName::new("main", "t"), vec![Column::new("c", ty.clone())]);
        let batch =
            RecordBatch::try_new(table.arrow_schema(), vec![column_of(&ty, &[value])]).unwrap();
        let whole = [Partition::whole()];
        target.prepare(&run, &table, TablePrepMode::DropAndCreate, &whole, None).await.unwrap();
        let batches = stream(&table, vec![batch], None);
        let error = target.load(&run, &table, &whole[0], None, batches).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{ty}: {error}");
        assert_eq!(error.context_value("table"), Some("main.t"));
        assert_eq!(error.context_value("column"), Some("c"));
    }
    let array = LogicalType::Array(Box::new(LogicalType::Int64));
    let table = TableSchema::new(TableName::new("main", "t"), vec![Column::new("c", array)]);
    assert!(matches!(target.map_types(&table)[0].fidelity, Fidelity::Impossible(_)));
}

const NATIVE: &str = "
    CREATE TABLE classes (k INTEGER PRIMARY KEY, anything, n NUMERIC, i INTEGER, r REAL, t TEXT,
        b BLOB, d DECIMAL(15,2), w DECIMAL(30,4), x DECIMAL(50,3), v VARCHAR(3), money MONEY,
        j JSON, dt DATETIME, ts TIMESTAMP(3), flag BOOL, dbl DOUBLE PRECISION);
    INSERT INTO classes (k, anything) VALUES (-9223372036854775808, 1), (2, 1.0), (3, 'te''xt'),
        (4, x'00ff'), (5, 9e999), (6, CAST(x'ff00' AS TEXT)), (7, 'a' || char(0) || 'b'), (8, ''),
        (9, x''), (10, 9007199254740993), (11, 1e-320), (12, '1');
    INSERT INTO classes (n) VALUES (1), (1.5), (1e300), (-9e999), (9223372036854775807), ('12.50');
    INSERT INTO classes (i, r) VALUES (-1, -0.5), (9223372036854775807, 1e308), (0, 3);
    INSERT INTO classes (t, b, v) VALUES ('a' || char(0), x'', 'longer than three'), ('', x'00', '');
    INSERT INTO classes (d, w, x) VALUES (1, 2, 3), (0.01, 0.1234, 0.125), (-5.5, 123456.5, -7.5),
        (9999999999999.99, 9007199254740993, 9223372036854775807);
    INSERT INTO classes (money) VALUES (1), ('$5'), (x'01'), (2.5), ('7');
    INSERT INTO classes (j) VALUES (5), (1.5), ('{\"a\": 1}'), ('[1e2]');
    INSERT INTO classes (dt, ts) VALUES ('2024-02-29 12:00:00', '2024-02-29 12:00:00.120'),
        ('2024-02-29 12:00:00.000100', '0001-01-01 00:00:00.000');
    INSERT INTO classes (flag, dbl) VALUES (0, 1), (1, 0.1);
    CREATE TABLE keyed (a TEXT, b INT, c, PRIMARY KEY (b, a)) WITHOUT ROWID;
    INSERT INTO keyed VALUES ('x', 1, 1), ('y', 1, 'z'), ('x', -5, NULL);
    CREATE TABLE rigid (k INTEGER PRIMARY KEY, i INT, r REAL, t TEXT, b BLOB, a ANY) STRICT;
    INSERT INTO rigid VALUES (1, 2, 3.0, '4', x'05', '6'), (2, 2, 3.5, '04', x'', 6);
    CREATE TABLE computed (a INTEGER, b INT GENERATED ALWAYS AS (a * 2) STORED,
        c TEXT AS ('v' || a));
    INSERT INTO computed VALUES (1), (2);
    CREATE TABLE uniques (a INTEGER, b TEXT UNIQUE, c INT NOT NULL);
    CREATE UNIQUE INDEX by_c ON uniques (c, a);
    CREATE UNIQUE INDEX in_part ON uniques (a) WHERE a > 5;
    INSERT INTO uniques VALUES (1, 'x', 1), (1, NULL, 2), (NULL, NULL, 3);
    CREATE TABLE bare (a INTEGER);
";

#[tokio::test]
async fn a_copy_has_the_same_storage_classes_and_bits() {
    for encoding in ["UTF-8", "UTF-16le"] {
        let database = Database::new(&format!("PRAGMA encoding = '{encoding}'; {NATIVE}"));
        let negative_zero = database.connect();
        negative_zero.execute("INSERT INTO classes (r, anything) VALUES (?1, ?1)", [-0.0]).unwrap();
        let target = database.beside("target.db");
        let tables = copy(database.path.as_path().into(), &target).await.unwrap();
        assert_eq!(tables.len(), 6);
        for table in &tables {
            let name = &table.name.name;
            assert_eq!(dump(&target, name), dump(&database.path, name), "{name} in {encoding}");
        }
    }
}

#[tokio::test]
async fn a_copy_has_the_same_shape() {
    let database = Database::new(NATIVE);
    let path = database.beside("target.db");
    let tables = copy(database.path.as_path().into(), &path).await.unwrap();
    let target = dms_connectors::sqlite::SqliteSource::open(path.as_path()).await.unwrap();
    for mut expected in tables {
        let mut found = table(&target, &expected.name.name).await;
        for table in [&mut expected, &mut found] {
            (table.row_estimate, table.byte_estimate) = (None, None);
            table.unique_indexes.sort_by(|a, b| a.columns.cmp(&b.columns));
            // An automatic index gets a name that a user may give.
            table.unique_indexes.iter_mut().for_each(|index| index.name.clear());
            // What was computed is stored.
            table.columns.iter_mut().for_each(|column| column.generated = false);
        }
        assert_eq!(found, expected);
    }
    let uniques = table(&target, "uniques").await.unique_indexes;
    let uniques: Vec<_> = uniques.into_iter().map(|index| index.columns).collect();
    assert!(uniques.contains(&vec!["b".to_owned()]), "{uniques:?}");
    assert!(uniques.contains(&vec!["c".to_owned(), "a".to_owned()]), "{uniques:?}");
    assert_eq!(uniques.len(), 2, "an index over some rows promises nothing of all");
}

#[tokio::test]
async fn other_spellings_of_times_are_taken_when_asked_for() {
    let database = Database::new(
        "CREATE TABLE t (c DATETIME); INSERT INTO t VALUES ('2024-02-29T12:00'), \
         ('2024-02-29 12:00:00.5');",
    );
    let mut settings = SqliteSettings::new(&database.path);
    let error = read_table(settings.clone(), "t").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("iso-8601"), "{error}");
    settings.temporal = dms_connectors::sqlite::Temporal::Iso8601;
    let batches = read_table(settings, "t").await.unwrap();
    let ty = LogicalType::Timestamp { precision: 6 };
    let at = |row| Value::from_array(batches[0].column(0).as_ref(), row, &ty).unwrap();
    assert_eq!(at(0), Value::Text("2024-02-29 12:00:00".to_owned()));
    assert_eq!(at(1), Value::Text("2024-02-29 12:00:00.5".to_owned()));
}
