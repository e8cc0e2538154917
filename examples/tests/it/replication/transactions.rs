//! What is one transaction at the source is one at the target, or a part of one.

use super::task::{Pair, Task};

const TRANSACTIONS: usize = 4000;
/// The one that is larger than a batch, among the small ones.
const LARGE: usize = 2000;

/// Each transaction writes into two tables, so much that every event and every batch ends in the
/// midst of one.
const TABLES: &str = "
    CREATE TABLE a (id serial PRIMARY KEY, tx integer, v text);
    CREATE TABLE b (id serial PRIMARY KEY, tx integer, v text);";

fn write(task: &Task) {
    task.source.execute(&format!(
        "DO $$BEGIN FOR i IN 1..{TRANSACTIONS} LOOP
             INSERT INTO a (tx, v) SELECT i, repeat('x', 100)
                 FROM generate_series(1, CASE i WHEN {LARGE} THEN 60000 ELSE 10 END);
             INSERT INTO b (tx, v) SELECT i, repeat('y', 100) FROM generate_series(1, 7);
             COMMIT; END LOOP; END$$"
    ));
}

/// How many transactions of the target have written these rows.
fn count(task: &Task, of: &str) -> usize {
    let rows = "SELECT tx, xmin::text FROM a UNION SELECT tx, xmin::text FROM b";
    let sql = format!("SELECT count({of}) AS n FROM ({rows}) r");
    let answer = task.target.query(&sql).unwrap().concat();
    answer.trim_matches(['(', ')']).parse().unwrap()
}

#[test]
fn none_is_ever_half_at_the_target() {
    for one_by_one in [false, true] {
        let mut task = Task::new(Pair::Postgres, TABLES);
        task.set("TargetMetadata", "BatchApplyEnabled", !one_by_one);
        task.set("ChangeProcessingTuning", "BatchApplyMemoryLimit", 1);
        task.catch_up().with_code(0);
        write(&task);
        task.catch_up().with_code(0);
        task.assert_same("a");
        task.assert_same("b");
        assert_eq!(count(&task, "DISTINCT tx"), TRANSACTIONS);
        // Each is of one transaction of the target.
        assert_eq!(count(&task, "*"), TRANSACTIONS);
        let of_target = count(&task, "DISTINCT xmin");
        if one_by_one {
            assert_eq!(of_target, TRANSACTIONS);
        } else {
            assert!((3..TRANSACTIONS / 10).contains(&of_target), "{of_target}");
        }
        let alone = format!(
            "DISTINCT tx) FILTER (WHERE xmin = (SELECT DISTINCT xmin::text \
            FROM a WHERE tx = {LARGE})"
        );
        assert_eq!(count(&task, &alone), 1, "others are in the transaction of the large one");
    }
}
