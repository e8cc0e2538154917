//! One look at the log: everything since the last one, in one read transaction and so in one state
//! of the file, as one transaction of the feed.

use std::sync::Arc;

use dms_core::change::{ChangeBatch, ChangeEvent, ChangeRows, Identity, Transaction};
use dms_core::position::Position;
use dms_core::schema::{TableName, TableSchema};
use dms_core::{Error, Result, ResultExt};
use rusqlite::{Connection, params};

use super::capture::verify;
use super::log::Log;
use super::records::Records;
use super::shape::initial;
use super::touched;
use super::watch::{Watch, schema_version};
use crate::queue::EventSender;
use crate::sql::quote;
use crate::sqlite::cursor::{Cell, Cursor};
use crate::sqlite::discover;
use crate::sqlite::error::convert;
use crate::sqlite::settings::SqliteSettings;

const DOING: &str = "the changes cannot be read";

/// The most bytes of an event, whatever is asked for: with one more value, of SQLite's longest, its
/// columns stay below the 2^31 of Arrow's offsets.
const EVENT_BYTES_MAX: usize = 1 << 30;

/// A table of a feed.
pub(super) struct Followed {
    watch: Watch,
    /// As asked for.
    wanted: TableSchema,
    /// The identities of the columns that were there when the capture began and are not asked for.
    unwanted: Vec<u32>,
    /// As it is now; `None` before the first look and after it was dropped.
    shape: Option<(Arc<TableSchema>, Identity)>,
    dropped: bool,
}

impl Followed {
    pub(super) fn new(watch: Watch, wanted: TableSchema) -> Self {
        let unwanted = watch.columns.iter().filter(|c| wanted.column_index(&c.name).is_none());
        let unwanted = unwanted.map(|column| column.id).collect();
        Self { watch, wanted, unwanted, shape: None, dropped: false }
    }

    /// The columns to deliver of a table as it is now: those asked for, and those that came since.
    fn delivered(&self, now: &TableSchema) -> Result<(TableSchema, Identity)> {
        let mut table = now.clone();
        table.columns.retain(|column| {
            let watched = self.watch.columns.iter().find(|watched| watched.name == column.name);
            watched.is_none_or(|watched| !self.unwanted.contains(&watched.id))
        });
        for column in &mut table.columns {
            if let Ok(wanted) = self.wanted.column(&column.name) {
                column.clone_from(wanted);
            }
        }
        let there = |name: &String| table.column_index(name).is_some();
        let key_there = table.primary_key.iter().all(there);
        let unique = table.unique_indexes.iter().filter(|index| index.columns.iter().all(there));
        let unique = unique.cloned().collect();
        table.unique_indexes = unique;
        if !key_there {
            table.primary_key.clear();
        }
        let places = self.watch.key_names()?.into_iter().map(|name| {
            table.column_index(name).ok_or_else(|| {
                Error::settings(
                    "a column of the table's key is left out, without which its changes cannot \
                     be followed; keep the column",
                )
                .context("column", name)
            })
        });
        let identity = Identity::Key(places.collect::<Result<_>>()?);
        Ok((table, identity))
    }

    /// The columns' identities, by place.
    fn ids(&self, table: &TableSchema) -> Vec<u32> {
        let id = |name: &str| self.watch.columns.iter().find(|c| c.name == name).map(|c| c.id);
        table.columns.iter().filter_map(|column| id(&column.name)).collect()
    }
}

/// A look at the log, in a read transaction.
pub(super) struct Poll<'a> {
    pub(super) connection: &'a Connection,
    pub(super) settings: &'a SqliteSettings,
    /// The log's table.
    pub(super) log: String,
    /// What came after this sequence is looked at, up to `end`.
    pub(super) after: i64,
    pub(super) end: Position,
    pub(super) event_bytes: usize,
    pub(super) sender: &'a EventSender,
}

impl Poll<'_> {
    /// Tells what became of the tables, if the schema changed since the version that was seen last;
    /// whether somebody took it.
    pub(super) fn shapes(
        &mut self,
        log: &Log,
        followed: &mut [Followed],
        seen: &mut Option<i64>,
    ) -> Result<bool> {
        let version = schema_version(self.connection)?;
        if *seen == Some(version) {
            return Ok(true);
        }
        for followed in followed.iter_mut().filter(|followed| !followed.dropped) {
            let event = self.shape(log, followed).context("table", &followed.wanted.name)?;
            if event.is_some_and(|event| !self.sender.send_blocking(event)) {
                return Ok(false);
            }
        }
        *seen = Some(version);
        Ok(true)
    }

    fn shape(&self, log: &Log, followed: &mut Followed) -> Result<Option<ChangeEvent>> {
        let name = &followed.watch.table;
        // Names are found in any case; a rename that changes nothing but case is one.
        let now = discover::shape(self.connection, self.settings, name)?;
        let now = now.filter(|now| now.name.name == *name);
        let Some(now) = now else {
            (followed.dropped, followed.shape) = (true, None);
            let table = TableName::new(followed.wanted.name.schema.as_str(), name.as_str());
            return Ok(Some(ChangeEvent::Dropped { table, transaction: None }));
        };
        followed.watch = verify(self.connection, log, &followed.watch)?;
        let (table, identity) = followed.delivered(&now)?;
        let same = followed.shape.as_ref().is_some_and(|(before, _)| **before == table);
        if same {
            return Ok(None);
        }
        let table = Arc::new(table);
        followed.shape = Some((Arc::clone(&table), identity.clone()));
        Ok(Some(ChangeEvent::Schema {
            column_ids: followed.ids(&table),
            initial: initial(self.connection, &table, self.settings.temporal)?,
            identity,
            table,
            altered: None,
        }))
    }

    /// Delivers the touched rows as they are now; whether somebody took them.
    ///
    /// Of each table, keys that are gone come before rows: a target that compares keys or unique
    /// values otherwise than SQLite must not take a new row for one that goes.
    pub(super) fn rows(&mut self, followed: &[Followed]) -> Result<bool> {
        let touched = self.touched()?;
        let mut parts = Parts::default();
        for followed in followed {
            let Some((table, identity)) = &followed.shape else { continue };
            if !touched.contains(&followed.watch.number) {
                continue;
            }
            let mut records = Records::new(table, identity, self.settings.temporal)?;
            let name = &followed.wanted.name;
            let taken = self.removed(followed, &mut records, &mut parts).context("table", name)?
                && self.present(followed, &mut records, &mut parts).context("table", name)?;
            if !taken {
                return Ok(false);
            }
            parts.batches.extend(records.finish()?);
        }
        if parts.started || !parts.batches.is_empty() {
            return self.send(&mut parts, true);
        }
        Ok(self.sender.send_blocking(ChangeEvent::Idle { position: self.end.clone() }))
    }

    /// The numbers of the tables that the log speaks of.
    fn touched(&self) -> Result<Vec<u32>> {
        let failed = |error| convert(error, DOING);
        let sql = format!(
            "SELECT DISTINCT number FROM main.{} WHERE seq > ?1 AND seq <= ?2",
            quote(&self.log)
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(failed)?;
        statement
            .query_map(params![self.after, self.last()], |row| row.get(0))
            .and_then(Iterator::collect::<rusqlite::Result<_>>)
            .map_err(failed)
    }

    fn last(&self) -> i64 {
        i64::try_from(self.end.order).unwrap_or(i64::MAX)
    }

    fn query(&self, sql: &str) -> Result<Cursor<'_>> {
        let mut cursor =
            Cursor::prepare(self.connection, sql).map_err(|error| convert(error, DOING))?;
        for (index, place) in [(1, self.after), (2, self.last())] {
            let bound = cursor.bind(index, Cell::Integer(place));
            bound.map_err(|error| convert(error, DOING))?;
        }
        Ok(cursor)
    }

    /// The touched keys that no row has now, to the letter.
    fn removed(
        &self,
        followed: &Followed,
        records: &mut Records,
        parts: &mut Parts,
    ) -> Result<bool> {
        let watch = &followed.watch;
        let width = watch.key.len();
        let mut cursor = self.query(&touched::keys_and_found(&self.log, watch)?)?;
        while cursor.step().map_err(|error| convert(error, DOING))? {
            let key: Vec<Cell<'_>> = (0..width).map(|place| cursor.value(place)).collect();
            if key.contains(&Cell::Null) {
                // Such a row may have been there for a moment; if it is there, it cannot be told
                // apart.
                watch.refuse_nulls(self.connection)?;
                continue;
            }
            let is_there =
                (0..width).zip(&key).all(|(place, key)| same(*key, cursor.value(width + place)));
            if is_there {
                continue;
            }
            if records.remove(&key, parts.sequence)? {
                parts.sequence += 1;
            }
            if !self.send_if_full(records, parts)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The rows that have touched keys.
    fn present(
        &self,
        followed: &Followed,
        records: &mut Records,
        parts: &mut Parts,
    ) -> Result<bool> {
        let Some((table, _)) = &followed.shape else { return Ok(true) };
        let columns: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        let mut cursor = self.query(&touched::rows(&self.log, &followed.watch, &columns)?)?;
        while cursor.step().map_err(|error| convert(error, DOING))? {
            records.upsert(|place| cursor.value(place), parts.sequence)?;
            parts.sequence += 1;
            if !self.send_if_full(records, parts)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn send_if_full(&self, records: &mut Records, parts: &mut Parts) -> Result<bool> {
        if parts.bytes() + records.bytes() < self.event_bytes.min(EVENT_BYTES_MAX) {
            return Ok(true);
        }
        parts.batches.extend(records.finish()?);
        self.send(parts, false)
    }

    fn send(&self, parts: &mut Parts, complete: bool) -> Result<bool> {
        parts.started = true;
        let transaction = Transaction {
            position: self.end.clone(),
            committed_at: None,
            id: self.end.order.to_string(),
            end: std::mem::take(&mut parts.sequence),
            complete,
        };
        let batches = std::mem::take(&mut parts.batches);
        if self.sender.is_closed() {
            return Ok(false);
        }
        let rows = ChangeRows { batches, transactions: vec![transaction] };
        Ok(self.sender.send_blocking(ChangeEvent::Rows(rows)))
    }
}

/// The event under way.
#[derive(Default)]
struct Parts {
    batches: Vec<ChangeBatch>,
    /// Of the next record.
    sequence: u64,
    /// Whether a part of the transaction was sent already.
    started: bool,
}

impl Parts {
    fn bytes(&self) -> usize {
        self.batches.iter().map(ChangeBatch::bytes).sum()
    }
}

/// Whether two values are the same, not only equal.
fn same(one: Cell<'_>, other: Cell<'_>) -> bool {
    match (one, other) {
        (Cell::Real(one), Cell::Real(other)) => one.to_bits() == other.to_bits(),
        (one, other) => one == other,
    }
}
