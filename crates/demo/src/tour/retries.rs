//! A failing pod is not seen, a hung one is given up.

use crate::load::Load;
use crate::mesh::{FRONTEND, Mesh};
use crate::step::Step;

/// Where the test application repeats how often a request was tried.
const ATTEMPTS: &str = "/headers/x-envoy-attempt-count";

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

    mesh.misbehave(bad, r#"{"fail":503}"#).await?;
    let load = mesh.get(FRONTEND, &["http://order-service/", "-n", "200", "-c", "4", "--tally", ATTEMPTS]).await?;
    let again = attempts_above_one(&load);
    let observed = format!("{load}; {again} of them were tried again");
    step.expect(
        "while one pod answers 503, its requests are tried elsewhere and none fails",
        observed,
        load.all_ok() && again > 0,
    );
    mesh.behave(&v1).await?;

    mesh.misbehave(bad, r#"{"hang":true}"#).await?;
    let load = mesh.get(FRONTEND, &["http://order-service/", "-n", "20", "-c", "20"]).await?;
    let observed = format!("{load}; the slowest took {:.2} s", load.slowest());
    let met = load.all_ok() && (1.0..2.0).contains(&load.slowest());
    step.expect("a hung pod is given up after 1 s, and another answers", observed, met);

    for pod in v1.iter().skip(1).chain(&v2) {
        mesh.misbehave(pod, r#"{"hang":true}"#).await?;
    }
    let load = mesh.get(FRONTEND, &["http://order-service/"]).await?;
    let observed = format!("{load} after {:.2} s", load.slowest());
    let met = load.status(504) == 1 && (2.9..3.6).contains(&load.slowest());
    step.expect("when all hang, the caller gets 504 after 3 s in all", observed, met);
    Ok(())
}

fn attempts_above_one(load: &Load) -> u64 {
    let counts = load.tallies.get(ATTEMPTS).into_iter().flatten();
    counts.filter(|(attempt, _)| attempt.parse::<u32>().is_ok_and(|n| n > 1)).map(|(_, n)| n).sum()
}
