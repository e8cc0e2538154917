//! Which tables a replication follows: those that are new, that are back, or that are others than
//! before.

use std::collections::BTreeMap;
use std::sync::Arc;

use dms_core::endpoint::{Note, TablePrepMode, TableProgress};
use dms_core::mapping::TablePlan;
use dms_core::position::Position;
use dms_core::schema::TableName;
use dms_core::task::{MigrationType, TableReport, TableState};
use dms_core::{Result, ResultExt};

use super::cycle::{Cycle, Held};
use super::{Books, wanted};
use crate::route::{Replicated, is_gone};

/// What is noted of a table that the task did not follow for a while.
const LEFT: &str = "the table was no part of the task for a while, so that changes of it are \
    missing; empty it on the target";

/// What is noted of a table in whose place the source has another one.
const ANOTHER: &str =
    "the source has another table of this name than before; empty it on the target";

impl Cycle<'_> {
    /// Forgets what is held of tables that the task does not follow any more, and of those in whose
    /// place the source has another: they are loaded again when they are back. Where loads go into
    /// tables as they are, rows would be doubled, so that such tables take no changes instead.
    pub(super) async fn forget_others(&self, plans: &[TablePlan], held: &mut Held) -> Result<()> {
        if self.task.kind == MigrationType::Cdc {
            return Ok(());
        }
        let plan_of = |name: &TableName| plans.iter().find(|plan| plan.target.name == *name);
        let mut others = Vec::new();
        for name in held.progress.tables.keys() {
            let noted = held.replication.tables.get(name);
            let id = noted.and_then(|noted| noted.shape.as_ref()?.id);
            let gone = noted.and_then(|noted| noted.suspended.as_deref()).is_some_and(is_gone);
            match plan_of(name) {
                None => others.push((name.clone(), LEFT)),
                Some(plan) if gone || id.zip(plan.source.id).is_some_and(|(a, b)| a != b) => {
                    others.push((name.clone(), ANOTHER));
                }
                Some(_) => {}
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        let target = &self.task.target;
        if self.task.settings.table_prep_mode == TablePrepMode::DoNothing {
            let Some(position) = &held.replication.position else { return Ok(()) };
            let mut apply = target.begin_apply(self.run).await.context("side", "target")?;
            for (table, reason) in others {
                let reason = reason.to_owned();
                apply.note(&Note::Suspended { table, reason }).await.context("side", "target")?;
            }
            apply.commit(position, None).await.context("side", "target")?;
        } else {
            for (table, reason) in &others {
                tracing::warn!(%table, reason, "the table's load is forgotten");
            }
            let names: Vec<TableName> = others.into_iter().map(|(name, _)| name).collect();
            target.forget(self.run, Some(&names)).await.context("side", "target")?;
        }
        *held = self.held().await?;
        Ok(())
    }

    /// Has capture begin anew with tables of which no load is there.
    pub(super) async fn forget_captures(&self, plans: &[TablePlan], held: &Held) -> Result<()> {
        // Before the first position is held, changes are followed from where capture began, and a
        // capture that begins anew with one table would be too late for the others.
        let is_loading = held.replication.position.is_none() && !held.progress.tables.is_empty();
        if self.task.kind == MigrationType::Cdc || is_loading {
            return Ok(());
        }
        let is_new = |plan: &&TablePlan| !held.progress.tables.contains_key(&plan.target.name);
        let names = plans.iter().filter(is_new).map(|plan| plan.source.name.clone());
        let names: Vec<TableName> = names.collect();
        if names.is_empty() {
            return Ok(());
        }
        let forgotten = self.task.source.forget_capture(&self.task.name, &names).await;
        forgotten.context("side", "source")
    }

    /// What is known of each table.
    pub(super) fn replicated(
        &self,
        plans: &[TablePlan],
        held: &Held,
        start: &Position,
        books: &mut Books,
    ) -> Result<Vec<Replicated>> {
        let mut tables = Vec::new();
        for plan in plans {
            let target = &plan.target.name;
            books.names.insert(target.clone(), plan.source.name.clone());
            let noted = held.replication.tables.get(target);
            let progress = held.progress.tables.get(target);
            let loaded = match self.task.kind {
                MigrationType::Cdc => Some(start.order),
                _ => progress
                    .filter(|progress| progress.finished)
                    .and_then(|progress| progress.position.as_ref())
                    .map(|position| position.order),
            };
            let suspended = noted.and_then(|noted| noted.suspended.clone());
            match &suspended {
                Some(reason) => books.suspended.insert(target.clone(), reason.clone()),
                None => books.suspended.remove(target),
            };
            if self.task.kind == MigrationType::Cdc {
                let report = || loaded_before(plan, None);
                books.tables.entry(plan.source.name.clone()).or_insert_with(report);
            }
            tables.push(Replicated {
                source: plan.source.name.clone(),
                loaded,
                shape: match (noted.and_then(|noted| noted.shape.clone()), self.task.kind) {
                    (Some(shape), _) => Some(shape),
                    (None, MigrationType::Cdc) => None,
                    (None, _) => loaded.map(|_| Arc::clone(&plan.target)),
                },
                suspended: suspended.is_some(),
            });
        }
        Ok(tables)
    }

    /// Whether the source has tables that the task selects and does not follow yet. One that cannot
    /// be followed is told, and is no reason to stop following the others.
    pub(super) async fn has_new_tables(
        &self,
        plans: &[TablePlan],
        books: &mut Books,
    ) -> Result<bool> {
        let now = match self.task.plan().await {
            Err(error) if !error.is_transient() => {
                tracing::warn!(%error, "new tables cannot be looked for");
                return Ok(false);
            }
            now => now?,
        };
        let is_followed = |plan: &TablePlan| {
            let is_back = books.suspended.get(&plan.target.name).is_some_and(|why| is_gone(why));
            plans.iter().any(|known| known.source.name == plan.source.name) && !is_back
        };
        let new: Vec<TablePlan> = now.into_iter().filter(|plan| !is_followed(plan)).collect();
        for plan in new {
            let name = plan.source.name.clone();
            let table = wanted(std::slice::from_ref(&plan));
            let Err(error) = self.task.source.check_capture(&self.task.name, &table).await else {
                books.refused.remove(&name);
                return Ok(true);
            };
            if error.is_transient() {
                return Err(error.context("side", "source"));
            }
            if books.refused.insert(name.clone()) {
                tracing::warn!(table = %name, %error, "a new table cannot be followed");
            }
            let target = plan.target.name.clone();
            let mut report = TableReport::new(name.clone(), target, TableState::Error);
            report.error = Some(error);
            books.tables.insert(name, report);
        }
        Ok(false)
    }
}

/// The shapes of tables that were loaded and of which none is noted yet.
pub(super) fn new_shapes(plans: &[TablePlan], tables: &[Replicated], held: &Held) -> Vec<Note> {
    let noted = |name: &TableName| {
        held.replication.tables.get(name).is_some_and(|table| table.shape.is_some())
    };
    let loaded: BTreeMap<&TableName, &Replicated> =
        tables.iter().map(|table| (&table.source, table)).collect();
    plans
        .iter()
        .filter(|plan| !noted(&plan.target.name))
        .filter_map(|plan| loaded.get(&plan.source.name)?.shape.clone())
        .map(Note::Shape)
        .collect()
}

pub(super) fn loaded_before(plan: &TablePlan, progress: Option<&TableProgress>) -> TableReport {
    let receipts = progress.map(|progress| progress.receipts.as_slice()).unwrap_or_default();
    let mut report =
        TableReport::new(plan.source.name.clone(), plan.target.name.clone(), TableState::Completed);
    report.rows = receipts.iter().map(|receipt| receipt.rows).sum();
    report.bytes = receipts.iter().map(|receipt| receipt.bytes).sum();
    report
}
