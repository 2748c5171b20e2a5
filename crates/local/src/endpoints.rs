//! What stands behind which service port: for clients without a sidecar, and for DNS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lateen_capture::nft::Transport;
use lateen_capture::services::ServicePort as Translated;
use lateen_model::resource::{
    GivenEndpoints, IntOrString, IpFamily, PodRecord, Service, ServicePort, ServiceType, TransportProtocol, is_subset,
};

use crate::resources::Resources;

/// Endpoints that somebody gives (EndpointSlice, `v1 Endpoints`), by namespace and service.
#[derive(Debug, Default)]
pub(crate) struct Given(BTreeMap<(String, String), Vec<Gift>>);

#[derive(Debug)]
struct Gift {
    /// `v1 Endpoints` of a service with a selector are not the user's to write.
    only_without_selector: bool,
    endpoints: GivenEndpoints,
}

impl Given {
    pub(crate) fn of(resources: &Resources) -> Self {
        let mut out = Self::default();
        for slice in resources.endpoint_slices() {
            let Some(service) = slice.service() else { continue };
            out.add((&slice.metadata.namespace, service), false, slice.given());
        }
        for object in resources.all_endpoints() {
            for endpoints in object.given() {
                out.add((&object.metadata.namespace, &object.metadata.name), true, endpoints);
            }
        }
        out
    }

    fn add(&mut self, (namespace, service): (&str, &str), only_without_selector: bool, endpoints: GivenEndpoints) {
        let key = (namespace.to_owned(), service.to_owned());
        self.0.entry(key).or_default().push(Gift { only_without_selector, endpoints });
    }

    fn to(&self, service: &Service) -> impl Iterator<Item = &GivenEndpoints> {
        let key = (service.metadata.namespace.clone(), service.metadata.name.clone());
        let none = service.spec.selector.is_empty();
        self.0.get(&key).into_iter().flatten().filter(move |g| none || !g.only_without_selector).map(|g| &g.endpoints)
    }
}

/// Pods, and endpoints that somebody gives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) pods: &'a [PodRecord],
    pub(crate) given: &'a Given,
}

/// An endpoint of a service.
#[derive(Debug)]
pub(crate) struct Member<'a> {
    /// Its addresses, of the service's families.
    pub(crate) ips: Vec<IpAddr>,
    /// The name under the service that it has chosen.
    pub(crate) hostname: Option<&'a str>,
    ports: Ports<'a>,
}

#[derive(Debug)]
enum Ports<'a> {
    Pod(&'a PodRecord),
    Given(&'a GivenEndpoints),
}

impl Member<'_> {
    /// Its port to which a service's port leads; `None` if it has no such one.
    pub(crate) fn port(&self, port: &ServicePort) -> Option<u16> {
        match self.ports {
            Ports::Pod(pod) => target_port(port, pod),
            Ports::Given(given) => given.port(&port.name, port.protocol),
        }
    }
}

impl<'a> Known<'a> {
    /// What takes traffic of a service: the pods that it selects, and what it is given.
    pub(crate) fn behind(self, service: &'a Service) -> Vec<Member<'a>> {
        let families = service.spec.families();
        let of_family = |ip: &IpAddr| {
            let family = if ip.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 };
            !service.spec.is_headless() || families.contains(&family)
        };
        let of_pod = |pod: &'a PodRecord| {
            let own = !pod.hostname.is_empty() && pod.subdomain == service.metadata.name;
            Member {
                ips: pod.ips.iter().copied().filter(of_family).collect(),
                hostname: own.then_some(pod.hostname.as_str()),
                ports: Ports::Pod(pod),
            }
        };
        let mut members: Vec<Member<'a>> = behind(service, self.pods).map(of_pod).collect();
        let mut seen: BTreeSet<IpAddr> = members.iter().flat_map(|m| m.ips.iter().copied()).collect();
        for given in self.given.to(service) {
            for endpoint in given.endpoints.iter().filter(|e| e.ready || service.spec.publish_not_ready_addresses) {
                let pod = self.pods.iter().find(|p| {
                    p.namespace == service.metadata.namespace
                        && endpoint.pod.as_ref().map_or(p.ips.contains(&endpoint.address), |name| *name == p.name)
                });
                let absent = endpoint.pod.is_some() && pod.is_none();
                if !absent && !pod.is_some_and(|p| p.terminating) && seen.insert(endpoint.address) {
                    let hostname = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
                    members.push(Member { ips: vec![endpoint.address], hostname, ports: Ports::Given(given) });
                }
            }
        }
        members
    }
}

/// The pods that take traffic of a service, by the rules of Kubernetes' endpoints: selected, ready (unless the service
/// publishes all), and not being stopped.
fn behind<'a>(service: &'a Service, pods: &'a [PodRecord]) -> impl Iterator<Item = &'a PodRecord> {
    let selector = &service.spec.selector;
    let all = service.spec.publish_not_ready_addresses;
    pods.iter().filter(move |pod| {
        !selector.is_empty()
            && pod.namespace == service.metadata.namespace
            && is_subset(selector, &pod.labels)
            && ((pod.ready && !pod.terminating) || all)
    })
}

/// The port of a pod to which a service's port leads; `None` when it is a name that the pod does not have.
fn target_port(port: &ServicePort, pod: &PodRecord) -> Option<u16> {
    match &port.target_port {
        None => u16::try_from(port.port).ok(),
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => {
            pod.ports.iter().find(|p| p.name == *name && p.protocol == port.protocol).map(|p| p.port)
        }
    }
}

/// Every service port at every address of the service, with its endpoints.
pub(crate) fn translated<'a>(
    services: impl Iterator<Item = &'a Service>,
    addresses: &BTreeMap<String, Vec<IpAddr>>,
    known: Known<'a>,
) -> Vec<Translated> {
    let mut out = Vec::new();
    for service in services.filter(|s| s.spec.type_ != ServiceType::ExternalName) {
        let key = format!("{}/{}", service.metadata.namespace, service.metadata.name);
        let members = known.behind(service);
        for address in addresses.get(&key).into_iter().flatten() {
            for port in &service.spec.ports {
                let transport = match port.protocol {
                    TransportProtocol::Tcp => Transport::Tcp,
                    TransportProtocol::Udp => Transport::Udp,
                    TransportProtocol::Sctp => continue,
                };
                let Ok(number) = u16::try_from(port.port) else { continue };
                let endpoint = |member: &Member<'_>| {
                    let ip = member.ips.iter().find(|ip| ip.is_ipv4() == address.is_ipv4())?;
                    Some(SocketAddr::new(*ip, member.port(port)?))
                };
                let endpoints = members.iter().filter_map(endpoint).collect();
                out.push(Translated { address: *address, port: number, transport, endpoints });
            }
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::resources::Resources;
    use lateen_model::resource::{PodPort, StringMap, WorkloadRef};

    pub(crate) fn pod(n: u8, labels: &[(&str, &str)], ready: bool) -> PodRecord {
        PodRecord {
            name: format!("p{n}"),
            namespace: "n".to_owned(),
            uid: n.to_string(),
            hostname: String::new(),
            subdomain: String::new(),
            ips: vec![IpAddr::from([10, 244, 0, n]), format!("fd00::{n:x}").parse().unwrap()],
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<StringMap>(),
            annotations: StringMap::new(),
            service_account: "default".to_owned(),
            workload: WorkloadRef { kind: "Pod".to_owned(), name: format!("p{n}") },
            node: "lateen".to_owned(),
            ports: vec![PodPort { name: "web".to_owned(), port: 8000 + u16::from(n), protocol: TransportProtocol::Tcp }],
            injected: false,
            ready,
            terminating: false,
            created: 0,
        }
    }

    const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: s, namespace: "n"}
spec:
  selector: {app: a}
  ports:
  - {name: named, port: 80, targetPort: web}
  - {name: same, port: 81}
---
apiVersion: v1
kind: Service
metadata: {name: all, namespace: "n"}
spec:
  selector: {app: a}
  publishNotReadyAddresses: true
  ports:
  - {name: dns, port: 53, protocol: UDP, targetPort: 5353}
"#;

    #[test]
    fn endpoints_are_ready_selected_and_not_leaving() {
        let resources = Resources::from_text(SERVICES);
        let mut leaving = pod(4, &[("app", "a")], true);
        leaving.terminating = true;
        let pods = [pod(1, &[("app", "a")], true), pod(2, &[("app", "a")], false), pod(3, &[("app", "b")], true), leaving];
        let addresses = BTreeMap::from([
            ("n/s".to_owned(), vec!["10.96.0.1".parse().unwrap(), "fd01::1".parse().unwrap()]),
            ("n/all".to_owned(), vec!["10.96.0.2".parse().unwrap()]),
        ]);
        let given = Given::of(&resources);
        let found = translated(resources.services(), &addresses, Known { pods: &pods, given: &given });
        let text: Vec<String> =
            found.iter().map(|t| format!("{} {:?} {} {:?}", t.address, t.transport, t.port, t.endpoints)).collect();
        assert_eq!(
            text,
            [
                "10.96.0.2 Udp 53 [10.244.0.1:5353, 10.244.0.2:5353, 10.244.0.4:5353]",
                "10.96.0.1 Tcp 80 [10.244.0.1:8001]",
                "10.96.0.1 Tcp 81 [10.244.0.1:81]",
                "fd01::1 Tcp 80 [[fd00::1]:8001]",
                "fd01::1 Tcp 81 [[fd00::1]:81]",
            ]
        );
    }

    const GIVEN: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: s, namespace: "n"}
spec: {ports: [{name: web, port: 80}, {name: other, port: 81}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, namespace: "n", labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints:
- {addresses: [192.0.2.1], hostname: first}
- {addresses: [192.0.2.2], conditions: {ready: false}}
- {addresses: [10.244.0.4], targetRef: {kind: Pod, name: p4}}
- {addresses: [10.244.0.9], targetRef: {kind: Pod, name: p9}}
ports: [{name: web, port: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-2, namespace: "n", labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [10.244.0.1]}, {addresses: [192.0.2.1]}]
ports: [{name: web, port: 9090}, {name: other, port: 9091}]
---
apiVersion: v1
kind: Service
metadata: {name: old, namespace: "n"}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: old, namespace: "n"}
subsets:
- {addresses: [{ip: 192.0.2.7}], notReadyAddresses: [{ip: 192.0.2.8}], ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: selects, namespace: "n"}
spec: {selector: {app: a}, ports: [{name: web, port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: selects, namespace: "n"}
subsets: [{addresses: [{ip: 192.0.2.9}], ports: [{name: web, port: 8080}]}]
"#;

    #[test]
    fn endpoints_that_are_given_add_up() {
        let resources = Resources::from_text(GIVEN);
        let given = Given::of(&resources);
        let mut leaving = pod(4, &[], true);
        leaving.terminating = true;
        let pods = [pod(1, &[("app", "a")], true), leaving];
        let known = Known { pods: &pods, given: &given };
        let addresses = BTreeMap::from([
            ("n/s".to_owned(), vec!["10.96.0.1".parse().unwrap()]),
            ("n/old".to_owned(), vec!["10.96.0.2".parse().unwrap()]),
            ("n/selects".to_owned(), vec!["10.96.0.3".parse().unwrap()]),
        ]);
        let found = translated(resources.services(), &addresses, known);
        let text: Vec<String> = found.iter().map(|t| format!("{} {} {:?}", t.address, t.port, t.endpoints)).collect();
        assert_eq!(
            text,
            [
                "10.96.0.2 80 [192.0.2.7:8080]",
                "10.96.0.1 80 [192.0.2.1:8080, 10.244.0.1:9090]",
                "10.96.0.1 81 [10.244.0.1:9091]",
                "10.96.0.3 80 [10.244.0.1:80]",
            ]
        );
        let service = resources.service("n", "s").unwrap();
        assert_eq!(known.behind(service)[0].hostname, Some("first"));
    }
}
