//! Messages of the plugin `pgoutput`, version 1 of its protocol
//! (<https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>).
//! What logical messages say is in `ddl`.

use dms_core::{Error, ErrorKind, Result};

/// What happened inside of a transaction. Bytes of values are the server's own.
#[derive(Debug)]
pub(super) enum Message<'a> {
    Begin {
        /// Where the transaction's commit record is.
        commit: u64,
        /// In microseconds since 2000.
        committed_at: i64,
        id: u32,
    },
    Commit {
        /// Where the log goes on after the transaction.
        end: u64,
    },
    Relation(Relation),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<Tuple<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Tuple<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// What somebody wrote into the log with `pg_logical_emit_message`.
    Logical {
        transactional: bool,
        prefix: &'a [u8],
        content: &'a [u8],
    },
    /// What says nothing of rows: names of types, the origin of a transaction.
    Other,
}

/// A table as rows behind this message have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Relation {
    pub(super) id: u32,
    pub(super) schema: String,
    pub(super) name: String,
    /// `pg_class.relreplident`.
    pub(super) identity: u8,
    pub(super) columns: Vec<RelationColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RelationColumn {
    /// Whether it is a part of the replica identity.
    pub(super) is_key: bool,
    pub(super) name: String,
    pub(super) type_id: u32,
    pub(super) modifier: i32,
}

/// The values of a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tuple<'a> {
    /// How many columns.
    pub(super) count: usize,
    fields: &'a [u8],
}

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Null,
    /// A large value that the update left as it was, and the log does not hold.
    Unchanged,
    Text(&'a [u8]),
    Binary(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// The values in order; ends early if the bytes do.
    #[inline]
    pub(super) fn fields(self) -> impl Iterator<Item = Field<'a>> {
        let mut rest = self.fields;
        (0..self.count).map_while(move |_| field(&mut rest))
    }
}

#[inline]
fn field<'a>(rest: &mut &'a [u8]) -> Option<Field<'a>> {
    let (kind, after) = rest.split_first()?;
    *rest = after;
    Some(match kind {
        b'n' => Field::Null,
        b'u' => Field::Unchanged,
        b't' | b'b' => {
            let (length, after) = after.split_first_chunk()?;
            let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
            let (value, after) = after.split_at_checked(length)?;
            *rest = after;
            if *kind == b't' { Field::Text(value) } else { Field::Binary(value) }
        }
        _ => return None,
    })
}

impl<'a> Message<'a> {
    /// # Errors
    /// `Corrupt` for a message that is cut; `Unsupported` for one of another protocol.
    #[inline]
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let Some((kind, rest)) = bytes.split_first() else { return Err(damaged(b'?')) };
        let mut reader = Reader(rest);
        let message = match kind {
            b'B' => reader.begin(),
            b'C' => reader.commit(),
            b'I' => reader.insert(),
            b'U' => reader.update(),
            b'D' => reader.delete(),
            b'R' => reader.relation(),
            b'T' => reader.truncate(),
            b'M' => reader.logical(),
            b'Y' | b'O' => Some(Self::Other),
            other => {
                let message = format!(
                    "the server's log has a message of kind {:?}, which is not known here",
                    char::from(*other)
                );
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        };
        message.ok_or_else(|| damaged(*kind))
    }
}

fn damaged(kind: u8) -> Error {
    let kind = char::from(kind);
    Error::new(ErrorKind::Corrupt, format!("a message of kind {kind:?} of the server's log is cut"))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(i16::from_be_bytes(self.take()?)).ok()
    }

    /// What stands before the next zero.
    fn terminated(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (text, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.get(1..)?;
        Some(text)
    }

    fn text(&mut self) -> Option<String> {
        self.terminated().map(|text| String::from_utf8_lossy(text).into_owned())
    }

    /// A tuple that ends the message; whoever reads its fields sees whether they are all there.
    fn last_tuple(&mut self) -> Option<Tuple<'a>> {
        Some(Tuple { count: self.count()?, fields: self.0 })
    }

    /// A tuple that something follows.
    fn tuple(&mut self) -> Option<Tuple<'a>> {
        let tuple = self.last_tuple()?;
        for _ in 0..tuple.count {
            field(&mut self.0)?;
        }
        Some(tuple)
    }

    fn begin(&mut self) -> Option<Message<'a>> {
        let commit = self.u64()?;
        let committed_at = i64::from_be_bytes(self.take()?);
        Some(Message::Begin { commit, committed_at, id: self.u32()? })
    }

    fn commit(&mut self) -> Option<Message<'a>> {
        let (_flags, _commit) = (self.byte()?, self.u64()?);
        Some(Message::Commit { end: self.u64()? })
    }

    fn logical(&mut self) -> Option<Message<'a>> {
        let (flags, _place) = (self.byte()?, self.u64()?);
        let (prefix, length) = (self.terminated()?, usize::try_from(self.u32()?).ok()?);
        let content = self.0.get(..length)?;
        Some(Message::Logical { transactional: flags & 1 != 0, prefix, content })
    }

    fn insert(&mut self) -> Option<Message<'a>> {
        let relation = self.u32()?;
        (self.byte()? == b'N').then_some(())?;
        Some(Message::Insert { relation, new: self.last_tuple()? })
    }

    fn update(&mut self) -> Option<Message<'a>> {
        let relation = self.u32()?;
        let old = match self.byte()? {
            b'N' => return Some(Message::Update { relation, old: None, new: self.last_tuple()? }),
            b'K' | b'O' => self.tuple()?,
            _ => return None,
        };
        (self.byte()? == b'N').then_some(())?;
        Some(Message::Update { relation, old: Some(old), new: self.last_tuple()? })
    }

    fn delete(&mut self) -> Option<Message<'a>> {
        let relation = self.u32()?;
        matches!(self.byte()?, b'K' | b'O').then_some(())?;
        Some(Message::Delete { relation, old: self.last_tuple()? })
    }

    fn truncate(&mut self) -> Option<Message<'a>> {
        let count = self.u32()?;
        self.byte()?;
        let relations = (0..count).map(|_| self.u32()).collect::<Option<_>>()?;
        Some(Message::Truncate { relations })
    }

    fn relation(&mut self) -> Option<Message<'a>> {
        let id = self.u32()?;
        let mut schema = self.text()?;
        // So the protocol says it.
        if schema.is_empty() {
            schema.push_str("pg_catalog");
        }
        let (name, identity) = (self.text()?, self.byte()?);
        let count = self.count()?;
        let column = |_| {
            Some(RelationColumn {
                is_key: self.byte()? & 1 != 0,
                name: self.text()?,
                type_id: self.u32()?,
                modifier: i32::from_be_bytes(self.take()?),
            })
        };
        let columns = (0..count).map(column).collect::<Option<_>>()?;
        Some(Message::Relation(Relation { id, schema, name, identity, columns }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UPDATE: &[u8] = b"U\0\0\0\x09K\0\x02t\0\0\0\x011nN\0\x02b\0\0\0\x02\x01\x02u";

    #[test]
    fn an_update_with_its_old_key() {
        let Message::Update { relation: 9, old: Some(old), new } = Message::parse(UPDATE).unwrap()
        else {
            panic!()
        };
        assert_eq!(old.fields().collect::<Vec<_>>(), [Field::Text(b"1"), Field::Null]);
        assert_eq!(
            new.fields().collect::<Vec<_>>(),
            [Field::Binary(b"\x01\x02"), Field::Unchanged]
        );
        for cut in 0..10 {
            assert!(Message::parse(&UPDATE[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_relation() {
        let bytes = b"R\0\0\0\x01\0t\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff";
        let Message::Relation(relation) = Message::parse(bytes).unwrap() else { panic!() };
        assert_eq!((relation.schema.as_str(), relation.name.as_str()), ("pg_catalog", "t"));
        let column = RelationColumn { is_key: true, name: "id".into(), type_id: 23, modifier: -1 };
        assert_eq!(relation.columns, [column]);
        assert!(Message::parse(&bytes[..bytes.len() - 1]).is_err());
        assert_eq!(Message::parse(b"S").unwrap_err().kind(), ErrorKind::Unsupported);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(kind in prop::sample::select(b"BCIUDRTYOMx".to_vec()),
            bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let bytes: Vec<u8> = std::iter::once(kind).chain(bytes).collect();
            if let Ok(Message::Update { old: Some(old), new, .. }) = Message::parse(&bytes) {
                prop_assert!(old.fields().count() == old.count);
                let _ = new.fields().count();
            }
        }
    }
}
