//! A connection that is kept over many transactions, with its statements and what it knows of the
//! target's tables.

use std::collections::HashMap;
use std::sync::Arc;

use dms_core::Result;
use dms_core::schema::TableName;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

use super::columns::{self, TargetTable};
use super::pipeline::Pipeline;
use crate::postgres::connection::connect;
use crate::postgres::error::convert;
use crate::postgres::settings::PostgresSettings;

/// How many statements a connection keeps prepared.
const STATEMENTS_MAX: usize = 256;

/// Rows are found by the index of their key, whatever the planner believes of the table's size: a
/// plan is made once and the table grows.
const SESSION: &str = "SET enable_seqscan = off; SET enable_mergejoin = off; \
    SELECT pg_catalog.set_config(s.name, v.value, false) FROM pg_catalog.pg_settings s \
    JOIN (VALUES ('jit', 'off'), ('plan_cache_mode', 'force_generic_plan')) v(name, value) \
        USING (name)";

pub(in crate::postgres) struct Session {
    pub(super) client: Arc<Client>,
    /// Whether triggers and foreign keys of the target do not fire.
    pub(super) is_replica: bool,
    /// Whether the transaction before is one that others follow at once.
    pub(super) is_followed: bool,
    statements: HashMap<String, (Statement, u64)>,
    used: u64,
    tables: HashMap<TableName, Arc<TargetTable>>,
    /// How many tables had been made anew when it knew of none.
    prepared: u64,
}

impl Session {
    pub(super) async fn open(settings: &PostgresSettings) -> Result<Self> {
        let failed = |error| convert(error, "changes cannot be applied");
        let client = connect(settings).await?;
        client.batch_execute(SESSION).await.map_err(failed)?;
        let role = client.batch_execute("SET session_replication_role = replica").await;
        let is_replica = match role {
            Ok(()) => true,
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                tracing::warn!(
                    target = %settings.info(),
                    "the role may not set session_replication_role: triggers and foreign keys of \
                     the target's tables act on changes; GRANT SET ON PARAMETER (PostgreSQL 15) or \
                     drop them"
                );
                false
            }
            Err(error) => return Err(failed(error)),
        };
        let (statements, tables) = (HashMap::new(), HashMap::new());
        Ok(Self {
            client: Arc::new(client),
            is_replica,
            is_followed: false,
            statements,
            used: 0,
            tables,
            prepared: 0,
        })
    }

    /// A statement, prepared once. What is on its way is waited for before one is prepared.
    pub(super) async fn statement(
        &mut self,
        sql: &str,
        pipeline: &mut Pipeline,
    ) -> Result<Statement> {
        self.used += 1;
        if let Some((statement, used)) = self.statements.get_mut(sql) {
            *used = self.used;
            return Ok(statement.clone());
        }
        pipeline.settle().await?;
        let prepared = self.client.prepare(sql).await;
        let prepared = prepared.map_err(|error| convert(error, "changes cannot be applied"))?;
        if self.statements.len() >= STATEMENTS_MAX {
            let oldest = self.statements.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(sql, _)| sql.clone()) {
                self.statements.remove(&oldest);
            }
        }
        self.statements.insert(sql.to_owned(), (prepared.clone(), self.used));
        Ok(prepared)
    }

    /// A table of the target, read once.
    pub(super) async fn table(
        &mut self,
        table: &TableName,
        pipeline: &mut Pipeline,
    ) -> Result<Arc<TargetTable>> {
        if let Some(table) = self.tables.get(table) {
            return Ok(Arc::clone(table));
        }
        pipeline.settle().await?;
        let read = Arc::new(columns::read(&self.client, table).await?);
        if self.is_replica {
            read.check_keys()?;
        }
        self.tables.insert(table.clone(), Arc::clone(&read));
        Ok(read)
    }

    /// Forgets what it knows of tables if one was made anew meanwhile.
    pub(super) fn forget_tables_before(&mut self, prepared: u64) {
        if self.prepared != prepared {
            self.prepared = prepared;
            self.forget_tables();
        }
    }

    /// Forgets what it knows of tables, which become others.
    pub(super) fn forget_tables(&mut self) {
        self.tables.clear();
    }
}
