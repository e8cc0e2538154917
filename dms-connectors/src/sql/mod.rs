//! What SQL engines share.

/// A name as a quoted identifier of standard SQL.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names as quoted identifiers, separated by commas.
pub(crate) fn quote_all<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_name_cannot_end_early() {
        assert_eq!(quote("or\"der; --"), "\"or\"\"der; --\"");
    }
}
