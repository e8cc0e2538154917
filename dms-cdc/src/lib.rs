//! Change data capture of the `dms` database migration engine.

pub mod net;
pub mod ordered;
pub mod transform;
