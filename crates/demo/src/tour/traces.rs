//! frontend → order-service → payment-service is one trace, because order-service passes the headers on.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::access_log::word;
use crate::mesh::{COLLECTOR, FRONTEND, Mesh, until};
use crate::step::Step;

/// The span that the caller claims to be in, so that the trace can be told from all others.
const CALLER_SPAN: &str = "00f067aa0ba902b7";
/// Client and server of each of the two hops.
const SPANS: usize = 4;

pub(super) async fn show(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let nanoseconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|e| e.to_string())?.as_nanos();
    let id = format!("{nanoseconds:032x}");
    let parent = format!("traceparent:00-{id}-{CALLER_SPAN}-01");
    let url = "http://order-service/call?method=POST&url=http://payment-service/v1/payments";
    let load = mesh.get(FRONTEND, &[url, "-H", &parent]).await?;
    let inner = &load.response["body"]["status"];
    let observed = format!("{load} from order-service, {inner} from payment-service");
    step.expect("frontend calls order-service, which calls payment-service", observed, load.all_ok() && *inner == 200);

    let spans = until(Duration::from_secs(10), || collected(mesh, &id), |spans| spans.len() >= SPANS).await?;
    let hops: Vec<String> = spans.iter().map(|s| format!("{} {}", word(s, "service"), word(s, "kind"))).collect();
    let expected = format!("the collector has one trace of {SPANS} spans: client and server of both hops");
    step.expect(&expected, format!("{} spans: {}", spans.len(), hops.join(", ")), spans.len() == SPANS);
    let (met, observed) = chain(&spans);
    step.expect("each span is the child of the one before, the first of the caller's", observed, met);
    Ok(())
}

async fn collected(mesh: &Mesh, id: &str) -> Result<Vec<Value>, String> {
    let load = mesh.get(COLLECTOR, &[&format!("http://127.0.0.1:8080/traces/{id}")]).await?;
    Ok(load.response["body"]["spans"].as_array().cloned().unwrap_or_default())
}

/// Follows the parents from the caller's span on, and says how far that leads.
fn chain(spans: &[Value]) -> (bool, String) {
    let mut seen = BTreeSet::new();
    let mut at = CALLER_SPAN.to_owned();
    while let Some(child) = spans.iter().find(|s| s["parent_span_id"] == at.as_str()) {
        at = word(child, "span_id");
        if !seen.insert(at.clone()) {
            break;
        }
    }
    (seen.len() == spans.len() && !spans.is_empty(), format!("a chain of {} of {} spans", seen.len(), spans.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_broken_chain_is_seen() {
        let span = |id: &str, parent: &str| json!({"span_id": id, "parent_span_id": parent});
        assert!(chain(&[span("b", "a"), span("a", CALLER_SPAN)]).0);
        assert!(!chain(&[span("b", "x"), span("a", CALLER_SPAN)]).0);
        assert!(!chain(&[span("b", "a"), span("a", "b")]).0);
        assert!(!chain(&[]).0);
    }
}
