//! What a decision costs, in nanoseconds: `cargo run --release -p lateen-policy --example measure`.
//!
//! Each line is the median of several rounds on one thread; a round is long enough that the clock does not matter.

#![expect(clippy::print_stdout, reason = "a command-line program")]

use lateen_model::dataplane::{
    CircuitBreakers, ClusterSpecifier, Forward, HeaderMatch, HeaderMutation, HeaderPredicate, LbPolicy, Locality,
    OutlierDetection, PathMatch, PathNormalization, Permission, Principal, Rbac, RbacAction, RbacPolicy, Route, RouteAction,
    RouteConfiguration, RouteFilters, RouteMatch, SafeRegex, StringMatch, VirtualHost,
};
use lateen_policy::balance::{Avoid, BalanceSettings, HostGroup, HostSet, HostView, Picker};
use lateen_policy::breaker::Breakers;
use lateen_policy::outlier::{Detector, HostHealth, Outcome};
use lateen_policy::rbac::Engine;
use lateen_policy::route::RouteTable;
use lateen_policy::{ConnectionView, Peer, RequestView, path};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Request {
    authority: String,
    path: String,
    headers: Vec<(&'static str, &'static [u8])>,
}

impl RequestView for Request {
    fn method(&self) -> &str {
        "GET"
    }

    fn scheme(&self) -> &str {
        "http"
    }

    fn authority(&self) -> &str {
        &self.authority
    }

    fn path_and_query(&self) -> &str {
        &self.path
    }

    fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers.iter().filter(move |(n, _)| *n == name).map(|(_, v)| *v)
    }
}

impl ConnectionView for Request {
    fn destination(&self) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 8080))
    }

    fn direct_remote(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    }

    fn client(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    }

    fn server_name(&self) -> Option<&str> {
        None
    }

    fn peer(&self) -> Peer<'_> {
        Peer::Verified(Some("spiffe://cluster.local/ns/production/sa/order-service-sa"))
    }
}

struct Host(u32);

impl HostView for Host {
    fn weight(&self) -> u32 {
        self.0
    }

    fn active_requests(&self) -> u32 {
        1
    }

    fn is_usable(&self) -> bool {
        true
    }

    fn hash_key(&self) -> String {
        "10.0.0.1:80".into()
    }

    fn joined(&self) -> Duration {
        Duration::ZERO
    }
}

/// The median of nine rounds, in nanoseconds per call.
fn measure<T>(what: &str, mut call: impl FnMut() -> T) {
    const CALLS: u32 = 200_000;
    let mut rounds: Vec<f64> = (0..9)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..CALLS {
                black_box(call());
            }
            begin.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{what:<60} {:>9.1} ns", rounds[rounds.len() / 2]);
}

fn table(hosts: usize, routes: usize) -> RouteTable {
    let forward = |name: String| {
        RouteAction::Forward(Box::new(Forward {
            cluster: ClusterSpecifier::Single(name),
            timeout: None,
            idle_timeout: None,
            max_grpc_timeout: None,
            path_rewrite: None,
            host_rewrite: None,
            retry: None,
            mirrors: Vec::new(),
            hash_policies: Vec::new(),
            cluster_not_found_status: 503,
        }))
    };
    let route = |path| Route {
        name: "default".into(),
        matches: RouteMatch { path, case_sensitive: true, headers: vec![], query: vec![] },
        action: forward("outbound|80||a".into()),
        operation: None,
        filters: RouteFilters::default(),
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        config_source: None,
    };
    let routes: Vec<Route> = (1..routes)
        .map(|i| match i % 2 {
            0 => route(PathMatch::Exact(format!("/api/v1/resource-{i}/list"))),
            _ => route(PathMatch::Prefix(format!("/api/v1/resource-{i}/"))),
        })
        .chain([route(PathMatch::Prefix("/".into()))])
        .collect();
    let virtual_hosts = (0..hosts)
        .map(|i| VirtualHost {
            name: format!("svc-{i}"),
            domains: vec![format!("svc-{i}.production.svc.cluster.local"), format!("svc-{i}.production"), format!("svc-{i}")],
            routes: if i == 0 { routes.clone() } else { vec![route(PathMatch::Prefix("/".into()))] },
            include_request_attempt_count: true,
            require_tls: false,
        })
        .collect();
    RouteTable::compile(&RouteConfiguration {
        name: "80".into(),
        virtual_hosts,
        ignore_port_in_host_matching: true,
        max_direct_response_body_bytes: 1024,
    })
    .expect("valid routes")
}

fn engine(policies: usize) -> Engine {
    let policy = |i: usize| RbacPolicy {
        name: format!("ns[production]-policy[p{i:04}]-rule[0]"),
        permissions: vec![Permission::And(vec![
            Permission::Or(vec![Permission::Header(HeaderMatch {
                name: ":method".into(),
                predicate: HeaderPredicate::Value(StringMatch::exact(if i + 1 == policies { "GET" } else { "DELETE" })),
                invert: false,
                missing_is_empty: false,
            })]),
            Permission::Or(vec![Permission::Path(StringMatch::prefix("/api/"))]),
        ])],
        principals: vec![Principal::Or(vec![
            Principal::Authenticated(Some(StringMatch::exact("spiffe://cluster.local/ns/production/sa/order-service-sa"))),
            Principal::Authenticated(Some(StringMatch::regex(SafeRegex::try_new(".*/ns/other/.*").expect("valid")))),
        ])],
    };
    let policies = (0..policies).map(policy).collect();
    Engine::compile(&Rbac { action: RbacAction::Allow, policies, stat_prefix: String::new() }).expect("valid rules")
}

fn routes() {
    let request = |path: &str| Request {
        authority: "svc-0.production.svc.cluster.local:80".into(),
        path: path.into(),
        headers: vec![("accept", b"*/*"), ("user-agent", b"curl/8")],
    };
    for (hosts, routes) in [(1, 1), (20, 20), (500, 20), (500, 1000)] {
        let table = table(hosts, routes);
        for (what, path) in [("first", "/api/v1/resource-1/x"), ("catch-all", "/nothing/of/the/kind?x=1")] {
            let request = request(path);
            assert!(table.find(&request).is_some());
            measure(&format!("route: {hosts} hosts, {routes} routes, {what}"), || table.find(&request).is_some());
        }
    }
}

fn picks() {
    let mut rng = SmallRng::seed_from_u64(1);
    for (what, policy, weighted) in [
        ("round robin, 100 hosts", LbPolicy::RoundRobin, false),
        ("round robin, 100 weighted hosts", LbPolicy::RoundRobin, true),
        ("least request, 100 hosts", LbPolicy::LeastRequest, false),
        ("least request, 100 weighted hosts", LbPolicy::LeastRequest, true),
        ("random, 100 weighted hosts", LbPolicy::Random, true),
    ] {
        let hosts = (0..100).map(|i| Host(if weighted { 1 + i % 3 } else { 1 })).collect();
        let settings =
            BalanceSettings { policy, panic_threshold: 50, weighted_localities: false, slow_start: None, zone_aware: None };
        let set =
            Arc::new(HostSet::new(settings, vec![HostGroup { priority: 0, weight: None, locality: Locality::default(), hosts }]));
        let mut picker = Picker::new(set);
        measure(&format!("pick: {what}"), || picker.pick(1, &mut rng, Avoid::NOTHING, |_| false).is_some());
        let mut epoch = 1;
        measure(&format!("pick: {what}, lists made anew"), || {
            epoch += 1;
            picker.pick(epoch, &mut rng, Avoid::NOTHING, |_| false).is_some()
        });
    }
}

fn main() {
    routes();
    let request = Request { authority: "svc".into(), path: "/api/v1/x".into(), headers: vec![] };
    for policies in [1, 20, 200] {
        let engine = engine(policies);
        assert!(engine.check(&request, &request).is_allowed());
        measure(&format!("rbac: {policies} policies, last matches"), || engine.check(&request, &request).is_allowed());
    }
    picks();
    for (what, text) in [("normal", "/api/v1/items/42?x=1"), ("dot segments", "/api/v1/../items/%7e?x=1")] {
        measure(&format!("path: {what}"), || path::normalize(black_box(text), PathNormalization::Base).is_ok());
    }
    let breakers = Breakers::new(CircuitBreakers::default());
    measure("breaker: acquire and give back", || breakers.try_acquire_request(|| Duration::ZERO).is_some());
    let detector = Detector::new(
        OutlierDetection {
            consecutive_5xx: 5,
            consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: 0,
            split_local_origin: false,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            error_statuses: Vec::new(),
            max_ejection_percent: 10,
        },
        10,
    );
    let host = HostHealth::default();
    measure("outlier: a good answer", || detector.on_result(&host, Outcome::Status(200), Duration::ZERO).is_none());
}
