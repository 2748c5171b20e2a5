//! Which ports of gateways are reachable from this machine, and the way there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lateen_model::resource::gateway_api::{AddressType, GATEWAY_NAME_LABEL, KubeGateway, ListenerProtocol};
use lateen_model::resource::{IntOrString, ServerProtocol, Service, is_subset};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::host_ports::{HostPorts, preferred};
use crate::mesh::Mesh;
use crate::pod::Pod;
use crate::report::Kind;
use crate::resources::Resources;

/// How long a connection to a gateway's pod may take.
const CONNECT: Duration = Duration::from_secs(5);

/// One port of a gateway, as it is reached from this machine.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct GatewayPort {
    /// The gateway's namespace.
    pub namespace: String,
    /// The name of its workload (a Deployment, or a pod).
    pub workload: String,
    /// Its port, as its Gateways have it.
    pub port: u16,
    /// Where it is reached: `http://127.0.0.1:8080`, `https://…`, or `tcp://…`.
    pub url: String,
}

impl std::fmt::Display for GatewayPort {
    /// `http://127.0.0.1:8080 → gateway NAMESPACE/WORKLOAD:80`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} → gateway {}/{}:{}", self.url, self.namespace, self.workload, self.port)
    }
}

/// What a port belongs to: namespace, workload and the written port.
type Key = (String, String, u16);

/// A port that is open.
struct Open {
    shown: GatewayPort,
    accepting: AbortHandle,
}

/// The ports that are open.
#[derive(Default)]
pub(crate) struct GatewayPorts(Mutex<BTreeMap<Key, Open>>);

impl std::fmt::Debug for GatewayPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.shown()).finish()
    }
}

impl GatewayPorts {
    /// All of them, by gateway and port.
    pub(crate) fn shown(&self) -> Vec<GatewayPort> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().map(|open| open.shown.clone()).collect()
    }
}

/// Opens and closes ports as gateways and their Gateways come and go, until the mesh stops.
pub(crate) async fn follow(mesh: Arc<Mesh>, host: HostPorts) {
    let host = Arc::new(host);
    let mut changes = mesh.changes();
    loop {
        let wanted = wanted(&mesh.resources(), &mesh.pods());
        close_others(&mesh, &wanted);
        for (key, protocol) in wanted {
            let known = mesh.gateway_ports.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&key);
            if !known {
                open(&mesh, &host, key, protocol).await;
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = mesh.stopping() => return close_others(&mesh, &BTreeMap::new()),
        }
    }
}

fn close_others(mesh: &Mesh, wanted: &BTreeMap<Key, ServerProtocol>) {
    mesh.gateway_ports.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, open| {
        let keep = wanted.contains_key(key);
        if !keep {
            open.accepting.abort();
        }
        keep
    });
}

/// The ports that the Gateways of each gateway's pods have.
fn wanted(resources: &Resources, pods: &[Arc<Pod>]) -> BTreeMap<Key, ServerProtocol> {
    let mut out = BTreeMap::new();
    for pod in pods.iter().filter(|p| p.identity.gateway && !p.is_stopping()) {
        let fields = &pod.identity.fields;
        for gateway in resources.gateways().filter(|g| is_subset(&g.spec.selector, &fields.labels)) {
            let ports = gateway.spec.servers.iter().filter_map(|s| s.port.as_ref());
            for (number, protocol) in ports.filter_map(|p| Some((p.number()?, p.protocol()?))) {
                let key = (fields.namespace.clone(), pod.identity.workload.name.clone(), number);
                out.entry(key).or_insert(protocol);
            }
        }
        for gateway in resources.kube_gateways().filter(|g| is_of(resources, pod, g)) {
            for (number, protocol) in gateway.spec.listeners.iter().filter_map(|l| Some((l.port()?, l.protocol()?))) {
                let key = (fields.namespace.clone(), pod.identity.workload.name.clone(), number);
                out.entry(key).or_insert(server_protocol(protocol));
            }
        }
    }
    out
}

/// Whether a pod is a proxy of a Gateway of the Gateway API: of its own ones, or behind the Service that it names.
fn is_of(resources: &Resources, pod: &Pod, gateway: &KubeGateway) -> bool {
    let (fields, meta) = (&pod.identity.fields, &gateway.metadata);
    if fields.namespace != meta.namespace {
        return false;
    }
    let named = gateway.spec.addresses.iter().find(|a| a.type_ == AddressType::Hostname).and_then(|a| a.value.as_deref());
    match named {
        None => fields.labels.get(GATEWAY_NAME_LABEL) == Some(&meta.name),
        Some(host) => {
            let service = resources.service(&meta.namespace, host.split('.').next().unwrap_or(host));
            service.is_some_and(|s| !s.spec.selector.is_empty() && is_subset(&s.spec.selector, &fields.labels))
        }
    }
}

fn server_protocol(protocol: ListenerProtocol) -> ServerProtocol {
    match protocol {
        ListenerProtocol::Http => ServerProtocol::Http,
        ListenerProtocol::Https => ServerProtocol::Https,
        ListenerProtocol::Tls => ServerProtocol::Tls,
        ListenerProtocol::Tcp => ServerProtocol::Tcp,
    }
}

async fn open(mesh: &Arc<Mesh>, host: &Arc<HostPorts>, key: Key, protocol: ServerProtocol) {
    let (asked, port) = (host.clone(), preferred(key.2));
    let opened = tokio::task::spawn_blocking(move || asked.open(port)).await;
    let listener = opened.map_err(std::io::Error::other).flatten().and_then(|l| {
        l.set_nonblocking(true)?;
        TcpListener::from_std(l)
    });
    let listening = listener.and_then(|l| Ok((l.local_addr()?, l)));
    let (address, listener) = match listening {
        Ok(opened) => opened,
        Err(e) => {
            let text = format!("gateway {}/{}: port {} cannot be reached from this machine: {e}", key.0, key.1, key.2);
            return mesh.report.say(Kind::Problem, &text);
        }
    };
    let scheme = match protocol {
        ServerProtocol::Http => "http",
        ServerProtocol::Https => "https",
        ServerProtocol::Tls => "tls",
        ServerProtocol::Tcp => "tcp",
    };
    let url = format!("{scheme}://{address}");
    let shown = GatewayPort { namespace: key.0.clone(), workload: key.1.clone(), port: key.2, url };
    mesh.report.say(Kind::Done, &shown.to_string());
    let accepting = tokio::spawn(accept(mesh.clone(), listener, key.clone())).abort_handle();
    mesh.gateway_ports.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Open { shown, accepting });
}

async fn accept(mesh: Arc<Mesh>, listener: TcpListener, key: Key) {
    let turn = Arc::new(AtomicUsize::new(0));
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(carry(mesh.clone(), client, key.clone(), turn.clone()));
            }
            // Out of descriptors, or a client that has left: neither may end this port.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Carries one connection to a ready pod of the gateway, one after the other; without one it is closed.
async fn carry(mesh: Arc<Mesh>, mut client: TcpStream, key: Key, turn: Arc<AtomicUsize>) {
    let targets = targets(&mesh.resources(), &mesh.pods(), &key);
    if targets.is_empty() {
        return;
    }
    let target = targets[turn.fetch_add(1, Ordering::Relaxed) % targets.len()];
    let Ok(Ok(mut server)) = tokio::time::timeout(CONNECT, TcpStream::connect(target)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

fn targets(resources: &Resources, pods: &[Arc<Pod>], (namespace, workload, port): &Key) -> Vec<SocketAddr> {
    let ours = pods.iter().filter(|p| {
        let id = &p.identity;
        id.gateway && id.fields.namespace == *namespace && id.workload.name == *workload && p.ready()
    });
    ours.map(|pod| SocketAddr::new(pod.ip(), own_port(resources, pod, *port))).collect()
}

/// The pod's port behind a port of the Service in front of it; without one it is the same.
fn own_port(resources: &Resources, pod: &Pod, number: u16) -> u16 {
    let fields = &pod.identity.fields;
    let selects = |s: &&Service| {
        s.metadata.namespace == fields.namespace && !s.spec.selector.is_empty() && is_subset(&s.spec.selector, &fields.labels)
    };
    let ports = resources.services().filter(selects).flat_map(|s| &s.spec.ports);
    let target = ports.filter(|p| p.port == i64::from(number)).find_map(|p| match &p.target_port {
        None => Some(number),
        Some(IntOrString::Int(n)) => u16::try_from(*n).ok(),
        Some(IntOrString::String(name)) => pod.container_ports().find(|c| c.name == *name).map(|c| c.port),
    });
    target.unwrap_or(number)
}
