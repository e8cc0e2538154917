//! The columns before a table's own, in files of a load and of changes.

use std::path::Path;
use std::time::{Duration, SystemTime};

use arrow::array::{AsArray, StringArray};
use arrow::datatypes::Date32Type;
use dms_core::ErrorKind;
use dms_core::change::{Identity, Operation};
use dms_core::endpoint::{EndpointSettings, Partition, TablePrepMode, Target};
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_core::value::text::parse_column;
use dms_s3::{DataFormat, FolderSettings};
use serde_json::Value as Json;

use super::world::*;
use super::{int, text};

/// The rows of the table's loaded file.
fn load_rows(folder: &Path) -> Vec<Vec<Option<String>>> {
    let place = folder.join("_dms/tables/shop/items");
    let manifest = std::fs::read_dir(place).unwrap().next().unwrap().unwrap().path();
    let manifest: Json = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    read_file(folder, &manifest["files"][0])
}

/// The first fields of a loaded row, and of each kind of change.
async fn first_fields(set: impl Fn(&mut FolderSettings)) -> (String, Vec<String>) {
    let place = tempfile::tempdir().unwrap();
    let target = target_with(place.path(), set);
    let run = load(&target).await;
    let records = [
        record(Operation::Insert, 0, vec![int(70), text("i")]),
        record(Operation::Update, 1, vec![int(70), text("u")]),
        record(Operation::Delete, 2, vec![int(70), None]),
    ];
    let step = rows_step(&table(false), Identity::Key(vec![0]), 1, &records);
    commit_step(&target, &run, &step).await.unwrap();
    let commits = commits(place.path());
    let acts = commits[0]["acts"].as_array().unwrap();
    let changes = acts.iter().flat_map(|act| read_file(place.path(), &act["rows"]));
    let first = |row: Vec<Option<String>>| row[0].clone().unwrap();
    let changes = changes.map(first).collect();
    let loaded = load_rows(place.path()).swap_remove(0);
    // Who reads the folder as a source sees none of it.
    let tables = read_back(place.path()).await;
    let rows = &tables[&table(false).name];
    assert_eq!((tables.len(), rows.iter().map(|rows| rows.num_rows()).sum()), (1, 50));
    assert!(rows.iter().all(|rows| rows.schema() == table(false).arrow_schema()));
    (first(loaded), changes)
}

/// The table of the DMS guide; `70` and `0` are keys, where no operation comes first.
#[tokio::test]
async fn the_operation_stands_where_dms_has_it() {
    for format in [DataFormat::Parquet, DataFormat::Csv] {
        for (include, inserts, updates, load, changes) in [
            (false, false, false, "0", &["I", "U", "D"][..]),
            (true, false, false, "I", &["I", "U", "D"]),
            (true, true, false, "I", &["I"]),
            (false, true, false, "0", &["70"]),
            (true, false, true, "I", &["I", "U"]),
            (false, false, true, "0", &["I", "U"]),
        ] {
            let (loaded, changed) = first_fields(|settings| {
                settings.data_format = format;
                settings.include_op_for_full_load = include;
                settings.cdc_inserts_only = inserts;
                settings.cdc_inserts_and_updates = updates;
            })
            .await;
            let which = format!("{format:?} {include} {inserts} {updates}");
            assert_eq!((loaded.as_str(), changed.join(" ")), (load, changes.join(" ")), "{which}");
        }
    }
}

/// In files of a load it is when rows were written, or when the run began.
#[tokio::test]
async fn the_time_of_a_load() {
    const WAIT: Duration = Duration::from_secs(2);
    for (begun, format) in [(false, DataFormat::Csv), (true, DataFormat::Parquet)] {
        let place = tempfile::tempdir().unwrap();
        let target = target_with(place.path(), |settings| {
            settings.data_format = format;
            settings.include_op_for_full_load = true;
            settings.timestamp_column_name = Some("at".to_owned());
            settings.use_task_start_time_for_full_load_timestamp = begun;
        });
        let run = target.begin(TASK).await.unwrap().run;
        tokio::time::sleep(WAIT).await;
        load_under(&target, &run).await;
        let rows = load_rows(place.path());
        let at = rows[0][1].clone().unwrap();
        assert!(rows.iter().all(|row| row[0].as_deref() == Some("I") && row.len() == 4));
        assert!(rows.iter().all(|row| row[1].as_ref() == Some(&at)), "one batch, one time");
        let claim = place.path().join("_dms/tasks/nightly/epochs/0000000001.json");
        let claimed = std::fs::metadata(claim).unwrap().modified().unwrap();
        assert_eq!(at.len(), "2026-11-21 11:01:29.123456".len());
        let told = seconds(&at);
        let claimed = claimed.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        match begun {
            true => assert_eq!(told, claimed),
            false => assert!((claimed + 2..claimed + 60).contains(&told), "{at} {claimed}"),
        }
    }
}

/// Seconds since 1970 of a time as DMS writes it.
fn seconds(text: &str) -> u64 {
    let (date, time) = text.split_once(' ').unwrap();
    let date = parse_column(&StringArray::from(vec![date]), &LogicalType::Date).unwrap();
    let days = u64::try_from(date.as_primitive::<Date32Type>().value(0)).unwrap();
    let mut parts = time.split([':', '.']).map(|part| part.parse::<u64>().unwrap());
    let mut part = || parts.next().unwrap();
    days * 86_400 + part() * 3600 + part() * 60 + part()
}

#[tokio::test]
async fn a_column_that_the_table_has_itself_is_told_before_anything_is_removed() {
    let place = tempfile::tempdir().unwrap();
    load(&target(place.path(), DataFormat::Parquet)).await;
    for (set, column) in [
        (
            (|s| s.timestamp_column_name = Some("name".to_owned())) as fn(&mut FolderSettings),
            "name",
        ),
        (|s| s.include_op_for_full_load = true, "Op"),
    ] {
        let target = target_with(place.path(), set);
        let run = target.begin(TASK).await.unwrap().run;
        let columns = ["id", "name", "Op"].map(|name| Column::new(name, LogicalType::text()));
        let table = TableSchema::new(TableName::new("shop", "items"), columns.to_vec());
        let (whole, mode) = ([Partition::whole()], TablePrepMode::DropAndCreate);
        let error = target.prepare(&run, &table, mode, &whole, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        let said = error.to_string();
        assert!(said.contains(&format!("two columns {column};")) && said.contains("shop.items"));
    }
    assert_eq!(load_rows(place.path()).len(), 50);
}

#[test]
fn options_that_contradict_each_other_are_told_together() {
    for (options, named) in [
        (
            &[
                ("cdc-inserts-only", Json::Bool(true)),
                ("cdc-inserts-and-updates", Json::Bool(true)),
            ][..],
            &["cdc-inserts-only", "cdc-inserts-and-updates"][..],
        ),
        (
            &[("use-task-start-time-for-full-load-timestamp", Json::Bool(true))],
            &["use-task-start-time-for-full-load-timestamp", "timestamp-column-name"],
        ),
    ] {
        let mut endpoint = EndpointSettings::new("memory:///");
        endpoint
            .options
            .extend(options.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let error = FolderSettings::from_endpoint(&endpoint).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        assert!(named.iter().all(|name| error.to_string().contains(name)), "{error}");
    }
}
