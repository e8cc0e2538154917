//! One connection to a database of either engine, for statements and rows as text: what a test does
//! to a source and looks at in a target, in one dialect for both.

use std::fmt::{Display, Formatter};
use std::time::Duration;

use rusqlite::types::ValueRef;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Rows as text.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

/// A statement that was not done.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

impl Display for Refused {
    fn fmt(&self, to: &mut Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

impl From<tokio_postgres::Error> for Refused {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string))
    }
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

pub(crate) enum Session {
    Postgres { runtime: Runtime, client: Client },
    Sqlite(rusqlite::Connection),
}

impl Session {
    /// Connects to `postgres://…` or opens `sqlite://…`.
    pub(crate) fn open(url: &str) -> Result<Self, Refused> {
        if let Some(path) = url.strip_prefix("sqlite://") {
            let file = rusqlite::Connection::open(path)?;
            file.busy_timeout(Duration::from_secs(60))?;
            return Ok(Self::Sqlite(file));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            Ok::<_, Refused>(client)
        })?;
        Ok(Self::Postgres { runtime, client })
    }

    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres { .. })
    }

    /// Runs statements; returns what they answer, for a file only if it is one.
    pub(crate) fn run(&mut self, sql: &str) -> Result<Rows, Refused> {
        match self {
            Self::Postgres { runtime, client } => {
                let messages = runtime.block_on(client.simple_query(sql))?;
                let rows = messages.iter().filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => {
                        Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
                    }
                    _ => None,
                });
                Ok(rows.collect())
            }
            Self::Sqlite(file) => {
                if sql.contains(';') {
                    file.execute_batch(sql)?;
                    return Ok(Vec::new());
                }
                let (mut all, mut statement) = (Vec::new(), file.prepare(sql)?);
                let columns = statement.column_count();
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    let value = |at| Ok(text_of(row.get_ref(at)?));
                    let row: Result<_, rusqlite::Error> = (0..columns).map(value).collect();
                    all.push(row?);
                }
                Ok(all)
            }
        }
    }

    /// Runs statements that cannot fail.
    #[track_caller]
    pub(crate) fn must(&mut self, sql: &str) -> Rows {
        let shown = &sql[..sql.len().min(500)];
        self.run(sql).unwrap_or_else(|error| panic!("{error}: {shown}"))
    }

    /// The one value that a query answers.
    #[track_caller]
    pub(crate) fn text(&mut self, sql: &str) -> String {
        let rows = self.must(sql);
        rows.first().and_then(|row| row.first()).cloned().flatten().unwrap_or_default()
    }

    /// The one number that a query answers.
    #[track_caller]
    pub(crate) fn number(&mut self, sql: &str) -> i64 {
        let text = self.text(sql);
        text.parse().unwrap_or_else(|_| panic!("{text:?} is no number: {sql}"))
    }
}

fn text_of(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(value) => Some(value.to_string()),
        ValueRef::Real(value) => Some(value.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Some(format!("\\x{digits}"))
        }
    }
}
