//! A changed weight is in force within a second, and no request notices.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::manifests::{Manifests, TRAFFIC_FILE};
use crate::mesh::{FRONTEND, Mesh, until};
use crate::step::Step;

const BEFORE: (&str, &str) = ("weight: 95\n", "weight: 5\n");
const AFTER: (&str, &str) = ("weight: 40\n", "weight: 60\n");

pub(super) async fn show(mesh: &Mesh, manifests: &Manifests, step: &mut Step) -> Result<(), String> {
    let load = mesh.get(FRONTEND, &["http://order-service/", "--rate", "200", "-c", "50", "--duration", "4s"]);
    let (load, took) = tokio::join!(load, edit(mesh, manifests));
    let restored = manifests.edit(TRAFFIC_FILE, &[(AFTER.0, BEFORE.0), (AFTER.1, BEFORE.1)]);
    let (load, took) = (load?, took?);
    restored?;
    let observed = took.map_or("not within 5 s".to_owned(), |t| format!("after {} ms", t.as_millis()));
    let met = took.is_some_and(|t| t < Duration::from_secs(1));
    step.expect("weights changed to 40 and 60 in the file are in the sidecar within 1 s", observed, met);
    let observed = format!("{load}; {} from v1, {} from v2", load.version("v1"), load.version("v2"));
    step.expect("no request fails meanwhile", observed, load.all_ok());
    Ok(())
}

/// Edits the file while the load runs; how long it took until frontend's sidecar had it.
async fn edit(mesh: &Mesh, manifests: &Manifests) -> Result<Option<Duration>, String> {
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    manifests.edit(TRAFFIC_FILE, &[(BEFORE.0, AFTER.0), (BEFORE.1, AFTER.1)])?;
    let there = until(Duration::from_secs(5), || weights(mesh), |w| w == &[40, 60]).await?;
    Ok((there == [40, 60]).then(|| start.elapsed()))
}

/// The weights of order-service in frontend's routes.
async fn weights(mesh: &Mesh) -> Result<Vec<u64>, String> {
    let routes = mesh.config(FRONTEND, "routes").await?;
    let hosts = routes.iter().flat_map(|r| items(&r["virtual_hosts"]));
    let order = hosts.filter(|h| h["name"].as_str().is_some_and(|n| n.starts_with("order-service.production.")));
    let branches = order.flat_map(|h| items(&h["routes"])).flat_map(|r| items(&r["action"]["forward"]["cluster"]["weighted"]));
    Ok(branches.filter_map(|b| b["weight"].as_u64()).collect())
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
