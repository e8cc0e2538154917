//! The store behind a folder, with the small operations that need no streaming.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use dms_core::endpoint::{EndpointInfo, EndpointSettings};
use dms_core::{Error, ErrorKind, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ENGINE;
use crate::error::convert;
use crate::manifest::VERSION;
use crate::settings::FolderSettings;

/// Small objects read at once: a store far away takes long for each.
pub(crate) const READS_AT_ONCE: usize = 16;

/// An object store and a prefix in it.
#[derive(Clone)]
pub struct FolderStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    address: String,
    /// The folder itself, if it is one of this machine.
    local: Option<PathBuf>,
    /// Whether the store was seen to refuse the creation of what is there.
    conditional: Arc<AtomicBool>,
}

impl fmt::Debug for FolderStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The store itself may show keys and headers.
        f.debug_struct("FolderStore").field("address", &self.address).finish_non_exhaustive()
    }
}

impl FolderStore {
    /// Opens the store of a URL; a local folder is created when it is first written.
    ///
    /// # Errors
    /// `Settings` for a wrong URL or option, `Unsupported` for a store whose cargo feature is off.
    pub fn open(settings: &FolderSettings) -> Result<Self> {
        let endpoint = EndpointSettings::new(&settings.url);
        let address = endpoint.redacted_url();
        let scheme = endpoint.scheme()?;
        let feature = match scheme {
            "s3" | "s3a" if !cfg!(feature = "aws") => Some("aws"),
            "gs" if !cfg!(feature = "gcp") => Some("gcp"),
            "az" | "azure" | "abfs" | "abfss" if !cfg!(feature = "azure") => Some("azure"),
            _ => None,
        };
        if let Some(feature) = feature {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{scheme}: urls need the cargo feature {feature}; build with it"),
            ));
        }
        if let Some(path) = settings.url.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return Self::local(path, address, settings.fsync);
        }
        let url = url::Url::parse(&settings.url).map_err(|error| {
            Error::settings(format!("{address} is not a url")).with_source(error)
        })?;
        check_parts(&url, &address)?;
        let prefix = Path::from_url_path(url.path()).map_err(|error| {
            Error::settings(format!("{address} has a path that no store takes")).with_source(error)
        })?;
        let store = remote(&url, &settings.store)?;
        Ok(Self { store, prefix, address, local: None, conditional: Arc::default() })
    }

    /// Relative paths are relative to the working directory; `%` stands for itself.
    fn local(path: &str, address: String, fsync: bool) -> Result<Self> {
        if path.is_empty() {
            return Err(Error::settings("a file url needs a folder: file:///absolute/folder"));
        }
        let absolute = std::path::absolute(path).map_err(|error| {
            Error::settings(format!("folder {path} cannot be used")).with_source(error)
        })?;
        let prefix = Path::from_absolute_path(&absolute).map_err(|error| {
            Error::settings(format!("folder {path} cannot be used")).with_source(error)
        })?;
        let store = object_store::local::LocalFileSystem::new().with_fsync(fsync);
        let local = Some(absolute);
        Ok(Self { store: Arc::new(store), prefix, address, local, conditional: Arc::default() })
    }

    /// A store that a program has opened itself.
    pub fn with_store(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        let address = format!("{store}/{prefix}");
        Self { store, prefix, address, local: None, conditional: Arc::default() }
    }

    pub(crate) fn info(&self) -> EndpointInfo {
        EndpointInfo { engine: ENGINE, address: self.address.clone() }
    }

    pub(crate) fn inner(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// The store's path of a place in the folder; every part is made safe.
    pub(crate) fn path<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Path {
        parts.into_iter().fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// A path of ours relative to the folder, as manifests name files.
    pub(crate) fn relative(&self, path: &Path) -> String {
        match path.prefix_match(&self.prefix) {
            Some(parts) => parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"),
            None => path.to_string(),
        }
    }

    /// The store's path of a file that a manifest names.
    pub(crate) fn absolute(&self, relative: &str) -> Path {
        Path::from_iter(self.prefix.parts().chain(
            // Already safe: it was written from safe parts.
            Path::parse(relative).unwrap_or_default().parts(),
        ))
    }

    /// Everything below a place, in the order of paths.
    pub(crate) async fn list(&self, below: &Path) -> Result<Vec<ObjectMeta>> {
        let listed: Vec<ObjectMeta> = self
            .store
            .list(Some(below))
            .try_collect()
            .await
            .map_err(|error| convert(error, &format!("{below} cannot be listed")))?;
        let mut listed = listed;
        listed.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(listed)
    }

    /// What is below a place behind a path, in the order of paths.
    pub(crate) async fn list_after(&self, below: &Path, after: &Path) -> Result<Vec<ObjectMeta>> {
        let mut listed: Vec<ObjectMeta> = self
            .store
            .list_with_offset(Some(below), after)
            .try_collect()
            .await
            .map_err(|error| convert(error, &format!("{below} cannot be listed")))?;
        listed.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(listed)
    }

    /// Writes a data file whole.
    pub(crate) async fn put_bytes(&self, path: &Path, bytes: Vec<Bytes>) -> Result<()> {
        let payload = PutPayload::from_iter(bytes);
        match self.store.put(path, payload).await {
            Ok(_) => Ok(()),
            Err(error) => Err(convert(error, &format!("file {path} cannot be written"))),
        }
    }

    /// The names of the folders in a place.
    pub(crate) async fn folders(&self, place: &Path) -> Result<Vec<Path>> {
        let listed = self.store.list_with_delimiter(Some(place)).await;
        let listed =
            listed.map_err(|error| convert(error, &format!("{place} cannot be listed")))?;
        Ok(listed.common_prefixes)
    }

    /// Removes what a killed process left of files it was writing below a place of a local folder:
    /// `name#1`, which the store's listing leaves out. Other stores show no unfinished files.
    pub(crate) async fn sweep(&self, place: &Path, ours: fn(&str) -> bool) -> Result<()> {
        let Some(folder) = &self.local else { return Ok(()) };
        // Parts are encoded alike on disk and in the path.
        let folder = folder.join(self.relative(place));
        let shown = folder.display().to_string();
        crate::upload::blocking(move || {
            sweep(&folder, ours).map_err(|error| {
                Error::unexpected(format!("unfinished files in {shown} cannot be removed"))
                    .with_source(error)
            })
        })
        .await
    }

    /// Checks that a local folder is one or can be made; of other stores nothing is known before
    /// they are asked.
    pub(crate) fn check_local(&self) -> Result<()> {
        let Some(folder) = &self.local else { return Ok(()) };
        let Some(there) = folder.ancestors().find(|folder| folder.exists()) else { return Ok(()) };
        let shown = there.display();
        let metadata = there.metadata().map_err(|error| {
            Error::new(ErrorKind::Denied, format!("{shown} cannot be looked at")).with_source(error)
        })?;
        if !metadata.is_dir() {
            return Err(Error::settings(format!("{shown} is a file; give a folder")));
        }
        if metadata.permissions().readonly() {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("folder {shown} may not be written; check the rights on it"),
            ));
        }
        Ok(())
    }

    /// Writes a small object whole; with `create`, `false` if it was there already.
    pub(crate) async fn put<T: Serialize>(
        &self,
        path: &Path,
        value: &T,
        create: bool,
    ) -> Result<bool> {
        let json = serde_json::to_vec_pretty(value)
            .map_err(|error| Error::unexpected("JSON cannot be written").with_source(error))?;
        let mode = if create { PutMode::Create } else { PutMode::Overwrite };
        let options = PutOptions::from(mode);
        match self.store.put_opts(path, PutPayload::from(json), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) if create => Ok(false),
            Err(error) => Err(convert(error, &format!("{path} cannot be written"))),
        }
    }

    /// Refuses a store that creates what is there already, as some that speak S3 do: two runs could
    /// claim one number then. Looks once, by creating `path` again, which was just created.
    pub(crate) async fn check_conditional<T: Serialize>(
        &self,
        path: &Path,
        value: &T,
    ) -> Result<()> {
        if self.local.is_some() || self.conditional.load(Ordering::Relaxed) {
            return Ok(());
        }
        if self.put(path, value, true).await? {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{} ignores conditional writes (If-None-Match), without which two runs could \
                     write one table; use a store that has them",
                    self.address
                ),
            ));
        }
        self.conditional.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether an object is there.
    pub(crate) async fn exists(&self, path: &Path) -> Result<bool> {
        match self.store.head(path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(convert(error, &format!("{path} cannot be looked at"))),
        }
    }

    /// Reads a small object.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &Path) -> Result<T> {
        let bytes = self.read(path).await?;
        let damaged = |error| {
            Error::new(
                ErrorKind::Corrupt,
                format!("{path} is not what this version writes; remove it and load again"),
            )
            .with_source(error)
        };
        let Versioned { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{path} is of version {version}, and this program reads version {VERSION}; use \
                     the dms that wrote it, or load into another folder"
                ),
            ));
        }
        serde_json::from_slice(&bytes).map_err(damaged)
    }

    /// Reads small objects of a listing, several at once, and keeps their order. Those that are
    /// gone since are left out: whoever removed them has taken back what they said.
    pub(crate) async fn get_all<T: DeserializeOwned + Send>(
        &self,
        listed: Vec<ObjectMeta>,
    ) -> Result<Vec<T>> {
        let reads = futures::stream::iter(listed).map(|object| async move {
            match self.get(&object.location).await {
                Ok(value) => Ok(Some(value)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        });
        let read: Vec<Option<T>> = reads.buffered(READS_AT_ONCE).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    async fn read(&self, path: &Path) -> Result<Bytes> {
        let failed = |error| convert(error, &format!("{path} cannot be read"));
        self.store.get(path).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    /// Removes an object, if it is there.
    pub(crate) async fn delete(&self, path: &Path) -> Result<()> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(convert(error, &format!("{path} cannot be removed"))),
        }
    }
}

/// What is common to all small objects, read first: the rest may mean anything.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Refuses a URL of which the stores would ignore a part, and so use another place than is meant.
fn check_parts(url: &url::Url, address: &str) -> Result<()> {
    let wrong = |hint: &str| Err(Error::settings(format!("{address}: {hint}")));
    if url.fragment().is_some() {
        return wrong("write # in a path as %23");
    }
    if url.query().is_some() {
        return wrong("write ? in a path as %3F; what the store needs to know goes into options");
    }
    if url.scheme() == "memory" {
        return Ok(());
    }
    // abfs://container@account.dfs.core.windows.net/prefix
    let names_account = matches!(url.scheme(), "az" | "abfs" | "abfss");
    if url.password().is_some() || (!url.username().is_empty() && !names_account) {
        return wrong(
            "a url takes no credentials; give them as options (for S3 access-key-id and \
             secret-access-key, for Azure account-name and account-key) or in the environment",
        );
    }
    if url.port().is_some() {
        return wrong(
            "behind the scheme stands a bucket, which has no port; give the address of the store \
             as option endpoint",
        );
    }
    Ok(())
}

fn sweep(folder: &std::path::Path, ours: fn(&str) -> bool) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            sweep(&entry.path(), ours)?;
        } else if name.to_str().is_some_and(|name| is_unfinished(name, ours)) {
            match std::fs::remove_file(entry.path()) {
                // Whoever was writing it has just ended.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

/// Whether a name is what a local folder calls a file of ours while it is written.
fn is_unfinished(name: &str, ours: fn(&str) -> bool) -> bool {
    name.rsplit_once('#').is_some_and(|(name, number)| {
        ours(name) && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Opens a store that is not a local folder: first the environment, then the options count.
#[cfg_attr(
    not(any(feature = "aws", feature = "gcp", feature = "azure")),
    expect(unused_variables, reason = "stores with options are all behind features")
)]
fn remote(url: &url::Url, options: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>> {
    #[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
    macro_rules! build {
        ($builder:ty, $key:ty) => {{
            let mut builder = <$builder>::from_env().with_url(url.as_str());
            for (name, value) in options {
                let key: $key = name.parse().map_err(|_| unknown(name))?;
                builder = builder.with_config(key, value);
            }
            // Nothing has been asked of the store yet: what is wrong is wrong in the settings.
            Ok(Arc::new(builder.build().map_err(|error| {
                Error::settings("the store cannot be opened; check its url and options")
                    .with_source(error)
            })?))
        }};
    }
    match url.scheme() {
        "memory" => Ok(Arc::new(object_store::memory::InMemory::new())),
        #[cfg(feature = "aws")]
        "s3" | "s3a" => {
            build!(object_store::aws::AmazonS3Builder, object_store::aws::AmazonS3ConfigKey)
        }
        #[cfg(feature = "gcp")]
        "gs" => {
            build!(object_store::gcp::GoogleCloudStorageBuilder, object_store::gcp::GoogleConfigKey)
        }
        #[cfg(feature = "azure")]
        "az" | "azure" | "abfs" | "abfss" => {
            build!(object_store::azure::MicrosoftAzureBuilder, object_store::azure::AzureConfigKey)
        }
        other => Err(Error::settings(format!("folders have no {other}: urls"))),
    }
}

#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
fn unknown(name: &str) -> Error {
    let name = name.replace('_', "-");
    let near = dms_core::json::nearest(&name, crate::settings::OPTIONS);
    let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    Error::settings(format!(
        "unknown option {name:?}: it is neither a folder's nor one of the store{hint}"
    ))
}
