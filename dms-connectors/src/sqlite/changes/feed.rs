//! The thread of a feed: waits for commits, reads what they touched, forgets what is acknowledged.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dms_core::change::ChangeEvent;
use dms_core::endpoint::{Acknowledge, FeedRequest};
use dms_core::position::Position;
use dms_core::{Error, ErrorKind, Result};
use rusqlite::Connection;

use super::log::{Log, Place};
use super::poll::{Followed, Poll};
use super::trim::Trim;
use crate::queue::EventSender;
use crate::sqlite::error::convert;
use crate::sqlite::settings::SqliteSettings;
use crate::sqlite::snapshot::{self, STOP_STEPS, file_number};

/// How often to look for a commit: of a busy source, and of one that has been idle for a while.
const BUSY: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_millis(250);
/// After how long without a commit a source is idle.
const IDLE_AFTER: Duration = Duration::from_secs(2);
/// How often to say that nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What the consumer says that it holds: the order of a position.
#[derive(Debug, Default)]
pub(super) struct Acknowledged(pub(super) AtomicU64);

impl Acknowledge for Acknowledged {
    fn acknowledge(&self, position: &Position) {
        self.0.fetch_max(position.order, Ordering::Relaxed);
    }
}

/// A feed that is ready to start.
pub(super) struct Feed {
    settings: SqliteSettings,
    connection: Connection,
    file: u64,
    log: Log,
    followed: Vec<Followed>,
    /// Everything up to here is delivered.
    delivered: Position,
    place: Place,
    event_bytes: usize,
    schema_version: Option<i64>,
    acknowledged: Arc<Acknowledged>,
}

impl Feed {
    /// Sees that the feed can start where it is asked to.
    pub(super) fn open(settings: &SqliteSettings, request: FeedRequest) -> Result<Self> {
        let place = Place::of(&request.after)?;
        let connection = snapshot::open(settings)?;
        connection.set_prepared_statement_cache_capacity(64);
        let log = Log::of(&connection, &request.task)?;
        log.check(&connection, &place)?;
        let watches = log.watches(&connection)?;
        let followed = request.tables.into_iter().map(|table| {
            let watch = watches.iter().find(|watch| watch.table == table.name.name);
            let watch = watch.ok_or_else(|| {
                Error::settings("the task's capture was not begun for the table; begin it again")
                    .context("table", &table.name)
            })?;
            Ok(Followed::new(watch.clone(), table))
        });
        Ok(Self {
            file: file_of(settings)?,
            followed: followed.collect::<Result<_>>()?,
            delivered: request.after,
            place,
            event_bytes: request.event_bytes,
            schema_version: None,
            acknowledged: Arc::default(),
            settings: settings.clone(),
            connection,
            log,
        })
    }

    pub(super) fn acknowledged(&self) -> Arc<Acknowledged> {
        Arc::clone(&self.acknowledged)
    }

    /// Starts the thread, which ends when nobody takes events any more.
    pub(super) fn start(mut self, sender: EventSender) -> Result<()> {
        self.connection
            .progress_handler(STOP_STEPS, Some(sender.watch()))
            .map_err(|error| convert(error, "a feed cannot be made to stop"))?;
        let work = move || {
            if let Err(error) = self.run(&sender)
                && !sender.is_closed()
            {
                sender.fail(error);
            }
        };
        let started = thread::Builder::new().name("sqlite-feed".to_owned()).spawn(work);
        started.map(drop).map_err(|error| {
            Error::unexpected("a feed's thread cannot be started").with_source(error).transient()
        })
    }

    fn run(&mut self, sender: &EventSender) -> Result<()> {
        let mut trim = Trim::default();
        let mut version = None;
        let (mut active, mut told): (Instant, Option<Instant>) = (Instant::now(), None);
        while !sender.is_closed() {
            let now = self.data_version()?;
            if version != Some(now) {
                version = Some(now);
                let before = self.delivered.order;
                if !self.poll(sender)? {
                    return Ok(());
                }
                if self.delivered.order != before {
                    // Whether that was all shows at the next look, which comes at once.
                    (active, told) = (Instant::now(), None);
                    continue;
                }
            }
            if told.is_none_or(|told| told.elapsed() >= HEARTBEAT) {
                told = Some(Instant::now());
                if !sender.send_blocking(ChangeEvent::Idle { position: self.delivered.clone() }) {
                    return Ok(());
                }
            }
            let acknowledged = self.acknowledged.0.load(Ordering::Relaxed);
            trim.step(&self.settings, &self.log, acknowledged.min(self.delivered.order))?;
            thread::sleep(if active.elapsed() < IDLE_AFTER { BUSY } else { IDLE });
            self.check_file()?;
        }
        Ok(())
    }

    /// Changes with every commit of another connection.
    fn data_version(&self) -> Result<i64> {
        self.connection
            .query_row("PRAGMA data_version", [], |row| row.get(0))
            .map_err(|error| convert(error, "the source cannot be looked at for commits"))
    }

    /// Whether the path still leads to the file that is open.
    fn check_file(&self) -> Result<()> {
        if file_of(&self.settings).is_ok_and(|file| file == self.file) {
            return Ok(());
        }
        let path = self.settings.path.display();
        let message = format!("database {path} was moved or replaced while its changes were read");
        Err(Error::new(ErrorKind::Connection, message).transient())
    }

    /// Delivers what happened since; whether somebody took it.
    fn poll(&mut self, sender: &EventSender) -> Result<bool> {
        let failed = |error| convert(error, "the changes cannot be read");
        let connection = &self.connection;
        let transaction = connection.unchecked_transaction().map_err(failed)?;
        self.log.check(&transaction, &self.place)?;
        let end = self.log.end(&transaction)?;
        let mut poll = Poll {
            connection: &transaction,
            settings: &self.settings,
            log: self.log.table(),
            after: self.place.sequence,
            end: end.clone(),
            event_bytes: self.event_bytes,
            sender,
        };
        let taken = poll.shapes(&self.log, &mut self.followed, &mut self.schema_version)?
            && (end.order == self.delivered.order || poll.rows(&self.followed)?);
        transaction.rollback().map_err(failed)?;
        self.place = Place::of(&end)?;
        self.delivered = end;
        Ok(taken)
    }
}

fn file_of(settings: &SqliteSettings) -> Result<u64> {
    fs::metadata(&settings.path).map(|metadata| file_number(&metadata)).map_err(|error| {
        let message = format!("database {} is gone", settings.path.display());
        Error::new(ErrorKind::NotFound, message).with_source(error)
    })
}
