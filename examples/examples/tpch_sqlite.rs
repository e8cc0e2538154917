//! Makes a TPC-H database in SQLite, to migrate or to measure with:
//! `cargo run --release --example tpch_sqlite -- --scale 1 --tables lineitem out.db`

use std::path::PathBuf;

use clap::Parser;
use dms_examples::tpch;

/// Makes a TPC-H database in SQLite.
#[derive(Parser)]
struct Arguments {
    /// 1 is about 8,660,000 rows.
    #[arg(long, default_value_t = 0.1)]
    scale: f64,
    /// Which of the eight tables, separated by commas; all without this.
    #[arg(long, value_delimiter = ',')]
    tables: Vec<String>,
    /// The file to create.
    file: PathBuf,
}

fn main() -> rusqlite::Result<()> {
    let arguments = Arguments::parse();
    let named: Vec<&str> = arguments.tables.iter().map(String::as_str).collect();
    let tables = if named.is_empty() { tpch::TABLES } else { &named };
    tpch::create(&arguments.file, arguments.scale, tables)
}
