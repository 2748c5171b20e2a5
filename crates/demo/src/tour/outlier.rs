//! A pod that fails again and again rests for a while; never more than half of the pods do.

use std::time::Duration;

use serde_json::Value;

use crate::access_log::word;
use crate::mesh::{Mesh, Pod, until};
use crate::step::Step;

const URL: &str = "http://payment-service/v1/payments";
/// A status that is not tried again, so that the failures can be seen.
const FAIL: &str = r#"{"fail":500,"path":"/v1/"}"#;
/// `consecutive5xxErrors`.
const IN_A_ROW: u64 = 5;

pub(super) async fn show(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let payments = mesh.pods("payment-service", None).await?;
    let result = failing(mesh, step).await;
    mesh.behave(&payments).await?;
    result?;

    let orders = mesh.pods("order-service", None).await?;
    let order = orders.first().map(Pod::from).ok_or("no pod of order-service")?;
    let ejected = until(Duration::from_secs(20), || ejected(mesh, order), Vec::is_empty).await?;
    let load = mesh.get(order, &[URL, "-X", "POST", "-n", "50"]).await?;
    let observed = format!("{} ejected; {load}, from {} pods", ejected.len(), load.pods.len());
    step.expect(
        "when it behaves again, it comes back",
        observed,
        ejected.is_empty() && load.all_ok() && load.pods.len() == payments.len(),
    );
    Ok(())
}

async fn failing(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let payments = mesh.pods("payment-service", None).await?;
    let orders = mesh.pods("order-service", None).await?;
    let order = orders.first().map(Pod::from).ok_or("no pod of order-service")?;
    let bad = payments.first().ok_or("no pod of payment-service")?;
    mesh.misbehave(bad, FAIL).await?;
    let load = mesh.get(order, &[URL, "-X", "POST", "-n", "60"]).await?;
    let out = ejected(mesh, order).await?;
    let observed = format!("{load}; ejected: {}", if out.is_empty() { "none".to_owned() } else { out.join(", ") });
    let met = load.status(500) == IN_A_ROW && load.status(200) == load.requests - IN_A_ROW && out == [format!("{}:8080", bad.ip)];
    step.expect("a pod that answers 500 is ejected after five in a row, and the other serves all", observed, met);

    for pod in payments.iter().skip(1) {
        mesh.misbehave(pod, FAIL).await?;
    }
    mesh.get(order, &[URL, "-X", "POST", "-n", "60"]).await?;
    let out = ejected(mesh, order).await?;
    let observed = format!("{} of {} ejected", out.len(), payments.len());
    step.expect("when all fail, no more than half are ejected", observed, out.len() * 2 <= payments.len());
    Ok(())
}

/// The addresses of payment-service that a sidecar has ejected.
async fn ejected(mesh: &Mesh, pod: Pod<'_>) -> Result<Vec<String>, String> {
    let clusters = mesh.config(pod, "endpoints").await?;
    let payments = clusters.iter().filter(|c| word(c, "name").starts_with("outbound|80||payment-service."));
    let endpoints = payments.flat_map(|c| c["endpoints"].as_array().into_iter().flatten());
    let ejected = endpoints.filter(|e: &&Value| e["outlier"] == "ejected");
    Ok(ejected.map(|e| word(e, "address")).collect())
}
