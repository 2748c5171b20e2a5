//! Certificates and roots that the control plane hands out (SDS).

use serde::Serialize;
use std::fmt;

/// A secret (`envoy.extensions.transport_sockets.tls.v3.Secret`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// The resource's name.
    pub name: String,
    /// What it holds.
    pub kind: SecretKind,
}

/// What a secret holds. Its `Debug` form never shows a key.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretKind {
    /// A certificate chain and its key, both PEM.
    Certificate {
        /// Leaf first.
        chain_pem: Vec<u8>,
        /// PKCS#8 or SEC1.
        private_key_pem: Vec<u8>,
    },
    /// Roots, PEM.
    Roots {
        /// One or more certificates.
        trusted_ca_pem: Vec<u8>,
        /// Revocation lists, PEM; may be empty.
        crl_pem: Vec<u8>,
    },
}

impl fmt::Debug for SecretKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate { chain_pem, .. } => write!(f, "Certificate({} bytes of chain, key hidden)", chain_pem.len()),
            Self::Roots { trusted_ca_pem, crl_pem } => {
                write!(f, "Roots({} bytes, {} bytes of CRL)", trusted_ca_pem.len(), crl_pem.len())
            }
        }
    }
}
