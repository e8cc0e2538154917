//! A history of changes with what they come to, and a reader that goes by the commits.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::util::display::array_value_to_string;
use dms_core::batch::BatchStream;
use dms_core::change::{ChangeBatch, ChangeRecord, ChangeRows, Identity, Operation, Transaction};
use dms_core::endpoint::{
    Alteration, ChangeTarget, Partition, ReadRequest, Run, Source, Step, TablePrepMode, Target,
};
use dms_core::mapping::Selection;
use dms_core::position::Position;
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_core::value::Value;
use dms_s3::{DataFormat, FolderSettings, FolderSource, FolderStore, FolderTarget};
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value as Json;

pub(crate) const TASK: &str = "nightly";
pub(crate) const LOADED: i64 = 50;
pub(crate) const TRANSACTIONS: u64 = 60;
/// The transaction at which a column comes.
const ALTERED: u64 = 30;
/// 2026-11-21 11:01:29.123456
const TIME: i64 = 1_795_258_889_123_456;

/// Rows by key; values as text, NULL as `None`.
pub(crate) type Model = BTreeMap<String, Vec<Option<String>>>;

pub(crate) fn table(altered: bool) -> Arc<TableSchema> {
    let mut columns = vec![
        Column::new("id", LogicalType::Int64).required(),
        Column::new("name", LogicalType::text()),
    ];
    if altered {
        columns.push(Column::new("note", LogicalType::text()));
    }
    let name = TableName::new("shop", "items");
    Arc::new(TableSchema::new(name, columns).with_primary_key(["id"]))
}

pub(crate) fn position(order: u64) -> Position {
    Position::new(order, format!("0/{order:X}"))
}

pub(crate) fn target(folder: &Path, format: DataFormat) -> FolderTarget {
    target_with(folder, |settings| settings.data_format = format)
}

pub(crate) fn target_with(folder: &Path, set: impl FnOnce(&mut FolderSettings)) -> FolderTarget {
    let mut settings = FolderSettings::new(format!("file://{}", folder.display()));
    set(&mut settings);
    FolderTarget::new(FolderStore::open(&settings).unwrap(), settings).unwrap()
}

pub(crate) fn transaction(order: u64, end: u64) -> Transaction {
    Transaction {
        position: position(order),
        committed_at: Some(TIME + i64::try_from(order).unwrap() * 1_000_000),
        id: order.to_string(),
        end,
        complete: true,
    }
}

pub(crate) fn rows_step(
    table: &Arc<TableSchema>,
    identity: Identity,
    order: u64,
    records: &[ChangeRecord],
) -> Step {
    let end = records.last().map_or(0, |record| record.sequence + 1);
    let batch = ChangeBatch::from_records(Arc::clone(table), identity, records).unwrap();
    let transactions = vec![transaction(order, end)];
    Step::Log(ChangeRows { batches: vec![batch], transactions })
}

pub(crate) fn record(
    operation: Operation,
    sequence: u64,
    values: Vec<Option<Value>>,
) -> ChangeRecord {
    ChangeRecord { operation, sequence, values }
}

/// Loads the table, if it is not there yet.
pub(crate) async fn load(target: &FolderTarget) -> Run {
    let progress = target.begin(TASK).await.unwrap();
    let run = progress.run;
    if progress.tables.get(&table(false).name).is_none_or(|table| !table.finished) {
        load_under(target, &run).await;
    }
    run
}

/// Loads the table.
pub(crate) async fn load_under(target: &FolderTarget, run: &Run) {
    let (table, whole) = (table(false), Partition::whole());
    let at = position(0);
    let mode = TablePrepMode::DropAndCreate;
    target.prepare(run, &table, mode, std::slice::from_ref(&whole), Some(&at)).await.unwrap();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..LOADED));
    let names: ArrayRef =
        Arc::new((0..LOADED).map(|id| Some(format!("n{id}"))).collect::<StringArray>());
    let rows = RecordBatch::try_new(table.arrow_schema(), vec![ids, names]).unwrap();
    let rows = BatchStream::from_batches(table.arrow_schema(), vec![rows]);
    target.load(run, &table, &whole, Some(&at), rows).await.unwrap();
    target.finish(run, &table).await.unwrap();
}

/// Commits a step as the first of all.
pub(crate) async fn commit_step(
    target: &FolderTarget,
    run: &Run,
    step: &Step,
) -> dms_core::Result<()> {
    let mut apply = target.begin_apply(run).await?;
    apply.step(step, false).await?;
    apply.commit(&position(1), None).await
}

pub(crate) fn loaded() -> Model {
    (0..LOADED)
        .map(|id| (id.to_string(), vec![Some(id.to_string()), Some(format!("n{id}"))]))
        .collect()
}

/// Transactions in order, and what the table holds in the end.
pub(crate) fn history() -> (Vec<(u64, Vec<Step>)>, Model) {
    let (mut model, mut transactions) = (loaded(), Vec::new());
    let mut random = 7u64;
    let mut next = move |below: usize| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below
    };
    let mut new_id = 1000;
    for order in 1..=TRANSACTIONS {
        let mut steps = Vec::new();
        if order % 23 == 0 {
            model.clear();
            steps.push(Step::Truncate { tables: vec![table(false).name.clone()] });
        }
        if order == ALTERED {
            model.values_mut().for_each(|row| row.push(None));
            let column = Column::new("note", LogicalType::text());
            let alterations = vec![Alteration::AddColumn { column, value: None }];
            steps.push(Step::Alter { from: table(false), to: table(true), alterations });
        }
        let table = table(order >= ALTERED);
        let mut records: Vec<ChangeRecord> = Vec::new();
        for at in 0..6 {
            let sequence = records.len() as u64;
            let row = |id: i64, text: &str| {
                let mut row = vec![Some(Value::Int(id)), Some(Value::Text(text.into()))];
                row.extend(
                    (order >= ALTERED)
                        .then(|| Some(if at == 0 { Value::Null } else { Value::Text("x".into()) })),
                );
                row
            };
            let texts = |row: &[Option<Value>]| -> Vec<Option<String>> {
                row.iter()
                    .map(|value| match value {
                        Some(Value::Int(id)) => Some(id.to_string()),
                        Some(Value::Text(text)) => Some(text.to_string()),
                        _ => None,
                    })
                    .collect()
            };
            let held: Vec<String> = model.keys().cloned().collect();
            let key = |id: &str| {
                let mut row = vec![None; table.columns.len()];
                row[0] = Some(Value::Int(id.parse().unwrap()));
                row
            };
            match if held.is_empty() { 0 } else { next(4) } {
                0 => {
                    let row = row(new_id, "new");
                    model.insert(new_id.to_string(), texts(&row));
                    records.push(record(Operation::Insert, sequence, row));
                    new_id += 1;
                }
                1 => {
                    let id = &held[next(held.len())];
                    let row = row(id.parse().unwrap(), &format!("u{order}"));
                    model.insert(id.clone(), texts(&row));
                    records.push(record(Operation::Update, sequence, row));
                }
                2 => {
                    let id = &held[next(held.len())];
                    model.remove(id);
                    let row = row(new_id, "moved");
                    model.insert(new_id.to_string(), texts(&row));
                    records.push(record(Operation::UpdateBefore, sequence, key(id)));
                    records.push(record(Operation::Update, sequence + 1, row));
                    new_id += 1;
                }
                _ => {
                    let id = &held[next(held.len())];
                    model.remove(id);
                    records.push(record(Operation::Delete, sequence, key(id)));
                }
            }
        }
        steps.push(rows_step(&table, Identity::Key(vec![0]), order, &records));
        transactions.push((order, steps));
    }
    (transactions, model)
}

/// Goes on with the history from where the folder has it, some transactions a commit.
pub(crate) async fn follow(
    target: &FolderTarget,
    run: &Run,
    at_once: usize,
) -> dms_core::Result<()> {
    let after = target.replication(run).await?.position.map_or(0, |position| position.order);
    let (transactions, _) = history();
    let left: Vec<_> = transactions.iter().filter(|(order, _)| *order > after).collect();
    for transactions in left.chunks(at_once) {
        let mut apply = target.begin_apply(run).await?;
        for step in transactions.iter().flat_map(|(_, steps)| steps) {
            apply.step(step, false).await?;
        }
        let order = transactions.last().unwrap().0;
        apply.commit(&position(order), transaction(order, 0).committed_at).await?;
    }
    Ok(())
}

/// The commits of the task, in order.
pub(crate) fn commits(folder: &Path) -> Vec<Json> {
    commits_of(folder, TASK)
}

/// The commits of some task, in order.
pub(crate) fn commits_of(folder: &Path, task: &str) -> Vec<Json> {
    let place = folder.join("_dms/tasks").join(task).join("changes/commits");
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        .collect()
}

/// What the commits come to over the loaded rows, each change strictly: what comes was not there,
/// what changes or goes was.
pub(crate) fn replay(folder: &Path) -> Model {
    let mut model = loaded();
    let mut order = 0;
    for (at, commit) in commits(folder).iter().enumerate() {
        assert_eq!(commit["number"], at as u64 + 1);
        assert_eq!(commit["from"]["order"].as_u64().unwrap_or(0), order, "no gap, nothing twice");
        order = commit["to"]["order"].as_u64().unwrap();
        for act in commit["acts"].as_array().unwrap() {
            if act.get("truncate").is_some() {
                model.clear();
            } else if act.get("alter").is_some() {
                model.values_mut().for_each(|row| row.push(None));
            } else {
                apply_file(folder, &act["rows"], &mut model);
            }
        }
    }
    model
}

fn apply_file(folder: &Path, file: &Json, model: &mut Model) {
    let rows = read_file(folder, file);
    assert_eq!(rows.len() as u64, file["rows"].as_u64().unwrap());
    for row in rows {
        let (op, row) = row.split_first().unwrap();
        let key = row[0].clone().unwrap();
        match op.as_deref().unwrap() {
            "I" => assert!(model.insert(key, row.to_vec()).is_none(), "{row:?} twice"),
            "U" => assert!(model.insert(key, row.to_vec()).is_some(), "{row:?} is not there"),
            "D" => assert!(model.remove(&key).is_some(), "{row:?} is not there"),
            other => panic!("{other}"),
        }
    }
}

/// The rows of a file as text.
pub(crate) fn read_file(folder: &Path, file: &Json) -> Vec<Vec<Option<String>>> {
    let path = folder.join(file["path"].as_str().unwrap());
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, file["bytes"].as_u64().unwrap());
    assert_eq!(blake3::hash(&bytes).to_hex().as_str(), file["blake3"].as_str().unwrap());
    if path.extension().is_some_and(|ending| ending == "csv") {
        let text = String::from_utf8(bytes).unwrap();
        let value = |field: &str| (!field.is_empty()).then(|| field.trim_matches('"').to_owned());
        return text.lines().map(|line| line.split(',').map(value).collect()).collect();
    }
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap());
    let mut rows = Vec::new();
    for batch in reader.unwrap().build().unwrap() {
        let batch = batch.unwrap();
        for row in 0..batch.num_rows() {
            let value = |array: &ArrayRef| {
                (!array.is_null(row)).then(|| array_value_to_string(array, row).unwrap())
            };
            rows.push(batch.columns().iter().map(value).collect());
        }
    }
    rows
}

/// The tables that a source finds in a folder, each with its rows in the order of its files.
pub(crate) async fn read_back(folder: &Path) -> BTreeMap<TableName, Vec<RecordBatch>> {
    let source = FolderSource::open(&format!("file://{}", folder.display())).unwrap();
    let catalog = source.discover(&Selection::all()).await.unwrap();
    let snapshot = source.snapshot(&catalog.tables, 1).await.unwrap();
    let mut tables = BTreeMap::new();
    for table in catalog.tables {
        let name = table.name.clone();
        let stream = snapshot.read(ReadRequest::whole(Arc::new(table))).await.unwrap();
        tables.insert(name, stream.try_collect().await.unwrap());
    }
    tables
}

/// The files of changes that the commits name, and those that are there.
pub(crate) fn files(folder: &Path) -> (Vec<String>, Vec<String>) {
    let mut named: Vec<String> = commits(folder)
        .iter()
        .flat_map(|commit| commit["acts"].as_array().unwrap().clone())
        .filter_map(|act| act["rows"]["path"].as_str().map(str::to_owned))
        .collect();
    let mut there: Vec<String> = std::fs::read_dir(folder.join("shop/items"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("LOAD"))
        .map(|name| format!("shop/items/{name}"))
        .collect();
    named.sort();
    there.sort();
    (named, there)
}
