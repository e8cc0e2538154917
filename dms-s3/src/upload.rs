//! One data file on its way into the store.

use arrow::array::RecordBatch;
use bytes::Bytes;
use dms_core::schema::TableSchema;
use dms_core::{Error, Result, fault};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use tokio::io::AsyncWriteExt;

use crate::error::convert;
use crate::format::FileEncoder;
use crate::manifest::DataFile;
use crate::settings::FolderSettings;
use crate::store::FolderStore;

/// Bytes of a part of an upload; S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Parts under way at once.
const PARTS_AT_ONCE: usize = 2;

/// A file being written: rows are encoded on the blocking pool, bytes go to the store as they come.
/// Nothing is visible before [`finish`](Self::finish).
pub(crate) struct Upload {
    writer: BufWriter,
    /// Away while it encodes.
    encoder: Option<FileEncoder>,
    path: Path,
    relative: String,
    partition: u32,
    rows: u64,
}

impl Upload {
    /// Begins a file whose first rows will be `first`.
    pub(crate) fn begin(
        store: &FolderStore,
        path: Path,
        partition: u32,
        table: &TableSchema,
        settings: &FolderSettings,
        first: &RecordBatch,
    ) -> Result<Self> {
        let writer = BufWriter::with_capacity(store.inner(), path.clone(), PART_BYTES)
            .with_max_concurrency(PARTS_AT_ONCE);
        Ok(Self {
            writer,
            encoder: Some(FileEncoder::new(table, settings, first)?),
            relative: store.relative(&path),
            path,
            partition,
            rows: 0,
        })
    }

    /// Adds rows; returns the bytes of the file so far.
    pub(crate) async fn write(&mut self, batch: RecordBatch) -> Result<u64> {
        self.rows += batch.num_rows() as u64;
        let mut encoder = self.take()?;
        let (encoder, bytes) = blocking(move || {
            let bytes = encoder.write(&batch)?;
            Ok((encoder, bytes))
        })
        .await?;
        let size = encoder.size();
        self.encoder = Some(encoder);
        self.send(bytes).await?;
        fault::point("folder-target-in-file")?;
        Ok(size)
    }

    /// Completes the file.
    pub(crate) async fn finish(mut self) -> Result<DataFile> {
        let encoder = self.take()?;
        let finished = blocking(move || encoder.finish()).await?;
        self.send(finished.rest).await?;
        self.writer.shutdown().await.map_err(|error| self.failed(error))?;
        Ok(DataFile {
            path: self.relative,
            partition: self.partition,
            rows: self.rows,
            bytes: finished.size,
            blake3: finished.blake3,
            row_groups: finished.row_groups,
        })
    }

    /// Gives the file up, so that no part of it stays in the store.
    pub(crate) async fn abort(mut self) {
        if let Err(error) = self.writer.abort().await {
            tracing::warn!(path = %self.path, %error, "an unfinished upload could not be removed");
        }
    }

    fn take(&mut self) -> Result<FileEncoder> {
        self.encoder.take().ok_or_else(|| Error::unexpected("the file's encoder has failed"))
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.writer
            .put(Bytes::from(bytes))
            .await
            .map_err(|error| convert(error, &format!("file {} cannot be written", self.path)))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        let doing = format!("file {} cannot be completed", self.path);
        match error.downcast::<object_store::Error>() {
            Ok(error) => convert(error, &doing),
            Err(error) => Error::unexpected(doing).with_source(error),
        }
    }
}

/// Runs work apart from the runtime's workers.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::unexpected("blocking work ended abnormally").with_source(error))?
}
