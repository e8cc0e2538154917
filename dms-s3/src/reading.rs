//! Reading the files of a partition.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use dms_core::batch::{BatchSender, batch_bytes};
#[cfg(feature = "parquet")]
use dms_core::endpoint::PartitionRange;
use dms_core::endpoint::ReadRequest;
use dms_core::mapping::rows_in_range;
use dms_core::schema::TableSchema;
use dms_core::{Result, ResultExt};
use futures::{FutureExt, StreamExt};
use object_store::ObjectStoreExt;

use crate::error::{convert, corrupt};
use crate::format;
use crate::manifest::{DataFile, Manifest};
use crate::settings::DataFormat;
use crate::source::FolderSource;

/// One partition being read.
pub(crate) struct Reading {
    pub(crate) source: FolderSource,
    pub(crate) manifest: Manifest,
    pub(crate) request: ReadRequest,
    pub(crate) projected: TableSchema,
    /// Only these row groups, from and to.
    pub(crate) groups: Option<(usize, usize)>,
    /// Files whose checksums were found right, shared by all reads of a snapshot.
    pub(crate) verified: Arc<Mutex<HashSet<String>>>,
}

impl Reading {
    /// Reads the files one after the other and sends what was asked for.
    pub(crate) async fn send_all(&self, files: &[DataFile], sender: &BatchSender) -> Result<()> {
        for file in files {
            // Decoders may panic on damaged bytes. A thread that ends so would end the stream as
            // if all rows had been sent.
            let read = AssertUnwindSafe(self.send_file(file, sender)).catch_unwind().await;
            let read = read.unwrap_or_else(|_| Err(corrupt(&file.path, "cannot be decoded")));
            let Some(rows) = read.context("file", &file.path)? else { return Ok(()) };
            let expected = match self.groups {
                Some((from, to)) => file.row_groups.get(from..to).unwrap_or_default().iter().sum(),
                None => file.rows,
            };
            if rows != expected {
                let what = format!("has {rows} rows where its manifest says {expected}");
                return Err(corrupt(&file.path, &what));
            }
        }
        Ok(())
    }

    /// Rows read, or `None` if nobody wants more.
    async fn send_file(&self, file: &DataFile, sender: &BatchSender) -> Result<Option<u64>> {
        self.verify(file).await?;
        match self.manifest.form.format {
            DataFormat::Parquet => self.parquet(file, sender).await,
            DataFormat::Csv => self.csv(file, sender).await,
        }
    }

    /// Compares size and checksum with the manifest, once a file and snapshot.
    async fn verify(&self, file: &DataFile) -> Result<()> {
        let known = |verified: &Mutex<HashSet<String>>| {
            verified.lock().unwrap_or_else(PoisonError::into_inner).contains(&file.path)
        };
        if known(&self.verified) {
            return Ok(());
        }
        let store = self.source.store.inner();
        let path = self.source.store.absolute(&file.path);
        let gone = |error| match error {
            object_store::Error::NotFound { .. } => corrupt(&file.path, "is gone"),
            error => convert(error, &format!("file {} cannot be read", file.path)),
        };
        let size = store.head(&path).await.map_err(gone)?.size;
        if size != file.bytes {
            let what = format!("has {size} bytes where its manifest says {}", file.bytes);
            return Err(corrupt(&file.path, &what));
        }
        if self.source.settings.verify_checksums {
            let mut hasher = blake3::Hasher::new();
            let mut bytes = store.get(&path).await.map_err(gone)?.into_stream();
            while let Some(piece) = bytes.next().await {
                hasher.update(&piece.map_err(gone)?);
            }
            if hasher.finalize().to_hex().as_str() != file.blake3 {
                return Err(corrupt(&file.path, "does not have the checksum of its manifest"));
            }
        }
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(file.path.clone());
        Ok(())
    }

    /// Delivers the requested rows and columns of a batch of all columns; `false` if nobody wants
    /// more.
    async fn deliver(&self, batch: RecordBatch, sender: &BatchSender) -> Result<bool> {
        let table = &self.request.table;
        let mut batch = rows_in_range(table, &self.request.partition.range, &batch)?;
        if let Some(filter) = &self.request.filter {
            batch = filter.apply(table, &batch)?;
        }
        let batch = batch.project(&self.request.columns)?;
        self.send(batch, sender).await
    }

    async fn send(&self, batch: RecordBatch, sender: &BatchSender) -> Result<bool> {
        let batch = batch.with_schema(self.projected.arrow_schema())?;
        let rows = batch.num_rows();
        let limit = self.request.limit;
        let by_bytes = (limit.bytes / (batch_bytes(&batch) / rows.max(1)).max(1)).max(1);
        let step = limit.rows.min(by_bytes).max(1);
        for at in (0..rows).step_by(step) {
            if sender.send(batch.slice(at, step.min(rows - at))).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Rows read, or `None` if nobody wants more.
    #[cfg(feature = "parquet")]
    async fn parquet(&self, file: &DataFile, sender: &BatchSender) -> Result<Option<u64>> {
        use parquet::arrow::ParquetRecordBatchStreamBuilder;
        use parquet::arrow::ProjectionMask;

        let failed = |error| unreadable(&file.path, error);
        let path = self.source.store.absolute(&file.path);
        let reader = format::parquet::FileReader::new(self.source.store.inner(), path, file.bytes);
        let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(failed)?;
        let before = self.manifest.form.before.len();
        let count = self.manifest.table.columns.len();
        if builder.schema().fields().len() != before + count {
            return Err(corrupt(&file.path, "has other columns than its manifest"));
        }
        let groups = builder.metadata().row_groups().iter();
        if !groups.map(|group| group.num_rows().unsigned_abs()).eq(file.row_groups.iter().copied())
        {
            return Err(corrupt(&file.path, "has other row groups than its manifest"));
        }
        // A range or a filter may look at columns that are not delivered.
        let plain = self.request.filter.is_none()
            && !matches!(self.request.partition.range, PartitionRange::Columns { .. });
        let mut wanted = self.request.columns.clone();
        wanted.sort_unstable();
        let ordered = wanted == self.request.columns;
        let narrow = plain && ordered;
        let rows = self.batch_rows(builder.metadata());
        let wanted = if narrow { wanted } else { (0..count).collect() };
        let places = wanted.into_iter().map(|at| before + at);
        let mask = ProjectionMask::roots(builder.parquet_schema(), places);
        let mut builder = builder.with_batch_size(rows).with_projection(mask);
        if let Some((from, to)) = self.groups {
            builder = builder.with_row_groups((from..to).collect());
        }
        let mut batches = builder.build().map_err(failed)?;
        let mut rows = 0;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(failed)?;
            rows += batch.num_rows() as u64;
            let more = if narrow {
                let batch = format::parquet::from_storage(&batch, &self.projected)?;
                self.send(batch, sender).await?
            } else {
                let batch = format::parquet::from_storage(&batch, &self.request.table)?;
                self.deliver(batch, sender).await?
            };
            if !more {
                return Ok(None);
            }
        }
        Ok(Some(rows))
    }

    #[cfg(not(feature = "parquet"))]
    async fn parquet(&self, _file: &DataFile, _sender: &BatchSender) -> Result<Option<u64>> {
        format::available(DataFormat::Parquet).map(|()| None)
    }

    /// Rows of a batch that about respect the limit in bytes: those of the manifest, which are of
    /// Arrow, and of the row group with the largest rows. What a row group takes up in the file
    /// says little, as a text that repeats stands there once.
    #[cfg(feature = "parquet")]
    fn batch_rows(&self, metadata: &parquet::file::metadata::ParquetMetaData) -> usize {
        let groups = metadata.row_groups().iter().map(|group| {
            let columns = group.columns().iter().map(|column| {
                let values = column.unencoded_byte_array_data_bytes().unwrap_or_default();
                values.max(column.uncompressed_size()).unsigned_abs()
            });
            columns.sum::<u64>() / group.num_rows().unsigned_abs().max(1)
        });
        let row_bytes = groups.max().unwrap_or_default();
        let row_bytes = row_bytes.max(self.manifest.bytes / self.manifest.rows.max(1)).max(1);
        let row_bytes = usize::try_from(row_bytes).unwrap_or(usize::MAX);
        self.request.limit.rows.min(self.request.limit.bytes / row_bytes).max(1)
    }

    #[cfg(feature = "csv")]
    async fn csv(&self, file: &DataFile, sender: &BatchSender) -> Result<Option<u64>> {
        let store = self.source.store.inner();
        let path = self.source.store.absolute(&file.path);
        let failed = |error| convert(error, &format!("file {} cannot be read", file.path));
        let mut pieces = store.get(&path).await.map_err(failed)?.into_stream();
        let table = crate::columns::load_table(&self.request.table, &self.manifest.form.before)?;
        let own: Vec<usize> = (self.manifest.form.before.len()..table.columns.len()).collect();
        let mut decoder = format::csv::CsvDecoder::new(table, self.manifest.form.csv.clone());
        let limit = self.request.limit;
        let enough = |rows: usize, bytes: usize| rows >= limit.rows || bytes >= limit.bytes;
        let mut rows = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(failed)?;
            let mut rest = piece.as_ref();
            while !rest.is_empty() {
                let taken = decoder.feed(rest, enough)?;
                rest = rest.get(taken..).unwrap_or_default();
                if enough(decoder.rows(), decoder.bytes()) && decoder.rows() > 0 {
                    rows += decoder.rows() as u64;
                    if !self.deliver(decoder.batch()?.project(&own)?, sender).await? {
                        return Ok(None);
                    }
                }
            }
        }
        decoder.end()?;
        if decoder.rows() > 0 {
            rows += decoder.rows() as u64;
            if !self.deliver(decoder.batch()?.project(&own)?, sender).await? {
                return Ok(None);
            }
        }
        Ok(Some(rows))
    }

    #[cfg(not(feature = "csv"))]
    async fn csv(&self, _file: &DataFile, _sender: &BatchSender) -> Result<Option<u64>> {
        format::available(DataFormat::Csv).map(|()| None)
    }
}

/// Damage, or what the store said while the file was read.
#[cfg(feature = "parquet")]
fn unreadable(path: &str, error: parquet::errors::ParquetError) -> dms_core::Error {
    use parquet::errors::ParquetError;
    let damaged =
        |error| corrupt(path, "is not the Parquet file that was written").with_source(error);
    match error {
        ParquetError::External(cause) => match cause.downcast::<object_store::Error>() {
            Ok(error) => convert(*error, &format!("file {path} cannot be read")),
            Err(cause) => damaged(ParquetError::External(cause)),
        },
        error => damaged(error),
    }
}
