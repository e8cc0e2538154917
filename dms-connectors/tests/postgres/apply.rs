//! Changes applied to a PostgreSQL target: steps on rows, and what they insist on.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use dms_connectors::postgres::PostgresTarget;
use dms_core::batch::BatchStream;
use dms_core::change::Identity;
use dms_core::endpoint::{
    Apply, ChangeTarget, Partition, ReadRequest, Run, Step, TablePrepMode, Target,
};
use dms_core::mapping::TableMapping;
use dms_core::position::Position;
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_core::{ErrorKind, Result};
use futures::TryStreamExt;

use crate::{server, settings, source, text_of};

/// A target and a run of a task on it.
pub(crate) struct Desk {
    pub(crate) target: Arc<PostgresTarget>,
    pub(crate) run: Run,
}

impl Desk {
    pub(crate) async fn open(url: &str) -> Self {
        let target = PostgresTarget::open(settings(url));
        let run = target.begin("test").await.unwrap().run;
        Self { target, run }
    }

    /// Makes a table with its keys, and rows loaded as a full load does.
    pub(crate) async fn load(&self, table: &TableSchema, rows: Vec<RecordBatch>) {
        let whole = Partition::whole();
        let (target, run) = (&self.target, &self.run);
        let partitions = std::slice::from_ref(&whole);
        target.prepare(run, table, TablePrepMode::DropAndCreate, partitions, None).await.unwrap();
        let rows = BatchStream::from_batches(table.arrow_schema(), rows);
        target.load(run, table, &whole, None, rows).await.unwrap();
        target.finish(run, table).await.unwrap();
    }

    pub(crate) async fn begin(&self) -> Box<dyn Apply> {
        self.target.begin_apply(&self.run).await.unwrap()
    }

    /// Applies steps in one transaction.
    pub(crate) async fn apply(&self, steps: &[Step]) -> Result<()> {
        let mut apply = self.target.begin_apply(&self.run).await?;
        for step in steps {
            apply.step(step, false).await?;
        }
        apply.commit(&Position::new(1, "0/1"), Some(1_700_000_000_123_456)).await
    }
}

/// A table of a source with its rows.
pub(crate) async fn read(url: &str, name: &str) -> (Arc<TableSchema>, RecordBatch) {
    let source = source(url).await;
    let mapping = TableMapping::new().include("%", name);
    let tables = source.discover(mapping.selection()).await.unwrap().tables;
    let mut table = tables.into_iter().find(|table| table.name.name == name).unwrap();
    let snapshot = source.snapshot(std::slice::from_ref(&table), 1).await.unwrap();
    let request = ReadRequest::whole(Arc::new(table.clone()));
    let batches: Vec<_> = snapshot.read(request).await.unwrap().try_collect().await.unwrap();
    for column in &mut table.columns {
        column.generated = false;
    }
    let rows = concat_batches(&table.arrow_schema(), &batches).unwrap();
    (Arc::new(table), rows)
}

pub(crate) fn key() -> Identity {
    Identity::Key(vec![0])
}

pub(crate) fn insert(table: &Arc<TableSchema>, rows: &RecordBatch) -> Step {
    Step::Insert { table: Arc::clone(table), rows: rows.clone() }
}

pub(crate) fn upsert(table: &Arc<TableSchema>, rows: &RecordBatch) -> Step {
    Step::Upsert { table: Arc::clone(table), identity: key(), rows: rows.clone() }
}

pub(crate) fn delete(table: &Arc<TableSchema>, rows: &RecordBatch, strict: bool) -> Step {
    let rows = rows.project(&[0]).unwrap();
    Step::Delete { table: Arc::clone(table), identity: key(), rows, strict }
}

pub(crate) fn delete_whole(table: &Arc<TableSchema>, rows: &RecordBatch, strict: bool) -> Step {
    let identity = Identity::WholeRow;
    Step::Delete { table: Arc::clone(table), identity, rows: rows.clone(), strict }
}

/// All columns but the first become what they are in `rows`.
pub(crate) fn update(table: &Arc<TableSchema>, rows: &RecordBatch) -> Step {
    let set = (1..table.columns.len()).collect();
    Step::Update { table: Arc::clone(table), identity: key(), set, rows: rows.clone() }
}

/// `t (id int, v text UNIQUE)`
pub(crate) fn pairs_table() -> Arc<TableSchema> {
    let columns =
        vec![Column::new("id", LogicalType::Int32), Column::new("v", LogicalType::text())];
    let mut table =
        TableSchema::new(TableName::new("public", "t"), columns).with_primary_key(["id"]);
    table.columns[0].nullable = false;
    table.unique_indexes =
        vec![dms_core::schema::UniqueIndex { name: "v".into(), columns: vec!["v".into()] }];
    Arc::new(table)
}

pub(crate) fn pairs(rows: &[(i32, &str)]) -> RecordBatch {
    let ids: Int32Array = rows.iter().map(|(id, _)| Some(*id)).collect();
    let texts: StringArray = rows.iter().map(|(_, v)| Some(*v)).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(texts)];
    RecordBatch::try_new(pairs_table().arrow_schema(), columns).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn net_changes_with_swapped_values() {
    let url = server::shared().database().await;
    let (desk, table) = (Desk::open(&url).await, pairs_table());
    desk.load(&table, vec![pairs(&[(1, "a"), (2, "b"), (3, "c"), (4, "d")])]).await;
    // 1 and 2 exchange what is unique, 3 goes, 4 changes, 5 comes.
    let swapped = pairs(&[(1, "b"), (2, "a")]);
    let steps = [
        delete(&table, &pairs(&[(3, "")]), true),
        upsert(&table, &swapped),
        update(&table, &pairs(&[(4, "D")])),
        insert(&table, &pairs(&[(5, "e")])),
    ];
    desk.apply(&steps).await.unwrap();
    assert_eq!(text_of(&url, "t").await, ["(1,b)", "(2,a)", "(4,D)", "(5,e)"]);
    // Keys exchanged: all go, then they come.
    let both = pairs(&[(1, "a"), (2, "b")]);
    desk.apply(&[delete(&table, &both, true), insert(&table, &both)]).await.unwrap();
    assert_eq!(text_of(&url, "t").await, ["(1,a)", "(2,b)", "(4,D)", "(5,e)"]);
    // Nothing to do is nothing.
    let none = pairs(&[]);
    let steps = [delete(&table, &none, true), update(&table, &none), insert(&table, &none)];
    desk.apply(&steps).await.unwrap();
    assert_eq!(text_of(&url, "t").await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_have_to_be_what_the_source_says() {
    let url = server::shared().database().await;
    let (desk, table) = (Desk::open(&url).await, pairs_table());
    desk.load(&table, vec![pairs(&[(1, "a"), (2, "b")])]).await;
    let rows = pairs(&[(1, "x"), (7, "y"), (8, "z")]);
    for (step, says) in [
        (delete(&table, &rows, true), "2 of 3 rows that were to be deleted"),
        (update(&table, &rows), "2 of 3 rows that were to be updated"),
        (insert(&table, &rows), "t_pkey"),
        (insert(&table, &pairs(&[(9, "a")])), "t_v_idx"),
        (delete_whole(&table, &rows, true), "3 of 3 rows that were to be deleted"),
    ] {
        let error = desk.apply(std::slice::from_ref(&step)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.context_value("table"), Some("public.t"));
        // The same with a guard leaves the transaction as it was.
        let mut apply = desk.begin().await;
        apply.step(&insert(&table, &pairs(&[(100, "kept")])), true).await.unwrap();
        let error = apply.step(&step, true).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        apply.step(&delete(&table, &pairs(&[(100, "")]), true), true).await.unwrap();
        apply.step(&update(&table, &pairs(&[(2, "b")])), false).await.unwrap();
        apply.commit(&Position::new(2, "0/2"), None).await.unwrap();
        assert_eq!(text_of(&url, "t").await, ["(1,a)", "(2,b)"]);
    }
    // Rows that may be missing.
    desk.apply(&[delete(&table, &rows, false)]).await.unwrap();
    assert_eq!(text_of(&url, "t").await, ["(2,b)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_without_a_value_are_refused() {
    let url = server::shared().database().await;
    let desk = Desk::open(&url).await;
    let mut table = (*pairs_table()).clone();
    (table.primary_key, table.columns[0].nullable) = (Vec::new(), true);
    table.unique_indexes.clear();
    let table = Arc::new(table);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![Some(1), None])),
        Arc::new(StringArray::from(vec!["a", "b"])),
    ];
    let rows = RecordBatch::try_new(table.arrow_schema(), columns).unwrap();
    desk.load(&table, vec![rows.clone()]).await;
    for step in [delete(&table, &rows, true), update(&table, &rows), upsert(&table, &rows)] {
        let error = desk.apply(&[step]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
        assert!(error.to_string().contains("NULL in their key"), "{error}");
        assert_eq!(error.context_value("column"), Some("id"));
    }
    // A key that two rows of the target share.
    let client = server::connect(&url).await;
    client.batch_execute("INSERT INTO t VALUES (1, 'again')").await.unwrap();
    for step in [delete(&table, &pairs(&[(1, "")]), false), update(&table, &pairs(&[(1, "z")]))] {
        let error = desk.apply(&[step]).await.unwrap_err();
        assert!(error.to_string().contains("the key is not unique"), "{error}");
    }
    assert_eq!(text_of(&url, "t").await, ["(,b)", "(1,a)", "(1,again)"]);
    let by_row = [delete_whole(&table, &rows, true)];
    desk.apply(&by_row).await.unwrap();
    assert_eq!(text_of(&url, "t").await, ["(1,again)"]);
}
