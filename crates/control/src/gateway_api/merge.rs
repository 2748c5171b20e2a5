//! Routes of one listener and host, or of one service, together: ordered by the precedence of the Gateway API.

use super::attach::{Converted, Route, RouteKind, Target};
use super::http::Candidate;
use super::listener::{GatewayId, Ports, Terminated, internal_name};
use super::{Translation, derived};
use lateen_model::resource::{
    CreationOrder, L4MatchAttributes, ObjectMeta, RouteDestination, TcpRoute, TlsMatchAttributes, TlsRoute, VirtualService,
    VirtualServiceSpec,
};
use std::collections::BTreeMap;

/// For whom routes are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Clients of a listener, for one of its hosts.
    Listener { gateway: GatewayId, listener: String, hostname: String },
    /// Clients of a listener where TLS ends and requests are not read.
    Terminated { gateway: GatewayId, listener: String, hostname: String },
    /// Clients of a listener without hosts: of bytes, or of TLS that passes through.
    Connections { gateway: GatewayId, listener: String },
    /// Sidecars, for one service: those of the namespace alone, or all of them.
    Mesh { host: String, namespace: String, private: bool },
}

/// What belongs to one place.
#[derive(Default)]
struct Group {
    http: Vec<Candidate>,
    tls: Vec<(CreationOrder, TlsRoute)>,
    tcp: Vec<(CreationOrder, TcpRoute)>,
    hosts: Vec<String>,
    oldest: Option<(CreationOrder, ObjectMeta)>,
}

impl Group {
    fn note(&mut self, route: &Route<'_>) {
        let order = route.order();
        if self.oldest.as_ref().is_none_or(|(oldest, _)| order < *oldest) {
            self.oldest = Some((order, route.metadata.clone()));
        }
    }

    fn host(&mut self, host: &str) {
        if !self.hosts.iter().any(|h| h == host) {
            self.hosts.push(host.to_owned());
        }
    }
}

/// Gathers routes by where they are attached.
#[derive(Default)]
pub(super) struct Merger {
    groups: BTreeMap<Place, Group>,
    terminated: Terminated,
}

impl Merger {
    /// Takes a route in, at all places that it is attached to.
    pub(super) fn add(&mut self, ports: &Ports<'_>, (route, converted): (&Route<'_>, &Converted), targets: Vec<Target>) {
        for target in targets {
            match target {
                Target::Listener { gateway, index, hostnames } => {
                    self.at_listener(ports, (route, converted), (gateway, index), &hostnames);
                }
                Target::Mesh { hosts, namespace, port } => {
                    for host in hosts {
                        self.in_mesh(route, converted, (host, &namespace), port);
                    }
                }
            }
        }
    }

    fn at_listener(
        &mut self,
        ports: &Ports<'_>,
        (route, converted): (&Route<'_>, &Converted),
        (gateway, index): (GatewayId, usize),
        hostnames: &[String],
    ) {
        let Some(state) = ports.listeners(&gateway).get(index) else { return };
        let listener = state.listener.name.clone();
        let ends_tls = state.listener.tls.is_some() && state.listener.terminates();
        for hostname in hostnames {
            let place = match route.kind {
                RouteKind::Http | RouteKind::Grpc if ports.is_of_another(&gateway, index, hostname) => continue,
                RouteKind::Http | RouteKind::Grpc => {
                    Place::Listener { gateway: gateway.clone(), listener: listener.clone(), hostname: hostname.clone() }
                }
                RouteKind::Tls | RouteKind::Tcp if ends_tls => {
                    self.terminated.entry((gateway.clone(), index)).or_default().insert(hostname.clone());
                    Place::Terminated { gateway: gateway.clone(), listener: listener.clone(), hostname: hostname.clone() }
                }
                RouteKind::Tls | RouteKind::Tcp => Place::Connections { gateway: gateway.clone(), listener: listener.clone() },
            };
            let group = self.groups.entry(place).or_default();
            group.note(route);
            group.host(hostname);
            match route.kind {
                RouteKind::Http | RouteKind::Grpc => group.http.extend(converted.http.iter().cloned()),
                RouteKind::Tls if !ends_tls => {
                    group.tls.push((route.order(), by_name(std::slice::from_ref(hostname), None, &converted.connections)));
                }
                RouteKind::Tls | RouteKind::Tcp => {
                    group.tcp.push((route.order(), TcpRoute { matches: Vec::new(), route: converted.connections.clone() }));
                }
            }
        }
    }

    /// A route of the service's own namespace is for all clients, one of another namespace for its own.
    fn in_mesh(&mut self, route: &Route<'_>, converted: &Converted, (host, owner): (String, &str), port: Option<u16>) {
        let private = route.namespace() != owner;
        let place = Place::Mesh { host: host.clone(), namespace: route.namespace().to_owned(), private };
        let group = self.groups.entry(place).or_default();
        group.note(route);
        group.host(&host);
        let port = port.map(u32::from);
        match route.kind {
            RouteKind::Http | RouteKind::Grpc => group.http.extend(converted.http.iter().cloned().map(|mut candidate| {
                for condition in &mut candidate.http.matches {
                    condition.port = port;
                }
                candidate
            })),
            RouteKind::Tls => {
                let names = if route.hostnames.is_empty() { std::slice::from_ref(&host) } else { route.hostnames };
                group.tls.push((route.order(), by_name(names, port, &converted.connections)));
            }
            RouteKind::Tcp => {
                let matches = port.map(|number| L4MatchAttributes { port: Some(number), ..L4MatchAttributes::default() });
                let tcp = TcpRoute { matches: matches.into_iter().collect(), route: converted.connections.clone() };
                group.tcp.push((route.order(), tcp));
            }
        }
    }

    /// A VirtualService for each place.
    pub(super) fn finish(self, out: &mut Translation) -> Terminated {
        for (place, group) in self.groups {
            out.virtual_services.extend(virtual_service(place, group));
        }
        self.terminated
    }
}

fn by_name(names: &[String], port: Option<u32>, route: &[RouteDestination]) -> TlsRoute {
    let condition = TlsMatchAttributes { sni_hosts: names.to_vec(), port, ..TlsMatchAttributes::default() };
    TlsRoute { matches: vec![condition], route: route.to_vec() }
}

fn virtual_service(place: Place, mut group: Group) -> Option<VirtualService> {
    let (_, oldest) = group.oldest.take()?;
    group.http.sort_by(|a, b| a.rank.cmp(&b.rank));
    group.tls.sort_by(|a, b| a.0.cmp(&b.0));
    group.tcp.sort_by(|a, b| a.0.cmp(&b.0));
    let bound = |gateway: &GatewayId, name: &str| vec![format!("{}/{name}", gateway.0)];
    let (namespace, name, gateways, export_to) = match place {
        Place::Listener { gateway, listener, hostname } => {
            let bound = bound(&gateway, &internal_name(&gateway.1, &listener, None));
            let name = internal_name(&gateway.1, &listener, Some(&hostname));
            (gateway.0, name, bound, ".")
        }
        Place::Terminated { gateway, listener, hostname } => {
            let name = internal_name(&gateway.1, &listener, Some(&hostname));
            let bound = bound(&gateway, &name);
            (gateway.0, name, bound, ".")
        }
        Place::Connections { gateway, listener } => {
            let name = internal_name(&gateway.1, &listener, None);
            let bound = bound(&gateway, &name);
            (gateway.0, name, bound, ".")
        }
        Place::Mesh { host, namespace, private } => {
            (namespace, format!("mesh~{host}"), Vec::new(), if private { "." } else { "*" })
        }
    };
    Some(VirtualService {
        metadata: derived(&oldest, &namespace, name),
        spec: VirtualServiceSpec {
            hosts: group.hosts,
            gateways,
            http: group.http.into_iter().map(|c| c.http).collect(),
            tls: group.tls.into_iter().map(|(_, r)| r).collect(),
            tcp: group.tcp.into_iter().map(|(_, r)| r).collect(),
            export_to: vec![export_to.to_owned()],
        },
        ..VirtualService::default()
    })
}
