//! Steps that concern rows.

use arrow::array::RecordBatch;
use dms_core::change::Identity;
use dms_core::endpoint::Step;
use dms_core::schema::{Column, TableSchema};
use dms_core::value::Value;
use dms_core::{Error, ErrorKind, Result, ResultExt};
use rusqlite::{CachedStatement, Connection};

use super::alter;
use super::moved::Moved;
use super::whole;
use crate::sql::quote;
use crate::sqlite::bind::{self, Parameter, find};
use crate::sqlite::error::convert;
use crate::sqlite::insert::Insert;
use crate::sqlite::tables::{Existing, existing_columns};
use crate::sqlite::types::{self, Affinity, Storage};

pub(super) const DOING: &str = "changes cannot be applied";

/// Does one step.
pub(super) fn step(connection: &Connection, step: &Step) -> Result<()> {
    match step {
        Step::Delete { table, identity, rows, strict } => {
            delete(connection, table, identity, rows, *strict).context("table", &table.name)
        }
        Step::Update { table, identity, set, rows } => {
            let change = || Change::update(connection, table, identity, set);
            within_reach(connection, change, rows).context("table", &table.name)
        }
        Step::Upsert { table, identity, rows } => {
            let change = || Change::upsert(connection, table, identity);
            within_reach(connection, change, rows).context("table", &table.name)
        }
        Step::Insert { table, rows } => Insert::new(connection, table)
            .and_then(|mut insert| insert.batch(rows))
            .context("table", &table.name),
        Step::Truncate { tables } => tables.iter().try_for_each(|table| {
            let sql = format!("DELETE FROM main.{}", quote(&table.name));
            let done = connection.execute_batch(&sql);
            done.map_err(|error| convert(error, "the table cannot be emptied"))
                .context("table", table)
        }),
        Step::Alter { from, to, alterations } => {
            alter::alter(connection, from, to, alterations).context("table", &to.name)
        }
        Step::Create { table } => alter::create(connection, table).context("table", &table.name),
        Step::Drop { table } => {
            let sql = format!("DROP TABLE IF EXISTS main.{}", quote(&table.name));
            let done = connection.execute_batch(&sql);
            done.map_err(|error| convert(error, "the table cannot be dropped"))
                .context("table", table)
        }
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            "a SQLite target takes net changes, not this kind of step",
        )),
    }
}

/// Does work that leaves nothing behind if it fails, if it is to be `guarded`.
pub(super) fn within(
    connection: &Connection,
    guarded: bool,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if !guarded {
        return work();
    }
    let failed = |error| convert(error, DOING);
    connection.execute_batch("SAVEPOINT dms_step").map_err(failed)?;
    let done = work();
    if connection.is_autocommit() {
        // SQLite has taken back everything: the caller sees it too.
        return done;
    }
    if done.is_err() {
        connection.execute_batch("ROLLBACK TO dms_step").map_err(failed)?;
    }
    connection.execute_batch("RELEASE dms_step").map_err(failed)?;
    done
}

/// Changes rows one by one; if a unique value of one is still another's that is changed later, all
/// of them at once.
fn within_reach<'a>(
    connection: &'a Connection,
    change: impl Fn() -> Result<Change<'a>>,
    rows: &RecordBatch,
) -> Result<()> {
    let one_by_one = within(connection, true, || {
        let mut change = change()?;
        (0..rows.num_rows()).try_for_each(|row| change.row(rows, row))
    });
    match one_by_one {
        Err(error) if is_collision(&error) && !connection.is_autocommit() => {
            let mut change = change()?;
            change.at_once(connection, rows)
        }
        done => done,
    }
}

/// Whether an error is SQLite's own, of a key that two rows would have.
fn is_collision(error: &Error) -> bool {
    use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
    let source = std::error::Error::source(error);
    let code = source.and_then(|source| source.downcast_ref::<rusqlite::Error>());
    let code = code.and_then(|error| match error {
        rusqlite::Error::SqliteFailure(error, _) => Some(error.extended_code),
        _ => None,
    });
    matches!(code, Some(SQLITE_CONSTRAINT_UNIQUE | SQLITE_CONSTRAINT_PRIMARYKEY))
}

/// A prepared change of rows that are found by a key.
struct Change<'a> {
    table: &'a TableSchema,
    update: CachedStatement<'a>,
    /// What `update` takes: the values to set, then the key.
    parameters: Vec<Parameter>,
    /// How many of them are values to set.
    sets: usize,
    /// For rows that are not there; else each has to be.
    insert: Option<Insert<'a>>,
    existing: Vec<Existing>,
    scratch: String,
}

impl<'a> Change<'a> {
    fn update(
        connection: &'a Connection,
        table: &'a TableSchema,
        identity: &Identity,
        set: &[usize],
    ) -> Result<Self> {
        let existing = existing_columns(connection, &table.name.name)?;
        let key = key_of(identity)?;
        let keyed = parameters(table, &existing, key, 0)?;
        let mut values = parameters(table, &existing, set, key.len())?;
        values.retain(|value| !find(&existing, &value.name).is_some_and(|found| found.generated));
        Self::new(connection, table, existing, values, keyed, None)
    }

    fn upsert(
        connection: &'a Connection,
        table: &'a TableSchema,
        identity: &Identity,
    ) -> Result<Self> {
        let existing = existing_columns(connection, &table.name.name)?;
        let key = key_of(identity)?;
        let mut keyed = parameters(table, &existing, key, 0)?;
        for (parameter, place) in keyed.iter_mut().zip(key) {
            parameter.place = *place;
        }
        let mut values = bind::written(table, &existing)?;
        values.retain(|value| {
            let exact = || is_exact(connection, table, &existing, value.place);
            !(key.contains(&value.place) && exact())
        });
        let insert = Insert::new(connection, table)?;
        Self::new(connection, table, existing, values, keyed, Some(insert))
    }

    fn new(
        connection: &'a Connection,
        table: &'a TableSchema,
        existing: Vec<Existing>,
        values: Vec<Parameter>,
        keyed: Vec<Parameter>,
        insert: Option<Insert<'a>>,
    ) -> Result<Self> {
        let sets = values.len();
        let set = values.iter().enumerate();
        let mut set: Vec<String> =
            set.map(|(at, value)| format!("{} = ?{}", quote(&value.name), at + 1)).collect();
        if set.is_empty() {
            // Nothing to change, but the row has to be found.
            set.extend(keyed.first().map(|key| format!("{0} = {0}", quote(&key.name))));
        }
        let sql = format!(
            "UPDATE main.{} SET {} WHERE {}",
            quote(&table.name.name),
            set.join(", "),
            condition(&keyed, sets)
        );
        let update = connection.prepare_cached(&sql).map_err(|error| convert(error, DOING))?;
        let parameters = values.into_iter().chain(keyed).collect();
        let scratch = String::new();
        Ok(Self { table, update, parameters, sets, insert, existing, scratch })
    }

    fn row(&mut self, rows: &RecordBatch, row: usize) -> Result<()> {
        let changed =
            bind::execute(&mut self.update, &self.parameters, rows, row, &mut self.scratch)?;
        match (changed, &mut self.insert) {
            (1, _) => Ok(()),
            (0, Some(insert)) => insert.row(rows, row),
            (changed, _) => {
                let key = self.parameters.get(self.sets..).unwrap_or_default();
                Err(count_error("changed", changed, self.table, key, rows, row))
            }
        }
    }

    /// Takes all the rows out of the table, changed, and puts them back together.
    fn at_once(&mut self, connection: &Connection, rows: &RecordBatch) -> Result<()> {
        let names = self.existing.iter().filter(|column| !column.generated);
        let names: Vec<&str> = names.map(|column| column.name.as_str()).collect();
        let sets = self.parameters.iter().take(self.sets).map(|value| value.name.as_str());
        let sets: Vec<&str> = sets.collect();
        let keyed = self.parameters.get(self.sets..).unwrap_or_default();
        let key = condition(keyed, self.sets);
        let moved = Moved::new(connection, &self.table.name.name, names)?;
        let mut missing = Vec::new();
        {
            let mut take = moved.take(&sets, &key)?;
            let mut delete = moved.delete(&condition(keyed, 0))?;
            for row in 0..rows.num_rows() {
                let taken =
                    bind::execute(&mut take, &self.parameters, rows, row, &mut self.scratch)?;
                match (taken, &self.insert) {
                    (1, _) => {
                        bind::execute(&mut delete, keyed, rows, row, &mut self.scratch)?;
                    }
                    (0, Some(_)) => missing.push(row),
                    (taken, _) => {
                        return Err(count_error("changed", taken, self.table, keyed, rows, row));
                    }
                }
            }
        }
        moved.put_back()?;
        match &mut self.insert {
            Some(insert) => missing.into_iter().try_for_each(|row| insert.row(rows, row)),
            None => Ok(()),
        }
    }
}

fn key_of(identity: &Identity) -> Result<&[usize]> {
    match identity {
        Identity::Key(key) if !key.is_empty() => Ok(key),
        _ => Err(Error::unexpected("rows without a key cannot be changed in place")),
    }
}

/// Columns of the table as parameters, from batches that have them one after the other from `start`.
pub(super) fn parameters(
    table: &TableSchema,
    existing: &[Existing],
    places: &[usize],
    start: usize,
) -> Result<Vec<Parameter>> {
    let parameters = places.iter().zip(start..).map(|(place, at)| {
        let column = column(table, *place)?;
        Parameter::new(at, column, find(existing, &column.name))
    });
    parameters.collect()
}

fn column(table: &TableSchema, place: usize) -> Result<&Column> {
    table.columns.get(place).ok_or_else(|| Error::schema("a step names a column that is not there"))
}

/// Whether equal values of a key's column are the same, so that a row that is found by one need not
/// be given it.
fn is_exact(
    connection: &Connection,
    table: &TableSchema,
    existing: &[Existing],
    place: usize,
) -> bool {
    let Ok(column) = column(table, place) else { return false };
    let affinity = find(existing, &column.name).map(|found| types::affinity(&found.declaration));
    let names = (table.name.name.as_str(), column.name.as_str());
    let described = connection.column_metadata(Some("main"), names.0, names.1);
    let binary = described.is_ok_and(|described| {
        described.1.is_some_and(|c| c.to_bytes().eq_ignore_ascii_case(b"BINARY"))
    });
    match types::storage(column) {
        Storage::Integer => true,
        Storage::Text | Storage::Spelled => binary && affinity == Some(Affinity::Text),
        Storage::Blob => true,
        _ => false,
    }
}

/// Rows that have the key, whose parameters come after `before` others.
fn condition(key: &[Parameter], before: usize) -> String {
    let equal = key.iter().enumerate();
    let equal = equal.map(|(at, part)| format!("{} = ?{}", quote(&part.name), before + at + 1));
    equal.collect::<Vec<_>>().join(" AND ")
}

fn delete(
    connection: &Connection,
    table: &TableSchema,
    identity: &Identity,
    rows: &RecordBatch,
    strict: bool,
) -> Result<()> {
    let existing = existing_columns(connection, &table.name.name)?;
    let Identity::Key(key) = identity else {
        return whole::delete(connection, table, &existing, rows, strict);
    };
    let key = parameters(table, &existing, key, 0)?;
    let sql = format!("DELETE FROM main.{} WHERE {}", quote(&table.name.name), condition(&key, 0));
    let mut statement = connection.prepare_cached(&sql).map_err(|error| convert(error, DOING))?;
    let mut scratch = String::new();
    for row in 0..rows.num_rows() {
        let gone = bind::execute(&mut statement, &key, rows, row, &mut scratch)?;
        if strict && gone != 1 {
            return Err(count_error("deleted", gone, table, &key, rows, row));
        }
    }
    Ok(())
}

/// The error of a row that is not there once.
pub(super) fn count_error(
    what: &str,
    found: usize,
    table: &TableSchema,
    key: &[Parameter],
    rows: &RecordBatch,
    row: usize,
) -> Error {
    let values = key.iter().map(|part| {
        let column = table.columns.iter().find(|column| column.name == part.name);
        let array = rows.columns().get(part.place);
        let value = column.zip(array).and_then(|(column, array)| {
            Value::from_array(array.as_ref(), row, &column.logical_type).ok()
        });
        format!("{}={}", part.name, value.map_or_else(|| "?".to_owned(), |value| value.to_string()))
    });
    let values = values.collect::<Vec<_>>().join(", ");
    let shown = if values.chars().count() > 120 {
        values.chars().take(120).chain("…".chars()).collect()
    } else {
        values
    };
    let times =
        if found == 0 { "is not there".to_owned() } else { format!("is there {found} times") };
    Error::new(
        ErrorKind::Constraint,
        format!(
            "a row that is to be {what} {times} on the target; somebody else writes the table, or \
             it lacks its key: load the table again"
        ),
    )
    .context("row", shown)
}
