//! The conformance suite of targets of changes, on a folder whose commits are replayed over the
//! loaded rows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::array::types::Int64Type;
use async_trait::async_trait;
use dms_core::conformance::{ChangeTargetFixture, Fixture, run_change_target};
use dms_core::endpoint::{ChangeTarget, Source, Target};
use dms_core::schema::TableSchema;
use dms_s3::{DataFormat, FolderSettings, FolderSource, FolderStore, FolderTarget};
use serde_json::{Value as Json, json};

use super::world::{commits_of, read_back, read_file};

struct Replayed {
    place: tempfile::TempDir,
    settings: FolderSettings,
}

impl Replayed {
    fn new(set: impl FnOnce(&mut FolderSettings)) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut settings = FolderSettings::new(format!("file://{}", place.path().display()));
        set(&mut settings);
        Self { place, settings }
    }

    fn open(&self) -> Arc<FolderTarget> {
        let store = FolderStore::open(&self.settings).unwrap();
        Arc::new(FolderTarget::new(store, self.settings.clone()).unwrap())
    }
}

#[async_trait]
impl Fixture for Replayed {
    async fn target(&self) -> Arc<dyn Target> {
        self.open()
    }

    async fn source(&self) -> Arc<dyn Source> {
        FolderSource::open(&self.settings.url).unwrap()
    }

    fn schema(&self) -> &str {
        "shop"
    }
}

#[async_trait]
impl ChangeTargetFixture for Replayed {
    async fn change_target(&self) -> Arc<dyn ChangeTarget> {
        self.open()
    }

    async fn rows(&self, table: &TableSchema) -> Vec<(i64, String)> {
        let mut rows = BTreeMap::new();
        for batch in &read_back(self.place.path()).await[&table.name] {
            let ids = batch.column(0).as_primitive::<Int64Type>().values().iter().copied();
            let values = batch.column(1).as_string::<i32>().iter();
            rows.extend(ids.zip(values.map(|value| value.unwrap().to_owned())));
        }
        for commit in commits_of(self.place.path(), "conformance") {
            for act in commit["acts"].as_array().unwrap() {
                replay(self.place.path(), act, table, &mut rows);
            }
        }
        rows.into_iter().collect()
    }
}

/// Does to a table's rows what an act of a commit says.
fn replay(folder: &Path, act: &Json, table: &TableSchema, rows: &mut BTreeMap<i64, String>) {
    let name = json!(table.name);
    if act["truncate"]["table"] == name {
        rows.clear();
    }
    let mut changes = Vec::new();
    if act["rows"]["table"]["name"] == name {
        changes = read_file(folder, &act["rows"]);
    } else if act.get("transactions").is_some() {
        // Behind the operation stand the names of table and schema.
        let lines = read_file(folder, &act["transactions"]).into_iter();
        let ours = lines.filter(|line| line[1].as_ref() == Some(&table.name.name));
        changes = ours
            .map(|mut line| {
                line.drain(1..3);
                line
            })
            .collect();
    }
    for change in changes {
        let id = change[1].as_ref().unwrap().parse().unwrap();
        match change[0].as_deref() {
            Some("D") => drop(rows.remove(&id)),
            // Nothing and NULL are one in these files, and the suite knows no NULL.
            _ => drop(rows.insert(id, change[2].clone().unwrap_or_default())),
        }
    }
}

#[tokio::test]
async fn files_of_tables_conform() {
    for format in [DataFormat::Parquet, DataFormat::Csv] {
        run_change_target(&Replayed::new(|settings| settings.data_format = format)).await;
    }
}

#[tokio::test]
async fn files_by_date_conform() {
    run_change_target(&Replayed::new(|settings| settings.date_partition_enabled = true)).await;
}

#[tokio::test]
async fn files_of_transactions_conform() {
    let preserving = Replayed::new(|settings| {
        settings.preserve_transactions = true;
        settings.cdc_path = Some("cdc".to_owned());
    });
    run_change_target(&preserving).await;
}
