//! Fields of a Gateway that Istio implements and this version does not yet.

use super::{Gateway, GatewayHost, Server, ServerTlsSettings, TlsProtocolVersion};
use crate::resource::{FieldIssue, Issues};

impl Gateway {
    /// Fields that are set and not implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| issues.each("servers", &self.spec.servers, server));
        issues.into_errors()
    }
}

fn server(issues: &mut Issues, server: &Server) {
    if server.bind.starts_with("unix://") {
        issues.error_at("bind", "Unix sockets are not supported by this version of Lateen; IP addresses are");
    }
    let Some(tls) = &server.tls else { return };
    if server.port.as_ref().and_then(super::GatewayPort::protocol).is_some_and(super::ServerProtocol::is_tls) {
        issues.each("hosts", &server.hosts, |issues, host| {
            let Ok(GatewayHost { host, .. }) = GatewayHost::parse(host) else { return };
            let suffix = host.as_str().strip_prefix('*');
            if suffix.is_some_and(|suffix| !suffix.is_empty() && !suffix.starts_with('.')) {
                issues.error("TLS server names are matched by whole labels: write \"*.NAME\"");
            }
        });
    }
    issues.field("tls", |issues| settings(issues, tls));
}

fn settings(issues: &mut Issues, tls: &ServerTlsSettings) {
    if tls.tls_certificates.len() > 1 {
        issues.error_at("tlsCertificates", "a second certificate is not supported by this version of Lateen: name one");
    }
    if tls.credential_names.len() > 1 {
        issues.error_at("credentialNames", "a second certificate is not supported by this version of Lateen: name one Secret");
    }
    issues.unsupported_if(!tls.verify_certificate_spki.is_empty(), "verifyCertificateSpki");
    issues.unsupported_if(!tls.verify_certificate_hash.is_empty(), "verifyCertificateHash");
    issues.unsupported_if(tls.insecure_skip_verify == Some(true), "insecureSkipVerify");
    for (key, version) in [("minProtocolVersion", tls.min_protocol_version), ("maxProtocolVersion", tls.max_protocol_version)] {
        if matches!(version, TlsProtocolVersion::V1_0 | TlsProtocolVersion::V1_1) {
            issues.error_at(key, "TLS before 1.2 is not supported: use TLSV1_2, TLSV1_3 or TLS_AUTO");
        }
    }
}
