//! What makes a Gateway valid: Istio's own rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::tls_check::check_tls;
use super::{Gateway, GatewayHost, GatewayPort, Server, ServerProtocol};
use crate::resource::check::{self, report_at};
use crate::resource::selector::validate_istio_labels;
use crate::resource::{Issues, shorten};

impl Gateway {
    /// Finds what Istio's validation would refuse or warn about.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("metadata", |issues| report_at(issues, "name", check::dns_label(&self.metadata.name)));
        issues.field("spec", |issues| {
            issues.field("selector", |issues| validate_istio_labels(&self.spec.selector, issues));
            if self.spec.servers.is_empty() {
                issues.error_at("servers", "must not be empty: a Gateway without servers opens no port");
            }
            let mut names = BTreeSet::new();
            issues.each("servers", &self.spec.servers, |issues, server| {
                check_server(server, issues);
                let name = server.port.as_ref().map(|port| port.name.as_str()).filter(|name| !name.is_empty());
                if name.is_some_and(|name| !names.insert(name)) {
                    issues.field("port", |issues| issues.error_at("name", "is used by an earlier server: names must differ"));
                }
            });
        });
    }
}

fn check_server(server: &Server, issues: &mut Issues) {
    if server.hosts.is_empty() {
        issues.error_at("hosts", "must not be empty; \"*\" is every host");
    }
    issues.each("hosts", &server.hosts, |issues, host| {
        if let Err(text) = GatewayHost::parse(host) {
            issues.error(text);
        }
    });
    let is_socket = server.bind.starts_with("unix://");
    if !server.bind.is_empty() && !is_socket && server.bind.parse::<IpAddr>().is_err() {
        issues.error_at("bind", format!("{:?} must be an IP address or unix:///PATH", shorten(&server.bind)));
    }
    if is_socket && !server.bind["unix://".len()..].starts_with('/') {
        issues.error_at("bind", "a Unix socket must be given by its absolute path, as unix:///PATH");
    }
    if !server.default_endpoint.is_empty() {
        issues.warn_at("defaultEndpoint", "has no effect");
    }
    if !server.name.is_empty() {
        issues.warn_at("name", "has no effect: it would name statistics that there are none of");
    }
    match &server.port {
        None => issues.error_at("port", "is required"),
        Some(port) => {
            issues.field("port", |issues| check_port(port, is_socket, issues));
            if let Some(protocol) = port.protocol() {
                check_tls_presence(server, protocol, issues);
            }
        }
    }
}

fn check_port(port: &GatewayPort, is_socket: bool, issues: &mut Issues) {
    match (is_socket, port.number) {
        (true, 0) => {}
        (true, _) => issues.error_at("number", "must be 0 for a Unix socket"),
        (false, number) => report_at(issues, "number", check::port(number.into())),
    }
    issues.require("name", &port.name);
    if issues.require("protocol", &port.protocol) && port.protocol().is_none() {
        let known = ServerProtocol::NAMES.join(", ");
        issues.error_at("protocol", format!("{:?} is not one of {known}", shorten(&port.protocol)));
    }
    if port.target_port.is_some_and(|target| target > 0) {
        issues.error_at("targetPort", "must not be set: the Service in front of the gateway says which port of the pod it means");
    }
}

fn check_tls_presence(server: &Server, protocol: ServerProtocol, issues: &mut Issues) {
    match (&server.tls, protocol.is_tls()) {
        (None, true) => issues.error_at("tls", "is required for the protocols HTTPS and TLS"),
        (Some(tls), true) => issues.field("tls", |issues| check_tls(tls, protocol, issues)),
        (Some(tls), false) => issues.field("tls", |issues| {
            let bare = super::ServerTlsSettings { https_redirect: tls.https_redirect, ..Default::default() };
            if *tls != bare {
                issues.error("only httpsRedirect is allowed where the protocol is neither HTTPS nor TLS");
            }
            if tls.https_redirect && protocol != ServerProtocol::Http {
                issues.warn_at("httpsRedirect", "has no effect: only HTTP can be redirected");
            }
        }),
        (None, false) => {}
    }
}
