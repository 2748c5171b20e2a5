//! Tells everybody what there is: DNS, the translation of service addresses, and the control plane.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lateen_capture::services::{self, ServicePort};
use lateen_model::resource::ClusterState;
use tokio::sync::watch;

use crate::dns::Zone;
use crate::endpoints::translated;
use crate::mesh::Mesh;
use crate::report::Kind;

/// Follows every change for as long as the mesh lives.
pub(crate) async fn publish(mesh: Arc<Mesh>, zone: watch::Sender<Arc<Zone>>) {
    let mut changes = mesh.changes();
    let mut translation: Option<Vec<ServicePort>> = None;
    loop {
        let version = *changes.borrow_and_update();
        let resources = mesh.resources();
        let errors = mesh.service_pool.lock().unwrap_or_else(PoisonError::into_inner).update(resources.services());
        for (service, error) in errors {
            tracing::debug!(service, %error, "no address");
        }
        let state = mesh.cluster_state(version);
        let names = Zone::new(resources.services(), &state.cluster_ips, &state.pods, mesh.network.node_ip());
        zone.send_if_modified(|old| {
            let changed = **old != names;
            if changed {
                *old = Arc::new(names);
            }
            changed
        });
        let ports = translated(resources.services(), &state.cluster_ips, &state.pods);
        if translation.as_ref() != Some(&ports) {
            match install(&mesh, ports.clone()).await {
                Ok(()) => translation = Some(ports),
                Err(e) => mesh.report.say(Kind::Problem, &format!("service addresses: {e}")),
            }
        }
        let told = tell(&mesh, &state).await;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            // The control plane could not be told; it is tried again.
            () = tokio::time::sleep(Duration::from_millis(200)), if !told => {}
        }
    }
}

async fn install(mesh: &Mesh, ports: Vec<ServicePort>) -> Result<(), String> {
    let ranges = mesh.network.service_ranges();
    let done = tokio::task::spawn_blocking(move || services::apply(&ports, &ranges));
    done.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// Tells the control plane; whether it took it. One that is down is told when it is back; nobody waits for it.
async fn tell(mesh: &Mesh, state: &ClusterState) -> bool {
    if mesh.control.outer_pid().is_none() {
        return false;
    }
    match mesh.control.put(state).await {
        Ok(()) => {
            mesh.set_published(state.generation);
            true
        }
        Err(error) => {
            tracing::debug!(%error, "the control plane was not told");
            false
        }
    }
}
