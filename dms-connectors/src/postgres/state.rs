//! What a target remembers of tasks, in tables of its own.

use std::collections::BTreeMap;

use dms_core::endpoint::{Partition, Receipt, Run, TableProgress, TaskProgress};
use dms_core::position::Position;
use dms_core::schema::TableName;
use dms_core::{Error, Result};
use tokio_postgres::{Client, GenericClient};

use super::error::convert;
use crate::control::{corrupt, from_json, to_json};
use crate::sql::quote;

/// Every table of ours; a source leaves them out.
pub(super) const CONTROL_TABLES: &[&str] =
    &["dms_status", "dms_tables", "dms_partitions", "dms_dropped"];

const DOING: &str = "the record of progress in the target cannot be kept";

/// The control tables of a target.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Their schema, quoted.
    schema: String,
}

impl State {
    pub(super) fn new(schema: &str) -> Self {
        Self { schema: quote(schema) }
    }

    /// The schema, quoted.
    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// `dms_status`: the newest epoch of each task. `dms_tables`: the load of each table.
    /// `dms_partitions`: one row a loaded partition, written in the transaction of its rows.
    /// `dms_dropped`: what was dropped for a load and has to be built again.
    async fn create(&self, client: &Client) -> Result<()> {
        let schema = &self.schema;
        // Two tasks may begin at once, and IF NOT EXISTS alone would let one of them fail.
        let sql = format!(
            "BEGIN; SELECT pg_catalog.pg_advisory_xact_lock(7234017283807667300);
            CREATE SCHEMA IF NOT EXISTS {schema};
            CREATE TABLE IF NOT EXISTS {schema}.dms_status (
                task text NOT NULL PRIMARY KEY, epoch bigint NOT NULL,
                begun_at timestamptz NOT NULL DEFAULT now());
            CREATE TABLE IF NOT EXISTS {schema}.dms_tables (
                task text NOT NULL, table_schema text NOT NULL, table_name text NOT NULL,
                partitions text NOT NULL, position text, finished_at timestamptz,
                PRIMARY KEY (task, table_schema, table_name));
            CREATE TABLE IF NOT EXISTS {schema}.dms_partitions (
                task text NOT NULL, table_schema text NOT NULL, table_name text NOT NULL,
                partition bigint NOT NULL, rows bigint NOT NULL, receipt text NOT NULL,
                committed_at timestamptz NOT NULL DEFAULT now(),
                PRIMARY KEY (task, table_schema, table_name, partition));
            CREATE TABLE IF NOT EXISTS {schema}.dms_dropped (
                task text NOT NULL, kind text NOT NULL, table_schema text NOT NULL,
                table_name text NOT NULL, name text NOT NULL, definition text NOT NULL,
                other_schema text NOT NULL, other_name text NOT NULL,
                PRIMARY KEY (task, table_schema, table_name, name)); COMMIT"
        );
        let exists = format!(
            "SELECT pg_catalog.to_regclass('{}') IS NOT NULL",
            format!("{schema}.dms_dropped").replace('\'', "''")
        );
        let row = client.query_one(&exists, &[]).await.map_err(failed)?;
        // A role without the right to make a schema may use tables that are there.
        if row.get(0) { Ok(()) } else { client.batch_execute(&sql).await.map_err(failed) }
    }

    /// Claims the task and reads what is there of it.
    pub(super) async fn begin(&self, client: &mut Client, task: &str) -> Result<TaskProgress> {
        self.create(client).await?;
        let schema = &self.schema;
        let transaction = client.transaction().await.map_err(failed)?;
        let row = transaction
            .query_one(
                &format!(
                    "INSERT INTO {schema}.dms_status AS s (task, epoch) VALUES ($1, 1) \
                     ON CONFLICT (task) DO UPDATE SET epoch = s.epoch + 1, begun_at = now() \
                     RETURNING epoch"
                ),
                &[&task],
            )
            .await
            .map_err(failed)?;
        let epoch = u64::try_from(row.get::<_, i64>(0))
            .map_err(|_| corrupt("dms_status", "a negative epoch"))?;
        let mut tables = BTreeMap::new();
        let rows = transaction
            .query(
                &format!(
                    "SELECT table_schema, table_name, partitions, position, \
                     finished_at IS NOT NULL FROM {schema}.dms_tables WHERE task = $1"
                ),
                &[&task],
            )
            .await
            .map_err(failed)?;
        for row in rows {
            let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            let position: Option<String> = row.get(3);
            let progress = TableProgress {
                partitions: from_json(row.get(2), "dms_tables")?,
                position: position.map(|json| from_json(&json, "dms_tables")).transpose()?,
                receipts: self.receipts(&transaction, task, &name).await?,
                finished: row.get(4),
            };
            tables.insert(name, progress);
        }
        transaction.commit().await.map_err(failed)?;
        Ok(TaskProgress { run: Run { task: task.to_owned(), epoch }, tables })
    }

    async fn receipts(
        &self,
        client: &impl GenericClient,
        task: &str,
        table: &TableName,
    ) -> Result<Vec<Receipt>> {
        let sql = format!(
            "SELECT receipt FROM {}.dms_partitions \
             WHERE task = $1 AND table_schema = $2 AND table_name = $3 ORDER BY partition",
            self.schema
        );
        let rows = client.query(&sql, &[&task, &table.schema, &table.name]).await;
        let rows = rows.map_err(failed)?;
        rows.iter().map(|row| from_json(row.get(0), "dms_partitions")).collect()
    }

    /// Refuses when a newer run has claimed the task; until the transaction ends none can. Called
    /// inside every writing transaction.
    pub(super) async fn check_epoch(&self, client: &impl GenericClient, run: &Run) -> Result<()> {
        let sql = format!("SELECT epoch FROM {}.dms_status WHERE task = $1 FOR SHARE", self.schema);
        let row = client.query_opt(&sql, &[&run.task]).await.map_err(failed)?;
        let epoch = row.and_then(|row| u64::try_from(row.get::<_, i64>(0)).ok());
        if epoch == Some(run.epoch) {
            return Ok(());
        }
        Err(run.fenced())
    }

    /// Whether rows of a load of the table are there that was not finished.
    pub(super) async fn is_loaded_in_part(
        &self,
        client: &impl GenericClient,
        run: &Run,
        table: &TableName,
    ) -> Result<bool> {
        let sql = format!(
            "SELECT count(*) > 0 FROM {0}.dms_tables \
             JOIN {0}.dms_partitions USING (task, table_schema, table_name) \
             WHERE task = $1 AND table_schema = $2 AND table_name = $3 AND finished_at IS NULL \
             AND rows > 0",
            self.schema
        );
        let row = client.query_one(&sql, &[&run.task, &table.schema, &table.name]).await;
        Ok(row.map_err(failed)?.get(0))
    }

    /// Forgets an earlier load of the table and records the partitions of a new one.
    pub(super) async fn begin_table(
        &self,
        client: &impl GenericClient,
        run: &Run,
        table: &TableName,
        partitions: &[Partition],
        position: Option<&Position>,
    ) -> Result<()> {
        let schema = &self.schema;
        let sql = format!(
            "DELETE FROM {schema}.dms_partitions \
             WHERE task = $1 AND table_schema = $2 AND table_name = $3"
        );
        let key: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&run.task, &table.schema, &table.name];
        client.execute(&sql, &key).await.map_err(failed)?;
        let sql = format!(
            "INSERT INTO {schema}.dms_tables \
                 (task, table_schema, table_name, partitions, position) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (task, table_schema, table_name) \
             DO UPDATE SET partitions = excluded.partitions, position = excluded.position, \
                 finished_at = NULL"
        );
        let position = position.map(to_json).transpose()?;
        let partitions = to_json(&partitions)?;
        client
            .execute(&sql, &[&run.task, &table.schema, &table.name, &partitions, &position])
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// The receipt of a partition that is there already.
    pub(super) async fn receipt(
        &self,
        client: &impl GenericClient,
        run: &Run,
        table: &TableName,
        partition: u32,
    ) -> Result<Option<Receipt>> {
        let sql = format!(
            "SELECT receipt FROM {}.dms_partitions WHERE task = $1 AND table_schema = $2 \
             AND table_name = $3 AND partition = $4",
            self.schema
        );
        let partition = i64::from(partition);
        let row = client
            .query_opt(&sql, &[&run.task, &table.schema, &table.name, &partition])
            .await
            .map_err(failed)?;
        row.map(|row| from_json(row.get(0), "dms_partitions")).transpose()
    }

    /// Records a partition; belongs into the transaction of its rows.
    pub(super) async fn add_receipt(
        &self,
        client: &impl GenericClient,
        run: &Run,
        table: &TableName,
        receipt: &Receipt,
    ) -> Result<()> {
        let sql = format!(
            "INSERT INTO {}.dms_partitions \
                 (task, table_schema, table_name, partition, rows, receipt) \
             VALUES ($1, $2, $3, $4, $5, $6)",
            self.schema
        );
        let rows = i64::try_from(receipt.rows).unwrap_or(i64::MAX);
        let (partition, json) = (i64::from(receipt.partition), to_json(receipt)?);
        client
            .execute(&sql, &[&run.task, &table.schema, &table.name, &partition, &rows, &json])
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// Records that every partition of the table is there, and returns how many rows that are;
    /// refuses while one is missing.
    pub(super) async fn finish_table(
        &self,
        client: &impl GenericClient,
        run: &Run,
        table: &TableName,
    ) -> Result<u64> {
        let sql = format!(
            "UPDATE {}.dms_tables SET finished_at = now() \
             WHERE task = $1 AND table_schema = $2 AND table_name = $3 RETURNING partitions",
            self.schema
        );
        let row = client.query_opt(&sql, &[&run.task, &table.schema, &table.name]).await;
        let Some(row) = row.map_err(failed)? else {
            return Err(Error::schema("the table was not prepared"));
        };
        let planned: Vec<Partition> = from_json(row.get(0), "dms_tables")?;
        let held = self.receipts(client, &run.task, table).await?;
        Receipt::check_complete(&planned, &held)?;
        Ok(held.iter().map(|receipt| receipt.rows).sum())
    }
}

fn failed(error: tokio_postgres::Error) -> Error {
    convert(error, DOING)
}
