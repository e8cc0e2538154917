//! Tests of the buffer as a whole, and the histories they put in.

mod crash;
mod faults;
mod queue;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dms_core::change::{
    ChangeBatch, ChangeEvent, ChangeRecord, ChangeRows, Identity, Operation, Transaction,
};
use dms_core::position::Position;
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_core::value::Value;
use proptest::prelude::*;

use super::*;

const TASK: &str = "nightly";

fn position(order: u64) -> Position {
    Position::new(order, format!("0/{order:X}"))
}

fn name(table: usize) -> TableName {
    TableName::new("shop", format!("t{table}"))
}

/// A table with an identity and so many columns more.
fn shape(table: usize, columns: usize) -> Arc<TableSchema> {
    let more = (0..columns).map(|at| Column::new(format!("c{at}"), LogicalType::Int64));
    let columns = std::iter::once(Column::new("id", LogicalType::Int64)).chain(more);
    Arc::new(TableSchema::new(name(table), columns.collect()))
}

fn schema_event(table: usize, columns: usize) -> ChangeEvent {
    ChangeEvent::Schema {
        table: shape(table, columns),
        identity: Identity::Key(vec![0]),
        column_ids: Vec::new(),
        initial: BTreeMap::new(),
        altered: None,
    }
}

/// A transaction that did something between rows.
fn doing(order: u64) -> Transaction {
    let (position, id) = (position(order), String::new());
    Transaction { position, committed_at: None, id, end: 0, complete: false }
}

/// Inserts of these identities, one transaction each number of records.
fn rows_event(
    transactions: &[(u64, u64, bool)],
    columns: [usize; 2],
    next_id: &mut i64,
) -> ChangeEvent {
    let (mut records, mut told) = ([Vec::new(), Vec::new()], Vec::new());
    let mut sequence = 0;
    for (order, count, complete) in transactions {
        for _ in 0..*count {
            let table = usize::try_from(*next_id % 2).unwrap();
            let mut values = vec![Some(Value::Int(*next_id))];
            values.extend((0..columns[table]).map(|_| Some(Value::Int(*next_id * 7))));
            records[table].push(ChangeRecord { operation: Operation::Insert, sequence, values });
            *next_id += 1;
            sequence += 1;
        }
        told.push(Transaction {
            position: position(*order),
            committed_at: None,
            id: order.to_string(),
            end: sequence,
            complete: *complete,
        });
    }
    let batches = records.iter().enumerate().filter(|(_, records)| !records.is_empty());
    let batches = batches.map(|(table, records)| {
        let shape = shape(table, columns[table]);
        ChangeBatch::from_records(shape, Identity::Key(vec![0]), records).unwrap()
    });
    ChangeEvent::Rows(ChangeRows { batches: batches.collect(), transactions: told })
}

/// One step of a history.
#[derive(Debug, Clone)]
enum Act {
    /// Records of transactions; whether the last one ends.
    Rows(Vec<u64>, bool),
    Truncate,
    /// A table gets another number of columns.
    Alter(usize, usize),
    Drop(usize),
    Idle,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        8 => (prop::collection::vec(0u64..6, 1..4), any::<bool>()).prop_map(|(r, e)| Act::Rows(r, e)),
        1 => Just(Act::Truncate),
        2 => (0usize..2, 0usize..3).prop_map(|(t, c)| Act::Alter(t, c)),
        1 => (0usize..2).prop_map(Act::Drop),
        2 => Just(Act::Idle),
    ];
    prop::collection::vec(act, 1..60)
}

/// A history that ends with a whole transaction.
fn history(acts: Vec<Act>) -> Vec<ChangeEvent> {
    let mut events = vec![schema_event(0, 1), schema_event(1, 1)];
    let mut columns = [1, 1];
    let (mut order, mut open, mut id) = (10, false, 0);
    let mut begin = |open: &mut bool| {
        if !std::mem::take(open) {
            order += 5;
        }
        order
    };
    for act in acts.into_iter().chain([Act::Rows(vec![1], true)]) {
        match act {
            Act::Rows(counts, ends) => {
                let last = counts.len() - 1;
                let transactions = counts
                    .iter()
                    .enumerate()
                    .map(|(at, count)| (begin(&mut open), *count, at < last || ends));
                let transactions: Vec<_> = transactions.collect();
                open = !ends;
                events.push(rows_event(&transactions, columns, &mut id));
            }
            Act::Truncate => {
                let transaction = doing(begin(&mut open));
                open = true;
                events.push(ChangeEvent::Truncate { tables: vec![name(0)], transaction });
            }
            Act::Alter(table, count) => {
                columns[table] = count;
                events.push(schema_event(table, count));
            }
            Act::Drop(table) => {
                let transaction = Some(doing(begin(&mut open)));
                open = true;
                let mut again = schema_event(table, columns[table]);
                if let ChangeEvent::Schema { altered, .. } = &mut again {
                    altered.clone_from(&transaction);
                }
                events.push(ChangeEvent::Dropped { table: name(table), transaction });
                events.push(again);
            }
            Act::Idle if open => {}
            Act::Idle => events.push(ChangeEvent::Idle { position: position(begin(&mut open)) }),
        }
    }
    events
}

/// What a history says, whatever events it comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    /// Order, table, identity, columns, and how many were told before.
    Record(u64, TableName, String, usize, Option<usize>),
    Truncate(u64),
    End(u64),
    Idle(u64),
}

impl Item {
    fn order(&self) -> u64 {
        match self {
            Item::Record(order, ..)
            | Item::Truncate(order)
            | Item::End(order)
            | Item::Idle(order) => *order,
        }
    }
}

fn items<'a>(events: impl IntoIterator<Item = &'a ChangeEvent>) -> Vec<Item> {
    let mut items = Vec::new();
    let mut told = BTreeMap::new();
    for event in events {
        match event {
            ChangeEvent::Schema { table, .. } => {
                told.insert(table.name.clone(), table.columns.len());
            }
            ChangeEvent::Dropped { table, .. } => {
                told.remove(table);
            }
            ChangeEvent::Idle { position } => items.push(Item::Idle(position.order)),
            ChangeEvent::Truncate { transaction, .. } => {
                items.push(Item::Truncate(transaction.position.order));
            }
            ChangeEvent::Rows(rows) => items.extend(row_items(rows, &told)),
            _ => {}
        }
    }
    items
}

fn row_items(rows: &ChangeRows, told: &BTreeMap<TableName, usize>) -> Vec<Item> {
    let mut records: Vec<_> = rows
        .batches
        .iter()
        .flat_map(|batch| batch.records().map(move |record| (batch.table(), record.unwrap())))
        .collect();
    records.sort_by_key(|(_, record)| record.sequence);
    let mut records = records.into_iter().peekable();
    let mut items = Vec::new();
    for transaction in &rows.transactions {
        let order = transaction.position.order;
        while let Some((table, record)) =
            records.next_if(|(_, record)| record.sequence < transaction.end)
        {
            items.push(Item::Record(
                order,
                table.name.clone(),
                format!("{:?}", record.values),
                table.columns.len(),
                told.get(&table.name).copied(),
            ));
        }
        if transaction.complete {
            items.push(Item::End(order));
        }
    }
    assert!(records.next().is_none(), "a record of no transaction");
    items
}

fn settings(folder: &Path, durability: Durability) -> BufferSettings {
    BufferSettings { durability, ..BufferSettings::new(folder) }
}

/// Everything that is still to come.
async fn rest(mut reader: BufferReader) -> Result<Vec<ChangeEvent>> {
    let mut events = Vec::new();
    while let Some(event) = reader.next().await {
        events.push(event?);
    }
    Ok(events)
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "segment"))
        .collect();
    found.sort();
    found
}
