//! What the stream of a feed does not tell: that the server has lost its other end, how much log is
//! kept, and that a table is no longer published since it was dropped.

use std::time::Duration;

use dms_core::schema::{TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::database::{arrays, load_again};
use super::lsn::Lsn;
use super::names::Names;
use super::slot::Slot;
use crate::postgres::connection::connect;
use crate::postgres::error::convert;
use crate::postgres::settings::{PostgresSettings, RetainedWalPolicy};

/// How often the server is asked.
const EACH: Duration = Duration::from_secs(10);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a warning is repeated.
const WARN_EACH: u32 = 6;

/// Tables of the publication that are not in it any more, and a place in the log behind that.
const GONE: &str = "
SELECT w.schema, w.name, pg_catalog.pg_current_wal_insert_lsn()::text
FROM unnest($2::text[], $3::text[]) w(schema, name)
WHERE NOT EXISTS(SELECT FROM pg_catalog.pg_publication_tables t
    WHERE t.pubname = $1 AND t.schemaname = w.schema AND t.tablename = w.name)";

/// What a feed has to know.
pub(super) enum Notice {
    /// No change of a table comes behind this place.
    Gone(TableName, Lsn),
    /// The feed cannot go on.
    Failed(Error),
}

/// Watches the server for a feed.
pub(super) struct Watch {
    pub(super) settings: PostgresSettings,
    pub(super) names: Names,
    pub(super) tables: Vec<TableSchema>,
    /// The feed's process on the server.
    pub(super) pid: i32,
}

impl Watch {
    /// Watches until nobody listens.
    pub(super) async fn run(mut self, notices: mpsc::UnboundedSender<Notice>) {
        let mut client = None;
        for round in 0u32.. {
            tokio::time::sleep(EACH).await;
            let looked = tokio::time::timeout(PATIENCE, self.look(&mut client, round, &notices));
            let failed = match looked.await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(_) => {
                    Error::new(ErrorKind::Connection, "the server does not answer").transient()
                }
            };
            if notices.send(Notice::Failed(failed)).is_err() {
                return;
            }
        }
    }

    /// Holds what the server keeps for the task against the limit.
    fn retained(&self, retained: u64, round: u32) -> Result<()> {
        let (most, slot) = (self.settings.retained_wal_max, &self.names.slot);
        if most == 0 || retained <= most {
            return Ok(());
        }
        let stops = self.settings.retained_wal_policy == RetainedWalPolicy::Stop;
        // The task hears of its end when what was read before is applied, which may be long.
        if stops || round.is_multiple_of(WARN_EACH) {
            tracing::warn!(
                slot,
                retained,
                retained_wal_max = most,
                "the server keeps more log for the task than retained-wal-max: apply changes \
                 faster, or end the task with its slot before the server's disk is full"
            );
        }
        if stops {
            return Err(Error::unexpected(format!(
                "the server keeps {retained} bytes of log for the task, more than retained-wal-max \
                 ({most}), and retained-wal-policy says that the task stops then. Replication slot \
                 {slot} stays, and the server goes on keeping its log: raise retained-wal-max and \
                 run the task again, or delete the task, or run SELECT \
                 pg_drop_replication_slot('{slot}') and {}",
                load_again(&self.tables)
            )));
        }
        Ok(())
    }

    async fn look(
        &mut self,
        client: &mut Option<Client>,
        round: u32,
        notices: &mpsc::UnboundedSender<Notice>,
    ) -> Result<()> {
        let connected = match client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => connect(&self.settings).await?,
        };
        let slot = Slot::look_up(&connected, &self.names.slot).await?;
        if slot.as_ref().and_then(|slot| slot.active_pid) != Some(self.pid) {
            let message = "the server has ended the connection that changes come by";
            return Err(Error::new(ErrorKind::Connection, message).transient());
        }
        self.retained(slot.and_then(|slot| slot.retained).unwrap_or(0), round)?;
        let (schemas, names) = arrays(&self.tables);
        let rows = connected.query(GONE, &[&self.names.publication, &schemas, &names]).await;
        let rows = rows.map_err(|error| convert(error, "the publication cannot be looked up"))?;
        for row in rows {
            let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            self.tables.retain(|other| other.name != table);
            if let Some(place) = Lsn::parse(row.get(2)) {
                let _ = notices.send(Notice::Gone(table, place));
            }
        }
        *client = Some(connected);
        Ok(())
    }
}
