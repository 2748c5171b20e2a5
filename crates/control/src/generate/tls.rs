//! TLS between sidecars.

use super::mtls::{self, Mode};
use crate::names;
use crate::world::{Service, ServiceEndpoints, World};
use lateen_model::dataplane::{
    DownstreamTls, SecretRef, StringMatch, TlsMode, TlsParams, TransportSocket, TransportSocketMatch, UpstreamTls,
};
use lateen_model::resource::{ClientTlsMode, ClientTlsSettings};
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
    }
}

/// One cluster, as far as TLS goes.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a> {
    /// The service.
    pub service: &'a Service,
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
}

/// How bytes travel to a service.
pub fn outbound(world: &World, upstream: &Upstream<'_>) -> TransportSocket {
    match upstream.settings.map(|s| s.mode) {
        Some(ClientTlsMode::IstioMutual) => TransportSocket::Tls(Box::new(mutual(world, upstream))),
        // The rest is refused when it is read; plain text is what must not happen to it.
        Some(ClientTlsMode::Simple | ClientTlsMode::Mutual) => TransportSocket::Tls(Box::new(mutual(world, upstream))),
        Some(ClientTlsMode::Disable) => TransportSocket::Plaintext,
        None => automatic(world, upstream),
    }
}

/// Mutual TLS where the endpoint can do it (`MeshConfig.enableAutoMtls`).
fn automatic(world: &World, upstream: &Upstream<'_>) -> TransportSocket {
    if !super::mesh::auto_mtls(world.mesh()) || inferred_mode(world, upstream) == Mode::Disable {
        return TransportSocket::Plaintext;
    }
    let tls = Box::new(mutual(world, upstream));
    if upstream.service.headless {
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
    if upstream.service.headless {
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
