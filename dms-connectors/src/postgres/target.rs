//! PostgreSQL as a target.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dms_core::batch::{BatchStream, batch_bytes, row_form};
use dms_core::endpoint::{
    ColumnMapping, EndpointInfo, Partition, Receipt, Run, TablePrepMode, Target, TaskProgress,
};
use dms_core::position::Position;
use dms_core::schema::TableSchema;
use dms_core::{Error, ErrorKind, Result, fault};
use futures::{SinkExt, StreamExt};
use tokio_postgres::Transaction;

use super::apply::Kept;
use super::connection::{CancelOnDrop, connect};
use super::copy::{Encoder, ROW_FORM};
use super::error::convert;
use super::obstacles;
use super::prepare::{build_keys, prepare, qualified, set_logged};
use super::sequence;
use super::settings::{ExistingIndexes, PostgresSettings};
use super::state::State;
use super::types;
use crate::control::keeps_a_part;
use crate::sql::quote_all;

/// A PostgreSQL database that is written, each partition by a connection of its own.
pub struct PostgresTarget {
    pub(super) settings: PostgresSettings,
    pub(super) state: State,
    pub(super) kept: Arc<Kept>,
}

impl fmt::Debug for PostgresTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresTarget").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl PostgresTarget {
    /// A target database; nothing is connected to yet.
    #[must_use]
    pub fn open(settings: PostgresSettings) -> Arc<Self> {
        let state = State::new(&settings.control_schema);
        Arc::new(Self { settings, state, kept: Arc::default() })
    }
}

const LOADING: &str = "rows cannot be loaded";

#[async_trait]
impl Target for PostgresTarget {
    fn info(&self) -> EndpointInfo {
        self.settings.info()
    }

    fn map_types(&self, table: &TableSchema) -> Vec<ColumnMapping> {
        table.columns.iter().map(types::mapping).collect()
    }

    fn takes_rows(&self, table: &TableSchema, form: &str) -> bool {
        form == ROW_FORM && table.columns.iter().all(types::is_portable)
    }

    async fn check(&self) -> Result<()> {
        let client = connect(&self.settings).await?;
        let row = client
            .query_one(
                "SELECT pg_catalog.pg_is_in_recovery(), \
                 pg_catalog.has_database_privilege(current_database(), 'CREATE'), \
                 (SELECT pg_catalog.has_schema_privilege(oid, 'USAGE, CREATE') \
                  FROM pg_catalog.pg_namespace WHERE nspname = $1)",
                &[&self.settings.control_schema],
            )
            .await
            .map_err(|error| convert(error, "the target's rights cannot be read"))?;
        let schema = &self.settings.control_schema;
        let denied = |message: String| Err(Error::new(ErrorKind::Denied, message));
        match (row.get(0), row.get(1), row.get::<_, Option<bool>>(2)) {
            (true, ..) => denied("the server is a standby, which takes no rows".to_owned()),
            (_, false, None) => denied(format!(
                "the role may not create schema {schema} for the control tables; create it and \
                 grant the role USAGE and CREATE on it, or name another by control-schema"
            )),
            (_, _, Some(false)) => denied(format!(
                "the role may not create the control tables; grant it USAGE and CREATE on schema \
                 {schema}, or name another by control-schema"
            )),
            _ => Ok(()),
        }
    }

    async fn begin(&self, task: &str) -> Result<TaskProgress> {
        let mut client = connect(&self.settings).await?;
        let progress = self.state.begin(&mut client, task).await?;
        // Of a run that died between its last table and these.
        self.state.rebuild_foreign_keys(&mut client, task).await?;
        Ok(progress)
    }

    async fn prepare(
        &self,
        run: &Run,
        table: &TableSchema,
        mode: TablePrepMode,
        partitions: &[Partition],
        position: Option<&Position>,
    ) -> Result<()> {
        let prepare = async {
            let failed = |error| convert(error, "the table cannot be prepared");
            let mut client = connect(&self.settings).await?;
            let statement = CancelOnDrop::new(&client, &self.settings);
            let transaction = client.transaction().await.map_err(failed)?;
            self.state.check_epoch(&transaction, run).await?;
            let rebuilds = self.settings.existing_indexes == ExistingIndexes::Rebuild;
            if rebuilds {
                // Before a TRUNCATE or DROP, which foreign keys of other tables forbid.
                self.state.drop_obstacles(&transaction, run, &table.name).await?;
            } else {
                obstacles::report(&transaction, &table.name).await?;
            }
            let keeps_rows = prepare(&transaction, table, mode, self.settings.unlogged).await?;
            if keeps_rows && self.state.is_loaded_in_part(&transaction, run, &table.name).await? {
                return Err(keeps_a_part());
            }
            self.state.begin_table(&transaction, run, table, partitions, position).await?;
            fault::point("postgres-target-prepare")?;
            transaction.commit().await.map_err(failed)?;
            self.kept.table_prepared();
            statement.done();
            Ok(())
        };
        prepare.await.map_err(|error| error.context("table", &table.name))
    }

    async fn load(
        &self,
        run: &Run,
        table: &TableSchema,
        partition: &Partition,
        position: Option<&Position>,
        batches: BatchStream,
    ) -> Result<Receipt> {
        let load = async {
            let failed = |error| convert(error, LOADING);
            let mut client = connect(&self.settings).await?;
            let statement = CancelOnDrop::new(&client, &self.settings);
            let transaction = client.transaction().await.map_err(failed)?;
            self.state.check_epoch(&transaction, run).await?;
            let held = self.state.receipt(&transaction, run, &table.name, partition.number).await?;
            if let Some(receipt) = held {
                return Ok(receipt);
            }
            let (rows, bytes) = copy(&transaction, table, batches).await?;
            let receipt =
                Receipt { partition: partition.number, rows, bytes, position: position.cloned() };
            self.state.add_receipt(&transaction, run, &table.name, &receipt).await?;
            fault::point("postgres-target-load")?;
            transaction.commit().await.map_err(failed)?;
            statement.done();
            fault::point("postgres-target-loaded")?;
            Ok(receipt)
        };
        load.await.map_err(|error: Error| error.context("table", &table.name))
    }

    async fn finish(&self, run: &Run, table: &TableSchema) -> Result<()> {
        let finish = async {
            let failed = |error| convert(error, "the table cannot be completed");
            let mut client = connect(&self.settings).await?;
            let statement = CancelOnDrop::new(&client, &self.settings);
            let transaction = client.transaction().await.map_err(failed)?;
            self.state.check_epoch(&transaction, run).await?;
            let rows = self.state.finish_table(&transaction, run, &table.name).await?;
            if self.settings.unlogged {
                set_logged(&transaction, &table.name, rows).await?;
            }
            self.state.rebuild_indexes(&transaction, run, &table.name).await?;
            build_keys(&transaction, table).await?;
            sequence::advance(&transaction, &table.name).await?;
            fault::point("postgres-target-finish")?;
            transaction.commit().await.map_err(failed)?;
            self.state.rebuild_foreign_keys(&mut client, &run.task).await?;
            statement.done();
            Ok(())
        };
        finish.await.map_err(|error: Error| error.context("table", &table.name))
    }
}

/// Copies rows into the table; returns how many and their bytes.
async fn copy(
    transaction: &Transaction<'_>,
    table: &TableSchema,
    mut batches: BatchStream,
) -> Result<(u64, u64)> {
    let failed = |error| convert(error, LOADING);
    let name = qualified(&table.name);
    let columns = quote_all(table.columns.iter().map(|column| &column.name));
    // Types that are written in their text form go by way of a table of texts, of which the server
    // makes values.
    let parsed: Vec<bool> = table.columns.iter().map(types::is_parsed_by_server).collect();
    let is_whole_rows = row_form(&batches.schema()).is_some();
    let staged = parsed.contains(&true) && !is_whole_rows;
    let into = if staged {
        let fields = table.columns.iter().zip(&parsed).enumerate().map(|(at, (column, parsed))| {
            let declared = types::declaration(column);
            format!("c{at} {}", if *parsed { "text" } else { &declared })
        });
        let fields: Vec<String> = fields.collect();
        let sql = format!("CREATE TEMP TABLE dms_rows ({}) ON COMMIT DROP", fields.join(", "));
        transaction.batch_execute(&sql).await.map_err(failed)?;
        "pg_temp.dms_rows".to_owned()
    } else {
        format!("{name} ({columns})")
    };
    let sql = format!("COPY {into} FROM STDIN (FORMAT binary)");
    let sink = transaction.copy_in::<_, Bytes>(&sql).await.map_err(failed)?;
    let mut sink = std::pin::pin!(sink);
    sink.feed(Encoder::header()).await.map_err(failed)?;
    let mut encoder = Encoder::new(table.clone());
    let (mut rows, mut bytes) = (0, 0);
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        rows += batch.num_rows() as u64;
        bytes += batch_bytes(&batch) as u64;
        let encoded = encoder.encode(&batch)?;
        fault::point("postgres-target-batch")?;
        // Small messages keep the connection's own buffer small.
        for at in (0..encoded.len()).step_by(MESSAGE_BYTES) {
            let message = encoded.slice(at..encoded.len().min(at + MESSAGE_BYTES));
            sink.feed(message).await.map_err(failed)?;
        }
    }
    sink.feed(Encoder::end()).await.map_err(failed)?;
    let copied = sink.finish().await.map_err(failed)?;
    if copied != rows {
        return Err(Error::unexpected(format!("{copied} of {rows} rows arrived")));
    }
    if staged {
        let values = table.columns.iter().zip(&parsed).enumerate().map(|(at, (column, parsed))| {
            if *parsed {
                format!("c{at}::{}", types::declaration(column))
            } else {
                format!("c{at}")
            }
        });
        let values: Vec<String> = values.collect();
        let sql = format!(
            "INSERT INTO {name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {} FROM pg_temp.dms_rows; \
             DROP TABLE pg_temp.dms_rows",
            values.join(", ")
        );
        transaction.batch_execute(&sql).await.map_err(failed)?;
    }
    Ok((rows, bytes))
}

/// How much is sent at once.
const MESSAGE_BYTES: usize = 64 * 1024;
