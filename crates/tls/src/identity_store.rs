//! The certificate, key and roots of one workload: in memory only, replaceable while connections are being made.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error as RustlsError, InconsistentKeys, SignatureScheme};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use crate::certificate::{Certificate, CertificateError, PrivateKey, chain_from_pem};
use crate::csr::WorkloadKey;
use crate::trust_bundle::{TrustBundle, TrustBundleError, TrustHandle};

/// One generation of a certificate chain and its key. The key is overwritten when the last user drops it, and is never printed.
pub struct Credential {
    key: Arc<CertifiedKey>,
    leaf: Arc<Certificate>,
    obtained: SystemTime,
}

impl Credential {
    /// Puts a chain (leaf first) and its key together, both PEM.
    ///
    /// # Errors
    /// Unreadable parts, a leaf with bad names, and a key of another certificate.
    pub fn from_pem(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, CertificateError> {
        let signing_key = PrivateKey::from_pem(key_pem)?.signing_key()?;
        Self::build(chain_from_pem(chain_pem)?, signing_key)
    }

    /// Puts a chain (PEM, leaf first) and the key that it was asked for with together.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem).
    pub fn from_issued(chain_pem: &[u8], key: &WorkloadKey) -> Result<Self, CertificateError> {
        Self::build(chain_from_pem(chain_pem)?, key.signing_key()?)
    }

    /// Takes the answer of `IstioCertificateService` apart: the leaf and its intermediates come first, the roots last
    /// (`IstioCertificateResponse.cert_chain`).
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem) and [`TrustBundle::from_pem`]; an answer of fewer than two elements has no leaf or no root.
    pub fn from_ca_response(cert_chain: &[String], key: &WorkloadKey) -> Result<(Self, TrustBundle), TrustBundleError> {
        let (roots, chain) = cert_chain.split_last().ok_or(CertificateError::NoCertificate)?;
        let credential = Self::from_issued(chain.concat().as_bytes(), key)?;
        Ok((credential, TrustBundle::from_pem(roots.as_bytes())?))
    }

    fn build(
        chain: Vec<CertificateDer<'static>>,
        signing_key: Arc<dyn rustls::sign::SigningKey>,
    ) -> Result<Self, CertificateError> {
        let leaf = Arc::new(Certificate::parse(chain.first().ok_or(CertificateError::NoCertificate)?)?);
        let key = CertifiedKey::new(chain, signing_key);
        match key.keys_match() {
            Ok(()) => Ok(Self { key: Arc::new(key), leaf, obtained: SystemTime::now() }),
            Err(RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(CertificateError::KeyMismatch),
            Err(other) => Err(CertificateError::Key(other.to_string())),
        }
    }

    /// The leaf certificate.
    pub fn leaf(&self) -> &Arc<Certificate> {
        &self.leaf
    }

    /// The chain as PEM, leaf first, without the root.
    pub fn chain_pem(&self) -> String {
        self.key.cert.iter().map(|der| crate::pem::encode("CERTIFICATE", der)).collect()
    }

    /// When it was put together. Rotation counts the lifetime from here, because `notBefore` lies in the past on purpose.
    pub fn obtained(&self) -> SystemTime {
        self.obtained
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

/// A place that holds the current credential. Clones share it; without one, handshakes that need it fail.
#[derive(Clone, Debug)]
pub struct CredentialHandle(Arc<ArcSwapOption<Credential>>);

impl CredentialHandle {
    /// A handle without a credential.
    pub fn empty() -> Self {
        Self(Arc::new(ArcSwapOption::empty()))
    }

    /// A handle that holds `credential`.
    pub fn new(credential: Credential) -> Self {
        Self(Arc::new(ArcSwapOption::from_pointee(credential)))
    }

    /// The current credential, if there is one.
    pub fn load(&self) -> Option<Arc<Credential>> {
        self.0.load_full()
    }

    /// Puts a credential in force for all handshakes from now on. Connections that are open stay as they are.
    pub fn replace(&self, credential: Credential) {
        self.0.store(Some(Arc::new(credential)));
    }
}

/// What rustls asks for our certificate, on either side.
#[derive(Debug)]
pub(crate) struct CredentialResolver(pub(crate) CredentialHandle);

impl ResolvesServerCert for CredentialResolver {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().map(|c| Arc::clone(&c.key))
    }
}

impl ResolvesClientCert for CredentialResolver {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // Istio's servers send no hints, and a workload has one certificate: there is nothing to choose.
        self.0.load().map(|c| Arc::clone(&c.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The identity of one workload: its [`Credential`] and its roots. Clones share both.
///
/// A new identity is not ready: handshakes with it fail until both have been installed.
#[derive(Clone, Debug)]
pub struct WorkloadIdentity {
    credential: CredentialHandle,
    trust: TrustHandle,
    generation: Arc<watch::Sender<u64>>,
}

impl Default for WorkloadIdentity {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkloadIdentity {
    /// An identity that is not ready.
    pub fn new() -> Self {
        let (generation, _) = watch::channel(0);
        Self { credential: CredentialHandle::empty(), trust: TrustHandle::empty(), generation: Arc::new(generation) }
    }

    /// Puts a new chain and key in force.
    pub fn install(&self, credential: Credential) {
        self.credential.replace(credential);
        self.generation.send_modify(|n| *n += 1);
    }

    /// Puts new roots in force. Sessions made under other roots are not resumed.
    pub fn install_trust(&self, bundle: TrustBundle) {
        if self.trust.replace(bundle) {
            self.generation.send_modify(|n| *n += 1);
        }
    }

    /// The credential's place, for configurations.
    pub fn credential(&self) -> &CredentialHandle {
        &self.credential
    }

    /// The roots' place, for configurations.
    pub fn trust(&self) -> &TrustHandle {
        &self.trust
    }

    /// Whether there are a credential and roots.
    pub fn is_ready(&self) -> bool {
        self.credential.load().is_some() && self.trust.load().is_some()
    }

    /// Waits until [`is_ready`](Self::is_ready).
    pub async fn ready(&self) {
        let mut changes = self.generation.subscribe();
        while !self.is_ready() {
            if changes.changed().await.is_err() {
                // The sender lives in `self`.
                return;
            }
        }
    }

    /// A receiver that sees a change of its number at each installation, e.g. to push an `SDS` update.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}
