//! The name patterns of DMS selection rules.

/// A pattern over names: `%` is any characters, `_` is one, `[_]`, `[ab]` and `[a-d]` are one of a
/// set. Case-sensitive, as names are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

enum Part {
    Any,
    One,
    Literal(char),
    Set(Vec<(char, char)>),
}

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

    /// The one name that the pattern matches, if it has no wildcards.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        (!self.0.contains(['%', '_', '['])).then_some(&self.0)
    }

    /// Whether a name matches. Takes time in proportion to both lengths at worst.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let parts = parts(&self.0);
        let name: Vec<char> = name.chars().collect();
        let (mut part, mut at) = (0, 0);
        // Where to go on when a later part fails: after the last `%`, one character further.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let fits = match (parts.get(part), name.get(at)) {
                (Some(Part::Any), _) => {
                    retry = Some((part + 1, at));
                    part += 1;
                    continue;
                }
                (None, None) => return true,
                (Some(Part::One), Some(_)) => true,
                (Some(Part::Literal(literal)), Some(found)) => literal == found,
                (Some(Part::Set(ranges)), Some(found)) => {
                    ranges.iter().any(|(low, high)| low <= found && found <= high)
                }
                _ => false,
            };
            if fits {
                (part, at) = (part + 1, at + 1);
                continue;
            }
            match retry {
                Some((after, from)) if from < name.len() => {
                    retry = Some((after, from + 1));
                    (part, at) = (after, from + 1);
                }
                _ => return false,
            }
        }
    }
}

fn parts(pattern: &str) -> Vec<Part> {
    let characters: Vec<char> = pattern.chars().collect();
    let mut parts = Vec::new();
    let mut rest = characters.as_slice();
    while let [first, after @ ..] = rest {
        rest = after;
        parts.push(match first {
            '%' => Part::Any,
            '_' => Part::One,
            '[' => match after.iter().position(|c| *c == ']') {
                Some(end) if end > 0 => {
                    rest = &after[end + 1..];
                    Part::Set(set(&after[..end]))
                }
                // A bracket that is not closed stands for itself.
                _ => Part::Literal('['),
            },
            literal => Part::Literal(*literal),
        });
    }
    parts
}

fn set(mut members: &[char]) -> Vec<(char, char)> {
    let mut ranges = Vec::new();
    loop {
        members = match members {
            [low, '-', high, rest @ ..] => {
                ranges.push((*low, *high));
                rest
            }
            [one, rest @ ..] => {
                ranges.push((*one, *one));
                rest
            }
            [] => return ranges,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['%', rest @ ..] => (0..=name.len()).any(|at| naive(rest, &name[at..])),
            ['_', rest @ ..] => !name.is_empty() && naive(rest, &name[1..]),
            [literal, rest @ ..] => name.first() == Some(literal) && naive(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_definition(pattern in "[ab%_]{0,8}", name in "[ab]{0,10}") {
            let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(Pattern::new(&pattern).matches(&name), naive(&p, &n));
        }
    }

    #[test]
    fn sets_and_escapes() {
        assert!(Pattern::new("tmp[_]%").matches("tmp_x"));
        assert!(!Pattern::new("tmp[_]%").matches("tmpxx"));
        assert!(Pattern::new("t[ac-e]").matches("td"));
        assert!(!Pattern::new("t[ac-e]").matches("tb"));
        assert!(Pattern::new("a[b").matches("a[b"));
        assert!(!Pattern::new("Orders").matches("orders"), "names are case-sensitive");
    }
}
