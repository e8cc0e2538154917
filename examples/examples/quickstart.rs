//! Watch a database migrate: `cargo run --release --example quickstart [FOLDER]`.
//!
//! Makes a SQLite database of about a million rows (TPC-H and a table of awkward values), and moves
//! it to a second SQLite file while an application goes on writing to it: full load, cached
//! changes, ongoing replication, cut-over. Then it loads the database into a Parquet folder, and
//! compares all three row by row. Exit code 1 if anything differs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use dms_cdc::{Phase, Replication, ReplicationStatus};
use dms_core::full_load::FullLoad;
use dms_core::task::{Report, TaskDefinition, TaskStatus};
use dms_core::validation::Validation;
use dms_core::{Error, ErrorKind, Result};
use dms_examples::endpoints::registry;
use dms_examples::progress::{Look, Progress};
use dms_examples::writer::Writer;
use dms_examples::{awkward, exact, memory, stop, tpch};
use indicatif::{DecimalBytes, HumanCount};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Makes a database, migrates it twice, and compares every row.
#[derive(Debug, Parser)]
struct Args {
    /// An empty or new folder for the files; a temporary one without this
    folder: Option<PathBuf>,
    /// Size of the TPC-H tables: 1 is about 8,660,000 rows
    #[arg(long, default_value_t = 0.12)]
    scale: f64,
    /// Only make the database, in this file
    #[arg(long, hide = true)]
    make: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match &args.make {
        Some(file) => make(file, args.scale).map(|()| true),
        None => match stop::on_signal() {
            Ok(stop) => quickstart(&args, &stop).await,
            Err(error) => {
                Err(Error::unexpected("signals cannot be listened to").with_source(error))
            }
        },
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            let stopped = error.kind() == ErrorKind::Stopped;
            ExitCode::from(if stopped { stop::EXIT_STOPPED } else { 1 })
        }
    }
}

/// `true` if everything is equal.
async fn quickstart(args: &Args, stop: &CancellationToken) -> Result<bool> {
    let folder = folder(args.folder.as_deref())?;
    let (source, parquet, copy) =
        (folder.join("source.db"), folder.join("parquet"), folder.join("copy.db"));

    eprintln!("Making a database of about a million rows: {}", source.display());
    let begun = Instant::now();
    tokio::select! {
        made = make_apart(&source, args.scale) => made?,
        () = stop.cancelled() => return Err(Error::new(ErrorKind::Stopped, "stopped")),
    }
    eprintln!("  {:.1} s\n", begun.elapsed().as_secs_f64());

    let to_copy = task(&folder, "to-copy", "full-load-and-cdc", &sqlite(&source), &sqlite(&copy))?;
    let to_parquet = task(&folder, "to-parquet", "full-load", &sqlite(&source), &file(&parquet))?;

    eprintln!(
        "Moving it to a second SQLite file while an application writes to it: {}",
        copy.display()
    );
    let moved = replicate(&to_copy, &source, stop).await?;
    eprintln!("Comparing row by row");
    let mut equal = compare(source.clone(), copy.clone()).await?;

    eprintln!("\nLoading it into a Parquet folder: {}", parquet.display());
    let loaded = load(&to_parquet, stop).await?;
    eprintln!("Comparing row by row");
    equal &= validate("source and Parquet", &to_parquet, stop).await?;

    summary(&folder, &moved, &loaded, equal);
    Ok(equal)
}

/// The folder for the files. What is in use already is not touched.
fn folder(given: Option<&Path>) -> Result<PathBuf> {
    let failed = |error| Error::unexpected("no folder for the files").with_source(error);
    let Some(folder) = given else {
        let folder = tempfile::Builder::new().prefix("dms-quickstart-").tempdir();
        return Ok(folder.map_err(failed)?.keep());
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    if std::fs::read_dir(folder).map_err(failed)?.next().is_some() {
        return Err(Error::settings(format!(
            "folder {} is not empty; choose another or empty it",
            folder.display()
        )));
    }
    std::path::absolute(folder).map_err(failed)
}

/// Has a process of its own make the source database: the generator needs much memory, and the
/// peak that is shown at the end is to be the migration's.
async fn make_apart(path: &Path, scale: f64) -> Result<()> {
    let failed = |error| Error::unexpected("the database cannot be made").with_source(error);
    let made = tokio::process::Command::new(std::env::current_exe().map_err(failed)?)
        .args(["--scale", &scale.to_string(), "--make"])
        .arg(path)
        .kill_on_drop(true)
        .status();
    if made.await.map_err(failed)?.success() {
        return Ok(());
    }
    Err(Error::unexpected("the database cannot be made"))
}

fn make(path: &Path, scale: f64) -> Result<()> {
    tpch::create(path, scale, tpch::TABLES)
        .and_then(|()| awkward::create(path))
        .map_err(|error| Error::unexpected("the database cannot be made").with_source(error))
}

/// A task for all tables, written to a file that `migrate` takes too.
fn task(
    folder: &Path,
    name: &str,
    kind: &str,
    source: &str,
    target: &str,
) -> Result<TaskDefinition> {
    let definition = json!({
        "name": name,
        "source": {"url": source},
        "target": {"url": target},
        "migration-type": kind,
        "table-mappings": {"rules": [{
            "rule-type": "selection", "rule-id": "1", "rule-name": "all tables",
            "rule-action": "include",
            "object-locator": {"schema-name": "main", "table-name": "%"}
        }]}
    });
    let text = format!("{definition:#}\n");
    std::fs::write(folder.join(format!("{name}.json")), &text)
        .map_err(|error| Error::unexpected("the task cannot be written").with_source(error))?;
    TaskDefinition::from_json(&text)
}

async fn full_load(task: &TaskDefinition) -> Result<FullLoad> {
    let (source, target) =
        (registry().source(&task.source).await?, registry().target(&task.target).await?);
    Ok(FullLoad::new(source, target, task.mapping.clone())
        .named(&task.name)
        .with_settings(task.settings.clone()))
}

/// Runs a task with live progress.
async fn load(task: &TaskDefinition, stop: &CancellationToken) -> Result<Report> {
    let load = full_load(task).await?;
    let progress = Progress::show(load.events().subscribe(), Look::of_stderr(false));
    let report = load.run(stop.clone()).await;
    progress.finish().await;
    let report = report?;
    eprintln!("{}\n", speed(&report));
    match report.status {
        TaskStatus::Completed => Ok(report),
        TaskStatus::Stopped => Err(Error::new(ErrorKind::Stopped, "stopped")),
        TaskStatus::Failed => Err(Error::unexpected(report.to_string())),
    }
}

/// How long the application writes when everything that came before is applied.
const ONGOING: Duration = Duration::from_secs(3);

/// A database that moved while it was written to.
struct Moved {
    report: Report,
    /// Transactions of the application meanwhile.
    transactions: u64,
}

/// Moves the database while an application writes to it, until that ends and its last change is
/// applied.
async fn replicate(task: &TaskDefinition, file: &Path, stop: &CancellationToken) -> Result<Moved> {
    let failed = |error| Error::unexpected("the application failed").with_source(error);
    let source = registry().change_source(&task.source).await?;
    let target = registry().change_target(&task.target).await?;
    let writer = Writer::begin(file).map_err(failed)?;
    let replication =
        Replication::full_load_and_cdc(Arc::clone(&source), target, task.mapping.clone())
            .named(&task.name)
            .with_settings(task.settings.clone());
    let (events, mut status) = (replication.events().subscribe(), replication.status());
    let progress = Progress::follow(events, replication.status(), Look::of_stderr(false));
    let caught_up = stop.child_token();
    let cut_over = async {
        let mut told = Phase::Starting;
        while told != Phase::Ongoing && status.changed().await.is_ok() {
            let phase = status.borrow_and_update().phase;
            if phase != told {
                told = phase;
                eprintln!("  {phase}; {} transactions so far", writer.transactions());
            }
        }
        tokio::time::sleep(ONGOING).await;
        let written = tokio::task::spawn_blocking(|| writer.stop()).await;
        let written = written
            .map_err(|error| Error::unexpected("the application panicked").with_source(error))?
            .map_err(failed)?;
        let end = source.log_status(&task.name).await?.end;
        eprintln!("  the application has stopped after {written} transactions; catching up");
        let reached = |status: &ReplicationStatus| {
            status.position.as_ref().is_some_and(|at| at.order >= end.order)
        };
        // Fails only if the replication has ended, which says so itself.
        let _ = status.wait_for(reached).await;
        caught_up.cancel();
        Ok::<u64, Error>(written)
    };
    let (report, written) = futures::join!(replication.run(caught_up.clone()), cut_over);
    progress.finish().await;
    let (report, transactions) = (report?, written?);
    if stop.is_cancelled() {
        return Err(Error::new(ErrorKind::Stopped, "stopped"));
    }
    if report.status == TaskStatus::Failed {
        return Err(Error::unexpected(report.to_string()));
    }
    source.end_capture(&task.name).await?;
    let applied: u64 = report.tables.iter().map(|t| t.inserts + t.updates + t.deletes).sum();
    eprintln!("  {} rows, then {} changes", HumanCount(report.rows()), HumanCount(applied));
    Ok(Moved { report, transactions })
}

/// Compares both sides of a task by checksums of every row.
async fn validate(what: &str, task: &TaskDefinition, stop: &CancellationToken) -> Result<bool> {
    let source = registry().source(&task.source).await?;
    let target = registry().source(&task.target).await?;
    let plans = full_load(task).await?.plan().await?;
    let report = Validation::new(source, target, plans).run(stop.clone()).await?;
    if report.is_valid() {
        let rows: u64 = report.tables.iter().map(|table| table.source_rows).sum();
        eprintln!("  {what}: equal, {} rows", HumanCount(rows));
    } else {
        eprintln!("  {what}:\n{report}");
    }
    Ok(report.is_valid())
}

/// Compares the two SQLite files value by value, with nothing but SQLite.
async fn compare(source: PathBuf, copy: PathBuf) -> Result<bool> {
    let failed = |error| Error::unexpected("the files cannot be compared").with_source(error);
    let found = tokio::task::spawn_blocking(move || exact::compare(&source, &copy)).await;
    let found = found
        .map_err(|error| Error::unexpected("the comparison ended abnormally").with_source(error))?
        .map_err(failed)?;
    for difference in &found.differences {
        eprintln!("  {difference}");
    }
    let equal = found.differences.is_empty();
    let what = if equal { "equal to the last bit and storage class" } else { "different" };
    eprintln!("  source and copy, by SQLite itself: {what}, {} rows", HumanCount(found.rows));
    Ok(equal)
}

fn speed(report: &Report) -> String {
    let per_second = |count: u64| rate(count, report.elapsed);
    format!(
        "  {} rows, {} in {:.1} s: {} rows/s, {}/s",
        HumanCount(report.rows()),
        DecimalBytes(report.bytes()),
        report.elapsed.as_secs_f64(),
        HumanCount(per_second(report.rows())),
        DecimalBytes(per_second(report.bytes())),
    )
}

fn rate(count: u64, elapsed: Duration) -> u64 {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1000) / millis
}

fn summary(folder: &Path, moved: &Moved, loaded: &Report, equal: bool) {
    println!("\n{}", if equal { "Every row arrived unchanged." } else { "SOMETHING DIFFERS." });
    println!(
        "  SQLite -> SQLite     {} rows, and what {} transactions changed meanwhile",
        HumanCount(moved.report.rows()),
        HumanCount(moved.transactions)
    );
    println!("  SQLite -> Parquet  {}", speed(loaded));
    if let Some(bytes) = memory::peak_bytes() {
        println!("  peak memory          {} (the migration's process)", DecimalBytes(bytes));
    }
    println!("  files                {}", folder.display());
    for name in ["source.db", "parquet", "copy.db"] {
        println!("    {name:9} {:>10}", DecimalBytes(size(&folder.join(name))).to_string());
    }
    let run = "cargo run --release --example migrate --";
    let task = folder.join("to-parquet.json");
    let task = task.display();
    println!(
        "\nNext, with the same tables (the task is a JSON file, edit it as you like):\n  \
         {run} check {task}\n  {run} run --reload {task}\n  {run} validate {task}\n  \
         {run} show {task}"
    );
}

/// Bytes of a file, or of everything in a folder.
fn size(path: &Path) -> u64 {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| size(&entry.path())).sum(),
        Err(_) => path.metadata().map_or(0, |metadata| metadata.len()),
    }
}

fn sqlite(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

fn file(path: &Path) -> String {
    format!("file://{}", path.display())
}
