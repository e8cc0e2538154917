//! Microsoft's emulator of Azure Blob Storage, one process for each test.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use dms_core::endpoint::EndpointSettings;
use object_store::ClientOptions;
use object_store::azure::{
    AzureAccessKey, AzureAuthorizer, AzureCredential, MicrosoftAzure, MicrosoftAzureBuilder,
};
use object_store::client::{HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};

/// Names the program, as `scripts/test-clouds` does.
const PROGRAM: &str = "AZURITE_BLOB";
const CONTAINER: &str = "lake";
/// The only account that Azurite has unless told otherwise, and its key, both public.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Made with this key: whoever has it may read, write, delete and list till the year 2099.
pub(crate) const SIGNATURE: &str = "sv=2019-12-12&ss=b&srt=co&sp=rwdlc&se=2099-01-01T00:00:00Z\
     &sig=noYVk6MQ8WrUZR/hGWCfhbd7WD/AzrhKO7QYwCImiGI=";

/// Azurite with one empty container; it ends, and all it holds, when this is dropped.
#[derive(Debug)]
pub(crate) struct Azurite {
    process: Child,
    /// Open as long as it runs: it must not fail to write.
    _said: BufReader<ChildStdout>,
    url: String,
}

impl Azurite {
    pub(crate) async fn start() -> Self {
        let program = std::env::var_os(PROGRAM).unwrap_or_else(|| {
            panic!(
                "{PROGRAM} does not name Azurite's program azurite-blob: run scripts/test-clouds"
            )
        });
        let mut process = Command::new(&program)
            // A port that is free.
            .args(["--blobPort", "0", "--inMemoryPersistence", "--silent", "--disableTelemetry"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{PROGRAM}={}: {error}", program.display()));
        let mut said = BufReader::new(process.stdout.take().unwrap());
        let mut heard = String::new();
        let address = loop {
            let from = heard.len();
            if said.read_line(&mut heard).unwrap() == 0 {
                panic!("Azurite ended before it listened: {heard}");
            }
            if let Some((_, address)) = heard[from..].split_once("listens on ") {
                break address.trim().to_owned();
            }
        };
        let azurite = Self { process, _said: said, url: format!("{address}/{ACCOUNT}") };
        azurite.create_container().await;
        azurite
    }

    /// The store's own client cannot.
    async fn create_container(&self) {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = "PUT".parse().unwrap();
        let uri = format!("{}/{CONTAINER}?restype=container", self.url);
        *request.uri_mut() = uri.parse().unwrap();
        request.headers_mut().insert("content-length", 0.into());
        let key = AzureCredential::AccessKey(AzureAccessKey::try_new(KEY).unwrap());
        AzureAuthorizer::new(&key, ACCOUNT).try_authorize(&mut request).unwrap();
        let options = ClientOptions::new().with_allow_http(true);
        let client = ReqwestConnector::default().connect(&options).unwrap();
        let answer = client.execute(request).await.unwrap();
        assert_eq!(answer.status(), 201, "{answer:?}");
    }

    /// What looks at the container from outside.
    pub(crate) fn client(&self) -> MicrosoftAzure {
        MicrosoftAzureBuilder::new()
            .with_account(ACCOUNT)
            .with_access_key(KEY)
            .with_container_name(CONTAINER)
            .with_endpoint(self.url.clone())
            .with_allow_http(true)
            .build()
            .unwrap()
    }

    /// An endpoint as a task names it.
    pub(crate) fn endpoint(&self, url: &str) -> EndpointSettings {
        self.endpoint_with(url, ("account-key", KEY))
    }

    /// The same by another credential.
    pub(crate) fn endpoint_with(&self, url: &str, credential: (&str, &str)) -> EndpointSettings {
        let mut endpoint = EndpointSettings::new(url);
        for (name, value) in [
            ("endpoint", self.url.as_str()),
            ("allow-http", "true"),
            ("account-name", ACCOUNT),
            credential,
        ] {
            endpoint.options.insert(name.to_owned(), value.into());
        }
        endpoint
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        // It may have ended by itself; the test has failed then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
