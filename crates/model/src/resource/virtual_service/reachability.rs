//! Warnings about routes that no request reaches.

use std::collections::{HashMap, HashSet};

use super::{HttpMatchRequest, HttpRoute, StringMatch};
use crate::resource::Issues;

impl HttpMatchRequest {
    /// Whether every request meets the conditions: the path is matched by `/` or `.*` (or not at all), and nothing else is
    /// demanded. Routes after such a match are never reached.
    pub fn is_catch_all(&self) -> bool {
        let any_path = match &self.uri {
            None => true,
            Some(StringMatch::Prefix(prefix)) => prefix.is_empty() || prefix == "/",
            Some(StringMatch::Regex(pattern)) => pattern == ".*",
            Some(StringMatch::Present | StringMatch::Exact(_)) => false,
        };
        any_path
            && [&self.scheme, &self.method, &self.authority].into_iter().all(Option::is_none)
            && self.headers.is_empty()
            && self.without_headers.is_empty()
            && self.query_params.is_empty()
            && self.port.is_none()
            && self.source_labels.is_empty()
            && self.source_namespace.is_empty()
            && self.gateways.is_empty()
    }

    /// The conditions other than the path and what is only a name, as a text that is equal for equal conditions.
    fn other_conditions(&self) -> String {
        let mut other = self.clone();
        other.uri = None;
        other.name.clear();
        other.stat_prefix.clear();
        serde_json::to_string(&other).unwrap_or_default()
    }
}

/// What earlier matches of one set of other conditions take.
#[derive(Default)]
struct Taken<'a> {
    prefixes: HashSet<&'a str>,
    exact: HashSet<&'a str>,
    regex: HashSet<&'a str>,
    everything: bool,
}

impl<'a> Taken<'a> {
    fn covers(&self, uri: Option<&StringMatch>, ignore_case: bool) -> bool {
        let by_prefix = |text: &str| {
            let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.any(|end| self.prefixes.contains(&text[..end]))
        };
        self.everything
            || match uri {
                // A longer path in another case may escape a case-sensitive prefix; equal flags are part of the conditions.
                Some(StringMatch::Prefix(text)) if ignore_case => self.prefixes.contains(text.as_str()),
                Some(StringMatch::Exact(text)) if ignore_case => self.exact.contains(text.as_str()),
                Some(StringMatch::Prefix(text)) => by_prefix(text),
                Some(StringMatch::Exact(text)) => self.exact.contains(text.as_str()) || by_prefix(text),
                Some(StringMatch::Regex(text)) => self.regex.contains(text.as_str()),
                Some(StringMatch::Present) | None => false,
            }
    }

    fn add(&mut self, uri: Option<&'a StringMatch>) {
        match uri {
            None | Some(StringMatch::Present) => self.everything = true,
            Some(StringMatch::Prefix(text)) => self.prefixes.extend([text.as_str()]),
            Some(StringMatch::Exact(text)) => self.exact.extend([text.as_str()]),
            Some(StringMatch::Regex(text)) => self.regex.extend([text.as_str()]),
        }
    }
}

/// Warns at the list of routes that `issues` is at.
pub(super) fn check(routes: &[HttpRoute], issues: &mut Issues) {
    let mut taken: HashMap<String, Taken<'_>> = HashMap::new();
    let mut catch_all: Option<usize> = None;
    for (index, route) in routes.iter().enumerate() {
        issues.index(index, |issues| {
            if let Some(earlier) = catch_all {
                issues.warn(format!(
                    "is never reached: route {earlier} (counted from 0) matches everything; move that one to the end"
                ));
                return;
            }
            let covered = check_route(route, &mut taken, issues);
            if covered > 0 && covered == route.matches.len() {
                issues.warn("is never reached: earlier routes match all that this one does");
            }
        });
        let matches_all = route.matches.is_empty() || route.matches.iter().any(HttpMatchRequest::is_catch_all);
        if matches_all && catch_all.is_none() {
            catch_all = Some(index);
        }
    }
}

/// Warns about single matches that are covered, and answers how many are.
fn check_route<'a>(route: &'a HttpRoute, taken: &mut HashMap<String, Taken<'a>>, issues: &mut Issues) -> usize {
    let mut covered = 0;
    issues.field("match", |issues| {
        for (index, condition) in route.matches.iter().enumerate() {
            let earlier = taken.entry(condition.other_conditions()).or_default();
            if earlier.covers(condition.uri.as_ref(), condition.ignore_uri_case) {
                covered += 1;
                issues.index(index, |issues| {
                    issues.warn("never decides: an earlier match with the same other conditions covers it");
                });
            }
            earlier.add(condition.uri.as_ref());
        }
    });
    covered
}
