//! Tables that change their shape while they are followed.

use std::sync::Arc;

use dms_core::change::{ChangeEvent, Identity};
use dms_core::schema::TableSchema;
use dms_core::value::Value;

use super::{Capture, Model, logical, tables, with_options};

/// A table, the numbers of its columns, and what older rows hold in some.
type Told = (Arc<TableSchema>, Vec<u32>, Vec<(usize, Value)>);

/// Shapes in the order of the stream.
fn shapes(events: &[ChangeEvent]) -> Vec<Told> {
    let shape = |event: &ChangeEvent| match event {
        ChangeEvent::Schema { table, column_ids, initial, .. } => {
            let known = initial.iter().filter_map(|(place, value)| Some((*place, value.clone()?)));
            Some((Arc::clone(table), column_ids.clone(), known.collect()))
        }
        _ => None,
    };
    events.iter().filter_map(shape).collect()
}

fn names(table: &TableSchema) -> Vec<&str> {
    table.columns.iter().map(|column| column.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_go_and_change() {
    let capture = Capture::of("CREATE TABLE t (id int PRIMARY KEY, a text, b int)").await;
    let mut feed = capture.feed().await;
    let mut steps = Vec::new();
    for sql in [
        "INSERT INTO t VALUES (1, 'x', 1)",
        "ALTER TABLE t ADD c numeric(6,2) NOT NULL DEFAULT 1.5, ADD d text DEFAULT 'it''s, {new}'; INSERT INTO t VALUES (2, 'y', 2, 2, 'd')",
        "ALTER TABLE t DROP a; INSERT INTO t VALUES (3, 3, 3, 'd')",
        "ALTER TABLE t RENAME b TO bee; INSERT INTO t VALUES (4, 4, 4, 'd')",
        "ALTER TABLE t ALTER bee TYPE bigint; UPDATE t SET bee = 5000000000 WHERE id = 4",
        "ALTER TABLE t ADD a text; INSERT INTO t VALUES (5, 5, 5, 'd', 'again')",
    ] {
        capture.run(sql).await;
        steps.push(capture.events(&mut feed).await);
    }
    let all: Vec<_> = steps.iter().map(|events| shapes(events)).collect();
    let only = |step: usize| {
        assert_eq!(all[step].len(), 1, "step {step}");
        let (table, ids, initial) = &all[step][0];
        (names(table), ids.clone(), initial.clone())
    };
    assert_eq!(only(0), (vec!["id", "a", "b"], vec![1, 2, 3], vec![]));
    let added = vec![(3, Value::Decimal("1.50".into())), (4, Value::Text("it's, {new}".into()))];
    assert_eq!(only(1), (vec!["id", "a", "b", "c", "d"], vec![1, 2, 3, 4, 5], added));
    assert_eq!(only(2).0, ["id", "b", "c", "d"]);
    assert_eq!(only(2).1, [1, 3, 4, 5]);
    assert_eq!(only(3).0, ["id", "bee", "c", "d"]);
    assert_eq!(only(3).1, [1, 3, 4, 5], "a renamed column keeps its number");
    assert_eq!(all[4][0].0.columns[1].logical_type.to_string(), "int64");
    assert_eq!(only(5).1, [1, 3, 4, 5, 6], "a column of an old name has a new number");
    // The shape is that which a load finds.
    let mut found = tables(&*capture.source).await.remove(0);
    (found.row_estimate, found.byte_estimate, found.last_column) = (None, None, None);
    // The numbers of columns are told beside the shape.
    found.columns.iter_mut().for_each(|column| column.id = None);
    assert_eq!(*all[5][0].0, found);
}

/// A feed that is behind: the catalogs know later shapes only.
#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_behind_reads_rows_as_they_were() {
    let capture = Capture::of(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b int, gone timestamptz);
         CREATE TABLE other (id int, k text, PRIMARY KEY (id))",
    )
    .await;
    capture
        .run(
            "INSERT INTO t VALUES (1, 'x', 1, 'epoch'); INSERT INTO other VALUES (1, 'x');
             BEGIN; INSERT INTO t VALUES (2, 'y', 2, 'infinity'); ALTER TABLE t RENAME b TO bee;
             ALTER TABLE t DROP gone; INSERT INTO t VALUES (3, 'z', 3); COMMIT;
             ALTER TABLE other DROP CONSTRAINT other_pkey, ALTER k SET NOT NULL, ADD PRIMARY KEY (k);
             INSERT INTO other VALUES (2, 'y'); DELETE FROM other WHERE k = 'x';",
        )
        .await;
    let mut feed = capture.feed().await;
    let events = capture.events(&mut feed).await;
    let shapes = shapes(&events);
    let of = |name: &str| -> Vec<_> {
        shapes.iter().filter(|(table, ..)| table.name.name == name).collect()
    };
    let (first, last) = (of("t")[0], of("t")[1]);
    assert_eq!(names(&first.0), ["id", "a", "b", "gone"]);
    assert_eq!(first.1, [0u32; 0], "of a column that is gone nobody knows the number");
    assert_eq!((names(&last.0), last.1.clone()), (vec!["id", "a", "bee"], vec![1, 2, 3]));
    let keys: Vec<_> = of("other").iter().map(|(table, ..)| table.primary_key.clone()).collect();
    assert_eq!(keys, [["id"], ["k"]]);
    let rows: usize = events
        .iter()
        .map(|event| match event {
            ChangeEvent::Rows(rows) => rows.records(),
            _ => 0,
        })
        .sum();
    assert_eq!(rows, 6);
    let identities: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            ChangeEvent::Schema { table, identity, .. } if table.name.name == "other" => {
                Some(identity.clone())
            }
            _ => None,
        })
        .collect();
    assert_eq!(identities, [Identity::Key(vec![0]), Identity::Key(vec![1])]);
}

/// A connection hears of a table's shape again after each change of its catalogs: no news, no event.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_shape_is_told_once() {
    let capture = Capture::of("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    let (mut feed, mut model) = (capture.feed().await, Model::default());
    let mut told = 0;
    for round in 0..5 {
        capture
            .run(&format!(
                "INSERT INTO t VALUES ({round}, 'x'); ANALYZE t; COMMENT ON TABLE t IS '{round}';
                 ALTER TABLE t SET (fillfactor = {})",
                90 + round
            ))
            .await;
        let events = capture.events(&mut feed).await;
        told += shapes(&events).len();
        events.iter().for_each(|event| model.apply(event));
    }
    assert_eq!(told, 1);
    capture.assert_same(&model).await;
}

/// Without event triggers.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_renamed_or_dropped_is_found_by_looking() {
    let url = logical().database().await;
    let settings = with_options(&url, serde_json::json!({"capture-ddls": false}));
    let sql = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)";
    let capture = Capture::with(settings, url, sql).await;
    let mut feed = capture.feed().await;
    capture
        .run(
            "INSERT INTO t VALUES (1); INSERT INTO u VALUES (1); ALTER TABLE t RENAME TO t2;
             INSERT INTO t2 VALUES (2); DROP TABLE u; CREATE TABLE u (id int PRIMARY KEY)",
        )
        .await;
    let dropped = |events: &[ChangeEvent]| -> Vec<String> {
        let dropped = events.iter().filter_map(|event| match event {
            ChangeEvent::Dropped { table, .. } => Some(table.name.clone()),
            _ => None,
        });
        dropped.collect()
    };
    assert_eq!(dropped(&capture.events(&mut feed).await), ["t"]);
    // The log does not tell that a table was dropped; the feed looks from time to time.
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    capture.run("CREATE TABLE later (id int)").await;
    let told = dropped(&capture.events(&mut feed).await);
    assert!(told.contains(&"u".to_owned()), "{told:?}");
}
