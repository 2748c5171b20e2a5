use super::*;
use lateen_model::dataplane::{Direction, FilterChain, HttpInspector, ListenerFilters, TcpDestination, TcpProxy, Terminal};
use proptest::prelude::*;

fn chain(name: &str, matches: FilterChainMatch) -> FilterChain {
    let tcp = TcpProxy {
        stat_prefix: name.into(),
        destination: TcpDestination::Cluster(name.into()),
        idle_timeout: None,
        hash_source_ip: false,
        tunnel: None,
        access_log: vec![],
    };
    FilterChain { name: name.into(), matches, tls: None, network_filters: vec![], terminal: Terminal::Tcp(tcp) }
}

fn listener(chains: Vec<FilterChain>, default: bool) -> Listener {
    Listener {
        name: "virtualInbound".into(),
        address: "0.0.0.0:15006".parse().unwrap(),
        additional_addresses: vec![],
        bind_to_port: true,
        use_original_dst: false,
        direction: Direction::Inbound,
        listener_filters: ListenerFilters {
            original_dst: true,
            tls_inspector: true,
            http_inspector: Some(HttpInspector { disabled_ports: vec![3306] }),
            timeout: None,
            continue_on_timeout: true,
        },
        filter_chains: chains,
        default_filter_chain: default.then(|| chain("default", FilterChainMatch::default())),
        access_log: vec![],
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|n| n.parse().unwrap()).collect()
}

struct Lab {
    names: Vec<String>,
    index: FilterChainIndex,
}

impl Lab {
    fn new(chains: Vec<(&str, FilterChainMatch)>) -> Self {
        let names = chains.iter().map(|(n, _)| (*n).to_owned()).collect();
        let chains = chains.into_iter().map(|(n, m)| chain(n, m)).collect();
        Self { names, index: FilterChainIndex::compile(&listener(chains, true)).unwrap() }
    }

    fn find(&self, destination: &str, sni: Option<&str>, tls: bool, protocols: &[&str]) -> &str {
        self.find_from("10.9.9.9:1234", destination, sni, tls, protocols)
    }

    fn find_from(&self, source: &str, destination: &str, sni: Option<&str>, tls: bool, protocols: &[&str]) -> &str {
        let facts = ConnectionFacts {
            destination: destination.parse().unwrap(),
            source: source.parse().unwrap(),
            server_name: sni,
            transport: if tls { TransportProtocol::Tls } else { TransportProtocol::RawBuffer },
            application_protocols: protocols,
        };
        match self.index.find(&facts) {
            Some(ChainChoice::Chain(i)) => &self.names[i],
            Some(ChainChoice::Default) => "default",
            None => "closed",
        }
    }
}

fn port(port: u16) -> FilterChainMatch {
    FilterChainMatch { destination_port: Some(port), ..FilterChainMatch::default() }
}

/// The inbound chains of a sidecar: PERMISSIVE on 8080, STRICT on 9090, opaque and unencrypted 3306.
fn sidecar() -> Lab {
    let tls = Some(TransportProtocol::Tls);
    let raw = Some(TransportProtocol::RawBuffer);
    let mtls = strings(&["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"]);
    Lab::new(vec![
        ("8080 mtls", FilterChainMatch { transport_protocol: tls, application_protocols: mtls, ..port(8080) }),
        ("8080 app tls", FilterChainMatch { transport_protocol: tls, ..port(8080) }),
        ("8080 plain", FilterChainMatch { transport_protocol: raw, ..port(8080) }),
        ("9090 mtls", FilterChainMatch { transport_protocol: tls, ..port(9090) }),
        ("3306", port(3306)),
        (
            "other http",
            FilterChainMatch {
                transport_protocol: raw,
                application_protocols: strings(&["http/1.0", "http/1.1", "h2c"]),
                ..FilterChainMatch::default()
            },
        ),
        ("other plain", FilterChainMatch { transport_protocol: raw, ..FilterChainMatch::default() }),
    ])
}

#[test]
fn inbound_of_a_sidecar() {
    let lab = sidecar();
    for (destination, sni, tls, protocols, expected) in [
        ("10.0.0.1:8080", Some("outbound_.80_._.a"), true, &["istio-http/1.1"][..], "8080 mtls"),
        ("10.0.0.1:8080", Some("a.example"), true, &["h2", "http/1.1"], "8080 app tls"),
        ("10.0.0.1:8080", None, true, &[], "8080 app tls"),
        ("10.0.0.1:8080", None, false, &["http/1.1"], "8080 plain"),
        ("10.0.0.1:9090", None, true, &["istio"], "9090 mtls"),
        // STRICT: plaintext finds no chain of the port, and must not find that of another.
        ("10.0.0.1:9090", None, false, &["http/1.1"], "default"),
        ("10.0.0.1:3306", None, false, &[], "3306"),
        ("10.0.0.1:3306", None, true, &["istio"], "3306"),
        ("10.0.0.1:7000", None, false, &["http/1.1"], "other http"),
        ("10.0.0.1:7000", None, false, &[], "other plain"),
        ("10.0.0.1:7000", None, true, &["istio"], "default"),
    ] {
        assert_eq!(lab.find(destination, sni, tls, protocols), expected, "{destination} {sni:?} {tls} {protocols:?}");
    }
}

#[test]
fn what_must_be_read_first() {
    let lab = sidecar();
    for (destination, tls, http) in [
        ("10.0.0.1:8080", true, false),
        ("10.0.0.1:9090", true, false),
        // A server-first protocol starts at once.
        ("10.0.0.1:3306", false, false),
        ("10.0.0.1:7000", true, true),
    ] {
        let inspection = lab.index.inspection(destination.parse().unwrap());
        assert_eq!(inspection, Inspection { tls, http }, "{destination}");
        assert_eq!(inspection.is_none(), !tls && !http);
    }
    // Inspectors that are off, or off for this port.
    let http = FilterChainMatch { application_protocols: strings(&["h2c"]), ..FilterChainMatch::default() };
    let mut model = listener(vec![chain("http", http)], true);
    let at = |l: &Listener, port: u16| FilterChainIndex::compile(l).unwrap().inspection(SocketAddr::from(([10, 0, 0, 1], port)));
    assert_eq!(at(&model, 80), Inspection { tls: true, http: true });
    assert_eq!(at(&model, 3306), Inspection { tls: true, http: false });
    model.listener_filters.tls_inspector = false;
    model.listener_filters.http_inspector = None;
    assert!(at(&model, 80).is_none());
    // No chain for the address: nothing to find out.
    let elsewhere = FilterChainMatch { destination_prefixes: nets(&["192.0.2.0/24"]), ..port(80) };
    let model = listener(vec![chain("x", FilterChainMatch { server_names: strings(&["a"]), ..elsewhere })], false);
    assert!(at(&model, 80).is_none());
}

#[test]
fn destination_prefixes() {
    let to = |prefixes: &[&str]| FilterChainMatch { destination_prefixes: nets(prefixes), ..FilterChainMatch::default() };
    let lab = Lab::new(vec![
        ("wide", to(&["10.0.0.0/8", "fd00::/8"])),
        ("narrow", to(&["10.1.0.0/16"])),
        ("host", to(&["10.1.2.3/32"])),
        ("v4", to(&["0.0.0.0/0"])),
        ("port", FilterChainMatch { destination_prefixes: nets(&["10.1.2.3/32"]), ..port(80) }),
    ]);
    for (destination, expected) in [
        ("10.9.9.9:1", "wide"),
        ("10.1.9.9:1", "narrow"),
        ("10.1.2.3:1", "host"),
        ("[::ffff:10.1.2.3]:1", "host"),
        ("192.0.2.1:1", "v4"),
        ("[fd00::1]:1", "wide"),
        ("[2001:db8::1]:1", "default"),
        ("10.1.2.3:80", "port"),
        // The port is looked at first, and there is no way back from it.
        ("10.1.9.9:80", "default"),
    ] {
        assert_eq!(lab.find(destination, None, false, &[]), expected, "{destination}");
    }
}

#[test]
fn server_names() {
    let names = |list: &[&str]| FilterChainMatch { server_names: strings(list), ..FilterChainMatch::default() };
    let lab = Lab::new(vec![
        ("exact", names(&["www.Example.com", "example.com"])),
        ("wildcard", names(&["*.example.com"])),
        ("deep", names(&["*.eu.example.com"])),
        ("com", names(&["*.com"])),
        ("none", FilterChainMatch::default()),
    ]);
    for (sni, expected) in [
        (Some("www.example.com"), "exact"),
        (Some("WWW.example.COM"), "exact"),
        (Some("example.com"), "exact"),
        (Some("a.example.com"), "wildcard"),
        (Some("a.b.example.com"), "wildcard"),
        (Some("a.eu.example.com"), "deep"),
        (Some("eu.example.com"), "wildcard"),
        (Some("other.com"), "com"),
        (Some("com"), "none"),
        (Some(".com"), "none"),
        (Some("example.org"), "none"),
        (None, "none"),
        (Some(""), "none"),
    ] {
        assert_eq!(lab.find("10.0.0.1:443", sni, true, &[]), expected, "{sni:?}");
    }
}

#[test]
fn precedence_of_names_over_transport_over_protocols_over_sources() {
    let base = FilterChainMatch::default;
    let lab = Lab::new(vec![
        (
            "name raw",
            FilterChainMatch { server_names: strings(&["a"]), transport_protocol: Some(TransportProtocol::RawBuffer), ..base() },
        ),
        ("tls", FilterChainMatch { transport_protocol: Some(TransportProtocol::Tls), ..base() }),
        (
            "tls h2",
            FilterChainMatch {
                transport_protocol: Some(TransportProtocol::Tls),
                application_protocols: strings(&["h2"]),
                source_prefixes: nets(&["10.0.0.0/8"]),
                ..base()
            },
        ),
        (
            "tls h2 narrow",
            FilterChainMatch {
                transport_protocol: Some(TransportProtocol::Tls),
                application_protocols: strings(&["h2", "h3"]),
                source_prefixes: nets(&["10.1.0.0/16"]),
                ..base()
            },
        ),
        ("any", FilterChainMatch { application_protocols: strings(&["h2"]), ..base() }),
    ]);
    for (source, sni, tls, protocols, expected) in [
        // The name decides first, and its branch has no chain for TLS.
        ("10.1.1.1:1", Some("a"), true, &["h2"][..], "default"),
        ("10.1.1.1:1", Some("b"), true, &["h2"], "tls h2 narrow"),
        ("10.2.1.1:1", Some("b"), true, &["h2"], "tls h2"),
        ("192.0.2.1:1", Some("b"), true, &["h2"], "default"),
        // The first of the client's protocols that has a chain.
        ("10.1.1.1:1", None, true, &["x", "h3"], "tls h2 narrow"),
        ("10.1.1.1:1", None, true, &["http/1.1"], "tls"),
        ("10.1.1.1:1", None, false, &["h2"], "any"),
        ("10.1.1.1:1", None, false, &["h9"], "default"),
    ] {
        assert_eq!(lab.find_from(source, "10.0.0.1:443", sni, tls, protocols), expected, "{source} {sni:?} {tls} {protocols:?}");
    }
}

#[test]
fn no_default_closes() {
    let index = FilterChainIndex::compile(&listener(vec![chain("x", port(80))], false)).unwrap();
    let facts = |port: u16| ConnectionFacts {
        destination: SocketAddr::from(([10, 0, 0, 1], port)),
        source: SocketAddr::from(([10, 0, 0, 2], 1)),
        server_name: None,
        transport: TransportProtocol::RawBuffer,
        application_protocols: &[],
    };
    assert_eq!(index.find(&facts(80)), Some(ChainChoice::Chain(0)));
    assert_eq!(index.find(&facts(81)), None);
}

#[test]
fn ambiguous_or_wrong_matches_are_refused() {
    let error = |chains| FilterChainIndex::compile(&listener(chains, false)).unwrap_err().to_string();
    let two = error(vec![chain("a", port(80)), chain("b", port(80))]);
    assert!(two.contains("filter_chains[1]") && two.contains("\"b\"") && two.contains("same match"), "{two}");
    let overlap = |names: &[&str]| FilterChainMatch { server_names: strings(names), ..FilterChainMatch::default() };
    assert!(error(vec![chain("a", overlap(&["x", "y"])), chain("b", overlap(&["Y"]))]).contains("same match"));
    for name in ["*x", "a.*", "*.", "", "*.*.x"] {
        assert!(error(vec![chain("a", overlap(&[name]))]).contains("server name"), "{name}");
    }
}

/// What the documentation says, level by level, over a flat list.
fn reference(chains: &[FilterChainMatch], facts: &ConnectionFacts<'_>) -> Option<usize> {
    let mut left: Vec<(usize, &FilterChainMatch)> = chains.iter().enumerate().collect();
    let best_prefix = |prefixes: &[IpNet], ip: IpAddr| -> Option<i16> {
        let longest = prefixes.iter().filter(|n| n.contains(&ip)).map(|n| i16::from(n.prefix_len())).max();
        if prefixes.is_empty() { Some(-1) } else { longest }
    };
    let narrow = |left: &mut Vec<(usize, &FilterChainMatch)>, score: &dyn Fn(&FilterChainMatch) -> Option<i16>| {
        let best = left.iter().filter_map(|(_, m)| score(m)).max();
        left.retain(|(_, m)| best.is_some() && score(m) == best);
    };
    let has_port = left.iter().any(|(_, m)| m.destination_port == Some(facts.destination.port()));
    left.retain(|(_, m)| m.destination_port == has_port.then_some(facts.destination.port()));
    narrow(&mut left, &|m| best_prefix(&m.destination_prefixes, facts.destination.ip()));
    let sni = facts.server_name.unwrap_or_default();
    narrow(&mut left, &|m| {
        let score = |name: &String| match name.strip_prefix('*') {
            Some(suffix) => (sni.len() > suffix.len() && sni.ends_with(suffix)).then(|| i16::try_from(suffix.len()).unwrap()),
            None => (name == sni).then_some(1000),
        };
        if m.server_names.is_empty() { Some(-1) } else { m.server_names.iter().filter_map(score).max() }
    });
    narrow(&mut left, &|m| match m.transport_protocol {
        None => Some(0),
        Some(p) => (p == facts.transport).then_some(1),
    });
    narrow(&mut left, &|m| {
        let position = |p: &String| facts.application_protocols.iter().position(|f| f == p);
        let score = |p: &String| position(p).map(|at| 100 - i16::try_from(at).unwrap());
        if m.application_protocols.is_empty() { Some(0) } else { m.application_protocols.iter().filter_map(score).max() }
    });
    narrow(&mut left, &|m| best_prefix(&m.source_prefixes, facts.source.ip()));
    left.first().map(|(i, _)| *i)
}

prop_compose! {
    fn any_match()(
        destination_port in prop::option::of(80u16..83),
        destination in prop::collection::vec((0u8..3, prop::sample::select(vec![8u8, 24, 32])), 0..2),
        server_names in prop::collection::vec(prop::sample::select(vec!["a.x.y", "*.x.y", "*.y", "b.y"]), 0..2),
        transport in prop::option::of(any::<bool>()),
        protocols in prop::collection::vec(prop::sample::select(vec!["h2", "http/1.1", "istio"]), 0..2),
        source in prop::collection::vec((0u8..3, prop::sample::select(vec![8u8, 32])), 0..2),
    ) -> FilterChainMatch {
        let nets = |list: Vec<(u8, u8)>| {
            list.into_iter().map(|(n, len)| IpNet::new(IpAddr::from([10, 0, 0, n]), len).expect("valid").trunc()).collect()
        };
        FilterChainMatch {
            destination_port,
            destination_prefixes: nets(destination),
            server_names: strings(&server_names),
            transport_protocol: transport.map(|t| if t { TransportProtocol::Tls } else { TransportProtocol::RawBuffer }),
            application_protocols: strings(&protocols),
            source_prefixes: nets(source),
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_the_reference(
        matches in prop::collection::vec(any_match(), 0..12),
        destination in (0u8..3, 80u16..84),
        source in 0u8..3,
        sni in prop::option::of(prop::sample::select(vec!["a.x.y", "c.x.y", "b.y", "c.y", "z"])),
        tls in any::<bool>(),
        protocols in prop::collection::vec(prop::sample::select(vec!["h2", "http/1.1", "istio", "other"]), 0..3),
    ) {
        // Chains that would be ambiguous with an earlier one are left out.
        let mut chains: Vec<FilterChainMatch> = Vec::new();
        for candidate in matches {
            let mut more = chains.clone();
            more.push(candidate);
            let model = more.iter().map(|m| chain("c", m.clone())).collect();
            if FilterChainIndex::compile(&listener(model, false)).is_ok() {
                chains = more;
            }
        }
        let model = chains.iter().map(|m| chain("c", m.clone())).collect();
        let index = FilterChainIndex::compile(&listener(model, false)).expect("checked above");
        let facts = ConnectionFacts {
            destination: SocketAddr::from(([10, 0, 0, destination.0], destination.1)),
            source: SocketAddr::from(([10, 0, 0, source], 1)),
            server_name: sni,
            transport: if tls { TransportProtocol::Tls } else { TransportProtocol::RawBuffer },
            application_protocols: &protocols,
        };
        let found = index.find(&facts);
        prop_assert_eq!(found, reference(&chains, &facts).map(ChainChoice::Chain));
        // What inspection says is not needed must not matter.
        let inspection = index.inspection(facts.destination);
        if !inspection.tls {
            let blind = ConnectionFacts { server_name: None, transport: TransportProtocol::RawBuffer, application_protocols: &[], ..facts };
            prop_assert_eq!(index.find(&blind), found);
        }
    }
}
