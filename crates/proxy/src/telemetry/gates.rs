//! What is counted of those who decide whether something may pass: authorization rules and limits on requests.

use super::count::Count;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Who decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Gate {
    /// Authorization of requests, of the connection manager with these statistics' prefix.
    HttpRbac(String),
    /// Authorization of connections.
    TcpRbac,
    /// Limits on requests, of this name.
    RateLimit(String),
}

/// How often it was decided what.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    /// It may pass.
    pub(crate) passed: Count,
    /// It may not.
    pub(crate) refused: Count,
}

impl Decisions {
    /// Counts one.
    pub(crate) fn count(&self, passes: bool) {
        if passes { self.passed.inc() } else { self.refused.inc() }
    }
}

/// The counters of all gates of a process. A gate keeps its own for as long as some configuration has it, whichever that is.
#[derive(Debug, Default)]
pub(crate) struct Gates(Mutex<BTreeMap<Gate, Arc<Decisions>>>);

impl Gates {
    /// The counters of a gate. Only configurations that are being made ask for them, no request does.
    pub(crate) fn decisions(&self, gate: Gate) -> Arc<Decisions> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&gate) {
            return found.clone();
        }
        known.retain(|_, decisions| Arc::strong_count(decisions) > 1);
        known.entry(gate).or_default().clone()
    }

    /// All counters, in order.
    pub(crate) fn numbers(&self) -> Vec<GateNumbers> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(gate, decisions)| GateNumbers::new(gate, decisions)).collect()
    }
}

/// The counters of a gate under Envoy's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GateNumbers {
    /// What stands in front of the names in text.
    pub(crate) prefix: String,
    /// The same for Prometheus, where the name of the gate is a label.
    pub(crate) family: &'static str,
    pub(crate) label: Option<(&'static str, String)>,
    pub(crate) numbers: Vec<(&'static str, u64)>,
}

impl GateNumbers {
    fn new(gate: &Gate, decisions: &Decisions) -> Self {
        let (passed, refused) = (decisions.passed.get(), decisions.refused.get());
        let rbac = || vec![("allowed", passed), ("denied", refused)];
        match gate {
            Gate::HttpRbac(name) => Self {
                prefix: format!("http.{name}.rbac"),
                family: "envoy_http_rbac",
                label: Some(("http_conn_manager_prefix", name.clone())),
                numbers: rbac(),
            },
            Gate::TcpRbac => Self { prefix: "tcp.rbac".to_owned(), family: "envoy_tcp_rbac", label: None, numbers: rbac() },
            Gate::RateLimit(name) => Self {
                prefix: format!("{name}.http_local_rate_limit"),
                family: "envoy_http_local_rate_limit",
                label: Some(("local_http_ratelimit_prefix", name.clone())),
                // Limits are always in force here.
                numbers: vec![("enabled", passed + refused), ("ok", passed), ("rate_limited", refused), ("enforced", refused)],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_kept_while_some_configuration_has_the_gate() {
        let gates = Gates::default();
        let first = gates.decisions(Gate::HttpRbac("inbound_0.0.0.0_80".to_owned()));
        for passes in [true, true, false] {
            first.count(passes);
        }
        let again = gates.decisions(Gate::HttpRbac("inbound_0.0.0.0_80".to_owned()));
        drop(first);
        let limit = gates.decisions(Gate::RateLimit("a.b".to_owned()));
        limit.count(false);
        let shown = |gates: &Gates| -> Vec<String> {
            let line = |gate: &GateNumbers| format!("{} {:?}", gate.prefix, gate.numbers);
            gates.numbers().iter().map(line).collect()
        };
        let limited = r#"a.b.http_local_rate_limit [("enabled", 1), ("ok", 0), ("rate_limited", 1), ("enforced", 1)]"#;
        assert_eq!(shown(&gates), [r#"http.inbound_0.0.0.0_80.rbac [("allowed", 2), ("denied", 1)]"#, limited]);
        drop(again);
        let _tcp = gates.decisions(Gate::TcpRbac);
        assert_eq!(shown(&gates), [r#"tcp.rbac [("allowed", 0), ("denied", 0)]"#, limited]);
    }
}
