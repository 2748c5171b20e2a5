//! Clusters.

use serde_json::Value;

use super::field::{source, text, variant};
use crate::table::Table;

/// A row for each cluster.
pub(super) fn table(clusters: &[Value]) -> Table {
    let mut table = Table::new(&["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"]);
    for cluster in clusters {
        let (direction, port, subset, host) = parse(text(cluster, "name"));
        let kind = match variant(&cluster["discovery"]) {
            Some(("dns", dns)) => format!("{}_DNS", text(dns, "kind").to_uppercase()),
            Some((kind, _)) => kind.to_uppercase(),
            None => String::new(),
        };
        let rule = source(text(&cluster["metadata"], "config_source"));
        // An inbound cluster has no host in its name; its service is known from the metadata.
        let service = if host.is_empty() { text(&cluster["metadata"]["services"][0], "host") } else { host };
        table.row([service.to_owned(), port.to_owned(), subset.to_owned(), direction.to_owned(), kind, rule]);
    }
    table
}

/// Direction, port, subset and host of Istio's cluster names, `DIRECTION|PORT|SUBSET|HOST`; any other name is its own host.
fn parse(name: &str) -> (&str, &str, &str, &str) {
    let mut parts = name.splitn(4, '|');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(direction), Some(port), Some(subset), Some(host)) => (direction, port, subset, host),
        _ => ("", "", "", name),
    }
}

#[cfg(test)]
mod tests {
    use super::table;
    use serde_json::json;

    #[test]
    fn names_are_taken_apart() {
        let text = table(&[
            json!({"name": "BlackHoleCluster", "discovery": {"static": {}}, "metadata": {}}),
            json!({"name": "inbound|8080||", "discovery": {"original_dst": {}}, "metadata": {"services": [{"host": "web.shop.svc"}]}}),
            json!({"name": "outbound|80||api.example.com", "discovery": {"dns": {"kind": "strict"}}, "metadata": {}}),
            json!({"name": "outbound|80|v1|web.shop.svc", "discovery": {"eds": {}},
                "metadata": {"config_source": "/apis/networking.istio.io/v1/namespaces/shop/destination-rule/web"}}),
        ])
        .text();
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["BlackHoleCluster", "-", "-", "-", "STATIC", "-"]);
        assert_eq!(rows[1], ["web.shop.svc", "8080", "-", "inbound", "ORIGINAL_DST", "-"]);
        assert_eq!(rows[2], ["api.example.com", "80", "-", "outbound", "STRICT_DNS", "-"]);
        assert_eq!(rows[3], ["web.shop.svc", "80", "v1", "outbound", "EDS", "web.shop"]);
    }
}
