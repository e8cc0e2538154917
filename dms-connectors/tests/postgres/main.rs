//! The PostgreSQL connector against real servers.
#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod altered;
mod apply;
mod apply_distance;
mod apply_failures;
mod apply_tables;
mod apply_values;
mod bad_input;
mod changes;
mod conformance;
mod encoding;
mod existing;
mod hostile;
mod lanes;
mod meanwhile;
mod pooler;
mod server;
mod snapshot;
mod stop;
mod tls;
mod types;
mod whole_rows;

use std::sync::Arc;

use dms_connectors::postgres::{PostgresSettings, PostgresSource, PostgresTarget};
use dms_core::Result;
use dms_core::endpoint::{Source, Target};
use dms_core::full_load::FullLoad;
use dms_core::mapping::TableMapping;
use dms_core::task::{Report, TaskSettings, TaskStatus};
use tokio_util::sync::CancellationToken;

fn settings(url: &str) -> PostgresSettings {
    PostgresSettings::new(url).unwrap()
}

async fn source(url: &str) -> Arc<dyn Source> {
    PostgresSource::open(settings(url)).await.unwrap()
}

fn target(url: &str) -> Arc<dyn Target> {
    PostgresTarget::open(settings(url))
}

/// Moves every table, in small partitions.
async fn load(source: Arc<dyn Source>, target: Arc<dyn Target>) -> Result<Report> {
    let mut settings = TaskSettings::default();
    settings.partition_bytes = 64 * 1024;
    settings.retries = 0;
    let load = FullLoad::new(source, target, TableMapping::new().include("%", "%"))
        .named("test")
        .with_settings(settings);
    Box::pin(load.run(CancellationToken::new())).await
}

fn completed(report: &Report) -> bool {
    report.status == TaskStatus::Completed
}

/// What a table holds, as the server writes it: a second opinion that shares no code with the
/// connector.
async fn text_of(url: &str, table: &str) -> Vec<String> {
    let client = server::connect(url).await;
    let sql = format!("SELECT whole_row::text FROM {table} whole_row");
    let rows = client.query(&sql, &[]).await.unwrap();
    let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    rows.sort_unstable();
    rows
}

/// Moves all tables of one database to another and compares one of them.
async fn assert_moves(from: &str, to: &str, table: &str) {
    let report = load(source(from).await, target(to)).await.unwrap();
    assert!(completed(&report), "{report}");
    let moved = text_of(to, table).await;
    assert!(!moved.is_empty());
    assert_eq!(moved, text_of(from, table).await);
}
