//! Endpoints in memory: the reference implementation of the traits, for tests, examples and
//! programs that make or take record batches themselves.

mod apply;
mod feed;
mod rows;
mod source;
mod target;

pub use feed::MemoryChange;
pub use source::MemorySource;
pub use target::MemoryTarget;

/// The connector's name.
pub const ENGINE: &str = "memory";
