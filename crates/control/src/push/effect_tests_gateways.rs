//! Gateways, and routes for connections.

use super::{Changes, LATER, Message, Nothing, Refused, check, keys};
use lateen_model::resource as r;

#[test]
fn gateways() {
    const SECRET: super::Fate = Refused("must not be set beside credentialName");
    check(&Message {
        name: "Gateway",
        keys: keys::<r::GatewaySpec>(),
        kind: "Gateway",
        spec: "{servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: ['*']}] @}",
        rows: &[("servers", "", Nothing("the base has it")), ("selector", ", selector: {app: other}", Changes)],
    });
    check(&Message {
        name: "Server",
        keys: keys::<r::Server>(),
        kind: "Gateway",
        spec: "{servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: ['*'] @}]}",
        rows: &[
            ("port", "", Nothing("the base has it")),
            ("bind", ", bind: 10.0.0.1", Changes),
            ("hosts", "", Nothing("the base has it")),
            ("tls", ", tls: {httpsRedirect: true}", Changes),
            ("defaultEndpoint", ", defaultEndpoint: '127.0.0.1:1'", Nothing("as a warning says")),
            ("name", ", name: x", Nothing("as a warning says")),
        ],
    });
    check(&Message {
        name: "Port",
        keys: keys::<r::GatewayPort>(),
        kind: "Gateway",
        spec: "{servers: [{port: {number: 80, name: p, protocol: HTTP @}, hosts: ['*']}]}",
        rows: &[
            ("number", "", Nothing("the base has it")),
            ("name", "", Nothing("the base has it")),
            ("protocol", "", Nothing("the base has it")),
            ("targetPort", ", targetPort: 1", Refused("must not be set")),
        ],
    });
    check(&Message {
        name: "ServerTLSSettings",
        keys: keys::<r::ServerTlsSettings>(),
        kind: "Gateway",
        spec: "{servers: [{port: {number: 443, name: p, protocol: HTTPS}, hosts: [x], tls: {mode: MUTUAL, credentialName: c @}}]}",
        rows: &[
            ("httpsRedirect", ", httpsRedirect: true", Nothing("as a warning says")),
            ("mode", "", Nothing("the base has it")),
            ("credentialName", "", Nothing("the base has it")),
            ("serverCertificate", ", serverCertificate: a, privateKey: b", SECRET),
            ("privateKey", ", privateKey: b", Refused("belong together")),
            ("caCertificates", ", caCertificates: a", Nothing("as a warning says")),
            ("caCrl", ", caCrl: a", SECRET),
            ("credentialNames", ", credentialNames: [d]", SECRET),
            ("caCertCredentialName", ", caCertCredentialName: d", Changes),
            ("tlsCertificates", ", tlsCertificates: [{serverCertificate: a, privateKey: b}]", SECRET),
            ("subjectAltNames", ", subjectAltNames: [x]", Changes),
            ("verifyCertificateSpki", ", verifyCertificateSpki: [x]", LATER),
            ("verifyCertificateHash", ", verifyCertificateHash: [x]", LATER),
            ("minProtocolVersion", ", minProtocolVersion: TLSV1_3", Changes),
            ("maxProtocolVersion", ", maxProtocolVersion: TLSV1_2", Changes),
            ("cipherSuites", ", cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]", Changes),
            ("insecureSkipVerify", ", insecureSkipVerify: true", LATER),
        ],
    });
}

#[test]
fn certificates_of_gateways_in_files() {
    const FILES: &str = "serverCertificate: /a, privateKey: /b";
    let spec = |tls: &str| {
        format!("{{servers: [{{port: {{number: 443, name: p, protocol: HTTPS}}, hosts: [x], tls: {{mode: MUTUAL, {tls}}}}}]}}")
    };
    let one = spec(&format!("caCertificates: /c, tlsCertificates: [{{{FILES} @}}]"));
    check(&Message {
        name: "ServerTLSSettings.TLSCertificate",
        keys: keys::<r::ServerCertificateFiles>(),
        kind: "Gateway",
        spec: &one,
        rows: &[
            ("serverCertificate", "", Nothing("the base has it")),
            ("privateKey", "", Nothing("the base has it")),
            ("caCertificates", ", caCertificates: /d", Nothing("as a warning says")),
        ],
    });
}

#[test]
fn routes_of_connections() {
    const TO: &str = "route: [{destination: {host: two}}]";
    let tls = format!("{{hosts: [one], tls: [{{match: [{{sniHosts: [one] @}}], {TO}}}]}}");
    check(&Message {
        name: "TLSMatchAttributes",
        keys: keys::<r::TlsMatchAttributes>(),
        kind: "VirtualService",
        spec: &tls,
        rows: &[
            ("sniHosts", "", Nothing("the base has it")),
            ("destinationSubnets", ", destinationSubnets: [10.0.0.0/8]", Changes),
            ("port", ", port: 1", Changes),
            ("sourceLabels", ", sourceLabels: {app: other}", Changes),
            ("gateways", ", gateways: [g]", Changes),
            ("sourceNamespace", ", sourceNamespace: other", Changes),
        ],
    });
    let tcp = format!("{{hosts: [one], tcp: [{{match: [{{port: 82 @}}], {TO}}}]}}");
    check(&Message {
        name: "L4MatchAttributes",
        keys: keys::<r::L4MatchAttributes>(),
        kind: "VirtualService",
        spec: &tcp,
        rows: &[
            ("port", "", Nothing("the base has it")),
            ("destinationSubnets", ", destinationSubnets: [10.0.0.0/8]", Changes),
            ("sourceSubnet", ", sourceSubnet: 10.0.0.0/8", Nothing("accepted and unused")),
            ("sourceLabels", ", sourceLabels: {app: other}", Changes),
            ("gateways", ", gateways: [g]", Changes),
            ("sourceNamespace", ", sourceNamespace: other", Changes),
        ],
    });
    check(&Message {
        name: "RouteDestination",
        keys: keys::<r::RouteDestination>(),
        kind: "VirtualService",
        spec: "{hosts: [one], tcp: [{route: [{destination: {host: one}, weight: 1}, {destination: {host: two} @}]}]}",
        rows: &[("destination", "", Nothing("the base has it")), ("weight", ", weight: 1", Changes)],
    });
}
