//! The tables of [`super`], for services that the platform does not know.

use super::{Changes, Message, Nothing, check, keys};
use lateen_model::resource as r;

/// The endpoints of a service by its WorkloadEntries are in the tests of generation.
#[test]
fn service_entries() {
    const PORT: &str = "{number: 80, name: http, protocol: HTTP}";
    check(&Message {
        name: "ServiceEntry",
        keys: keys::<r::ServiceEntrySpec>(),
        kind: "ServiceEntry",
        spec: &format!("{{hosts: [a.org], ports: [{PORT}] @}}"),
        rows: &[
            ("hosts", "", Nothing("the base has it")),
            ("addresses", ", addresses: [10.7.7.7]", Changes),
            ("ports", "", Nothing("the base has it")),
            ("location", ", location: MESH_INTERNAL", Changes),
            ("resolution", ", resolution: DNS", Changes),
            ("endpoints", ", resolution: STATIC, endpoints: [{address: 10.9.9.9}]", Changes),
            ("workloadSelector", ", resolution: STATIC, workloadSelector: {labels: {app: one}}", Changes),
            ("exportTo", ", exportTo: [b]", Changes),
            ("subjectAltNames", ", location: MESH_INTERNAL, resolution: STATIC, subjectAltNames: [a]", Changes),
        ],
    });
    let ports = "{hosts: [a.org], resolution: STATIC, endpoints: [{address: 10.9.9.9}], ports: [{number: 80, name: http @}]}";
    check(&Message {
        name: "ServiceEntryPort",
        keys: keys::<r::ServiceEntryPort>(),
        kind: "ServiceEntry",
        spec: ports,
        rows: &[
            ("number", "", Nothing("the base has it")),
            ("protocol", ", protocol: HTTP2", Changes),
            ("name", "", Nothing("the base has it")),
            ("targetPort", ", targetPort: 8080", Changes),
        ],
    });
    let endpoints = "{hosts: [a.org], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 10.9.9.9 @}]}";
    check(&Message {
        name: "WorkloadEntry",
        keys: keys::<r::WorkloadEntrySpec>(),
        kind: "ServiceEntry",
        spec: endpoints,
        rows: &[
            ("address", "", Nothing("the base has it")),
            ("ports", ", ports: {http: 81}", Changes),
            ("labels", ", labels: {app: x}", Changes),
            ("network", ", network: other", Nothing("without gateways between networks every address is reached directly")),
            ("locality", ", locality: a/b", Changes),
            ("weight", ", weight: 3", Changes),
            ("serviceAccount", ", serviceAccount: vm", Changes),
        ],
    });
}
