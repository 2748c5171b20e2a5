//! What the debug pages show, as JSON.

use crate::core::Refusals;
use crate::push::{Hub, View};
use crate::world::{EndpointAddress, Service, ServiceEndpoints, World};
use lateen_model::manifest::Finding;
use lateen_xds::server::{ClientStatus, Connection, SyncState};
use lateen_xds::{Generation, ResourceType};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// `/debug/syncz`: each proxy and how far it is with each type.
pub(super) fn syncz(hub: &Hub) -> Value {
    let connections = hub.connections().list();
    Value::Array(connections.iter().map(|c| sync(c)).collect())
}

fn sync(connection: &Connection) -> Value {
    let client = connection.client();
    let ClientStatus { types, acked_generation, expired_nonces } = connection.status();
    let mut by_type = Map::new();
    for ty in [ResourceType::Cds, ResourceType::Lds, ResourceType::Eds, ResourceType::Rds, ResourceType::Sds, ResourceType::Nds] {
        let status = types.iter().find(|(t, _)| *t == ty).map(|(_, s)| s);
        let value = match status {
            None => json!({"status": "not sent"}),
            Some(s) => json!({
                "status": state(&s.state),
                "nonce_sent": s.sent_nonce,
                "nonce_acked": s.acked_nonce,
                "version_acked": s.acked_generation.0,
                "resources": s.resources,
                "nacks": s.nacks,
            }),
        };
        by_type.insert(ty.short_name().to_owned(), value);
    }
    json!({
        "proxy": client.node.id,
        "name": client.node.name,
        "namespace": client.node.namespace,
        "pod": format!("{}.{}", client.node.name, client.node.namespace),
        "proxy_type": client.node.node_type.as_str(),
        "cluster_id": client.node.metadata_str("CLUSTER_ID").unwrap_or_default(),
        "version": client.node.metadata_str("ISTIO_VERSION").unwrap_or_default(),
        "identity": client.identity.as_ref().map(|id| id.as_uri()),
        "address": client.address.map(|a| a.to_string()),
        "protocol": format!("{:?}", client.protocol).to_ascii_lowercase(),
        "acked_generation": acked_generation.0,
        "expired_nonces": expired_nonces,
        "types": by_type,
    })
}

/// `synced`, `stale`, `nack: REASON` or `not sent`.
fn state(state: &SyncState) -> String {
    match state {
        SyncState::Synced => "synced".to_owned(),
        SyncState::Stale => "stale".to_owned(),
        SyncState::NotSent => "not sent".to_owned(),
        SyncState::Nack(reason) => format!("nack: {reason}"),
    }
}

/// `/debug/registryz`: all services with their ports.
pub(super) fn registryz(world: &World) -> Value {
    Value::Array(world.services().map(|s| service(s)).collect())
}

fn service(service: &Service) -> Value {
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|p| json!({"port": p.number, "name": &*p.name, "protocol": p.protocol.as_str(), "target": target(&p.target)}))
        .collect();
    json!({
        "hostname": &*service.host,
        "name": &*service.name,
        "namespace": &*service.namespace,
        "addresses": service.vips.iter().map(|ip| ip.to_string()).collect::<Vec<_>>(),
        "headless": service.headless,
        "networks": service.entry.iter().flat_map(|e| &e.networks).map(ToString::to_string).collect::<Vec<_>>(),
        "allocated": service.entry.as_ref().is_some_and(|e| e.allocated),
        "registry": if service.entry.is_some() { "External" } else { "Kubernetes" },
        "external": service.is_external(),
        "resolution": service.entry.as_ref().map(|e| e.resolution),
        "ports": ports,
        "selector": service.selector,
    })
}

fn target(target: &crate::world::Target) -> Value {
    match target {
        crate::world::Target::Number(n) => json!(n),
        crate::world::Target::Name(name) => json!(&**name),
    }
}

/// `/debug/endpointz`: each service's pods, those that take no traffic too.
pub(super) fn endpointz(world: &World) -> Value {
    let all = world.services().filter_map(|s| Some(endpoints(s, world.endpoints_of(s)?)));
    Value::Array(all.collect())
}

fn address(address: &EndpointAddress) -> String {
    match address {
        EndpointAddress::Ip(ip) => ip.to_string(),
        EndpointAddress::Name(name) => name.to_string(),
    }
}

fn endpoints(service: &Service, endpoints: &ServiceEndpoints) -> Value {
    let pods: Vec<Value> = endpoints
        .pods
        .iter()
        .map(|pod| {
            let record = &pod.workload.record;
            json!({
                "pod": record.name,
                "address": address(&pod.address),
                "ports": pod.ports,
                "ready": record.ready,
                "terminating": record.terminating,
                "mtls": pod.workload.speaks_mtls(),
                "service_account": record.service_account,
                "labels": record.labels,
            })
        })
        .collect();
    json!({"service": &*service.host, "endpoints": pods})
}

/// `/debug/mesh`: the mesh's configuration with its defaults.
pub(super) fn mesh(world: &World) -> Value {
    serde_json::to_value(world.mesh()).unwrap_or(Value::Null)
}

/// `/debug/rejections`: documents that are refused, where and why.
pub(super) fn rejections(refusals: &Refusals) -> Value {
    let all = refusals.load_full();
    let one = |refusal: &crate::store::Refusal| {
        let rejection = &refusal.rejection;
        let problems = analysis(&rejection.problems);
        json!({
            "file": &*rejection.origin.file,
            "line": rejection.origin.line,
            "kind": rejection.key.as_ref().map(|k| k.kind.name()),
            "namespace": rejection.key.as_ref().map(|k| k.namespace.as_str()),
            "name": rejection.key.as_ref().map(|k| k.name.as_str()),
            "problems": problems,
            "in_force": refusal.in_force.as_str(),
        })
    };
    Value::Array(all.iter().map(one).collect())
}

/// `/debug/analysis`: what is strange between resources, where and why.
pub(super) fn analysis(findings: &[Finding]) -> Value {
    let one = |finding: &Finding| {
        let origin = &finding.origin;
        json!({"file": &*origin.file, "line": origin.line, "column": origin.column,
            "path": finding.path.to_string(), "reason": finding.text})
    };
    Value::Array(findings.iter().map(one).collect())
}

/// The connection of a proxy, by `NAME.NAMESPACE` or by its whole node id.
pub(super) fn find(hub: &Hub, proxy: &str) -> Option<Arc<Connection>> {
    let matches = |c: &&Arc<Connection>| {
        let node = &c.client().node;
        node.id == proxy || format!("{}.{}", node.name, node.namespace) == proxy
    };
    hub.connections().list().iter().rev().find(matches).cloned()
}

/// `/debug/config_dump?proxyID=`: everything that a proxy gets, readable. Private keys are never shown.
pub(crate) fn config_dump(view: &View) -> Value {
    let mut out = Map::new();
    let Generation(generation) = view.generation;
    out.insert("generation".to_owned(), json!(generation));
    out.insert("clusters".to_owned(), list(&view.clusters(), lateen_wire::json::cluster));
    out.insert("listeners".to_owned(), list(&view.listeners(), lateen_wire::json::listener));
    out.insert("routes".to_owned(), list(&view.routes(), lateen_wire::json::route_configuration));
    out.insert("endpoints".to_owned(), list(&view.endpoints(), lateen_wire::json::cluster_load_assignment));
    Value::Object(out)
}

fn list<T>(items: &[T], one: fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(one).collect())
}
