//! S3 itself, spoken over HTTP to a server in this process.

use std::sync::Arc;

use dms_core::conformance::run;
use dms_s3::DataFormat;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;

use crate::conformance::{Store, settings};

const KEY: &str = "test";
const SECRET: &str = "testsecret";

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_conforms() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bucket")).unwrap();
    let files = s3s_fs::FileSystem::new(folder.path()).unwrap();
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = service.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let server = Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    let store = AmazonS3Builder::new()
        .with_bucket_name("bucket")
        .with_region("us-east-1")
        .with_endpoint(format!("http://{address}"))
        .with_allow_http(true)
        .with_access_key_id(KEY)
        .with_secret_access_key(SECRET)
        .build()
        .unwrap();
    let settings = settings(DataFormat::Parquet);
    run(&Store { store: Arc::new(store), prefix: Path::from("lake"), settings }).await;
    server.abort();
}
