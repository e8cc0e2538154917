//! Transactions and values that are larger than what may be held of them in memory.

use std::process::Child;
use std::time::{Duration, Instant};

use super::{Followed, signal_and_wait};
use crate::session::Session;

/// What a run may ever hold.
const MEMORY_BYTES: u64 = 300_000_000;

/// The most that a process has held so far (`VmHWM`, proc(5)).
fn held_bytes(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB"));
    kilobytes.map_or(0, |number| number.trim().parse::<u64>().unwrap() * 1024)
}

/// Runs until everything is applied; returns what it held at the most.
#[track_caller]
fn catch_up_measured(followed: &Followed) -> u64 {
    let (mut child, mut held) = (followed.start(Some("caught-up")), 0);
    let began = Instant::now();
    loop {
        held = held.max(held_bytes(&child));
        if let Some(status) = child.try_wait().unwrap() {
            let told = std::fs::read_to_string(followed.log()).unwrap();
            assert!(status.success(), "{status}: {told}");
            return held;
        }
        if began.elapsed() > Duration::from_secs(240) {
            signal_and_wait(&mut child);
            panic!("the run does not come to its end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn prepared(sql: &str) -> (Followed, Session) {
    let followed = Followed::new(true);
    let mut source = followed.source();
    source.must(sql);
    followed.catch_up();
    (followed, source)
}

#[test]
fn a_huge_transaction_needs_little_memory() {
    let (followed, mut source) = prepared(
        "CREATE TABLE t_huge (id bigint PRIMARY KEY, a int, b text);
         CREATE TABLE t_bare (a int, b text); ALTER TABLE t_bare REPLICA IDENTITY FULL;
         INSERT INTO t_huge SELECT i, i, 'before' FROM generate_series(1, 100) i",
    );
    source.must(
        "BEGIN;
         INSERT INTO t_huge SELECT i, i, 'row ' || i FROM generate_series(1000, 1000999) i;
         SAVEPOINT s; UPDATE t_huge SET b = 'taken back' WHERE id < 100000; ROLLBACK TO s;
         UPDATE t_huge SET a = a + 1 WHERE id < 500000;
         UPDATE t_huge SET id = -id WHERE id % 10 = 0;
         DELETE FROM t_huge WHERE id % 7 = 0;
         INSERT INTO t_bare SELECT i % 1000, 'alike' FROM generate_series(1, 20000) i;
         UPDATE t_bare SET b = 'other' WHERE a < 100;
         COMMIT",
    );
    let began = Instant::now();
    // Dies within it, and begins it anew.
    let child = followed.start(None);
    std::thread::sleep(Duration::from_millis(2500));
    followed.kill(child);
    let held = catch_up_measured(&followed);
    followed.assert_equal(&["t_huge", "t_bare"]);
    println!("held {held} bytes, took {:?}", began.elapsed());
    assert!(held < MEMORY_BYTES, "the run held {held} bytes");
}

#[test]
fn a_huge_value_passes() {
    let (followed, mut source) = prepared(
        "CREATE TABLE t_value (id int PRIMARY KEY, a int, t text, b bytea);
         ALTER TABLE t_value ALTER t SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
         INSERT INTO t_value VALUES (1, 1, 'x', 'x')",
    );
    source.must(
        "INSERT INTO t_value VALUES (2, 1, repeat('0123456789', 5000000), 'small');
         UPDATE t_value SET a = 2 WHERE id = 2;
         UPDATE t_value SET id = 3 WHERE id = 2;
         UPDATE t_value SET b = decode(repeat('00ff', 5000000), 'hex') WHERE id = 1;
         UPDATE t_value SET t = repeat('9876543210', 5000000) WHERE id = 1",
    );
    let held = catch_up_measured(&followed);
    let digest = "SELECT string_agg(concat_ws(' ', id, a, md5(t), length(t), md5(b), length(b)), \
        ', ' ORDER BY id) FROM t_value";
    assert_eq!(followed.target().text(digest), source.text(digest));
    println!("held {held} bytes");
    assert!(held < MEMORY_BYTES, "the run held {held} bytes");
}
