//! Rewriting of paths.

use crate::CompileError;
use lateen_model::dataplane::{PathRewrite, SafeRegex, SubstitutionPart};
use std::borrow::Cow;

/// A compiled [`PathRewrite`].
#[derive(Debug)]
pub(super) enum CompiledPathRewrite {
    Prefix(String),
    Regex { pattern: regex::Regex, substitution: Vec<SubstitutionPart> },
}

impl CompiledPathRewrite {
    pub(super) fn compile(model: &PathRewrite) -> Result<Self, CompileError> {
        match model {
            PathRewrite::Prefix(prefix) => Ok(Self::Prefix(prefix.clone())),
            PathRewrite::Regex { pattern, substitution } => {
                let pattern =
                    SafeRegex::builder(pattern).build().map_err(|e| CompileError::new("regex_rewrite.pattern", e.to_string()))?;
                let substitution = SubstitutionPart::parse(substitution, pattern.captures_len())
                    .map_err(|e| CompileError::new("regex_rewrite.substitution", e))?;
                Ok(Self::Regex { pattern, substitution })
            }
        }
    }

    /// `path_len` is the length of the path without query, `matched` of the part that the route's predicate matched.
    pub(super) fn apply<'a>(&self, path_and_query: &'a str, path_len: usize, matched: usize) -> Cow<'a, str> {
        let (path, query) = path_and_query.split_at(path_len);
        let mut out = String::with_capacity(path_and_query.len() + 16);
        match self {
            Self::Prefix(prefix) => {
                out.push_str(prefix);
                out.push_str(path.get(matched..).unwrap_or_default());
            }
            Self::Regex { pattern, substitution } => {
                if !substitute(pattern, substitution, path, &mut out) {
                    return Cow::Owned(path_and_query.to_owned());
                }
            }
        }
        // An upstream that got a target without a slash could not even parse the request.
        if !out.starts_with('/') {
            out.insert(0, '/');
        }
        out.push_str(query);
        Cow::Owned(out)
    }
}

/// Replaces every match (RE2's `GlobalReplace`); `false` if there is none.
fn substitute(pattern: &regex::Regex, substitution: &[SubstitutionPart], path: &str, out: &mut String) -> bool {
    let mut from = 0;
    let mut found = false;
    for captures in pattern.captures_iter(path) {
        let Some(whole) = captures.get(0) else { continue };
        found = true;
        out.push_str(&path[from..whole.start()]);
        for part in substitution {
            match part {
                SubstitutionPart::Literal(text) => out.push_str(text),
                SubstitutionPart::Group(n) => out.push_str(captures.get(*n).map_or("", |m| m.as_str())),
            }
        }
        from = whole.end();
    }
    out.push_str(&path[from..]);
    found
}
