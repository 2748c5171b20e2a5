use super::*;
use crate::generate::fixture::{self, SCENARIO, scenario_pods};
use crate::generate::{MergedRule, Proxy};
use crate::push::View;
use crate::store::{FileContent, Store};
use lateen_model::manifest;
use lateen_model::resource::PodRecord;
use lateen_xds::Generation;
use proptest::prelude::*;
use tokio::time::Instant;

/// Everything that generation can see, as text, without revisions.
fn describe(world: &World) -> String {
    let mut out = format!("{:?}\n", world.mesh());
    for (name, ns) in world.namespaces() {
        out += &format!("[{name}]\n");
        for s in ns.services.values() {
            out += &format!("service {} {:?} {:?} {:?} {}\n", s.host, s.vips, s.ports, s.selector, s.headless);
        }
        for (name, e) in &ns.endpoints {
            let pod = |p: &ServicePod| format!("{}@{}:{:?}", p.workload.record.name, p.ip().unwrap(), p.ports);
            let (all, ready): (Vec<_>, Vec<_>) = (e.pods.iter().map(pod).collect(), e.ready.iter().map(pod).collect());
            out += &format!("endpoints {name} {all:?} ready {ready:?} {:?}\n", e.accounts);
        }
        for w in ns.workloads.values() {
            out += &format!("pod {:?}\n", w.record);
        }
        let names = |list: Vec<String>| list.join(" ");
        out += &format!("vs {}\n", names(ns.virtual_services.iter().map(|e| format!("{:?}", e.resource.spec)).collect()));
        out += &format!("dr {}\n", names(ns.destination_rules.iter().map(|e| format!("{:?}", e.resource.spec)).collect()));
        out += &format!("sc {}\n", names(ns.sidecars.iter().map(|e| format!("{:?}", e.resource.spec)).collect()));
        out += &format!("pa {}\n", names(ns.peer_authentications.iter().map(|e| format!("{:?}", e.resource.spec)).collect()));
        out += &format!("ap {}\n", names(ns.authorization_policies.iter().map(|e| format!("{:?}", e.resource.spec)).collect()));
    }
    out
}

/// One random step.
#[derive(Clone, Debug)]
enum Step {
    /// The file holds these of the scenario's documents, the weight being this.
    File(Vec<bool>, u8),
    /// These pods exist, ready or not, with this version label.
    Pods(Vec<(bool, bool, u8)>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let documents = SCENARIO.split("---").count();
    let pods = scenario_pods().len();
    let step = prop_oneof![
        (proptest::collection::vec(any::<bool>(), documents), 1u8..100).prop_map(|(d, w)| Step::File(d, w)),
        proptest::collection::vec((any::<bool>(), any::<bool>(), 1u8..3), pods).prop_map(Step::Pods),
    ];
    proptest::collection::vec(step, 1..8)
}

fn manifest_of(keep: &[bool], weight: u8) -> String {
    let documents: Vec<&str> = SCENARIO.split("---").zip(keep).filter(|(_, keep)| **keep).map(|(d, _)| d).collect();
    documents.join("---").replace("weight: 95", &format!("weight: {weight}"))
}

fn pods_of(wanted: &[(bool, bool, u8)]) -> Vec<PodRecord> {
    let pods = scenario_pods().into_iter().zip(wanted).filter(|(_, (there, ..))| *there);
    pods.map(|(mut pod, (_, ready, version))| {
        pod.ready = *ready;
        pod.labels.insert("version".into(), format!("v{version}"));
        pod
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A world made step by step is the world made at once, and so is what each proxy gets.
    #[test]
    fn incremental_is_the_same_as_anew(steps in steps()) {
        let now = Instant::now();
        let mut store = Store::new();
        let mut last_pods = fixture::cluster(0, &[]);
        let (mut world, _) = World::new(Settings::default()).apply([WorldEvent::Cluster(Arc::new(last_pods.clone()))], now);
        let memo = Arc::new(crate::push::Memo::default());
        let proxy = Arc::new(sidecar(&World::new(Settings::default())));
        let mut view = View::new(Generation(0), &world, Arc::clone(&proxy), &memo);
        for (n, step) in steps.iter().enumerate() {
            let events = match step {
                Step::File(keep, weight) => {
                    let documents = manifest::read(&manifest_of(keep, *weight), "f");
                    store.apply(vec![FileContent { file: "f".into(), documents }]).0
                }
                Step::Pods(pods) => {
                    last_pods = fixture::cluster(n as u64 + 1, &pods_of(pods));
                    vec![WorldEvent::Cluster(Arc::new(last_pods.clone()))]
                }
            };
            let (next, changes) = world.apply(events, now);
            let shared = lateen_xds::server::Change::new(Generation(n as u64));
            let (next_view, _) = view.next(Generation(n as u64), &next, &changes, &shared);
            world = next;
            view = next_view;

            let anew: Vec<WorldEvent> = store.in_force().map(WorldEvent::Put).collect();
            let mut anew_events = anew;
            anew_events.push(WorldEvent::Cluster(Arc::new(last_pods.clone())));
            let (fresh, _) = World::new(Settings::default()).apply(anew_events, now);
            prop_assert_eq!(describe(&world), describe(&fresh));
            let fresh_view = View::new(Generation(0), &fresh, Arc::clone(&proxy), &Arc::default());
            prop_assert_eq!(encoded(&view), encoded(&fresh_view));
        }
    }
}

fn sidecar(world: &World) -> Proxy {
    let mut proxy = fixture::proxy(world, "production", "frontend-0");
    proxy.labels.insert("app".into(), "frontend".into());
    proxy
}

/// Name and version of all that a proxy watches from a view.
fn encoded(view: &View) -> Vec<String> {
    use lateen_xds::ResourceType::{Cds, Eds, Lds, Rds};
    use lateen_xds::server::Watch;
    let cds = view.generate(Cds, Watch::Wildcard).resources;
    let eds: Vec<Arc<str>> = cds.iter().map(|r| Arc::clone(r.name())).filter(|n| n.starts_with("outbound|")).collect();
    let rds = ["80".into()];
    let all = [
        cds,
        view.generate(Eds, Watch::Names(&eds)).resources,
        view.generate(Lds, Watch::Wildcard).resources,
        view.generate(Rds, Watch::Names(&rds)).resources,
    ];
    let mut out: Vec<String> = all.iter().flatten().map(|r| format!("{}@{}", r.name(), r.version())).collect();
    out.sort();
    out
}

#[test]
fn an_unchanged_part_is_shared() {
    let world = fixture::world(SCENARIO, &scenario_pods());
    let mut pods = scenario_pods();
    pods[4].ready = false;
    let (next, changes) = world.apply([WorldEvent::Cluster(Arc::new(fixture::cluster(2, &pods)))], Instant::now());
    let keys: Vec<_> = changes.keys().map(|k| format!("{} {}/{}", k.kind.as_str(), k.namespace, k.name)).collect();
    assert_eq!(keys, ["Endpoints production/payment-service"]);
    let (old, new) = (world.namespace("production").unwrap(), next.namespace("production").unwrap());
    assert!(Arc::ptr_eq(&old.services["frontend"], &new.services["frontend"]));
    assert!(Arc::ptr_eq(&old.endpoints["frontend"], &new.endpoints["frontend"]));
    assert!(!Arc::ptr_eq(&old.endpoints["payment-service"], &new.endpoints["payment-service"]));
    assert!(Arc::ptr_eq(world.namespace("legacy").unwrap(), next.namespace("legacy").unwrap()));
}

#[test]
fn states_of_the_platform() {
    let world = fixture::world(SCENARIO, &scenario_pods());
    let apply = |generation, pods: &[PodRecord]| {
        let (next, changes) = world.apply([WorldEvent::Cluster(Arc::new(fixture::cluster(generation, pods)))], Instant::now());
        (next, changes.keys().map(|k| format!("{} {}", k.kind.as_str(), k.name)).collect::<Vec<_>>())
    };
    let (next, keys) = apply(2, &scenario_pods());
    assert!(keys.is_empty(), "nothing new: {keys:?}");
    assert_eq!(next.cluster_generation(), Some(2));
    assert!(apply(0, &[]).1.is_empty(), "a late state is not news");

    let mut unready = scenario_pods();
    unready.push(PodRecord {
        ready: false,
        ..fixture::pod("production", "payment-2", [10, 0, 0, 7], &[("app", "payment-service")])
    });
    assert_eq!(apply(2, &unready).1, ["Workload payment-2"], "a new pod that is not ready is no endpoint yet");

    let mut stopping = scenario_pods();
    stopping[5].terminating = true;
    let (next, keys) = apply(2, &stopping);
    assert_eq!(keys, ["Endpoints payment-service"]);
    assert_eq!(next.endpoints("payment-service.production.svc.cluster.local").unwrap().ready.len(), 1);

    let mut other_account = scenario_pods();
    other_account[5].service_account = "else".to_owned();
    let (next, keys) = apply(2, &other_account);
    assert_eq!(
        keys,
        ["Service payment-service", "Endpoints payment-service", "Workload payment-1"],
        "clients verify the account"
    );
    let accounts = &next.endpoints("payment-service.production.svc.cluster.local").unwrap().accounts;
    assert_eq!(accounts.iter().map(|a| &**a).collect::<Vec<_>>(), ["else", "payment-service-sa"]);
}

fn rule(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

#[test]
fn which_destination_rule_holds() {
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: one, namespace: a}\nspec: {ports: [{name: http, port: 80}]}\n---\n";
    let s = |n: &str| format!("subsets: [{{name: {n}, labels: {{v: {n}}}}}]");
    let host = "one.a.svc.cluster.local";
    let client = rule("b", "client", &format!("{{host: '*.svc.cluster.local', {}}}", s("client")));
    let own = rule("a", "own", &format!("{{host: one, {}}}", s("own")));
    let own_wide = rule("a", "wide", &format!("{{host: '*.a.svc.cluster.local', {}}}", s("wide")));
    let own_more =
        rule("a", "more", &format!("{{host: {host}, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}, {}}}", s("more")));
    let private = rule("a", "own", &format!("{{host: one, exportTo: ['.'], {}}}", s("own")));
    let root = rule("istio-system", "root", &format!("{{host: '*', {}}}", s("root")));
    for (manifests, from, expected) in [
        (vec![&client, &own, &root], "b", vec!["client"]),
        (vec![&client, &own, &root], "c", vec!["own"]),
        (vec![&own_wide, &own], "c", vec!["own"]),
        (vec![&own_wide], "c", vec!["wide"]),
        (vec![&own, &own_more], "c", vec!["own", "more"]),
        (vec![&private, &root], "c", vec!["root"]),
        (vec![&private, &root], "a", vec!["own"]),
        (vec![&own, &root], "istio-system", vec!["own"]),
        (vec![&root], "istio-system", vec!["root"]),
        (vec![], "c", vec![]),
    ] {
        let text = manifests.iter().map(|m| m.as_str()).collect::<String>();
        let world = fixture::world(&format!("{service}{text}"), &[]);
        let merged = MergedRule::lookup(&world, from, world.service(host).unwrap());
        let subsets: Vec<_> = merged.subsets().iter().map(|s| s.name.as_str()).collect();
        assert_eq!(subsets, expected, "from {from}: {text}");
    }
}

#[test]
fn policies_are_composed_whole() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: one, namespace: a}\nspec: {ports: [{name: http, port: 80}, {name: http-b, port: 81}]}\n---\n";
    let spec = "{host: one,
        trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 1}}, tls: {mode: DISABLE},
          portLevelSettings: [{port: {number: 81}, connectionPool: {tcp: {maxConnections: 2}}}]},
        subsets: [{name: s, trafficPolicy: {connectionPool: {http: {maxRetries: 3}}}}]}";
    let world = fixture::world(&format!("{service}{}", rule("a", "r", spec)), &[]);
    let merged = MergedRule::lookup(&world, "a", world.service("one.a.svc.cluster.local").unwrap());
    let summary = |port, subset| {
        let p = merged.policy(port, subset);
        let tcp = p.connection_pool.and_then(|c| c.tcp.as_ref()).map(|t| t.max_connections);
        let http = p.connection_pool.and_then(|c| c.http.as_ref()).map(|h| h.max_retries);
        (p.load_balancer.is_some(), tcp, http, p.tls.is_some())
    };
    assert_eq!(summary(80, ""), (true, Some(1), None, true));
    assert_eq!(summary(81, ""), (false, Some(2), None, false), "a port's entry replaces all four");
    assert_eq!(summary(80, "s"), (true, None, Some(3), true), "a subset's part replaces the whole part");
    assert_eq!(summary(81, "s"), (false, None, Some(3), false));
}
