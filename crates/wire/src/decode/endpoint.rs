//! Endpoints.

use super::common::{address, metadata_str, name_address};
use super::cx::{Cx, Result, fields};
use crate::pb::{core, endpoint};
use lateen_model::dataplane as m;

/// Envoy's default, with which a priority is left for the next before it is empty.
const OVERPROVISIONING: u32 = 140;

pub(super) fn assignment(cx: &mut Cx, value: endpoint::ClusterLoadAssignment) -> Result<m::ClusterLoadAssignment> {
    fields!(cx, value => endpoint::ClusterLoadAssignment {
        use: [cluster_name, endpoints, policy],
        refuse: [],
        ignore: [named_endpoints],
    });
    cx.optional("policy", policy, |cx, policy| {
        fields!(cx, policy => endpoint::cluster_load_assignment::Policy {
            use: [overprovisioning_factor],
            refuse: [drop_overloads, weighted_priority_health],
            ignore: [endpoint_stale_after],
        });
        match overprovisioning_factor {
            Some(factor) if factor.value != OVERPROVISIONING => cx.fail_at("overprovisioning_factor", "only 140 is supported"),
            _ => Ok(()),
        }
    })?;
    Ok(m::ClusterLoadAssignment { cluster_name, localities: cx.each("endpoints", endpoints, locality)? })
}

fn locality(cx: &mut Cx, value: endpoint::LocalityLbEndpoints) -> Result<m::LocalityEndpoints> {
    fields!(cx, value => endpoint::LocalityLbEndpoints {
        use: [locality, lb_endpoints, load_balancing_weight, priority],
        refuse: [lb_config],
        ignore: [metadata, proximity],
    });
    let core::Locality { region, zone, sub_zone } = locality.unwrap_or_default();
    Ok(m::LocalityEndpoints {
        locality: m::Locality { region, zone, sub_zone },
        priority,
        weight: load_balancing_weight.map(|w| w.value),
        endpoints: cx.each("lb_endpoints", lb_endpoints, endpoint)?,
    })
}

/// Names in place of addresses (`STRICT_DNS`, `LOGICAL_DNS`).
pub(super) fn names(cx: &mut Cx, value: endpoint::ClusterLoadAssignment) -> Result<Vec<m::DnsLocality>> {
    fields!(cx, value => endpoint::ClusterLoadAssignment {
        use: [cluster_name, endpoints],
        refuse: [policy],
        ignore: [named_endpoints],
    });
    // The cluster that it is written in has the name.
    drop(cluster_name);
    cx.each("endpoints", endpoints, |cx, value| {
        fields!(cx, value => endpoint::LocalityLbEndpoints {
            use: [locality, lb_endpoints, load_balancing_weight, priority],
            refuse: [lb_config],
            ignore: [metadata, proximity],
        });
        let core::Locality { region, zone, sub_zone } = locality.unwrap_or_default();
        Ok(m::DnsLocality {
            locality: m::Locality { region, zone, sub_zone },
            priority,
            weight: load_balancing_weight.map(|w| w.value),
            endpoints: cx.each("lb_endpoints", lb_endpoints, |cx, value| {
                let parts = parts(cx, value, name_address)?;
                let (host, port) = parts.address;
                Ok(m::DnsEndpoint {
                    host,
                    port,
                    health: parts.health,
                    weight: parts.weight,
                    tls_mode: parts.tls_mode,
                    workload: parts.workload,
                })
            })?,
        })
    })
}

/// What endpoints have in common, wherever they are.
struct Parts<A> {
    address: A,
    health: m::EndpointHealth,
    weight: u32,
    tls_mode: m::TlsMode,
    workload: Option<m::WorkloadRef>,
}

fn endpoint(cx: &mut Cx, value: endpoint::LbEndpoint) -> Result<m::Endpoint> {
    let Parts { address, health, weight, tls_mode, workload } = parts(cx, value, address)?;
    Ok(m::Endpoint { address, health, weight, tls_mode, workload })
}

fn parts<A>(
    cx: &mut Cx,
    value: endpoint::LbEndpoint,
    address_of: impl FnOnce(&mut Cx, core::Address) -> Result<A>,
) -> Result<Parts<A>> {
    use endpoint::lb_endpoint::HostIdentifier;
    let endpoint::LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } = value;
    let address = match host_identifier {
        Some(HostIdentifier::Endpoint(host)) => cx.at("endpoint", |cx| {
            fields!(cx, host => endpoint::Endpoint {
                use: [address],
                refuse: [health_check_config],
                ignore: [hostname, additional_addresses, observability_name],
            });
            cx.required("address", address, address_of)
        })?,
        Some(HostIdentifier::EndpointName(_)) => return cx.fail_at("endpoint_name", "is not supported; endpoint is"),
        None => return cx.fail_at("endpoint", "is required"),
    };
    let health = match core::HealthStatus::try_from(health_status) {
        Ok(core::HealthStatus::Unknown | core::HealthStatus::Healthy) => m::EndpointHealth::Healthy,
        Ok(core::HealthStatus::Unhealthy | core::HealthStatus::Timeout) => m::EndpointHealth::Unhealthy,
        Ok(core::HealthStatus::Draining) => m::EndpointHealth::Draining,
        _ => return cx.fail_at("health_status", "UNKNOWN, HEALTHY, UNHEALTHY, TIMEOUT and DRAINING are supported"),
    };
    let weight = load_balancing_weight.map_or(1, |w| w.value);
    if weight == 0 {
        return cx.fail_at("load_balancing_weight", "must be at least 1");
    }
    let metadata = metadata.unwrap_or_default();
    let tls_mode = match metadata_str(&metadata, "envoy.transport_socket_match", "tlsMode") {
        Some("istio") => m::TlsMode::Istio,
        _ => m::TlsMode::Disabled,
    };
    let workload = metadata_str(&metadata, "istio", "workload").and_then(workload);
    Ok(Parts { address, health, weight, tls_mode, workload })
}

/// `workload;namespace;canonical name;canonical revision;cluster`, for telemetry only: what is not of that form names nobody.
fn workload(text: &str) -> Option<m::WorkloadRef> {
    let parts: Vec<&str> = text.split(';').collect();
    let [workload, namespace, canonical_name, canonical_revision, cluster_id] = parts[..] else { return None };
    Some(m::WorkloadRef {
        workload: workload.to_owned(),
        namespace: namespace.to_owned(),
        canonical_name: canonical_name.to_owned(),
        canonical_revision: canonical_revision.to_owned(),
        cluster_id: cluster_id.to_owned(),
    })
}
