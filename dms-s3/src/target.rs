//! A folder as a target.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use dms_core::batch::{BatchStream, batch_bytes};
use dms_core::endpoint::{
    ColumnMapping, EndpointInfo, Partition, Receipt, Run, TablePrepMode, Target, TaskProgress,
};
use dms_core::position::Position;
use dms_core::schema::{TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result, ResultExt, fault};
use futures::StreamExt;
use object_store::ObjectMeta;
use object_store::path::Path;
use tokio::sync::Mutex;

use crate::changes::Shared;
use crate::error::corrupt;
use crate::manifest::{DataFile, LoadRecord, Manifest, PartitionRecord, VERSION};
use crate::settings::{DataFormat, FolderSettings};
use crate::store::FolderStore;
use crate::upload::Upload;
use crate::{columns, format, layout, progress};

/// A folder that is written; see the [crate] for what a reader may rely on.
///
/// Memory of one partition's load is bounded by a row group's encoded bytes (`row-group-bytes`) and
/// two parts of an upload.
#[derive(Debug)]
pub struct FolderTarget {
    pub(crate) store: FolderStore,
    pub(crate) settings: FolderSettings,
    pub(crate) changes: Arc<Shared>,
    /// What this target calls its files of a table under a run's task and epoch.
    files: Mutex<HashMap<(String, u64, TableName), Numbers>>,
}

/// Of file names: the generation, which is this target's alone, and the files begun in it.
#[derive(Debug)]
struct Numbers {
    generation: u64,
    files: u64,
}

impl FolderTarget {
    /// A target in a store.
    ///
    /// # Errors
    /// `Settings` for options that contradict each other, `Unsupported` for a format that is not
    /// built in.
    pub fn new(store: FolderStore, settings: FolderSettings) -> Result<Self> {
        settings.check()?;
        format::available(settings.data_format)?;
        if settings.preserve_transactions {
            format::available(DataFormat::Csv)?;
        }
        Ok(Self { store, settings, changes: Arc::default(), files: Mutex::default() })
    }

    /// Opens a folder or store by its URL, with default options.
    ///
    /// # Errors
    /// Those of [`FolderStore::open`].
    pub fn open(url: &str) -> Result<Arc<Self>> {
        let settings = FolderSettings::new(url);
        Ok(Arc::new(Self::new(FolderStore::open(&settings)?, settings)?))
    }

    /// A file name that nobody else uses.
    async fn next_file(&self, run: &Run, table: &TableName) -> Result<String> {
        let mut files = self.files.lock().await;
        let numbers = match files.entry((run.task.clone(), run.epoch, table.clone())) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let generation = progress::claim_generation(&self.store, &run.task, table).await?;
                entry.insert(Numbers { generation, files: 0 })
            }
        };
        numbers.files += 1;
        if numbers.files >= layout::FILES_MAX {
            return Err(Error::settings(
                "the table makes too many files; raise max-file-size-bytes",
            ));
        }
        Ok(layout::file_name(numbers.generation, numbers.files, self.settings.data_format))
    }

    /// Writes the rows of a partition as files, none of which anybody knows yet.
    async fn write_files(
        &self,
        run: &Run,
        table: &TableSchema,
        partition: &Partition,
        batches: BatchStream,
    ) -> Result<(Vec<DataFile>, u64, u64)> {
        let mut upload = None;
        match self.write_into(&mut upload, run, table, partition, batches).await {
            Ok(written) => Ok(written),
            Err(error) => {
                if let Some(upload) = upload {
                    upload.abort().await;
                }
                Err(error)
            }
        }
    }

    async fn write_into(
        &self,
        upload: &mut Option<Upload>,
        run: &Run,
        table: &TableSchema,
        partition: &Partition,
        mut batches: BatchStream,
    ) -> Result<(Vec<DataFile>, u64, u64)> {
        let folder = layout::partition(&self.store, &table.name, partition);
        let file_table = columns::load_table(table, &columns::before_load(&self.settings))?;
        let begun = match self.settings.use_task_start_time_for_full_load_timestamp {
            true => Some(progress::begun_at(&self.store, run).await?),
            false => None,
        };
        let (mut files, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            rows += batch.num_rows() as u64;
            bytes += batch_bytes(&batch) as u64;
            let batch = columns::load_rows(batch, &file_table, &self.settings, begun)?;
            let file = match &mut *upload {
                Some(file) => file,
                none => {
                    let name = self.next_file(run, &table.name).await?;
                    let path = folder.clone().join(name.as_str());
                    none.insert(Upload::begin(
                        &self.store,
                        path,
                        partition.number,
                        &file_table,
                        &self.settings,
                        &batch,
                    )?)
                }
            };
            let size = file.write(batch).await?;
            if size >= self.settings.max_file_size_bytes
                && let Some(full) = upload.take()
            {
                files.push(full.finish().await?);
                fault::point("folder-target-after-file")?;
            }
        }
        if let Some(last) = upload.take() {
            files.push(last.finish().await?);
            fault::point("folder-target-after-file")?;
        }
        Ok((files, rows, bytes))
    }

    /// Refuses a table whose folder is where files of transactions stand: it is cleared.
    fn check_apart(&self, table: &TableName) -> Result<()> {
        if !self.settings.preserve_transactions {
            return Ok(());
        }
        let place = layout::transactions(&self.store, &self.settings);
        if !place.prefix_matches(&layout::data(&self.store, table)) {
            return Ok(());
        }
        Err(Error::settings(
            "cdc-path lies in the folder of this table, which is cleared before a load; choose \
             another folder",
        )
        .context("table", table))
    }

    /// Removes what earlier loads of a table left; refuses files that are not dms's.
    ///
    /// In this order: what says that the table is complete, what says that partitions are, files.
    /// So a process that dies in between leaves nothing that names a file that is gone.
    async fn clear(&self, run: &Run, table: &TableName) -> Result<()> {
        let place = layout::data(&self.store, table);
        let data = self.store.list(&place).await?;
        let known = progress::is_known(&self.store, table).await?;
        let ours = |path: &Path| known && path.filename().is_some_and(layout::is_data_name);
        if let Some(object) = data.iter().find(|object| !ours(&object.location)) {
            return Err(foreign(&object.location, table));
        }
        let mut manifests = self.store.list(&layout::table_manifests(&self.store, table)).await?;
        manifests.retain(|object| layout::is_manifest(&object.location));
        let records = progress::records_of_loads(&self.store, table).await?;
        // A run that has taken over may be writing already: with this check after them, the
        // listings hold nothing of it.
        progress::check_epoch(&self.store, run).await?;
        for manifest in manifests {
            self.store.delete(&manifest.location).await?;
        }
        fault::point("folder-target-prepare")?;
        for record in records {
            self.store.delete(&record).await?;
        }
        fault::point("folder-target-prepare")?;
        for object in data {
            self.store.delete(&object.location).await?;
        }
        self.store.sweep(&place, layout::is_data_name).await
    }

    /// Removes files of runs that were killed or fenced, and makes sure that those of the manifest
    /// are there.
    async fn tidy(&self, run: &Run, record: &LoadRecord, manifest: &Manifest) -> Result<()> {
        let place = layout::data(&self.store, &manifest.table.name);
        let mut listed: BTreeMap<String, ObjectMeta> = BTreeMap::new();
        for object in self.store.list(&place).await? {
            listed.insert(self.store.relative(&object.location), object);
        }
        // Another run or task may be writing the table already: with this check after it, the
        // listing holds nothing of theirs.
        progress::check_load(&self.store, run, record).await?;
        for file in &manifest.files {
            match listed.remove(&file.path) {
                Some(object) if object.size == file.bytes => {}
                Some(object) => {
                    let what = format!("has {} bytes of {}", object.size, file.bytes);
                    return Err(corrupt(&file.path, &what));
                }
                None => return Err(corrupt(&file.path, "is gone")),
            }
        }
        for left in listed.into_values() {
            if left.location.filename().is_some_and(layout::is_file_name) {
                self.store.delete(&left.location).await?;
            }
        }
        self.store.sweep(&place, layout::is_file_name).await
    }
}

fn foreign(path: &Path, table: &TableName) -> Error {
    Error::new(
        ErrorKind::Constraint,
        format!(
            "the table's folder holds {path}, which no load of dms wrote; move it away or choose \
             another folder"
        ),
    )
    .context("table", table)
}

#[async_trait]
impl Target for FolderTarget {
    fn info(&self) -> EndpointInfo {
        self.store.info()
    }

    fn map_types(&self, table: &TableSchema) -> Vec<ColumnMapping> {
        table.columns.iter().map(|column| format::mapping(column, &self.settings)).collect()
    }

    async fn check(&self) -> Result<()> {
        self.store.check_local()?;
        // Whether objects can be written shows only when one is: a listing is all that changes
        // nothing.
        self.store.list(&self.store.path(["_dms"])).await.map(|_| ())
    }

    async fn begin(&self, task: &str) -> Result<TaskProgress> {
        progress::begin(&self.store, task).await
    }

    async fn prepare(
        &self,
        run: &Run,
        table: &TableSchema,
        mode: TablePrepMode,
        partitions: &[Partition],
        position: Option<&Position>,
    ) -> Result<()> {
        progress::check_epoch(&self.store, run).await?;
        let existing = !self.store.list(&layout::data(&self.store, &table.name)).await?.is_empty()
            || progress::manifest(&self.store, &table.name).await?.is_some();
        if existing && mode == TablePrepMode::DoNothing {
            return Err(Error::schema(
                "the table is there already, and rows cannot be added to files under mode \
                 DO_NOTHING; use DROP_AND_CREATE or TRUNCATE_BEFORE_LOAD, or another folder",
            )
            .context("table", &table.name));
        }
        // Before anything is removed.
        self.check_apart(&table.name)?;
        columns::load_table(table, &columns::before_load(&self.settings))?;
        self.clear(run, &table.name).await?;
        fault::point("folder-target-prepare")?;
        let load = progress::claim_generation(&self.store, &run.task, &table.name).await?;
        let key = (run.task.clone(), run.epoch, table.name.clone());
        self.files.lock().await.insert(key, Numbers { generation: load, files: 0 });
        self.changes.set_load(run, &table.name, load).await;
        let record = LoadRecord {
            version: VERSION,
            load,
            table: table.clone(),
            partitions: partitions.to_vec(),
            position: position.cloned(),
            form: self.settings.load_form(),
        };
        let path = layout::load(&self.store, &run.task, &table.name, load);
        self.store.put(&path, &record, false).await.map(|_| ())
    }

    async fn load(
        &self,
        run: &Run,
        table: &TableSchema,
        partition: &Partition,
        position: Option<&Position>,
        batches: BatchStream,
    ) -> Result<Receipt> {
        progress::check_epoch(&self.store, run).await?;
        let record = progress::load_record(&self.store, &run.task, &table.name).await?;
        if record.form != self.settings.load_form() {
            return Err(Error::settings(
                "the table was begun in another format; load it again (start type reload)",
            )
            .context("table", &table.name));
        }
        let number = partition.number;
        let held = progress::partition_record(&self.store, &run.task, &record, number).await?;
        if let Some(held) = held {
            return Ok(held.receipt);
        }
        let written = self.write_files(run, table, partition, batches).await;
        let (files, rows, bytes) = written.context("table", &table.name)?;
        let receipt =
            Receipt { partition: partition.number, rows, bytes, position: position.cloned() };
        let complete = PartitionRecord {
            version: VERSION,
            load: record.load,
            receipt: receipt.clone(),
            files,
        };
        fault::point("folder-target-before-receipt")?;
        progress::check_load(&self.store, run, &record).await?;
        let path = layout::receipt(
            &self.store,
            &run.task,
            &table.name,
            record.load,
            partition.number,
            run.epoch,
        );
        self.store.put(&path, &complete, false).await?;
        fault::point("folder-target-after-receipt")?;
        Ok(receipt)
    }

    async fn finish(&self, run: &Run, table: &TableSchema) -> Result<()> {
        progress::check_epoch(&self.store, run).await?;
        let record = progress::load_record(&self.store, &run.task, &table.name).await?;
        let complete = progress::partition_records(&self.store, &run.task, &record).await?;
        Receipt::check_complete(&record.partitions, complete.iter().map(|held| &held.receipt))
            .context("table", &table.name)?;
        let manifest = Manifest {
            version: VERSION,
            task: run.task.clone(),
            load: record.load,
            table: table.clone(),
            form: record.form.clone(),
            rows: complete.iter().map(|held| held.receipt.rows).sum(),
            bytes: complete.iter().map(|held| held.receipt.bytes).sum(),
            position: record.position.clone(),
            files: complete.into_iter().flat_map(|held| held.files).collect(),
        };
        self.tidy(run, &record, &manifest).await.context("table", &table.name)?;
        fault::point("folder-target-before-manifest")?;
        progress::check_load(&self.store, run, &record).await?;
        let path = layout::manifest(&self.store, &table.name, record.load);
        self.store.put(&path, &manifest, false).await?;
        Ok(())
    }
}
