//! A process dies while it loads a folder: what is left is refused or whole, and the next run
//! completes it. The process is this test program, told to run [`child`] alone.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use arrow::array::types::Int64Type;
use arrow::array::{ArrayRef, AsArray, Int64Array, LargeBinaryArray, RecordBatch};
use dms_core::ErrorKind;
use dms_core::endpoint::{ReadRequest, Source};
use dms_core::full_load::{FullLoad, StartType};
use dms_core::mapping::{Selection, TableMapping};
use dms_core::memory::MemorySource;
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_core::task::TaskSettings;
use dms_s3::{Compression, Dictionary, FolderSettings, FolderSource, FolderStore, FolderTarget};
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

const ROWS: i64 = 40_000;
/// Of each partition; there are four.
const PARTITION_ROWS: i64 = 10_000;

fn table() -> TableSchema {
    let id = Column::new("id", LogicalType::Int64).required();
    TableSchema::new(TableName::new("shop", "items"), vec![id]).with_primary_key(["id"])
}

fn batches() -> Vec<RecordBatch> {
    let batches = (0..ROWS).step_by(1000).map(|from| {
        // Without order, so that they cannot be squeezed to nothing.
        let ids = (from..from + 1000).map(|id| id.wrapping_mul(2_654_435_761) ^ (id << 40));
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
        RecordBatch::try_new(table().arrow_schema(), vec![ids]).unwrap()
    });
    batches.collect()
}

async fn load(folder: &Path, start: StartType) -> dms_core::Result<()> {
    let mut settings = FolderSettings::new(format!("file://{}", folder.display()));
    // Two files a partition.
    settings.row_group_rows = 2500;
    settings.max_file_size_bytes = 25_000;
    let source = MemorySource::default();
    source.insert(table(), batches());
    load_from(source, settings, PARTITION_ROWS * 8, start).await
}

async fn load_from(
    source: MemorySource,
    settings: FolderSettings,
    partition_bytes: i64,
    start: StartType,
) -> dms_core::Result<()> {
    let target = FolderTarget::new(FolderStore::open(&settings)?, settings)?;
    let mut settings = TaskSettings::default();
    settings.parallel = 1;
    settings.partition_bytes = u64::try_from(partition_bytes).unwrap();
    let tables = TableMapping::new().include("shop", "%");
    let task = FullLoad::new(Arc::new(source), Arc::new(target), tables).named("crash");
    let report = task.with_settings(settings).starting(start).run(CancellationToken::new()).await?;
    report.tables.into_iter().find_map(|table| table.error).map_or(Ok(()), Err)
}

/// The number of rows, all different, or the error.
async fn rows(folder: &Path) -> dms_core::Result<usize> {
    let source = FolderSource::open(&format!("file://{}", folder.display()))?;
    let catalog = source.discover(&Selection::all()).await?;
    let snapshot = source.snapshot(&catalog.tables, 1).await?;
    let request = ReadRequest::whole(Arc::new(catalog.tables[0].clone()));
    let batches: Vec<RecordBatch> = snapshot.read(request).await?.try_collect().await?;
    let ids = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values());
    let mut ids: Vec<i64> = ids.copied().collect();
    let rows = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), rows, "no row comes twice");
    Ok(rows)
}

/// What the other process does; without a folder given, in one of its own.
#[tokio::test]
async fn child() {
    let given = std::env::var_os("DMS_TEST_FOLDER");
    let own = tempfile::tempdir().unwrap();
    let folder = given.as_ref().map_or(own.path(), Path::new);
    let reload = std::env::var_os("DMS_TEST_RELOAD").is_some();
    load(folder, if reload { StartType::Reload } else { StartType::Resume }).await.unwrap();
    assert_eq!(rows(folder).await.unwrap(), usize::try_from(ROWS).unwrap());
}

const BLOBS: i64 = 24;

/// The same with a file so large that it reaches the disk in pieces: a blob of 1 MiB a batch.
#[tokio::test]
async fn child_of_blobs() {
    let given = std::env::var_os("DMS_TEST_FOLDER");
    let own = tempfile::tempdir().unwrap();
    let folder = given.as_ref().map_or(own.path(), Path::new);
    let mut table = table();
    table.columns.push(Column::new("blob", LogicalType::Blob));
    let batches = (0..BLOBS).map(|id| {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![id]));
        let blobs: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values([vec![7; 1 << 20]]));
        RecordBatch::try_new(table.arrow_schema(), vec![ids, blobs]).unwrap()
    });
    let source = MemorySource::default();
    source.insert(table.clone(), batches.collect());
    let mut settings = FolderSettings::new(format!("file://{}", folder.display()));
    settings.compression = Compression::None;
    settings.dictionary = Dictionary::Off;
    settings.row_group_bytes = 1 << 20;
    load_from(source, settings, BLOBS << 21, StartType::Resume).await.unwrap();
    assert_eq!(rows(folder).await.unwrap(), usize::try_from(BLOBS).unwrap());
}

/// `shell` runs before the program, in its process.
fn run_child(folder: &Path, fault: Option<&str>, reload: bool, shell: &str) -> Output {
    run_test("crash::child", folder, fault, reload, shell)
}

fn run_test(test: &str, folder: &Path, fault: Option<&str>, reload: bool, shell: &str) -> Output {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{shell} exec \"$0\" \"$@\""));
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test]);
    command.env("DMS_TEST_FOLDER", folder).env_remove("DMS_FAULT").env_remove("RUST_BACKTRACE");
    if let Some(fault) = fault {
        command.env("DMS_FAULT", fault);
    }
    if reload {
        command.env("DMS_TEST_RELOAD", "1");
    }
    command.output().unwrap()
}

async fn assert_whole_or_refused(folder: &Path, when: &str) {
    match rows(folder).await {
        Ok(rows) => assert_eq!(rows, usize::try_from(ROWS).unwrap(), "{when}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{when}: {error}"),
    }
}

/// Files below a folder by their names on the disk, unfinished ones included.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
    found
}

async fn dies_at(fault: &str, reload: bool) {
    let folder = tempfile::tempdir().unwrap();
    if reload {
        load(folder.path(), StartType::Resume).await.unwrap();
    }
    let ended = run_child(folder.path(), Some(fault), reload, "");
    assert!(!ended.status.success(), "{fault} does not end the process");
    assert_whole_or_refused(folder.path(), fault).await;
    // It goes on where it ended, whatever that was.
    let ended = run_child(folder.path(), None, false, "");
    assert!(ended.status.success(), "{fault}: {}", String::from_utf8_lossy(&ended.stdout));
    assert_eq!(rows(folder.path()).await.unwrap(), usize::try_from(ROWS).unwrap());
    let table = folder.path().join("shop/items");
    let source = FolderSource::open(&format!("file://{}", folder.path().display())).unwrap();
    let catalog = source.discover(&Selection::all()).await.unwrap();
    assert_eq!(catalog.tables[0].row_estimate, Some(u64::try_from(ROWS).unwrap()));
    let left = files(&table);
    assert_eq!(left.len(), 8, "only the manifest's files are there after {fault}: {left:?}");
}

const POINTS: &[&str] = &[
    "folder-target-prepare=abort:1",
    "folder-target-prepare=abort:2",
    "folder-target-prepare=abort:3",
    "folder-target-after-file=abort:3",
    "folder-target-before-receipt=abort:2",
    "folder-target-after-receipt=abort:2",
    "folder-target-before-manifest=abort",
];

#[tokio::test]
async fn a_first_load_that_dies_goes_on() {
    for point in POINTS {
        dies_at(point, false).await;
    }
}

/// The old table is there when the process dies: its files must not be taken for the new load's.
#[tokio::test]
async fn a_reload_that_dies_goes_on() {
    for point in POINTS {
        dies_at(point, true).await;
    }
}

/// A limit on the size of files stands for a disk that is full: the system tells both alike.
#[tokio::test]
async fn a_full_disk_is_told_and_the_run_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run_child(folder.path(), None, false, "trap '' XFSZ; ulimit -f 16;");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(!ended.status.success());
    assert!(said.contains("the disk is full: make room and run the task again"), "{said}");
    assert_whole_or_refused(folder.path(), "disk full").await;
    assert!(run_child(folder.path(), None, false, "").status.success());
    assert_eq!(rows(folder.path()).await.unwrap(), usize::try_from(ROWS).unwrap());
}

/// What a killed process was writing stands under a name that listings leave out.
#[tokio::test]
async fn unfinished_files_of_a_killed_process_go() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("shop/items");
    std::fs::create_dir_all(&table).unwrap();
    std::fs::write(table.join("LOAD00000001.parquet#1"), "the first half").unwrap();
    let strange = ["notes.txt#1", "LOAD1.csv#1"];
    for name in strange {
        std::fs::write(table.join(name), "of a stranger").unwrap();
    }
    load(folder.path(), StartType::Resume).await.unwrap();
    let left = files(&table);
    assert!(!left.contains(&"LOAD00000001.parquet#1".to_owned()), "{left:?}");
    for name in strange {
        assert!(left.contains(&name.to_owned()), "{name}: {left:?}");
    }
}

/// The process dies with a part of a file written; the next one loads it and clears up.
#[tokio::test]
async fn a_process_that_dies_within_a_file_leaves_no_part_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let unfinished = || files(folder.path()).iter().filter(|name| name.contains('#')).count();
    let fault = Some("folder-target-in-file=abort:20");
    let ended = run_test("crash::child_of_blobs", folder.path(), fault, false, "");
    assert!(!ended.status.success());
    assert_eq!(unfinished(), 1, "{:?}", files(folder.path()));
    assert_eq!(rows(folder.path()).await.unwrap_err().kind(), ErrorKind::NotFound);
    let ended = run_test("crash::child_of_blobs", folder.path(), None, false, "");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    assert_eq!(unfinished(), 0, "{:?}", files(folder.path()));
}
