//! A bucket served over HTTP in this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dms_core::endpoint::EndpointSettings;
use futures::StreamExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use object_store::aws::AmazonS3Builder;
use object_store::{BackoffConfig, RetryConfig};
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::bucket::{BUCKET, Bucket, Point};

pub(crate) const KEY: &str = "test-key";
pub(crate) const SECRET: &str = "test-secret-of-nobody";

/// Serves a bucket until it is dropped, or told to die.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    dead: CancellationToken,
}

/// Whose words are spoken: Google's XML API is S3's but for the headers of conditions and of who
/// asks (<https://cloud.google.com/storage/docs/xml-api/reference-headers>).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Dialect {
    Amazon,
    #[cfg(feature = "gcp")]
    Google,
}

impl Dialect {
    fn translate(self, request: &mut Request<Incoming>) {
        if self == Self::Amazon {
            return;
        }
        let headers = request.headers_mut();
        headers.remove(header::AUTHORIZATION);
        // Generation 0 is that of an object which is not there.
        if headers.remove("x-goog-if-generation-match").is_some_and(|match_| match_ == "0") {
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
    }
}

impl Server {
    pub(crate) async fn start(bucket: &Arc<Bucket>) -> Self {
        Self::speaking(Dialect::Amazon, bucket).await
    }

    pub(crate) async fn speaking(dialect: Dialect, bucket: &Arc<Bucket>) -> Self {
        let dead = CancellationToken::new();
        let served = Served { bucket: Arc::clone(bucket), dead: dead.clone() };
        let mut service = S3ServiceBuilder::new(served);
        if dialect == Dialect::Amazon {
            service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        }
        let service = service.build();
        let service = service_fn(move |mut request: Request<Incoming>| {
            dialect.translate(&mut request);
            hyper::service::Service::call(&service, request)
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let over = dead.clone();
        tokio::spawn(async move {
            loop {
                let socket = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = over.cancelled() => return,
                };
                // Else each answer waits for the client's system to acknowledge its head.
                socket.set_nodelay(true).unwrap();
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(socket), service.clone());
                let over = over.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = connection => {}
                        () = over.cancelled() => {}
                    }
                });
            }
        });
        Self { address, dead }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client that does not wait long for a server that is dead.
    pub(crate) fn client(&self) -> AmazonS3Builder {
        self.client_without_credentials().with_access_key_id(KEY).with_secret_access_key(SECRET)
    }

    pub(crate) fn client_without_credentials(&self) -> AmazonS3Builder {
        let backoff = BackoffConfig {
            init_backoff: Duration::from_millis(1),
            max_backoff: Duration::from_millis(10),
            base: 2.0,
        };
        let retry = RetryConfig { backoff, max_retries: 2, retry_timeout: Duration::from_secs(10) };
        AmazonS3Builder::new()
            .with_bucket_name(BUCKET)
            .with_region("us-east-1")
            .with_endpoint(self.url())
            .with_allow_http(true)
            .with_retry(retry)
    }

    /// An endpoint as a task names it.
    pub(crate) fn endpoint(&self, url: &str, secret: &str) -> EndpointSettings {
        let mut endpoint = EndpointSettings::new(url);
        for (name, value) in [
            ("endpoint", self.url().as_str()),
            ("region", "us-east-1"),
            ("allow-http", "true"),
            ("access-key-id", KEY),
            ("secret-access-key", secret),
        ] {
            endpoint.options.insert(name.to_owned(), value.into());
        }
        endpoint
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.dead.cancel();
    }
}

/// The protocol's side of a bucket.
struct Served {
    bucket: Arc<Bucket>,
    dead: CancellationToken,
}

impl Served {
    /// Dies here, if that was asked for: nothing is answered any more.
    async fn pass(&self, point: Point) {
        if self.bucket.dies(point) {
            self.dead.cancel();
            std::future::pending::<()>().await;
        }
    }
}

async fn bytes_of(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let mut bytes = BytesMut::new();
    if let Some(mut body) = body {
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.map_err(|_| s3_error!(IncompleteBody))?);
        }
    }
    Ok(bytes.freeze())
}

fn answer<T>(output: T) -> S3Result<S3Response<T>> {
    Ok(S3Response::new(output))
}

fn length(bytes: &Bytes) -> Option<i64> {
    i64::try_from(bytes.len()).ok()
}

#[async_trait::async_trait]
impl S3 for Served {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        self.bucket.check(&input.bucket)?;
        let bytes = bytes_of(input.body).await?;
        let create = input.if_none_match.is_some_and(|condition| condition.is_any());
        let e_tag = Some(self.bucket.put(input.key, bytes, create)?);
        answer(PutObjectOutput { e_tag, ..Default::default() })
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        self.bucket.check(&input.bucket)?;
        self.pass(Point::Get).await;
        let object = self.bucket.get(&input.key)?;
        let (bytes, content_range) = Bucket::slice(&object.bytes, input.range)?;
        answer(GetObjectOutput {
            content_length: length(&bytes),
            content_range,
            body: Some(StreamingBlob::from(Body::from(bytes))),
            e_tag: Some(object.e_tag),
            last_modified: Some(object.modified),
            ..Default::default()
        })
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.bucket.check(&request.input.bucket)?;
        let object = self.bucket.get(&request.input.key)?;
        answer(HeadObjectOutput {
            content_length: length(&object.bytes),
            e_tag: Some(object.e_tag),
            last_modified: Some(object.modified),
            ..Default::default()
        })
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.bucket.check(&request.input.bucket)?;
        self.bucket.delete(&request.input.key)?;
        answer(DeleteObjectOutput::default())
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.bucket.check(&request.input.bucket)?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in request.input.delete.objects {
            let key = Some(object.key);
            match self.bucket.delete(key.as_deref().unwrap_or_default()) {
                Ok(()) => deleted.push(DeletedObject { key, ..Default::default() }),
                Err(error) => errors.push(Error {
                    key,
                    code: Some(error.code().as_str().to_owned()),
                    message: error.message().map(str::to_owned),
                    ..Default::default()
                }),
            }
        }
        let (deleted, errors) = (Some(deleted), Some(errors));
        answer(DeleteObjectsOutput { deleted, errors, ..Default::default() })
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.bucket.check(&input.bucket)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let pause = self.bucket.pause(&prefix);
        if let Some(pause) = pause.as_ref().filter(|pause| !pause.late) {
            pause.wait().await;
        }
        let after = input.continuation_token.clone().or(input.start_after).unwrap_or_default();
        let (contents, prefixes, next) =
            self.bucket.list(&prefix, input.delimiter.as_deref(), &after);
        if let Some(pause) = pause.filter(|pause| pause.late) {
            pause.wait().await;
        }
        answer(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            key_count: i32::try_from(contents.len() + prefixes.len()).ok(),
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            is_truncated: Some(next.is_some()),
            continuation_token: input.continuation_token,
            next_continuation_token: next,
            ..Default::default()
        })
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = request.input;
        self.bucket.check(&input.bucket)?;
        let CopySource::Bucket { bucket, key, .. } = input.copy_source else {
            return Err(s3_error!(NotImplemented));
        };
        self.bucket.check(&bucket)?;
        let object = self.bucket.get(&key)?;
        let e_tag = self.bucket.put(input.key, object.bytes, false)?;
        let result = CopyObjectResult {
            e_tag: Some(e_tag),
            last_modified: Some(object.modified),
            ..Default::default()
        };
        answer(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() })
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        self.bucket.check(&input.bucket)?;
        answer(CreateMultipartUploadOutput {
            upload_id: Some(self.bucket.begin_upload(input.key.clone())),
            bucket: Some(input.bucket),
            key: Some(input.key),
            ..Default::default()
        })
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        self.bucket.check(&input.bucket)?;
        let bytes = bytes_of(input.body).await?;
        let e_tag = Some(self.bucket.put_part(&input.upload_id, input.part_number, bytes)?);
        self.pass(Point::Part).await;
        answer(UploadPartOutput { e_tag, ..Default::default() })
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        self.bucket.check(&input.bucket)?;
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let named: Vec<(i32, Option<ETag>)> = named
            .into_iter()
            .map(|part| (part.part_number.unwrap_or_default(), part.e_tag))
            .collect();
        self.pass(Point::Completing).await;
        let e_tag = Some(self.bucket.complete(&input.upload_id, &input.key, &named)?);
        self.pass(Point::Completed).await;
        answer(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag,
            ..Default::default()
        })
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.bucket.check(&request.input.bucket)?;
        self.bucket.abort(&request.input.upload_id)?;
        answer(AbortMultipartUploadOutput::default())
    }
}
