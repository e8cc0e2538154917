//! Rows that go from server to server as they are.

use dms_core::endpoint::{Partition, ReadRequest, Source, Target};
use dms_core::full_load::FullLoad;
use dms_core::mapping::{Selection, TableMapping};
use dms_core::task::TaskSettings;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::{assert_moves, completed, load, server, source, target, text_of};

const PORTABLE: &str = "
    CREATE TABLE p (id bigint PRIMARY KEY, n numeric, n2 numeric(8,2), f float8, t text, c char(7),
        v varchar(9), by bytea, d date, ts timestamp(3), tz timestamptz, ti time, tt timetz,
        iv interval, u uuid, j json, jb jsonb, bi bit(3), vb varbit, ip inet, a int[], ta text[][],
        na numeric(9,3)[], b boolean);
    INSERT INTO p (id) VALUES (0);
    INSERT INTO p VALUES (1, 'NaN', -1.5, '-Infinity', E'a\\tb', 'x', 'ü', '\\x00ff', 'infinity',
        '-infinity', '0001-01-01 BC', '24:00', '12:00+05:30', '1 mon -2 days 3 s',
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"b\": 1, \"b\":2}', '{\"a\": [1.0, null]}',
        B'101', B'', '10.0.0.1/8', '[2:3]={1,NULL}', '{{a,NULL},{\"x,y\",b}}', '{1.5,NaN}', true);
    INSERT INTO p (id, t, n) SELECT n, repeat('row ', n % 400), n / 7.0
        FROM generate_series(2, 20000) n";

async fn is_whole(source: &dyn Source, target: &dyn Target, table: &str) -> bool {
    let mut catalog = source.discover(&Selection::all()).await.unwrap();
    catalog.tables.retain(|found| found.name.name == table);
    let table = Arc::new(catalog.tables.remove(0));
    let snapshot = source.snapshot(&[(*table).clone()], 1).await.unwrap();
    let request =
        ReadRequest { partition: Partition::whole(), ..ReadRequest::whole(table.clone()) };
    let form = snapshot.row_form(&request);
    form.is_some_and(|form| target.takes_rows(&table, form))
}

#[tokio::test(flavor = "multi_thread")]
async fn built_in_types_are_not_decoded_on_the_way() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let client = server::connect(&from).await;
    client.batch_execute(PORTABLE).await.unwrap();
    assert!(is_whole(&*source(&from).await, &*target(&to), "p").await);
    assert_moves(&from, &to, "p").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_of_one_server_are() {
    let server = server::shared();
    for ty in ["money", "xml", "feeling", "feeling[]", "regclass", "int4range"] {
        let (from, to) = (server.database().await, server.database().await);
        let client = server::connect(&from).await;
        client
            .batch_execute(&format!(
                "CREATE TYPE feeling AS ENUM ('good'); CREATE TABLE p (id int, v {ty});
                 INSERT INTO p VALUES (1, NULL)"
            ))
            .await
            .unwrap();
        server::connect(&to)
            .await
            .batch_execute("CREATE TYPE feeling AS ENUM ('good')")
            .await
            .unwrap();
        assert!(!is_whole(&*source(&from).await, &*target(&to), "p").await, "{ty}");
        assert_moves(&from, &to, "p").await;
    }
}

/// Names may change on the way; a value may not, nor may rows be chosen.
#[tokio::test(flavor = "multi_thread")]
async fn renamed_and_chosen_rows_arrive_too() {
    let server = server::shared();
    let from = server.database().await;
    server::connect(&from).await.batch_execute(PORTABLE).await.unwrap();
    let rule = |more: &str| {
        format!(
            r#"{{"rules": [{{"rule-type": "selection", "rule-id": 1, "rule-name": "1",
                "rule-action": "include",
                "object-locator": {{"schema-name": "public", "table-name": "p"}} {more}}}]}}"#
        )
    };
    let column = r#", {"rule-type": "transformation", "rule-id": 2, "rule-name": "2",
        "rule-target": "column", "object-locator":
        {"schema-name": "%", "table-name": "%", "column-name": "n"}, "rule-action": "#;
    let filter = r#", "filters": [{"filter-type": "source", "column-name": "id",
        "filter-conditions": [{"filter-operator": "ste", "value": "500"}]}]"#;
    let rules = [
        rule("").replace("]}", &format!("{column} \"rename\", \"value\": \"renamed\"}}]}}")),
        rule("").replace("]}", &format!("{column} \"remove-column\"}}]}}")),
        rule(filter),
    ];
    for (rules, sql) in rules.iter().zip([
        "SELECT count(*), sum(hashtext(concat(id, renamed, t, a, jb))) FROM p",
        "SELECT count(*), sum(hashtext(concat(id, t, a, jb))) FROM p",
        "SELECT count(*), sum(hashtext(concat(id, n, t, a, jb))) FROM p WHERE id <= 500",
    ]) {
        let to = server.database().await;
        let mut settings = TaskSettings::default();
        settings.partition_bytes = 64 * 1024;
        let mapping = TableMapping::from_json(rules).unwrap();
        let load = FullLoad::new(source(&from).await, target(&to), mapping).with_settings(settings);
        let report = Box::pin(load.run(CancellationToken::new())).await.unwrap();
        assert!(completed(&report), "{report}");
        let there = server::connect(&to).await;
        let here = server::connect(&from).await;
        let row = there.query_one(sql, &[]).await.unwrap();
        let expected = here.query_one(&sql.replace("renamed", "n"), &[]).await.unwrap();
        let numbers = |row: &tokio_postgres::Row| (row.get::<_, i64>(0), row.get::<_, i64>(1));
        assert_eq!(numbers(&row), numbers(&expected), "{rules}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_would_round_is_refused() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let client = server::connect(&from).await;
    client
        .batch_execute("CREATE TABLE r (n numeric(9,2)); INSERT INTO r VALUES (1.25)")
        .await
        .unwrap();
    let there = server::connect(&to).await;
    there.batch_execute("CREATE TABLE r (n numeric(9,1))").await.unwrap();
    let mut settings = TaskSettings::default();
    settings.table_prep_mode = dms_core::endpoint::TablePrepMode::DoNothing;
    let task = || {
        let mapping = TableMapping::new().include("%", "%");
        let settings = settings.clone();
        async { FullLoad::new(source(&from).await, target(&to), mapping).with_settings(settings) }
    };
    let report = Box::pin(task().await.run(CancellationToken::new())).await.unwrap().to_string();
    assert!(report.contains("round") && report.contains("column n"), "{report}");
    there.batch_execute("ALTER TABLE r ALTER n TYPE numeric").await.unwrap();
    let report = load(source(&from).await, target(&to)).await.unwrap();
    assert!(completed(&report), "{report}");
    assert_eq!(text_of(&to, "r").await, ["(1.25)"]);
}
