//! `discovery.k8s.io/v1 EndpointSlice` and `v1 Endpoints`: addresses behind a service that somebody gives, instead of pods that
//! its selector finds.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::meta::ObjectMeta;
use super::{Passthrough, TransportProtocol};

mod validate;

/// The label by which a slice says of which service it is.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A part of a service's endpoints. Several slices of one service add up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSlice {
    /// As written.
    pub api_version: String,
    /// As written.
    pub kind: String,
    /// Name, namespace, labels, annotations. The label `kubernetes.io/service-name` names the service.
    pub metadata: ObjectMeta,
    /// What the addresses are.
    pub address_type: AddressType,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports, which all endpoints have. Their names are those of the service's ports.
    pub ports: Vec<EndpointPort>,
}

/// `addressType` of a slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressType {
    /// IPv4.
    #[default]
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
    /// DNS names; not supported, by Istio neither.
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SliceEndpoint {
    /// Where it is; at least one.
    pub addresses: Vec<String>,
    /// In which state it is.
    pub conditions: EndpointConditions,
    /// Its name under a headless service.
    pub hostname: Option<String>,
    /// The pod that it is.
    pub target_ref: Option<TargetReference>,
    /// The machine that it is on.
    pub node_name: Option<String>,
    /// The zone that it is in.
    pub zone: Option<String>,
    /// Accepted. Sidecars choose by locality and not by hints, in Istio too.
    pub hints: Option<Passthrough>,
    /// Accepted: the older form of `zone` and its like.
    pub deprecated_topology: Option<Passthrough>,
}

/// `conditions` of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointConditions {
    /// Whether new traffic may be sent to it; absent means yes.
    pub ready: Option<bool>,
    /// Accepted: the same, whether it is ending or not. New traffic goes by `ready` alone.
    pub serving: Option<bool>,
    /// Accepted: whether it is ending. Such an endpoint is not `ready`.
    pub terminating: Option<bool>,
}

/// What an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetReference {
    /// Accepted.
    pub api_version: String,
    /// `Pod`; others are not looked at.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace: the slice's.
    pub namespace: String,
    /// Accepted.
    pub uid: String,
    /// Accepted.
    pub resource_version: String,
    /// Accepted.
    pub field_path: String,
}

/// A port of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointPort {
    /// The name of the service's port; empty, if the service has a single port without a name.
    pub name: String,
    /// The endpoints' port, 1 to 65535.
    pub port: Option<i64>,
    /// The transport.
    pub protocol: TransportProtocol,
    /// Accepted: what is spoken is the service's port's matter.
    pub app_protocol: Option<String>,
}

/// `v1 Endpoints`: the older form of slices. Its service is the one of its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoints {
    /// As written.
    pub api_version: String,
    /// As written.
    pub kind: String,
    /// Name, namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// Groups of addresses with the same ports.
    pub subsets: Vec<EndpointSubset>,
}

/// Addresses with the same ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSubset {
    /// Those that are ready.
    pub addresses: Vec<SubsetAddress>,
    /// Those that are not.
    pub not_ready_addresses: Vec<SubsetAddress>,
    /// Their ports.
    pub ports: Vec<EndpointPort>,
}

/// An address of `v1 Endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SubsetAddress {
    /// Where it is.
    pub ip: String,
    /// Its name under a headless service.
    pub hostname: Option<String>,
    /// The machine that it is on.
    pub node_name: Option<String>,
    /// The pod that it is.
    pub target_ref: Option<TargetReference>,
}

/// Endpoints with the same ports, whichever kind gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenEndpoints {
    /// The endpoints.
    pub endpoints: Vec<GivenEndpoint>,
    /// Their ports, each with the name of the service's port.
    pub ports: Vec<GivenPort>,
}

/// An endpoint that somebody gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenEndpoint {
    /// Where it is.
    pub address: IpAddr,
    /// Whether new traffic may be sent to it.
    pub ready: bool,
    /// Its name under a headless service.
    pub hostname: Option<String>,
    /// The name of the pod that it is said to be, of its namespace.
    pub pod: Option<String>,
    /// The machine that it is on; may be empty.
    pub node: String,
    /// The zone that it is in; may be empty.
    pub zone: String,
}

/// A port of endpoints that somebody gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenPort {
    /// The name of the service's port.
    pub name: String,
    /// The endpoints' port.
    pub port: u16,
    /// The transport.
    pub protocol: TransportProtocol,
}

impl GivenEndpoints {
    /// The endpoints' port for a port of a service.
    pub fn port(&self, name: &str, protocol: TransportProtocol) -> Option<u16> {
        self.ports.iter().find(|p| p.name == name && p.protocol == protocol).map(|p| p.port)
    }
}

impl EndpointSlice {
    /// The service that it is of, in its namespace.
    pub fn service(&self) -> Option<&str> {
        self.metadata.labels.get(SERVICE_NAME_LABEL).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// What it gives.
    pub fn given(&self) -> GivenEndpoints {
        let of = |endpoint: &SliceEndpoint| {
            let (ready, hostname, pod) =
                (endpoint.conditions.ready.unwrap_or(true), endpoint.hostname.clone(), pod_of(endpoint.target_ref.as_ref()));
            let (node, zone) = (endpoint.node_name.clone().unwrap_or_default(), endpoint.zone.clone().unwrap_or_default());
            let addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok());
            let made = move |address| GivenEndpoint {
                address,
                ready,
                hostname: hostname.clone(),
                pod: pod.clone(),
                node: node.clone(),
                zone: zone.clone(),
            };
            addresses.map(made).collect::<Vec<_>>()
        };
        GivenEndpoints { endpoints: self.endpoints.iter().flat_map(of).collect(), ports: given_ports(&self.ports) }
    }
}

impl Endpoints {
    /// What it gives: for each subset one.
    pub fn given(&self) -> impl Iterator<Item = GivenEndpoints> + '_ {
        let of = |ready: bool| {
            move |written: &SubsetAddress| {
                Some(GivenEndpoint {
                    address: written.ip.parse().ok()?,
                    ready,
                    hostname: written.hostname.clone(),
                    pod: pod_of(written.target_ref.as_ref()),
                    node: written.node_name.clone().unwrap_or_default(),
                    zone: String::new(),
                })
            }
        };
        self.subsets.iter().map(move |subset| {
            let ready = subset.addresses.iter().filter_map(of(true));
            let all = ready.chain(subset.not_ready_addresses.iter().filter_map(of(false)));
            GivenEndpoints { endpoints: all.collect(), ports: given_ports(&subset.ports) }
        })
    }
}

fn pod_of(reference: Option<&TargetReference>) -> Option<String> {
    reference.filter(|r| r.kind == "Pod" && !r.name.is_empty()).map(|r| r.name.clone())
}

fn given_ports(ports: &[EndpointPort]) -> Vec<GivenPort> {
    let number = |p: &EndpointPort| p.port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    let given = |p: &EndpointPort| Some(GivenPort { name: p.name.clone(), port: number(p)?, protocol: p.protocol });
    ports.iter().filter_map(given).collect()
}
