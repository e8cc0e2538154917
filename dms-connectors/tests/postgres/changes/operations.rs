//! What happens to rows, under every replica identity.

use dms_core::change::{ChangeEvent, Identity, Operation};
use dms_core::schema::TableName;
use dms_core::value::Value;

use super::{Capture, Model};

use Operation::{Delete, Insert, Update, UpdateBefore};

const SHOP: &str = "
    CREATE TABLE d (id int, part text, n int, note text, PRIMARY KEY (part, id));
    CREATE TABLE i (id int PRIMARY KEY, code text NOT NULL, n int, note text);
    CREATE UNIQUE INDEX i_code ON i (code);
    ALTER TABLE i REPLICA IDENTITY USING INDEX i_code;
    CREATE TABLE f (id int PRIMARY KEY, n numeric, note text);
    ALTER TABLE f REPLICA IDENTITY FULL;
    CREATE TABLE w (n int, note text);
    ALTER TABLE w REPLICA IDENTITY FULL;";

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_and_identity() {
    let capture = Capture::of(SHOP).await;
    let (mut feed, mut model) = (capture.feed().await, Model::default());
    let mut expect = async |sql: &str, operations: &[Operation]| {
        capture.run(sql).await;
        model.operations.clear();
        capture.follow(&mut feed, &mut model).await;
        assert_eq!(model.operations, operations, "{sql}");
    };
    expect("INSERT INTO d VALUES (1, 'a', 1, NULL), (2, 'a', 2, 'x')", &[Insert, Insert]).await;
    expect("UPDATE d SET n = n + 1 WHERE id = 1", &[Update]).await;
    expect("UPDATE d SET id = 7 WHERE id = 1", &[UpdateBefore, Update]).await;
    expect("UPDATE d SET id = id WHERE id = 7", &[Update]).await;
    expect("DELETE FROM d WHERE id = 2", &[Delete]).await;
    expect("INSERT INTO i VALUES (1, 'a', 1, 'x'), (2, 'b', 2, 'y')", &[Insert, Insert]).await;
    expect("UPDATE i SET id = 9 WHERE id = 1", &[Update]).await;
    expect("UPDATE i SET code = 'c' WHERE id = 9", &[UpdateBefore, Update]).await;
    expect("DELETE FROM i WHERE code = 'b'", &[Delete]).await;
    expect("INSERT INTO f VALUES (1, 1.0, 'x'), (2, 'NaN', NULL)", &[Insert, Insert]).await;
    expect("UPDATE f SET n = 1.00 WHERE id = 1", &[Update]).await;
    expect("UPDATE f SET id = 3, n = NULL WHERE id = 2", &[UpdateBefore, Update]).await;
    expect("DELETE FROM f WHERE id = 1", &[Delete]).await;
    let two = "INSERT INTO w VALUES (1, 'same'), (1, 'same'), (NULL, NULL)";
    expect(two, &[Insert, Insert, Insert]).await;
    expect(
        "UPDATE w SET note = 'other' WHERE ctid = (SELECT min(ctid) FROM w WHERE n = 1)",
        &[UpdateBefore, Update],
    )
    .await;
    expect("DELETE FROM w WHERE n IS NULL", &[Delete]).await;
    expect(
        "BEGIN; INSERT INTO d VALUES (3, 'b', 1, ''); INSERT INTO f VALUES (8, 0, '');
         DELETE FROM d WHERE id = 3; UPDATE w SET n = 5; COMMIT",
        &[Insert, Insert, Delete, UpdateBefore, Update, UpdateBefore, Update],
    )
    .await;
    let identity = |table: &str| model.shapes[&TableName::new("public", table)].1.clone();
    assert_eq!(identity("d"), Identity::Key(vec![1, 0]));
    assert_eq!(identity("i"), Identity::Key(vec![1]));
    assert_eq!(identity("f"), Identity::Key(vec![0]));
    assert_eq!(identity("w"), Identity::WholeRow);
    // The table with another identity than its key is found by that in a load.
    let i = TableName::new("public", "i");
    let rows = model.tables.remove(&i).unwrap();
    let by_key = rows.into_values().map(|rows| (format!("{:?};", rows[0][0]), rows)).collect();
    model.tables.insert(i, by_key);
    capture.assert_same(&model).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_that_did_not_change() {
    let capture = Capture::of(
        "CREATE TABLE d (id int PRIMARY KEY, big text, n int, more bytea);
         CREATE TABLE f (id int PRIMARY KEY, big text, n int, more bytea);
         CREATE TABLE k (id text PRIMARY KEY, n int);
         CREATE TABLE w (big text, n int);
         ALTER TABLE f REPLICA IDENTITY FULL; ALTER TABLE w REPLICA IDENTITY FULL;
         ALTER TABLE d ALTER big SET STORAGE EXTERNAL, ALTER more SET STORAGE EXTERNAL;
         ALTER TABLE f ALTER big SET STORAGE EXTERNAL, ALTER more SET STORAGE EXTERNAL;
         ALTER TABLE k ALTER id SET STORAGE EXTERNAL;
         ALTER TABLE w ALTER big SET STORAGE EXTERNAL;",
    )
    .await;
    let (mut feed, mut model) = (capture.feed().await, Model::default());
    for table in ["d", "f"] {
        capture
            .run(&format!(
                "INSERT INTO {table} SELECT i, repeat(i::text, 20000), i, convert_to(repeat('y', 9000), 'UTF8')
                     FROM generate_series(1, 3) i;
                 UPDATE {table} SET n = n + 1; UPDATE {table} SET id = id + 10 WHERE id = 1;
                 UPDATE {table} SET big = NULL WHERE id = 2; UPDATE {table} SET more = '' WHERE id = 2;
                 UPDATE {table} SET n = 0, big = repeat('new', 9000) WHERE id = 3;
                 UPDATE {table} SET n = -1;"
            ))
            .await;
    }
    capture.run("INSERT INTO w SELECT repeat('w', 9000), i FROM generate_series(1, 3) i; UPDATE w SET n = n * 2").await;
    // An index holds no more of a key than a third of a page, which a short value of 2,500 fills.
    capture.run("INSERT INTO k VALUES (repeat('k', 2400), 1); UPDATE k SET n = 2; UPDATE k SET id = 'short'").await;
    let events = capture.events(&mut feed).await;
    let is_masked = |event: &ChangeEvent, name: &str| match event {
        ChangeEvent::Rows(rows) => rows.batches.iter().any(|batch| {
            batch.table().name.name == name && (0..batch.len()).any(|r| batch.is_unchanged(r, 1))
        }),
        _ => false,
    };
    assert!(events.iter().any(|event| is_masked(event, "d")));
    assert!(!events.iter().any(|event| is_masked(event, "f")), "the old row has the value");
    for event in &events {
        model.apply(event);
    }
    capture.assert_same(&model).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitioned_tables_are_one_table() {
    let capture = Capture::of(
        "CREATE TABLE p (id int, at date, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE p1 (note text, gone int, at date NOT NULL, id int NOT NULL);
         ALTER TABLE p1 DROP COLUMN gone;
         ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')
             PARTITION BY HASH (id);
         CREATE TABLE p2a PARTITION OF p2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE p2b PARTITION OF p2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);",
    )
    .await;
    let (mut feed, mut model) = (capture.feed().await, Model::default());
    capture
        .run(
            "INSERT INTO p SELECT i, '2020-01-01'::date + i, 'n' || i FROM generate_series(0, 700) i;
             UPDATE p SET note = 'u' WHERE id % 3 = 0; DELETE FROM p WHERE id % 7 = 0;
             UPDATE p SET at = at - 365 WHERE at >= '2021-06-01';
             CREATE TABLE p3 PARTITION OF p FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
             INSERT INTO p VALUES (9999, '2022-05-05', 'new');
             INSERT INTO p1 VALUES ('by its own name', '2020-02-02', 8888);",
        )
        .await;
    capture.follow(&mut feed, &mut model).await;
    assert!(model.table("p").len() > 500);
    assert_eq!(model.shapes.len(), 1);
    capture.assert_same(&model).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncates_savepoints_and_rollbacks() {
    let capture = Capture::of(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
         CREATE TABLE c (id int PRIMARY KEY);",
    )
    .await;
    let (mut feed, mut model) = (capture.feed().await, Model::default());
    capture
        .run(
            "INSERT INTO a SELECT generate_series(1, 9); INSERT INTO b SELECT generate_series(1, 9);
             INSERT INTO c SELECT generate_series(1, 9);
             BEGIN; DELETE FROM c WHERE id = 1; TRUNCATE a, b; INSERT INTO a VALUES (100);
             SAVEPOINT s; INSERT INTO a VALUES (101); ROLLBACK TO s; SAVEPOINT s2;
             INSERT INTO a VALUES (102); RELEASE s2; INSERT INTO c VALUES (200); COMMIT;
             BEGIN; INSERT INTO a VALUES (300); TRUNCATE c; ROLLBACK;
             TRUNCATE b;",
        )
        .await;
    let events = capture.events(&mut feed).await;
    let truncates: Vec<usize> = events
        .iter()
        .filter_map(|event| match event {
            ChangeEvent::Truncate { tables, .. } => Some(tables.len()),
            _ => None,
        })
        .collect();
    assert_eq!(truncates, [2, 1], "one event for all tables of an act");
    for event in &events {
        model.apply(event);
    }
    let ids = |table: &str| model.table(table).values().map(|rows| rows[0][0].clone()).collect();
    let found: Vec<Value> = ids("a");
    assert_eq!(found, [Value::Int(100), Value::Int(102)]);
    capture.assert_same(&model).await;
}

/// Names that have to be quoted everywhere, and messages of others in the log.
#[tokio::test(flavor = "multi_thread")]
async fn odd_names_and_foreign_messages() {
    let mut capture = Capture::of(
        r#"CREATE SCHEMA "odd ""schema"; CREATE TABLE "odd ""schema"."sel'ect" ("a b" int, "Größe" text,
            PRIMARY KEY ("a b")); CREATE TYPE mood AS ENUM ('sad', 'ok');
            CREATE TABLE moods (id int PRIMARY KEY, m mood);
            SELECT pg_replication_origin_create('elsewhere_' || current_database());"#,
    )
    .await;
    let (mut feed, mut model) = (capture.feed().await, Model::default());
    capture
        .run(
            r#"INSERT INTO "odd ""schema"."sel'ect" VALUES (1, 'x');
            SELECT pg_logical_emit_message(false, 'foreign', 'words');
            BEGIN; SELECT pg_logical_emit_message(true, 'foreign', 'more'); INSERT INTO moods VALUES (1, 'ok');
            COMMIT; ALTER TYPE mood ADD VALUE 'happy'"#,
        )
        .await;
    capture
        .run(
            r#"INSERT INTO moods VALUES (2, 'happy');
            SELECT pg_replication_origin_session_setup('elsewhere_' || current_database());
            INSERT INTO moods VALUES (3, 'sad');
            SELECT pg_replication_origin_session_reset();"#,
        )
        .await;
    capture.follow(&mut feed, &mut model).await;
    assert_eq!(model.table("moods").len(), 3);
    // An enum with one more label is another type to a load.
    capture.tables = super::tables(&*capture.source).await;
    capture.assert_same(&model).await;
}
