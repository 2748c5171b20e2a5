//! Secrets.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::field::text;
use crate::table::Table;

/// A row for each secret.
pub(super) fn table(secrets: &[Value]) -> Table {
    let mut table = Table::new(&["NAME", "TYPE", "IDENTITY", "VALID", "NOT AFTER"]);
    for secret in secrets {
        let kind = match (text(secret, "type"), secret["roots"].as_u64()) {
            ("roots", Some(count)) => format!("roots ({count})"),
            (kind, _) => kind.to_owned(),
        };
        let valid = secret["valid"].as_bool().map(|v| if v { "yes" } else { "NO" }).unwrap_or_default().to_owned();
        let end = secret["not_after"].as_u64().and_then(|s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s)));
        let end = end.map(httpdate::fmt_http_date).unwrap_or_default();
        table.row([text(secret, "name").to_owned(), kind, text(secret, "identity").to_owned(), valid, end]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::table;
    use serde_json::json;

    #[test]
    fn a_certificate_that_has_run_out_is_seen() {
        let text = table(&[
            json!({"name": "default", "type": "certificate", "identity": "spiffe://td/ns/a/sa/b", "valid": false, "not_after": 0}),
            json!({"name": "ROOTCA", "type": "roots", "roots": 2}),
        ])
        .text();
        let mut lines = text.lines().skip(1);
        let first = lines.next().unwrap();
        assert!(first.contains("NO") && first.contains("Thu, 01 Jan 1970 00:00:00 GMT"), "{first}");
        assert!(lines.next().unwrap().starts_with("ROOTCA    roots (2)"));
    }
}
