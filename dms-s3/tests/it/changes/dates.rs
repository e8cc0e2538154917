//! Files of changes in folders by date.

use std::path::Path;

use dms_core::ErrorKind;
use dms_core::change::{ChangeBatch, ChangeRows, Identity, Operation};
use dms_core::endpoint::{ChangeTarget, Step, TablePrepMode, Target};
use dms_s3::{DataFormat, DatePartitionDelimiter, FolderSettings};

use super::world::*;
use super::{int, text};

const HOUR: i64 = 3_600_000_000;

fn dated(settings: &mut FolderSettings) {
    settings.data_format = DataFormat::Csv;
    settings.date_partition_enabled = true;
}

/// Transactions of one insert each, so many hours after the first.
fn inserts(hours: &[Option<i64>]) -> Step {
    let records: Vec<_> = (0..)
        .zip((100..).take(hours.len()))
        .map(|(at, id)| record(Operation::Insert, at, vec![int(id), text("x")]))
        .collect();
    let batch = ChangeBatch::from_records(table(false), Identity::Key(vec![0]), &records).unwrap();
    let transactions = (1..).zip(hours).map(|(order, hours)| {
        let mut transaction = transaction(order, order);
        transaction.committed_at =
            hours.map(|hours| transaction.committed_at.unwrap() + hours * HOUR);
        transaction
    });
    Step::Log(ChangeRows { batches: vec![batch], transactions: transactions.collect() })
}

/// The folders of a commit's files, each with its keys.
fn placed(folder: &Path) -> Vec<(String, Vec<String>)> {
    let commits = commits(folder);
    let acts = commits.last().unwrap()["acts"].as_array().unwrap().clone();
    let place = |act: &serde_json::Value| {
        let path = act["rows"]["path"].as_str().unwrap().to_owned();
        let rows = read_file(folder, &act["rows"]);
        let keys = rows.into_iter().map(|row| row[1].clone().unwrap()).collect();
        (path.rsplit_once('/').unwrap().0.to_owned(), keys)
    };
    acts.iter().map(place).collect()
}

fn expected(files: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
    files.iter().map(|(folder, of)| (format!("shop/items/{folder}"), keys(of))).collect()
}

/// The source's clock may go back for a moment: order counts more than large files.
#[tokio::test]
async fn changes_go_by_the_date_of_their_commit() {
    let place = tempfile::tempdir().unwrap();
    let target = target_with(place.path(), dated);
    let run = load(&target).await;
    let mut apply = target.begin_apply(&run).await.unwrap();
    let hours = [Some(0), Some(12), Some(13), Some(12), Some(24 * 40)];
    apply.step(&inserts(&hours), false).await.unwrap();
    apply.commit(&position(5), None).await.unwrap();
    let files = placed(place.path());
    let dates: &[(&str, &[&str])] = &[
        ("2026/11/21", &["100", "101"]),
        ("2026/11/22", &["102"]),
        ("2026/11/21", &["103"]),
        ("2026/12/31", &["104"]),
    ];
    assert_eq!(files, expected(dates));
    // They are no tables, and no partitions of one.
    let tables = read_back(place.path()).await;
    let rows: usize = tables.values().flatten().map(|rows| rows.num_rows()).sum();
    assert_eq!((tables.len(), rows), (1, 50));
    // A reload takes them away too.
    let whole = [dms_core::endpoint::Partition::whole()];
    let mode = TablePrepMode::DropAndCreate;
    target.prepare(&run, &table(false), mode, &whole, None).await.unwrap();
    let left = walk(&place.path().join("shop"));
    assert!(left.is_empty(), "{left:?}");
}

/// All files below a folder.
fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn the_history_comes_out_the_same_in_folders_by_date() {
    for delimiter in [DatePartitionDelimiter::Slash, DatePartitionDelimiter::Dash] {
        let place = tempfile::tempdir().unwrap();
        let target = target_with(place.path(), |settings| {
            dated(settings);
            settings.date_partition_delimiter = delimiter;
        });
        let run = load(&target).await;
        follow(&target, &run, 7).await.unwrap();
        assert_eq!(replay(place.path()), history().1);
    }
}

#[tokio::test]
async fn a_commit_without_a_date_is_told() {
    let place = tempfile::tempdir().unwrap();
    let target = target_with(place.path(), dated);
    let run = load(&target).await;
    let mut apply = target.begin_apply(&run).await.unwrap();
    let error = apply.step(&inserts(&[Some(0), None]), true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings);
    let said = error.to_string();
    assert!(said.contains("date-partition-enabled") && said.contains("shop.items"), "{said}");
    // Nothing of the step is written.
    apply.step(&inserts(&[Some(0)]), true).await.unwrap();
    apply.commit(&position(1), None).await.unwrap();
    assert_eq!(placed(place.path()), expected(&[("2026/11/21", &["100"])]));
}
