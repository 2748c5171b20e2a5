//! Warming, removal and refusal.

use super::*;
use crate::config::warming::{LINGER, PATIENCE};
use crate::testing::{self, Encode, assignment, cluster, http, listener, routes, tcp};
use ResourceType::{Cds, Eds, Lds, Rds, Sds};
use lateen_model::dataplane::{
    ClusterSpecifier, Mirror, RouteAction, Secret, SecretKind, SecretRef, SecretSource, Share, SlowStart, TlsParams,
    TransportSocket, UpstreamTls,
};
use lateen_tls::WorkloadIdentity;
use std::time::Duration;

/// A store, and a clock that only tests move.
struct Bench {
    store: Store,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let telemetry = Arc::new(Telemetry::new(&testing::settings()));
        Self { store: Store::new(Secrets::new(WorkloadIdentity::new()), telemetry), now: Instant::now() }
    }

    /// Sends good resources.
    fn send(&mut self, ty: ResourceType, resources: &[&dyn Encode]) -> bool {
        let encoded: Vec<_> = resources.iter().map(|r| r.encoded()).collect();
        let applied = self.store.apply(ty, &encoded, &[], self.now);
        assert_eq!(applied.rejections, []);
        self.store.forget_unwanted() | applied.changed
    }

    fn send_bytes(&mut self, ty: ResourceType, name: &str, bytes: &[u8]) -> Vec<Rejection> {
        self.store.apply(ty, &[(name.to_owned(), Bytes::copy_from_slice(bytes))], &[], self.now).rejections
    }

    fn remove(&mut self, ty: ResourceType, name: &str) {
        self.store.apply(ty, &[], &[name.to_owned()], self.now);
        self.store.forget_unwanted();
    }

    fn pass(&mut self, time: Duration) -> bool {
        self.now += time;
        self.store.settle(self.now)
    }

    /// The clusters that the route configuration in force names.
    fn routed(&self, name: &str) -> Vec<String> {
        let Some(model) = self.store.route_models().find(|r| r.name == name) else { return Vec::new() };
        assert!(self.store.snapshot().routes.contains_key(name));
        match &model.virtual_hosts[0].routes[0].action {
            RouteAction::Forward(forward) => match &forward.cluster {
                ClusterSpecifier::Single(name) => vec![name.clone()],
                ClusterSpecifier::Weighted(clusters) => clusters.iter().map(|c| c.name.clone()).collect(),
            },
            other => panic!("{other:?}"),
        }
    }

    fn has_cluster(&self, name: &str) -> bool {
        self.store.snapshot().clusters.contains_key(name)
    }

    fn has_listener(&self, name: &str) -> bool {
        self.store.snapshot().listeners.contains_key(name)
    }

    fn hosts(&self, name: &str) -> usize {
        self.store.snapshot().cluster(name).unwrap().hosts().iter().count()
    }

    /// Everything is there: listener `0.0.0.0_80`, routes `80`, cluster `v1`.
    fn serving() -> Self {
        let mut bench = Self::new();
        bench.send(Cds, &[&cluster("v1", None)]);
        bench.send(Lds, &[&listener("0.0.0.0_80", "0.0.0.0:80", http("80"))]);
        bench.send(Eds, &[&assignment("v1", &["10.0.0.1:80"])]);
        bench.send(Rds, &[&routes("80", &["v1"])]);
        assert_eq!(bench.store.warming(), WarmingCounts::default());
        assert!(bench.has_listener("0.0.0.0_80") && bench.has_cluster("v1"));
        bench
    }
}

/// TLS whose roots the control plane has.
fn with_roots(name: &str) -> TransportSocket {
    TransportSocket::Tls(Box::new(UpstreamTls {
        params: TlsParams::default(),
        alpn: Vec::new(),
        sni: String::new(),
        certificate: None,
        roots: Some(SecretRef { name: name.to_owned(), source: SecretSource::Ads }),
        sans: Vec::new(),
        crl_file: None,
    }))
}

#[test]
fn the_first_configuration_is_in_force_when_all_of_it_is_there() {
    let mut bench = Bench::new();
    bench.send(Cds, &[&cluster("v1", None)]);
    bench.send(Lds, &[&listener("0.0.0.0_80", "0.0.0.0:80", http("80"))]);
    assert_eq!(bench.store.wanted(Eds), ["v1".into()].into());
    assert_eq!(bench.store.wanted(Rds), ["80".into()].into());
    bench.send(Rds, &[&routes("80", &["v1"])]);
    assert_eq!(bench.store.warming(), WarmingCounts { listeners: 1, clusters: 1, routes: 1 });
    let nothing = bench.store.snapshot();
    assert!(nothing.listeners.is_empty() && nothing.clusters.is_empty() && nothing.routes.is_empty());
    assert!(bench.send(Eds, &[&assignment("v1", &["10.0.0.1:80"])]));
    assert_eq!(bench.store.warming(), WarmingCounts::default());
    assert_eq!((bench.routed("80"), bench.hosts("v1")), (vec!["v1".to_owned()], 1));
    assert!(bench.has_listener("0.0.0.0_80"));
}

#[test]
fn a_weight_on_a_new_subset_waits_for_its_endpoints() {
    let mut bench = Bench::serving();
    bench.send(Cds, &[&cluster("v2", None)]);
    assert!(!bench.send(Rds, &[&routes("80", &["v1", "v2"])]));
    assert_eq!(bench.routed("80"), ["v1"], "the old routes hold until v2 is warm");
    assert_eq!(bench.store.warming().routes, 1);
    assert!(bench.send(Eds, &[&assignment("v2", &["10.0.0.2:80"])]));
    assert_eq!(bench.routed("80"), ["v1", "v2"]);
    assert!(bench.has_cluster("v2"));
}

#[test]
fn a_cluster_is_compiled_when_it_is_used() {
    let mut bench = Bench::serving();
    bench.send(Cds, &[&cluster("unused", None)]);
    bench.send(Eds, &[&assignment("unused", &["10.0.0.3:80"])]);
    let snapshot = bench.store.snapshot();
    assert_eq!(snapshot.compiled_clusters().count(), 0);
    let lazy = &snapshot.clusters["unused"];
    assert_eq!(lazy.peek().unwrap().hosts().iter().count(), 1);
    assert!(lazy.compiled().is_none(), "a look is no use");
    bench.send(Eds, &[&assignment("unused", &["10.0.0.3:80", "10.0.0.4:80"])]);
    let used = snapshot.cluster("unused").unwrap();
    assert_eq!(used.hosts().iter().count(), 2, "the newest endpoints");
    bench.send(Eds, &[&assignment("unused", &["10.0.0.5:80"])]);
    assert_eq!(used.hosts().iter().count(), 1, "and those that come later");
    assert!(Arc::ptr_eq(used, snapshot.cluster("unused").unwrap()), "once");
    let compiled: Vec<_> = snapshot.compiled_clusters().map(|c| c.name.clone()).collect();
    assert_eq!(compiled, ["unused".into()]);
}

#[test]
fn a_cluster_that_counts_the_age_of_its_hosts_does_so_before_it_is_used() {
    let mut bench = Bench::new();
    let slow_start = SlowStart::try_new(Duration::from_secs(10), 10.0, 1.0).ok();
    bench.send(Cds, &[&dataplane::Cluster { slow_start, ..cluster("v1", None) }]);
    bench.send(Eds, &[&assignment("v1", &["10.0.0.1:80"])]);
    assert_eq!(bench.store.snapshot().compiled_clusters().count(), 1);
}

#[test]
fn a_cluster_goes_on_with_what_was_learnt_while_its_newer_version_waited() {
    let mut bench = Bench::serving();
    bench.send(Cds, &[&dataplane::Cluster { transport: with_roots("roots"), ..cluster("v1", None) }]);
    assert_eq!(bench.store.warming().clusters, 1, "its roots have not come");
    let before = bench.store.snapshot();
    before.cluster("v1").unwrap().stats.upstream_rq_total.inc();
    bench.pass(PATIENCE);
    let after = bench.store.snapshot();
    assert!(matches!(after.cluster("v1").unwrap().config.transport, TransportSocket::Tls(_)));
    assert_eq!(after.cluster("v1").unwrap().stats.upstream_rq_total.get(), 1);
}

#[test]
fn endpoints_may_have_a_name_of_their_own() {
    let mut bench = Bench::new();
    let with = |name: &str, service: &str| {
        let discovery = Discovery::Eds { service_name: service.to_owned() };
        dataplane::Cluster { discovery, ..cluster(name, None) }
    };
    bench.send(Cds, &[&with("a", "shared"), &with("b", "shared"), &with("c", "a")]);
    bench.send(Eds, &[&assignment("shared", &["10.0.0.1:80"]), &assignment("a", &["10.0.0.2:80", "10.0.0.3:80"])]);
    assert_eq!([bench.hosts("a"), bench.hosts("b"), bench.hosts("c")], [1, 1, 2]);
    bench.send(Eds, &[&assignment("shared", &["10.0.0.1:80", "10.0.0.4:80", "10.0.0.5:80"])]);
    assert_eq!([bench.hosts("a"), bench.hosts("b"), bench.hosts("c")], [3, 3, 2]);
}

#[test]
fn a_mirror_waits_for_its_cluster_too() {
    let mut bench = Bench::serving();
    bench.send(Cds, &[&cluster("copy", None)]);
    let mut mirrored = routes("80", &["v1"]);
    if let RouteAction::Forward(forward) = &mut mirrored.virtual_hosts[0].routes[0].action {
        forward.mirrors.push(Mirror { cluster: "copy".to_owned(), share: Share::ALL, keep_host: false });
    }
    assert!(!bench.send(Rds, &[&mirrored]));
    assert_eq!(bench.store.warming().routes, 1);
    assert!(bench.send(Eds, &[&assignment("copy", &["10.0.0.2:80"])]));
    assert_eq!(bench.store.warming(), WarmingCounts::default());
}

#[test]
fn a_cluster_without_endpoints_holds_routes_for_a_while_only() {
    let mut bench = Bench::serving();
    bench.send(Cds, &[&cluster("v2", None)]);
    bench.send(Rds, &[&routes("80", &["v1", "v2"])]);
    assert_eq!(bench.store.due(bench.now), Some(bench.now + PATIENCE));
    assert!(!bench.pass(PATIENCE / 2));
    // A connection that was lost and made again begins the wait anew.
    bench.store.restart_clock(bench.now);
    assert!(!bench.pass(PATIENCE * 3 / 4));
    assert_eq!(bench.routed("80"), ["v1"]);
    assert!(bench.pass(PATIENCE / 4));
    assert_eq!(bench.routed("80"), ["v1", "v2"]);
    assert_eq!((bench.hosts("v2"), bench.store.due(bench.now)), (0, None));
}

#[test]
fn a_cluster_that_does_not_exist_holds_nothing_back() {
    let mut bench = Bench::serving();
    assert!(bench.send(Rds, &[&routes("80", &["v9"])]));
    assert_eq!(bench.routed("80"), ["v9"], "requests get the status that the route has for it");
}

#[test]
fn an_empty_assignment_is_one() {
    let mut bench = Bench::serving();
    bench.send(Cds, &[&cluster("v2", None)]);
    bench.send(Eds, &[&assignment("v2", &[])]);
    assert!(bench.has_cluster("v2"));
}

#[test]
fn endpoints_of_a_warm_cluster_need_no_new_snapshot() {
    let mut bench = Bench::serving();
    assert!(!bench.send(Eds, &[&assignment("v1", &["10.0.0.1:80", "10.0.0.2:80"])]));
    assert_eq!(bench.hosts("v1"), 2);
    assert!(!bench.send(Rds, &[&routes("80", &["v1"])]), "nor does what is the same");
    assert!(!bench.send(Cds, &[&cluster("v1", None)]));
}

#[test]
fn a_removed_cluster_stays_until_the_routes_let_go_of_it() {
    let mut bench = Bench::serving();
    bench.send(Cds, &[&cluster("v2", Some(&["10.0.0.2:80"]))]);
    bench.send(Rds, &[&routes("80", &["v1", "v2"])]);
    // One push: first the clusters, then the routes.
    bench.remove(Cds, "v2");
    assert!(bench.has_cluster("v2"), "the routes in force still name it");
    assert!(bench.send(Rds, &[&routes("80", &["v1"])]));
    assert!(!bench.has_cluster("v2"));
}

#[test]
fn a_removed_cluster_that_routes_go_on_to_name_is_gone_soon() {
    let mut bench = Bench::serving();
    bench.remove(Cds, "v1");
    assert!(bench.has_cluster("v1"));
    assert_eq!(bench.store.due(bench.now), Some(bench.now + LINGER));
    assert!(bench.pass(LINGER));
    assert!(!bench.has_cluster("v1"));
    assert_eq!(bench.store.due(bench.now), None);
}

#[test]
fn a_removed_cluster_stays_while_newer_routes_wait() {
    let mut bench = Bench::serving();
    bench.send(Cds, &[&cluster("v2", None)]);
    bench.remove(Cds, "v1");
    bench.send(Rds, &[&routes("80", &["v2"])]);
    bench.pass(LINGER * 2);
    assert!(bench.has_cluster("v1"), "the routes in force name it, and cannot be replaced yet");
    bench.send(Eds, &[&assignment("v2", &["10.0.0.2:80"])]);
    assert_eq!((bench.routed("80"), bench.has_cluster("v1")), (vec!["v2".to_owned()], false));
}

#[test]
fn a_removed_cluster_that_nothing_names_is_gone_at_once() {
    let mut bench = Bench::serving();
    bench.send(Cds, &[&cluster("v2", Some(&["10.0.0.2:80"]))]);
    bench.remove(Cds, "v2");
    assert!(!bench.has_cluster("v2"));
}

#[test]
fn a_cluster_that_comes_back_while_it_leaves_keeps_its_hosts_state() {
    let mut bench = Bench::serving();
    let before = bench.store.snapshot().cluster("v1").unwrap().hosts().get("10.0.0.1:80".parse().unwrap()).unwrap().state.clone();
    bench.remove(Cds, "v1");
    bench.send(Cds, &[&cluster("v1", None)]);
    bench.send(Eds, &[&assignment("v1", &["10.0.0.1:80"])]);
    bench.pass(LINGER * 2);
    let after = bench.store.snapshot().cluster("v1").unwrap().hosts().get("10.0.0.1:80".parse().unwrap()).unwrap().state.clone();
    assert!(Arc::ptr_eq(&before, &after));
}

#[test]
fn a_changed_cluster_replaces_the_old_one_when_it_is_warm() {
    let mut bench = Bench::serving();
    let mut changed = cluster("v1", None);
    changed.discovery = Discovery::Eds { service_name: "other".to_owned() };
    bench.send(Cds, &[&changed]);
    assert_eq!(bench.store.wanted(Eds), ["other".into(), "v1".into()].into(), "the old one is fed meanwhile");
    bench.send(Eds, &[&assignment("v1", &["10.0.0.1:80", "10.0.0.2:80"])]);
    assert_eq!((bench.hosts("v1"), bench.store.warming().clusters), (2, 1));
    bench.send(Eds, &[&assignment("other", &["10.0.0.3:80"])]);
    assert_eq!((bench.hosts("v1"), bench.store.warming().clusters), (1, 0));
    assert_eq!(bench.store.wanted(Eds), ["other".into()].into());
}

#[test]
fn listeners_wait_for_routes_and_clusters() {
    let mut bench = Bench::serving();
    bench.send(Cds, &[&cluster("db", None)]);
    bench.send(Lds, &[&listener("0.0.0.0_80", "0.0.0.0:80", http("81")), &listener("db", "10.0.0.9:5432", tcp("db"))]);
    assert!(!bench.has_listener("db"));
    assert_eq!(bench.store.wanted(Rds), ["80".into(), "81".into()].into(), "the old listener is served meanwhile");
    bench.send(Eds, &[&assignment("db", &["10.0.0.5:5432"])]);
    assert!(bench.has_listener("db"));
    bench.send(Rds, &[&routes("81", &["v1"])]);
    assert_eq!(bench.store.warming().listeners, 0);
    let snapshot = bench.store.snapshot();
    assert!(snapshot.listeners["0.0.0.0_80"].references.routes.contains("81"));
    assert!(!snapshot.routes.contains_key("80"), "what nothing refers to is forgotten");
    bench.remove(Lds, "db");
    assert!(!bench.has_listener("db"));
}

#[test]
fn clusters_wait_for_the_secrets_of_the_control_plane() {
    let mut bench = Bench::serving();
    let mut secure = cluster("secure", Some(&["10.0.0.2:443"]));
    secure.transport = with_roots("roots");
    bench.send(Cds, &[&secure]);
    assert!(!bench.has_cluster("secure"));
    assert_eq!(bench.store.wanted(Sds), ["roots".into()].into());
    let ca = lateen_testkit::certificates::TestCa::new();
    let kind = SecretKind::Roots { trusted_ca_pem: ca.root_pem().as_bytes().to_vec(), crl_pem: Vec::new() };
    let secret = Secret { name: "roots".to_owned(), kind };
    assert_eq!(bench.send_bytes(Sds, "roots", &lateen_wire::encode::secret(&secret)), []);
    assert!(bench.has_cluster("secure"));
    bench.remove(Cds, "secure");
    assert!(bench.store.wanted(Sds).is_empty());
}

#[test]
fn what_is_wrong_is_refused_alone_and_the_last_good_one_stays() {
    let mut bench = Bench::serving();
    let good = cluster("v2", Some(&["10.0.0.2:80"])).encoded();
    let bad = ("v1".to_owned(), Bytes::from_static(b"\xff\xff\xff"));
    let applied = bench.store.apply(Cds, &[bad, good], &[], bench.now);
    assert_eq!(applied.rejections.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["v1"]);
    assert!(bench.has_cluster("v2"), "the others of the update are taken");
    assert_eq!(bench.hosts("v1"), 1, "the last good one is in force");
    assert_eq!(bench.store.rejected().keys().cloned().collect::<Vec<_>>(), [(Cds, "v1".to_owned())]);
    bench.send(Cds, &[&cluster("v1", None)]);
    assert!(bench.store.rejected().is_empty(), "until a good one comes");

    for (ty, name) in [(Lds, "0.0.0.0_80"), (Rds, "80"), (Eds, "v1"), (Cds, "v1")] {
        assert_eq!(bench.send_bytes(ty, name, b"\x0a\xff").len(), 1, "{ty:?}");
    }
    assert!(bench.has_listener("0.0.0.0_80") && bench.routed("80") == ["v1"] && bench.hosts("v1") == 1);
    assert_eq!(bench.store.warming(), WarmingCounts::default(), "what is refused is not waited for");
}

#[test]
fn a_resource_has_one_name() {
    let mut bench = Bench::serving();
    let (_, bytes) = cluster("v1", None).encoded();
    let rejections = bench.send_bytes(Cds, "v2", &bytes);
    assert!(rejections[0].reason.contains("\"v1\"") && rejections[0].reason.contains("must be equal"), "{rejections:?}");
    assert!(!bench.has_cluster("v2"));
}

#[test]
fn an_address_belongs_to_one_listener() {
    let mut bench = Bench::serving();
    let (name, bytes) = listener("other", "0.0.0.0:80", tcp("v1")).encoded();
    let rejections = bench.send_bytes(Lds, &name, &bytes);
    assert!(rejections[0].reason.contains("0.0.0.0:80") && rejections[0].reason.contains("0.0.0.0_80"), "{rejections:?}");
    // Two listeners that change places within an update are right.
    bench.send(Lds, &[&listener("b", "0.0.0.0:81", tcp("v1"))]);
    bench.send(Lds, &[&listener("0.0.0.0_80", "0.0.0.0:81", http("80")), &listener("b", "0.0.0.0:80", tcp("v1"))]);
    assert_eq!(bench.store.snapshot().listeners["b"].model.address, "0.0.0.0:80".parse().unwrap());
}

#[test]
fn a_first_listener_that_is_refused_is_told_apart_from_a_later_one() {
    let mut bench = Bench::serving();
    bench.send_bytes(Lds, "virtualInbound", b"\xff");
    bench.send_bytes(Lds, "0.0.0.0_80", b"\xff");
    assert!(bench.store.listener_never_good("virtualInbound").is_some());
    assert_eq!(bench.store.listener_never_good("0.0.0.0_80"), None, "the last good one serves");
    bench.send(Lds, &[&listener("virtualInbound", "0.0.0.0:15006", tcp("v1"))]);
    assert_eq!(bench.store.listener_never_good("virtualInbound"), None);
}

mod hostile {
    //! A control plane that is broken or worse: it may send anything, and never stops or empties the proxy.

    use super::*;
    use lateen_wire::encode::{self, EncodeOptions};
    use lateen_wire::testing as any;
    use proptest::prelude::*;

    /// What becomes of a good message on its way.
    #[derive(Clone, Debug)]
    enum Damage {
        None,
        Flip(usize, u8),
        Cut(usize),
        Insert(usize, Vec<u8>),
        Replace(Vec<u8>),
    }

    fn damage() -> impl Strategy<Value = Damage> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..12);
        prop_oneof![
            2 => Just(Damage::None),
            4 => (any::<usize>(), 1..=255u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
            2 => any::<usize>().prop_map(Damage::Cut),
            2 => (any::<usize>(), bytes()).prop_map(|(at, more)| Damage::Insert(at, more)),
            1 => bytes().prop_map(Damage::Replace),
        ]
    }

    impl Damage {
        fn of(&self, good: &[u8]) -> Bytes {
            let mut bytes = good.to_vec();
            let at = |n: usize| n % (good.len() + 1);
            match self {
                Self::None => {}
                Self::Flip(n, bits) => {
                    if let Some(byte) = bytes.get_mut(at(*n)) {
                        *byte ^= bits;
                    }
                }
                Self::Cut(n) => bytes.truncate(at(*n)),
                Self::Insert(n, more) => drop(bytes.splice(at(*n)..at(*n), more.iter().copied())),
                Self::Replace(other) => bytes.clone_from(other),
            }
            bytes.into()
        }
    }

    /// A log's file is opened when its listener is compiled: not here.
    fn without_logs(listener: &mut dataplane::Listener) {
        listener.access_log.clear();
        for chain in listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain) {
            match &mut chain.terminal {
                dataplane::Terminal::Http(hcm) => hcm.access_log.clear(),
                dataplane::Terminal::Tcp(tcp) => tcp.access_log.clear(),
            }
        }
    }

    /// A resource of any type under one of few names, so that resources meet.
    fn resource() -> impl Strategy<Value = (ResourceType, String, Bytes)> {
        let name = prop_oneof!["[abc]", Just("v1".to_owned()), Just("80".to_owned())];
        let options = EncodeOptions::default();
        let good = prop_oneof![
            (any::listener(), name.clone()).prop_map(move |(mut l, name)| {
                l.name.clone_from(&name);
                without_logs(&mut l);
                (Lds, name, encode::listener(&l, options))
            }),
            (any::route_configuration(), name.clone()).prop_map(|(mut r, name)| {
                r.name.clone_from(&name);
                (Rds, name, encode::route_configuration(&r))
            }),
            (any::cluster(), name.clone()).prop_map(move |(mut c, name)| {
                c.name.clone_from(&name);
                (Cds, name, encode::cluster(&c, options))
            }),
            (any::cluster_load_assignment(), name.clone()).prop_map(|(mut a, name)| {
                a.cluster_name.clone_from(&name);
                (Eds, name, encode::cluster_load_assignment(&a))
            }),
            (any::secret(), name).prop_map(|(mut s, name)| {
                s.name.clone_from(&name);
                (Sds, name, encode::secret(&s))
            }),
        ];
        (good, damage()).prop_map(|((ty, name, bytes), damage)| (ty, name, damage.of(&bytes)))
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send(ResourceType, String, Bytes),
        /// Bytes of one type as another.
        Misplace(ResourceType, String, Bytes),
        Remove(ResourceType, String),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let ty = || prop_oneof![Just(Lds), Just(Rds), Just(Cds), Just(Eds), Just(Sds), Just(ResourceType::Nds)];
        prop_oneof![
            6 => resource().prop_map(|(ty, name, bytes)| Step::Send(ty, name, bytes)),
            1 => (ty(), resource()).prop_map(|(ty, (_, name, bytes))| Step::Misplace(ty, name, bytes)),
            1 => (ty(), "[abc]").prop_map(|(ty, name)| Step::Remove(ty, name)),
            1 => (0..40u64).prop_map(Step::Pass),
        ]
    }

    /// What must hold of every snapshot.
    fn check(store: &Store) {
        let snapshot = store.snapshot();
        for (name, listener) in &snapshot.listeners {
            assert_eq!(**name, *listener.model.name);
        }
        for (name, cluster) in &snapshot.clusters {
            let used = snapshot.cluster(name).unwrap();
            assert_eq!((&**name, used.config.name.as_str()), (&**cluster.name(), &**name));
            let _ = used.hosts().iter().count();
        }
        for address in snapshot.listeners.values().map(|l| l.model.address) {
            let at_address = snapshot.listeners.values().filter(|l| l.model.address == address && !l.model.bind_to_port);
            assert!(at_address.count() <= 2, "at most one that is being replaced");
        }
        let _ = snapshot.listener_for("a", "10.0.0.1:80".parse().unwrap());
    }

    /// The property, on a stack that holds the strategies of the whole model (unoptimised, they need megabytes).
    #[test]
    fn nothing_that_is_sent_stops_the_proxy() {
        let run = || {
            let steps = proptest::collection::vec(step(), 1..24);
            let config = ProptestConfig { cases: 96, ..ProptestConfig::with_source_file(file!()) };
            proptest::test_runner::TestRunner::new(config).run(&steps, survives)
        };
        let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(run).unwrap();
        thread.join().unwrap().unwrap();
    }

    fn survives(steps: Vec<Step>) -> Result<(), TestCaseError> {
        let mut bench = Bench::serving();
        for step in steps {
            match step {
                Step::Send(ty, name, bytes) | Step::Misplace(ty, name, bytes) => {
                    let before = bench.store.snapshot();
                    let rejections = bench.send_bytes(ty, &name, &bytes);
                    if !rejections.is_empty() {
                        prop_assert_eq!(&rejections[0].name, &name);
                        prop_assert!(!rejections[0].reason.is_empty());
                        prop_assert!(same(&before, &bench.store.snapshot()), "a refusal changes nothing");
                    }
                    bench.store.forget_unwanted();
                }
                Step::Remove(ty, name) => bench.remove(ty, &name),
                Step::Pass(seconds) => drop(bench.pass(Duration::from_secs(seconds))),
            }
            check(&bench.store);
        }
        // And a good configuration is taken, whatever was before it.
        for name in ["a", "b", "c", "v1", "80"] {
            bench.remove(Lds, name);
            bench.remove(Cds, name);
        }
        bench.pass(LINGER);
        bench.send(Cds, &[&cluster("v1", None)]);
        bench.send(Lds, &[&listener("0.0.0.0_80", "0.0.0.0:80", http("80"))]);
        bench.send(Eds, &[&assignment("v1", &["10.0.0.1:80"])]);
        bench.send(Rds, &[&routes("80", &["v1"])]);
        prop_assert_eq!((bench.routed("80"), bench.hosts("v1")), (vec!["v1".to_owned()], 1));
        prop_assert!(bench.has_listener("0.0.0.0_80"));
        Ok(())
    }

    fn same(a: &Snapshot, b: &Snapshot) -> bool {
        a.listeners.len() == b.listeners.len()
            && a.listeners.iter().all(|(n, l)| b.listeners.get(n).is_some_and(|o| Arc::ptr_eq(l, o)))
            && a.clusters.len() == b.clusters.len()
            && a.clusters.iter().all(|(n, c)| b.clusters.get(n).is_some_and(|o| Arc::ptr_eq(c, o)))
            && a.routes.len() == b.routes.len()
            && a.routes.iter().all(|(n, r)| b.routes.get(n).is_some_and(|o| Arc::ptr_eq(r, o)))
    }
}
