//! Runs any migration task from a JSON file.
//!
//! ```text
//! migrate run TASK.json        runs the task to its end; run it again to go on after a stop
//! migrate check TASK.json      connects, checks rights, shows what every column becomes
//! migrate show TASK.json       shows the definition with every default, credentials hidden
//! migrate validate TASK.json   compares what source and target hold
//! migrate status TASK.json     tells what the target holds, and how far behind the source it is
//! migrate reload TASK.json     has tables loaded again by the next run
//! migrate delete TASK.json     removes what the task has left on both sides
//! ```
//!
//! Exit codes: 0 done; 1 failed, or differences found; 2 the definition or the arguments are wrong;
//! 130 stopped by Ctrl-C or SIGTERM.

mod args;
mod check;
mod manage;
mod run;
mod status;
mod task;
mod validate;

use std::process::ExitCode;

use clap::Parser;
use dms_core::{Error, ErrorKind};
use dms_examples::stop;
use tokio_util::sync::CancellationToken;

use args::{Args, Command};

/// The definition or the arguments are wrong, as clap says it too.
const EXIT_WRONG: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // Without RUST_LOG nothing is logged: what a user has to know is shown anyway.
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::OFF.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    let stop = match stop::on_signal() {
        Ok(stop) => stop,
        Err(error) => {
            eprintln!("error: signals cannot be listened to: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = match &args.command {
        Command::Run(run) => run::run(run, &stop).await,
        Command::Check { task } => until(&stop, check::check(task)).await,
        Command::Show { task } => task::show(task),
        Command::Status { task, json } => until(&stop, status::status(task, *json)).await,
        Command::Reload { task, tables } => manage::reload(task, tables).await,
        Command::Delete { task } => manage::delete(task).await,
        Command::Validate(validate) => until(&stop, validate::validate(validate, &stop)).await,
    };
    ended.unwrap_or_else(|error| {
        eprintln!("{error}");
        exit_code(&error, &stop)
    })
}

/// Runs reading work, which may be dropped at any moment, unless a signal comes first.
async fn until(
    stop: &CancellationToken,
    work: impl Future<Output = dms_core::Result<ExitCode>>,
) -> dms_core::Result<ExitCode> {
    tokio::select! {
        ended = work => ended,
        () = stop.cancelled() => Ok(ExitCode::from(stop::EXIT_STOPPED)),
    }
}

fn exit_code(error: &Error, stop: &CancellationToken) -> ExitCode {
    match error.kind() {
        ErrorKind::Settings => ExitCode::from(EXIT_WRONG),
        ErrorKind::Stopped if stop.is_cancelled() => ExitCode::from(stop::EXIT_STOPPED),
        _ => ExitCode::FAILURE,
    }
}
