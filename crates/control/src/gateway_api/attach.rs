//! Which listeners, and which services, a route is attached to.

use super::backend::Backend;
use super::http::Candidate;
use super::listener::{ListenerState, Ports};
use super::source::Sources;
use super::status::Problem;
use super::{class, grpc, http, l4};
use crate::world::World;
use lateen_model::resource::gateway_api::{
    CORE_GROUP, FromNamespaces, GATEWAY_GROUP, GrpcRouteRule, KubeGateway, KubeHttpRouteRule, L4RouteRule, ListenerProtocol,
    ParentReference,
};
use lateen_model::resource::{CreationOrder, Kind, ObjectMeta, ResourceKey, RouteDestination, host};

/// A kind of route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouteKind {
    Http,
    Grpc,
    Tls,
    Tcp,
}

impl RouteKind {
    pub(super) const ALL: [Self; 4] = [Self::Http, Self::Grpc, Self::Tls, Self::Tcp];

    /// As manifests have it.
    pub(super) const fn name(self) -> &'static str {
        self.kind().name()
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Http => Kind::KubeHttpRoute,
            Self::Grpc => Kind::KubeGrpcRoute,
            Self::Tls => Kind::KubeTlsRoute,
            Self::Tcp => Kind::KubeTcpRoute,
        }
    }
}

/// The rules of a route.
#[derive(Clone, Copy)]
enum Rules<'a> {
    Http(&'a [KubeHttpRouteRule]),
    Grpc(&'a [GrpcRouteRule]),
    L4(&'a [L4RouteRule]),
}

/// A route of any kind.
pub(super) struct Route<'a> {
    pub(super) kind: RouteKind,
    pub(super) metadata: &'a ObjectMeta,
    pub(super) parents: &'a [ParentReference],
    pub(super) hostnames: &'a [String],
    rules: Rules<'a>,
}

/// What a route's rules come to, wherever it is attached.
#[derive(Default)]
pub(super) struct Converted {
    /// Of kinds that read requests.
    pub(super) http: Vec<Candidate>,
    /// Of kinds that do not.
    pub(super) connections: Vec<RouteDestination>,
    /// Why the route is not accepted as it stands.
    pub(super) refused: Option<Problem>,
    /// The first reference that leads nowhere.
    pub(super) unresolved: Option<Problem>,
    /// What its references lead to.
    pub(super) backends: Vec<Backend>,
}

impl Converted {
    /// Notes what became of a reference.
    pub(super) fn note(&mut self, resolved: &Result<Backend, Problem>) {
        match resolved {
            Ok(backend) => self.backends.push(backend.clone()),
            Err(problem) => {
                self.unresolved.get_or_insert_with(|| problem.clone());
            }
        }
    }
}

impl Route<'_> {
    pub(super) fn namespace(&self) -> &str {
        &self.metadata.namespace
    }

    pub(super) fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or(1)
    }

    pub(super) fn order(&self) -> CreationOrder {
        CreationOrder::of(self.metadata)
    }

    pub(super) fn key(&self) -> ResourceKey {
        let (namespace, name) = (self.metadata.namespace.clone(), self.metadata.name.clone());
        ResourceKey { kind: self.kind.kind(), namespace, name }
    }

    /// What its rules come to.
    pub(super) fn convert(&self, world: &World) -> Converted {
        match self.rules {
            Rules::Http(rules) => http::convert(world, self, rules),
            Rules::Grpc(rules) => grpc::convert(world, self, rules),
            Rules::L4(rules) => l4::convert(world, self, rules),
        }
    }
}

/// All routes, of all kinds.
pub(super) fn routes(sources: &Sources) -> Vec<Route<'_>> {
    let mut out = Vec::new();
    for r in sources.http_routes.values() {
        let (spec, rules) = (&r.spec, Rules::Http(&r.spec.rules));
        out.push(Route {
            kind: RouteKind::Http,
            metadata: &r.metadata,
            parents: &spec.parent_refs,
            hostnames: &spec.hostnames,
            rules,
        });
    }
    for r in sources.grpc_routes.values() {
        let (spec, rules) = (&r.spec, Rules::Grpc(&r.spec.rules));
        out.push(Route {
            kind: RouteKind::Grpc,
            metadata: &r.metadata,
            parents: &spec.parent_refs,
            hostnames: &spec.hostnames,
            rules,
        });
    }
    for r in sources.tls_routes.values() {
        let (spec, rules) = (&r.spec, Rules::L4(&r.spec.rules));
        out.push(Route {
            kind: RouteKind::Tls,
            metadata: &r.metadata,
            parents: &spec.parent_refs,
            hostnames: &spec.hostnames,
            rules,
        });
    }
    for r in sources.tcp_routes.values() {
        let rules = Rules::L4(&r.spec.rules);
        out.push(Route { kind: RouteKind::Tcp, metadata: &r.metadata, parents: &r.spec.parent_refs, hostnames: &[], rules });
    }
    out
}

/// Where a route is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// At a listener of a Gateway.
    Listener {
        /// Namespace and name of the Gateway.
        gateway: (String, String),
        /// The place of the listener in it.
        index: usize,
        /// The hosts that both have; `*` is every host.
        hostnames: Vec<String>,
    },
    /// At every sidecar, for these services.
    Mesh {
        /// Their hosts.
        hosts: Vec<String>,
        /// Their namespace.
        namespace: String,
        /// Only this port of them.
        port: Option<u16>,
    },
}

/// Where a route is attached by one of its parents, or why it is not. `None`: the parent is nothing of this mesh.
pub(super) fn attach(
    world: &World,
    ports: &Ports<'_>,
    route: &Route<'_>,
    parent: &ParentReference,
) -> Option<Result<Vec<Target>, Problem>> {
    let namespace = parent.namespace.as_deref().unwrap_or(route.namespace());
    match (parent.group(), parent.kind()) {
        (GATEWAY_GROUP, "Gateway") => to_gateway(world, ports, (route, parent), namespace),
        (CORE_GROUP, "Service") => Some(to_service(world, parent, namespace)),
        ("networking.istio.io", "ServiceEntry") => Some(to_service_entry(world, parent, namespace)),
        _ => None,
    }
}

fn to_service(world: &World, parent: &ParentReference, namespace: &str) -> Result<Vec<Target>, Problem> {
    let service = world.namespace(namespace).and_then(|ns| ns.services.get(parent.name.as_str()));
    let Some(service) = service.filter(|s| s.entry.is_none()) else {
        return Err(Problem::new("NoMatchingParent", format!("there is no Service {namespace}/{}", parent.name)));
    };
    let port = parent.port.and_then(|p| u16::try_from(p).ok());
    if let Some(number) = port
        && !service.ports.iter().any(|p| p.number == number)
    {
        let text = format!("the Service {namespace}/{} has no port {number}", parent.name);
        return Err(Problem::new("NoMatchingParent", text));
    }
    Ok(vec![Target::Mesh { hosts: vec![service.host.to_string()], namespace: namespace.to_owned(), port }])
}

fn to_service_entry(world: &World, parent: &ParentReference, namespace: &str) -> Result<Vec<Target>, Problem> {
    let Some(entry) = world.namespace(namespace).and_then(|ns| ns.service_entries.get(&parent.name)) else {
        return Err(Problem::new("NoMatchingParent", format!("there is no ServiceEntry {namespace}/{}", parent.name)));
    };
    let hosts = entry.hosts.iter().map(|h| h.to_string()).collect();
    let port = parent.port.and_then(|p| u16::try_from(p).ok());
    Ok(vec![Target::Mesh { hosts, namespace: namespace.to_owned(), port }])
}

fn to_gateway(
    world: &World,
    ports: &Ports<'_>,
    (route, parent): (&Route<'_>, &ParentReference),
    namespace: &str,
) -> Option<Result<Vec<Target>, Problem>> {
    let sources = world.gateway_api();
    let id = (namespace.to_owned(), parent.name.clone());
    let Some(gateway) = sources.gateways.get(&id) else {
        let text = format!("there is no Gateway {namespace}/{}", parent.name);
        return Some(Err(Problem::new("NoMatchingParent", text)));
    };
    if !class::is_served(sources, gateway) {
        return None;
    }
    let states = ports.listeners(&id);
    let named = |l: &&ListenerState<'_>| parent.section_name.as_ref().is_none_or(|name| *name == l.listener.name);
    let with_port = |l: &&ListenerState<'_>| parent.port.is_none_or(|port| port == l.listener.port);
    let meant: Vec<&ListenerState<'_>> = states.iter().filter(named).filter(with_port).collect();
    if meant.is_empty() {
        return Some(Err(Problem::new("NoMatchingParent", no_listener(parent))));
    }
    let allowed: Vec<&ListenerState<'_>> = meant
        .iter()
        .copied()
        .filter(|l| l.kinds.contains(&route.kind) && admits(sources, gateway, l, route.namespace()))
        .collect();
    if allowed.is_empty() {
        return Some(Err(not_allowed(sources, gateway, &meant, route)));
    }
    let targets: Vec<Target> = allowed
        .iter()
        .filter_map(|l| {
            let hostnames = shared_hostnames(l, route);
            (!hostnames.is_empty()).then(|| Target::Listener { gateway: id.clone(), index: l.index, hostnames })
        })
        .collect();
    if targets.is_empty() {
        let text = format!("no listener has a hostname in common with {}", route.hostnames.join(", "));
        return Some(Err(Problem::new("NoMatchingListenerHostname", text)));
    }
    Some(Ok(targets))
}

fn no_listener(parent: &ParentReference) -> String {
    match (&parent.section_name, parent.port) {
        (Some(name), Some(port)) => format!("the Gateway has no listener {name:?} with the port {port}"),
        (Some(name), None) => format!("the Gateway has no listener {name:?}"),
        (None, Some(port)) => format!("the Gateway has no listener with the port {port}"),
        (None, None) => "the Gateway has no listener".to_owned(),
    }
}

/// Whether a listener takes routes of a namespace.
fn admits(sources: &Sources, gateway: &KubeGateway, listener: &ListenerState<'_>, namespace: &str) -> bool {
    let written = listener.listener.allowed_routes.as_ref().and_then(|a| a.namespaces.as_ref());
    let own = gateway.metadata.namespace == namespace;
    let Some(written) = written else { return own };
    match written.from {
        FromNamespaces::Same => own,
        FromNamespaces::All => true,
        FromNamespaces::None => false,
        FromNamespaces::Selector => written.selector.as_ref().is_some_and(|s| s.matches(&sources.namespace_labels(namespace))),
    }
}

fn not_allowed(sources: &Sources, gateway: &KubeGateway, meant: &[&ListenerState<'_>], route: &Route<'_>) -> Problem {
    let admitting = meant.iter().any(|l| admits(sources, gateway, l, route.namespace()));
    let text = if admitting {
        format!("no listener that admits the namespace takes routes of the kind {}", route.kind.name())
    } else {
        format!("routes of the namespace {} are not allowed by any listener", route.namespace())
    };
    Problem::new("NotAllowedByListeners", text)
}

/// The hosts that a listener and a route both have.
fn shared_hostnames(state: &ListenerState<'_>, route: &Route<'_>) -> Vec<String> {
    let own = state.listener.hostname();
    if route.kind == RouteKind::Tcp || state.listener.protocol() == Some(ListenerProtocol::Tcp) {
        return vec![own.to_owned()];
    }
    if route.hostnames.is_empty() {
        return vec![own.to_owned()];
    }
    let mut out: Vec<String> = Vec::new();
    for wanted in route.hostnames {
        let shared = if host::subset_of(wanted, own) {
            wanted.as_str()
        } else if host::subset_of(own, wanted) {
            own
        } else {
            continue;
        };
        if !out.iter().any(|h| h == shared) {
            out.push(shared.to_owned());
        }
    }
    out
}
