use super::*;
use crate::generate::fixture::{self, SCENARIO, scenario_pods};
use crate::world::{ChangeSet, World, WorldEvent};
use lateen_model::dataplane::Terminal;
use lateen_model::manifest;
use lateen_xds::server::{Change, Names, Watch};
use lateen_xds::{Generation, ResourceType};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

struct Bench {
    world: World,
    memo: Arc<Memo>,
    view: View,
}

impl Bench {
    fn new(namespace: &str, name: &str) -> Self {
        let world = fixture::world(SCENARIO, &scenario_pods());
        let memo = Arc::new(Memo::default());
        let proxy = Arc::new(fixture::proxy(&world, namespace, name));
        let view = View::new(Generation(1), &world, proxy, &memo);
        // As a sidecar does.
        let _ = view.generate(ResourceType::Rds, Watch::Names(&["80".into()]));
        Self { world, memo, view }
    }

    fn after(&self, events: Vec<WorldEvent>) -> (View, Change, ChangeSet) {
        let (next, changes) = self.world.apply(events, Instant::now());
        let shared = affected::shared(&self.world, &next, &changes, Generation(2));
        let (view, change) = self.view.next(Generation(2), &next, &changes, &shared);
        (view, change, changes)
    }
}

fn put(text: &str) -> Vec<WorldEvent> {
    manifest::read(text, "x").into_iter().map(|d| WorldEvent::Put(d.unwrap().resource)).collect()
}

fn names(change: &Change, ty: ResourceType) -> Vec<String> {
    match &change.names[ty] {
        Names::None => Vec::new(),
        Names::All => vec!["*".to_owned()],
        Names::Some(names) => {
            let mut names: Vec<_> = names.iter().map(|n| n.to_string()).collect();
            names.sort();
            names
        }
    }
}

fn touched(change: &Change) -> Vec<ResourceType> {
    use ResourceType::{Cds, Eds, Lds, Rds, Sds};
    [Cds, Eds, Lds, Rds, Sds].into_iter().filter(|ty| !change.names[*ty].is_none()).collect()
}

const ORDER: &str = "outbound|80||order-service.production.svc.cluster.local";

#[test]
fn what_each_kind_of_change_reaches() {
    use ResourceType::{Cds, Eds, Lds, Rds};
    let meta = |kind: &str, group: &str, ns: &str| {
        format!("apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{name: z, namespace: {ns}}}\nspec: ")
    };
    let networking = |kind: &str, ns: &str| meta(kind, "networking.istio.io", ns);
    let security = |kind: &str, ns: &str| meta(kind, "security.istio.io", ns);
    for (what, text, expected) in [
        ("a route to a known host", networking("VirtualService", "production") + "{hosts: [frontend], http: [{route: [{destination: {host: frontend}}], timeout: 1s}]}", vec![Rds]),
        ("a route of another namespace, for itself", networking("VirtualService", "legacy") + "{hosts: [batch], exportTo: ['.'], http: [{directResponse: {status: 200}}]}", vec![]),
        ("a rule with a subset", networking("DestinationRule", "production") + "{host: frontend, subsets: [{name: s, labels: {v: s}}]}", vec![Cds, Eds]),
        ("a rule for a host that nobody has", networking("DestinationRule", "production") + "{host: nobody, subsets: [{name: s, labels: {v: s}}]}", vec![]),
        ("the pod's own authorization", security("AuthorizationPolicy", "production") + "{rules: [{}]}", vec![Lds]),
        ("somebody else's authorization", security("AuthorizationPolicy", "legacy") + "{rules: [{}]}", vec![]),
        ("the mesh's authorization", security("AuthorizationPolicy", "istio-system") + "{rules: [{}]}", vec![Lds]),
        ("a policy for one workload", security("PeerAuthentication", "production") + "{selector: {matchLabels: {app: payment-service}}, mtls: {mode: DISABLE}}", vec![Eds]),
        ("a Sidecar for others", networking("Sidecar", "production") + "{workloadSelector: {labels: {app: nobody}}, egress: [{hosts: ['./*']}]}", vec![]),
        ("a Sidecar for this one", networking("Sidecar", "production") + "{workloadSelector: {labels: {app: frontend}}, egress: [{hosts: ['./payment-service.production.svc.cluster.local']}]}", vec![Cds, Rds]),
        ("an opaque service", "apiVersion: v1\nkind: Service\nmetadata: {name: z, namespace: other}\nspec: {clusterIP: 10.96.3.3, ports: [{name: tcp, port: 7}]}".to_owned(), vec![Cds, Eds, Lds]),
    ] {
        let bench = Bench::new("production", "frontend-0");
        let (_, change, _) = bench.after(put(&text));
        assert_eq!(touched(&change), expected, "{what}");
    }
}

#[test]
fn names_are_exact() {
    let bench = Bench::new("production", "frontend-0");
    let mut route =
        bench.world.namespace("production").unwrap().virtual_services.get("order-service").unwrap().resource.as_ref().clone();
    route.spec.http[1].route[0].weight = 50;
    let (_, change, _) = bench.after(vec![WorldEvent::Put(route.into())]);
    assert_eq!((touched(&change), names(&change, ResourceType::Rds)), (vec![ResourceType::Rds], vec!["80".to_owned()]));

    let mut pods = scenario_pods();
    pods[2].ready = false;
    let (view, change, _) = bench.after(vec![WorldEvent::Cluster(Arc::new(fixture::cluster(2, &pods)))]);
    assert_eq!(touched(&change), [ResourceType::Eds]);
    let expected: Vec<String> = ["v1", "v2", ""].map(|s| ORDER.replace("||", &format!("|{s}|"))).to_vec();
    let by_server_name = "outbound_.80_._.order-service.production.svc.cluster.local".to_owned();
    assert_eq!(names(&change, ResourceType::Eds), [vec![by_server_name], expected.clone()].concat());
    let eds = |view: &View, name: &str| view.generate(ResourceType::Eds, Watch::Names(&[name.into()])).resources[0].version();
    assert_ne!(eds(&bench.view, ORDER), eds(&view, ORDER));
    assert_eq!(eds(&bench.view, &expected[1]), eds(&view, &expected[1]), "v2 has the same endpoints");

    let (_, change, _) = bench.after(vec![WorldEvent::Roots(Arc::from(*b"other"))]);
    assert_eq!(names(&change, ResourceType::Sds), ["ROOTCA"]);
}

#[test]
fn equal_proxies_share_what_is_made_once() {
    let bench = Bench::new("production", "order-v1-0");
    let twin = Arc::new(fixture::proxy(&bench.world, "production", "order-v1-1"));
    assert_eq!(*twin, *bench.view.proxy, "replicas are of one class");
    let other = Arc::new(fixture::proxy(&bench.world, "production", "frontend-0"));
    let other = View::new(Generation(1), &bench.world, other, &bench.memo);
    let name: Arc<str> = "outbound|80||payment-service.production.svc.cluster.local".into();
    for ty in [ResourceType::Cds, ResourceType::Eds] {
        let one = |view: &View| Arc::clone(&view.generate(ty, Watch::Names(&[Arc::clone(&name)])).resources[0]);
        assert!(Arc::ptr_eq(&one(&bench.view), &one(&other)), "{ty}: the same object for another class");
    }
}

#[test]
fn who_waits_is_answered() {
    let bench = Bench::new("production", "frontend-0");
    for (ty, name) in [
        (ResourceType::Eds, "outbound|80||gone.x.svc.cluster.local"),
        (ResourceType::Eds, "nonsense"),
        (ResourceType::Rds, "4711"),
    ] {
        let generated = bench.view.generate(ty, Watch::Names(&[name.into()]));
        assert_eq!(generated.resources.len(), 1, "{ty} {name}");
        assert_eq!(&**generated.resources[0].name(), name);
    }
}

#[test]
fn secrets_are_for_their_own_namespace() {
    let secret = |ns: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: tls, namespace: {ns}}}\nstringData: {{tls.crt: c, tls.key: k, ca.crt: r}}\n"
        )
    };
    let bench = Bench::new("production", "frontend-0");
    let (view, ..) = bench.after([put(&secret("production")), put(&secret("legacy"))].concat());
    let get = |view: &View, name: &str| view.generate(ResourceType::Sds, Watch::Names(&[name.into()])).resources.len();
    for (name, there) in [
        ("ROOTCA", 1),
        ("kubernetes://tls", 1),
        ("kubernetes://production/tls", 1),
        ("kubernetes://tls-cacert", 1),
        ("kubernetes://legacy/tls", 0),
        ("kubernetes://none", 0),
        ("default", 0),
    ] {
        assert_eq!(get(&view, name), there, "{name}");
    }
    let mut unproven = (*view.proxy).clone();
    unproven.verified_namespace = None;
    let view = View::new(Generation(2), &view.world, Arc::new(unproven), &Arc::default());
    assert_eq!((get(&view, "ROOTCA"), get(&view, "kubernetes://tls")), (1, 0), "nothing is proven on a plaintext port");
}

#[test]
fn an_idle_timeout_reaches_the_listeners_of_tcp_ports() {
    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: one, namespace: a}\nspec: {selector: {app: one}, ports: [{name: tcp, port: 82}]}\n";
    let world = fixture::world(SERVICE, &[fixture::pod("a", "one-0", [10, 0, 0, 1], &[("app", "one")])]);
    let memo = Arc::new(Memo::default());
    let view = View::new(Generation(1), &world, Arc::new(fixture::proxy(&world, "a", "one-0")), &memo);
    let rule = |host: &str| {
        put(&format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r, namespace: a}}\nspec: {{host: {host}, trafficPolicy: {{connectionPool: {{tcp: {{idleTimeout: 7s}}}}}}}}\n"
        ))
    };
    for (host, expected) in [("one", vec!["10.96.0.1_82".to_owned()]), ("other", vec![])] {
        let (next, changes) = world.apply(rule(host), Instant::now());
        let shared = affected::shared(&world, &next, &changes, Generation(2));
        let (view, change) = view.next(Generation(2), &next, &changes, &shared);
        assert_eq!(names(&change, ResourceType::Lds), expected, "{host}");
        let listener = view.listeners().into_iter().find(|l| l.name == "10.96.0.1_82").unwrap();
        let Terminal::Tcp(tcp) = &listener.filter_chains[0].terminal else { panic!("{listener:?}") };
        assert_eq!(tcp.idle_timeout, (host == "one").then_some(Duration::from_secs(7)));
    }
}

/// What proxies of the scenario get, readable: a change of generation shows here. `UPDATE_GOLDEN=1` writes the files anew.
#[test]
fn golden_dumps() {
    let world = fixture::world(SCENARIO, &scenario_pods());
    for name in ["frontend-0", "order-v1-0", "payment-0"] {
        let proxy = Arc::new(fixture::proxy(&world, "production", name));
        let view = View::new(Generation(1), &world, proxy, &Arc::default());
        let _ = view.generate(ResourceType::Rds, Watch::Names(&["80".into()]));
        let text = serde_json::to_string_pretty(&crate::server::debug::config_dump(&view)).unwrap() + "\n";
        let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap();
        let differs = golden.lines().zip(text.lines()).enumerate().find(|(_, (a, b))| a != b);
        if let Some((line, (old, new))) = differs {
            panic!("{path}:{}: was {old:?}, is {new:?}; UPDATE_GOLDEN=1 accepts it", line + 1);
        }
        assert_eq!(golden.len(), text.len(), "{path}");
    }
}

/// Ports of every protocol, policies of every mode, a tracing provider, logs in JSON, and rules of every kind.
const RICH: &str = include_str!("../../tests/rich.yaml");

#[test]
fn proxies_can_read_all_that_is_made() {
    use lateen_wire::decode;
    let pods: Vec<_> = [("one-0", 1), ("two-0", 2)]
        .map(|(name, ip)| fixture::pod("a", name, [10, 0, 0, ip], &[("app", &name[..3]), ("version", "v1")]))
        .to_vec();
    let world = fixture::world(RICH, &pods);
    let proxy = Arc::new(fixture::proxy(&world, "a", "one-0"));
    let view = View::new(Generation(1), &world, proxy, &Arc::default());
    let listeners = view.listeners();
    let rds: Vec<Arc<str>> = listeners.iter().flat_map(route_names).collect();
    assert!(rds.len() >= 3, "{rds:?}");
    let of = |ty, watch: Watch<'_>| view.generate(ty, watch).resources;
    let mut read = 0;
    for (model, made) in view.clusters().iter().zip(of(ResourceType::Cds, Watch::Wildcard)) {
        let back = decode::cluster(made.body()).unwrap_or_else(|e| panic!("{}: {e}", made.name()));
        assert_eq!((&back.value, back.ignored.len()), (model, 0), "{}", made.name());
        read += 1;
    }
    for (model, made) in listeners.iter().zip(of(ResourceType::Lds, Watch::Wildcard)) {
        let back = decode::listener(made.body()).unwrap_or_else(|e| panic!("{}: {e}", made.name()));
        assert_eq!((&back.value, back.ignored.len()), (model, 0), "{}", made.name());
        read += 1;
    }
    for made in of(ResourceType::Rds, Watch::Names(&rds)) {
        let back = decode::route_configuration(made.body()).unwrap_or_else(|e| panic!("{}: {e}", made.name()));
        assert!(view.routes().contains(&back.value), "{}", made.name());
        read += 1;
    }
    for model in view.endpoints() {
        let made = of(ResourceType::Eds, Watch::Names(&[model.cluster_name.as_str().into()]));
        assert_eq!(decode::cluster_load_assignment(made[0].body()).unwrap().value, model);
        read += 1;
    }
    assert!(read > 30, "{read}");
}

fn route_names(listener: &lateen_model::dataplane::Listener) -> Vec<Arc<str>> {
    use lateen_model::dataplane::{RouteSource, Terminal};
    let name = |chain: &lateen_model::dataplane::FilterChain| match &chain.terminal {
        Terminal::Http(manager) => match &manager.routes {
            RouteSource::Rds(name) => Some(Arc::from(name.as_str())),
            RouteSource::Inline(_) => None,
        },
        Terminal::Tcp(_) => None,
    };
    listener.filter_chains.iter().filter_map(name).collect()
}

#[test]
fn spans_leave_also_where_a_sidecar_resource_hides_their_receiver() {
    let hidden = "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: narrow, namespace: a}\nspec: {egress: [{hosts: [./two.a.svc.cluster.local]}]}\n";
    let pods = [fixture::pod("a", "one-0", [10, 0, 0, 1], &[("app", "one")])];
    let world = fixture::world(&format!("{RICH}{hidden}"), &pods);
    let view = View::new(Generation(1), &world, Arc::new(fixture::proxy(&world, "a", "one-0")), &Arc::default());
    let receiver = "outbound|4317||collector.a.svc.cluster.local";
    assert!(view.clusters().iter().any(|c| c.name == receiver));
    assert!(!view.listeners().iter().any(|l| l.name.ends_with("_4317")), "the application knows nothing of it");
    assert_eq!(view.generate(ResourceType::Eds, Watch::Names(&[receiver.into()])).resources.len(), 1);
}
