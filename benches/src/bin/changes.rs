//! Reads changes of PostgreSQL to nothing: `changes URL SLOT PUBLICATION RECORDS`.
//!
//! Follows all tables of the schema `public` from where the slot stands, makes record batches of
//! what comes, and ends when it has so many records. `benches/peers/changes` times it beside its
//! peers.

use dms_connectors::postgres::{PostgresSettings, PostgresSource};
use dms_core::change::ChangeEvent;
use dms_core::endpoint::{ChangeSource, FeedRequest, Source};
use dms_core::mapping::TableMapping;
use futures::StreamExt;

type Failure = Box<dyn std::error::Error>;

const TASK: &str = "drain";

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, slot, publication, records] = arguments.as_slice() else {
        return Err("usage: changes URL SLOT PUBLICATION RECORDS".into());
    };
    let mut settings = PostgresSettings::new(url)?;
    settings.slot_name = Some(slot.clone());
    settings.publication_name = Some(publication.clone());
    let records = records.parse()?;
    tokio::runtime::Runtime::new()?.block_on(Box::pin(drain(settings, records)))
}

async fn drain(settings: PostgresSettings, wanted: usize) -> Result<(), Failure> {
    let source = PostgresSource::open(settings).await?;
    let mapping = TableMapping::new().include("public", "%");
    let tables = source.discover(mapping.selection()).await?.tables;
    let after = source.begin_capture(TASK, &tables).await?;
    let request = FeedRequest {
        task: TASK.to_owned(),
        tables,
        after,
        event_bytes: 1 << 20,
        prefetch_bytes: 4 << 20,
    };
    let mut feed = source.changes(request).await?;
    let mut records = 0;
    while records < wanted {
        match feed.events.next().await.transpose()? {
            Some(ChangeEvent::Rows(rows)) => records += rows.records(),
            Some(_) => {}
            None => return Err("the feed ended".into()),
        }
    }
    if records > wanted {
        return Err(format!("{records} records came, where {wanted} are in the log").into());
    }
    Ok(())
}
