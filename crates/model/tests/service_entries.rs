//! Istio's validation rules of ServiceEntry, WorkloadEntry and WorkloadGroup, one line for each.

mod common;

use common::{check, findings};

const ALL: [&str; 3] = ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];

fn check_entries(table: &[(&str, &str)]) {
    check(ALL[0], "ServiceEntry", table);
}

#[test]
fn all_versions_are_read() {
    for version in ALL {
        let entry = "spec: {hosts: [a.org], ports: [{number: 80, name: http, protocol: HTTP}]}";
        assert!(findings(version, "ServiceEntry", entry).is_empty());
        assert!(findings(version, "WorkloadEntry", "spec: {address: 10.0.0.1}").is_empty());
        assert!(findings(version, "WorkloadGroup", "spec: {template: {}}").is_empty());
    }
}

#[test]
fn hosts_addresses_and_ports() {
    let http = "ports: [{number: 80, name: http, protocol: HTTP}]";
    let table = [
        (format!("{{hosts: [a.org, '*.b.org', 10.0.0.1], {http}}}"), ""),
        (format!("{{{http}}}"), "spec.hosts: must not be empty"),
        (format!("{{hosts: ['*'], {http}}}"), "spec.hosts[0]: \"*\" alone"),
        (format!("{{hosts: [a.*.org], {http}}}"), "spec.hosts[0]: \"a.*.org\" is not a host name"),
        (format!("{{hosts: ['*foo.org'], {http}}}"), "warning spec.hosts[0]: \"*foo.org\" is a wildcard within a label"),
        (format!("{{hosts: [a.org, A.org], {http}}}"), "spec.hosts[1]: \"A.org\" is listed twice"),
        (format!("{{hosts: [a.org], addresses: [10.0.0.0/8, '::1'], {http}}}"), ""),
        (format!("{{hosts: [a.org], addresses: [a.org], {http}}}"), "spec.addresses[0]: \"a.org\" must be an IP address"),
        (format!("{{hosts: [a.org], addresses: [10.0.0.0/8], resolution: DNS, {http}}}"), "spec.addresses[0]: a CIDR block"),
        ("{hosts: [a.org], ports: [{number: 80, protocol: HTTP}]}".to_owned(), "spec.ports[0].name: is required"),
        ("{hosts: [a.org], ports: [{number: 0, name: a}]}".to_owned(), "spec.ports[0].number: is 0"),
        ("{hosts: [a.org], ports: [{number: 80, name: a, targetPort: 70000}]}".to_owned(), "spec.ports[0].targetPort: is 70000"),
        ("{hosts: [a.org], ports: [{number: 80, name: a, protocol: FTP}]}".to_owned(), "spec.ports[0].protocol: \"FTP\" is not"),
        (
            "{hosts: [a.org], ports: [{number: 80, name: a}, {number: 80, name: b}]}".to_owned(),
            "spec.ports[1].number: is the number of an earlier port",
        ),
        (
            "{hosts: [a.org], ports: [{number: 80, name: a}, {number: 81, name: a}]}".to_owned(),
            "spec.ports[1].name: \"a\" is the name of an earlier port",
        ),
        (
            "{hosts: [a.org, b.org], resolution: DNS, ports: [{number: 80, name: a, protocol: TCP}]}".to_owned(),
            "spec.hosts: several hosts need ports of HTTP or TLS",
        ),
        (
            "{hosts: [a.org], ports: [{number: 80, name: a, protocol: TCP}]}".to_owned(),
            "warning spec.addresses: TCP ports without an address",
        ),
        (format!("{{hosts: [a.org], exportTo: ['~'], {http}}}"), ""),
        (format!("{{hosts: [a.org], exportTo: ['~', a], {http}}}"), "spec.exportTo: \"~\" means no namespace"),
        (format!("{{hosts: [a.org], exportTo: ['*', a], {http}}}"), "spec.exportTo[0]: \"*\" means all namespaces"),
        (format!("{{hosts: [a.org], subjectAltNames: [''], {http}}}"), "spec.subjectAltNames[0]: must not be empty"),
    ];
    let table: Vec<(&str, &str)> = table.iter().map(|(spec, expected)| (spec.as_str(), *expected)).collect();
    check_entries(&table);
}

#[test]
fn resolutions_and_endpoints() {
    let spec = |rest: &str| format!("{{hosts: [a.org], ports: [{{number: 80, name: http, protocol: HTTP}}], {rest}}}");
    let wild = |rest: &str| format!("{{hosts: ['*.a.org'], ports: [{{number: 80, name: http, protocol: HTTP}}], {rest}}}");
    let table = [
        (spec("resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {http: 81}, weight: 2, locality: a/b/c}]"), ""),
        (spec("resolution: STATIC, endpoints: [{address: b.org}]"), "spec.endpoints[0].address: must be an IP address"),
        (spec("resolution: STATIC, endpoints: [{}]"), "spec.endpoints[0].address: is required"),
        (spec("resolution: STATIC, endpoints: [{address: 'a b'}]"), "spec.endpoints[0].address: \"a b\" must be an IP address"),
        (
            spec("resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {other: 81}}]"),
            "spec.endpoints[0].ports: \"other\" is not",
        ),
        (spec("resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {http: 0}}]"), "spec.endpoints[0].ports.http: is 0"),
        (
            spec("resolution: STATIC, endpoints: [{address: 10.0.0.1, locality: a/b/c/d}]"),
            "spec.endpoints[0].locality: \"a/b/c/d\"",
        ),
        (
            spec("resolution: STATIC, endpoints: [{address: 'unix:///a'}]"),
            "spec.endpoints[0].address: Unix sockets are not supported",
        ),
        (spec("resolution: STATIC, endpoints: [{address: 10.0.0.1, network: other}]"), ""),
        (spec("resolution: NONE, endpoints: [{address: 10.0.0.1}]"), "spec.endpoints: contradict resolution: NONE"),
        (spec("resolution: DNS"), ""),
        (spec("resolution: DNS, endpoints: [{address: b.org}, {address: 10.0.0.1}]"), ""),
        (wild("resolution: DNS"), "spec.endpoints: are required"),
        (wild("resolution: DNS, endpoints: [{address: b.org}]"), ""),
        (
            spec("resolution: DNS_ROUND_ROBIN, endpoints: [{address: b.org}, {address: c.org}]"),
            "spec.endpoints: only one is allowed",
        ),
        (wild("resolution: DYNAMIC_DNS"), "spec.resolution: DYNAMIC_DNS is not supported"),
        (spec("resolution: DYNAMIC_DNS"), "spec.hosts: must all be wildcards"),
        (spec("resolution: STATIC, workloadSelector: {labels: {app: a}}"), ""),
        (spec("resolution: STATIC, workloadSelector: {}"), "spec.workloadSelector: must have labels"),
        (spec("workloadSelector: {labels: {app: a}}"), "warning spec.workloadSelector: has no effect with resolution: NONE"),
        (
            spec("resolution: STATIC, workloadSelector: {labels: {app: a}}, endpoints: [{address: 10.0.0.1}]"),
            "spec.workloadSelector: contradicts endpoints",
        ),
    ];
    let table: Vec<(&str, &str)> = table.iter().map(|(spec, expected)| (spec.as_str(), *expected)).collect();
    check_entries(&table);
}

#[test]
fn workload_entries_and_groups() {
    check(
        ALL[0],
        "WorkloadEntry",
        &[
            ("{address: 10.0.0.1, ports: {http: 80}, labels: {app: a}, serviceAccount: vm, weight: 3}", ""),
            ("{address: vm.example.org}", ""),
            ("{}", "spec.address: is required"),
            ("{address: 'unix:///a', ports: {http: 80}}", "spec.ports: have no meaning for a Unix socket"),
            ("{address: 'unix://a'}", "spec.address: the path of a Unix socket must be absolute"),
            ("{address: 10.0.0.1, labels: {'a b': c}}", "spec.labels[a b]: the key"),
            ("{address: 10.0.0.1, serviceAccount: 'a b'}", "spec.serviceAccount: \"a b\" must be a DNS name"),
        ],
    );
    check(
        ALL[0],
        "WorkloadGroup",
        &[
            ("{template: {serviceAccount: vm}}", ""),
            ("{template: {address: 10.0.0.1}}", "warning spec.template.address: has no effect"),
            ("{template: {}, metadata: {annotations: {a: b}}}", "warning spec.metadata.annotations: have no effect"),
            ("{template: {}, probe: {httpGet: {port: 80}}}", "warning spec.probe: has no effect"),
            ("{metadata: {labels: {app: a}}}", "spec.template: is required"),
            ("{template: {}, probe: {}}", "spec.probe: must have exactly one of httpGet"),
            ("{template: {}, probe: {httpGet: {port: 0}}}", "spec.probe.httpGet.port: is 0"),
            ("{template: {}, probe: {httpGet: {port: 80, scheme: FTP}}}", "spec.probe.httpGet.scheme: must be HTTP or HTTPS"),
            ("{template: {}, probe: {exec: {command: []}}}", "spec.probe.exec.command: must not be empty"),
            ("{template: {}, probe: {grpc: {port: 80}}}", "spec.probe.grpc: is refused by Istio too"),
            ("{template: {}, probe: {tcpSocket: {port: 80}, periodSeconds: -1}}", "spec.probe.periodSeconds: is -1"),
        ],
    );
}
