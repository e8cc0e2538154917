//! Mappings resolved and applied.

use std::sync::Arc;

use arrow::array::Float64Array;
use arrow::array::{ArrayRef, AsArray, Int64Array, LargeStringArray, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;

use super::*;
use crate::schema::{Column, LogicalType};
use crate::value::Value;

/// The documents of the DMS user guide's pages on table mapping, as they stand there.
const SELECTION: &str = r#"{"rules":[
 {"rule-type":"selection","rule-id":"1","rule-name":"all-shop","rule-action":"include",
  "object-locator":{"schema-name":"shop","table-name":"%"}},
 {"rule-type":"selection","rule-id":"2","rule-name":"no-temp","rule-action":"exclude",
  "object-locator":{"schema-name":"shop","table-name":"tmp[_]%"}},
 {"rule-type":"selection","rule-id":"3","rule-name":"recent","rule-action":"include","load-order":"10",
  "object-locator":{"schema-name":"shop","table-name":"orders"},
  "filters":[{"filter-type":"source","column-name":"order_date",
    "filter-conditions":[{"filter-operator":"between","start-value":"2023-01-01","end-value":"2023-06-30"}]}]}
]}"#;

fn rules(rules: &str) -> Result<TableMapping> {
    TableMapping::from_json(&format!(
        r#"{{"rules":[{{"rule-type":"selection","rule-id":"1","rule-name":"1","rule-action":"include",
        "object-locator":{{"schema-name":"%","table-name":"%"}}}}, {rules}]}}"#
    ))
}

fn column_rule(action: &str, column: &str, more: &str) -> TableMapping {
    rules(&format!(
        r#"{{"rule-type":"transformation","rule-id":2,"rule-name":"2","rule-target":"column",
        "rule-action":"{action}",
        "object-locator":{{"schema-name":"s","table-name":"t","column-name":"{column}"}}{more}}}"#
    ))
    .unwrap()
}

fn table() -> TableSchema {
    TableSchema::new(
        TableName::new("s", "t"),
        vec![
            Column::new("id", LogicalType::Int64).required(),
            Column::new("name", LogicalType::text()),
            Column::new("doc", LogicalType::Clob),
        ],
    )
    .with_primary_key(["id"])
}

fn batch() -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1, 2, 300])),
        Arc::new(StringArray::from(vec![Some("1"), None, Some("x")])),
        Arc::new(LargeStringArray::from(vec!["né".repeat(600), String::new(), "z".into()])),
    ];
    RecordBatch::try_new(table().arrow_schema(), columns).unwrap()
}

#[test]
fn a_document_of_dms_reads_as_it_stands() {
    let mapping = TableMapping::from_json(SELECTION).unwrap();
    let selects = |name: &str| {
        mapping.selection().selects(&TableName::new("shop", name), crate::schema::TableKind::Table)
    };
    assert!(selects("orders") && selects("tmpx") && !selects("tmp_x"));
    let orders = TableSchema::new(
        TableName::new("shop", "orders"),
        vec![Column::new("order_date", LogicalType::Date)],
    );
    let plan = mapping.plan(&orders).unwrap();
    assert_eq!(plan.load_order, 10);
    assert_eq!(plan.filter.unwrap().columns[0].1[0].values.len(), 2);
}

#[test]
fn what_no_rule_changes_is_not_moved() {
    let plan = TableMapping::new().include("s", "%").plan(&table()).unwrap();
    let batch = batch();
    let moved = plan.transform(batch.clone()).unwrap();
    assert!(Arc::ptr_eq(moved.column(1), batch.column(1)));
    let renamed = column_rule("rename", "name", r#","value":"label""#).plan(&table()).unwrap();
    let moved = renamed.transform(batch.clone()).unwrap();
    assert_eq!(moved.schema().field(1).name(), "label");
    assert!(Arc::ptr_eq(moved.column(1), batch.column(1)));
}

#[test]
fn columns_are_removed_included_added_and_changed() {
    let removed = column_rule("remove-column", "name", "").plan(&table()).unwrap();
    assert_eq!(removed.read, [0, 2], "a removed column is not even read");
    assert_eq!(removed.transform(batch().project(&[0, 2]).unwrap()).unwrap().num_columns(), 2);
    let included = column_rule("include-column", "id", "").plan(&table()).unwrap();
    assert_eq!(included.target.columns.len(), 1);
    let added = column_rule(
        "add-column",
        "%",
        r#","value":"sum","expression":"$id + 1","data-type":{"type":"int8"}"#,
    );
    let added = added.plan(&table()).unwrap().transform(batch()).unwrap();
    assert_eq!(added.column(3).as_primitive::<Int64Type>().values(), &[2, 3, 301]);
    let changed = column_rule("change-data-type", "id", r#","data-type":{"type":"int1"}"#);
    let error = changed.plan(&table()).unwrap().transform(batch()).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Data);
    assert_eq!(error.context_value("column"), Some("id"));
    assert_eq!(error.context_value("row of the batch"), Some("2"), "300 is no int8");
    let to_text =
        column_rule("change-data-type", "id", r#","data-type":{"type":"string","length":"3"}"#);
    let texts = to_text.plan(&table()).unwrap().transform(batch()).unwrap();
    assert_eq!(texts.column(0).as_string::<i32>().value(2), "300");
}

#[test]
fn large_objects_are_cut_only_when_asked_for() {
    let whole = TableMapping::new().include("s", "%").plan(&table()).unwrap();
    assert_eq!(whole.transform(batch()).unwrap().column(2).as_string::<i64>().value(0).len(), 1800);
    let limited = TableMapping::new().include("s", "%").with_lob_mode(LobMode::Limited(1001));
    let cut = limited.plan(&table()).unwrap().transform(batch()).unwrap();
    // Byte 1001 lies inside an é, which goes whole.
    assert_eq!(cut.column(2).as_string::<i64>().value(0).len(), 1000);
    let none = TableMapping::new().include("s", "%").with_lob_mode(LobMode::None);
    assert_eq!(none.plan(&table()).unwrap().target.columns.len(), 2);
}

#[test]
fn keys_follow_their_columns() {
    let error = column_rule("remove-column", "id", "").plan(&table()).unwrap_err();
    assert!(error.to_string().contains("define-primary-key"), "{error}");
    let renamed = column_rule("convert-uppercase", "%", "").plan(&table()).unwrap();
    assert_eq!(renamed.target.primary_key, ["ID"]);
    let same = column_rule("rename", "name", r#","value":"id""#).plan(&table()).unwrap_err();
    assert!(same.to_string().contains("same name"), "{same}");
}

#[test]
fn two_tables_cannot_become_one() {
    let mapping = TableMapping::new().include("%", "%").rename_table("%", "%", "same");
    let mut other = table();
    other.name.name = "u".into();
    let error = mapping.plan_all(&[table(), other]).unwrap_err();
    assert!(error.to_string().contains("s.t") && error.to_string().contains("s.u"), "{error}");
    let missing = TableMapping::new().include("s", "T").plan_all(&[table()]).unwrap_err();
    assert_eq!(missing.kind(), crate::ErrorKind::NotFound);
}

#[test]
fn a_wrong_document_says_where_and_what() {
    for (json, says) in [
        (r#"{"rule-type":"selecton","rule-id":"2"}"#, "did you mean \"selection\""),
        (
            r#"{"rule-type":"selection","rule-id":"2","rule-actions":"include","object-locator":{"schema-name":"a"}}"#,
            "did you mean \"rule-action\"",
        ),
        (r#"{"rule-type":"object-mapping","rule-id":"7"}"#, "rule 7"),
        (
            r#"{"rule-type":"selection","rule-id":"1","rule-action":"include","object-locator":{"schema-name":"a"}}"#,
            "twice",
        ),
        (r#"{"rule-type":"selection"}"#, "numeric rule-id"),
    ] {
        let error = rules(json).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

fn changed(array: ArrayRef, from: LogicalType, to: LogicalType) -> Result<ArrayRef> {
    super::cast::cast(&array, &from, &to)
}

/// Each of these was once rounded, cut or let through without a word.
#[test]
fn a_change_of_type_is_exact_or_an_error() {
    use LogicalType::{Float32, Float64, Int64, Numeric, Timestamp};
    let refused = |array: ArrayRef, from: LogicalType, to: LogicalType| {
        let says = format!("{from} to {to}");
        let error = changed(array, from, to).expect_err(&says);
        assert_eq!(error.kind(), crate::ErrorKind::Data, "{says}");
        assert_eq!(error.context_value("row of the batch"), Some("1"), "{says}");
    };
    let texts = |rows: [&str; 2]| -> ArrayRef { Arc::new(StringArray::from(rows.to_vec())) };
    let floats = |rows: [f64; 2]| -> ArrayRef { Arc::new(Float64Array::from(rows.to_vec())) };
    let micros = |rows: [i64; 2]| -> ArrayRef {
        Arc::new(arrow::array::TimestampMicrosecondArray::from(rows.to_vec()))
    };
    refused(Arc::new(Int64Array::from(vec![1, (1 << 53) + 1])), Int64, Float64);
    refused(texts(["0.1", "0.12345678901234567890"]), LogicalType::text(), Float64);
    refused(texts(["1", "abc"]), LogicalType::text(), Numeric);
    refused(floats([0.5, 0.1]), Float64, Float32);
    refused(floats([5.0, 5.5]), Float64, Int64);
    refused(floats([5.0, 1e19]), Float64, Int64);
    refused(micros([1_000, 1_001]), Timestamp { precision: 6 }, Timestamp { precision: 3 });
    for to in ["text(2)", "enum('ab','c')", "bit(2)", "uuid", "timestamp(3)"] {
        let good = match to {
            "bit(2)" => "01",
            "uuid" => "00000000-0000-0000-0000-000000000000",
            "timestamp(3)" => "2020-01-01 00:00:00.123",
            _ => "ab",
        };
        let bad = if to == "timestamp(3)" { "2020-01-01 00:00:00.1234" } else { "abc" };
        refused(texts([good, bad]), LogicalType::text(), to.parse().unwrap());
    }
    let narrow: ArrayRef = Arc::new(arrow::array::Float32Array::from(vec![0.1]));
    let wide = changed(narrow, Float32, Float64).unwrap();
    let wide = wide.as_primitive::<arrow::datatypes::Float64Type>().value(0);
    assert_eq!(wide.to_bits(), f64::from(0.1f32).to_bits(), "the same number, not the same text");
    let whole = changed(floats([1e17, -0.0]), Float64, Int64).unwrap();
    assert_eq!(whole.as_primitive::<Int64Type>().values(), &[100_000_000_000_000_000, 0]);
    let numbers = changed(texts(["1.50", "1e3"]), LogicalType::text(), Float64).unwrap();
    let numbers = numbers.as_primitive::<arrow::datatypes::Float64Type>();
    assert_eq!(numbers.values(), &[1.5, 1000.0]);
}

/// Numbers of any size are text to Arrow: "10" came before "9".
#[test]
fn values_are_compared_as_their_type_has_it() {
    let passing = |array: ArrayRef, ty: LogicalType, operator, values: &[&str]| {
        let table = TableSchema::new(TableName::new("s", "t"), vec![Column::new("n", ty)]);
        let batch = RecordBatch::try_new(table.arrow_schema(), vec![array]).unwrap();
        let values = values.iter().map(|value| Value::Text((*value).to_owned())).collect();
        let filter =
            Filter { columns: vec![("n".into(), vec![FilterCondition { operator, values }])] };
        filter.apply(&table, &batch).map(|batch| batch.num_rows())
    };
    let numbers = || -> ArrayRef {
        Arc::new(StringArray::from(vec![Some("9"), Some("10"), Some("-3"), None, Some("9.50")]))
    };
    for (operator, values, count) in [
        (FilterOperator::Gte, &["9.5"][..], 2),
        (FilterOperator::Eq, &["9.5"], 1),
        (FilterOperator::Between, &["0", "10"], 3),
        (FilterOperator::NotBetween, &["0", "9"], 3),
    ] {
        assert_eq!(passing(numbers(), LogicalType::Numeric, operator, values).unwrap(), count);
    }
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![-0.0, 0.0, 1.0, f64::NAN, -f64::NAN]));
    let found = passing(floats.clone(), LogicalType::Float64, FilterOperator::Eq, &["0"]);
    assert_eq!(found.unwrap(), 2);
    let found = passing(floats, LogicalType::Float64, FilterOperator::Gte, &["1"]);
    assert_eq!(found.unwrap(), 3);
    let json: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    let error = passing(json, LogicalType::Json, FilterOperator::Eq, &["1"]).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Settings);
    assert!(
        error.to_string().contains("json") && error.to_string().contains("column n"),
        "{error}"
    );
}

/// A computed text longer than its column once passed.
#[test]
fn a_computed_value_keeps_the_limit_of_its_type() {
    let plan = |expression: &str, ty: &str| {
        let json = format!(
            r#"{{"rule-type":"transformation","rule-id":2,"rule-name":"2","rule-target":"column",
            "rule-action":"add-column","value":"x","expression":"{expression}","data-type":{ty},
            "object-locator":{{"schema-name":"s","table-name":"t","column-name":"%"}}}}"#
        );
        rules(&json).unwrap().plan(&table()).unwrap()
    };
    let long = plan("'abcdef'", r#"{"type":"string","length":3}"#).transform(batch()).unwrap_err();
    assert_eq!(long.kind(), crate::ErrorKind::Data, "{long}");
    let rounded = plan("round(299.6)", r#"{"type":"int8"}"#).transform(batch()).unwrap();
    assert_eq!(rounded.column(3).as_primitive::<Int64Type>().value(0), 300);
}

/// A rule of DMS names 64-bit integers `int8`; ours are named by their bits.
#[test]
fn a_data_type_selects_columns_by_its_name_in_dms() {
    let mapping = rules(
        r#"{"rule-type":"transformation","rule-id":2,"rule-name":"2","rule-target":"column",
        "rule-action":"change-data-type","data-type":{"type":"string","length":20,"scale":""},
        "object-locator":{"schema-name":"s","table-name":"t","column-name":"%","data-type":"int8"}}"#,
    )
    .unwrap();
    let plan = mapping.plan(&table()).unwrap();
    let types: Vec<String> =
        plan.target.columns.iter().map(|column| column.logical_type.to_string()).collect();
    assert_eq!(types, ["text(20)", "text", "clob"]);
    let wrong = rules(
        r#"{"rule-type":"transformation","rule-id":2,"rule-name":"2","rule-target":"column",
        "rule-action":"remove-column",
        "object-locator":{"schema-name":"s","table-name":"t","column-name":"%","data-type":"int9"}}"#,
    )
    .unwrap_err();
    assert!(wrong.to_string().contains("int9"), "{wrong}");
}

/// A rule with a load order and no filter once hid the filter of another, and every row moved.
#[test]
fn a_load_order_does_not_hide_a_filter() {
    let mapping = TableMapping::from_json(
        r#"{"rules":[
        {"rule-type":"selection","rule-id":"9","rule-name":"late","rule-action":"include",
         "object-locator":{"schema-name":"s","table-name":"t"},
         "filters":[{"filter-type":"source","column-name":"id",
           "filter-conditions":[{"filter-operator":"gte","value":"9"}]}]},
        {"rule-type":"selection","rule-id":"1","rule-name":"all","rule-action":"include",
         "load-order":"5","object-locator":{"schema-name":"s","table-name":"%"}},
        {"rule-type":"selection","rule-id":"3","rule-name":"first","rule-action":"include",
         "object-locator":{"schema-name":"s","table-name":"t"},
         "filters":[{"filter-type":"source","column-name":"id",
           "filter-conditions":[{"filter-operator":"ste","value":"2"}]}]}
        ]}"#,
    )
    .unwrap();
    let plan = mapping.plan(&table()).unwrap();
    assert_eq!(plan.load_order, 5);
    let filtered = plan.filter.unwrap().apply(&table(), &batch()).unwrap();
    assert_eq!(filtered.num_rows(), 2, "of two filters the one with the lower rule-id counts");
}

/// What does not compare is said when the mapping is resolved, whoever would apply the filter.
#[test]
fn a_filter_that_cannot_hold_is_refused_before_the_load() {
    let table = |ty: &str| {
        TableSchema::new(TableName::new("s", "t"), vec![Column::new("c", ty.parse().unwrap())])
    };
    let filtered = |column: &str, value: &str| {
        TableMapping::from_json(&format!(
            r#"{{"rules":[{{"rule-type":"selection","rule-id":"1","rule-action":"include",
            "object-locator":{{"schema-name":"s","table-name":"%"}},
            "filters":[{{"filter-type":"source","column-name":"{column}",
              "filter-conditions":[{{"filter-operator":"gte","value":"{value}"}}]}}]}}]}}"#
        ))
        .unwrap()
    };
    for (column, value, ty, says) in [
        ("c", "x", "int64", "int64"),
        ("c", "0.12345678901234567890", "float64", "float64"),
        ("c", "x", "enum('a','b')", "enum"),
        ("c", "1", "json", "json"),
        ("c", "1", "other('ltree')", "ltree"),
        ("c", "P1D", "interval", "interval"),
        ("d", "1", "int64", "no column"),
    ] {
        let error = filtered(column, value).plan(&table(ty)).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Settings, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.context_value("column"), Some(column), "{error}");
    }
    filtered("c", "0.1").plan(&table("float64")).unwrap();

    // Labels come in the order in which the type has them.
    let table = table("enum('small','large')");
    let filter = filtered("c", "large").plan(&table).unwrap().filter.unwrap();
    let sizes: ArrayRef = Arc::new(StringArray::from(vec!["small", "large"]));
    let batch = RecordBatch::try_new(table.arrow_schema(), vec![sizes]).unwrap();
    assert_eq!(filter.apply(&table, &batch).unwrap().num_rows(), 1);

    let bounds = vec![vec![Value::Text("2".into())], vec![Value::Text("1".into())]];
    let ranges =
        ParallelLoad::Ranges { columns: vec!["id".into()], boundaries: bounds, names: vec![] };
    let mapping = TableMapping::new().include("s", "t").parallel_load("s", "t", ranges);
    let error = mapping.plan(&super::tests::table()).unwrap_err();
    assert!(error.to_string().contains("ascend"), "{error}");
}

#[test]
fn types_without_values_in_common_are_refused_before_the_load() {
    let changed = column_rule("change-data-type", "id", r#","data-type":{"type":"bytes"}"#);
    let error = changed.plan(&table()).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
    assert_eq!(error.context_value("column"), Some("id"), "{error}");
}
