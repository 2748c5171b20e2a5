//! Without a control plane traffic goes on, and a new one takes over.

use std::time::Duration;

use lateen_local::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::sleep;

use crate::mesh::{FRONTEND, Mesh, until};
use crate::step::Step;

pub(super) async fn show(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let load = mesh.get(FRONTEND, &["http://order-service/", "--rate", "200", "-c", "50", "--duration", "5s"]);
    let (load, pids) = tokio::join!(load, kill_it(mesh));
    let (load, (old, new)) = (load?, pids?);
    step.expect("requests go on without it, and none fails", &load, load.all_ok());
    let look = || mesh.status();
    let status = until(Duration::from_secs(30), look, all_synced).await?;
    let synced = status.pods.iter().filter(|p| is_synced(p)).count();
    let all = status.pods.iter().filter(|p| p.proxy_pid.is_some()).count();
    let observed = format!("process {old}, now {}; {synced} of {all} sidecars are in sync with it", new.unwrap_or(0));
    let met = new.is_some_and(|new| new != old) && all_synced(&status);
    step.expect("it is started again, and every sidecar is back in sync", observed, met);
    Ok(())
}

/// Kills it while the load runs; its process id, and its successor's when that is ready.
async fn kill_it(mesh: &Mesh) -> Result<(i32, Option<i32>), String> {
    sleep(Duration::from_secs(1)).await;
    let old = mesh.status().await?.control.pid.ok_or("the control plane does not run")?;
    kill(Pid::from_raw(old), Signal::SIGKILL).map_err(|e| format!("cannot kill the control plane (pid {old}): {e}"))?;
    let look = || mesh.status();
    let back = |s: &Status| s.control.ready && s.control.pid.is_some_and(|pid| pid != old);
    let status = until(Duration::from_secs(20), look, back).await?;
    Ok((old, status.control.pid.filter(|_| status.control.ready)))
}

fn is_synced(pod: &lateen_local::PodStatus) -> bool {
    pod.proxy_pid.is_some() && !pod.xds.is_empty() && pod.xds.values().all(|state| state == "synced")
}

fn all_synced(status: &Status) -> bool {
    status.pods.iter().filter(|p| p.proxy_pid.is_some()).all(is_synced)
}
