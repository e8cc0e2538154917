//! A random workload by other connections, and the feed that has to follow it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use dms_connectors::sqlite::{SqliteSource, SqliteTarget};
use dms_core::change::{ChangeEvent, ChangeRows, Operation};
use dms_core::endpoint::{
    Apply, ChangeSource, ChangeTarget, FeedRequest, Partition, Run, Snapshot, Source, Step,
    TablePrepMode, Target,
};
use dms_core::schema::TableSchema;
use rusqlite::Connection;

use super::feed::{Model, TASK, captured, catch_up, filled, held, request};
use super::{Database, dump};

const TABLES: &str = "
CREATE TABLE items (id INTEGER PRIMARY KEY, u TEXT UNIQUE, v INTEGER, g TEXT AS (u || '!'));
CREATE TABLE pairs (a INTEGER NOT NULL, b TEXT NOT NULL COLLATE NOCASE, v INTEGER,
    PRIMARY KEY (b, a)) WITHOUT ROWID;
CREATE TABLE names (name TEXT NOT NULL PRIMARY KEY COLLATE NOCASE, n INTEGER UNIQUE, v TEXT);
CREATE TABLE anything (k NOT NULL PRIMARY KEY, v INTEGER);
CREATE TABLE keyless (x INTEGER NOT NULL, y TEXT NOT NULL DEFAULT 'd', z INTEGER,
    UNIQUE (y, x));
CREATE UNIQUE INDEX keyless_z ON keyless (z);
CREATE TABLE defaults (id INTEGER PRIMARY KEY, u TEXT NOT NULL DEFAULT word UNIQUE);
CREATE TABLE some (id INTEGER PRIMARY KEY, u TEXT, v INTEGER, live INTEGER);
CREATE UNIQUE INDEX some_live ON some (u) WHERE live AND v IS NOT 3;
CREATE TABLE reals (k REAL NOT NULL PRIMARY KEY, v INTEGER);
CREATE TABLE numbers (k NUMERIC NOT NULL, s TEXT NOT NULL, v INTEGER, PRIMARY KEY (k, s));
CREATE TABLE parents (id INTEGER PRIMARY KEY, v INTEGER);
CREATE TABLE children (id INTEGER PRIMARY KEY,
    parent INTEGER REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE, v INTEGER);
CREATE TABLE tick (id INTEGER PRIMARY KEY, counts TEXT, moved INTEGER);
INSERT INTO tick VALUES (1, '', 0);
";

const COUNTED: [&str; 11] = [
    "items", "pairs", "names", "anything", "keyless", "defaults", "some", "parents", "children",
    "reals", "numbers",
];

/// Numbers that look random and come again with the seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 >> 33) ^ self.0 >> 13;
        mixed % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.roll(of.len() as u64)).unwrap()]
    }

    fn statement(&mut self) -> String {
        let or = self.pick(&["", "OR REPLACE", "OR IGNORE", "OR REPLACE"]);
        let (n, m) = (self.roll(40), self.roll(40));
        let word = self.pick(&["a", "A", "b", "B", "ab", "aB", "Ab", "é", "É", "", "a ", "a\0b"]);
        let word =
            if word == "a\0b" { "'a' || char(0) || 'b'".to_owned() } else { format!("'{word}'") };
        let key = self.pick(&[
            "1",
            "1.0",
            "0",
            "0.0",
            "-0.0",
            "'1'",
            "x'31'",
            "x''",
            "''",
            "2",
            "2.5",
            "9223372036854775807",
            "9223372036854775808.0",
            "-9223372036854775808",
            "9e999",
            "'a'",
            "'A'",
            "CAST(x'ff00' AS TEXT)",
        ]);
        let number = self.pick(&["1", "1.0", "0", "-0.0", "0.5", "-0.5", "4e18", "'2'", "9e999"]);
        match self.roll(28) {
            0..=2 => format!("INSERT {or} INTO items (id, u, v) VALUES ({n}, 'u{m}', {m})"),
            3 => format!("INSERT {or} INTO items (u, v) VALUES ('u{m}', 0)"),
            4 => format!("UPDATE {or} items SET u = 'u' || (v + {m}) WHERE id > {n}"),
            5 => format!("UPDATE {or} items SET id = id + 1 WHERE id % 3 = {}", n % 3),
            6 => format!(
                "INSERT INTO items (id, u) VALUES ({n}, 'u{m}') ON CONFLICT (id) DO UPDATE \
                 SET v = ifnull(v, 0) + 1 ON CONFLICT (u) DO UPDATE SET id = id + 100"
            ),
            7 => format!("DELETE FROM items WHERE id BETWEEN {n} AND {n} + {}", m % 6),
            8 => format!("INSERT {or} INTO pairs VALUES ({}, {word}, {m})", n % 5),
            9 => format!("UPDATE {or} pairs SET b = {word} WHERE a = {}", n % 5),
            10 => format!("INSERT {or} INTO names VALUES ({word}, {m}, {word})"),
            11 => {
                format!("UPDATE {or} names SET name = upper(name), n = {m} WHERE n % 7 = {}", n % 7)
            }
            12 => format!("INSERT {or} INTO anything VALUES ({key}, {m})"),
            13 => format!("UPDATE {or} anything SET k = {key} WHERE v % 5 = {}", n % 5),
            14 => format!("INSERT {or} INTO keyless VALUES ({}, NULL, {m})", n % 8),
            15 => format!("UPDATE {or} keyless SET z = {m}, y = {word} WHERE x = {}", n % 8),
            16 => {
                format!("INSERT {or} INTO defaults VALUES ({n}, {})", self.pick(&["NULL", "'q'"]))
            }
            17 => format!("INSERT OR IGNORE INTO parents VALUES ({}, {m})", n % 9),
            18 => format!("INSERT OR IGNORE INTO children VALUES ({n}, {}, {m})", m % 9),
            19 => format!("UPDATE OR IGNORE parents SET id = id + 20 WHERE id = {}", n % 9),
            20 => format!("INSERT {or} INTO some VALUES ({n}, {word}, {}, {})", m % 5, m % 2),
            21 => format!("UPDATE {or} some SET live = 1 - live WHERE id % 3 = {}", n % 3),
            23 => format!("INSERT {or} INTO reals VALUES ({number}, {m})"),
            24 => format!("UPDATE {or} reals SET k = {number} WHERE v % 5 = {}", n % 5),
            25 => format!("INSERT {or} INTO numbers VALUES ({number}, {word}, {m})"),
            26 => format!("UPDATE {or} numbers SET k = -k WHERE v % 5 = {}", n % 5),
            22 => format!("DELETE FROM parents WHERE id % 9 = {}", n % 9),
            _ => match m {
                0..4 => format!("DELETE FROM {}", self.pick(&["items", "names", "keyless"])),
                4..8 => format!("DELETE FROM anything WHERE k = {key}"),
                8..12 => "UPDATE items SET v = -v".to_owned(),
                12..16 => format!("UPDATE {or} keyless SET x = x + 1"),
                _ => format!("DELETE FROM pairs WHERE b = {word}"),
            },
        }
    }
}

/// Runs transactions of random statements; each says in `tick` what the tables hold after it.
fn write(path: &Path, seed: u64, recursive: bool, stop: &AtomicBool, done: &AtomicU64) {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    let recursive = if recursive { "ON" } else { "OFF" };
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON; \
             PRAGMA recursive_triggers = {recursive};"
        ))
        .unwrap();
    let counts = COUNTED.map(|table| format!("(SELECT count(*) FROM {table})")).join(" || ' ' || ");
    let mut dice = Dice(seed);
    while !stop.load(Ordering::Relaxed) {
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        for _ in 0..=dice.roll(6) {
            let savepoint = dice.roll(8) == 0;
            if savepoint {
                connection.execute_batch("SAVEPOINT s").unwrap();
            }
            let statement = dice.statement();
            if let Err(error) = connection.execute_batch(&statement) {
                let code = error.sqlite_error_code();
                assert_eq!(
                    code,
                    Some(rusqlite::ErrorCode::ConstraintViolation),
                    "{statement}: {error}"
                );
            }
            if savepoint {
                connection.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
            }
        }
        if dice.roll(10) == 0 {
            connection.execute_batch("ROLLBACK").unwrap();
            continue;
        }
        let tick = format!("UPDATE tick SET moved = moved + 1, counts = {counts}; COMMIT");
        connection.execute_batch(&tick).unwrap();
        done.fetch_add(1, Ordering::Relaxed);
        if dice.roll(20) == 0 {
            thread::sleep(Duration::from_millis(dice.roll(80)));
        }
    }
}

/// Whether a state is one that a transaction left: what `tick` says is there.
fn check(model: &Model) {
    let Some(tick) = model.get("tick").and_then(|rows| rows.values().next()) else { return };
    let counts = COUNTED.map(|table| model.get(table).map_or(0, |rows| rows.len()).to_string());
    let expected = format!("Text({:?})", counts.join(" "));
    assert!(tick.contains(&expected) || tick.contains("Text(\"\")"), "{tick} but {expected}");
}

fn seed() -> u64 {
    let seed = std::env::var("DMS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() >> 8)
            .unwrap()
    });
    println!("DMS_SEED={seed}");
    seed
}

async fn follows(pragma: &str, event_bytes: usize) {
    let seed = seed();
    let database = Database::new(&format!("PRAGMA {pragma}; {TABLES}"));
    let before = Connection::open(&database.path).unwrap();
    let mut dice = Dice(seed ^ 1);
    for _ in 0..200 {
        let _ = before.execute_batch(&dice.statement());
    }
    drop(before);
    let (source, tables, begun) = captured(&database.path).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = [false, true]
        .into_iter()
        .enumerate()
        .map(|(number, recursive)| {
            let (path, stop, done) = (database.path.clone(), Arc::clone(&stop), Arc::clone(&done));
            let seed = seed.wrapping_add(number as u64 * 77);
            thread::spawn(move || write(&path, seed, recursive, &stop, &done))
        })
        .collect();
    while done.load(Ordering::Relaxed) < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The load and the feed meet: what the snapshot holds is left out, the rest is applied.
    let snapshot = loop {
        match source.log_snapshot(TASK, &tables, 3).await {
            Err(error) if error.is_transient() => {}
            taken => break taken.unwrap(),
        }
    };
    let mut position = snapshot.position().unwrap();
    assert!(position.order > begun.order);
    let mut model = held(&*snapshot, &tables).await;
    check(&model);
    drop(snapshot);
    let mut boundaries = 0;
    for _ in 0..12 {
        let request = FeedRequest { event_bytes, ..request(&tables, &position) };
        let mut feed = source.changes(request).await.unwrap();
        let order = source.log_status(TASK).await.unwrap().end.order;
        position = catch_up(&mut feed, &mut model, order, |model| {
            boundaries += 1;
            check(model);
        })
        .await;
        feed.acknowledge.acknowledge(&position);
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
    let mut feed = source.changes(request(&tables, &position)).await.unwrap();
    let order = source.log_status(TASK).await.unwrap().end.order;
    catch_up(&mut feed, &mut model, order, check).await;
    let end = source.snapshot(&tables, 1).await.unwrap();
    assert_eq!(filled(&model), filled(&held(&*end, &tables).await), "DMS_SEED={seed}");
    println!("{} transactions, {boundaries} boundaries", done.load(Ordering::Relaxed));
    assert!(boundaries > 5, "the feed saw the workload move");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_follows_any_workload_with_a_write_ahead_log() {
    follows("journal_mode = WAL", 1 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_follows_any_workload_with_a_rollback_journal() {
    follows("journal_mode = DELETE", 1 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_follows_any_workload_in_small_events() {
    follows("journal_mode = WAL", 500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_follows_any_workload_of_a_file_in_utf16() {
    follows("encoding = 'UTF-16le'", 1 << 20).await;
}

/// Applies what a feed delivers to a target, each transaction of the feed as one of the target.
struct Follower {
    target: Arc<SqliteTarget>,
    run: Run,
    apply: Option<Box<dyn Apply>>,
}

impl Follower {
    /// Loads the tables of a snapshot.
    async fn load(path: &Path, snapshot: &dyn Snapshot, tables: &[TableSchema]) -> Self {
        let target = SqliteTarget::open(path).await.unwrap();
        let run = target.begin(TASK).await.unwrap().run;
        let position = snapshot.position();
        for table in tables {
            let (mode, whole) = (TablePrepMode::DropAndCreate, Partition::whole());
            let parts = std::slice::from_ref(&whole);
            target.prepare(&run, table, mode, parts, position.as_ref()).await.unwrap();
            super::load(snapshot, &*target, &run, table, &whole).await.unwrap();
            target.finish(&run, table).await.unwrap();
        }
        let apply = target.begin_apply(&run).await.unwrap();
        apply.commit(&position.unwrap(), None).await.unwrap();
        Self { target, run, apply: None }
    }

    async fn rows(&mut self, rows: &ChangeRows) {
        let mut apply = match self.apply.take() {
            Some(apply) => apply,
            None => self.target.begin_apply(&self.run).await.unwrap(),
        };
        for batch in &rows.batches {
            let places = |operation: Operation| {
                let codes = batch.codes().iter().zip(0u32..);
                let chosen = codes.filter(|(code, _)| **code == operation.code());
                batch.take(&chosen.map(|(_, place)| place).collect::<Vec<_>>().into()).unwrap()
            };
            let (table, identity) = (Arc::clone(batch.table()), batch.identity().clone());
            let key = identity.columns(table.columns.len());
            let control = dms_core::change::CONTROL_COLUMNS;
            let key: Vec<usize> = key.iter().map(|place| control + place).collect();
            let all: Vec<usize> = (0..table.columns.len()).map(|place| control + place).collect();
            let gone = places(Operation::Remove).rows().project(&key).unwrap();
            let there = places(Operation::Upsert).rows().project(&all).unwrap();
            let schema = table.arrow_schema();
            let there = RecordBatch::try_new(schema, there.columns().to_vec()).unwrap();
            let (t, i) = (Arc::clone(&table), identity.clone());
            let gone = Step::Delete { table: t, identity: i, rows: gone, strict: false };
            apply.step(&gone, true).await.unwrap();
            let there = Step::Upsert { table, identity, rows: there };
            apply.step(&there, true).await.unwrap();
        }
        let transaction = &rows.transactions[0];
        if transaction.complete {
            apply.commit(&transaction.position, None).await.unwrap();
        } else {
            self.apply = Some(apply);
        }
    }

    /// Goes on from where the target is, until there is nothing more.
    async fn follow(&mut self, source: &SqliteSource, tables: &[TableSchema]) {
        let held = self.target.replication(&self.run).await.unwrap().position.unwrap();
        let mut feed = source.changes(request(tables, &held)).await.unwrap();
        let order = source.log_status(TASK).await.unwrap().end.order;
        loop {
            match super::feed::next(&mut feed).await.unwrap() {
                ChangeEvent::Rows(rows) => self.rows(&rows).await,
                ChangeEvent::Idle { position } if position.order >= order => break,
                _ => {}
            }
        }
        let held = self.target.replication(&self.run).await.unwrap().position.unwrap();
        feed.acknowledge.acknowledge(&held);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_follows_holds_what_the_source_holds() {
    let seed = seed();
    let database = Database::new(&format!("PRAGMA journal_mode = WAL; {TABLES}"));
    let (source, tables, _) = captured(&database.path).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (path, stop, done) = (database.path.clone(), Arc::clone(&stop), Arc::clone(&done));
        thread::spawn(move || write(&path, seed, false, &stop, &done))
    };
    while done.load(Ordering::Relaxed) < 50 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let snapshot = source.log_snapshot(TASK, &tables, 1).await.unwrap();
    let path = database.beside("target.db");
    let mut follower = Follower::load(&path, &*snapshot, &tables).await;
    drop(snapshot);
    let until = done.load(Ordering::Relaxed) + 400;
    while done.load(Ordering::Relaxed) < until {
        follower.follow(&source, &tables).await;
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    follower.follow(&source, &tables).await;
    for table in &tables {
        let name = &table.name.name;
        assert_eq!(dump(&path, name), dump(&database.path, name), "{name}, DMS_SEED={seed}");
    }
}
