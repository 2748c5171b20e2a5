//! The sidecars' access logs: which entries belong to which request.

use std::collections::BTreeMap;

use lateen_testkit::lab::PodStatus;
use serde_json::{Value, json};

use crate::mesh::base_name;
use crate::op::Exchange;

/// What is compared of an entry.
const COMPARED: [&str; 12] = [
    "route_name",
    "method",
    "path",
    "protocol",
    "response_code",
    "response_flags",
    "response_code_details",
    "connection_termination_details",
    "x_forwarded_for",
    "authority",
    "upstream_cluster",
    "bytes_received",
];

/// The logs of all sidecars, read once.
pub(crate) struct Logs {
    /// By pod.
    entries: BTreeMap<String, Vec<Value>>,
}

/// The entries of one request.
#[derive(Default)]
pub(crate) struct Entries {
    client: Option<Value>,
    servers: Vec<Value>,
}

impl Logs {
    pub(crate) fn new(entries: BTreeMap<String, Vec<Value>>) -> Self {
        Self { entries }
    }

    /// The entries of the next request of a connection that `pod` opened from `local`.
    pub(crate) fn take(&mut self, pod: &str, exchange: &Exchange, pods: &[PodStatus]) -> Entries {
        if !self.entries.contains_key(pod) {
            let servers = self.entries.keys().cloned().collect::<Vec<_>>();
            let found = servers.iter().find_map(|server| self.next(server, exchange));
            return Entries { client: None, servers: found.into_iter().collect() };
        }
        let client = self.next(pod, exchange);
        let id = client.as_ref().and_then(|entry| entry["request_id"].as_str()).map(str::to_owned);
        let mut servers: Vec<Value> = Vec::new();
        for (name, entries) in self.entries.iter().filter(|(name, _)| *name != pod) {
            let Some(id) = &id else { break };
            let base = pods.iter().find(|p| p.name == *name).map_or(name.clone(), base_name);
            let own = entries.iter().filter(|entry| entry["request_id"] == id.as_str()).cloned();
            servers.extend(own.map(|mut entry| {
                entry["pod"] = base.clone().into();
                entry
            }));
        }
        servers.sort_by_key(|entry| entry["start_time"].to_string());
        Entries { client, servers }
    }

    fn next(&mut self, pod: &str, exchange: &Exchange) -> Option<Value> {
        // A port may have been that of an earlier connection.
        let began = timestamp(exchange.began);
        let is_its = |e: &Value| {
            e["downstream_remote_address"] == exchange.local && e["start_time"].as_str().is_some_and(|t| *t >= *began)
        };
        let entries = self.entries.get_mut(pod)?;
        let at = entries.iter().position(is_its)?;
        Some(entries.remove(at))
    }
}

impl Entries {
    /// What is compared of one request.
    pub(crate) fn detail(&self, echoed: bool) -> Value {
        let servers: Vec<&Value> = self.servers.iter().collect();
        let mut found = json!({});
        if let Some(client) = &self.client {
            found["client"] = entry(client, echoed);
        }
        if let [.., last] = servers.as_slice() {
            found["server"] = entry(last, echoed);
        }
        if servers.len() > 1 {
            let codes: Vec<String> = servers.iter().map(|e| e["response_code"].to_string()).collect();
            found["servers"] = json!(codes.join(" "));
        }
        found
    }

    fn text(&self, key: &str) -> String {
        let entry = self.client.as_ref().or(self.servers.first());
        entry.map_or("no entry".to_owned(), |e| e[key].as_str().map_or_else(|| e[key].to_string(), str::to_owned))
    }
}

fn entry(entry: &Value, echoed: bool) -> Value {
    let mut found = json!({});
    for key in COMPARED {
        found[key] = entry[key].clone();
    }
    // An answer that says who gave it has no fixed length.
    if !echoed {
        found["bytes_sent"] = entry["bytes_sent"].clone();
    }
    for key in ["upstream_transport_failure_reason", "requested_server_name"] {
        found[key] = if entry[key].is_null() { Value::Null } else { json!("some") };
    }
    found
}

/// The time of an entry: `2026-01-31T23:59:59.999Z`.
fn timestamp(millis: u64) -> String {
    let (days, rest) = (millis / 86_400_000, millis % 86_400_000);
    // Civil from days, in eras of 400 years that begin on the first of March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hours, minutes, seconds) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", rest % 1000)
}

/// What is compared of several requests: how often which flags, details and routes are there.
pub(crate) fn tally(entries: &[Entries]) -> Value {
    let count = |key: &str| {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        entries.iter().for_each(|e| *counts.entry(e.text(key)).or_default() += 1);
        json!(counts)
    };
    json!({"flags": count("response_flags"), "details": count("response_code_details"), "routes": count("route_name")})
}
