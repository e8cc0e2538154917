//! Changes of all tables in files of whole transactions.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use dms_core::ErrorKind;
use dms_core::change::{ChangeBatch, ChangeRows, Identity, Operation};
use dms_core::endpoint::{
    Alteration, ChangeTarget, EndpointSettings, Fidelity, Partition, Run, Step, TablePrepMode,
    Target,
};
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_s3::{DataFormat, FolderSettings, FolderTarget};
use serde_json::Value as Json;

use super::world::*;
use super::{int, text};

const EVENTS: u64 = 24;
/// Transactions of an event.
const EACH: u64 = 3;

fn preserving(settings: &mut FolderSettings) {
    settings.preserve_transactions = true;
    settings.cdc_path = Some("changes/all".to_owned());
}

fn preserving_target(folder: &Path) -> FolderTarget {
    target_with(folder, preserving)
}

/// A table that changes beside the loaded one, with other columns.
fn other() -> Arc<TableSchema> {
    let columns = vec![
        Column::new("table", LogicalType::text()),
        Column::new("n", LogicalType::Int64).required(),
        Column::new("m", LogicalType::Int64),
    ];
    Arc::new(TableSchema::new(TableName::new("log", "x, y"), columns).with_primary_key(["n"]))
}

/// An event: transactions with rows of both tables, by turns; and its lines in order.
fn event(number: u64, altered: bool) -> (Step, Vec<String>) {
    let (mut items, mut others, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    let mut transactions = Vec::new();
    let mut sequence = 0;
    for of in 0..EACH {
        let order = number * EACH + of + 1;
        for row in 0..1 + order % 4 {
            let id = i64::try_from(order * 10 + row).unwrap();
            if row % 2 == of % 2 {
                let note = altered.then(|| text("z"));
                let values = [int(id), text("a\"b,")].into_iter().chain(note).collect();
                items.push(record(Operation::Upsert, sequence, values));
                let note = if altered { ",z" } else { "" };
                lines.push(format!("U,items,shop,{id},\"a\"\"b,\"{note}"));
                sequence += 1;
            } else {
                let key = |id| vec![None, int(id), None];
                others.push(record(Operation::UpdateBefore, sequence, key(id)));
                let row = vec![text("t"), int(-id), Some(dms_core::value::Value::Null)];
                others.push(record(Operation::Update, sequence + 1, row));
                lines.push(format!("D,\"x, y\",log,,{id},"));
                lines.push(format!("I,\"x, y\",log,t,-{id},"));
                sequence += 2;
            }
        }
        transactions.push(transaction(order, sequence));
    }
    let batch = |table, key, records: &[_]| {
        ChangeBatch::from_records(table, Identity::Key(vec![key]), records).unwrap()
    };
    let batches = vec![batch(other(), 1, &others), batch(table(altered), 0, &items)];
    (Step::Log(ChangeRows { batches, transactions }), lines)
}

/// The steps of an event: before some, a table is emptied or gets a column.
fn steps(number: u64) -> (Vec<Step>, Vec<String>) {
    let mut steps = Vec::new();
    if number % 7 == 3 {
        steps.push(Step::Truncate { tables: vec![other().name.clone()] });
    }
    if number == 10 {
        let column = Column::new("note", LogicalType::text());
        let alterations = vec![Alteration::AddColumn { column, value: None }];
        steps.push(Step::Alter { from: table(false), to: table(true), alterations });
    }
    let (event, lines) = event(number, number >= 10);
    steps.push(event);
    (steps, lines)
}

fn all_lines() -> Vec<String> {
    (0..EVENTS).flat_map(|number| steps(number).1).collect()
}

/// Goes on from where the folder has it.
async fn go_on(target: &FolderTarget, run: &Run, at_once: usize) {
    let done = target.replication(run).await.unwrap().position.map_or(0, |at| at.order) / EACH;
    let left: Vec<u64> = (done..EVENTS).collect();
    for events in left.chunks(at_once) {
        let mut apply = target.begin_apply(run).await.unwrap();
        for step in events.iter().flat_map(|number| steps(*number).0) {
            apply.step(&step, false).await.unwrap();
        }
        let end = (events.last().unwrap() + 1) * EACH;
        apply.commit(&position(end), transaction(end, 0).committed_at).await.unwrap();
    }
}

/// The files of transactions that the commits name, in order.
fn transaction_files(folder: &Path) -> Vec<Json> {
    let mut order = 0;
    let mut files = Vec::new();
    for commit in commits(folder) {
        assert_eq!(commit["from"]["order"].as_u64().unwrap_or(0), order, "no gap, nothing twice");
        order = commit["to"]["order"].as_u64().unwrap();
        for act in commit["acts"].as_array().unwrap() {
            assert!(act.get("rows").is_none(), "no table has files of its own");
            files.extend(act.get("transactions").cloned());
        }
    }
    files
}

/// The lines of a file, whose sum is as its commit says.
fn lines(folder: &Path, file: &Json) -> Vec<String> {
    let bytes = std::fs::read(folder.join(file["path"].as_str().unwrap())).unwrap();
    assert_eq!(bytes.len() as u64, file["bytes"].as_u64().unwrap());
    assert_eq!(blake3::hash(&bytes).to_hex().as_str(), file["blake3"].as_str().unwrap());
    let lines: Vec<_> = std::str::from_utf8(&bytes).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len() as u64, file["rows"].as_u64().unwrap());
    lines
}

/// What the commits come to, and that a listing has the same files in the same order.
fn logged(folder: &Path) -> Vec<String> {
    let files = transaction_files(folder);
    let named: Vec<_> =
        files.iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect();
    let mut listed: Vec<String> = std::fs::read_dir(folder.join("changes/all"))
        .unwrap()
        .map(|entry| format!("changes/all/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    listed.sort();
    assert_eq!(named, listed);
    assert!(
        named.iter().all(|name| name.starts_with("changes/all/CDC_TXN-20261121-")),
        "{named:?}"
    );
    files.iter().flat_map(|file| lines(folder, file)).collect()
}

#[tokio::test]
async fn changes_of_all_tables_stand_in_the_order_of_the_source() {
    for format in [DataFormat::Parquet, DataFormat::Csv] {
        for (at_once, size) in [(1, 1 << 30), (5, 1 << 30), (100, 1 << 30), (100, 1)] {
            let place = tempfile::tempdir().unwrap();
            let target = target_with(place.path(), |settings| {
                preserving(settings);
                settings.data_format = format;
                settings.max_file_size_bytes = size;
            });
            let run = load(&target).await;
            go_on(&target, &run, at_once).await;
            assert_eq!(logged(place.path()), all_lines(), "{format:?} {at_once}");
            // Loads are as ever, and who reads the folder finds the loaded table alone.
            let tables = read_back(place.path()).await;
            let rows: usize = tables.values().flatten().map(|rows| rows.num_rows()).sum();
            assert_eq!((tables.len(), rows), (1, 50));
        }
    }
}

/// Commits tell where the acts stand that are no rows, and the columns of the rows around them.
#[tokio::test]
async fn acts_stand_between_files() {
    let place = tempfile::tempdir().unwrap();
    let target = preserving_target(place.path());
    let run = load(&target).await;
    go_on(&target, &run, 100).await;
    let commit = commits(place.path()).remove(0);
    let kind = |act: &Json| act.as_object().unwrap().keys().next().unwrap().clone();
    let acts = commit["acts"].as_array().unwrap();
    let kinds: Vec<_> = acts.iter().map(kind).collect();
    let [rows, empty] = ["transactions", "truncate"];
    assert_eq!(kinds, [rows, empty, rows, empty, "alter", rows, empty, rows]);
    let columns = |act: &Json| {
        let tables = act["transactions"]["tables"].as_array().unwrap();
        let names = |table: &Json| {
            let columns = table["table"]["columns"].as_array().unwrap();
            columns.iter().map(|c| c["name"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        tables
            .iter()
            .map(|table| (table["load"].as_u64().unwrap(), names(table)))
            .collect::<Vec<_>>()
    };
    let of = |items: &str| vec![(0, "table n m".to_owned()), (1, items.to_owned())];
    assert_eq!(columns(&acts[0]), of("id name"));
    assert_eq!(columns(&acts[7]), of("id name note"));
}

/// Runs alone in a process of its own, which may die; does nothing among the other tests.
#[tokio::test]
async fn child() {
    let Some(folder) = std::env::var_os("DMS_TEST_TRANSACTIONS") else { return };
    let target = preserving_target(Path::new(&folder));
    let run = load(&target).await;
    go_on(&target, &run, 3).await;
}

#[test]
fn a_killed_process_leaves_each_line_once() {
    for point in ["folder-apply-before-manifest", "folder-apply-committed"] {
        let place = tempfile::tempdir().unwrap();
        let run = || {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "changes::transactions::child"]);
            command.env("DMS_TEST_TRANSACTIONS", place.path());
            command.env("DMS_FAULT", format!("{point}=abort:2"));
            command.output().unwrap().status.success()
        };
        // Each run dies at its second commit, so that each makes one more at the least.
        let mut deaths = 0;
        while !run() {
            deaths += 1;
            assert!(deaths < 20);
        }
        assert!(deaths >= 3, "{deaths}");
        // What is written again has the same names, so that a listing shows nothing twice either.
        assert_eq!(logged(place.path()), all_lines(), "{point}");
    }
}

/// Of a run that was fenced a file may be left, which no commit names.
#[tokio::test]
async fn a_fenced_run_commits_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (older, newer) = (preserving_target(place.path()), preserving_target(place.path()));
    let first = load(&older).await;
    let mut apply = older.begin_apply(&first).await.unwrap();
    apply.step(&event(0, false).0, false).await.unwrap();
    let second = load(&newer).await;
    assert!(apply.commit(&position(EACH), None).await.unwrap_err().is_stop());
    go_on(&newer, &second, 10).await;
    let files = transaction_files(place.path());
    let named: Vec<_> = files.iter().flat_map(|file| lines(place.path(), file)).collect();
    assert_eq!(named, all_lines());
}

/// A transaction that comes in several events, each with a row.
fn parts(order: u64, hour: i64, count: i64) -> impl Iterator<Item = Step> {
    (0..count).map(move |part| {
        let records = [record(Operation::Insert, 0, vec![int(part), text("x")])];
        let batch = ChangeBatch::from_records(table(false), Identity::Key(vec![0]), &records);
        let mut transaction = transaction(order, 1);
        transaction.complete = part + 1 == count;
        transaction.committed_at = transaction.committed_at.map(|at| at + hour * 3_600_000_000);
        Step::Log(ChangeRows { batches: vec![batch.unwrap()], transactions: vec![transaction] })
    })
}

/// A source's clock may go back: files stay in the order of commits.
#[tokio::test]
async fn a_transaction_stands_in_one_file_and_names_keep_their_order() {
    let place = tempfile::tempdir().unwrap();
    let target = target_with(place.path(), |settings| {
        preserving(settings);
        settings.max_file_size_bytes = 1;
    });
    let run = load(&target).await;
    for (orders, hours) in [([1, 2], [1, 0]), ([3, 4], [0, 2])] {
        let mut apply = target.begin_apply(&run).await.unwrap();
        for (order, hour) in orders.into_iter().zip(hours) {
            for part in parts(order, hour, 3) {
                apply.step(&part, false).await.unwrap();
            }
        }
        apply.commit(&position(orders[1]), None).await.unwrap();
    }
    let logged = logged(place.path());
    assert_eq!(logged.len(), 12);
    let files = transaction_files(place.path());
    let of_file: Vec<_> = files
        .iter()
        .map(|file| (file["first"]["order"].as_u64(), file["last"]["order"].as_u64()))
        .collect();
    let one = |order| (Some(order), Some(order));
    assert_eq!(of_file, [one(1), one(2), one(3), one(4)]);
    let times: Vec<_> =
        files.iter().map(|file| file["path"].as_str().unwrap()[29..35].to_owned()).collect();
    assert_eq!(times, ["120130", "120130", "120130", "130133"]);
}

#[tokio::test]
async fn a_reload_leaves_files_of_transactions() {
    let place = tempfile::tempdir().unwrap();
    let target = preserving_target(place.path());
    let run = load(&target).await;
    go_on(&target, &run, 100).await;
    let before = logged(place.path());
    load_under(&target, &run).await;
    assert_eq!(logged(place.path()), before);
    // What comes now is of the new load.
    let mut apply = target.begin_apply(&run).await.unwrap();
    let end = EVENTS * EACH + 1;
    for part in parts(end, 0, 1) {
        apply.step(&part, false).await.unwrap();
    }
    apply.commit(&position(end), None).await.unwrap();
    let files = transaction_files(place.path());
    let load = |file: &Json| {
        let tables = file["tables"].as_array().unwrap().clone();
        let items = tables.into_iter().find(|table| table["table"]["name"]["name"] == "items");
        items.unwrap()["load"].as_u64().unwrap()
    };
    assert!(load(&files[0]) < load(files.last().unwrap()));
}

#[tokio::test]
async fn only_what_is_asked_for_is_written_with_time_and_names() {
    let place = tempfile::tempdir().unwrap();
    let target = target_with(place.path(), |settings| {
        preserving(settings);
        settings.cdc_inserts_only = true;
        settings.timestamp_column_name = Some("at".to_owned());
        settings.cdc_unchanged_column = Some("left".to_owned());
    });
    let run = load(&target).await;
    let records = [
        record(Operation::Insert, 0, vec![int(1), text("x")]),
        record(Operation::Update, 1, vec![int(1), text("y")]),
    ];
    let step = rows_step(&table(false), Identity::Key(vec![0]), 1, &records);
    commit_step(&target, &run, &step).await.unwrap();
    // Rows of several tables have one beginning in any case.
    assert_eq!(logged(place.path()), ["I,items,shop,2026-11-21 11:01:30.123456,1,x,"]);
}

#[tokio::test]
async fn what_csv_cannot_hold_is_told_before_the_load_and_at_a_change() {
    let place = tempfile::tempdir().unwrap();
    let target = preserving_target(place.path());
    let columns = vec![
        Column::new("id", LogicalType::Int64).required(),
        Column::new("tags", "array(int32)".parse().unwrap()),
    ];
    let table = TableSchema::new(TableName::new("shop", "tagged"), columns);
    let fidelity = &target.map_types(&table)[1].fidelity;
    let Fidelity::Impossible(why) = fidelity else { panic!("{fidelity:?}") };
    assert!(why.contains("preserve-transactions"), "{why}");
    let run = load(&target).await;
    let records = [record(Operation::Insert, 0, vec![int(1), Some(dms_core::value::Value::Null)])];
    let step = rows_step(&Arc::new(table), Identity::WholeRow, 1, &records);
    let mut apply = target.begin_apply(&run).await.unwrap();
    let error = apply.step(&step, true).await.unwrap_err().to_string();
    for named in ["preserve-transactions", "tags", "shop.tagged"] {
        assert!(error.contains(named), "{error}");
    }
}

#[tokio::test]
async fn a_table_whose_folder_holds_them_is_refused() {
    for path in ["shop/items", "/shop/items/deep/"] {
        let place = tempfile::tempdir().unwrap();
        let target = target_with(place.path(), |settings| {
            preserving(settings);
            settings.cdc_path = Some(path.to_owned());
        });
        let run = target.begin(TASK).await.unwrap().run;
        let (whole, mode) = ([Partition::whole()], TablePrepMode::DropAndCreate);
        let error = target.prepare(&run, &table(false), mode, &whole, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        let said = error.to_string();
        assert!(said.contains("cdc-path") && said.contains("shop.items"), "{said}");
    }
    // Beside tables there is room.
    let place = tempfile::tempdir().unwrap();
    let beside = |settings: &mut FolderSettings| {
        preserving(settings);
        settings.cdc_path = Some("shop".to_owned());
    };
    load(&target_with(place.path(), beside)).await;
}

#[test]
fn what_does_not_go_with_it_is_told_by_name() {
    let preserve = ("preserve-transactions", Json::Bool(true));
    let path = |path: &str| ("cdc-path", Json::String(path.to_owned()));
    for (options, named) in [
        (vec![preserve.clone()], ["preserve-transactions", "cdc-path"]),
        (vec![path("cdc")], ["preserve-transactions", "cdc-path"]),
        (
            vec![preserve.clone(), path("cdc"), ("date-partition-enabled", Json::Bool(true))],
            ["preserve-transactions", "date-partition-enabled"],
        ),
        (
            vec![preserve.clone(), path("cdc"), ("add-column-name", Json::Bool(true))],
            ["preserve-transactions", "add-column-name"],
        ),
        (vec![preserve.clone(), path("")], ["cdc-path", "folder"]),
        (vec![preserve.clone(), path("a//b")], ["cdc-path", "empty"]),
        (vec![preserve.clone(), path("../b")], ["cdc-path", ".."]),
        (vec![preserve.clone(), path("_DMS/b")], ["cdc-path", "_dms"]),
    ] {
        let mut endpoint = EndpointSettings::new("memory:///");
        let options = options.into_iter().map(|(name, value)| (name.to_owned(), value));
        endpoint.options.extend(options);
        let error = FolderSettings::from_endpoint(&endpoint).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        assert!(named.iter().all(|name| error.to_string().contains(name)), "{error}");
    }
}
