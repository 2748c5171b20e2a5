//! Services and pods as generation sees them.

use super::change::Name;
use super::entry::{self, EntryService, EntryWorkload};
use super::protocol::Protocol;
use super::{Order, Rev};
use lateen_model::dataplane::{Locality, WorkloadRef};
use lateen_model::resource::{
    IntOrString, IpFamily, ObjectMeta, PodRecord, ServiceEntryResolution, ServiceType, StringMap, TrafficDistribution,
    TransportProtocol, WorkloadAddress, is_subset,
};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// The label by which an injected pod says that it speaks mutual TLS.
pub const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// Who may see a resource (`exportTo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Nothing was written: the mesh's default decides.
    Default,
    /// These entries: `*`, `~`, or names of namespaces (`.` is replaced by the resource's own).
    Entries(BTreeSet<Name>),
}

impl Visibility {
    /// Reads `exportTo` of a resource in `own`.
    pub fn new<'a>(entries: impl Iterator<Item = &'a str>, own: &str) -> Self {
        let set: BTreeSet<Name> = entries.map(|e| Name::from(if e == "." { own } else { e })).collect();
        if set.is_empty() { Self::Default } else { Self::Entries(set) }
    }

    /// Whether proxies of `namespace` see the resource; `default` is the mesh's, `own` the resource's namespace.
    pub fn includes(&self, namespace: &str, own: &str, default: &[String]) -> bool {
        match self {
            Self::Entries(set) => !set.contains("~") && (set.contains("*") || set.contains(namespace)),
            Self::Default if default.is_empty() => true,
            Self::Default => default.iter().any(|e| match e.as_str() {
                "*" => true,
                "." => namespace == own,
                other => namespace == other,
            }),
        }
    }

    /// Whether all namespaces see the resource.
    pub fn is_public(&self, default: &[String]) -> bool {
        match self {
            Self::Entries(set) => set.contains("*"),
            Self::Default => default.is_empty() || default.iter().any(|e| e == "*"),
        }
    }
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Changes with the content.
    pub rev: Rev,
    /// `name.namespace.svc.domain`.
    pub host: Name,
    /// Short name.
    pub name: Name,
    /// Namespace.
    pub namespace: Name,
    /// Age, for "oldest wins".
    pub order: Order,
    /// Cluster IPs, the primary family first; empty while none is given, and for headless services.
    pub vips: Vec<IpAddr>,
    /// Whether clients connect to the pods' own addresses.
    pub headless: bool,
    /// The families in which a headless service has its pods, the first being the primary one; empty for the others.
    pub families: Vec<IpFamily>,
    /// Its TCP ports; UDP is never proxied.
    pub ports: Vec<ServicePort>,
    /// Labels of the pods behind it; empty selects none.
    pub selector: StringMap,
    /// Who sees it.
    pub visibility: Visibility,
    /// Identities that its endpoints may have beside those of the pods behind it (annotations).
    pub accounts: Vec<String>,
    /// Other namespaces whose VirtualServices hold for every client of it; `*`: all ([`ROUTES_FROM`](lateen_model::resource::ROUTES_FROM)).
    pub routes_from: BTreeSet<Name>,
    /// Which endpoints its clients prefer, where no DestinationRule says it.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Whether unready pods are endpoints.
    pub publish_not_ready: bool,
    /// The host that an `ExternalName` service stands for.
    pub alias: Option<Name>,
    /// What a ServiceEntry says; `None` for services of the platform.
    pub entry: Option<Arc<EntryService>>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The service's port.
    pub number: u16,
    /// May be empty.
    pub name: Name,
    /// What is spoken.
    pub protocol: Protocol,
    /// The pod's port.
    pub target: Target,
}

/// The pod's port of a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By number.
    Number(u16),
    /// By the name of a container's port.
    Name(Name),
}

/// What the annotation `networking.istio.io/traffic-distribution` says; a value that nobody knows says nothing.
pub(super) fn traffic_distribution(meta: &ObjectMeta) -> Option<TrafficDistribution> {
    match meta.annotations.get("networking.istio.io/traffic-distribution")?.to_ascii_lowercase().as_str() {
        "preferclose" => Some(TrafficDistribution::PreferClose),
        "prefersamezone" => Some(TrafficDistribution::PreferSameZone),
        "prefersamenode" => Some(TrafficDistribution::PreferSameNode),
        _ => None,
    }
}

impl Service {
    /// The content of `resource`, with the addresses that the platform gave it.
    pub fn new(resource: &lateen_model::resource::Service, vips: &[IpAddr], domain: &str, rev: Rev) -> Self {
        let (meta, spec) = (&resource.metadata, &resource.spec);
        let annotation = |key: &str| {
            let list = meta.annotations.get(key).map(String::as_str).unwrap_or_default();
            list.split(',').map(str::trim).filter(|e| !e.is_empty()).collect::<Vec<_>>()
        };
        let export_to = annotation("networking.istio.io/exportTo");
        let mut accounts: Vec<String> = Vec::new();
        for account in annotation("alpha.istio.io/canonical-serviceaccounts") {
            accounts.push(format!("spiffe://{account}"));
        }
        for account in annotation("alpha.istio.io/kubernetes-serviceaccounts") {
            accounts.push(account.to_owned());
        }
        let alias = spec.external_name.as_deref().filter(|_| spec.type_ == ServiceType::ExternalName);
        Self {
            rev,
            host: format!("{}.{}.svc.{domain}", meta.name, meta.namespace).into(),
            name: meta.name.as_str().into(),
            namespace: meta.namespace.as_str().into(),
            order: Order::of(meta),
            vips: own_vips(spec, vips),
            headless: spec.is_headless(),
            families: if spec.is_headless() { spec.families() } else { Vec::new() },
            ports: ports(&spec.ports),
            selector: spec.selector.clone(),
            visibility: Visibility::new(export_to.into_iter(), &meta.namespace),
            accounts,
            routes_from: routes_from(meta),
            traffic_distribution: spec.traffic_distribution.or_else(|| traffic_distribution(meta)),
            publish_not_ready: spec.publish_not_ready_addresses,
            alias: alias.map(|host| host.trim_end_matches('.').to_ascii_lowercase().into()),
            entry: None,
        }
    }

    /// The port of this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.number == number)
    }

    /// Its key among the services of its namespace.
    pub fn key(&self) -> Name {
        if self.entry.is_some() { entry::key(&self.host) } else { Name::clone(&self.name) }
    }

    /// Whether what is known of its endpoints is written in its clusters, listeners or routes.
    pub fn shows_endpoints(&self) -> bool {
        self.headless || self.entry.as_ref().is_some_and(|e| e.is_dns())
    }

    /// Whether connections go where the client wanted to go.
    pub fn is_passthrough(&self) -> bool {
        self.headless || self.entry.as_ref().is_some_and(|e| e.resolution == ServiceEntryResolution::None)
    }

    /// Whether its workloads are outside of the mesh.
    pub fn is_external(&self) -> bool {
        self.entry.as_ref().is_some_and(|e| e.external)
    }

    /// Whether endpoints with addresses of the family of `ip` may be reached by that address.
    pub fn has_family(&self, ip: IpAddr) -> bool {
        let family = if ip.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 };
        !self.headless || self.families.contains(&family)
    }

    /// Whether it selects a workload with these labels in its namespace.
    pub fn selects(&self, labels: &StringMap) -> bool {
        if let Some(entry) = &self.entry {
            return entry.selectors.iter().any(|s| s.matches(labels));
        }
        !self.selector.is_empty() && is_subset(&self.selector, labels)
    }

    /// Whether it means the same as `other` (revisions aside).
    pub fn same_as(&self, other: &Self) -> bool {
        self.host == other.host
            && self.order == other.order
            && self.vips == other.vips
            && self.headless == other.headless
            && self.families == other.families
            && self.ports == other.ports
            && self.selector == other.selector
            && self.visibility == other.visibility
            && self.accounts == other.accounts
            && self.routes_from == other.routes_from
            && self.traffic_distribution == other.traffic_distribution
            && self.publish_not_ready == other.publish_not_ready
            && self.alias == other.alias
            && match (&self.entry, &other.entry) {
                (Some(a), Some(b)) => a.same_service_as(b),
                (None, None) => true,
                _ => false,
            }
    }
}

/// The namespaces that the owner of a service lets route to it.
pub(super) fn routes_from(meta: &ObjectMeta) -> BTreeSet<Name> {
    meta.routes_from().map(Name::from).collect()
}

/// The addresses given by the platform, or those that the manifest asks for.
fn own_vips(spec: &lateen_model::resource::ServiceSpec, given: &[IpAddr]) -> Vec<IpAddr> {
    if spec.is_headless() || spec.type_ == ServiceType::ExternalName {
        return Vec::new();
    }
    if !given.is_empty() {
        return given.to_vec();
    }
    let mut wanted: Vec<IpAddr> = Vec::new();
    for text in spec.cluster_ip.iter().chain(&spec.cluster_ips) {
        if let Ok(ip) = text.parse()
            && !wanted.contains(&ip)
        {
            wanted.push(ip);
        }
    }
    wanted
}

fn ports(ports: &[lateen_model::resource::ServicePort]) -> Vec<ServicePort> {
    let valid = |n: i64| u16::try_from(n).ok().filter(|n| *n > 0);
    let mut out = Vec::new();
    for port in ports {
        let Some(number) = valid(port.port) else { continue };
        let protocol = Protocol::select(port.protocol, port.app_protocol.as_deref(), &port.name, port.port);
        if protocol == Protocol::Udp {
            continue;
        }
        let target = match &port.target_port {
            None => Target::Number(number),
            Some(IntOrString::Int(n)) => match valid(i64::from(*n)) {
                Some(n) => Target::Number(n),
                None => continue,
            },
            Some(IntOrString::String(name)) => match name.parse() {
                Ok(n) => Target::Number(n),
                Err(_) => Target::Name(name.as_str().into()),
            },
        };
        out.push(ServicePort { number, name: port.name.as_str().into(), protocol, target });
    }
    out
}

/// A pod, or what a WorkloadEntry describes.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Changes with the content.
    pub rev: Rev,
    /// What the platform said.
    pub record: PodRecord,
    /// What a WorkloadEntry says; `None` for pods.
    pub entry: Option<EntryWorkload>,
}

impl Workload {
    /// The number of a service's port on this workload.
    pub fn resolve(&self, port: &ServicePort) -> Option<u16> {
        if let Some(entry) = &self.entry {
            return entry.resolve(port);
        }
        match &port.target {
            Target::Number(n) => Some(*n),
            Target::Name(name) => {
                let tcp = |p: &&lateen_model::resource::PodPort| p.name == **name && p.protocol == TransportProtocol::Tcp;
                self.record.ports.iter().find(tcp).map(|p| p.port)
            }
        }
    }

    /// Its address, unless it has a name instead.
    pub fn ip(&self) -> Option<IpAddr> {
        self.record.ips.first().copied()
    }

    /// Where it is: as is written for it, else by its labels.
    pub fn locality(&self) -> Locality {
        let written = self.entry.as_ref().map(|e| e.locality.clone()).filter(|l| *l != Locality::default());
        written.unwrap_or_else(|| super::place::of_labels(&self.record.labels))
    }

    /// Whether new traffic may be sent to it.
    pub fn takes_traffic(&self) -> bool {
        self.record.ready && !self.record.terminating
    }

    /// Whether its sidecar accepts mutual TLS.
    pub fn speaks_mtls(&self) -> bool {
        match self.record.labels.get(TLS_MODE_LABEL) {
            Some(mode) => mode == "istio",
            None => self.record.injected,
        }
    }

    /// Who it is in telemetry (telemetry contracts, label table).
    pub fn telemetry(&self, cluster_id: &str) -> WorkloadRef {
        let label = |keys: &[&str]| keys.iter().find_map(|k| self.record.labels.get(*k)).cloned();
        let name = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let revision = label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        WorkloadRef {
            workload: self.record.workload.name.clone(),
            namespace: self.record.namespace.clone(),
            canonical_name: name.unwrap_or_else(|| self.record.workload.name.clone()),
            canonical_revision: revision.unwrap_or_else(|| "latest".into()),
            cluster_id: cluster_id.into(),
        }
    }
}

/// A pod behind a service.
#[derive(Clone, Debug)]
pub struct ServicePod {
    /// The pod.
    pub workload: Arc<Workload>,
    /// Where it is reached.
    pub address: EndpointAddress,
    /// The pod's port for each of the service's ports, in the service's order; `None` if it has no port of that name.
    pub ports: Vec<Option<u16>>,
    /// Its name under the service, if that is headless and the pod has chosen one.
    pub hostname: Option<Name>,
    /// Whether somebody has given it, instead of a selector that found it.
    pub given: bool,
}

/// Where an endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAddress {
    /// An address.
    Ip(IpAddr),
    /// A name that proxies resolve.
    Name(Name),
}

impl ServicePod {
    /// Its address, unless it is a name.
    pub fn ip(&self) -> Option<IpAddr> {
        match &self.address {
            EndpointAddress::Ip(ip) => Some(*ip),
            EndpointAddress::Name(_) => None,
        }
    }

    /// All its addresses as endpoint of a service, the primary one first; none if it has a name instead.
    pub fn ips<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = IpAddr> + 'a {
        let first = self.ip();
        let pod = (!self.given && self.workload.entry.is_none()).then_some(self.workload.record.ips.iter().copied());
        let others = pod.into_iter().flatten().filter(move |ip| Some(*ip) != first && service.has_family(*ip));
        first.into_iter().chain(others)
    }

    /// Its share of the traffic.
    pub fn weight(&self) -> u32 {
        self.workload.entry.as_ref().map_or(1, |e| e.weight)
    }

    /// Where it is: as is written for it, else by its labels.
    pub fn locality(&self) -> Locality {
        self.workload.locality()
    }

    fn means_the_same(&self, other: &Self) -> bool {
        let (a, b) = (&self.workload.record, &other.workload.record);
        self.address == other.address
            && self.workload.entry == other.workload.entry
            && self.ports == other.ports
            && self.hostname == other.hostname
            && a.ips == b.ips
            && (&a.namespace, &a.name, &a.labels, &a.workload) == (&b.namespace, &b.name, &b.labels, &b.workload)
            && a.service_account == b.service_account
            && a.injected == b.injected
    }
}

/// All pods that a service selects.
#[derive(Clone, Debug)]
pub struct ServiceEndpoints {
    /// Changes when what is sent to clients changes.
    pub rev: Rev,
    /// In order of name; those without readiness too.
    pub pods: Vec<ServicePod>,
    /// Those that take traffic, in order of name.
    pub ready: Vec<ServicePod>,
    /// Service accounts of all pods: sorted, each once.
    pub accounts: Vec<Name>,
    /// Changes with `accounts`.
    pub accounts_rev: Rev,
}

impl ServiceEndpoints {
    /// Finds the workloads of `service` among those of its namespace.
    ///
    /// `given` are those that somebody gives, and whether each takes traffic; one that a selector has found already stays as found.
    pub fn new<'a>(
        service: &'a Service,
        workloads: impl Iterator<Item = &'a Arc<Workload>>,
        given: Vec<(ServicePod, bool)>,
        rev: Rev,
    ) -> Self {
        let mut pods = Vec::new();
        let mut ready = Vec::new();
        let inline = service.entry.iter().flat_map(|e| &e.inline);
        // An entry's own addresses say nothing of those of its endpoints.
        let vip = service.vips.first().filter(|_| service.entry.is_none());
        for workload in inline.chain(workloads.filter(|w| service.selects(&w.record.labels))) {
            let family = |ip: &&IpAddr| match vip {
                Some(vip) => vip.is_ipv4() == ip.is_ipv4(),
                None => service.has_family(**ip),
            };
            let ips = &workload.record.ips;
            // Clients of a headless service cannot use another family than its own.
            let address = match ips.iter().find(family).or(ips.first().filter(|_| !service.headless)) {
                Some(ip) => EndpointAddress::Ip(*ip),
                None => match workload.entry.as_ref().map(|e| &e.address) {
                    Some(WorkloadAddress::Name(name)) => EndpointAddress::Name(name.as_str().into()),
                    _ => continue,
                },
            };
            let ports = service.ports.iter().map(|p| workload.resolve(p)).collect();
            let record = &workload.record;
            let hostname = Some(&record.hostname).filter(|name| !name.is_empty() && record.subdomain == *service.name);
            let hostname = hostname.map(|name| Name::from(name.as_str()));
            let pod = ServicePod { workload: Arc::clone(workload), address, ports, hostname, given: false };
            if workload.takes_traffic() || (service.publish_not_ready && !record.terminating) {
                ready.push(pod.clone());
            }
            pods.push(pod);
        }
        for (pod, usable) in given {
            if !pods.iter().any(|known: &ServicePod| known.address == pod.address && known.ports == pod.ports) {
                if usable {
                    ready.push(pod.clone());
                }
                pods.push(pod);
            }
        }
        let accounts = pods.iter().map(|p| p.workload.record.service_account.as_str()).filter(|a| !a.is_empty());
        let accounts: BTreeSet<Name> = accounts.map(Name::from).collect();
        Self { rev, pods, ready, accounts: accounts.into_iter().collect(), accounts_rev: rev }
    }

    /// Whether clients are told the same.
    pub fn same_for_clients(&self, other: &Self) -> bool {
        self.ready.len() == other.ready.len() && self.ready.iter().zip(&other.ready).all(|(a, b)| a.means_the_same(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visibility() {
        let star = ["*".to_owned()];
        let own = [".".to_owned()];
        let v = |entries: &[&str]| Visibility::new(entries.iter().copied(), "a");
        for (visibility, namespace, default, expected) in [
            (v(&[]), "b", &star[..], true),
            (v(&[]), "b", &own[..], false),
            (v(&[]), "a", &own[..], true),
            (v(&[]), "b", &[][..], true),
            (v(&["."]), "b", &star[..], false),
            (v(&["."]), "a", &star[..], true),
            (v(&["*"]), "b", &own[..], true),
            (v(&["b", "c"]), "b", &star[..], true),
            (v(&["b", "c"]), "a", &star[..], false),
            (v(&["~"]), "a", &star[..], false),
        ] {
            assert_eq!(visibility.includes(namespace, "a", default), expected, "{visibility:?} {namespace} {default:?}");
        }
    }
}
