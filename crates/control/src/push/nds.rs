//! The table of names (NDS) for a proxy's own DNS: services that its scope knows, with their addresses.

use super::memo::resource;
use super::view::View;
use crate::world::Service;
use lateen_xds::Resource;
use lateen_xds::nds::{NameInfo, NameTable};
use prost::Message;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The table of a view: one resource without a name. A service without any address is left out.
pub(super) fn table(view: &View) -> Arc<Resource> {
    let mut table = BTreeMap::new();
    let has = |ip: &IpAddr| view.proxy.families.has(*ip);
    for scoped in view.scope.visible() {
        let service = &scoped.service;
        if !service.headless {
            add(&mut table, service, (service.host.to_string(), &service.name), service.vips.iter().copied().filter(has));
            continue;
        }
        let pods = view.world.endpoints_of(service).map(|e| e.ready.as_slice()).unwrap_or_default();
        add(&mut table, service, (service.host.to_string(), &service.name), pods.iter().flat_map(|p| p.ips(service)).filter(has));
        for pod in pods {
            if let Some(name) = &pod.hostname {
                let (host, short) = (format!("{name}.{}", service.host), format!("{name}.{}", service.name));
                add(&mut table, service, (host, &short), pod.ips(service).filter(has));
            }
        }
    }
    resource("", NameTable { table }.encode_to_vec().into())
}

/// Adds addresses to a name: pods of one name share it.
fn add(
    table: &mut BTreeMap<String, NameInfo>,
    service: &Service,
    (host, short): (String, &str),
    ips: impl Iterator<Item = IpAddr>,
) {
    for ip in ips {
        let info = table.entry(host.clone()).or_insert_with(|| NameInfo {
            ips: Vec::new(),
            registry: if service.entry.is_some() { "External" } else { "Kubernetes" }.to_owned(),
            shortname: short.to_owned(),
            namespace: service.namespace.to_string(),
        });
        let ip = ip.to_string();
        if !info.ips.contains(&ip) {
            info.ips.push(ip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::fixture::{pod, proxy, world};
    use lateen_xds::Generation;

    const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: one, namespace: a}
spec: {selector: {app: set}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: set, namespace: a}
spec: {clusterIP: None, selector: {app: set}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: a}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: a}
spec: {hosts: [api.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: hidden, namespace: b}
spec: {hosts: [hidden.example.com], exportTo: ['.'], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
";

    #[test]
    fn the_table_has_what_the_proxy_may_know() {
        let set = |n: u8, subdomain: &str| {
            let mut set = pod("a", &format!("set-{n}"), [10, 0, 0, n], &[("app", "set")]);
            (set.hostname, set.subdomain) = (format!("set-{n}"), subdomain.to_owned());
            set.ips.push(format!("fd00::{n}").parse().expect("an address"));
            set
        };
        let world = world(SERVICES, &[set(1, "set"), set(2, "set"), set(3, "else")]);
        let of = |families| {
            let proxy = crate::generate::Proxy { families, ..proxy(&world, "a", "set-1") };
            let view = View::new(Generation(0), &world, Arc::new(proxy), &Arc::default());
            let body = table(&view).body().clone();
            let table = NameTable::decode(body).expect("a table").table;
            table.into_iter().map(|(host, info)| (host, format!("{} {} {:?}", info.registry, info.shortname, info.ips))).collect()
        };
        let found: BTreeMap<String, String> = of(crate::generate::proxy::Families::V4);
        let hosts: Vec<&str> = found.keys().map(String::as_str).collect();
        let expected = [
            "api.example.com",
            "one.a.svc.cluster.local",
            "set-1.set.a.svc.cluster.local",
            "set-2.set.a.svc.cluster.local",
            "set.a.svc.cluster.local",
        ];
        assert_eq!(hosts, expected);
        assert_eq!(found["one.a.svc.cluster.local"], "Kubernetes one [\"10.96.0.1\"]");
        assert_eq!(found["set.a.svc.cluster.local"], "Kubernetes set [\"10.0.0.1\", \"10.0.0.2\", \"10.0.0.3\"]");
        assert_eq!(found["set-2.set.a.svc.cluster.local"], "Kubernetes set-2.set [\"10.0.0.2\"]");
        assert!(found["api.example.com"].starts_with("External api.example.com [\"240.240."), "{found:?}");
        assert!(!found["api.example.com"].contains("2001:2"), "the proxy has no IPv6");
        let found: BTreeMap<String, String> = of(crate::generate::proxy::Families::V4V6);
        assert!(found["api.example.com"].contains("2001:2"), "{found:?}");
    }
}
