//! Predicates on strings, headers and query parameters (`envoy.type.matcher.v3`, `envoy.config.route.v3.HeaderMatcher`).

use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// Why a regular expression was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("regular expression {pattern:?}: {reason}")]
pub struct RegexError {
    pattern: String,
    reason: String,
}

/// A compiled regular expression that must match the whole text, in linear time and bounded memory (RE2's semantics).
#[derive(Clone)]
pub struct SafeRegex {
    pattern: Arc<str>,
    compiled: regex::Regex,
}

impl SafeRegex {
    /// Compiled programs larger than this are refused, in bytes.
    pub const SIZE_LIMIT: usize = 1 << 20;

    /// Compiles `pattern`, anchored at both ends (`safe_regex` is always a full match).
    pub fn try_new(pattern: &str) -> Result<Self, RegexError> {
        let fail = |e: regex::Error| RegexError { pattern: pattern.chars().take(200).collect(), reason: e.to_string() };
        // The pattern is checked alone first, so that `a)|(b` cannot escape the group that anchors it.
        Self::builder(pattern).build().map_err(fail)?;
        let compiled = Self::builder(&format!("^(?:{pattern})$")).build().map_err(fail)?;
        Ok(Self { pattern: pattern.into(), compiled })
    }

    /// Compiles a pattern as RE2 reads it, within [`Self::SIZE_LIMIT`] and without anchors: every expression of a configuration is
    /// compiled like this.
    pub fn builder(pattern: &str) -> regex::RegexBuilder {
        let mut builder = regex::RegexBuilder::new(&with_ascii_classes(pattern));
        builder.size_limit(Self::SIZE_LIMIT).dfa_size_limit(Self::SIZE_LIMIT);
        builder
    }

    /// The pattern as it was written, without anchors.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether the whole of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }
}

/// In RE2 digits, word characters, white space and the edges of words are those of ASCII, whatever else is Unicode's. The classes
/// are written out: they may stand within brackets, too.
fn with_ascii_classes(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match characters.next() {
            Some('d') => out.push_str("[0-9]"),
            Some('D') => out.push_str("[^0-9]"),
            Some('w') => out.push_str("[0-9A-Za-z_]"),
            Some('W') => out.push_str("[^0-9A-Za-z_]"),
            Some('s') => out.push_str(r"[\t\n\f\r ]"),
            Some('S') => out.push_str(r"[^\t\n\f\r ]"),
            Some('b') => out.push_str(r"(?-u:\b)"),
            escaped => {
                out.push('\\');
                out.extend(escaped);
            }
        }
    }
    out
}

impl PartialEq for SafeRegex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for SafeRegex {}

impl fmt::Debug for SafeRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.pattern)
    }
}

/// What a string must look like (`envoy.type.matcher.v3.StringMatcher`, without `ignore_case`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StringPredicate {
    /// Equal to.
    Exact(String),
    /// Starts with; the empty prefix is not allowed here (use a presence match).
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Contains.
    Contains(String),
    /// The whole string matches.
    Regex(SafeRegex),
}

/// A string predicate, optionally regardless of ASCII case (`ignore_case`, which does not affect a regex).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StringMatch {
    /// What is compared.
    pub predicate: StringPredicate,
    /// Whether ASCII case is ignored.
    pub ignore_case: bool,
}

impl StringMatch {
    /// A case-sensitive exact match.
    pub fn exact(text: impl Into<String>) -> Self {
        Self { predicate: StringPredicate::Exact(text.into()), ignore_case: false }
    }

    /// A case-sensitive prefix match.
    pub fn prefix(text: impl Into<String>) -> Self {
        Self { predicate: StringPredicate::Prefix(text.into()), ignore_case: false }
    }

    /// A case-sensitive suffix match.
    pub fn suffix(text: impl Into<String>) -> Self {
        Self { predicate: StringPredicate::Suffix(text.into()), ignore_case: false }
    }

    /// A full regex match.
    pub fn regex(regex: SafeRegex) -> Self {
        Self { predicate: StringPredicate::Regex(regex), ignore_case: false }
    }

    /// Whether `text` satisfies the predicate.
    pub fn matches(&self, text: &str) -> bool {
        let (t, case) = (text.as_bytes(), self.ignore_case);
        match &self.predicate {
            StringPredicate::Exact(p) => eq(t, p.as_bytes(), case),
            StringPredicate::Prefix(p) => t.len() >= p.len() && eq(&t[..p.len()], p.as_bytes(), case),
            StringPredicate::Suffix(p) => t.len() >= p.len() && eq(&t[t.len() - p.len()..], p.as_bytes(), case),
            StringPredicate::Contains(p) => p.is_empty() || t.windows(p.len()).any(|w| eq(w, p.as_bytes(), case)),
            StringPredicate::Regex(r) => r.is_match(text),
        }
    }
}

fn eq(a: &[u8], b: &[u8], ignore_case: bool) -> bool {
    if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b }
}

/// What is asked of a header (`HeaderMatcher.header_match_specifier`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderPredicate {
    /// The header is there (`true`) or is not (`false`); its value does not matter.
    Present(bool),
    /// Its value matches; several values of one name are joined by `,` first, as Envoy does.
    Value(StringMatch),
}

/// A predicate on one request header (`envoy.config.route.v3.HeaderMatcher`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderMatch {
    /// Lower-case header name; pseudo-headers (`:method`, `:authority`, `:scheme`, `:path`) are names too.
    pub name: String,
    /// What is asked.
    pub predicate: HeaderPredicate,
    /// Whether the result is turned round (`invert_match`).
    pub invert: bool,
    /// Whether a missing header counts as the empty string (`treat_missing_header_as_empty`).
    pub missing_is_empty: bool,
}

/// What is asked of a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryPredicate {
    /// The parameter is there (`true`) or is not.
    Present(bool),
    /// Its value matches.
    Value(StringMatch),
}

/// A predicate on one query parameter (`envoy.config.route.v3.QueryParameterMatcher`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueryMatch {
    /// The parameter's name.
    pub name: String,
    /// What is asked.
    pub predicate: QueryPredicate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regex_is_anchored_and_cannot_escape() {
        assert!(!SafeRegex::try_new("a|b").unwrap().is_match("ab"));
        assert!(SafeRegex::try_new("a|b").unwrap().is_match("b"));
        assert!(SafeRegex::try_new("a)|(b").is_err());
        assert!(SafeRegex::try_new("(a{1000}){1000}").is_err());
        // Classes are RE2's.
        for (pattern, matching, others) in [
            (r"\d+", &["019"][..], &["٣", "a"][..]),
            (r"[\d.]+", &["1.2"], &["٣.٤"]),
            (r"\D", &["a", "٣"], &["1"]),
            (r"\w+", &["a_Z9"], &["ä", "\u{212a}"]),
            (r"\W", &["ä", "-"], &["a"]),
            (r"a\sb", &["a b", "a\tb"], &["a\u{a0}b", "a\u{b}b"]),
            (r"[^\s]", &["\u{a0}", "x"], &[" "]),
            (r"\S", &["\u{2003}"], &["\n"]),
            (r".\b.", &["a-", "aä"], &["ab", "ä-"]),
            (r"\\d", &[r"\d"], &["1"]),
            (r"\pL", &["ä"], &["1"]),
        ] {
            let regex = SafeRegex::try_new(pattern).unwrap();
            assert!(matching.iter().all(|text| regex.is_match(text)), "{pattern}");
            assert!(!others.iter().any(|text| regex.is_match(text)), "{pattern}");
        }
    }

    #[test]
    fn string_predicates() {
        let fold = |p| StringMatch { predicate: p, ignore_case: true };
        for (m, text, expected) in [
            (StringMatch::exact("a"), "a", true),
            (StringMatch::exact("a"), "A", false),
            (fold(StringPredicate::Exact("a".into())), "A", true),
            (StringMatch::prefix("/a"), "/ab", true),
            (StringMatch::prefix("/a"), "/", false),
            (StringMatch::suffix("b"), "ab", true),
            (fold(StringPredicate::Suffix("B".into())), "ab", true),
            (fold(StringPredicate::Contains("B".into())), "abc", true),
            (StringMatch { predicate: StringPredicate::Contains("x".into()), ignore_case: false }, "abc", false),
        ] {
            assert_eq!(m.matches(text), expected, "{m:?} {text}");
        }
    }
}
