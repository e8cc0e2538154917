//! Names of tables and of places that could be taken for something else.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use dms_core::batch::BatchStream;
use dms_core::endpoint::{Partition, ReadRequest, Source, TablePrepMode, Target};
use dms_core::mapping::Selection;
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_s3::{FolderSource, FolderStore, FolderTarget};
use futures::TryStreamExt;
use object_store::path::Path;

fn table(schema: &str, name: &str) -> TableSchema {
    let id = Column::new("id", LogicalType::Int64).required();
    TableSchema::new(TableName::new(schema, name), vec![id])
}

async fn load(target: &FolderTarget, table: &TableSchema, rows: i64) -> dms_core::Result<()> {
    let run = target.begin("names").await?.run;
    let whole = [Partition::whole()];
    target.prepare(&run, table, TablePrepMode::DropAndCreate, &whole, None).await?;
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let batch = RecordBatch::try_new(table.arrow_schema(), vec![ids]).unwrap();
    let stream = BatchStream::from_batches(table.arrow_schema(), vec![batch]);
    target.load(&run, table, &whole[0], None, stream).await?;
    target.finish(&run, table).await
}

/// Each table has its own rows, however its name looks as a path.
async fn every_table_comes_back(store: FolderStore) {
    let tables = [
        ("_dms", "tables"),
        ("_dms", "tasks"),
        ("_dms", "generations"),
        ("%5Fdms", "tables"),
        ("", "items"),
        ("shop", ""),
        ("", ""),
        ("items", ""),
        (".", ".."),
        ("..", "."),
        ("a/b", "c"),
        ("a", "b/c"),
        ("a%2Fb", "c"),
        ("x#1", "y#1"),
        ("shop", "items"),
        ("Größe", "表 \u{1F600}"),
    ];
    let target = FolderTarget::new(store.clone(), Default::default()).unwrap();
    for (rows, (schema, name)) in (1..).zip(tables) {
        let loaded = load(&target, &table(schema, name), rows).await;
        loaded.unwrap_or_else(|error| panic!("{schema:?} {name:?}: {error}"));
    }
    // Again, now that all the others are there.
    load(&target, &table("_dms", "tables"), 1).await.unwrap();
    let source = FolderSource::new(store, Default::default());
    let catalog = source.discover(&Selection::all()).await.unwrap();
    assert_eq!(catalog.tables.len(), tables.len());
    let snapshot = source.snapshot(&[], 1).await.unwrap();
    for (expected, (schema, name)) in (1..).zip(tables) {
        let request = ReadRequest::whole(Arc::new(table(schema, name)));
        let batches: Vec<RecordBatch> =
            snapshot.read(request).await.unwrap().try_collect().await.unwrap();
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, expected, "{schema:?} {name:?}");
    }
}

#[tokio::test]
async fn tables_of_any_name_come_back_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let settings = dms_s3::FolderSettings::new(format!("file://{}", folder.path().display()));
    every_table_comes_back(FolderStore::open(&settings).unwrap()).await;
}

#[tokio::test]
async fn tables_of_any_name_come_back_from_a_store() {
    let store = Arc::new(object_store::memory::InMemory::new());
    every_table_comes_back(FolderStore::with_store(store, Path::from("deep"))).await;
}

/// What stands behind `#` or `?` would be dropped, and data be written somewhere else.
#[cfg(feature = "aws")]
#[test]
fn a_url_of_which_a_part_would_be_ignored_is_refused() {
    for (url, says) in [
        ("s3://lake/raw#1/x", "%23"),
        ("s3://lake/raw?1/x", "%3F"),
        ("s3://lake/raw?region=eu-west-1", "options"),
        ("s3://key:hidden@lake/raw", "access-key-id"),
        ("s3://localhost:9000/lake", "endpoint"),
        ("memory:///raw#1", "%23"),
    ] {
        let error = FolderTarget::open(url).unwrap_err();
        assert_eq!(error.kind(), dms_core::ErrorKind::Settings, "{url}: {error}");
        assert!(error.to_string().contains(says), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");
    }
    assert!(FolderTarget::open("s3://lake/raw%231/x").is_ok());
}

/// A password would go nowhere but into messages; a port, or a name that is no account, is ignored.
#[cfg(feature = "azure")]
#[test]
fn an_azure_url_of_which_a_part_would_be_ignored_is_refused() {
    for (url, says) in [
        ("az://lake/raw#1/x", "%23"),
        ("az://lake/raw?sig=hidden", "options"),
        ("az://key:hidden@lake/raw", "account-key"),
        ("abfss://lake:hidden@account.dfs.core.windows.net/raw", "account-key"),
        ("azure://hidden@lake/raw", "account-key"),
        ("az://localhost:10000/lake", "endpoint"),
        ("az://lake@nowhere/raw", "url"),
    ] {
        let error = FolderTarget::open(url).unwrap_err();
        assert_eq!(error.kind(), dms_core::ErrorKind::Settings, "{url}: {error}");
        assert!(error.to_string().contains(says), "{url}: {error}");
        let shown = format!("{error} {error:?}").contains("hidden");
        assert!(!shown || url == "azure://hidden@lake/raw", "{error:?}");
    }
    assert!(FolderTarget::open("abfss://lake@account.dfs.core.windows.net/raw").is_ok());
}
