//! The conformance suite on a database.

use std::sync::Arc;

use async_trait::async_trait;
use dms_connectors::postgres::{PostgresSettings, PostgresSource, PostgresTarget};
use dms_core::conformance::{
    ChangeFixture, ChangeTargetFixture, Fixture, Statement, run, run_changes,
};
use dms_core::endpoint::{ChangeSource, ChangeTarget, Source, Target};
use dms_core::schema::{LogicalType, TableSchema};

use crate::server::Server;

/// How dms opens it, and how an application does.
struct Database(PostgresSettings, String);

#[async_trait]
impl Fixture for Database {
    async fn target(&self) -> Arc<dyn Target> {
        PostgresTarget::open(self.0.clone())
    }

    async fn source(&self) -> Arc<dyn Source> {
        PostgresSource::open(self.0.clone()).await.unwrap()
    }

    fn schema(&self) -> &str {
        "sales"
    }

    fn refuses(&self, _ty: &LogicalType, value: &str) -> bool {
        value.contains('\0')
    }
}

#[async_trait]
impl ChangeTargetFixture for Database {
    async fn change_target(&self) -> Arc<dyn ChangeTarget> {
        PostgresTarget::open(self.0.clone())
    }
}

#[async_trait]
impl ChangeFixture for Database {
    async fn change_source(&self) -> Arc<dyn ChangeSource> {
        PostgresSource::open(self.0.clone()).await.unwrap()
    }

    async fn execute(&self, statement: Statement<'_>) {
        let (client, connection) =
            tokio_postgres::connect(&self.1, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let name = |table: &TableSchema| format!("{}.\"{}\"", table.name.schema, table.name.name);
        let sql = match statement {
            Statement::Insert(table, id, v) => {
                format!("INSERT INTO {} VALUES ({id}, '{v}')", name(table))
            }
            Statement::Update(table, id, v) => {
                format!("UPDATE {} SET v = '{v}' WHERE id = {id}", name(table))
            }
            Statement::Move(table, id, to) => {
                format!("UPDATE {} SET id = {to} WHERE id = {id}", name(table))
            }
            Statement::Delete(table, id) => format!("DELETE FROM {} WHERE id = {id}", name(table)),
        };
        assert_eq!(client.execute(&sql, &[]).await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_database_conform() {
    let server = Server::start(&["wal_level=logical"]);
    let url = server.database().await;
    run_changes(&Database(PostgresSettings::new(&url).unwrap(), url)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_conforms() {
    // Alone on its server: transactions anywhere on it make another position.
    let server = Server::start(&["autovacuum=off"]);
    let url = server.database().await;
    run(&Database(PostgresSettings::new(&url).unwrap(), url)).await;
}
