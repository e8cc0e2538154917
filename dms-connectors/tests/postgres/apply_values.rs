//! Values that changes bring arrive as those of a load.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, new_null_array};
use dms_connectors::postgres::PostgresTarget;
use dms_core::conformance::awkward_tables;
use dms_core::endpoint::{Fidelity, Step, Target};
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};

use crate::apply::{Desk, delete, delete_whole, insert, read, update, upsert};
use crate::{server, settings, text_of};

/// A role of its own that may do what it likes with a database, and no more.
pub(crate) async fn as_guest(url: &str) -> String {
    let (_, database) = url.rsplit_once('/').unwrap();
    let guest = format!("guest_of_{database}");
    let client = server::connect(url).await;
    let sql = format!(
        "CREATE ROLE {guest} LOGIN; GRANT CREATE ON DATABASE {database} TO {guest}; \
         GRANT CREATE ON SCHEMA public TO {guest}"
    );
    client.batch_execute(&sql).await.unwrap();
    url.replace("dms@", &format!("{guest}@"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_by_every_step_as_by_a_load() {
    let server = server::shared();
    let from = server.database().await;
    let client = server::connect(&from).await;
    client.batch_execute(include_str!("everything.sql")).await.unwrap();
    let (table, rows) = read(&from, "everything").await;
    assert!(rows.num_rows() >= 3 && table.columns.len() > 50);
    for is_guest in [false, true] {
        let url = server.database().await;
        let to = if is_guest { as_guest(&url).await } else { url.clone() };
        let desk = Desk::open(&to).await;
        desk.load(&table, vec![rows.clone()]).await;
        let loaded = text_of(&url, "everything").await;
        assert_eq!(loaded, text_of(&from, "everything").await);
        desk.apply(&[delete(&table, &rows, true)]).await.unwrap();
        assert!(text_of(&url, "everything").await.is_empty());
        desk.apply(&[insert(&table, &rows)]).await.unwrap();
        assert_eq!(text_of(&url, "everything").await, loaded, "inserted");
        // Found by the whole row, of which no part differs in text.
        desk.apply(&[delete_whole(&table, &rows, true)]).await.unwrap();
        assert!(text_of(&url, "everything").await.is_empty());
        desk.apply(&[upsert(&table, &rows)]).await.unwrap();
        assert_eq!(text_of(&url, "everything").await, loaded, "upserted");
        desk.apply(&[upsert(&table, &rows)]).await.unwrap();
        assert_eq!(text_of(&url, "everything").await, loaded, "upserted again");
        // Rows of NULLs become what they were.
        let client = server::connect(&to).await;
        client
            .batch_execute(
                "CREATE TABLE ids AS SELECT id, ident FROM everything; TRUNCATE everything; \
                 INSERT INTO everything (id, ident) SELECT id, -ident FROM ids",
            )
            .await
            .unwrap();
        desk.apply(&[update(&table, &rows)]).await.unwrap();
        assert_eq!(text_of(&url, "everything").await, loaded, "updated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_values_of_other_engines_arrive_as_by_a_load() {
    let server = server::shared();
    let (one, other) = (server.database().await, server.database().await);
    let (loaded, applied) = (Desk::open(&one).await, Desk::open(&other).await);
    let mut compared = 0;
    for awkward in awkward_tables("main") {
        let (table, rows) = (Arc::new(awkward.table), awkward.batch);
        let exact = loaded.target.map_types(&table);
        if exact.iter().any(|column| column.fidelity != Fidelity::Exact) {
            continue;
        }
        for row in 0..rows.num_rows() {
            let row = rows.slice(row, 1);
            // Values that a load refuses are refused as changes.
            applied.load(&table, Vec::new()).await;
            let name = format!("main.\"{}\"", table.name.name);
            match applied.apply(&[insert(&table, &row)]).await {
                Ok(()) => {
                    loaded.load(&table, vec![row.clone()]).await;
                    assert_eq!(text_of(&other, &name).await, text_of(&one, &name).await, "{name}");
                    applied.apply(&[delete_whole(&table, &row, true)]).await.unwrap();
                    applied.apply(&[upsert(&table, &row)]).await.unwrap();
                    assert_eq!(text_of(&other, &name).await, text_of(&one, &name).await, "{name}");
                    compared += 1;
                }
                Err(error) => assert!(error.to_string().contains("NUL"), "{error}"),
            }
        }
    }
    assert!(compared > 200, "only {compared} values");
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_rows_that_are_alike_go_as_often_as_they_are_listed() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let client = server::connect(&from).await;
    client
        .batch_execute(
            "CREATE TABLE alike (a int, t text, f float8, n numeric, j json, p point, c bpchar, i interval);
             INSERT INTO alike SELECT 1, 'x', 0, 1.0, '{}', '(1,2)', 'c', '1 mon' FROM generate_series(1, 5);
             INSERT INTO alike SELECT 1, 'x', '-0', 1.0, '{}', '(1,2)', 'c', '1 mon' FROM generate_series(1, 3);
             INSERT INTO alike SELECT 1, 'x', 0, 1.00, '{}', '(1,2)', 'c', '1 mon' FROM generate_series(1, 3);
             INSERT INTO alike SELECT 1, 'x', 0, 1.0, '{ }', '(1,2)', 'c', '1 mon' FROM generate_series(1, 3);
             INSERT INTO alike SELECT 1, 'x', 0, 1.0, '{}', '(1,2)', 'c ', '1 mon' FROM generate_series(1, 3);
             INSERT INTO alike SELECT 1, 'x', 0, 1.0, '{}', '(1,2)', 'c', '30 days' FROM generate_series(1, 3);
             INSERT INTO alike (a) SELECT null FROM generate_series(1, 3);
             INSERT INTO alike (t) SELECT '' FROM generate_series(1, 3);
             INSERT INTO alike (f) SELECT 'NaN' FROM generate_series(1, 3)",
        )
        .await
        .unwrap();
    let (table, rows) = read(&from, "alike").await;
    let desk = Desk::open(&to).await;
    desk.load(&table, vec![rows.clone()]).await;
    // One of each, then two of the first kind, then of each what is left. By now somebody partitioned
    // nothing: places of rows are of one table.
    let of_each: Vec<usize> = vec![0, 5, 8, 11, 14, 17, 20, 23, 26];
    let take = |places: &[usize]| {
        let places: Vec<RecordBatch> = places.iter().map(|at| rows.slice(*at, 1)).collect();
        arrow::compute::concat_batches(&table.arrow_schema(), &places).unwrap()
    };
    let delete_at = |places: &[usize]| delete_whole(&table, &take(places), true);
    let source_of = |places: &'static str| {
        format!(
            "DELETE FROM alike WHERE ctid IN (SELECT ('(0,' || p || ')')::tid FROM unnest('{{{places}}}'::int[]) p)"
        )
    };
    desk.apply(&[delete_at(&of_each)]).await.unwrap();
    client.batch_execute(&source_of("1,6,9,12,15,18,21,24,27")).await.unwrap();
    assert_eq!(text_of(&to, "alike").await, text_of(&from, "alike").await);
    // As one listed row that has no NULL, and so has candidates by equality.
    desk.apply(&[delete_at(&[0, 0])]).await.unwrap();
    client.batch_execute(&source_of("2,3")).await.unwrap();
    assert_eq!(text_of(&to, "alike").await, text_of(&from, "alike").await);
    let error = desk.apply(&[delete_at(&[0, 0, 0])]).await.unwrap_err();
    assert!(error.to_string().contains("1 of 3 rows"), "{error}");
    let lenient = delete_whole(&table, &take(&[0, 0, 0]), false);
    desk.apply(&[lenient]).await.unwrap();
    client.batch_execute(&source_of("4,5")).await.unwrap();
    assert_eq!(text_of(&to, "alike").await, text_of(&from, "alike").await);
    let twice = of_each.iter().skip(1).flat_map(|at| [*at, *at]).collect::<Vec<_>>();
    desk.apply(&[delete_at(&twice)]).await.unwrap();
    assert!(text_of(&to, "alike").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_and_large_rows_come_in_parts() {
    let url = server::shared().database().await;
    let desk = Desk::open(&url).await;
    let columns =
        vec![Column::new("id", LogicalType::Int64).required(), Column::new("v", LogicalType::Clob)];
    let table = TableSchema::new(TableName::new("public", "large"), columns);
    let table = Arc::new(table.with_primary_key(["id"]));
    desk.load(&table, Vec::new()).await;
    // 60 MB, of which one value is larger than a part, for an INSERT and for a COPY.
    for (first, count) in [(0i64, 40i64), (1000, 600)] {
        let ids = Int64Array::from_iter_values(first..first + count);
        let text = |id: i64| match id - first {
            7 => "y".repeat(20_000_000),
            _ => "x".repeat(40_000_000 / usize::try_from(count).unwrap()),
        };
        let texts: arrow::array::LargeStringArray =
            (first..first + count).map(|id| Some(text(id))).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(texts)];
        let rows = RecordBatch::try_new(table.arrow_schema(), columns).unwrap();
        desk.apply(&[insert(&table, &rows), update(&table, &rows), upsert(&table, &rows)])
            .await
            .unwrap();
        let client = server::connect(&url).await;
        let sql = "SELECT count(*), sum(length(v)), md5(string_agg(v, ',' ORDER BY id)) FROM large \
            WHERE id >= $1";
        let row = client.query_one(sql, &[&first]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), count);
        let expected: usize = (first..first + count).map(|id| text(id).len()).sum();
        assert_eq!(row.get::<_, i64>(1), i64::try_from(expected).unwrap());
        desk.apply(&[delete(&table, &rows, true)]).await.unwrap();
    }
    assert!(text_of(&url, "large").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn wide_tables_and_odd_names() {
    let url = server::shared().database().await;
    let desk = Desk::open(&url).await;
    let name = |at: usize| format!("c\"{at} ü$1");
    let columns = (0..1000).map(|at| Column::new(name(at), LogicalType::Int64));
    let table = TableSchema::new(TableName::new("odd \"schema", "sel;ect '"), columns.collect());
    let mut table = table.with_primary_key([name(0)]);
    table.columns[0].nullable = false;
    let table = Arc::new(table);
    desk.load(&table, Vec::new()).await;
    let rows = |add: i64| {
        let column = |at: i64| -> ArrayRef {
            match at % 7 {
                6 => new_null_array(&arrow::datatypes::DataType::Int64, 3),
                _ if at == 0 => Arc::new(Int64Array::from(vec![1, 2, 3])),
                _ => Arc::new(Int64Array::from(vec![at + add, 2, -at])),
            }
        };
        RecordBatch::try_new(table.arrow_schema(), (0..1000).map(column).collect()).unwrap()
    };
    desk.apply(&[insert(&table, &rows(0)), update(&table, &rows(5))]).await.unwrap();
    let updated = text_of(&url, "\"odd \"\"schema\".\"sel;ect '\"").await;
    assert!(updated[0].starts_with("(1,6,7,8,9,10,,12,"), "{}", &updated[0][..30]);
    desk.apply(&[delete_whole(&table, &rows(5), true), upsert(&table, &rows(0))]).await.unwrap();
    let upserted = text_of(&url, "\"odd \"\"schema\".\"sel;ect '\"").await;
    assert!(upserted[0].starts_with("(1,1,2,3,4,5,,7,"), "{}", &upserted[0][..30]);
}

/// A type of an extension is found by the operator of its own index, wherever that is.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_types_and_domains_of_their_own() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let types = "CREATE DOMAIN code AS varchar(10);
        CREATE TYPE mood AS ENUM ('sad', 'ok');";
    for url in [&from, &to] {
        server::connect(url).await.batch_execute(types).await.unwrap();
    }
    let client = server::connect(&from).await;
    client
        .batch_execute(
            "CREATE TABLE k1 (k code PRIMARY KEY, v int); INSERT INTO k1 VALUES ('a', 1), ('b', 2);
             CREATE TABLE k2 (k mood PRIMARY KEY, v int); INSERT INTO k2 VALUES ('sad', 1), ('ok', 2);
             CREATE TABLE k3 (k int4range PRIMARY KEY, v int); INSERT INTO k3 VALUES ('[1,3)', 1), ('empty', 2);
             CREATE TABLE k4 (k char(5) PRIMARY KEY, v int); INSERT INTO k4 VALUES ('a', 1), ('b', 2);
             CREATE TABLE k5 (k text[] PRIMARY KEY, v int); INSERT INTO k5 VALUES ('{a,NULL}', 1), ('{}', 2);
             CREATE TABLE k6 (k numeric PRIMARY KEY, v int); INSERT INTO k6 VALUES (1.50, 1), ('NaN', 2);
             CREATE TABLE k7 (k float8 PRIMARY KEY, v int); INSERT INTO k7 VALUES ('NaN', 1), ('-0', 2);
             CREATE TABLE k8 (k timetz PRIMARY KEY, v int); INSERT INTO k8 VALUES ('12:00+01', 1), ('11:00+00', 2);
             CREATE TABLE k9 (k text COLLATE \"C\" PRIMARY KEY, v int); INSERT INTO k9 VALUES ('', 1), ('ß', 2);
             CREATE TABLE k10 (k inet PRIMARY KEY, v int); INSERT INTO k10 VALUES ('10.0.0.1/8', 1), ('::1', 2)",
        )
        .await
        .unwrap();
    let desk = Desk::open(&to).await;
    for name in (1..=10).map(|number| format!("k{number}")) {
        let (table, rows) = read(&from, &name).await;
        desk.load(&table, vec![rows.clone()]).await;
        let loaded = text_of(&to, &name).await;
        desk.apply(&[update(&table, &rows), upsert(&table, &rows)]).await.unwrap();
        assert_eq!(text_of(&to, &name).await, loaded);
        desk.apply(&[delete(&table, &rows.slice(1, 1), true)]).await.unwrap();
        assert_eq!(text_of(&to, &name).await.len(), 1);
        desk.apply(&[delete_whole(&table, &rows.slice(0, 1), true)]).await.unwrap();
        assert!(text_of(&to, &name).await.is_empty());
    }
}

/// What the target numbers always is inserted as the source has it, and cannot be another by update.
#[tokio::test(flavor = "multi_thread")]
async fn identity_columns_that_are_always_generated() {
    let url = server::shared().database().await;
    let client = server::connect(&url).await;
    client
        .batch_execute(
            "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text UNIQUE)",
        )
        .await
        .unwrap();
    let (desk, table) = (Desk::open(&url).await, crate::apply::pairs_table());
    let rows = crate::apply::pairs(&[(7, "a"), (9, "b")]);
    desk.apply(&[insert(&table, &rows), upsert(&table, &rows)]).await.unwrap();
    let both = |id: i32| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(arrow::array::Int32Array::from(vec![7])),
            Arc::new(arrow::array::Int32Array::from(vec![id])),
            Arc::new(StringArray::from(vec!["z"])),
        ];
        let rows = RecordBatch::try_from_iter(["old", "id", "v"].into_iter().zip(columns)).unwrap();
        Step::Update {
            table: Arc::clone(&table),
            identity: crate::apply::key(),
            set: vec![0, 1],
            rows,
        }
    };
    desk.apply(&[both(7)]).await.unwrap();
    assert_eq!(text_of(&url, "t").await, ["(7,z)", "(9,b)"]);
    assert!(desk.apply(&[both(8)]).await.unwrap_err().to_string().contains("1 of 1 rows"));
    let target = PostgresTarget::open(settings(&url));
    assert!(target.check().await.is_ok());
}

/// Plans are made when tables are empty and the planner knows nothing of them. A comparison of each
/// row with each would take minutes.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_grow_and_tables_without_an_index() {
    let url = server::shared().database().await;
    let client = server::connect(&url).await;
    let desk = Desk::open(&url).await;
    let columns = vec![
        Column::new("id", LogicalType::Int64).required(),
        Column::new("a", LogicalType::Int64),
        Column::new("n", LogicalType::Numeric),
    ];
    let of = |name: &str| TableSchema::new(TableName::new("public", name), columns.clone());
    let rows = |table: &TableSchema, ids: std::ops::Range<i64>| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(ids.clone())),
            Arc::new(Int64Array::from_iter_values(ids.clone())),
            Arc::new(ids.map(|id| Some(format!("{id}.50"))).collect::<StringArray>()),
        ];
        RecordBatch::try_new(table.arrow_schema(), columns).unwrap()
    };
    let keyed = Arc::new(of("keyed").with_primary_key(["id"]));
    let (bare, whole) = (Arc::new(of("bare")), Arc::new(of("whole")));
    let numbers = TableSchema::new(TableName::new("public", "numbers"), vec![columns[2].clone()]);
    let numbers = Arc::new(numbers);
    for table in [&keyed, &bare, &whole, &numbers] {
        desk.load(table, Vec::new()).await;
        let sql = format!("ALTER TABLE {} SET (autovacuum_enabled = off)", table.name.name);
        client.batch_execute(&sql).await.unwrap();
    }
    let began = std::time::Instant::now();
    for first in [0, 30_000, 60_000] {
        let count = if first == 0 { 1 } else { 30_000 };
        for table in [&keyed, &bare, &whole] {
            let rows = rows(table, first..first + count);
            desk.apply(&[insert(table, &rows), update(table, &rows)]).await.unwrap();
            let again = if Arc::ptr_eq(table, &whole) {
                delete_whole(table, &rows, true)
            } else {
                delete(table, &rows, true)
            };
            desk.apply(&[upsert(table, &rows), again, insert(table, &rows)]).await.unwrap();
        }
        let rows = rows(&keyed, first..first + count).project(&[2]).unwrap();
        desk.apply(&[insert(&numbers, &rows), delete_whole(&numbers, &rows, true)]).await.unwrap();
    }
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(60), "{took:?}");
    for table in ["keyed", "bare", "whole"] {
        assert_eq!(text_of(&url, table).await.len(), 60_001);
    }
}

/// A table that was there before, with wider types and a column of its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_existing_table_keeps_what_is_its_own() {
    let url = server::shared().database().await;
    let client = server::connect(&url).await;
    client
        .batch_execute(
            "CREATE TABLE public.own (note text DEFAULT 'new', n numeric(12,4), id bigint PRIMARY KEY)",
        )
        .await
        .unwrap();
    let columns = vec![
        Column::new("id", LogicalType::Int64).required(),
        Column::new("n", LogicalType::Decimal { precision: 10, scale: 2 }),
    ];
    let table = TableSchema::new(TableName::new("public", "own"), columns);
    let table = Arc::new(table.with_primary_key(["id"]));
    let rows = |n: i128| {
        let numbers = arrow::array::Decimal128Array::from(vec![n, n]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![1, 2])),
            Arc::new(numbers.with_precision_and_scale(10, 2).unwrap()),
        ];
        RecordBatch::try_new(table.arrow_schema(), columns).unwrap()
    };
    let desk = Desk::open(&url).await;
    desk.apply(&[insert(&table, &rows(150).slice(0, 1))]).await.unwrap();
    client.batch_execute("UPDATE public.own SET note = 'kept'").await.unwrap();
    desk.apply(&[upsert(&table, &rows(175))]).await.unwrap();
    assert_eq!(text_of(&url, "public.own").await, ["(kept,1.7500,1)", "(new,1.7500,2)"]);
    desk.apply(&[delete_whole(&table, &rows(175).slice(0, 1), true)]).await.unwrap();
    assert_eq!(text_of(&url, "public.own").await, ["(new,1.7500,2)"]);
}
