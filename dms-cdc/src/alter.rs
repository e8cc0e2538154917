//! What leads from one shape of a table to another.

use dms_core::endpoint::Alteration;
use dms_core::schema::{Column, LogicalType, TableSchema};
use dms_core::value::Value;
use dms_core::{Error, ErrorKind, Result};

/// A table's shape before and after, in the target's words. Columns are found again by their
/// [`id`](Column::id) where both have one, else by their names.
pub(crate) struct Change<'a> {
    pub(crate) before: &'a TableSchema,
    pub(crate) after: &'a TableSchema,
    /// Whether a column of `after` is one of the source, and not computed.
    pub(crate) is_read: &'a dyn Fn(&str) -> bool,
    /// What rows that are older than a column of `after` hold in it: NULL if nothing is told, and
    /// perhaps that it is not known.
    pub(crate) initial: &'a dyn Fn(&str) -> Option<Option<Value>>,
}

/// The alterations, none if the shapes agree: columns go, get other names and types, and come.
///
/// # Errors
/// `Schema` for a change that cannot be followed: the table has to be loaded again.
pub(crate) fn alterations(change: &Change<'_>) -> Result<Vec<Alteration>> {
    let Change { before, after, .. } = change;
    let is_same = |held: &Column, column: &Column| is_same(change, held, column);
    let is_there = |held: &&Column| after.columns.iter().any(|column| is_same(held, column));
    let (stay, gone): (Vec<&Column>, Vec<&Column>) = before.columns.iter().partition(is_there);
    let was_there = |column: &&Column| stay.iter().any(|held| is_same(held, column));
    let (stays, come): (Vec<&Column>, Vec<&Column>) = after.columns.iter().partition(was_there);
    let unknown = |columns: &[&Column]| columns.iter().any(|column| column.id.is_none());
    if !gone.is_empty() && !come.is_empty() && (unknown(&gone) || unknown(&come)) {
        // Columns that the log does not tell apart: a rename taken for the two would lose values.
        let names = |columns: &[&Column]| {
            columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>().join(", ")
        };
        return Err(again(&format!(
            "columns went ({}) and came ({}), which may be the same under new names",
            names(&gone),
            names(&come)
        )));
    }
    let mut alterations = Vec::new();
    for column in gone {
        if before.primary_key.contains(&column.name) {
            return Err(again(&format!("column {} of the primary key went", column.name)));
        }
        alterations.push(Alteration::DropColumn { column: column.name.clone() });
    }
    let pairs: Vec<(&Column, &Column)> = stay
        .iter()
        .filter_map(|held| Some((*held, *stays.iter().find(|column| is_same(held, column))?)))
        .collect();
    alterations.extend(renames(&pairs)?);
    for (held, column) in pairs {
        if held.logical_type == column.logical_type && (held.nullable || !column.nullable) {
            continue;
        }
        if held.logical_type != column.logical_type
            && !widens(&held.logical_type, &column.logical_type)
        {
            return Err(again(&format!(
                "column {} was {} and is {}, which may have changed its values",
                column.name, held.logical_type, column.logical_type
            )));
        }
        alterations.push(Alteration::ChangeType { column: column.clone() });
    }
    for column in come {
        alterations.push(added(change, column)?);
    }
    Ok(alterations)
}

/// Whether two columns are one. Names count where identities do not say otherwise.
fn is_same(change: &Change<'_>, held: &Column, column: &Column) -> bool {
    let has = |table: &TableSchema, id: Option<u32>| {
        id.is_some() && table.columns.iter().any(|column| column.id == id)
    };
    match (held.id, column.id) {
        (Some(held), Some(column)) => held == column,
        _ => {
            held.name == column.name
                && !has(change.before, column.id)
                && !has(change.after, held.id)
        }
    }
}

/// No alterations, if a table whose columns cannot be told apart any more is as it was.
///
/// # Errors
/// As [`alterations`].
pub(crate) fn unaltered(before: &TableSchema, after: &TableSchema) -> Result<Vec<Alteration>> {
    let alike = |(one, other): (&Column, &Column)| {
        one.name == other.name && one.logical_type == other.logical_type
    };
    let is_unaltered = before.columns.len() == after.columns.len()
        && before.columns.iter().zip(&after.columns).all(alike);
    if is_unaltered {
        return Ok(Vec::new());
    }
    Err(again(
        "columns were changed more than once, and the source cannot tell any more which is which",
    ))
}

/// The renames, in an order in which no new name is taken yet.
fn renames(pairs: &[(&Column, &Column)]) -> Result<Vec<Alteration>> {
    let mut names: Vec<&str> = pairs.iter().map(|(held, _)| held.name.as_str()).collect();
    let mut left: Vec<(&str, &str)> = pairs
        .iter()
        .map(|(held, column)| (held.name.as_str(), column.name.as_str()))
        .filter(|(from, to)| from != to)
        .collect();
    let mut renames = Vec::new();
    while !left.is_empty() {
        let Some(at) = left.iter().position(|(_, to)| !names.contains(to)) else {
            return Err(again("columns have exchanged their names"));
        };
        let (from, to) = left.remove(at);
        names.retain(|name| *name != from);
        names.push(to);
        renames.push(Alteration::RenameColumn { from: from.to_owned(), to: to.to_owned() });
    }
    Ok(renames)
}

/// A column that came.
fn added(change: &Change<'_>, column: &Column) -> Result<Alteration> {
    let name = &column.name;
    if !(change.is_read)(name) {
        return Err(again(&format!("column {name} is computed, and older rows do not have it")));
    }
    let is_old = column.id.zip(change.before.last_column).is_some_and(|(id, last)| id <= last);
    if is_old {
        return Err(again(&format!(
            "column {name} is no new one but was left out before, and older rows do not have it"
        )));
    }
    let told = (change.initial)(name);
    let is_unknown = told == Some(None);
    let value = told.flatten();
    if is_unknown || (value.is_none() && !column.nullable) {
        return Err(again(&format!(
            "column {name} came, and what older rows hold in it is not known"
        )));
    }
    Ok(Alteration::AddColumn { column: column.clone(), value })
}

fn again(what: &str) -> Error {
    Error::new(ErrorKind::Schema, format!("{what}; load the table again"))
}

/// Whether a change of type keeps every value as it is.
fn widens(from: &LogicalType, to: &LogicalType) -> bool {
    use LogicalType::{
        Decimal, Float32, Float64, Int8, Int16, Int32, Int64, Numeric, Text, Timestamp, TimestampTz,
    };
    match (from, to) {
        (Int8, Int16 | Int32 | Int64) | (Int16, Int32 | Int64) | (Int32, Int64) => true,
        (Float32, Float64) => true,
        (Text { .. }, Text { limit: None }) => true,
        (Text { limit: Some(from) }, Text { limit: Some(to) }) => to >= from,
        (Decimal { precision: p, scale: s }, Decimal { precision, scale }) => {
            s == scale && precision >= p
        }
        (Decimal { .. }, Numeric) => true,
        (Timestamp { precision: from }, Timestamp { precision: to })
        | (TimestampTz { precision: from }, TimestampTz { precision: to }) => to >= from,
        (LogicalType::Enum { labels: from }, LogicalType::Enum { labels: to }) => {
            from.iter().all(|label| to.contains(label))
        }
        _ => false,
    }
}
