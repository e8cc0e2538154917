//! Connections that move money between the tables of a source, all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::tables::{ACCOUNTS, COUNT};
use crate::kill::Random;
use crate::session::{Refused, Session};

/// What keys move by, and back.
const FAR: u64 = 1_000_000;

/// Running writers.
pub(super) struct Writers {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    pub(super) fn start(url: &str, count: u64, random: &mut Random) -> Self {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = |number| {
            let (url, random) = (url.to_owned(), Random::of(random.below(u64::MAX)));
            let (stop, committed) = (Arc::clone(&stop), Arc::clone(&committed));
            std::thread::spawn(move || {
                let first = number * 1_000_000_000;
                Writer { url, random, session: None, next: first, touched: 0 }
                    .write(&stop, &committed);
            })
        };
        let threads = (1..=count).map(writer).collect();
        Self { stop, committed, threads }
    }

    pub(super) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Ends them all; returns how many transactions they committed.
    pub(super) fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.committed.load(Ordering::Relaxed)
    }
}

struct Writer {
    url: String,
    random: Random,
    session: Option<Session>,
    /// The transaction's number in the journal, never used again.
    next: u64,
    /// How many accounts it has touched.
    touched: u64,
}

impl Writer {
    fn write(&mut self, stop: &AtomicBool, committed: &AtomicU64) {
        while !stop.load(Ordering::Relaxed) {
            (self.next, self.touched) = (self.next + 1, 0);
            match self.transaction() {
                Ok(true) => drop(committed.fetch_add(1, Ordering::Relaxed)),
                Ok(false) => {}
                // A deadlock, an account that is gone, a server that went away.
                Err(_) => {
                    if self.run("ROLLBACK").is_err() {
                        self.session = None;
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(self.random.below(60)));
        }
    }

    fn run(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Refused> {
        if self.session.is_none() {
            let mut session = Session::open(&self.url)?;
            if !session.is_postgres() {
                session.run("PRAGMA foreign_keys = on")?;
            }
            self.session = Some(session);
        }
        self.session.as_mut().unwrap().run(sql)
    }

    /// A statement about one row; refused if there is none.
    fn one(&mut self, sql: &str) -> Result<Vec<Option<String>>, Refused> {
        let mut rows = self.run(sql)?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => Err(Refused(format!("not one row: {sql}"))),
        }
    }

    /// One transaction; returns whether it was committed.
    fn transaction(&mut self) -> Result<bool, Refused> {
        let begin = match self.url.starts_with("sqlite") {
            true => "BEGIN IMMEDIATE",
            false => "BEGIN",
        };
        self.run(begin)?;
        let kind = self.random.below(100);
        match kind {
            0..=9 => self.savepoints()?,
            // A batch with one is refused and applied in parts, so that many would be slow.
            10 if self.random.below(3) == 0 => self.exchange_codes()?,
            20..=27 => self.open_account()?,
            28..=35 => self.close_account()?,
            36..=43 => self.change_key()?,
            44..=46 => self.touch_all()?,
            47..=54 => self.long_note()?,
            _ => {}
        }
        for _ in 0..=self.random.below(2) {
            self.transfer()?;
        }
        let (id, touched) = (self.next, self.touched);
        self.run(&format!("INSERT INTO journal VALUES ({id}, {touched}, 'kind {kind}')"))?;
        let is_kept = self.random.below(10) > 0;
        self.run(if is_kept { "COMMIT" } else { "ROLLBACK" })?;
        Ok(is_kept)
    }

    fn account(&mut self) -> u64 {
        self.random.below(COUNT)
    }

    /// Adds to an account.
    fn add(&mut self, table: &str, id: u64, amount: i64) -> Result<(), Refused> {
        self.one(&format!(
            "UPDATE {table} SET balance = balance + {amount}, moves = moves + 1 WHERE id = {id} \
             RETURNING id"
        ))?;
        self.touched += 1;
        Ok(())
    }

    fn transfer(&mut self) -> Result<(), Refused> {
        let amount = i64::try_from(self.random.below(100)).unwrap();
        for amount in [amount, -amount] {
            let table = self.random.pick(&ACCOUNTS);
            let id = self.account();
            self.add(table, id, amount)?;
        }
        Ok(())
    }

    /// Work of which a part is taken back.
    fn savepoints(&mut self) -> Result<(), Refused> {
        self.transfer()?;
        let before = self.touched;
        self.run("SAVEPOINT part")?;
        self.transfer()?;
        self.run("SAVEPOINT inner")?;
        self.transfer()?;
        self.run("ROLLBACK TO SAVEPOINT part")?;
        self.touched = before;
        self.transfer()?;
        self.run("RELEASE SAVEPOINT part").map(drop)
    }

    /// Two accounts exchange a unique value.
    fn exchange_codes(&mut self) -> Result<(), Refused> {
        let (a, b, away) = (self.account(), self.account(), self.next);
        let mut code = |id| -> Result<String, Refused> {
            let row = self.one(&format!("SELECT code FROM accounts_unique WHERE id = {id}"))?;
            Ok(row.into_iter().flatten().next().unwrap_or_default())
        };
        let (code_a, code_b) = (code(a)?, code(b)?);
        for (id, code) in [(a, format!("away {away}")), (b, code_a), (a, code_b)] {
            if a != b {
                self.one(&format!(
                    "UPDATE accounts_unique SET code = '{code}' WHERE id = {id} RETURNING id"
                ))?;
            }
        }
        Ok(())
    }

    fn open_account(&mut self) -> Result<(), Refused> {
        let (id, from) = (self.next, self.account());
        self.run(&format!("INSERT INTO owners VALUES ({id}, 'new owner')"))?;
        self.run(&format!("INSERT INTO accounts_owned VALUES ({id}, 50, 1, {id})"))?;
        self.touched += 1;
        self.add("accounts_bare", from, -50)
    }

    /// The newest account of all, whoever opened it, if it is not of the first ones.
    fn close_account(&mut self) -> Result<(), Refused> {
        let newest = "SELECT id FROM accounts_owned WHERE id > 1000000 ORDER BY id DESC LIMIT 1";
        let Some(id) = self.run(newest)?.into_iter().flatten().flatten().next() else {
            return Ok(());
        };
        let sql = format!("DELETE FROM accounts_owned WHERE id = {id} RETURNING balance, moves");
        let row = self.one(&sql)?;
        let [Some(balance), Some(moves)] = row.as_slice() else { panic!("{row:?}") };
        let heir = self.account();
        self.one(&format!(
            "UPDATE accounts_keyed SET balance = balance + {balance}, \
             moves = moves + {moves} + 1 WHERE id = {heir} RETURNING id"
        ))?;
        self.touched += 1;
        self.run(&format!("DELETE FROM owners WHERE id = {id}")).map(drop)
    }

    /// An account goes to another key, or comes back from there.
    fn change_key(&mut self) -> Result<(), Refused> {
        let table = self.random.pick(&["accounts_keyed", "accounts_unique"]);
        let (near, way) = (self.account(), self.random.below(2));
        let (from, to) = if way == 0 { (near, near + FAR) } else { (near + FAR, near) };
        // None of it there is no reason to give up.
        self.run(&format!("UPDATE {table} SET id = {to} WHERE id = {from}")).map(drop)
    }

    /// Every row of the table without a key.
    fn touch_all(&mut self) -> Result<(), Refused> {
        self.run("UPDATE accounts_bare SET balance = balance + 1, moves = moves + 1")?;
        self.touched += COUNT;
        let payer = self.account();
        self.add("accounts_owned", payer, -i64::try_from(COUNT).unwrap())
    }

    /// A value that is stored apart from its row, and that other updates leave alone.
    fn long_note(&mut self) -> Result<(), Refused> {
        let (id, seed) = (self.account(), self.random.below(u64::MAX));
        let mut noise = Random::of(seed);
        let note: String = (0..600).map(|_| format!("{:016x}", noise.below(u64::MAX))).collect();
        self.run(&format!("UPDATE accounts_keyed SET note = '{note}' WHERE id = {id}")).map(drop)
    }
}
