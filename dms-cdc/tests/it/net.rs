//! Net changes and changes in order have the effect of the history that they are of.

use dms_cdc::net::NetChanges;
use dms_cdc::ordered;
use dms_core::change::ChangeEvent;
use dms_core::endpoint::{ChangeSource, ChangeTarget, FeedRequest, Step, Target};
use dms_core::memory::{MemorySource, MemoryTarget};
use dms_core::position::Position;
use futures::StreamExt;
use proptest::prelude::*;

use crate::history::{Wish, commit, held, histories, rows_of, sorted, tables};

/// A history's events, transactions of it joined `together` at a time.
async fn events(source: &MemorySource) -> Vec<ChangeEvent> {
    let request = FeedRequest {
        task: "t".into(),
        tables: tables(),
        after: Position::new(0, "version 0"),
        event_bytes: 1 << 20,
        prefetch_bytes: 1 << 20,
    };
    let end = source.log_status("t").await.unwrap().end;
    let mut feed = source.changes(request).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = feed.events.next().await {
        match event.unwrap() {
            ChangeEvent::Idle { position } if position.order >= end.order => break,
            event => events.push(event),
        }
    }
    events
}

/// The steps of events, with a barrier at each truncation.
fn steps(events: &[ChangeEvent], net: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut gathered = NetChanges::default();
    for event in events {
        match event {
            ChangeEvent::Rows(rows) => {
                for batch in &rows.batches {
                    match net {
                        true => gathered.add(batch.clone()).unwrap(),
                        false => steps.extend(ordered::steps(batch).unwrap()),
                    }
                }
            }
            ChangeEvent::Truncate { tables, .. } => {
                steps.extend(std::mem::take(&mut gathered).into_steps().unwrap());
                steps.push(Step::Truncate { tables: tables.clone() });
            }
            _ => {}
        }
    }
    steps.extend(gathered.into_steps().unwrap());
    steps
}

async fn check(history: Vec<Vec<Wish>>, net: bool, together: usize) {
    let source = MemorySource::default();
    for table in tables() {
        source.insert(table, Vec::new());
    }
    for wishes in &history {
        commit(&source, wishes);
    }
    let target = MemoryTarget::default();
    let run = target.begin("t").await.unwrap().run;
    let mut apply = target.begin_apply(&run).await.unwrap();
    for table in tables() {
        // Rows that exchange a unique value are another test's subject.
        let mut table = table;
        table.unique_indexes.clear();
        apply.step(&Step::Create { table: table.into() }, false).await.unwrap();
    }
    for events in events(&source).await.chunks(together) {
        for step in steps(events, net) {
            apply.step(&step, false).await.unwrap();
        }
    }
    apply.commit(&Position::new(1, "end"), None).await.unwrap();
    for table in tables() {
        assert_eq!(held(&target, &table), sorted(rows_of(&source, &table)), "{}", table.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn net_changes_equal_replay(history in histories(), together in 1..40usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(history, true, together));
    }

    #[test]
    fn changes_in_order_equal_replay(history in histories()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(history, false, 1));
    }
}
