//! Random histories of tables in memory.

use dms_core::arrow::array::RecordBatch;
use dms_core::memory::{MemoryChange, MemorySource, MemoryTarget};
use dms_core::schema::{Column, LogicalType, TableName, TableSchema, UniqueIndex};
use dms_core::value::Value;
use proptest::prelude::*;

/// One wish; those that the tables do not allow are left out.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    Insert { table: usize, key: i64, text: Option<u8> },
    Update { table: usize, key: i64, new_key: Option<i64>, text: Option<Option<u8>> },
    Delete { table: usize, key: i64 },
    Truncate { table: usize },
}

/// Transactions of wishes.
pub(crate) fn histories() -> impl Strategy<Value = Vec<Vec<Wish>>> {
    let key = 0..6i64;
    let text = || proptest::option::of(0..4u8);
    let wish = prop_oneof![
        4 => (0..TABLES, key.clone(), text())
            .prop_map(|(table, key, text)| Wish::Insert { table, key, text }),
        5 => (0..TABLES, key.clone(), proptest::option::of(key.clone()),
              proptest::option::of(text()))
            .prop_map(|(table, key, new_key, text)| Wish::Update { table, key, new_key, text }),
        3 => (0..TABLES, key).prop_map(|(table, key)| Wish::Delete { table, key }),
        1 => (0..TABLES).prop_map(|table| Wish::Truncate { table }),
    ];
    proptest::collection::vec(proptest::collection::vec(wish, 1..8), 1..20)
}

const TABLES: usize = 4;

/// `keyed(id, large, u)`, the same without any key, with a key whose bytes do not show what is
/// equal, and with a unique index besides.
pub(crate) fn tables() -> Vec<TableSchema> {
    let table = |name: &str, key: LogicalType| {
        TableSchema::new(
            TableName::new("shop", name),
            vec![
                Column::new("id", key).required(),
                Column::new("large", LogicalType::text()),
                Column::new("n", LogicalType::Int64),
            ],
        )
    };
    let mut unique = table("unique", LogicalType::Int64).with_primary_key(["id"]);
    unique.unique_indexes.push(UniqueIndex { name: "u".into(), columns: vec!["large".into()] });
    vec![
        table("keyed", LogicalType::Int64).with_primary_key(["id"]),
        table("keyless", LogicalType::Int64),
        table("odd", LogicalType::Float64).with_primary_key(["id"]),
        unique,
    ]
}

fn key(table: usize, key: i64) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    if table == 2 { Value::Float(key as f64) } else { Value::Int(key) }
}

fn text(text: Option<u8>) -> Value {
    text.map_or(Value::Null, |text| Value::Text(format!("text {text}")))
}

/// What a wish comes to in a source with these rows.
pub(crate) fn change(source: &MemorySource, wish: &Wish) -> Option<MemoryChange> {
    let (Wish::Insert { table, .. }
    | Wish::Update { table, .. }
    | Wish::Delete { table, .. }
    | Wish::Truncate { table }) = wish;
    let schema = tables().into_iter().nth(*table)?;
    let name = schema.name.clone();
    let rows = rows_of(source, &schema);
    let find = |at: i64| rows.iter().find(|row| row[0] == key(*table, at)).cloned();
    let keyless = schema.primary_key.is_empty();
    let unique = |new: &Value, of: &Value| {
        *table != 3 || *new == Value::Null || rows.iter().all(|row| row[1] != *new || row[0] == *of)
    };
    Some(match wish {
        Wish::Insert { key: at, text: large, .. } => {
            if find(*at).is_some() && !keyless {
                return None;
            }
            let id = key(*table, *at);
            unique(&text(*large), &id)
                .then(|| MemoryChange::Insert(name, vec![id, text(*large), Value::Int(at * 7)]))?
        }
        Wish::Update { key: at, new_key, text: large, .. } => {
            let row = find(*at)?;
            if new_key.is_some_and(|new| new != *at && !keyless && find(new).is_some()) {
                return None;
            }
            let large = large.map(text);
            if large.as_ref().is_some_and(|large| !unique(large, &row[0])) {
                return None;
            }
            let old = if keyless { row.clone() } else { vec![row[0].clone()] };
            let Value::Int(n) = row[2] else { return None };
            let id = new_key.map_or(row[0].clone(), |new| key(*table, new));
            MemoryChange::Update(name, old, vec![Some(id), large, Some(Value::Int(n + 1))])
        }
        Wish::Delete { key: at, .. } => {
            let row = find(*at)?;
            MemoryChange::Delete(name, if keyless { row } else { vec![row[0].clone()] })
        }
        Wish::Truncate { .. } => MemoryChange::Truncate(name),
    })
}

/// The rows of a table of a source, in any order.
pub(crate) fn rows_of(source: &MemorySource, table: &TableSchema) -> Vec<Vec<Value>> {
    values(table, &source.batches(&table.name).unwrap())
}

/// The rows of a table of a target, sorted.
pub(crate) fn held(target: &MemoryTarget, table: &TableSchema) -> Vec<Vec<Value>> {
    sorted(values(table, &target.table(&table.name).unwrap()))
}

pub(crate) fn sorted(mut rows: Vec<Vec<Value>>) -> Vec<Vec<Value>> {
    rows.sort_by_key(|row| format!("{row:?}"));
    rows
}

fn values(table: &TableSchema, batches: &[RecordBatch]) -> Vec<Vec<Value>> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let columns = table.columns.iter().zip(batch.columns());
            let value = |(column, array): (&Column, &dms_core::arrow::array::ArrayRef)| {
                Value::from_array(array, row, &column.logical_type).unwrap()
            };
            rows.push(columns.map(value).collect());
        }
    }
    rows
}

/// Commits the wishes as far as they are possible, one after the other.
pub(crate) fn commit(source: &MemorySource, wishes: &[Wish]) {
    // Each wish sees what those before it did: tried on a copy first.
    let copy = source.fork();
    let mut changes = Vec::new();
    for wish in wishes {
        if let Some(change) = change(&copy, wish) {
            copy.commit([change.clone()]).unwrap();
            changes.push(change);
        }
    }
    source.commit(changes).unwrap();
}
