//! A workload's key and its certificate signing request, made in memory.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::pkcs8::Document;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use lateen_model::identity::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SanType, SignatureAlgorithm, SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::certificate::CertificateError;

/// Why a key or a request could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// The system gave no randomness, or no memory.
    #[error("a P-256 key could not be made")]
    KeyGeneration,
    /// The request could not be encoded.
    #[error("certificate signing request: {0}")]
    Encoding(String),
}

/// A P-256 key of a workload. It lives in this process's memory, is overwritten when it is dropped, and is never printed.
pub struct WorkloadKey {
    pair: EcdsaKeyPair,
    pkcs8: Document,
}

impl WorkloadKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`CsrError::KeyGeneration`].
    pub fn generate() -> Result<Self, CsrError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| CsrError::KeyGeneration)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| CsrError::KeyGeneration)?;
        Ok(Self { pair, pkcs8 })
    }

    /// A PKCS#10 request (PEM) for `identity`, without a subject, as Istio's agents send it.
    ///
    /// # Errors
    /// [`CsrError::Encoding`].
    pub fn signing_request(&self, identity: &SpiffeId) -> Result<String, CsrError> {
        let fail = |e: rcgen::Error| CsrError::Encoding(e.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.as_uri().try_into().map_err(fail)?)];
        params.serialize_request(self).and_then(|request| request.pem()).map_err(fail)
    }

    /// The key as PKCS#8 PEM, for handing it to an Envoy through SDS on a local socket. The text is overwritten when dropped.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(crate::pem::encode("PRIVATE KEY", self.pkcs8.as_ref()))
    }

    pub(crate) fn signing_key(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, CertificateError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.as_ref()));
        rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(|e| CertificateError::Key(e.to_string()))
    }
}

impl fmt::Debug for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkloadKey(hidden)")
    }
}

impl PublicKeyData for WorkloadKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for WorkloadKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_ref().to_vec())
    }
}
