//! Places in a source's history.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A point in a source's history, opaque to everyone but its connector.
///
/// `order` compares positions of one incarnation of one source's log; `token` is what the connector
/// needs to find the place again (an LSN, a binlog file with offset and GTID set, the fingerprint
/// of a SQLite file). Two equal tokens mean the same content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Comparable within one log incarnation; 0 where the source has no order.
    pub order: u64,
    /// The connector's own words.
    pub token: Arc<str>,
}

impl Position {
    /// A position.
    pub fn new(order: u64, token: impl Into<Arc<str>>) -> Self {
        Self { order, token: token.into() }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.token)
    }
}
