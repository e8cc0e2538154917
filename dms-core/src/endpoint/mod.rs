//! Endpoints: what a task reads from and writes to. A connector implements these traits; a program
//! opens endpoints by hand or through the [`Registry`].

mod change_source;
mod change_target;
mod registry;
mod source;
mod target;

use std::fmt;

pub use change_source::{Acknowledge, ChangeFeed, ChangeSource, FeedRequest, LogStatus};
pub use change_target::{
    Alteration, Apply, ApplyException, BatchHint, ChangeForm, ChangeTarget, Note, ReplicatedTable,
    ReplicationProgress, Step, TaskRecord,
};
pub use registry::{Connector, EndpointSettings, Open, Opening, Registry};
pub use source::{Bound, Partition, PartitionGoal, PartitionRange, ReadRequest, Snapshot, Source};
pub use target::{
    ColumnMapping, Fidelity, Receipt, Run, TablePrepMode, TableProgress, Target, TaskProgress,
};

/// What an endpoint is called in messages: never with credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointInfo {
    /// The connector's name: `sqlite`, `postgres`, `folder`, …
    pub engine: &'static str,
    /// Its address with every secret taken out.
    pub address: String,
}

impl fmt::Display for EndpointInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}
