//! Every type of the engine, from one database to another.

use crate::{assert_moves, server};

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_as_it_was() {
    let server = server::shared();
    let (from, to) = (server.database().await, server.database().await);
    let client = server::connect(&from).await;
    client
        .batch_execute(
            r#"CREATE DOMAIN price AS numeric(8,2) CHECK (VALUE >= 0);
            CREATE DOMAIN cheap AS price;
            CREATE TABLE everything (
                id bigint PRIMARY KEY, b boolean, i2 smallint, i4 integer, o oid, f4 real, f8 float8,
                n numeric, n2 numeric(10,2), n0 numeric(30), wide numeric(60,20), neg numeric(5,-2),
                m money, t text, v varchar(20), c char(5), bp bpchar, nm name, ch "char", by bytea,
                d date, tm time, tm3 time(3), tz timetz, ts timestamp, ts0 timestamp(0),
                tstz timestamptz, iv interval, ivs interval second(2), u uuid, j json, jb jsonb,
                x xml, bi bit(5), vb varbit, a integer[], a2 text[][], ad date[], r int4range,
                nr numrange, mr int8multirange, ip inet, cd cidr, mac macaddr, mac8 macaddr8,
                pt point, ln line, ls lseg, bx box, ph path, pg polygon, ci circle, tv tsvector,
                tq tsquery, lsn pg_lsn, rc regclass, dom price, dom2 cheap,
                g integer GENERATED ALWAYS AS (i2 * 2) STORED, ident integer GENERATED ALWAYS AS IDENTITY);
            INSERT INTO everything (id) VALUES (0);
            INSERT INTO everything VALUES (1, true, -32768, 2147483647, 4294967295, '-0', 'NaN',
                'NaN', '-99999999.99', 123456789012345678901234567890,
                1234567890123456789012345678901234567890.00000000000000000001, 12345, '$1,234.56',
                E'a\tb\n\\', 'it''s', 'ab', 'x  ', 'name', 'q', '\x00ff', '0044-03-15 BC', '24:00',
                '12:34:56.789', '12:00:00.123456+05:30', '-infinity', '2020-01-01 00:00:01',
                'infinity', '1 mon -2 days +03:04:05.678901', '1.25 s',
                'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"b":1, "a":1, "a":2}', '{"b":1,"a":[1.0]}',
                '<a>1</a>', B'10101', B'', '{{1,NULL},{3,4}}', '{{a,"b,c"},{NULL,"NULL"}}',
                '[0:1]={2020-01-01,infinity}', '[1,10)', '(,1.5]', '{[1,2),[5,7)}', '10.0.0.1/8',
                '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '(1,2)', '{1,2,3}',
                '[(0,0),(1,1)]', '((0,0),(1,1))', '[(0,0),(1,1)]', '((0,0),(1,1),(2,0))', '<(0,0),1>',
                'a:1 b:2A', 'a & !b', '16/B374D848', 'pg_class', 9.99, 1);
            INSERT INTO everything (id, f4, f8, n, n2, wide, d, ts, tstz, iv, t, by, a, tz, jb) VALUES
                (2, 1e-45, 5e-324, 'Infinity', 'NaN', 0, 'infinity', '4714-11-24 00:00:00 BC',
                '294276-12-31 23:59:59.999999', '-178000000 years', '', '', '{}', '00:00-15:59:59', 'null'),
                (3, 'Infinity', '-Infinity', 0.00001, 0, -1.5, '5874897-12-31', '1969-12-31 23:59:59.999999',
                '0001-01-01 BC', '1 day', repeat('x', 100000), '\x', '{1}', '23:59:59.999999+00', '1e400');
            DELETE FROM everything WHERE n2 = 'NaN'::numeric;"#,
        )
        .await
        .unwrap();
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
