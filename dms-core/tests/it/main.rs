//! Tests of the workspace as a whole.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod crate_edges;
