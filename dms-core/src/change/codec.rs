//! Events as bytes, for the spill file and the stage: a JSON head, then one Arrow IPC stream a
//! batch.
//!
//! ```text
//! u32 length of the head | head | for each batch: u64 length, Arrow IPC stream
//! ```
//!
//! All numbers are little endian. Whoever stores the bytes guards them with a checksum.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use serde::{Deserialize, Serialize};

use super::{ChangeBatch, ChangeEvent, ChangeRows, Identity, Transaction, change_schema};
use crate::position::Position;
use crate::schema::{TableName, TableSchema};
use crate::value::Value;
use crate::{Error, ErrorKind, Result};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Head {
    Rows {
        batches: Vec<(Arc<TableSchema>, Identity)>,
        transactions: Vec<Transaction>,
    },
    Truncate {
        tables: Vec<TableName>,
        transaction: Transaction,
    },
    Schema {
        table: Arc<TableSchema>,
        identity: Identity,
        column_ids: Vec<u32>,
        initial: BTreeMap<usize, Option<Value>>,
        altered: Option<Transaction>,
    },
    Dropped {
        table: TableName,
        transaction: Option<Transaction>,
    },
    Idle {
        position: Position,
    },
}

/// An event as bytes, its batches compressed.
///
/// # Errors
/// `Unexpected` if Arrow cannot write a batch.
pub fn encode_event(event: &ChangeEvent) -> Result<Vec<u8>> {
    let mut batches: &[ChangeBatch] = &[];
    let head = match event {
        ChangeEvent::Rows(rows) => {
            batches = &rows.batches;
            let shape = |b: &ChangeBatch| (Arc::clone(b.table()), b.identity().clone());
            Head::Rows {
                batches: rows.batches.iter().map(shape).collect(),
                transactions: rows.transactions.clone(),
            }
        }
        ChangeEvent::Truncate { tables, transaction } => {
            Head::Truncate { tables: tables.clone(), transaction: transaction.clone() }
        }
        ChangeEvent::Schema { table, identity, column_ids, initial, altered } => Head::Schema {
            table: Arc::clone(table),
            identity: identity.clone(),
            column_ids: column_ids.clone(),
            initial: initial.clone(),
            altered: altered.clone(),
        },
        ChangeEvent::Dropped { table, transaction } => {
            Head::Dropped { table: table.clone(), transaction: transaction.clone() }
        }
        ChangeEvent::Idle { position } => Head::Idle { position: position.clone() },
    };
    let head = serde_json::to_vec(&head)
        .map_err(|error| Error::unexpected("a change cannot be written").with_source(error))?;
    let length = u32::try_from(head.len())
        .map_err(|_| Error::unexpected("the head of a change is larger than 4 GiB"))?;
    let mut out = Vec::with_capacity(head.len() + event.bytes() / 2);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&head);
    for batch in batches {
        let at = out.len();
        out.extend_from_slice(&[0; 8]);
        write_batch(batch.rows(), &mut out)?;
        let length = (out.len() - at - 8) as u64;
        if let Some(place) = out.get_mut(at..at + 8) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }
    Ok(out)
}

fn write_batch(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
    let options =
        IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(out, batch.schema_ref(), options)?;
    writer.write(batch)?;
    writer.finish()?;
    Ok(())
}

/// The event that [`encode_event`] made bytes of.
///
/// # Errors
/// `Corrupt` for bytes that are none.
pub fn decode_event(bytes: &[u8]) -> Result<ChangeEvent> {
    let (length, rest) = bytes.split_first_chunk().ok_or_else(corrupt)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| corrupt())?;
    let (head, mut rest) = rest.split_at_checked(length).ok_or_else(corrupt)?;
    let head: Head = serde_json::from_slice(head).map_err(|error| corrupt().with_source(error))?;
    Ok(match head {
        Head::Rows { batches, transactions } => {
            let batches = batches.into_iter().map(|(table, identity)| {
                let (length, after) = rest.split_first_chunk().ok_or_else(corrupt)?;
                let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| corrupt())?;
                let (batch, after) = after.split_at_checked(length).ok_or_else(corrupt)?;
                rest = after;
                ChangeBatch::new(Arc::clone(&table), identity, read_batch(&table, batch)?)
            });
            let batches = batches.collect::<Result<_>>()?;
            ChangeEvent::Rows(ChangeRows { batches, transactions })
        }
        Head::Truncate { tables, transaction } => ChangeEvent::Truncate { tables, transaction },
        Head::Schema { table, identity, column_ids, initial, altered } => {
            ChangeEvent::Schema { table, identity, column_ids, initial, altered }
        }
        Head::Dropped { table, transaction } => ChangeEvent::Dropped { table, transaction },
        Head::Idle { position } => ChangeEvent::Idle { position },
    })
}

fn read_batch(table: &TableSchema, bytes: &[u8]) -> Result<RecordBatch> {
    let damaged = |error| corrupt().with_source(error);
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(damaged)?;
    match reader.next() {
        Some(batch) => batch.map_err(damaged),
        None => Ok(RecordBatch::new_empty(change_schema(table))),
    }
}

fn corrupt() -> Error {
    Error::new(ErrorKind::Corrupt, "stored changes are damaged")
}

#[cfg(test)]
mod tests {
    use super::super::{ChangeRecord, Operation};
    use super::*;
    use crate::schema::{Column, LogicalType};
    use crate::value::Value;

    fn rows() -> ChangeEvent {
        let table = Arc::new(TableSchema::new(
            TableName::new("shop", "items"),
            vec![Column::new("id", LogicalType::Int64), Column::new("name", LogicalType::text())],
        ));
        let change = |operation, sequence, values| ChangeRecord { operation, sequence, values };
        let records = [
            change(Operation::Insert, 0, vec![Some(Value::Int(1)), Some(Value::Null)]),
            change(Operation::UpdateBefore, 1, vec![Some(Value::Int(1)), None]),
            change(Operation::Update, 2, vec![Some(Value::Int(2)), None]),
            change(Operation::Delete, 4, vec![Some(Value::Int(2)), None]),
        ];
        let batch = ChangeBatch::from_records(table, Identity::Key(vec![0]), &records).unwrap();
        assert_eq!(batch.records().collect::<Result<Vec<_>>>().unwrap(), records);
        let transaction = Transaction {
            position: Position::new(9, "0/9"),
            committed_at: Some(1),
            id: "77".into(),
            end: 5,
            complete: true,
        };
        ChangeEvent::Rows(ChangeRows { batches: vec![batch], transactions: vec![transaction] })
    }

    #[test]
    fn an_event_comes_back_and_a_cut_one_is_told() {
        let bytes = encode_event(&rows()).unwrap();
        let ChangeEvent::Rows(back) = decode_event(&bytes).unwrap() else { panic!() };
        let ChangeEvent::Rows(rows) = rows() else { panic!() };
        assert_eq!(back.transactions, rows.transactions);
        assert_eq!(back.batches[0].rows(), rows.batches[0].rows());
        assert_eq!(back.batches[0].identity(), rows.batches[0].identity());
        for cut in [0, 3, 10, bytes.len() / 2, bytes.len() - 1] {
            assert_eq!(decode_event(&bytes[..cut]).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
