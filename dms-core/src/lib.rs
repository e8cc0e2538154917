//! Vocabulary and full load of the `dms` database migration engine.

pub mod batch;
pub mod change;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod endpoint;
mod error;
pub mod fault;
pub mod full_load;
pub mod json;
pub mod mapping;
pub mod memory;
pub mod position;
pub mod retry;
pub mod schema;
pub mod task;
pub mod validation;
pub mod value;

pub use arrow;
pub use error::{Error, ErrorKind, Result, ResultExt};
