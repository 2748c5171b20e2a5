//! What a sidecar under an automatic scope has learnt.

use serde_json::Value;

use super::field::text;
use crate::table::Table;

/// A row for each name or address that was called, and what serves it.
pub(super) fn table(learnt: &[Value]) -> Table {
    let mut table = Table::new(&["ASKED FOR", "STATE", "SERVED BY"]);
    for entry in learnt {
        let hosts: Vec<&str> = entry["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let state = match (entry["known"].as_bool(), hosts.is_empty()) {
            (Some(true), false) => "held",
            (Some(true), true) => "nothing there",
            _ => "asked",
        };
        table.row([text(entry, "name").to_owned(), state.to_owned(), hosts.join(" ")]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::table;
    use serde_json::json;

    #[test]
    fn what_is_held_and_what_is_not_there() {
        let text = table(&[
            json!({"name": "host/a.b.svc.cluster.local", "known": true, "hosts": ["a.b.svc.cluster.local", "c.b.svc.cluster.local"]}),
            json!({"name": "ip/10.0.0.1", "known": true, "hosts": []}),
            json!({"name": "ip/10.0.0.2", "known": false, "hosts": []}),
        ])
        .text();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert!(lines[0].contains("held") && lines[0].ends_with("a.b.svc.cluster.local c.b.svc.cluster.local"), "{text}");
        assert!(lines[1].contains("nothing there") && lines[2].contains("asked"), "{text}");
    }
}
