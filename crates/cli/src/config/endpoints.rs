//! Endpoints.

use serde_json::Value;

use super::field::{list, text};
use crate::table::Table;

/// A row for each address of each cluster.
pub(super) fn table(clusters: &[Value]) -> Table {
    let mut table = Table::new(&["ENDPOINT", "STATUS", "OUTLIER", "WORKLOAD", "CLUSTER"]);
    for cluster in clusters {
        for endpoint in list(cluster, "endpoints") {
            let cell = |name| text(endpoint, name).to_owned();
            let cluster = text(cluster, "name").to_owned();
            table.row([
                cell("address"),
                cell("health").to_uppercase(),
                cell("outlier").to_uppercase(),
                cell("workload"),
                cluster,
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::table;
    use serde_json::json;

    #[test]
    fn an_ejected_endpoint_is_seen() {
        let endpoint = json!({"address": "10.0.0.1:80", "health": "healthy", "outlier": "ejected", "workload": "shop/web"});
        let text = table(&[json!({"name": "outbound|80||web", "endpoints": [endpoint]}), json!({"name": "empty"})]).text();
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows, [["10.0.0.1:80", "HEALTHY", "EJECTED", "shop/web", "outbound|80||web"]]);
    }
}
