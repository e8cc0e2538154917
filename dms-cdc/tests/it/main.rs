//! Tests of change data capture, on endpoints in memory.

mod history;
mod net;
