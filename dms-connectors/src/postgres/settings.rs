//! How a PostgreSQL endpoint is opened.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use dms_core::endpoint::{EndpointInfo, EndpointSettings};
use dms_core::mapping::Pattern;
use dms_core::schema::{LogicalType, TableName};
use dms_core::{Error, Result};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::ENGINE;
use super::environment::{self, Variables};
use super::tls::{self, Files, Mode};

/// A `lock_timeout` that nobody else asks for, in milliseconds: a session which has it at its
/// beginning is one with the server itself, for poolers drop these options.
pub(super) const DIRECT: &str = "2147483646";

/// A PostgreSQL endpoint. `Debug` shows no password.
#[derive(Clone)]
#[non_exhaustive]
pub struct PostgresSettings {
    /// Host, port, user, password and database.
    pub(super) config: Config,
    /// The schema of a target's control tables; made when it is missing. Default `dms`.
    pub control_schema: String,
    /// Types of a source's columns, by pattern of `schema.table.column`; the first in alphabetical
    /// order wins. A column of any type can be `text`, one of numbers `numeric`.
    pub column_types: Vec<(Pattern, LogicalType)>,
    /// What becomes of secondary indexes and foreign keys that a target's table has already;
    /// default keep.
    pub existing_indexes: ExistingIndexes,
    /// Whether a target's new tables stay out of the write-ahead log until their rows are there;
    /// default false. Faster, but a crash of the server means that the table is loaded again, and
    /// `SET LOGGED` writes it once more.
    pub unlogged: bool,
    /// A source's replication slot; by default one named after the task. It is made if it is not
    /// there, and dropped at the end of a capture either way, since it holds back the server's log.
    pub slot_name: Option<String>,
    /// A publication that exists already, of all tables of the task and without row filters or
    /// lists of columns, for a role that may not create one. It stays at the end of a capture.
    pub publication_name: Option<String>,
    /// Whether event triggers tell a source's tasks of altered and dropped tables; default auto.
    pub capture_ddls: CaptureDdls,
    /// How many bytes of log a source's server may keep for a task; 0, the default, for any number.
    pub retained_wal_max: u64,
    /// What becomes of a task for which it keeps more; default warn.
    pub retained_wal_policy: RetainedWalPolicy,
    /// How to speak TLS, unless it is off.
    pub(super) tls: Option<MakeRustlsConnect>,
    /// The same in words, for connections of another client.
    address: String,
}

/// What becomes of secondary indexes and foreign keys of a target's existing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExistingIndexes {
    /// They stay, and are reported.
    #[default]
    Keep,
    /// They are dropped before the rows and built again after them; a foreign key when both of its
    /// tables are complete.
    Rebuild,
}

/// What becomes of a task for which the source's server keeps more log than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetainedWalPolicy {
    /// A warning is logged, each minute. The task goes on: to stop makes the server keep more.
    #[default]
    Warn,
    /// The task stops with an error when what was read before is applied. The slot stays, so that the
    /// task can go on, and the server keeps its log until the task is deleted.
    Stop,
}

/// Whether event triggers at a source tell of altered and dropped tables.
///
/// With them a drop, and an alteration that no row follows, are told at their place in the log.
/// Without them an alteration is told with the next row of its table, and a drop is found within
/// seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "serde_json::Value")]
pub enum CaptureDdls {
    /// Where the role may make event triggers.
    #[default]
    Auto,
    /// Always: a role that may not is refused.
    Always,
    /// Never: those that are there are removed.
    Never,
}

impl TryFrom<serde_json::Value> for CaptureDdls {
    type Error = String;

    fn try_from(value: serde_json::Value) -> std::result::Result<Self, String> {
        match (value.as_bool(), value.as_str()) {
            (Some(true), _) | (_, Some("true")) => Ok(Self::Always),
            (Some(false), _) | (_, Some("false")) => Ok(Self::Never),
            (_, Some("auto")) => Ok(Self::Auto),
            _ => Err(format!("capture-ddls is {value}; write auto, true or false")),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Options {
    control_schema: Option<String>,
    column_types: BTreeMap<String, LogicalType>,
    password: Option<String>,
    existing_indexes: ExistingIndexes,
    unlogged: bool,
    slot_name: Option<String>,
    publication_name: Option<String>,
    capture_ddls: CaptureDdls,
    retained_wal_max: u64,
    retained_wal_policy: RetainedWalPolicy,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    sslcert: Option<String>,
    sslkey: Option<String>,
}

impl PostgresSettings {
    /// An endpoint by its URL, with default options; see
    /// [`from_endpoint`](Self::from_endpoint).
    ///
    /// # Errors
    /// As [`from_endpoint`](Self::from_endpoint).
    pub fn new(url: &str) -> Result<Self> {
        Self::from_endpoint(&EndpointSettings::new(url))
    }

    /// Reads `postgres://user:password@host:port/database` with the parameters of libpq that
    /// `tokio-postgres` knows and those of TLS (`sslmode`, `sslrootcert`, `sslcert`, `sslkey`), and
    /// the options `password`, `control-schema`, `column-types`, `existing-indexes`, `unlogged`,
    /// `slot-name`, `publication-name`, `capture-ddls`, `retained-wal-max`, `retained-wal-policy`
    /// and, again, those of TLS. What neither says is taken from libpq's environment variables (`PGHOST`, `PGPORT`, `PGUSER`,
    /// `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE`, …) and its password file.
    ///
    /// # Errors
    /// `Settings` naming the option, the variable, the file, or what is wrong with the URL.
    pub fn from_endpoint(endpoint: &EndpointSettings) -> Result<Self> {
        Self::read(endpoint, &|name| std::env::var(name).ok())
    }

    fn read(endpoint: &EndpointSettings, variables: Variables<'_>) -> Result<Self> {
        let options: Options = dms_core::json::parse_value(
            serde_json::Value::Object(endpoint.options.clone()),
            "options of the postgres endpoint",
        )?;
        if options.retained_wal_policy == RetainedWalPolicy::Stop && options.retained_wal_max == 0 {
            return Err(Error::settings(
                "retained-wal-policy is stop, and retained-wal-max says no limit: give one in bytes",
            ));
        }
        let address = endpoint.redacted_url();
        let (url, mut of_tls) = split(&endpoint.url);
        // The parser's own message might show a part of the URL, and so of a password.
        let mut config: Config = url.parse().map_err(|_| {
            Error::settings(format!(
                "{address} is no postgres url; write \
                 postgres://user:password@host:5432/database, special characters as %XX"
            ))
        })?;
        if let Some(password) = options.password {
            config.password(password);
        }
        environment::complete(&mut config, variables)?;
        let mut choose = |option: Option<String>, name: &str| {
            let variable = || variables(&format!("PG{}", name.to_uppercase()));
            option.or_else(|| of_tls.remove(name)).or_else(variable)
        };
        let mode = choose(options.sslmode, "sslmode");
        let files = Files {
            root: choose(options.sslrootcert, "sslrootcert"),
            certificate: choose(options.sslcert, "sslcert"),
            key: choose(options.sslkey, "sslkey"),
            folder: environment::certificates_folder(variables),
        };
        let is_socket = config.get_hosts().iter().all(|host| !matches!(host, Host::Tcp(_)));
        let mode = match mode {
            // Nobody listens in on a socket of the machine, and no server encrypts it.
            _ if is_socket && config.get_hostaddrs().is_empty() => Mode::Disable,
            Some(mode) => Mode::parse(&mode)?,
            None => Mode::Prefer,
        };
        config.ssl_mode(match mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        let tls = match mode {
            Mode::Disable => None,
            mode => Some(tls::connector(mode, &files)?),
        };
        if config.get_application_name().is_none() {
            config.application_name("dms");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        // A role's own timeout could end even the statements that lift it.
        let given = config.get_options().unwrap_or_default().to_owned();
        let ours = format!("-c statement_timeout=0 -c lock_timeout={DIRECT}");
        config.options(format!("{given} {ours}").trim_start());
        config.keepalives_idle(Duration::from_secs(30));
        let types = options.column_types.into_iter();
        Ok(Self {
            config,
            control_schema: options.control_schema.unwrap_or_else(|| "dms".to_owned()),
            column_types: types.map(|(name, ty)| (Pattern::new(name), ty)).collect(),
            existing_indexes: options.existing_indexes,
            unlogged: options.unlogged,
            slot_name: options.slot_name.map(slot_name).transpose()?,
            publication_name: options.publication_name,
            capture_ddls: options.capture_ddls,
            retained_wal_max: options.retained_wal_max,
            retained_wal_policy: options.retained_wal_policy,
            tls,
            address,
        })
    }

    /// The type that the settings give a column, if any.
    pub(super) fn column_type(&self, table: &TableName, column: &str) -> Option<&LogicalType> {
        let name = format!("{table}.{column}");
        self.column_types.iter().find(|(pattern, _)| pattern.matches(&name)).map(|(_, ty)| ty)
    }

    pub(super) fn info(&self) -> EndpointInfo {
        EndpointInfo { engine: ENGINE, address: self.address.clone() }
    }
}

/// How long a server may take to answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A name that a slot can have
/// (<https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION-SLOTS-MANIPULATION>).
fn slot_name(name: String) -> Result<String> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=63).contains(&name.len()) && name.bytes().all(legal) {
        return Ok(name);
    }
    Err(Error::settings(format!(
        "slot-name {name:?} is no name of a replication slot: these have 1 to 63 lower-case \
         letters, digits and underscores"
    )))
}

/// Takes the parameters out of a URL that `tokio-postgres` does not know.
fn split(url: &str) -> (String, BTreeMap<String, String>) {
    let mut ours = BTreeMap::new();
    let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), ours) };
    let mut rest = Vec::new();
    for parameter in query.split('&') {
        match parameter.split_once('=') {
            Some((name @ ("sslmode" | "sslrootcert" | "sslcert" | "sslkey"), value)) => {
                let value = percent_decode_str(value).decode_utf8_lossy();
                ours.insert(name.to_owned(), value.into_owned());
            }
            _ => rest.push(parameter),
        }
    }
    let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    (url, ours)
}

impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSettings")
            .field("address", &self.address)
            .field("control_schema", &self.control_schema)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_options() {
        let settings = PostgresSettings::new("postgres://me:s3cret@db:5433/shop").unwrap();
        assert_eq!(settings.config.get_dbname(), Some("shop"));
        assert!(!format!("{settings:?}").contains("s3cret"));
        let error = PostgresSettings::new("postgres://me:s3cret@db:port/x").unwrap_err();
        assert!(!format!("{error:?}{error}").contains("s3cret"), "{error}");
        let mut endpoint = EndpointSettings::new("postgres://db/shop");
        endpoint.options.insert("contol-schema".into(), "x".into());
        let error = PostgresSettings::from_endpoint(&endpoint).unwrap_err().to_string();
        assert!(error.contains("contol-schema") && error.contains("control-schema"), "{error}");
    }

    #[test]
    fn names_of_slots() {
        let read = |name: &str| {
            let mut endpoint = EndpointSettings::new("postgres://db/shop");
            endpoint.options.insert("slot-name".into(), name.into());
            PostgresSettings::from_endpoint(&endpoint).map(|settings| settings.slot_name)
        };
        assert_eq!(read("of_mine_2").unwrap().as_deref(), Some("of_mine_2"));
        for wrong in ["", "Mine", "my-slot", &"x".repeat(64)] {
            assert!(read(wrong).unwrap_err().to_string().contains("slot-name"), "{wrong}");
        }
    }

    #[test]
    fn whether_ddl_is_captured() {
        let read = |value: serde_json::Value| {
            let mut endpoint = EndpointSettings::new("postgres://db/shop");
            endpoint.options.insert("capture-ddls".into(), value);
            PostgresSettings::from_endpoint(&endpoint).map(|settings| settings.capture_ddls)
        };
        assert_eq!(
            PostgresSettings::new("postgres://db/shop").unwrap().capture_ddls,
            CaptureDdls::Auto
        );
        for (value, meant) in [
            (true.into(), CaptureDdls::Always),
            ("true".into(), CaptureDdls::Always),
            (false.into(), CaptureDdls::Never),
            ("auto".into(), CaptureDdls::Auto),
        ] {
            assert_eq!(read(value).unwrap(), meant);
        }
        let error = read("yes".into()).unwrap_err().to_string();
        assert!(error.contains("capture-ddls") && error.contains("auto, true or false"), "{error}");
    }

    #[test]
    fn a_limit_of_retained_log() {
        let read = |options: serde_json::Value| {
            let mut endpoint = EndpointSettings::new("postgres://db/shop");
            endpoint.options = options.as_object().unwrap().clone();
            PostgresSettings::from_endpoint(&endpoint).map(|settings| settings.retained_wal_policy)
        };
        let limit = "retained-wal-max";
        assert_eq!(read(serde_json::json!({limit: 5})).unwrap(), RetainedWalPolicy::Warn);
        let stop = serde_json::json!({limit: 5, "retained-wal-policy": "stop"});
        assert_eq!(read(stop).unwrap(), RetainedWalPolicy::Stop);
        for wrong in [
            serde_json::json!({"retained-wal-policy": "stop"}),
            serde_json::json!({limit: 5, "retained-wal-policy": "end"}),
        ] {
            assert!(read(wrong).unwrap_err().to_string().contains("retained-wal-policy"));
        }
    }

    #[test]
    fn tls_by_url_option_and_variable() {
        let read = |url: &str, sslmode: Option<&str>, variable: &'static str| {
            let mut endpoint = EndpointSettings::new(url);
            if let Some(mode) = sslmode {
                endpoint.options.insert("sslmode".into(), mode.into());
            }
            let variables = |name: &str| (name == "PGSSLMODE").then(|| variable.to_owned());
            PostgresSettings::read(&endpoint, &variables)
        };
        let mode = |url: &str, option: Option<&str>, variable: &'static str| {
            read(url, option, variable).unwrap().config.get_ssl_mode()
        };
        let url = "postgres://db/shop?connect_timeout=5&sslmode=disable";
        assert_eq!(mode(url, None, "require"), SslMode::Disable);
        assert_eq!(mode(url, Some("verify-full"), "prefer"), SslMode::Require);
        assert_eq!(mode("postgres://db/shop", None, "require"), SslMode::Require);
        assert_eq!(mode("postgres:///shop?host=/tmp", None, "require"), SslMode::Disable);
        for (url, says) in [
            ("postgres://db/shop?sslmode=on", "sslmode=on"),
            ("postgres://db/shop?sslmode=verify-ca&sslrootcert=/no/file", "/no/file"),
            ("postgres://db/shop?sslcert=/no/file", "sslkey"),
        ] {
            let error = read(url, None, "prefer").unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
