//! The full load as a step of a replication: its snapshot is a place in the log.

use std::sync::Arc;

use async_trait::async_trait;
use dms_core::Result;
use dms_core::endpoint::{ChangeSource, EndpointInfo, Snapshot, Source};
use dms_core::mapping::Selection;
use dms_core::schema::{Catalog, TableSchema};

/// A source whose snapshots are places in the log that a task follows.
#[derive(Debug)]
pub(super) struct LogSource {
    pub(super) source: Arc<dyn ChangeSource>,
    pub(super) task: String,
}

#[async_trait]
impl Source for LogSource {
    fn info(&self) -> EndpointInfo {
        self.source.info()
    }

    async fn discover(&self, selection: &Selection) -> Result<Catalog> {
        self.source.discover(selection).await
    }

    async fn snapshot(&self, tables: &[TableSchema], readers: usize) -> Result<Arc<dyn Snapshot>> {
        self.source.log_snapshot(&self.task, tables, readers).await
    }
}
