//! TLS on both sides of a proxy (`envoy.extensions.transport_sockets.tls.v3`).

use super::matcher::StringMatch;
use serde::Serialize;

/// Where a secret comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// The workload's own identity: the key is made by the proxy (or its agent) and never crosses the network (`sds-grpc`).
    Workload,
    /// The control plane, over ADS.
    Ads,
}

/// The name of a secret and where it comes from (`SdsSecretConfig`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct SecretRef {
    /// e.g. `default`, `ROOTCA`, `kubernetes://name`.
    pub name: String,
    /// Who serves it.
    pub source: SecretSource,
}

impl SecretRef {
    /// The workload's own certificate, `default`.
    pub fn workload_certificate() -> Self {
        Self { name: "default".into(), source: SecretSource::Workload }
    }

    /// The mesh's roots, `ROOTCA`.
    pub fn workload_roots() -> Self {
        Self { name: "ROOTCA".into(), source: SecretSource::Workload }
    }

    /// A certificate and a key from the workload's files, as Istio names them.
    pub fn file_certificate(certificate: &str, key: &str) -> Self {
        Self { name: format!("file-cert:{certificate}~{key}"), source: SecretSource::Workload }
    }

    /// Roots from a file of the workload.
    pub fn file_roots(path: &str) -> Self {
        Self { name: format!("file-root:{path}"), source: SecretSource::Workload }
    }

    /// The roots that the operating system trusts.
    pub fn system_roots() -> Self {
        Self::file_roots(Self::SYSTEM)
    }

    /// Stands for the operating system's roots in place of a path.
    pub const SYSTEM: &'static str = "system";
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// Versions and cipher suites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsParams {
    /// The lowest version.
    pub min: TlsVersion,
    /// The highest version.
    pub max: TlsVersion,
    /// TLS 1.2 suites in OpenSSL's names; empty is the default. Has no effect on TLS 1.3.
    pub cipher_suites: Vec<String>,
}

impl Default for TlsParams {
    fn default() -> Self {
        Self { min: TlsVersion::V1_2, max: TlsVersion::V1_3, cipher_suites: Vec::new() }
    }
}

/// TLS towards clients (`DownstreamTlsContext`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DownstreamTls {
    /// Versions and suites.
    pub params: TlsParams,
    /// Protocols offered, best first.
    pub alpn: Vec<String>,
    /// The server's certificate.
    pub certificate: SecretRef,
    /// The roots that clients are verified against; `None` does not ask for a client certificate.
    pub client_roots: Option<SecretRef>,
    /// What a SAN of the client must match, any of them, a URI where the text has `://`, else a DNS name; empty accepts each that chains to the roots.
    pub client_sans: Vec<StringMatch>,
    /// Whether a client without a certificate is refused.
    pub require_client_certificate: bool,
    /// A file of certificate revocation lists, PEM, for what the roots vouch for; only with `client_roots`.
    pub crl_file: Option<String>,
}

/// TLS towards upstreams (`UpstreamTlsContext`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamTls {
    /// Versions and suites.
    pub params: TlsParams,
    /// Protocols offered, best first.
    pub alpn: Vec<String>,
    /// The SNI; empty sends none.
    pub sni: String,
    /// The client's certificate; `None` sends none.
    pub certificate: Option<SecretRef>,
    /// The roots that the server is verified against; `None` does not verify.
    pub roots: Option<SecretRef>,
    /// What the server's SAN must match, any of them; empty accepts each that chains to the roots.
    pub sans: Vec<StringMatch>,
    /// A file of certificate revocation lists, PEM, for what the roots vouch for; only with `roots`.
    pub crl_file: Option<String>,
}
