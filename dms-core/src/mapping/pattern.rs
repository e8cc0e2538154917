//! The name patterns of DMS selection rules.

/// A pattern over names: `%` is any characters, `_` is one, `[_]`, `[ab]` and `[a-d]` are one of a
/// set. Case-sensitive, as names are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The pattern's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let name: Vec<char> = name.chars().collect();
        matches(&pattern, &name)
    }
}

fn matches(pattern: &[char], name: &[char]) -> bool {
    match pattern {
        [] => name.is_empty(),
        ['%', rest @ ..] => (0..=name.len()).any(|at| matches(rest, &name[at..])),
        ['_', rest @ ..] => !name.is_empty() && matches(rest, &name[1..]),
        [literal, rest @ ..] => name.first() == Some(literal) && matches(rest, &name[1..]),
    }
}
