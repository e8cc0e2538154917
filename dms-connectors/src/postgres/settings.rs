//! How a PostgreSQL endpoint is opened.

use std::collections::BTreeMap;
use std::fmt;

use dms_core::endpoint::{EndpointInfo, EndpointSettings};
use dms_core::mapping::Pattern;
use dms_core::schema::{LogicalType, TableName};
use dms_core::{Error, Result};
use serde::Deserialize;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use super::ENGINE;

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
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Options {
    control_schema: String,
    column_types: BTreeMap<String, LogicalType>,
    password: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { control_schema: "dms".to_owned(), column_types: BTreeMap::new(), password: None }
    }
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
    /// `tokio-postgres` knows, and the options `password`, `control-schema` and `column-types`.
    ///
    /// # Errors
    /// `Settings` naming the option, or what is wrong with the URL.
    pub fn from_endpoint(endpoint: &EndpointSettings) -> Result<Self> {
        let options: Options = dms_core::json::parse_value(
            serde_json::Value::Object(endpoint.options.clone()),
            "options of the postgres endpoint",
        )?;
        let address = endpoint.redacted_url();
        // The parser's own message might show a part of the URL, and so of a password.
        let mut config: Config = endpoint.url.parse().map_err(|_| {
            Error::settings(format!(
                "{address} is no postgres url; write \
                 postgres://user:password@host:5432/database, special characters as %XX"
            ))
        })?;
        if let Some(password) = options.password {
            config.password(password);
        }
        if matches!(config.get_ssl_mode(), SslMode::Require) {
            return Err(Error::settings(
                "sslmode=require: this version has no TLS yet; use sslmode=disable over a network \
                 that is trusted, or a tunnel",
            ));
        }
        if config.get_application_name().is_none() {
            config.application_name("dms");
        }
        // A role's own timeout could end even the statements that lift it.
        let given = config.get_options().unwrap_or_default().to_owned();
        config.options(format!("{given} -c statement_timeout=0").trim_start());
        config.keepalives_idle(std::time::Duration::from_secs(30));
        let types = options.column_types.into_iter();
        Ok(Self {
            config,
            control_schema: options.control_schema,
            column_types: types.map(|(name, ty)| (Pattern::new(name), ty)).collect(),
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
        assert!(PostgresSettings::new("postgres://db/shop?sslmode=require").is_err());
    }
}
