//! A whole task as one JSON document.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::{StartPoint, StopWhen, TaskSettings};
use crate::endpoint::EndpointSettings;
use crate::mapping::TableMapping;
use crate::{Error, Result, json};

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationType {
    /// Existing rows.
    FullLoad,
    /// Existing rows and every change since.
    FullLoadAndCdc,
    /// Changes only.
    Cdc,
}

impl fmt::Display for MigrationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FullLoad => "full-load",
            Self::FullLoadAndCdc => "full-load-and-cdc",
            Self::Cdc => "cdc",
        })
    }
}

/// A task: from where, to where, what, and how. `Debug` shows no credentials.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TaskDefinition {
    /// Its name; 1 to 255 letters, digits and hyphens, as DMS has it.
    pub name: String,
    /// What is read.
    pub source: EndpointSettings,
    /// What is written.
    pub target: EndpointSettings,
    /// What it does.
    pub migration_type: MigrationType,
    /// Which tables, and what they become; settings applied.
    pub mapping: TableMapping,
    /// How.
    pub settings: TaskSettings,
    /// Where changes without a load begin.
    pub start_at: StartPoint,
    /// When a replication ends by itself.
    pub stop_when: StopWhen,
    table_mappings: Json,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    name: String,
    source: Map<String, Json>,
    target: Map<String, Json>,
    migration_type: MigrationType,
    table_mappings: Json,
    #[serde(default)]
    settings: Option<Json>,
    #[serde(default)]
    start_at: StartPoint,
    #[serde(default)]
    stop_when: StopWhen,
}

impl TaskDefinition {
    /// Reads a definition. `${NAME}` in an endpoint's URL or text options is the environment
    /// variable of that name; `$${` is a plain `${`.
    ///
    /// # Errors
    /// `Settings` naming the path, and the nearest known name for one that is not known.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::with_variables(text, &|name| std::env::var(name).ok())
    }

    fn with_variables(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let document: Document = json::parse(text, "task definition")?;
        check_name(&document.name)?;
        let settings = TaskSettings::from_json(document.settings.unwrap_or_else(|| json!({})))?;
        let mapping = TableMapping::from_value(document.table_mappings.clone())?;
        let (kind, stops) = (document.migration_type, document.stop_when != StopWhen::Asked);
        if kind == MigrationType::FullLoad && stops {
            return Err(Error::settings(
                "task definition at stop-when: a full load ends when it is done; use migration \
                 type full-load-and-cdc or cdc",
            ));
        }
        if kind != MigrationType::Cdc && document.start_at != StartPoint::Now {
            return Err(Error::settings(
                "task definition at start-at: changes begin with the load; use migration type cdc",
            ));
        }
        Ok(Self {
            name: document.name,
            source: endpoint(document.source, "source", variable)?,
            target: endpoint(document.target, "target", variable)?,
            migration_type: document.migration_type,
            mapping: settings.apply_to(mapping),
            settings,
            start_at: document.start_at,
            stop_when: document.stop_when,
            table_mappings: document.table_mappings,
        })
    }

    /// The definition with every default, credentials hidden.
    #[must_use]
    pub fn to_effective_json(&self) -> Json {
        let endpoint = |endpoint: &EndpointSettings| {
            let mut shown = Map::new();
            shown.insert("url".to_owned(), endpoint.redacted_url().into());
            shown.extend(endpoint.redacted_options());
            shown
        };
        json!({
            "name": self.name,
            "source": endpoint(&self.source),
            "target": endpoint(&self.target),
            "migration-type": self.migration_type,
            "table-mappings": self.table_mappings,
            "settings": self.settings.to_json(),
            "start-at": self.start_at,
            "stop-when": self.stop_when,
        })
    }
}

/// DMS's rules for task identifiers (API reference, `CreateReplicationTask`).
fn check_name(name: &str) -> Result<()> {
    let legal = (1..=255).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && !name.ends_with('-')
        && !name.contains("--");
    if legal {
        return Ok(());
    }
    Err(Error::settings(format!(
        "task name {name:?} must be 1 to 255 letters, digits and single hyphens, begin with a \
         letter and not end with a hyphen"
    )))
}

fn endpoint(
    mut document: Map<String, Json>,
    side: &'static str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<EndpointSettings> {
    let url = match document.remove("url") {
        Some(Json::String(url)) => substitute(&url, &format!("{side}.url"), variable)?,
        _ => {
            let known: Vec<&str> = document.keys().map(String::as_str).collect();
            let near = json::nearest("url", &known).map(|near| format!("; found {near:?}"));
            return Err(Error::settings(format!(
                "task definition at {side}: a url is needed{}",
                near.unwrap_or_default()
            )));
        }
    };
    let mut settings = EndpointSettings::new(url);
    for (name, value) in document {
        let value = match value {
            Json::String(text) => {
                Json::String(substitute(&text, &format!("{side}.{name}"), variable)?)
            }
            other => other,
        };
        settings.options.insert(name, value);
    }
    Ok(settings)
}

fn substitute(text: &str, path: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(plain) = before.strip_suffix('$') {
            out.push_str(plain);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (name, behind) = after.split_once('}').ok_or_else(|| {
            Error::settings(format!("task definition at {path}: ${{ without a closing brace"))
        })?;
        let value = variable(name).ok_or_else(|| {
            Error::settings(format!(
                "task definition at {path}: environment variable {name} is not set"
            ))
        })?;
        out.push_str(&value);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str, more: &str) -> Result<TaskDefinition> {
        let text = format!(
            r#"{{"name": "shop-1", "source": {source}, "target": {{"url": "file:///lake"}},
            "migration-type": "full-load", "table-mappings": {{"rules": [
            {{"rule-type": "selection", "rule-id": "1", "rule-name": "1", "rule-action": "include",
              "object-locator": {{"schema-name": "main", "table-name": "%"}}}}]}}{more}}}"#
        );
        let variable = |name: &str| (name == "PASSWORD").then(|| "s3cret".to_owned());
        TaskDefinition::with_variables(&text, &variable)
    }

    #[test]
    fn variables_are_put_in_and_stay_hidden() {
        let task = read(
            r#"{"url": "postgres://a:${PASSWORD}@db/x", "password": "${PASSWORD}", "odd": "$${x}"}"#,
            "",
        );
        let task = task.unwrap();
        assert_eq!(task.source.url, "postgres://a:s3cret@db/x");
        assert_eq!(task.source.options["password"], "s3cret");
        assert_eq!(task.source.options["odd"], "${x}");
        assert!(!task.to_effective_json().to_string().contains("s3cret"));
        assert!(!format!("{task:?}").contains("s3cret"));
    }

    #[test]
    fn wrong_definitions_say_where() {
        for (source, more, says) in [
            (r#"{"url": "x:${NOWHERE}"}"#, "", "NOWHERE is not set"),
            (r#"{"url": "x:${PASSWORD"}"#, "", "closing brace"),
            (r#"{"ulr": "x:"}"#, "", "found \"ulr\""),
            (r#"{"url": "x:"}"#, r#", "setings": {}"#, "did you mean \"settings\""),
        ] {
            let error = read(source, more).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        for name in ["", "1a", "a--b", "a-", "a_b"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
