//! Tests of change data capture, on endpoints in memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod history;
mod net;
mod replication;
