//! Gathers what waits in the buffer into batches for the target, while the target works on the one
//! before.

use std::time::Duration;

use dms_core::Result;
use dms_core::change::{ChangeEvent, ChangeRows};
use dms_core::endpoint::Step;
use dms_core::position::Position;
use dms_core::schema::TableName;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::batch::{Batch, Item, split_rows};
use crate::buffer::{BufferReader, BufferStatus};
use crate::cutter::Cutter;
use crate::net::NetChanges;
use crate::route::Router;
use crate::stop::Bound;

/// A batch, ready to be applied.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) batch: Batch,
    /// What it comes to, if the target takes net changes of many transactions together.
    pub(crate) steps: Option<Vec<Prepare>>,
    /// Nothing comes after it: the next transaction lies beyond the bound.
    pub(crate) is_last: bool,
    pub(crate) waiting: BufferStatus,
}

/// A part of a prepared batch.
#[derive(Debug)]
pub(crate) enum Prepare {
    Step(Step),
    Note(dms_core::endpoint::Note),
}

/// What the target's side tells back.
#[derive(Debug)]
pub(crate) enum Told {
    /// Everything up to here is durable in the target.
    Done(Position),
    /// A table takes no more changes.
    Suspended(TableName),
    /// Nobody waits for the target to catch up: it may be given changes as it likes them best.
    Ongoing,
}

/// Gathers batches until the buffer ends or the receiver is gone.
#[derive(Debug)]
pub(crate) struct Feeder {
    pub(crate) reader: BufferReader,
    pub(crate) router: Router,
    pub(crate) bound: Bound,
    /// About how many bytes a batch holds at the most.
    pub(crate) batch_bytes: usize,
    pub(crate) batches: mpsc::Sender<Result<Prepared>>,
    pub(crate) told: mpsc::UnboundedReceiver<Told>,
    /// How old changes may get until a batch is full, once nobody waits for the target.
    pub(crate) age: Option<Duration>,
    pub(crate) is_ongoing: bool,
    pub(crate) cutter: Cutter,
}

impl Feeder {
    pub(crate) async fn run(mut self) {
        if let Err(error) = self.feed().await {
            // Nobody to tell if the target's side is gone.
            let _ = self.batches.send(Err(error)).await;
        }
    }

    async fn feed(&mut self) -> Result<()> {
        let sender = self.batches.clone();
        let mut batch = Batch { complete: true, ..Batch::default() };
        let (mut is_last, mut is_sent, mut begun) = (false, false, None);
        while !is_sent {
            // Without a position nothing can be made durable: what stands between transactions
            // waits for the next one.
            let has_some = batch.position.is_some() || (!batch.is_empty() && !batch.complete);
            let is_full = batch.bytes() >= self.batch_bytes;
            if batch.changes_nothing() {
                begun = None;
            } else {
                begun.get_or_insert_with(Instant::now);
            }
            let held_until = self.held_until(&batch, begun);
            let may_send = has_some && (batch.complete || is_full) && held_until.is_none();
            // A target that waits gets what there is, but not crumbs of what flows.
            let is_enough = batch.bytes() >= self.batch_bytes / 8;
            tokio::select! {
                biased;
                told = self.told.recv() => match told {
                    Some(told) => self.told(told).await?,
                    None => return Ok(()),
                },
                permit = sender.reserve(), if may_send && is_enough => {
                    let Ok(permit) = permit else { return Ok(()) };
                    let ready = self.cutter.cut(&mut batch);
                    is_sent = is_last && batch.is_empty();
                    permit.send(Ok(self.prepare(ready, is_sent)?));
                }
                event = self.reader.next(), if !is_full && !is_last => match event {
                    Some(event) => is_last = self.take(event?, &mut batch)?,
                    None => return Ok(()),
                },
                () = sleep_until(held_until.unwrap_or_else(Instant::now)),
                    if held_until.is_some() => {}
                // The last one says so, whether there is anything in it or not.
                permit = sender.reserve(), if may_send || is_last => {
                    let Ok(permit) = permit else { return Ok(()) };
                    let ready = self.cutter.cut(&mut batch);
                    is_sent = is_last && batch.is_empty();
                    permit.send(Ok(self.prepare(ready, is_sent)?));
                }
            }
        }
        Ok(())
    }

    /// Until when the target had rather have no batch, unless it grows.
    fn held_until(&self, batch: &Batch, begun: Option<Instant>) -> Option<Instant> {
        let until = begun? + self.age.filter(|_| self.is_ongoing)?;
        let is_small = batch.bytes() < self.batch_bytes;
        (is_small && batch.complete && until > Instant::now()).then_some(until)
    }

    fn prepare(&self, batch: Batch, is_last: bool) -> Result<Prepared> {
        let steps = self.router.is_joined().then(|| net(&batch)).transpose()?;
        Ok(Prepared { batch, steps, is_last, waiting: self.reader.status() })
    }

    async fn told(&mut self, told: Told) -> Result<()> {
        match told {
            Told::Done(position) => self.reader.done(&position).await,
            Told::Suspended(table) => {
                self.router.suspend(&table);
                Ok(())
            }
            Told::Ongoing => {
                self.is_ongoing = true;
                Ok(())
            }
        }
    }

    /// Adds an event to the batch; returns whether the bound is reached.
    fn take(&mut self, event: ChangeEvent, batch: &mut Batch) -> Result<bool> {
        let (event, is_last) = match event {
            ChangeEvent::Rows(rows) => {
                self.bound.check(&rows.transactions)?;
                let beyond = rows.transactions.iter().position(|t| self.bound.excludes(t));
                match beyond {
                    Some(0) => return Ok(true),
                    Some(at) => (ChangeEvent::Rows(split_rows(&rows, at).0), true),
                    None => (ChangeEvent::Rows(rows), false),
                }
            }
            ChangeEvent::Truncate { transaction, .. }
            | ChangeEvent::Dropped { transaction: Some(transaction), .. }
            | ChangeEvent::Schema { altered: Some(transaction), .. }
                if self.bound.excludes(&transaction) =>
            {
                return Ok(true);
            }
            ChangeEvent::Idle { position } => {
                let reached = self.bound.order.is_some_and(|order| position.order >= order);
                batch.position = Some(position);
                return Ok(reached);
            }
            event => (event, false),
        };
        match &event {
            ChangeEvent::Rows(ChangeRows { transactions, .. }) => {
                if let Some(last) = transactions.iter().rfind(|t| t.complete) {
                    batch.position = Some(last.position.clone());
                    batch.committed_at = last.committed_at.or(batch.committed_at);
                }
                batch.complete = transactions.last().is_none_or(|last| last.complete);
            }
            ChangeEvent::Truncate { .. }
            | ChangeEvent::Dropped { transaction: Some(_), .. }
            | ChangeEvent::Schema { altered: Some(_), .. } => batch.complete = false,
            _ => {}
        }
        batch.items.extend(self.router.route(event)?);
        Ok(is_last)
    }
}

/// What a batch comes to.
pub(crate) fn net(batch: &Batch) -> Result<Vec<Prepare>> {
    let mut steps = Vec::new();
    let mut gathered = NetChanges::default();
    let flush = |gathered: &mut NetChanges, steps: &mut Vec<Prepare>| -> Result<()> {
        let net = std::mem::take(gathered).into_steps()?;
        steps.extend(net.into_iter().map(Prepare::Step));
        Ok(())
    };
    for item in &batch.items {
        match item {
            Item::Rows(rows) => {
                for changes in &rows.batches {
                    gathered.add(changes.clone())?;
                }
            }
            Item::Step(step) => {
                flush(&mut gathered, &mut steps)?;
                steps.push(Prepare::Step(step.clone()));
            }
            Item::Note(note) => {
                flush(&mut gathered, &mut steps)?;
                steps.push(Prepare::Note(note.clone()));
            }
        }
    }
    flush(&mut gathered, &mut steps)?;
    Ok(steps)
}
