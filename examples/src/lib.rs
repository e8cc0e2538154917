//! What the example programs share.

pub mod awkward;
pub mod endpoints;
pub mod exact;
pub mod memory;
pub mod progress;
pub mod stop;
pub mod tpch;
