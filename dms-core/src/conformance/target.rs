//! What a target promises.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{
    Fixture, awkward_tables, batches, described, ids, load, load_table, parts, plain, position,
    prepare, snapshot,
};
use crate::batch::BatchStream;
use crate::endpoint::{Fidelity, Partition, ReadRequest, TablePrepMode};
use crate::mapping::TablePlan;
use crate::memory::MemorySource;
use crate::schema::{Column, LogicalType, TableName, TableSchema};
use crate::validation::Validation;
use crate::value::text::{has_text, write_text};
use crate::{Error, ErrorKind};

/// A column that is called exact gives every value back.
pub(super) async fn every_type_comes_back(fixture: &dyn Fixture) {
    for awkward in awkward_tables(fixture.schema()) {
        let (table, batch) = (awkward.table, awkward.batch);
        let ty = &table.columns[1].logical_type;
        let mapping = fixture.target().await.map_types(&table);
        assert_eq!(mapping.len(), table.columns.len(), "one entry a column");
        if mapping[1].fidelity != Fidelity::Exact {
            continue;
        }
        let batch = refused_values_are_errors(fixture, &table, batch).await;
        load_table(fixture, &table, std::slice::from_ref(&batch)).await;
        let source = fixture.source().await;
        let back = described(&*source, &table.name).await;
        let back = back.unwrap_or_else(|| panic!("{ty}: the table is not there"));
        let original = MemorySource::default();
        original.insert(table.clone(), vec![batch.clone()]);
        let plan = TablePlan::identity(table.clone());
        let validation = Validation::new(Arc::new(original), Arc::clone(&source), vec![plan]);
        let report = validation.run(CancellationToken::new()).await.unwrap();
        assert!(report.is_valid(), "{ty}: {report}");
        if back.columns[1].logical_type == *ty {
            // Of the same type the values are the same to the bit, in the order of their ids.
            let snapshot = snapshot(&*source, &back).await;
            let read = batches(&*snapshot, ReadRequest::whole(Arc::new(back))).await;
            let read = arrow::compute::concat_batches(&read[0].schema(), &read).unwrap();
            let order = arrow::compute::sort_to_indices(read.column(0), None, None).unwrap();
            let values = arrow::compute::take(read.column(1), &order, None).unwrap();
            assert_eq!(values.as_ref(), batch.column(1).as_ref(), "{ty}");
        }
    }
}

/// Loads each value that the place does not have, which fails and leaves nothing; returns the rows
/// of the others.
async fn refused_values_are_errors(
    fixture: &dyn Fixture,
    table: &TableSchema,
    batch: RecordBatch,
) -> RecordBatch {
    let ty = &table.columns[1].logical_type;
    let values = batch.column(1);
    let refused = |row: usize| {
        let mut text = String::new();
        if values.is_valid(row) && has_text(ty) {
            write_text(values.as_ref(), row, &mut text);
        }
        fixture.refuses(ty, &text)
    };
    let kept: BooleanArray = (0..batch.num_rows()).map(|row| Some(!refused(row))).collect();
    for row in (0..batch.num_rows()).filter(|row| !kept.value(*row)) {
        let target = fixture.target().await;
        let run = target.begin("refused").await.unwrap().run;
        prepare(&*target, &run, table, 1).await;
        let error = load(&*target, &run, table, 0, &[batch.slice(row, 1)]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{ty}, row {row}: {error}");
        assert_eq!(ids(fixture, &table.name).await, Vec::<i64>::new());
    }
    filter_record_batch(&batch, &kept).unwrap()
}

/// Loading a partition again changes nothing and gives the same receipt.
pub(super) async fn a_partition_is_loaded_once(fixture: &dyn Fixture) {
    let (table, rows) = plain(fixture, "once", 300);
    let target = fixture.target().await;
    let run = target.begin("once").await.unwrap().run;
    prepare(&*target, &run, &table, 2).await;
    let (first, second) = rows.split_at(2);
    let receipt = load(&*target, &run, &table, 0, first).await.unwrap();
    assert_eq!((receipt.partition, receipt.rows), (0, 194));
    assert_eq!(receipt.position, Some(position()));
    assert_eq!(load(&*target, &run, &table, 0, first).await.unwrap(), receipt);
    let early = target.finish(&run, &table).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Schema, "a table with a missing partition: {early}");
    load(&*target, &run, &table, 1, second).await.unwrap();
    target.finish(&run, &table).await.unwrap();
    target.finish(&run, &table).await.expect("finishing again is safe");
    assert_eq!(ids(fixture, &table.name).await, (0..300).collect::<Vec<_>>());
}

/// After an error in the stream nothing of the partition is there, and it can be loaded again.
pub(super) async fn a_failed_stream_leaves_nothing(fixture: &dyn Fixture) {
    let (table, rows) = plain(fixture, "failed_stream", 300);
    let target = fixture.target().await;
    let run = target.begin("failed-stream").await.unwrap().run;
    prepare(&*target, &run, &table, 1).await;
    let broken = rows.iter().take(2).cloned().map(Ok);
    let broken = broken.chain([Err(Error::data("a value that does not fit"))]);
    let broken: Vec<_> = broken.collect();
    let stream = BatchStream::new(table.arrow_schema(), futures::stream::iter(broken));
    let error = target.load(&run, &table, &Partition::whole(), None, stream).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "the stream's own error: {error}");
    assert_eq!(ids(fixture, &table.name).await, Vec::<i64>::new());
    load(&*target, &run, &table, 0, &rows).await.unwrap();
    target.finish(&run, &table).await.unwrap();
    assert_eq!(ids(fixture, &table.name).await.len(), 300);
}

/// A load that nobody waits for any more leaves nothing.
pub(super) async fn a_dropped_load_leaves_nothing(fixture: &dyn Fixture) {
    let (table, rows) = plain(fixture, "dropped_load", 300);
    let target = fixture.target().await;
    let run = target.begin("dropped-load").await.unwrap().run;
    prepare(&*target, &run, &table, 1).await;
    let endless =
        futures::stream::iter(rows.clone().into_iter().map(Ok)).chain(futures::stream::pending());
    let stream = BatchStream::new(table.arrow_schema(), endless);
    let whole = Partition::whole();
    let loading = target.load(&run, &table, &whole, None, stream);
    let waited = tokio::time::timeout(std::time::Duration::from_millis(200), loading).await;
    assert!(waited.is_err(), "the stream has no end");
    assert_eq!(ids(fixture, &table.name).await, Vec::<i64>::new());
    load(&*target, &run, &table, 0, &rows).await.unwrap();
    target.finish(&run, &table).await.unwrap();
    assert_eq!(ids(fixture, &table.name).await.len(), 300);
}

/// The run that began last is the only one that can write.
pub(super) async fn a_newer_run_fences_the_older(fixture: &dyn Fixture) {
    let (table, rows) = plain(fixture, "fenced", 100);
    let (older_target, newer_target) = (fixture.target().await, fixture.target().await);
    let older = older_target.begin("fenced").await.unwrap().run;
    prepare(&*older_target, &older, &table, 1).await;
    let newer = newer_target.begin("fenced").await.unwrap().run;
    assert!(newer.epoch > older.epoch);
    let stopped = |error: Error| assert_eq!(error.kind(), ErrorKind::Stopped, "{error}");
    stopped(load(&*older_target, &older, &table, 0, &rows).await.unwrap_err());
    stopped(older_target.finish(&older, &table).await.unwrap_err());
    let mode = TablePrepMode::DropAndCreate;
    stopped(older_target.prepare(&older, &table, mode, &parts(1), None).await.unwrap_err());
    load(&*newer_target, &newer, &table, 0, &rows).await.unwrap();
    newer_target.finish(&newer, &table).await.unwrap();
    assert_eq!(ids(fixture, &table.name).await.len(), 100);
    // Another task is not concerned.
    fixture.target().await.begin("fenced-not").await.unwrap();
}

/// What was loaded is known after a restart, and nothing else.
pub(super) async fn progress_survives_a_restart(fixture: &dyn Fixture) {
    let (table, rows) = plain(fixture, "restart", 200);
    let receipt = {
        let target = fixture.target().await;
        let run = target.begin("restart").await.unwrap().run;
        prepare(&*target, &run, &table, 2).await;
        load(&*target, &run, &table, 1, &rows).await.unwrap()
    };
    let target = fixture.target().await;
    let progress = target.begin("restart").await.unwrap();
    let held = &progress.tables[&table.name];
    assert_eq!(held.receipts, [receipt]);
    assert_eq!(held.partitions, parts(2));
    assert_eq!((&held.position, held.finished), (&Some(position()), false));
    load(&*target, &progress.run, &table, 0, &[]).await.unwrap();
    target.finish(&progress.run, &table).await.unwrap();
    let progress = fixture.target().await.begin("restart").await.unwrap();
    assert!(progress.tables[&table.name].finished);
    assert_eq!(ids(fixture, &table.name).await.len(), 200);
    // A new load of the table forgets the old one.
    let target = fixture.target().await;
    let run = target.begin("restart").await.unwrap().run;
    prepare(&*target, &run, &table, 1).await;
    let progress = target.begin("restart").await.unwrap();
    assert_eq!(progress.tables[&table.name].receipts, []);
    assert!(!progress.tables[&table.name].finished);
    assert_eq!(ids(fixture, &table.name).await, Vec::<i64>::new());
}

/// Rows that are there stay, go, or go with their table; or the mode is refused.
pub(super) async fn preparation_modes_do_as_they_say(fixture: &dyn Fixture) {
    let (table, rows) = plain(fixture, "modes", 100);
    let (more, _) = plain(fixture, "modes", 0);
    let moved: Vec<RecordBatch> = rows
        .iter()
        .map(|batch| {
            let ids = super::ids_of(std::slice::from_ref(batch));
            let ids: ArrayRef =
                Arc::new(Int64Array::from_iter_values(ids.iter().map(|i| i + 1000)));
            RecordBatch::try_new(more.arrow_schema(), vec![ids, Arc::clone(batch.column(1))])
                .unwrap()
        })
        .collect();
    for (mode, kept) in [
        (TablePrepMode::DoNothing, 100),
        (TablePrepMode::TruncateBeforeLoad, 0),
        (TablePrepMode::DropAndCreate, 0),
    ] {
        load_table(fixture, &table, &rows).await;
        let target = fixture.target().await;
        let run = target.begin("modes").await.unwrap().run;
        match target.prepare(&run, &table, mode, &parts(1), None).await {
            Ok(()) => {}
            Err(error) => {
                assert_eq!((mode, error.kind()), (TablePrepMode::DoNothing, ErrorKind::Schema));
                assert_eq!(ids(fixture, &table.name).await.len(), 100, "nothing was touched");
                continue;
            }
        }
        load(&*target, &run, &table, 0, &moved).await.unwrap();
        target.finish(&run, &table).await.unwrap();
        let found = ids(fixture, &table.name).await;
        assert_eq!(found.len(), 100 + kept, "{mode:?}");
    }
}

/// A table without rows is a table.
pub(super) async fn a_table_without_rows_is_there(fixture: &dyn Fixture) {
    let (table, _) = plain(fixture, "empty", 0);
    load_table(fixture, &table, &[]).await;
    let source = fixture.source().await;
    let back = described(&*source, &table.name).await.expect("the empty table");
    assert_eq!(back.columns.len(), 2);
    assert_eq!(back.primary_key, ["id"]);
    assert_eq!(ids(fixture, &table.name).await, Vec::<i64>::new());
}

/// No name is taken for anything but a name.
pub(super) async fn names_are_only_names(fixture: &dyn Fixture) {
    for name in [
        "select",
        "a b",
        "it's",
        "quo\"ted",
        "sla/sh",
        "..",
        "per%20cent",
        "Größe 日本",
        "semi;colon",
    ] {
        let table = TableSchema::new(
            TableName::new(fixture.schema(), name),
            vec![
                Column::new("id", LogicalType::Int64).required(),
                Column::new(name, LogicalType::text()),
                Column::new("group", LogicalType::text()),
            ],
        )
        .with_primary_key(["id"]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![1])),
            Arc::new(StringArray::from(vec!["x"])),
            Arc::new(StringArray::from(vec![None::<&str>])),
        ];
        let batch = RecordBatch::try_new(table.arrow_schema(), columns).unwrap();
        load_table(fixture, &table, &[batch]).await;
        let source = fixture.source().await;
        let back = described(&*source, &table.name).await;
        let back = back.unwrap_or_else(|| panic!("table {name:?} is not there"));
        assert_eq!(back.columns[1].name, name);
        assert_eq!(ids(fixture, &table.name).await, [1], "{name:?}");
    }
}
