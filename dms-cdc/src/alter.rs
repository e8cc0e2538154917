//! What leads from one shape of a table to another.

use dms_core::endpoint::Alteration;
use dms_core::schema::{Column, LogicalType, TableSchema};
use dms_core::value::Value;
use dms_core::{Error, ErrorKind, Result};

/// A table's shape before and after, in the target's words.
pub(crate) struct Change<'a> {
    pub(crate) before: &'a TableSchema,
    pub(crate) after: &'a TableSchema,
    /// Whether a column of `before` is, under another name, one of `after`.
    pub(crate) renamed: &'a dyn Fn(&str, &str) -> bool,
    /// What rows that are older than a column of `after` hold in it: NULL if nothing is told, and
    /// perhaps that it is not known.
    pub(crate) initial: &'a dyn Fn(&str) -> Option<Option<Value>>,
    /// Whether a column of both is another one than it was.
    pub(crate) replaced: &'a dyn Fn(&str) -> bool,
}

/// The alterations, none if the shapes agree.
///
/// # Errors
/// `Schema` for a change that cannot be followed: the table has to be loaded again.
pub(crate) fn alterations(change: &Change<'_>) -> Result<Vec<Alteration>> {
    let Change { before, after, .. } = change;
    let mut alterations = Vec::new();
    let gone = before.columns.iter().filter(|held| after.column_index(&held.name).is_none());
    let mut gone: Vec<&Column> = gone.collect();
    let come = after.columns.iter().filter(|column| before.column_index(&column.name).is_none());
    let mut come: Vec<&Column> = come.collect();
    come.retain(|column| {
        let Some(at) = gone.iter().position(|old| (change.renamed)(&old.name, &column.name)) else {
            return true;
        };
        let old = gone.remove(at);
        alterations
            .push(Alteration::RenameColumn { from: old.name.clone(), to: column.name.clone() });
        if old.logical_type != column.logical_type {
            alterations.push(Alteration::ChangeType { column: (*column).clone() });
        }
        false
    });
    if !gone.is_empty() && !come.is_empty() {
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
    for column in gone {
        if before.primary_key.contains(&column.name) {
            return Err(again(&format!("column {} of the primary key went", column.name)));
        }
        alterations.push(Alteration::DropColumn { column: column.name.clone() });
    }
    for column in come {
        let told = (change.initial)(&column.name);
        let is_unknown = told == Some(None);
        let value = told.flatten();
        if is_unknown || (value.is_none() && !column.nullable) {
            return Err(again(&format!(
                "column {} came, and what older rows hold in it is not known",
                column.name
            )));
        }
        alterations.push(Alteration::AddColumn { column: column.clone(), value });
    }
    for column in &after.columns {
        let Some(held) = before.columns.iter().find(|held| held.name == column.name) else {
            continue;
        };
        if (change.replaced)(&column.name) {
            return Err(again(&format!(
                "column {} went and another came under its name",
                column.name
            )));
        }
        if held.logical_type == column.logical_type {
            continue;
        }
        if !widens(&held.logical_type, &column.logical_type) {
            return Err(again(&format!(
                "column {} was {} and is {}, which may have changed its values",
                column.name, held.logical_type, column.logical_type
            )));
        }
        alterations.push(Alteration::ChangeType { column: column.clone() });
    }
    Ok(alterations)
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
