//! Tells everybody what there is: DNS, the translation of service addresses, and the control plane.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lateen_capture::services::{self, ServicePort};
use lateen_model::resource::ClusterState;
use tokio::sync::watch;

use crate::dns::Zone;
use crate::endpoints::{Given, Known, translated};
use crate::mesh::Mesh;
use crate::report::Kind;

/// How often it is looked whether the control plane is still the process that was told.
const CONTROL_CHECK: Duration = Duration::from_millis(100);

/// Follows every change for as long as the mesh lives.
pub(crate) async fn publish(mesh: Arc<Mesh>, zone: watch::Sender<Arc<Zone>>) {
    let mut changes = mesh.changes();
    let mut translation: Option<Vec<ServicePort>> = None;
    let mut without_address = BTreeSet::new();
    loop {
        let version = *changes.borrow_and_update();
        let resources = mesh.resources();
        let errors = mesh.service_pool.lock().unwrap_or_else(PoisonError::into_inner).update(resources.services());
        let errors: BTreeSet<String> =
            errors.iter().map(|(service, error)| format!("Service {service} has no address: {error}")).collect();
        for text in errors.difference(&without_address) {
            mesh.report.say(Kind::Problem, text);
        }
        without_address = errors;
        let state = mesh.cluster_state(version);
        let given = Given::of(&resources);
        let known = Known { pods: &state.pods, given: &given };
        let names = Zone::new(resources.services(), &state.cluster_ips, known, mesh.network.node_ip());
        zone.send_if_modified(|old| {
            let changed = **old != names;
            if changed {
                *old = Arc::new(names);
            }
            changed
        });
        let ports = translated(resources.services(), &state.cluster_ips, known);
        if translation.as_ref() != Some(&ports) {
            match install(&mesh, ports.clone()).await {
                Ok(()) => translation = Some(ports),
                Err(e) => mesh.report.say(Kind::Problem, &format!("service addresses: {e}")),
            }
        }
        let told = tell(&mesh, &state).await;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = news_for_control(&mesh, told) => {}
        }
    }
}

async fn install(mesh: &Mesh, ports: Vec<ServicePort>) -> Result<(), String> {
    let ranges = mesh.network.service_ranges();
    let done = tokio::task::spawn_blocking(move || services::apply(&ports, &ranges));
    done.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// Waits until the control plane has to be told again although nothing has changed: it could not be told, or it is another
/// process than the one that was, which knows nothing yet.
async fn news_for_control(mesh: &Mesh, told: Option<i32>) {
    loop {
        tokio::time::sleep(CONTROL_CHECK).await;
        if told.is_none() || told != mesh.control.outer_pid() {
            return;
        }
    }
}

/// Tells the control plane; returns the process that took it. One that is down is told when it is back; nobody waits for it.
async fn tell(mesh: &Mesh, state: &ClusterState) -> Option<i32> {
    let pid = mesh.control.outer_pid()?;
    match mesh.control.put(state).await {
        Ok(()) => {
            mesh.set_published(state.generation);
            Some(pid)
        }
        Err(error) => {
            tracing::debug!(%error, "the control plane was not told");
            None
        }
    }
}
