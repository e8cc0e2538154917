//! The crates form a star: an edge crate depends on dms-core only.

use std::fs;
use std::path::Path;

/// Which crates of the workspace each crate may use, beyond its tests.
const ALLOWED: &[(&str, &[&str])] = &[
    ("dms-core", &[]),
    ("dms-connectors", &["dms-core"]),
    ("dms-cdc", &["dms-core"]),
    ("dms-s3", &["dms-core"]),
    ("dms-snowball", &["dms-core", "dms-s3"]),
];

/// Names below `[dependencies]` of a manifest, up to the next section.
fn dependencies(manifest: &str) -> Vec<String> {
    manifest
        .lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['=', '.', ' ']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn an_edge_crate_depends_on_core_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (name, allowed) in ALLOWED {
        let Ok(manifest) = fs::read_to_string(root.join(name).join("Cargo.toml")) else {
            continue; // not written yet
        };
        let dependencies = dependencies(&manifest);
        assert!(dependencies.len() > 1, "{name}: no dependencies read, the test is broken");
        for dependency in dependencies {
            let ours = ALLOWED.iter().any(|(other, _)| *other == dependency);
            assert!(
                !ours || allowed.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn core_knows_no_engine_and_no_network() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    for dependency in dependencies(&manifest.unwrap()) {
        for banned in ["rusqlite", "postgres", "mysql", "odbc", "parquet", "object_store", "hyper"]
        {
            assert!(!dependency.contains(banned), "dms-core must not depend on {dependency}");
        }
    }
}
