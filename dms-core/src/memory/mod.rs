//! Endpoints in memory: the reference implementation of the traits, for tests, examples and
//! programs that make or take record batches themselves.

mod source;
mod target;

pub use source::MemorySource;
pub use target::MemoryTarget;

/// The connector's name.
pub const ENGINE: &str = "memory";
