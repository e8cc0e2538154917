//! The PostgreSQL connector against real servers.
#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod conformance;
mod server;
