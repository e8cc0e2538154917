//! Replication between tables in memory: whatever happens meanwhile, the target becomes the source.

use std::sync::Arc;
use std::time::Duration;

use dms_cdc::{Phase, Replication, StartPoint, StopWhen};
use dms_core::change::Operation;
use dms_core::endpoint::{ChangeTarget, Target};
use dms_core::full_load::StartType;
use dms_core::mapping::TableMapping;
use dms_core::memory::{MemoryChange, MemorySource, MemoryTarget};
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_core::task::{ApplyErrorPolicy, Report, StopReason, TaskSettings, TaskStatus};
use dms_core::value::Value;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::history::{commit, held, histories, rows_of, sorted, tables};

fn source() -> MemorySource {
    let source = MemorySource::default();
    for table in tables() {
        source.insert(table, Vec::new());
    }
    source
}

fn settings(folder: &tempfile::TempDir) -> TaskSettings {
    let mut settings = TaskSettings::default();
    settings.changes.spill_folder = folder.path().to_owned();
    settings.retry_interval = Duration::from_millis(1);
    settings
}

fn task(source: &MemorySource, target: &MemoryTarget, settings: TaskSettings) -> Replication {
    let mapping = TableMapping::new().include("shop", "%");
    Replication::full_load_and_cdc(Arc::new(source.clone()), Arc::new(target.clone()), mapping)
        .named("t")
        .with_settings(settings)
}

async fn run(task: Replication) -> Report {
    let run = task.run(CancellationToken::new());
    tokio::time::timeout(Duration::from_secs(20), run).await.expect("it ends").unwrap()
}

fn assert_equal(source: &MemorySource, target: &MemoryTarget) {
    for table in tables() {
        assert_eq!(held(target, &table), sorted(rows_of(source, &table)), "{}", table.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Transactions before, during and after the load, runs that are stopped and go on, batches of
    /// any size.
    #[test]
    fn the_target_becomes_the_source(
        history in histories(),
        loaded_at in 0..10usize,
        batch_bytes in prop_oneof![Just(1usize), Just(2000), Just(8 << 20)],
        one_by_one in any::<bool>(),
        runs in 1..4usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (source, target) = (source(), MemoryTarget::default());
            let folder = tempfile::tempdir().unwrap();
            let mut settings = settings(&folder);
            (settings.changes.batch_bytes, settings.changes.one_by_one) = (batch_bytes, one_by_one);
            let (before, after) = history.split_at(loaded_at.min(history.len()));
            before.iter().for_each(|wishes| commit(&source, wishes));
            for part in after.chunks(after.len() / runs + 1) {
                let writer = async {
                    for wishes in part {
                        commit(&source, wishes);
                        tokio::task::yield_now().await;
                    }
                };
                let task = task(&source, &target, settings.clone()).stopping(StopWhen::CaughtUp);
                let ((), report) = futures::join!(writer, run(task));
                assert_eq!(report.status, TaskStatus::Completed, "{report}");
            }
            run(task(&source, &target, settings).stopping(StopWhen::CaughtUp)).await;
            assert_equal(&source, &target);
        });
    }
}

fn one_table() -> (MemorySource, TableName) {
    let source = MemorySource::default();
    let name = TableName::new("shop", "items");
    let columns = vec![
        Column::new("id", LogicalType::Int64).required(),
        Column::new("v", LogicalType::text()),
    ];
    source.insert(TableSchema::new(name.clone(), columns).with_primary_key(["id"]), Vec::new());
    (source, name)
}

fn row(id: i64, text: &str) -> Vec<Value> {
    vec![Value::Int(id), Value::Text(text.into())]
}

fn rows(target: &MemoryTarget, name: &TableName) -> Vec<(i64, String)> {
    let table = TableSchema::new(
        name.clone(),
        vec![Column::new("id", LogicalType::Int64), Column::new("v", LogicalType::text())],
    );
    let row = |row: Vec<Value>| match (&row[0], &row[1]) {
        (Value::Int(id), Value::Text(text)) => (*id, text.clone()),
        other => panic!("{other:?}"),
    };
    held(target, &table).into_iter().map(row).collect()
}

#[tokio::test]
async fn a_refused_change_stands_alone() {
    for (policy, kept, status) in [
        (ApplyErrorPolicy::LogError, "theirs", TaskStatus::Completed),
        (ApplyErrorPolicy::IgnoreRecord, "theirs", TaskStatus::Completed),
        (ApplyErrorPolicy::InsertRecord, "ours", TaskStatus::Completed),
        (ApplyErrorPolicy::SuspendTable, "theirs", TaskStatus::Failed),
    ] {
        let (source, name) = one_table();
        let (target, folder) = (MemoryTarget::default(), tempfile::tempdir().unwrap());
        let mut settings = settings(&folder);
        settings.changes.insert_errors = policy;
        run(task(&source, &target, settings.clone()).stopping(StopWhen::CaughtUp)).await;
        // Someone writes to the target.
        let mut other = TaskSettings::default();
        other.table_prep_mode = dms_core::endpoint::TablePrepMode::DoNothing;
        let (theirs, _) = one_table();
        theirs.commit([MemoryChange::Insert(name.clone(), row(3, "theirs"))]).unwrap();
        dms_core::full_load::FullLoad::new(
            Arc::new(theirs),
            Arc::new(target.clone()),
            TableMapping::new().include("shop", "%"),
        )
        .named("other")
        .with_settings(other)
        .run(CancellationToken::new())
        .await
        .unwrap();
        for id in 1..=5 {
            source.commit([MemoryChange::Insert(name.clone(), row(id, "ours"))]).unwrap();
        }
        let report = run(task(&source, &target, settings).stopping(StopWhen::CaughtUp)).await;
        assert_eq!(report.status, status, "{report}");
        let rows = rows(&target, &name);
        assert!(rows.contains(&(3, kept.into())) && rows.contains(&(2, "ours".into())), "{rows:?}");
        let suspended = policy == ApplyErrorPolicy::SuspendTable;
        assert_eq!(rows.contains(&(5, "ours".into())), !suspended, "{policy:?} {rows:?}");
        let logged = matches!(policy, ApplyErrorPolicy::LogError | ApplyErrorPolicy::SuspendTable);
        assert_eq!(target.exceptions("t").len(), usize::from(logged), "{policy:?}");
    }
}

#[tokio::test]
async fn the_default_stops_and_names_the_row() {
    let (source, name) = one_table();
    let (target, folder) = (MemoryTarget::default(), tempfile::tempdir().unwrap());
    source.commit([MemoryChange::Insert(name.clone(), row(1, "a"))]).unwrap();
    run(task(&source, &target, settings(&folder)).stopping(StopWhen::CaughtUp)).await;
    let begun = target.begin("t").await.unwrap().run;
    let mut apply = target.begin_apply(&begun).await.unwrap();
    let truncate = dms_core::endpoint::Step::Truncate { tables: vec![name.clone()] };
    apply.step(&truncate, false).await.unwrap();
    let at = target.replication(&begun).await.unwrap().position.unwrap();
    apply.commit(&at, None).await.unwrap();
    source.commit([MemoryChange::Insert(name.clone(), row(2, "b"))]).unwrap();
    source.commit([MemoryChange::Delete(name.clone(), vec![Value::Int(1)])]).unwrap();
    let task = task(&source, &target, settings(&folder)).stopping(StopWhen::CaughtUp);
    let error = task.run(CancellationToken::new()).await.unwrap_err().to_string();
    for part in ["shop.items", "delete", "ApplyErrorDeletePolicy", "\"id\""] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(rows(&target, &name), [(2, "b".into())], "what came before is applied");
}

#[tokio::test]
async fn stop_conditions() {
    let (source, name) = one_table();
    let (target, folder) = (MemoryTarget::default(), tempfile::tempdir().unwrap());
    source.commit([MemoryChange::Insert(name.clone(), row(1, "a"))]).unwrap();
    let report =
        run(task(&source, &target, settings(&folder)).stopping(StopWhen::FullLoadDone)).await;
    assert_eq!(report.stop_reason, Some(StopReason::StoppedAfterFullLoad));
    for id in 2..=6 {
        source.commit([MemoryChange::Insert(name.clone(), row(id, "a"))]).unwrap();
    }
    // The table itself was version 1.
    let stop = StopWhen::Position("4".into());
    let report = run(task(&source, &target, settings(&folder)).stopping(stop)).await;
    assert_eq!(report.stop_reason, Some(StopReason::StoppedAtPosition));
    assert_eq!(rows(&target, &name).len(), 3);
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap();
    let stop = StopWhen::ServerTime(now + 200_000);
    let report = run(task(&source, &target, settings(&folder)).stopping(stop)).await;
    assert_eq!(report.stop_reason, Some(StopReason::StoppedAtServerTime));
    assert_eq!(rows(&target, &name).len(), 6);
    let stop = CancellationToken::new();
    let running = task(&source, &target, settings(&folder));
    let mut status = running.status();
    let asked = async {
        status.wait_for(|status| status.phase == Phase::Ongoing).await.unwrap();
        stop.cancel();
    };
    let (report, ()) = futures::join!(running.run(stop.clone()), asked);
    assert_eq!(report.unwrap().status, TaskStatus::Stopped);
    assert!(source.acknowledged() >= 7, "{}", source.acknowledged());
}

#[tokio::test]
async fn changes_alone_begin_where_they_are_told_to() {
    for (point, expected) in [(StartPoint::Now, 1), (StartPoint::Position("2".into()), 2)] {
        let (source, name) = one_table();
        let (target, folder) = (MemoryTarget::default(), tempfile::tempdir().unwrap());
        // The target has the table.
        run(task(&source, &target, settings(&folder)).stopping(StopWhen::FullLoadDone)).await;
        for id in 1..=2 {
            source.commit([MemoryChange::Insert(name.clone(), row(id, "a"))]).unwrap();
        }
        let mapping = TableMapping::new().include("shop", "%");
        let cdc = |stop| {
            Replication::cdc(Arc::new(source.clone()), Arc::new(target.clone()), mapping.clone())
                .named("cdc")
                .with_settings(settings(&folder))
                .starting_at(point.clone())
                .stopping(stop)
        };
        run(cdc(StopWhen::CaughtUp)).await;
        source.commit([MemoryChange::Insert(name.clone(), row(3, "a"))]).unwrap();
        run(cdc(StopWhen::CaughtUp)).await;
        assert_eq!(rows(&target, &name).len(), expected, "{point:?}");
    }
}

#[tokio::test]
async fn a_table_can_be_loaded_again_while_others_go_on() {
    let (source, name) = one_table();
    let other = TableName::new("shop", "other");
    let (target, folder) = (MemoryTarget::default(), tempfile::tempdir().unwrap());
    source.commit([MemoryChange::Insert(name.clone(), row(1, "a"))]).unwrap();
    run(task(&source, &target, settings(&folder)).stopping(StopWhen::CaughtUp)).await;
    // A new table is followed from the next run on.
    let columns =
        vec![Column::new("id", LogicalType::Int64), Column::new("v", LogicalType::text())];
    let table = TableSchema::new(other.clone(), columns).with_primary_key(["id"]);
    source.insert(table, Vec::new());
    source.commit([MemoryChange::Insert(other.clone(), row(9, "b"))]).unwrap();
    source.commit([MemoryChange::Insert(name.clone(), row(2, "a"))]).unwrap();
    let begun = target.begin("t").await.unwrap().run;
    target.forget(&begun, Some(std::slice::from_ref(&name))).await.unwrap();
    source.commit([MemoryChange::Delete(name.clone(), vec![Value::Int(1)])]).unwrap();
    run(task(&source, &target, settings(&folder)).stopping(StopWhen::CaughtUp)).await;
    assert_eq!(rows(&target, &name), [(2, "a".into())]);
    assert_eq!(rows(&target, &other), [(9, "b".into())]);
    let all = task(&source, &target, settings(&folder)).starting(StartType::Reload);
    run(all.stopping(StopWhen::CaughtUp)).await;
    assert_eq!(rows(&target, &name), [(2, "a".into())]);
    let _ = Operation::Insert;
}
