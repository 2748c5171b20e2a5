//! Predicates on request headers and query parameters (`envoy.config.route.v3.HeaderMatcher`, `QueryParameterMatcher`).
//!
//! **Repeated headers.** A name may stand several times in a request. Envoy once compared only the values joined by `,`, so that
//! `x-role: user` + `x-role: admin` slipped past "deny if x-role is admin" (CVE-2026-26308); since 1.39 it compares each value.
//! Here a predicate holds if *any single value or the joined value* satisfies it, except where that would give access too easily:
//! see [`Purpose`]. For a header that stands once nothing of this matters.

use crate::request::{RequestView, text};
use lateen_model::dataplane::{HeaderMatch, HeaderPredicate, QueryMatch, QueryPredicate, StringMatch};
use smallvec::SmallVec;

/// What follows from a predicate being true. It decides how several values of one header are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A route is taken: any single value or the joined value; inverted, none of them.
    Route,
    /// Something is refused: any single value or the joined value; inverted, unless the joined value satisfies the inner predicate.
    Refuse,
    /// Something is granted: only the joined value; inverted, none of the values and not the joined one.
    Grant,
}

impl Purpose {
    /// Whether a single value is enough for the inner predicate.
    fn single_values_count(self, invert: bool) -> bool {
        match self {
            Self::Route => true,
            Self::Refuse => !invert,
            Self::Grant => invert,
        }
    }
}

/// Where a predicate's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Method,
    Authority,
    Scheme,
    Path,
    Header(Box<str>),
}

impl Source {
    fn new(name: &str) -> Self {
        match name {
            ":method" => Self::Method,
            // `host` is `:authority`, as for Envoy, whichever HTTP version carried it.
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            ":path" => Self::Path,
            _ => Self::Header(name.to_ascii_lowercase().into()),
        }
    }
}

/// A compiled predicate on one header.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    source: Source,
    predicate: HeaderPredicate,
    invert: bool,
    missing_is_empty: bool,
}

impl HeaderMatcher {
    /// Resolves the header's name once.
    pub fn new(model: &HeaderMatch) -> Self {
        Self {
            source: Source::new(&model.name),
            predicate: model.predicate.clone(),
            invert: model.invert,
            missing_is_empty: model.missing_is_empty,
        }
    }

    /// Whether the request satisfies the predicate, with Envoy's rules for a missing header: a presence test is answered by its
    /// absence; a value test of a missing header is false, *also when inverted*, unless `treat_missing_header_as_empty` gives it
    /// the empty value.
    pub fn matches<R: RequestView>(&self, request: &R, purpose: Purpose) -> bool {
        let wanted = match &self.predicate {
            HeaderPredicate::Present(wanted) => return (self.is_present(request) == *wanted) != self.invert,
            HeaderPredicate::Value(wanted) => wanted,
        };
        let single = purpose.single_values_count(self.invert);
        match self.value_matches(request, wanted, single) {
            Some(matched) => matched != self.invert,
            None if self.missing_is_empty => wanted.matches("") != self.invert,
            None => false,
        }
    }

    fn is_present<R: RequestView>(&self, request: &R) -> bool {
        match &self.source {
            Source::Header(name) => request.header(name).next().is_some(),
            _ => self.pseudo(request).is_some(),
        }
    }

    /// `None` if the header is missing.
    fn value_matches<R: RequestView>(&self, request: &R, wanted: &StringMatch, single: bool) -> Option<bool> {
        match &self.source {
            Source::Header(name) => header_matches(request, name, wanted, single),
            _ => self.pseudo(request).map(|value| wanted.matches(value)),
        }
    }

    fn pseudo<'a, R: RequestView>(&self, request: &'a R) -> Option<&'a str> {
        let value = match &self.source {
            Source::Method => request.method(),
            Source::Authority => request.authority(),
            Source::Scheme => request.scheme(),
            Source::Path => request.path_and_query(),
            Source::Header(_) => "",
        };
        (!value.is_empty()).then_some(value)
    }
}

fn header_matches<R: RequestView>(request: &R, name: &str, wanted: &StringMatch, single: bool) -> Option<bool> {
    let mut values = request.header(name);
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(wanted.matches(&text(first)));
    };
    let all: SmallVec<[&[u8]; 8]> = [first, second].into_iter().chain(values).collect();
    if single && all.iter().any(|value| wanted.matches(&text(value))) {
        return Some(true);
    }
    Some(wanted.matches(&text(&all.join(&b','))))
}

/// A compiled predicate on one query parameter.
///
/// Envoy's rules: parameters are separated by `&`, a parameter without `=` has the empty value, the *first* of several with the
/// same name counts, and nothing is percent-decoded: neither the name nor the value.
#[derive(Clone, Debug)]
pub struct QueryMatcher(QueryMatch);

impl QueryMatcher {
    /// Compiles the predicate.
    pub fn new(model: &QueryMatch) -> Self {
        Self(model.clone())
    }

    /// Whether `query` (without `?`) satisfies the predicate; a value test of a missing parameter is false.
    pub fn matches(&self, query: Option<&str>) -> bool {
        let value = query.and_then(|q| first_parameter(q, &self.0.name));
        match &self.0.predicate {
            QueryPredicate::Present(wanted) => value.is_some() == *wanted,
            QueryPredicate::Value(wanted) => value.is_some_and(|v| wanted.matches(v)),
        }
    }
}

fn first_parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (key == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::Request;
    use lateen_model::dataplane::{SafeRegex, StringPredicate};

    fn value(name: &str, wanted: StringMatch, invert: bool, missing_is_empty: bool) -> HeaderMatcher {
        let predicate = HeaderPredicate::Value(wanted);
        HeaderMatcher::new(&HeaderMatch { name: name.into(), predicate, invert, missing_is_empty })
    }

    fn present(name: &str, wanted: bool, invert: bool) -> HeaderMatcher {
        let predicate = HeaderPredicate::Present(wanted);
        HeaderMatcher::new(&HeaderMatch { name: name.into(), predicate, invert, missing_is_empty: false })
    }

    #[test]
    fn missing_headers() {
        let r = Request::get("a", "/");
        let is_x = || StringMatch::exact("x");
        for (matcher, expected) in [
            (value("h", is_x(), false, false), false),
            (value("h", is_x(), true, false), false),
            (value("h", is_x(), true, true), true),
            (value("h", StringMatch::exact(""), false, true), true),
            (present("h", true, false), false),
            (present("h", false, false), true),
            (present("h", true, true), true),
        ] {
            assert_eq!(matcher.matches(&r, Purpose::Route), expected, "{matcher:?}");
        }
    }

    #[test]
    fn pseudo_headers_and_host() {
        let r = Request::get("Shop.example", "/p?q=1");
        for (name, text, expected) in [
            (":method", "GET", true),
            (":method", "get", false),
            (":scheme", "http", true),
            (":authority", "Shop.example", true),
            ("host", "Shop.example", true),
            (":path", "/p?q=1", true),
            (":path", "/p", false),
        ] {
            assert_eq!(
                value(name, StringMatch::exact(text), false, false).matches(&r, Purpose::Grant),
                expected,
                "{name} {text}"
            );
        }
    }

    #[test]
    fn repeated_headers() {
        let r = Request::get("a", "/").with("x-role", "user").with("x-role", "admin");
        let is = |text| value("x-role", StringMatch::exact(text), false, false);
        let is_not = |text| value("x-role", StringMatch::exact(text), true, false);
        for (matcher, route, refuse, grant) in [
            (is("admin"), true, true, false),
            (is("user,admin"), true, true, true),
            (is("root"), false, false, false),
            (is_not("admin"), false, true, false),
            (is_not("user,admin"), false, false, false),
            (is_not("root"), true, true, true),
        ] {
            let answers = [Purpose::Route, Purpose::Refuse, Purpose::Grant].map(|p| matcher.matches(&r, p));
            assert_eq!(answers, [route, refuse, grant], "{matcher:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_hide_nothing() {
        let mut r = Request::get("a", "/");
        r.headers.push(("x".into(), b"evil\xff".to_vec()));
        let regex = StringMatch::regex(SafeRegex::try_new("evil.*").unwrap());
        assert!(value("x", regex, false, false).matches(&r, Purpose::Route));
        assert!(value("x", StringMatch::prefix("evil"), false, false).matches(&r, Purpose::Grant));
    }

    #[test]
    fn query_parameters() {
        let m = |predicate| QueryMatcher::new(&QueryMatch { name: "a".into(), predicate });
        let is = |t: &str| m(QueryPredicate::Value(StringMatch::exact(t)));
        for (matcher, query, expected) in [
            (is("1"), Some("a=1"), true),
            (is("1"), Some("b=2&a=1"), true),
            (is("1"), Some("a=2&a=1"), false),
            (is(""), Some("a"), true),
            (is(""), Some("a="), true),
            (is("x y"), Some("a=x%20y"), false),
            (is("x%20y"), Some("a=x%20y"), true),
            (is("b=c"), Some("a=b=c"), true),
            (is("1"), None, false),
            (m(QueryPredicate::Present(true)), Some("a"), true),
            (m(QueryPredicate::Present(true)), Some("aa=1"), false),
            (m(QueryPredicate::Present(false)), Some("aa=1"), true),
            (m(QueryPredicate::Present(false)), None, true),
        ] {
            assert_eq!(matcher.matches(query), expected, "{matcher:?} {query:?}");
        }
        let contains = StringMatch { predicate: StringPredicate::Contains("X".into()), ignore_case: true };
        assert!(m(QueryPredicate::Value(contains)).matches(Some("a=yxz")));
    }
}
