//! Changes applied to a SQLite file, in one transaction with the position that they reach.

mod alter;
mod moved;
mod replicated;
mod rows;
mod whole;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use dms_core::endpoint::{
    Apply, ChangeForm, ChangeTarget, Note, ReplicationProgress, Run, Step, TaskRecord,
};
use dms_core::position::Position;
use dms_core::schema::TableName;
use dms_core::{Error, ErrorKind, Result, fault};
use rusqlite::Connection;
use tokio::sync::OwnedMutexGuard;

use super::error::convert;
use super::snapshot::blocking;
use super::state;
use super::target::{SqliteTarget, Writer};

#[async_trait]
impl ChangeTarget for SqliteTarget {
    fn change_form(&self) -> ChangeForm {
        ChangeForm::Net
    }

    async fn replication(&self, run: &Run) -> Result<ReplicationProgress> {
        let _turn = self.turn.lock().await;
        let run = run.clone();
        self.writer
            .run(move |connection| {
                state::check_epoch(connection, &run)?;
                replicated::progress(connection, &run.task)
            })
            .await
    }

    async fn begin_apply(&self, run: &Run) -> Result<Box<dyn Apply>> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let apply = SqliteApply {
            run: run.clone(),
            writer: self.writer.clone(),
            turn: Some(turn),
            wanted: Arc::new(AtomicBool::new(true)),
            whole: true,
        };
        let run = run.clone();
        apply.on_connection(move |connection| begin(connection, &run)).await?;
        Ok(Box::new(apply))
    }

    async fn look_up(&self, task: &str) -> Result<Option<TaskRecord>> {
        let (settings, task) = (self.settings.clone(), task.to_owned());
        blocking(move || {
            if !settings.path.exists() {
                return Ok(None);
            }
            let connection = super::snapshot::open(&settings)?;
            replicated::look_up(&connection, &task)
        })
        .await
    }

    async fn forget(&self, run: &Run, tables: Option<&[TableName]>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let (run, tables) = (run.clone(), tables.map(<[TableName]>::to_vec));
        self.writer
            .run(move |connection| replicated::forget(connection, &run, tables.as_deref()))
            .await
    }
}

/// Claims the file's writing for the transaction; nobody else can claim the task meanwhile.
fn begin(connection: &Connection, run: &Run) -> Result<()> {
    let failed = |error| convert(error, "a transaction of changes cannot begin");
    // What is acknowledged to the source may be gone there, so a commit has to survive a power cut.
    connection.execute_batch("PRAGMA synchronous = FULL; BEGIN IMMEDIATE").map_err(failed)?;
    state::check_epoch(connection, run)
}

/// A transaction that is open on the one writing connection.
struct SqliteApply {
    run: Run,
    writer: Writer,
    /// Whose turn it is; gone when the transaction has ended.
    turn: Option<OwnedMutexGuard<()>>,
    /// Cleared when the transaction is dropped: work that was asked for before, and comes to its
    /// turn on the connection later, must not write outside of it.
    wanted: Arc<AtomicBool>,
    /// Whether every step was done in full or not at all.
    whole: bool,
}

impl SqliteApply {
    /// Runs work on the connection, unless the transaction is dropped before.
    async fn on_connection<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let wanted = Arc::clone(&self.wanted);
        let work = move |connection: &mut Connection| {
            if wanted.load(Ordering::Relaxed) {
                work(connection)
            } else {
                Err(Error::new(ErrorKind::Stopped, "the transaction was given up"))
            }
        };
        self.writer.run(work).await
    }

    /// Runs a part of the transaction. If that fails, or nobody waits for its end, the transaction
    /// is good for nothing any more, but for a failure that left it as it was.
    async fn run(
        &mut self,
        keeps: bool,
        work: impl FnOnce(&Connection) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        if !self.whole {
            return Err(Error::unexpected(
                "a step of the transaction failed before; begin a new transaction",
            ));
        }
        self.whole = false;
        let done = self.on_connection(move |connection| {
            let done = work(connection);
            // A full disk, for one, ends the transaction.
            Ok((done, connection.is_autocommit()))
        });
        let (done, ended) = done.await?;
        self.whole = !ended && (done.is_ok() || keeps);
        match done {
            Ok(()) if ended => Err(Error::unexpected("SQLite has taken back the transaction")),
            done => done,
        }
    }
}

#[async_trait]
impl Apply for SqliteApply {
    async fn step(&mut self, step: &Step, guarded: bool) -> Result<()> {
        let step = step.clone();
        self.run(guarded, move |connection| {
            fault::point("sqlite-apply-step")?;
            rows::within(connection, guarded, || rows::step(connection, &step))
        })
        .await
    }

    async fn note(&mut self, note: &Note) -> Result<()> {
        let (note, task) = (note.clone(), self.run.task.clone());
        self.run(false, move |connection| replicated::note(connection, &task, &note)).await
    }

    async fn commit(
        mut self: Box<Self>,
        position: &Position,
        committed_at: Option<i64>,
    ) -> Result<()> {
        let (position, task) = (position.clone(), self.run.task.clone());
        self.run(false, move |connection| {
            replicated::set_position(connection, &task, &position, committed_at)?;
            fault::point("sqlite-apply-before-commit")
        })
        .await?;
        let committed = self.on_connection(move |connection| {
            connection
                .execute_batch("COMMIT")
                .map_err(|error| convert(error, "changes cannot be committed"))?;
            fault::point("sqlite-apply-committed")
        });
        committed.await?;
        self.turn = None;
        Ok(())
    }
}

impl Drop for SqliteApply {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        let (writer, wanted) = (self.writer.clone(), Arc::clone(&self.wanted));
        // A step that nobody waits for any more may be under way, and a journal may be long.
        let work = move || {
            writer.roll_back(|| wanted.store(false, Ordering::Relaxed));
            drop(turn);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            Err(_) => work(),
        }
    }
}
