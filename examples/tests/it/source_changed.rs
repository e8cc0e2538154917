//! The source changes between a crash and the next run, or after a load.

use crate::data;
use crate::harness::{Lane, Place, end, migrate};

const CHANGE: &str = "
    UPDATE orders SET total = total + 1 WHERE id % 7 = 0;
    DELETE FROM orders WHERE id % 11 = 0;
    INSERT INTO orders VALUES (1000000, 'new', 1.5, 'late');
    UPDATE no_key SET b = 'changed' WHERE a = 3;
    INSERT INTO no_key VALUES (3, 'changed'), (3, 'changed');
    DELETE FROM pairs WHERE a % 5 = 0;
    INSERT INTO empty VALUES (1, 'not any more');";

#[test]
fn a_table_loaded_in_part_is_loaded_again() {
    for (lane, point) in [
        (Lane::SqliteToSqlite, "sqlite-target-after-commit"),
        (Lane::SqliteToParquet, "folder-target-after-receipt"),
        (Lane::ParquetToSqlite, "sqlite-target-after-commit"),
        (Lane::PostgresToSqlite, "sqlite-target-after-commit"),
        (Lane::PostgresToParquet, "folder-target-after-receipt"),
    ] {
        let place = Place::new(lane, &data::tables(8000));
        end(place.run_with_fault(&format!("{point}=abort:2")));
        assert!((2..5).contains(&place.partitions_held()), "{lane:?}");
        place.change_source(CHANGE);
        let ended = end(place.run()).with_code(0);
        // These have more partitions than that, so that none of them was complete.
        for table in ["main.orders", "main.no_key", "main.pairs"] {
            let (rows, this_run) = ended.rows(table);
            assert_eq!(rows, this_run, "{lane:?}: {table} mixes two states of the source");
        }
        place.assert_equal();
    }
}

#[test]
fn a_finished_table_stays_until_it_is_reloaded() {
    for lane in [Lane::SqliteToSqlite, Lane::SqliteToParquet] {
        let place = Place::new(lane, &data::tables(300));
        end(place.run()).with_code(0);
        end(migrate(&["validate", &place.task()])).with_code(0);
        place.change_source(
            "UPDATE orders SET note = 'x' WHERE id = 30; DELETE FROM codes WHERE label = 'label 7'",
        );

        let again = end(place.run()).with_code(0);
        assert_eq!(again.rows("main.orders"), (300, 0), "a finished table is not loaded again");

        let differs = end(migrate(&["validate", "--json", &place.task()])).with_code(1);
        let shown = end(migrate(&["validate", &place.task()])).with_code(1);
        for (ended, needles) in
            [(&differs, ["main.orders", "30"]), (&shown, ["main.codes", "code 00000217"])]
        {
            for needle in needles {
                assert!(ended.stdout.contains(needle), "{lane:?}: no {needle} in {ended:?}");
            }
        }
        differs.json();

        let task = place.task();
        let reloaded = end(migrate(&["run", "--json", "--quiet", "--reload", &task])).with_code(0);
        assert_eq!(reloaded.rows("main.codes"), (299, 299));
        place.assert_equal();
        end(migrate(&["validate", &task])).with_code(0);
    }
}
