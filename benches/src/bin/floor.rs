//! The floor of SQLite → Parquet, in CPU seconds: `floor FILE.db TABLE`.
//!
//! Steps over every row of the table without looking at a value, then encodes the same rows from
//! memory with bare arrow-rs. Prints `step SECONDS`, `snappy SECONDS`, `zstd SECONDS`.

use std::time::Instant;

use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(table)) = (arguments.next(), arguments.next()) else {
        return Err("usage: floor FILE.db TABLE".into());
    };
    let connection = rusqlite::Connection::open(&path)?;
    let sql = format!("SELECT * FROM \"{}\"", table.replace('"', "\"\""));
    let began = Instant::now();
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut count = 0u64;
    while rows.next()?.is_some() {
        count += 1;
    }
    // One thread that never waits: the wall clock is its processor time.
    println!("rows {count}");
    println!("step {:.3}", began.elapsed().as_secs_f64());
    let runtime = tokio::runtime::Runtime::new()?;
    let (_, batches) = runtime.block_on(benches::batches(path.as_ref()));
    let zstd = ZstdLevel::try_new(1)?;
    for (name, codec) in [("snappy", Compression::SNAPPY), ("zstd", Compression::ZSTD(zstd))] {
        let began = Instant::now();
        let properties = WriterProperties::builder().set_compression(codec).build();
        let Some(first) = batches.first() else { return Err("the table is empty".into()) };
        let mut writer = ArrowWriter::try_new(Vec::new(), first.schema(), Some(properties))?;
        for batch in &batches {
            writer.write(batch)?;
        }
        let bytes = writer.into_inner()?;
        println!("{name} {:.3} ({} bytes)", began.elapsed().as_secs_f64(), bytes.len());
    }
    Ok(())
}
