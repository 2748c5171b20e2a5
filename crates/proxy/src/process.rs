//! The process: workers, the configuration's subscription, the identity's renewal, pages for probes and people, and an orderly end.

use crate::admin;
use crate::bootstrap::{Environment, Role, Settings};
use crate::config::Store;
use crate::config::secrets::Secrets;
use crate::control_plane::channel::ControlPlane;
use crate::control_plane::{ads, identity};
use crate::shared::Shared;
use crate::telemetry::Telemetry;
use crate::worker::{self, Job};
use lateen_model::dataplane::Locality;
use lateen_xds::{Node, NodeType};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// After the first configuration is in force: what comes with it has been done by then.
const AFTER_START: Duration = Duration::from_secs(2);

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A thread, a runtime, a socket or a signal handler could not be had.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs until it is asked to end and its work in flight has ended.
pub(crate) fn run(settings: Settings, environment: Environment) -> Result<(), RunError> {
    let telemetry = Arc::new(Telemetry::new(&settings));
    let (handles, seats): (Vec<_>, Vec<_>) = (0..settings.concurrency).map(worker::seat).unzip();
    let shared = Arc::new(Shared::new(settings, environment, telemetry, handles));
    let threads = seats.into_iter().map(|seat| worker::start(seat, shared.clone())).collect::<io::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = tokio::task::LocalSet::new().block_on(&runtime, supervise(shared.clone()));
    shared.workers().iter().for_each(|w| w.send(Job::Stop));
    for thread in threads {
        let _ = thread.join();
    }
    result
}

async fn supervise(shared: Arc<Shared>) -> Result<(), RunError> {
    let settings = &shared.settings;
    tracing::info!(node = settings.node_id, identity = %settings.identity, workers = settings.concurrency, control_plane = settings.discovery_address, "starting");
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let control_plane = ControlPlane::new(settings);
    keep_identity(&shared, control_plane.clone());
    let mut node = node(settings);
    if let Some(above) = settings.automatic_scope.above {
        // Not that of an agent beside an Envoy, which holds everything.
        node.metadata.insert(lateen_xds::on_demand::METADATA.to_owned(), "true".into());
        node.metadata.insert(lateen_xds::on_demand::METADATA_ABOVE.to_owned(), above.into());
    }
    let mut store = Store::new(Secrets::new(shared.identity.clone()), shared.telemetry.clone());
    if shared.settings.self_discovery {
        store.discover_own(shared.settings.locality.clone(), shared.origin.clone());
    }
    if settings.dns_capture {
        crate::name_server::serve(&shared.names, settings.sockets.mark);
    }
    let subscription = ads::start(shared.clone(), control_plane, &node, store);
    tokio::task::spawn_local(crate::upstream::sweep_outliers(shared.clone()));
    tokio::task::spawn_local(give_back_start(shared.clone()));
    admin::serve(&shared, &subscription).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = shared.drain.quit_requested() => {}
    }
    drain(&shared).await;
    shared.telemetry.flush();
    Ok(())
}

/// When the proxy serves, lets go of what only its start needed.
async fn give_back_start(shared: Arc<Shared>) {
    while !shared.configured.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(AFTER_START).await;
    if let Err(error) = lateen_capture::memory::give_back_code() {
        tracing::debug!(%error, "the code of the start stays resident");
    }
}

fn keep_identity(shared: &Arc<Shared>, control_plane: ControlPlane) {
    let shared = shared.clone();
    tokio::task::spawn_local(async move {
        let renewal = identity::Renewal::of(&shared.settings);
        identity::renew(&control_plane, &renewal, &shared.renewals, |issued| {
            // Roots first: a peer may present a certificate of the new root at once.
            shared.identity.install_trust(issued.roots);
            shared.identity.install(issued.credential);
        })
        .await;
    });
}

/// The node as the control plane knows it.
pub(crate) fn node(settings: &Settings) -> Node {
    let node_type = match settings.role {
        Role::Sidecar => NodeType::Sidecar,
        Role::Gateway => NodeType::Router,
    };
    let domain = format!("{}.svc.cluster.local", settings.namespace);
    let mut node = Node::new(node_type, settings.instance_ip, &settings.pod_name, &settings.namespace, &domain);
    node.cluster.clone_from(&settings.node_cluster);
    node.metadata.clone_from(&settings.metadata);
    let Locality { region, zone, sub_zone } = settings.locality.clone();
    node.locality = lateen_xds::Locality { region, zone, sub_zone };
    node
}

/// Ends in order: answers ask clients to leave, then what is in flight may end, at most for the time that is set.
async fn drain(shared: &Shared) {
    shared.drain.start();
    shared.workers().iter().for_each(|w| w.send(Job::CloseIdle));
    let deadline = tokio::time::Instant::now() + shared.settings.termination_drain;
    while shared.drain.pending() > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match shared.drain.pending() {
        0 => tracing::info!("drained"),
        left => tracing::warn!(
            left,
            "ending with requests or connections in flight, after {:?} of draining",
            shared.settings.termination_drain
        ),
    }
}
