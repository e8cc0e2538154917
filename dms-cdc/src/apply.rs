//! Applies batches: data and position in one transaction of the target.
//!
//! A batch is applied in its net form. What the target refuses is tried again in halves, so that a
//! transaction stands alone in the end; that one is applied change by change, and the change that
//! is refused is treated as the policy says. Every commit is at the end of a source's transaction,
//! so that the target is at every moment what the source once was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dms_core::change::{ChangeRows, Identity};
use dms_core::endpoint::{Apply, ApplyException, ChangeTarget, Note, Run, Step};
use dms_core::position::Position;
use dms_core::schema::{TableName, TableSchema};
use dms_core::task::{ApplyErrorPolicy, ChangeSettings};
use dms_core::value::Value;
use dms_core::{Error, ErrorKind, Result, ResultExt, fault};

use crate::batch::{Batch, Counts, Item};
use crate::feeder::{Prepare, Prepared, net};
use crate::ordered;

/// Applies batches to a target.
pub(crate) struct Applier {
    pub(crate) target: Arc<dyn ChangeTarget>,
    pub(crate) run: Run,
    pub(crate) settings: ChangeSettings,
    /// Whether transactions that do not fit a batch are applied change by change: set after the
    /// target refused a part of one.
    pub(crate) careful: bool,
    /// Whether the error just returned is to be answered by being careful.
    pub(crate) wants_care: bool,
    /// The target's transaction in which a large one of the source is being applied.
    open: Option<Open>,
    suspended: BTreeSet<TableName>,
}

struct Open {
    apply: Box<dyn Apply>,
    counts: BTreeMap<TableName, Counts>,
}

/// What became durable.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) position: Option<Position>,
    pub(crate) counts: BTreeMap<TableName, Counts>,
    pub(crate) transactions: u64,
    /// Tables that take no more changes from now on.
    pub(crate) suspended: Vec<TableName>,
}

impl Applier {
    pub(crate) fn new(
        target: Arc<dyn ChangeTarget>,
        run: Run,
        settings: ChangeSettings,
        careful: bool,
    ) -> Self {
        let (wants_care, open, suspended) = (false, None, BTreeSet::new());
        Self { target, run, settings, careful, wants_care, open, suspended }
    }

    /// Whether a large transaction is being applied.
    pub(crate) fn is_inside(&self) -> bool {
        self.open.is_some()
    }

    /// Applies a batch, and makes it durable unless its last transaction goes on.
    ///
    /// # Errors
    /// Those of the target; what the policies make of a refused change.
    pub(crate) async fn apply(&mut self, prepared: Prepared) -> Result<Applied> {
        let Prepared { batch, steps, .. } = prepared;
        if self.open.is_some() || !batch.complete {
            let steps = match steps {
                Some(steps) => Some(steps),
                None => self.net_of(&batch)?,
            };
            let applied = self.apply_part(batch, steps).await;
            if let Err(error) = &applied {
                self.open = None;
                self.wants_care |= !self.careful && is_refusal(error);
            }
            return applied;
        }
        if self.settings.one_by_one {
            return self.apply_one_by_one(batch).await;
        }
        let Some(position) = batch.position.clone() else { return Ok(Applied::default()) };
        match self.apply_whole(&batch, steps, &position, false).await {
            Err(error) if is_refusal(&error) => {
                tracing::info!(%error, "a batch was refused; it is applied in smaller parts");
                self.apply_in_halves(batch, error).await
            }
            applied => applied,
        }
    }

    /// Commits a position alone.
    ///
    /// # Errors
    /// Those of the target.
    pub(crate) async fn commit_position(
        &self,
        position: &Position,
        notes: Vec<Note>,
    ) -> Result<()> {
        let mut apply = self.target.begin_apply(&self.run).await?;
        for note in &notes {
            apply.note(note).await?;
        }
        apply.commit(position, None).await
    }

    async fn apply_whole(
        &self,
        batch: &Batch,
        steps: Option<Vec<Prepare>>,
        position: &Position,
        soon: bool,
    ) -> Result<Applied> {
        let mut apply = self.target.begin_apply(&self.run).await?;
        self.steps(&mut *apply, batch, steps).await?;
        fault::point("cdc-before-commit")?;
        match soon {
            true => apply.commit_soon(position, batch.committed_at).await?,
            false => apply.commit(position, batch.committed_at).await?,
        }
        fault::point("cdc-committed")?;
        Ok(Applied {
            position: Some(position.clone()),
            counts: batch.counts(),
            transactions: batch.len() as u64,
            suspended: Vec::new(),
        })
    }

    async fn steps(
        &self,
        apply: &mut dyn Apply,
        batch: &Batch,
        steps: Option<Vec<Prepare>>,
    ) -> Result<()> {
        let Some(steps) = steps else { return self.log(apply, batch).await };
        for step in &steps {
            match step {
                Prepare::Step(step) if self.takes(step) => apply.step(step, false).await?,
                Prepare::Step(_) => {}
                Prepare::Note(note) => apply.note(note).await?,
            }
        }
        Ok(())
    }

    /// For targets that take every change in order.
    async fn log(&self, apply: &mut dyn Apply, batch: &Batch) -> Result<()> {
        for item in &batch.items {
            match item {
                Item::Rows(rows) => {
                    let mut rows = rows.clone();
                    rows.batches.retain(|batch| !self.suspended.contains(&batch.table().name));
                    apply.step(&Step::Log(rows), false).await?;
                }
                Item::Step(step) => apply.step(step, false).await?,
                Item::Note(note) => apply.note(note).await?,
            }
        }
        Ok(())
    }

    fn takes(&self, step: &Step) -> bool {
        table_of(step).is_none_or(|table| !self.suspended.contains(&table.name))
    }

    /// A part of a transaction that is larger than a batch.
    async fn apply_part(&mut self, batch: Batch, steps: Option<Vec<Prepare>>) -> Result<Applied> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                Open { apply: self.target.begin_apply(&self.run).await?, counts: BTreeMap::new() }
            }
        };
        for (table, counts) in batch.counts() {
            open.counts.entry(table).or_default().add(counts);
        }
        let mut suspended = Vec::new();
        if self.careful && steps.is_some() {
            suspended = self.one_by_one(&mut *open.apply, &batch).await?;
        } else {
            self.steps(&mut *open.apply, &batch, steps).await?;
        }
        let Some(position) = batch.position.as_ref().filter(|_| batch.complete) else {
            self.open = Some(open);
            return Ok(Applied { suspended, ..Applied::default() });
        };
        fault::point("cdc-before-commit")?;
        open.apply.commit(position, batch.committed_at).await?;
        fault::point("cdc-committed")?;
        Ok(Applied {
            position: Some(position.clone()),
            counts: open.counts,
            transactions: batch.len() as u64,
            suspended,
        })
    }

    async fn apply_one_by_one(&mut self, batch: Batch) -> Result<Applied> {
        let mut all = Applied::default();
        let mut transactions = batch.into_transactions().into_iter().peekable();
        while let Some(transaction) = transactions.next() {
            // The last one's commit makes all of them durable.
            let soon = transactions.peek().is_some();
            all.add(self.apply_small(transaction, soon).await?);
        }
        Ok(all)
    }

    async fn apply_small(&mut self, batch: Batch, soon: bool) -> Result<Applied> {
        let Some(position) = batch.position.clone() else { return Ok(Applied::default()) };
        let steps = self.net_of(&batch)?;
        match self.apply_whole(&batch, steps, &position, soon).await {
            Err(error) if is_refusal(&error) => self.apply_alone(batch, error).await,
            applied => applied,
        }
    }

    /// What a batch comes to, for targets that take that.
    fn net_of(&self, batch: &Batch) -> Result<Option<Vec<Prepare>>> {
        let is_net = self.target.change_form() == dms_core::endpoint::ChangeForm::Net;
        is_net.then(|| net(batch)).transpose()
    }

    async fn apply_in_halves(&mut self, batch: Batch, error: Error) -> Result<Applied> {
        let count = batch.len();
        if count <= 1 {
            return self.apply_alone(batch, error).await;
        }
        let mut all = Applied::default();
        let (first, second) = batch.split(count / 2);
        for half in [first, second] {
            let Some(position) = half.position.clone() else { continue };
            let steps = self.net_of(&half)?;
            let applied = match self.apply_whole(&half, steps, &position, false).await {
                Err(error) if is_refusal(&error) => {
                    Box::pin(self.apply_in_halves(half, error)).await
                }
                applied => applied,
            };
            all.add(applied?);
        }
        Ok(all)
    }

    /// One transaction, change by change; the change that is refused as the policy says.
    async fn apply_alone(&mut self, batch: Batch, error: Error) -> Result<Applied> {
        if self.net_of(&batch)?.is_none() {
            return Err(error);
        }
        let Some(position) = batch.position.clone() else { return Err(error) };
        let mut apply = self.target.begin_apply(&self.run).await?;
        let suspended = self.one_by_one(&mut *apply, &batch).await?;
        fault::point("cdc-before-commit")?;
        apply.commit(&position, batch.committed_at).await?;
        fault::point("cdc-committed")?;
        Ok(Applied {
            position: Some(position),
            counts: batch.counts(),
            transactions: batch.len() as u64,
            suspended,
        })
    }

    /// Every change as a step of its own, in the source's order; returns tables suspended by it.
    async fn one_by_one(&mut self, apply: &mut dyn Apply, batch: &Batch) -> Result<Vec<TableName>> {
        let mut suspended = Vec::new();
        for item in &batch.items {
            match item {
                Item::Rows(rows) => {
                    for (step, position) in in_order(rows)? {
                        if !self.takes(&step) {
                            continue;
                        }
                        let Err(error) = apply.step(&step, true).await else { continue };
                        let table = self.refused(apply, &step, position, error).await?;
                        if let Some(table) = table {
                            self.suspended.insert(table.clone());
                            suspended.push(table);
                        }
                    }
                }
                Item::Step(step) if self.takes(step) => apply.step(step, true).await?,
                Item::Step(_) => {}
                Item::Note(note) => apply.note(note).await?,
            }
        }
        Ok(suspended)
    }

    /// What the policy makes of a refused change; the table, if it is suspended.
    async fn refused(
        &self,
        apply: &mut dyn Apply,
        step: &Step,
        position: Position,
        error: Error,
    ) -> Result<Option<TableName>> {
        let Some(table) = table_of(step).filter(|_| is_refusal(&error)) else {
            return Err(error);
        };
        let name = table.name.clone();
        let (policy, setting) = match step {
            Step::Delete { .. } => (self.settings.delete_errors, "ApplyErrorDeletePolicy"),
            Step::Update { .. } => (self.settings.update_errors, "ApplyErrorUpdatePolicy"),
            _ => (self.settings.insert_errors, "ApplyErrorInsertPolicy"),
        };
        let exception = |error: &Error| {
            Note::Exception(ApplyException {
                table: name.clone(),
                position: position.clone(),
                operation: operation_of(step).to_owned(),
                key: key_of(step),
                error: error.to_string(),
            })
        };
        match policy {
            ApplyErrorPolicy::StopTask => {
                let stopped = Error::new(
                    error.kind(),
                    format!(
                        "the target refuses a change ({} of the row with {}): {}{}; mend the \
                         target or load the table again, or choose what becomes of such changes by \
                         {setting}",
                        operation_of(step),
                        key_of(step),
                        error.message(),
                        if is_partial(step) { FILTERED } else { "" }
                    ),
                );
                Err(stopped.context("table", &name).context("position", position))
            }
            ApplyErrorPolicy::IgnoreRecord => {
                tracing::warn!(table = %name, %error, "a refused change is passed over");
                Ok(None)
            }
            ApplyErrorPolicy::LogError => {
                apply.note(&exception(&error)).await?;
                Ok(None)
            }
            ApplyErrorPolicy::SuspendTable => {
                apply.note(&exception(&error)).await?;
                let reason = error.to_string();
                apply.note(&Note::Suspended { table: name.clone(), reason }).await?;
                Ok(Some(name))
            }
            ApplyErrorPolicy::InsertRecord | ApplyErrorPolicy::UpdateRecord => {
                let whole = upsert(step).ok_or_else(|| {
                    Error::new(
                        error.kind(),
                        format!(
                            "{}; the log does not hold all of the row, so that {setting} cannot \
                             put it there",
                            error.message()
                        ),
                    )
                });
                let tried = match whole {
                    Ok(step) => apply.step(&step, true).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = tried {
                    apply.note(&exception(&error)).await.context("table", &name)?;
                }
                Ok(None)
            }
        }
    }
}

impl Applied {
    fn add(&mut self, other: Self) {
        self.position = other.position.or(self.position.take());
        for (table, counts) in other.counts {
            self.counts.entry(table).or_default().add(counts);
        }
        self.transactions += other.transactions;
        self.suspended.extend(other.suspended);
    }
}

/// Whether a target refused what it was asked to do, as opposed to not having been able to.
fn is_refusal(error: &Error) -> bool {
    !error.is_transient() && matches!(error.kind(), ErrorKind::Constraint | ErrorKind::Data)
}

fn table_of(step: &Step) -> Option<&Arc<TableSchema>> {
    match step {
        Step::Delete { table, .. }
        | Step::Update { table, .. }
        | Step::Insert { table, .. }
        | Step::Upsert { table, .. } => Some(table),
        _ => None,
    }
}

/// What else may be the matter with a row that is not there.
const FILTERED: &str = " (or a filter of the table mapping left the row out until now, and the log \
    does not hold all of it: let it hold whole rows; PostgreSQL: ALTER TABLE … REPLICA IDENTITY FULL)";

/// Whether a step has a part of a row only.
fn is_partial(step: &Step) -> bool {
    matches!(step, Step::Update { table, set, .. } if set.len() < table.columns.len())
}

fn operation_of(step: &Step) -> &'static str {
    match step {
        Step::Delete { .. } => "delete",
        Step::Update { .. } => "update",
        Step::Upsert { .. } => "upsert",
        _ => "insert",
    }
}

/// The identity of the one row of a step, as JSON.
fn key_of(step: &Step) -> String {
    let (table, identity, rows) = match step {
        Step::Delete { table, identity, rows, .. } | Step::Update { table, identity, rows, .. } => {
            (table, identity.clone(), rows)
        }
        Step::Upsert { table, identity, rows } => (table, identity.clone(), rows),
        Step::Insert { table, rows } => {
            let key: Option<Vec<usize>> =
                table.primary_key.iter().map(|name| table.column_index(name)).collect();
            let key = key.filter(|key| !key.is_empty());
            (table, key.map_or(Identity::WholeRow, Identity::Key), rows)
        }
        _ => return String::new(),
    };
    let mut key = serde_json::Map::new();
    for at in identity.columns(table.columns.len()) {
        let Some(column) = table.columns.get(at) else { continue };
        let array = rows.column_by_name(&column.name);
        let value = array.and_then(|array| Value::from_array(array, 0, &column.logical_type).ok());
        let value = serde_json::to_value(value).unwrap_or_default();
        key.insert(column.name.clone(), value);
    }
    serde_json::Value::Object(key).to_string()
}

/// A row that is to be there, however it is there now; `None` if not all of it is known.
fn upsert(step: &Step) -> Option<Step> {
    match step {
        Step::Insert { table, rows } => {
            let key: Option<Vec<usize>> =
                table.primary_key.iter().map(|name| table.column_index(name)).collect();
            let identity = Identity::Key(key.filter(|key| !key.is_empty())?);
            Some(Step::Upsert { table: Arc::clone(table), identity, rows: rows.clone() })
        }
        Step::Update { table, identity: Identity::Key(key), set, rows } => {
            // New values stand behind the old identity; where they are not set, the identity is new.
            let place = |column: usize| {
                let of_set = set.iter().position(|at| *at == column).map(|at| key.len() + at);
                of_set.or_else(|| key.iter().position(|at| *at == column))
            };
            let places: Option<Vec<usize>> = (0..table.columns.len()).map(place).collect();
            let rows = rows.project(&places?).ok()?;
            let rows = rows.with_schema(table.arrow_schema()).ok()?;
            let identity = Identity::Key(key.clone());
            Some(Step::Upsert { table: Arc::clone(table), identity, rows })
        }
        _ => None,
    }
}

/// Every change of an event as a step, in the order of their sequences, with its transaction's
/// position.
fn in_order(rows: &ChangeRows) -> Result<Vec<(Step, Position)>> {
    let mut steps = Vec::new();
    for batch in &rows.batches {
        for (sequence, step) in ordered::steps_with_sequences(batch)? {
            steps.push((sequence, step));
        }
    }
    steps.sort_by_key(|(sequence, _)| *sequence);
    let position = |sequence: u64| {
        let transaction = rows.transactions.iter().find(|t| sequence < t.end);
        transaction.map_or_else(|| Position::new(0, ""), |t| t.position.clone())
    };
    Ok(steps.into_iter().map(|(sequence, step)| (step, position(sequence))).collect())
}
