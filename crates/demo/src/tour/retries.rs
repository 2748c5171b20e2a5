//! A failing pod is not seen, a hung one is given up.

use std::time::Duration;

use crate::access_log::{entries, word};
use crate::mesh::{FRONTEND, Mesh, until};
use crate::step::Step;

/// A path that only this step asks for.
const WITNESS: &str = "/tour/retries";
const REQUESTS: usize = 200;

pub(super) async fn show(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let pods = mesh.pods("order-service", None).await?;
    let result = misbehaving(mesh, step).await;
    mesh.behave(&pods).await?;
    result
}

async fn misbehaving(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let v1 = mesh.pods("order-service", Some("v1")).await?;
    let v2 = mesh.pods("order-service", Some("v2")).await?;
    let bad = v1.first().ok_or("no pod of v1")?;

    // Every second one, so that a request that comes back to the same pod, as it may by chance, is answered.
    mesh.misbehave(bad, r#"{"fail":503,"share":0.5}"#).await?;
    let url = format!("http://order-service{WITNESS}");
    let load = mesh.get(FRONTEND, &[&url, "-n", &REQUESTS.to_string()]).await?;
    let (again, elsewhere) = tried_again(mesh, &format!("{}:8080", bad.ip)).await?;
    let observed = format!("{load}; {again} of them were tried again, {elsewhere} with success at another pod");
    let met = load.all_ok() && again > 0 && elsewhere * 2 > again;
    step.expect("when a pod answers 503, the request is tried elsewhere and none fails", observed, met);
    mesh.behave(&v1).await?;

    // Two in all: three tries have to be enough even if chance leads one request to this pod twice.
    mesh.misbehave(bad, r#"{"hang":true,"next":2}"#).await?;
    let load = mesh.get(FRONTEND, &["http://order-service/", "-n", "20", "-c", "20"]).await?;
    let observed = format!("{load}; the slowest took {:.2} s", load.slowest());
    let met = load.all_ok() && (1.0..2.9).contains(&load.slowest());
    step.expect("a hung try is given up after 1 s, and another pod answers", observed, met);

    for pod in v1.iter().chain(&v2) {
        mesh.misbehave(pod, r#"{"hang":true}"#).await?;
    }
    let load = mesh.get(FRONTEND, &["http://order-service/"]).await?;
    let observed = format!("{load} after {:.2} s", load.slowest());
    let met = load.status(504) == 1 && (2.9..3.6).contains(&load.slowest());
    step.expect("when all hang, the caller gets 504 after 3 s in all", observed, met);
    Ok(())
}

/// How many of the requests for [`WITNESS`] frontend's sidecar tried more than once, and how many of those another pod than
/// the bad one answered in the end; by its access log.
async fn tried_again(mesh: &Mesh, bad: &str) -> Result<(usize, usize), String> {
    let pods = mesh.pods("frontend", None).await?;
    let pod = pods.first().ok_or("no pod of frontend")?;
    let look = || async { Ok(entries(mesh.logs(), &pod.namespace, &pod.name, WITNESS)) };
    let log = until(Duration::from_secs(5), look, |log| log.len() >= REQUESTS).await?;
    let again: Vec<_> = log.iter().filter(|e| word(e, "attempts").parse::<u32>().is_ok_and(|n| n > 1)).collect();
    let elsewhere = again.iter().filter(|e| word(e, "upstream_host") != bad).count();
    Ok((again.len(), elsewhere))
}
