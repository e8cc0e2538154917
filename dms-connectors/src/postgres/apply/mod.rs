//! Changes, applied to a target: steps that each take all their rows at once, and in the same
//! transaction the position up to which the source's transactions are applied.
//!
//! Statements are sent without waiting for the answers of those before them. All answers are taken
//! before a transaction is committed, and before a step that may fail alone.

mod alter;
mod arrays;
mod columns;
mod pipeline;
mod record;
mod session;
mod sql;
mod steps;
mod transaction;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use dms_core::endpoint::{Apply, ChangeForm, ChangeTarget, ReplicationProgress, Run, TaskRecord};
use dms_core::schema::TableName;
use dms_core::{Error, ErrorKind, Result};

use super::connection::connect;
use super::error::convert;
use super::target::PostgresTarget;
use session::Session;
use transaction::PostgresApply;

/// What is kept between two transactions.
#[derive(Default)]
pub(super) struct Kept {
    /// The connection that waits for the next.
    session: Mutex<Option<Session>>,
    /// How often tables were made anew meanwhile.
    prepared: AtomicU64,
}

impl Kept {
    /// A table became another.
    pub(super) fn table_prepared(&self) {
        self.prepared.fetch_add(1, Ordering::Relaxed);
    }

    fn prepared(&self) -> u64 {
        self.prepared.load(Ordering::Relaxed)
    }

    fn take(&self) -> Option<Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, session: Session) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }
}

#[async_trait]
impl ChangeTarget for PostgresTarget {
    fn change_form(&self) -> ChangeForm {
        ChangeForm::Net
    }

    async fn replication(&self, run: &Run) -> Result<ReplicationProgress> {
        let mut client = connect(&self.settings).await?;
        let transaction = client.transaction().await.map_err(failed)?;
        self.state.check_epoch(&transaction, run).await?;
        let progress = self.state.replication(&transaction, &run.task).await?;
        // The lock on the epoch makes this a commit that waits for the disk, and with it for
        // whatever was read here.
        transaction.commit().await.map_err(failed)?;
        Ok(progress)
    }

    async fn begin_apply(&self, run: &Run) -> Result<Box<dyn Apply>> {
        if let Some(session) = self.kept.take() {
            let mut apply = PostgresApply::new(self, session, run);
            match apply.begin().await {
                Ok(()) => return Ok(Box::new(apply)),
                // It broke since the transaction before, and nothing was asked of it.
                Err(error) if error.kind() == ErrorKind::Connection => {}
                Err(error) => return Err(error),
            }
        }
        let session = Box::pin(Session::open(&self.settings)).await?;
        let mut apply = PostgresApply::new(self, session, run);
        apply.begin().await?;
        Ok(Box::new(apply))
    }

    async fn look_up(&self, task: &str) -> Result<Option<TaskRecord>> {
        let mut client = connect(&self.settings).await?;
        self.state.look_up(&mut client, task).await
    }

    async fn forget(&self, run: &Run, tables: Option<&[TableName]>) -> Result<()> {
        let mut client = connect(&self.settings).await?;
        let transaction = client.transaction().await.map_err(failed)?;
        self.state.check_epoch(&transaction, run).await?;
        self.state.forget(&transaction, run, tables).await?;
        transaction.commit().await.map_err(failed)
    }
}

fn failed(error: tokio_postgres::Error) -> Error {
    convert(error, "changes cannot be applied")
}
