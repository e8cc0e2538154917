//! `migrate run`.

use std::process::ExitCode;
use std::time::Instant;

use dms_core::full_load::StartType;
use dms_core::task::{MigrationType, Report, StopReason, TaskDefinition, TaskStatus};
use dms_core::validation::ValidationReport;
use dms_core::{ErrorKind, Result};
use dms_examples::progress::{Look, Progress};
use dms_examples::stop::EXIT_STOPPED;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use crate::{args, task, validate};

/// Runs a task to its end, compares both sides if the settings say so, and reports.
pub(crate) async fn run(args: &args::Run, stop: &CancellationToken) -> Result<ExitCode> {
    let definition = task::read(&args.task)?;
    let started = Instant::now();
    let ended = load(args, &definition, stop).await;
    let compared = match &ended {
        Ok(report) if is_comparable(report) && definition.settings.validation => {
            Some(validate::compare(&definition, stop).await)
        }
        _ => None,
    };
    if args.json {
        println!("{:#}", as_json(&definition, &ended, compared.as_ref(), started));
    }
    let report = ended?;
    if !args.quiet || report.status != TaskStatus::Completed {
        eprintln!("{report}");
    }
    let validated = match compared {
        Some(compared) => {
            let compared = compared?;
            if !args.quiet || !compared.is_valid() {
                eprint!("{compared}");
            }
            compared.is_valid()
        }
        None => true,
    };
    Ok(match report.status {
        TaskStatus::Completed if validated => ExitCode::SUCCESS,
        TaskStatus::Stopped => ExitCode::from(EXIT_STOPPED),
        _ => ExitCode::FAILURE,
    })
}

async fn load(
    args: &args::Run,
    definition: &TaskDefinition,
    stop: &CancellationToken,
) -> Result<Report> {
    let start = if args.reload { StartType::Reload } else { StartType::Resume };
    if definition.migration_type != MigrationType::FullLoad {
        return replicate(args, definition, start, stop).await;
    }
    let (source, target) = (task::source(definition).await?, task::target(definition).await?);
    let load = task::full_load(definition, source, target).starting(start);
    let progress = Progress::show(load.events().subscribe(), Look::of_stderr(args.quiet));
    let ended = load.run(stop.clone()).await;
    progress.finish().await;
    ended
}

async fn replicate(
    args: &args::Run,
    definition: &TaskDefinition,
    start: StartType,
    stop: &CancellationToken,
) -> Result<Report> {
    let replication = task::replication(definition).await?.starting(start);
    let (events, status) = (replication.events().subscribe(), replication.status());
    let progress = Progress::follow(events, status, Look::of_stderr(args.quiet));
    let ended = replication.run(stop.clone()).await;
    progress.finish().await;
    ended
}

/// Whether source and target hold the same when the run ended so, unless someone writes.
fn is_comparable(report: &Report) -> bool {
    let caught_up = [None, Some(StopReason::StoppedWhenCaughtUp)];
    report.status == TaskStatus::Completed && caught_up.contains(&report.stop_reason)
}

/// The final statistics: always one object, however the run ended.
fn as_json(
    definition: &TaskDefinition,
    ended: &Result<Report>,
    compared: Option<&Result<ValidationReport>>,
    started: Instant,
) -> Json {
    let mut json = match ended {
        Ok(report) => json!(report),
        Err(error) => {
            let status = if error.kind() == ErrorKind::Stopped { "stopped" } else { "failed" };
            json!({
                "task": definition.name,
                "status": status,
                "tables": [],
                "seconds": started.elapsed().as_secs_f64(),
                "error": error.to_string(),
            })
        }
    };
    match compared {
        Some(Ok(compared)) => json["validation"] = validate::as_json(compared),
        Some(Err(error)) => json["validation"] = json!({"error": error.to_string()}),
        None => {}
    }
    json
}
