//! What makes the TLS settings of a Gateway's server valid.

use std::collections::BTreeSet;

use super::{ServerProtocol, ServerTlsMode, ServerTlsSettings, TlsProtocolVersion};
use crate::resource::check::{self, report_at};
use crate::resource::{Issues, shorten};

/// The TLS 1.2 suites that Istio knows, in OpenSSL's names.
pub const CIPHER_SUITES: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

/// Whether Istio knows a suite.
pub fn is_cipher_suite(name: &str) -> bool {
    CIPHER_SUITES.contains(&name)
}

pub(super) fn check_tls(tls: &ServerTlsSettings, protocol: ServerProtocol, issues: &mut Issues) {
    check_cipher_suites(tls, issues);
    check_versions(tls, issues);
    if tls.https_redirect {
        issues.warn_at("httpsRedirect", "has no effect here: clients of this port speak TLS already");
    }
    if protocol == ServerProtocol::Https && tls.mode == ServerTlsMode::AutoPassthrough {
        issues.error_at("mode", "AUTO_PASSTHROUGH does not read HTTP: use the protocol TLS");
    }
    let sources = sources(tls);
    match tls.mode {
        ServerTlsMode::IstioMutual => {
            for key in sources.iter().copied().chain((!tls.ca_certificates.is_empty()).then_some("caCertificates")) {
                issues.error_at(key, "must not be set with ISTIO_MUTUAL, which uses the mesh's own certificates");
            }
        }
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            let roots = [("caCertificates", &tls.ca_certificates), ("caCertCredentialName", &tls.ca_cert_credential_name)];
            let roots = roots.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, _)| key);
            for key in sources.into_iter().chain(roots) {
                issues.warn_at(key, "has no effect where TLS passes through");
            }
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            check_sources(&sources, issues);
            check_names(tls, issues);
            if tls.mode.asks_clients() {
                check_roots(tls, issues);
            } else if !tls.ca_crl.is_empty() {
                issues.error_at("caCrl", "has no meaning with SIMPLE, where clients show no certificate");
            }
        }
    }
}

/// The fields that each give the server's certificate.
fn sources(tls: &ServerTlsSettings) -> Vec<&'static str> {
    let given = [
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !tls.credential_names.is_empty()),
        ("serverCertificate", !tls.server_certificate.is_empty() || !tls.private_key.is_empty()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
    ];
    given.into_iter().filter(|(_, set)| *set).map(|(key, _)| key).collect()
}

fn check_sources(sources: &[&'static str], issues: &mut Issues) {
    match sources {
        [] => issues.error("needs the server's certificate: set credentialName to the name of a Secret"),
        [_] => {}
        [first, rest @ ..] => {
            for key in rest {
                issues.error_at(key, format!("must not be set beside {first}: one of them gives the certificate"));
            }
        }
    }
}

fn check_names(tls: &ServerTlsSettings, issues: &mut Issues) {
    let valid = |name: &str| {
        let name = name.strip_prefix("kubernetes://").unwrap_or(name);
        check::dns_subdomain(name.rsplit('/').next().unwrap_or(name))
    };
    for (key, name) in [("credentialName", &tls.credential_name), ("caCertCredentialName", &tls.ca_cert_credential_name)] {
        if !name.is_empty() {
            report_at(issues, key, valid(name));
        }
    }
    if tls.credential_names.len() > 2 {
        issues.error_at("credentialNames", "must have one or two names: one certificate of each kind of key");
    }
    issues.each("credentialNames", &tls.credential_names, |issues, name| check::report(issues, valid(name)));
    if tls.server_certificate.is_empty() != tls.private_key.is_empty() {
        issues.error("serverCertificate and privateKey belong together: set both or none");
    }
    if tls.tls_certificates.len() > 2 {
        issues.error_at("tlsCertificates", "must have one or two: one certificate of each kind of key");
    }
    issues.each("tlsCertificates", &tls.tls_certificates, |issues, files| {
        if files.server_certificate.is_empty() || files.private_key.is_empty() {
            issues.error("needs serverCertificate and privateKey");
        }
        if !files.ca_certificates.is_empty() {
            issues.warn_at("caCertificates", "has no effect: caCertificates beside tlsCertificates has the roots for clients");
        }
    });
}

fn check_roots(tls: &ServerTlsSettings, issues: &mut Issues) {
    let from_secret = tls.credential().is_some() || !tls.ca_cert_credential_name.is_empty();
    if !from_secret && tls.ca_certificates.is_empty() {
        issues.error_at("caCertificates", "is required to verify clients, where no Secret gives the roots");
    }
    if from_secret && !tls.ca_certificates.is_empty() {
        issues.warn_at("caCertificates", "has no effect: a Secret gives the roots");
    }
    if tls.credential().is_none() && !tls.ca_cert_credential_name.is_empty() && !tls.ca_crl.is_empty() {
        issues.error_at("caCrl", "must not be set beside caCertCredentialName: the Secret's key ca.crl has the revocation lists");
    }
    if tls.credential().is_some() && !tls.ca_crl.is_empty() {
        issues.error_at("caCrl", "must not be set beside credentialName: the Secret's key ca.crl has the revocation lists");
    }
}

fn check_cipher_suites(tls: &ServerTlsSettings, issues: &mut Issues) {
    let mut seen = BTreeSet::new();
    issues.each("cipherSuites", &tls.cipher_suites, |issues, suite| {
        if !is_cipher_suite(suite) {
            issues.warn(format!("{:?} is not known and is left out; known are {}", shorten(suite), CIPHER_SUITES.join(", ")));
        } else if !seen.insert(suite) {
            issues.warn(format!("{suite} is listed twice"));
        }
    });
}

fn check_versions(tls: &ServerTlsSettings, issues: &mut Issues) {
    let (min, max) = (tls.min_protocol_version, tls.max_protocol_version);
    if min != TlsProtocolVersion::Auto && max != TlsProtocolVersion::Auto && min > max {
        issues.error_at("minProtocolVersion", "is above maxProtocolVersion");
    }
}
