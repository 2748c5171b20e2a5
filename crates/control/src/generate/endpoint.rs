//! Endpoints (EDS).

use super::destination::MergedRule;
use super::locality::{Group, Placed, Preference};
use super::mtls::{Mode, WorkloadModes};
use super::proxy::Proxy;
use crate::names::OutboundName;
use crate::world::{Service, ServicePod, World};
use lateen_model::dataplane::{
    ClusterLoadAssignment, Endpoint, EndpointHealth, LOCAL_CLUSTER, Locality, LocalityEndpoints, TlsMode, WorkloadRef,
};
use lateen_model::resource::{ClientTlsMode, is_subset};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The endpoints of an outbound cluster. A cluster that nobody knows has none: whoever waits for it must be answered.
pub fn of_cluster(
    world: &World,
    (proxy, rule): (&Proxy, &MergedRule),
    service: Option<&Service>,
    name: &str,
) -> ClusterLoadAssignment {
    let parsed = OutboundName::parse(name).zip(service);
    let groups = parsed.map(|(parsed, service)| {
        let preference = preference(world, service, rule, &parsed);
        preference.arrange(&preference.client(proxy), endpoints(world, service, rule, &parsed))
    });
    let group = |g: Group<Endpoint>| LocalityEndpoints {
        locality: g.locality,
        priority: g.priority,
        weight: g.weight,
        endpoints: g.endpoints,
    };
    let localities = groups.into_iter().flatten().map(group).collect();
    ClusterLoadAssignment { cluster_name: name.to_owned(), localities }
}

/// The proxies with which one shares its load, by where they are; none, if it does not want to know.
pub fn local_cluster(world: &World, proxy: &Proxy) -> ClusterLoadAssignment {
    let members = proxy.fleet.iter().zip(world.namespace(&proxy.namespace)).flat_map(|(fleet, namespace)| {
        let all = namespace.workloads.values().chain(namespace.entry_workloads.values());
        // Whether they take traffic does not matter: they send.
        all.filter(|w| fleet.includes(&w.record))
    });
    let mut localities: BTreeMap<Locality, Vec<Endpoint>> = BTreeMap::new();
    for workload in members {
        // Nothing is ever sent there: the port means nothing.
        let address = workload.ip().map(|ip| SocketAddr::new(ip, 1));
        let endpoint = |address| Endpoint {
            address,
            health: EndpointHealth::Healthy,
            weight: 1,
            tls_mode: TlsMode::Disabled,
            workload: None,
        };
        localities.entry(workload.locality()).or_default().extend(address.map(endpoint));
    }
    let group = |(locality, endpoints)| LocalityEndpoints { locality, priority: 0, weight: None, endpoints };
    ClusterLoadAssignment { cluster_name: LOCAL_CLUSTER.to_owned(), localities: localities.into_iter().map(group).collect() }
}

/// By where they are, the client's own place counts.
pub fn preference<'a>(world: &'a World, service: &Service, rule: &'a MergedRule, name: &OutboundName<'_>) -> Preference<'a> {
    Preference::of(world, service, &rule.policy(name.port, name.subset))
}

fn endpoints<'a>(world: &'a World, service: &Service, rule: &MergedRule, name: &OutboundName<'_>) -> Vec<Placed<'a, Endpoint>> {
    let Some(index) = service.ports.iter().position(|p| p.number == name.port) else { return Vec::new() };
    let Some(labels) = rule.subset_labels(name.subset) else { return Vec::new() };
    let Some(pods) = world.endpoints_of(service) else { return Vec::new() };
    let written = rule.policy(name.port, name.subset).tls_mode();
    let in_subset = |pod: &&ServicePod| is_subset(&labels, &pod.workload.record.labels);
    let endpoint = |pod: &'a ServicePod| {
        let port = pod.ports.get(index).copied().flatten()?;
        let endpoint = Endpoint {
            address: SocketAddr::new(pod.ip()?, port),
            health: EndpointHealth::Healthy,
            weight: pod.weight(),
            tls_mode: tls_mode(world, service, pod, (port, written)),
            workload: telemetry(world, service, pod),
        };
        Some(placed(pod, endpoint))
    };
    pods.ready.iter().filter(in_subset).filter_map(endpoint).collect()
}

/// An endpoint at the place of its pod.
pub(super) fn placed<E>(pod: &ServicePod, endpoint: E) -> Placed<'_, E> {
    Placed { locality: pod.locality(), labels: &pod.workload.record.labels, weight: pod.weight(), endpoint }
}

/// Who the endpoint is in telemetry; nobody, if it is outside of the mesh and has no labels to tell.
pub(super) fn telemetry(world: &World, service: &Service, pod: &ServicePod) -> Option<WorkloadRef> {
    let record = &pod.workload.record;
    // An address that somebody has given is nobody.
    let known = if pod.given { !record.workload.name.is_empty() } else { !service.is_external() || !record.labels.is_empty() };
    known.then(|| pod.workload.telemetry(world.cluster_id()))
}

/// A written mode decides alone; else an endpoint is spoken to in mutual TLS if it has a sidecar and its own policy for the
/// port does not forbid it.
pub(super) fn tls_mode(
    world: &World,
    service: &Service,
    pod: &ServicePod,
    (port, written): (u16, Option<ClientTlsMode>),
) -> TlsMode {
    let record = &pod.workload.record;
    let mutual = match written {
        Some(mode) => mode == ClientTlsMode::IstioMutual,
        None if service.is_external() => false,
        None => {
            let modes = WorkloadModes::of(world, &record.namespace, &record.labels);
            pod.workload.speaks_mtls() && modes.port(port) != Mode::Disable
        }
    };
    if mutual { TlsMode::Istio } else { TlsMode::Disabled }
}
