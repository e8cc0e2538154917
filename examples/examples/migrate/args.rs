//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Runs, checks and validates database migrations described in JSON.
#[derive(Debug, Parser)]
#[command(
    name = "migrate",
    version,
    after_help = "Exit codes: 0 done; 1 failed, or differences \
    found; 2 the definition or the arguments are wrong; 130 stopped (run the same command again to \
    go on).\n\nThe environment variable RUST_LOG (for example RUST_LOG=info) turns on a log on \
    stderr."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a task to its end; a task that was stopped or that failed goes on where it ended
    Run(Run),
    /// Connect to both endpoints, check rights and settings, and show what every column becomes;
    /// changes nothing
    Check {
        /// The task's definition
        task: PathBuf,
    },
    /// Show the definition with every default filled in and credentials hidden
    Show {
        /// The task's definition
        task: PathBuf,
    },
    /// Compare what source and target hold, and report the keys that differ
    Validate(Validate),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The task's definition
    pub(crate) task: PathBuf,
    /// Print the final statistics as one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
    /// Load every table again, whatever the target holds
    #[arg(long)]
    pub(crate) reload: bool,
    /// Show no progress and no summary, only what went wrong
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Validate {
    /// The task's definition
    pub(crate) task: PathBuf,
    /// Print the result as one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
}
