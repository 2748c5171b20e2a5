//! Endpoints.

use super::common::{address, name_address, uint32};
use crate::any::{OrderedMetadata, OrderedStruct};
use crate::pb::{core, endpoint, google};
use lateen_model::dataplane as m;
use prost::Message;

/// `ClusterLoadAssignment`, with endpoints whose metadata keep their order.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Assignment {
    #[prost(string, tag = "1")]
    cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<Locality>,
}

/// `LocalityLbEndpoints`.
#[derive(Clone, PartialEq, Message)]
struct Locality {
    #[prost(message, optional, tag = "1")]
    locality: Option<core::Locality>,
    #[prost(message, repeated, tag = "2")]
    lb_endpoints: Vec<Endpoint>,
    #[prost(message, optional, tag = "3")]
    load_balancing_weight: Option<google::UInt32Value>,
    #[prost(uint32, tag = "5")]
    priority: u32,
}

/// `LbEndpoint`.
#[derive(Clone, PartialEq, Message)]
struct Endpoint {
    #[prost(message, optional, tag = "1")]
    endpoint: Option<endpoint::Endpoint>,
    #[prost(int32, tag = "2")]
    health_status: i32,
    #[prost(message, optional, tag = "3")]
    metadata: Option<OrderedMetadata>,
    #[prost(message, optional, tag = "4")]
    load_balancing_weight: Option<google::UInt32Value>,
}

pub(super) fn assignment(value: &m::ClusterLoadAssignment) -> Assignment {
    Assignment { cluster_name: value.cluster_name.clone(), endpoints: value.localities.iter().map(locality).collect() }
}

/// Names in place of addresses.
pub(super) fn names(cluster: &str, value: &m::DnsDiscovery) -> Assignment {
    Assignment { cluster_name: cluster.to_owned(), endpoints: value.localities.iter().map(names_of_locality).collect() }
}

fn names_of_locality(value: &m::DnsLocality) -> Locality {
    let m::Locality { region, zone, sub_zone } = value.locality.clone();
    let locality = (value.locality != m::Locality::default()).then_some(core::Locality { region, zone, sub_zone });
    let lb_endpoints = value.endpoints.iter().map(|e| Endpoint {
        endpoint: Some(endpoint::Endpoint { address: Some(name_address(&e.host, e.port)), ..Default::default() }),
        health_status: health(e.health),
        metadata: metadata(e.tls_mode, e.workload.as_ref()),
        load_balancing_weight: uint32(e.weight.max(1)),
    });
    Locality {
        locality,
        lb_endpoints: lb_endpoints.collect(),
        load_balancing_weight: value.weight.and_then(uint32),
        priority: value.priority,
    }
}

fn locality(value: &m::LocalityEndpoints) -> Locality {
    let m::Locality { region, zone, sub_zone } = value.locality.clone();
    let locality = (value.locality != m::Locality::default()).then_some(core::Locality { region, zone, sub_zone });
    Locality {
        locality,
        lb_endpoints: value.endpoints.iter().map(endpoint).collect(),
        load_balancing_weight: value.weight.and_then(uint32),
        priority: value.priority,
    }
}

fn endpoint(value: &m::Endpoint) -> Endpoint {
    Endpoint {
        endpoint: Some(endpoint::Endpoint { address: Some(address(value.address)), ..Default::default() }),
        health_status: health(value.health),
        metadata: metadata(value.tls_mode, value.workload.as_ref()),
        load_balancing_weight: uint32(value.weight.max(1)),
    }
}

fn health(value: m::EndpointHealth) -> i32 {
    match value {
        m::EndpointHealth::Healthy => core::HealthStatus::Healthy,
        m::EndpointHealth::Unhealthy => core::HealthStatus::Unhealthy,
        m::EndpointHealth::Draining => core::HealthStatus::Draining,
    }
    .into()
}

fn metadata(tls_mode: m::TlsMode, workload: Option<&m::WorkloadRef>) -> Option<OrderedMetadata> {
    let mut metadata = OrderedMetadata::default();
    if tls_mode == m::TlsMode::Istio {
        let mut socket = OrderedStruct::default();
        socket.set_str("tlsMode", "istio");
        metadata.set("envoy.transport_socket_match", socket);
    }
    if let Some(w) = workload {
        let mut istio = OrderedStruct::default();
        let parts = [&w.workload, &w.namespace, &w.canonical_name, &w.canonical_revision, &w.cluster_id];
        istio.set_str("workload", &parts.map(String::as_str).join(";"));
        metadata.set("istio", istio);
    }
    (!metadata.filter_metadata.is_empty()).then_some(metadata)
}
