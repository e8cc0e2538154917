//! A commit that is being gathered.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use dms_core::endpoint::{Apply, ApplyException, Note, Run, Step};
use dms_core::position::Position;
use dms_core::schema::TableName;
use dms_core::{Error, Result};

use super::file::Gathering;
use super::manifest::{Act, Commit, LoggedTable, Noted, Notes};
use super::ready::{Ready, ready};
use super::transactions::{Merged, Transactions, merge};
use super::{Shared, chain, notes};
use crate::manifest::VERSION;
use crate::settings::FolderSettings;
use crate::store::FolderStore;
use crate::{layout, upload};

/// About how many bytes of rows are gathered over all tables before the largest file is ended: what
/// a commit holds in memory at the most, besides one step.
const GATHERED_BYTES: usize = 256 << 20;

/// A commit that is being gathered: files are there before it, and nobody knows of them.
pub(crate) struct FolderApply {
    pub(crate) store: FolderStore,
    pub(crate) settings: FolderSettings,
    pub(crate) shared: Arc<Shared>,
    pub(crate) run: Run,
    /// The newest commit, behind which this one comes.
    pub(crate) before: Option<Commit>,
    pub(crate) open: BTreeMap<TableName, Gathering>,
    pub(crate) parts: BTreeMap<TableName, u32>,
    /// The file of transactions that is open, where they are preserved; then no table has its own.
    pub(crate) transactions: Option<Transactions>,
    pub(crate) transaction_parts: u32,
    /// The time in the name of the newest file of transactions.
    pub(crate) named_up_to: Option<i64>,
    pub(crate) acts: Vec<Act>,
    pub(crate) notes: Vec<Noted>,
    pub(crate) exceptions: Vec<ApplyException>,
    /// Whether a step has failed in the middle: a commit would not hold all of it.
    pub(crate) broken: bool,
}

impl FolderApply {
    async fn load_of(&self, table: &TableName) -> Result<u64> {
        self.shared.load_of(&self.store, &self.run, table).await
    }

    async fn log(&mut self, ready: Vec<Ready>) -> Result<()> {
        for ready in ready {
            let name = ready.table.name.clone();
            let load = self.load_of(&name).await?;
            if self.open.get(&name).is_some_and(|file| !file.takes(&ready, load)) {
                self.end_file(&name).await?;
            }
            let mut file = match self.open.remove(&name) {
                Some(file) => file,
                None => Gathering::begin(&ready, load, &self.settings)?,
            };
            file.write(ready).await?;
            let full = file.held as u64 >= self.settings.max_file_size_bytes;
            self.open.insert(name.clone(), file);
            if full {
                self.end_file(&name).await?;
            }
            self.bound().await?;
        }
        Ok(())
    }

    async fn log_transactions(&mut self, merged: Merged) -> Result<()> {
        let mut tables = Vec::with_capacity(merged.tables.len());
        for table in &merged.tables {
            let load = self.load_of(&table.name).await?;
            tables.push(LoggedTable { load, table: table.clone() });
        }
        if self.transactions.as_ref().is_some_and(|file| !file.takes(&tables)) {
            self.end_transactions().await?;
        }
        let mut file = self.transactions.take().unwrap_or_else(|| Transactions::begin(&merged));
        let whole = merged.whole;
        file.add(merged, tables);
        // A transaction stands in one file, unless it is larger than what is held in memory.
        let full = whole && file.held as u64 >= self.settings.max_file_size_bytes;
        let full = full || file.held >= GATHERED_BYTES;
        self.transactions = Some(file);
        if full { self.end_transactions().await } else { Ok(()) }
    }

    async fn end_transactions(&mut self) -> Result<()> {
        let Some(file) = self.transactions.take() else { return Ok(()) };
        self.transaction_parts += 1;
        let time = file.time(self.named_up_to);
        self.named_up_to = Some(time);
        let part = self.transaction_parts;
        let file = file.finish(&self.store, &self.settings, time, part).await?;
        self.acts.push(Act::Transactions(file));
        Ok(())
    }

    fn check_whole(&self) -> Result<()> {
        if self.broken {
            return Err(Error::unexpected("an earlier step failed; begin again"));
        }
        Ok(())
    }

    async fn act(&mut self, step: &Step) -> Result<()> {
        self.end_transactions().await?;
        match step {
            Step::Truncate { tables } => {
                for table in tables {
                    self.end_file(table).await?;
                    let load = self.load_of(table).await?;
                    self.acts.push(Act::Truncate { table: table.clone(), load });
                }
                Ok(())
            }
            Step::Alter { from, to, alterations } => {
                self.end_file(&from.name).await?;
                let load = self.load_of(&to.name).await?;
                let (table, alterations) = (to.as_ref().clone(), alterations.clone());
                self.acts.push(Act::Alter { table, load, alterations });
                Ok(())
            }
            Step::Create { table } => {
                let load = self.load_of(&table.name).await?;
                self.acts.push(Act::Create { table: table.as_ref().clone(), load });
                Ok(())
            }
            Step::Drop { table } => {
                self.end_file(table).await?;
                let load = self.load_of(table).await?;
                self.acts.push(Act::Drop { table: table.clone(), load });
                Ok(())
            }
            _ => Err(Error::unexpected("files take changes in their order, not what they come to")),
        }
    }

    /// Ends the largest files until what is gathered stays below its bound.
    async fn bound(&mut self) -> Result<()> {
        while self.open.values().map(|file| file.held).sum::<usize>() > GATHERED_BYTES {
            let largest = self.open.iter().max_by_key(|(_, file)| file.held);
            let Some(name) = largest.map(|(name, _)| name.clone()) else { break };
            self.end_file(&name).await?;
        }
        Ok(())
    }

    async fn end_file(&mut self, table: &TableName) -> Result<()> {
        let Some(file) = self.open.remove(table) else { return Ok(()) };
        let part = self.parts.entry(table.clone()).or_default();
        *part += 1;
        let file = file.finish(&self.store, &self.settings, *part).await?;
        self.acts.push(Act::Rows(file));
        Ok(())
    }

    /// What is noted of a table in this commit.
    async fn noted(&mut self, table: &TableName) -> Result<&mut Noted> {
        let load = self.load_of(table).await?;
        let at = match self.notes.iter().position(|noted| noted.table == *table) {
            Some(at) => at,
            None => {
                let held = notes(&self.store, self.before.as_ref()).await?;
                let held = held.into_iter().find(|n| n.table == *table && n.load == load);
                self.notes.push(held.unwrap_or_else(|| Noted {
                    table: table.clone(),
                    load,
                    noted: dms_core::endpoint::ReplicatedTable::default(),
                }));
                self.notes.len() - 1
            }
        };
        self.notes.get_mut(at).ok_or_else(|| Error::unexpected("a note is gone"))
    }

    /// Writes what is noted of all tables, if this commit changes it; returns where it stands.
    async fn put_notes(&self, number: u64) -> Result<Option<String>> {
        let held = self.before.as_ref().and_then(|commit| commit.notes.clone());
        if self.notes.is_empty() {
            return Ok(held);
        }
        let mut tables = notes(&self.store, self.before.as_ref()).await?;
        tables.retain(|old| self.notes.iter().all(|new| new.table != old.table));
        tables.extend(self.notes.iter().cloned());
        tables.sort_by(|a, b| a.table.cmp(&b.table));
        let notes = Notes { version: VERSION, tables };
        let json = serde_json::to_vec(&notes)
            .map_err(|error| Error::unexpected("JSON cannot be written").with_source(error))?;
        // What a commit names is never written over by another content.
        let sum = blake3::hash(&json).to_hex();
        let sum = sum.get(..16).unwrap_or_default();
        let path = layout::commit_notes(&self.store, &self.run.task, number, sum);
        self.store.put(&path, &notes, false).await?;
        Ok(Some(self.store.relative(&path)))
    }
}

#[async_trait]
impl Apply for FolderApply {
    async fn step(&mut self, step: &Step, _guarded: bool) -> Result<()> {
        self.check_whole()?;
        if let Step::Log(rows) = step {
            let (rows, settings) = (rows.clone(), self.settings.clone());
            // All of the step is seen to be good before any of it is written.
            if settings.preserve_transactions {
                let merged = upload::blocking(move || merge(&rows, &settings)).await?;
                self.broken = true;
                if let Some(merged) = merged {
                    self.log_transactions(merged).await?;
                }
            } else {
                let ready = upload::blocking(move || ready(&rows, &settings)).await?;
                self.broken = true;
                self.log(ready).await?;
            }
        } else {
            self.broken = true;
            self.act(step).await?;
        }
        self.broken = false;
        Ok(())
    }

    async fn note(&mut self, note: &Note) -> Result<()> {
        match (note, note.table()) {
            (Note::Exception(exception), _) => self.exceptions.push(exception.clone()),
            (_, Some(table)) => self.noted(table).await?.noted.take(note),
            _ => return Err(Error::unexpected("a note of a kind that folders do not keep")),
        }
        Ok(())
    }

    async fn commit(
        mut self: Box<Self>,
        position: &Position,
        committed_at: Option<i64>,
    ) -> Result<()> {
        self.check_whole()?;
        while let Some(name) = self.open.keys().next().cloned() {
            self.end_file(&name).await?;
        }
        self.end_transactions().await?;
        let before = self.before.as_ref();
        let number = before.map_or(0, |commit| commit.number) + 1;
        let commit = Commit {
            version: VERSION,
            task: self.run.task.clone(),
            epoch: self.run.epoch,
            number,
            from: before.and_then(|commit| commit.to.clone()),
            to: Some(position.clone()),
            committed_at: committed_at.or(before.and_then(|commit| commit.committed_at)),
            acts: std::mem::take(&mut self.acts),
            named_up_to: self.named_up_to,
            exceptions_total: before.map_or(0, |commit| commit.exceptions_total)
                + self.exceptions.len() as u64,
            exceptions: std::mem::take(&mut self.exceptions),
            notes: self.put_notes(number).await?,
        };
        self.shared.forget_head(&self.run).await;
        chain::put(&self.store, &self.run, &commit).await?;
        self.shared.set_head(&self.run, commit).await;
        Ok(())
    }
}
