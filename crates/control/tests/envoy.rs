//! A real Envoy takes what the control plane makes for the sidecars of the scenario, in both forms of the protocol.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/agent.rs"]
mod agent;
mod support;

use lateen_control::debounce::DebounceConfig;
use lateen_testkit::envoy::{AdsMode, Envoy, EnvoyBinary, EnvoyConfig, http2_cluster};
use serde_json::{Value, json};
use std::time::Duration;
use support::{Mesh, PATIENCE, pods};

/// The entry of a proxy once it has answered every type, or what there is after a while.
async fn settled(mesh: &Mesh, name: &str) -> Value {
    let mut entry = Value::Null;
    let settle = async {
        loop {
            let all = mesh.json("/debug/syncz").await;
            entry = all.as_array().unwrap().iter().find(|e| e["name"] == name).cloned().unwrap_or_default();
            let status = |ty: &str| entry["types"][ty]["status"].as_str().unwrap_or_default().to_owned();
            let answered = |ty: &&str| status(ty) == "synced" || status(ty).starts_with("nack");
            if ["CDS", "EDS", "LDS", "RDS"].iter().all(answered) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, settle).await;
    entry
}

async fn accepts_all(binary: &EnvoyBinary, mesh: &Mesh, mode: AdsMode, name: &str) {
    accepts_all_as("sidecar", (binary, mode), mesh, name).await;
}

async fn accepts_all_as(role: &str, (binary, mode): (&EnvoyBinary, AdsMode), mesh: &Mesh, name: &str) {
    let node = json!({
        "id": format!("{role}~10.0.0.1~{name}.production~production.svc.cluster.local"),
        "cluster": format!("{name}.production"),
        "metadata": {"NAMESPACE": "production", "CLUSTER_ID": "Kubernetes"},
    });
    let secrets = http2_cluster("sds-grpc", agent::serve().await);
    let config = EnvoyConfig::ads(mode, mesh.plain(), &node).with_cluster(secrets);
    let mut envoy = Envoy::start(binary, &config).await.unwrap();
    let entry = settled(mesh, name).await;
    let complaints = || {
        let log = envoy.log();
        let lines = log.lines().filter(|l| l.contains("rejected") || l.contains("[error]") || l.contains("[critical]"));
        lines.map(|l| l.chars().take(1000).collect::<String>() + "\n").collect::<String>()
    };
    for ty in ["CDS", "EDS", "LDS", "RDS"] {
        assert_eq!(entry["types"][ty]["status"], "synced", "{name} {ty}: {entry:#}\n{}", complaints());
        assert_eq!(entry["types"][ty]["nacks"], 0, "{name} {ty}: {entry:#}");
    }
    assert!(entry["types"]["CDS"]["resources"].as_u64().unwrap() >= 5, "{entry:#}");
    // A gateway also waits for Secrets, which are for proven identities only, and nobody proves any on a plaintext port.
    if role == "sidecar" {
        envoy.wait_ready().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_accepts_what_is_made_for_the_scenario() {
    let binary = tokio::task::spawn_blocking(EnvoyBinary::locate).await.unwrap().unwrap();
    let mesh = Mesh::start(DebounceConfig::default()).await;
    mesh.pods(1, &pods()).await;
    mesh.ready().await;
    // One after the other: each binds Istio's ports.
    accepts_all(&binary, &mesh, AdsMode::Delta, "frontend-0").await;
    accepts_all(&binary, &mesh, AdsMode::StateOfTheWorld, "payment-0").await;
    accepts_all(&binary, &mesh, AdsMode::Delta, "order-v1-0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_accepts_service_entries_of_every_kind() {
    let binary = tokio::task::spawn_blocking(EnvoyBinary::locate).await.unwrap().unwrap();
    let mesh = Mesh::start(DebounceConfig::default()).await;
    mesh.write("entries.yaml", include_str!("entries.yaml"));
    mesh.pods(1, &pods()).await;
    mesh.ready().await;
    assert_eq!(mesh.json("/debug/rejections").await, json!([]));
    accepts_all(&binary, &mesh, AdsMode::Delta, "frontend-0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_accepts_rules_and_ports_of_every_kind() {
    let binary = tokio::task::spawn_blocking(EnvoyBinary::locate).await.unwrap().unwrap();
    let mesh = Mesh::start(DebounceConfig::default()).await;
    mesh.write("rich.yaml", &include_str!("rich.yaml").replace("namespace: a}", "namespace: production}"));
    let mut pods = pods();
    pods[0].labels.insert("app".to_owned(), "one".to_owned());
    mesh.pods(1, &pods).await;
    mesh.ready().await;
    assert_eq!(mesh.json("/debug/rejections").await, json!([]));
    accepts_all(&binary, &mesh, AdsMode::Delta, "frontend-0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_accepts_gateways_with_servers_of_every_kind() {
    let binary = tokio::task::spawn_blocking(EnvoyBinary::locate).await.unwrap().unwrap();
    let mesh = Mesh::start(DebounceConfig::default()).await;
    mesh.write("gateways.yaml", include_str!("gateways.yaml"));
    mesh.pods(1, &pods()).await;
    mesh.ready().await;
    assert_eq!(mesh.json("/debug/rejections").await, json!([]));
    accepts_all_as("router", (&binary, AdsMode::Delta), &mesh, "order-v1-0").await;
    accepts_all_as("router", (&binary, AdsMode::StateOfTheWorld), &mesh, "order-v1-0").await;
}
