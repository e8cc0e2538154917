//! What the example programs share.

pub mod endpoints;
pub mod exact;
pub mod memory;
pub mod progress;
pub mod stop;
