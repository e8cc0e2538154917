//! A transaction in which changes are applied.

use std::sync::Arc;

use async_trait::async_trait;
use dms_core::endpoint::{Apply, ApplyException, Note, Run, Step};
use dms_core::position::Position;
use dms_core::schema::TableName;
use dms_core::{Error, ErrorKind, Result, fault};
use tokio_postgres::types::ToSql;

use super::pipeline::Pipeline;
use super::session::Session;
use super::steps::Rows;
use super::{Kept, alter, failed, record};
use crate::control::to_json;
use crate::postgres::connection::CancelOnDrop;
use crate::postgres::error::convert;
use crate::postgres::state::State;
use crate::postgres::target::PostgresTarget;

/// A transaction. Its connection is given back when it is committed; else it closes, which ends the
/// transaction.
pub(super) struct PostgresApply {
    statement: CancelOnDrop,
    session: Session,
    pipeline: Pipeline,
    kept: Arc<Kept>,
    state: State,
    run: Run,
    /// Whether it is good for nothing but to be dropped.
    failed: bool,
}

const FAILED: &str = "the transaction failed before; begin another";

impl PostgresApply {
    pub(super) fn new(target: &PostgresTarget, mut session: Session, run: &Run) -> Self {
        session.forget_tables_before(target.kept.prepared());
        Self {
            statement: CancelOnDrop::new(&session.client, &target.settings),
            session,
            pipeline: Pipeline::default(),
            kept: Arc::clone(&target.kept),
            state: target.state.clone(),
            run: run.clone(),
            failed: false,
        }
    }

    /// Begins the transaction, if the run is not fenced.
    pub(super) async fn begin(&mut self) -> Result<()> {
        let sql = self.state.epoch_query();
        let epoch = self.session.statement(&sql, &mut self.pipeline).await?;
        self.command("BEGIN").await?;
        let (client, run) = (Arc::clone(&self.session.client), self.run.clone());
        let answer = async move {
            let row = client.query_opt(&epoch, &[&run.task]).await.map_err(failed)?;
            State::is_newest(row.as_ref(), &run)
        };
        self.pipeline.send(sql.len(), answer).await?;
        // In a row of transactions the answer is taken with those of the steps.
        if self.session.is_followed { Ok(()) } else { self.pipeline.settle().await }
    }

    /// Sends a statement without parameters.
    async fn command(&mut self, sql: &'static str) -> Result<()> {
        let client = Arc::clone(&self.session.client);
        let answer = async move { client.batch_execute(sql).await.map_err(failed) };
        self.pipeline.send(sql.len(), answer).await
    }

    /// Sends a statement on a control table.
    async fn keep(
        &mut self,
        sql: &str,
        values: Vec<Box<dyn ToSql + Send + Sync>>,
        bytes: usize,
    ) -> Result<()> {
        let statement = self.session.statement(sql, &mut self.pipeline).await?;
        let client = Arc::clone(&self.session.client);
        let answer = async move {
            let values: Vec<&(dyn ToSql + Sync)> =
                values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
            client.execute(&statement, &values).await.map_err(failed).map(|_| ())
        };
        self.pipeline.send(bytes, answer).await
    }

    async fn run(&mut self, step: &Step) -> Result<()> {
        let (session, pipeline) = (&mut self.session, &mut self.pipeline);
        let done = match step {
            Step::Delete { rows, .. }
            | Step::Update { rows, .. }
            | Step::Insert { rows, .. }
            | Step::Upsert { rows, .. }
                if rows.num_rows() == 0 =>
            {
                Ok(())
            }
            Step::Delete { table, identity, rows, strict } => {
                Rows { session, pipeline, table }.delete(identity, rows, *strict).await
            }
            Step::Update { table, identity, set, rows } => {
                Rows { session, pipeline, table }.update(identity, set, rows).await
            }
            Step::Insert { table, rows } => Rows { session, pipeline, table }.insert(rows).await,
            Step::Upsert { table, identity, rows } => {
                Rows { session, pipeline, table }.upsert(identity, rows).await
            }
            Step::Log(_) => Err(Error::unexpected("PostgreSQL takes net changes, not a log")),
            of_table => Box::pin(self.change_table(of_table)).await,
        };
        done.map_err(|error| match table_of(step) {
            Some(table) if error.context_value("table").is_none() => error.context("table", table),
            _ => error,
        })
    }

    async fn change_table(&mut self, step: &Step) -> Result<()> {
        self.pipeline.settle().await?;
        self.session.forget_tables();
        let client = &self.session.client;
        match step {
            Step::Truncate { tables } => alter::truncate(client, tables).await,
            Step::Alter { from, to, alterations } => {
                alter::alter(client, from, to, alterations).await
            }
            Step::Create { table } => alter::create(client, table).await,
            Step::Drop { table } => alter::drop_table(client, table).await,
            _ => Err(Error::unexpected("PostgreSQL's connector does not know the step")),
        }
    }

    /// Does a step so that the transaction stays what it was if the step fails.
    async fn run_guarded(&mut self, step: &Step) -> Result<()> {
        self.settle().await?;
        self.command("SAVEPOINT dms_step").await.inspect_err(|_| self.failed = true)?;
        let sent = self.run(step).await;
        let settled = self.pipeline.settle().await;
        let Err(error) = sent.and(settled) else {
            let released = self.command("RELEASE SAVEPOINT dms_step").await;
            self.failed = released.is_err();
            return released;
        };
        self.session.forget_tables();
        let back = self.command("ROLLBACK TO SAVEPOINT dms_step; RELEASE SAVEPOINT dms_step").await;
        self.failed = back.is_err();
        self.settle().await?;
        Err(error)
    }

    async fn settle(&mut self) -> Result<()> {
        self.pipeline.settle().await.inspect_err(|_| self.failed = true)
    }
}

#[async_trait]
impl Apply for PostgresApply {
    async fn step(&mut self, step: &Step, guarded: bool) -> Result<()> {
        if self.failed {
            return Err(Error::unexpected(FAILED));
        }
        fault::point("postgres-apply-step")?;
        if guarded {
            return Box::pin(self.run_guarded(step)).await;
        }
        let done = self.run(step).await;
        self.failed = done.is_err();
        self.pipeline.drive();
        done
    }

    async fn note(&mut self, note: &Note) -> Result<()> {
        if self.failed {
            return Err(Error::unexpected(FAILED));
        }
        let schema = self.state.schema().to_owned();
        let noted = match note {
            Note::Shape(table) => {
                self.remember(&table.name, "shape", to_json(table.as_ref())?).await
            }
            Note::Suspended { table, reason } => {
                self.remember(table, "suspended", reason.replace('\0', "")).await
            }
            Note::Exception(exception) => {
                let sql = format!(
                    "INSERT INTO {schema}.dms_apply_exceptions (task, table_schema, table_name, \
                     position, operation, key, error) VALUES ($1, $2, $3, $4, $5, $6, $7)"
                );
                let ApplyException { table, position, operation, key, error } = exception;
                let texts = [
                    &self.run.task,
                    &table.schema,
                    &table.name,
                    &to_json(position)?,
                    operation,
                    key,
                    error,
                ];
                // The server's texts have no such character.
                let texts = texts.map(|text| text.replace('\0', ""));
                let bytes = texts.iter().map(String::len).sum();
                let values = texts.into_iter().map(|text| Box::new(text) as Box<_>).collect();
                self.keep(&sql, values, bytes).await
            }
            other => Err(Error::unexpected(format!("the note {other:?} is not known"))),
        };
        noted.inspect_err(|_| self.failed = true)
    }

    async fn commit(self: Box<Self>, position: &Position, committed_at: Option<i64>) -> Result<()> {
        self.end(position, committed_at, false).await
    }

    /// The server does not wait for its disk then. What a commit that waits finds in the log before
    /// itself it writes too
    /// (<https://www.postgresql.org/docs/current/wal-async-commit.html>).
    async fn commit_soon(
        self: Box<Self>,
        position: &Position,
        committed_at: Option<i64>,
    ) -> Result<()> {
        self.end(position, committed_at, true).await
    }
}

impl PostgresApply {
    /// Commits, with the position.
    async fn end(
        mut self: Box<Self>,
        position: &Position,
        committed_at: Option<i64>,
        is_followed: bool,
    ) -> Result<()> {
        if self.failed {
            return Err(Error::unexpected(FAILED));
        }
        let sql = format!(
            "INSERT INTO {}.dms_positions (task, position, committed_at) VALUES ($1, $2, $3) \
             ON CONFLICT (task) DO UPDATE SET position = excluded.position, \
                 committed_at = excluded.committed_at, applied_at = now()",
            self.state.schema()
        );
        let position = to_json(position)?;
        let bytes = position.len();
        let committed_at = committed_at.and_then(record::time);
        let values: Vec<Box<dyn ToSql + Send + Sync>> =
            vec![Box::new(self.run.task.clone()), Box::new(position), Box::new(committed_at)];
        self.keep(&sql, values, bytes).await?;
        // COMMIT of a transaction that failed would be no error.
        self.settle().await?;
        fault::point("postgres-apply-before-commit")?;
        let sql = if is_followed { "SET LOCAL synchronous_commit = off; COMMIT" } else { "COMMIT" };
        self.session.client.batch_execute(sql).await.map_err(|error| {
            if error.as_db_error().is_some() {
                return convert(error, "changes cannot be committed");
            }
            let message = "the connection broke at the commit: whether changes were applied is not \
                known";
            Error::new(ErrorKind::Connection, message).transient().with_source(error)
        })?;
        let Self { statement, mut session, kept, .. } = *self;
        session.is_followed = is_followed;
        statement.done();
        kept.put(session);
        fault::point("postgres-apply-committed")
    }

    /// Remembers something about a table.
    async fn remember(&mut self, table: &TableName, what: &str, text: String) -> Result<()> {
        let sql = format!(
            "INSERT INTO {}.dms_replicated (task, table_schema, table_name, {what}) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (task, table_schema, table_name) \
             DO UPDATE SET {what} = excluded.{what}",
            self.state.schema()
        );
        let bytes = text.len();
        let texts = [self.run.task.clone(), table.schema.clone(), table.name.clone(), text];
        let values = texts.into_iter().map(|text| Box::new(text) as Box<_>).collect();
        self.keep(&sql, values, bytes).await
    }
}

fn table_of(step: &Step) -> Option<&TableName> {
    match step {
        Step::Delete { table, .. }
        | Step::Update { table, .. }
        | Step::Insert { table, .. }
        | Step::Upsert { table, .. }
        | Step::Create { table } => Some(&table.name),
        Step::Alter { from, .. } => Some(&from.name),
        Step::Drop { table } => Some(table),
        _ => None,
    }
}
