//! What a target remembers of a task's replication, in the control tables.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dms_core::Result;
use dms_core::endpoint::{ReplicatedTable, ReplicationProgress, Run, TaskProgress, TaskRecord};
use dms_core::position::Position;
use dms_core::schema::TableName;
use tokio_postgres::{Client, GenericClient};

use crate::control::{corrupt, from_json};
use crate::postgres::state::{State, failed};

impl State {
    /// What the target holds of a task's replication.
    pub(super) async fn replication(
        &self,
        client: &impl GenericClient,
        task: &str,
    ) -> Result<ReplicationProgress> {
        let schema = self.schema();
        let sql = format!("SELECT position FROM {schema}.dms_positions WHERE task = $1");
        let row = client.query_opt(&sql, &[&task]).await.map_err(failed)?;
        let position: Option<Position> =
            row.map(|row| from_json(row.get(0), "dms_positions")).transpose()?;
        let sql = format!(
            "SELECT table_schema, table_name, shape, suspended FROM {schema}.dms_replicated \
             WHERE task = $1"
        );
        let mut tables = BTreeMap::new();
        for row in client.query(&sql, &[&task]).await.map_err(failed)? {
            let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            let shape: Option<String> = row.get(2);
            let shape = shape.map(|json| from_json(&json, "dms_replicated")).transpose()?;
            tables.insert(name, ReplicatedTable { shape, suspended: row.get(3) });
        }
        Ok(ReplicationProgress { position, tables })
    }

    /// What the target holds of a task, if it knows it. Makes nothing, not even the tables.
    pub(super) async fn look_up(
        &self,
        client: &mut Client,
        task: &str,
    ) -> Result<Option<TaskRecord>> {
        let schema = self.schema().to_owned();
        // One state of all tables, of which the newer ones may be missing.
        let view = client.build_transaction().read_only(true);
        let view = view.isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
        let view = view.start().await.map_err(failed)?;
        let exists = "SELECT pg_catalog.to_regclass($1 || '.dms_status') IS NOT NULL, \
            pg_catalog.to_regclass($1 || '.dms_apply_exceptions') IS NOT NULL";
        let row = view.query_one(exists, &[&schema]).await.map_err(failed)?;
        if !row.get::<_, bool>(0) {
            return Ok(None);
        }
        let replicates: bool = row.get(1);
        let sql = format!("SELECT epoch FROM {schema}.dms_status WHERE task = $1");
        let Some(row) = view.query_opt(&sql, &[&task]).await.map_err(failed)? else {
            return Ok(None);
        };
        let epoch = u64::try_from(row.get::<_, i64>(0))
            .map_err(|_| corrupt("dms_status", "a negative epoch"))?;
        let run = Run { task: task.to_owned(), epoch };
        let progress = TaskProgress { run, tables: self.tables(&view, task).await? };
        if !replicates {
            let replication = ReplicationProgress::default();
            return Ok(Some(TaskRecord {
                progress,
                replication,
                committed_at: None,
                exceptions: 0,
            }));
        }
        let sql = format!(
            "SELECT (SELECT committed_at FROM {schema}.dms_positions WHERE task = $1), \
             (SELECT count(*) FROM {schema}.dms_apply_exceptions WHERE task = $1)"
        );
        let row = view.query_one(&sql, &[&task]).await.map_err(failed)?;
        Ok(Some(TaskRecord {
            progress,
            replication: self.replication(&view, task).await?,
            committed_at: row.get::<_, Option<SystemTime>>(0).and_then(micros),
            exceptions: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
        }))
    }

    /// Forgets the loads of tables, or the whole task but for its epoch and for what has to be
    /// built again after a load that was broken off.
    pub(super) async fn forget(
        &self,
        client: &impl GenericClient,
        run: &Run,
        tables: Option<&[TableName]>,
    ) -> Result<()> {
        let Some(tables) = tables else {
            for control in [
                "dms_tables",
                "dms_partitions",
                "dms_positions",
                "dms_replicated",
                "dms_apply_exceptions",
            ] {
                let sql = format!("DELETE FROM {}.{control} WHERE task = $1", self.schema());
                client.execute(&sql, &[&run.task]).await.map_err(failed)?;
            }
            return Ok(());
        };
        for table in tables {
            for control in ["dms_tables", "dms_partitions", "dms_replicated"] {
                self.forget_table(client, control, run, table).await?;
            }
        }
        Ok(())
    }
}

/// Microseconds since 1970 as the client's type; `None` for a time that the server does not have.
pub(super) fn time(micros: i64) -> Option<SystemTime> {
    /// From 4300 BC to 285000 AD.
    const TIMES: std::ops::Range<i64> = -200_000_000_000_000_000..9_000_000_000_000_000_000;
    if !TIMES.contains(&micros) {
        return None;
    }
    let distance = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

fn micros(time: SystemTime) -> Option<i64> {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).ok(),
        Err(before) => i64::try_from(before.duration().as_micros()).ok().map(|micros| -micros),
    }
}
