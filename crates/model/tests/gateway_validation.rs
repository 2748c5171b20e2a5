//! Istio's rules for Gateways, one line for each.

mod common;

use common::{check, findings_of};

const NETWORKING: &str = "networking.istio.io/v1";

/// A table whose left sides are single servers.
fn check_servers(table: &[(&str, &str)]) {
    let specs: Vec<(String, &str)> =
        table.iter().map(|(server, expected)| (format!("{{selector: {{istio: x}}, servers: [{server}]}}"), *expected)).collect();
    let table: Vec<(&str, &str)> = specs.iter().map(|(spec, expected)| (spec.as_str(), *expected)).collect();
    check(NETWORKING, "Gateway", &table);
}

#[test]
fn shape() {
    check_servers(&[
        ("{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}", ""),
        ("{port: {number: 80, name: a, protocol: grpc-web}, hosts: [a.com, './b.com', 'ns/*.c.com', '*/*']}", ""),
        ("{port: {number: 80, name: a, protocol: HTTP}}", "spec.servers[0].hosts: must not be empty"),
        ("{port: {number: 80, name: a, protocol: HTTP}, hosts: ['a b']}", "spec.servers[0].hosts[0]: "),
        (
            "{port: {number: 80, name: a, protocol: HTTP}, hosts: ['A B/a.com']}",
            "spec.servers[0].hosts[0]: \"A B/a.com\" must be",
        ),
        ("{hosts: ['*']}", "spec.servers[0].port: is required"),
        ("{port: {number: 0, name: a, protocol: HTTP}, hosts: ['*']}", "spec.servers[0].port.number: is 0"),
        ("{port: {number: 70000, name: a, protocol: HTTP}, hosts: ['*']}", "spec.servers[0].port.number: is 70000"),
        ("{port: {number: 80, protocol: HTTP}, hosts: ['*']}", "spec.servers[0].port.name: is required"),
        ("{port: {number: 80, name: a}, hosts: ['*']}", "spec.servers[0].port.protocol: is required"),
        (
            "{port: {number: 80, name: a, protocol: QUIC}, hosts: ['*']}",
            "spec.servers[0].port.protocol: \"QUIC\" is not one of HTTP",
        ),
        (
            "{port: {number: 80, name: a, protocol: HTTP, targetPort: 1}, hosts: ['*']}",
            "spec.servers[0].port.targetPort: must not",
        ),
        ("{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*'], bind: x}", "spec.servers[0].bind: \"x\" must be an IP"),
        ("{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*'], bind: 10.0.0.1}", ""),
        (
            "{port: {number: 0, name: a, protocol: HTTP}, hosts: ['*'], bind: 'unix:///a'}",
            "spec.servers[0].bind: Unix sockets are not",
        ),
        (
            "{port: {number: 0, name: a, protocol: HTTP}, hosts: ['*'], bind: 'unix://a'}",
            "spec.servers[0].bind: a Unix socket must",
        ),
        (
            "{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*'], defaultEndpoint: x}",
            "warning spec.servers[0].defaultEndpoint",
        ),
        (
            "{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}, {port: {number: 81, name: a, protocol: HTTP}, hosts: ['*']}",
            "spec.servers[1].port.name: is used by an earlier server",
        ),
    ]);
    check(NETWORKING, "Gateway", &[("{selector: {a: b}}", "spec.servers: must not be empty")]);
    check(NETWORKING, "Gateway", &[("{selector: {'*': b}, servers: []}", "spec.selector[*]: labels are compared exactly")]);
    let named = "apiVersion: networking.istio.io/v1beta1\nkind: Gateway\nmetadata: {name: a.b}\nspec: {servers: [{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}]}\n";
    assert!(findings_of(named)[0].starts_with("metadata.name: \"a.b\" must be a DNS label"), "{:?}", findings_of(named));
}

#[test]
fn tls() {
    let server = |protocol: &str, tls: &str| {
        format!(
            "{{selector: {{a: b}}, servers: [{{port: {{number: 443, name: a, protocol: {protocol}}}, hosts: [a.com], tls: {tls}}}]}}"
        )
    };
    for (protocol, tls, expected) in [
        ("HTTPS", "{mode: SIMPLE, credentialName: c}", ""),
        ("TLS", "{mode: MUTUAL, credentialName: c, subjectAltNames: [x]}", ""),
        ("TLS", "{mode: PASSTHROUGH}", ""),
        ("HTTPS", "{}", ""),
        ("TLS", "{mode: AUTO_PASSTHROUGH}", ""),
        ("HTTPS", "{mode: ISTIO_MUTUAL}", ""),
        ("HTTPS", "{mode: OPTIONAL_MUTUAL, credentialName: c, caCertCredentialName: d}", ""),
        ("HTTP", "{httpsRedirect: true}", ""),
        ("HTTPS", "null", "spec.servers[0].tls: is required"),
        ("HTTP", "{mode: SIMPLE, credentialName: c}", "spec.servers[0].tls: only httpsRedirect is allowed"),
        ("TCP", "{httpsRedirect: true}", "warning spec.servers[0].tls.httpsRedirect: has no effect"),
        ("HTTPS", "{mode: SIMPLE}", "spec.servers[0].tls: needs the server's certificate"),
        (
            "HTTPS",
            "{mode: SIMPLE, credentialName: c, credentialNames: [d]}",
            "spec.servers[0].tls.credentialNames: must not be set beside",
        ),
        ("HTTPS", "{mode: SIMPLE, credentialName: 'a b'}", "spec.servers[0].tls.credentialName: "),
        ("HTTPS", "{mode: SIMPLE, credentialNames: [a, b, c]}", "spec.servers[0].tls.credentialNames: must have one or two"),
        ("HTTPS", "{mode: SIMPLE, credentialNames: [a, b]}", "spec.servers[0].tls.credentialNames: a second certificate"),
        ("HTTPS", "{mode: SIMPLE, serverCertificate: a}", "spec.servers[0].tls: serverCertificate and privateKey belong"),
        ("HTTPS", "{mode: SIMPLE, serverCertificate: /a, privateKey: /b}", ""),
        ("HTTPS", "{mode: MUTUAL, serverCertificate: /a, privateKey: /b}", "spec.servers[0].tls.caCertificates: is required"),
        ("HTTPS", "{mode: MUTUAL, serverCertificate: /a, privateKey: /b, caCertificates: /c, caCrl: /d}", ""),
        ("HTTPS", "{mode: SIMPLE, tlsCertificates: [{serverCertificate: /a, privateKey: /b}]}", ""),
        (
            "HTTPS",
            "{mode: SIMPLE, tlsCertificates: [{serverCertificate: /a}]}",
            "spec.servers[0].tls.tlsCertificates[0]: needs serverCertificate and privateKey",
        ),
        (
            "HTTPS",
            "{mode: SIMPLE, tlsCertificates: [{serverCertificate: /a, privateKey: /b}, {serverCertificate: /c, privateKey: /d}]}",
            "spec.servers[0].tls.tlsCertificates: a second certificate",
        ),
        (
            "HTTPS",
            "{mode: MUTUAL, serverCertificate: /a, privateKey: /b, caCertCredentialName: c, caCrl: /d}",
            "spec.servers[0].tls.caCrl: must not be set beside caCertCredentialName",
        ),
        (
            "HTTPS",
            "{mode: MUTUAL, credentialName: c, caCertificates: /c}",
            "warning spec.servers[0].tls.caCertificates: has no effect",
        ),
        ("HTTPS", "{mode: SIMPLE, credentialName: c, caCrl: x}", "spec.servers[0].tls.caCrl: has no meaning with SIMPLE"),
        (
            "HTTPS",
            "{mode: MUTUAL, credentialName: c, caCrl: x}",
            "spec.servers[0].tls.caCrl: must not be set beside credentialName",
        ),
        (
            "HTTPS",
            "{mode: ISTIO_MUTUAL, credentialName: c}",
            "spec.servers[0].tls.credentialName: must not be set with ISTIO_MUTUAL",
        ),
        ("TLS", "{mode: PASSTHROUGH, credentialName: c}", "warning spec.servers[0].tls.credentialName: has no effect"),
        ("HTTPS", "{mode: AUTO_PASSTHROUGH}", "spec.servers[0].tls.mode: AUTO_PASSTHROUGH does not read HTTP"),
        (
            "HTTPS",
            "{mode: SIMPLE, credentialName: c, cipherSuites: [x]}",
            "warning spec.servers[0].tls.cipherSuites[0]: \"x\" is not known",
        ),
        (
            "HTTPS",
            "{mode: SIMPLE, credentialName: c, cipherSuites: [AES128-SHA, AES128-SHA]}",
            "warning spec.servers[0].tls.cipherSuites[1]: AES128-SHA is listed twice",
        ),
        (
            "HTTPS",
            "{mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2}",
            "spec.servers[0].tls.minProtocolVersion: is above",
        ),
        (
            "HTTPS",
            "{mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_1}",
            "spec.servers[0].tls.minProtocolVersion: TLS before 1.2",
        ),
        (
            "HTTPS",
            "{mode: MUTUAL, credentialName: c, verifyCertificateHash: [x]}",
            "spec.servers[0].tls.verifyCertificateHash: is not supported",
        ),
        (
            "HTTPS",
            "{mode: MUTUAL, credentialName: c, insecureSkipVerify: true}",
            "spec.servers[0].tls.insecureSkipVerify: is not supported",
        ),
    ] {
        check(NETWORKING, "Gateway", &[(server(protocol, tls).as_str(), expected)]);
    }
    let partial = server("TLS", "{mode: PASSTHROUGH}").replace("[a.com]", "['*a.com']");
    check(NETWORKING, "Gateway", &[(partial.as_str(), "spec.servers[0].hosts[0]: TLS server names are matched by whole labels")]);
}
