//! What Azure's store says of settings, which needs no server. tests/clouds has the rest.

use std::sync::Arc;
use std::time::Duration;

use dms_core::ErrorKind;
use dms_core::endpoint::{EndpointSettings, Registry, Target};
use dms_s3::{CONNECTORS, FolderSettings, FolderStore, FolderTarget};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, RetryConfig};

/// A machine that offers no credentials, which is where a store looks that was given none.
#[tokio::test(flavor = "multi_thread")]
async fn missing_credentials_are_told() {
    // Nobody listens at the port of a listener that is gone.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(10),
        base: 2.0,
    };
    let retry = RetryConfig { backoff, max_retries: 2, retry_timeout: Duration::from_secs(10) };
    let client = MicrosoftAzureBuilder::new()
        .with_account("account")
        .with_container_name("lake")
        .with_msi_endpoint(format!("http://{nobody}/metadata/identity/oauth2/token"))
        .with_retry(retry);
    let store = FolderStore::with_store(Arc::new(client.build().unwrap()), Path::default());
    let target = FolderTarget::new(store, FolderSettings::default()).unwrap();
    let error = target.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.to_string().contains("account-key"), "{error}");
}

#[tokio::test]
async fn an_option_that_nobody_knows_is_refused() {
    const SECRET: &str = "not-a-key-at-all";
    for (name, says) in [("acount-key", "unknown option"), ("account-key", "check its url")] {
        let mut endpoint = EndpointSettings::new("az://lake/raw");
        endpoint.options.insert("account-name".to_owned(), "account".into());
        // Neither known, nor a key: that is base64.
        endpoint.options.insert(name.to_owned(), SECRET.into());
        let opened = Registry::new(CONNECTORS.iter().copied()).target(&endpoint).await;
        let error = opened.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Settings, "{name}: {error}");
        assert!(error.to_string().contains(says), "{name}: {error}");
        assert!(!format!("{error} {error:?} {endpoint:?}").contains(SECRET), "{error:?}");
    }
}
