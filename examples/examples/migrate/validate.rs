//! `migrate validate`, and the comparison at the end of `migrate run`.

use std::process::ExitCode;

use dms_core::task::TaskDefinition;
use dms_core::validation::{Validation, ValidationReport};
use dms_core::{Error, ErrorKind, Result};
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use crate::{args, task};

/// Compares both sides and reports the keys that differ.
pub(crate) async fn validate(args: &args::Validate, stop: &CancellationToken) -> Result<ExitCode> {
    let definition = task::read(&args.task)?;
    let report = compare(&definition, stop).await?;
    if args.json {
        println!("{:#}", as_json(&report));
    } else {
        print!("{report}");
    }
    Ok(if report.is_valid() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compares what the source holds now, as the task would load it, with what the target holds.
pub(crate) async fn compare(
    definition: &TaskDefinition,
    stop: &CancellationToken,
) -> Result<ValidationReport> {
    let (source, target) = (task::source(definition).await?, task::target(definition).await?);
    let written = task::target_as_source(definition).await?;
    let load = task::full_load(definition, source.clone(), target);
    let plans = load.plan().await?;
    let validation =
        Validation::new(source, written, plans).with_settings(definition.settings.clone());
    // It only reads: it may be dropped at any moment.
    tokio::select! {
        report = validation.run(stop.clone()) => report,
        () = stop.cancelled() => Err(Error::new(ErrorKind::Stopped, "the validation was stopped")),
    }
}

/// `valid` over all tables, then what each one is like.
pub(crate) fn as_json(report: &ValidationReport) -> Json {
    json!({"valid": report.is_valid(), "tables": report.tables})
}
