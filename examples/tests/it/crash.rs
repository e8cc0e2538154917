//! The process dies at every named fault point; the next run of the same command completes, and
//! every row and value is there once.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use crate::data;
use crate::harness::{Lane, Place, end};

/// The signal of `abort`.
pub(crate) const SIGABRT: i32 = 6;

/// Every fault point of these crates' sources, found as it is written there.
pub(crate) fn fault_points(members: &[&str]) -> BTreeSet<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut points = BTreeSet::new();
    for member in members {
        collect(&workspace.join(member).join("src"), &mut points);
    }
    points
}

/// Those that a full load may pass.
fn load_points() -> BTreeSet<String> {
    fault_points(&["dms-core", "dms-connectors", "dms-s3"])
}

fn collect(folder: &Path, points: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, points);
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            let named = text.split("fault::point(\"").skip(1);
            points.extend(named.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
}

fn is_on(point: &str, lane: Lane) -> bool {
    match point {
        _ if point.starts_with("full-load-") => true,
        _ if point.starts_with("sqlite-target-") => {
            matches!(lane, Lane::SqliteToSqlite | Lane::ParquetToSqlite | Lane::PostgresToSqlite)
        }
        _ if point.starts_with("postgres-target-") => lane == Lane::SqliteToPostgres,
        _ if point.starts_with("folder-target-") => lane.is_to_parquet(),
        // Those of changes: the bank passes them, and the tests of folders.
        _ if ["postgres-apply-", "sqlite-apply-", "folder-apply-"]
            .iter()
            .any(|of_changes| point.starts_with(of_changes)) =>
        {
            false
        }
        _ => panic!("fault point {point} belongs to no lane; add it to one"),
    }
}

fn crash_at_every_point(lane: Lane) {
    let place = Place::new(lane, &data::tables(600));
    for point in load_points().iter().filter(|point| is_on(point, lane)) {
        // The first passage leaves the least behind, a later one a half-done load.
        for passage in [1, 4] {
            place.clear_target();
            let status =
                place.run_with_fault(&format!("{point}=abort:{passage}")).output().unwrap().status;
            let aborted = status.signal() == Some(SIGABRT);
            // Some points are passed once in a run.
            let passed_over = passage > 1 && status.code() == Some(0);
            assert!(aborted || passed_over, "{lane:?} at {point}, passage {passage}: {status}");
            end(place.run()).with_code(0);
            place.assert_equal();
        }
    }
}

/// An error at a point is told and leaves nothing that hinders the next run.
fn fail_at_every_point(lane: Lane) {
    let place = Place::new(lane, &data::tables(300));
    for point in load_points().iter().filter(|point| is_on(point, lane)) {
        place.clear_target();
        let ended = end(place.run_with_fault(&format!("{point}=error"))).with_code(1);
        assert!(
            ended.stderr.contains(&format!("fault point {point} was told to fail")),
            "{ended:?}"
        );
        assert_eq!(ended.json()["status"], "failed");
        end(place.run()).with_code(0);
        place.assert_equal();
    }
}

#[test]
fn crash_sqlite_to_sqlite() {
    crash_at_every_point(Lane::SqliteToSqlite);
}

#[test]
fn crash_sqlite_to_parquet() {
    crash_at_every_point(Lane::SqliteToParquet);
}

#[test]
fn crash_parquet_to_sqlite() {
    crash_at_every_point(Lane::ParquetToSqlite);
}

#[test]
fn crash_sqlite_to_postgres() {
    crash_at_every_point(Lane::SqliteToPostgres);
}

#[test]
fn crash_postgres_to_sqlite() {
    crash_at_every_point(Lane::PostgresToSqlite);
}

#[test]
fn crash_postgres_to_parquet() {
    crash_at_every_point(Lane::PostgresToParquet);
}

#[test]
fn error_sqlite_to_postgres() {
    fail_at_every_point(Lane::SqliteToPostgres);
}

#[test]
fn error_sqlite_to_sqlite() {
    fail_at_every_point(Lane::SqliteToSqlite);
}

#[test]
fn error_sqlite_to_parquet() {
    fail_at_every_point(Lane::SqliteToParquet);
}

#[test]
fn what_was_loaded_before_a_crash_is_not_loaded_again() {
    for (lane, point) in [
        (Lane::SqliteToSqlite, "sqlite-target-after-commit"),
        (Lane::SqliteToParquet, "folder-target-after-receipt"),
        (Lane::ParquetToSqlite, "sqlite-target-after-commit"),
    ] {
        let place = Place::new(lane, &data::tables(600));
        end(place.run_with_fault(&format!("{point}=abort:3")));
        // A parallel worker may have committed one more.
        assert!(place.partitions_held() >= 3, "{lane:?}");
        let ended = end(place.run()).with_code(0);
        let json = ended.json();
        let sum = |key: &str| -> u64 {
            json["tables"].as_array().unwrap().iter().map(|t| t[key].as_u64().unwrap()).sum()
        };
        assert_eq!(sum("rows"), 3000, "{lane:?}");
        assert!(sum("rows_this_run") < 3000, "{lane:?}: {json:#}");
        place.assert_equal();
    }
}
