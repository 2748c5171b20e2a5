//! ServiceEntries and WorkloadEntries as generation sees them: services and workloads among the others.

use super::change::Name;
use super::namespace::NamespaceWorld;
use super::protocol::Protocol;
use super::service::{Service, ServicePort, TLS_MODE_LABEL, Target, Workload};
use super::{Entry, Rev, place};
use ipnet::IpNet;
use lateen_model::dataplane::Locality;
use lateen_model::resource::address_allocation::AllocatedAddress;
use lateen_model::resource::{
    ObjectMeta, PodRecord, ServiceEntry, ServiceEntryLocation, ServiceEntryResolution, ServiceEntrySpec, SidecarSelector,
    StringMap, WorkloadAddress, WorkloadEntry, WorkloadEntrySpec, WorkloadRef, host,
};
use std::net::IpAddr;
use std::sync::Arc;

/// The label that tells of which network a workload is (Istio).
const NETWORK_LABEL: &str = "topology.istio.io/network";

/// What a service that a ServiceEntry made has, and others have not.
#[derive(Clone, Debug)]
pub struct EntryService {
    /// How endpoints are found.
    pub resolution: ServiceEntryResolution,
    /// Whether its workloads are outside of the mesh.
    pub external: bool,
    /// CIDR blocks that clients connect to.
    pub networks: Vec<IpNet>,
    /// Whether its addresses were given automatically.
    pub allocated: bool,
    /// Which WorkloadEntries and pods of its namespace are its endpoints: of each ServiceEntry of the host one.
    pub selectors: Vec<SidecarSelector>,
    /// Endpoints that are written in the ServiceEntries of the host.
    pub inline: Vec<Arc<Workload>>,
}

impl EntryService {
    /// Whether both mean the same, endpoints aside.
    pub(super) fn same_service_as(&self, other: &Self) -> bool {
        self.resolution == other.resolution
            && self.external == other.external
            && self.networks == other.networks
            && self.allocated == other.allocated
            && self.selectors == other.selectors
    }

    /// Whether proxies resolve its endpoints' names.
    pub fn is_dns(&self) -> bool {
        matches!(self.resolution, ServiceEntryResolution::Dns | ServiceEntryResolution::DnsRoundRobin)
    }
}

/// What a workload that a WorkloadEntry describes has, and pods have not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryWorkload {
    /// Where it is.
    pub address: WorkloadAddress,
    /// Its ports by the names of services' ports.
    pub ports: std::collections::BTreeMap<String, u32>,
    /// Its share of the traffic; at least 1.
    pub weight: u32,
    /// Where it is.
    pub locality: Locality,
}

impl EntryWorkload {
    /// The workload's port for a port of a service.
    pub(super) fn resolve(&self, port: &ServicePort) -> Option<u16> {
        let named = |name: &str| self.ports.get(name).and_then(|n| u16::try_from(*n).ok());
        named(&port.name).or_else(|| match &port.target {
            Target::Number(n) => Some(*n),
            Target::Name(name) => named(name),
        })
    }
}

/// A workload of these metadata; `None` if its address is of a kind that is not served.
fn workload(meta: &ObjectMeta, name: String, mut labels: StringMap, spec: &WorkloadEntrySpec, rev: Rev) -> Option<Workload> {
    let address = spec.parsed_address()?;
    if !spec.network.is_empty() {
        labels.entry(NETWORK_LABEL.to_owned()).or_insert_with(|| spec.network.clone());
    }
    let ips = match &address {
        WorkloadAddress::Ip(ip) => vec![*ip],
        WorkloadAddress::Name(_) => Vec::new(),
        WorkloadAddress::Unix(_) => return None,
    };
    let speaks_mtls = labels.get(TLS_MODE_LABEL).map_or(!spec.service_account.is_empty(), |mode| mode == "istio");
    let record = PodRecord {
        uid: format!("{}/{name}", meta.namespace),
        hostname: String::new(),
        subdomain: String::new(),
        namespace: meta.namespace.clone(),
        ips,
        labels,
        annotations: StringMap::new(),
        service_account: spec.service_account.clone(),
        workload: WorkloadRef { kind: "WorkloadEntry".to_owned(), name: name.clone() },
        node: String::new(),
        ports: Vec::new(),
        injected: speaks_mtls,
        ready: true,
        terminating: false,
        created: 0,
        name,
    };
    let entry = EntryWorkload {
        address,
        ports: spec.ports.clone(),
        weight: spec.weight.max(1),
        locality: place::of_text(&spec.locality),
    };
    Some(Workload { rev, record, entry: Some(entry) })
}

/// The workload that a WorkloadEntry describes.
pub(super) fn of_workload_entry(resource: &WorkloadEntry, rev: Rev) -> Option<Workload> {
    let meta = &resource.metadata;
    workload(meta, meta.name.clone(), resource.effective_labels(), &resource.spec, rev)
}

/// The hosts of an entry as services have them.
pub(super) fn hosts(resource: &ServiceEntry) -> impl Iterator<Item = Name> + '_ {
    resource.spec.hosts.iter().map(|h| h.trim_end_matches('.').to_ascii_lowercase().into())
}

/// The key of a host's service among the services of its namespace. A name without a dot is that of a service of the platform.
pub(super) fn key(host: &str) -> Name {
    if host.contains('.') { host.into() } else { format!("{host}.").into() }
}

/// The service of a host: what the oldest ServiceEntry of the namespace that has it says, with the endpoints of all of them.
pub(super) fn service(namespace: &NamespaceWorld, host: &Name, allocated: Option<AllocatedAddress>) -> Option<Service> {
    let of_host = || namespace.service_entries.iter().filter(|e| e.hosts.contains(host));
    let base: &Arc<Entry<ServiceEntry>> = of_host().next()?;
    let (meta, spec) = (&base.resource.metadata, &base.resource.spec);
    let (mut vips, mut networks): (Vec<IpAddr>, Vec<IpNet>) = (Vec::new(), Vec::new());
    for text in &spec.addresses {
        match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
            (Ok(ip), _) => vips.push(ip),
            // A block of one address is that address.
            (_, Ok(net)) if net.prefix_len() == net.max_prefix_len() => vips.push(net.addr()),
            (_, Ok(net)) => networks.push(net.trunc()),
            _ => {}
        }
    }
    let wants = spec.wants_addresses(&meta.labels) && !host::is_wildcard(host);
    let allocated = allocated.filter(|_| wants);
    vips.extend(allocated.iter().flat_map(|a| a.both()));
    let mut accounts: Vec<String> = Vec::new();
    for name in of_host().flat_map(|e| &e.resource.spec.subject_alt_names) {
        if !accounts.contains(name) {
            accounts.push(name.clone());
        }
    }
    let entry = EntryService {
        resolution: spec.resolution,
        external: spec.location == ServiceEntryLocation::MeshExternal,
        networks,
        allocated: allocated.is_some(),
        selectors: of_host().filter_map(|e| e.resource.spec.workload_selector.clone()).filter(|s| !s.is_empty()).collect(),
        inline: of_host().flat_map(|e| inline(e)).collect(),
    };
    Some(Service {
        rev: Rev::default(),
        host: Name::clone(host),
        name: Name::clone(host),
        namespace: meta.namespace.as_str().into(),
        order: base.order.clone(),
        vips,
        headless: false,
        families: Vec::new(),
        ports: ports(spec),
        selector: StringMap::new(),
        visibility: base.visibility.clone(),
        accounts,
        routes_from: super::service::routes_from(meta),
        traffic_distribution: super::service::traffic_distribution(meta),
        publish_not_ready: false,
        alias: None,
        entry: Some(Arc::new(entry)),
    })
}

fn inline(entry: &Entry<ServiceEntry>) -> impl Iterator<Item = Arc<Workload>> + '_ {
    let meta = &entry.resource.metadata;
    entry.resource.spec.endpoints.iter().enumerate().filter_map(move |(index, spec)| {
        let name = format!("{}-{index}", meta.name);
        workload(meta, name, spec.labels.clone(), spec, entry.rev).map(Arc::new)
    })
}

fn ports(spec: &ServiceEntrySpec) -> Vec<ServicePort> {
    let valid = |n: u32| u16::try_from(n).ok().filter(|n| *n > 0);
    let mut out = Vec::new();
    for port in &spec.ports {
        let Some(number) = valid(port.number) else { continue };
        let declared = Some(port.protocol.as_str()).filter(|p| !p.is_empty());
        let protocol = Protocol::select(ServiceEntrySpec::transport(port), declared, "", number.into());
        if protocol == Protocol::Udp {
            continue;
        }
        let target = Target::Number(valid(port.target_port).unwrap_or(number));
        out.push(ServicePort { number, name: port.name.as_str().into(), protocol, target });
    }
    out
}
