//! The sidecar of an injected pod: its rules, files, environment, and its life beside the containers.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Method, Response};
use lateen_capture::rules::{CaptureConfig, DnsCapture, ProxyTraffic, parse_interfaces, parse_ports, parse_ranges};
use lateen_tls::{PodReference, ServiceAccount, TokenRequest};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::container::{self, Backoff, PROXY_DIR, common_mounts, hidden, log_file};
use crate::dns::CONTROL_HOST;
use crate::environment::variables;
use crate::init::{Mount, Place, Role, Spec};
use crate::mesh::Mesh;
use crate::pod::Pod;
use crate::probe::connect;
use crate::proxy_config::{Effective, effective};
use crate::report::Kind;
use crate::spawn::{Process, Stdio};
use crate::unix_http::{Call, over_stream};
use crate::volumes;

/// The mark on the sockets of sidecars. On one machine all processes have one user, so Istio's user id cannot tell them.
pub(crate) const MARK: u32 = 1337;
/// Life of the tokens: Istio's projected tokens' (`expirationSeconds`).
const TOKEN_LIFE: Duration = Duration::from_secs(43_200);
/// Istio's setting of whether the sidecar answers DNS.
const DNS_CAPTURE: &str = "ISTIO_META_DNS_CAPTURE";
const ADMIN_PORT: u16 = 15000;
const READY_PORT: u16 = 15021;

/// How long a sidecar has for draining (`ProxyConfig.terminationDrainDuration`).
fn drain_time(mesh: &Mesh, pod: &Pod) -> Duration {
    effective(&mesh.resources(), &pod.identity.fields).map_or(Duration::from_secs(5), |config| config.drain)
}

/// The capture that the pod's annotations ask for.
pub(crate) fn capture(pod: &Pod, dns_capture: bool) -> Result<CaptureConfig, String> {
    let annotations = &pod.identity.fields.annotations;
    let get = |name: &str| annotations.get(name).map(String::as_str);
    let traffic = |name: &str| get(&format!("traffic.sidecar.istio.io/{name}"));
    let mut config = CaptureConfig { proxy: ProxyTraffic::Mark(MARK), ..CaptureConfig::default() };
    let wrong = |e: lateen_capture::rules::ConfigError| format!("annotation: {e}");
    if let Some(mode) = get("sidecar.istio.io/interceptionMode") {
        config.mode = mode.parse().map_err(wrong)?;
    }
    if let Some(v) = traffic("includeInboundPorts") {
        config.inbound_ports = v.parse().map_err(wrong)?;
    }
    if let Some(v) = traffic("excludeInboundPorts") {
        // The sidecar's own ports are excluded whatever people write, or its readiness could not be asked.
        config.exclude_inbound_ports.extend(parse_ports(v).map_err(wrong)?);
    }
    if let Some(v) = traffic("includeOutboundIPRanges") {
        config.outbound_ranges = v.parse().map_err(wrong)?;
    }
    if let Some(v) = traffic("excludeOutboundIPRanges") {
        config.exclude_outbound_ranges = parse_ranges(v).map_err(wrong)?;
    }
    if let Some(v) = traffic("includeOutboundPorts") {
        config.outbound_ports = parse_ports(v).map_err(wrong)?;
    }
    if let Some(v) = traffic("excludeOutboundPorts") {
        config.exclude_outbound_ports = parse_ports(v).map_err(wrong)?;
    }
    if let Some(v) = traffic("excludeInterfaces") {
        config.exclude_interfaces = parse_interfaces(v).map_err(wrong)?;
    }
    let virtual_interfaces = get("istio.io/reroute-virtual-interfaces").or_else(|| traffic("kubevirtInterfaces"));
    if let Some(v) = virtual_interfaces {
        config.reroute_interfaces = parse_interfaces(v).map_err(wrong)?;
    }
    config.dns = if dns_capture { DnsCapture::All } else { DnsCapture::Off };
    Ok(config)
}

/// Writes the sidecar's token, roots and labels.
pub(crate) fn write_files(mesh: &Mesh, pod: &Pod) -> io::Result<()> {
    let dir = pod.identity.dir.join("proxy");
    std::fs::create_dir_all(&dir)?;
    write_token(mesh, pod)?;
    // There from the first start of the control plane on (`until_roots`).
    let roots = std::fs::read(mesh.dir.root_cert())?;
    volumes::write_atomically(&dir.join("root-cert.pem"), &roots, 0o644)
}

/// Waits until the control plane has written its root certificate, at its first start.
pub(crate) async fn until_roots(mesh: &Mesh) {
    while !mesh.dir.root_cert().exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn write_token(mesh: &Mesh, pod: &Pod) -> io::Result<()> {
    let f = &pod.identity.fields;
    let request = TokenRequest {
        service_account: ServiceAccount { namespace: f.namespace.clone(), name: f.service_account.clone() },
        pod: Some(PodReference { name: f.name.clone(), uid: f.uid.clone() }),
        audiences: vec!["istio-ca".to_owned()],
        lifetime: TOKEN_LIFE,
    };
    let token = mesh.tokens.issue(&request, SystemTime::now()).map_err(io::Error::other)?;
    volumes::write_atomically(&pod.identity.dir.join("proxy").join("istio-token"), token.as_bytes(), 0o600)
}

/// Whether the sidecar answers its application's DNS questions: unless it is told not to (`ISTIO_META_DNS_CAPTURE`).
pub(crate) fn answers_dns(mesh: &Mesh, pod: &Pod) -> bool {
    let config = effective(&mesh.resources(), &pod.identity.fields);
    !pod.identity.gateway && config.is_ok_and(|config| wants_dns(&config))
}

fn wants_dns(config: &Effective) -> bool {
    config.metadata.get(DNS_CAPTURE).is_none_or(|v| v == "true")
}

fn spec(mesh: &Mesh, pod: &Pod) -> Result<Spec, String> {
    let id = &pod.identity;
    let f = &id.fields;
    let mut vars = container::base_variables(mesh);
    for (name, value) in &mesh.proxy_environment {
        vars.set(name, value);
    }
    if let Some(own) = &id.proxy_container {
        vars = variables(own, f, &mesh.resources(), vars).map_err(|e| e.to_string())?;
    }
    let ports: Vec<_> = id
        .spec
        .containers
        .iter()
        .chain(&id.proxy_container)
        .flat_map(|c| &c.ports)
        .map(|p| json!({"name": p.name, "containerPort": p.container_port, "protocol": p.protocol}))
        .collect();
    let apps: Vec<&str> = id.spec.containers.iter().map(|c| c.name.as_str()).collect();
    let (api, kind) = match id.workload.kind.as_str() {
        "Pod" => ("v1", "pods"),
        "StatefulSet" => ("apps/v1", "statefulsets"),
        _ => ("apps/v1", "deployments"),
    };
    let owner = format!("kubernetes://apis/{api}/namespaces/{}/{kind}/{}", f.namespace, id.workload.name);
    let mode = f.annotations.get("sidecar.istio.io/interceptionMode").map_or("REDIRECT", String::as_str);
    let control = format!("{CONTROL_HOST}:15012");
    let roots = format!("{PROXY_DIR}/root-cert.pem");
    let mut config = effective(&mesh.resources(), f)?;
    config.fields.insert("discoveryAddress".to_owned(), json!(control));
    let wants_dns = !id.gateway && wants_dns(&config);
    for (name, value) in &config.metadata {
        vars.set(name, value);
    }
    vars.set(DNS_CAPTURE, wants_dns.to_string());
    for (name, value) in [
        ("POD_NAME", f.name.clone()),
        ("POD_NAMESPACE", f.namespace.clone()),
        ("INSTANCE_IP", pod.ip().to_string()),
        ("SERVICE_ACCOUNT", f.service_account.clone()),
        ("HOST_IP", f.node_ip.to_string()),
        ("TRUST_DOMAIN", config.trust_domain),
        ("PILOT_CERT_PROVIDER", "istiod".to_owned()),
        ("CA_ADDR", control),
        ("CA_ROOT_CA", roots.clone()),
        ("XDS_ROOT_CA", roots),
        ("LATEEN_TOKEN_PATH", format!("{PROXY_DIR}/istio-token")),
        ("LATEEN_PROXY_MARK", MARK.to_string()),
        ("PROXY_CONFIG", json!(config.fields).to_string()),
        ("ISTIO_META_CLUSTER_ID", "Kubernetes".to_owned()),
        ("ISTIO_META_NODE_NAME", f.node_name.clone()),
        ("ISTIO_META_INTERCEPTION_MODE", mode.to_owned()),
        ("ISTIO_META_WORKLOAD_NAME", id.workload.name.clone()),
        ("ISTIO_META_OWNER", owner),
        ("ISTIO_META_MESH_ID", config.mesh_id),
        ("ISTIO_META_POD_PORTS", json!(ports).to_string()),
        ("ISTIO_META_APP_CONTAINERS", apps.join(",")),
    ] {
        vars.set(name, value);
    }
    if pod.state().capture.as_ref().is_some_and(|capture| capture.accelerated) {
        vars.set("LATEEN_ACCELERATED", "true".to_owned());
    }
    let mut mounts = common_mounts(pod);
    let mount =
        |source: &str, target: &str| Mount { source: id.dir.join(source), target: PathBuf::from(target), read_only: true };
    mounts.push(mount("podinfo", "/etc/istio/pod"));
    mounts.push(mount("proxy", PROXY_DIR));
    Ok(Spec {
        place: Place::Own { host_name: container::host_name(pod), mounts, hidden: hidden(mesh), contained: false },
        network: true,
        role: Role::Proxy,
        command: mesh.engine.command(id.gateway),
        environment: vars.into_pairs(),
        working_dir: None,
        terminal: false,
    })
}

fn log_name(pod: &Pod) -> String {
    format!("{}_{}_istio-proxy", pod.identity.fields.namespace, pod.identity.fields.name)
}

/// Keeps the sidecar running, until the pod ends and [`stop`] has ended it.
pub(crate) async fn keep(mesh: Arc<Mesh>, pod: Arc<Pod>) {
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    let mut first = true;
    loop {
        let start = Instant::now();
        if !first {
            // A token could have run out meanwhile.
            if let Err(e) = write_token(&mesh, &pod) {
                pod.note(&mesh, &format!("sidecar: token: {e}"));
            }
        }
        first = false;
        match spawn(&mesh, &pod).await {
            Ok(process) => {
                let mut late = false;
                pod.change(&mesh, |s| {
                    late = s.proxy_ending;
                    s.proxy = Some(process.clone());
                });
                if late {
                    // Whoever stops the pod has not seen it.
                    process.signal(Signal::SIGKILL);
                }
                let code = tokio::select! {
                    code = process.ended() => code,
                    () = follow(&mesh, &pod) => continue,
                };
                pod.change(&mesh, |s| {
                    s.proxy = None;
                    s.proxy_ready = false;
                });
                if pod.is_stopping() {
                    return;
                }
                let path = mesh.log_path(&log_name(&pod));
                let tail = container::tail(&path, 0, 5);
                let text = format!(
                    "sidecar ended with status {} ({}), starting it again; its last lines:\n{tail}",
                    code.code(),
                    path.display()
                );
                mesh.report.say(Kind::Problem, &format!("pod {}: {text}", pod.key()));
            }
            Err(e) => pod.note(&mesh, &format!("sidecar: {e}")),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.after(start.elapsed())) => {}
            () = pod.stopping() => return,
        }
    }
}

async fn spawn(mesh: &Mesh, pod: &Pod) -> Result<Process, String> {
    let network = pod.network().ok_or("the pod has no network")?;
    let log = log_file(mesh, &log_name(pod)).map_err(|e| format!("log: {e}"))?;
    mesh.spawner.spawn(&spec(mesh, pod)?, Some(&network), Stdio::Log(&log)).await.map_err(|e| e.to_string())
}

/// Follows the readiness of a running sidecar and renews its token; never returns.
async fn follow(mesh: &Mesh, pod: &Pod) {
    const FAST: Duration = Duration::from_millis(50);
    const SLOW: Duration = Duration::from_secs(1);
    /// Failures in a row before a sidecar that was ready no longer is (Istio's `failureThreshold`).
    const PATIENCE: u32 = 4;
    let mut failures = 0;
    let mut token_written = Instant::now();
    loop {
        let was = pod.state().proxy_ready;
        let is = is_ready(pod).await;
        failures = if is { 0 } else { failures + 1 };
        if is != was && (is || failures >= PATIENCE) {
            pod.change(mesh, |s| s.proxy_ready = is);
        }
        if token_written.elapsed() > TOKEN_LIFE / 2 && write_token(mesh, pod).is_ok() {
            token_written = Instant::now();
        }
        tokio::time::sleep(if pod.state().proxy_ready { SLOW } else { FAST }).await;
    }
}

async fn is_ready(pod: &Pod) -> bool {
    let call = Call { timeout: Duration::from_secs(3), ..Call::get("/healthz/ready") };
    request(pod, pod.ip(), READY_PORT, call).await.is_ok_and(|r| r.status().is_success())
}

/// Waits until the sidecar has its configuration.
pub(crate) async fn until_ready(mesh: &Mesh, pod: &Pod) {
    let mut changes = mesh.changes();
    while !pod.state().proxy_ready {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// A request to the sidecar's admin interface, from inside the pod.
pub(crate) async fn admin(pod: &Pod, method: Method, path: &str) -> io::Result<Response<Bytes>> {
    let call = Call { method, path, body: Vec::new(), timeout: Duration::from_secs(10) };
    request(pod, [127, 0, 0, 1].into(), ADMIN_PORT, call).await
}

async fn request(pod: &Pod, ip: std::net::IpAddr, port: u16, call: Call<'_>) -> io::Result<Response<Bytes>> {
    let network = pod.network().ok_or_else(|| io::Error::other("the pod has no network"))?;
    let limit = call.timeout;
    let address = std::net::SocketAddr::new(ip, port);
    let stream = tokio::time::timeout(limit, connect(address, &network)).await.map_err(|_| io::ErrorKind::TimedOut)?;
    over_stream(stream.map_err(io::Error::other)?, &address.to_string(), call).await
}

/// How long nothing may have come before a sidecar's clients count as gone: a request that was sent just before they learnt that
/// the pod leaves is still on its way.
const QUIET: Duration = Duration::from_secs(1);

/// Asks the sidecar to send its clients away, and waits until none is left or its time is over.
pub(crate) async fn drain(mesh: &Mesh, pod: &Pod) {
    if pod.state().proxy.is_none() {
        return;
    }
    if let Err(e) = admin(pod, Method::POST, "/drain_listeners?inboundonly&graceful").await {
        pod.note(mesh, &format!("sidecar: cannot drain: {e}"));
        return;
    }
    let deadline = Instant::now() + drain_time(mesh, pod);
    let (mut quiet_since, mut came) = (Instant::now(), 0);
    while Instant::now() < deadline {
        // One that does not say is another proxy, or has ended.
        let Some(work) = work(pod).await else { return };
        if work.active + work.opening > 0 || work.late != came {
            (quiet_since, came) = (Instant::now(), work.late);
        } else if quiet_since.elapsed() >= QUIET {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// What a sidecar has to do, as it counts it itself.
#[derive(serde::Deserialize)]
struct Work {
    /// Requests and TCP connections in flight.
    active: u32,
    /// Connections whose first request has not come.
    opening: u32,
    /// What has come since it drains.
    late: u32,
}

async fn work(pod: &Pod) -> Option<Work> {
    let answer = admin(pod, Method::GET, "/server_info").await.ok()?;
    serde_json::from_slice(answer.body()).ok()
}

/// Ends the sidecar, after its containers have ended.
pub(crate) async fn stop(mesh: &Mesh, pod: &Pod) {
    let mut process = None;
    pod.change(mesh, |s| {
        s.proxy_ending = true;
        process = s.proxy.clone();
    });
    if let Some(process) = process {
        process.stop(Signal::SIGTERM, drain_time(mesh, pod) + Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::tests::pod_with_annotations;
    use lateen_capture::rules::RuleSet;

    fn rules(annotations: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let set = RuleSet::plan(&capture(&pod_with_annotations(annotations), false)?);
        Ok(set.tables().iter().flat_map(|t| &t.chains).flat_map(|c| c.rules.iter().map(ToString::to_string)).collect())
    }

    #[test]
    fn annotations_shape_the_rules() {
        let plain = rules(&[]).unwrap();
        assert!(plain.contains(&"meta mark 1337 return".to_owned()));
        let edited = rules(&[
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "3306"),
            ("traffic.sidecar.istio.io/excludeInboundPorts", "9000"),
            ("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.96.0.0/16"),
        ])
        .unwrap();
        for rule in ["tcp dport 3306 return", "tcp dport 9000 return", "tcp dport 15021 return"] {
            assert!(edited.contains(&rule.to_owned()), "{rule}");
        }
        assert!(edited.contains(&"ip daddr 10.96.0.0/16 jump istio-redirect".to_owned()));
        let with_dns = RuleSet::plan(&capture(&pod_with_annotations(&[]), true).unwrap());
        let redirects = |c: &lateen_capture::nft::Chain| c.rules.iter().any(|r| r.to_string().contains("redirect to :15053"));
        assert!(with_dns.tables().iter().flat_map(|t| &t.chains).any(redirects), "{with_dns:?}");
        assert!(rules(&[("sidecar.istio.io/interceptionMode", "NONE")]).unwrap().is_empty());
        assert!(rules(&[("sidecar.istio.io/interceptionMode", "TPROXY")]).unwrap_err().contains("not supported"));
        assert!(rules(&[("traffic.sidecar.istio.io/excludeOutboundPorts", "all")]).is_err());
    }
}
