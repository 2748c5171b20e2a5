//! Configurations for servers and clients, made once and shared; what they read through handles may change under them.

use std::fmt;
use std::sync::Arc;

use lateen_model::dataplane::{TlsParams, TlsVersion};
use lateen_model::identity::TrustDomain;
use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use crate::expectation::PeerExpectation;
use crate::identity_store::{CredentialHandle, CredentialResolver, WorkloadIdentity};
use crate::provider::{self, TlsParamsError};
use crate::session::{EpochSessions, EpochSource, EpochTickets};
use crate::trust_bundle::TrustHandle;
use crate::verify::{ClientVerifier, PeerPolicy, PeerRole, ServerVerifier};

/// Why a configuration cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsConfigError {
    /// Versions or cipher suites.
    #[error(transparent)]
    Params(#[from] TlsParamsError),
    /// An ALPN protocol name must have 1 to 255 bytes (RFC 7301).
    #[error("ALPN protocol {0:?} is not 1 to 255 bytes long")]
    Alpn(String),
    /// A client that verifies the server's name must have one.
    #[error("the server's name is to be verified, but none is given")]
    NoServerName,
    /// A server cannot be told to accept any certificate as proof of anything.
    #[error("client certificates cannot be asked for without being verified")]
    UnverifiedClients,
    /// rustls refused the combination.
    #[error("TLS configuration: {0}")]
    Rustls(String),
}

impl From<rustls::Error> for TlsConfigError {
    fn from(error: rustls::Error) -> Self {
        Self::Rustls(error.to_string())
    }
}

/// Whether and how a server authenticates clients by certificate.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// Clients are not asked.
    None,
    /// Clients are asked; one without a certificate is let in unauthenticated, one with a bad certificate is refused
    /// (`VerifyClientCertIfGiven`, the control plane's rule).
    IfGiven(TrustHandle, PeerExpectation),
    /// Clients must have a certificate (`require_client_certificate`).
    Required(TrustHandle, PeerExpectation),
}

/// What a server configuration is made of.
#[derive(Clone, Debug)]
pub struct ServerParams {
    /// Our certificate and key; handshakes fail while there are none.
    pub credential: CredentialHandle,
    /// How clients are authenticated.
    pub client_auth: ClientAuth,
    /// Versions and cipher suites.
    pub params: TlsParams,
    /// Protocols, best first. A client that offers only others is served without ALPN, as by Envoy.
    pub alpn: Vec<String>,
}

impl ServerParams {
    /// A server of the mesh: clients must have an identity in one of `trust_domains`. Versions are Istio's, 1.2 to 1.3.
    pub fn mesh(identity: &WorkloadIdentity, trust_domains: &[TrustDomain]) -> Self {
        let expectation = PeerExpectation::TrustDomains(trust_domains.into());
        Self {
            credential: identity.credential().clone(),
            client_auth: ClientAuth::Required(identity.trust().clone(), expectation),
            params: TlsParams::default(),
            alpn: Vec::new(),
        }
    }
}

/// What a client configuration is made of.
#[derive(Clone, Debug)]
pub struct ClientParams {
    /// Our certificate and key; with `Some`, handshakes fail while the handle is empty. `None` sends no certificate.
    pub credential: Option<CredentialHandle>,
    /// The roots; handshakes fail while there are none, unless the server is not verified at all.
    pub trust: TrustHandle,
    /// Who the server has to be.
    pub expectation: PeerExpectation,
    /// Versions and cipher suites.
    pub params: TlsParams,
    /// Protocols that are offered, best first; a connection may override them.
    pub alpn: Vec<String>,
    /// The name that is sent as SNI, and verified with [`PeerExpectation::ServerName`]; a connection may override it.
    pub server_name: Option<ServerName<'static>>,
    /// With how many server names sessions are remembered for resumption; 0 turns resumption off.
    pub session_servers: usize,
}

impl ClientParams {
    /// A client of the mesh. Versions are Istio's, 1.2 to 1.3; between Lateen's proxies that is 1.3.
    pub fn mesh(identity: &WorkloadIdentity, expectation: PeerExpectation) -> Self {
        Self {
            credential: Some(identity.credential().clone()),
            trust: identity.trust().clone(),
            expectation,
            params: TlsParams::default(),
            alpn: Vec::new(),
            server_name: None,
            session_servers: 1,
        }
    }

    /// A client of an ordinary TLS server, e.g. the control plane: the server must have a certificate for `server_name`.
    pub fn server(trust: TrustHandle, server_name: ServerName<'static>) -> Self {
        Self {
            credential: None,
            trust,
            expectation: PeerExpectation::ServerName,
            params: TlsParams { min: TlsVersion::V1_2, max: TlsVersion::V1_3, cipher_suites: Vec::new() },
            alpn: Vec::new(),
            server_name: Some(server_name),
            session_servers: 1,
        }
    }
}

/// A server configuration. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
    /// For clients that offer only protocols that we do not have: rustls would refuse them, Envoy does not.
    pub(crate) without_alpn: Arc<ServerConfig>,
    pub(crate) credential: CredentialHandle,
    pub(crate) policy: Option<PeerPolicy>,
    pub(crate) client_required: bool,
}

impl ServerTls {
    /// Makes a configuration, with a ticket key of its own: a session of one listener is not resumed at another.
    pub fn new(params: ServerParams) -> Result<Self, TlsConfigError> {
        let alpn = alpn_protocols(&params.alpn)?;
        let (provider, versions) = provider::for_params(&params.params)?;
        let (policy, client_required) = match params.client_auth {
            ClientAuth::None => (None, false),
            ClientAuth::IfGiven(trust, expectation) => (Some(client_policy(trust, expectation)?), false),
            ClientAuth::Required(trust, expectation) => (Some(client_policy(trust, expectation)?), true),
        };
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions)?;
        let builder = match &policy {
            None => builder.with_client_cert_verifier(WebPkiClientVerifier::no_client_auth()),
            Some(policy) => {
                builder.with_client_cert_verifier(Arc::new(ClientVerifier { policy: policy.clone(), mandatory: client_required }))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(CredentialResolver(params.credential.clone())));
        let trust = policy.as_ref().map(|p| p.trust().clone());
        config.ticketer = Arc::new(EpochTickets::new(EpochSource { credential: Some(params.credential.clone()), trust })?);
        // Stateless tickets only: sessions cost the server no memory. One ticket a handshake keeps a client supplied.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        let without_alpn = Arc::new(config.clone());
        let config = if alpn.is_empty() {
            Arc::clone(&without_alpn)
        } else {
            config.alpn_protocols = alpn;
            Arc::new(config)
        };
        Ok(Self { config, without_alpn, credential: params.credential, policy, client_required })
    }
}

/// A client configuration. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) credential: Option<CredentialHandle>,
    pub(crate) policy: PeerPolicy,
    pub(crate) server_name: Option<ServerName<'static>>,
    /// The same without SNI, for connections that have no name to send.
    pub(crate) without_sni: Arc<ClientConfig>,
}

impl ClientTls {
    /// Makes a configuration.
    pub fn new(params: ClientParams) -> Result<Self, TlsConfigError> {
        let alpn = alpn_protocols(&params.alpn)?;
        let (provider, versions) = provider::for_params(&params.params)?;
        let policy = PeerPolicy::new(params.trust.clone(), params.expectation, PeerRole::Server);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .dangerous() // rustls's word for any verifier that is not its own
            .with_custom_certificate_verifier(Arc::new(ServerVerifier(policy.clone())));
        let mut config = match &params.credential {
            None => builder.with_no_client_auth(),
            Some(handle) => builder.with_client_cert_resolver(Arc::new(CredentialResolver(handle.clone()))),
        };
        config.alpn_protocols = alpn;
        config.resumption = if params.session_servers == 0 {
            Resumption::disabled()
        } else {
            let source = EpochSource { credential: params.credential.clone(), trust: Some(params.trust) };
            Resumption::store(Arc::new(EpochSessions::new(params.session_servers, source)))
        };
        let mut without_sni = config.clone();
        without_sni.enable_sni = false;
        let server_name = params.server_name;
        Ok(Self {
            config: Arc::new(config),
            credential: params.credential,
            policy,
            server_name,
            without_sni: Arc::new(without_sni),
        })
    }

    /// Whether it offers protocols by itself.
    #[must_use]
    pub fn offers_alpn(&self) -> bool {
        !self.config.alpn_protocols.is_empty()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = self.policy.as_ref().map(PeerPolicy::expectation);
        f.debug_struct("ServerTls").field("clients", &clients).field("required", &self.client_required).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.policy.expectation();
        f.debug_struct("ClientTls").field("server", server).field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

fn client_policy(trust: TrustHandle, expectation: PeerExpectation) -> Result<PeerPolicy, TlsConfigError> {
    match expectation {
        PeerExpectation::Unverified => Err(TlsConfigError::UnverifiedClients),
        // There is no name that a server could verify a client by.
        PeerExpectation::ServerName => Err(TlsConfigError::NoServerName),
        other => Ok(PeerPolicy::new(trust, other, PeerRole::Client)),
    }
}

fn alpn_protocols(names: &[String]) -> Result<Vec<Vec<u8>>, TlsConfigError> {
    let check = |name: &String| match name.len() {
        1..=255 => Ok(name.clone().into_bytes()),
        _ => Err(TlsConfigError::Alpn(name.chars().take(80).collect())),
    };
    names.iter().map(check).collect()
}
