//! Endpoints (EDS).

use super::destination::MergedRule;
use super::mtls::{Mode, WorkloadModes};
use crate::names::OutboundName;
use crate::world::{ServicePod, World};
use lateen_model::dataplane::{ClusterLoadAssignment, Endpoint, EndpointHealth, Locality, LocalityEndpoints, TlsMode};
use lateen_model::resource::{ClientTlsMode, is_subset};
use std::net::SocketAddr;

/// The endpoints of an outbound cluster. A cluster that nobody knows has none: whoever waits for it must be answered.
pub fn of_cluster(world: &World, rule: &MergedRule, name: &str) -> ClusterLoadAssignment {
    let endpoints = OutboundName::parse(name).map(|parsed| endpoints(world, rule, &parsed)).unwrap_or_default();
    let group = LocalityEndpoints { locality: Locality::default(), priority: 0, weight: None, endpoints };
    let localities = if group.endpoints.is_empty() { Vec::new() } else { vec![group] };
    ClusterLoadAssignment { cluster_name: name.to_owned(), localities }
}

fn endpoints(world: &World, rule: &MergedRule, name: &OutboundName<'_>) -> Vec<Endpoint> {
    let Some(service) = world.service(name.host) else { return Vec::new() };
    let Some(index) = service.ports.iter().position(|p| p.number == name.port) else { return Vec::new() };
    let Some(labels) = rule.subset_labels(name.subset) else { return Vec::new() };
    let Some(pods) = world.endpoints(name.host) else { return Vec::new() };
    let written = rule.policy(name.port, name.subset).tls_mode();
    let in_subset = |pod: &&ServicePod| is_subset(&labels, &pod.workload.record.labels);
    let endpoint = |pod: &ServicePod| {
        let port = pod.ports.get(index).copied().flatten()?;
        Some(Endpoint {
            address: SocketAddr::new(pod.ip, port),
            health: EndpointHealth::Healthy,
            weight: 1,
            tls_mode: tls_mode(world, pod, port, written),
            workload: Some(pod.workload.telemetry(world.cluster_id())),
        })
    };
    pods.ready.iter().filter(in_subset).filter_map(endpoint).collect()
}

/// A written mode decides alone; else an endpoint is spoken to in mutual TLS if it has a sidecar and its own policy for the
/// port does not forbid it.
fn tls_mode(world: &World, pod: &ServicePod, port: u16, written: Option<ClientTlsMode>) -> TlsMode {
    let record = &pod.workload.record;
    let mutual = match written {
        Some(mode) => mode == ClientTlsMode::IstioMutual,
        None => {
            let modes = WorkloadModes::of(world, &record.namespace, &record.labels);
            pod.workload.speaks_mtls() && modes.port(port) != Mode::Disable
        }
    };
    if mutual { TlsMode::Istio } else { TlsMode::Disabled }
}
