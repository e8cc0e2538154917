//! Following the changes of a SQLite file.
//!
//! SQLite has no log of changes, so capture makes one: triggers write the key of each row that is
//! touched, in the transaction that touches it, and a feed reads the rows as they are (modules
//! `triggers`, `log`, `poll`). SQLite has one writer at a time, so the log's order is that of the
//! commits, and a read transaction sees whole transactions of the source only. One look at the log
//! is one transaction of the feed: what lay between two looks comes as what it came to.
//!
//! Any program may write, through any connection, in either journal mode. While a look is under way
//! in rollback mode, writers wait; a feed whose events nobody takes in the middle of a look keeps
//! them waiting.

mod capture;
mod feed;
mod log;
mod poll;
mod records;
mod shape;
mod touched;
mod triggers;
mod trim;
mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use dms_core::Result;
use dms_core::endpoint::{ChangeFeed, ChangeSource, FeedRequest, LogStatus, Snapshot};
use dms_core::position::Position;
use dms_core::schema::{TableName, TableSchema};

use self::feed::Feed;
use self::log::Log;
use super::snapshot::{self, SqliteSnapshot, blocking};
use super::source::SqliteSource;
use crate::queue;

#[async_trait]
impl ChangeSource for SqliteSource {
    async fn check_capture(&self, _task: &str, tables: &[TableSchema]) -> Result<()> {
        let (settings, tables) = (self.settings.clone(), tables.to_vec());
        blocking(move || capture::check(&settings, &tables)).await
    }

    async fn begin_capture(&self, task: &str, tables: &[TableSchema]) -> Result<Position> {
        let (settings, task, tables) = (self.settings.clone(), task.to_owned(), tables.to_vec());
        blocking(move || capture::begin_capture(&settings, &task, &tables)).await
    }

    async fn forget_capture(&self, task: &str, tables: &[TableName]) -> Result<()> {
        let (settings, task, tables) = (self.settings.clone(), task.to_owned(), tables.to_vec());
        blocking(move || capture::forget_capture(&settings, &task, &tables)).await
    }

    async fn log_snapshot(
        &self,
        task: &str,
        tables: &[TableSchema],
        readers: usize,
    ) -> Result<Arc<dyn Snapshot>> {
        let (settings, task, tables) = (self.settings.clone(), task.to_owned(), tables.to_vec());
        let snapshot = blocking(move || {
            let snapshot = SqliteSnapshot::open(&settings, readers)?;
            snapshot.at(|reader| capture::position_of(reader, &task, &tables))
        });
        Ok(Arc::new(snapshot.await?))
    }

    async fn changes(&self, request: FeedRequest) -> Result<ChangeFeed> {
        let (sender, events) = queue::queue(request.prefetch_bytes);
        let settings = self.settings.clone();
        let acknowledge = blocking(move || {
            let feed = Feed::open(&settings, request)?;
            let acknowledged = feed.acknowledged();
            feed.start(sender)?;
            Ok(acknowledged)
        });
        Ok(ChangeFeed { events, acknowledge: acknowledge.await? })
    }

    async fn log_status(&self, task: &str) -> Result<LogStatus> {
        let (settings, task) = (self.settings.clone(), task.to_owned());
        blocking(move || {
            let connection = snapshot::open(&settings)?;
            let log = Log::of(&connection, &task)?;
            let retained_bytes = Some(log.bytes(&connection)?);
            Ok(LogStatus { end: log.end(&connection)?, retained_bytes })
        })
        .await
    }

    fn parse_position(&self, text: &str) -> Result<Position> {
        log::parse_position(text)
    }

    async fn end_capture(&self, task: &str) -> Result<()> {
        let (settings, task) = (self.settings.clone(), task.to_owned());
        blocking(move || capture::end_capture(&settings, &task)).await
    }
}
