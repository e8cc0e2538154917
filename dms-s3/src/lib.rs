//! Folders and object stores as endpoints of the `dms` migration engine: Parquet or CSV files in
//! DMS's layout, written and read back.
//!
//! ```text
//! shop/orders/LOAD00000001.parquet          data, as DMS names it
//! _dms/tables/shop/orders/…                 manifests: what is complete
//! _dms/tasks/nightly/…                      what each task has loaded so far
//! _dms/generations/shop/orders/…            who may write which file names
//! ```
//!
//! A store has no transactions; **the manifest is the commit**. It names a table's files with sizes
//! and checksums and is written last. Files that no manifest names do not exist for a reader that
//! goes by manifests, as [`FolderSource`] does; a reader that lists the folder instead may see
//! files of a load under way or given up.
//!
//! # Changes
//!
//! Changes stand beside a table's loaded files, in files of DMS's dated names; the column `Op` comes
//! first, with `I`, `U` or `D`. A source that reads the folder reads the loaded files alone:
//!
//! ```text
//! shop/orders/20261121-110129123-000000000000002A-0001-9f86d081884c7d65.parquet
//! _dms/tasks/nightly/changes/commits/00000000000000000007.json
//! ```
//!
//! A commit is one object, created under the next number. It names the files of changes that came
//! since the commit before, with rows and checksums, and up to which position everything is there.
//! A reader that takes the commits in order, and of each table the files of its newest load (`load`
//! of its manifest), sees each change once and in order; a reader that lists the folder may see a
//! file that a killed run left, whose changes come again in another file, as with DMS.
//!
//! - An update holds the row as it is now. One that moves a row to another key is a `D` and an `I`;
//!   so is every update that changes a row of a table without a key, whose rows are identified as a
//!   whole. A delete holds what identifies the row, and NULL elsewhere.
//! - A value that an update left as it was, and that the source did not log, is an error, or with
//!   `cdc-unchanged-column` a NULL whose column is named there.
//! - Changes that SQLite tells as rows that are now so, whatever they were, are `U`. Nor does it tell
//!   when they were committed: names have the year 1970, a column of times is NULL, and folders by
//!   date are refused.
//! - A table that is emptied, changes its shape or goes is an act of its own in the commit, between
//!   the files before and after; files stay as they are.
//!
//! With `date-partition-enabled` the files stand in folders by the date of the commit,
//! `shop/orders/2026/11/21/…`. With `preserve-transactions` a table has no files of changes; those of
//! all tables stand in one folder, in the order in which the source made them:
//!
//! ```text
//! cdc/CDC_TXN-20261121-110129123-000000000000002A-000001-9f86d081884c7d65.csv
//!     I,orders,shop,17,…          op, table, schema, then the columns that the commit names
//!     U,stock,shop,9,…
//! ```
//!
//! Names sort in the order of commits, and a transaction stands in one file unless it is larger than
//! 256 MiB. They hold rows of several tables, so they stay when one of these is loaded again; the
//! commit tells of which load each table's rows are.
//!
//! A process that dies in an upload leaves its parts in an object store, where nobody sees them and
//! somebody pays for them: give the bucket a lifecycle rule that ends incomplete multipart uploads
//! (Azure drops them after a week by itself).
//! A store must refuse to create what is there (`If-None-Match: *` of S3), and one that does not is
//! itself refused.
//!
//! | URL | cargo feature |
//! |---|---|
//! | `file:///folder`, `memory:///` | |
//! | `s3://bucket/prefix`, `s3a://…` | `aws` |
//! | `gs://bucket/prefix` | `gcp` |
//! | `az://container/prefix`, `abfs://…`, `abfss://…` | `azure` |

#[cfg(not(any(feature = "parquet", feature = "csv")))]
compile_error!("dms-s3 needs a format: turn on the feature parquet or csv");

mod changes;
mod clock;
mod columns;
mod date_partition;
mod error;
mod format;
mod layout;
mod manifest;
mod progress;
mod reading;
mod settings;
mod source;
mod store;
mod target;
mod upload;

use std::sync::Arc;

use dms_core::Result;
use dms_core::endpoint::{ChangeTarget, Connector, EndpointSettings, Opening, Source, Target};
use futures::FutureExt;

pub use date_partition::{DatePartitionDelimiter, DatePartitionSequence};
pub use settings::{Compression, DataFormat, Dictionary, FolderSettings, ParquetVersion};
pub use source::FolderSource;
pub use store::FolderStore;
pub use target::FolderTarget;

/// The connector's name.
pub const ENGINE: &str = "folder";

/// The one connector of this crate.
pub const CONNECTORS: &[Connector] = &[Connector {
    name: ENGINE,
    schemes: &["file", "memory", "s3", "s3a", "gs", "az", "azure", "abfs", "abfss"],
    source: Some(open_source),
    target: Some(open_target),
    change_source: None,
    change_target: Some(open_change_target),
}];

fn open_source(endpoint: EndpointSettings) -> Opening<dyn Source> {
    async move {
        let settings = FolderSettings::from_endpoint(&endpoint)?;
        let store = FolderStore::open(&settings)?;
        Ok(Arc::new(FolderSource::new(store, settings)) as Arc<dyn Source>)
    }
    .boxed()
}

fn open_target(endpoint: EndpointSettings) -> Opening<dyn Target> {
    async move { Ok(folder_target(&endpoint)? as Arc<dyn Target>) }.boxed()
}

fn open_change_target(endpoint: EndpointSettings) -> Opening<dyn ChangeTarget> {
    async move { Ok(folder_target(&endpoint)? as Arc<dyn ChangeTarget>) }.boxed()
}

fn folder_target(endpoint: &EndpointSettings) -> Result<Arc<FolderTarget>> {
    let settings = FolderSettings::from_endpoint(endpoint)?;
    Ok(Arc::new(FolderTarget::new(FolderStore::open(&settings)?, settings)?))
}
