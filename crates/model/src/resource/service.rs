//! `v1 Service`.

use serde::{Deserialize, Serialize};

use super::meta::{Object, StringMap};
use super::{IntOrString, Passthrough};

mod validate;

pub use validate::EXPORT_TO_ANNOTATION;

/// A service: a name, ports, and the pods behind them.
pub type Service = Object<ServiceSpec>;

/// Kubernetes' `ServiceSpec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// `ClusterIP` if absent.
    #[serde(rename = "type")]
    pub type_: ServiceType,
    /// `None` makes the service headless; an address asks for exactly that one; empty lets the platform choose.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// At most one address a family; the first equals `clusterIP`.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// Ports that the service answers on.
    pub ports: Vec<ServicePort>,
    /// Labels of the pods behind it. Empty: no endpoints are made from pods.
    pub selector: StringMap,
    /// The DNS name that an `ExternalName` service stands for.
    pub external_name: Option<String>,
    /// Unready pods are endpoints too.
    pub publish_not_ready_addresses: bool,
    /// Wanted families, in order.
    pub ip_families: Vec<IpFamily>,
    /// Whether one or two families are wanted.
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// Which endpoints are preferred (Istio reads it as a locality setting).
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Accepted with a warning. A mesh sidecar ignores it, in Istio too: affinity is a `DestinationRule`'s matter.
    pub session_affinity: Option<SessionAffinity>,
    /// Accepted with `sessionAffinity`.
    pub session_affinity_config: Option<Passthrough>,
    /// `Local` keeps to endpoints of the same node; on one machine that is all of them.
    pub internal_traffic_policy: Option<NodeTrafficPolicy>,
    /// Accepted: concerns traffic from outside the cluster.
    pub external_traffic_policy: Option<NodeTrafficPolicy>,
    /// Extra addresses; not supported.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// Accepted: concerns load balancers.
    pub health_check_node_port: Option<i32>,
    /// Accepted: concerns load balancers.
    #[serde(rename = "loadBalancerIP")]
    pub load_balancer_ip: Option<String>,
    /// Accepted: concerns load balancers.
    pub load_balancer_class: Option<String>,
    /// Accepted: concerns load balancers.
    pub load_balancer_source_ranges: Vec<String>,
    /// Accepted: concerns load balancers.
    pub allocate_load_balancer_node_ports: Option<bool>,
}

impl ServiceSpec {
    /// Whether clients are given the pods' own addresses instead of one of the service's.
    pub fn is_headless(&self) -> bool {
        self.type_ == ServiceType::ClusterIp && self.cluster_ip.as_deref() == Some("None")
    }

    /// The families that are asked for, the primary one first: IPv4 where nothing is said, the other one too where two are wanted.
    /// A headless service without a selector has both (Kubernetes' default for it).
    pub fn families(&self) -> Vec<IpFamily> {
        let mut families = self.ip_families.clone();
        if families.is_empty() {
            families.push(IpFamily::V4);
        }
        let open = self.ip_family_policy.is_none() && self.ip_families.is_empty();
        let two = match self.ip_family_policy {
            Some(IpFamilyPolicy::PreferDualStack | IpFamilyPolicy::RequireDualStack) => true,
            Some(IpFamilyPolicy::SingleStack) => false,
            None => open && self.is_headless() && self.selector.is_empty(),
        };
        if two && families.len() == 1 {
            families.push(if families[0] == IpFamily::V4 { IpFamily::V6 } else { IpFamily::V4 });
        }
        families
    }
}

/// How a service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// By an address inside the mesh.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// Also by a port of every node.
    NodePort,
    /// Also by a load balancer.
    LoadBalancer,
    /// An alias of an outside DNS name.
    ExternalName,
}

/// One port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// A DNS label, e.g. `http-web`; needed when there are several ports. Istio reads the protocol from its prefix.
    pub name: String,
    /// The transport.
    pub protocol: TransportProtocol,
    /// The application's protocol; wins over the name's prefix.
    pub app_protocol: Option<String>,
    /// The service's port, 1 to 65535.
    pub port: i64,
    /// The pod's port or the name of one; `port` if absent.
    pub target_port: Option<IntOrString>,
    /// Accepted: concerns traffic from outside the cluster.
    pub node_port: Option<i64>,
}

/// A transport protocol, as Kubernetes writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TransportProtocol {
    /// TCP, the default.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP: not captured, passes by the mesh.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP: not captured, passes by the mesh.
    #[serde(rename = "SCTP")]
    Sctp,
}

/// A family of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

/// How many families a service wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamilyPolicy {
    /// One.
    SingleStack,
    /// Two where there are two.
    PreferDualStack,
    /// Two or nothing.
    RequireDualStack,
}

/// `spec.trafficDistribution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficDistribution {
    /// The older name of `PreferSameZone`.
    PreferClose,
    /// Endpoints of the client's zone first.
    PreferSameZone,
    /// Endpoints of the client's node first.
    PreferSameNode,
}

/// `spec.sessionAffinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionAffinity {
    /// None.
    None,
    /// By the client's address.
    #[serde(rename = "ClientIP")]
    ClientIp,
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeTrafficPolicy {
    /// All endpoints.
    Cluster,
    /// Endpoints of the same node.
    Local,
}
