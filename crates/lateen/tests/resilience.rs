//! The scenario under constant load, while its parts are killed, scaled, replaced and reconfigured: no request may fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::{Duration, Instant};

use lateen_testkit::lab::{MeshStatus, PodStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{FRONTEND, Mesh, assert_all_answered, count, eventually};

const ORDER: &str = "http://order-service/";
/// An open loop: requests are due whatever happens to those before.
const STEADY: [&str; 4] = ["-c", "32", "--rate", "100"];

fn sigkill(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

fn pods<'a>(status: &'a MeshStatus, app: &str) -> Vec<&'a PodStatus> {
    status.pods.iter().filter(|p| p.labels.get("app").is_some_and(|v| v == app)).collect()
}

/// Requests that a sidecar has sent so far, by the version that answered.
fn sent(mesh: &Mesh, version: &str) -> f64 {
    let samples = mesh.metric(FRONTEND, "istio_requests_total");
    samples.iter().filter(|(l, _)| l["reporter"] == "source" && l["destination_version"] == version).map(|(_, n)| n).sum()
}

/// Waits until so many more requests have been answered, by whomever.
fn answered(mesh: &Mesh, more: f64) {
    let total = || sent(mesh, "v1") + sent(mesh, "v2");
    let before = total();
    eventually("the load goes on", || (total() >= before + more).then_some(()));
}

#[test]
fn the_control_plane_is_killed_and_traffic_goes_on() {
    let mesh = Mesh::start();
    let before = mesh.status();
    let load = mesh.load(FRONTEND, ORDER, &STEADY);
    answered(&mesh, 100.0);
    sigkill(before.control.pid.unwrap());
    let after = eventually("another control plane serves and all sidecars have reconnected", || {
        let status = mesh.up.status().ok()?;
        let other = status.control.pid.is_some() && status.control.pid != before.control.pid;
        let synced = |p: &PodStatus| p.proxy_pid.is_none() || (!p.xds.is_empty() && p.xds.values().all(|s| s == "synced"));
        (other && status.control.ready && status.pods.iter().all(synced)).then_some(status)
    });
    answered(&mesh, 100.0);
    // The sidecars are the same processes, and the new control plane is obeyed.
    let proxies = |status: &MeshStatus| status.pods.iter().map(|p| (p.name.clone(), p.proxy_pid)).collect::<Vec<_>>();
    assert_eq!(proxies(&before), proxies(&after));
    mesh.edit("traffic-rules.yaml", |text| text.replace("weight: 95", "weight: 0").replace("weight: 5\n", "weight: 100\n"));
    eventually("a change made after it is in force", || {
        let report = mesh.requests(FRONTEND, ORDER, &["-n", "20"]);
        (count(&report, "/versions/v2") == 20).then_some(())
    });
    assert_all_answered(&load.end(), 200);
}

#[test]
fn traffic_goes_on_for_as_long_as_the_control_plane_is_away() {
    let mesh = Mesh::start();
    let load = mesh.load(FRONTEND, ORDER, &STEADY);
    answered(&mesh, 100.0);
    // It comes back by itself; killed again and again, it is hardly ever there.
    let mut last = None;
    for _ in 0..4 {
        let pid = eventually("a control plane to kill", || mesh.up.status().ok()?.control.pid.filter(|pid| Some(*pid) != last));
        sigkill(pid);
        last = Some(pid);
        answered(&mesh, 30.0);
    }
    assert_all_answered(&load.end(), 200);
    eventually("all is well again", || {
        let status = mesh.up.status().ok()?;
        (status.control.ready && status.is_ready()).then_some(())
    });
}

#[test]
fn a_killed_sidecar_is_restarted_and_serves_again() {
    let mesh = Mesh::start();
    let before = mesh.status();
    let victim = pods(&before, "payment-service")[0].clone();
    let caller = pods(&before, "order-service")[0].name.clone();
    sigkill(victim.proxy_pid.unwrap());
    eventually("another sidecar in the same pod", || {
        let status = mesh.up.status().ok()?;
        let pod = status.pod(&victim.namespace, &victim.name)?;
        let other = pod.proxy_pid.is_some() && pod.proxy_pid != victim.proxy_pid;
        (other && pod.ready && pod.app_pids == victim.app_pids && !pod.xds.is_empty()).then_some(())
    });
    eventually("it takes requests, with its rules", || {
        let url = format!("http://{}:8080/v1/payments", victim.ip);
        let reply = mesh.curl("deploy/batch", &["-X", "POST", &url]);
        assert_eq!(reply.status, 0, "plain text got through: {reply:?}");
        let report = mesh.requests(&caller, "http://payment-service/v1/payments", &["-X", "POST", "-n", "20"]);
        report["pods"].get(victim.name.as_str()).filter(|_| count(&report, "/statuses/200") == 20)?;
        Some(())
    });
    // The caller's own sidecar, too.
    let own = mesh.status().pods.iter().find(|p| p.name == caller).unwrap().proxy_pid.unwrap();
    sigkill(own);
    eventually("the caller can call again", || {
        let reply = mesh.curl(&caller, &["-X", "POST", "http://payment-service/v1/payments"]);
        (reply.status == 200).then_some(())
    });
}

#[test]
fn pods_are_added_and_taken_away_under_load() {
    let mesh = Mesh::start();
    let load = mesh.load(FRONTEND, ORDER, &STEADY);
    answered(&mesh, 50.0);
    let has = |wanted: usize| {
        eventually(&format!("{wanted} ready pods of order-service"), || {
            let status = mesh.up.status().ok()?;
            let pods = pods(&status, "order-service");
            (pods.len() == wanted && pods.iter().all(|p| p.ready)).then_some(())
        });
        answered(&mesh, 50.0);
    };
    let v1 = |from: usize, to: usize| {
        mesh.edit("workloads.yaml", |text| {
            let (head, tail) = text.split_once("name: order-service-v1").unwrap();
            format!("{head}name: order-service-v1{}", tail.replacen(&format!("replicas: {from}"), &format!("replicas: {to}"), 1))
        });
    };
    v1(2, 4);
    has(5);
    v1(4, 1);
    has(2);
    v1(1, 2);
    has(3);
    assert_all_answered(&load.end(), 200);
}

#[test]
fn pods_are_replaced_one_by_one_under_load() {
    let mesh = Mesh::start();
    let before = mesh.pods("order-service");
    let load = mesh.load(FRONTEND, ORDER, &STEADY);
    answered(&mesh, 50.0);
    // Another template, of these deployments alone: the load runs in a pod of another.
    const COMMAND: &str = r#"command: ["lateen", "echo", "--port", "8080"]"#;
    let variable = format!("{COMMAND}\n        env: [{{name: ROUND, value: \"2\"}}]");
    mesh.edit("workloads.yaml", |text| {
        let edited = |document: &str| match document.contains("name: order-service-v") {
            true => document.replace(COMMAND, &variable),
            false => document.to_owned(),
        };
        text.split("---\n").map(edited).collect::<Vec<_>>().join("---\n")
    });
    let after = eventually("three other pods of order-service", || {
        let status = mesh.up.status().ok()?;
        let pods = pods(&status, "order-service");
        let new = pods.len() == 3 && pods.iter().all(|p| p.ready && !before.contains(&p.name));
        new.then(|| pods.iter().map(|p| p.name.clone()).collect::<Vec<_>>())
    });
    answered(&mesh, 50.0);
    let report = load.end();
    assert_all_answered(&report, 150);
    for pod in before.iter().chain(&after) {
        assert!(pod.contains("-v2-") || report["pods"].get(pod.as_str()).is_some(), "{pod} has answered nothing: {report:#}");
    }
}

#[test]
fn a_weight_changed_under_load_is_in_force_within_a_second() {
    let mesh = Mesh::start();
    let load = mesh.load(FRONTEND, ORDER, &["-c", "32", "--rate", "200"]);
    answered(&mesh, 100.0);
    let mut weights = (95, 5);
    for wanted in [(0, 100), (100, 0), (0, 100)] {
        mesh.edit("traffic-rules.yaml", |text| {
            text.replace(&format!("weight: {}\n", weights.0), "weight: A\n")
                .replace(&format!("weight: {}\n", weights.1), "weight: B\n")
                .replace("weight: A\n", &format!("weight: {}\n", wanted.0))
                .replace("weight: B\n", &format!("weight: {}\n", wanted.1))
        });
        let edited = Instant::now();
        weights = wanted;
        let only = if wanted.0 == 0 { "v2" } else { "v1" };
        // In force when a run of requests that began then goes to one version alone, which 95 to 5 hardly ever does.
        let in_force = eventually("the new weights", || {
            let began = edited.elapsed();
            let report = mesh.requests(FRONTEND, ORDER, &["-n", "150", "-c", "4"]);
            (count(&report, &format!("/versions/{only}")) == 150).then_some(began)
        });
        assert!(in_force < Duration::from_secs(1), "{wanted:?} in force after {in_force:?}");
    }
    assert_all_answered(&load.end(), 100);
}

/// One edit brings new clusters, routes to them, and takes the old ones away: in whatever order proxies are told, no request may
/// meet a route without its cluster, or a cluster without its endpoints.
#[test]
fn subsets_and_their_weights_change_in_one_edit_under_load() {
    let mesh = Mesh::start();
    let load = mesh.load(FRONTEND, ORDER, &["-c", "32", "--rate", "200"]);
    answered(&mesh, 100.0);
    let mut names = ["v1".to_owned(), "v2".to_owned()];
    for round in 1..=6 {
        let new = [format!("one-{round}"), format!("two-{round}")];
        mesh.edit("traffic-rules.yaml", |text| {
            names.iter().zip(&new).fold(text, |text, (old, new)| {
                text.replace(&format!("name: {old}\n"), &format!("name: {new}\n"))
                    .replace(&format!("subset: {old}\n"), &format!("subset: {new}\n"))
            })
        });
        names = new;
        eventually("the new subsets", || {
            let routes = mesh.admin(FRONTEND, "/config/routes").to_string();
            names.iter().all(|name| routes.contains(&format!("|{name}|"))).then_some(())
        });
        eventually("the end of the old subsets", || {
            let clusters = mesh.admin(FRONTEND, "/config/clusters").to_string();
            (clusters.matches("|order-service.production").count() >= 3 && !clusters.contains(&format!("-{}|order", round - 1)))
                .then_some(())
        });
    }
    assert_all_answered(&load.end(), 100);
}
