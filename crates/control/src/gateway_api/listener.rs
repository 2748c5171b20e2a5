//! Listeners of Gateways: whether they can be served, what stands for them, and their statuses.

use super::attach::{RouteKind, Target};
use super::class;
use super::front::Front;
use super::frontend;
use super::source::Sources;
use super::status::{Condition, ListenerStatus, Problem, Status};
use super::{Translation, derived};
use crate::world::World;
use lateen_model::resource::gateway_api::{
    AddressType, CORE_GROUP, FrontendValidationMode, GATEWAY_GROUP, KubeGateway, Listener, ListenerProtocol, ListenerTls,
    ListenerTlsMode,
};
use lateen_model::resource::{
    Gateway, GatewayPort, GatewaySpec, Kind, ResourceKey, Server, ServerTlsMode, ServerTlsSettings, host,
};
use lateen_tls::Credential;
use std::collections::{BTreeMap, BTreeSet};

/// Ports that every proxy needs for itself.
const OWN_PORTS: [i64; 7] = [15000, 15001, 15006, 15020, 15021, 15053, 15090];

/// A Gateway by namespace and name.
pub(super) type GatewayId = (String, String);

/// What is known of a listener.
pub(super) struct ListenerState<'a> {
    /// As written.
    pub(super) listener: &'a Listener,
    /// Its place in the Gateway.
    pub(super) index: usize,
    /// Kinds of routes that may attach.
    pub(super) kinds: Vec<RouteKind>,
    /// Why it is not accepted.
    accepted: Option<Problem>,
    /// With which other listener it is in conflict.
    conflict: Option<Problem>,
    /// What it refers to and cannot have.
    resolved: Option<Problem>,
    /// Whether it can be served without what it cannot have.
    servable: bool,
    /// The certificate, as proxies ask for it.
    credential: String,
    /// What clients' certificates are verified against, as proxies ask for it, and whether a client may have none.
    client_roots: Option<(String, FrontendValidationMode)>,
    attached: usize,
}

impl ListenerState<'_> {
    fn is_programmed(&self) -> bool {
        self.accepted.is_none() && self.conflict.is_none() && self.servable
    }
}

/// All listeners of the Gateways that are served here.
pub(super) struct Ports<'a> {
    gateways: BTreeMap<GatewayId, (&'a KubeGateway, Vec<ListenerState<'a>>)>,
}

/// Hosts of TLSRoutes and TCPRoutes at listeners that end TLS: each has a chain of its own.
pub(super) type Terminated = BTreeMap<(GatewayId, usize), BTreeSet<String>>;

impl<'a> Ports<'a> {
    /// Judges every listener.
    pub(super) fn of_all(world: &'a World) -> Self {
        let sources = world.gateway_api();
        let served = sources.gateways.iter().filter(|(_, g)| class::is_served(sources, g));
        let gateways = served.map(|(id, gateway)| (id.clone(), (&**gateway, judge(world, gateway)))).collect();
        Self { gateways }
    }

    /// The listeners of a Gateway, in order.
    pub(super) fn listeners(&self, id: &GatewayId) -> &[ListenerState<'a>] {
        self.gateways.get(id).map(|(_, states)| states.as_slice()).unwrap_or_default()
    }

    /// Counts a route at each listener that it is attached to.
    pub(super) fn count(&mut self, targets: &[Target]) {
        for target in targets {
            if let Target::Listener { gateway, index, .. } = target
                && let Some(state) = self.gateways.get_mut(gateway).and_then(|(_, states)| states.get_mut(*index))
            {
                state.attached += 1;
            }
        }
    }

    /// Whether requests for a host belong to another listener of the same port, whose hostname says more.
    pub(super) fn is_of_another(&self, id: &GatewayId, index: usize, hostname: &str) -> bool {
        let states = self.listeners(id);
        let Some(own) = states.get(index) else { return true };
        let narrower = |other: &&ListenerState<'_>| {
            let (theirs, ours) = (other.listener.hostname(), own.listener.hostname());
            other.index != index
                && other.listener.port == own.listener.port
                && other.is_programmed()
                && theirs != ours
                && host::subset_of(theirs, ours)
                && host::subset_of(hostname, theirs)
        };
        states.iter().any(|other| narrower(&other))
    }

    /// What stands for the listeners, and the statuses of their Gateways.
    pub(super) fn finish(self, world: &World, terminated: &Terminated, out: &mut Translation) {
        for (id, (gateway, states)) in &self.gateways {
            let front = Front::of(world, gateway);
            if let Ok(front) = &front {
                for state in states.iter().filter(|s| s.is_programmed()) {
                    let hosts = terminated.get(&(id.clone(), state.index));
                    servers(gateway, state, (front, hosts), out);
                }
            }
            let key = ResourceKey { kind: Kind::KubeGateway, namespace: id.0.clone(), name: id.1.clone() };
            let status = gateway_status(world, gateway, states, (front, out));
            out.statuses.insert(key, status);
        }
        remote(world.gateway_api(), out);
    }
}

/// The name of what stands for a listener, or for one host of it.
pub(super) fn internal_name(gateway: &str, listener: &str, host: Option<&str>) -> String {
    match host {
        None => format!("{gateway}~{listener}"),
        Some(host) => format!("{gateway}~{listener}~{host}"),
    }
}

fn judge<'a>(world: &World, gateway: &'a KubeGateway) -> Vec<ListenerState<'a>> {
    let mut states: Vec<ListenerState<'a>> = Vec::new();
    for (index, listener) in gateway.spec.listeners.iter().enumerate() {
        let (kinds, wrong_kinds) = kinds(listener);
        let conflict = states.iter().filter(|s| s.conflict.is_none()).find_map(|earlier| conflict(earlier.listener, listener));
        let mut state = ListenerState {
            listener,
            index,
            kinds,
            accepted: acceptable(listener).or_else(|| conflict.clone()),
            conflict,
            resolved: None,
            servable: true,
            credential: String::new(),
            client_roots: None,
            attached: 0,
        };
        match frontend::client_roots(world, gateway, listener) {
            Ok(roots) => state.client_roots = roots,
            Err(problem) => {
                state.servable = false;
                let text = format!("no roots to verify clients by: {}", problem.message);
                state.accepted.get_or_insert_with(|| Problem::new("NoValidCACertificate", text));
                state.resolved = Some(problem);
            }
        }
        match credential(world, gateway, listener) {
            Ok(name) => state.credential = name,
            Err(problem) => {
                state.servable = false;
                state.resolved.get_or_insert(problem);
            }
        }
        if let Some(problem) = wrong_kinds {
            state.servable &= !state.kinds.is_empty();
            state.resolved.get_or_insert(problem);
        }
        states.push(state);
    }
    states
}

fn acceptable(listener: &Listener) -> Option<Problem> {
    if listener.protocol().is_none() {
        let text = format!("the protocol {:?} is not supported: HTTP, HTTPS, TLS and TCP are", listener.protocol);
        return Some(Problem::new("UnsupportedProtocol", text));
    }
    OWN_PORTS
        .contains(&listener.port)
        .then(|| Problem::new("PortUnavailable", format!("the port {} is the proxy's own", listener.port)))
}

/// Why two listeners of one port cannot both be served.
fn conflict(earlier: &Listener, later: &Listener) -> Option<Problem> {
    use ListenerProtocol::{Http, Https, Tcp, Tls};
    if earlier.port != later.port {
        return None;
    }
    let (a, b) = (earlier.protocol()?, later.protocol()?);
    let same_sort = match a {
        Http => b == Http,
        Https | Tls => matches!(b, Https | Tls),
        Tcp => b == Tcp,
    };
    if !same_sort {
        let text = format!("the listener {} has the port {} with the protocol {}", earlier.name, earlier.port, a.name());
        return Some(Problem::new("ProtocolConflict", text));
    }
    (earlier.hostname() == later.hostname()).then(|| {
        let text = format!("the listener {} has the port {} with the same hostname", earlier.name, earlier.port);
        Problem::new("HostnameConflict", text)
    })
}

/// The kinds of routes that may attach, and what is wrong with those that are written.
fn kinds(listener: &Listener) -> (Vec<RouteKind>, Option<Problem>) {
    let possible: &[RouteKind] = match listener.protocol() {
        None => &[],
        Some(ListenerProtocol::Http | ListenerProtocol::Https) => &[RouteKind::Http, RouteKind::Grpc],
        Some(ListenerProtocol::Tls) if listener.terminates() => &[RouteKind::Tls, RouteKind::Tcp],
        Some(ListenerProtocol::Tls) => &[RouteKind::Tls],
        Some(ListenerProtocol::Tcp) => &[RouteKind::Tcp],
    };
    let written = listener.allowed_routes.as_ref().map(|a| a.kinds.as_slice()).unwrap_or_default();
    if written.is_empty() {
        return (possible.to_vec(), None);
    }
    let mut out = Vec::new();
    let mut wrong = None;
    for kind in written {
        let known = RouteKind::ALL.into_iter().find(|k| kind.group() == GATEWAY_GROUP && k.name() == kind.kind);
        match known.filter(|k| possible.contains(k)) {
            Some(kind) if !out.contains(&kind) => out.push(kind),
            Some(_) => {}
            None => {
                let text = format!("routes of the kind {} cannot attach to the protocol {}", kind.kind, listener.protocol);
                wrong.get_or_insert_with(|| Problem::new("InvalidRouteKinds", text));
            }
        }
    }
    (out, wrong)
}

/// The certificate of a listener, as proxies ask for it; empty where none is needed.
fn credential(world: &World, gateway: &KubeGateway, listener: &Listener) -> Result<String, Problem> {
    let needed = matches!(listener.protocol(), Some(ListenerProtocol::Https | ListenerProtocol::Tls)) && listener.terminates();
    let own = listener.tls.as_ref().and_then(ListenerTls::terminate_mode) == Some(ServerTlsMode::IstioMutual);
    if !needed || own {
        return Ok(String::new());
    }
    let invalid = |text: String| Problem::new("InvalidCertificateRef", text);
    let Some(reference) = listener.tls.as_ref().and_then(|tls| tls.certificate_refs.first()) else {
        return Err(invalid("certificateRefs is empty: a Secret with the certificate is needed".to_owned()));
    };
    let kind = reference.kind.as_deref().unwrap_or("Secret");
    if (reference.group(), kind) != (CORE_GROUP, "Secret") {
        return Err(invalid(format!("certificates of the kind {kind:?} are not supported: a Secret is")));
    }
    let own = gateway.metadata.namespace.as_str();
    let (namespace, name) = (reference.namespace.as_deref().unwrap_or(own), reference.name.as_str());
    if !world.gateway_api().grants((GATEWAY_GROUP, "Gateway", own), (CORE_GROUP, "Secret", namespace, name)) {
        let text = format!("no ReferenceGrant of {namespace} lets a Gateway of {own} refer to the Secret {name}");
        return Err(Problem::new("RefNotPermitted", text));
    }
    let Some(secret) = world.namespace(namespace).and_then(|ns| ns.secrets.get(name)) else {
        return Err(invalid(format!("there is no Secret {namespace}/{name}")));
    };
    let get = |keys: [&str; 2]| keys.into_iter().find_map(|key| secret.resource.get(key));
    let (Some(chain), Some(key)) = (get(["tls.crt", "cert"]), get(["tls.key", "key"])) else {
        return Err(invalid(format!("the Secret {namespace}/{name} needs the keys tls.crt and tls.key")));
    };
    match Credential::from_pem(chain, key) {
        Ok(_) => Ok(format!("{namespace}/{name}")),
        Err(error) => Err(invalid(format!("the Secret {namespace}/{name} does not hold a certificate and its key: {error}"))),
    }
}

/// What stands for a listener: an Istio Gateway with one server, or one for each host of the routes where TLS ends here and
/// requests are not read.
fn servers(
    gateway: &KubeGateway,
    state: &ListenerState<'_>,
    (front, hosts): (&Front, Option<&BTreeSet<String>>),
    out: &mut Translation,
) {
    let (meta, listener) = (&gateway.metadata, state.listener);
    let by_host = listener.protocol() == Some(ListenerProtocol::Tls) && listener.terminates();
    let nothing = BTreeSet::new();
    let names: Vec<Option<&str>> =
        if by_host { hosts.unwrap_or(&nothing).iter().map(|h| Some(h.as_str())).collect() } else { vec![None] };
    for host in names {
        let served = host.unwrap_or_else(|| listener.hostname());
        let server = Server {
            port: Some(GatewayPort {
                number: u32::try_from(listener.port).unwrap_or(0),
                protocol: listener.protocol.clone(),
                name: listener.name.clone(),
                target_port: None,
            }),
            hosts: vec![format!("./{served}")],
            tls: tls(state),
            ..Server::default()
        };
        let name = internal_name(&meta.name, &listener.name, host);
        out.gateways.push(Gateway {
            metadata: derived(meta, &meta.namespace, name),
            spec: GatewaySpec { servers: vec![server], selector: front.selector.clone() },
            ..Gateway::default()
        });
    }
}

fn tls(state: &ListenerState<'_>) -> Option<ServerTlsSettings> {
    let listener = state.listener;
    if matches!(listener.protocol(), Some(ListenerProtocol::Http | ListenerProtocol::Tcp) | None) {
        return None;
    }
    let written = listener.tls.clone().unwrap_or_default();
    let mode = match written.mode {
        ListenerTlsMode::Passthrough => ServerTlsMode::Passthrough,
        ListenerTlsMode::Terminate => written.terminate_mode().unwrap_or(ServerTlsMode::Simple),
    };
    let (roots, mode) = match &state.client_roots {
        Some((roots, FrontendValidationMode::AllowValidOnly)) => (roots.clone(), ServerTlsMode::Mutual),
        Some((roots, FrontendValidationMode::AllowInsecureFallback)) => (roots.clone(), ServerTlsMode::OptionalMutual),
        None => (String::new(), mode),
    };
    Some(ServerTlsSettings {
        mode,
        ca_cert_credential_name: roots,
        credential_name: state.credential.clone(),
        cipher_suites: written.cipher_suites(),
        ..ServerTlsSettings::default()
    })
}

fn gateway_status(
    world: &World,
    gateway: &KubeGateway,
    states: &[ListenerState<'_>],
    (front, out): (Result<Front, Problem>, &mut Translation),
) -> Status {
    let generation = gateway.metadata.generation.unwrap_or(1);
    let wrong: Vec<&str> = states.iter().filter(|s| !s.is_programmed()).map(|s| s.listener.name.as_str()).collect();
    let invalid = || Problem::new("ListenersNotValid", format!("listeners that are not valid: {}", wrong.join(", ")));
    let accepted = match &front {
        Err(problem) => Condition::bad("Accepted", problem, generation),
        Ok(_) if wrong.is_empty() => Condition::good("Accepted", "Accepted", "Resource accepted", generation),
        Ok(_) if wrong.len() == states.len() => Condition::bad("Accepted", &invalid(), generation),
        Ok(_) => Condition::good("Accepted", "ListenersNotValid", invalid().message, generation),
    };
    let (programmed, addresses) = match &front {
        Err(problem) => (Condition::bad("Programmed", &Problem::new("Invalid", problem.message.clone()), generation), Vec::new()),
        Ok(_) if !accepted.status => {
            (Condition::bad("Programmed", &Problem::new("Invalid", invalid().message), generation), Vec::new())
        }
        Ok(front) => {
            out.fronts.insert((gateway.metadata.namespace.clone(), front.service.clone()));
            let ports: BTreeSet<i64> = states.iter().filter(|s| s.is_programmed()).map(|s| s.listener.port).collect();
            let made = front.programmed(world, &gateway.metadata.namespace, &ports);
            (Condition::of("Programmed", made.as_ref().err(), ("Programmed", made.as_deref().unwrap_or("")), generation), {
                front.addresses(world, gateway)
            })
        }
    };
    let listeners = states.iter().map(|s| listener_status(s, generation)).collect();
    let mut conditions = vec![accepted, programmed];
    let falls_back = |s: &ListenerState<'_>| {
        s.client_roots.as_ref().is_some_and(|(_, mode)| *mode == FrontendValidationMode::AllowInsecureFallback)
    };
    if states.iter().any(falls_back) {
        let text = "AllowInsecureFallback lets in clients without a certificate";
        conditions.push(Condition::good("InsecureFrontendValidationMode", "ConfigurationChanged", text, generation));
    }
    Status::Gateway { addresses, conditions, listeners }
}

fn listener_status(state: &ListenerState<'_>, generation: i64) -> ListenerStatus {
    const NOTHING: &str = "No errors found";
    let conflicted = match &state.conflict {
        Some(problem) => Condition::good("Conflicted", problem.reason, problem.message.clone(), generation),
        None => Condition { status: false, ..Condition::good("Conflicted", "NoConflicts", NOTHING, generation) },
    };
    let programmed = (!state.is_programmed()).then(|| {
        let first = state.accepted.as_ref().or(state.conflict.as_ref()).or(state.resolved.as_ref());
        Problem::new("Invalid", first.map(|p| p.message.clone()).unwrap_or_default())
    });
    ListenerStatus {
        name: state.listener.name.clone(),
        kinds: state.kinds.iter().map(|k| k.name()).collect(),
        attached: state.attached,
        conditions: vec![
            Condition::of("Accepted", state.accepted.as_ref(), ("Accepted", NOTHING), generation),
            conflicted,
            Condition::of("Programmed", programmed.as_ref(), ("Programmed", NOTHING), generation),
            Condition::of("ResolvedRefs", state.resolved.as_ref(), ("ResolvedRefs", NOTHING), generation),
        ],
    }
}

/// Gateways that stand for something elsewhere: only where it is counts.
fn remote(sources: &Sources, out: &mut Translation) {
    for ((namespace, name), gateway) in sources.gateways.iter().filter(|(_, g)| class::is_remote(sources, g)) {
        let generation = gateway.metadata.generation.unwrap_or(1);
        let address = |a: &lateen_model::resource::gateway_api::GatewayAddress| {
            let type_ = if a.type_ == AddressType::Hostname { "Hostname" } else { "IPAddress" };
            Some((type_, a.value.clone()?))
        };
        let addresses: Vec<_> = gateway.spec.addresses.iter().filter_map(address).collect();
        let problem = addresses.is_empty().then(|| Problem::new("AddressNotAssigned", "addresses is empty: write where it is"));
        let conditions = vec![
            Condition::good("Accepted", "Accepted", "Resource accepted", generation),
            Condition::of("Programmed", problem.as_ref(), ("Programmed", "Resource programmed"), generation),
        ];
        let key = ResourceKey { kind: Kind::KubeGateway, namespace: namespace.clone(), name: name.clone() };
        out.statuses.insert(key, Status::Gateway { addresses, conditions, listeners: Vec::new() });
    }
}
