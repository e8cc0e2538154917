//! A file of changes on its way into the store.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use dms_core::batch::batch_bytes;
use dms_core::change::Transaction;
use dms_core::schema::TableSchema;
use dms_core::{Error, Result};

use super::manifest::{ChangeFile, WrittenFile};
use super::ready::Ready;
use crate::clock::stamp;
use crate::format::FileEncoder;
use crate::layout;
use crate::settings::FolderSettings;
use crate::store::FolderStore;
use crate::upload::blocking;

/// A file that is gathered in memory, since its name tells what is in it: the same changes make the
/// same file, and other changes another. So neither a run that goes on after a crash nor one that
/// was fenced can put anything else in the place of a file that a commit names.
pub(crate) struct Gathering {
    table: TableSchema,
    load: u64,
    /// Below the table's own folder.
    folders: Vec<String>,
    /// Away while it encodes. Never locked: an encoder by itself cannot be looked at by two
    /// threads, which the futures around it would have to promise.
    encoder: Mutex<Option<FileEncoder>>,
    bytes: Vec<Bytes>,
    rows: u64,
    /// Bytes of the rows, as Arrow held them: the file takes no more, about.
    pub(crate) held: usize,
    first: Transaction,
    last: Transaction,
}

impl Gathering {
    pub(crate) fn begin(first: &Ready, load: u64, settings: &FolderSettings) -> Result<Self> {
        let encoder = FileEncoder::new(&first.table, settings, &first.rows)?;
        Ok(Self {
            table: first.table.clone(),
            load,
            folders: first.folders.clone(),
            encoder: Mutex::new(Some(encoder)),
            bytes: Vec::new(),
            rows: 0,
            held: 0,
            first: first.first.clone(),
            last: first.last.clone(),
        })
    }

    /// Whether rows go into this file, as those of a load.
    pub(crate) fn takes(&self, rows: &Ready, load: u64) -> bool {
        self.load == load && self.table == rows.table && self.folders == rows.folders
    }

    pub(crate) async fn write(&mut self, ready: Ready) -> Result<()> {
        let Ready { rows, last, .. } = ready;
        self.rows += rows.num_rows() as u64;
        self.held += batch_bytes(&rows);
        let mut encoder = self.take()?;
        let (encoder, bytes) = blocking(move || {
            let bytes = encoder.write(&rows)?;
            Ok((encoder, bytes))
        })
        .await?;
        self.encoder = Mutex::new(Some(encoder));
        if !bytes.is_empty() {
            self.bytes.push(Bytes::from(bytes));
        }
        self.last = last;
        Ok(())
    }

    /// Puts the file into the store; `part` tells files of one table and commit apart.
    pub(crate) async fn finish(
        mut self,
        store: &FolderStore,
        settings: &FolderSettings,
        part: u32,
    ) -> Result<ChangeFile> {
        let encoder = self.take()?;
        let finished = blocking(move || encoder.finish()).await?;
        self.bytes.push(Bytes::from(finished.rest));
        let name = format!(
            "{}-{:016X}-{part:04}-{}.{}",
            stamp(self.first.committed_at.unwrap_or_default()),
            self.first.position.order,
            finished.blake3.get(..16).unwrap_or_default(),
            settings.data_format.extension(),
        );
        let folder = layout::data(store, &self.table.name);
        let folder = self.folders.iter().fold(folder, |path, part| path.join(part.as_str()));
        let path = folder.join(name.as_str());
        store.put_bytes(&path, self.bytes).await?;
        Ok(ChangeFile {
            file: WrittenFile {
                path: store.relative(&path),
                rows: self.rows,
                bytes: finished.size,
                blake3: finished.blake3,
                first: self.first.position,
                last: self.last.position,
            },
            load: self.load,
            table: self.table,
            form: settings.change_form(),
        })
    }

    fn take(&mut self) -> Result<FileEncoder> {
        let encoder = self.encoder.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        encoder.ok_or_else(|| Error::unexpected("the file's encoder has failed"))
    }
}
