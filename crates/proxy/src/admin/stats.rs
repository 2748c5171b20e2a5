//! Counters by Envoy's names, as text or JSON (`/stats`).

use super::pages::{numbers, process_numbers, used_clusters};
use super::server::Answer;
use crate::control_plane::ads::Subscription;
use crate::shared::Shared;
use http::StatusCode;
use regex::Regex;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What is asked for.
#[derive(Debug, Default)]
struct Query {
    filter: Option<Regex>,
    used_only: bool,
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Format {
    #[default]
    Text,
    Json,
    Prometheus,
}

impl Query {
    fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*key, &*value) {
                ("filter", expression) => {
                    let found = Regex::new(expression).map_err(|e| format!("filter is no regular expression: {e}\n"))?;
                    parsed.filter = Some(found);
                }
                ("usedonly", _) => parsed.used_only = true,
                ("format", "text") => parsed.format = Format::Text,
                ("format", "json") => parsed.format = Format::Json,
                ("format", "prometheus") => parsed.format = Format::Prometheus,
                ("format", other) => return Err(format!("format={other}: text, json and prometheus are there\n")),
                (other, _) => return Err(format!("{other}: filter, usedonly and format are known\n")),
            }
        }
        Ok(parsed)
    }

    fn wants(&self, name: &str, number: u64) -> bool {
        (number > 0 || !self.used_only) && self.filter.as_ref().is_none_or(|filter| filter.is_match(name))
    }
}

/// Answers for what is behind `?`.
pub(super) fn page(shared: &Shared, subscription: &Subscription, query: &str) -> Answer {
    let query = match Query::parse(query) {
        Ok(query) => query,
        Err(complaint) => return Answer::text(StatusCode::BAD_REQUEST, complaint),
    };
    if query.format == Format::Prometheus {
        return super::prometheus(shared, subscription);
    }
    let mut all = all(shared);
    all.retain(|(name, number)| query.wants(name, *number));
    if query.format == Format::Json {
        let stats: Vec<Value> = all.iter().map(|(name, number)| json!({"name": name, "value": number})).collect();
        return Answer::json(&json!({"stats": stats}));
    }
    let mut text = String::new();
    for (name, number) in all {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {number}");
    }
    Answer::text(StatusCode::OK, text)
}

fn all(shared: &Shared) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for cluster in used_clusters(shared) {
        // As Envoy writes names in which a colon is.
        let prefix = format!("cluster.{}", cluster.name.replace(':', "_"));
        all.extend(numbers(&cluster).map(|(name, number)| (format!("{prefix}.{name}"), number)));
        let classes = (1..=5).map(|class| (format!("{prefix}.upstream_rq_{class}xx"), cluster.stats.answers.of_class(class)));
        all.extend(classes.filter(|(_, number)| *number > 0));
        all.extend(cluster.stats.answers.all().map(|(status, count)| (format!("{prefix}.upstream_rq_{status}"), count)));
    }
    for gate in shared.telemetry.gates().numbers() {
        all.extend(gate.numbers.into_iter().map(|(name, number)| (format!("{}.{name}", gate.prefix), number)));
    }
    all.extend(process_numbers(shared).map(|(name, number)| (name.to_owned(), number)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let wants = |query: &str, name: &str, number| Query::parse(query).map(|q| q.wants(name, number));
        for (query, name, number, wanted) in [
            ("", "a.b", 0, Ok(true)),
            ("usedonly", "a.b", 0, Ok(false)),
            ("usedonly&filter=b", "a.b", 1, Ok(true)),
            ("filter=%5Ea%5C.b%24", "a.b", 0, Ok(true)),
            ("filter=%5Eb", "a.b", 0, Ok(false)),
            ("format=xml", "a", 0, Err("format=xml: text, json and prometheus are there\n".to_owned())),
            ("all", "a", 0, Err("all: filter, usedonly and format are known\n".to_owned())),
        ] {
            assert_eq!(wants(query, name, number), wanted, "{query}");
        }
        assert!(wants("filter=(", "a", 0).is_err_and(|e| e.starts_with("filter is no regular expression")));
    }
}
