//! Errors of stores and formats in our words.

use std::error::Error as StdError;
use std::io;

use dms_core::{Error, ErrorKind};

/// Says what happened to which object and what to do.
pub(crate) fn convert(error: object_store::Error, doing: &str) -> Error {
    use object_store::Error as Store;
    let (kind, remedy, transient) = match &error {
        Store::NotFound { .. } => of_cause(&error).unwrap_or((ErrorKind::NotFound, "", false)),
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
            (ErrorKind::Denied, "; check the credentials and the rights on the folder", false)
        }
        Store::UnknownConfigurationKey { .. } => (ErrorKind::Settings, "", false),
        Store::NotSupported { .. } | Store::NotImplemented { .. } => {
            (ErrorKind::Unsupported, "", false)
        }
        error => of_cause(error).unwrap_or((ErrorKind::Unexpected, "", false)),
    };
    let converted = Error::new(kind, format!("{doing}{remedy}")).with_source(error);
    if transient { converted.transient() } else { converted }
}

/// A kind, what to do, and whether it may pass.
type Verdict = (ErrorKind, &'static str, bool);

/// Looks for the server's or the operating system's word in the chain of causes.
fn of_cause(error: &object_store::Error) -> Option<Verdict> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(verdict) = of_answer(&error.to_string()).or_else(|| of_connection(error)) {
            return Some(verdict);
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return of_system(error.kind());
        }
        cause = error.source();
    }
    None
}

fn of_system(kind: io::ErrorKind) -> Option<Verdict> {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Some((
                ErrorKind::Unexpected,
                "; the disk is full: make room and run the task again",
                false,
            ))
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Some((ErrorKind::Denied, "; check the rights on the folder", false))
        }
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::TimedOut => Some((ErrorKind::Connection, "", true)),
        _ => None,
    }
}

/// A connection that was not made or broke, after the store's own repetitions.
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
fn of_connection(error: &(dyn StdError + 'static)) -> Option<Verdict> {
    use object_store::client::HttpErrorKind as Http;
    match error.downcast_ref::<object_store::client::HttpError>()?.kind() {
        Http::Connect | Http::Request | Http::Timeout | Http::Interrupted => {
            Some((ErrorKind::Connection, "", true))
        }
        _ => None,
    }
}

#[cfg(not(any(feature = "aws", feature = "gcp", feature = "azure")))]
fn of_connection(_error: &(dyn StdError + 'static)) -> Option<Verdict> {
    None
}

/// Where machines of AWS, Google and Azure offer credentials to programs that run on them, and what
/// to do where they do not.
const CREDENTIALS_OF_MACHINES: [(&str, &str); 3] = [
    (
        "/latest/api/token",
        "; no credentials were given and this machine offers none: set them as options \
         (access-key-id, secret-access-key) or in the environment",
    ),
    (
        "/computeMetadata/",
        "; no credentials were given and this machine offers none: set them as option \
         (service-account, service-account-key) or in the environment",
    ),
    (
        "/metadata/identity/",
        "; no credentials were given and this machine offers none: set them as option \
         (account-key, sas-key) or in the environment",
    ),
];

/// What a server's answer means. The store tells it in full only for requests of one object; of a
/// listing, which is the first request of all, it leaves a text. The tests over HTTP hold this text.
fn of_answer(text: &str) -> Option<Verdict> {
    if text.starts_with("Received redirect without LOCATION") {
        return Some((ErrorKind::Settings, "; check the region and the endpoint", false));
    }
    // Without credentials the store asks the machine it runs on for some.
    if text.starts_with("Error performing")
        && let Some((_, remedy)) =
            CREDENTIALS_OF_MACHINES.iter().find(|(place, _)| text.contains(place))
    {
        return Some((ErrorKind::Denied, remedy, false));
    }
    // One of many deletions, in an answer that is no error by itself: of S3, of Azure.
    if (text.starts_with("DeleteObjects request failed") && text.contains("(code: AccessDenied)"))
        || (text.starts_with("Bulk delete request failed") && text.ends_with("(code: 403)"))
    {
        return Some((ErrorKind::Denied, "; check the right to delete in the bucket", false));
    }
    let status: u16 =
        text.strip_prefix("Server returned non-2xx status code: ")?.get(..3)?.parse().ok()?;
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    match (status, code.map(|(code, _)| code).unwrap_or_default()) {
        (_, "NoSuchBucket" | "ContainerNotFound") => {
            Some((ErrorKind::NotFound, "; the bucket does not exist, check the url", false))
        }
        (_, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            Some((ErrorKind::Settings, "; check the region", false))
        }
        (401 | 403, _) | (_, "ExpiredToken" | "InvalidToken") => {
            Some((ErrorKind::Denied, "; check the credentials and the rights on the bucket", false))
        }
        (404, _) => Some((ErrorKind::NotFound, "", false)),
        (408 | 429 | 500.., _) => Some((ErrorKind::Connection, "", true)),
        _ => None,
    }
}

/// Bytes that are not what the manifest says.
pub(crate) fn corrupt(path: &str, what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "file {path} {what}; it was changed or damaged after it was written, load it again"
        ),
    )
}

#[cfg(all(test, feature = "azure"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::azure::MicrosoftAzureBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Answers one request as Azure does a deletion that it forbids: in an answer that is a success.
    async fn forbid_deletion(listener: tokio::net::TcpListener) {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        // The end of the request's body.
        while !request.ends_with(b"--\r\n") {
            assert!(socket.read_buf(&mut request).await.unwrap() > 0);
        }
        let body = "--part\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n\
                    HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n\r\n--part--\r\n";
        let head = "HTTP/1.1 202 Accepted\r\nContent-Type: multipart/mixed; boundary=part\r\n";
        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        socket.write_all(answer.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn a_deletion_that_azure_forbids_is_denied() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let store = MicrosoftAzureBuilder::new()
            .with_account("account")
            .with_access_key("a2V5")
            .with_container_name("lake")
            .with_endpoint(format!("http://{}", listener.local_addr().unwrap()))
            .with_allow_http(true)
            .build()
            .unwrap();
        let place = "place".into();
        let (deleted, ()) = tokio::join!(store.delete(&place), forbid_deletion(listener));
        let error = convert(deleted.unwrap_err(), "it cannot be removed");
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        assert!(error.to_string().contains("right to delete"), "{error:?}");
    }
}
