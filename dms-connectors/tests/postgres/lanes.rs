//! Between PostgreSQL and other engines.
#![cfg(feature = "sqlite")]

use std::sync::Arc;

use arrow::array::{Array, BooleanArray};
use arrow::compute::filter_record_batch;
use dms_connectors::sqlite::{SqliteSource, SqliteTarget};
use dms_core::conformance::awkward_tables;
use dms_core::endpoint::{Fidelity, Source, Target};
use dms_core::mapping::TableMapping;
use dms_core::memory::MemorySource;
use dms_core::validation::Validation;
use dms_core::value::text::{has_text, write_text};
use tokio_util::sync::CancellationToken;

use crate::{completed, load, server, source, target};

/// Compares all tables of the schema `main`.
async fn assert_equal(source: Arc<dyn Source>, target: Arc<dyn Source>) {
    let mapping = TableMapping::new().include("main", "%");
    let tables = source.discover(mapping.selection()).await.unwrap().tables;
    assert!(tables.len() > 30, "only {} tables", tables.len());
    let plans = tables.iter().map(|table| mapping.plan(table).unwrap()).collect();
    let report =
        Validation::new(source, target, plans).run(CancellationToken::new()).await.unwrap();
    assert!(report.is_valid(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_values_there_and_back_by_way_of_sqlite() {
    let server = server::shared();
    let (first, second) = (server.database().await, server.database().await);
    let memory = MemorySource::default();
    for awkward in awkward_tables("main") {
        let exact = target(&first).map_types(&awkward.table);
        if exact.iter().all(|column| column.fidelity == Fidelity::Exact) {
            // NUL in text is refused, which the conformance suite sees.
            let values = awkward.batch.column(1);
            let has_nul = |row| {
                let mut text = String::new();
                if has_text(&awkward.table.columns[1].logical_type) && values.is_valid(row) {
                    write_text(values.as_ref(), row, &mut text);
                }
                text.contains('\0')
            };
            let kept: BooleanArray = (0..values.len()).map(|row| Some(!has_nul(row))).collect();
            let batch = filter_record_batch(&awkward.batch, &kept).unwrap();
            memory.insert(awkward.table, vec![batch]);
        }
    }
    let memory: Arc<dyn Source> = Arc::new(memory);
    let report = load(Arc::clone(&memory), target(&first)).await.unwrap();
    assert!(completed(&report), "{report}");
    assert_equal(Arc::clone(&memory), source(&first).await).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("there.db");
    let there: Arc<dyn Target> = SqliteTarget::open(file.as_path()).await.unwrap();
    let report = load(source(&first).await, there).await.unwrap();
    assert!(completed(&report), "{report}");
    let there: Arc<dyn Source> = SqliteSource::open(file.as_path()).await.unwrap();
    assert_equal(source(&first).await, Arc::clone(&there)).await;
    let report = load(there, target(&second)).await.unwrap();
    assert!(completed(&report), "{report}");
    assert_equal(memory, source(&second).await).await;
}
