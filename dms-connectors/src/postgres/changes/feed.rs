//! The feed: from the server's stream to events.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dms_core::change::ChangeEvent;
use dms_core::endpoint::Acknowledge;
use dms_core::position::Position;
use dms_core::schema::TableName;
use dms_core::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::assemble::Assembler;
use super::ddl::Told;
use super::lsn::{Log, Lsn};
use super::pgoutput::Message;
use super::relation::Shapes;
use super::stream::{Stream, Streamed};
use super::watch::Notice;
use crate::queue::{EventSender, Gone};

/// How long what is gathered waits for company while the stream pauses, and how long the stream is
/// left alone meanwhile: a server sends every change of its own, and each that is waited for costs
/// both sides more than what it holds.
const LINGER: Duration = Duration::from_millis(3);
/// A read of less than this was made too soon.
const ENOUGH: usize = 1 << 18;
/// How often the consumer is told that nothing happens.
const IDLE_EACH: Duration = Duration::from_millis(100);

/// Confirms to the server what is durable.
pub(super) struct Confirm {
    log: Log,
    confirmed: watch::Sender<u64>,
}

impl Confirm {
    pub(super) fn new(log: Log, from: Lsn) -> (Arc<Self>, watch::Receiver<u64>) {
        let (confirmed, receiver) = watch::channel(from.0);
        (Arc::new(Self { log, confirmed }), receiver)
    }
}

impl fmt::Debug for Confirm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Confirm").field(&Lsn(*self.confirmed.borrow())).finish()
    }
}

impl Acknowledge for Confirm {
    fn acknowledge(&self, position: &Position) {
        match self.log.next(position) {
            Ok(lsn) => {
                self.confirmed.send_if_modified(|confirmed| {
                    let grows = lsn.0 > *confirmed;
                    *confirmed = lsn.0.max(*confirmed);
                    grows
                });
            }
            Err(error) => tracing::warn!(%error, "a position is not confirmed to the source"),
        }
    }
}

/// What runs a feed until its consumer is gone.
pub(super) struct Feed {
    pub(super) stream: Stream,
    pub(super) log: Log,
    pub(super) sender: EventSender,
    pub(super) notices: mpsc::UnboundedReceiver<Notice>,
    pub(super) assembler: Assembler,
    pub(super) shapes: Shapes,
    /// The prefix of the messages that tell of altered and dropped tables.
    pub(super) messages: Option<String>,
    pub(super) pace: Pace,
}

/// Up to where the feed has come, and what is due when.
pub(super) struct Pace {
    /// Every change before has been gathered.
    reached: Lsn,
    /// The server has nothing for us before this place.
    quiet: Lsn,
    idle_told: Option<Instant>,
    /// When what is gathered has to go.
    flush_at: Option<Instant>,
    gone: Vec<(TableName, Lsn)>,
}

impl Pace {
    pub(super) fn new(from: Lsn) -> Self {
        Self { reached: from, quiet: from, idle_told: None, flush_at: None, gone: Vec::new() }
    }
}

impl Pace {
    /// # Errors
    /// What the feed cannot go on after.
    fn note(&mut self, notice: Notice) -> Result<()> {
        match notice {
            Notice::Gone(table, place) => self.gone.push((table, place)),
            Notice::Failed(error) => return Err(error),
        }
        Ok(())
    }
}

/// Why a feed ends.
enum End {
    /// Nobody takes its events.
    Gone,
    Failed(Error),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Feed {
    pub(super) async fn run(mut self) {
        let sender = self.sender.clone();
        let ended = tokio::select! {
            ended = self.follow() => ended,
            () = sender.closed() => return,
        };
        if let Err(End::Failed(error)) = ended {
            // The slot is free before anybody hears of the end.
            drop(self.stream);
            sender.fail(error);
        }
    }

    async fn follow(&mut self) -> std::result::Result<(), End> {
        loop {
            while let Some(streamed) = self.stream.take()? {
                self.take(streamed).await?;
                self.deliver().await?;
            }
            let due = self.due();
            let is_gathering = self.pace.flush_at.is_some() || self.assembler.is_open();
            let pause = (is_gathering && self.stream.last_read < ENOUGH).then_some(LINGER);
            tokio::select! {
                biased;
                // The other end may be gone: then it says nothing more.
                Some(notice) = self.notices.recv() => self.pace.note(notice)?,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.flush().await?;
                }
                more = async {
                    if let Some(pause) = pause {
                        tokio::time::sleep(pause).await;
                    }
                    self.stream.wait().await
                } => more?,
            }
        }
    }

    /// When something has to be told though nothing comes.
    fn due(&self) -> Option<Instant> {
        let is_idle = !self.assembler.is_open()
            && (self.pace.quiet > self.pace.reached || !self.pace.gone.is_empty());
        let idle = is_idle.then(|| match self.pace.idle_told {
            Some(told) => told + IDLE_EACH,
            None => Instant::now(),
        });
        match (self.pace.flush_at, idle) {
            (Some(flush), Some(idle)) => Some(flush.min(idle)),
            (flush, idle) => flush.or(idle),
        }
    }

    /// Takes a part of the stream, which may be large and is gone when this ends.
    async fn take(&mut self, streamed: Streamed) -> Result<()> {
        let bytes = match streamed {
            Streamed::Message(bytes) => bytes,
            Streamed::KeepAlive(place) => {
                // Inside of a transaction it says nothing of what comes behind it.
                if !self.assembler.is_open() {
                    self.pace.quiet = self.pace.quiet.max(place);
                }
                return Ok(());
            }
        };
        match Message::parse(&bytes)? {
            Message::Relation(relation) => {
                let before = self.assembler.shape(relation.id);
                match self.shapes.resolve(&relation, before).await? {
                    Some(shape) => self.assembler.follow(relation.id, shape, false)?,
                    None => self.assembler.ignore(relation.id)?,
                }
            }
            Message::Logical { transactional: true, prefix, content }
                if self.messages.as_deref().map(str::as_bytes) == Some(prefix)
                    && self.assembler.is_wanted() =>
            {
                self.altered(Told::parse(content)).await?;
            }
            message => {
                self.assembler.take(&message, bytes.len())?;
                if let Message::Commit { end } = message {
                    self.pace.reached = Lsn(end);
                    if self.pace.flush_at.is_none() && self.assembler.has_complete() {
                        self.pace.flush_at = Some(Instant::now() + LINGER);
                    }
                }
            }
        }
        Ok(())
    }

    /// What the event triggers tell, as far as the catalogs bear it out.
    async fn altered(&mut self, told: Told) -> Result<()> {
        for id in told.dropped {
            let Some(table) = self.shapes.followed(id).cloned() else { continue };
            if self.shapes.is_gone(id).await? {
                self.assembler.forget(id);
                self.assembler.dropped(table)?;
            }
        }
        for described in told.altered {
            let id = described.id;
            let Some(table) = self.shapes.followed(id).cloned() else { continue };
            if !self.shapes.is_as(&described).await? {
                continue;
            }
            let before = self.assembler.shape(id);
            match self.shapes.resolve(&described.into_relation(), before).await {
                Ok(Some(shape)) => self.assembler.follow(id, shape, true)?,
                Ok(None) => {
                    self.assembler.forget(id);
                    self.assembler.dropped(table)?;
                }
                // Of a type that is gone by now. Rows of this shape will say so, if there are any.
                Err(error) if error.kind() == ErrorKind::Schema => {
                    tracing::debug!(%table, %error, "a change of a table is left to its rows");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Delivers what is gathered, and says how far the log was read if it says no more.
    async fn flush(&mut self) -> std::result::Result<(), End> {
        self.pace.flush_at = None;
        if self.assembler.has_complete() {
            self.assembler.cut()?;
        }
        if !self.assembler.is_open() {
            self.tell_idle()?;
        }
        self.deliver().await
    }

    fn tell_idle(&mut self) -> Result<()> {
        let pace = &mut self.pace;
        let now = Instant::now();
        if pace.idle_told.is_some_and(|told| now < told + IDLE_EACH) {
            return Ok(());
        }
        pace.idle_told = Some(now);
        let is_news = pace.quiet > pace.reached;
        pace.reached = pace.reached.max(pace.quiet);
        let (reached, mut gone) = (pace.reached, Vec::new());
        pace.gone.retain(|(table, place)| {
            if *place <= reached {
                gone.push(table.clone());
            }
            *place > reached
        });
        for table in gone {
            self.assembler.dropped(table)?;
        }
        if is_news {
            let position = self.log.before(reached);
            self.assembler.events.push(ChangeEvent::Idle { position });
        }
        Ok(())
    }

    /// Hands over what is cut.
    async fn deliver(&mut self) -> std::result::Result<(), End> {
        if self.assembler.events.is_empty() {
            return Ok(());
        }
        if !self.assembler.has_complete() {
            self.pace.flush_at = None;
        }
        for event in self.assembler.events.drain(..) {
            let mut sending = std::pin::pin!(self.sender.send(event));
            loop {
                tokio::select! {
                    biased;
                    sent = &mut sending => {
                        sent?;
                        break;
                    }
                    Some(notice) = self.notices.recv() => self.pace.note(notice)?,
                }
            }
        }
        Ok(())
    }
}
