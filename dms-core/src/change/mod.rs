//! Changes: what happened to the rows of a source after a load, in columns.
//!
//! ```text
//! ChangeEvent   what a feed delivers, in the order of the source's log
//!   Rows          ChangeBatch (one a table) + the transactions they belong to
//!   Truncate      tables emptied in one act
//!   Schema        the shape that a table's rows have from here on
//!   Idle          nothing has happened up to here
//! ```
//!
//! Rows stay Arrow record batches on the whole way: the feed decodes into columns, over many
//! transactions at once; buffers, the spill file and the target take them as they are. Programs
//! that look at single changes use [`ChangeBatch::records`].
//!
//! A transaction that is too large for one event comes in several: all but the last say that the
//! transaction is not [`complete`](Transaction::complete). Transactions do not interleave.

mod batch;
mod codec;
mod record;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use batch::{CONTROL_COLUMNS, ChangeBatch, change_schema};
pub use codec::{decode_event, encode_event};
pub use record::ChangeRecord;

use crate::position::Position;
use crate::schema::{TableName, TableSchema};
use crate::value::Value;

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Operation {
    /// A row came; the record holds all of it.
    Insert = 1,
    /// A row changed; the record holds what it is now, but for columns that are
    /// [unchanged](ChangeBatch::is_unchanged). It is found by what the [`UpdateBefore`] record just
    /// before says, or else by its own identity.
    ///
    /// [`UpdateBefore`]: Self::UpdateBefore
    Update = 2,
    /// A row went; the record holds its identity.
    Delete = 3,
    /// The identity of the row that the next record of the table updates. Always followed by an
    /// [`Update`](Self::Update) in the same batch.
    UpdateBefore = 4,
    /// The row is this now, whether it was there before or not. Of sources that log which rows
    /// changed, not how.
    Upsert = 5,
    /// The row is not there now, whether it was before or not; the record holds its identity.
    Remove = 6,
}

impl Operation {
    /// The operation of a code in the column of operations.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Insert,
            2 => Self::Update,
            3 => Self::Delete,
            4 => Self::UpdateBefore,
            5 => Self::Upsert,
            6 => Self::Remove,
            _ => return None,
        })
    }

    /// Its code.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Whether the record holds a row, not just its identity.
    #[must_use]
    pub fn has_row(self) -> bool {
        matches!(self, Self::Insert | Self::Update | Self::Upsert)
    }
}

/// By what a change says which row it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// By the values of these columns, by place, which no two rows share and which are never NULL.
    Key(Vec<usize>),
    /// By the whole row, of which there may be several alike: one of them is meant.
    WholeRow,
}

impl Identity {
    /// The places of the columns, of a table with so many.
    #[must_use]
    pub fn columns(&self, count: usize) -> Vec<usize> {
        match self {
            Self::Key(columns) => columns.clone(),
            Self::WholeRow => (0..count).collect(),
        }
    }
}

/// A transaction of the source, or the part of one that an event holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Where it stands in the log. Positions of transactions grow. A load whose snapshot has the
    /// position `p` holds every transaction with `order <= p.order` and no other.
    pub position: Position,
    /// When it was committed by the source's clock, in microseconds since 1970; for people and
    /// statistics, never for ordering.
    pub committed_at: Option<i64>,
    /// The source's own name of it.
    pub id: String,
    /// Its records in this event are those with a sequence below this, and not below the `end` of
    /// the transaction before.
    pub end: u64,
    /// Whether this is the end of it; only the last transaction of an event may go on in the next.
    pub complete: bool,
}

/// One item of a feed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ChangeEvent {
    /// Changes of rows.
    Rows(ChangeRows),
    /// Tables were emptied, all in one act.
    Truncate {
        /// Which.
        tables: Vec<TableName>,
        /// In which transaction, which goes on in the next event: `end` is 0, `complete` false.
        transaction: Transaction,
    },
    /// The shape of a table as the following rows have it. A feed tells it before the first rows of
    /// each table, and whenever it changes.
    Schema {
        /// The table, with the columns that the log carries.
        table: Arc<TableSchema>,
        /// How its rows are identified.
        identity: Identity,
        /// The columns' identities at the source, which survive a rename (PostgreSQL `attnum`); one
        /// a column, or none if the source has none.
        column_ids: Vec<u32>,
        /// What rows that are older than a column hold in it, by the column's place: NULL where
        /// nothing is said, `None` where it is not known (any more), so that the table has to be
        /// loaded again if its target lacks the column.
        initial: BTreeMap<usize, Option<Value>>,
        /// The transaction that gave the table this shape, if the source tells that: then the
        /// target follows at that place, whether or not rows come. It goes on in the next event, as
        /// one of `Truncate` does.
        altered: Option<Transaction>,
    },
    /// A table is gone or renamed at the source: no more changes of it will come.
    Dropped {
        /// Its name.
        table: TableName,
        /// The transaction that did it, if the source tells that; it goes on in the next event, as
        /// one of `Truncate` does. A table whose load holds it is another one of this name.
        transaction: Option<Transaction>,
    },
    /// Every change up to here has been delivered, and no transaction is open.
    Idle {
        /// Up to where.
        position: Position,
    },
}

/// Changes of rows of one or more tables, and the transactions that they are from.
#[derive(Debug, Clone, Default)]
pub struct ChangeRows {
    /// One batch a table; sequences order the records of all of them, from 0.
    pub batches: Vec<ChangeBatch>,
    /// The transactions in order, those without records of selected tables included.
    pub transactions: Vec<Transaction>,
}

impl ChangeRows {
    /// Records over all tables.
    #[must_use]
    pub fn records(&self) -> usize {
        self.batches.iter().map(ChangeBatch::len).sum()
    }

    /// Bytes of the records, as Arrow holds them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(ChangeBatch::bytes).sum()
    }
}

impl ChangeEvent {
    /// Bytes that the event holds, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        /// What an event or a transaction takes besides its records.
        const OVERHEAD: usize = 128;
        match self {
            Self::Rows(rows) => rows.bytes() + OVERHEAD * (1 + rows.transactions.len()),
            Self::Schema { table, .. } => OVERHEAD * (1 + table.columns.len()),
            Self::Truncate { .. } | Self::Dropped { .. } | Self::Idle { .. } => OVERHEAD,
        }
    }
}
