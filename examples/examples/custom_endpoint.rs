//! A source of one's own: sensor readings that are computed, not stored, loaded into a Parquet
//! folder and read back. Run it with `cargo run --release --example custom_endpoint`.
//!
//! A source answers three questions: which tables are there (`discover`), how can a table be split
//! so that its parts load in parallel (`partitions`), and what are the rows of one part (`read`).
//! The engine does the rest: parallel work, bounded memory, progress, resuming after a crash.

use std::sync::Arc;

use async_trait::async_trait;
use dms_core::arrow::array::{ArrayRef, Float64Array, Int32Array, RecordBatch};
use dms_core::batch::BatchStream;
use dms_core::endpoint::{
    EndpointInfo, EndpointSettings, Partition, PartitionGoal, PartitionRange, ReadRequest,
    Snapshot, Source, Target,
};
use dms_core::full_load::FullLoad;
use dms_core::mapping::{Selection, TableMapping};
use dms_core::memory::MemoryTarget;
use dms_core::position::Position;
use dms_core::schema::{Catalog, Column, LogicalType, TableName, TableSchema};
use dms_core::task::TaskStatus;
use dms_core::{Error, Result};
use dms_examples::endpoints::registry;
use tokio_util::sync::CancellationToken;

/// So many sensors, each with so many readings.
#[derive(Debug, Clone)]
struct Sensors {
    sensors: u32,
    readings: i32,
}

#[async_trait]
impl Source for Sensors {
    /// What the endpoint is called in messages.
    fn info(&self) -> EndpointInfo {
        EndpointInfo { engine: "sensors", address: format!("{} sensors", self.sensors) }
    }

    async fn discover(&self, selection: &Selection) -> Result<Catalog> {
        // Types are logical: each has one Arrow form, and every target knows what it makes of it.
        let columns = vec![
            Column::new("sensor", LogicalType::Int32).required(),
            Column::new("minute", LogicalType::Int32).required(),
            Column::new("celsius", LogicalType::Float64),
        ];
        let table = TableSchema::new(TableName::new("plant", "readings"), columns)
            .with_primary_key(["sensor", "minute"]);
        let selected = selection.selects(&table.name, table.kind);
        Ok(Catalog { tables: if selected { vec![table] } else { Vec::new() } })
    }

    /// A view that all parallel reads share. A database opens a transaction here.
    async fn snapshot(&self, _: &[TableSchema], _readers: usize) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Snapshot for Sensors {
    /// Equal positions promise equal rows: that lets a load that was cut off go on tomorrow.
    fn position(&self) -> Option<Position> {
        Some(Position::new(0, format!("{} x {}", self.sensors, self.readings)))
    }

    /// One partition a sensor; what `Native` holds is ours to understand.
    async fn partitions(&self, _: &TableSchema, _: &PartitionGoal) -> Result<Vec<Partition>> {
        let of = |sensor: u32| Partition {
            number: sensor,
            range: PartitionRange::Native(sensor.to_string()),
            ..Partition::whole()
        };
        Ok((0..self.sensors).map(of).collect())
    }

    /// A stream of batches, made one by one as the target takes them. A client that blocks would
    /// run on a thread of its own and send through `dms_core::batch::channel`.
    async fn read(&self, request: ReadRequest) -> Result<BatchStream> {
        let PartitionRange::Native(sensor) = &request.partition.range else {
            return Err(Error::settings("sensors are split by sensor only"));
        };
        let sensor: i32 = sensor.parse().map_err(|_| Error::settings("not a sensor's number"))?;
        let schema = request.projected()?.arrow_schema();
        let (readings, rows) = (self.readings, request.limit.rows);
        let step = i32::try_from(rows).unwrap_or(i32::MAX);
        let batches = (0..readings).step_by(rows).map(move |from| {
            let minutes = from..readings.min(from.saturating_add(step));
            let celsius = minutes.clone().map(|minute| 20.0 + f64::from(minute % 97) / 8.0);
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int32Array::from_iter_values(minutes.clone().map(|_| sensor))),
                Arc::new(Int32Array::from_iter_values(minutes)),
                Arc::new(Float64Array::from_iter_values(celsius)),
            ];
            let batch = RecordBatch::try_new(request.table.arrow_schema(), columns)?;
            // The mapping may ask for some rows and some columns only.
            let batch = match &request.filter {
                Some(filter) => filter.apply(&request.table, &batch)?,
                None => batch,
            };
            Ok(batch.project(&request.columns)?)
        });
        Ok(BatchStream::new(schema, futures::stream::iter(batches)))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir()
        .map_err(|error| Error::unexpected("no temporary folder").with_source(error))?;
    let folder = EndpointSettings::new(format!("file://{}", folder.path().display()));
    let sensors = Arc::new(Sensors { sensors: 8, readings: 100_000 });
    load(sensors, registry().target(&folder).await?).await?;
    // And back: the folder is a source too.
    load(registry().source(&folder).await?, Arc::new(MemoryTarget::default())).await
}

async fn load(source: Arc<dyn Source>, target: Arc<dyn Target>) -> Result<()> {
    println!("{} -> {}", source.info(), target.info());
    let tables = TableMapping::new().include("plant", "%");
    let report = FullLoad::new(source, target, tables).run(CancellationToken::new()).await?;
    println!("{report}");
    match report.status {
        TaskStatus::Completed => Ok(()),
        _ => Err(Error::unexpected("not everything was loaded")),
    }
}
