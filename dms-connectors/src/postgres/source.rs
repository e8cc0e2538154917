//! PostgreSQL as a source.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use dms_core::Result;
use dms_core::endpoint::{EndpointInfo, Snapshot, Source};
use dms_core::mapping::Selection;
use dms_core::schema::{Catalog, TableSchema};

use super::connection::{CancelOnDrop, connect};
use super::discover;
use super::settings::PostgresSettings;
use super::snapshot::PostgresSnapshot;

/// A PostgreSQL database that is read.
#[derive(Debug, Clone)]
pub struct PostgresSource {
    pub(super) settings: PostgresSettings,
    /// Whether changes have to be read in text form, since a type came without another here.
    pub(super) text_form: Arc<AtomicBool>,
}

impl PostgresSource {
    /// Opens a database; it is connected to once to see that it is there.
    ///
    /// # Errors
    /// `Connection`, `Denied` and `NotFound` for the server.
    pub async fn open(settings: PostgresSettings) -> Result<Arc<Self>> {
        connect(&settings).await?;
        Ok(Arc::new(Self { settings, text_form: Arc::default() }))
    }
}

#[async_trait]
impl Source for PostgresSource {
    fn info(&self) -> EndpointInfo {
        self.settings.info()
    }

    async fn discover(&self, selection: &Selection) -> Result<Catalog> {
        let client = connect(&self.settings).await?;
        let statement = CancelOnDrop::new(&client, &self.settings);
        let catalog = discover::discover(&client, &self.settings, selection).await;
        statement.done();
        catalog
    }

    async fn snapshot(
        &self,
        _tables: &[TableSchema],
        _readers: usize,
    ) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(PostgresSnapshot::open(&self.settings).await?))
    }
}
