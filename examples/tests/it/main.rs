//! Drives the built `migrate` example as a user does: as a process, judged by its exit code, its
//! output and the data that it leaves.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod bank;
mod command_line;
mod crash;
mod data;
mod database;
mod harness;
mod kill;
mod pairs;
mod programs;
mod replication;
mod runs;
#[allow(dead_code, reason = "tests of the connector use the rest")]
#[path = "../../../dms-connectors/tests/postgres/server.rs"]
mod server;
mod session;
mod source_changed;
mod workload;
