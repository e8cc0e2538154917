//! Waiting for transactions of others, and saying for which.

use std::convert::Infallible;
use std::time::Duration;

use dms_core::Result;

use crate::postgres::connection::connect;
use crate::postgres::error::convert;
use crate::postgres::settings::PostgresSettings;

/// Who holds what a process waits for, and the prepared transactions, which hold it too. No text of
/// their statements: it may hold values.
const BLOCKERS: &str = "
SELECT pg_catalog.format('process %s (%s, user %s, since %s)', a.pid, coalesce(a.application_name, ''),
    a.usename, a.xact_start)
FROM pg_catalog.pg_stat_activity a WHERE a.pid = ANY(pg_catalog.pg_blocking_pids($1))
UNION ALL
SELECT pg_catalog.format('prepared transaction %s (user %s, since %s)', p.gid, p.owner, p.prepared)
FROM pg_catalog.pg_prepared_xacts p
WHERE 0 = ANY(pg_catalog.pg_blocking_pids($1)) LIMIT 10";

const FIRST: Duration = Duration::from_secs(1);
const EACH: Duration = Duration::from_secs(15);

/// Does something that waits for the transactions that are under way, in the server's process
/// `pid`, and logs which those are while it takes long.
pub(super) async fn reporting_blockers<T>(
    settings: &PostgresSettings,
    pid: i32,
    work: impl Future<Output = T>,
) -> T {
    let report = async {
        tokio::time::sleep(FIRST).await;
        loop {
            if let Err(error) = report(settings, pid).await {
                tracing::warn!(%error, "whom the replication slot waits for cannot be told");
            }
            tokio::time::sleep(EACH).await;
        }
    };
    let report: std::pin::Pin<Box<dyn Future<Output = Infallible> + Send>> = Box::pin(report);
    tokio::select! {
        done = work => done,
        never = report => match never {},
    }
}

async fn report(settings: &PostgresSettings, pid: i32) -> Result<()> {
    let client = connect(settings).await?;
    let rows = client.query(BLOCKERS, &[&pid]).await;
    let rows = rows.map_err(|error| convert(error, "transactions cannot be looked up"))?;
    let blockers: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    tracing::warn!(
        blockers = blockers.join("; "),
        "the replication slot waits for transactions that are under way; end them if they last"
    );
    Ok(())
}
