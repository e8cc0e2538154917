//! PostgreSQL as a source of changes: logical replication by the plugin `pgoutput`.
//!
//! ```text
//! publication   which tables             made from the task's name, or named by the user
//! slot          from where on            permanent; one a task
//! ddl           event triggers           tables altered and dropped, as messages in the log
//! walsender     a connection             that speaks the replication protocol
//! stream        bytes of the log         what is confirmed is told meanwhile
//!   pgoutput    bytes → messages
//!   relation    shapes of tables         log's names and types, catalogs' keys
//!   rows        tuples → Arrow builders  the decoders of the load
//!   assemble    builders → events        cut by bytes, at barriers, when the stream pauses
//!   feed        events → consumer        bounded in bytes
//! ```
//!
//! **Positions.** A transaction stands where its commit record does; the position's token says where
//! the log goes on after it, and on which timeline of which server. A slot with the consistent point
//! `C` and its snapshot divide the transactions at `C`, exactly: such a snapshot has the position
//! `C - 1`.
//!
//! **An idle database holds back nothing.** The server tells where it is while it reads the changes
//! of other databases, and what is behind that place is told as idle and acknowledged like changes:
//! the slot moves, and the server forgets its log. So nothing is ever written into the source to keep
//! a slot moving, which a role could lack the right for and which other tasks would read.
//!
//! **Values** arrive in binary form, which the decoders of a load read. If a followed table has a
//! column of a type that has none here, the whole feed is in text form.

mod assemble;
mod check;
mod database;
mod ddl;
mod decode;
mod feed;
mod form;
mod lsn;
mod names;
mod pgoutput;
mod publication;
mod relation;
mod rows;
mod slot;
mod stream;
mod timeline;
mod wait;
mod walsender;
mod watch;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use dms_core::endpoint::{ChangeFeed, ChangeSource, FeedRequest, LogStatus, Snapshot};
use dms_core::position::Position;
use dms_core::schema::{TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result};

pub use self::decode::decode_changes;

use self::assemble::Assembler;
use self::database::{Database, load_again};
use self::feed::{Confirm, Feed, Pace};
use self::lsn::Lsn;
use self::relation::Shapes;
use self::slot::Slot;
use self::stream::Stream;
use self::walsender::Walsender;
use self::watch::Watch;
use super::settings::CaptureDdls;
use super::snapshot::PostgresSnapshot;
use super::source::PostgresSource;
use crate::queue;
use crate::sql::quote;

#[async_trait]
impl ChangeSource for PostgresSource {
    async fn check_capture(&self, task: &str, tables: &[TableSchema]) -> Result<()> {
        let database = Database::connect(&self.settings).await?;
        let names = database.names(&self.settings, task);
        check::check(&self.settings, &database, &names, tables).await
    }

    async fn begin_capture(&self, task: &str, tables: &[TableSchema]) -> Result<Position> {
        let settings = &self.settings;
        let database = Database::connect(settings).await?;
        let names = database.names(settings, task);
        // A slot that cannot be used is told before anything is made.
        let found = Slot::look_up(&database.client, &names.slot).await?;
        if let Some(slot) = &found {
            slot.confirmed(&database, tables)?;
        }
        // A slot does not see a publication that is younger than itself.
        publication::ensure(&database, &names, tables).await?;
        ddl::ensure(settings, &database.client, &names).await?;
        let slot = match found {
            Some(slot) => slot,
            None => {
                slot::create(settings, &database, &names.slot).await?;
                let made = Slot::look_up(&database.client, &names.slot).await?;
                made.ok_or_else(|| slot::missing(&names.slot, tables))?
            }
        };
        Ok(database.log.before(slot.confirmed(&database, tables)?))
    }

    /// The log holds whatever the table of a name was: nothing is kept of a table, and the event
    /// triggers are the task's.
    async fn forget_capture(&self, _task: &str, _tables: &[TableName]) -> Result<()> {
        Ok(())
    }

    async fn log_snapshot(
        &self,
        _task: &str,
        _tables: &[TableSchema],
        _readers: usize,
    ) -> Result<Arc<dyn Snapshot>> {
        const DOING: &str = "a snapshot at a place of the log cannot be taken";
        let settings = &self.settings;
        let database = Database::connect(settings).await?;
        let mut walsender = Walsender::open(settings, &database).await?;
        // A process of the server has one temporary slot at a time.
        let name = quote(&format!("dms_snapshot_{}", walsender.pid));
        let export =
            if database.version >= 150_000 { "(SNAPSHOT 'export')" } else { "EXPORT_SNAPSHOT" };
        let create =
            format!("CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL {} {export}", slot::PLUGIN);
        let pid = walsender.pid;
        let made = walsender.command(&create, DOING);
        let made = wait::reporting_blockers(settings, pid, made).await?;
        let [_, place, snapshot, ..] = made.as_slice() else {
            return Err(Error::unexpected(DOING));
        };
        let place = Lsn::parse(place).ok_or_else(|| Error::unexpected(DOING))?;
        let position = database.log.before(place);
        // The next command of the connection ends the snapshot, unless it was taken over by then.
        let snapshot = PostgresSnapshot::import(settings, snapshot, position).await?;
        walsender.command(&format!("DROP_REPLICATION_SLOT {name}"), DOING).await?;
        Ok(Arc::new(snapshot))
    }

    async fn changes(&self, request: FeedRequest) -> Result<ChangeFeed> {
        let settings = &self.settings;
        let tables = &request.tables;
        let database = Database::connect(settings).await?;
        let names = database.names(settings, &request.task);
        let from = database.log.next(&request.after)?;
        timeline::check(settings, &database, &request.after, from, tables).await?;
        let found = Slot::look_up(&database.client, &names.slot).await?;
        let found = found.ok_or_else(|| slot::missing(&names.slot, tables))?;
        found.confirmed(&database, tables)?;
        publication::check(&database, &names, tables).await?;
        let slot = slot::wait_until_free(&database.client, &names.slot, tables).await?;
        let confirmed = slot.confirmed(&database, tables)?;
        if confirmed > from {
            // The server would begin there, and not say so.
            return Err(Error::new(
                ErrorKind::PositionLost,
                format!(
                    "replication slot {} goes on at {confirmed}, behind the position: changes before \
                     are confirmed to the server, or the slot was made anew, as on a server that \
                     took over from another one without the slot; {}",
                    names.slot,
                    load_again(tables)
                ),
            )
            .context("position", from));
        }
        let end = database.end().await?;
        if from > end {
            // The server would wait there, and not say so.
            return Err(Error::new(
                ErrorKind::PositionLost,
                format!(
                    "the server's log ends at {end}, before the position: it took over from another \
                     one whose last changes it does not have; {}",
                    load_again(tables)
                ),
            )
            .context("position", from));
        }
        let binary = !self.text_form.load(Ordering::Relaxed)
            && check::has_binary_form(settings, &database, tables).await?;
        let walsender = Walsender::open(settings, &database).await?;
        let pid = walsender.pid;
        let (socket, received) = walsender.start(&names, from, binary).await?;

        let (sender, events) = queue::queue(request.prefetch_bytes);
        let (acknowledge, confirmed) = Confirm::new(database.log.clone(), confirmed);
        let (notify, notices) = tokio::sync::mpsc::unbounded_channel();
        let messages = (settings.capture_ddls != CaptureDdls::Never).then(|| names.ddl.clone());
        let watch = Watch { settings: settings.clone(), names, tables: tables.clone(), pid };
        let text_form = Arc::clone(&self.text_form);
        let shapes = Shapes::new(settings, database.client, tables, binary, text_form);
        let feed = Feed {
            stream: Stream::new(socket, received, confirmed),
            assembler: Assembler::new(database.log.clone(), &request.after, request.event_bytes),
            log: database.log,
            sender,
            notices,
            shapes,
            messages,
            pace: Pace::new(from),
        };
        let watching = tokio::spawn(watch.run(notify));
        tokio::spawn(async move {
            feed.run().await;
            watching.abort();
        });
        Ok(ChangeFeed { events, acknowledge })
    }

    async fn log_status(&self, task: &str) -> Result<LogStatus> {
        let database = Database::connect(&self.settings).await?;
        let names = database.names(&self.settings, task);
        let end = database.end().await?;
        let slot = Slot::look_up(&database.client, &names.slot).await?;
        let retained_bytes = slot.and_then(|slot| slot.retained);
        Ok(LogStatus { end: database.log.before(end), retained_bytes })
    }

    fn parse_position(&self, text: &str) -> Result<Position> {
        lsn::parse_position(text)
    }

    async fn end_capture(&self, task: &str) -> Result<()> {
        let database = Database::connect(&self.settings).await?;
        let names = database.names(&self.settings, task);
        // What the server keeps its log for goes first.
        slot::remove(&database.client, &names.slot).await?;
        let ended = ddl::remove(&database.client, &names).await;
        publication::remove(&database, &names).await.and(ended)
    }
}
