//! The unit of work of a full load: one partition of one table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::batch::{BatchLimit, BatchStream, batch_bytes, row_form};
use crate::endpoint::{Partition, ReadRequest, Receipt, Run, Snapshot, Target};
use crate::mapping::TablePlan;
use crate::position::Position;
use crate::retry::stopped;
use crate::task::{EventKind, Events};
use crate::{Result, ResultExt};

/// One partition to load. It names all it needs but the endpoints, so that it can run elsewhere;
/// running it again is safe.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unit {
    /// The claim on the task.
    pub run: Run,
    /// What is done with the table.
    pub plan: Arc<TablePlan>,
    /// Which part of it.
    pub partition: Partition,
    /// What the load stands for: the snapshot's position and the plan.
    pub position: Option<Position>,
    /// How large batches may be.
    pub batch: BatchLimit,
    /// How many bytes may be read ahead of the target.
    pub prefetch_bytes: usize,
}

/// Counts what one try of a unit has passed on, so that a failed try can be taken back.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) rows: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// Loads one unit: `read → filter → transform → load`. When `stop` is asked for, the stream ends
/// with `Stopped` at the next batch and the target keeps nothing of the partition.
///
/// # Errors
/// Those of the source, the plan and the target, with table and partition named.
pub async fn run_unit(
    unit: &Unit,
    snapshot: &dyn Snapshot,
    target: &dyn Target,
    events: &Events,
    stop: &CancellationToken,
) -> Result<Receipt> {
    run_metered(unit, snapshot, target, events, stop, &Arc::default()).await
}

pub(super) async fn run_metered(
    unit: &Unit,
    snapshot: &dyn Snapshot,
    target: &dyn Target,
    events: &Events,
    stop: &CancellationToken,
    meter: &Arc<Meter>,
) -> Result<Receipt> {
    let plan = &unit.plan;
    let load = async {
        let mut request = ReadRequest {
            table: Arc::clone(&plan.source),
            columns: plan.read.clone(),
            filter: plan.filter.clone(),
            partition: unit.partition.clone(),
            limit: unit.batch,
            prefetch_bytes: unit.prefetch_bytes,
            form: None,
        };
        if plan.keeps_columns() {
            let form = snapshot.row_form(&request);
            request.form = form.filter(|form| target.takes_rows(&plan.target, form));
        }
        let batches = snapshot.read(request).await.context("side", "source")?;
        let batches = until_stopped(batches, stop.clone());
        let batches = transformed(batches, unit, events.clone(), Arc::clone(meter));
        let position = unit.position.as_ref();
        target.load(&unit.run, &plan.target, &unit.partition, position, batches).await
    };
    let receipt = load.await.context("table", &plan.source.name);
    receipt.context("partition", unit.partition.number)
}

fn until_stopped(batches: BatchStream, stop: CancellationToken) -> BatchStream {
    let schema = batches.schema();
    let mut asked = Box::pin(stop.cancelled_owned());
    let mut batches = batches;
    let stream = futures::stream::poll_fn(move |cx| {
        if asked.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(stopped())));
        }
        batches.poll_next_unpin(cx)
    });
    BatchStream::new(schema, stream.fuse_after_error())
}

fn transformed(
    batches: BatchStream,
    unit: &Unit,
    events: Events,
    meter: Arc<Meter>,
) -> BatchStream {
    let plan = Arc::clone(&unit.plan);
    let is_whole_rows = row_form(&batches.schema()).is_some();
    let schema = if is_whole_rows { batches.schema() } else { plan.target.arrow_schema() };
    batches.map_batches(schema, move |batch| {
        let batch = if is_whole_rows { batch } else { plan.transform(batch)? };
        let (rows, bytes) = (batch.num_rows() as u64, batch_bytes(&batch) as u64);
        meter.rows.fetch_add(rows, Ordering::Relaxed);
        meter.bytes.fetch_add(bytes, Ordering::Relaxed);
        events.send(&plan.source.name, EventKind::Progress { rows, bytes });
        Ok(batch)
    })
}

/// Ends a stream after its first error, as [`BatchStream`] promises.
trait FuseAfterError: futures::Stream<Item = Result<arrow::array::RecordBatch>> + Sized {
    fn fuse_after_error(self) -> impl futures::Stream<Item = Self::Item> {
        self.scan(false, |failed, item| {
            let ended = *failed;
            *failed |= item.is_err();
            futures::future::ready((!ended).then_some(item))
        })
    }
}

impl<S: futures::Stream<Item = Result<arrow::array::RecordBatch>>> FuseAfterError for S {}
