//! TLS for every part of Lateen: SPIFFE identities, certificates, trust bundles, the certificate authority and workload
//! tokens. The only crate that names a crypto provider; others get ready-made configurations and handshakes.
//!
//! - A [`WorkloadIdentity`] holds the key, the chain and the roots, in memory only. Replacing them changes what every
//!   configuration made from it does at its next handshake.
//! - [`ServerTls`] and [`ClientTls`] are such configurations; [`accept`] and [`connect`] run a handshake and tell who the peer
//!   is ([`PeerInfo`]).
//! - [`CertificateAuthority`] signs what [`WorkloadKey::signing_request`] asks for, after a [`TokenVerifier`] has authenticated
//!   the workload.

mod ca;
mod ca_files;
mod certificate;
mod config;
mod csr;
mod expectation;
mod handshake;
mod identity_store;
mod pem;
mod provider;
mod rotation;
mod session;
mod token;
mod trust_bundle;
mod verify;

pub use ca::{CaError, CaErrorClass, CertificateAuthority, IssuancePolicy};
pub use ca_files::{CaFilesError, RootOptions};
pub use certificate::{AltName, Certificate, CertificateError, MAX_CERTIFICATE_LEN, MAX_CHAIN_LEN, PrivateKey, chain_from_pem};
pub use config::{ClientAuth, ClientParams, ClientTls, ServerParams, ServerTls, TlsConfigError};
pub use csr::{CsrError, WorkloadKey};
pub use expectation::PeerExpectation;
pub use handshake::{ClientStream, ConnectOptions, HandshakeError, PeerInfo, ServerStream, accept, connect};
pub use identity_store::{Credential, CredentialHandle, WorkloadIdentity};
pub use provider::TlsParamsError;
pub use rotation::RotationPolicy;
pub use rustls_pki_types::ServerName;
pub use token::{
    AuthenticatedWorkload, MAX_TOKEN_LEN, PodReference, ServiceAccount, TOKEN_LEEWAY, TokenError, TokenIssuer, TokenRequest,
    TokenVerifier,
};
pub use trust_bundle::{TrustBundle, TrustBundleError, TrustHandle};
pub use verify::{PeerPolicy, PeerRole, VerifyError};
