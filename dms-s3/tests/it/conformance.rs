//! The conformance suite on a local folder and in memory, in both formats.

use std::sync::Arc;

use async_trait::async_trait;
use dms_core::conformance::{Fixture, run};
use dms_core::endpoint::{Source, Target};
use dms_s3::{Compression, DataFormat, FolderSettings, FolderSource, FolderStore, FolderTarget};
use object_store::ObjectStore;
use object_store::path::Path;

pub(crate) struct Store {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    pub(crate) settings: FolderSettings,
}

impl Store {
    fn open(&self) -> FolderStore {
        FolderStore::with_store(Arc::clone(&self.store), self.prefix.clone())
    }
}

#[async_trait]
impl Fixture for Store {
    async fn target(&self) -> Arc<dyn Target> {
        Arc::new(FolderTarget::new(self.open(), self.settings.clone()).unwrap())
    }

    async fn source(&self) -> Arc<dyn Source> {
        Arc::new(FolderSource::new(self.open(), self.settings.clone()))
    }

    fn schema(&self) -> &str {
        "shop"
    }
}

pub(crate) fn settings(format: DataFormat) -> FolderSettings {
    let mut settings = FolderSettings::default();
    settings.data_format = format;
    // Several row groups and files even of small tables.
    settings.row_group_rows = 200;
    settings.max_file_size_bytes = 4096;
    settings
}

async fn in_memory(settings: FolderSettings) {
    let store = Arc::new(object_store::memory::InMemory::new());
    run(&Store { store, prefix: Path::default(), settings }).await;
}

async fn in_folder(settings: FolderSettings) {
    let folder = tempfile::tempdir().unwrap();
    let store = object_store::local::LocalFileSystem::new();
    let prefix = Path::from_absolute_path(folder.path()).unwrap();
    run(&Store { store: Arc::new(store), prefix, settings }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_in_memory_conforms() {
    in_memory(settings(DataFormat::Parquet)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_in_a_folder_conforms() {
    let mut settings = settings(DataFormat::Parquet);
    settings.compression = Compression::Zstd;
    in_folder(settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_in_memory_conforms() {
    in_memory(settings(DataFormat::Csv)).await;
}

/// What stands before a table's own columns in its files is not seen by who reads the table.
#[tokio::test(flavor = "multi_thread")]
async fn with_columns_before_the_tables_own_it_conforms() {
    for format in [DataFormat::Parquet, DataFormat::Csv] {
        let mut settings = settings(format);
        settings.include_op_for_full_load = true;
        settings.timestamp_column_name = Some("written at".to_owned());
        in_memory(settings).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_in_a_folder_conforms() {
    let mut settings = settings(DataFormat::Csv);
    settings.csv_null_value = "NULL".to_owned();
    settings.add_column_name = true;
    in_folder(settings).await;
}
