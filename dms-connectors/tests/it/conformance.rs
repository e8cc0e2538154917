//! The conformance suite on a SQLite file.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use dms_connectors::sqlite::{SqliteSource, SqliteTarget};
use dms_core::conformance::{Fixture, run};
use dms_core::endpoint::{Source, Target};

struct File(PathBuf);

#[async_trait]
impl Fixture for File {
    async fn target(&self) -> Arc<dyn Target> {
        SqliteTarget::open(self.0.as_path()).await.unwrap()
    }

    async fn source(&self) -> Arc<dyn Source> {
        SqliteSource::open(self.0.as_path()).await.unwrap()
    }

    fn schema(&self) -> &str {
        "main"
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_conforms() {
    let folder = tempfile::tempdir().unwrap();
    run(&File(folder.path().join("file.db"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_write_ahead_log_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE other (x);").unwrap();
    run(&File(path)).await;
}
