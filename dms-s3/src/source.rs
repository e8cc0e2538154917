//! A folder as a source: what manifests say is complete.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use dms_core::batch::{BatchStream, channel};
use dms_core::endpoint::{
    EndpointInfo, Partition, PartitionGoal, PartitionRange, ReadRequest, Snapshot, Source,
};
use dms_core::mapping::{ParallelLoad, Selection, ranges};
use dms_core::position::Position;
use dms_core::schema::{Catalog, TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result};

use crate::layout;
use crate::manifest::{DataFile, Manifest};
use crate::reading::Reading;
use crate::settings::FolderSettings;
use crate::store::FolderStore;

/// A folder that is read.
#[derive(Debug, Clone)]
pub struct FolderSource {
    pub(crate) store: FolderStore,
    pub(crate) settings: FolderSettings,
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
        let mut listed = self.store.list(&layout::manifests(&self.store)).await?;
        listed.retain(|object| layout::is_manifest(&object.location));
        let mut manifests = BTreeMap::new();
        for manifest in self.store.get_all::<Manifest>(listed).await? {
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

    async fn snapshot(&self, tables: &[TableSchema], _readers: usize) -> Result<Arc<dyn Snapshot>> {
        let manifests = self.manifests().await?;
        // Files are never written again under one name, so the manifests say it all.
        let mut hasher = blake3::Hasher::new();
        for (name, manifest) in &manifests {
            if !tables.is_empty() && !tables.iter().any(|table| table.name == *name) {
                continue;
            }
            let json = serde_json::to_vec(manifest).map_err(|error| {
                Error::unexpected("a manifest cannot be written").with_source(error)
            })?;
            hasher.update(&json);
        }
        Ok(Arc::new(FolderSnapshot {
            position: Position::new(0, format!("manifests {}", hasher.finalize().to_hex())),
            source: self.clone(),
            manifests,
            verified: Arc::default(),
        }))
    }
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
    /// The manifest of a table that is still the one which was discovered.
    fn manifest(&self, table: &TableSchema) -> Result<&Manifest> {
        let changed = |what: &str| Err(Error::schema(what).context("table", &table.name));
        let Some(manifest) = self.manifests.get(&table.name) else {
            return changed("the table is gone");
        };
        // Columns are told apart by their places alone from here on.
        let form = |table: &TableSchema| -> Vec<_> {
            let columns = table.columns.iter();
            columns.map(|c| (c.name.clone(), c.logical_type.clone(), c.nullable)).collect()
        };
        if form(&manifest.table) != form(table) {
            return changed(
                "the table was written anew with other columns since it was discovered; run the \
                 task again",
            );
        }
        Ok(manifest)
    }
}

/// The parts of a table, as tokens for [`find`], with about their bytes; `None` is all of it.
///
/// A file is a part, or several when it is large, cut between row groups. Of more files than parts
/// are wanted, runs of whole files are parts.
fn split(manifest: &Manifest, goal: &PartitionGoal) -> Vec<(Option<String>, u64)> {
    let files = &manifest.files;
    if files.len() < 2 && manifest.bytes <= goal.bytes {
        return vec![(None, manifest.bytes)];
    }
    // As Arrow held them: the files' own bytes are compressed.
    let row_bytes = manifest.bytes / manifest.rows.max(1);
    let share = |rows: u64| row_bytes.saturating_mul(rows);
    let mut parts = Vec::new();
    for file in files {
        let (mut from, mut rows) = (0, 0);
        for (at, group) in file.row_groups.iter().enumerate() {
            rows += group;
            if share(rows) >= goal.bytes && at + 1 < file.row_groups.len() {
                parts.push((Some(format!("{}|{from}..{}", file.path, at + 1)), share(rows)));
                (from, rows) = (at + 1, 0);
            }
        }
        if from == 0 {
            parts.push((Some(file.path.clone()), share(file.rows)));
        } else {
            let token = format!("{}|{from}..{}", file.path, file.row_groups.len());
            parts.push((Some(token), share(rows)));
        }
    }
    if parts.len() <= goal.at_most {
        return parts;
    }
    let step = files.len().div_ceil(goal.at_most.max(1)).max(1);
    let runs = files.chunks(step).enumerate().map(|(run, files)| {
        let rows = files.iter().map(|file| file.rows).sum();
        // No path begins like this: `#` is encoded in them.
        (Some(format!("#{}..{}", run * step, run * step + files.len())), share(rows))
    });
    runs.collect()
}

/// Row groups of a file, from and to.
type Groups = Option<(usize, usize)>;

/// The files that a token of [`split`] names.
fn find(manifest: &Manifest, token: &str) -> Option<(Vec<DataFile>, Groups)> {
    if let Some(run) = token.strip_prefix('#') {
        let (from, to) = parse_range(run)?;
        return Some((manifest.files.get(from..to)?.to_vec(), None));
    }
    let (path, groups) = match token.split_once('|') {
        Some((path, groups)) => (path, Some(parse_range(groups)?)),
        None => (token, None),
    };
    let file = manifest.files.iter().find(|file| file.path == path)?;
    Some((vec![file.clone()], groups))
}

fn parse_range(text: &str) -> Option<(usize, usize)> {
    let (from, to) = text.split_once("..")?;
    Some((from.parse().ok()?, to.parse().ok()?))
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
        let manifest = self.manifest(table)?;
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
        Ok(split(manifest, goal)
            .into_iter()
            .enumerate()
            .map(|(number, (token, bytes))| Partition {
                number: u32::try_from(number).unwrap_or(u32::MAX),
                name: None,
                range: token.map_or(PartitionRange::Whole, PartitionRange::Native),
                byte_estimate: Some(bytes),
            })
            .collect())
    }

    async fn read(&self, request: ReadRequest) -> Result<BatchStream> {
        let manifest = self.manifest(&request.table)?.clone();
        let projected = request.projected()?;
        let (files, groups) = match &request.partition.range {
            PartitionRange::Native(token) => find(&manifest, token).ok_or_else(|| {
                Error::settings(format!("{token:?} is not a partition of this table"))
            })?,
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
