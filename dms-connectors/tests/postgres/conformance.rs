//! The conformance suite on a database.

use std::sync::Arc;

use async_trait::async_trait;
use dms_connectors::postgres::{PostgresSettings, PostgresSource, PostgresTarget};
use dms_core::conformance::{Fixture, run};
use dms_core::endpoint::{Source, Target};
use dms_core::schema::LogicalType;

use crate::server::Server;

struct Database(PostgresSettings);

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

#[tokio::test(flavor = "multi_thread")]
async fn a_database_conforms() {
    // Alone on its server: transactions anywhere on it make another position.
    let server = Server::start(&["autovacuum=off"]);
    let url = server.database().await;
    run(&Database(PostgresSettings::new(&url).unwrap())).await;
}
