//! Tables in memory whose changes are followed: the reference implementation of a change source.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use futures::StreamExt;

use super::MemorySource;
use super::rows::{batch_of, identity_of, key_of, rows_of};
use super::source::Tables;
use crate::change::{ChangeBatch, ChangeEvent, ChangeRecord, ChangeRows, Operation, Transaction};
use crate::endpoint::{
    Acknowledge, ChangeFeed, ChangeSource, FeedRequest, LogStatus, Snapshot, Source,
};
use crate::position::Position;
use crate::schema::{TableName, TableSchema};
use crate::value::Value;
use crate::{Error, ErrorKind, Result};

/// What a transaction does to a row of a [`MemorySource`]. Rows are found by their primary key, or
/// whole.
#[derive(Debug, Clone, PartialEq)]
pub enum MemoryChange {
    /// A row comes.
    Insert(TableName, Vec<Value>),
    /// A row becomes another; values that are `None` stay, and the feed does not carry them.
    Update(TableName, Vec<Value>, Vec<Option<Value>>),
    /// A row goes.
    Delete(TableName, Vec<Value>),
    /// A table is emptied.
    Truncate(TableName),
}

/// A committed transaction, as the feed tells it.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    version: u64,
    changes: Vec<(Arc<TableSchema>, Option<ChangeRecord>)>,
}

impl MemorySource {
    /// Does all of this in one transaction, and logs it.
    ///
    /// # Errors
    /// `NotFound` for a table or row that is not there; nothing is done then.
    pub fn commit(&self, changes: impl IntoIterator<Item = MemoryChange>) -> Result<()> {
        let mut tables = self.lock();
        let mut after = tables.clone();
        let mut logged = Vec::new();
        for change in changes {
            after.change(change, &mut logged)?;
        }
        after.version += 1;
        for (sequence, record) in logged.iter_mut().filter_map(|(_, r)| r.as_mut()).enumerate() {
            record.sequence = sequence as u64;
        }
        after.log.push(Arc::new(Logged { version: after.version, changes: logged }));
        *tables = after;
        self.changed.notify_waiters();
        Ok(())
    }

    /// The newest version that was acknowledged by a feed.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

impl Tables {
    fn change(
        &mut self,
        change: MemoryChange,
        logged: &mut Vec<(Arc<TableSchema>, Option<ChangeRecord>)>,
    ) -> Result<()> {
        let (MemoryChange::Insert(name, _)
        | MemoryChange::Update(name, ..)
        | MemoryChange::Delete(name, _)
        | MemoryChange::Truncate(name)) = &change;
        let missing = |what: &str| Error::new(ErrorKind::NotFound, what).context("table", name);
        let held = self.tables.get_mut(name).ok_or_else(|| missing("there is no such table"))?;
        let table = Arc::new(held.0.clone());
        let identity = identity_of(&table);
        let mut rows = rows_of(&table, &held.1)?;
        let find = |rows: &[Vec<Value>], key: &[Value]| {
            let place = rows.iter().position(|row| key_of(row, &identity) == key);
            place.ok_or_else(|| missing("there is no such row"))
        };
        let mut log = |operation, values| {
            let record = ChangeRecord { operation, sequence: 0, values };
            logged.push((Arc::clone(&table), Some(record)));
        };
        let whole = |row: &[Value]| row.iter().cloned().map(Some).collect::<Vec<_>>();
        match &change {
            MemoryChange::Insert(_, row) => {
                log(Operation::Insert, whole(row));
                rows.push(row.clone());
            }
            MemoryChange::Update(_, key, values) => {
                let at = find(&rows, key)?;
                let Some(row) = rows.get_mut(at) else { return Err(missing("no row")) };
                let before = whole(row);
                for (value, new) in row.iter_mut().zip(values) {
                    if let Some(new) = new {
                        *value = new.clone();
                    }
                }
                let is_whole = identity == crate::change::Identity::WholeRow;
                if is_whole || key_of(row, &identity) != *key {
                    log(Operation::UpdateBefore, before);
                }
                log(Operation::Update, if is_whole { whole(row) } else { values.clone() });
            }
            MemoryChange::Delete(_, key) => {
                let row = rows.remove(find(&rows, key)?);
                log(Operation::Delete, whole(&row));
            }
            MemoryChange::Truncate(_) => {
                rows.clear();
                logged.push((Arc::clone(&table), None));
            }
        }
        held.1 = vec![batch_of(&table, &rows)?];
        Ok(())
    }
}

impl Logged {
    /// The transaction as events: rows of one table at a time keep the order of all.
    fn events(&self, wanted: &[TableSchema]) -> Result<Vec<ChangeEvent>> {
        let part = |end, complete| Transaction {
            position: Position::new(self.version, format!("version {}", self.version)),
            committed_at: None,
            id: self.version.to_string(),
            end,
            complete,
        };
        let mut events = Vec::new();
        let changes = self
            .changes
            .iter()
            .filter(|(table, _)| wanted.iter().any(|wanted| wanted.name == table.name));
        let mut run: Vec<(Arc<TableSchema>, Vec<ChangeRecord>)> = Vec::new();
        let mut end = 0;
        let mut sequence = 0;
        for (table, record) in changes {
            let Some(record) = record else {
                events.push(rows_event(std::mem::take(&mut run), part(end, false))?);
                (end, sequence) = (0, 0);
                let tables = vec![table.name.clone()];
                events.push(ChangeEvent::Truncate { tables, transaction: part(0, false) });
                continue;
            };
            let mut record = record.clone();
            record.sequence = sequence;
            sequence += 1;
            end = sequence;
            match run.iter_mut().find(|(of, _)| of.name == table.name) {
                Some((_, records)) => records.push(record),
                None => run.push((Arc::clone(table), vec![record])),
            }
        }
        events.push(rows_event(run, part(end, true))?);
        Ok(events)
    }
}

fn rows_event(
    tables: Vec<(Arc<TableSchema>, Vec<ChangeRecord>)>,
    transaction: Transaction,
) -> Result<ChangeEvent> {
    let batches = tables.into_iter().map(|(table, records)| {
        let identity = identity_of(&table);
        ChangeBatch::from_records(table, identity, &records)
    });
    let batches = batches.collect::<Result<_>>()?;
    Ok(ChangeEvent::Rows(ChangeRows { batches, transactions: vec![transaction] }))
}

#[async_trait]
impl ChangeSource for MemorySource {
    async fn check_capture(&self, _task: &str, _tables: &[TableSchema]) -> Result<()> {
        Ok(())
    }

    async fn begin_capture(&self, _task: &str, _tables: &[TableSchema]) -> Result<Position> {
        Ok(self.log_status("").await?.end)
    }

    async fn forget_capture(&self, _task: &str, _tables: &[TableName]) -> Result<()> {
        Ok(())
    }

    async fn log_snapshot(
        &self,
        _task: &str,
        tables: &[TableSchema],
        readers: usize,
    ) -> Result<Arc<dyn Snapshot>> {
        self.snapshot(tables, readers).await
    }

    async fn changes(&self, request: FeedRequest) -> Result<ChangeFeed> {
        let acknowledge = Arc::new(Acknowledged(Arc::clone(&self.acknowledged)));
        let schemas = request.tables.iter().map(|table| ChangeEvent::Schema {
            table: Arc::new(table.clone()),
            identity: identity_of(table),
            column_ids: Vec::new(),
            initial: std::collections::BTreeMap::new(),
            altered: None,
        });
        let schemas: Vec<Result<ChangeEvent>> = schemas.map(Ok).collect();
        // The version sent, and whether the feed has said that it is the newest.
        let state = (request.after.order, false);
        let events = futures::stream::unfold(
            (self.clone(), request, state),
            |(source, request, state)| async move {
                let (events, state) = source.wait(&request, state).await;
                Some((events, (source, request, state)))
            },
        );
        let events = futures::stream::iter([schemas]).chain(events);
        Ok(ChangeFeed { events: events.flat_map(futures::stream::iter).boxed(), acknowledge })
    }

    async fn log_status(&self, _task: &str) -> Result<LogStatus> {
        let version = self.lock().version;
        let end = Position::new(version, format!("version {version}"));
        Ok(LogStatus { end, retained_bytes: None })
    }

    fn parse_position(&self, text: &str) -> Result<Position> {
        let version = text.parse().map_err(|_| {
            Error::settings(format!("position {text:?} is not a version, which is a whole number"))
        })?;
        Ok(Position::new(version, format!("version {version}")))
    }

    async fn end_capture(&self, _task: &str) -> Result<()> {
        Ok(())
    }
}

impl MemorySource {
    /// The next transaction's events or that nothing happened, and the version that this is.
    async fn wait(
        &self,
        request: &FeedRequest,
        (sent, is_idle): (u64, bool),
    ) -> (Vec<Result<ChangeEvent>>, (u64, bool)) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let (next, end) = self.after(sent);
            if let Some(logged) = next {
                return match logged.events(&request.tables) {
                    Ok(events) => (events.into_iter().map(Ok).collect(), (logged.version, false)),
                    Err(error) => (vec![Err(error)], (logged.version, false)),
                };
            }
            if !is_idle || sent != end {
                let position = Position::new(end, format!("version {end}"));
                return (vec![Ok(ChangeEvent::Idle { position })], (end, true));
            }
            changed.await;
        }
    }

    /// The first transaction after a version, and the newest version.
    fn after(&self, version: u64) -> (Option<Arc<Logged>>, u64) {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let next = tables.log.iter().find(|logged| logged.version > version);
        (next.cloned(), tables.version)
    }
}

#[derive(Debug)]
struct Acknowledged(Arc<AtomicU64>);

impl Acknowledge for Acknowledged {
    fn acknowledge(&self, position: &Position) {
        self.0.fetch_max(position.order, Ordering::Relaxed);
    }
}
