//! Validation: whether a target holds what its source holds, and if not, which keys differ.
//!
//! Each side is read once, its partitions in parallel, into order-independent checksums over
//! canonical values. Only where the checksums of a range of keys differ is that range read
//! again, on both sides, to find the keys. Values of columns outside the key never leave this module.

mod canonical;
mod compare;
mod digest;
mod report;

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use report::{Difference, DifferenceKind, TableValidation, ValidationReport, ValidationState};

use crate::batch::BatchLimit;
use crate::endpoint::{Partition, PartitionGoal, PartitionRange, ReadRequest, Snapshot, Source};
use crate::mapping::{Filter, ParallelLoad, PlannedColumn, Selection, TablePlan};
use crate::schema::{Catalog, LogicalType, TableSchema};
use crate::task::TaskSettings;
use crate::{Error, ErrorKind, Result, ResultExt};
use digest::{Bucketing, Digest};

/// A comparison of a source with a target that is read as a source.
#[derive(Debug)]
pub struct Validation {
    source: Arc<dyn Source>,
    target: Arc<dyn Source>,
    plans: Vec<TablePlan>,
    settings: TaskSettings,
}

impl Validation {
    /// Compares the tables of `plans` ([`FullLoad::plan`](crate::full_load::FullLoad::plan)): rows
    /// of the source as the plan makes them, with rows of the target.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, target: Arc<dyn Source>, plans: Vec<TablePlan>) -> Self {
        Self { source, target, plans, settings: TaskSettings::default() }
    }

    /// With the parallelism, batch limits and the number of listed differences of `settings`.
    #[must_use]
    pub fn with_settings(mut self, settings: TaskSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Compares every table. A table that cannot be compared is reported, the others go on.
    ///
    /// # Errors
    /// Those of discovery and snapshots; `Stopped` when `stop` is asked for.
    pub async fn run(self, stop: CancellationToken) -> Result<ValidationReport> {
        let readers = self.settings.parallel;
        let sources: Vec<TableSchema> = self.plans.iter().map(|p| (*p.source).clone()).collect();
        let source = self.source.snapshot(&sources, readers).await.context("side", "source")?;
        let catalog = self.target.discover(&Selection::all()).await.context("side", "target")?;
        let target =
            self.target.snapshot(&catalog.tables, readers).await.context("side", "target")?;
        let mut tables = Vec::new();
        for plan in &self.plans {
            if stop.is_cancelled() {
                return Err(Error::new(ErrorKind::Stopped, "the validation was stopped"));
            }
            let table = plan.target.name.clone();
            let compared = self.table(plan, &source, &target, &catalog).await;
            tables.push(compared.unwrap_or_else(|error| TableValidation::failed(table, &error)));
        }
        Ok(ValidationReport { tables })
    }

    async fn table(
        &self,
        plan: &TablePlan,
        source: &Arc<dyn Snapshot>,
        target: &Arc<dyn Snapshot>,
        catalog: &Catalog,
    ) -> Result<TableValidation> {
        let bucketing = bucketing(plan);
        let left = Side::source(Arc::clone(source), plan, &self.settings);
        let right = Side::target(Arc::clone(target), plan, catalog, &self.settings)?;
        let left_digest = left.digest(&bucketing).await.context("side", "source")?;
        let right_digest = right.digest(&bucketing).await.context("side", "target")?;
        let rows = (left_digest.rows(), right_digest.rows());
        let ranges = left_digest.differences(right_digest);
        let most = self.settings.validation_failures_max;
        let (differences, complete) =
            compare::find(&left, &right, &bucketing, &ranges, most).await?;
        let differs = !ranges.is_empty();
        Ok(TableValidation::new(plan.target.name.clone(), rows, differences, complete, differs))
    }
}

/// Ranges need a first key column that is an integer and that the source reads as it is.
fn bucketing(plan: &TablePlan) -> Bucketing {
    let first = plan.target.primary_key.first();
    let place = first.and_then(|name| plan.target.column_index(name));
    let ranged = place.is_some_and(|place| {
        let read_as_is = matches!(plan.columns.get(place), Some(PlannedColumn::Read(_)));
        let integer = plan.target.columns.get(place).is_some_and(|column| {
            let ty = &column.logical_type;
            // Bounds of ranges are signed.
            !column.nullable && ty.is_integer() && *ty != LogicalType::UInt64
        });
        read_as_is && integer
    });
    if ranged { Bucketing::Ranges } else { Bucketing::Hashes }
}

/// One side of the comparison of one table.
struct Side {
    snapshot: Arc<dyn Snapshot>,
    /// As it is read.
    table: Arc<TableSchema>,
    columns: Vec<usize>,
    filter: Option<Filter>,
    /// What makes target rows of it; `None` for the target itself.
    plan: Option<Arc<TablePlan>>,
    /// The shape of compared rows.
    compared: Arc<TableSchema>,
    /// The first key column by its name on this side.
    key: Option<String>,
    parallel: usize,
    partition_bytes: u64,
    limit: BatchLimit,
    prefetch_bytes: usize,
}

impl Side {
    fn source(snapshot: Arc<dyn Snapshot>, plan: &TablePlan, settings: &TaskSettings) -> Self {
        let place = plan.target.primary_key.first().and_then(|k| plan.target.column_index(k));
        let key = place.and_then(|place| match plan.columns.get(place)? {
            PlannedColumn::Read(read) => {
                plan.source.columns.get(*plan.read.get(*read)?).map(|column| column.name.clone())
            }
            _ => None,
        });
        Self {
            snapshot,
            table: Arc::clone(&plan.source),
            columns: plan.read.clone(),
            filter: plan.filter.clone(),
            plan: Some(Arc::new(plan.clone())),
            compared: Arc::clone(&plan.target),
            key,
            parallel: settings.parallel,
            partition_bytes: settings.partition_bytes,
            limit: settings.batch,
            prefetch_bytes: settings.prefetch_bytes,
        }
    }

    fn target(
        snapshot: Arc<dyn Snapshot>,
        plan: &TablePlan,
        catalog: &Catalog,
        settings: &TaskSettings,
    ) -> Result<Self> {
        let table = catalog.table(&plan.target.name).context("side", "target")?;
        let place = |column: &crate::schema::Column| {
            // Engines that fold case give names back in their own.
            let exact = table.column_index(&column.name);
            let folded =
                || table.columns.iter().position(|c| c.name.eq_ignore_ascii_case(&column.name));
            exact.or_else(folded).ok_or_else(|| {
                Error::schema("the target's table lacks a column")
                    .context("side", "target")
                    .context("column", &column.name)
            })
        };
        let columns = plan.target.columns.iter().map(place).collect::<Result<Vec<_>>>()?;
        let request =
            ReadRequest { columns: columns.clone(), ..ReadRequest::whole(Arc::new(table.clone())) };
        let mut compared = request.projected()?;
        // Rows are told apart by the key that the plan gave the target.
        compared.primary_key.clone_from(&plan.target.primary_key);
        for (column, planned) in compared.columns.iter_mut().zip(&plan.target.columns) {
            column.name.clone_from(&planned.name);
        }
        Ok(Self {
            snapshot,
            table: Arc::new(table.clone()),
            columns,
            filter: None,
            plan: None,
            compared: Arc::new(compared),
            key: plan.target.primary_key.first().cloned(),
            parallel: settings.parallel,
            partition_bytes: settings.partition_bytes,
            limit: settings.batch,
            prefetch_bytes: settings.prefetch_bytes,
        })
    }

    async fn read(&self, partition: Partition) -> Result<crate::batch::BatchStream> {
        let stream = self
            .snapshot
            .read(ReadRequest {
                table: Arc::clone(&self.table),
                columns: self.columns.clone(),
                filter: self.filter.clone(),
                partition,
                limit: self.limit,
                prefetch_bytes: self.prefetch_bytes,
                form: None,
            })
            .await?;
        Ok(match &self.plan {
            Some(plan) => {
                let plan = Arc::clone(plan);
                stream.map_batches(plan.target.arrow_schema(), move |batch| plan.transform(batch))
            }
            None => stream,
        })
    }

    /// Reads everything once, partitions in parallel.
    async fn digest(&self, bucketing: &Bucketing) -> Result<Digest> {
        let goal = PartitionGoal {
            parallel_load: ParallelLoad::Auto,
            bytes: self.partition_bytes,
            at_most: 10_000,
        };
        let partitions = self.snapshot.partitions(&self.table, &goal).await?;
        let permits = Arc::new(Semaphore::new(self.parallel));
        let mut parts = JoinSet::new();
        let mut digest = Digest::new(bucketing.clone());
        for partition in partitions {
            let permit = Arc::clone(&permits).acquire_owned().await;
            let permit = permit.map_err(|_| Error::unexpected("the readers are gone"))?;
            let mut stream = self.read(partition).await?;
            let (table, mut part) = (Arc::clone(&self.compared), Digest::new(bucketing.clone()));
            parts.spawn(async move {
                while let Some(batch) = stream.next().await {
                    let (batch, table) = (batch?, Arc::clone(&table));
                    // Hashing is work for the blocking pool, batch by batch.
                    let hashed = tokio::task::spawn_blocking(move || {
                        part.add(&table, &batch);
                        part
                    });
                    part = hashed.await.map_err(|error| {
                        Error::unexpected("hashing ended abnormally").with_source(error)
                    })?;
                }
                drop(permit);
                Ok::<_, Error>(part)
            });
        }
        while let Some(part) = parts.join_next().await {
            let part = part.map_err(|error| {
                Error::unexpected("a validation worker ended abnormally").with_source(error)
            })?;
            digest.merge(part?);
        }
        Ok(digest)
    }

    /// The rows whose first key column lies in an inclusive range.
    fn key_range(&self, low: i64, high: i64) -> Option<Partition> {
        use crate::value::Value;
        let range = PartitionRange::Columns {
            columns: vec![self.key.clone()?],
            lower: Some(vec![Value::Int(low)]),
            upper: high.checked_add(1).map(|above| vec![Value::Int(above)]),
        };
        Some(Partition { range, ..Partition::whole() })
    }
}

#[cfg(test)]
mod tests;
