//! Rows that nothing but all of their values identifies.

use arrow::array::RecordBatch;
use dms_core::Result;
use dms_core::schema::TableSchema;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Statement};

use super::rows::{DOING, count_error, parameters};
use crate::sql::{quote, quote_all};
use crate::sqlite::bind::{self, Parameter, find};
use crate::sqlite::discover::rowid_name;
use crate::sqlite::encode::{Bound, Encoder};
use crate::sqlite::error::convert;
use crate::sqlite::tables::Existing;
use crate::sqlite::types::{self, Affinity};

/// Deletes rows, each of them once for every time that it is listed.
pub(super) fn delete(
    connection: &Connection,
    table: &TableSchema,
    existing: &[Existing],
    rows: &RecordBatch,
    strict: bool,
) -> Result<()> {
    let failed = |error| convert(error, DOING);
    let name = format!("main.{}", quote(&table.name.name));
    let places: Vec<usize> = (0..table.columns.len()).collect();
    let columns = parameters(table, existing, &places, 0)?;
    let alike = alike(&columns, existing);
    let rowid = rowid_name(table);
    let sql = match rowid {
        Some(rowid) => format!(
            "DELETE FROM {name} WHERE {rowid} IN \
             (SELECT {rowid} FROM {name} WHERE {alike} LIMIT 1)"
        ),
        // A table WITHOUT ROWID has a key, so that no two rows are alike.
        None => format!("DELETE FROM {name} WHERE {alike}"),
    };
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let mut scratch = String::new();
    for row in 0..rows.num_rows() {
        let zeros = zeros(&columns, existing, rows, row, &mut scratch)?;
        let gone = match rowid {
            Some(rowid) if !zeros.is_empty() => {
                let names = quote_all(columns.iter().map(|column| &column.name));
                let sql = format!("SELECT {rowid}, {names} FROM {name} WHERE {alike}");
                let mut found = connection.prepare_cached(&sql).map_err(failed)?;
                bind::bind(&mut found, &columns, rows, row, &mut scratch)?;
                match with_zeros(&mut found, &zeros).map_err(failed)? {
                    Some(found) => connection
                        .execute(&format!("DELETE FROM {name} WHERE {rowid} = ?1"), [found])
                        .map_err(failed)?,
                    None => 0,
                }
            }
            _ => bind::execute(&mut statement, &columns, rows, row, &mut scratch)?,
        };
        if strict && gone != 1 {
            return Err(count_error("deleted", gone, table, &columns, rows, row));
        }
    }
    Ok(())
}

/// Whether a column keeps values apart that SQLite takes for equal: 1 and 1.0, 0.0 and -0.0.
fn keeps_apart(column: &Parameter, existing: &[Existing]) -> bool {
    let found = find(existing, &column.name);
    found.is_none_or(|found| types::affinity(&found.declaration) == Affinity::Blob)
        && matches!(column.encoder, Encoder::Any | Encoder::Float { .. })
}

/// Rows that have the same values in all columns, but for the signs of zeros.
fn alike(columns: &[Parameter], existing: &[Existing]) -> String {
    let same = columns.iter().enumerate().map(|(at, column)| {
        let (name, number) = (quote(&column.name), at + 1);
        if keeps_apart(column, existing) {
            format!("{name} IS ?{number} AND typeof({name}) = typeof(?{number})")
        } else {
            format!("{name} COLLATE BINARY IS ?{number}")
        }
    });
    same.collect::<Vec<_>>().join(" AND ")
}

/// The zeros among a row's values whose signs matter, by place; nothing in SQL tells them apart.
fn zeros(
    columns: &[Parameter],
    existing: &[Existing],
    rows: &RecordBatch,
    row: usize,
    scratch: &mut String,
) -> Result<Vec<(usize, f64)>> {
    let mut zeros = Vec::new();
    for (at, column) in columns.iter().enumerate().filter(|(_, c)| keeps_apart(c, existing)) {
        let Some(array) = rows.columns().get(column.place) else { continue };
        if let Bound::Real(value) = column.encoder.value(array.as_ref(), row, scratch)?
            && value == 0.0
        {
            zeros.push((at, value));
        }
    }
    Ok(zeros)
}

/// The rowid of the first of the rows found that has these zeros.
fn with_zeros(found: &mut Statement<'_>, zeros: &[(usize, f64)]) -> rusqlite::Result<Option<i64>> {
    let mut rows = found.raw_query();
    while let Some(row) = rows.next()? {
        let mut same = true;
        for (at, zero) in zeros {
            let held = row.get_ref(at + 1)?;
            same &= matches!(held, ValueRef::Real(held) if held.to_bits() == zero.to_bits());
        }
        if same {
            return row.get(0).map(Some);
        }
    }
    Ok(None)
}
