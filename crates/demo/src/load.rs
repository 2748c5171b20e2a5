//! What `lateen echo get -o json` reports.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

/// How often each value was seen.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Requests and their answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Load {
    /// How many were sent.
    pub(crate) requests: u64,
    /// Answers by status.
    pub(crate) statuses: Counts,
    /// Answers by the pod that gave them.
    pub(crate) pods: Counts,
    /// Answers by the version of that pod.
    pub(crate) versions: Counts,
    /// Requests without an answer, by reason.
    pub(crate) errors: Counts,
    /// Quantiles.
    pub(crate) latency_ms: BTreeMap<String, f64>,
    /// The answer, if there was one request.
    pub(crate) response: Value,
}

impl Load {
    /// Answers with a status.
    pub(crate) fn status(&self, status: u16) -> u64 {
        self.statuses.get(&status.to_string()).copied().unwrap_or_default()
    }

    /// Answers from a version.
    pub(crate) fn version(&self, version: &str) -> u64 {
        self.versions.get(version).copied().unwrap_or_default()
    }

    /// Whether there were requests, and each was answered with 200.
    pub(crate) fn all_ok(&self) -> bool {
        self.requests > 0 && self.status(200) == self.requests
    }

    /// The longest time to an answer, in seconds.
    pub(crate) fn slowest(&self) -> f64 {
        self.latency_ms.get("max").copied().unwrap_or_default() / 1e3
    }

    /// The body of the only answer, as text.
    pub(crate) fn body(&self) -> &str {
        self.response["body"].as_str().unwrap_or_default()
    }
}

/// Statuses and errors: `198 × 200, 2 × 503`.
impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.errors.iter().map(|(reason, n)| format!("{n} without an answer ({reason})"));
        let all: Vec<String> = self.statuses.iter().map(|(status, n)| format!("{n} × {status}")).chain(errors).collect();
        f.write_str(&if all.is_empty() { "nothing was sent".to_owned() } else { all.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_no_success() {
        let text = r#"{"requests": 3, "statuses": {"200": 2}, "errors": {"closed": 1}, "latency_ms": {"max": 1500.0}}"#;
        let load: Load = serde_json::from_str(text).unwrap();
        assert!(!load.all_ok() && load.slowest() > 1.4);
        assert_eq!(load.to_string(), "2 × 200, 1 without an answer (closed)");
        assert!(!Load::default().all_ok());
    }
}
