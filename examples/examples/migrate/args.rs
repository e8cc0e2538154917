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
    /// Tell what the target holds of a task, and how far behind the source it is
    Status {
        /// The task's definition
        task: PathBuf,
        /// Print it as one JSON object on stdout
        #[arg(long)]
        json: bool,
    },
    /// Have tables loaded again by the next run; a run that is under way ends
    Reload {
        /// The task's definition
        task: PathBuf,
        /// A table by its name at the source, schema.table; may be given more than once. All tables
        /// without this
        #[arg(long = "table", value_name = "TABLE")]
        tables: Vec<String>,
    },
    /// Remove what a task has left at the source (slot, publication, triggers), on disk and in the
    /// target's control tables; the target's tables stay
    Delete {
        /// The task's definition
        task: PathBuf,
    },
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
