//! A control plane in this process and proxies that connect to it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use lateen_control::debounce::DebounceConfig;
use lateen_xds::ResourceType;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::{Client, Gate, Mesh, PATIENCE, SCENARIO, pods};

async fn scenario(debounce: DebounceConfig) -> Mesh {
    let mesh = Mesh::start(debounce).await;
    mesh.pods(1, &pods()).await;
    mesh.ready().await;
    mesh
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_get_what_they_may_know() {
    let mesh = scenario(DebounceConfig::default()).await;
    let mut frontend = mesh.client("production", "frontend-0");
    frontend.sync().await;
    let clusters = frontend.names("CDS");
    for name in [
        "BlackHoleCluster",
        "InboundPassthroughCluster",
        "PassthroughCluster",
        "inbound|8080||",
        "outbound|80||batch.legacy.svc.cluster.local",
        "outbound|80||order-service.production.svc.cluster.local",
        "outbound|80|v1|order-service.production.svc.cluster.local",
        "outbound|80|v2|order-service.production.svc.cluster.local",
        "outbound|80||payment-service.production.svc.cluster.local",
    ] {
        assert!(clusters.iter().any(|c| c == name), "{name} is not among {clusters:?}");
    }
    assert_eq!(frontend.names("LDS"), ["0.0.0.0_80", "virtualInbound", "virtualOutbound"]);

    let mut order = mesh.client("production", "order-v1-0");
    order.sync().await;
    let outbound: Vec<_> = order.names("CDS").into_iter().filter(|n| n.starts_with("outbound|")).collect();
    assert_eq!(outbound, ["outbound|80||payment-service.production.svc.cluster.local"], "its Sidecar lets it see no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_weight_is_in_force_within_a_second_and_nothing_else_is_sent() {
    let mesh = scenario(DebounceConfig::default()).await;
    let mut frontend = mesh.client("production", "frontend-0");
    frontend.sync().await;
    let started = Instant::now();
    mesh.write("scenario.yaml", &SCENARIO.replace("weight: 95", "weight: 50").replace("weight: 5}", "weight: 50}"));
    let update = frontend.next().await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(update.ty, ResourceType::Rds);
    assert_eq!(update.added.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["80"]);
    assert!(frontend.updates.try_recv().is_err());

    // Written again with the same meaning: nothing at all.
    mesh.write(
        "scenario.yaml",
        &format!("# again\n{}", SCENARIO.replace("weight: 95", "weight: 50").replace("weight: 5}", "weight: 50}")),
    );
    mesh.write("new.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: new, namespace: other}\nspec: {clusterIP: 10.96.1.1, ports: [{name: tcp, port: 99}]}\n");
    let update = frontend.next().await;
    assert_eq!(update.ty, ResourceType::Cds, "the new service is the next news");
    assert_eq!(update.added.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["outbound|99||new.other.svc.cluster.local"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_not_held_back() {
    let slow = Duration::from_secs(3600);
    let mesh = scenario(DebounceConfig { after: slow, max: slow }).await;
    let mut frontend = mesh.client("production", "frontend-0");
    frontend.sync().await;
    // The first change opens the window, the second is held back in it.
    mesh.write("scenario.yaml", &SCENARIO.replace("weight: 95", "weight: 94"));
    assert_eq!(frontend.next().await.ty, ResourceType::Rds);

    let mut fewer = pods();
    fewer[4].ready = false;
    mesh.pods(2, &fewer).await;
    let update = frontend.next().await;
    assert_eq!(update.ty, ResourceType::Eds);
    let names: Vec<_> = update.added.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["outbound|80||payment-service.production.svc.cluster.local"]);
    let (status, body) = mesh.owner("GET", "/v1/propagated?generation=2&timeout=20s", "").await;
    assert_eq!(status, 200, "{body}");
}

/// What was worked out and encoded so far, by kind.
async fn work(mesh: &Mesh) -> BTreeMap<String, f64> {
    let (_, page) = mesh.page("/metrics").await;
    let of_kind = |line: &str| {
        let (kind, value) = line.strip_prefix("lateen_xds_generated_resources{type=\"")?.split_once("\"} ")?;
        Some((kind.to_owned(), value.parse().ok()?))
    };
    page.lines().filter_map(of_kind).collect()
}

/// Services of another namespace, which every proxy may know.
fn others(count: usize) -> String {
    let service = |number| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: other-{number}, namespace: other}}\nspec: {{clusterIP: 10.97.{}.{}, ports: [{{name: http, port: 80}}]}}\n---\n",
            number / 250,
            number % 250 + 1
        )
    };
    (0..count).map(service).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_that_do_not_read_hold_nobody_up_and_get_the_latest() {
    const EDITS: usize = 40;
    let mesh = scenario(DebounceConfig::default()).await;
    // All edits together are more than what may wait on the way.
    mesh.write("others.yaml", &others(500));
    let last = "outbound|80||other-499.other.svc.cluster.local".to_owned();
    let gate = Gate::before(mesh.plain()).await;
    let mut stuck: Vec<Client> = (0..3).map(|_| Client::new(gate.address, "production", "frontend-0")).collect();
    let mut fast = mesh.client("production", "frontend-0");
    for client in stuck.iter_mut().chain([&mut fast]) {
        client.sync().await;
        client.until(|c| c.names("CDS").contains(&last)).await;
    }
    let mut settled = fast.resources.clone();
    gate.shut(true);
    for edit in 1..=EDITS {
        let weights = SCENARIO.replace("weight: 95", &format!("weight: {edit}"));
        mesh.write("scenario.yaml", &weights.replace("weight: 5}", &format!("weight: {}}}", 100 - edit)));
        fast.until(|c| c.resources[&route()] != settled[&route()]).await;
        settled.clone_from(&fast.resources);
    }
    assert!(fast.resources[&route()].len() * EDITS > 4_000_000, "{}", fast.resources[&route()].len());

    gate.shut(false);
    for client in &mut stuck {
        let mut updates = 0;
        while client.resources[&route()] != fast.resources[&route()] {
            client.next().await;
            updates += 1;
        }
        assert!(updates < EDITS / 2, "{updates} updates: what is superseded is not sent");
    }
}

/// The key of the one route configuration.
fn route() -> (String, String) {
    ("RDS".to_owned(), "80".to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_one_endpoint_costs_the_same_in_any_mesh() {
    let mut costs = Vec::new();
    for services in [5, 500] {
        let mesh = scenario(DebounceConfig::default()).await;
        mesh.write("others.yaml", &others(services));
        let mut first = mesh.client("production", "frontend-0");
        first.sync().await;
        let last = format!("outbound|80||other-{}.other.svc.cluster.local", services - 1);
        first.until(|c| c.names("CDS").contains(&last)).await;
        // From here on there is no other news than what the test makes.
        let mut clients = ["frontend-1", "frontend-2", "batch-0"].map(|pod| mesh.client("production", pod));
        for client in &mut clients {
            client.sync().await;
        }
        let mut bytes = 0;
        let mut made = BTreeMap::new();
        // The pages are as of the last change: of two changes the second is looked at.
        for (generation, ready) in [(2, false), (3, true)] {
            let before = work(&mesh).await;
            let mut changed = pods();
            changed[4].ready = ready;
            mesh.pods(generation, &changed).await;
            for client in &mut clients {
                let update = client.next().await;
                assert_eq!((update.ty, update.added.len(), update.removed.len()), (ResourceType::Eds, 1, 0));
                bytes += update.added[0].body.len();
                assert!(client.updates.try_recv().is_err());
            }
            made = work(&mesh).await.into_iter().map(|(kind, made)| (kind.clone(), made - before[&kind])).collect();
        }
        // What proxies share is made once, or by some of them at the same moment.
        assert!(made.iter().all(|(kind, made)| *made <= if kind == "eds" { 3.0 } else { 0.0 }), "{made:?}");
        costs.push(bytes);
    }
    assert_eq!(costs[0], costs[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_a_pod_away_can_wait_for_every_proxy() {
    let mesh = scenario(DebounceConfig::default()).await;
    let mut frontend = mesh.client("production", "frontend-0");
    frontend.sync().await;
    let mut fewer = pods();
    fewer[5].terminating = true;
    mesh.pods(2, &fewer).await;
    // The proxy has been told and has not answered: whoever waits goes on waiting.
    let (status, _) = mesh.owner("GET", "/v1/propagated?generation=2&timeout=100ms", "").await;
    assert_eq!(status, 504);
    let update = frontend.next().await;
    assert_eq!(update.ty, ResourceType::Eds);
    let (status, body) = mesh.owner("GET", "/v1/propagated?generation=2&timeout=20s", "").await;
    assert_eq!(status, 200, "{body}");
    let (status, _) = mesh.owner("GET", "/v1/propagated?generation=99&timeout=50ms", "").await;
    assert_eq!(status, 504, "no such state yet");
    // The same pods as a new state concern nobody.
    mesh.pods(3, &fewer).await;
    assert_eq!(mesh.owner("GET", "/v1/propagated?generation=3&timeout=20s", "").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_nothing_is_sent_that_proxies_have() {
    let mut mesh = scenario(DebounceConfig::default()).await;
    let mut frontend = mesh.client("production", "frontend-0");
    frontend.sync().await;
    let root = std::fs::read(mesh.dir.path().join("ca/ca-cert.pem")).unwrap();
    mesh.run().await;
    mesh.pods(7, &pods()).await;
    mesh.ready().await;
    assert_eq!(std::fs::read(mesh.dir.path().join("ca/ca-cert.pem")).unwrap(), root, "the same authority");
    let mut state = frontend.handle.state();
    tokio::time::timeout(PATIENCE, state.wait_for(|s| s.connected && s.connections >= 2)).await.unwrap().unwrap();
    // A real change comes through, and nothing comes before it.
    mesh.write("scenario.yaml", &SCENARIO.replace("weight: 95", "weight: 90"));
    let update = frontend.next().await;
    assert_eq!((update.ty, update.added.len()), (ResourceType::Rds, 1), "{update:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages() {
    let mesh = Mesh::start(DebounceConfig::default()).await;
    assert_eq!(mesh.page("/ready").await.0, 503, "the platform has not told of its pods yet");
    let told = async {
        while mesh.owner("GET", "/ready", "").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the platform is told to go on once files were read");
    assert_eq!(mesh.page("/ready").await.0, 503, "proxies still wait");
    let body = serde_json::json!({"pods": [], "generation": 1}).to_string();
    assert_eq!(mesh.owner("PUT", "/v1/cluster", &body).await, (200, "{\n  \"applied\": 1\n}\n".to_owned()));
    assert_eq!(mesh.owner("PUT", "/v1/cluster", "{}").await.0, 400);
    mesh.ready().await;
    assert_eq!(mesh.page("/ready").await.0, 200);
    assert_eq!(mesh.page("/v1/propagated?generation=1").await.0, 404, "only on the socket");
    assert_eq!(mesh.page("/debug/nonsense").await.0, 404);

    mesh.pods(2, &pods()).await;
    let mut frontend = mesh.client("production", "frontend-0");
    frontend.sync().await;
    assert_eq!(mesh.owner("GET", "/v1/propagated?generation=2&timeout=20s", "").await.0, 200);
    let syncz = mesh.json("/debug/syncz").await;
    assert_eq!(syncz[0]["name"], "frontend-0");
    assert_eq!(syncz[0]["types"]["CDS"]["status"], "synced", "{syncz}");
    assert_eq!(syncz[0]["types"]["SDS"]["status"], "not sent");
    let registry = mesh.json("/debug/registryz").await;
    assert_eq!(registry.as_array().unwrap().len(), 4);
    let endpoints = mesh.json("/debug/endpointz").await;
    assert!(endpoints.as_array().unwrap().iter().any(|e| e["endpoints"].as_array().unwrap().len() == 3), "{endpoints}");
    assert_eq!(mesh.json("/debug/mesh").await["trustDomain"], "cluster.local");
    let dump = mesh.json("/debug/config_dump?proxyID=frontend-0.production").await;
    let clusters: Vec<_> = dump["clusters"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert!(clusters.contains(&"outbound|80|v2|order-service.production.svc.cluster.local"), "{clusters:?}");
    assert_eq!(mesh.page("/debug/config_dump?proxyID=nobody.x").await.0, 404);

    mesh.write("bad.yaml", "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x, namespace: production}\nspec:\n  hosts: [a]\n  nonsense: 1\n");
    let rejected = tokio::time::timeout(PATIENCE, async {
        loop {
            let rejections = mesh.json("/debug/rejections").await;
            if !rejections.as_array().unwrap().is_empty() {
                return rejections;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let rejections = rejected.await.unwrap();
    assert_eq!(rejections[0]["name"], "x");
    assert!(rejections[0]["problems"][0]["path"].as_str().unwrap().contains("nonsense"), "{rejections}");
    let (_, metrics) = mesh.page("/metrics").await;
    lateen_testkit::prometheus::read(&metrics).unwrap_or_else(|error| panic!("{error}\n{metrics}"));
    for line in ["pilot_services 4", "pilot_xds{version=", "pilot_total_rejected_configs{type=\"VirtualService\"} 1"] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}
