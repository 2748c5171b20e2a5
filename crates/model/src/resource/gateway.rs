//! `networking.istio.io Gateway`: which ports a gateway's proxy opens, for which hosts, and with which TLS.

use serde::{Deserialize, Serialize};

use super::meta::{Object, StringMap};

mod host;
mod tls_check;
mod unsupported;
mod validate;

pub use host::{GatewayHost, GatewayHostNamespace};
pub use tls_check::{CIPHER_SUITES, is_cipher_suite};

/// Which ports a gateway's proxy opens.
pub type Gateway = Object<GatewaySpec>;

/// Istio's `Gateway` message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewaySpec {
    /// What is served; at least one.
    pub servers: Vec<Server>,
    /// Labels of the proxies' pods, in any namespace; empty: every gateway proxy.
    pub selector: StringMap,
}

/// One port and the hosts that are served on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Server {
    /// The port as clients know it: that of the Service in front, which leads to the proxy's own.
    pub port: Option<GatewayPort>,
    /// An address of the pod to listen on; empty: all.
    pub bind: String,
    /// Hosts, each `NAME` or `NAMESPACE/NAME`; see [`GatewayHost`].
    pub hosts: Vec<String>,
    /// TLS; required for the protocols HTTPS and TLS.
    pub tls: Option<ServerTlsSettings>,
    /// Has no effect in Istio either.
    pub default_endpoint: String,
    /// A name for statistics.
    pub name: String,
}

/// The port of a [`Server`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayPort {
    /// 1 to 65535.
    pub number: u32,
    /// See [`ServerProtocol`].
    pub protocol: String,
    /// Unique within the Gateway.
    pub name: String,
    /// Deprecated; must not be set.
    pub target_port: Option<u32>,
}

impl GatewayPort {
    /// The number; `None` for what validation refuses.
    pub fn number(&self) -> Option<u16> {
        u16::try_from(self.number).ok().filter(|number| *number != 0)
    }

    /// The protocol; `None` for what validation refuses.
    pub fn protocol(&self) -> Option<ServerProtocol> {
        ServerProtocol::parse(&self.protocol)
    }
}

/// What is spoken on a port of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerProtocol {
    /// HTTP without TLS, of any version (`HTTP`, `HTTP2`, `GRPC`, `GRPC-WEB`).
    Http,
    /// HTTP inside of TLS.
    Https,
    /// Bytes inside of TLS.
    Tls,
    /// Bytes (`TCP`, `MONGO`, `MYSQL`, `REDIS`).
    Tcp,
}

impl ServerProtocol {
    /// The names that are known, in upper case.
    pub const NAMES: [&'static str; 10] = ["HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTPS", "TLS", "TCP", "MONGO", "MYSQL", "REDIS"];

    /// Reads a name without regard to case.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_uppercase().as_str() {
            "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => Self::Http,
            "HTTPS" => Self::Https,
            "TLS" => Self::Tls,
            "TCP" | "MONGO" | "MYSQL" | "REDIS" => Self::Tcp,
            _ => return None,
        })
    }

    /// Whether connections begin with a TLS handshake.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

/// TLS of a [`Server`] (Istio's `ServerTLSSettings`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerTlsSettings {
    /// Answers plain requests with 301 to the same URL with `https`.
    pub https_redirect: bool,
    /// Who ends TLS, and whether clients show certificates.
    pub mode: ServerTlsMode,
    /// A file in the proxy's container: the certificate, PEM, with those that vouch for it.
    pub server_certificate: String,
    /// A file in the proxy's container: its key.
    pub private_key: String,
    /// A file in the proxy's container: the roots that clients are verified against, where no Secret gives them.
    pub ca_certificates: String,
    /// A file in the proxy's container: certificates that are revoked; a Secret has them under `ca.crl`.
    pub ca_crl: String,
    /// A Secret in the namespace of the proxy's pod.
    pub credential_name: String,
    /// One or two Secrets; two are not supported yet.
    pub credential_names: Vec<String>,
    /// A Secret with the roots that clients are verified against, in place of those of `credentialName`.
    pub ca_cert_credential_name: String,
    /// Files in the proxy's container, of one or two certificates; two are not supported yet.
    pub tls_certificates: Vec<ServerCertificateFiles>,
    /// Names of which a client's certificate must have one.
    pub subject_alt_names: Vec<String>,
    /// Not supported yet.
    pub verify_certificate_spki: Vec<String>,
    /// Not supported yet.
    pub verify_certificate_hash: Vec<String>,
    /// The lowest version; TLS 1.2 if nothing is said.
    pub min_protocol_version: TlsProtocolVersion,
    /// The highest version; TLS 1.3 if nothing is said.
    pub max_protocol_version: TlsProtocolVersion,
    /// TLS 1.2 suites in OpenSSL's names; unknown ones are left out, with a warning.
    pub cipher_suites: Vec<String>,
    /// Not supported yet.
    pub insecure_skip_verify: Option<bool>,
}

impl ServerTlsSettings {
    /// The files with the server's certificate and its key, if they are named.
    pub fn files(&self) -> Option<(&str, &str)> {
        match self.tls_certificates.first() {
            _ if !self.server_certificate.is_empty() => Some((&self.server_certificate, &self.private_key)),
            Some(files) => Some((&files.server_certificate, &files.private_key)),
            None => None,
        }
    }

    /// The Secret with the server's certificate, if one is named.
    pub fn credential(&self) -> Option<&str> {
        let first = Some(self.credential_name.as_str()).filter(|name| !name.is_empty());
        first.or_else(|| self.credential_names.first().map(String::as_str))
    }
}

/// A certificate of a server in files (Istio's `ServerTLSSettings.TLSCertificate`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerCertificateFiles {
    /// The certificate, PEM, with those that vouch for it.
    pub server_certificate: String,
    /// Its key.
    pub private_key: String,
    /// The roots that clients are verified against: those of the server's `caCertificates` hold, this has no effect.
    pub ca_certificates: String,
}

/// Who ends TLS, and whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    /// The server behind; routes go by SNI.
    #[default]
    Passthrough,
    /// The gateway.
    Simple,
    /// The gateway, and clients must show a certificate.
    Mutual,
    /// The server behind, which the SNI alone names (`outbound_.PORT_.SUBSET_.HOST`).
    AutoPassthrough,
    /// The gateway with the mesh's own certificates, and clients must show theirs.
    IstioMutual,
    /// The gateway, and clients may show a certificate.
    OptionalMutual,
}

impl ServerTlsMode {
    /// Whether the gateway ends TLS.
    pub fn terminates(self) -> bool {
        !matches!(self, Self::Passthrough | Self::AutoPassthrough)
    }

    /// Whether clients are asked for a certificate.
    pub fn asks_clients(self) -> bool {
        matches!(self, Self::Mutual | Self::OptionalMutual | Self::IstioMutual)
    }
}

/// A TLS version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsProtocolVersion {
    /// The default.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// Not supported.
    #[serde(rename = "TLSV1_0")]
    V1_0,
    /// Not supported.
    #[serde(rename = "TLSV1_1")]
    V1_1,
    /// RFC 5246.
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// RFC 8446.
    #[serde(rename = "TLSV1_3")]
    V1_3,
}
