//! TLS between sidecars.

use super::mtls::{self, Mode};
use super::secret::{CA_SUFFIX, CONFIG_MAP, KUBERNETES};
use crate::names;
use crate::world::{Service, ServiceEndpoints, World};
use lateen_model::dataplane::{
    DownstreamTls, SecretRef, SecretSource, StringMatch, TlsMode, TlsParams, TlsVersion, TransportSocket, TransportSocketMatch,
    UpstreamTls,
};
use lateen_model::resource::{
    ClientTlsMode, ClientTlsSettings, ServerTlsMode, ServerTlsSettings, TlsProtocolVersion, is_cipher_suite,
};
use std::collections::BTreeSet;

/// ALPN of an opaque stream between sidecars, with metadata exchange.
pub const PEER_EXCHANGE: &str = "istio-peer-exchange";
/// ALPN of any connection between sidecars.
pub const ISTIO: &str = "istio";
/// ALPNs of HTTP between sidecars.
pub const ISTIO_HTTP: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// All ALPNs by which a sidecar is known.
pub fn istio_alpns() -> Vec<String> {
    [ISTIO, PEER_EXCHANGE].into_iter().chain(ISTIO_HTTP).map(str::to_owned).collect()
}

/// Versions and cipher suites between sidecars (`MeshConfig.meshMTLS`).
fn mesh_params(world: &World) -> TlsParams {
    let default = || {
        [
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "AES256-GCM-SHA384",
            "AES128-GCM-SHA256",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let (min, suites) = super::mesh::mtls_params(world.mesh());
    TlsParams { min, cipher_suites: suites.unwrap_or_else(default), ..TlsParams::default() }
}

/// How a sidecar accepts mutual TLS. Only identities of the mesh's trust domain and its aliases get in.
pub fn inbound(world: &World, alpn: &[&str]) -> DownstreamTls {
    let domains = super::mesh::trust_domains(world.mesh());
    DownstreamTls {
        params: mesh_params(world),
        alpn: alpn.iter().map(|s| (*s).to_owned()).collect(),
        certificate: SecretRef::workload_certificate(),
        client_roots: Some(SecretRef::workload_roots()),
        client_sans: domains.map(|td| StringMatch::prefix(format!("spiffe://{td}/"))).collect(),
        require_client_certificate: true,
        crl_file: None,
    }
}

/// How a gateway ends TLS, as a server's settings say.
pub fn gateway(world: &World, settings: Option<&ServerTlsSettings>, alpn: &[&str]) -> DownstreamTls {
    let Some(settings) = settings.filter(|s| s.mode != ServerTlsMode::IstioMutual) else {
        let mut tls = inbound(world, alpn);
        let names = settings.map(|s| s.subject_alt_names.as_slice()).unwrap_or_default();
        if !names.is_empty() {
            tls.client_sans = names.iter().map(StringMatch::exact).collect();
        }
        return tls;
    };
    let secret = |name: &str| {
        let bare = name.strip_prefix(KUBERNETES).unwrap_or(name);
        let scheme = if name.starts_with(CONFIG_MAP) { "" } else { KUBERNETES };
        SecretRef { name: format!("{scheme}{bare}"), source: SecretSource::Ads }
    };
    let files = settings.files();
    let certificate = match (settings.credential(), files) {
        (None, Some((certificate, key))) => SecretRef::file_certificate(certificate, key),
        (credential, _) => secret(credential.unwrap_or_default()),
    };
    let of_secret = |name: &str| secret(&format!("{name}{CA_SUFFIX}"));
    let roots = match (settings.ca_cert_credential_name.as_str(), settings.credential()) {
        ("", Some(credential)) => of_secret(credential),
        ("", None) => SecretRef::file_roots(&settings.ca_certificates),
        (name, _) => of_secret(name),
    };
    let asks = settings.mode.asks_clients();
    let version = |written: TlsProtocolVersion, default: TlsVersion| match written {
        TlsProtocolVersion::V1_3 => TlsVersion::V1_3,
        TlsProtocolVersion::V1_2 => TlsVersion::V1_2,
        TlsProtocolVersion::Auto | TlsProtocolVersion::V1_0 | TlsProtocolVersion::V1_1 => default,
    };
    let mut cipher_suites: Vec<String> = Vec::new();
    for suite in settings.cipher_suites.iter().filter(|s| is_cipher_suite(s)) {
        if !cipher_suites.contains(suite) {
            cipher_suites.push(suite.clone());
        }
    }
    DownstreamTls {
        params: TlsParams {
            min: version(settings.min_protocol_version, TlsVersion::V1_2),
            max: version(settings.max_protocol_version, TlsVersion::V1_3),
            cipher_suites,
        },
        alpn: alpn.iter().map(|s| (*s).to_owned()).collect(),
        certificate,
        client_roots: asks.then_some(roots),
        crl_file: Some(settings.ca_crl.clone()).filter(|path| asks && !path.is_empty()),
        client_sans: match asks {
            true => settings.subject_alt_names.iter().map(StringMatch::exact).collect(),
            false => Vec::new(),
        },
        require_client_certificate: settings.mode == ServerTlsMode::Mutual,
    }
}

/// One cluster, as far as TLS goes.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a> {
    /// The service.
    pub service: &'a Service,
    /// Whether connections go where the client wanted to go.
    pub passthrough: bool,
    /// Its endpoints.
    pub endpoints: Option<&'a ServiceEndpoints>,
    /// The service's port.
    pub port: u16,
    /// Empty for the whole service.
    pub subset: &'a str,
    /// Whether HTTP/2 is spoken for sure.
    pub http2: bool,
    /// What the DestinationRule says.
    pub settings: Option<&'a ClientTlsSettings>,
    /// Whether the proxy may name Secrets of its namespace: a gateway, or a workload that the rule selects.
    pub own_secrets: bool,
}

/// How bytes travel to a service.
pub fn outbound(world: &World, upstream: &Upstream<'_>) -> TransportSocket {
    match upstream.settings.map(|s| s.mode) {
        Some(ClientTlsMode::IstioMutual) => TransportSocket::Tls(Box::new(mutual(world, upstream))),
        Some(ClientTlsMode::Simple | ClientTlsMode::Mutual) => {
            TransportSocket::Tls(Box::new(super::external::origination(upstream)))
        }
        Some(ClientTlsMode::Disable) => TransportSocket::Plaintext,
        None => automatic(world, upstream),
    }
}

/// Mutual TLS where the endpoint can do it (`MeshConfig.enableAutoMtls`).
fn automatic(world: &World, upstream: &Upstream<'_>) -> TransportSocket {
    if upstream.service.is_external() || !super::mesh::auto_mtls(world.mesh()) || inferred_mode(world, upstream) == Mode::Disable
    {
        return TransportSocket::Plaintext;
    }
    let tls = Box::new(mutual(world, upstream));
    if upstream.passthrough || upstream.service.is_passthrough() {
        // The endpoint is whatever address the client called, so that there is no metadata to choose by.
        return TransportSocket::Tls(tls);
    }
    TransportSocket::ByEndpoint(vec![
        TransportSocketMatch { name: "tlsMode-istio".into(), tls_mode: Some(TlsMode::Istio), tls: Some(tls) },
        TransportSocketMatch { name: "tlsMode-disabled".into(), tls_mode: None, tls: None },
    ])
}

/// What clients guess that the service accepts.
fn inferred_mode(world: &World, upstream: &Upstream<'_>) -> Mode {
    if upstream.service.is_passthrough() {
        let pods = upstream.endpoints.map(|e| e.pods.as_slice()).unwrap_or_default();
        if pods.is_empty() || pods.iter().any(|p| !p.workload.speaks_mtls()) {
            return Mode::Disable;
        }
    }
    mtls::namespace_mode(world, &upstream.service.namespace)
}

fn mutual(world: &World, upstream: &Upstream<'_>) -> UpstreamTls {
    let Upstream { service, port, subset, settings, .. } = *upstream;
    let written = settings.map(|s| s.sni.as_str()).filter(|sni| !sni.is_empty());
    let mut alpn = vec![PEER_EXCHANGE.to_owned(), ISTIO.to_owned()];
    if upstream.http2 {
        alpn.push("h2".to_owned());
    }
    UpstreamTls {
        params: TlsParams { cipher_suites: Vec::new(), ..mesh_params(world) },
        alpn,
        sni: written.map_or_else(|| names::mtls_sni(port, subset, &service.host), str::to_owned),
        certificate: Some(SecretRef::workload_certificate()),
        roots: Some(SecretRef::workload_roots()),
        sans: server_sans(world, upstream),
        crl_file: None,
    }
}

/// Who the server may be: what the rule says, else the accounts of all known endpoints, under each name of the trust
/// domain. None at all (there is no endpoint) is no check.
fn server_sans(world: &World, upstream: &Upstream<'_>) -> Vec<StringMatch> {
    let written = upstream.settings.map(|s| s.subject_alt_names.as_slice()).unwrap_or_default();
    if !written.is_empty() {
        return written.iter().map(StringMatch::exact).collect();
    }
    let mut sans: BTreeSet<String> = upstream.service.accounts.iter().cloned().collect();
    let accounts = upstream.endpoints.map(|e| e.accounts.as_slice()).unwrap_or_default();
    for domain in super::mesh::trust_domains(world.mesh()) {
        for account in accounts {
            sans.insert(format!("spiffe://{domain}/ns/{}/sa/{account}", upstream.service.namespace));
        }
    }
    sans.into_iter().map(StringMatch::exact).collect()
}
