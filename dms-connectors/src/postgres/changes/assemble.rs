//! Messages of the log, gathered into events.

use std::collections::HashMap;
use std::sync::Arc;

use dms_core::change::{ChangeEvent, ChangeRows, Transaction};
use dms_core::position::Position;
use dms_core::schema::TableName;
use dms_core::{Error, ErrorKind, Result};

use super::lsn::{Log, Lsn};
use super::pgoutput::Message;
use super::relation::Shape;
use super::rows::TableRows;
use crate::postgres::copy::EPOCH_MICROS;

/// The most bytes of an event, whatever is asked for: offsets of texts in Arrow have 31 bits, and
/// one row of the log may have 2^30 bytes.
const EVENT_BYTES_MAX: usize = 256 << 20;

/// What a record takes besides its values, about.
const RECORD_BYTES: usize = 16;

/// What a value of fixed width takes, about.
const VALUE_BYTES: usize = 8;

/// Gathers what arrives until it is cut into events.
pub(super) struct Assembler {
    log: Log,
    event_bytes: usize,
    /// Transactions up to here are left out.
    after: u64,
    /// Relations that the connection has named: places in `tables`, or none for those that nobody
    /// asked for.
    relations: HashMap<u32, Option<usize>>,
    /// The relation of the row before, which most often is the next row's too.
    last: (u32, usize),
    tables: Vec<TableRows>,
    /// Tables with records.
    touched: Vec<usize>,
    transactions: Vec<Transaction>,
    open: Option<Open>,
    sequence: u64,
    bytes: usize,
    /// What is cut, in order.
    pub(super) events: Vec<ChangeEvent>,
}

/// The transaction that messages belong to.
struct Open {
    commit: Lsn,
    id: u32,
    committed_at: i64,
    /// Whether it is known already.
    skipped: bool,
    /// The first of its records in the event.
    begins: u64,
}

impl Assembler {
    pub(super) fn new(log: Log, after: &Position, event_bytes: usize) -> Self {
        Self {
            log,
            event_bytes: event_bytes.clamp(1, EVENT_BYTES_MAX),
            after: after.order,
            relations: HashMap::new(),
            last: (0, usize::MAX),
            tables: Vec::new(),
            touched: Vec::new(),
            transactions: Vec::new(),
            open: None,
            sequence: 0,
            bytes: 0,
            events: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self, commit: Lsn, id: u32, committed_at: i64) {
        let skipped = commit.0 <= self.after;
        let committed_at = committed_at.saturating_add(EPOCH_MICROS);
        let begins = self.sequence;
        self.open = Some(Open { commit, id, committed_at, skipped, begins });
    }

    /// # Errors
    /// `Corrupt` if none was begun.
    pub(super) fn commit(&mut self, next: Lsn) -> Result<()> {
        let Some(open) = self.open.take() else { return Err(out_of_place("the end")) };
        if !open.skipped {
            let position = self.log.transaction(open.commit, next);
            self.transactions.push(open.part(position, self.sequence, true));
            self.bytes += RECORD_BYTES;
            if self.bytes >= self.event_bytes {
                self.cut()?;
            }
        }
        Ok(())
    }

    /// Whether a transaction has begun that has not ended.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether there are transactions to deliver that are complete.
    pub(super) fn has_complete(&self) -> bool {
        !self.transactions.is_empty()
    }

    /// Takes a transaction's bound, or a change of rows of tables that are known already.
    ///
    /// # Errors
    /// `Data` for a value that is none of its column; `Corrupt` for a message out of its place.
    pub(super) fn take(&mut self, message: &Message<'_>, length: usize) -> Result<()> {
        let relation = match message {
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. } => *relation,
            Message::Begin { commit, committed_at, id } => {
                self.begin(Lsn(*commit), *id, *committed_at);
                return Ok(());
            }
            Message::Commit { end } => return self.commit(Lsn(*end)),
            Message::Truncate { relations } => return self.truncate(relations),
            Message::Relation(_) | Message::Logical { .. } | Message::Other => return Ok(()),
        };
        let Some(open) = &self.open else { return Err(out_of_place("a row")) };
        if open.skipped {
            return Ok(());
        }
        let commit = open.commit;
        let Some(place) = self.place(relation)? else { return Ok(()) };
        if self.bytes > 0 && self.bytes.saturating_add(length) > self.event_bytes {
            self.cut()?;
        }
        let Some(rows) = self.tables.get_mut(place) else { return Err(out_of_place("a row")) };
        if rows.is_empty() {
            self.touched.push(place);
        }
        let before = rows.len();
        let sequence = &mut self.sequence;
        let taken = match message {
            Message::Insert { new, .. } => rows.insert(*new, sequence),
            Message::Update { old, new, .. } => rows.update(*old, *new, sequence),
            Message::Delete { old, .. } => rows.delete(*old, sequence),
            _ => Ok(()),
        };
        taken.map_err(|error| error.context("position", commit))?;
        // A value that is not there takes its place all the same.
        let records = rows.len() - before;
        let places = records * rows.shape.table.columns.len() * VALUE_BYTES;
        self.bytes += length.max(places) + records * RECORD_BYTES;
        Ok(())
    }

    #[inline]
    fn place(&mut self, relation: u32) -> Result<Option<usize>> {
        if self.last.0 == relation && self.last.1 != usize::MAX {
            return Ok(Some(self.last.1));
        }
        match self.relations.get(&relation) {
            Some(Some(place)) => {
                self.last = (relation, *place);
                Ok(Some(*place))
            }
            Some(None) => Ok(None),
            None => Err(out_of_place("a row of a table that was not described")),
        }
    }

    fn truncate(&mut self, relations: &[u32]) -> Result<()> {
        if self.open.as_ref().is_none_or(|open| open.skipped) {
            return Ok(());
        }
        let mut tables = Vec::new();
        for relation in relations {
            if let Some(place) = self.place(*relation)? {
                tables.extend(self.tables.get(place).map(|rows| rows.shape.table.name.clone()));
            }
        }
        if tables.is_empty() {
            return Ok(());
        }
        self.cut()?;
        if let Some(transaction) = self.act() {
            self.events.push(ChangeEvent::Truncate { tables, transaction });
        }
        Ok(())
    }

    /// Rows of this relation are of no interest. If it was a table's that is followed, that goes by
    /// another name now.
    ///
    /// # Errors
    /// `Unexpected` if Arrow refuses what was gathered.
    pub(super) fn ignore(&mut self, relation: u32) -> Result<()> {
        let known = self.shape(relation).map(|shape| shape.table.name.clone());
        self.forget(relation);
        known.map_or(Ok(()), |table| self.dropped(table))
    }

    /// Rows of this relation are of no interest from here on.
    pub(super) fn forget(&mut self, relation: u32) {
        self.last.1 = usize::MAX;
        self.relations.insert(relation, None);
    }

    /// Tells that a table is gone, by the transaction that is open if one is. One that is left out
    /// has told it before.
    ///
    /// # Errors
    /// `Unexpected` if Arrow refuses what was gathered.
    pub(super) fn dropped(&mut self, table: TableName) -> Result<()> {
        if self.open.as_ref().is_some_and(|open| open.skipped) {
            return Ok(());
        }
        self.cut()?;
        let transaction = self.act();
        self.events.push(ChangeEvent::Dropped { table, transaction });
        Ok(())
    }

    /// The transaction that is open, as one that did something between rows.
    fn act(&self) -> Option<Transaction> {
        let open = self.open.as_ref()?;
        Some(open.part(self.log.transaction(open.commit, open.commit), 0, false))
    }

    /// Whether what the transaction that is open does is to be told.
    pub(super) fn is_wanted(&self) -> bool {
        self.open.as_ref().is_some_and(|open| !open.skipped)
    }

    /// The shape that rows of a relation have from here on; `is_altered` if the transaction that is
    /// open gave it to the table.
    ///
    /// # Errors
    /// `Unsupported` for a type without a form in Arrow.
    pub(super) fn follow(&mut self, relation: u32, shape: Shape, is_altered: bool) -> Result<()> {
        let known = self.relations.get(&relation).copied().flatten();
        if let Some(rows) = known.and_then(|place| self.tables.get(place))
            && *rows.shape == shape
        {
            return Ok(());
        }
        self.cut()?;
        self.events.push(ChangeEvent::Schema {
            table: Arc::clone(&shape.table),
            identity: shape.identity.clone(),
            column_ids: shape.column_ids.clone(),
            initial: shape.initial.clone(),
            altered: self.act().filter(|_| is_altered),
        });
        let rows = TableRows::new(Arc::new(shape))?;
        let place = known.unwrap_or(self.tables.len());
        match self.tables.get_mut(place) {
            Some(before) => *before = rows,
            None => self.tables.push(rows),
        }
        self.relations.insert(relation, Some(place));
        self.last.1 = usize::MAX;
        Ok(())
    }

    /// The shape that a relation had so far.
    pub(super) fn shape(&self, relation: u32) -> Option<&Shape> {
        let place = self.relations.get(&relation).copied().flatten()?;
        self.tables.get(place).map(|rows| &*rows.shape)
    }

    /// Makes an event of what was gathered, with the part of a transaction that has not ended.
    ///
    /// # Errors
    /// `Unexpected` if Arrow refuses it.
    pub(super) fn cut(&mut self) -> Result<()> {
        let mut transactions = std::mem::take(&mut self.transactions);
        if let Some(open) = &mut self.open {
            if self.sequence > open.begins {
                let position = self.log.transaction(open.commit, open.commit);
                transactions.push(open.part(position, self.sequence, false));
            }
            open.begins = 0;
        }
        let mut batches = Vec::with_capacity(self.touched.len());
        for place in self.touched.drain(..) {
            if let Some(rows) = self.tables.get_mut(place) {
                let name = rows.shape.table.name.clone();
                batches.push(rows.take().map_err(|error| error.context("table", name))?);
            }
        }
        (self.sequence, self.bytes) = (0, 0);
        if !transactions.is_empty() {
            self.events.push(ChangeEvent::Rows(ChangeRows { batches, transactions }));
        }
        Ok(())
    }
}

impl Open {
    fn part(&self, position: Position, end: u64, complete: bool) -> Transaction {
        let committed_at = Some(self.committed_at);
        Transaction { position, committed_at, id: self.id.to_string(), end, complete }
    }
}

fn out_of_place(what: &str) -> Error {
    let message = format!("the server's log has {what} where it cannot be");
    Error::new(ErrorKind::Corrupt, message)
}
