//! What a proxy's configuration depends on besides the world. Proxies that are equal here share every resource.

use crate::world::{Name, World, place};
use lateen_model::dataplane::Locality;
use lateen_model::mesh_config::{ForwardClientCert, GatewayTopology};
use lateen_model::resource::{PodPort, PodRecord, StringMap, TransportProtocol};
use lateen_wire::ProxyFlavor;
use lateen_xds::on_demand::Question;
use lateen_xds::{Node, NodeType};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A proxy, as generation sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// Its namespace.
    pub namespace: Name,
    /// The labels of its pod.
    pub labels: StringMap,
    /// Where it is.
    pub locality: Locality,
    /// The TCP ports of its pod that have names.
    pub ports: BTreeMap<String, u16>,
    /// The families of its addresses, the primary one first.
    pub families: Families,
    /// What it can read.
    pub flavor: ProxyFlavor,
    /// The name of its service in traces: `APP.NAMESPACE` (Istio's `APP_LABEL_AND_NAMESPACE`).
    pub service_name: Name,
    /// Whether it stands at the mesh's edge.
    pub role: ProxyRole,
    /// Its own `gatewayTopology`.
    pub topology: Option<ProxyTopology>,
    /// Whether it serves HTTP/1.0 (metadata `HTTP10`).
    pub http10: bool,
    /// Its own port of the kind of `proxyHttpPort` (metadata `HTTP_PROXY_PORT`).
    pub http_proxy_port: Option<u16>,
    /// Whose load it shares, if it wants to know those (metadata `ENABLE_SELF_DISCOVERY`).
    pub fleet: Option<Fleet>,
    /// The namespace of its proven identity, whose secrets it may have. `None` on a plaintext port.
    pub verified_namespace: Option<Name>,
    /// What it has asked for, if it wants an automatic scope (metadata `AUTOMATIC_SCOPE`).
    pub learned: Option<Arc<BTreeSet<Question>>>,
}

impl Proxy {
    /// A sidecar, described by its node and, where the platform knows the pod, by that (a pod's labels decide which
    /// policies it is under, so that the platform's word counts for more than the proxy's own).
    pub fn new(node: &Node, verified_namespace: Option<&str>, world: &World) -> Self {
        let workload = world.workload(&node.namespace, &node.name);
        let labels = match workload {
            Some(workload) => workload.record.labels.clone(),
            None => group_labels(node, world).unwrap_or_else(|| metadata_labels(node)),
        };
        let made_by = workload.map(|w| w.record.workload.name.as_str()).or(node.metadata_str("WORKLOAD_NAME"));
        let app = labels.get("app").map(String::as_str).or(made_by).unwrap_or("istio-proxy");
        let service_name = format!("{app}.{}", node.namespace);
        let fleet = node.metadata_bool("ENABLE_SELF_DISCOVERY").unwrap_or(false).then(|| Fleet::of(&labels, made_by));
        let ips = workload.map(|w| w.record.ips.clone()).filter(|ips| !ips.is_empty()).unwrap_or_else(|| node.ip_addresses());
        Self {
            namespace: node.namespace.as_str().into(),
            locality: locality(node, &labels),
            labels,
            ports: named_ports(node, workload.map(|w| w.record.ports.as_slice())),
            families: Families::of(&ips),
            flavor: node.flavor(),
            service_name: service_name.into(),
            role: if node.node_type == NodeType::Router { ProxyRole::Router } else { ProxyRole::Sidecar },
            topology: topology(node),
            fleet,
            http10: world.settings().http10 || node.metadata_bool("HTTP10").unwrap_or(false),
            http_proxy_port: http_proxy_port(node),
            verified_namespace: verified_namespace.map(Name::from),
            learned: wants_automatic_scope(node).then(Arc::default),
        }
    }

    /// Kinds of proxies that are served.
    pub fn is_supported(node_type: NodeType) -> bool {
        matches!(node_type, NodeType::Sidecar | NodeType::Router)
    }
}

/// Up to how many services a sidecar holds them all, rather than learn them (metadata `AUTOMATIC_SCOPE_ABOVE`).
pub fn holds_up_to(node: &Node) -> usize {
    let number = node.metadata.get(lateen_xds::on_demand::METADATA_ABOVE).and_then(serde_json::Value::as_u64);
    number.and_then(|n| usize::try_from(n).ok()).unwrap_or_default()
}

/// Only Lateen's own sidecars can ask for what they do not hold.
fn wants_automatic_scope(node: &Node) -> bool {
    let can = node.node_type == NodeType::Sidecar && node.flavor() == ProxyFlavor::Lateen;
    can && node.metadata_bool(lateen_xds::on_demand::METADATA).unwrap_or(false)
}

/// The labels of a workload that registers itself, which its group gives.
fn group_labels(node: &Node, world: &World) -> Option<StringMap> {
    let group = node.metadata_str("AUTO_REGISTER_GROUP")?;
    let group = world.namespace(&node.namespace)?.workload_groups.get(group)?;
    let mut labels = group.spec.template.as_ref().map(|t| t.labels.clone()).unwrap_or_default();
    labels.extend(group.spec.metadata.iter().flat_map(|m| m.labels.clone()));
    Some(labels)
}

/// The pods of one workload, of which each has a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fleet {
    workload: String,
    /// Of a Deployment's pods those that are made by the same template.
    template: Option<String>,
}

impl Fleet {
    /// That of a pod with these labels, made by this workload.
    fn of(labels: &StringMap, made_by: Option<&str>) -> Self {
        let workload = labels.get(WORKLOAD_NAME).map(String::as_str).or(made_by).unwrap_or_default().to_owned();
        Self { workload, template: labels.get(TEMPLATE_HASH).cloned() }
    }

    /// Whether a workload of the same namespace is one of them.
    pub fn includes(&self, record: &PodRecord) -> bool {
        !self.workload.is_empty() && *self == Self::of(&record.labels, Some(&record.workload.name))
    }
}

/// Names the workload of a WorkloadEntry, and of a pod instead of what made it.
const WORKLOAD_NAME: &str = "service.istio.io/workload-name";
const TEMPLATE_HASH: &str = "pod-template-hash";

/// Where a proxy stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProxyRole {
    /// Beside an application.
    #[default]
    Sidecar,
    /// At the mesh's edge, with ports of its own (Istio's node type `router`).
    Router,
}

/// What a gateway says of the proxies in front of it (`gatewayTopology`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProxyTopology {
    /// How many of them append to `x-forwarded-for`.
    pub trusted_proxies: u32,
    /// `x-forwarded-client-cert`.
    pub client_cert: ForwardClientCert,
}

impl From<&GatewayTopology> for ProxyTopology {
    fn from(written: &GatewayTopology) -> Self {
        Self { trusted_proxies: written.num_trusted_proxies, client_cert: written.forward_client_cert_details }
    }
}

/// From metadata `PROXY_CONFIG`; what cannot be read is the mesh's default.
fn topology(node: &Node) -> Option<ProxyTopology> {
    let written = node.metadata.get("PROXY_CONFIG")?.get("gatewayTopology")?;
    let topology: GatewayTopology = serde_json::from_value(written.clone()).ok()?;
    Some((&topology).into())
}

/// From the platform, else from metadata `POD_PORTS`, a list of `{name, containerPort, protocol}` as JSON or as text of it.
fn named_ports(node: &Node, platform: Option<&[PodPort]>) -> BTreeMap<String, u16> {
    if let Some(ports) = platform {
        let named = ports.iter().filter(|p| !p.name.is_empty() && p.protocol == TransportProtocol::Tcp);
        return named.map(|p| (p.name.clone(), p.port)).collect();
    }
    let list = match node.metadata.get("POD_PORTS") {
        Some(serde_json::Value::String(text)) => serde_json::from_str(text).unwrap_or_default(),
        Some(value) => value.clone(),
        None => serde_json::Value::Null,
    };
    let port = |entry: &serde_json::Value| {
        let tcp = entry.get("protocol").and_then(|p| p.as_str()).is_none_or(|p| p == "TCP");
        let name = entry.get("name")?.as_str().filter(|n| tcp && !n.is_empty())?.to_owned();
        Some((name, u16::try_from(entry.get("containerPort")?.as_u64()?).ok()?))
    };
    list.as_array().map(|list| list.iter().filter_map(port).collect()).unwrap_or_default()
}

/// Not a number is the mesh's own port, as in Istio.
fn http_proxy_port(node: &Node) -> Option<u16> {
    node.metadata_str("HTTP_PROXY_PORT")?.parse().ok()
}

/// By the labels, else as the proxy says itself.
fn locality(node: &Node, labels: &StringMap) -> Locality {
    let by_labels = place::of_labels(labels);
    if by_labels != Locality::default() {
        return by_labels;
    }
    let lateen_xds::Locality { region, zone, sub_zone } = node.locality.clone();
    Locality { region, zone, sub_zone }
}

fn metadata_labels(node: &Node) -> StringMap {
    let labels = node.metadata.get("LABELS").and_then(|v| v.as_object());
    let text = |(k, v): (&String, &serde_json::Value)| Some((k.clone(), v.as_str()?.to_owned()));
    labels.map(|map| map.iter().filter_map(text).collect()).unwrap_or_default()
}

/// Which families of addresses a proxy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Families {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Both, IPv4 first.
    V4V6,
    /// Both, IPv6 first.
    V6V4,
}

impl Families {
    /// The families of a list of addresses. None is IPv4.
    pub fn of(ips: &[IpAddr]) -> Self {
        let (v4, v6) = (ips.iter().any(IpAddr::is_ipv4), ips.iter().any(IpAddr::is_ipv6));
        match (v4, v6, ips.first()) {
            (true, true, Some(IpAddr::V6(_))) => Self::V6V4,
            (true, true, _) => Self::V4V6,
            (false, true, _) => Self::V6,
            (_, false, _) => Self::V4,
        }
    }

    /// Any address, of each family, the primary one first.
    pub fn wildcards(self) -> &'static [IpAddr] {
        const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        match self {
            Self::V4 => &[V4],
            Self::V6 => &[V6],
            Self::V4V6 => &[V4, V6],
            Self::V6V4 => &[V6, V4],
        }
    }

    /// Any address of the primary family.
    pub fn wildcard(self) -> IpAddr {
        self.wildcards()[0]
    }

    /// The sources of connections to the application, one of each family: addresses of the loopback network that capture lets pass.
    pub fn inbound_sources(self) -> Vec<IpAddr> {
        let source = |wildcard: &IpAddr| match wildcard {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6)),
        };
        self.wildcards().iter().map(source).collect()
    }

    /// The loopback address of the primary family.
    pub fn loopback(self) -> IpAddr {
        match self.wildcard() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        }
    }

    /// Whether the proxy has addresses of the family of `ip`.
    pub fn has(self, ip: IpAddr) -> bool {
        self.wildcards().iter().any(|w| w.is_ipv4() == ip.is_ipv4())
    }
}
