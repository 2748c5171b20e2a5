//! A service, its client, and a load on it that goes on while the manifests change; with either engine as every sidecar.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::id;
use std::sync::atomic::{AtomicU32, Ordering};

use lateen_testkit::envoy::EnvoyBinary;
use lateen_testkit::lab::LateenUp;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Load, count, curl, eventually, lateen};

pub(crate) const SHOP: &str = "shop";
pub(crate) const CLIENT: &str = "deploy/client";

/// What runs as sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Lateen,
    Envoy,
}

impl Engine {
    /// The arguments of `lateen up` for it.
    fn arguments(self) -> Vec<OsString> {
        match self {
            Self::Lateen => Vec::new(),
            Self::Envoy => {
                let envoy = EnvoyBinary::locate().unwrap_or_else(|e| panic!("{e}"));
                let mut value = OsString::from("envoy=");
                value.push(envoy.path());
                vec!["--sidecar".into(), value]
            }
        }
    }
}

/// What the manifests say.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// Pods of the first version; of the second there are two.
    pub(crate) replicas: u32,
    /// Another one replaces every pod.
    pub(crate) round: u32,
    /// Of a hundred requests, those for the first version.
    pub(crate) weight: u32,
    /// The names of the subsets.
    pub(crate) subsets: [String; 2],
    /// The header that asks for the second version.
    pub(crate) header: &'static str,
    pub(crate) timeout: &'static str,
    pub(crate) uri: &'static str,
    /// The route's `retries`, as YAML.
    pub(crate) retries: &'static str,
    /// The service's `trafficPolicy`, as YAML.
    pub(crate) policy: &'static str,
}

/// A policy that limits nothing; an empty one would be refused.
pub(crate) const NO_POLICY: &str = "{loadBalancer: {simple: LEAST_REQUEST}}";

impl Wish {
    pub(crate) fn first() -> Self {
        let subsets = ["v1", "v2"].map(str::to_owned);
        let retries = "{attempts: 2}";
        Self {
            replicas: 2,
            round: 0,
            weight: 90,
            subsets,
            header: "x-canary",
            timeout: "5s",
            uri: "/",
            retries,
            policy: NO_POLICY,
        }
    }

    fn manifests(&self, generation: u32) -> String {
        let fill = [
            ("replicas", self.replicas.to_string()),
            ("round", self.round.to_string()),
            ("stable", self.subsets[0].clone()),
            ("canary", self.subsets[1].clone()),
            ("header", self.header.to_owned()),
            ("timeout", self.timeout.to_owned()),
            ("uri", self.uri.to_owned()),
            ("retries", self.retries.to_owned()),
            ("policy", self.policy.to_owned()),
            ("weight", self.weight.to_string()),
            ("rest", (100 - self.weight).to_string()),
            ("generation", generation.to_string()),
        ];
        fill.iter().fold(include_str!("shop.yaml").to_owned(), |text, (name, value)| text.replace(&format!("<<{name}>>"), value))
    }
}

/// A running mesh.
pub(crate) struct Shop {
    up: LateenUp,
    files: TempDir,
    logs: TempDir,
    generation: u32,
}

/// Whether a line is an entry of a request (not of a TCP connection) that was not answered 200.
fn failed(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|entry| entry["method"].is_string() && entry["response_code"] != 200)
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Shop {
    pub(crate) fn start(engine: Engine, wish: &Wish) -> Self {
        let files = TempDir::with_prefix("lateen-continuity-").unwrap();
        fs::write(files.path().join("shop.yaml"), wish.manifests(0)).unwrap();
        let logs = TempDir::with_prefix("lateen-continuity-logs-").unwrap();
        let mut arguments = vec![files.path().into(), "--log-dir".into(), logs.path().into()];
        arguments.extend(engine.arguments());
        let name = format!("c{}-{}", id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let up = LateenUp::start(&lateen(), &name, &arguments).unwrap_or_else(|e| panic!("{e}"));
        let shop = Self { up, files, logs, generation: 0 };
        shop.in_force(wish);
        shop
    }

    /// Writes the manifests anew, and waits until they are in force.
    pub(crate) fn apply(&mut self, wish: &Wish) {
        let before: Vec<String> = self.pods().into_iter().map(|(name, _)| name).collect();
        let replaced = !before.iter().any(|name| self.round(name) == Some(wish.round));
        self.generation += 1;
        let path = self.files.path().join("shop.yaml");
        let scratch = self.files.path().join("shop.yaml~");
        fs::write(&scratch, wish.manifests(self.generation)).unwrap();
        fs::rename(&scratch, &path).unwrap();
        self.in_force(wish);
        if replaced {
            eventually("the end of the pods before", || self.pods().iter().all(|(name, _)| !before.contains(name)).then_some(()));
        }
    }

    /// The pods of the service, and whether they are ready.
    pub(crate) fn pods(&self) -> Vec<(String, bool)> {
        let status = self.up.status().unwrap_or_else(|e| panic!("{e}"));
        status.with_label(SHOP, "app", "web").map(|p| (p.name.clone(), p.ready)).collect()
    }

    /// Which round a pod was made in.
    fn round(&self, pod: &str) -> Option<u32> {
        let out = self.up.exec(SHOP, pod, &["sh", "-c", "echo $ROUND"]).ok()?;
        String::from_utf8_lossy(&out.stdout).trim().parse().ok()
    }

    fn in_force(&self, wish: &Wish) {
        let wanted = usize::try_from(wish.replicas).unwrap() + 2;
        eventually("the pods that are wanted", || {
            let pods = self.pods();
            let as_wished = |name: &String| self.round(name) == Some(wish.round);
            (pods.len() == wanted && pods.iter().all(|(name, ready)| *ready && as_wished(name))).then_some(())
        });
        let header = format!("x-generation: {}", self.generation);
        eventually("the routes that are wanted", || {
            let reply = curl(&self.up, SHOP, CLIENT, &["http://web/"]);
            reply.head.contains(&header).then_some(())
        });
    }

    /// What the access logs of all sidecars, of pods that have ended too, say of requests that were not answered 200.
    pub(crate) fn failures(&self) -> Vec<String> {
        let log = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let files = fs::read_dir(self.logs.path()).unwrap().map(|entry| entry.unwrap().path());
        let failures = files.flat_map(|path| {
            let pod = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            log(&path).lines().filter(|line| failed(line)).map(|line| format!("{pod}: {line}")).collect::<Vec<_>>()
        });
        failures.collect()
    }

    /// Starts a load that goes on until it is ended; see `lateen echo get`.
    pub(crate) fn load(&self, arguments: &[&str]) -> Load {
        Load::start(&self.up, SHOP, CLIENT, &[&["http://web/", "--duration", "300s"], arguments].concat())
    }

    /// Many requests; the report.
    pub(crate) fn requests(&self, arguments: &[&str]) -> Value {
        crate::support::requests(&self.up, SHOP, CLIENT, &[&["http://web/"], arguments].concat())
    }

    /// Makes the applications misbehave.
    pub(crate) fn order(&self, order: &Value) {
        for (pod, _) in self.pods() {
            let reply = curl(&self.up, SHOP, &pod, &["http://localhost:8080/control", "-d", &order.to_string()]);
            assert_eq!(reply.status, 200, "{reply:?}");
        }
    }

    /// Makes them behave again.
    pub(crate) fn reset(&self) {
        for (pod, _) in self.pods() {
            let reply = curl(&self.up, SHOP, &pod, &["http://localhost:8080/control", "-X", "DELETE"]);
            assert_eq!(reply.status, 200, "{reply:?}");
        }
    }

    /// How many requests the applications have had.
    pub(crate) fn seen(&self) -> u64 {
        let state = |pod: &str| curl(&self.up, SHOP, pod, &["http://localhost:8080/control"]).json();
        self.pods().iter().map(|(pod, _)| count(&state(pod), "/requests")).sum()
    }
}
