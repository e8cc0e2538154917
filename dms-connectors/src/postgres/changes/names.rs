//! The names of what a task makes at the source.

use crate::postgres::settings::PostgresSettings;

/// The slot, the publication and the event triggers of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) slot: String,
    pub(super) publication: String,
    /// Whether the publication is one that the user has made.
    pub(super) is_given: bool,
    /// The event trigger that tells of altered tables, the function that it runs and the schema of
    /// that function, and the prefix of what it writes.
    pub(super) ddl: String,
    /// The event trigger that tells of dropped tables.
    pub(super) ddl_dropped: String,
}

/// Slots are the server's, not a database's, and names have at most 63 characters.
const NAME_MAX: usize = 63;

impl Names {
    pub(super) fn of(settings: &PostgresSettings, task: &str, database: &str) -> Self {
        let own = named("dms", task, database);
        Self {
            slot: settings.slot_name.clone().unwrap_or_else(|| own.clone()),
            publication: settings.publication_name.clone().unwrap_or(own),
            is_given: settings.publication_name.is_some(),
            ddl: named("dms_ddl", task, database),
            ddl_dropped: named("dms_drop", task, database),
        }
    }
}

/// `<what>_<what is legal of the task's name>_<digest of task and database>`.
fn named(what: &str, task: &str, database: &str) -> String {
    let legal = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' }
    };
    let digest = format!("{:016x}", fnv1a(task.bytes().chain([0]).chain(database.bytes())));
    let room = NAME_MAX.saturating_sub(what.len() + digest.len() + 2);
    let readable: String = task.chars().map(legal).take(room).collect();
    format!("{what}_{readable}_{digest}")
}

/// The same in every version, which a hasher of the standard library does not promise
/// (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>).
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_legal_and_differ() {
        assert_eq!(fnv1a("a".bytes()), 0xaf63_dc4c_8601_ec8c);
        let long = "x".repeat(100);
        let tasks = ["shop", "Shop", "sh-op", "sh_op", "Größe", "", &long];
        let kinds = ["dms", "dms_ddl", "dms_drop"];
        let of_task = |task: &&str| {
            let task = *task;
            kinds.map(|what| ["a", "b"].map(|database| named(what, task, database))).concat()
        };
        let names: std::collections::BTreeSet<String> = tasks.iter().flat_map(of_task).collect();
        assert_eq!(names.len(), tasks.len() * 6);
        assert_eq!(named("dms", "Shop 2", "a"), "dms_shop_2_4007b94feef88c40");
        for name in names {
            let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            assert!(name.len() <= 63 && name.bytes().all(legal), "{name}");
        }
    }
}
