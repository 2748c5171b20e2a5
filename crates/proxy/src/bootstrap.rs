//! Who this proxy is and where its control plane is, from flags and from the environment that Istio's injector writes.

use crate::upstream::Sockets;
use lateen_model::dataplane::Locality;
use lateen_model::identity::{IdentityError, SpiffeId, TrustDomain};
use lateen_model::place;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which role of proxy runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Beside one application.
    Sidecar,
    /// At the mesh's edge, with ports of its own.
    Gateway,
}

impl Role {
    /// The first part of a node's id (Istio's node type).
    fn node_type(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Gateway => "router",
        }
    }
}

/// What is wrong with the environment; each variant says which variable.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A variable that has no default is missing.
    #[error("environment variable {0} is not set; the sidecar injector sets it, see `lateen proxy --help`")]
    Missing(&'static str),
    /// A variable does not parse.
    #[error("environment variable {name}={value:?}: {expected}")]
    Invalid {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The identity's parts are not names.
    #[error("workload identity: {0}")]
    Identity(#[from] IdentityError),
    /// A file that the environment names cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The environment, as a table so that tests need no process-wide state.
pub(crate) type Environment = BTreeMap<String, String>;

/// Everything that is fixed while the process lives.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) role: Role,
    /// `sidecar~10.0.0.5~pod.namespace~namespace.svc.cluster.local`.
    pub(crate) node_id: String,
    /// `service.namespace`, which names the proxy in traces.
    pub(crate) node_cluster: String,
    /// The node's metadata (see the xDS reference).
    pub(crate) metadata: Map<String, Value>,
    pub(crate) identity: SpiffeId,
    pub(crate) pod_name: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Where it is, by the labels.
    pub(crate) locality: Locality,
    /// Whether it wants to know the other proxies of its workload, to balance by zones (`ISTIO_META_ENABLE_SELF_DISCOVERY`).
    pub(crate) self_discovery: bool,
    pub(crate) workload: String,
    pub(crate) cluster_id: String,
    pub(crate) instance_ip: IpAddr,
    /// `host:port` of the ADS server.
    pub(crate) discovery_address: String,
    /// `host:port` of the CA; usually the same.
    pub(crate) ca_address: String,
    /// Roots for the control plane's certificate.
    pub(crate) root_cert: PathBuf,
    /// The service account token that authenticates this workload.
    pub(crate) token: PathBuf,
    /// Worker threads.
    pub(crate) concurrency: usize,
    /// Mark and acceleration of the sockets that the proxy opens (`LATEEN_PROXY_MARK`, `LATEEN_ACCELERATED`).
    pub(crate) sockets: Sockets,
    /// Whether the application's DNS questions are captured and answered (`ISTIO_META_DNS_CAPTURE`).
    pub(crate) dns_capture: bool,
    /// Whether it holds only what its workload calls.
    pub(crate) automatic_scope: AutomaticScope,
    /// How long in-flight work may last after SIGTERM.
    pub(crate) termination_drain: Duration,
    /// Asked life of certificates; `None` leaves it to the CA.
    pub(crate) secret_ttl: Duration,
    /// Share of a certificate's life that is left when it is replaced.
    pub(crate) secret_grace: f64,
    /// Jitter of that share.
    pub(crate) secret_grace_jitter: f64,
}

/// Learning services on demand (`LATEEN_AUTOMATIC_SCOPE`).
#[derive(Clone, Debug)]
pub(crate) struct AutomaticScope {
    /// In meshes of more services than this; `None`: never.
    pub(crate) above: Option<u32>,
    /// How long a call waits for the control plane's answer (`LATEEN_AUTOMATIC_SCOPE_TIMEOUT`).
    pub(crate) patience: Duration,
    /// After how long without use it is forgotten (`LATEEN_AUTOMATIC_SCOPE_FORGET_AFTER`).
    pub(crate) forget_after: Duration,
}

impl Default for AutomaticScope {
    fn default() -> Self {
        Self { above: None, patience: Duration::from_secs(5), forget_after: Duration::from_secs(3600) }
    }
}

impl AutomaticScope {
    /// Gateways serve everybody: they hold everything.
    fn from_environment(env: &Env<'_>, role: Role) -> Result<Self, BootstrapError> {
        let default = Self::default();
        let above = |v: &str| match v {
            "true" => Some(Some(0)),
            "false" => Some(None),
            number => number.parse().ok().map(Some),
        };
        let above = env.parse("LATEEN_AUTOMATIC_SCOPE", "true, false, or a number of services", above)?;
        let positive = |v: &str| parse_go_duration(v).filter(|d| !d.is_zero());
        let expected = "a duration above zero, such as 5s";
        Ok(Self {
            above: above.unwrap_or(Some(AUTOMATIC_SCOPE_ABOVE)).filter(|_| role == Role::Sidecar),
            patience: env.parse("LATEEN_AUTOMATIC_SCOPE_TIMEOUT", expected, positive)?.unwrap_or(default.patience),
            forget_after: env.parse("LATEEN_AUTOMATIC_SCOPE_FORGET_AFTER", expected, positive)?.unwrap_or(default.forget_after),
        })
    }
}

/// Reads one variable at a time, remembering its name for errors.
struct Env<'a>(&'a Environment);

impl<'a> Env<'a> {
    fn text(&self, name: &'static str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    fn required(&self, name: &'static str) -> Result<&'a str, BootstrapError> {
        self.text(name).ok_or(BootstrapError::Missing(name))
    }

    fn parse<T>(
        &self,
        name: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, BootstrapError> {
        self.text(name)
            .map(|v| parse(v).ok_or_else(|| BootstrapError::Invalid { name, value: v.to_owned(), expected }))
            .transpose()
    }
}

/// In meshes of more services than this sidecars learn on demand, where nothing else is said: to hold fewer costs next to nothing,
/// and a first call that waits for nobody is worth more.
const AUTOMATIC_SCOPE_ABOVE: u32 = 100;
const DEFAULT_DISCOVERY: &str = "istiod.istio-system.svc:15012";
const DEFAULT_TOKEN: &str = "/var/run/secrets/tokens/istio-token";
const DEFAULT_ROOT: &str = "/var/run/secrets/istio/root-cert.pem";

impl Settings {
    /// Puts the settings together. `labels_file` is the pod's labels as the downward API writes them.
    pub(crate) fn from_environment(role: Role, environment: &Environment, labels_file: &Path) -> Result<Self, BootstrapError> {
        let env = Env(environment);
        let pod_name = env.required("POD_NAME")?.to_owned();
        let namespace = env.required("POD_NAMESPACE")?.to_owned();
        let instance_ip = env
            .parse("INSTANCE_IP", "an IP address", |v| v.parse::<IpAddr>().ok())?
            .ok_or(BootstrapError::Missing("INSTANCE_IP"))?;
        let service_account = env.text("SERVICE_ACCOUNT").unwrap_or("default");
        let trust_domain = TrustDomain::try_new(env.text("TRUST_DOMAIN").unwrap_or("cluster.local"))?;
        let identity = SpiffeId::new(&trust_domain, &namespace, service_account)?;
        let labels = read_labels(labels_file)?;
        let proxy_config = env
            .parse("PROXY_CONFIG", "a JSON object", |v| serde_json::from_str::<Map<String, Value>>(v).ok())?
            .unwrap_or_default();
        let from_config = |key: &str| proxy_config.get(key).and_then(Value::as_str).map(str::to_owned);
        let discovery_address = from_config("discoveryAddress").unwrap_or_else(|| DEFAULT_DISCOVERY.to_owned());
        let workload = env.text("ISTIO_META_WORKLOAD_NAME").unwrap_or(&pod_name).to_owned();
        let cluster_id = env.text("ISTIO_META_CLUSTER_ID").unwrap_or("Kubernetes").to_owned();
        let app = labels.get("app").unwrap_or(&workload);
        let concurrency = proxy_config.get("concurrency").and_then(Value::as_u64);
        let seconds = |v: &str| parse_go_duration(v);
        let ratio = |v: &str| v.parse::<f64>().ok().filter(|r| (0.0..=1.0).contains(r));
        let termination_drain =
            from_config("terminationDrainDuration").and_then(|v| parse_go_duration(&v)).unwrap_or(Duration::from_secs(5));
        let automatic_scope = AutomaticScope::from_environment(&env, role)?;
        Ok(Self {
            role,
            automatic_scope,
            node_id: format!("{}~{instance_ip}~{pod_name}.{namespace}~{namespace}.svc.cluster.local", role.node_type()),
            node_cluster: format!("{app}.{namespace}"),
            metadata: node_metadata(environment, &labels, service_account, &proxy_config),
            identity,
            ca_address: env.text("CA_ADDR").unwrap_or(&discovery_address).to_owned(),
            discovery_address,
            root_cert: env.text("XDS_ROOT_CA").or(env.text("CA_ROOT_CA")).unwrap_or(DEFAULT_ROOT).into(),
            token: env.text("LATEEN_TOKEN_PATH").unwrap_or(DEFAULT_TOKEN).into(),
            concurrency: worker_count(concurrency),
            sockets: Sockets {
                mark: env
                    .parse("LATEEN_PROXY_MARK", "a number from 1 to 4294967295", |v| v.parse::<u32>().ok().filter(|m| *m > 0))?,
                accelerated: role == Role::Sidecar && env.text("LATEEN_ACCELERATED").is_some_and(|v| v == "true"),
            },
            dns_capture: role == Role::Sidecar && env.text("ISTIO_META_DNS_CAPTURE").is_some_and(|v| v == "true"),
            self_discovery: env.text("ISTIO_META_ENABLE_SELF_DISCOVERY").is_some_and(|v| v == "true"),
            locality: place::of_labels(&labels),
            termination_drain,
            secret_ttl: env.parse("SECRET_TTL", "a duration such as 24h0m0s", seconds)?.unwrap_or(Duration::from_secs(24 * 3600)),
            secret_grace: env.parse("SECRET_GRACE_PERIOD_RATIO", "a number from 0 to 1", ratio)?.unwrap_or(0.5),
            secret_grace_jitter: env.parse("SECRET_GRACE_PERIOD_RATIO_JITTER", "a number from 0 to 1", ratio)?.unwrap_or(0.01),
            pod_name,
            namespace,
            labels,
            workload,
            cluster_id,
            instance_ip,
        })
    }
}

/// Istio's `concurrency`: unset is 2, 0 is every core; never more than there are cores.
fn worker_count(configured: Option<u64>) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    match configured {
        Some(0) => cores,
        Some(n) => usize::try_from(n).unwrap_or(cores).min(cores.max(2)),
        None => 2,
    }
}

/// Node metadata: well-known keys, then every `ISTIO_META_<KEY>` and `ISTIO_METAJSON_<KEY>`.
fn node_metadata(
    environment: &Environment,
    labels: &BTreeMap<String, String>,
    account: &str,
    proxy_config: &Map<String, Value>,
) -> Map<String, Value> {
    let mut metadata = Map::new();
    for (key, variable) in [("NAME", "POD_NAME"), ("NAMESPACE", "POD_NAMESPACE"), ("INSTANCE_IPS", "INSTANCE_IP")] {
        if let Some(value) = environment.get(variable) {
            metadata.insert(key.to_owned(), json!(value));
        }
    }
    if let Some(ips) = environment.get("INSTANCE_IPS") {
        metadata.insert("INSTANCE_IPS".to_owned(), json!(ips));
    }
    metadata.insert("SERVICE_ACCOUNT".to_owned(), json!(account));
    metadata.insert("LABELS".to_owned(), json!(labels));
    metadata.insert("PROXY_CONFIG".to_owned(), Value::Object(proxy_config.clone()));
    metadata.insert("LATEEN_VERSION".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    for (name, value) in environment {
        if let Some(key) = name.strip_prefix("ISTIO_METAJSON_") {
            if let Ok(value) = serde_json::from_str(value) {
                metadata.insert(key.to_owned(), value);
            }
        } else if let Some(key) = name.strip_prefix("ISTIO_META_") {
            metadata.insert(key.to_owned(), json!(value));
        }
    }
    // The injector writes these two as JSON inside a string.
    for key in ["POD_PORTS"] {
        if let Some(Value::String(text)) = metadata.get(key)
            && let Ok(value) = serde_json::from_str::<Value>(text)
        {
            metadata.insert(key.to_owned(), value);
        }
    }
    metadata
}

/// Reads the downward API's form, one `key="value"` a line. A missing file is no labels.
fn read_labels(path: &Path) -> Result<BTreeMap<String, String>, BootstrapError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(parse_labels(&text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(source) => Err(BootstrapError::File { path: path.to_owned(), source }),
    }
}

fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let parse = |line: &str| {
        let (key, quoted) = line.split_once('=')?;
        let value = serde_json::from_str::<String>(quoted).unwrap_or_else(|_| quoted.trim_matches('"').to_owned());
        Some((key.trim().to_owned(), value))
    };
    text.lines().filter_map(parse).collect()
}

/// Durations as Go writes them: `1.5s`, `24h0m0s`, `100ms`.
pub(crate) fn parse_go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let seconds = match &tail[..unit_len] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &tail[unit_len..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(extra: &[(&str, &str)]) -> Environment {
        [("POD_NAME", "a-1"), ("POD_NAMESPACE", "prod"), ("INSTANCE_IP", "10.1.0.4"), ("SERVICE_ACCOUNT", "a-sa")]
            .iter()
            .chain(extra)
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn settings(extra: &[(&str, &str)]) -> Result<Settings, BootstrapError> {
        Settings::from_environment(Role::Sidecar, &environment(extra), Path::new("/nonexistent/labels"))
    }

    #[test]
    fn a_node_as_istio_names_it() {
        let s = settings(&[("ISTIO_META_CLUSTER_ID", "c1"), ("ISTIO_META_POD_PORTS", "[{\"containerPort\":80}]")]).unwrap();
        assert_eq!(s.node_id, "sidecar~10.1.0.4~a-1.prod~prod.svc.cluster.local");
        assert_eq!(s.identity.as_uri(), "spiffe://cluster.local/ns/prod/sa/a-sa");
        assert_eq!(s.metadata["CLUSTER_ID"], "c1");
        assert_eq!(s.metadata["POD_PORTS"][0]["containerPort"], 80);
        assert_eq!(s.concurrency, 2);
    }

    #[test]
    fn an_automatic_scope_is_for_large_meshes_unless_something_else_is_said() {
        let above = |value| settings(&[("LATEEN_AUTOMATIC_SCOPE", value)]).map(|s| s.automatic_scope.above);
        assert_eq!(settings(&[]).unwrap().automatic_scope.above, Some(AUTOMATIC_SCOPE_ABOVE));
        assert_eq!(above("true").unwrap(), Some(0));
        assert_eq!(above("false").unwrap(), None);
        assert_eq!(above("2000").unwrap(), Some(2000));
        let error = above("yes").unwrap_err().to_string();
        assert!(error.contains("LATEEN_AUTOMATIC_SCOPE") && error.contains("a number of services"), "{error}");
        let gateway = Settings::from_environment(Role::Gateway, &environment(&[]), Path::new("/nonexistent")).unwrap();
        assert_eq!(gateway.automatic_scope.above, None, "it serves everybody");
    }

    #[test]
    fn errors_name_the_variable() {
        let mut env = environment(&[]);
        env.remove("POD_NAME");
        let error = Settings::from_environment(Role::Sidecar, &env, Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains("POD_NAME"), "{error}");
        let error = settings(&[("SECRET_GRACE_PERIOD_RATIO", "2")]).unwrap_err();
        assert!(error.to_string().contains("SECRET_GRACE_PERIOD_RATIO=\"2\": a number from 0 to 1"), "{error}");
        assert!(settings(&[("TRUST_DOMAIN", "Not A Domain")]).is_err());
    }

    #[test]
    fn downward_labels_and_go_durations() {
        let labels = parse_labels("app=\"order\"\nversion=\"v\\\"1\"\n\n");
        assert_eq!(labels["app"], "order");
        assert_eq!(labels["version"], "v\"1");
        for (text, expected) in
            [("24h0m0s", Some(86_400_000)), ("1.5s", Some(1500)), ("100ms", Some(100)), ("5", None), ("", None), ("1d", None)]
        {
            assert_eq!(parse_go_duration(text), expected.map(Duration::from_millis), "{text}");
        }
    }
}
