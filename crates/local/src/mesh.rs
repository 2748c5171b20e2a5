//! The running mesh: what all its tasks share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lateen_model::resource::{ClusterState, PodRecord};
use lateen_tls::TokenIssuer;
use tokio::sync::watch;

use crate::capturing::Capturing;
use crate::control::Control;
use crate::engine::Engine;
use crate::gateways::GatewayPorts;
use crate::ipam::{Network, PodPool, ServicePool};
use crate::pod::Pod;
use crate::report::Report;
use crate::resources::Resources;
use crate::spawn::Spawner;
use crate::state_dir::StateDir;

/// The name of the one node.
pub(crate) const NODE: &str = "lateen";

/// What all tasks of a mesh share.
pub(crate) struct Mesh {
    pub(crate) dir: StateDir,
    pub(crate) logs: PathBuf,
    pub(crate) network: Network,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) tokens: TokenIssuer,
    pub(crate) report: Report,
    pub(crate) control: Control,
    /// What runs as sidecar.
    pub(crate) engine: Engine,
    /// How traffic is captured.
    pub(crate) capturing: Capturing,
    /// Ports of gateways that are open on this machine.
    pub(crate) gateway_ports: GatewayPorts,
    /// Variables that every process gets.
    pub(crate) base_environment: Vec<(String, String)>,
    /// Variables that sidecars get in addition.
    pub(crate) proxy_environment: Vec<(String, String)>,
    resources: watch::Sender<Arc<Resources>>,
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
    /// Rises with everything that happens to a pod, or to the resources.
    version: watch::Sender<u64>,
    /// The version that DNS, service addresses and the control plane know.
    published: watch::Sender<u64>,
    stopping: watch::Sender<bool>,
    pub(crate) pod_pool: Mutex<PodPool>,
    pub(crate) service_pool: Mutex<ServicePool>,
}

/// What a mesh is made of.
pub(crate) struct Parts {
    pub(crate) dir: StateDir,
    pub(crate) logs: PathBuf,
    pub(crate) network: Network,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) tokens: TokenIssuer,
    pub(crate) report: Report,
    pub(crate) engine: Engine,
    pub(crate) capturing: Capturing,
    pub(crate) base_environment: Vec<(String, String)>,
    pub(crate) proxy_environment: Vec<(String, String)>,
}

impl Mesh {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let network = parts.network;
        Arc::new(Self {
            control: Control::new(parts.dir.control_socket()),
            dir: parts.dir,
            logs: parts.logs,
            network,
            spawner: parts.spawner,
            tokens: parts.tokens,
            report: parts.report,
            engine: parts.engine,
            capturing: parts.capturing,
            gateway_ports: GatewayPorts::default(),
            base_environment: parts.base_environment,
            proxy_environment: parts.proxy_environment,
            resources: watch::Sender::new(Arc::default()),
            pods: Mutex::default(),
            version: watch::Sender::new(1),
            published: watch::Sender::new(0),
            stopping: watch::Sender::new(false),
            pod_pool: Mutex::new(PodPool::new(network)),
            service_pool: Mutex::new(ServicePool::new(network)),
        })
    }

    /// Where a log of a name is.
    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// The resources in force.
    pub(crate) fn resources(&self) -> Arc<Resources> {
        self.resources.borrow().clone()
    }

    pub(crate) fn set_resources(&self, resources: Resources) {
        self.resources.send_replace(Arc::new(resources));
        self.touch();
    }

    /// Tells every task that something has changed; returns the version that holds the change.
    pub(crate) fn touch(&self) -> u64 {
        let mut version = 0;
        self.version.send_modify(|v| {
            *v += 1;
            version = *v;
        });
        version
    }

    /// Follows changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Every pod, by namespace and name.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Adds a pod, unless there is one of its name.
    pub(crate) fn add(&self, pod: Arc<Pod>) -> bool {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let key = pod.key();
        if pods.contains_key(&key) {
            return false;
        }
        pods.insert(key, pod);
        drop(pods);
        self.touch();
        true
    }

    /// Removes a pod of which nothing is left.
    pub(crate) fn forget(&self, pod: &Pod) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(&pod.key());
        self.pod_pool.lock().unwrap_or_else(PoisonError::into_inner).give_back(pod.identity.addresses);
        self.touch();
    }

    /// What the control plane is told at a version.
    pub(crate) fn cluster_state(&self, generation: u64) -> ClusterState {
        let pods: Vec<PodRecord> = self.pods().iter().map(|p| p.record(NODE)).collect();
        let cluster_ips = self.service_pool.lock().unwrap_or_else(PoisonError::into_inner).given().clone();
        ClusterState { pods, cluster_ips, generation }
    }

    pub(crate) fn set_published(&self, version: u64) {
        self.published.send_replace(version);
    }

    /// Waits until a version is known everywhere: in DNS, in service addresses, in the control plane, and in every sidecar
    /// that is connected to it. Gives up after a while, for a control plane that is down must not hold pods back.
    pub(crate) async fn wait_until_known(&self, version: u64) {
        const PATIENCE: Duration = Duration::from_secs(5);
        let known = async {
            let mut published = self.published.subscribe();
            if published.wait_for(|p| *p >= version).await.is_ok() {
                let generation = *published.borrow();
                self.control.propagated(generation).await;
            }
        };
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            _ = tokio::time::timeout(PATIENCE, known) => {}
            _ = stopping.wait_for(|s| *s) => {}
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Asks the whole mesh to end.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
        for pod in self.pods() {
            pod.stop();
        }
    }

    /// Waits until the mesh is asked to end.
    pub(crate) async fn stopping(&self) {
        let _ = self.stopping.subscribe().wait_for(|s| *s).await;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::environment::PodFields;
    use crate::pod::Identity;
    use lateen_model::resource::{PodSpec, StringMap, WorkloadRef};

    /// A pod that is not started.
    pub(crate) fn pod_with_annotations(annotations: &[(&str, &str)]) -> Arc<Pod> {
        let mut pool = PodPool::new(Network::default());
        let addresses = pool.take().unwrap();
        Pod::new(Identity {
            fields: PodFields {
                name: "p".to_owned(),
                namespace: "n".to_owned(),
                uid: "u".to_owned(),
                labels: StringMap::new(),
                annotations: annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                service_account: "default".to_owned(),
                ips: Network::default().ips(addresses),
                node_name: NODE.to_owned(),
                node_ip: Network::default().node_ip(),
            },
            spec: Arc::new(PodSpec::default()),
            workload: WorkloadRef { kind: "Pod".to_owned(), name: "p".to_owned() },
            template: String::new(),
            serial: 1,
            injected: true,
            gateway: false,
            proxy_container: None,
            addresses,
            created: 0,
            dir: PathBuf::from("/nowhere"),
        })
    }
}
