//! Replication tasks from one end to the other, as a user runs them.

mod ddl;
mod failures;
mod mapping;
mod points;
mod tables;
mod task;
