//! What becomes of each change: dropped since its table's load holds it, applied, or kept from a
//! table that is suspended.
//!
//! A table's load holds every transaction up to its snapshot's position, so a change is applied if
//! its transaction stands above it, and above what was applied before.

use std::collections::BTreeMap;
use std::sync::Arc;

use dms_core::change::{ChangeBatch, ChangeEvent, ChangeRows, Identity, Transaction};
use dms_core::endpoint::{ChangeForm, Note, Step};
use dms_core::mapping::TableMapping;
use dms_core::schema::{Column, TableName, TableSchema};
use dms_core::task::{ChangeSettings, SchemaChangePolicy};
use dms_core::value::Value;
use dms_core::{Error, ErrorKind, Result, ResultExt};

use crate::alter::{Change, alterations, unaltered};
use crate::batch::{Item, records_from};
use crate::transform::{ChangePlan, check_identity};

/// Where changes of the tables go.
#[derive(Debug)]
pub(crate) struct Router {
    mapping: TableMapping,
    settings: ChangeSettings,
    form: ChangeForm,
    /// Transactions up to here are applied.
    applied: u64,
    /// By their names at the source.
    tables: BTreeMap<TableName, Route>,
}

/// What is known of one table.
#[derive(Debug)]
struct Route {
    /// Its load holds the transactions up to here; `None` if it is not loaded.
    loaded: Option<u64>,
    /// As the target has it, if that is known.
    shape: Option<Arc<TableSchema>>,
    suspended: bool,
    /// As the feed told it last, until changes are to be applied.
    told: Option<Told>,
    plan: Option<ChangePlan>,
}

#[derive(Debug)]
struct Told {
    table: Arc<TableSchema>,
    identity: Identity,
    initial: BTreeMap<usize, Option<Value>>,
}

/// A table that the task replicates.
#[derive(Debug, Clone)]
pub(crate) struct Replicated {
    /// Its name at the source.
    pub(crate) source: TableName,
    /// Its load holds the transactions up to here; `None` if it is not loaded.
    pub(crate) loaded: Option<u64>,
    /// As the target has it.
    pub(crate) shape: Option<Arc<TableSchema>>,
    /// Whether it takes no changes.
    pub(crate) suspended: bool,
}

impl Router {
    pub(crate) fn new(
        mapping: TableMapping,
        settings: ChangeSettings,
        form: ChangeForm,
        applied: u64,
        tables: Vec<Replicated>,
    ) -> Self {
        let route = |table: Replicated| {
            let route = Route {
                loaded: table.loaded,
                shape: table.shape,
                suspended: table.suspended,
                told: None,
                plan: None,
            };
            (table.source, route)
        };
        let tables = tables.into_iter().map(route).collect();
        Self { mapping, settings, form, applied, tables }
    }

    /// A table takes no more changes.
    pub(crate) fn suspend(&mut self, target: &TableName) {
        for route in self.tables.values_mut() {
            let name = route.plan.as_ref().map(|plan| &plan.target().name);
            if name == Some(target) {
                route.suspended = true;
            }
        }
    }

    /// What an event comes to.
    ///
    /// # Errors
    /// Those of the mapping; what a policy makes of a change of a table.
    pub(crate) fn route(&mut self, event: ChangeEvent) -> Result<Vec<Item>> {
        match event {
            ChangeEvent::Rows(rows) => self.rows(rows),
            ChangeEvent::Truncate { tables, transaction } => self.truncate(&tables, &transaction),
            ChangeEvent::Schema { table, identity, column_ids, initial, altered } => {
                let table = identified(table, &column_ids);
                self.told(Told { table, identity, initial }, altered.as_ref())
            }
            ChangeEvent::Dropped { table, transaction } => {
                self.dropped(&table, transaction.as_ref())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// A shape that a transaction gave its table is followed at once, any other with the first rows
    /// of it: these may be older than the table's load.
    fn told(&mut self, told: Told, altered: Option<&Transaction>) -> Result<Vec<Item>> {
        let name = told.table.name.clone();
        let Some(route) = self.tables.get_mut(&name) else { return Ok(Vec::new()) };
        let is_news = altered.is_some_and(|by| !route.holds(by, self.applied));
        route.told = Some(told);
        let mut items: Vec<Item> = route.identify(&self.mapping)?.into_iter().collect();
        if is_news && route.loaded.is_some() && !route.suspended {
            items.extend(route.catch_up(&name, &self.mapping, &self.settings)?);
        }
        Ok(items)
    }

    fn rows(&mut self, rows: ChangeRows) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut batches = Vec::new();
        for batch in &rows.batches {
            let Some(batch) = self.wanted(batch, &rows.transactions, &mut items)? else { continue };
            batches.push(batch);
        }
        items.push(Item::Rows(ChangeRows { batches, transactions: rows.transactions }));
        Ok(items)
    }

    /// The changes of a table that are to be applied, as the target gets them.
    fn wanted(
        &mut self,
        batch: &ChangeBatch,
        transactions: &[Transaction],
        items: &mut Vec<Item>,
    ) -> Result<Option<ChangeBatch>> {
        let name = &batch.table().name;
        let Some(route) = self.tables.get_mut(name) else { return Ok(None) };
        let (Some(loaded), false) = (route.loaded, route.suspended) else { return Ok(None) };
        let held = loaded.max(self.applied);
        // Positions grow, so what is held is the front.
        let held = transactions.iter().take_while(|t| t.position.order <= held).last();
        let batch = held.map_or_else(|| batch.clone(), |held| records_from(batch, held.end));
        if batch.is_empty() {
            return Ok(None);
        }
        items.extend(route.catch_up(name, &self.mapping, &self.settings)?);
        if route.suspended {
            return Ok(None);
        }
        let plan = match &route.plan {
            Some(plan) => plan,
            None => {
                return Err(Error::unexpected("the feed did not tell a table's shape")
                    .context("table", name));
            }
        };
        plan.transform(&batch).map(Some)
    }

    fn truncate(&mut self, tables: &[TableName], transaction: &Transaction) -> Result<Vec<Item>> {
        let order = transaction.position.order;
        let mut emptied = Vec::new();
        let mut items = Vec::new();
        for name in tables {
            let Some(route) = self.tables.get_mut(name) else { continue };
            let Some(loaded) = route.loaded.filter(|_| !route.suspended) else { continue };
            if order <= loaded.max(self.applied) {
                continue;
            }
            let target = target_name(&self.mapping, route, name)?;
            match self.settings.truncated {
                SchemaChangePolicy::Apply => emptied.push(target),
                SchemaChangePolicy::Ignore => {}
                SchemaChangePolicy::SuspendTable => {
                    items.push(route.suspend(target, "the source emptied the table"));
                }
                SchemaChangePolicy::StopTask => {
                    return Err(refused("the source emptied a table").context("table", name));
                }
            }
        }
        if !emptied.is_empty() {
            items.push(Item::Step(Step::Truncate { tables: emptied }));
        }
        Ok(items)
    }

    fn dropped(&mut self, name: &TableName, by: Option<&Transaction>) -> Result<Vec<Item>> {
        let Some(route) = self.tables.get_mut(name) else { return Ok(Vec::new()) };
        // What a load holds already was a table of the same name before it.
        let is_old = by.is_some_and(|by| route.holds(by, self.applied));
        if route.loaded.is_none() || route.suspended || is_old {
            return Ok(Vec::new());
        }
        let target = target_name(&self.mapping, route, name)?;
        Ok(match self.settings.dropped {
            SchemaChangePolicy::Apply => {
                let step = Item::Step(Step::Drop { table: target.clone() });
                vec![step, route.suspend(target, DROPPED_ALIKE)]
            }
            SchemaChangePolicy::Ignore => vec![route.suspend(target, DROPPED_ALONE)],
            SchemaChangePolicy::SuspendTable => vec![route.suspend(target, DROPPED)],
            SchemaChangePolicy::StopTask => {
                return Err(refused("the source dropped a table").context("table", name));
            }
        })
    }

    /// Whether transactions are applied together, in their net form.
    pub(crate) fn is_joined(&self) -> bool {
        self.form == ChangeForm::Net && !self.settings.one_by_one
    }
}

/// Why a table takes no more changes that the source does not have any more, as the policies say.
const DROPPED: &str = "the source dropped the table";
const DROPPED_ALIKE: &str = "the source dropped the table, and it was dropped here";
const DROPPED_ALONE: &str = "the source dropped the table, and it stays here";

/// Whether a table takes no more changes since the source does not have it any more: one of its
/// name is another.
pub(crate) fn is_gone(why: &str) -> bool {
    [DROPPED, DROPPED_ALIKE, DROPPED_ALONE].contains(&why)
}

/// Whether that a table takes no more changes is a failure of the task.
pub(crate) fn is_failure(why: &str) -> bool {
    ![DROPPED_ALIKE, DROPPED_ALONE].contains(&why)
}

fn refused(what: &str) -> Error {
    Error::new(
        ErrorKind::Schema,
        format!(
            "{what}, and ChangeProcessingDdlHandlingPolicy says that the task stops then; load the \
             table again, or choose another policy"
        ),
    )
}

fn target_name(mapping: &TableMapping, route: &Route, name: &TableName) -> Result<TableName> {
    match (&route.shape, &route.plan) {
        (Some(shape), _) => Ok(shape.name.clone()),
        (None, Some(plan)) => Ok(plan.target().name.clone()),
        (None, None) => {
            Ok(mapping.plan(&TableSchema::new(name.clone(), Vec::new()))?.target.name.clone())
        }
    }
}

impl Route {
    /// Whether what a transaction did is in the table already, if it is loaded.
    fn holds(&self, transaction: &Transaction, applied: u64) -> bool {
        transaction.position.order <= self.loaded.unwrap_or(0).max(applied)
    }

    fn suspend(&mut self, table: TableName, reason: &str) -> Item {
        self.suspended = true;
        Item::Note(Note::Suspended { table, reason: reason.to_owned() })
    }

    /// Takes up by what the source knows the columns of a table, as long as it is as it was loaded:
    /// a source may not tell that before.
    fn identify(&mut self, mapping: &TableMapping) -> Result<Option<Item>> {
        let (Some(held), Some(told)) = (&self.shape, &self.told) else { return Ok(None) };
        if self.loaded.is_none() || self.suspended || held.last_column.is_some() {
            return Ok(None);
        }
        let now = mapping.plan(&told.table)?.target;
        let alike = |(held, now): (&Column, &Column)| {
            held.name == now.name && held.logical_type == now.logical_type
        };
        let is_as_loaded = now.last_column.is_some()
            && held.columns.len() == now.columns.len()
            && held.columns.iter().zip(&now.columns).all(alike);
        if !is_as_loaded {
            return Ok(None);
        }
        let mut shape = (**held).clone();
        shape.last_column = now.last_column;
        for (column, now) in shape.columns.iter_mut().zip(&now.columns) {
            column.id = now.id;
        }
        let shape = Arc::new(shape);
        self.shape = Some(Arc::clone(&shape));
        Ok(Some(Item::Note(Note::Shape(shape))))
    }

    /// Follows the shape that the feed told last, if that is to be done still.
    fn catch_up(
        &mut self,
        name: &TableName,
        mapping: &TableMapping,
        settings: &ChangeSettings,
    ) -> Result<Vec<Item>> {
        let Some(told) = self.told.take() else { return Ok(Vec::new()) };
        self.follow(&told, mapping, settings).context("table", name)
    }

    /// Takes up the shape that the feed told, and brings the target's table to it.
    fn follow(
        &mut self,
        told: &Told,
        mapping: &TableMapping,
        settings: &ChangeSettings,
    ) -> Result<Vec<Item>> {
        check_identity(&told.table, &told.identity)?;
        let plan = ChangePlan::new(&mapping.plan(&told.table)?, &told.identity)?;
        let Some(held) = self.shape.clone() else {
            let shape = Arc::clone(plan.target());
            (self.shape, self.plan) = (Some(Arc::clone(&shape)), Some(plan));
            return Ok(vec![Item::Note(Note::Shape(shape))]);
        };
        let change = Change {
            before: &held,
            after: plan.target(),
            is_read: &|name| plan.source_column(name).is_some(),
            initial: &|name| {
                let place = told.table.column_index(&plan.source_column(name)?)?;
                told.initial.get(&place).cloned()
            },
        };
        let is_untold = held.last_column.is_some() && plan.target().last_column.is_none();
        let altered = match is_untold {
            true => unaltered(&held, plan.target()),
            false => alterations(&change),
        };
        let altered = match altered {
            Ok(altered) if altered.is_empty() => {
                self.plan = Some(plan);
                return Ok(Vec::new());
            }
            altered => altered,
        };
        match (settings.altered, altered) {
            (SchemaChangePolicy::StopTask, Ok(_)) => {
                Err(refused("the source changed a table's columns"))
            }
            (SchemaChangePolicy::StopTask, Err(error)) => Err(error),
            (SchemaChangePolicy::SuspendTable, Ok(_)) => {
                Ok(vec![self.suspend(held.name.clone(), "the source changed its columns")])
            }
            (SchemaChangePolicy::Ignore, _) => self.ignore(plan, &held),
            // What cannot be followed needs a new load, whatever the policy.
            (_, Err(error)) => Ok(vec![self.suspend(held.name.clone(), error.message())]),
            (SchemaChangePolicy::Apply, Ok(alterations)) => {
                let to = Arc::clone(plan.target());
                (self.shape, self.plan) = (Some(Arc::clone(&to)), Some(plan));
                let note = Item::Note(Note::Shape(Arc::clone(&to)));
                Ok(vec![Item::Step(Step::Alter { from: held, to, alterations }), note])
            }
        }
    }

    /// Leaves the target's table as it is. That columns were left out is noted: they cannot be
    /// followed from later on.
    fn ignore(&mut self, mut plan: ChangePlan, held: &Arc<TableSchema>) -> Result<Vec<Item>> {
        let last_column = plan.target().last_column;
        if let Err(error) = plan.keep_to(held) {
            return Ok(vec![self.suspend(held.name.clone(), error.message())]);
        }
        self.plan = Some(plan);
        if last_column <= held.last_column {
            return Ok(Vec::new());
        }
        let mut shape = (**held).clone();
        shape.last_column = last_column;
        let shape = Arc::new(shape);
        self.shape = Some(Arc::clone(&shape));
        Ok(vec![Item::Note(Note::Shape(shape))])
    }
}

/// A table whose columns bear the identities that a feed told with it.
fn identified(table: Arc<TableSchema>, column_ids: &[u32]) -> Arc<TableSchema> {
    if column_ids.len() != table.columns.len() {
        return table;
    }
    let mut table = (*table).clone();
    for (column, id) in table.columns.iter_mut().zip(column_ids) {
        column.id = Some(*id);
    }
    table.last_column = column_ids.iter().copied().max();
    Arc::new(table)
}

#[cfg(test)]
mod tests {
    use dms_core::schema::LogicalType;

    use super::*;

    fn by(order: u64) -> Option<Transaction> {
        let (position, id) = (dms_core::position::Position::new(order, ""), String::new());
        Some(Transaction { position, committed_at: None, id, end: 0, complete: false })
    }

    fn table(columns: &[&str]) -> Arc<TableSchema> {
        let column = |name: &&str| Column::new(*name, LogicalType::Int64);
        let mut table =
            TableSchema::new(TableName::new("s", "t"), columns.iter().map(column).collect());
        table.primary_key = vec!["id".into()];
        Arc::new(table)
    }

    /// A table of two columns whose load holds the transactions up to 10.
    fn router(applied: u64) -> Router {
        let loaded = Replicated {
            source: TableName::new("s", "t"),
            loaded: Some(10),
            shape: Some(table(&["id", "a"])),
            suspended: false,
        };
        let mapping = TableMapping::new().include("s", "%");
        Router::new(mapping, ChangeSettings::default(), ChangeForm::Net, applied, vec![loaded])
    }

    fn altered(altered: Option<Transaction>) -> ChangeEvent {
        ChangeEvent::Schema {
            table: table(&["id", "a", "b"]),
            identity: Identity::Key(vec![0]),
            column_ids: Vec::new(),
            initial: BTreeMap::new(),
            altered,
        }
    }

    #[test]
    fn what_a_load_holds_is_not_done_again() {
        let dropped =
            |transaction| ChangeEvent::Dropped { table: TableName::new("s", "t"), transaction };
        for (applied, old, new) in [(0, 10, 11), (20, 20, 21)] {
            for (event, is_done) in [
                (dropped(by(old)), false),
                (dropped(by(new)), true),
                (dropped(None), true),
                (altered(by(old)), false),
                (altered(None), false),
                (altered(by(new)), true),
            ] {
                let items = router(applied).route(event.clone()).unwrap();
                assert_eq!(!items.is_empty(), is_done, "{event:?}: {items:?}");
            }
        }
    }
}
