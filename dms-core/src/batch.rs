//! Streams of record batches, and the bounded channel between two stages of the pipeline.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::executor::block_on;
use futures::stream::{BoxStream, Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{Error, Result};

/// When a reader ends a batch: at whichever bound comes first. One row is never split, so a batch
/// holds at least one row however large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchLimit {
    /// The most rows of a batch.
    pub rows: usize,
    /// About the most bytes of a batch, as Arrow holds it.
    pub bytes: usize,
}

impl Default for BatchLimit {
    /// 65,536 rows amortise every per-batch cost; 2 MiB bounds memory when rows are large, and was
    /// measured to cost nothing against 8 MiB when they are not.
    fn default() -> Self {
        Self { rows: 65_536, bytes: 2 << 20 }
    }
}

/// The key by which a field's metadata names the form of rows.
const FORM: &str = "dms:row-form";

/// The schema of batches that hold whole rows in an engine's own form: one column of bytes.
#[must_use]
pub fn rows_schema(form: &str) -> SchemaRef {
    let metadata = HashMap::from([(FORM.to_owned(), form.to_owned())]);
    let field = Field::new("row", DataType::Binary, false).with_metadata(metadata);
    Arc::new(Schema::new(vec![field]))
}

/// The form of the rows in batches of a schema, if they are whole rows.
#[must_use]
pub fn row_form(schema: &Schema) -> Option<&str> {
    match schema.fields().iter().as_slice() {
        [only] => only.metadata().get(FORM).map(String::as_str),
        _ => None,
    }
}

/// Record batches of one schema, read once, in order. An error ends the stream. Dropping it ends
/// the read behind it.
pub struct BatchStream {
    schema: SchemaRef,
    batches: BoxStream<'static, Result<RecordBatch>>,
}

impl BatchStream {
    /// A stream of batches that all have `schema`.
    pub fn new(
        schema: SchemaRef,
        batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    ) -> Self {
        Self { schema, batches: batches.boxed() }
    }

    /// A stream of batches at hand.
    #[must_use]
    pub fn from_batches(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self::new(schema, futures::stream::iter(batches.into_iter().map(Ok)))
    }

    /// The schema of every batch.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The stream with `change` applied to every batch; the result has `schema`.
    #[must_use]
    pub fn map_batches(
        self,
        schema: SchemaRef,
        mut change: impl FnMut(RecordBatch) -> Result<RecordBatch> + Send + 'static,
    ) -> Self {
        Self::new(schema, self.batches.map(move |batch| batch.and_then(&mut change)))
    }
}

impl Stream for BatchStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_next_unpin(cx)
    }
}

impl fmt::Debug for BatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchStream").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// The bytes of a batch's values, counting a slice as its own part only.
#[must_use]
pub fn batch_bytes(batch: &RecordBatch) -> usize {
    batch
        .columns()
        .iter()
        .map(|column| {
            let data = column.to_data();
            data.get_slice_memory_size().unwrap_or_else(|_| column.get_buffer_memory_size())
        })
        .sum()
}

/// Permits are counted in KiB, so that bounds up to 4 TiB fit the semaphore's 32 bits.
const PERMIT_BYTES: usize = 1024;

/// A channel of batches that holds about `bytes` at the most: a sender waits until what was sent
/// before has been taken. A single batch above the bound passes alone.
///
/// The sender works from a plain thread ([`BatchSender::blocking_send`]) and from a task
/// ([`BatchSender::send`]). When the stream is dropped, the next send says so; when the sender is
/// dropped, the stream ends; with an error if it is dropped by a panic, which is no end of the rows.
#[must_use]
pub fn channel(schema: SchemaRef, bytes: usize) -> (BatchSender, BatchStream) {
    let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES).max(1)).unwrap_or(u32::MAX);
    let room = Arc::new(Semaphore::new(permits.try_into().unwrap_or(Semaphore::MAX_PERMITS)));
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Result<RecordBatch>, Option<_>)>();
    let closes = CloseOnDrop(Arc::clone(&room));
    let batches = futures::stream::poll_fn(move |cx| {
        let _ = &closes;
        // The permit goes when the batch is taken, which makes room for the next.
        receiver.poll_recv(cx).map(|item| item.map(|(batch, _permit)| batch))
    });
    (BatchSender { room, permits, sender }, BatchStream::new(schema, batches))
}

/// Wakes a sender that waits for room when the stream is dropped.
struct CloseOnDrop(Arc<Semaphore>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for BatchSender {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Error::unexpected("the reader of the rows panicked; this is a bug");
            let _ = self.sender.send((Err(error), None));
        }
    }
}

/// The sending half of [`channel`].
#[derive(Debug)]
pub struct BatchSender {
    room: Arc<Semaphore>,
    permits: u32,
    sender: mpsc::UnboundedSender<(Result<RecordBatch>, Option<OwnedSemaphorePermit>)>,
}

/// The receiving half is gone: nobody wants more batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader of this batch stream is gone")]
pub struct ReceiverGone;

impl BatchSender {
    /// Sends a batch as soon as there is room.
    ///
    /// # Errors
    /// [`ReceiverGone`] if the stream was dropped.
    pub async fn send(&self, batch: RecordBatch) -> Result<(), ReceiverGone> {
        let size = batch_bytes(&batch).div_ceil(PERMIT_BYTES);
        let size = u32::try_from(size).unwrap_or(u32::MAX).clamp(1, self.permits);
        let permit = Arc::clone(&self.room).acquire_many_owned(size).await;
        let permit = permit.map_err(|_| ReceiverGone)?;
        self.sender.send((Ok(batch), Some(permit))).map_err(|_| ReceiverGone)
    }

    /// [`send`](Self::send) from a thread outside the runtime.
    ///
    /// # Errors
    /// [`ReceiverGone`] if the stream was dropped.
    pub fn blocking_send(&self, batch: RecordBatch) -> Result<(), ReceiverGone> {
        block_on(self.send(batch))
    }

    /// Ends the stream with an error.
    pub fn fail(self, error: Error) {
        // Nobody to tell if the stream is gone.
        let _ = self.sender.send((Err(error), None));
    }

    /// Waits until the stream is dropped.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }

    /// Whether the stream was dropped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;

    fn batch(rows: usize) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![7; rows]))]).unwrap()
    }

    #[test]
    fn a_slice_counts_for_its_own_rows() {
        assert_eq!(batch_bytes(&batch(1000)), 8000);
        assert_eq!(batch_bytes(&batch(1000).slice(10, 100)), 800);
    }

    #[tokio::test]
    async fn a_full_channel_holds_its_sender_and_a_dropped_stream_frees_it() {
        let one = batch(1024);
        let (sender, mut stream) = channel(one.schema(), 8192);
        sender.send(one.clone()).await.unwrap();
        let mut second = Box::pin(sender.send(one.clone()));
        assert!(futures::poll!(&mut second).is_pending(), "the bound is reached");
        assert!(stream.next().await.is_some());
        assert!(futures::poll!(&mut second).is_ready(), "taking a batch makes room");
        let mut third = Box::pin(sender.send(one.clone()));
        assert!(futures::poll!(&mut third).is_pending());
        drop(stream);
        assert_eq!(third.await, Err(ReceiverGone));
    }

    #[tokio::test]
    async fn a_reader_that_panics_is_no_end_of_rows() {
        let one = batch(10);
        let (sender, mut stream) = channel(one.schema(), 1024);
        let reader = std::thread::spawn(move || {
            sender.blocking_send(one).unwrap();
            panic!("as a decoder might");
        });
        assert!(reader.join().is_err());
        assert!(stream.next().await.unwrap().is_ok());
        assert!(stream.next().await.unwrap().is_err());
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_batch_above_the_bound_passes_alone() {
        let big = batch(100_000);
        let (sender, mut stream) = channel(big.schema(), 1024);
        sender.send(big).await.unwrap();
        drop(sender);
        assert_eq!(stream.next().await.unwrap().unwrap().num_rows(), 100_000);
        assert!(stream.next().await.is_none());
    }
}
