//! A task's definition, and the endpoints that it names.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use dms_cdc::Replication;
use dms_core::endpoint::{ChangeSource, ChangeTarget, Source, Target};
use dms_core::full_load::FullLoad;
use dms_core::task::{MigrationType, TaskDefinition};
use dms_core::{Error, ErrorKind, Result, ResultExt};
use dms_examples::endpoints::registry;

/// Reads a definition that this program can run.
///
/// # Errors
/// `Settings`, whatever is wrong with it.
pub(crate) fn read(path: &Path) -> Result<TaskDefinition> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::settings(format!("task file {} cannot be read", path.display())).with_source(error)
    })?;
    TaskDefinition::from_json(&text).context("file", path.display())
}

/// Prints a definition with every default.
pub(crate) fn show(path: &Path) -> Result<ExitCode> {
    println!("{:#}", read(path)?.to_effective_json());
    Ok(ExitCode::SUCCESS)
}

/// Opens the source.
pub(crate) async fn source(task: &TaskDefinition) -> Result<Arc<dyn Source>> {
    registry().source(&task.source).await.context("side", "source")
}

/// Opens the target.
pub(crate) async fn target(task: &TaskDefinition) -> Result<Arc<dyn Target>> {
    registry().target(&task.target).await.context("side", "target")
}

/// Opens the target to read what it holds.
pub(crate) async fn target_as_source(task: &TaskDefinition) -> Result<Arc<dyn Source>> {
    let opened = registry().source(&task.target).await;
    let opened = opened.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => Error::new(
            ErrorKind::Unsupported,
            "the target cannot be read back, so that it cannot be compared",
        )
        .with_source(error),
        _ => error,
    });
    opened.context("side", "target")
}

/// Opens the source to follow its changes.
pub(crate) async fn change_source(task: &TaskDefinition) -> Result<Arc<dyn ChangeSource>> {
    registry().change_source(&task.source).await.context("side", "source")
}

/// Opens the target to apply changes.
pub(crate) async fn change_target(task: &TaskDefinition) -> Result<Arc<dyn ChangeTarget>> {
    registry().change_target(&task.target).await.context("side", "target")
}

/// The replication that a definition describes.
pub(crate) async fn replication(task: &TaskDefinition) -> Result<Replication> {
    let (source, target) = (change_source(task).await?, change_target(task).await?);
    let mapping = task.mapping.clone();
    let replication = match task.migration_type {
        MigrationType::Cdc => Replication::cdc(source, target, mapping),
        _ => Replication::full_load_and_cdc(source, target, mapping),
    };
    Ok(replication
        .named(&task.name)
        .with_settings(task.settings.clone())
        .starting_at(task.start_at.clone())
        .stopping(task.stop_when.clone()))
}

/// The full load that a definition describes.
pub(crate) fn full_load(
    task: &TaskDefinition,
    source: Arc<dyn Source>,
    target: Arc<dyn Target>,
) -> FullLoad {
    FullLoad::new(source, target, task.mapping.clone())
        .named(&task.name)
        .with_settings(task.settings.clone())
}
