//! The bank's tables at both ends, and what holds of them after every whole transaction.

use crate::session::{Refused, Session};

/// Accounts are spread over these, all with `id`, `balance` and `moves`.
pub(super) const ACCOUNTS: [&str; 4] =
    ["accounts_keyed", "accounts_bare", "accounts_unique", "accounts_owned"];

/// All tables that are replicated.
pub(super) const TABLES: [&str; 6] =
    ["accounts_keyed", "accounts_bare", "accounts_unique", "accounts_owned", "owners", "journal"];

/// How many accounts each table has at first.
pub(super) const COUNT: u64 = 400;

/// Each account's money at first.
const BALANCE: u64 = 1000;

/// The money of all accounts, at any moment.
pub(super) fn total() -> i64 {
    i64::try_from(ACCOUNTS.len() as u64 * COUNT * BALANCE).unwrap()
}

/// The journal's row that tells an observer that the load was complete before it.
pub(super) const MARKER: i64 = -1;

/// The tables, in a schema of PostgreSQL or in a file. A file that is a source needs a key in each;
/// where there is none, one row may be there twice.
fn tables(schema: &str, key: &str) -> String {
    format!(
        "CREATE TABLE {schema}.accounts_keyed (
             id bigint PRIMARY KEY, balance bigint NOT NULL, moves bigint NOT NULL, note text);
         CREATE TABLE {schema}.accounts_bare (
             id bigint NOT NULL {key}, balance bigint NOT NULL, moves bigint NOT NULL, note text);
         CREATE TABLE {schema}.accounts_unique (
             id bigint PRIMARY KEY, balance bigint NOT NULL, moves bigint NOT NULL,
             code text NOT NULL);
         CREATE UNIQUE INDEX accounts_unique_code ON accounts_unique (code);
         CREATE TABLE {schema}.owners (id bigint PRIMARY KEY, name text NOT NULL);
         CREATE TABLE {schema}.accounts_owned (
             id bigint PRIMARY KEY, balance bigint NOT NULL, moves bigint NOT NULL,
             owner bigint NOT NULL REFERENCES owners (id));
         CREATE TABLE {schema}.journal (id bigint NOT NULL {key}, touched bigint NOT NULL, note text);"
    )
}

/// Makes the source, its accounts filled.
pub(super) fn make_source(source: &mut Session) {
    let is_postgres = source.is_postgres();
    if is_postgres {
        source.must(&tables("public", ""));
        for table in ["accounts_bare", "journal"] {
            source.must(&format!("ALTER TABLE {table} REPLICA IDENTITY FULL"));
        }
    } else {
        source.must("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = on");
        source.must(&tables("main", "UNIQUE"));
    }
    source.must("BEGIN");
    let series = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {})",
        COUNT - 1
    );
    source.must(&format!("{series} INSERT INTO owners SELECT i, 'owner ' || i FROM n"));
    for (table, last) in ACCOUNTS.iter().zip(["'note'", "NULL", "'code ' || i", "i"]) {
        source.must(&format!("{series} INSERT INTO {table} SELECT i, {BALANCE}, 0, {last} FROM n"));
    }
    source.must("COMMIT");
}

/// Makes the target's tables: the journal counts how often each of its rows comes.
pub(super) fn make_target(target: &mut Session, schema: &str) {
    if target.is_postgres() {
        target.must(&format!("CREATE SCHEMA IF NOT EXISTS {schema}; SET search_path = {schema}"));
    }
    target.must(&tables(schema, ""));
    target.must("CREATE INDEX bare_id ON accounts_bare (id)");
    target.must("CREATE INDEX journal_id ON journal (id)");
    target.must("CREATE TABLE seen (id bigint PRIMARY KEY, times bigint NOT NULL)");
    let count = "INSERT INTO seen VALUES (NEW.id, 1) \
        ON CONFLICT (id) DO UPDATE SET times = seen.times + 1;";
    if target.is_postgres() {
        target.must(&format!(
            "CREATE FUNCTION count_row() RETURNS trigger LANGUAGE plpgsql
                 SET search_path = {schema} AS $$ BEGIN {count} RETURN NULL; END $$;
             CREATE FUNCTION forget_rows() RETURNS trigger LANGUAGE plpgsql
                 SET search_path = {schema} AS $$ BEGIN DELETE FROM seen; RETURN NULL; END $$;
             CREATE TRIGGER count_row AFTER INSERT ON journal
                 FOR EACH ROW EXECUTE FUNCTION count_row();
             CREATE TRIGGER forget_rows AFTER TRUNCATE ON journal
                 FOR EACH STATEMENT EXECUTE FUNCTION forget_rows();
             ALTER TABLE journal ENABLE ALWAYS TRIGGER count_row;
             ALTER TABLE journal ENABLE ALWAYS TRIGGER forget_rows"
        ));
    } else {
        // Rows of the journal go only when a load begins anew.
        target.must(&format!(
            "CREATE TRIGGER count_row AFTER INSERT ON journal BEGIN {count} END;
             CREATE TRIGGER forget_rows AFTER DELETE ON journal
                 BEGIN DELETE FROM seen WHERE id = OLD.id; END"
        ));
    }
}

/// What was read in one transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) total: i64,
    /// How often accounts were touched, by what they count themselves.
    moves: i64,
    /// The same by the journal.
    touched: i64,
    pub(super) transactions: i64,
    /// Transactions whose row is not there once.
    doubled: i64,
    pub(super) is_marked: bool,
}

impl Observed {
    /// Reads all tables in one transaction, one by one, so that changes have time to come between.
    pub(super) fn read(session: &mut Session) -> Result<Self, Refused> {
        session.run(match session.is_postgres() {
            true => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            false => "BEGIN",
        })?;
        let mut number = |sql: &str| -> Result<i64, Refused> {
            let rows = session.run(sql)?;
            let first = rows.first().and_then(|row| row.first()).cloned().flatten();
            first.and_then(|text| text.parse().ok()).ok_or_else(|| Refused(format!("no: {sql}")))
        };
        let (mut total, mut moves) = (0, 0);
        for table in ACCOUNTS {
            total += number(&format!("SELECT coalesce(sum(balance), 0) FROM {table}"))?;
            moves += number(&format!("SELECT coalesce(sum(moves), 0) FROM {table}"))?;
        }
        let observed = Self {
            total,
            moves,
            touched: number("SELECT coalesce(sum(touched), 0) FROM journal")?,
            transactions: number("SELECT count(*) FROM journal")?,
            doubled: number(
                "SELECT count(*) FROM (SELECT id FROM journal GROUP BY id HAVING count(*) <> 1) d",
            )?,
            is_marked: number(&format!("SELECT count(*) FROM journal WHERE id = {MARKER}"))? > 0,
        };
        session.run("COMMIT")?;
        Ok(observed)
    }

    /// What every state between two transactions has.
    #[track_caller]
    pub(super) fn assert_whole(&self) {
        assert_eq!(self.total, total(), "money was made or lost: {self:?}");
        assert_eq!(self.moves, self.touched, "a transaction is there in part: {self:?}");
        assert_eq!(self.doubled, 0, "a transaction is there twice: {self:?}");
    }
}

/// Compares every row of every table.
#[track_caller]
pub(super) fn assert_equal(source: &mut Session, target: &mut Session) {
    // A file as a source tells which rows were touched, and a row may be put there again.
    let comes_once = source.is_postgres();
    for table in TABLES {
        let rows = |session: &mut Session| {
            let mut rows = session.must(&format!("SELECT * FROM {table}"));
            rows.sort_unstable();
            rows
        };
        let (here, there) = (rows(source), rows(target));
        assert!(!here.is_empty(), "{table} is empty: nothing is compared");
        let differs = here.iter().zip(&there).find(|(here, there)| here != there);
        assert!(here == there, "{table}: {} and {} rows, {differs:?}", here.len(), there.len());
    }
    let doubled = target.must("SELECT id, times FROM seen WHERE times <> 1");
    assert!(
        !comes_once || doubled.is_empty(),
        "rows of the journal came more than once: {doubled:?}"
    );
    let seen = "SELECT count(*) FROM seen";
    assert_eq!(target.number(seen), target.number("SELECT count(*) FROM journal"));
}
