//! A mesh of these tests, and the words in which they ask it things.

use std::fs;
use std::path::Path;
use std::process::id;
use std::sync::atomic::{AtomicU32, Ordering};

use lateen_testkit::lab::{LateenUp, PodStatus};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{self, Load, Reply, eventually, lateen};

pub(crate) const CLIENT: &str = "client";
const SHOP: &str = "shop";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A mesh of `mesh.yaml` and one other file.
pub(crate) struct Shop {
    up: LateenUp,
    logs: TempDir,
}

impl Shop {
    pub(crate) fn start(manifest: &str) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routing");
        let logs = TempDir::with_prefix("lateen-routing-").unwrap();
        let name = format!("r{}-{}", id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (mesh, own) = (directory.join("mesh.yaml"), directory.join(manifest));
        let arguments = [mesh.as_os_str(), own.as_os_str(), "--log-dir".as_ref(), logs.path().as_os_str()];
        let up = LateenUp::start(&lateen(), &name, &arguments).unwrap_or_else(|e| panic!("{e}"));
        assert!(!up.log().contains("refused"), "a manifest of this test was refused:\n{}", up.log());
        let shop = Self { up, logs };
        eventually("the client has all endpoints", || shop.has_endpoints().then_some(()));
        shop
    }

    /// Whether the client's sidecar has each service's endpoints.
    fn has_endpoints(&self) -> bool {
        let ready = |c: &Value| c["discovery"]["eds"].is_null() || !self.endpoints(c["name"].as_str().unwrap()).is_empty();
        let clusters = self.admin("/config/clusters");
        // A subset without pods is one of the cases.
        clusters.as_array().unwrap().iter().filter(|c| !c["name"].as_str().unwrap().contains("|nobody|")).all(ready)
    }

    fn namespace(pod: &str) -> &'static str {
        if pod == "stranger" { "other" } else { SHOP }
    }

    pub(crate) fn curl(&self, pod: &str, arguments: &[&str]) -> Reply {
        support::curl(&self.up, Self::namespace(pod), pod, arguments)
    }

    /// A request of the client.
    pub(crate) fn get(&self, url: &str) -> Reply {
        self.curl(CLIENT, &[url])
    }

    /// Many requests of the client with `lateen echo get`; the report.
    pub(crate) fn requests(&self, arguments: &[&str]) -> Value {
        support::requests(&self.up, SHOP, CLIENT, arguments)
    }

    /// The same, while the test goes on.
    pub(crate) fn load(&self, arguments: &[&str]) -> Load {
        Load::start(&self.up, SHOP, CLIENT, arguments)
    }

    /// A page of the client's sidecar.
    fn admin(&self, path: &str) -> Value {
        let url = format!("http://127.0.0.1:15000{path}");
        self.up.exec_json(SHOP, CLIENT, &["curl", "-sS", "-m", "20", &url]).unwrap_or_else(|e| panic!("{e}"))
    }

    fn named(&self, page: &str, name: &str) -> Option<Value> {
        self.admin(page).as_array().unwrap().iter().find(|c| c["name"] == name).cloned()
    }

    /// A counter or gauge of one of the client's clusters.
    pub(crate) fn stat(&self, cluster: &str, name: &str) -> u64 {
        let found = self.named("/clusters", cluster).unwrap_or_else(|| panic!("no cluster {cluster}"));
        found["stats"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {found:#}"))
    }

    /// The endpoints of one of the client's clusters.
    pub(crate) fn endpoints(&self, cluster: &str) -> Vec<Value> {
        let found = self.named("/config/endpoints", cluster);
        found.map_or_else(Vec::new, |c| c["endpoints"].as_array().unwrap().clone())
    }

    /// The pods with a label `app`.
    pub(crate) fn pods(&self, app: &str) -> Vec<PodStatus> {
        let status = self.up.status().unwrap_or_else(|e| panic!("{e}"));
        status.with_label(SHOP, "app", app).cloned().collect()
    }

    /// Gives the test application of pods an order.
    pub(crate) fn order(&self, pods: &[PodStatus], order: &Value) {
        for pod in pods {
            let reply = self.curl(&pod.name, &["http://localhost:8080/control", "-d", &order.to_string()]);
            assert_eq!(reply.status, 200, "{reply:?}");
        }
    }

    /// How many requests the faults of pods for this path have taken.
    pub(crate) fn taken(&self, pods: &[PodStatus], path: &str) -> u64 {
        let of = |pod: &PodStatus| {
            let state = self.curl(&pod.name, &["http://localhost:8080/control"]).json();
            let faults = state["faults"].as_array().unwrap().iter().filter(|f| f["path"] == path);
            faults.map(|f| f["taken"].as_u64().unwrap()).sum::<u64>()
        };
        pods.iter().map(of).sum()
    }

    /// The client's access log of a request, found by its path.
    pub(crate) fn logged(&self, path: &str) -> Value {
        self.logged_at(CLIENT, path)
    }

    /// The access log of another pod.
    pub(crate) fn logged_at(&self, pod: &str, path: &str) -> Value {
        eventually(&format!("{path} in the access log of {pod}"), || self.entries(pod, path).into_iter().next())
    }

    /// The client's access log of a path, when it has so many entries.
    pub(crate) fn logged_all(&self, path: &str, entries: usize) -> Vec<Value> {
        eventually(&format!("{entries} entries of {path} in the access log"), || {
            let found = self.entries(CLIENT, path);
            (found.len() >= entries).then_some(found)
        })
    }

    fn entries(&self, pod: &str, path: &str) -> Vec<Value> {
        let file = self.logs.path().join(format!("{}_{pod}_istio-proxy.log", Self::namespace(pod)));
        let text = fs::read_to_string(&file).unwrap_or_default();
        // The sidecar's own words stand between the entries; they are no JSON.
        let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries.filter(|entry| entry["path"] == path).collect()
    }
}

/// The name of a cluster of namespace `shop`, port 80.
pub(crate) fn cluster(service: &str) -> String {
    format!("outbound|80||{service}.shop.svc.cluster.local")
}
