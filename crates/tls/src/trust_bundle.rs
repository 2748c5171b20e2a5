//! The roots that peers are verified against.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use crate::certificate::{CertificateError, sha256};
use crate::verify::VerifiedPeers;

/// Why roots were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustBundleError {
    /// The PEM text holds no usable certificates.
    #[error("trust bundle: {0}")]
    Certificate(#[from] CertificateError),
    /// One of the certificates cannot be a root.
    #[error("trust bundle: certificate {index} (counted from 0) cannot be a trust anchor: {reason}")]
    Anchor {
        /// Which certificate of the bundle.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate revocation list is broken.
    #[error("trust bundle: certificate revocation list {index} (counted from 0): {reason}")]
    RevocationList {
        /// Which list.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// The most roots of a bundle: several times what operating systems trust.
const MAX_ROOTS: usize = 1024;

/// The certificates of a bundle, which may be many more than those of a chain.
fn bundle_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut ders = Vec::new();
    for item in CertificateDer::pem_slice_iter(pem) {
        if ders.len() == MAX_ROOTS {
            return Err(CertificateError::ChainTooLong);
        }
        ders.push(item.map_err(|e| CertificateError::Pem(e.to_string()))?);
    }
    if ders.is_empty() { Err(CertificateError::NoCertificate) } else { Ok(ders) }
}

/// One generation of roots: immutable, and shared behind an [`Arc`]. Several roots are normal while one replaces another.
pub struct TrustBundle {
    anchors: Vec<TrustAnchor<'static>>,
    crls: Vec<CertRevocationList<'static>>,
    pem: Arc<str>,
    fingerprint: [u8; 32],
}

impl TrustBundle {
    /// Reads all roots of a PEM text.
    ///
    /// # Errors
    /// A text without a certificate, and any certificate that cannot be a trust anchor: a bundle is accepted whole or not.
    pub fn from_pem(roots: &[u8]) -> Result<Self, TrustBundleError> {
        Self::from_pem_with_crls(roots, &[])
    }

    /// Like [`from_pem`](Self::from_pem), with certificate revocation lists in PEM, which may be empty. With any list given,
    /// each certificate of a chain must be covered by one (`trusted_ca` and `crl` of Envoy's `CertificateValidationContext`).
    pub fn from_pem_with_crls(roots: &[u8], crls: &[u8]) -> Result<Self, TrustBundleError> {
        Self::from_ders(&bundle_from_pem(roots)?, crls)
    }

    fn from_ders(ders: &[CertificateDer<'static>], crls: &[u8]) -> Result<Self, TrustBundleError> {
        let mut anchors = Vec::with_capacity(ders.len());
        for (index, der) in ders.iter().enumerate() {
            let anchor =
                webpki::anchor_from_trusted_cert(der).map_err(|e| TrustBundleError::Anchor { index, reason: e.to_string() })?;
            anchors.push(anchor.to_owned());
        }
        let mut lists = Vec::new();
        let mut hashed = Vec::new();
        for (index, item) in CertificateRevocationListDer::pem_slice_iter(crls).enumerate() {
            let fail = |reason: String| TrustBundleError::RevocationList { index, reason };
            let der = item.map_err(|e| fail(e.to_string()))?;
            hashed.extend_from_slice(&sha256(&der));
            lists.push(OwnedCertRevocationList::from_der(&der).map_err(|e| fail(e.to_string()))?.into());
        }
        Ok(Self { anchors, crls: lists, pem: canonical_pem(ders).into(), fingerprint: fingerprint(ders, &hashed) })
    }

    /// Like [`from_pem_with_crls`](Self::from_pem_with_crls), without those certificates that cannot be a root: the operating
    /// system's bundle holds what others collected, and one odd entry must not cost all the others.
    ///
    /// # Errors
    /// No usable certificate at all, or a broken revocation list.
    pub fn from_system(roots: &[u8], crls: &[u8]) -> Result<Self, TrustBundleError> {
        let readable = CertificateDer::pem_slice_iter(roots).take(MAX_ROOTS).flatten();
        let usable: Vec<_> = readable.filter(|der| webpki::anchor_from_trusted_cert(der).is_ok()).collect();
        if usable.is_empty() {
            return Err(CertificateError::NoCertificate.into());
        }
        Self::from_ders(&usable, crls)
    }

    /// The roots as PEM, one block after another.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// How many roots there are; at least one.
    pub fn root_count(&self) -> usize {
        self.anchors.len()
    }

    /// Equal for bundles of equal contents, whatever the order and the spelling of the PEM.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub(crate) fn crls(&self) -> &[CertRevocationList<'static>] {
        &self.crls
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustBundle({} roots)", self.anchors.len())
    }
}

/// A place that holds the current bundle. Clones share it: replacing the bundle changes the decision of every verifier made
/// from it at its next handshake, without a new configuration.
#[derive(Clone, Debug)]
pub struct TrustHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bundle: ArcSwapOption<TrustBundle>,
    verified: VerifiedPeers,
}

impl TrustHandle {
    /// A handle without roots: every verification fails until there are some.
    pub fn empty() -> Self {
        Self(Arc::new(Shared { bundle: ArcSwapOption::empty(), verified: VerifiedPeers::default() }))
    }

    /// A handle that holds `bundle`.
    pub fn new(bundle: TrustBundle) -> Self {
        let handle = Self::empty();
        handle.replace(bundle);
        handle
    }

    /// The current bundle, if there is one.
    pub fn load(&self) -> Option<Arc<TrustBundle>> {
        self.0.bundle.load_full()
    }

    /// Puts a bundle in force; answers whether its contents differ from the one before. Peers that were verified against the
    /// old one are forgotten.
    pub fn replace(&self, bundle: TrustBundle) -> bool {
        let changed = self.load().is_none_or(|old| old.fingerprint != bundle.fingerprint);
        self.0.bundle.store(Some(Arc::new(bundle)));
        if changed {
            self.0.verified.clear();
        }
        changed
    }

    pub(crate) fn verified(&self) -> &VerifiedPeers {
        &self.0.verified
    }
}

fn fingerprint(ders: &[CertificateDer<'_>], extra: &[u8]) -> [u8; 32] {
    let mut hashes: Vec<[u8; 32]> = ders.iter().map(|d| sha256(d)).collect();
    hashes.sort_unstable();
    hashes.dedup();
    let mut all = hashes.concat();
    all.extend_from_slice(extra);
    sha256(&all)
}

fn canonical_pem(ders: &[CertificateDer<'_>]) -> String {
    ders.iter().map(|der| crate::pem::encode("CERTIFICATE", der)).collect()
}
