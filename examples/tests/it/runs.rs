//! Stopping a run, and two runs of one task at once.

use crate::data;
use crate::harness::{Lane, Place, end, signal, start, wait};

const LANES: [Lane; 3] = [Lane::SqliteToSqlite, Lane::SqliteToParquet, Lane::ParquetToSqlite];

#[test]
fn a_stopped_run_ends_in_order_and_goes_on_later() {
    for (lane, name) in LANES.into_iter().zip(["INT", "TERM", "INT"]) {
        let place = Place::new(lane, &data::tables(40_000));
        let mut child = start(place.run());
        place.freeze_after(&mut child, 3);
        signal(&child, name);
        signal(&child, "CONT");
        let stopped = wait(child).with_code(130);
        assert_eq!(stopped.json()["status"], "stopped");
        assert!(stopped.stderr.contains("stopping"), "{stopped:?}");

        let held = place.partitions_held();
        assert!(held >= 3);
        let ended = end(place.run()).with_code(0).json();
        let sum = |key: &str| -> u64 {
            ended["tables"].as_array().unwrap().iter().map(|t| t[key].as_u64().unwrap()).sum()
        };
        assert_eq!(sum("rows"), 200_000);
        assert!(sum("rows_this_run") < 200_000, "{lane:?}: the second run began anew");
        place.assert_equal();
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let place = Place::new(Lane::SqliteToSqlite, &data::tables(600));
    // The writer hangs for a minute, so that an orderly end is far.
    let mut child = start(place.run_with_fault("sqlite-target-before-commit=wait:3"));
    place.wait_for_partitions(&mut child, 2);
    signal(&child, "INT");
    let began = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed().as_secs() < 50, "the second signal did not end the process");
        std::thread::sleep(std::time::Duration::from_millis(100));
        if child.try_wait().unwrap().is_none() {
            signal(&child, "INT");
        }
    }
    wait(child).with_code(130);
    end(place.run()).with_code(0);
    place.assert_equal();
}

#[test]
fn the_later_of_two_runs_takes_the_task_over() {
    for lane in LANES {
        let place = Place::new(lane, &data::tables(20_000));
        let mut first = start(place.run());
        place.freeze_after(&mut first, 3);
        let held = place.partitions_held();
        end(place.run()).with_code(0);
        assert!(place.partitions_held() > held + 10, "{lane:?}: the first run had little left");
        signal(&first, "CONT");
        let first = wait(first).with_code(1);
        assert!(first.stderr.contains("took it over"), "{lane:?}: {first:?}");
        place.assert_equal();
    }
}

#[test]
fn two_runs_at_once_leave_every_row_once() {
    for lane in LANES {
        let place = Place::new(lane, &data::tables(3000));
        let runs = [start(place.run()), start(place.run())].map(wait);
        for run in &runs {
            let fenced = run.code == Some(1) && run.stderr.contains("took it over");
            assert!(run.code == Some(0) || fenced, "{lane:?}: {run:?}");
        }
        assert!(runs.iter().any(|run| run.code == Some(0)), "{lane:?}: {runs:?}");
        place.assert_equal();
    }
}
