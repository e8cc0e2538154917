//! Database connectors of the `dms` migration engine: one folder an engine, one feature an engine.
//!
//! | feature | URL schemes | source | target |
//! |---|---|---|---|
//! | `sqlite` | `sqlite:` | yes | yes |

use dms_core::endpoint::Connector;

#[cfg(feature = "sqlite")]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;

/// The connectors of the features that are on.
pub const CONNECTORS: &[Connector] = &[
    #[cfg(feature = "sqlite")]
    sqlite::CONNECTOR,
];
