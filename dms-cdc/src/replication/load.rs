//! The full load as a step of a replication: its snapshot is a place in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use dms_core::endpoint::{ChangeSource, EndpointInfo, Snapshot, Source};
use dms_core::mapping::{Selection, TableMapping};
use dms_core::schema::{Catalog, Column, TableSchema};
use dms_core::{Error, Result};

/// A source whose snapshots are places in the log that a task follows.
#[derive(Debug)]
pub(super) struct LogSource {
    pub(super) source: Arc<dyn ChangeSource>,
    pub(super) task: String,
    pub(super) mapping: TableMapping,
    /// Set if a table was not any more what was planned when the snapshot was taken.
    pub(super) is_outdated: Arc<AtomicBool>,
}

impl LogSource {
    /// Sees that the tables are what was planned. A column that had come before the snapshot would
    /// not be loaded, and would be taken for one that came after it: its values were lost.
    async fn check(&self, planned: &[TableSchema]) -> Result<()> {
        let now = self.source.discover(self.mapping.selection()).await?;
        for table in planned {
            let same = now.table(&table.name).is_ok_and(|now| {
                now.id == table.id
                    && now.columns.len() == table.columns.len()
                    && now
                        .columns
                        .iter()
                        .zip(&table.columns)
                        .all(|(one, other)| is_same(one, other))
            });
            if !same {
                self.is_outdated.store(true, Ordering::Relaxed);
                return Err(Error::schema("the table was changed while its load began; run again")
                    .context("table", &table.name));
            }
        }
        Ok(())
    }
}

fn is_same(one: &Column, other: &Column) -> bool {
    one.name == other.name && one.id == other.id && one.logical_type == other.logical_type
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
        let snapshot = self.source.log_snapshot(&self.task, tables, readers).await?;
        self.check(tables).await?;
        Ok(snapshot)
    }
}
