//! The mesh that is made up for the control plane: namespaces, services, pods, and the edits.

use lateen_model::resource::{ClusterChange, ClusterState, PodPort, PodRecord, TransportProtocol, WorkloadRef};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

/// Services of one namespace.
const NAMESPACE_SERVICES: usize = 10;
/// The service that edits change, in a namespace that every proxy sees.
const EDITED: &str = "edited";
const SHARED: &str = "shared";

/// How large the mesh is.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Size {
    /// Connected proxies.
    #[arg(long, default_value_t = 100)]
    pub(crate) proxies: usize,
    /// Services, ten in a namespace.
    #[arg(long, default_value_t = 100)]
    pub(crate) services: usize,
    /// Endpoints of each service.
    #[arg(long, default_value_t = 2)]
    pub(crate) endpoints: usize,
    /// A Sidecar in each namespace: proxies see their own namespace and the edited service, not the whole mesh.
    #[arg(long)]
    pub(crate) scoped: bool,
}

/// What an edit changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EditKind {
    /// The address of a pod: endpoints.
    Endpoint,
    /// A VirtualService: routes.
    Route,
}

/// A pod that a proxy stands beside.
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) ip: IpAddr,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Size {
    fn namespaces(self) -> usize {
        self.services.div_ceil(NAMESPACE_SERVICES).max(1)
    }

    /// All pods of services; more are added where there are more proxies.
    fn workloads(self) -> usize {
        (self.services * self.endpoints).max(self.proxies)
    }

    /// The pod of this number; its service is the number modulo services.
    pub(crate) fn workload(self, number: usize) -> Workload {
        let service = number % self.services.max(1);
        let address = 0x0a10_0000 + u32::try_from(number).unwrap_or(u32::MAX);
        let labels = [("app", format!("service-{service}")), ("security.istio.io/tlsMode", "istio".to_owned())];
        Workload {
            name: format!("service-{service}-{}", number / self.services.max(1)),
            namespace: format!("ns-{}", service / NAMESPACE_SERVICES),
            ip: Ipv4Addr::from(address).into(),
            labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        }
    }

    /// The manifests that no edit changes.
    pub(crate) fn manifests(self) -> String {
        let mut text = document("Namespace", "v1", "", SHARED, &json!({}));
        text += &service(SHARED, EDITED);
        for namespace in 0..self.namespaces() {
            let namespace = format!("ns-{namespace}");
            text += &document("Namespace", "v1", "", &namespace, &json!({}));
            if self.scoped {
                let hosts = json!({ "spec": { "egress": [{ "hosts": ["./*", format!("{SHARED}/*")] }] } });
                text += &document("Sidecar", "networking.istio.io/v1", &namespace, "default", &hosts);
            }
        }
        for number in 0..self.services {
            text += &service(&self.workload(number).namespace, &format!("service-{number}"));
        }
        text
    }

    /// What an edit of endpoints changes in the state of this generation.
    pub(crate) fn change(self, edit: u16, base: u64) -> ClusterChange {
        ClusterChange { base, generation: base + 1, pods: vec![record(edited(edit))], ..ClusterChange::default() }
    }

    /// All pods, as the platform tells of them after this many edits of endpoints.
    pub(crate) fn cluster(self, edit: u16, generation: u64) -> ClusterState {
        let workloads = (0..self.workloads()).map(|number| self.workload(number)).chain([edited(edit)]);
        let services = (0..self.services).map(|number| format!("{}/service-{number}", self.workload(number).namespace));
        let addresses = services.chain([format!("{SHARED}/{EDITED}")]).zip(0x0a60_0001_u32..);
        ClusterState {
            pods: workloads.map(record).collect(),
            cluster_ips: addresses.map(|(name, ip)| (name, vec![Ipv4Addr::from(ip).into()])).collect(),
            generation,
        }
    }
}

/// The pod that edits of endpoints change.
fn edited(edit: u16) -> Workload {
    Workload {
        name: EDITED.to_owned(),
        namespace: SHARED.to_owned(),
        ip: edit_address(edit),
        labels: BTreeMap::from([("app".to_owned(), EDITED.to_owned())]),
    }
}

/// The address by which an edit of endpoints is known.
fn edit_address(edit: u16) -> IpAddr {
    let [high, low] = edit.to_be_bytes();
    Ipv4Addr::new(10, 250, high, low).into()
}

/// The manifest of an edit of routes.
pub(crate) fn edited_route(edit: u16) -> String {
    let host = format!("{EDITED}.{SHARED}.svc.cluster.local");
    let route = json!({ "route": [{ "destination": { "host": host } }], "headers": { "response": { "set": { "x-edit": format!("edit-{edit:05}") } } } });
    document("VirtualService", "networking.istio.io/v1", SHARED, EDITED, &json!({ "spec": { "hosts": [host], "http": [route] } }))
}

/// The newest edit that these bytes of a resource tell of.
pub(crate) fn edit_in(kind: EditKind, resource: &[u8]) -> Option<u16> {
    let prefix: &[u8] = if kind == EditKind::Endpoint { b"10.250." } else { b"edit-" };
    let at = memchr::memmem::find(resource, prefix)? + prefix.len();
    let end = resource[at..].iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.').map_or(resource.len(), |n| at + n);
    let text = std::str::from_utf8(&resource[at..end]).ok()?;
    match kind {
        EditKind::Route => text.get(..5)?.parse().ok(),
        EditKind::Endpoint => {
            let (high, low) = text.split_once('.')?;
            Some(u16::from_be_bytes([high.parse().ok()?, low.parse().ok()?]))
        }
    }
}

fn document(kind: &str, version: &str, namespace: &str, name: &str, rest: &serde_json::Value) -> String {
    let mut object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name } });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    for (key, value) in rest.as_object().into_iter().flatten() {
        object[key] = value.clone();
    }
    let mut text = String::new();
    let _ = writeln!(text, "---\n{object}");
    text
}

fn service(namespace: &str, name: &str) -> String {
    let spec = json!({ "selector": { "app": name }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] });
    document("Service", "v1", namespace, name, &json!({ "spec": spec }))
}

fn record(workload: Workload) -> PodRecord {
    PodRecord {
        uid: format!("{}/{}", workload.namespace, workload.name),
        workload: WorkloadRef { kind: "Pod".to_owned(), name: workload.name.clone() },
        name: workload.name,
        namespace: workload.namespace,
        hostname: String::new(),
        subdomain: String::new(),
        ips: vec![workload.ip],
        labels: workload.labels.into_iter().collect(),
        annotations: BTreeMap::new(),
        service_account: "default".to_owned(),
        node: "node".to_owned(),
        ports: vec![PodPort { name: "http".to_owned(), port: 8080, protocol: TransportProtocol::Tcp }],
        injected: true,
        ready: true,
        terminating: false,
        created: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{EditKind, Size, edit_in, edited_route};

    #[test]
    fn edits_are_found_in_what_they_change() {
        let size = Size { proxies: 3, services: 2, endpoints: 1, scoped: true };
        for edit in [0, 7, 256, 65_535] {
            assert_eq!(edit_in(EditKind::Route, edited_route(edit).as_bytes()), Some(edit));
            let pods = size.cluster(edit, 1).pods;
            let text = pods.last().expect("the edited one").ips[0].to_string();
            assert_eq!(edit_in(EditKind::Endpoint, format!("\n{text}\u{10}").as_bytes()), Some(edit));
        }
        assert_eq!(edit_in(EditKind::Route, b"no such thing"), None);
        assert_eq!(edit_in(EditKind::Endpoint, b"10.250."), None);
    }

    #[test]
    fn every_proxy_has_a_pod_of_its_own() {
        let size = Size { proxies: 50, services: 20, endpoints: 2, scoped: false };
        let state = size.cluster(0, 1);
        assert_eq!((state.pods.len(), state.cluster_ips.len()), (51, 21));
        let addresses: std::collections::BTreeSet<_> = state.pods.iter().map(|pod| pod.ips[0]).collect();
        assert_eq!(addresses.len(), 51);
        assert_eq!(size.workload(41).namespace, "ns-0");
        assert_eq!(size.manifests().matches("\"kind\":\"Service\"").count(), 21);
    }
}
