//! A pod while it runs: what it is, what state it is in, and its life from start to end.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lateen_capture::link::PodAddresses;
use lateen_capture::netns::NetNs;
use lateen_capture::process::ExitCode;
use lateen_model::resource::{Container, PodPort, PodRecord, PodSpec, WorkloadRef};
use tokio::sync::watch;

use crate::capturing::{CaptureStatus, Held};
use crate::environment::PodFields;
use crate::mesh::Mesh;
use crate::report::Kind;
use crate::spawn::Process;
use crate::{container, sidecar, volumes};

/// What a pod is; fixed when it is made.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) fields: PodFields,
    pub(crate) spec: Arc<PodSpec>,
    pub(crate) workload: WorkloadRef,
    /// The hash of the template (or of the pod's own manifest) that it was made of.
    pub(crate) template: String,
    /// Order of creation in this mesh.
    pub(crate) serial: u64,
    pub(crate) injected: bool,
    /// Whether it is a gateway: its proxy has ports of its own, and nothing is captured.
    pub(crate) gateway: bool,
    /// What its manifest says of the proxy's container (`istio-proxy`, `image: auto`); not among the containers of `spec`.
    pub(crate) proxy_container: Option<Container>,
    pub(crate) addresses: PodAddresses,
    /// Milliseconds since the Unix epoch.
    pub(crate) created: u64,
    /// Its files.
    pub(crate) dir: PathBuf,
}

/// A pod that exists.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) identity: Identity,
    network: Mutex<Option<Arc<NetNs>>>,
    /// Captures the pod's traffic as long as it is held.
    captured: Mutex<Option<Held>>,
    state: Mutex<State>,
    stop: watch::Sender<bool>,
}

/// What changes while a pod lives.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) containers: Vec<ContainerState>,
    pub(crate) proxy: Option<Process>,
    /// How its traffic is captured, once it is.
    pub(crate) capture: Option<CaptureStatus>,
    pub(crate) proxy_ready: bool,
    pub(crate) terminating: bool,
    /// How many init containers have succeeded.
    pub(crate) initialized: usize,
    /// Whether an init container has failed and is not run again.
    pub(crate) init_failed: bool,
    /// Whether the containers are being stopped: one that starts now must stop by itself.
    pub(crate) ending: bool,
    /// The same of the sidecar.
    pub(crate) proxy_ending: bool,
    /// Since when it is ready without a break.
    pub(crate) ready_since: Option<Instant>,
    /// What it waits for, or what went wrong last.
    pub(crate) message: String,
}

/// The state of one container.
#[derive(Debug, Default, Clone)]
pub(crate) struct ContainerState {
    pub(crate) name: String,
    pub(crate) process: Option<Process>,
    pub(crate) ready: bool,
    pub(crate) restarts: u32,
    pub(crate) last_exit: Option<ExitCode>,
    /// Whether it has ended and is started again only after a while.
    pub(crate) waiting: bool,
    /// Whether it has ended and is not started again.
    pub(crate) finished: bool,
}

impl Pod {
    pub(crate) fn new(identity: Identity) -> Arc<Self> {
        let containers = identity.spec.containers.iter();
        let containers = containers.map(|c| ContainerState { name: c.name.clone(), ..ContainerState::default() }).collect();
        Arc::new(Self {
            identity,
            network: Mutex::new(None),
            captured: Mutex::new(None),
            state: Mutex::new(State { containers, ..State::default() }),
            stop: watch::Sender::new(false),
        })
    }

    /// `NAMESPACE/NAME`.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.identity.fields.namespace, self.identity.fields.name)
    }

    /// The primary address.
    pub(crate) fn ip(&self) -> IpAddr {
        IpAddr::V4(self.identity.addresses.v4)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and tells the mesh.
    pub(crate) fn change(&self, mesh: &Mesh, edit: impl FnOnce(&mut State)) -> u64 {
        {
            let mut state = self.state();
            edit(&mut state);
            let ready = self.is_ready(&state);
            match (ready, state.ready_since) {
                (true, None) => {
                    state.ready_since = Some(Instant::now());
                    state.message.clear();
                }
                (false, Some(_)) => state.ready_since = None,
                _ => {}
            }
        }
        mesh.touch()
    }

    /// Says once what the pod waits for or what went wrong.
    pub(crate) fn note(&self, mesh: &Mesh, message: &str) {
        if self.state().message != message {
            message.clone_into(&mut self.state().message);
            mesh.report.say(Kind::Problem, &format!("pod {}: {message}", self.key()));
        }
    }

    /// Whether all containers, and the sidecar if there is one, are ready.
    fn is_ready(&self, state: &State) -> bool {
        let some = !state.containers.is_empty() || self.identity.gateway;
        some && state.containers.iter().all(|c| c.ready) && (!self.identity.injected || state.proxy_ready)
    }

    /// Whether it is ready and stays.
    pub(crate) fn ready(&self) -> bool {
        let state = self.state();
        self.is_ready(&state) && !state.terminating
    }

    /// Whether its containers have all ended and are not started again (`restartPolicy`).
    pub(crate) fn finished(&self) -> bool {
        let state = self.state();
        state.init_failed || (!state.containers.is_empty() && state.containers.iter().all(|c| c.finished))
    }

    /// Where it is in its life, in the words of `kubectl get pods`.
    pub(crate) fn phase(&self) -> String {
        let has_network = self.network().is_some();
        let state = self.state();
        let spec = &self.identity.spec;
        let any = |test: fn(&ContainerState) -> bool| state.containers.iter().any(test);
        let begun = any(|c| c.process.is_some() || c.last_exit.is_some() || c.waiting);
        let fixed = if state.terminating {
            "Terminating"
        } else if !has_network {
            "Pending"
        } else if state.init_failed {
            "Init:Error"
        } else if !begun && self.identity.injected && !state.proxy_ready {
            "PodInitializing"
        } else if state.initialized < spec.init_containers.len() {
            return format!("Init:{}/{}", state.initialized, spec.init_containers.len());
        } else if state.containers.is_empty() && state.proxy.is_some() {
            "Running"
        } else if any(|c| c.waiting) {
            "CrashLoopBackOff"
        } else if !any(|c| !c.finished) {
            if any(|c| c.last_exit.is_some_and(|code| code.code() != 0)) { "Error" } else { "Completed" }
        } else if any(|c| !c.finished && c.process.is_none()) {
            "ContainerCreating"
        } else {
            "Running"
        };
        fixed.to_owned()
    }

    /// The pod's network namespace, once it exists.
    pub(crate) fn network(&self) -> Option<Arc<NetNs>> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the pod to end.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits until the pod is asked to end.
    pub(crate) async fn stopping(&self) {
        let mut stop = self.stop.subscribe();
        let _ = stop.wait_for(|s| *s).await;
    }

    /// The ports of its containers, that of the proxy included.
    pub(crate) fn container_ports(&self) -> impl Iterator<Item = PodPort> {
        let containers = self.identity.spec.containers.iter().chain(&self.identity.proxy_container);
        containers.flat_map(|c| &c.ports).filter_map(|p| {
            Some(PodPort { name: p.name.clone(), port: u16::try_from(p.container_port).ok()?, protocol: p.protocol })
        })
    }

    /// What the control plane is told.
    pub(crate) fn record(&self, node: &str) -> PodRecord {
        let state = self.state();
        let id = &self.identity;
        PodRecord {
            name: id.fields.name.clone(),
            namespace: id.fields.namespace.clone(),
            uid: id.fields.uid.clone(),
            hostname: id.spec.hostname.clone().unwrap_or_default(),
            subdomain: id.spec.subdomain.clone().unwrap_or_default(),
            ips: id.fields.ips.clone(),
            labels: id.fields.labels.clone(),
            annotations: id.fields.annotations.clone(),
            service_account: id.fields.service_account.clone(),
            workload: id.workload.clone(),
            node: node.to_owned(),
            ports: self.container_ports().collect(),
            // Clients speak plain text to gateways, unless they are told otherwise.
            injected: id.injected && !id.gateway,
            ready: self.is_ready(&state),
            terminating: state.terminating,
            created: id.created,
        }
    }

    /// Where the pod's volumes are.
    pub(crate) fn volumes_dir(&self) -> PathBuf {
        self.identity.dir.join("volumes")
    }
}

/// A pod's whole life. Returns when nothing of it is left.
pub(crate) async fn live(mesh: Arc<Mesh>, pod: Arc<Pod>) {
    if prepare(&mesh, &pod).await {
        let proxy = pod.identity.injected.then(|| tokio::spawn(sidecar::keep(mesh.clone(), pod.clone())));
        let containers = tokio::spawn(container::run_all(mesh.clone(), pod.clone()));
        pod.stopping().await;
        end(&mesh, &pod).await;
        // Both see that the pod is stopping and return when their processes have ended.
        let _ = containers.await;
        if let Some(proxy) = proxy {
            sidecar::stop(&mesh, &pod).await;
            let _ = proxy.await;
        }
    }
    *pod.captured.lock().unwrap_or_else(PoisonError::into_inner) = None;
    *pod.network.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let _ = std::fs::remove_dir_all(&pod.identity.dir);
    mesh.forget(&pod);
}

/// Makes the pod's network and files; false if it was asked to end meanwhile.
async fn prepare(mesh: &Arc<Mesh>, pod: &Arc<Pod>) -> bool {
    /// How often a pod looks whether what it waits for has come.
    const RETRY: Duration = Duration::from_millis(300);
    if pod.identity.injected {
        tokio::select! {
            () = sidecar::until_roots(mesh) => {}
            () = pod.stopping() => return false,
        }
    }
    loop {
        if pod.is_stopping() {
            return false;
        }
        let done = match make_network(mesh, pod).await {
            Ok(()) => make_files(mesh, pod),
            Err(e) => Err(e),
        };
        match done {
            Ok(()) => return true,
            Err(message) => pod.note(mesh, &format!("cannot start: {message}")),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = pod.stopping() => return false,
        }
    }
}

async fn make_network(mesh: &Arc<Mesh>, pod: &Arc<Pod>) -> Result<(), String> {
    if pod.network().is_some() {
        return Ok(());
    }
    let captured = pod.identity.injected && !pod.identity.gateway;
    let capture = captured.then(|| sidecar::capture(pod, sidecar::answers_dns(mesh, pod))).transpose()?;
    let (addresses, bridge, serial) = (pod.identity.addresses, mesh.network.bridge, pod.identity.serial);
    let with = mesh.clone();
    let made = tokio::task::spawn_blocking(move || -> Result<_, String> {
        let ns = NetNs::create().map_err(|e| format!("network namespace: {e}"))?;
        lateen_capture::link::connect_pod(&ns, &format!("pod{serial}"), addresses, bridge).map_err(|e| e.to_string())?;
        // Before any process runs in the pod: nothing it sends is ever uncaptured.
        let captured = capture.map(|config| with.capturing.apply(&ns, &config)).transpose()?;
        Ok((ns, captured.unwrap_or_default()))
    });
    let (ns, (captured, status)) = made.await.map_err(|e| e.to_string())??;
    *pod.captured.lock().unwrap_or_else(PoisonError::into_inner) = captured;
    pod.state().capture = status;
    *pod.network.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(ns));
    Ok(())
}

/// Writes volumes and the files that every pod has.
pub(crate) fn make_files(mesh: &Mesh, pod: &Pod) -> Result<(), String> {
    let resources = mesh.resources();
    let id = &pod.identity;
    if !resources.has_service_account(&id.fields.namespace, &id.fields.service_account) {
        return Err(format!("ServiceAccount {} is not there", id.fields.service_account));
    }
    volumes::write(&id.spec, &id.fields.namespace, &resources, &pod.volumes_dir()).map_err(|e| e.to_string())?;
    container::write_common_files(mesh, pod).map_err(|e| format!("{}: {e}", id.dir.display()))
}

/// The orderly end: leave the endpoints everywhere, drain, and only then stop.
async fn end(mesh: &Arc<Mesh>, pod: &Arc<Pod>) {
    let version = pod.change(mesh, |s| s.terminating = true);
    if !mesh.is_stopping() {
        mesh.wait_until_known(version).await;
        if pod.identity.injected {
            sidecar::drain(mesh, pod).await;
        }
    }
    container::stop_all(mesh, pod).await;
}
