//! The replication slot: from where on the source keeps its log for a task.

use std::time::Duration;

use dms_core::schema::TableSchema;
use dms_core::{Error, ErrorKind, Result};
use tokio_postgres::Client;

use super::database::{Database, load_again};
use super::lsn::Lsn;
use super::wait::reporting_blockers;
use crate::postgres::connection::CancelOnDrop;
use crate::postgres::error::convert;
use crate::postgres::settings::PostgresSettings;

/// The plugin that decodes the log.
pub(super) const PLUGIN: &str = "pgoutput";

/// What is new in later versions is found by its name.
const SLOT: &str = "
SELECT s.plugin::text, s.database::text, s.temporary, s.active_pid, s.confirmed_flush_lsn::text,
    s.wal_status, to_jsonb(s) ->> 'invalidation_reason',
    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), s.restart_lsn)::int8
FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1";

const DOING: &str = "the replication slot cannot be looked up";

/// A slot as the server has it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: String,
    plugin: Option<String>,
    database: Option<String>,
    temporary: bool,
    /// Who uses it.
    pub(super) active_pid: Option<i32>,
    /// Up to where its changes are confirmed; none while it is being made.
    confirmed: Option<Lsn>,
    wal_status: Option<String>,
    invalid: Option<String>,
    /// Bytes of the log that it keeps.
    pub(super) retained: Option<u64>,
}

impl Slot {
    /// # Errors
    /// `Connection`.
    pub(super) async fn look_up(client: &Client, name: &str) -> Result<Option<Self>> {
        let row = client.query_opt(SLOT, &[&name]).await.map_err(|error| convert(error, DOING))?;
        Ok(row.map(|row| Self {
            name: name.to_owned(),
            plugin: row.get(0),
            database: row.get(1),
            temporary: row.get(2),
            active_pid: row.get(3),
            confirmed: row.get::<_, Option<&str>>(4).and_then(Lsn::parse),
            wal_status: row.get(5),
            invalid: row.get(6),
            retained: row.get::<_, Option<i64>>(7).and_then(|bytes| bytes.try_into().ok()),
        }))
    }

    /// Where the server goes on for whoever does not say otherwise; refuses a slot that is not the
    /// task's or has lost changes.
    ///
    /// # Errors
    /// `Settings` for a slot of someone else; `PositionLost`.
    pub(super) fn confirmed(&self, database: &Database, tables: &[TableSchema]) -> Result<Lsn> {
        let name = &self.name;
        let taken = |what: String| {
            Err(Error::settings(format!(
                "replication slot {name} is {what}; name another by slot-name, or drop it with \
                 SELECT pg_drop_replication_slot('{name}')"
            )))
        };
        match self.plugin.as_deref() {
            Some(PLUGIN) => {}
            Some(other) => return taken(format!("one of the plugin {other}, not of {PLUGIN}")),
            None => return taken("a physical one".to_owned()),
        }
        if self.database.as_deref() != Some(&database.name) {
            let other = self.database.as_deref().unwrap_or_default();
            return taken(format!("one of database {other}, not of {}", database.name));
        }
        if self.temporary {
            return taken("a temporary one".to_owned());
        }
        let lost = self.wal_status.as_deref() == Some("lost");
        if let Some(reason) =
            self.invalid.as_deref().or(lost.then_some("max_slot_wal_keep_size was passed"))
        {
            return Err(Error::new(
                ErrorKind::PositionLost,
                format!(
                    "replication slot {name} has lost changes ({reason}); drop it with SELECT \
                     pg_drop_replication_slot('{name}') and {}",
                    load_again(tables)
                ),
            ));
        }
        self.confirmed.ok_or_else(|| {
            let message = format!("replication slot {name} is still being made; try again");
            Error::new(ErrorKind::Connection, message).transient()
        })
    }
}

/// What a feed or a load is told whose slot is not there.
pub(super) fn missing(name: &str, tables: &[TableSchema]) -> Error {
    Error::new(
        ErrorKind::PositionLost,
        format!(
            "replication slot {name} is not there, so that changes since are lost; {}",
            load_again(tables)
        ),
    )
}

/// Makes the slot. That waits for each transaction that is under way, and says so.
///
/// # Errors
/// `Denied`; `Connection`.
pub(super) async fn create(
    settings: &PostgresSettings,
    database: &Database,
    name: &str,
) -> Result<()> {
    let failed = |error| convert(error, "the replication slot cannot be made");
    let client = &database.client;
    let row = client.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await;
    let pid: i32 = row.map_err(failed)?.get(0);
    // A call that is cancelled leaves no slot.
    let statement = CancelOnDrop::new(client, settings);
    let sql =
        "SELECT pg_catalog.pg_create_logical_replication_slot($1::text::name, $2::text::name)";
    let made = reporting_blockers(settings, pid, client.execute(sql, &[&name, &PLUGIN])).await;
    statement.done();
    made.map_err(failed)?;
    Ok(())
}

/// How long a connection of a run before may take to notice that it is gone.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// Waits until nobody uses the slot.
///
/// # Errors
/// A transient `Connection` error naming the process that does; `PositionLost` if it is gone.
pub(super) async fn wait_until_free(
    client: &Client,
    name: &str,
    tables: &[TableSchema],
) -> Result<Slot> {
    let began = tokio::time::Instant::now();
    loop {
        let slot = Slot::look_up(client, name).await?.ok_or_else(|| missing(name, tables))?;
        let Some(pid) = slot.active_pid else { return Ok(slot) };
        if began.elapsed() > PATIENCE {
            return Err(in_use(name, pid));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn in_use(name: &str, pid: i32) -> Error {
    let message = format!(
        "replication slot {name} is in use by process {pid} of the server: another run of the task, \
         or one that was cut off; end that run, or run SELECT pg_terminate_backend({pid})"
    );
    Error::new(ErrorKind::Connection, message).transient()
}

/// Drops the slot if it is there, and ends who uses it.
///
/// # Errors
/// `Denied`; a transient `Connection` error if its user does not end.
pub(super) async fn remove(client: &Client, name: &str) -> Result<()> {
    let failed = |error| convert(error, "the replication slot cannot be dropped");
    let began = tokio::time::Instant::now();
    while let Some(slot) = Slot::look_up(client, name).await? {
        let Some(pid) = slot.active_pid else {
            let sql = "SELECT pg_catalog.pg_drop_replication_slot(s.slot_name) \
                FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1 AND NOT s.active";
            client.execute(sql, &[&name]).await.map_err(failed)?;
            continue;
        };
        if began.elapsed() > PATIENCE {
            return Err(in_use(name, pid));
        }
        let sql = "SELECT pg_catalog.pg_terminate_backend($1)";
        client.execute(sql, &[&pid]).await.map_err(failed)?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
