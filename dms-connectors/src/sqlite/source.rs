//! SQLite as a source.

use std::sync::Arc;

use async_trait::async_trait;
use dms_core::Result;
use dms_core::endpoint::{EndpointInfo, Snapshot, Source};
use dms_core::mapping::Selection;
use dms_core::schema::{Catalog, TableSchema};

use super::discover;
use super::settings::SqliteSettings;
use super::snapshot::{self, SqliteSnapshot, blocking};

/// A SQLite file that is read.
#[derive(Debug, Clone)]
pub struct SqliteSource {
    pub(super) settings: SqliteSettings,
}

impl SqliteSource {
    /// Opens a file by its path, with default options.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub async fn open(path: impl Into<SqliteSettings>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self::open_with(path.into()).await?))
    }

    /// Opens a file; it is read once to see that it is a database.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Corrupt` for the file; a transient `Connection` error while another
    /// process holds an exclusive lock.
    pub async fn open_with(settings: SqliteSettings) -> Result<Self> {
        let probe = settings.clone();
        blocking(move || snapshot::open(&probe).map(|_| ())).await?;
        Ok(Self { settings })
    }
}

#[async_trait]
impl Source for SqliteSource {
    fn info(&self) -> EndpointInfo {
        self.settings.info()
    }

    async fn discover(&self, selection: &Selection) -> Result<Catalog> {
        let (settings, selection) = (self.settings.clone(), selection.clone());
        blocking(move || {
            let connection = snapshot::open(&settings)?;
            discover::discover(&connection, &settings, &selection)
        })
        .await
    }

    async fn snapshot(&self, _tables: &[TableSchema], readers: usize) -> Result<Arc<dyn Snapshot>> {
        let settings = self.settings.clone();
        let snapshot = blocking(move || SqliteSnapshot::open(&settings, readers)).await?;
        Ok(Arc::new(snapshot))
    }
}
