//! Worlds and proxies for tests.

use super::{Proxy, Scope};
use crate::store::{FileContent, Store};
use crate::world::{Settings, World, WorldEvent};
use lateen_model::manifest;
use lateen_model::resource::{ClusterState, PodPort, PodRecord, StringMap, TransportProtocol, WorkloadRef};
use lateen_wire::ProxyFlavor;
use lateen_xds::{Node, NodeType};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

/// The world of these manifests and pods. Every document must be good.
pub(crate) fn world(manifests: &str, pods: &[PodRecord]) -> World {
    let mut events = events(manifests);
    events.push(WorldEvent::Cluster(Arc::new(cluster(1, pods))));
    events.push(WorldEvent::Roots(Arc::from(*b"-----BEGIN CERTIFICATE-----\n")));
    World::new(Settings::default()).apply(events, Instant::now()).0
}

/// What these manifests bring. Every document must be good.
pub(crate) fn events(manifests: &str) -> Vec<WorldEvent> {
    let mut store = Store::new();
    let documents = manifest::read(manifests, "test.yaml");
    for document in &documents {
        if let Err(rejection) = document {
            panic!("{rejection}");
        }
    }
    store.apply(vec![FileContent { file: "test.yaml".into(), documents }]).0
}

/// A state of the platform with these pods; each service has the address 10.96.0.N by its place in the alphabet.
pub(crate) fn cluster(generation: u64, pods: &[PodRecord]) -> ClusterState {
    let names =
        ["a/one", "a/two", "legacy/batch", "production/frontend", "production/order-service", "production/payment-service"];
    let ips: BTreeMap<_, _> = names.iter().zip(1u8..).map(|(n, i)| ((*n).to_owned(), vec![[10, 96, 0, i].into()])).collect();
    ClusterState { pods: pods.to_vec(), cluster_ips: ips, generation }
}

/// A ready pod with a sidecar and the port 8080 under the name `http`.
pub(crate) fn pod(namespace: &str, name: &str, ip: [u8; 4], labels: &[(&str, &str)]) -> PodRecord {
    PodRecord {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        uid: format!("{namespace}-{name}"),
        hostname: String::new(),
        subdomain: String::new(),
        ips: vec![ip.into()],
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        annotations: StringMap::new(),
        service_account: format!("{}-sa", labels.first().map_or("default", |(_, v)| v)),
        workload: WorkloadRef { kind: "Deployment".to_owned(), name: name.rsplit_once('-').map_or(name, |(n, _)| n).to_owned() },
        node: "node".to_owned(),
        ports: vec![PodPort { name: "http".to_owned(), port: 8080, protocol: TransportProtocol::Tcp }],
        injected: true,
        ready: true,
        terminating: false,
        created: 0,
    }
}

/// The proxy of a pod, proven to be of its namespace.
pub(crate) fn proxy(world: &World, namespace: &str, name: &str) -> Proxy {
    described(world, namespace, name, &[])
}

/// The same, of a proxy that asks for those of its workload.
pub(crate) fn discovering(world: &World, namespace: &str, name: &str) -> Proxy {
    described(world, namespace, name, &[("ENABLE_SELF_DISCOVERY", "true")])
}

fn described(world: &World, namespace: &str, name: &str, metadata: &[(&str, &str)]) -> Proxy {
    let ip = world.workload(namespace, name).map_or([10, 0, 0, 99].into(), |w| w.record.ips[0]);
    let mut node = Node::new(NodeType::Sidecar, ip, name, namespace, &format!("{namespace}.svc.cluster.local"));
    node.metadata.extend(metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())));
    Proxy { flavor: ProxyFlavor::Lateen, ..Proxy::new(&node, Some(namespace), world) }
}

/// The scope of a proxy.
pub(crate) fn scope(world: &World, proxy: &Proxy) -> Scope {
    Scope::new(world, proxy)
}

/// Pods as the user's scenario has them.
pub(crate) fn scenario_pods() -> Vec<PodRecord> {
    let order = |name: &str, ip: u8, version: &str| {
        pod("production", name, [10, 0, 0, ip], &[("app", "order-service"), ("version", version)])
    };
    let payment = |name: &str, ip: u8| pod("production", name, [10, 0, 0, ip], &[("app", "payment-service"), ("version", "v1")]);
    let mut batch = pod("legacy", "batch-0", [10, 0, 0, 9], &[("app", "batch"), ("version", "v1")]);
    batch.injected = false;
    batch.service_account = "default".to_owned();
    vec![
        pod("production", "frontend-0", [10, 0, 0, 1], &[("app", "frontend"), ("version", "v1")]),
        order("order-v1-0", 2, "v1"),
        order("order-v1-1", 3, "v1"),
        order("order-v2-0", 4, "v2"),
        payment("payment-0", 5),
        payment("payment-1", 6),
        batch,
    ]
}

/// Manifests like the user's scenario.
pub(crate) const SCENARIO: &str = include_str!("../../tests/scenario.yaml");
