//! Which pods stand behind which service port: for clients without a sidecar, and for DNS.

use std::net::{IpAddr, SocketAddr};

use lateen_capture::nft::Transport;
use lateen_capture::services::ServicePort as Translated;
use lateen_model::resource::{IntOrString, PodRecord, Service, ServicePort, ServiceType, TransportProtocol, is_subset};

/// The pods that take traffic of a service, by the rules of Kubernetes' endpoints: selected, ready (unless the service
/// publishes all), and not being stopped.
pub(crate) fn behind<'a>(service: &'a Service, pods: &'a [PodRecord]) -> impl Iterator<Item = &'a PodRecord> {
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
pub(crate) fn target_port(port: &ServicePort, pod: &PodRecord) -> Option<u16> {
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
    addresses: &std::collections::BTreeMap<String, Vec<IpAddr>>,
    pods: &[PodRecord],
) -> Vec<Translated> {
    let mut out = Vec::new();
    for service in services.filter(|s| s.spec.type_ != ServiceType::ExternalName) {
        let key = format!("{}/{}", service.metadata.namespace, service.metadata.name);
        for address in addresses.get(&key).into_iter().flatten() {
            for port in &service.spec.ports {
                let transport = match port.protocol {
                    TransportProtocol::Tcp => Transport::Tcp,
                    TransportProtocol::Udp => Transport::Udp,
                    TransportProtocol::Sctp => continue,
                };
                let Ok(number) = u16::try_from(port.port) else { continue };
                let endpoints = behind(service, pods)
                    .filter_map(|pod| {
                        let ip = pod.ips.iter().find(|ip| ip.is_ipv4() == address.is_ipv4())?;
                        Some(SocketAddr::new(*ip, target_port(port, pod)?))
                    })
                    .collect();
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
    use std::collections::BTreeMap;

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
        let found = translated(resources.services(), &addresses, &pods);
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
}
