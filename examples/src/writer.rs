//! An application that goes on writing to a TPC-H database while it is migrated.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

/// How long a transaction may wait for the file.
const BUSY: Duration = Duration::from_secs(30);

/// Between two transactions: a shop with a few hundred orders a second.
const PAUSE: Duration = Duration::from_millis(2);

/// A thread that writes until it is told to stop.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    transactions: Arc<AtomicU64>,
    thread: JoinHandle<rusqlite::Result<()>>,
}

impl Writer {
    /// Begins to write to the file at `path`, which becomes one with a write-ahead log, so that
    /// readers do not hold writers.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn begin(path: &Path) -> rusqlite::Result<Self> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        connection.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;")?;
        let stop = Arc::new(AtomicBool::new(false));
        let transactions = Arc::new(AtomicU64::new(0));
        let (asked, count) = (Arc::clone(&stop), Arc::clone(&transactions));
        let thread = std::thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                let transaction =
                    connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                order(&transaction, number)?;
                transaction.commit()?;
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
            Ok(())
        });
        Ok(Self { stop, transactions, thread })
    }

    /// How many transactions it has committed.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Ends it after the transaction that it is in; tells how many it has committed.
    ///
    /// # Errors
    /// What ended it before, if anything did.
    pub fn stop(self) -> rusqlite::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(ended) => ended?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        Ok(self.transactions.load(Ordering::Relaxed))
    }
}

/// One transaction: a new order with its lines, paid by its customer; sometimes an old order goes,
/// sometimes one gets another number.
fn order(transaction: &Transaction<'_>, number: u64) -> rusqlite::Result<()> {
    let key = 1_000_000_000 + i64::try_from(number).unwrap_or(i64::MAX);
    let customers: i64 =
        transaction.query_row("SELECT max(c_custkey) FROM customer", [], |row| row.get(0))?;
    let customer = 1 + key % customers;
    transaction.execute(
        "INSERT INTO orders VALUES (?1, ?2, 'O', 12.34, '2026-11-21', '1-URGENT', 'Clerk', 0, ?3)",
        params![key, customer, format!("order {number}")],
    )?;
    for line in 1..=3 {
        transaction.execute(
            "INSERT INTO lineitem SELECT ?1, p_partkey, 1, ?2, 7, p_retailprice, 0.05, 0.02, 'N', \
             'O', '2026-11-21', '2026-11-22', '2026-11-23', 'NONE', 'MAIL', ?3 \
             FROM part WHERE p_partkey = ?4",
            params![key, line, "made meanwhile", 1 + (key + line) % 1000],
        )?;
    }
    transaction.execute(
        "UPDATE customer SET c_acctbal = round(c_acctbal - 12.34, 2) WHERE c_custkey = ?1",
        [customer],
    )?;
    if number % 3 == 2 {
        let old: i64 = transaction.query_row(
            "SELECT o_orderkey FROM orders WHERE o_orderkey >= ?1 ORDER BY o_orderkey LIMIT 1",
            [key % 100_000],
            |row| row.get(0),
        )?;
        transaction.execute("DELETE FROM lineitem WHERE l_orderkey = ?1", [old])?;
        transaction.execute("DELETE FROM orders WHERE o_orderkey = ?1", [old])?;
    }
    if number % 10 == 9 {
        transaction.execute(
            "UPDATE lineitem SET l_linenumber = l_linenumber + 10 WHERE l_orderkey = ?1",
            [key],
        )?;
    }
    Ok(())
}
