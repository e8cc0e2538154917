//! Opening endpoints by URL.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value as Json};

use super::{ChangeSource, ChangeTarget, Source, Target};
use crate::{Error, ErrorKind, Result};

/// An endpoint as a task definition names it: a URL and the connector's own options.
///
/// `Debug` and [`redacted_url`](Self::redacted_url) never show a password or the value of an option
/// whose name speaks of a secret.
#[derive(Clone, PartialEq)]
pub struct EndpointSettings {
    /// The whole URL, credentials included.
    pub url: String,
    /// Everything else in the endpoint's JSON object; the connector checks it.
    pub options: Map<String, Json>,
}

impl EndpointSettings {
    /// An endpoint with default options.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), options: Map::new() }
    }

    /// The URL's scheme; `odbc:…` has one too.
    ///
    /// # Errors
    /// `Settings` if there is none.
    pub fn scheme(&self) -> Result<&str> {
        match self.url.split_once(':') {
            Some((scheme, _)) if !scheme.is_empty() => Ok(scheme),
            _ => Err(Error::settings(format!(
                "endpoint url {:?} has no scheme; write for example sqlite:///path/to/file.db",
                self.redacted_url()
            ))),
        }
    }

    /// The URL with password and query values replaced by `***`.
    #[must_use]
    pub fn redacted_url(&self) -> String {
        redact(&self.url)
    }

    /// The options with the values of secrets replaced by `***`.
    #[must_use]
    pub fn redacted_options(&self) -> Map<String, Json> {
        let hide = |(name, value): (&String, &Json)| {
            let value = if is_secret(name) { Json::from("***") } else { value.clone() };
            (name.clone(), value)
        };
        self.options.iter().map(hide).collect()
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // A signed URL of Azure (sig), AWS or Google is a credential as well.
    name == "sig"
        || ["password", "secret", "token", "key", "credential", "pwd", "sas", "signature"]
            .iter()
            .any(|word| name.contains(word))
}

fn redact(url: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(b, q)| (b, Some(q)));
    let mut out = String::new();
    match base.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            out.push_str(scheme);
            out.push_str("://");
            match authority.rsplit_once('@') {
                Some((user, host)) => {
                    out.push_str(user.split(':').next().unwrap_or_default());
                    out.push_str(if user.contains(':') { ":***@" } else { "@" });
                    out.push_str(host);
                }
                None => out.push_str(authority),
            }
            out.push_str(path);
        }
        // `odbc:Driver=…;Pwd=…`: every value of a secret-like key goes.
        None => {
            let parts = base.split(';').map(|part| match part.split_once('=') {
                Some((name, _)) if is_secret(name) => format!("{name}=***"),
                _ => part.to_owned(),
            });
            out.push_str(&parts.collect::<Vec<_>>().join(";"));
        }
    }
    if let Some(query) = query {
        let parts = query.split('&').map(|part| match part.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}=***"),
            _ => part.to_owned(),
        });
        out.push('?');
        out.push_str(&parts.collect::<Vec<_>>().join("&"));
    }
    out
}

impl fmt::Debug for EndpointSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointSettings")
            .field("url", &self.redacted_url())
            .field("options", &self.redacted_options())
            .finish()
    }
}

/// An endpoint that is being opened.
pub type Opening<T> = BoxFuture<'static, Result<Arc<T>>>;

/// Opens an endpoint by what a task definition says of it.
pub type Open<T> = fn(EndpointSettings) -> Opening<T>;

/// What a connector can open, and by which URL schemes.
#[derive(Debug, Clone, Copy)]
pub struct Connector {
    /// Its name.
    pub name: &'static str,
    /// The schemes of its URLs.
    pub schemes: &'static [&'static str],
    /// Opens it as a source, if it can be one.
    pub source: Option<Open<dyn Source>>,
    /// Opens it as a target, if it can be one.
    pub target: Option<Open<dyn Target>>,
    /// Opens it as a source whose changes can be followed, if it can be one.
    pub change_source: Option<Open<dyn ChangeSource>>,
    /// Opens it as a target that changes are applied to, if it can be one.
    pub change_target: Option<Open<dyn ChangeTarget>>,
}

/// The connectors that a program knows, by URL scheme.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    connectors: Vec<Connector>,
}

impl Registry {
    /// A registry of these connectors.
    #[must_use]
    pub fn new(connectors: impl IntoIterator<Item = Connector>) -> Self {
        Self { connectors: connectors.into_iter().collect() }
    }

    /// The same with more connectors; of two with one scheme the earlier wins.
    #[must_use]
    pub fn with(mut self, connectors: impl IntoIterator<Item = Connector>) -> Self {
        self.connectors.extend(connectors);
        self
    }

    /// Opens a source.
    ///
    /// # Errors
    /// `Settings` for an unknown scheme, `Unsupported` if the connector is no source, else what the
    /// connector says.
    pub async fn source(&self, settings: &EndpointSettings) -> Result<Arc<dyn Source>> {
        let connector = self.find(settings)?;
        let open = connector.source.ok_or_else(|| cannot(connector, "source"))?;
        open(settings.clone()).await
    }

    /// Opens a target.
    ///
    /// # Errors
    /// As [`source`](Self::source).
    pub async fn target(&self, settings: &EndpointSettings) -> Result<Arc<dyn Target>> {
        let connector = self.find(settings)?;
        let open = connector.target.ok_or_else(|| cannot(connector, "target"))?;
        open(settings.clone()).await
    }

    /// Opens a source whose changes can be followed.
    ///
    /// # Errors
    /// As [`source`](Self::source).
    pub async fn change_source(
        &self,
        settings: &EndpointSettings,
    ) -> Result<Arc<dyn ChangeSource>> {
        let connector = self.find(settings)?;
        let open = connector.change_source;
        let open = open.ok_or_else(|| cannot_follow(connector, "source"))?;
        open(settings.clone()).await
    }

    /// Opens a target that changes are applied to.
    ///
    /// # Errors
    /// As [`source`](Self::source).
    pub async fn change_target(
        &self,
        settings: &EndpointSettings,
    ) -> Result<Arc<dyn ChangeTarget>> {
        let connector = self.find(settings)?;
        let open = connector.change_target;
        let open = open.ok_or_else(|| cannot_follow(connector, "target"))?;
        open(settings.clone()).await
    }

    fn find(&self, settings: &EndpointSettings) -> Result<&Connector> {
        let scheme = settings.scheme()?;
        let found = self.connectors.iter().find(|c| c.schemes.contains(&scheme));
        found.ok_or_else(|| {
            let known = self.connectors.iter().flat_map(|c| c.schemes).copied();
            Error::settings(format!(
                "no connector of this program opens {scheme}: urls; it opens {}",
                known.map(|s| format!("{s}:")).collect::<Vec<_>>().join(", ")
            ))
        })
    }
}

fn cannot_follow(connector: &Connector, side: &str) -> Error {
    Error::settings(format!(
        "the {} connector cannot be a {side} of ongoing replication; use migration type full-load, \
         or another {side}",
        connector.name
    ))
}

fn cannot(connector: &Connector, side: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("the {} connector cannot be a {side}", connector.name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_messages() {
        for (url, shown) in [
            ("postgres://app:s3cret@db:5432/shop", "postgres://app:***@db:5432/shop"),
            (
                "postgres://app@db/shop?password=s3cret&x=1",
                "postgres://app@db/shop?password=***&x=1",
            ),
            ("az://lake/raw?sv=2023&sig=s3cret", "az://lake/raw?sv=2023&sig=***"),
            ("odbc:Driver=X;Uid=a;Pwd=s3cret", "odbc:Driver=X;Uid=a;Pwd=***"),
            ("sqlite:///a@b:c/d.db", "sqlite:///a@b:c/d.db"),
        ] {
            let mut settings = EndpointSettings::new(url);
            settings.options.insert("secret-access-key".into(), "s3cret".into());
            assert_eq!(settings.redacted_url(), shown);
            assert!(!format!("{settings:?}").contains("s3cret"));
        }
    }
}
