//! Reads the source's feed into the buffer.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use dms_core::change::ChangeEvent;
use dms_core::endpoint::ChangeFeed;
use dms_core::{Error, Result, fault};
use futures::StreamExt;
use tokio::time::Instant;

use crate::buffer::BufferWriter;

/// How long the source may have to wait to hear that changes are durable on disk.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// What capture says of the newest change: when it was committed, or 0 when the source is idle.
pub(crate) type Captured = Arc<AtomicI64>;

/// Reads until the feed fails or the buffer's reader is gone. What goes wrong is told to the reader,
/// behind all that was read before.
pub(crate) async fn capture(feed: ChangeFeed, writer: BufferWriter, captured: Captured) {
    let mut writer = writer;
    if let Err(error) = run(feed, &mut writer, &captured).await {
        writer.fail(error);
    }
}

async fn run(mut feed: ChangeFeed, writer: &mut BufferWriter, captured: &Captured) -> Result<()> {
    let mut synced = Instant::now();
    loop {
        let due = synced + SYNC_INTERVAL;
        let event = tokio::select! {
            biased;
            event = feed.events.next() => event,
            () = tokio::time::sleep_until(due) => {
                // Nothing to acknowledge where the source keeps what waits.
                if let Some(position) = writer.sync().await? {
                    feed.acknowledge.acknowledge(&position);
                }
                synced = Instant::now();
                continue;
            }
        };
        let Some(event) = event else {
            return Err(Error::unexpected("the feed of changes ended without an error"));
        };
        let event = event?;
        note(&event, captured);
        writer.push(event).await?;
        fault::point("cdc-captured")?;
        if synced.elapsed() >= SYNC_INTERVAL {
            if let Some(position) = writer.sync().await? {
                feed.acknowledge.acknowledge(&position);
            }
            synced = Instant::now();
        }
    }
}

fn note(event: &ChangeEvent, captured: &Captured) {
    match event {
        ChangeEvent::Rows(rows) => {
            if let Some(at) = rows.transactions.last().and_then(|t| t.committed_at) {
                captured.store(at, Ordering::Relaxed);
            }
        }
        ChangeEvent::Idle { .. } => captured.store(0, Ordering::Relaxed),
        _ => {}
    }
}
