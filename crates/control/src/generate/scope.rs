//! What a proxy may know: the services and VirtualServices that its Sidecar resource lets it see.

use super::delegate;
use super::on_demand::Finder;
use super::proxy::{Proxy, ProxyRole};
use crate::world::{Entry, Name, Rev, Service, ServicePort, World};
use lateen_model::resource::{
    Destination, EgressHost, EgressNamespace, IstioEgressListener, MESH_GATEWAY, OutboundTrafficMode, Sidecar, VirtualService,
    host,
};
use lateen_xds::on_demand::Question;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

/// Which scope: proxies with equal keys see the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScopeKey {
    /// The proxy's namespace.
    pub namespace: Name,
    /// Sidecar or gateway: VirtualServices are for the one or the other.
    pub role: ProxyRole,
    /// Namespace and name of the Sidecar; `None` is the default, which sees everything.
    pub sidecar: Option<(Name, Name)>,
    /// What proxies under an automatic scope have asked for; `None`: they hold everything that they may know.
    pub learned: Option<Arc<BTreeSet<Question>>>,
}

/// A service in a scope.
#[derive(Clone, Debug)]
pub struct ScopedService {
    /// The service.
    pub service: Arc<Service>,
    /// The ports that are known; `None`: all. A service that is known only as a destination of a VirtualService is known
    /// by the ports that are named there.
    pub only_ports: Option<BTreeSet<u16>>,
    /// Only the proxy itself speaks to it (it reports spans there): the application gets no listener, route or name for it.
    pub cluster_only: bool,
}

impl ScopedService {
    /// The ports that are known.
    pub fn ports(&self) -> impl Iterator<Item = &ServicePort> {
        self.service.ports.iter().filter(|p| self.only_ports.as_ref().is_none_or(|only| only.contains(&p.number)))
    }

    /// The port of this number, if it is known.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports().find(|p| p.number == number)
    }

    fn same_as(&self, other: &Self) -> bool {
        self.service.rev == other.service.rev && self.only_ports == other.only_ports && self.cluster_only == other.cluster_only
    }
}

/// What proxies of one key may know.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Which.
    pub key: ScopeKey,
    /// Oldest first.
    pub services: Vec<ScopedService>,
    /// In the order in which they win a host: private ones, those exported to the namespace, public ones; each oldest first.
    pub virtual_services: Vec<Arc<Entry<VirtualService>>>,
    /// The revisions of the delegates of each.
    pub(super) delegates: Vec<Vec<Rev>>,
    /// Whether traffic to unknown destinations is dropped.
    pub registry_only: bool,
    /// The cluster that traffic to unknown destinations is sent to instead (`egressProxy`).
    pub egress_proxy: Option<String>,
    /// Ports at which the proxy is its application's HTTP proxy, by its Sidecar, and the hosts that are known there.
    pub proxied: BTreeMap<u16, BTreeSet<Name>>,
    /// Ports that have HTTP listeners whether or not a service here has them: of an automatic scope those of the whole mesh, so
    /// that a request to any host can ask for it.
    pub http_ports: BTreeSet<u16>,
    /// What learning needs to find, made when it is first needed.
    pub(super) finder: OnceLock<Finder>,
    /// Stands for the content of the Sidecar, whose inbound listeners count too.
    pub(super) sidecar_rev: Rev,
    pub(super) by_host: HashMap<Name, usize>,
    /// Hosts of `ExternalName` services, by the host that they stand for.
    pub(super) aliases: HashMap<Name, Vec<Name>>,
}

/// The Sidecar of a proxy: the oldest in its namespace whose selector matches, else the oldest there without a selector,
/// else the oldest without a selector in the root namespace.
pub fn sidecar_of<'a>(world: &'a World, proxy: &Proxy) -> Option<&'a Arc<Entry<Sidecar>>> {
    if proxy.role == ProxyRole::Router {
        return None;
    }
    let unselective = |e: &&Arc<Entry<Sidecar>>| e.resource.spec.workload_selector.as_ref().is_none_or(|s| s.is_empty());
    let own = world.namespace(&proxy.namespace).map(|ns| &ns.sidecars);
    let selected = own.and_then(|list| {
        let selects = |e: &&Arc<Entry<Sidecar>>| {
            e.resource.spec.workload_selector.as_ref().is_some_and(|s| !s.is_empty() && s.matches(&proxy.labels))
        };
        list.iter().find(selects).or_else(|| list.iter().find(unselective))
    });
    selected.or_else(|| world.namespace(world.root_namespace())?.sidecars.iter().find(unselective))
}

/// What a Sidecar's `egress.hosts` let in, and what they take out again.
struct Egress<'a> {
    own: &'a str,
    included: Vec<EgressHost>,
    excluded: Vec<EgressHost>,
    /// Listeners for one port each.
    ports: Vec<(u16, Egress<'a>)>,
    /// Listeners for requests to any port, by their own.
    proxies: Vec<(u16, Egress<'a>)>,
    /// Whether there is a listener for the other ports.
    others: bool,
}

/// Whether the application uses the port as an HTTP proxy.
fn is_proxy(listener: &IstioEgressListener) -> bool {
    listener.port.as_ref().is_some_and(|port| port.protocol.eq_ignore_ascii_case("HTTP_PROXY"))
}

impl<'a> Egress<'a> {
    fn new(sidecar: Option<&Entry<Sidecar>>, own: &'a str) -> Self {
        let listeners = sidecar.map(|s| s.resource.spec.egress.as_slice()).unwrap_or_default();
        let all = Self::of_hosts(listeners.iter().flat_map(|l| &l.hosts), own);
        let port_of = |l: &IstioEgressListener| l.port.as_ref().and_then(|p| u16::try_from(p.number).ok());
        let (proxies, ports): (Vec<_>, Vec<_>) = listeners.iter().filter(|l| port_of(l).is_some()).partition(|l| is_proxy(l));
        let by_port = |listeners: Vec<&IstioEgressListener>| -> Vec<(u16, Egress<'a>)> {
            listeners.into_iter().filter_map(|l| Some((port_of(l)?, Self::of_hosts(l.hosts.iter(), own)))).collect()
        };
        let (proxies, ports) = (by_port(proxies), by_port(ports));
        let others: Vec<&IstioEgressListener> = listeners.iter().filter(|l| port_of(l).is_none()).collect();
        if others.is_empty() && !listeners.is_empty() {
            return Self { ports, proxies, others: false, ..all };
        }
        Self { ports, proxies, ..Self::of_hosts(others.iter().flat_map(|l| &l.hosts), own) }
    }

    fn of_hosts<'h>(written: impl Iterator<Item = &'h String>, own: &'a str) -> Self {
        // What cannot be read was refused when the manifest was read.
        let (excluded, mut included): (Vec<_>, Vec<_>) =
            written.filter_map(|text| EgressHost::parse(text).ok()).partition(|host| host.excludes);
        // No egress listener at all is the default, everything; `~/*` alone is nothing.
        if included.is_empty() && excluded.is_empty() {
            included.extend(EgressHost::parse("*/*"));
        }
        Self { own, included, excluded, ports: Vec::new(), proxies: Vec::new(), others: true }
    }

    /// Which ports of a service are known: `None`, if it is not; `Some(None)`, if all are. A port that a listener names is known
    /// by that listener alone.
    fn ports_of(&self, service: &Service) -> Option<Option<BTreeSet<u16>>> {
        if self.ports.is_empty() && self.others {
            return self.imports(service).then_some(None);
        }
        let by_others = self.others && self.imports(service);
        let known = |number: u16| match self.ports.iter().find(|(port, _)| *port == number) {
            Some((_, listener)) => listener.imports(service),
            None => by_others,
        };
        let ports: BTreeSet<u16> = service.ports.iter().map(|p| p.number).filter(|n| known(*n)).collect();
        (!ports.is_empty()).then_some(Some(ports))
    }

    /// The namespaces of which anything can be known; `None`: all.
    fn namespaces(&self) -> Option<BTreeSet<&str>> {
        let mut named = BTreeSet::new();
        for host in &self.included {
            match &host.namespace {
                EgressNamespace::Any => return None,
                EgressNamespace::Own => drop(named.insert(self.own)),
                EgressNamespace::Named(name) => drop(named.insert(name)),
                EgressNamespace::Nothing => {}
            }
        }
        for (_, listener) in self.ports.iter().chain(&self.proxies) {
            named.extend(listener.namespaces()?);
        }
        Some(named)
    }

    fn concerns(&self, host: &EgressHost, namespace: &str) -> bool {
        match &host.namespace {
            EgressNamespace::Any => true,
            EgressNamespace::Own => namespace == self.own,
            EgressNamespace::Nothing => false,
            EgressNamespace::Named(name) => namespace == name,
        }
    }

    fn imports(&self, service: &Service) -> bool {
        let covers = |e: &EgressHost| self.concerns(e, &service.namespace) && host::subset_of(&service.host, e.host.as_str());
        self.included.iter().any(covers) && !self.excluded.iter().any(covers)
    }

    /// A VirtualService is known if any of its hosts meets an imported one, in either direction.
    fn imports_virtual_service(&self, entry: &Entry<VirtualService>) -> bool {
        let here = |e: &EgressHost| self.concerns(e, entry.namespace());
        let meets = |e: &EgressHost| here(e) && entry.hosts.iter().any(|h| host::matches(h, e.host.as_str()));
        let covers = |e: &EgressHost| here(e) && entry.hosts.iter().all(|h| host::subset_of(h, e.host.as_str()));
        let imported = self.included.iter().any(meets) && !self.excluded.iter().any(covers);
        imported || self.ports.iter().chain(&self.proxies).any(|(_, listener)| listener.imports_virtual_service(entry))
    }
}

impl Scope {
    /// Works out the scope of a proxy.
    pub fn new(world: &World, proxy: &Proxy) -> Self {
        let sidecar = sidecar_of(world, proxy);
        let own: &str = &proxy.namespace;
        let egress = Egress::new(sidecar.map(|s| &**s), own);
        let (virtual_services, delegates) = with_delegates(world, &virtual_services(world, proxy, &egress));

        let visible = |s: &Service| s.visibility.includes(own, &s.namespace, &world.mesh().default_service_export_to);
        let mut known: BTreeMap<&Name, ScopedService> = BTreeMap::new();
        let named = egress.namespaces();
        let concerned = world.namespaces().filter(|(name, _)| named.as_ref().is_none_or(|named| named.contains(&***name)));
        for service in concerned.flat_map(|(_, ns)| ns.services.values()).filter(|s| visible(s)) {
            let proxied = || egress.proxies.iter().any(|(_, listener)| listener.imports(service));
            let (only_ports, cluster_only) = match egress.ports_of(service) {
                Some(only_ports) => (only_ports, false),
                // Only through the proxy.
                None if proxied() => (None, true),
                None => continue,
            };
            let scoped = || ScopedService { service: Arc::clone(service), only_ports: only_ports.clone(), cluster_only };
            let kept = known.entry(&service.host).or_insert_with(scoped);
            // Several namespaces may have ServiceEntries of one host.
            if world.by_precedence(service, &kept.service, own).is_lt() {
                *kept = scoped();
            }
        }
        for (host, ports) in destinations(world, &virtual_services) {
            let Some(service) = world.service_seen_from(own, &host) else { continue };
            let Some(scoped) = known.get_mut(&service.host) else {
                let only_ports = (!ports.is_empty()).then_some(ports);
                known.insert(&service.host, ScopedService { service: Arc::clone(service), only_ports, cluster_only: false });
                continue;
            };
            if let Some(only) = &mut scoped.only_ports {
                only.extend(ports);
            }
        }
        let egress_proxy = egress_proxy(world, sidecar.map(|s| &**s));
        if let Some((_, service, port)) = &egress_proxy {
            let only_ports = Some(BTreeSet::from([*port]));
            let scoped = || ScopedService { service: Arc::clone(service), only_ports, cluster_only: true };
            known.entry(&service.host).or_insert_with(scoped);
        }
        let tracing = super::mesh::tracing_service(world);
        if let Some((service, port)) = &tracing
            && !known.contains_key(&service.host)
        {
            let only_ports = Some(BTreeSet::from([*port]));
            let scoped = ScopedService { service: Arc::clone(service), only_ports, cluster_only: true };
            known.insert(&service.host, scoped);
        }
        let mut services: Vec<ScopedService> = known.into_values().collect();
        services.sort_by(|a, b| a.service.order.cmp(&b.service.order));
        let of_proxy = |listener: &Egress<'_>| -> BTreeSet<Name> {
            services.iter().filter(|s| listener.imports(&s.service)).map(|s| Name::clone(&s.service.host)).collect()
        };
        let proxied = egress.proxies.iter().map(|(port, listener)| (*port, of_proxy(listener))).collect();
        let by_host = services.iter().enumerate().map(|(i, s)| (Name::clone(&s.service.host), i)).collect();
        Self {
            aliases: aliases(world, own, &services),
            key: ScopeKey { learned: None, ..Self::key(world, proxy) },
            services,
            virtual_services,
            delegates,
            registry_only: registry_only(world, sidecar.map(|s| &**s)),
            egress_proxy: egress_proxy.map(|(cluster, ..)| cluster),
            proxied,
            sidecar_rev: sidecar.map(|s| s.rev).unwrap_or_default(),
            by_host,
            http_ports: BTreeSet::new(),
            finder: OnceLock::new(),
        }
    }

    /// Which scope a proxy has, without working it out.
    pub fn key(world: &World, proxy: &Proxy) -> ScopeKey {
        let sidecar = sidecar_of(world, proxy).map(|s| (s.namespace().into(), s.name().into()));
        // What a Sidecar lets in is held whole.
        let learned = proxy.learned.clone().filter(|_| sidecar.is_none());
        ScopeKey { namespace: Name::clone(&proxy.namespace), role: proxy.role, sidecar, learned }
    }

    /// The service of this host, if the application may know it.
    pub fn service(&self, host: &str) -> Option<&ScopedService> {
        self.by_host.get(host).map(|i| &self.services[*i]).filter(|s| !s.cluster_only)
    }

    /// Hosts that stand for this one.
    pub fn aliases_of(&self, host: &str) -> &[Name] {
        self.aliases.get(host).map(Vec::as_slice).unwrap_or_default()
    }

    /// The service of a host that this scope's clusters lead to, else one that the namespace sees.
    pub fn service_or_visible<'a>(&'a self, world: &'a World, host: &str) -> Option<&'a Arc<Service>> {
        let known = self.by_host.get(host).map(|i| &self.services[*i].service.namespace);
        match known {
            // The scope may be older than the world: what did not change in it is shared.
            Some(namespace) => world.services_of(host).find(|s| s.namespace == *namespace),
            None => world.service_seen_from(&self.key.namespace, host),
        }
    }

    /// The services that the application may know, oldest first.
    pub fn visible(&self) -> impl Iterator<Item = &ScopedService> {
        self.services.iter().filter(|s| !s.cluster_only && s.service.alias.is_none())
    }

    /// Whether both have the same services.
    pub fn same_services(&self, other: &Self) -> bool {
        self.services.len() == other.services.len() && self.services.iter().zip(&other.services).all(|(a, b)| a.same_as(b))
    }

    /// Whether all that is made from this scope would be made alike from the other.
    pub fn same_as(&self, other: &Self) -> bool {
        self.key == other.key
            && self.registry_only == other.registry_only
            && self.egress_proxy == other.egress_proxy
            && self.http_ports == other.http_ports
            && self.sidecar_rev == other.sidecar_rev
            && self.same_services(other)
            && self.virtual_services.len() == other.virtual_services.len()
            && self.virtual_services.iter().zip(&other.virtual_services).all(|(a, b)| a.rev == b.rev)
            && self.delegates == other.delegates
    }
}

/// The service that traffic to unknown destinations is sent to instead: its cluster, itself and its port.
fn egress_proxy(world: &World, sidecar: Option<&Entry<Sidecar>>) -> Option<(String, Arc<Service>, u16)> {
    let sidecar = sidecar?;
    let destination = sidecar.resource.spec.outbound_traffic_policy.as_ref()?.egress_proxy.as_ref()?;
    let host = destination_host(world, destination, sidecar.namespace());
    let service = world.service_seen_from(sidecar.namespace(), &host)?;
    let port = match destination.port.as_ref().and_then(|p| u16::try_from(p.number).ok()) {
        Some(port) => port,
        None => service.ports.first()?.number,
    };
    Some((crate::names::outbound_cluster(port, &destination.subset, &host), Arc::clone(service), port))
}

fn registry_only(world: &World, sidecar: Option<&Entry<Sidecar>>) -> bool {
    let own = sidecar.and_then(|s| s.resource.spec.outbound_traffic_policy.as_ref());
    match own {
        Some(policy) => policy.mode == OutboundTrafficMode::RegistryOnly,
        None => super::mesh::registry_only(world.mesh()),
    }
}

/// The VirtualServices for proxies of this role that a namespace sees and its egress imports.
fn virtual_services(world: &World, proxy: &Proxy, egress: &Egress<'_>) -> Vec<Arc<Entry<VirtualService>>> {
    let own: &str = &proxy.namespace;
    let default = &world.mesh().default_virtual_service_export_to;
    let mut ranked: Vec<(u8, &Arc<Entry<VirtualService>>)> = Vec::new();
    for (namespace, ns) in world.namespaces() {
        for entry in ns.virtual_services.iter() {
            let spec = &entry.resource.spec;
            let concerns = match proxy.role {
                ProxyRole::Sidecar => entry.resource.applies_to_mesh(),
                ProxyRole::Router => spec.gateways.iter().any(|g| g != MESH_GATEWAY),
            };
            if !concerns || spec.hosts.is_empty() || !entry.visibility.includes(own, namespace, default) {
                continue;
            }
            let rank = match (entry.visibility.is_public(default), **namespace == *own) {
                (true, _) => 2,
                (false, true) => 0,
                (false, false) => 1,
            };
            if egress.imports_virtual_service(entry) {
                ranked.push((rank, entry));
            }
        }
    }
    ranked.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.order.cmp(&y.order)));
    ranked.into_iter().map(|(_, entry)| Arc::clone(entry)).collect()
}

/// Their delegates' routes in their places, and the revisions of those, in order.
fn with_delegates(world: &World, roots: &[Arc<Entry<VirtualService>>]) -> (Vec<Arc<Entry<VirtualService>>>, Vec<Vec<Rev>>) {
    roots.iter().map(|root| delegate::expand(world, root)).unzip()
}

/// Hosts that routes lead to, each with the ports that are named; no port: all.
pub(super) fn destinations(world: &World, virtual_services: &[Arc<Entry<VirtualService>>]) -> BTreeMap<String, BTreeSet<u16>> {
    let mut out: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    let mut whole: BTreeSet<String> = BTreeSet::new();
    for entry in virtual_services {
        let http = || entry.resource.spec.http.iter();
        let routes = http().flat_map(|h| &h.route).filter_map(|r| r.destination.as_ref());
        let mirrors = http().flat_map(|h| h.mirrors.iter().filter_map(|m| m.destination.as_ref()).chain(&h.mirror));
        let tls = entry.resource.spec.tls.iter().flat_map(|t| &t.route);
        let l4 = tls.chain(entry.resource.spec.tcp.iter().flat_map(|t| &t.route)).filter_map(|r| r.destination.as_ref());
        for destination in routes.chain(mirrors).chain(l4) {
            let host = destination_host(world, destination, entry.namespace());
            match destination.port.as_ref().and_then(|p| u16::try_from(p.number).ok()) {
                Some(port) => {
                    out.entry(host).or_default().insert(port);
                }
                None => {
                    whole.insert(host);
                }
            }
        }
    }
    for host in whole {
        out.insert(host, BTreeSet::new());
    }
    out
}

/// The full host of a destination in a resource of `namespace`; an `ExternalName` service is an alias.
pub fn destination_host(world: &World, destination: &Destination, namespace: &str) -> String {
    let host = host::resolve(&destination.host, namespace, world.domain());
    match world.service_seen_from(namespace, &host).and_then(|s| s.alias.as_ref()) {
        Some(alias) => stands_for(world, namespace, alias).to_string(),
        None => host,
    }
}

/// How many aliases may follow one another.
const MAX_ALIASES: usize = 8;

/// The host at the end of a chain of aliases that begins with one's target. In a circle there is no end; any of its hosts is as
/// good as another, for none is a service.
fn stands_for(world: &World, namespace: &str, target: &Name) -> Name {
    let mut host = Name::clone(target);
    for _ in 0..MAX_ALIASES {
        match world.service_seen_from(namespace, &host).and_then(|s| s.alias.clone()) {
            Some(next) => host = next,
            None => break,
        }
    }
    host
}

pub(super) fn aliases(world: &World, namespace: &str, services: &[ScopedService]) -> HashMap<Name, Vec<Name>> {
    let mut out: HashMap<Name, Vec<Name>> = HashMap::new();
    for service in services.iter().filter(|s| !s.cluster_only) {
        if let Some(target) = &service.service.alias {
            out.entry(stands_for(world, namespace, target)).or_default().push(Name::clone(&service.service.host));
        }
    }
    out
}
