//! Files of whole transactions: changes of all tables, in the order in which the source made them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use dms_core::change::{ChangeRows, Transaction};
use dms_core::schema::{TableName, TableSchema};
use dms_core::value::text::has_text;
use dms_core::{Error, Result};

use super::manifest::{LoggedTable, TransactionFile, WrittenFile};
use super::rows::{FileRows, file_rows, file_table, transaction_of};
use crate::clock::stamp;
use crate::columns::repeated;
use crate::format::NO_ARRAYS;
use crate::settings::FolderSettings;
use crate::store::FolderStore;
use crate::{format, layout};

/// The changes of a step as lines of CSV: `op,table,schema,columns…`.
pub(crate) struct Merged {
    lines: Vec<u8>,
    rows: u64,
    /// Their tables, with the columns that stand behind op, table and schema.
    pub(crate) tables: Vec<TableSchema>,
    first: Transaction,
    last: Transaction,
    /// Whether the last transaction ends here.
    pub(crate) whole: bool,
}

/// Turns changes of all tables into lines, in the order of their sequences; `None` if none of them
/// is written.
///
/// # Errors
/// `Schema` for a change of no transaction or a column that CSV cannot hold; those of
/// [`file_table`] and [`file_rows`].
pub(crate) fn merge(rows: &ChangeRows, settings: &FolderSettings) -> Result<Option<Merged>> {
    let (mut tables, mut encoded) = (Vec::<TableSchema>::new(), Vec::new());
    // Each line's sequence and place: which table's bytes, and which of them.
    let mut order: Vec<(u64, usize, Range<usize>)> = Vec::new();
    for batch in rows.batches.iter().filter(|batch| !batch.is_empty()) {
        let table = file_table(batch.table(), settings)?;
        let Some(FileRows { rows, sequences }) =
            file_rows(batch, &rows.transactions, &table, settings)?
        else {
            continue;
        };
        check_text(&table)?;
        let (bytes, ends) = format::csv_lines(&named(&rows, &table.name)?, &table, settings)?;
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let places = starts.zip(&ends).map(|(start, end)| start..*end);
        order.extend(sequences.into_iter().zip(places).map(|(at, line)| (at, encoded.len(), line)));
        encoded.push(bytes);
        // The first column is the operation, which every line has.
        let columns = table.columns.into_iter().skip(1).collect();
        let table = TableSchema::new(table.name, columns);
        match tables.iter().find(|other| other.name == table.name) {
            None => tables.push(table),
            Some(other) if *other == table => {}
            Some(_) => {
                let error = Error::schema("the table has two shapes in one event");
                return Err(error.context("table", &table.name));
            }
        }
    }
    // What stands at one place is of one table, and in its order.
    order.sort_by_key(|(sequence, ..)| *sequence);
    let (Some((from, ..)), Some((to, ..))) = (order.first(), order.last()) else {
        return Ok(None);
    };
    let of = |sequence| {
        transaction_of(&rows.transactions, sequence)
            .cloned()
            .ok_or_else(|| Error::schema("a change is of no transaction"))
    };
    let (first, last) = (of(*from)?, of(*to)?);
    let mut lines = Vec::with_capacity(encoded.iter().map(Vec::len).sum());
    for (_, table, line) in &order {
        let bytes = encoded.get(*table).and_then(|bytes| bytes.get(line.clone()));
        lines.extend_from_slice(bytes.ok_or_else(|| Error::unexpected("a line is gone"))?);
    }
    let whole = rows.transactions.last().is_none_or(|last| last.complete);
    Ok(Some(Merged { lines, rows: order.len() as u64, tables, first, last, whole }))
}

/// Rows with the names of their table and schema behind the operation.
fn named(rows: &RecordBatch, table: &TableName) -> Result<RecordBatch> {
    let same = |text| repeated(text, rows.num_rows());
    let name = |name| Arc::new(Field::new(name, DataType::Utf8, false));
    let mut fields = rows.schema().fields().to_vec();
    fields.splice(1..1, [name("table"), name("schema")]);
    let mut columns = rows.columns().to_vec();
    columns.splice(1..1, [same(&table.name), same(&table.schema)]);
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// Refuses what the target's mapping refuses too, which a table that comes late may not have seen.
fn check_text(table: &TableSchema) -> Result<()> {
    match table.columns.iter().find(|column| !has_text(&column.logical_type)) {
        None => Ok(()),
        Some(column) => {
            Err(Error::schema(format!("{NO_ARRAYS}; remove the column by a transformation rule"))
                .context("column", &column.name)
                .context("table", &table.name))
        }
    }
}

/// A file that is gathered in memory, named by its content as all files of changes.
pub(crate) struct Transactions {
    tables: BTreeMap<TableName, LoggedTable>,
    lines: Vec<Bytes>,
    hasher: blake3::Hasher,
    rows: u64,
    /// Bytes of its lines.
    pub(crate) held: usize,
    first: Transaction,
    last: Transaction,
}

impl Transactions {
    pub(crate) fn begin(merged: &Merged) -> Self {
        Self {
            tables: BTreeMap::new(),
            lines: Vec::new(),
            hasher: blake3::Hasher::new(),
            rows: 0,
            held: 0,
            first: merged.first.clone(),
            last: merged.last.clone(),
        }
    }

    /// Whether lines of these tables go into this file: it has one shape and one load of each.
    pub(crate) fn takes(&self, tables: &[LoggedTable]) -> bool {
        let same = |new: &LoggedTable| self.tables.get(&new.table.name).is_none_or(|t| t == new);
        tables.iter().all(same)
    }

    pub(crate) fn add(&mut self, merged: Merged, tables: Vec<LoggedTable>) {
        self.tables.extend(tables.into_iter().map(|table| (table.table.name.clone(), table)));
        self.hasher.update(&merged.lines);
        self.rows += merged.rows;
        self.held += merged.lines.len();
        self.lines.push(merged.lines.into());
        self.last = merged.last;
    }

    /// When its first transaction was committed, for its name, in microseconds since 1970; not
    /// before the time in the name of the file before, so that names are in the order of commits
    /// whatever the source's clock does.
    pub(crate) fn time(&self, before: Option<i64>) -> i64 {
        self.first.committed_at.max(before).unwrap_or_default()
    }

    /// Puts the file into the store; `part` tells files of one commit apart.
    pub(crate) async fn finish(
        self,
        store: &FolderStore,
        settings: &FolderSettings,
        time: i64,
        part: u32,
    ) -> Result<TransactionFile> {
        let blake3 = self.hasher.finalize().to_hex().to_string();
        let name = format!(
            "CDC_TXN-{}-{:016X}-{part:06}-{}.csv",
            stamp(time),
            self.first.position.order,
            blake3.get(..16).unwrap_or_default(),
        );
        let path = layout::transactions(store, settings).join(name.as_str());
        store.put_bytes(&path, self.lines).await?;
        Ok(TransactionFile {
            file: WrittenFile {
                path: store.relative(&path),
                rows: self.rows,
                bytes: self.held as u64,
                blake3,
                first: self.first.position,
                last: self.last.position,
            },
            csv: settings.csv_dialect(),
            tables: self.tables.into_values().collect(),
        })
    }
}
