//! Reading JSON with errors that say where, and what was probably meant.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result};

/// Reads JSON text as `T`. `what` names the document in messages.
///
/// ```
/// #[derive(Debug, serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Options { compression: String }
///
/// let error = dms_core::json::parse::<Options>(r#"{"compresion": "zstd"}"#, "options").unwrap_err();
/// assert!(error.to_string().contains("did you mean \"compression\"?"), "{error}");
/// ```
///
/// # Errors
/// `Settings` with line and column or the path of the key; an unknown key names the nearest known.
pub fn parse<T: DeserializeOwned>(text: &str, what: &str) -> Result<T> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize(&mut deserializer);
    let parsed = parsed.map_err(|error| explain(&error, what))?;
    deserializer.end().map_err(|error| Error::settings(format!("{what}: {error}")))?;
    Ok(parsed)
}

/// [`parse`] of a value already read.
///
/// # Errors
/// As [`parse`].
pub fn parse_value<T: DeserializeOwned>(value: Value, what: &str) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| explain(&error, what))
}

fn explain(error: &serde_path_to_error::Error<serde_json::Error>, what: &str) -> Error {
    let path = error.path().to_string();
    let at = if path == "." { String::new() } else { format!(" at {path}") };
    let message = error.inner().to_string();
    Error::settings(format!("{what}{at}: {message}{}", suggestion(&message)))
}

/// For serde's "unknown field `x`, expected one of `a`, `b`": the nearest expected name.
fn suggestion(message: &str) -> String {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match names.as_slice() {
        [unknown, known @ ..] if message.starts_with("unknown") => nearest(unknown, known)
            .map(|name| format!("; did you mean {name:?}?"))
            .unwrap_or_default(),
        _ => String::new(),
    }
}

/// The name among `known` that `name` is most like, if any is near.
#[must_use]
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    // The one sees shared beginnings, the other swapped letters.
    let likeness = |other: &str| {
        let other = other.to_ascii_lowercase();
        strsim::jaro_winkler(&name, &other)
            .max(strsim::normalized_damerau_levenshtein(&name, &other))
    };
    known
        .iter()
        .map(|other| (likeness(other), *other))
        .filter(|(likeness, _)| *likeness > 0.65)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
