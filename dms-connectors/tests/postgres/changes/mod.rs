//! Changes, against what a load finds afterwards.

mod ddl;
mod failover;
mod meet;
mod operations;
mod refused;
mod resume;
mod shapes;
mod values;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dms_connectors::postgres::{PostgresSettings, PostgresSource};
use dms_core::change::{ChangeEvent, ChangeRecord, ChangeRows, Identity, Operation};
use dms_core::endpoint::{
    ChangeFeed, ChangeSource, EndpointSettings, FeedRequest, ReadRequest, Snapshot, Source,
};
use dms_core::mapping::TableMapping;
use dms_core::position::Position;
use dms_core::schema::{TableName, TableSchema};
use dms_core::value::Value;
use futures::StreamExt;
use tokio_postgres::Client;

use crate::server::{self, Server};
use crate::settings;

const TASK: &str = "test";

/// A server whose log holds changes, for the tests of this folder.
fn logical() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(LOGICAL))
}

const LOGICAL: &[&str] =
    &["wal_level=logical", "max_replication_slots=60", "max_wal_senders=60", "autovacuum=off"];

/// Settings of an endpoint with options.
fn with_options(url: &str, options: serde_json::Value) -> PostgresSettings {
    let mut endpoint = EndpointSettings::new(url);
    endpoint.options = options.as_object().unwrap().clone();
    PostgresSettings::from_endpoint(&endpoint).unwrap()
}

/// A database whose changes are captured.
struct Capture {
    url: String,
    client: Client,
    source: Arc<PostgresSource>,
    tables: Vec<TableSchema>,
    from: Position,
}

impl Capture {
    /// Of a new database, with these tables.
    async fn of(sql: &str) -> Self {
        let url = logical().database().await;
        Self::at(url, sql).await
    }

    async fn at(url: String, sql: &str) -> Self {
        let settings = settings(&url);
        Self::with(settings, url, sql).await
    }

    async fn with(settings: PostgresSettings, url: String, sql: &str) -> Self {
        let client = server::connect(&url).await;
        client.batch_execute(sql).await.unwrap();
        let source = PostgresSource::open(settings).await.unwrap();
        let tables = tables(&*source).await;
        source.check_capture(TASK, &tables).await.unwrap();
        let from = source.begin_capture(TASK, &tables).await.unwrap();
        Self { url, client, source, tables, from }
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    async fn feed(&self) -> ChangeFeed {
        self.feed_after(&self.from, 1 << 20).await
    }

    async fn feed_after(&self, after: &Position, event_bytes: usize) -> ChangeFeed {
        self.source.changes(self.request(after, event_bytes)).await.unwrap()
    }

    fn request(&self, after: &Position, event_bytes: usize) -> FeedRequest {
        FeedRequest {
            task: TASK.into(),
            tables: self.tables.clone(),
            after: after.clone(),
            event_bytes,
            prefetch_bytes: 4 << 20,
        }
    }

    /// The end of the server's log.
    async fn end(&self) -> u64 {
        self.source.log_status(TASK).await.unwrap().end.order
    }

    /// What a feed delivers up to now.
    async fn events(&self, feed: &mut ChangeFeed) -> Vec<ChangeEvent> {
        let end = self.end().await;
        let mut events = Vec::new();
        loop {
            let next = tokio::time::timeout(Duration::from_secs(30), feed.events.next()).await;
            let event = next.expect("the feed stands still").unwrap().unwrap();
            let reached = match &event {
                ChangeEvent::Idle { position } => position.order,
                ChangeEvent::Rows(rows) => {
                    let last = rows.transactions.last().unwrap();
                    if last.complete { next_of(&last.position) - 1 } else { 0 }
                }
                _ => 0,
            };
            events.push(event);
            if reached >= end {
                return events;
            }
        }
    }

    /// Follows the feed up to now.
    async fn follow(&self, feed: &mut ChangeFeed, model: &mut Model) {
        for event in self.events(feed).await {
            model.apply(&event);
        }
    }

    /// What a load finds now.
    async fn loaded(&self) -> (Position, BTreeMap<TableName, Rows>) {
        let snapshot = self.source.log_snapshot(TASK, &self.tables, 1).await.unwrap();
        (snapshot.position().unwrap(), rows_of(&*snapshot, &self.tables).await)
    }

    async fn assert_same(&self, model: &Model) {
        let (_, loaded) = self.loaded().await;
        for (table, rows) in loaded {
            let held = model.tables.get(&table).cloned().unwrap_or_default();
            assert_eq!(held.keys().collect::<Vec<_>>(), rows.keys().collect::<Vec<_>>(), "{table}");
            for (key, row) in &rows {
                assert_eq!(held[key], *row, "{table} {key}");
            }
        }
    }
}

async fn tables(source: &dyn Source) -> Vec<TableSchema> {
    let mapping = TableMapping::new().include("%", "%");
    source.discover(mapping.selection()).await.unwrap().tables
}

/// Where the log goes on after a position.
fn next_of(position: &Position) -> u64 {
    let mut parts = position.token.rsplit('/').map(|part| u64::from_str_radix(part, 16).unwrap());
    let low = parts.next().unwrap();
    parts.next().unwrap() << 32 | low
}

/// Rows by the text of all of their values or of their key, and how often each is there.
type Rows = BTreeMap<String, Vec<Vec<Value>>>;

fn key_of(identity: &Identity, row: &[Value]) -> String {
    let columns = identity.columns(row.len());
    columns.iter().map(|at| format!("{:?};", row[*at])).collect()
}

async fn rows_of(snapshot: &dyn Snapshot, tables: &[TableSchema]) -> BTreeMap<TableName, Rows> {
    let mut all = BTreeMap::new();
    for table in tables {
        let mut rows = Rows::new();
        let mut read = snapshot.read(ReadRequest::whole(Arc::new(table.clone()))).await.unwrap();
        while let Some(batch) = read.next().await {
            let batch = batch.unwrap();
            for row in 0..batch.num_rows() {
                let values: Vec<Value> = table
                    .columns
                    .iter()
                    .zip(batch.columns())
                    .map(|(c, array)| Value::from_array(array, row, &c.logical_type).unwrap())
                    .collect();
                let identity = match table.primary_key.is_empty() {
                    true => Identity::WholeRow,
                    false => Identity::Key(
                        table.primary_key.iter().map(|c| table.column_index(c).unwrap()).collect(),
                    ),
                };
                rows.entry(key_of(&identity, &values)).or_default().push(values);
            }
        }
        all.insert(table.name.clone(), rows);
    }
    all
}

/// Changes applied in the plainest way: each has to fit what is there.
#[derive(Default)]
struct Model {
    tables: BTreeMap<TableName, Rows>,
    shapes: BTreeMap<TableName, (Arc<TableSchema>, Identity)>,
    operations: Vec<Operation>,
    /// Positions of complete transactions, in order.
    transactions: Vec<Position>,
    ids: Vec<String>,
    open: Option<String>,
}

impl Model {
    fn holding(tables: BTreeMap<TableName, Rows>) -> Self {
        Self { tables, ..Self::default() }
    }

    fn apply(&mut self, event: &ChangeEvent) {
        match event {
            ChangeEvent::Rows(rows) => self.rows(rows),
            ChangeEvent::Truncate { tables, transaction } => {
                assert!(!transaction.complete && transaction.end == 0);
                self.open = Some(transaction.id.clone());
                for table in tables {
                    self.tables.entry(table.clone()).or_default().clear();
                }
            }
            ChangeEvent::Schema { table, identity, column_ids, .. } => {
                assert_eq!(column_ids.len(), table.columns.len());
                let shape = (Arc::clone(table), identity.clone());
                self.shapes.insert(table.name.clone(), shape);
            }
            ChangeEvent::Idle { position } => {
                assert_eq!(self.open, None, "no transaction is open");
                assert!(self.transactions.last().is_none_or(|last| last.order < position.order));
            }
            other => panic!("{other:?}"),
        }
    }

    fn rows(&mut self, rows: &ChangeRows) {
        let mut records: Vec<(TableName, Identity, ChangeRecord)> = Vec::new();
        for batch in &rows.batches {
            let (shape, identity) = &self.shapes[&batch.table().name];
            assert_eq!((shape, identity), (batch.table(), batch.identity()));
            for record in batch.records() {
                records.push((batch.table().name.clone(), identity.clone(), record.unwrap()));
            }
        }
        records.sort_by_key(|(_, _, record)| record.sequence);
        let mut end = 0;
        for (at, transaction) in rows.transactions.iter().enumerate() {
            assert!(transaction.end >= end);
            end = transaction.end;
            assert!(transaction.complete || at + 1 == rows.transactions.len());
            if let Some(open) = self.open.take() {
                assert_eq!(open, transaction.id, "transactions do not interleave");
            }
            if transaction.complete {
                let order = transaction.position.order;
                assert!(self.transactions.last().is_none_or(|last| last.order < order));
                self.transactions.push(transaction.position.clone());
                self.ids.push(transaction.id.clone());
            } else {
                self.open = Some(transaction.id.clone());
            }
        }
        assert_eq!(end, records.len() as u64, "every record belongs to a transaction");
        let mut before = None;
        for (at, (table, identity, record)) in records.into_iter().enumerate() {
            assert_eq!(record.sequence, at as u64);
            self.operations.push(record.operation);
            let rows = self.tables.entry(table).or_default();
            one(rows, &identity, record, &mut before);
        }
        assert_eq!(before, None, "an update follows its row as it was");
    }

    fn table(&self, name: &str) -> &Rows {
        &self.tables[&TableName::new("public", name)]
    }
}

fn one(rows: &mut Rows, identity: &Identity, record: ChangeRecord, before: &mut Option<String>) {
    let whole = |values: Vec<Option<Value>>| -> Vec<Value> {
        values.into_iter().map(|value| value.unwrap_or(Value::Null)).collect()
    };
    let remove = |rows: &mut Rows, key: &str| {
        let alike = rows.get_mut(key).unwrap_or_else(|| panic!("there is no row {key}"));
        let row = alike.pop().unwrap();
        if alike.is_empty() {
            rows.remove(key);
        }
        row
    };
    match record.operation {
        Operation::Insert => {
            let row = whole(record.values);
            let alike = rows.entry(key_of(identity, &row)).or_default();
            assert!(
                alike.is_empty() || *identity == Identity::WholeRow,
                "{row:?} is there already"
            );
            alike.push(row);
        }
        Operation::UpdateBefore => *before = Some(key_of(identity, &whole(record.values))),
        Operation::Update => {
            let now = whole(record.values.clone());
            let key = before.take().unwrap_or_else(|| key_of(identity, &now));
            let was = remove(rows, &key);
            let now: Vec<Value> =
                record.values.into_iter().zip(was).map(|(now, was)| now.unwrap_or(was)).collect();
            rows.entry(key_of(identity, &now)).or_default().push(now);
        }
        Operation::Delete => {
            remove(rows, &key_of(identity, &whole(record.values)));
        }
        other => panic!("{other:?}"),
    }
}
