//! Certificates that live for seconds: they are replaced at half their life, and no request notices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{FRONTEND, Mesh, assert_all_answered, count, eventually};

const LIFE: u64 = 8;

/// The sidecar's own certificate, as its admin page shows it.
fn certificate(mesh: &Mesh, pod: &str) -> Value {
    let secrets = mesh.admin(pod, "/config/secrets");
    secrets.as_array().unwrap().iter().find(|s| s["name"] == "default").unwrap_or_else(|| panic!("{secrets:#}")).clone()
}

#[test]
fn certificates_rotate_at_half_their_life_without_a_failed_request() {
    let life = format!("{LIFE}s");
    let mesh = Mesh::start_with("", &[("SECRET_TTL", &life), ("DEFAULT_WORKLOAD_CERT_TTL", &life)]);
    // New connections all the time, so that handshakes fall into every phase; and kept ones, which outlive certificates.
    let fresh = mesh.load(FRONTEND, "http://order-service/", &["-c", "8", "--rate", "40", "--new-connections"]);
    let kept =
        mesh.load("deploy/order-service-v1", "http://payment-service/v1/payments", &["-X", "POST", "-c", "8", "--rate", "40"]);
    let pods: Vec<String> = mesh.status().pods.iter().filter(|p| p.proxy_pid.is_some()).map(|p| p.name.clone()).collect();
    for pod in &pods {
        let mut serials = BTreeSet::new();
        let mut previous: Option<Value> = None;
        eventually("five certificates, one after the other", || {
            let now = certificate(&mesh, pod);
            assert_eq!(now["valid"], true, "{pod}: {now:#}");
            let (from, until) = (now["not_before"].as_u64().unwrap(), now["not_after"].as_u64().unwrap());
            if serials.insert(now["serial"].as_str().unwrap().to_owned())
                && let Some(previous) = previous.replace(now.clone())
            {
                // Seconds are cut off, and the start is put back for clocks that are behind; the ends tell how long one was kept.
                let kept = until - previous["not_after"].as_u64().unwrap();
                assert!(
                    (LIFE * 3 / 10..=LIFE * 8 / 10).contains(&kept),
                    "{pod}: replaced after {kept} s of {LIFE}: {previous:#} {now:#}"
                );
            }
            assert!(until > from, "{now:#}");
            (serials.len() >= if *pod == pods[0] { 5 } else { 2 }).then_some(())
        });
    }
    assert_all_answered(&fresh.end(), 400);
    assert_all_answered(&kept.end(), 400);
}

#[test]
fn a_sidecar_without_a_control_plane_serves_until_its_certificate_ends_and_recovers() {
    let life = format!("{LIFE}s");
    let mesh = Mesh::start_with("", &[("SECRET_TTL", &life), ("DEFAULT_WORKLOAD_CERT_TTL", &life)]);
    let first = mesh.status().control.pid.unwrap();
    // Stopped, not ended: nothing restarts it, and nothing answers.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(first).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let call = || mesh.curl(FRONTEND, &["http://order-service/"]).status;
    assert_eq!(call(), 200, "without the control plane");
    eventually("the certificate has ended", || (certificate(&mesh, FRONTEND)["valid"] == false).then_some(()));
    // Connections that exist outlive certificates, as Envoy's; more at once than there are need new ones.
    eventually("nobody accepts an ended certificate", || {
        let report = mesh.requests(FRONTEND, "http://order-service/delay/500ms", &["-n", "32", "-c", "32"]);
        (count(&report, "/statuses/503") > 0).then_some(())
    });
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    // A call may go over a connection that was kept, and tells nothing of certificates.
    eventually("a new certificate", || (certificate(&mesh, FRONTEND)["valid"] == true).then_some(()));
    eventually("traffic again", || (call() == 200).then_some(()));
}
