//! The triggers that write the keys of touched rows into a log.
//!
//! A trigger logs keys, never images: what the rows are is read when the log is. A key too many is
//! harmless, so BEFORE triggers log whatever a statement could remove without a word: REPLACE
//! fires no DELETE trigger for the rows that it removes unless the writer has
//! `recursive_triggers` on (<https://sqlite.org/lang_conflict.html>).

use dms_core::Result;

use super::watch::{Unique, Watch};
use crate::sql::quote;

/// The triggers of a table, by name, as `sqlite_schema` holds them.
pub(super) fn triggers(log: &str, watch: &Watch) -> Result<Vec<(String, String)>> {
    let writer = Writer::new(log, watch)?;
    let table = quote(&watch.table);
    let mut triggers = Vec::new();
    let mut add = |kind: &str, event: &str, body: String| {
        let name = format!("{}{kind}", prefix(log, watch.number));
        let sql = format!("CREATE TRIGGER {} {event} ON {table} BEGIN {body} END", quote(&name));
        triggers.push((name, sql));
    };
    add("insert", "AFTER INSERT", format!("{};", writer.row("NEW", "")));
    add("delete", "AFTER DELETE", format!("{};", writer.row("OLD", "")));
    let moved = format!(" WHERE {}", writer.moved());
    let update = format!("{}; {};", writer.row("OLD", ""), writer.row("NEW", &moved));
    add("update", "AFTER UPDATE", update);
    if !watch.unique.is_empty() {
        let collisions = |other: &str| -> Result<String> {
            let statements = watch.unique.iter().map(|index| writer.collision(index, other));
            Ok(statements.collect::<Result<Vec<_>>>()?.join(" "))
        };
        add("replace_insert", "BEFORE INSERT", collisions("")?);
        let other = format!(" AND ({})", writer.is_other());
        add("replace_update", &update_event(watch)?, collisions(&other)?);
    }
    Ok(triggers)
}

/// Updates that can make a row collide: those of columns of unique indexes, or any if an index holds
/// some rows only.
fn update_event(watch: &Watch) -> Result<String> {
    if watch.unique.iter().any(|index| index.condition.is_some()) {
        return Ok("BEFORE UPDATE".to_owned());
    }
    let mut columns: Vec<u32> = Vec::new();
    for part in watch.unique.iter().flat_map(|index| &index.parts) {
        if !columns.contains(&part.column) {
            columns.push(part.column);
        }
    }
    let names = columns.into_iter().map(|id| watch.name(id).map(quote));
    Ok(format!("BEFORE UPDATE OF {}", names.collect::<Result<Vec<_>>>()?.join(", ")))
}

/// What the names of a table's triggers begin with.
pub(super) fn prefix(log: &str, number: u32) -> String {
    format!("{log}_{number}_")
}

struct Writer<'a> {
    watch: &'a Watch,
    /// `INSERT INTO log (…) SELECT random(), number`.
    start: String,
    /// The key's columns, quoted, with their collations.
    key: Vec<(String, &'a str)>,
}

impl<'a> Writer<'a> {
    fn new(log: &str, watch: &'a Watch) -> Result<Self> {
        let columns: String = (0..watch.key.len()).map(|place| format!(", k{place}")).collect();
        let start = format!(
            "INSERT INTO {} (mark, number{columns}) SELECT random(), {}",
            quote(log),
            watch.number
        );
        let key = watch
            .key
            .iter()
            .map(|part| Ok((quote(watch.name(part.column)?), part.collation.as_str())));
        Ok(Self { watch, start, key: key.collect::<Result<_>>()? })
    }

    /// Logs the key of the row that is `NEW` or `OLD`.
    fn row(&self, row: &str, condition: &str) -> String {
        let key: String = self.key.iter().map(|(name, _)| format!(", {row}.{name}")).collect();
        format!("{}{key}{condition}", self.start)
    }

    /// Whether the key is another one after an update, be it only by case or storage class.
    fn moved(&self) -> String {
        let differs = self.key.iter().map(|(name, _)| {
            if self.watch.rowid_key {
                return format!("NEW.{name} IS NOT OLD.{name}");
            }
            format!(
                "NEW.{name} COLLATE BINARY IS NOT OLD.{name} OR typeof(NEW.{name}) <> \
                 typeof(OLD.{name})"
            )
        });
        differs.collect::<Vec<_>>().join(" OR ")
    }

    /// Whether a row of the table is another one than that which is updated.
    fn is_other(&self) -> String {
        let differs = self.key.iter().map(|(name, collation)| {
            format!("{name} COLLATE {} IS NOT OLD.{name}", quote(collation))
        });
        differs.collect::<Vec<_>>().join(" OR ")
    }

    /// Logs the rows that have the new row's values in a unique index.
    fn collision(&self, index: &Unique, other: &str) -> Result<String> {
        let equal = index.parts.iter().map(|part| {
            let name = quote(self.watch.name(part.column)?);
            let value = match &part.default {
                Some(default) => format!("ifnull(NEW.{name}, {default})"),
                None => format!("NEW.{name}"),
            };
            Ok(format!("{name} COLLATE {} = {value}", quote(&part.collation)))
        });
        // Names in the condition are those of the table, as that is the nearest. A comment at its end
        // ends with the line.
        let condition = index.condition.iter().map(|condition| Ok(format!("({condition}\n)")));
        let equal = condition.chain(equal).collect::<Result<Vec<_>>>()?.join(" AND ");
        let key: String = self.key.iter().map(|(name, _)| format!(", {name}")).collect();
        let table = quote(&self.watch.table);
        Ok(format!("{}{key} FROM {table} WHERE {equal}{other};", self.start))
    }
}
