//! Change data capture of the `dms` database migration engine.

mod alter;
mod batch;
pub mod net;
pub mod ordered;
mod route;
pub mod transform;
