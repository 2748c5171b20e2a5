//! TLS towards endpoints, and what goes before it on a connection.

use serde::{Deserialize, Serialize};

/// Istio's `ClientTLSSettings`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientTlsSettings {
    /// Which kind of TLS.
    pub mode: ClientTlsMode,
    /// For `MUTUAL`: the client's certificate, a file.
    pub client_certificate: String,
    /// For `MUTUAL`: the client's key, a file.
    pub private_key: String,
    /// For `SIMPLE` and `MUTUAL`: what the server's certificate is verified against, a file.
    pub ca_certificates: String,
    /// Names that the server's certificate may have.
    pub subject_alt_names: Vec<String>,
    /// The server name to ask for.
    pub sni: String,
    /// A Secret instead of files; for gateways. A sidecar verifies by the system's roots then.
    pub credential_name: String,
    /// Does not verify the server at all.
    pub insecure_skip_verify: Option<bool>,
    /// Revoked certificates, a file.
    pub ca_crl: String,
}

/// `mode` of [`ClientTlsSettings`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    /// Plain text.
    #[default]
    Disable,
    /// The server has a certificate.
    Simple,
    /// Both have one, from files.
    Mutual,
    /// Both have the mesh's own.
    IstioMutual,
}

/// A CONNECT tunnel through the destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TunnelSettings {
    /// `CONNECT` (the default) or `POST`.
    pub protocol: String,
    /// Where the tunnel leads.
    pub target_host: String,
    /// Where the tunnel leads.
    pub target_port: u32,
}

/// The PROXY protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Which version.
    pub version: ProxyProtocolVersion,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyProtocolVersion {
    /// Text.
    #[default]
    V1,
    /// Binary.
    V2,
}
