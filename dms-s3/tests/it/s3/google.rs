//! Google Cloud Storage's client, over HTTP to a server in this process that speaks its XML API.

use std::sync::Arc;

use arrow::array::RecordBatch;
use dms_core::conformance::run;
use dms_core::endpoint::{EndpointSettings, Registry};
use dms_core::full_load::FullLoad;
use dms_core::mapping::TableMapping;
use dms_core::memory::MemoryTarget;
use dms_core::schema::TableName;
use dms_s3::{CONNECTORS, DataFormat};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use tokio_util::sync::CancellationToken;

use super::bucket::{BUCKET, Bucket};
use super::server::{Dialect, Server};
use super::thousand_rows;
use crate::conformance::{Store, settings};

/// Credentials that name the server, to which nobody has to say who asks.
fn account(server: &Server) -> String {
    format!(
        r#"{{"gcs_base_url": "{}", "disable_oauth": true, "client_email": "", "private_key": "",
            "private_key_id": ""}}"#,
        server.url()
    )
}

async fn conforms(format: DataFormat) {
    let bucket = Arc::new(Bucket::default());
    let server = Server::speaking(Dialect::Google, &bucket).await;
    let client = GoogleCloudStorageBuilder::new()
        .with_bucket_name(BUCKET)
        .with_service_account_key(account(&server))
        .with_client_options(object_store::ClientOptions::new().with_allow_http(true));
    let store = Arc::new(client.build().unwrap());
    run(&Store { store, prefix: Path::from("deep/prefix"), settings: settings(format) }).await;
    assert!(bucket.keys().iter().all(|key| key.starts_with("deep/prefix/")));
    assert!(bucket.requests() > 1000, "all of it went over the wire");
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_in_googles_bucket_conforms() {
    conforms(DataFormat::Parquet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_in_googles_bucket_conforms() {
    conforms(DataFormat::Csv).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gs_url_with_options_is_loaded_and_read() {
    let bucket = Arc::new(Bucket::default());
    let server = Server::speaking(Dialect::Google, &bucket).await;
    let mut endpoint = EndpointSettings::new(format!("gs://{BUCKET}/raw/a b"));
    for (name, value) in
        [("service-account-key", account(&server).as_str()), ("allow-http", "true")]
    {
        endpoint.options.insert(name.to_owned(), value.into());
    }
    let registry = Registry::new(CONNECTORS.iter().copied());
    let all = || TableMapping::new().include("shop", "%");
    let target = registry.target(&endpoint).await.unwrap();
    let task = FullLoad::new(thousand_rows(), target, all()).named("in");
    let report = task.run(CancellationToken::new()).await.unwrap();
    assert!(report.tables.iter().all(|table| table.error.is_none()), "{report:?}");
    assert!(bucket.keys().contains(&"raw/a b/shop/items/LOAD00000001.parquet".to_owned()));
    let back = MemoryTarget::default();
    let source = registry.source(&endpoint).await.unwrap();
    let task = FullLoad::new(source, Arc::new(back.clone()), all()).named("out");
    let report = task.run(CancellationToken::new()).await.unwrap();
    assert!(report.tables.iter().all(|table| table.error.is_none()), "{report:?}");
    let rows = back.table(&TableName::new("shop", "items")).unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1000);
}
