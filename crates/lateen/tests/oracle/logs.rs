//! The sidecars' access logs: which entries belong to which request.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    /// By pod, then by the client's address.
    entries: BTreeMap<String, HashMap<String, Vec<Value>>>,
    /// With their pods, by request.
    requests: HashMap<String, Vec<(String, Value)>>,
}

/// The entries of one request.
#[derive(Default)]
pub(crate) struct Entries {
    client: Option<Value>,
    gateway: Option<Value>,
    servers: Vec<Value>,
}

impl Logs {
    pub(crate) fn new(logs: BTreeMap<String, Vec<Value>>) -> Self {
        let (mut entries, mut requests) = (BTreeMap::new(), HashMap::new());
        for (pod, log) in logs {
            let of_pod: &mut HashMap<String, Vec<Value>> = entries.entry(pod.clone()).or_default();
            for entry in log {
                if let Some(id) = entry["request_id"].as_str() {
                    let of_request: &mut Vec<_> = requests.entry(id.to_owned()).or_default();
                    of_request.push((pod.clone(), entry.clone()));
                }
                let address = entry["downstream_remote_address"].as_str().unwrap_or_default().to_owned();
                of_pod.entry(address).or_default().push(entry);
            }
        }
        Self { entries, requests }
    }

    /// The entries of the next request of a connection that `pod` opened from `local`.
    pub(crate) fn take(&mut self, pod: &str, exchange: &Exchange, pods: &[PodStatus]) -> Entries {
        if !self.entries.contains_key(pod) {
            let servers = self.entries.keys().cloned().collect::<Vec<_>>();
            let found = servers.iter().find_map(|server| Some((server, self.next(server, exchange)?)));
            return match found {
                None => Entries::default(),
                Some((server, entry)) if !is_gateway(server) => Entries { servers: vec![entry], ..Entries::default() },
                Some((server, entry)) => {
                    let servers = self.of(server, &entry, pods);
                    Entries { gateway: Some(entry), client: None, servers }
                }
            };
        }
        let client = self.next(pod, exchange);
        let mut servers = client.as_ref().map_or_else(Vec::new, |entry| self.of(pod, entry, pods));
        let gateway = servers.iter().position(|entry| entry["pod"].as_str().is_some_and(is_gateway)).map(|at| servers.remove(at));
        Entries { client, gateway, servers }
    }

    /// The entries of other pods for the request of this entry of `pod`.
    fn of(&self, pod: &str, entry: &Value, pods: &[PodStatus]) -> Vec<Value> {
        let id = entry["request_id"].as_str();
        let of_request = id.and_then(|id| self.requests.get(id)).into_iter().flatten();
        let of_servers = of_request.filter(|(name, _)| name != pod).map(|(name, entry)| {
            let mut entry = entry.clone();
            entry["pod"] = pods.iter().find(|p| p.name == *name).map_or(name.clone(), base_name).into();
            entry
        });
        let mut servers: Vec<Value> = of_servers.collect();
        servers.sort_by_key(|entry| entry["start_time"].to_string());
        servers
    }

    fn next(&mut self, pod: &str, exchange: &Exchange) -> Option<Value> {
        // A port may have been that of an earlier connection.
        let began = timestamp(exchange.began);
        let is_its = |e: &Value| e["start_time"].as_str().is_some_and(|t| *t >= *began);
        let entries = self.entries.get_mut(pod)?.get_mut(&exchange.local)?;
        let at = entries.iter().position(is_its)?;
        Some(entries.remove(at))
    }
}

/// Gateways of scenarios are called so.
fn is_gateway(pod: &str) -> bool {
    pod.starts_with("gateway")
}

impl Entries {
    /// What is compared of one request.
    pub(crate) fn detail(&self, echoed: bool) -> Value {
        let servers: Vec<&Value> = self.servers.iter().collect();
        let mut found = json!({});
        if let Some(client) = &self.client {
            found["client"] = entry(client, echoed);
        }
        if let Some(gateway) = &self.gateway {
            found["gateway"] = entry(gateway, echoed);
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

    /// What the servers' sidecars were asked, in no order of time.
    pub(crate) fn saw(&self) -> Vec<String> {
        let text = |e: &Value, key: &str| e[key].as_str().unwrap_or("-").to_owned();
        let url = |e: &Value| text(e, "authority") + &text(e, "path");
        let line = |e: &Value| format!("{} {} {} {}", text(e, "pod"), text(e, "method"), url(e), e["bytes_received"]);
        let mut lines: Vec<String> = self.servers.iter().map(line).collect();
        lines.sort();
        lines
    }

    /// From how many addresses servers were asked.
    pub(crate) fn connections(entries: &[Self]) -> usize {
        let from = entries.iter().flat_map(|e| &e.servers).filter_map(|e| e["downstream_remote_address"].as_str());
        from.collect::<BTreeSet<_>>().len()
    }

    /// How often servers of each deployment were asked.
    pub(crate) fn askings(entries: &[Self]) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        let pods = entries.iter().flat_map(|e| &e.servers).filter_map(|e| e["pod"].as_str());
        pods.for_each(|pod| *counts.entry(pod.to_owned()).or_default() += 1);
        counts
    }

    fn text(&self, key: &str) -> String {
        let entry = self.client.as_ref().or(self.gateway.as_ref()).or(self.servers.first());
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
