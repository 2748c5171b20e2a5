//! Automatic scope: of all that a proxy may know, what it has asked for, and what belongs to that.
//!
//! The resources of such a proxy are those that it would have if it held everything, without those that do not concern it. So
//! whatever decides between services comes along with each of them: services that share an address or a name with it,
//! VirtualServices that speak of it, the services of their other hosts and of their destinations, and under a wildcard whatever
//! is more specific. What can be told neither by a name nor by an address (a ServiceEntry for a whole port or for blocks of
//! addresses) is always there.

use super::proxy::ProxyRole;
use super::scope::{self, Scope, ScopedService};
use crate::names;
use crate::world::{Entry, Name, Rev, Service, World};
use lateen_model::resource::{VirtualService, host};
use lateen_xds::on_demand::{Question, full_names};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// Where what is asked for is found in a whole scope.
#[derive(Clone, Debug, Default)]
pub(super) struct Finder {
    by_ip: HashMap<IpAddr, Vec<usize>>,
    /// VirtualServices by their exact hosts, and those that have wildcards.
    by_host: HashMap<Name, Vec<usize>>,
    wild: Vec<usize>,
    headless: Vec<usize>,
    wild_services: Vec<usize>,
    /// Services that can be told by no name and no address.
    always: Vec<usize>,
    http_ports: BTreeSet<u16>,
}

impl Finder {
    fn new(scope: &Scope) -> Self {
        let mut finder = Self::default();
        for (i, scoped) in scope.services.iter().enumerate() {
            let service = &scoped.service;
            if scoped.cluster_only {
                finder.always.push(i);
                continue;
            }
            for ip in &service.vips {
                finder.by_ip.entry(*ip).or_default().push(i);
            }
            if service.headless {
                finder.headless.push(i);
            }
            if service.host.starts_with('*') {
                finder.wild_services.push(i);
            }
            if scoped.ports().any(|port| is_for_whole_port(service, port.protocol.is_http())) {
                finder.always.push(i);
            }
            let own = [names::OUTBOUND_PORT, names::INBOUND_PORT];
            let http = scoped.ports().filter(|p| p.protocol.is_http() && !own.contains(&p.number));
            if service.alias.is_none() {
                finder.http_ports.extend(http.map(|p| p.number));
            }
        }
        for (i, entry) in scope.virtual_services.iter().enumerate() {
            if entry.hosts.iter().any(|h| h.starts_with('*')) {
                finder.wild.push(i);
            }
            for host in entry.hosts.iter().filter(|h| !h.starts_with('*')) {
                finder.by_host.entry(Name::clone(host)).or_default().push(i);
            }
        }
        finder
    }
}

/// Whether a port of a ServiceEntry has the listener of all addresses to itself, as far as its protocol does not say more.
fn is_for_whole_port(service: &Service, is_http: bool) -> bool {
    !is_http && service.entry.as_ref().is_some_and(|entry| service.vips.is_empty() || !entry.networks.is_empty())
}

/// What belongs to what was asked for.
struct Closure<'a> {
    world: &'a World,
    whole: &'a Scope,
    finder: &'a Finder,
    services: BTreeSet<usize>,
    /// Only routes lead to these.
    destinations: BTreeSet<usize>,
    virtual_services: BTreeSet<usize>,
    todo: Vec<usize>,
}

impl<'a> Closure<'a> {
    fn new(world: &'a World, whole: &'a Scope) -> Self {
        let finder = whole.finder.get_or_init(|| Finder::new(whole));
        Self {
            world,
            whole,
            finder,
            services: BTreeSet::new(),
            destinations: BTreeSet::new(),
            virtual_services: BTreeSet::new(),
            todo: Vec::new(),
        }
    }

    fn add(&mut self, services: impl IntoIterator<Item = usize>) {
        for i in services {
            if self.services.insert(i) {
                self.todo.push(i);
            }
        }
    }

    fn ask(&mut self, question: &Question) {
        match question {
            Question::Ip(ip) => self.add_address(*ip),
            Question::Host(host) => {
                for name in full_names(host, &self.whole.key.namespace, self.world.domain()) {
                    self.add_host(&name);
                }
            }
        }
        self.close();
    }

    fn add_address(&mut self, ip: IpAddr) {
        let finder = self.finder;
        self.add(finder.by_ip.get(&ip).into_iter().flatten().copied());
        let is_pod = |i: &&usize| {
            let service = &self.whole.services[**i].service;
            self.world.endpoints_of(service).is_some_and(|e| e.ready.iter().any(|pod| pod.ips(service).any(|own| own == ip)))
        };
        let of_pods: Vec<usize> = finder.headless.iter().filter(is_pod).copied().collect();
        self.add(of_pods);
    }

    /// Whatever has this host, or a wildcard that covers it.
    fn add_host(&mut self, host: &str) {
        let (whole, finder) = (self.whole, self.finder);
        self.add(whole.by_host.get(host).copied());
        let covers = |i: &&usize| host::subset_of(host, &whole.services[**i].service.host);
        self.add(finder.wild_services.iter().filter(covers).copied());
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            self.add(whole.by_host.get(parent).copied().filter(|i| whole.services[*i].service.headless));
            rest = parent;
        }
        self.add_virtual_services(host);
    }

    fn add_virtual_services(&mut self, host: &str) {
        let (whole, finder) = (self.whole, self.finder);
        if let Some(exact) = finder.by_host.get(host) {
            exact.iter().for_each(|i| self.add_virtual_service(*i));
        }
        let meets = |i: &&usize| whole.virtual_services[**i].hosts.iter().any(|h| h.starts_with('*') && host::matches(host, h));
        finder.wild.iter().filter(meets).for_each(|i| self.add_virtual_service(*i));
        if host.starts_with('*') {
            let under = finder.by_host.iter().filter(|(exact, _)| host::subset_of(exact, host)).flat_map(|(_, list)| list);
            under.for_each(|i| self.add_virtual_service(*i));
        }
    }

    /// A VirtualService with the services of its hosts, and those that it leads to.
    fn add_virtual_service(&mut self, i: usize) {
        if !self.virtual_services.insert(i) {
            return;
        }
        let entry = &self.whole.virtual_services[i];
        for host in &entry.hosts {
            self.add_under(host);
        }
        let led_to = scope::destinations(self.world, std::slice::from_ref(entry));
        self.destinations.extend(led_to.keys().filter_map(|host| self.whole.by_host.get(host.as_str())));
    }

    /// The services whose host a host covers.
    fn add_under(&mut self, host: &str) {
        let whole = self.whole;
        if !host.starts_with('*') {
            return self.add(whole.by_host.get(host).copied());
        }
        let under = |(i, scoped): (usize, &ScopedService)| host::subset_of(&scoped.service.host, host).then_some(i);
        self.add(whole.services.iter().enumerate().filter_map(under));
    }

    fn close(&mut self) {
        while let Some(i) = self.todo.pop() {
            let whole = self.whole;
            let scoped = &whole.services[i];
            if scoped.cluster_only {
                continue;
            }
            let service = &scoped.service;
            for ip in &service.vips {
                self.add(self.finder.by_ip.get(ip).into_iter().flatten().copied());
            }
            // A short form of one host may be the whole of another's.
            for name in full_names(&service.host, &whole.key.namespace, self.world.domain()) {
                self.add(whole.by_host.get(name.as_str()).copied());
            }
            for short in short_forms(&service.host, self.world.domain()) {
                self.add(whole.by_host.get(short).copied());
            }
            self.add_virtual_services(&service.host);
            if let Some(target) = &service.alias {
                self.add(whole.by_host.get(target).copied());
            }
            if service.host.starts_with('*') {
                self.add_under(&service.host);
            }
            if service.headless {
                let pods = format!("*.{}", service.host);
                self.add_under(&pods);
                self.add_virtual_services(&pods);
            }
        }
    }
}

/// Shorter forms of a service's host that have a dot.
fn short_forms<'h>(host: &'h str, domain: &str) -> impl Iterator<Item = &'h str> {
    let with_svc = host.strip_suffix(domain).and_then(|h| h.strip_suffix('.')).filter(|h| h.ends_with(".svc"));
    with_svc.into_iter().chain(with_svc.and_then(|h| h.strip_suffix(".svc")))
}

impl Scope {
    /// Of this whole scope what belongs to these questions.
    pub fn learn(world: &World, whole: &Self, questions: &Arc<BTreeSet<Question>>) -> Self {
        let mut closure = Closure::new(world, whole);
        closure.add(closure.finder.always.clone());
        closure.close();
        questions.iter().for_each(|question| closure.ask(question));
        let destination = |i: &usize| {
            let scoped = &whole.services[*i];
            ScopedService { cluster_only: scoped.cluster_only || !closure.services.contains(i), ..scoped.clone() }
        };
        let services: Vec<ScopedService> = closure.services.union(&closure.destinations).map(destination).collect();
        let by_host = services.iter().enumerate().map(|(i, s)| (Name::clone(&s.service.host), i)).collect();
        let virtual_services: Vec<Arc<Entry<VirtualService>>> =
            closure.virtual_services.iter().map(|i| Arc::clone(&whole.virtual_services[*i])).collect();
        let delegates: Vec<Vec<Rev>> = closure.virtual_services.iter().map(|i| whole.delegates[*i].clone()).collect();
        let mut key = whole.key.clone();
        key.learned = Some(Arc::clone(questions));
        Self {
            aliases: scope::aliases(world, &whole.key.namespace, &services),
            key,
            services,
            virtual_services,
            delegates,
            registry_only: whole.registry_only,
            egress_proxy: whole.egress_proxy.clone(),
            proxied: whole.proxied.clone(),
            http_ports: closure.finder.http_ports.clone(),
            finder: OnceLock::new(),
            sidecar_rev: whole.sidecar_rev,
            by_host,
        }
    }

    /// Of a whole scope the hosts whose clusters serve what is asked for; `None`: nothing does.
    pub fn answer(&self, world: &World, question: &Question) -> Option<Vec<Name>> {
        let mut closure = Closure::new(world, self);
        closure.ask(question);
        let hosts: Vec<Name> =
            closure.services.union(&closure.destinations).map(|i| Name::clone(&self.services[*i].service.host)).collect();
        (!hosts.is_empty() || !closure.virtual_services.is_empty()).then_some(hosts)
    }

    /// All hosts that can be asked for, wildcards with their `*`.
    pub fn known_hosts(&self) -> impl Iterator<Item = String> {
        let services = self.services.iter().filter(|s| !s.cluster_only);
        let of_pods = services.clone().filter(|s| s.service.headless).map(|s| format!("*.{}", s.service.host));
        let of_routes = self.virtual_services.iter().flat_map(|e| &e.hosts).map(ToString::to_string);
        services.map(|s| s.service.host.to_string()).chain(of_pods).chain(of_routes)
    }

    /// All addresses that can be asked for.
    pub fn known_addresses(&self, world: &World) -> Vec<IpAddr> {
        let mut out = Vec::new();
        for scoped in self.services.iter().filter(|s| !s.cluster_only) {
            out.extend(&scoped.service.vips);
            if scoped.service.headless {
                let pods = world.endpoints_of(&scoped.service).map(|e| e.ready.as_slice()).unwrap_or_default();
                out.extend(pods.iter().flat_map(|pod| pod.ips(&scoped.service)));
            }
        }
        out
    }

    /// Stands for the addresses of pods that can be asked for.
    pub fn pods_print(&self, world: &World) -> Vec<u64> {
        let finder = self.finder.get_or_init(|| Finder::new(self));
        let rev = |i: &usize| world.endpoints_of(&self.services[*i].service).map_or(0, |e| e.rev.get());
        finder.headless.iter().map(rev).collect()
    }

    /// The names of the endpoints that clusters of this scope need.
    pub fn endpoint_names<'c>(&'c self, clusters: impl Iterator<Item = &'c Arc<str>>) -> Vec<Arc<str>> {
        let by_endpoints = |name: &&Arc<str>| {
            let service =
                names::OutboundName::parse(name).and_then(|n| self.by_host.get(n.host)).map(|i| &self.services[*i].service);
            service.is_some_and(|s| !s.is_passthrough() && !s.entry.as_ref().is_some_and(|e| e.is_dns()))
        };
        clusters.filter(by_endpoints).cloned().collect()
    }

    /// The names of the routes that listeners of this scope need.
    pub fn route_names(&self) -> Vec<Arc<str>> {
        if self.key.role != ProxyRole::Sidecar {
            return Vec::new();
        }
        let auto = |s: &ScopedService| {
            let host = Name::clone(&s.service.host);
            let ports: Vec<u16> = s.ports().filter(|p| p.protocol.is_auto()).map(|p| p.number).collect();
            ports.into_iter().map(move |port| Arc::from(names::virtual_host(&host, port)))
        };
        let of_ports = self.http_ports.iter().map(|port| Arc::from(port.to_string()));
        // A service without an address has no listener of its own, and nobody asks for its route.
        let addressed = self.visible().filter(|s| s.service.headless || !s.service.vips.is_empty());
        of_ports.chain(addressed.flat_map(auto)).collect()
    }
}
