//! Change data capture of the `dms` database migration engine.

mod alter;
mod apply;
mod batch;
pub mod buffer;
mod capture;
mod cutter;
mod feeder;
mod gather;
pub mod net;
pub mod ordered;
mod replication;
mod route;
mod status;
mod stop;
pub mod transform;

pub use dms_core::task::{StartPoint, StopWhen};
pub use replication::Replication;
pub use status::{Phase, ReplicationStatus};
