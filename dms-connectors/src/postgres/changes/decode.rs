//! The log of one transaction on one table, without a server.

use std::collections::BTreeMap;
use std::sync::Arc;

use dms_core::change::{ChangeEvent, Identity};
use dms_core::position::Position;
use dms_core::schema::TableSchema;
use dms_core::{Error, Result};

use super::assemble::Assembler;
use super::form::Form;
use super::lsn::{Log, Lsn};
use super::pgoutput::Message;
use super::relation::Shape;

/// What messages of the plugin `pgoutput` tell of the rows of a table, as one transaction: those
/// between its begin and its commit, of the relation numbered `relation`, with values in binary
/// form. Its columns are all of types that are read in that form, or texts.
///
/// # Errors
/// `Data` for a value that is none of its column; `Corrupt` for a message that is damaged or of
/// another relation.
pub fn decode_changes<'a>(
    table: &TableSchema,
    identity: &Identity,
    relation: u32,
    event_bytes: usize,
    messages: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<ChangeEvent>> {
    const TRANSACTION: Lsn = Lsn(1);
    let form = |column| {
        Form::binary("text", column)
            .ok_or_else(|| Error::schema("the column is of a type that needs a server"))
    };
    let parts = identity.columns(table.columns.len());
    let shape = Shape {
        table: Arc::new(table.clone()),
        identity: identity.clone(),
        column_ids: Vec::new(),
        initial: BTreeMap::new(),
        forms: table.columns.iter().map(form).collect::<Result<_>>()?,
        is_identity: (0..table.columns.len()).map(|place| parts.contains(&place)).collect(),
    };
    let mut assembler =
        Assembler::new(Log::new("", 0, 0), &Position::new(0, String::new()), event_bytes);
    assembler.follow(relation, shape, false)?;
    assembler.begin(TRANSACTION, 1, 0);
    for message in messages {
        assembler.take(&Message::parse(message)?, message.len())?;
    }
    assembler.commit(TRANSACTION)?;
    assembler.cut()?;
    Ok(std::mem::take(&mut assembler.events))
}

#[cfg(test)]
mod tests {
    use dms_core::schema::{Column, LogicalType, TableName};

    use super::*;

    #[test]
    fn rows_come_out_and_a_damaged_message_is_told() {
        let columns = vec![
            Column::new("id", LogicalType::Int32).required(),
            Column::new("note", LogicalType::text()),
        ];
        let table = TableSchema::new(TableName::new("public", "t"), columns);
        let identity = Identity::Key(vec![0]);
        let insert = b"I\0\0\0\x07N\0\x02b\0\0\0\x04\0\0\0\x05b\0\0\0\x01x";
        let delete = b"D\0\0\0\x07K\0\x02b\0\0\0\x04\0\0\0\x05n";
        let decode = |messages: &[&[u8]]| {
            decode_changes(&table, &identity, 7, 1 << 20, messages.iter().copied())
        };
        let events = decode(&[insert, delete]).unwrap();
        let [ChangeEvent::Schema { .. }, ChangeEvent::Rows(rows)] = events.as_slice() else {
            panic!("{events:?}")
        };
        assert_eq!((rows.records(), rows.transactions.len()), (2, 1));
        assert!(decode(&[&insert[..20]]).is_err());
        assert!(decode(&[b"I\0\0\0\x08N\0\0"]).is_err());
    }
}
