//! A Sidecar resource narrows what a sidecar is told.

use std::collections::BTreeSet;

use crate::access_log::word;
use crate::mesh::{FRONTEND, Mesh, Pod};
use crate::step::Step;

pub(super) async fn show(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let pods = mesh.pods("order-service", None).await?;
    let order = pods.first().map(Pod::from).ok_or("no pod of order-service")?;
    let hosts = known(mesh, order).await?;
    let payment = "payment-service.production.svc.cluster.local";
    let met = hosts.contains(payment) && hosts.iter().all(|h| h == payment || h.ends_with(".istio-system.svc.cluster.local"));
    step.expect("order-service's sidecar knows payment-service and istio-system only", list(&hosts), met);

    let all = known(mesh, FRONTEND).await?;
    let others = ["order-service.production", "payment-service.production", "batch.legacy", "collector.istio-system"];
    let met = others.iter().all(|name| all.contains(&format!("{name}.svc.cluster.local")));
    step.expect("frontend's sidecar, which has no scope, knows all", list(&all), met);
    Ok(())
}

/// The hosts of the outbound clusters.
async fn known(mesh: &Mesh, pod: Pod<'_>) -> Result<BTreeSet<String>, String> {
    let clusters = mesh.config(pod, "clusters").await?;
    let host = |name: String| Some(name.strip_prefix("outbound|")?.rsplit_once('|')?.1.to_owned());
    Ok(clusters.iter().filter_map(|c| host(word(c, "name"))).collect())
}

fn list(hosts: &BTreeSet<String>) -> String {
    let short = hosts.iter().map(|h| h.trim_end_matches(".svc.cluster.local"));
    format!("{} services: {}", hosts.len(), short.collect::<Vec<_>>().join(", "))
}
