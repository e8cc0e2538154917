//! Values are the same, whether they are loaded or changed.

use dms_connectors::postgres::{PostgresSettings, PostgresSource};
use dms_core::change::Identity;
use dms_core::endpoint::{ChangeSource, EndpointSettings};
use dms_core::schema::{LogicalType, TableName};
use dms_core::value::Value;

use super::{Capture, Model, TASK, tables};

/// Every type, in text form, since some have no binary form here; documents that declare an
/// encoding and addresses without a mask are those that a cast would change.
#[tokio::test(flavor = "multi_thread")]
async fn every_type() {
    let sql = format!(
        "{}; CREATE TABLE again (LIKE everything, PRIMARY KEY (id)); DROP TABLE IF EXISTS copy;
         ALTER TABLE everything DROP COLUMN g;",
        include_str!("../everything.sql")
    );
    let capture = Capture::of(&sql).await;
    let (mut feed, mut model) = (capture.feed().await, Model::default());
    let columns: Vec<String> = capture
        .tables
        .iter()
        .find(|t| t.name.name == "everything")
        .unwrap()
        .columns
        .iter()
        .map(|c| format!("\"{}\"", c.name))
        .collect();
    let list = columns.join(", ");
    capture
        .run(&format!(
            "INSERT INTO again ({list}) SELECT {list} FROM everything;
             INSERT INTO again (id, ident, ip, x, iv, c, tz, tstz, d) VALUES
                 (100, 1, '::1', '<?xml version=\"1.0\" encoding=\"UTF-8\"?><a/>', '-1 year -1 sec', '', '10:00-00:00:01', '2020-06-01 00:00:00.1+02', '10000-01-01'),
                 (101, 1, '10.0.0.1', '<a b=\"&lt;\"/>', '-00:00:00.000001', 'a', '24:00', '0044-03-15 BC', '0001-01-01'),
                 (102, 1, 'fe80::/10', 'plain', '1 year 2 mons -3 days 25:00:01.5', 'ab   ', '00:00+15:59:59', '9999-12-31 23:59:59.999999', '0001-12-31 BC')"
        ))
        .await;
    capture.follow(&mut feed, &mut model).await;
    let again = model.table("again");
    assert!(again.len() >= 6);
    // What was there is as loaded; the rest of the tables is empty in the model.
    let (_, mut loaded) = capture.loaded().await;
    let rows = loaded.remove(&TableName::new("public", "again")).unwrap();
    let table = capture.tables.iter().find(|table| table.name.name == "again").unwrap();
    assert_eq!(rows.len(), again.len());
    for (key, loaded) in rows {
        for (column, (loaded, changed)) in
            table.columns.iter().zip(loaded[0].iter().zip(&again[&key][0]))
        {
            assert_eq!(format!("{loaded:?}"), format!("{changed:?}"), "{key} {}", column.name);
        }
    }
}

/// The types that have a binary form here, which the feed then is in.
#[tokio::test(flavor = "multi_thread")]
async fn every_type_in_binary_form() {
    const OTHER: &[&str] = &[
        "m", "ch", "x", "a", "a2", "ad", "r", "nr", "mr", "ip", "cd", "mac", "mac8", "pt", "ln",
        "ls", "bx", "ph", "pg", "ci", "tv", "tq", "lsn", "rc", "g",
    ];
    let drops: Vec<String> = OTHER.iter().map(|name| format!("DROP COLUMN {name}")).collect();
    let sql = format!(
        "{}; ALTER TABLE everything {}; ALTER TABLE everything ALTER n2 TYPE numeric;
         CREATE TYPE mood AS ENUM ('sad', 'ok'); ALTER TABLE everything ADD e mood;
         UPDATE everything SET e = 'ok';
         CREATE TABLE again (LIKE everything, PRIMARY KEY (id)); DROP TABLE IF EXISTS copy",
        include_str!("../everything.sql"),
        drops.join(", ")
    );
    let capture = Capture::of(&sql).await;
    let (mut feed, mut model) = (capture.feed().await, Model::default());
    capture.run("INSERT INTO again SELECT * FROM everything").await;
    capture.follow(&mut feed, &mut model).await;
    let (_, mut loaded) = capture.loaded().await;
    let rows = loaded.remove(&TableName::new("public", "again")).unwrap();
    assert_eq!(format!("{rows:?}"), format!("{:?}", model.table("again")));
    assert!(rows.len() >= 3);
    // A column that has no binary form comes: the feed says so, and the next one is in text form.
    capture.run("ALTER TABLE again ADD ip inet; INSERT INTO again (id, ident, ip) VALUES (500, 1, '::1')").await;
    let error = loop {
        use futures::StreamExt;
        match feed.events.next().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(error.is_transient() && error.to_string().contains("text form"), "{error}");
    drop(feed);
    let mut feed = capture.feed_after(model.transactions.last().unwrap(), 1 << 20).await;
    capture.follow(&mut feed, &mut model).await;
    let row = &model.table("again")["Int(500);"][0];
    assert_eq!(row.last().unwrap(), &Value::Text("::1/128".into()));
}

/// A column that the settings read as text.
#[tokio::test(flavor = "multi_thread")]
async fn types_by_settings() {
    let mut capture = Capture::of(
        "CREATE TABLE t (id int PRIMARY KEY, b boolean, c char(5), n numeric(4,1), ts timestamptz, f float8, by bytea)",
    )
    .await;
    let mut endpoint = EndpointSettings::new(&capture.url);
    let types = serde_json::json!({"%.b": "text", "%.c": "text", "%.n": "numeric", "%.ts": "text",
        "%.f": "text", "%.by": "text"});
    endpoint.options.insert("column-types".into(), types);
    capture.source =
        PostgresSource::open(PostgresSettings::from_endpoint(&endpoint).unwrap()).await.unwrap();
    capture.tables = tables(&*capture.source).await;
    assert_eq!(capture.tables[0].columns[1].logical_type, LogicalType::text());
    capture.source.check_capture(TASK, &capture.tables).await.unwrap();
    let (mut feed, mut model) = (capture.feed().await, Model::default());
    capture
        .run(
            "INSERT INTO t VALUES (1, true, 'ab', 1.5, '2020-01-01 00:00:00+01', 0.1, '\\x00ff'),
             (2, false, '', -0.0, 'infinity', '-0', ''), (3, NULL, NULL, NULL, NULL, NULL, NULL)",
        )
        .await;
    capture.follow(&mut feed, &mut model).await;
    capture.assert_same(&model).await;
    assert_eq!(model.shapes.values().next().unwrap().1, Identity::Key(vec![0]));
}
