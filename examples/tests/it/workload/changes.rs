//! Random changes of tables of every kind, as SQL.

use crate::kill::Random;

/// The tables; the partitions have names of their own.
pub(super) const TABLES: [&str; 6] = ["t_int", "t_text", "t_num", "t_comp", "t_full", "t_part"];

pub(super) const MAKE: &str = "
CREATE TABLE t_int (id bigint PRIMARY KEY, a int, u int UNIQUE, b text, big text);
ALTER TABLE t_int ALTER big SET STORAGE EXTERNAL;
CREATE TABLE t_text (k text PRIMARY KEY, v numeric, d date);
CREATE TABLE t_num (n numeric PRIMARY KEY, v text);
CREATE TABLE t_comp (a int, b text, v int, w varchar(10), PRIMARY KEY (a, b));
CREATE TABLE t_full (x int, y text, z numeric, w text);
ALTER TABLE t_full ALTER w SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
CREATE TABLE t_part (id int, region int, v text, big text, PRIMARY KEY (id, region))
    PARTITION BY LIST (region);
CREATE TABLE p_0 PARTITION OF t_part FOR VALUES IN (0);
CREATE TABLE p_1 PARTITION OF t_part FOR VALUES IN (1);
CREATE TABLE p_rest PARTITION OF t_part DEFAULT;
ALTER TABLE p_0 ALTER big SET STORAGE EXTERNAL;
ALTER TABLE p_1 ALTER big SET STORAGE EXTERNAL;
INSERT INTO t_int SELECT i, i % 7, i, 'row ' || i, repeat(md5(i::text), i % 90)
    FROM generate_series(1, 1000) i;
INSERT INTO t_text SELECT 'key ' || i, i / 7.0, date '2020-01-01' + i
    FROM generate_series(1, 300) i;
INSERT INTO t_num SELECT i * 1.0, 'row ' || i FROM generate_series(1, 300) i;
INSERT INTO t_comp SELECT i % 10, 'b' || i / 10, i, 'w' FROM generate_series(1, 300) i;
INSERT INTO t_full SELECT i % 5, chr(97 + i % 3), i % 4, NULL FROM generate_series(1, 300) i;
INSERT INTO t_part SELECT i, i % 4, 'row ' || i, repeat(md5(i::text), i % 90)
    FROM generate_series(1, 300) i;";

/// One statement; it may break a key, and changes nothing then.
pub(super) fn change(random: &mut Random) -> String {
    match random.below(20) {
        0..=6 => of_int(random),
        7..=8 => of_text(random),
        9..=11 => of_num(random),
        12..=13 => of_comp(random),
        14..=16 => of_full(random),
        17..=18 => of_part(random),
        _ => rarely(random),
    }
}

fn text(random: &mut Random) -> String {
    match random.below(5) {
        0 => "NULL".to_owned(),
        1 => "''".to_owned(),
        2 => "E'Größe\\t\\\\N \\n'".to_owned(),
        _ => format!("'text {}'", random.below(1000)),
    }
}

/// A value that is stored apart from its row, or not.
fn long(random: &mut Random) -> String {
    match random.below(4) {
        0 => "NULL".to_owned(),
        1 => "'short'".to_owned(),
        _ => format!("repeat(md5('{}'), {})", random.below(1000), 80 + random.below(400)),
    }
}

fn number(random: &mut Random) -> String {
    match random.below(6) {
        0 => "NULL".to_owned(),
        scale => format!("{}::numeric(20,{})", random.below(6), scale - 1),
    }
}

/// A row of a table, by its place there.
fn pick(random: &mut Random, table: &str, key: &str) -> String {
    format!("(SELECT {key} FROM {table} ORDER BY {key} LIMIT 1 OFFSET {})", random.below(300))
}

fn of_int(random: &mut Random) -> String {
    let (id, a, b, big) = (random.below(3000), random.below(50), text(random), long(random));
    let row = pick(random, "t_int", "id");
    let other = pick(random, "t_int", "id");
    match random.below(14) {
        0..=2 => format!(
            "INSERT INTO t_int (id, a, u, b, big) VALUES ({id}, {a}, {}, {b}, {big})",
            if a == 0 { "NULL".to_owned() } else { random.below(100_000).to_string() }
        ),
        3 => format!("UPDATE t_int SET a = a + 1 WHERE id % 29 = {}", a % 29),
        4 => format!("UPDATE t_int SET b = {b} WHERE id = {row}"),
        5 => format!("UPDATE t_int SET big = {big}, a = {a} WHERE id = {row}"),
        // The long value stays where it is.
        6 => format!("UPDATE t_int SET id = {id} WHERE id = {row}"),
        7 => format!("UPDATE t_int SET id = -id, a = {a} WHERE id % 41 = {}", a % 41),
        8 => exchange(
            &row,
            &other,
            "UPDATE t_int SET id = -999999 WHERE id = p; UPDATE t_int SET id = p WHERE id = q; \
             UPDATE t_int SET id = q WHERE id = -999999",
        ),
        9 => exchange(
            &row,
            &other,
            "SELECT u INTO x FROM t_int WHERE id = p; SELECT u INTO y FROM t_int WHERE id = q; \
             UPDATE t_int SET u = NULL WHERE id = p; UPDATE t_int SET u = x WHERE id = q; \
             UPDATE t_int SET u = y WHERE id = p",
        ),
        10 => format!("DELETE FROM t_int WHERE id = {row}"),
        11 => format!("DELETE FROM t_int WHERE id % 97 = {a}"),
        // The same key, once more and otherwise.
        12 => exchange(
            &row,
            &other,
            "DELETE FROM t_int WHERE id = p; INSERT INTO t_int (id, b) VALUES (p, 'again'); \
             UPDATE t_int SET a = 1 WHERE id = p",
        ),
        _ => exchange(
            &row,
            &other,
            "UPDATE t_int SET a = 5 WHERE id = p; UPDATE t_int SET id = -777777 WHERE id = p; \
             UPDATE t_int SET big = 'now short' WHERE id = -777777; \
             DELETE FROM t_int WHERE id = -888888; \
             UPDATE t_int SET id = -888888 WHERE id = -777777",
        ),
    }
}

/// Statements about two different rows `p` and `q`.
fn exchange(row: &str, other: &str, statements: &str) -> String {
    format!(
        "DO $$ DECLARE p bigint := {row}; q bigint := {other}; x int; y int; BEGIN \
         IF p <> q THEN {statements}; END IF; END $$"
    )
}

fn of_text(random: &mut Random) -> String {
    let key = format!("'{} {}'", random.pick(&["key", "Key", "ключ"]), random.below(400));
    let (row, number) = (pick(random, "t_text", "k"), number(random));
    match random.below(5) {
        0 | 1 => format!("INSERT INTO t_text VALUES ({key}, {number}, '1999-12-31')"),
        2 => format!("UPDATE t_text SET v = {number} WHERE k = {row}"),
        3 => format!("UPDATE t_text SET k = {key}, d = NULL WHERE k = {row}"),
        _ => format!("DELETE FROM t_text WHERE k = {row}"),
    }
}

/// Keys that are equal, and look different.
fn of_num(random: &mut Random) -> String {
    let (row, scale) = (pick(random, "t_num", "n"), random.below(4));
    let key = format!("{}::numeric(20,{scale})", random.below(400));
    match random.below(7) {
        0 => format!("INSERT INTO t_num VALUES ({key}, {})", text(random)),
        1 => format!("UPDATE t_num SET n = n::numeric(20,{scale}) WHERE n = {row}"),
        2 => format!("UPDATE t_num SET v = {} WHERE n = {row}", text(random)),
        3 => format!("UPDATE t_num SET n = {key} WHERE n = {row}"),
        4 => format!(
            "WITH d AS (DELETE FROM t_num WHERE n = {row} RETURNING n) SELECT count(*) FROM d; \
             INSERT INTO t_num VALUES ({key}, 'again')"
        ),
        5 => format!("UPDATE t_num SET n = n::numeric(20,{scale}), v = 'all' WHERE n < 20"),
        _ => format!("DELETE FROM t_num WHERE n = {row}"),
    }
}

fn of_comp(random: &mut Random) -> String {
    let (a, b, v) = (random.below(12), random.below(40), random.below(1000));
    match random.below(6) {
        0 | 1 => format!("INSERT INTO t_comp (a, b, v) VALUES ({a}, 'b{b}', {v})"),
        2 => format!("UPDATE t_comp SET v = {v} WHERE a = {a}"),
        3 => format!("UPDATE t_comp SET b = b || 'x' WHERE a = {a} AND length(b) < 8"),
        4 => format!("UPDATE t_comp SET a = {a} WHERE b = 'b{b}' AND a = {}", random.below(12)),
        _ => format!("DELETE FROM t_comp WHERE a = {a} AND v % 5 = {}", v % 5),
    }
}

fn of_full(random: &mut Random) -> String {
    let x = if random.below(5) == 0 { "NULL".to_owned() } else { random.below(5).to_string() };
    let (y, z, w) = (random.pick(&["'a'", "'b'", "NULL"]), number(random), long(random));
    // One of the rows that are alike.
    let row = format!(
        "ctid = (SELECT ctid FROM t_full ORDER BY x, y, z LIMIT 1 OFFSET {})",
        random.below(200)
    );
    match random.below(8) {
        0 => format!("INSERT INTO t_full (x, y, z, w) VALUES ({x}, {y}, {z}, {w})"),
        1 => {
            format!("INSERT INTO t_full (x, y, z) SELECT {x}, {y}, {z} FROM generate_series(1, 5)")
        }
        2 => format!("UPDATE t_full SET z = {z} WHERE {row}"),
        3 => format!("UPDATE t_full SET x = {x}, w = {w} WHERE {row}"),
        4 => format!("UPDATE t_full SET y = {y} WHERE x = {x} AND w IS NULL"),
        5 => format!("UPDATE t_full SET z = z::numeric(20,{}) WHERE x = {x}", random.below(4)),
        6 => format!("DELETE FROM t_full WHERE {row}"),
        _ => format!("DELETE FROM t_full WHERE x IS NOT DISTINCT FROM {x} AND y = {y}"),
    }
}

fn of_part(random: &mut Random) -> String {
    let (id, region, row) = (random.below(500), random.below(5), random.below(400));
    match random.below(6) {
        0 | 1 => format!("INSERT INTO t_part VALUES ({id}, {region}, 'new', {})", long(random)),
        // To another partition.
        2 => format!("UPDATE t_part SET region = {region} WHERE id = {row}"),
        3 => format!("UPDATE t_part SET v = {} WHERE id % 13 = {}", text(random), id % 13),
        4 => format!("UPDATE t_part SET id = {id} WHERE id = {row}"),
        _ => format!("DELETE FROM t_part WHERE id = {row}"),
    }
}

fn rarely(random: &mut Random) -> String {
    match random.below(12) {
        0 => "TRUNCATE t_text".to_owned(),
        1 => "TRUNCATE t_full, t_comp; INSERT INTO t_full (x) VALUES (1), (1)".to_owned(),
        2 => "TRUNCATE t_part".to_owned(),
        3 => "INSERT INTO t_comp (a, b) VALUES (1, 'gone'); TRUNCATE t_comp".to_owned(),
        4..=7 => {
            "INSERT INTO t_full SELECT i % 5, 'c', i % 4 FROM generate_series(1, 100) i".to_owned()
        }
        _ => "UPDATE t_int SET a = a + 1".to_owned(),
    }
}
