//! A real Envoy accepts what `lateen_wire` encodes, over what `lateen_xds` serves.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use lateen_model::dataplane as m;
use lateen_testkit::certificates::{TestCa, spiffe};
use lateen_testkit::envoy::{AdsMode, Envoy, EnvoyBinary, EnvoyConfig, http2_cluster};
use lateen_wire::{EncodeOptions, ProxyFlavor, encode};
use lateen_xds::Generation;
use lateen_xds::ResourceType::{self, Cds, Eds, Lds, Rds, Sds};
use lateen_xds::server::SyncState;
use serde_json::{Value, json};
use std::time::Duration;
use support::{Identities, Resources, Server, fixture, within};

const STOCK: EncodeOptions = EncodeOptions { flavor: ProxyFlavor::StockEnvoy };

fn put_cluster(resources: &Resources, cluster: &m::Cluster) {
    resources.put(Cds, &cluster.name, &encode::cluster(cluster, STOCK));
    if let m::Discovery::Eds { service_name } = &cluster.discovery {
        resources.put(Eds, service_name, &encode::cluster_load_assignment(&fixture::endpoints(service_name, 1)));
    }
}

fn resources() -> Resources {
    let resources = Resources::new();
    for cluster in fixture::clusters() {
        put_cluster(&resources, &cluster);
    }
    for listener in fixture::listeners() {
        resources.put(Lds, &listener.name, &encode::listener(&listener, STOCK));
    }
    resources.put(Rds, "80", &encode::route_configuration(&fixture::routes("80")));
    let authority = TestCa::new();
    let leaf = authority.workload(&spiffe("spiffe://cluster.local/ns/ns/sa/account"));
    for name in ["default", "kubernetes://extra"] {
        let kind = m::SecretKind::Certificate {
            chain_pem: leaf.chain_pem.as_bytes().to_vec(),
            private_key_pem: leaf.key_pem.as_bytes().to_vec(),
        };
        resources.put(Sds, name, &encode::secret(&m::Secret { name: name.to_owned(), kind }));
    }
    let kind = m::SecretKind::Roots { trusted_ca_pem: authority.root_pem().as_bytes().to_vec(), crl_pem: Vec::new() };
    resources.put(Sds, "ROOTCA", &encode::secret(&m::Secret { name: "ROOTCA".to_owned(), kind }));
    resources
}

async fn start(server: &Server, mode: AdsMode) -> Envoy {
    let node = json!({ "id": "sidecar~10.0.0.1~pod.ns~ns.svc.cluster.local", "cluster": "pod.ns" });
    let config = EnvoyConfig::ads(mode, server.address, &node).with_cluster(http2_cluster("sds-grpc", server.address));
    let mut envoy = Envoy::start(&EnvoyBinary::locate().unwrap(), &config).await.unwrap();
    if envoy.wait_ready().await.is_err() {
        panic!("{}\n{:#?}", complaints(&envoy), states(server));
    }
    envoy
}

/// What Envoy complains of; the rest of its log shows whole configurations.
fn complaints(envoy: &Envoy) -> String {
    let log = envoy.log();
    // Istio's own fields are among those that Envoy wants to be rid of.
    let known = ["Deprecated field", "optional http filter istio."];
    let complaints = log.lines().filter(|line| {
        ["[warning]", "[error]", "[critical]"].iter().any(|level| line.contains(level)) && !known.iter().any(|k| line.contains(k))
    });
    complaints.map(|line| line.chars().take(1_000).collect::<String>() + "\n").collect()
}

/// Every type on every stream of the Envoy.
fn states(server: &Server) -> Vec<(ResourceType, SyncState, usize)> {
    let status = server.connections.list().into_iter().flat_map(|c| c.status().types);
    status.map(|(ty, status)| (ty, status.state, status.resources)).collect()
}

async fn settled(server: &Server, envoy: &Envoy, generation: u64) {
    let settled = tokio::time::timeout(Duration::from_secs(20), async {
        while server.connections.acked_generation() != Some(Generation(generation)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    if settled.await.is_err() {
        panic!("{:#?}\n{}", states(server), complaints(envoy));
    }
    assert!(states(server).iter().all(|(_, state, _)| *state == SyncState::Synced), "{:#?}", states(server));
}

async fn dump(envoy: &Envoy) -> Value {
    let answer = within(envoy.admin_get("/config_dump?include_eds")).await.unwrap();
    answer.json().unwrap_or_else(|error| panic!("{error}: {:.2000}", answer.text()))
}

/// Whether Envoy holds an error state, or something that still waits.
fn pending(value: &Value) -> Option<&'static str> {
    match value {
        Value::Object(map) => ["error_state", "warming_state", "dynamic_warming_clusters", "dynamic_warming_secrets"]
            .into_iter()
            .find(|key| map.contains_key(*key))
            .or_else(|| map.values().find_map(pending)),
        Value::Array(list) => list.iter().find_map(pending),
        _ => None,
    }
}

async fn accepts(mode: AdsMode) {
    let resources = resources();
    let server = Server::start(&resources, Identities::None).await;
    let envoy = start(&server, mode).await;
    settled(&server, &envoy, 1).await;
    let seen = states(&server);
    for ty in [Cds, Eds, Lds, Rds, Sds] {
        assert!(seen.iter().any(|(t, _, resources)| *t == ty && *resources > 0), "{ty}: {seen:?}");
    }
    let before = dump(&envoy).await;
    assert_eq!(pending(&before), None, "{before:#}");

    // Changes: endpoints alone, routes alone, and a cluster, whose endpoints Envoy wants again though they are the same.
    let name = "outbound|80||a.ns.svc.cluster.local";
    server.change(&resources, Eds, name, &encode::cluster_load_assignment(&fixture::endpoints(name, 2)));
    settled(&server, &envoy, 2).await;
    let mut routes = fixture::routes("80");
    routes.virtual_hosts[0].routes.truncate(2);
    server.change(&resources, Rds, "80", &encode::route_configuration(&routes));
    settled(&server, &envoy, 3).await;
    let mut cluster = fixture::clusters().into_iter().find(|c| c.name == name).unwrap();
    cluster.connect_timeout = Duration::from_secs(3);
    server.change(&resources, Cds, name, &encode::cluster(&cluster, STOCK));
    settled(&server, &envoy, 4).await;
    let active = within(async {
        loop {
            let dump = dump(&envoy).await;
            if pending(&dump).is_none() {
                return dump.to_string();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(active.contains("\"connect_timeout\":\"3s\""), "the changed cluster is in force");
    assert!(active.contains("10.1.0.2"), "the changed endpoints are in force");

    resources.remove(Lds, "gone");
    server.connections.notify_all(&resources.next(&[(Lds, "gone")]));
    settled(&server, &envoy, 5).await;
    assert!(!complaints(&envoy).contains("rejected"), "{}", complaints(&envoy));
}

#[tokio::test]
async fn envoy_accepts_everything_in_delta() {
    accepts(AdsMode::Delta).await;
}

#[tokio::test]
async fn envoy_accepts_everything_in_state_of_the_world() {
    accepts(AdsMode::StateOfTheWorld).await;
}

#[tokio::test]
async fn envoy_refuses_what_is_wrong_and_says_why() {
    let resources = resources();
    let server = Server::start(&resources, Identities::None).await;
    let envoy = start(&server, AdsMode::Delta).await;
    settled(&server, &envoy, 1).await;
    // A listener without a filter chain.
    let mut empty = fixture::listeners().remove(0);
    empty.name = "empty".to_owned();
    empty.filter_chains.clear();
    empty.default_filter_chain = None;
    server.change(&resources, Lds, "empty", &encode::listener(&empty, STOCK));
    let reason = within(async {
        loop {
            let nack = states(&server).into_iter().find_map(|(_, state, _)| match state {
                SyncState::Nack(reason) => Some(reason),
                _ => None,
            });
            match nack {
                Some(reason) => return reason,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    assert!(reason.contains("empty"), "{reason}");
    assert_eq!(server.connections.acked_generation(), Some(Generation(1)));
}
