//! One state of a database for all readers.

use async_trait::async_trait;
use dms_core::batch::{BatchSender, BatchStream, channel, rows_schema};
use dms_core::endpoint::{Partition, PartitionGoal, ReadRequest, Snapshot};
use dms_core::mapping::rows_in_range;
use dms_core::position::Position;
use dms_core::schema::{TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result};
use futures::StreamExt;
use tokio_postgres::Client;

use super::connection::{CancelOnDrop, connect, version};
use super::copy::{Decoder, ROW_FORM};
use super::error::convert;
use super::partition::{self, Part};
use super::settings::PostgresSettings;
use super::types::{is_portable, selected};
use super::unchanged;
use crate::sql::quote;

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";

/// Compiling a statement takes longer than to read the catalogs or a partition. A database in
/// SQL_ASCII holds any bytes: the decoder names the column of those that are no text, the server
/// would not.
const PREPARE: &str = "SET LOCAL jit = off; \
    SELECT pg_catalog.set_config('client_encoding', 'SQL_ASCII', true) \
    WHERE pg_catalog.current_setting('server_encoding') = 'SQL_ASCII'";

const READING: &str = "the table cannot be read";

/// A transaction that keeps its snapshot for readers to share.
#[derive(Debug)]
pub(super) struct PostgresSnapshot {
    settings: PostgresSettings,
    /// Its transaction lives as long as this.
    keeper: Client,
    id: String,
    version: u32,
    position: Option<Position>,
    /// Whether its text is text: a database in SQL_ASCII holds any bytes.
    has_encoding: bool,
}

impl PostgresSnapshot {
    pub(super) async fn open(settings: &PostgresSettings) -> Result<Self> {
        let failed = |error| convert(error, "a snapshot cannot be taken");
        let keeper = connect(settings).await?;
        let version = version(&keeper).await?;
        // Which server this is; a role may be kept from asking.
        let server = keeper
            .query_one(
                "SELECT s.system_identifier || '/' || c.timeline_id || '/' || d.oid \
                 FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_checkpoint() c, \
                     pg_catalog.pg_database d WHERE d.datname = current_database()",
                &[],
            )
            .await;
        let server: Option<String> = server.ok().map(|row| row.get(0));
        keeper.batch_execute(BEGIN).await.map_err(failed)?;
        let row = keeper
            .query_one(
                "SELECT pg_catalog.pg_export_snapshot(), \
                 pg_catalog.txid_current_snapshot()::text, \
                 pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()), \
                 current_setting('server_encoding') <> 'SQL_ASCII'",
                &[],
            )
            .await
            .map_err(failed)?;
        // Every change of a row has a transaction's number, and a snapshot names those that it
        // sees: equal snapshots of a server see equal rows.
        let position = server.map(|server| {
            let order = u64::try_from(row.get::<_, i64>(2)).unwrap_or(0);
            Position::new(order, format!("{server}/{}", row.get::<_, String>(1)))
        });
        Ok(Self {
            settings: settings.clone(),
            keeper,
            id: row.get(0),
            version,
            position,
            has_encoding: row.get(3),
        })
    }

    /// Takes over a snapshot that another connection has exported.
    pub(super) async fn import(
        settings: &PostgresSettings,
        exported: &str,
        position: Position,
    ) -> Result<Self> {
        let failed = |error| convert(error, "a snapshot cannot be taken over");
        let keeper = connect(settings).await?;
        let version = version(&keeper).await?;
        keeper.batch_execute(BEGIN).await.map_err(failed)?;
        let join = format!("SET TRANSACTION SNAPSHOT '{}'", exported.replace('\'', "''"));
        keeper.batch_execute(&join).await.map_err(failed)?;
        let sql = "SELECT pg_catalog.pg_export_snapshot(), \
            current_setting('server_encoding') <> 'SQL_ASCII'";
        let row = keeper.query_one(sql, &[]).await.map_err(failed)?;
        Ok(Self {
            settings: settings.clone(),
            keeper,
            id: row.get(0),
            version,
            position: Some(position),
            has_encoding: row.get(1),
        })
    }

    /// A connection in the snapshot.
    async fn reader(&self) -> Result<Client> {
        let reader = connect(&self.settings).await?;
        reader.batch_execute(BEGIN).await.map_err(|error| convert(error, READING))?;
        let join = format!("SET TRANSACTION SNAPSHOT '{}'", self.id);
        reader.batch_execute(&join).await.map_err(|error| match error.as_db_error() {
            None => convert(error, READING),
            // No other try of this run will find it.
            Some(_) => Error::new(
                ErrorKind::Connection,
                "the snapshot that the load reads is gone: its connection was cut or the server \
                 restarted; run the task again",
            )
            .with_source(error),
        })?;
        Ok(reader)
    }
}

#[async_trait]
impl Snapshot for PostgresSnapshot {
    fn position(&self) -> Option<Position> {
        self.position.clone()
    }

    async fn partitions(
        &self,
        table: &TableSchema,
        goal: &PartitionGoal,
    ) -> Result<Vec<Partition>> {
        let statement = CancelOnDrop::new(&self.keeper, &self.settings);
        let partitions = partition::split(&self.keeper, self.version, table, goal).await;
        statement.done();
        partitions
    }

    fn row_form(&self, request: &ReadRequest) -> Option<&'static str> {
        let columns = request.projected().ok()?.columns;
        (self.has_encoding && !chooses(request) && columns.iter().all(is_portable))
            .then_some(ROW_FORM)
    }

    async fn read(&self, request: ReadRequest) -> Result<BatchStream> {
        let read = Read::new(&request)?;
        let client = self.reader().await.map_err(|e| e.context("table", &request.table.name))?;
        let settings = self.settings.clone();
        let schema = match request.form {
            Some(form) => rows_schema(form),
            None => request.projected()?.arrow_schema(),
        };
        let (sender, stream) = channel(schema, request.prefetch_bytes);
        let statement = CancelOnDrop::new(&client, &self.settings);
        tokio::spawn(async move {
            // The transaction ends with its connection.
            let ended = tokio::select! {
                ended = read.run(&client, &settings, &request, &sender) => ended,
                // The server may be waiting for a lock, or find no row for long.
                () = sender.closed() => return,
            };
            if let Err(error) = ended {
                return sender.fail(error.context("table", &request.table.name));
            }
            statement.done();
        });
        Ok(stream)
    }
}

/// Whether rows are chosen from those that the server delivers.
fn chooses(request: &ReadRequest) -> bool {
    request.filter.is_some() || !partition::columns(&request.partition.range).is_empty()
}

/// One partition being read.
struct Read {
    relation: TableName,
    lock: String,
    sql: String,
    /// What arrives: the columns asked for, and those that rows are chosen by.
    table: TableSchema,
    decoder: Decoder,
    /// Whether rows are chosen here.
    chooses: bool,
}

impl Read {
    fn new(request: &ReadRequest) -> Result<Self> {
        let table = &request.table;
        let mut read = request.clone();
        let chosen_by = partition::columns(&request.partition.range)
            .iter()
            .chain(request.filter.iter().flat_map(|filter| filter.columns.iter().map(|(c, _)| c)));
        for name in chosen_by {
            let place = table.column_index(name).ok_or_else(|| {
                Error::settings("rows are chosen by a column that the table does not have")
                    .context("table", &table.name)
                    .context("column", name)
            })?;
            if !read.columns.contains(&place) {
                read.columns.push(place);
            }
        }
        let part = Part::of(&request.partition.range)?;
        let projected = read.projected()?;
        let list: Vec<String> = match request.form {
            Some(_) => projected.columns.iter().map(|column| quote(&column.name)).collect(),
            None => projected.columns.iter().map(selected).collect(),
        };
        let relation = part.read(&table.name);
        let lock = format!("SELECT FROM {} LIMIT 0", part.relation(&table.name));
        let sql = format!(
            "COPY (SELECT {} FROM {}{}) TO STDOUT (FORMAT binary)",
            list.join(", "),
            part.relation(&table.name),
            partition::condition(table, &part, &request.partition.range, request.filter.as_ref())
        );
        let decoder = match request.form {
            Some(_) => Decoder::of_whole_rows(projected.clone(), request.limit),
            None => Decoder::new(projected.clone(), request.limit)?,
        };
        Ok(Self { relation, lock, sql, table: projected, decoder, chooses: chooses(request) })
    }

    async fn run(
        mut self,
        client: &Client,
        settings: &PostgresSettings,
        request: &ReadRequest,
        sender: &BatchSender,
    ) -> Result<()> {
        let failed = |error| convert(error, READING);
        // Locks what is read until the end of the transaction.
        client.batch_execute(&format!("{PREPARE}; {}", self.lock)).await.map_err(failed)?;
        unchanged::check(client, settings, &self.relation, &self.table).await?;
        let copy = client.copy_out(&self.sql).await.map_err(failed)?;
        let mut copy = std::pin::pin!(copy);
        let mut full = Vec::new();
        while let Some(bytes) = copy.next().await {
            self.decoder.feed(&bytes.map_err(failed)?, &mut full)?;
            for batch in full.drain(..) {
                if self.send(batch, request, sender).await?.is_break() {
                    return Ok(());
                }
            }
        }
        if let Some(last) = self.decoder.finish()? {
            let _ = self.send(last, request, sender).await?;
        }
        Ok(())
    }

    /// Breaks when nobody wants more.
    async fn send(
        &self,
        batch: arrow::array::RecordBatch,
        request: &ReadRequest,
        sender: &BatchSender,
    ) -> Result<std::ops::ControlFlow<()>> {
        use std::ops::ControlFlow::{Break, Continue};
        let mut batch = batch;
        if self.chooses {
            batch = rows_in_range(&self.table, &request.partition.range, &batch)?;
            if let Some(filter) = &request.filter {
                batch = filter.apply(&self.table, &batch)?;
            }
            let wanted: Vec<usize> = (0..request.columns.len()).collect();
            batch = batch.project(&wanted)?;
            if batch.num_rows() == 0 {
                return Ok(Continue(()));
            }
        }
        Ok(if sender.send(batch).await.is_ok() { Continue(()) } else { Break(()) })
    }
}
