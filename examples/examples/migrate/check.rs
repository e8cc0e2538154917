//! `migrate check`.

use std::path::Path;
use std::process::ExitCode;

use dms_core::Result;
use dms_core::endpoint::Fidelity;
use dms_core::full_load::{Assessment, ColumnAssessment};
use dms_core::task::MigrationType;

use crate::{EXIT_WRONG, task};

/// Connects, checks and prints what every column becomes.
pub(crate) async fn check(path: &Path) -> Result<ExitCode> {
    let definition = task::read(path)?;
    let (source, target) = (task::source(&definition).await?, task::target(&definition).await?);
    println!("source  {}", source.info());
    println!("target  {}\n", target.info());
    let assessment = match definition.migration_type {
        MigrationType::FullLoad => task::full_load(&definition, source, target).check().await?,
        _ => task::replication(&definition).await?.check().await?,
    };
    print!("{assessment}");
    println!("\n{}", summary(&assessment));
    // As `run` of the same task.
    Ok(if assessment.is_runnable() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_WRONG) })
}

fn summary(assessment: &Assessment) -> String {
    let columns = || assessment.tables.iter().flat_map(|table| &table.columns);
    let count = |which: fn(&&ColumnAssessment) -> bool| columns().filter(which).count();
    let lossy = count(|column| matches!(column.fidelity, Fidelity::NeedsConsent(_)));
    let accepted = count(|column| {
        matches!(column.fidelity, Fidelity::NeedsConsent(_)) && column.is_runnable()
    });
    let impossible = count(|column| matches!(column.fidelity, Fidelity::Impossible(_)));
    let mut text = format!(
        "{} tables, {} columns: {} exact, {lossy} lossy ({accepted} accepted), {impossible} \
         impossible\n",
        assessment.tables.len(),
        columns().count(),
        columns().count() - lossy - impossible,
    );
    text.push_str(if assessment.is_runnable() {
        "the task can run"
    } else {
        "the task cannot run: change the columns marked ! in the table mapping, or agree to a loss \
         with Engine.AcceptLoss in the settings"
    });
    text
}
