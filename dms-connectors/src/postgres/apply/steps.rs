//! Steps on rows, each as statements that take all rows at once.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use bytes::Bytes;
use dms_core::batch::batch_bytes;
use dms_core::change::Identity;
use dms_core::schema::TableSchema;
use dms_core::{Error, ErrorKind, Result};
use futures::SinkExt;
use tokio_postgres::{Client, Statement};

use super::arrays::{self, Encoded};
use super::columns::{Pair, TargetTable};
use super::pipeline::Pipeline;
use super::session::Session;
use super::sql;
use crate::postgres::copy::Encoder;
use crate::postgres::error::convert;

/// From how many rows on a `COPY` is faster than an `INSERT`.
const COPY_ROWS: usize = 500;
/// From how many bytes on it is taken because it does not need them all in one message.
const COPY_BYTES: usize = 1 << 20;
/// How much of them is sent at once.
const MESSAGE_BYTES: usize = 64 * 1024;

/// How statements that no index finds rows for are planned: each time, and as a scan if that is less
/// work. (A setting that an older server does not have is left out.)
const BY_SIZE: &str = "SELECT pg_catalog.set_config(s.name, v.value, true) \
    FROM pg_catalog.pg_settings s JOIN (VALUES ('enable_seqscan', 'on'), \
        ('enable_mergejoin', 'on'), ('plan_cache_mode', 'force_custom_plan')) v(name, value) \
        USING (name)";
/// How all others are planned, which is the session's way.
const BY_INDEX: &str = "SELECT pg_catalog.set_config(s.name, v.value, true) \
    FROM pg_catalog.pg_settings s JOIN (VALUES ('enable_seqscan', 'off'), \
        ('enable_mergejoin', 'off'), ('plan_cache_mode', 'force_generic_plan')) v(name, value) \
        USING (name)";

/// How many rows a statement has to concern.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Exactly,
    AtMost,
}

/// What is done to rows of a table.
pub(super) struct Rows<'a> {
    pub(super) session: &'a mut Session,
    pub(super) pipeline: &'a mut Pipeline,
    pub(super) table: &'a TableSchema,
}

impl Rows<'_> {
    pub(super) async fn delete(
        &mut self,
        identity: &Identity,
        rows: &RecordBatch,
        strict: bool,
    ) -> Result<()> {
        let places = identity.columns(self.table.columns.len());
        let target = self.target().await?;
        let pairs = pairs_of(self.table, &places, &target)?;
        let expected = if strict { Expected::Exactly } else { Expected::AtMost };
        let by_size = match identity {
            Identity::Key(_) => !target.is_indexed(&pairs),
            Identity::WholeRow => true,
        };
        if by_size {
            self.plan_by_size(true).await?;
        }
        for part in arrays::parts(rows) {
            let sql = match identity {
                Identity::Key(_) => {
                    no_nulls(&pairs, &part)?;
                    sql::delete(&self.table.name, &pairs)
                }
                Identity::WholeRow => {
                    let holds = part.columns().iter().map(|column| column.null_count() == 0);
                    sql::delete_whole(&self.table.name, &pairs, &holds.collect::<Vec<_>>())
                }
            };
            let parameters = encode(&pairs, part.columns())?;
            self.execute(&sql, parameters, part.num_rows(), expected, "deleted").await?;
        }
        if by_size { self.plan_by_size(false).await } else { Ok(()) }
    }

    pub(super) async fn update(
        &mut self,
        identity: &Identity,
        set: &[usize],
        rows: &RecordBatch,
    ) -> Result<()> {
        let Identity::Key(key) = identity else { return Err(no_key()) };
        if set.is_empty() {
            return Ok(());
        }
        let target = self.target().await?;
        let places: Vec<usize> = key.iter().chain(set).copied().collect();
        let pairs = pairs_of(self.table, &places, &target)?;
        let by_size = !target.is_indexed(pairs.get(..key.len()).unwrap_or_default());
        if by_size {
            self.plan_by_size(true).await?;
        }
        for part in arrays::parts(rows) {
            no_nulls(pairs.get(..key.len()).unwrap_or_default(), &part)?;
            let sql = sql::update(&self.table.name, &pairs, key.len());
            let parameters = encode(&pairs, part.columns())?;
            let count = part.num_rows();
            self.execute(&sql, parameters, count, Expected::Exactly, "updated").await?;
        }
        if by_size { self.plan_by_size(false).await } else { Ok(()) }
    }

    pub(super) async fn insert(&mut self, rows: &RecordBatch) -> Result<()> {
        let places: Vec<usize> = (0..self.table.columns.len()).collect();
        let target = self.target().await?;
        let pairs = pairs_of(self.table, &places, &target)?;
        let is_large = rows.num_rows() >= COPY_ROWS || batch_bytes(rows) >= COPY_BYTES;
        let copies = is_large && !pairs.iter().any(|pair| pair.is_text());
        for part in arrays::parts(rows) {
            if copies {
                self.copy(&pairs, &part).await?;
                continue;
            }
            let sql = sql::insert(&self.table.name, &pairs);
            let parameters = encode(&pairs, part.columns())?;
            let count = part.num_rows();
            self.execute(&sql, parameters, count, Expected::Exactly, "inserted").await?;
        }
        Ok(())
    }

    /// A row that is there goes and comes again, which no unique index minds, even if rows exchange
    /// values. It is updated instead where that would take more along: rows of other tables, by
    /// foreign keys that act, or values of columns that the target alone has.
    pub(super) async fn upsert(&mut self, identity: &Identity, rows: &RecordBatch) -> Result<()> {
        let Identity::Key(key) = identity else { return Err(no_key()) };
        let places: Vec<usize> = (0..self.table.columns.len()).collect();
        let target = self.target().await?;
        let pairs = pairs_of(self.table, &places, &target)?;
        let keys = pairs_of(self.table, key, &target)?;
        if self.session.is_replica && target.columns.len() == pairs.len() {
            let of_key = rows.project(key)?;
            self.delete(identity, &of_key, false).await?;
            return self.insert(rows).await;
        }
        let by_size = !target.is_indexed(&keys);
        if by_size {
            self.plan_by_size(true).await?;
        }
        for part in arrays::parts(rows) {
            no_nulls(&keys, &part.project(key)?)?;
            let parameters = encode(&pairs, part.columns())?;
            let count = part.num_rows();
            let (update, insert) = sql::upsert(&self.table.name, &pairs, key);
            let again = parameters.clone();
            self.execute(&update, again, count, Expected::AtMost, "updated").await?;
            self.execute(&insert, parameters, count, Expected::AtMost, "inserted").await?;
        }
        if by_size { self.plan_by_size(false).await } else { Ok(()) }
    }

    async fn target(&mut self) -> Result<Arc<TargetTable>> {
        self.session.table(&self.table.name, self.pipeline).await
    }

    /// Lets the planner choose by the sizes of table and rows for as long as no index finds rows.
    async fn plan_by_size(&mut self, by_size: bool) -> Result<()> {
        let sql = if by_size { BY_SIZE } else { BY_INDEX };
        let client = Arc::clone(&self.session.client);
        let answer = async move {
            let done = client.batch_execute(sql).await;
            done.map_err(|error| convert(error, "changes cannot be applied"))
        };
        self.pipeline.send(sql.len(), answer).await
    }

    async fn execute(
        &mut self,
        sql: &str,
        parameters: Vec<Encoded>,
        rows: usize,
        expected: Expected,
        done: &'static str,
    ) -> Result<()> {
        let statement = self.session.statement(sql, self.pipeline).await?;
        let (client, table) = (Arc::clone(&self.session.client), self.table.name.clone());
        let bytes = parameters.iter().map(Encoded::len).sum();
        let answer = async move {
            let executed = client.execute_raw(&statement, parameters).await;
            let executed = executed.map_err(|error| refused(error, done));
            let checked = executed.and_then(|count| check(count, rows, expected, done));
            checked.map_err(|error| error.context("table", table))
        };
        self.pipeline.send(bytes, answer).await
    }

    /// Inserts many rows.
    async fn copy(&mut self, pairs: &[Pair<'_>], rows: &RecordBatch) -> Result<()> {
        let encoded = Encoder::new(TableSchema::clone(self.table)).encode(rows)?;
        let sql = sql::copy(&self.table.name, pairs);
        let statement = self.session.statement(&sql, self.pipeline).await?;
        let (client, table) = (Arc::clone(&self.session.client), self.table.name.clone());
        let (bytes, rows) = (encoded.len(), rows.num_rows());
        let answer = async move {
            let copied = copy(&client, &statement, encoded).await;
            let copied = copied.map_err(|error| refused(error, "inserted"));
            let checked =
                copied.and_then(|count| check(count, rows, Expected::Exactly, "inserted"));
            checked.map_err(|error| error.context("table", table))
        };
        self.pipeline.send(bytes, answer).await
    }
}

async fn copy(
    client: &Client,
    statement: &Statement,
    rows: Bytes,
) -> std::result::Result<u64, tokio_postgres::Error> {
    let mut sink = std::pin::pin!(client.copy_in::<_, Bytes>(statement).await?);
    sink.feed(Encoder::header()).await?;
    for at in (0..rows.len()).step_by(MESSAGE_BYTES) {
        sink.feed(rows.slice(at..rows.len().min(at + MESSAGE_BYTES))).await?;
    }
    sink.feed(Encoder::end()).await?;
    sink.finish().await
}

/// The columns at these places, with those of the target.
fn pairs_of<'a>(
    table: &'a TableSchema,
    places: &[usize],
    target: &'a TargetTable,
) -> Result<Vec<Pair<'a>>> {
    if places.is_empty() {
        let message = "a table or key without columns takes no changes";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    places.iter().map(|place| Pair::of(table, *place, target)).collect()
}

fn encode(pairs: &[Pair<'_>], arrays: &[ArrayRef]) -> Result<Vec<Encoded>> {
    if pairs.len() != arrays.len() {
        return Err(Error::schema("the rows of a step do not have the columns of their table"));
    }
    let columns = pairs.iter().zip(arrays);
    columns.map(|(pair, array)| arrays::encode(pair.column, array, pair.element())).collect()
}

/// Refuses rows without a key; `rows` begins with its columns.
fn no_nulls(key: &[Pair<'_>], rows: &RecordBatch) -> Result<()> {
    let nulls = key.iter().zip(rows.columns()).find(|(_, array)| array.null_count() > 0);
    match nulls {
        None => Ok(()),
        Some((pair, array)) => {
            let message = format!(
                "{} rows have NULL in their key, by which no row is found; the key of a table \
                 must not be NULL at the source",
                array.null_count()
            );
            Err(Error::new(ErrorKind::Constraint, message).context("column", &pair.column.name))
        }
    }
}

fn no_key() -> Error {
    Error::new(ErrorKind::Unsupported, "rows without a key cannot be updated where they are")
}

fn refused(error: tokio_postgres::Error, done: &str) -> Error {
    convert(error, &format!("rows cannot be {done}"))
}

fn check(count: u64, rows: usize, expected: Expected, done: &str) -> Result<()> {
    let rows = rows as u64;
    let message = match expected {
        _ if count == rows => return Ok(()),
        Expected::AtMost if count < rows => return Ok(()),
        _ if count < rows => format!(
            "{} of {rows} rows that were to be {done} are not there: the target was changed by \
             somebody else, or is not of this source; load the table again",
            rows - count
        ),
        _ => format!(
            "{rows} rows were to be {done}, and {count} have their keys: the key is not unique at \
             the target; load the table again"
        ),
    };
    Err(Error::new(ErrorKind::Constraint, message))
}
