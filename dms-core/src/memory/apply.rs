//! Changes applied to tables in memory: the reference implementation of a change target.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;

use super::MemoryTarget;
use super::rows::{Table, batch_of, key_of, rows_of};
use super::target::State;
use crate::change::Identity;
use crate::endpoint::{
    Alteration, Apply, ApplyException, ChangeForm, ChangeTarget, Note, ReplicationProgress, Run,
    Step, TaskProgress, TaskRecord,
};
use crate::position::Position;
use crate::schema::{Column, TableName, TableSchema};
use crate::value::Value;
use crate::{Error, ErrorKind, Result};

/// What is held of one task's replication.
#[derive(Debug, Clone, Default)]
pub(super) struct TaskReplication {
    pub(super) progress: ReplicationProgress,
    committed_at: Option<i64>,
    exceptions: Vec<ApplyException>,
    commits: u64,
}

impl MemoryTarget {
    /// The changes that a task passed over.
    #[must_use]
    pub fn exceptions(&self, task: &str) -> Vec<ApplyException> {
        let state = self.lock();
        state.replication.get(task).map(|held| held.exceptions.clone()).unwrap_or_default()
    }

    /// How many transactions of a task were committed here.
    #[must_use]
    pub fn commits(&self, task: &str) -> u64 {
        self.lock().replication.get(task).map_or(0, |held| held.commits)
    }
}

#[async_trait]
impl ChangeTarget for MemoryTarget {
    fn change_form(&self) -> ChangeForm {
        ChangeForm::Net
    }

    async fn replication(&self, run: &Run) -> Result<ReplicationProgress> {
        let state = self.lock();
        state.check(run)?;
        Ok(state.replication.get(&run.task).map(|held| held.progress.clone()).unwrap_or_default())
    }

    async fn begin_apply(&self, run: &Run) -> Result<Box<dyn Apply>> {
        let state = self.lock();
        state.check(run)?;
        let changed = state.clone();
        Ok(Box::new(MemoryApply { target: self.clone(), run: run.clone(), changed }))
    }

    async fn look_up(&self, task: &str) -> Result<Option<TaskRecord>> {
        let state = self.lock();
        let Some(epoch) = state.epochs.get(task) else { return Ok(None) };
        let tables = state.progress.iter().filter(|((of, _), _)| of == task);
        let tables = tables.map(|((_, table), progress)| (table.clone(), progress.clone()));
        let held = state.replication.get(task).cloned().unwrap_or_default();
        Ok(Some(TaskRecord {
            progress: TaskProgress {
                run: Run { task: task.to_owned(), epoch: *epoch },
                tables: tables.collect(),
            },
            replication: held.progress,
            committed_at: held.committed_at,
            exceptions: held.exceptions.len() as u64,
        }))
    }

    async fn forget(&self, run: &Run, tables: Option<&[TableName]>) -> Result<()> {
        let mut state = self.lock();
        state.check(run)?;
        let meant = |table: &TableName| tables.is_none_or(|tables| tables.contains(table));
        state.progress.retain(|(task, table), _| *task != run.task || !meant(table));
        if tables.is_none() {
            state.replication.remove(&run.task);
        } else if let Some(held) = state.replication.get_mut(&run.task) {
            held.progress.tables.retain(|table, _| !meant(table));
        }
        Ok(())
    }
}

/// A copy of everything, which takes the place of it at the commit.
struct MemoryApply {
    target: MemoryTarget,
    run: Run,
    changed: State,
}

impl MemoryApply {
    /// Does `work` on the rows of a table.
    fn rows(
        &mut self,
        name: &TableName,
        work: impl FnOnce(&mut Table) -> Result<()>,
    ) -> Result<()> {
        let (table, batches) = self.changed.tables.get(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "there is no such table").context("table", name)
        })?;
        let mut held: Table = (Arc::new(table.clone()), rows_of(table, batches)?);
        work(&mut held).map_err(|error| error.context("table", name))?;
        let batch = batch_of(&held.0, &held.1)?;
        self.changed.tables.insert(name.clone(), ((*held.0).clone(), vec![batch]));
        self.changed.version += 1;
        Ok(())
    }

    fn replication(&mut self) -> &mut TaskReplication {
        self.changed.replication.entry(self.run.task.clone()).or_default()
    }
}

#[async_trait]
impl Apply for MemoryApply {
    async fn step(&mut self, step: &Step, _guarded: bool) -> Result<()> {
        // A step that fails has put nothing back.
        match step {
            Step::Delete { table, identity, rows, strict } => {
                let keys = keys_of(table, identity, rows)?;
                self.rows(&table.name, |held| delete(held, identity, keys, *strict))
            }
            Step::Update { table, identity, set, rows } => {
                self.rows(&table.name, |held| update(held, identity, set, rows))
            }
            Step::Insert { table, rows } => {
                let new = rows_of(table, std::slice::from_ref(rows))?;
                self.rows(&table.name, |held| insert(held, new))
            }
            Step::Upsert { table, identity, rows } => {
                let new = rows_of(table, std::slice::from_ref(rows))?;
                self.rows(&table.name, |held| {
                    let keys = new.iter().map(|row| key_of(row, identity)).collect();
                    delete(held, identity, keys, false)?;
                    insert(held, new)
                })
            }
            Step::Truncate { tables } => {
                for table in tables {
                    self.rows(table, |held| {
                        held.1.clear();
                        Ok(())
                    })?;
                }
                Ok(())
            }
            Step::Alter { from, to, alterations } => self.rows(&from.name, |held| {
                alterations.iter().for_each(|alteration| alter(held, alteration));
                held.0 = Arc::clone(to);
                Ok(())
            }),
            Step::Create { table } => {
                let empty = ((**table).clone(), Vec::new());
                self.changed.tables.entry(table.name.clone()).or_insert(empty);
                Ok(())
            }
            Step::Drop { table } => {
                self.changed.tables.remove(table);
                Ok(())
            }
            Step::Log(_) => Err(Error::unexpected("tables in memory take net changes")),
        }
    }

    async fn note(&mut self, note: &Note) -> Result<()> {
        let replication = self.replication();
        match note {
            Note::Exception(exception) => replication.exceptions.push(exception.clone()),
            note => {
                if let Some(table) = note.table() {
                    replication.progress.tables.entry(table.clone()).or_default().take(note);
                }
            }
        }
        Ok(())
    }

    async fn commit(
        mut self: Box<Self>,
        position: &Position,
        committed_at: Option<i64>,
    ) -> Result<()> {
        let replication = self.replication();
        replication.progress.position = Some(position.clone());
        replication.committed_at = committed_at.or(replication.committed_at);
        replication.commits += 1;
        let mut state = self.target.lock();
        state.check(&self.run)?;
        *state = self.changed;
        Ok(())
    }
}

fn keys_of(
    table: &TableSchema,
    identity: &Identity,
    rows: &RecordBatch,
) -> Result<Vec<Vec<Value>>> {
    let places = identity.columns(table.columns.len());
    let columns = places.iter().filter_map(|at| table.columns.get(*at).cloned()).collect();
    rows_of(&TableSchema::new(table.name.clone(), columns), std::slice::from_ref(rows))
}

fn delete(
    (_, rows): &mut Table,
    identity: &Identity,
    keys: Vec<Vec<Value>>,
    strict: bool,
) -> Result<()> {
    for key in keys {
        match rows.iter().position(|row| key_of(row, identity) == key) {
            Some(at) => drop(rows.remove(at)),
            None if strict => return Err(missing()),
            None => {}
        }
    }
    Ok(())
}

fn missing() -> Error {
    Error::new(ErrorKind::Constraint, "a row to be changed is not there")
}

fn update(
    (table, rows): &mut Table,
    identity: &Identity,
    set: &[usize],
    new: &RecordBatch,
) -> Result<()> {
    let places: Vec<usize> = identity.columns(table.columns.len());
    let columns = places.iter().chain(set).filter_map(|at| table.columns.get(*at).cloned());
    let shape = TableSchema::new(table.name.clone(), columns.collect());
    let before = rows.clone();
    for values in rows_of(&shape, std::slice::from_ref(new))? {
        let (key, values) = values.split_at(places.len().min(values.len()));
        let at = before.iter().position(|row| key_of(row, identity) == key).ok_or_else(missing)?;
        let Some(row) = rows.get_mut(at) else { continue };
        for (place, value) in set.iter().zip(values) {
            if let Some(held) = row.get_mut(*place) {
                *held = value.clone();
            }
        }
    }
    check_unique(table, rows)
}

fn insert((table, rows): &mut Table, new: Vec<Vec<Value>>) -> Result<()> {
    rows.extend(new);
    check_unique(table, rows)
}

/// No two rows may share a primary key or a value of a unique index, as in any database.
fn check_unique(table: &TableSchema, rows: &[Vec<Value>]) -> Result<()> {
    let keys = std::iter::once(&table.primary_key)
        .chain(table.unique_indexes.iter().map(|index| &index.columns))
        .filter(|key| !key.is_empty());
    for key in keys {
        let places: Option<Vec<usize>> = key.iter().map(|name| table.column_index(name)).collect();
        let Some(places) = places else { continue };
        let mut seen = std::collections::HashSet::new();
        for row in rows {
            let values = key_of(row, &Identity::Key(places.clone()));
            if values.contains(&Value::Null) {
                continue;
            }
            if !seen.insert(format!("{values:?}")) {
                return Err(Error::new(ErrorKind::Constraint, "a row is there already"));
            }
        }
    }
    Ok(())
}

fn alter((table, rows): &mut Table, alteration: &Alteration) {
    let table = Arc::make_mut(table);
    let place = |table: &TableSchema, name: &str| table.column_index(name);
    match alteration {
        Alteration::AddColumn { column, value } => {
            table.columns.push(Column::clone(column));
            let value = value.clone().unwrap_or(Value::Null);
            rows.iter_mut().for_each(|row| row.push(value.clone()));
        }
        Alteration::DropColumn { column } => {
            if let Some(at) = place(table, column) {
                table.columns.remove(at);
                rows.iter_mut().filter(|row| at < row.len()).for_each(|row| drop(row.remove(at)));
            }
        }
        Alteration::RenameColumn { from, to } => {
            if let Some(column) = place(table, from).and_then(|at| table.columns.get_mut(at)) {
                column.name.clone_from(to);
            }
        }
        Alteration::ChangeType { column } => {
            if let Some(held) = place(table, &column.name).and_then(|at| table.columns.get_mut(at))
            {
                *held = column.clone();
            }
        }
    }
}
