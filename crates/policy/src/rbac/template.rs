//! Path templates of AuthorizationPolicy: `{*}` is one segment, `{**}` is the rest, across segments.

use crate::CompileError;

/// A compiled template such as `/v1/{*}/items/{**}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PathTemplate {
    /// What stands before `{**}`, or the whole.
    head: Vec<Part>,
    /// What stands after `{**}`; `None` if there is no `{**}`.
    tail: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// One segment: at least one character, no slash.
    Segment,
}

impl PathTemplate {
    /// Istio's rules: absolute; an operator is a whole segment (`{**}` may be followed by a literal); `{**}` stands at most once
    /// and is the last operator; no other braces.
    pub(super) fn compile(template: &str) -> Result<Self, CompileError> {
        let error = |reason: &str| CompileError::new("uri_template", format!("{template:?}: {reason}"));
        if !template.starts_with('/') {
            return Err(error("must begin with '/'"));
        }
        let (before, tail) = match template.split_once("{**}") {
            Some((before, after)) => (before, Some(after)),
            None => (template, None),
        };
        if tail.is_some_and(|after| after.contains(['{', '}'])) {
            return Err(error("{**} must be the last operator"));
        }
        if tail.is_some() && !before.ends_with('/') {
            return Err(error("{**} must follow a '/'"));
        }
        let mut head = Vec::new();
        let mut literals = before.split("{*}").peekable();
        while let Some(literal) = literals.next() {
            if literal.contains(['{', '}']) {
                return Err(error("'{' and '}' are only allowed in {*} and {**}"));
            }
            if !head.is_empty() && !literal.is_empty() && !literal.starts_with('/') {
                return Err(error("{*} must be a whole segment"));
            }
            if literals.peek().is_some() && !literal.ends_with('/') {
                return Err(error("{*} must be a whole segment"));
            }
            if !literal.is_empty() {
                head.push(Part::Literal(literal.to_owned()));
            }
            if literals.peek().is_some() {
                head.push(Part::Segment);
            }
        }
        Ok(Self { head, tail: tail.map(str::to_owned) })
    }

    /// Whether the whole path (without query) fits.
    pub(super) fn matches(&self, path: &str) -> bool {
        let mut rest = path;
        for part in &self.head {
            let after = match part {
                Part::Literal(literal) => rest.strip_prefix(literal.as_str()),
                Part::Segment => {
                    let end = rest.find('/').unwrap_or(rest.len());
                    (end > 0).then(|| &rest[end..])
                }
            };
            match after {
                Some(after) => rest = after,
                None => return false,
            }
        }
        match &self.tail {
            None => rest.is_empty(),
            Some(tail) => rest.ends_with(tail.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PathTemplate;

    #[test]
    fn templates() {
        for (template, path, expected) in [
            ("/v1/{*}/items", "/v1/a/items", true),
            ("/v1/{*}/items", "/v1//items", false),
            ("/v1/{*}/items", "/v1/a/b/items", false),
            ("/v1/{*}/items", "/v1/a/items/", false),
            ("/v1/{*}", "/v1/a", true),
            ("/v1/{*}", "/v1/", false),
            ("/v1/{*}", "/v1/a/b", false),
            ("/{*}/{*}/x", "/a/b/x", true),
            ("/foo/{**}", "/foo/", true),
            ("/foo/{**}", "/foo/a/b", true),
            ("/foo/{**}", "/foo", false),
            ("/foo/{*}/bar/{**}", "/foo/a/bar/b/c", true),
            ("/foo/{*}/bar/{**}", "/foo/a/b/bar/c", false),
            ("/foo/{**}.m3u8", "/foo/a/b.m3u8", true),
            ("/foo/{**}.m3u8", "/foo/a/b.ts", false),
            ("/{**}", "/", true),
            ("/plain", "/plain", true),
            ("/plain", "/plain2", false),
        ] {
            assert_eq!(PathTemplate::compile(template).unwrap().matches(path), expected, "{template} {path}");
        }
    }

    #[test]
    fn invalid_templates() {
        for template in
            ["", "a/{*}", "/a{*}", "/{*}b", "/{**}/{*}", "/{**}/{**}", "/{a}", "/a{**}", "/a/}", "/{*}{*}", "/{*", "/{***}"]
        {
            assert!(PathTemplate::compile(template).is_err(), "{template}");
        }
    }
}
