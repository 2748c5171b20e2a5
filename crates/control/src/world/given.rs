//! Endpoints that somebody gives (EndpointSlice, `v1 Endpoints`), beside the pods that selectors find.

use super::Rev;
use super::change::Name;
use super::entry::EntryWorkload;
use super::service::{EndpointAddress, Service, ServicePod, Workload};
use lateen_model::dataplane::Locality;
use lateen_model::resource::{
    GivenEndpoint, GivenEndpoints, PodRecord, StringMap, TransportProtocol, WorkloadAddress, WorkloadRef,
};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// What one object gives to one service.
#[derive(Debug)]
pub(super) struct Gift {
    rev: Rev,
    /// Whether it counts only for services without a selector: those with one have their `v1 Endpoints` made for them.
    only_without_selector: bool,
    endpoints: Vec<GivenEndpoints>,
}

/// All that is given in one namespace.
#[derive(Clone, Debug, Default)]
pub(in crate::world) struct Given {
    /// By the service's name, then by the object's.
    by_service: BTreeMap<Name, BTreeMap<Name, Arc<Gift>>>,
    /// Of which service each object is.
    service_of: BTreeMap<Name, Name>,
}

impl Given {
    pub(super) fn is_empty(&self) -> bool {
        self.service_of.is_empty()
    }

    /// The services that are given anything.
    pub(super) fn services(&self) -> impl Iterator<Item = &Name> {
        self.by_service.keys()
    }

    /// Takes what an object gives; answers the services whose endpoints may be others now.
    pub(super) fn put(
        &mut self,
        object: &str,
        service: Option<&str>,
        endpoints: Vec<GivenEndpoints>,
        (only_without_selector, rev): (bool, Rev),
    ) -> Vec<Name> {
        let known = self.service_of.get(object).and_then(|name| Some((name, self.by_service.get(name)?.get(object)?)));
        if known.is_some_and(|(name, gift)| Some(&**name) == service && gift.endpoints == endpoints) {
            return Vec::new();
        }
        let mut stale: Vec<Name> = self.remove(object).into_iter().collect();
        if let Some(service) = service {
            let (object, service): (Name, Name) = (object.into(), service.into());
            let gift = Arc::new(Gift { rev, only_without_selector, endpoints });
            self.by_service.entry(Name::clone(&service)).or_default().insert(Name::clone(&object), gift);
            self.service_of.insert(object, Name::clone(&service));
            stale.push(service);
        }
        stale
    }

    /// Forgets an object; answers of which service it was.
    pub(super) fn remove(&mut self, object: &str) -> Option<Name> {
        let service = self.service_of.remove(object)?;
        let of_service = self.by_service.get_mut(&service)?;
        of_service.remove(object);
        if of_service.is_empty() {
            self.by_service.remove(&service);
        }
        Some(service)
    }

    /// The endpoints that a service is given, and whether each takes traffic. `pods` are those of the namespace: one of them that
    /// an endpoint is, by its name or its address, is known by its labels and its identity.
    pub(super) fn of<'a>(&self, service: &Service, pods: impl Iterator<Item = &'a Arc<Workload>>) -> Vec<(ServicePod, bool)> {
        let Some(gifts) = self.by_service.get(&service.name).filter(|_| service.entry.is_none()) else { return Vec::new() };
        let pods: Vec<&Arc<Workload>> = pods.collect();
        let by_ip: HashMap<IpAddr, &Arc<Workload>> = pods.iter().flat_map(|p| p.record.ips.iter().map(|ip| (*ip, *p))).collect();
        let by_name: HashMap<&str, &Arc<Workload>> = pods.iter().map(|p| (p.record.name.as_str(), *p)).collect();
        let mut out = Vec::new();
        for gift in gifts.values().filter(|g| !g.only_without_selector || service.selector.is_empty()) {
            for group in &gift.endpoints {
                let ports: Vec<Option<u16>> = service.ports.iter().map(|p| group.port(&p.name, TransportProtocol::Tcp)).collect();
                for endpoint in &group.endpoints {
                    let workload = match &endpoint.pod {
                        // Who it is said to be will be known when that pod is.
                        Some(name) => match by_name.get(name.as_str()) {
                            Some(pod) => Arc::clone(pod),
                            None => continue,
                        },
                        None => match by_ip.get(&endpoint.address) {
                            Some(pod) => Arc::clone(pod),
                            None => Arc::new(stranger(service, endpoint, gift.rev)),
                        },
                    };
                    let usable = (endpoint.ready || service.publish_not_ready) && !workload.record.terminating;
                    let pod = ServicePod {
                        address: EndpointAddress::Ip(endpoint.address),
                        hostname: endpoint.hostname.as_deref().filter(|h| !h.is_empty()).map(Name::from),
                        ports: ports.clone(),
                        given: true,
                        workload,
                    };
                    out.push((pod, usable));
                }
            }
        }
        out
    }
}

/// An endpoint that no pod of the mesh is: nothing is known of it but its address.
fn stranger(service: &Service, endpoint: &GivenEndpoint, rev: Rev) -> Workload {
    let record = PodRecord {
        name: endpoint.address.to_string(),
        namespace: service.namespace.to_string(),
        uid: format!("{}/{}", service.namespace, endpoint.address),
        hostname: String::new(),
        subdomain: String::new(),
        ips: vec![endpoint.address],
        labels: StringMap::new(),
        annotations: StringMap::new(),
        service_account: String::new(),
        workload: WorkloadRef { kind: String::new(), name: String::new() },
        node: endpoint.node.clone(),
        ports: Vec::new(),
        injected: false,
        ready: endpoint.ready,
        terminating: false,
        created: 0,
    };
    let locality = Locality { zone: endpoint.zone.clone(), ..Locality::default() };
    let entry = EntryWorkload { address: WorkloadAddress::Ip(endpoint.address), ports: BTreeMap::new(), weight: 1, locality };
    Workload { rev, record, entry: Some(entry) }
}
