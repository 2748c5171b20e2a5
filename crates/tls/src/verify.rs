//! Verification of peers: the chain by `rustls-webpki`, the identity by us, against roots that may be replaced at any time.
//!
//! A resumed TLS session is accepted by rustls without asking a verifier again: the server restores the client's certificates
//! from the ticket, the client those of the remembered session. So every handshake, resumed or not, ends with
//! [`PeerPolicy::confirm`], which refuses a peer that would not pass now. For a peer that just passed, it is a look-up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_model::identity::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptionsBuilder, UnknownStatusPolicy};

use crate::certificate::{Certificate, CertificateError, MAX_CHAIN_LEN, sha256};
use crate::expectation::PeerExpectation;
use crate::provider;
use crate::trust_bundle::{TrustBundle, TrustHandle};

/// Why a peer's certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// There are no roots yet: nothing can be trusted.
    #[error("no trust bundle has been loaded yet")]
    NotReady,
    /// The peer sent no certificate although one is required.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// Past its last moment.
    #[error("the peer's certificate, or one of its issuers, has expired")]
    Expired,
    /// Before its first moment. The clocks of the two machines may differ.
    #[error("the peer's certificate, or one of its issuers, is not valid yet")]
    NotYetValid,
    /// No chain leads to one of the roots.
    #[error("no chain leads from the peer's certificate to a trusted root")]
    UnknownIssuer,
    /// The extended key usage does not allow this side of TLS, or a CA certificate was presented.
    #[error("the peer's certificate is not meant for this use")]
    WrongUsage,
    /// On a certificate revocation list.
    #[error("the peer's certificate, or one of its issuers, has been revoked")]
    Revoked,
    /// Lists are given, but none that is valid covers the certificate.
    #[error("no valid certificate revocation list covers the peer's certificate")]
    RevocationUnknown,
    /// Not a certificate, or one with rules or algorithms that are not supported.
    #[error("the peer's certificate cannot be used: {0}")]
    Malformed(String),
    /// The chain is good, the names are not.
    #[error("the peer's certificate: {0}")]
    BadNames(CertificateError),
    /// The chain is good, but there is no SPIFFE identity.
    #[error("the peer's certificate holds no SPIFFE identity")]
    NoIdentity,
    /// An identity of a foreign trust domain.
    #[error("{0} is not in a trusted domain")]
    UnexpectedTrustDomain(SpiffeId),
    /// An identity other than those expected of this peer.
    #[error("{0} is not an identity that this service runs under")]
    UnexpectedIdentity(SpiffeId),
    /// None of the names is one of those expected.
    #[error("none of the names of the peer's certificate is one that is expected")]
    UnexpectedName,
}

impl VerifyError {
    /// Every value that [`reason`](Self::reason) can have, for counters made in advance.
    pub const REASONS: [&'static str; 14] = [
        "trust_not_ready",
        "no_certificate",
        "expired",
        "not_yet_valid",
        "unknown_issuer",
        "wrong_usage",
        "revoked",
        "revocation_unknown",
        "malformed",
        "bad_names",
        "no_identity",
        "unexpected_trust_domain",
        "unexpected_identity",
        "unexpected_name",
    ];

    /// A short name of the cause, from a fixed set ([`REASONS`](Self::REASONS)): fit to be a metric label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotReady => "trust_not_ready",
            Self::NoCertificate => "no_certificate",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::WrongUsage => "wrong_usage",
            Self::Revoked => "revoked",
            Self::RevocationUnknown => "revocation_unknown",
            Self::Malformed(_) => "malformed",
            Self::BadNames(_) => "bad_names",
            Self::NoIdentity => "no_identity",
            Self::UnexpectedTrustDomain(_) => "unexpected_trust_domain",
            Self::UnexpectedIdentity(_) => "unexpected_identity",
            Self::UnexpectedName => "unexpected_name",
        }
    }

    /// Finds the cause in an error of rustls, if the peer's certificate was the cause.
    pub fn from_rustls(error: &rustls::Error) -> Option<Self> {
        use rustls::CertificateError as E;
        match error {
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            rustls::Error::InvalidCertificate(cause) => Some(match cause {
                E::Expired | E::ExpiredContext { .. } => Self::Expired,
                E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
                E::UnknownIssuer => Self::UnknownIssuer,
                E::Revoked => Self::Revoked,
                E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::WrongUsage,
                E::Other(OtherError(other)) => match other.downcast_ref::<Self>() {
                    Some(own) => own.clone(),
                    None => Self::Malformed(other.to_string()),
                },
                other => Self::Malformed(format!("{other:?}")),
            }),
            _ => None,
        }
    }

    /// The error of rustls that makes it send the fitting alert (RFC 8446, section 6.2).
    fn into_rustls(self) -> rustls::Error {
        use rustls::CertificateError as E;
        rustls::Error::InvalidCertificate(match self {
            Self::Expired => E::Expired,
            Self::NotYetValid => E::NotValidYet,
            Self::UnknownIssuer => E::UnknownIssuer,
            Self::WrongUsage => E::InvalidPurpose,
            Self::Revoked => E::Revoked,
            other => E::Other(OtherError(Arc::new(other))),
        })
    }
}

impl From<webpki::Error> for VerifyError {
    fn from(error: webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::CertExpired { .. } | E::InvalidCertValidity => Self::Expired,
            E::CertNotValidYet { .. } => Self::NotYetValid,
            // A root of the same name with another key is not the issuer either.
            E::UnknownIssuer | E::InvalidSignatureForPublicKey => Self::UnknownIssuer,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension | E::CaUsedAsEndEntity | E::EndEntityUsedAsCa => {
                Self::WrongUsage
            }
            E::CertRevoked => Self::Revoked,
            E::UnknownRevocationStatus | E::CrlExpired { .. } | E::InvalidCrlSignatureForPublicKey | E::IssuerNotCrlSigner => {
                Self::RevocationUnknown
            }
            other => Self::Malformed(other.to_string()),
        }
    }
}

/// Which side of TLS the peer is on, which decides the extended key usage that its certificate needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    /// The peer opened the connection.
    Client,
    /// The peer accepted the connection.
    Server,
}

/// Decides about peers of one role: chain, then names. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PeerPolicy {
    trust: TrustHandle,
    expectation: PeerExpectation,
    role: PeerRole,
}

impl PeerPolicy {
    /// A policy that verifies against whatever bundle `trust` holds at that time.
    pub fn new(trust: TrustHandle, expectation: PeerExpectation, role: PeerRole) -> Self {
        Self { trust, expectation, role }
    }

    /// Who is expected.
    pub fn expectation(&self) -> &PeerExpectation {
        &self.expectation
    }

    /// Whether nothing about the peer is verified.
    pub fn is_unverified(&self) -> bool {
        self.expectation == PeerExpectation::Unverified
    }

    pub(crate) fn trust(&self) -> &TrustHandle {
        &self.trust
    }

    /// Verifies a chain, leaf first, and the leaf's names, as of `now`.
    ///
    /// # Errors
    /// Every [`VerifyError`] but `NoCertificate`.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
        server_name: Option<&ServerName<'_>>,
    ) -> Result<Arc<Certificate>, VerifyError> {
        let certificate = if self.is_unverified() {
            Arc::new(Certificate::parse(leaf).map_err(malformed_or_bad_names)?)
        } else {
            let bundle = self.trust.load().ok_or(VerifyError::NotReady)?;
            self.verify_chain(&bundle, leaf, intermediates, now)?
        };
        self.expectation.check(&certificate, server_name)?;
        Ok(certificate)
    }

    /// The last word on a peer after a handshake: passes if it passes now. `chain` is what the TLS session holds.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), and [`VerifyError::NoCertificate`] for an empty chain.
    pub fn confirm(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
        server_name: Option<&ServerName<'_>>,
    ) -> Result<Arc<Certificate>, VerifyError> {
        let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
        let bundle = self.trust.load();
        let known = bundle.and_then(|b| self.trust.verified().find(&sha256(leaf), &b, self.role, now));
        match known {
            Some(certificate) => self.expectation.check(&certificate, server_name).map(|()| certificate),
            None => self.verify(leaf, intermediates, now, server_name),
        }
    }

    fn verify_chain(
        &self,
        bundle: &TrustBundle,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Arc<Certificate>, VerifyError> {
        if intermediates.len() >= MAX_CHAIN_LEN {
            return Err(VerifyError::Malformed(CertificateError::ChainTooLong.to_string()));
        }
        let entity = EndEntityCert::try_from(leaf)?;
        let crls: Vec<_> = bundle.crls().iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            options.with_status_policy(UnknownStatusPolicy::Deny).with_expiration_policy(ExpirationPolicy::Enforce).build()
        });
        let usage = match self.role {
            PeerRole::Client => KeyUsage::client_auth(),
            PeerRole::Server => KeyUsage::server_auth(),
        };
        entity.verify_for_usage(
            provider::signature_algorithms().all,
            bundle.anchors(),
            intermediates,
            unix_time(now),
            usage,
            revocation,
            None,
        )?;
        let certificate = Arc::new(Certificate::parse(leaf).map_err(malformed_or_bad_names)?);
        // With revocation lists the answer can change before the certificate ends, so nothing is remembered.
        if bundle.crls().is_empty() {
            self.trust.verified().remember(&certificate, bundle, self.role, intermediates);
        }
        Ok(certificate)
    }
}

fn malformed_or_bad_names(error: CertificateError) -> VerifyError {
    match error {
        CertificateError::Encoding(_) | CertificateError::TooLarge(_) => VerifyError::Malformed(error.to_string()),
        names => VerifyError::BadNames(names),
    }
}

/// Certificates that have passed chain verification lately, so that the end of a handshake need not parse and verify again.
#[derive(Debug, Default)]
pub(crate) struct VerifiedPeers(Mutex<VecDeque<VerifiedPeer>>);

#[derive(Debug)]
struct VerifiedPeer {
    certificate: Arc<Certificate>,
    bundle: [u8; 32],
    role: PeerRole,
    /// The first moment at which the leaf and all intermediates that came with it are valid.
    from: SystemTime,
    /// The last such moment.
    until: SystemTime,
}

impl VerifiedPeers {
    /// Some 500 bytes each; a handshake looks at all of them.
    const CAPACITY: usize = 64;

    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = VecDeque::new();
    }

    fn find(&self, leaf: &[u8; 32], bundle: &TrustBundle, role: PeerRole, now: SystemTime) -> Option<Arc<Certificate>> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = peers.iter().rev().find(|p| {
            p.certificate.fingerprint() == leaf
                && p.role == role
                && p.bundle == *bundle.fingerprint()
                && (p.from..=p.until).contains(&now)
        })?;
        Some(Arc::clone(&found.certificate))
    }

    fn remember(&self, leaf: &Arc<Certificate>, bundle: &TrustBundle, role: PeerRole, intermediates: &[CertificateDer<'_>]) {
        let (mut from, mut until) = (leaf.not_before(), leaf.not_after());
        for der in intermediates {
            // Extra certificates that cannot be read may not have been needed; without their dates, do not remember.
            let Ok(issuer) = Certificate::parse(der) else { return };
            from = from.max(issuer.not_before());
            until = until.min(issuer.not_after());
        }
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|p| p.certificate.fingerprint() != leaf.fingerprint() || p.role != role);
        if peers.len() == Self::CAPACITY {
            peers.pop_front();
        }
        let certificate = Arc::clone(leaf);
        peers.push_back(VerifiedPeer { certificate, bundle: *bundle.fingerprint(), role, from, until });
    }
}

/// What rustls asks when we are the client.
#[derive(Debug)]
pub(crate) struct ServerVerifier(pub(crate) PeerPolicy);

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.0.verify(end_entity, intermediates, from_unix_time(now), Some(server_name));
        verdict.map(|_| ServerCertVerified::assertion()).map_err(VerifyError::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, provider::signature_algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, provider::signature_algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::signature_algorithms().supported_schemes()
    }
}

/// What rustls asks when we are the server.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(crate) policy: PeerPolicy,
    pub(crate) mandatory: bool,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Roots change while configurations stay, and clients of a mesh have one certificate: no hints.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verdict = self.policy.verify(end_entity, intermediates, from_unix_time(now), None);
        verdict.map(|_| ClientCertVerified::assertion()).map_err(VerifyError::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, provider::signature_algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, provider::signature_algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::signature_algorithms().supported_schemes()
    }
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

fn from_unix_time(time: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

#[cfg(test)]
mod tests {
    use lateen_model::identity::TrustDomain;

    use super::*;
    use crate::{CertificateAuthority, WorkloadKey, chain_from_pem};

    /// A verification that began before the roots were replaced, and ends after: its result must not count for the new ones.
    #[test]
    fn a_peer_remembered_under_old_roots_is_unknown_under_new_ones() {
        let authority = || CertificateAuthority::in_memory(&TrustDomain::default(), Duration::from_secs(3600)).unwrap();
        let (old, new) = (authority(), authority());
        let id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b").unwrap();
        let csr = WorkloadKey::generate().unwrap().signing_request(&id).unwrap();
        let chain = chain_from_pem(old.sign(&csr, &id, Duration::ZERO).unwrap()[0].as_bytes()).unwrap();
        let leaf = Arc::new(Certificate::parse(&chain[0]).unwrap());

        let trust = TrustHandle::new(old.trust_bundle());
        let policy = PeerPolicy::new(trust.clone(), PeerExpectation::AnyInTrustBundle, PeerRole::Client);
        let before = trust.load().unwrap();
        trust.replace(new.trust_bundle());
        trust.verified().remember(&leaf, &before, PeerRole::Client, &[]);
        assert_eq!(policy.confirm(&chain, SystemTime::now(), None), Err(VerifyError::UnknownIssuer));
        // Neither does having passed as a client count for a server.
        let now = trust.load().unwrap();
        trust.verified().remember(&leaf, &now, PeerRole::Server, &[]);
        assert_eq!(policy.confirm(&chain, SystemTime::now(), None), Err(VerifyError::UnknownIssuer));
        trust.verified().remember(&leaf, &now, PeerRole::Client, &[]);
        assert!(policy.confirm(&chain, SystemTime::now(), None).is_ok(), "what is remembered counts");
    }

    #[test]
    fn every_reason_is_listed() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b").unwrap();
        let all = [
            VerifyError::NotReady,
            VerifyError::NoCertificate,
            VerifyError::Expired,
            VerifyError::NotYetValid,
            VerifyError::UnknownIssuer,
            VerifyError::WrongUsage,
            VerifyError::Revoked,
            VerifyError::RevocationUnknown,
            VerifyError::Malformed(String::new()),
            VerifyError::BadNames(CertificateError::IdentityNotFirst),
            VerifyError::NoIdentity,
            VerifyError::UnexpectedTrustDomain(id.clone()),
            VerifyError::UnexpectedIdentity(id),
            VerifyError::UnexpectedName,
        ];
        assert_eq!(all.each_ref().map(VerifyError::reason), VerifyError::REASONS);
        for error in all {
            assert_eq!(VerifyError::from_rustls(&error.clone().into_rustls()).as_ref(), Some(&error));
        }
    }
}
