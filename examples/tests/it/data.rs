//! Source databases.

/// Tables of every kind of key, and without any, `rows` rows each: enough partitions to crash
/// between, small enough to load often.
pub(crate) fn tables(rows: u32) -> String {
    let series =
        format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows})");
    format!(
        "BEGIN;
         CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, total REAL, note TEXT);
         {series} INSERT INTO orders SELECT i * 3, 'customer ' || (i % 97), i / 7.0,
             CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE hex(i * 7919) || ' Größe ' || i END FROM n;
         CREATE UNIQUE INDEX orders_note ON orders (note, id);
         CREATE TABLE no_key (a INTEGER, b TEXT);
         {series} INSERT INTO no_key SELECT i % 11, 'row ' || (i % 13) FROM n;
         CREATE TABLE codes (code TEXT PRIMARY KEY, label TEXT) WITHOUT ROWID;
         {series} INSERT INTO codes SELECT 'code ' || printf('%08d', i * 31 % 1000003), 'label ' || i FROM n;
         CREATE TABLE pairs (a INTEGER, b TEXT, data BLOB, PRIMARY KEY (a, b));
         {series} INSERT INTO pairs SELECT i / 3, 'b' || (i % 3), zeroblob(i % 40) FROM n;
         CREATE TABLE anything (x);
         {series} INSERT INTO anything SELECT CASE i % 5 WHEN 0 THEN i WHEN 1 THEN i / 2.0
             WHEN 2 THEN 'text ' || i WHEN 3 THEN CAST('blob' AS BLOB) END FROM n;
         CREATE TABLE empty (id INTEGER PRIMARY KEY, name TEXT);
         COMMIT;"
    )
}
