//! A folder as a source: what manifests say is complete.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hasher;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use dms_core::batch::{BatchSender, BatchStream, batch_bytes, channel};
use dms_core::endpoint::{
    EndpointInfo, Partition, PartitionGoal, PartitionRange, ReadRequest, Snapshot, Source,
};
use dms_core::mapping::{ParallelLoad, Selection, ranges, rows_in_range};
use dms_core::position::Position;
use dms_core::schema::{Catalog, TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result, ResultExt};
use futures::StreamExt;
use object_store::ObjectStoreExt;

use crate::error::{convert, corrupt};
use crate::format;
use crate::layout;
use crate::manifest::{DataFile, Manifest};
use crate::settings::{DataFormat, FolderSettings};
use crate::store::FolderStore;

/// A folder that is read.
#[derive(Debug, Clone)]
pub struct FolderSource {
    store: FolderStore,
    settings: FolderSettings,
}

impl FolderSource {
    /// A source in a store.
    #[must_use]
    pub fn new(store: FolderStore, settings: FolderSettings) -> Self {
        Self { store, settings }
    }

    /// Opens a folder or store by its URL, with default options.
    ///
    /// # Errors
    /// Those of [`FolderStore::open`].
    pub fn open(url: &str) -> Result<Arc<Self>> {
        let settings = FolderSettings::new(url);
        Ok(Arc::new(Self::new(FolderStore::open(&settings)?, settings)))
    }

    /// The newest manifest of each table.
    async fn manifests(&self) -> Result<BTreeMap<TableName, Manifest>> {
        let listed = self.store.list(&layout::manifests(&self.store)).await?;
        let mut manifests = BTreeMap::new();
        for object in listed {
            let manifest: Manifest = self.store.get(&object.location).await?;
            // In the order of paths, so that the highest load comes last.
            manifests.insert(manifest.table.name.clone(), manifest);
        }
        if manifests.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "{} has no manifest: nothing in it is complete, or dms did not write it",
                    self.store.info()
                ),
            ));
        }
        Ok(manifests)
    }
}

#[async_trait]
impl Source for FolderSource {
    fn info(&self) -> EndpointInfo {
        self.store.info()
    }

    async fn discover(&self, selection: &Selection) -> Result<Catalog> {
        let manifests = self.manifests().await?;
        let selected = manifests
            .into_values()
            .filter(|manifest| selection.selects(&manifest.table.name, manifest.table.kind));
        let described = selected.map(|manifest| {
            let mut table = manifest.table;
            table.row_estimate = Some(manifest.rows);
            table.byte_estimate = Some(manifest.bytes);
            table
        });
        Ok(Catalog { tables: described.collect() })
    }

    async fn snapshot(
        &self,
        _tables: &[TableSchema],
        _readers: usize,
    ) -> Result<Arc<dyn Snapshot>> {
        let manifests = self.manifests().await?;
        // Files are never written again under one name, so the manifests say it all.
        let mut hasher = twox_hash();
        for manifest in manifests.values() {
            let json = serde_json::to_vec(manifest).map_err(|error| {
                Error::unexpected("a manifest cannot be written").with_source(error)
            })?;
            hasher.write(&json);
        }
        Ok(Arc::new(FolderSnapshot {
            position: Position::new(0, format!("manifests {:016x}", hasher.finish())),
            source: self.clone(),
            manifests,
            verified: Arc::default(),
        }))
    }
}

/// A stable hash, unlike the standard library's.
fn twox_hash() -> impl Hasher {
    struct Blake(blake3::Hasher);
    impl Hasher for Blake {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            self.0.finalize().as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
        }
    }
    Blake(blake3::Hasher::new())
}

/// The manifests at one moment.
#[derive(Debug)]
struct FolderSnapshot {
    position: Position,
    source: FolderSource,
    manifests: BTreeMap<TableName, Manifest>,
    /// Files whose checksums were found right.
    verified: Arc<Mutex<HashSet<String>>>,
}

impl FolderSnapshot {
    fn manifest(&self, table: &TableName) -> Result<&Manifest> {
        self.manifests
            .get(table)
            .ok_or_else(|| Error::schema("the table is gone").context("table", table))
    }
}

/// A file, or some of its row groups: `path`, or `path|from..to`.
fn token(file: &DataFile, groups: Option<(usize, usize)>) -> String {
    match groups {
        Some((from, to)) => format!("{}|{from}..{to}", file.path),
        None => file.path.clone(),
    }
}

#[async_trait]
impl Snapshot for FolderSnapshot {
    fn position(&self) -> Option<Position> {
        Some(self.position.clone())
    }

    async fn partitions(
        &self,
        table: &TableSchema,
        goal: &PartitionGoal,
    ) -> Result<Vec<Partition>> {
        let manifest = self.manifest(&table.name)?;
        match &goal.parallel_load {
            ParallelLoad::None => return Ok(vec![Partition::whole()]),
            ParallelLoad::Ranges { columns, boundaries, names } => {
                return ranges(table, columns, boundaries, names);
            }
            ParallelLoad::Auto | ParallelLoad::Partitions(None) => {}
            ParallelLoad::Partitions(Some(_)) => {
                return Err(Error::settings(
                    "a folder's partitions are its files and have no names; use partitions-auto",
                ));
            }
        }
        if manifest.files.is_empty() || manifest.files.len() > goal.at_most {
            return Ok(vec![Partition::whole()]);
        }
        let mut parts = Vec::new();
        for file in &manifest.files {
            let share = |rows: u64| manifest.bytes / manifest.rows.max(1) * rows;
            let mut from = 0;
            let mut rows = 0;
            for (at, group) in file.row_groups.iter().enumerate() {
                rows += group;
                let last = at + 1 == file.row_groups.len();
                if share(rows) >= goal.bytes && !last {
                    parts.push((token(file, Some((from, at + 1))), share(rows)));
                    (from, rows) = (at + 1, 0);
                }
            }
            let rest = (from > 0).then_some((from, file.row_groups.len()));
            let rows = if from > 0 { rows } else { file.rows };
            parts.push((token(file, rest), share(rows)));
        }
        if parts.len() > goal.at_most {
            return Ok(vec![Partition::whole()]);
        }
        Ok(parts
            .into_iter()
            .enumerate()
            .map(|(number, (token, bytes))| Partition {
                number: u32::try_from(number).unwrap_or(u32::MAX),
                name: None,
                range: PartitionRange::Native(token),
                byte_estimate: Some(bytes),
            })
            .collect())
    }

    async fn read(&self, request: ReadRequest) -> Result<BatchStream> {
        let manifest = self.manifest(&request.table.name)?.clone();
        let projected = request.projected()?;
        let (files, groups) = match &request.partition.range {
            PartitionRange::Native(token) => {
                let (path, groups) = match token.split_once('|') {
                    Some((path, groups)) => (path, Some(parse_groups(groups)?)),
                    None => (token.as_str(), None),
                };
                let file = manifest.files.iter().find(|file| file.path == path);
                let file = file.ok_or_else(|| {
                    Error::settings(format!("{token:?} is not a partition of this table"))
                })?;
                (vec![file.clone()], groups)
            }
            _ => (manifest.files.clone(), None),
        };
        let (sender, stream) = channel(projected.arrow_schema(), request.prefetch_bytes);
        let reading = Reading {
            source: self.source.clone(),
            manifest,
            request,
            projected,
            groups,
            verified: Arc::clone(&self.verified),
        };
        // Decoding is work for a thread of its own; reads of the store run on the runtime.
        let runtime = tokio::runtime::Handle::current();
        let work = move || {
            if let Err(error) = runtime.block_on(reading.send_all(&files, &sender)) {
                sender.fail(error);
            }
        };
        std::thread::Builder::new().name("folder-reader".to_owned()).spawn(work).map_err(
            |error| {
                Error::unexpected("a reader thread cannot be started")
                    .with_source(error)
                    .transient()
            },
        )?;
        Ok(stream)
    }
}

fn parse_groups(text: &str) -> Result<(usize, usize)> {
    let range =
        text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    range.ok_or_else(|| Error::settings(format!("{text:?} is no range of row groups")))
}

/// One partition being read.
struct Reading {
    source: FolderSource,
    manifest: Manifest,
    request: ReadRequest,
    projected: TableSchema,
    groups: Option<(usize, usize)>,
    verified: Arc<Mutex<HashSet<String>>>,
}

impl Reading {
    async fn send_all(&self, files: &[DataFile], sender: &BatchSender) -> Result<()> {
        for file in files {
            self.verify(file).await?;
            let read = match self.manifest.format {
                DataFormat::Parquet => self.parquet(file, sender).await,
                DataFormat::Csv => self.csv(file, sender).await,
            };
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

        let failed = |error: parquet::errors::ParquetError| {
            corrupt(&file.path, "is not the Parquet file that was written").with_source(error)
        };
        let path = self.source.store.absolute(&file.path);
        let reader = format::parquet::FileReader::new(self.source.store.inner(), path, file.bytes);
        let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(failed)?;
        let stored = format::parquet::storage_schema(&self.manifest.table);
        if builder.schema().fields().len() != stored.fields().len() {
            return Err(corrupt(&file.path, "has other columns than its manifest"));
        }
        // A range or a filter may look at columns that are not delivered.
        let plain = self.request.filter.is_none()
            && !matches!(self.request.partition.range, PartitionRange::Columns { .. });
        let mut wanted = self.request.columns.clone();
        wanted.sort_unstable();
        let ordered = wanted == self.request.columns;
        let narrow = plain && ordered;
        let rows = self.batch_rows(builder.metadata());
        let mut builder = builder.with_batch_size(rows);
        if narrow {
            let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
            builder = builder.with_projection(mask);
        }
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

    /// Rows of a batch that about respect the limit in bytes, by the file's own figures.
    #[cfg(feature = "parquet")]
    fn batch_rows(&self, metadata: &parquet::file::metadata::ParquetMetaData) -> usize {
        let bytes: i64 = metadata.row_groups().iter().map(|group| group.total_byte_size()).sum();
        let rows = metadata.file_metadata().num_rows().max(1);
        let row_bytes = usize::try_from(bytes / rows).unwrap_or(1).max(1);
        self.request.limit.rows.min(self.request.limit.bytes / row_bytes).max(1)
    }

    #[cfg(feature = "csv")]
    async fn csv(&self, file: &DataFile, sender: &BatchSender) -> Result<Option<u64>> {
        let store = self.source.store.inner();
        let path = self.source.store.absolute(&file.path);
        let failed = |error| convert(error, &format!("file {} cannot be read", file.path));
        let mut pieces = store.get(&path).await.map_err(failed)?.into_stream();
        let table = (*self.request.table).clone();
        let mut decoder = format::csv::CsvDecoder::new(table, self.manifest.csv.clone());
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
                    if !self.deliver(decoder.batch()?, sender).await? {
                        return Ok(None);
                    }
                }
            }
        }
        decoder.end()?;
        if decoder.rows() > 0 {
            rows += decoder.rows() as u64;
            if !self.deliver(decoder.batch()?, sender).await? {
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
