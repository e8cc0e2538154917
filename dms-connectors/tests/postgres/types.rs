//! Every type of the engine, from one database to another.

use crate::{assert_moves, server};

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_as_it_was() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let client = server::connect(&from).await;
    client.batch_execute(include_str!("everything.sql")).await.unwrap();
    assert_moves(&from, &to, "everything").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_keys_and_partitions() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let client = server::connect(&from).await;
    client
        .batch_execute(
            r#"CREATE SCHEMA "odd ""schema";
            CREATE TABLE "odd ""schema"."select" ("a b" int, "Größe" text, "x""y" int,
                PRIMARY KEY ("x""y", "a b"));
            CREATE UNIQUE INDEX ON "odd ""schema"."select" ("Größe");
            CREATE UNIQUE INDEX ON "odd ""schema"."select" (lower("Größe"));
            INSERT INTO "odd ""schema"."select" SELECT i, 'text ' || i, -i FROM generate_series(1, 5000) i;
            CREATE TABLE parted (id int, at date, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
            CREATE TABLE parted_1 (at date NOT NULL, gone int, id int NOT NULL, note text);
            ALTER TABLE parted_1 DROP COLUMN gone;
            ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
            CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')
                PARTITION BY HASH (id);
            CREATE TABLE parted_2a PARTITION OF parted_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
            CREATE TABLE parted_2b PARTITION OF parted_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
            INSERT INTO parted SELECT i, '2020-01-01'::date + i % 700, repeat('n', i % 50)
                FROM generate_series(1, 20000) i;
            CREATE TABLE no_rows (id int PRIMARY KEY);
            CREATE TABLE twice (a int, b text);
            INSERT INTO twice SELECT i % 3, 'same' FROM generate_series(1, 3000) i;
            CREATE VIEW seen AS SELECT 1 AS one;"#,
        )
        .await
        .unwrap();
    assert_moves(&from, &to, r#""odd ""schema"."select""#).await;
    for table in ["parted", "twice"] {
        assert_eq!(crate::text_of(&to, table).await, crate::text_of(&from, table).await);
    }
    let moved = server::connect(&to).await;
    let keys = moved
        .query(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index \
             WHERE indrelid = '\"odd \"\"schema\".\"select\"'::regclass ORDER BY indisprimary DESC",
            &[],
        )
        .await
        .unwrap();
    let keys: Vec<String> = keys.iter().map(|row| row.get(0)).collect();
    assert!(keys[0].ends_with(r#"("x""y", "a b")"#), "{keys:?}");
    assert!(keys[1].ends_with("(\"Größe\")"), "{keys:?}");
    assert_eq!(keys.len(), 2);
    let views = moved.query("SELECT 1 FROM pg_class WHERE relname = 'seen'", &[]).await.unwrap();
    assert!(views.is_empty(), "a view comes only when it is asked for");
}
