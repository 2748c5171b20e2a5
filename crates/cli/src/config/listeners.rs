//! Listeners.

use serde_json::Value;

use super::field::{joined, list, text, variant};
use crate::table::Table;

/// A row for each filter chain of each listener, in the order in which they are given; the default chain last.
pub(super) fn table(listeners: &[Value]) -> Table {
    let mut table = Table::new(&["ADDRESS", "PORT", "MATCH", "DESTINATION"]);
    for listener in listeners {
        let (address, port) = text(listener, "address").rsplit_once(':').unwrap_or_default();
        let default = Some(&listener["default_filter_chain"]).filter(|c| c.is_object());
        for chain in list(listener, "filter_chains").iter().chain(default) {
            table.row([address.to_owned(), port.to_owned(), matched(chain), destination(&chain["terminal"])]);
        }
    }
    table
}

/// Which connections a chain serves.
fn matched(chain: &Value) -> String {
    let rules = &chain["matches"];
    let mut parts = Vec::new();
    if let Some(port) = rules["destination_port"].as_u64() {
        parts.push(format!("Port: {port}"));
    }
    let texts = [("Addr", "destination_prefixes"), ("SNI", "server_names"), ("Source", "source_prefixes")];
    for (label, name) in texts {
        let all = joined(rules, name);
        if !all.is_empty() {
            parts.push(format!("{label}: {all}"));
        }
    }
    let transport = text(rules, "transport_protocol");
    if !transport.is_empty() {
        parts.push(format!("Trans: {transport}"));
    }
    let protocols = joined(rules, "application_protocols");
    if !protocols.is_empty() {
        parts.push(format!("App: {protocols}"));
    }
    if parts.is_empty() { "ALL".to_owned() } else { parts.join("; ") }
}

/// Where a chain leads.
fn destination(terminal: &Value) -> String {
    match variant(terminal) {
        Some(("http", http)) => match variant(&http["routes"]) {
            Some(("rds", name)) => format!("Route: {}", name.as_str().unwrap_or_default()),
            Some((_, inline)) => format!("Inline Route: {}", text(inline, "name")),
            None => String::new(),
        },
        Some(("tcp", tcp)) => match variant(&tcp["destination"]) {
            Some(("cluster", name)) => format!("Cluster: {}", name.as_str().unwrap_or_default()),
            Some((_, weighted)) => {
                let branch = |b: &Value| format!("{} ({})", b[0].as_str().unwrap_or_default(), b[1]);
                format!("Clusters: {}", weighted.as_array().into_iter().flatten().map(branch).collect::<Vec<_>>().join(", "))
            }
            None => String::new(),
        },
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::table;
    use serde_json::json;

    #[test]
    fn a_chain_is_a_row() {
        let text = table(&[json!({
            "name": "0.0.0.0_80",
            "address": "0.0.0.0:80",
            "filter_chains": [
                {"matches": {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]},
                 "terminal": {"http": {"routes": {"rds": "80"}}}},
                {"matches": {"destination_port": 9, "destination_prefixes": ["10.0.0.1/32"]},
                 "terminal": {"tcp": {"destination": {"weighted": [["a", 1], ["b", 2]]}}}},
            ],
            "default_filter_chain": {"matches": {}, "terminal": {"tcp": {"destination": {"cluster": "PassthroughCluster"}}}},
        })])
        .text();
        for part in [
            "Trans: raw_buffer; App: http/1.1,h2c   Route: 80",
            "Port: 9; Addr: 10.0.0.1/32             Clusters: a (1), b (2)",
            "ALL                                    Cluster: PassthroughCluster",
        ] {
            assert!(text.contains(part), "{part}\nin\n{text}");
        }
    }
}
