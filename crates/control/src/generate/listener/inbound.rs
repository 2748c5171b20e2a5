//! The listener for connections to the application.

use super::{http, plain_http, stats, tcp_proxy};
use crate::generate::inbound::{self, InboundPort};
use crate::generate::mtls::{Mode, WorkloadModes};
use crate::generate::proxy::Proxy;
use crate::generate::rbac::{self, Layer};
use crate::generate::{mesh, route, tls};
use crate::names;
use crate::world::{Protocol, World};
use lateen_model::dataplane::{
    Direction, FilterChain, FilterChainMatch, HttpInspector, Listener, ListenerFilters, NetworkFilter, Rbac, RouteConfiguration,
    RouteSource, Terminal, TransportProtocol,
};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// How a port's bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Http,
    Tcp,
    Auto,
}

impl Class {
    fn of(protocol: Protocol) -> Self {
        if protocol.is_http() {
            Self::Http
        } else if protocol.is_auto() {
            Self::Auto
        } else {
            Self::Tcp
        }
    }
}

/// One chain of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    /// `None`: with or without TLS.
    transport: Option<TransportProtocol>,
    /// ALPN, or what the inspector found; empty: any.
    protocols: Vec<String>,
    /// Whether the proxy ends TLS.
    mutual: bool,
    /// Whether requests are read.
    http: bool,
}

/// Which chains serve a port: by what it accepts and what it speaks. The order is of no matter: a chain with application
/// protocols is more specific than one without.
fn kinds(mode: Mode, class: Class, http10: bool) -> Vec<Kind> {
    let tls = |protocols: Vec<String>, mutual, http| Kind { transport: Some(TransportProtocol::Tls), protocols, mutual, http };
    let raw =
        |protocols: Vec<String>, http| Kind { transport: Some(TransportProtocol::RawBuffer), protocols, mutual: false, http };
    let bytes = || Kind { transport: None, protocols: Vec::new(), mutual: false, http: false };
    let any = Vec::new;
    let istio_http = || tls::ISTIO_HTTP.map(str::to_owned).to_vec();
    let istio_tcp = || vec![tls::PEER_EXCHANGE.to_owned(), tls::ISTIO.to_owned()];
    match (mode, class) {
        (Mode::Strict, Class::Http) => vec![tls(any(), true, true)],
        (Mode::Strict, Class::Tcp) => vec![tls(any(), true, false)],
        (Mode::Strict, Class::Auto) => vec![tls(istio_http(), true, true), tls(any(), true, false)],
        (Mode::Permissive, Class::Http) => vec![tls(tls::istio_alpns(), true, true), raw(any(), true)],
        (Mode::Permissive, Class::Tcp) => {
            vec![tls(tls::istio_alpns(), true, false), tls(any(), false, false), raw(any(), false)]
        }
        (Mode::Permissive, Class::Auto) => vec![
            tls(istio_http(), true, true),
            raw(plain_http(http10), true),
            tls(istio_tcp(), true, false),
            raw(any(), false),
            tls(any(), false, false),
        ],
        (Mode::Disable, Class::Http) => vec![raw(any(), true)],
        // TLS from the application itself passes, without being looked for.
        (Mode::Disable, Class::Tcp) => vec![bytes()],
        (Mode::Disable, Class::Auto) => vec![raw(plain_http(http10), true), bytes()],
    }
}

struct Inbound<'a> {
    world: &'a World,
    proxy: &'a Proxy,
    http_rbac: Vec<Rbac>,
    tcp_rbac: Vec<Rbac>,
}

/// What a set of chains has in common.
struct Target<'a> {
    /// `None`: ports that no service names.
    port: Option<u16>,
    cluster: String,
    tcp_name: &'a str,
    http_name: &'a str,
    routes: RouteConfiguration,
}

impl Target<'_> {
    /// Istio's name for the chain that ends mutual TLS; the others of the same port say what sets them apart, because names
    /// must differ within a listener. `mixed`: there are chains for HTTP and for bytes.
    fn chain_name(&self, kind: &Kind, mixed: bool) -> String {
        let mut name = if kind.http { self.http_name } else { self.tcp_name }.to_owned();
        if let Some(port) = self.port.filter(|_| self.cluster == names::INBOUND_PASSTHROUGH) {
            name.push_str(&format!("-{port}"));
        }
        if mixed && !kind.http && self.http_name == self.tcp_name {
            name.push_str("-tcp");
        }
        match kind.transport {
            _ if kind.mutual => {}
            Some(TransportProtocol::Tls) => name.push_str("-tls"),
            Some(TransportProtocol::RawBuffer) => name.push_str("-plaintext"),
            None => {}
        }
        name
    }
}

/// All listeners for connections to the application: those that a Sidecar has where nothing is captured, and `virtualInbound`.
pub fn listeners(world: &World, proxy: &Proxy) -> Vec<Listener> {
    let inbound = Inbound {
        world,
        proxy,
        http_rbac: rbac::filters(world, proxy, Layer::Http),
        tcp_rbac: rbac::filters(world, proxy, Layer::Tcp),
    };
    let ports = inbound::ports(world, proxy).into_iter().filter(|p| p.target != names::INBOUND_PORT);
    let (bound, captured): (Vec<_>, Vec<_>) = ports.partition(|p| p.bound().is_some());
    let modes = WorkloadModes::of_proxy(world, proxy);
    let own = bound.iter().filter_map(|port| inbound.bound_listener(port, modes.port(port.target)));
    own.chain([inbound.captured_listener(&captured, &modes)]).collect()
}

impl Inbound<'_> {
    /// What a Sidecar's `captureMode: NONE` asks for: the proxy listens itself, and there is one application to lead to.
    fn bound_listener(&self, port: &InboundPort, mode: Mode) -> Option<Listener> {
        let address = port.bound()?;
        let mut filter_chains = self.port(port, mode);
        for chain in &mut filter_chains {
            chain.matches.destination_port = None;
        }
        let auto = Class::of(port.protocol) == Class::Auto;
        let inspects = auto || filter_chains.iter().any(|c| c.matches.transport_protocol.is_some());
        Some(Listener {
            name: names::listener(address.ip(), address.port()),
            address,
            additional_addresses: Vec::new(),
            bind_to_port: true,
            use_original_dst: false,
            direction: Direction::Inbound,
            listener_filters: ListenerFilters {
                original_dst: false,
                tls_inspector: filter_chains.iter().any(|c| c.matches.transport_protocol.is_some()),
                http_inspector: auto.then(HttpInspector::default),
                timeout: if inspects { mesh::protocol_detection_timeout(self.world.mesh()) } else { None },
                continue_on_timeout: true,
            },
            filter_chains,
            default_filter_chain: None,
            access_log: mesh::listener_access_log(self.world.mesh()),
        })
    }

    /// `virtualInbound`, which all captured connections to the pod arrive at.
    fn captured_listener(&self, ports: &[InboundPort], modes: &WorkloadModes) -> Listener {
        let (world, proxy) = (self.world, self.proxy);
        let mut chains = vec![super::black_hole("virtualInbound-blackhole", names::INBOUND_PORT, Direction::Inbound)];
        let served: BTreeSet<u16> = ports.iter().map(|p| p.target).collect();
        chains.extend(self.passthrough(None, modes.default));
        for (port, mode) in modes.ports.iter().filter(|(port, _)| !served.contains(port)) {
            chains.extend(self.passthrough(Some(*port), *mode));
        }
        for port in ports {
            chains.extend(self.port(port, modes.port(port.target)));
        }
        let declared = ports.iter().filter(|p| Class::of(p.protocol) != Class::Auto).map(|p| p.target).collect();
        let addresses: Vec<SocketAddr> =
            proxy.families.wildcards().iter().map(|ip| SocketAddr::new(*ip, names::INBOUND_PORT)).collect();
        Listener {
            name: "virtualInbound".into(),
            address: addresses[0],
            additional_addresses: addresses[1..].to_vec(),
            bind_to_port: true,
            use_original_dst: false,
            direction: Direction::Inbound,
            listener_filters: ListenerFilters {
                original_dst: true,
                // Where nothing tells TLS from the rest, servers that speak first are not held up by looking for it.
                tls_inspector: chains.iter().any(|c| c.matches.transport_protocol.is_some()),
                http_inspector: Some(HttpInspector { disabled_ports: declared }),
                timeout: mesh::protocol_detection_timeout(world.mesh()),
                continue_on_timeout: true,
            },
            filter_chains: chains,
            default_filter_chain: None,
            access_log: mesh::listener_access_log(world.mesh()),
        }
    }

    fn port(&self, port: &InboundPort, mode: Mode) -> Vec<FilterChain> {
        let name = names::listener(self.proxy.families.wildcard(), port.target);
        let target = Target {
            port: Some(port.target),
            cluster: names::inbound_cluster(port.target),
            tcp_name: &name,
            http_name: &name,
            routes: route::inbound(self.world, port),
        };
        self.chains(&target, mode, Class::of(port.protocol))
    }

    fn passthrough(&self, port: Option<u16>, mode: Mode) -> Vec<FilterChain> {
        let target = Target {
            port,
            cluster: names::INBOUND_PASSTHROUGH.to_owned(),
            tcp_name: "virtualInbound",
            http_name: "virtualInbound-catchall-http",
            routes: route::inbound_passthrough(self.world),
        };
        self.chains(&target, mode, Class::Auto)
    }

    fn chains(&self, target: &Target<'_>, mode: Mode, class: Class) -> Vec<FilterChain> {
        let kinds = kinds(mode, class, self.proxy.http10);
        let mixed = kinds.iter().any(|k| k.http) && kinds.iter().any(|k| !k.http);
        kinds.into_iter().map(|kind| self.chain(target, kind, mixed)).collect()
    }

    fn chain(&self, target: &Target<'_>, kind: Kind, mixed: bool) -> FilterChain {
        let alpn: &[&str] = if kind.http { &["h2", "http/1.1"] } else { &[tls::PEER_EXCHANGE, "h2", "http/1.1"] };
        let terminal = if kind.http {
            self.http(target)
        } else {
            Terminal::Tcp(tcp_proxy(&target.cluster, &mesh::access_log(self.world.mesh())))
        };
        FilterChain {
            name: target.chain_name(&kind, mixed),
            matches: FilterChainMatch {
                destination_port: target.port,
                transport_protocol: kind.transport,
                application_protocols: kind.protocols,
                ..FilterChainMatch::default()
            },
            tls: kind.mutual.then(|| Box::new(tls::inbound(self.world, alpn))),
            network_filters: if kind.http { Vec::new() } else { self.tcp_filters() },
            terminal,
        }
    }

    fn http(&self, target: &Target<'_>) -> Terminal {
        let port = target.port.unwrap_or(0);
        let stat_prefix = format!("inbound_{}", names::listener(self.proxy.families.wildcard(), port));
        let routes = RouteSource::Inline(Box::new(target.routes.clone()));
        Terminal::Http(Box::new(http::inbound(self.world, self.proxy, stat_prefix, (routes, &self.http_rbac))))
    }

    fn tcp_filters(&self) -> Vec<NetworkFilter> {
        let mut filters = vec![NetworkFilter::MetadataExchange];
        filters.extend(self.tcp_rbac.iter().cloned().map(NetworkFilter::Rbac));
        filters.push(NetworkFilter::Stats(stats(Direction::Inbound)));
        filters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(mode: Mode, class: Class) -> Vec<String> {
        let text = |k: &Kind| {
            let transport = match k.transport {
                Some(TransportProtocol::Tls) => "tls",
                Some(TransportProtocol::RawBuffer) => "raw",
                None => "any",
            };
            let kind = if k.http { "http" } else { "tcp" };
            format!("{transport}[{}] -> {}{kind}", k.protocols.join(","), if k.mutual { "mtls " } else { "" })
        };
        kinds(mode, class, false).iter().map(text).collect()
    }

    #[test]
    fn names_differ_within_a_listener() {
        use crate::generate::fixture;
        let manifests = "apiVersion: v1\nkind: Service\nmetadata: {name: one, namespace: a}\nspec: {selector: {app: one}, ports: [{name: http, port: 80, targetPort: 8080}, {name: other, port: 81, targetPort: 8081}, {name: tcp, port: 82, targetPort: 8082}]}\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: a}\nspec: {selector: {matchLabels: {app: one}}, portLevelMtls: {8081: {mode: DISABLE}, 9000: {mode: DISABLE}, 9001: {mode: STRICT}}}\n";
        let world = fixture::world(manifests, &[fixture::pod("a", "one-0", [10, 0, 0, 1], &[("app", "one")])]);
        let listener = listeners(&world, &fixture::proxy(&world, "a", "one-0")).pop().unwrap();
        let names: Vec<&str> = listener.filter_chains.iter().map(|c| c.name.as_str()).collect();
        let unique: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        for name in [
            "virtualInbound",
            "virtualInbound-catchall-http",
            "virtualInbound-blackhole",
            "0.0.0.0_8080",
            "0.0.0.0_8080-plaintext",
        ] {
            assert!(unique.contains(name), "{name} is not among {names:?}");
        }
        assert_eq!(listener.listener_filters.http_inspector.unwrap().disabled_ports, [8080, 8082]);
    }

    #[test]
    fn a_sidecar_listens_itself_where_nothing_is_captured() {
        use crate::generate::fixture;
        let manifests = "apiVersion: v1\nkind: Service\nmetadata: {name: one, namespace: a}\nspec: {selector: {app: one}, ports: [{name: http, port: 80, targetPort: 8085}]}\n---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: a}\nspec:\n  ingress:\n  - {port: {number: 8085, protocol: HTTP}, captureMode: NONE, defaultEndpoint: '127.0.0.1:8080'}\n  - {port: {number: 8086, protocol: TCP}, captureMode: NONE, bind: 10.0.0.1, defaultEndpoint: '127.0.0.1:9000'}\n  - {port: {number: 8087, protocol: HTTP}, defaultEndpoint: '127.0.0.1:8080'}\n";
        let world = fixture::world(manifests, &[fixture::pod("a", "one-0", [10, 0, 0, 1], &[("app", "one")])]);
        let listeners = listeners(&world, &fixture::proxy(&world, "a", "one-0"));
        let names: Vec<&str> = listeners.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(names, ["0.0.0.0_8085", "10.0.0.1_8086", "virtualInbound"]);
        for bound in &listeners[..2] {
            assert!(bound.bind_to_port && !bound.listener_filters.original_dst, "{bound:#?}");
            // Mutual TLS as everywhere else, and nothing that only redirected connections have.
            assert!(bound.filter_chains.iter().any(|c| c.tls.is_some()), "{bound:#?}");
            assert!(bound.filter_chains.iter().all(|c| c.matches.destination_port.is_none()), "{bound:#?}");
        }
        let captured: Vec<_> = listeners[2].filter_chains.iter().filter_map(|c| c.matches.destination_port).collect();
        assert!(captured.contains(&8087) && !captured.contains(&8085) && !captured.contains(&8086), "{captured:?}");
    }

    #[test]
    fn chains_by_mode_and_protocol() {
        let all = "istio,istio-peer-exchange,istio-http/1.0,istio-http/1.1,istio-h2";
        for (mode, class, expected) in [
            (Mode::Strict, Class::Http, vec!["tls[] -> mtls http".to_owned()]),
            (Mode::Strict, Class::Tcp, vec!["tls[] -> mtls tcp".to_owned()]),
            (
                Mode::Strict,
                Class::Auto,
                vec!["tls[istio-http/1.0,istio-http/1.1,istio-h2] -> mtls http".to_owned(), "tls[] -> mtls tcp".to_owned()],
            ),
            (Mode::Permissive, Class::Http, vec![format!("tls[{all}] -> mtls http"), "raw[] -> http".to_owned()]),
            (
                Mode::Permissive,
                Class::Tcp,
                vec![format!("tls[{all}] -> mtls tcp"), "tls[] -> tcp".to_owned(), "raw[] -> tcp".to_owned()],
            ),
            (
                Mode::Permissive,
                Class::Auto,
                vec![
                    "tls[istio-http/1.0,istio-http/1.1,istio-h2] -> mtls http".to_owned(),
                    "raw[http/1.1,h2c] -> http".to_owned(),
                    "tls[istio-peer-exchange,istio] -> mtls tcp".to_owned(),
                    "raw[] -> tcp".to_owned(),
                    "tls[] -> tcp".to_owned(),
                ],
            ),
            (Mode::Disable, Class::Http, vec!["raw[] -> http".to_owned()]),
            (Mode::Disable, Class::Tcp, vec!["any[] -> tcp".to_owned()]),
            (Mode::Disable, Class::Auto, vec!["raw[http/1.1,h2c] -> http".to_owned(), "any[] -> tcp".to_owned()]),
        ] {
            assert_eq!(shape(mode, class), expected, "{mode:?} {class:?}");
        }
        assert!(kinds(Mode::Permissive, Class::Auto, true)[1].protocols.contains(&"http/1.0".to_owned()));
    }
}
