//! Between pods there is TLS 1.3 only, and each side knows who the other is.

use std::time::Duration;

use serde_json::Value;

use crate::access_log::{entries, word};
use crate::load::Load;
use crate::mesh::{BATCH, FRONTEND, Mesh, Pod, until};
use crate::step::Step;

/// A path that only this step asks for.
const WITNESS: &str = "/tour/identity";
const REQUESTS: usize = 50;
const CALLER: &str = "spiffe://cluster.local/ns/production/sa/frontend-sa";
const CALLED: &str = "spiffe://cluster.local/ns/production/sa/order-service-sa";

pub(super) async fn show(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let url = format!("http://order-service{WITNESS}");
    let load = mesh.get(FRONTEND, &[&url, "-n", &REQUESTS.to_string()]).await?;
    if !load.all_ok() {
        return Err(format!("frontend → order-service: {load}"));
    }
    for (app, side, peer) in [("frontend", "upstream", CALLED), ("order-service", "downstream", CALLER)] {
        let log = until(Duration::from_secs(5), || logged(mesh, app), |log| log.len() >= REQUESTS).await?;
        let good = log.iter().filter(|entry| is_mutual(entry, side, peer)).count();
        let (tls, seen) =
            log.first().map(|e| (word(e, &format!("{side}_tls")), word(e, &format!("{side}_peer")))).unwrap_or_default();
        let expected = format!("the sidecar of {app} has TLS 1.3 with {peer}, for every request");
        let observed = format!("{good} of {} logged requests; the first: {tls} with {seen}", log.len());
        step.expect(&expected, observed, good == REQUESTS && log.len() == REQUESTS);
    }
    certificate(mesh, step).await?;

    let order = mesh.pods("order-service", None).await?;
    let direct = order.first().map(|p| format!("http://{}:8080/", p.ip)).unwrap_or_default();
    let services = [direct.as_str(), "http://order-service.production/", "http://payment-service.production/v1/payments"];
    for url in services {
        let load = mesh.get(BATCH, &[url, "-n", "10"]).await?;
        step.expect(&format!("plain text from batch to {url} does not get through"), &load, unanswered(&load));
    }
    let load = mesh.get(FRONTEND, &["http://batch.legacy/", "-n", "10"]).await?;
    step.expect("frontend still reaches batch, which has no sidecar", &load, load.all_ok());
    Ok(())
}

/// The log entries of all pods of an app for [`WITNESS`].
async fn logged(mesh: &Mesh, app: &str) -> Result<Vec<Value>, String> {
    let pods = mesh.pods(app, None).await?;
    Ok(pods.iter().flat_map(|p| entries(mesh.logs(), &p.namespace, &p.name, WITNESS)).collect())
}

fn is_mutual(entry: &Value, side: &str, peer: &str) -> bool {
    let field = |name: &str| word(entry, &format!("{side}_{name}"));
    field("tls") == "TLSv1.3" && field("peer") == peer
}

fn unanswered(load: &Load) -> bool {
    load.statuses.is_empty() && load.errors.values().sum::<u64>() == load.requests
}

async fn certificate(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let pods = mesh.pods("order-service", None).await?;
    for pod in pods.iter().take(1) {
        let secrets = mesh.config(Pod::from(pod), "secrets").await?;
        let own = secrets.iter().find(|s| s["name"] == "default").ok_or("the sidecar has no certificate")?;
        let met = own["identity"] == CALLED && own["valid"] == true && !own.to_string().contains("PRIVATE KEY");
        let observed = format!("{}, valid: {}", word(own, "identity"), word(own, "valid"));
        step.expect("the certificate names the service account, and its key is not shown", observed, met);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_text_or_another_peer_is_not_mutual() {
        let entry = |tls: &str, peer: &str| json!({"upstream_tls": tls, "upstream_peer": peer});
        assert!(is_mutual(&entry("TLSv1.3", "b"), "upstream", "b"));
        assert!(!is_mutual(&entry("TLSv1.2", "b"), "upstream", "b"));
        assert!(!is_mutual(&entry("TLSv1.3", "c"), "upstream", "b"));
        assert!(!is_mutual(&entry("-", "b"), "upstream", "b"));
        assert!(!is_mutual(&entry("TLSv1.3", "b"), "downstream", "b"));
    }
}
