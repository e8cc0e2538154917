//! What the example programs share.

pub mod awkward;
pub mod endpoints;
pub mod exact;
pub mod memory;
pub mod progress;
pub mod stop;
pub mod tpch;
pub mod writer;

/// The README's program is compiled like any example of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
