//! Which listener serves a connection.

use super::*;
use crate::config::secrets::Secrets;
use crate::telemetry::Telemetry;
use crate::testing::{listener, settings, tcp};
use lateen_model::dataplane;
use lateen_tls::WorkloadIdentity;

fn snapshot(listeners: &[dataplane::Listener]) -> Snapshot {
    let (mut secrets, telemetry) = (Secrets::new(WorkloadIdentity::new()), Telemetry::new(&settings()));
    let compiled = listeners.iter().map(|l| {
        let compiled = Listener::compile(l.clone(), &mut secrets, &telemetry).expect("right");
        (compiled.name.clone(), Arc::new(compiled))
    });
    Snapshot::new(compiled.collect(), Clusters::default(), Routes::default())
}

fn bound(name: &str, address: &str, hands_over: bool) -> dataplane::Listener {
    dataplane::Listener { bind_to_port: true, use_original_dst: hands_over, ..listener(name, address, tcp("a")) }
}

#[test]
fn by_original_destination_the_most_exact_first() {
    let mut dual = listener("both_90", "0.0.0.0:90", tcp("a"));
    dual.additional_addresses = vec!["[::]:90".parse().unwrap()];
    let snapshot = snapshot(&[
        bound("virtualOutbound", "0.0.0.0:15001", true),
        bound("virtualInbound", "0.0.0.0:15006", false),
        listener("0.0.0.0_80", "0.0.0.0:80", tcp("a")),
        listener("10.0.0.1_80", "10.0.0.1:80", tcp("a")),
        listener("six_70", "[::]:70", tcp("a")),
        listener("exact_six_70", "[fd00::1]:70", tcp("a")),
        dual,
    ]);
    for (accepting, destination, expected) in [
        ("virtualOutbound", "10.0.0.1:80", Some("10.0.0.1_80")),
        ("virtualOutbound", "10.0.0.2:80", Some("0.0.0.0_80")),
        ("virtualOutbound", "[fd00::2]:80", Some("virtualOutbound")),
        ("virtualOutbound", "[fd00::1]:70", Some("exact_six_70")),
        ("virtualOutbound", "[fd00::2]:70", Some("six_70")),
        ("virtualOutbound", "10.0.0.2:70", Some("virtualOutbound")),
        ("virtualOutbound", "10.0.0.2:90", Some("both_90")),
        ("virtualOutbound", "[fd00::2]:90", Some("both_90")),
        ("virtualOutbound", "10.0.0.2:443", Some("virtualOutbound")),
        // Sockets that are bound take their own connections only.
        ("virtualOutbound", "10.0.0.2:15006", Some("virtualOutbound")),
        ("virtualInbound", "10.0.0.1:80", Some("virtualInbound")),
        ("gone", "10.0.0.1:80", None),
    ] {
        let found = snapshot.listener_for(accepting, destination.parse().unwrap());
        assert_eq!(found.map(|l| &*l.name), expected, "{accepting} {destination}");
    }
}
