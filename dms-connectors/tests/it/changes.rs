//! Changes of a file, event by event; what capture needs, and what it refuses.

use std::fs;
use std::time::Duration;

use dms_core::change::{ChangeEvent, ChangeRows, Operation};
use dms_core::endpoint::{ChangeFeed, ChangeSource, FeedRequest, Source};
use dms_core::position::Position;
use dms_core::schema::TableName;
use dms_core::value::Value;
use dms_core::{Error, ErrorKind, Result};
use rusqlite::Connection;

use super::Database;
use super::feed::{Model, TASK, apply, captured, catch_up, filled, held, next, request, tables};

const ITEMS: &str = "PRAGMA journal_mode = WAL;
    CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, qty INTEGER);
    CREATE TABLE other (id INTEGER PRIMARY KEY);";

/// A feed behind its first look, which tells the shapes.
async fn feed_of(database: &Database) -> (ChangeFeed, Position, Connection) {
    let (source, tables, position) = captured(&database.path).await;
    let mut feed = source.changes(request(&tables, &position)).await.unwrap();
    for table in &tables {
        let ChangeEvent::Schema { table: told, .. } = next(&mut feed).await.unwrap() else {
            panic!("shapes come first")
        };
        assert_eq!(told.name, table.name);
    }
    let ChangeEvent::Idle { position: idle } = next(&mut feed).await.unwrap() else { panic!() };
    assert_eq!(idle, position);
    (feed, position, database.connect())
}

/// The next event that is not about being idle.
async fn busy(feed: &mut ChangeFeed) -> Result<ChangeEvent> {
    loop {
        match next(feed).await {
            Ok(ChangeEvent::Idle { .. }) => {}
            event => return event,
        }
    }
}

async fn rows(feed: &mut ChangeFeed) -> ChangeRows {
    match busy(feed).await.unwrap() {
        ChangeEvent::Rows(rows) => rows,
        other => panic!("{other:?}"),
    }
}

async fn refused(feed: &mut ChangeFeed) -> Error {
    busy(feed).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_is_one_transaction_of_rows_as_they_are() {
    let database = Database::new(ITEMS);
    let (mut feed, begun, writer) = feed_of(&database).await;
    writer
        .execute_batch(
            "BEGIN; INSERT INTO items VALUES (1, 'a', 1), (2, 'b', 2); UPDATE items SET qty = 9;
             DELETE FROM items WHERE id = 2; INSERT INTO other VALUES (5); COMMIT;",
        )
        .unwrap();
    let rows = rows(&mut feed).await;
    let [transaction] = rows.transactions.as_slice() else { panic!("{rows:?}") };
    assert!(transaction.complete && transaction.position.order > begun.order);
    let mut seen = Vec::new();
    for batch in &rows.batches {
        for record in batch.records().map(Result::unwrap) {
            seen.push((record.sequence, record.operation, record.values));
        }
    }
    let some = |value| Some(Value::Int(value));
    assert_eq!(
        seen,
        [
            (0, Operation::Remove, vec![some(2), None, None]),
            (1, Operation::Upsert, vec![some(1), Some(Value::Text("a".into())), some(9)]),
            (2, Operation::Upsert, vec![some(5)]),
        ]
    );
    let ChangeEvent::Idle { position } = next(&mut feed).await.unwrap() else { panic!() };
    assert_eq!(position, transaction.position);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_look_comes_in_parts_of_one_state() {
    let database = Database::new(ITEMS);
    let (source, tables, position) = captured(&database.path).await;
    let writer = database.connect();
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO items SELECT i, hex(zeroblob(50)), 0 FROM n;
        DELETE FROM items WHERE id % 2;";
    writer.execute_batch(many).unwrap();
    let bound = 64 << 10;
    let small =
        FeedRequest { event_bytes: bound, prefetch_bytes: bound, ..request(&tables, &position) };
    let mut feed = source.changes(small).await.unwrap();
    let (mut model, mut parts) = (Model::new(), 0);
    loop {
        let ChangeEvent::Rows(rows) = busy(&mut feed).await.unwrap() else { continue };
        if parts == 0 {
            // What is written in the middle belongs to the next look.
            writer.execute_batch("UPDATE items SET qty = 1").unwrap();
        }
        assert!(rows.bytes() < 2 * bound, "{}", rows.bytes());
        apply(&mut model, &rows);
        parts += 1;
        if rows.transactions[0].complete {
            break;
        }
    }
    assert!(parts > 10, "{parts}");
    assert_eq!(model["items"].len(), 10_000);
    assert!(model["items"].values().all(|row| row.ends_with("Int(0)]")), "of one state");
    let order = source.log_status(TASK).await.unwrap().end.order;
    catch_up(&mut feed, &mut model, order, |_| {}).await;
    let end = source.snapshot(&tables, 1).await.unwrap();
    assert_eq!(filled(&model), filled(&held(&*end, &tables).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn shapes_are_told_when_they_change() {
    let database = Database::new(ITEMS);
    let (mut feed, _, writer) = feed_of(&database).await;
    let mut shapes = Vec::new();
    for sql in [
        "ALTER TABLE items ADD COLUMN price DECIMAL(5,2) DEFAULT '1.5'; INSERT INTO items (id) VALUES (1)",
        "ALTER TABLE items RENAME COLUMN name TO title",
        "ALTER TABLE items RENAME COLUMN id TO number",
        "ALTER TABLE items DROP COLUMN qty; UPDATE items SET title = 'x'",
    ] {
        writer.execute_batch(sql).unwrap();
        let event = busy(&mut feed).await.unwrap();
        let ChangeEvent::Schema { table, column_ids, initial, identity, .. } = event else {
            panic!("{event:?}")
        };
        assert_eq!(identity.columns(9), [0]);
        let named: Vec<String> = table
            .columns
            .iter()
            .zip(column_ids)
            .map(|(column, id)| format!("{id} {}", column.name))
            .collect();
        let initial: Vec<String> =
            initial.iter().map(|(at, v)| format!("{at}={}", v.as_ref().unwrap())).collect();
        shapes.push(format!("{} | {}", named.join(", "), initial.join(", ")));
        if sql.contains("items (id)") || sql.contains("UPDATE") {
            let rows = rows(&mut feed).await;
            assert_eq!(rows.batches[0].table().columns.len(), table.columns.len());
            assert_eq!(rows.batches[0].len(), 1);
        }
    }
    assert_eq!(
        shapes,
        [
            "1 id, 2 name, 3 qty, 4 price | 3=1.50",
            "1 id, 2 title, 3 qty, 4 price | 3=1.50",
            "1 number, 2 title, 3 qty, 4 price | 3=1.50",
            "1 number, 2 title, 4 price | 2=1.50",
        ]
    );
    writer
        .execute_batch("VACUUM; CREATE TABLE more (x); INSERT INTO items (number) VALUES (2)")
        .unwrap();
    assert_eq!(rows(&mut feed).await.records(), 1, "nothing that concerns the table");
    for (sql, gone) in
        [("ALTER TABLE items RENAME TO things", "items"), ("DROP TABLE other", "other")]
    {
        writer.execute_batch(sql).unwrap();
        let event = busy(&mut feed).await.unwrap();
        let ChangeEvent::Dropped { table, .. } = event else { panic!("{event:?}") };
        assert_eq!(table, TableName::new("main", gone));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_survives_renames_of_the_columns_that_it_watches() {
    let database = Database::new(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE \"odd \"\" name\" (\"the key\" TEXT PRIMARY KEY NOT NULL, u, live INTEGER);
         CREATE UNIQUE INDEX i ON \"odd \"\" name\" (u) WHERE live > 0 -- once
         ;
         INSERT INTO \"odd \"\" name\" VALUES ('a', 1, 1);",
    );
    let (mut feed, _, writer) = feed_of(&database).await;
    for (number, renames) in [
        "RENAME COLUMN live TO active",
        "RENAME COLUMN u TO \"unique \"\" value\"",
        "RENAME COLUMN \"the key\" TO k",
        "RENAME COLUMN active TO \"in\"",
    ]
    .into_iter()
    .enumerate()
    {
        writer.execute_batch(&format!("ALTER TABLE \"odd \"\" name\" {renames}")).unwrap();
        let event = busy(&mut feed).await.unwrap();
        assert!(matches!(event, ChangeEvent::Schema { .. }), "{renames}: {event:?}");
        let replace = format!("REPLACE INTO \"odd \"\" name\" VALUES ('b{number}', 1, 1)");
        writer.execute_batch(&replace).unwrap();
        let rows = rows(&mut feed).await;
        let operations: Vec<u8> = rows.batches[0].codes().to_vec();
        assert_eq!(operations, [Operation::Remove.code(), Operation::Upsert.code()], "{renames}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_lost_changes_is_an_error_that_names_the_table() {
    for (sql, says) in [
        ("DROP TRIGGER dms_changes_1_1_delete", "dms_changes_1_1_delete"),
        (
            "CREATE TABLE new (id INTEGER PRIMARY KEY, name TEXT, qty INTEGER);
             INSERT INTO new SELECT * FROM items; DROP TABLE items; ALTER TABLE new RENAME TO items",
            "missing or was changed",
        ),
        (
            "DROP TABLE items; CREATE TABLE items (id INTEGER PRIMARY KEY, name BLOB, qty INTEGER)",
            "built anew",
        ),
        (
            "ALTER TABLE items ADD COLUMN g AS (qty + 1)",
            "built anew",
        ),
        ("CREATE UNIQUE INDEX by_name ON items (name)", "unique index"),
        ("CREATE UNIQUE INDEX by_name ON items (name) WHERE qty > 1", "unique index"),
        (
            "ALTER TABLE items DROP COLUMN qty; ALTER TABLE items ADD COLUMN amount INTEGER",
            "renamed or replaced",
        ),
        // What was in another column is in this one now.
        (
            "ALTER TABLE items DROP COLUMN qty; ALTER TABLE items RENAME COLUMN more TO qty",
            "renamed or replaced",
        ),
        (
            "ALTER TABLE items DROP COLUMN qty; ALTER TABLE items RENAME COLUMN more TO less",
            "renamed or replaced",
        ),
        (
            "ALTER TABLE items RENAME COLUMN more TO less; ALTER TABLE items RENAME COLUMN qty TO more",
            "renamed or replaced",
        ),
        (
            "DROP TRIGGER dms_changes_1_1_insert;
             CREATE TRIGGER dms_changes_1_1_insert AFTER INSERT ON items BEGIN SELECT 1; END",
            "dms_changes_1_1_insert",
        ),
    ] {
        let more = sql.contains(" more ").then_some("ALTER TABLE items ADD COLUMN more INTEGER;");
        let database = Database::new(&format!("{ITEMS} {}", more.unwrap_or_default()));
        let (mut feed, position, writer) = feed_of(&database).await;
        writer.execute_batch(&format!("BEGIN; {sql}; COMMIT")).unwrap();
        let live = refused(&mut feed).await;
        let source = database.source().await;
        let tables = tables(&source).await;
        let again = source.begin_capture(TASK, &tables).await.unwrap_err();
        let snapshot = source.log_snapshot(TASK, &tables, 1).await.unwrap_err();
        let mut feed = source.changes(request(&tables, &position)).await.unwrap();
        let later = refused(&mut feed).await;
        for error in [live, again, snapshot, later] {
            assert_eq!(error.kind(), ErrorKind::PositionLost, "{sql}: {error}");
            assert!(error.to_string().contains(says), "{sql}: {error}");
            assert_eq!(error.context_value("table"), Some("main.items"), "{error}");
        }
        // The way out that the error names.
        source.end_capture(TASK).await.unwrap();
        source.begin_capture(TASK, &tables).await.unwrap();
    }
}

/// As SQLite's documentation has it, with the triggers put back in the end; the values are others.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_built_anew_with_its_triggers_is_told() {
    let database = Database::new(&format!("{ITEMS} CREATE INDEX by_name ON items (name);"));
    let (mut feed, position, mut writer) = feed_of(&database).await;
    let sql = "SELECT sql FROM sqlite_schema WHERE tbl_name = 'items' AND type <> 'table'";
    let kept: Vec<String> = {
        let mut statement = writer.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(rusqlite::Result::unwrap).collect()
    };
    let rebuild = writer.transaction().unwrap();
    rebuild
        .execute_batch(
            "CREATE TABLE new (id INTEGER PRIMARY KEY, name TEXT, qty INTEGER);
             INSERT INTO new SELECT id, name, qty + 1 FROM items; DROP TABLE items;
             ALTER TABLE new RENAME TO items",
        )
        .unwrap();
    kept.iter().for_each(|sql| rebuild.execute_batch(sql).unwrap());
    rebuild.commit().unwrap();
    let live = refused(&mut feed).await;
    let source = database.source().await;
    let mut feed = source.changes(request(&tables(&source).await, &position)).await.unwrap();
    for error in [live, refused(&mut feed).await] {
        assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
        assert!(error.to_string().contains("built anew"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_log_is_told() {
    let database = Database::new(ITEMS);
    let (mut feed, _, writer) = feed_of(&database).await;
    writer.execute_batch("DELETE FROM dms_changes_1").unwrap();
    let error = refused(&mut feed).await;
    assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_the_file_does_not_hold_is_refused() {
    let database = Database::new(ITEMS);
    let (source, tables, begun) = captured(&database.path).await;
    let writer = database.connect();
    let insert = "INSERT INTO items (name) VALUES ('a')";
    writer.execute_batch(insert).unwrap();
    let copy = database.beside("copy.db");
    writer.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    writer.execute_batch(insert).unwrap();
    let after = source.log_status(TASK).await.unwrap().end;
    assert_eq!(after.order, begun.order + 2);
    let refusal = async |position: &Position| {
        let source = database.source().await;
        let refused = source.changes(request(&tables, position)).await;
        let error = refused.expect_err("the position is not there");
        assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
        error.to_string()
    };
    let far = source.parse_position("99").unwrap();
    assert!(refusal(&far).await.contains("goes from 1 to 3"));
    let wrong = Position::new(3, "0/3");
    let error = source.changes(request(&tables, &wrong)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings, "{error}");
    drop(writer);

    // The older copy comes back, and goes another way.
    fs::copy(&copy, &database.path).unwrap();
    for log in ["source.db-wal", "source.db-shm"] {
        let _ = fs::remove_file(database.beside(log));
    }
    assert!(refusal(&after).await.contains("older copy"));
    database.connect().execute_batch(&format!("{insert};{insert};{insert}")).unwrap();
    assert!(refusal(&after).await.contains("older copy"));
    let source = database.source().await;
    let typed = source.parse_position("2").unwrap();
    source.changes(request(&tables, &typed)).await.unwrap();
    // Capture that was begun anew has another log.
    source.end_capture(TASK).await.unwrap();
    assert!(refusal(&begun).await.contains("capture was not begun"));
    source.begin_capture(TASK, &tables).await.unwrap();
    assert!(refusal(&begun).await.contains("another log"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_forgotten_and_nothing_else() {
    let database = Database::new(ITEMS);
    let (mut feed, begun, writer) = feed_of(&database).await;
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
        INSERT OR REPLACE INTO items SELECT i, 'a', 0 FROM n";
    writer.execute_batch(many).unwrap();
    let taken = rows(&mut feed).await.transactions[0].position.clone();
    writer.execute_batch("DELETE FROM items WHERE id < 11").unwrap();
    rows(&mut feed).await;
    let source = database.source().await;
    let before = source.log_status(TASK).await.unwrap().retained_bytes.unwrap();
    feed.acknowledge.acknowledge(&taken);
    let count = "SELECT count(*) FROM dms_changes_1";
    let left = async |expected: i64| {
        for _ in 0..200 {
            let left: i64 = writer.query_row(count, [], |row| row.get(0)).unwrap();
            assert!(left >= expected);
            if left == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the log was not shortened");
    };
    left(11).await;
    let status = source.log_status(TASK).await.unwrap();
    assert!(status.retained_bytes.unwrap() * 100 < before, "{status:?} of {before}");
    drop(feed);
    let tables = tables(&source).await;
    let error = source.changes(request(&tables, &begun)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
    assert_eq!(source.begin_capture(TASK, &tables).await.unwrap(), taken);
    let mut feed = source.changes(request(&tables, &taken)).await.unwrap();
    while !matches!(busy(&mut feed).await.unwrap(), ChangeEvent::Rows(rows) if rows.records() == 10)
    {
    }
    feed.acknowledge.acknowledge(&status.end);
    left(1).await;
    // An empty database of ids does not begin from the start.
    writer.execute_batch("DELETE FROM sqlite_sequence; INSERT INTO other VALUES (1)").unwrap();
    assert_eq!(rows(&mut feed).await.transactions[0].position.order, status.end.order + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_added_and_nothing_of_ours_is_left_in_the_end() {
    let database = Database::new(ITEMS);
    let schema = || -> Vec<String> {
        let connection = database.connect();
        let sql = "SELECT name FROM sqlite_schema WHERE name <> 'sqlite_sequence' ORDER BY name";
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(rusqlite::Result::unwrap).collect()
    };
    let before = schema();
    let (source, tables, first) = captured(&database.path).await;
    assert_eq!(super::feed::tables(&source).await, tables, "discovery leaves out what is ours");
    assert_eq!(source.begin_capture(TASK, &tables).await.unwrap(), first);
    let sql = "CREATE TABLE wide (a INTEGER NOT NULL, b TEXT NOT NULL, c TEXT NOT NULL, \
               PRIMARY KEY (a, b, c)); INSERT INTO wide VALUES (1, '', 'x')";
    database.connect().execute_batch(sql).unwrap();
    let tables = super::feed::tables(&source).await;
    let error = source.changes(request(&tables, &first)).await.unwrap_err();
    assert_eq!(error.context_value("table"), Some("main.wide"), "{error}");
    let error = source.log_snapshot(TASK, &tables, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings, "{error}");
    let second = source.begin_capture(TASK, &tables).await.unwrap();
    assert!(second.order > first.order);
    source.begin_capture("another task", &tables).await.unwrap();
    database.connect().execute_batch("UPDATE wide SET a = 2").unwrap();
    let mut feed = source.changes(request(&tables, &first)).await.unwrap();
    let mut model = Model::new();
    let order = source.log_status(TASK).await.unwrap().end.order;
    catch_up(&mut feed, &mut model, order, |_| {}).await;
    assert_eq!(model["wide"].len(), 1);
    for _ in 0..2 {
        source.end_capture(TASK).await.unwrap();
    }
    let error = refused(&mut feed).await;
    assert!(error.to_string().contains("dms_changes_1"), "{error}");
    assert!(source.log_status("another task").await.is_ok());
    source.end_capture("another task").await.unwrap();
    let mut expected = before;
    expected.extend(["sqlite_autoindex_wide_1", "wide"].map(str::to_owned));
    assert_eq!(schema(), expected);
    database.connect().execute_batch("INSERT INTO items (name) VALUES ('free')").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_cannot_be_followed_are_refused_by_name() {
    for (sql, says) in [
        ("CREATE TABLE t (a INTEGER, b)", "no key"),
        ("CREATE TABLE t (a INTEGER UNIQUE)", "no key"),
        ("CREATE TABLE t (a TEXT PRIMARY KEY); INSERT INTO t VALUES (NULL)", "NULL in its key"),
        (
            "CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE UNIQUE INDEX i ON t (abs(b))",
            "expression",
        ),
        ("CREATE TABLE t (a INTEGER PRIMARY KEY, b, c AS (b) STORED UNIQUE)", "generated"),
    ] {
        let database = Database::new(sql);
        let source = database.source().await;
        let tables = tables(&source).await;
        let checked = source.check_capture(TASK, &tables).await.unwrap_err();
        let begun = source.begin_capture(TASK, &tables).await.unwrap_err();
        for error in [checked, begun] {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(error.context_value("table"), Some("main.t"));
        }
        let count = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'dms%'";
        let left: i64 = database.connect().query_row(count, [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0, "nothing is left behind");
    }
    let database = Database::new(ITEMS);
    let source = database.source().await;
    let all = tables(&source).await;
    let mut keyless = all.clone();
    keyless[0].columns.remove(0);
    let error = source.check_capture(TASK, &keyless).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("column")), (ErrorKind::Settings, Some("id")));
    database.connect().execute_batch("DROP TABLE items").unwrap();
    let error = source.check_capture(TASK, &all).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context_value("table")),
        (ErrorKind::NotFound, Some("main.items"))
    );
    for text in ["", "0/15", "x", "-3"] {
        assert_eq!(source.parse_position(text).unwrap_err().kind(), ErrorKind::Settings);
    }
    let error = source.log_status("no such task").await.unwrap_err();
    assert_eq!(error.context_value("task"), Some("no such task"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_wanted_columns_are_read_and_a_wrong_value_is_named() {
    let database = Database::new(ITEMS);
    let (source, mut tables, position) = captured(&database.path).await;
    tables.truncate(1);
    tables[0].columns.remove(2);
    let writer = database.connect();
    writer.execute_batch("INSERT INTO items VALUES (1, 'a', 'no number')").unwrap();
    let mut feed = source.changes(request(&tables, &position)).await.unwrap();
    while !matches!(busy(&mut feed).await.unwrap(), ChangeEvent::Rows(rows) if rows.records() == 1)
    {
    }
    // A column that comes later is delivered.
    writer
        .execute_batch("ALTER TABLE items ADD COLUMN more REAL; UPDATE items SET more = 1")
        .unwrap();
    let ChangeEvent::Schema { table, .. } = busy(&mut feed).await.unwrap() else { panic!() };
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["id", "name", "more"]);
    assert_eq!(rows(&mut feed).await.records(), 1);
    writer.execute_batch("UPDATE items SET name = x'00' WHERE id = 1").unwrap();
    let error = refused(&mut feed).await;
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert_eq!(error.context_value("table"), Some("main.items"));
    assert_eq!(error.context_value("column"), Some("name"));
    assert_eq!(error.context_value("row"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_without_a_value_or_of_another_type_do_not_stay_unseen() {
    let database = Database::new("CREATE TABLE t (k INT PRIMARY KEY, v)");
    let (mut feed, _, writer) = feed_of(&database).await;
    let moment = "INSERT INTO t VALUES (NULL, 1), ('word', 2), (3, 3); DELETE FROM t WHERE v < 3";
    writer.execute_batch(&format!("BEGIN; {moment}; COMMIT")).unwrap();
    let seen = rows(&mut feed).await;
    assert_eq!(seen.records(), 1, "what was there for a moment only was never delivered");
    writer.execute_batch("INSERT INTO t VALUES (NULL, 1)").unwrap();
    let error = refused(&mut feed).await;
    assert!(error.to_string().contains("NULL in its key"), "{error}");
    assert_eq!(error.context_value("table"), Some("main.t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_replaced_is_noticed() {
    let database = Database::new(ITEMS);
    let (mut feed, position, writer) = feed_of(&database).await;
    let copy = database.beside("copy.db");
    writer.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    drop(writer);
    fs::rename(&copy, &database.path).unwrap();
    let error = refused(&mut feed).await;
    assert!(error.is_transient() && error.kind() == ErrorKind::Connection, "{error}");
    drop(feed);
    for log in ["source.db-wal", "source.db-shm"] {
        let _ = fs::remove_file(database.beside(log));
    }
    let source = database.source().await;
    let tables = tables(&source).await;
    let mut feed = source.changes(request(&tables, &position)).await.unwrap();
    database.connect().execute_batch("INSERT INTO other VALUES (1)").unwrap();
    while !matches!(busy(&mut feed).await.unwrap(), ChangeEvent::Rows(rows) if rows.records() == 1)
    {
    }
}
