//! The store behind a folder, with the small operations that need no streaming.

use std::sync::Arc;

use bytes::Bytes;
use dms_core::endpoint::{EndpointInfo, EndpointSettings};
use dms_core::{Error, ErrorKind, Result};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ENGINE;
use crate::error::convert;
use crate::settings::FolderSettings;

/// An object store and a prefix in it.
#[derive(Debug, Clone)]
pub struct FolderStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    address: String,
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
            return Self::local(path, address);
        }
        let url = url::Url::parse(&settings.url).map_err(|error| {
            Error::settings(format!("{address} is not a url")).with_source(error)
        })?;
        let (store, prefix) = object_store::parse_url_opts(&url, &settings.store)
            .map_err(|error| convert(error, &format!("store {address} cannot be opened")))?;
        Ok(Self { store: Arc::from(store), prefix, address })
    }

    /// Relative paths are relative to the working directory; `%` stands for itself.
    fn local(path: &str, address: String) -> Result<Self> {
        if path.is_empty() {
            return Err(Error::settings("a file url needs a folder: file:///absolute/folder"));
        }
        let absolute = std::path::absolute(path).map_err(|error| {
            Error::settings(format!("folder {path} cannot be used")).with_source(error)
        })?;
        let prefix = Path::from_absolute_path(&absolute).map_err(|error| {
            Error::settings(format!("folder {path} cannot be used")).with_source(error)
        })?;
        let store = object_store::local::LocalFileSystem::new();
        Ok(Self { store: Arc::new(store), prefix, address })
    }

    /// A store that a program has opened itself.
    pub fn with_store(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        let address = format!("{store}/{prefix}");
        Self { store, prefix, address }
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

    /// Reads a small object.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &Path) -> Result<T> {
        let bytes = self.read(path).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(
                ErrorKind::Corrupt,
                format!("{path} is not what this version writes; remove it and load again"),
            )
            .with_source(error)
        })
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
