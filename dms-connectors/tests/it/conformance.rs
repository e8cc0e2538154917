//! The conformance suite on a SQLite file.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use dms_connectors::sqlite::{SqliteSource, SqliteTarget};
use dms_core::conformance::{
    ChangeFixture, ChangeTargetFixture, Fixture, Statement, run, run_changes,
};
use dms_core::endpoint::{ChangeSource, ChangeTarget, Source, Target};

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

#[async_trait]
impl ChangeTargetFixture for File {
    async fn change_target(&self) -> Arc<dyn ChangeTarget> {
        SqliteTarget::open(self.0.as_path()).await.unwrap()
    }
}

#[async_trait]
impl ChangeFixture for File {
    async fn change_source(&self) -> Arc<dyn ChangeSource> {
        SqliteSource::open(self.0.as_path()).await.unwrap()
    }

    async fn execute(&self, statement: Statement<'_>) {
        let connection = rusqlite::Connection::open(&self.0).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        let sql = match statement {
            Statement::Insert(table, id, v) => {
                format!("INSERT INTO \"{}\" VALUES ({id}, '{v}')", table.name.name)
            }
            Statement::Update(table, id, v) => {
                format!("UPDATE \"{}\" SET v = '{v}' WHERE id = {id}", table.name.name)
            }
            Statement::Move(table, id, to) => {
                format!("UPDATE \"{}\" SET id = {to} WHERE id = {id}", table.name.name)
            }
            Statement::Delete(table, id) => {
                format!("DELETE FROM \"{}\" WHERE id = {id}", table.name.name)
            }
        };
        assert_eq!(connection.execute(&sql, []).unwrap(), 1);
    }
}

/// A file whose write-ahead log has content as long as the connection is open.
fn file_with_log() -> (tempfile::TempDir, File, rusqlite::Connection) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE other (x);").unwrap();
    (folder, File(path), connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_file_conform() {
    let (_folder, file, _open) = file_with_log();
    run_changes(&file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_conforms() {
    let folder = tempfile::tempdir().unwrap();
    run(&File(folder.path().join("file.db"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_write_ahead_log_conforms() {
    let (_folder, file, _open) = file_with_log();
    run(&file).await;
}
