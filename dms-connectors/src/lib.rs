//! Database connectors of the `dms` migration engine: one folder an engine, one feature an engine.
//!
//! | feature | URL schemes | source | target |
//! |---|---|---|---|
//! | `postgres` | `postgres:`, `postgresql:` | full load, changes | full load, changes |
//! | `sqlite` | `sqlite:` | full load, changes | full load, changes |

use dms_core::endpoint::Connector;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod control;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod queue;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;

/// The connectors of the features that are on.
pub const CONNECTORS: &[Connector] = &[
    #[cfg(feature = "postgres")]
    postgres::CONNECTOR,
    #[cfg(feature = "sqlite")]
    sqlite::CONNECTOR,
];
