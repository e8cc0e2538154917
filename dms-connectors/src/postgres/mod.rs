//! PostgreSQL, and what speaks its protocol.
//!
//! **Source.** All readers share one exported snapshot. A table is split by its physical pages
//! (`ctid`), partition by partition where it is partitioned, and each part is a binary `COPY`
//! decoded into Arrow as it arrives. A type without a binary decoder here travels in its text form
//! as `other('TYPE')`, exactly, from PostgreSQL to PostgreSQL.
//!
//! From PostgreSQL to PostgreSQL, rows of built-in types that no rule changes are not decoded at all.
//!
//! **Changes** are read by logical replication; see `changes`.
//!
//! **Target.** Each partition is one transaction: a binary `COPY` with the receipt beside it. Keys
//! and unique indexes are built when the rows are there, and sequences go on behind them.
//!
//! **Target of changes.** A step takes all its rows in one statement, as arrays; many new rows come
//! by `COPY`. The position is written in the same transaction. A role that may set
//! `session_replication_role` (a superuser, or one with `GRANT SET ON PARAMETER` since PostgreSQL 15)
//! keeps the target's triggers and foreign keys from acting on changes, which have acted at the source
//! already; any other role needs a target without them.

mod apply;
mod changes;
mod connection;
mod copy;
mod discover;
mod environment;
mod error;
mod obstacles;
mod partition;
mod prepare;
mod sequence;
mod settings;
mod snapshot;
mod source;
mod state;
mod target;
mod tls;
mod types;
mod unchanged;

use std::sync::Arc;

use dms_core::Result;
use dms_core::endpoint::{
    ChangeSource, ChangeTarget, Connector, EndpointSettings, Opening, Source, Target,
};
use futures::FutureExt;

pub use changes::decode_changes;
pub use copy::{decode_copy, encode_copy};
pub use settings::{CaptureDdls, ExistingIndexes, PostgresSettings, RetainedWalPolicy};
pub use source::PostgresSource;
pub use target::PostgresTarget;

/// The connector's name; also the engine of its native types.
pub const ENGINE: &str = "postgres";

pub(crate) const CONNECTOR: Connector = Connector {
    name: ENGINE,
    schemes: &["postgres", "postgresql"],
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

async fn source(endpoint: &EndpointSettings) -> Result<Arc<PostgresSource>> {
    PostgresSource::open(PostgresSettings::from_endpoint(endpoint)?).await
}

fn open_target(endpoint: EndpointSettings) -> Opening<dyn Target> {
    async move { Ok(target(&endpoint)? as Arc<dyn Target>) }.boxed()
}

fn open_change_target(endpoint: EndpointSettings) -> Opening<dyn ChangeTarget> {
    async move { Ok(target(&endpoint)? as Arc<dyn ChangeTarget>) }.boxed()
}

fn target(endpoint: &EndpointSettings) -> Result<Arc<PostgresTarget>> {
    PostgresSettings::from_endpoint(endpoint).map(PostgresTarget::open)
}
