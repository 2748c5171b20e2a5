//! Pods are added and taken away, and no request notices.

use std::time::Duration;

use tokio::time::sleep;

use crate::manifests::{Manifests, ORDER_SERVICE};
use crate::mesh::{FRONTEND, Mesh, until};
use crate::step::Step;

/// The counts that v1 goes through, from the manifest's 2 back to 2.
const SCALES: [u32; 4] = [2, 3, 1, 2];

pub(super) async fn show(mesh: &Mesh, manifests: &Manifests, step: &mut Step) -> Result<(), String> {
    let load = mesh.get(FRONTEND, &["http://order-service/", "--rate", "200", "-c", "50", "--duration", "8s"]);
    let (load, seen) = tokio::join!(load, scale(mesh, manifests));
    let (load, seen) = (load?, seen?);
    let wanted: Vec<usize> = SCALES[1..].iter().map(|n| *n as usize).collect();
    step.expect("v1 goes from 2 pods to 3, to 1 and back to 2", format!("ready pods: {seen:?}"), seen == wanted);
    step.expect("no request fails meanwhile", format!("{load}, from {} pods", load.pods.len()), load.all_ok());
    Ok(())
}

/// Goes through [`SCALES`]; the numbers of ready pods that came of it.
async fn scale(mesh: &Mesh, manifests: &Manifests) -> Result<Vec<usize>, String> {
    let mut seen = Vec::new();
    for pair in SCALES.windows(2) {
        sleep(Duration::from_millis(500)).await;
        let [from, to] =
            [pair[0], pair[1]].map(|n| format!("name: order-service-v1\n  namespace: production\nspec:\n  replicas: {n}\n"));
        manifests.edit(ORDER_SERVICE, &[(&from, &to)])?;
        let wanted = pair[1] as usize;
        let look = || async { Ok(mesh.pods("order-service", Some("v1")).await?.len()) };
        seen.push(until(Duration::from_secs(20), look, |n| *n == wanted).await?);
    }
    Ok(seen)
}
