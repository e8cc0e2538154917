//! SQLite, in its own library (version 3.54, compiled in).
//!
//! **Source.** All readers share one state of the file, whatever its journal mode, without writing
//! to it. In WAL mode writers go on while the snapshot is held; in rollback mode SQLite makes them
//! wait, so a long load of a busy rollback-mode file keeps its writers out.
//!
//! SQLite types *values*, not columns. The declared type says what a column's values should be
//! (module `types`), and a value that is something else is a `Data` error that names table, column,
//! row and value kind. Either correct it or let the column travel as what it is: the option
//! `column-types` sets a column's type, and `other('sqlite any')` carries any mix of storage
//! classes unchanged. Columns without a declared type travel so by themselves.
//!
//! **Changes.** SQLite keeps no log that could be read, so following changes takes triggers in the
//! source's file, which log the keys of touched rows in a table beside (`dms_changes_<n>`); whoever
//! writes fires them. Every table needs a declared key. What lies between two looks at the log, 50 ms
//! of a busy source, comes as what it came to. A table that is built anew, or that gets another unique
//! index, has to be loaded again, which is told and never passed over. The triggers mention columns of
//! keys and unique indexes, which SQLite does not drop while they do. Rows that are written with
//! triggers disabled are not seen.
//!
//! **Target.** One writer, as SQLite has it; a partition is one transaction, its receipt included, and
//! so is what is applied of changes, with the position that it reaches.

mod apply;
mod bind;
mod changes;
mod cursor;
mod decode;
mod discover;
mod encode;
mod error;
mod histogram;
mod insert;
mod literal;
mod pages;
mod partition;
mod reading;
mod settings;
mod snapshot;
mod source;
mod state;
mod tables;
mod target;
mod types;

use std::sync::Arc;

use dms_core::Result;
use dms_core::endpoint::{
    ChangeSource, ChangeTarget, Connector, EndpointSettings, Opening, Source, Target,
};
use futures::FutureExt;

pub use settings::{SqliteSettings, Temporal};
pub use source::SqliteSource;
pub use target::SqliteTarget;

/// The connector's name; also the engine of its native types.
pub const ENGINE: &str = "sqlite";

pub(crate) const CONNECTOR: Connector = Connector {
    name: ENGINE,
    schemes: &["sqlite"],
    source: Some(open_source),
    target: Some(open_target),
    change_source: Some(open_change_source),
    change_target: Some(open_change_target),
};

fn open_source(endpoint: EndpointSettings) -> Opening<dyn Source> {
    async move { Ok(source(&endpoint).await? as Arc<dyn Source>) }.boxed()
}

fn open_change_source(endpoint: EndpointSettings) -> Opening<dyn ChangeSource> {
    async move { Ok(source(&endpoint).await? as Arc<dyn ChangeSource>) }.boxed()
}

async fn source(endpoint: &EndpointSettings) -> Result<Arc<SqliteSource>> {
    SqliteSource::open_with(SqliteSettings::from_endpoint(endpoint)?).await.map(Arc::new)
}

fn open_target(endpoint: EndpointSettings) -> Opening<dyn Target> {
    async move { Ok(target(&endpoint)? as Arc<dyn Target>) }.boxed()
}

fn open_change_target(endpoint: EndpointSettings) -> Opening<dyn ChangeTarget> {
    async move { Ok(target(&endpoint)? as Arc<dyn ChangeTarget>) }.boxed()
}

fn target(endpoint: &EndpointSettings) -> Result<Arc<SqliteTarget>> {
    SqliteTarget::open_with(SqliteSettings::from_endpoint(endpoint)?).map(Arc::new)
}
