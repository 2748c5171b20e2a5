//! The certificate authority of the mesh (Istio's citadel).
//!
//! It signs for the identity that the caller has authenticated, and for no other: names in a request are not copied into
//! certificates, and a request that names somebody else is refused.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use lateen_model::identity::{SpiffeId, TrustDomain};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber, SignatureAlgorithm, SigningKey, SubjectPublicKeyInfo,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::certificate::{AltName, Certificate, CertificateError, PrivateKey, chain_from_pem, convert_names};
use crate::csr::{CsrError, WorkloadKey};
use crate::expectation::PeerExpectation;
use crate::identity_store::Credential;
use crate::trust_bundle::{TrustBundle, TrustBundleError, TrustHandle};
use crate::verify::{PeerPolicy, PeerRole, VerifyError};

/// The largest request that is read, in bytes of PEM.
const MAX_REQUEST_LEN: usize = 64 * 1024;

/// How far `notBefore` lies in the past, for clocks that are slow (Istio: 2 minutes).
pub(crate) const BACKDATE: Duration = Duration::from_secs(120);

/// Lifetimes of the certificates that are issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IssuancePolicy {
    /// For requests that do not say (`DEFAULT_WORKLOAD_CERT_TTL`).
    pub default_ttl: Duration,
    /// Longer ones are refused (`MAX_WORKLOAD_CERT_TTL`).
    pub max_ttl: Duration,
}

impl Default for IssuancePolicy {
    /// Istio's: 24 hours, and 90 days.
    fn default() -> Self {
        Self { default_ttl: Duration::from_secs(24 * 3600), max_ttl: Duration::from_secs(90 * 24 * 3600) }
    }
}

/// Whose fault an error is, which decides the gRPC status of `IstioCertificateService`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaErrorClass {
    /// The request is wrong, and will be wrong again (`INVALID_ARGUMENT`).
    Request,
    /// The request names an identity that the caller has not (`PERMISSION_DENIED`).
    Identity,
    /// The authority cannot sign now (`UNAVAILABLE`).
    Unavailable,
    /// The authority is broken (`INTERNAL`).
    Internal,
}

/// Why nothing was signed, or why there is no authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// The request is not PKCS#10 in PEM, or its key is unusable.
    #[error("certificate signing request: {0}")]
    Request(String),
    /// The request is not signed by the key that it holds.
    #[error("certificate signing request: the signature is not by the key of the request")]
    RequestSignature,
    /// The request names another SPIFFE identity than that of the authenticated caller.
    #[error("certificate signing request for {requested:?}, but the caller is {authenticated}")]
    OtherIdentity {
        /// What the request names.
        requested: String,
        /// Who the caller is.
        authenticated: SpiffeId,
    },
    /// The lifetime asked for is above the maximum.
    #[error("a lifetime of {requested:?} was asked for, but the maximum is {max:?}")]
    TtlTooLong {
        /// What was asked for.
        requested: Duration,
        /// [`IssuancePolicy::max_ttl`].
        max: Duration,
    },
    /// The lifetime asked for ends after the authority's own certificate does.
    #[error("a lifetime of {requested:?} was asked for, but the authority's own certificate ends in {remaining:?}")]
    OutlivesAuthority {
        /// What was asked for.
        requested: Duration,
        /// The rest of the authority's life.
        remaining: Duration,
    },
    /// The authority's own certificate is not valid now.
    #[error("the authority's certificate has expired or is not valid yet")]
    AuthorityNotValid,
    /// The authority's certificate cannot be used as one.
    #[error("the authority's certificate: {0}")]
    Authority(String),
    /// The authority's key cannot be used.
    #[error("the authority's key: {0}")]
    AuthorityKey(String),
    /// Certificates signed by this authority do not verify against its roots.
    #[error("the authority's certificate, chain and roots do not fit together: {0}")]
    Unverifiable(VerifyError),
    /// The roots are unusable.
    #[error(transparent)]
    Roots(#[from] TrustBundleError),
    /// Encoding or signing failed.
    #[error("signing failed: {0}")]
    Signing(String),
}

impl CaError {
    /// Whose fault it is.
    pub const fn class(&self) -> CaErrorClass {
        match self {
            Self::Request(_) | Self::RequestSignature | Self::TtlTooLong { .. } | Self::OutlivesAuthority { .. } => {
                CaErrorClass::Request
            }
            Self::OtherIdentity { .. } => CaErrorClass::Identity,
            Self::AuthorityNotValid => CaErrorClass::Unavailable,
            Self::Authority(_) | Self::AuthorityKey(_) | Self::Unverifiable(_) | Self::Roots(_) | Self::Signing(_) => {
                CaErrorClass::Internal
            }
        }
    }
}

impl From<CertificateError> for CaError {
    fn from(error: CertificateError) -> Self {
        Self::Authority(error.to_string())
    }
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Signing(error.to_string())
    }
}

impl From<CsrError> for CaError {
    fn from(error: CsrError) -> Self {
        Self::Signing(error.to_string())
    }
}

/// Signs certificates for workloads. Its key stays in memory and is never printed.
pub struct CertificateAuthority {
    issuer: Issuer<'static, IssuerKey>,
    /// From the authority's own certificate towards the root, without the root; empty if it is the root.
    intermediates: Vec<String>,
    roots: String,
    not_before: SystemTime,
    not_after: SystemTime,
    policy: IssuancePolicy,
}

impl CertificateAuthority {
    /// Puts an authority together from PEM: its certificate, its key, the chain towards the root (may be empty, and may begin
    /// with the certificate itself), and the roots.
    ///
    /// # Errors
    /// Unusable parts, a key of another certificate, a certificate that may not sign others, and a chain that does not lead to
    /// one of the roots.
    pub fn from_pem(cert: &[u8], key: &[u8], chain: &[u8], roots: &[u8]) -> Result<Self, CaError> {
        let der = chain_from_pem(cert)?.swap_remove(0);
        let key = PrivateKey::from_pem(key).map_err(|e| CaError::AuthorityKey(e.to_string()))?;
        let authority = Self::assemble(&der, IssuerKey::load(&key)?, chain, TrustBundle::from_pem(roots)?.pem())?;
        authority.self_check()?;
        Ok(authority)
    }

    /// A new self-signed root in memory; see [`RootOptions`](crate::RootOptions) for one that is kept.
    ///
    /// # Errors
    /// [`CaError::Signing`] if the system gives no randomness.
    pub fn in_memory(trust_domain: &TrustDomain, lifetime: Duration) -> Result<Self, CaError> {
        let pkcs8 = new_root_key()?;
        let key = PrivateKeyDer::Pkcs8(pkcs8.as_ref().into());
        let cert = self_signed_root(&key, trust_domain, lifetime, SystemTime::now())?;
        let root = crate::pem::encode("CERTIFICATE", &cert);
        let authority = Self::assemble(&cert, IssuerKey::from_der(&key)?, b"", &root)?;
        authority.self_check()?;
        Ok(authority)
    }

    fn assemble(cert: &CertificateDer<'_>, key: IssuerKey, chain: &[u8], roots: &str) -> Result<Self, CaError> {
        let parsed = Certificate::parse(cert)?;
        let is_root = check_authority_certificate(cert, &key)?;
        let mut intermediates = Vec::new();
        if !is_root {
            intermediates.push(crate::pem::encode("CERTIFICATE", cert));
        }
        let given = if chain.iter().all(u8::is_ascii_whitespace) { Vec::new() } else { chain_from_pem(chain)? };
        for der in given {
            let pem = crate::pem::encode("CERTIFICATE", &der);
            if der != *cert && !roots.contains(&pem) {
                intermediates.push(pem);
            }
        }
        let fail = |e: rcgen::Error| CaError::Authority(e.to_string());
        let issuer = Issuer::from_ca_cert_der(cert, key).map_err(fail)?;
        let (not_before, not_after) = (parsed.not_before(), parsed.not_after());
        Ok(Self { issuer, intermediates, roots: roots.to_owned(), not_before, not_after, policy: IssuancePolicy::default() })
    }

    /// Replaces the lifetimes.
    pub fn with_policy(mut self, policy: IssuancePolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The roots as PEM (`root-cert.pem`): what workloads verify their peers against.
    pub fn roots_pem(&self) -> &str {
        &self.roots
    }

    /// The roots.
    pub fn trust_bundle(&self) -> TrustBundle {
        TrustBundle::from_pem(self.roots.as_bytes()).expect("the roots were parsed when the authority was made")
    }

    /// When the authority's own certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Signs `csr_pem` for `identity`, which the caller has authenticated. Answers the chain in the form of
    /// `IstioCertificateResponse.cert_chain`: leaf, intermediates, and the roots, together, as the last element.
    ///
    /// A `ttl` of zero means the default lifetime, or the rest of the authority's life where that is shorter. A longer `ttl`
    /// than the maximum, or than the authority's life, is refused, not shortened.
    ///
    /// # Errors
    /// [`CaError`]; its [`class`](CaError::class) tells whose fault it is.
    pub fn sign(&self, csr_pem: &str, identity: &SpiffeId, ttl: Duration) -> Result<Vec<String>, CaError> {
        let key = check_request(csr_pem, identity)?;
        let uri = SanType::URI(identity.as_uri().try_into()?);
        let purposes = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = self.issue(&key, vec![uri], &purposes, ttl)?;
        Ok(self.chain_of(leaf).chain([self.roots.clone()]).collect())
    }

    /// Makes a key and a certificate for a server of the control plane, for DNS names or IP addresses. `ttl` as in
    /// [`sign`](Self::sign).
    ///
    /// # Errors
    /// [`CaError::Signing`] for a name that is neither, and the lifetimes' errors.
    pub fn issue_server_credential(&self, names: &[&str], ttl: Duration) -> Result<Credential, CaError> {
        let key = WorkloadKey::generate()?;
        let san = |name: &&str| match name.parse() {
            Ok(ip) => Ok(SanType::IpAddress(ip)),
            Err(_) => Ok(SanType::DnsName((*name).try_into()?)),
        };
        let sans = names.iter().map(san).collect::<Result<Vec<_>, CaError>>()?;
        let leaf = self.issue(&key, sans, &[ExtendedKeyUsagePurpose::ServerAuth], ttl)?;
        let chain: String = self.chain_of(leaf).collect();
        Credential::from_issued(chain.as_bytes(), &key).map_err(|e| CaError::Signing(e.to_string()))
    }

    fn chain_of(&self, leaf: String) -> impl Iterator<Item = String> {
        std::iter::once(leaf).chain(self.intermediates.iter().cloned())
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        purposes: &[ExtendedKeyUsagePurpose],
        ttl: Duration,
    ) -> Result<String, CaError> {
        let now = SystemTime::now();
        let ttl = self.lifetime(ttl, now)?;
        let mut params = CertificateParams::default();
        // With an empty subject, rcgen marks the alternative names as critical (RFC 5280, section 4.1.2.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        set_validity(&mut params, now, ttl);
        params.serial_number = Some(random_serial()?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = purposes.to_vec();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(crate::pem::encode("CERTIFICATE", certificate.der()))
    }

    fn lifetime(&self, requested: Duration, now: SystemTime) -> Result<Duration, CaError> {
        let remaining = self.not_after.duration_since(now).map_err(|_| CaError::AuthorityNotValid)?;
        if now < self.not_before {
            return Err(CaError::AuthorityNotValid);
        }
        if requested.is_zero() {
            return Ok(self.policy.default_ttl.min(remaining));
        }
        if requested > self.policy.max_ttl {
            return Err(CaError::TtlTooLong { requested, max: self.policy.max_ttl });
        }
        if requested > remaining {
            return Err(CaError::OutlivesAuthority { requested, remaining });
        }
        Ok(requested)
    }

    /// Signs a certificate for nobody and verifies it as a peer would: finds a chain that does not lead to the roots, and a
    /// subject that cannot be repeated exactly as an issuer.
    fn self_check(&self) -> Result<(), CaError> {
        let key = WorkloadKey::generate()?;
        let name = SanType::DnsName("self-check.invalid".try_into()?);
        let leaf = self.issue(&key, vec![name], &[ExtendedKeyUsagePurpose::ServerAuth], Duration::ZERO)?;
        let chain: String = self.chain_of(leaf).collect();
        let chain = chain_from_pem(chain.as_bytes())?;
        let trust = TrustHandle::new(self.trust_bundle());
        let policy = PeerPolicy::new(trust, PeerExpectation::AnyInTrustBundle, PeerRole::Server);
        policy.confirm(&chain, SystemTime::now(), None).map(|_| ()).map_err(CaError::Unverifiable)
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Checks form, signature, key and names of a request; answers its public key.
fn check_request(csr_pem: &str, identity: &SpiffeId) -> Result<SubjectPublicKeyInfo, CaError> {
    let wrong = |what: &str| CaError::Request(what.to_owned());
    if csr_pem.len() > MAX_REQUEST_LEN {
        return Err(CaError::Request(format!("{} bytes are more than {MAX_REQUEST_LEN}", csr_pem.len())));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|e| CaError::Request(format!("no PEM block CERTIFICATE REQUEST: {e}")))?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|e| CaError::Request(e.to_string()))?;
    if !rest.is_empty() {
        return Err(wrong("bytes after the end of the request"));
    }
    let key = &request.certification_request_info.subject_pki;
    match key.parsed() {
        Ok(PublicKey::EC(_)) => {}
        Ok(PublicKey::RSA(rsa)) if (2048..=8192).contains(&rsa.key_size()) => {}
        Ok(PublicKey::RSA(_)) => return Err(wrong("RSA keys must have 2048 to 8192 bits")),
        _ => return Err(wrong("the key must be ECDSA (P-256, P-384, P-521) or RSA")),
    }
    request.verify_signature().map_err(|_| CaError::RequestSignature)?;
    check_requested_names(&request, identity)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|e| CaError::Request(format!("public key: {e}")))
}

/// Names in a request have no effect, so most are ignored; asking to be another workload is an attack or a mix-up.
fn check_requested_names(request: &X509CertificationRequest<'_>, identity: &SpiffeId) -> Result<(), CaError> {
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(san) = extension else { continue };
        let names = convert_names(&san.general_names).map_err(|e| CaError::Request(e.to_string()))?;
        for name in names {
            if let AltName::Uri(uri) = name
                && *uri != *identity.as_uri()
            {
                return Err(CaError::OtherIdentity {
                    requested: uri.chars().take(200).collect(),
                    authenticated: identity.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Answers whether the certificate is self-issued, that is, the root itself.
fn check_authority_certificate(der: &CertificateDer<'_>, key: &IssuerKey) -> Result<bool, CaError> {
    let (_, x509) = X509Certificate::from_der(der).map_err(|e| CaError::Authority(e.to_string()))?;
    let wrong = |what: &str| Err(CaError::Authority(what.to_owned()));
    if !x509.is_ca() {
        return wrong("not a CA certificate (basicConstraints CA:TRUE is missing)");
    }
    match x509.key_usage() {
        Ok(Some(usage)) if !usage.value.key_cert_sign() => return wrong("its key usage does not allow signing certificates"),
        Ok(_) => {}
        Err(_) => return wrong("its key usage is malformed"),
    }
    if x509.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
        return Err(CaError::AuthorityKey("does not belong to the authority's certificate".into()));
    }
    Ok(x509.subject().as_raw() == x509.issuer().as_raw())
}

pub(crate) fn new_root_key() -> Result<aws_lc_rs::pkcs8::Document, CaError> {
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
        .map_err(|_| CaError::Signing("a P-256 key could not be made".into()))
}

/// A root certificate for `key`, named after the trust domain (Istio: `O=cluster.local`).
pub(crate) fn self_signed_root(
    key: &PrivateKeyDer<'_>,
    trust_domain: &TrustDomain,
    lifetime: Duration,
    now: SystemTime,
) -> Result<CertificateDer<'static>, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, trust_domain.as_str());
    set_validity(&mut params, now, lifetime);
    params.serial_number = Some(random_serial()?);
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&IssuerKey::from_der(key)?)?;
    Ok(certificate.der().clone())
}

/// 127 random bits, not zero: unpredictable (CA/Browser Forum asks for 64) and positive.
fn random_serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| CaError::Signing("no randomness".into()))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + (now + lifetime);
}

/// The key of an authority.
pub(crate) struct IssuerKey {
    pair: IssuerKeyPair,
    public: Box<[u8]>,
}

enum IssuerKeyPair {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl IssuerKey {
    fn load(key: &PrivateKey) -> Result<Self, CaError> {
        Self::from_der(key.der())
    }

    fn from_der(key: &PrivateKeyDer<'_>) -> Result<Self, CaError> {
        let der = key.secret_der();
        let p256 = || EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map(IssuerKeyPair::P256);
        let p384 = || EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_ASN1_SIGNING, der).map(IssuerKeyPair::P384);
        let pair = match key {
            PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(der).map(IssuerKeyPair::Rsa),
            PrivateKeyDer::Sec1(_) => p256().or_else(|_| p384()),
            _ => p256().or_else(|_| p384()).or_else(|_| RsaKeyPair::from_pkcs8(der).map(IssuerKeyPair::Rsa)),
        };
        let pair = pair.map_err(|e| CaError::AuthorityKey(format!("must be ECDSA P-256 or P-384, or RSA: {e}")))?;
        let public = match &pair {
            IssuerKeyPair::P256(pair) | IssuerKeyPair::P384(pair) => pair.public_key().as_ref().into(),
            IssuerKeyPair::Rsa(pair) if pair.public_modulus_len() < 256 => {
                return Err(CaError::AuthorityKey("RSA keys must have at least 2048 bits".into()));
            }
            IssuerKeyPair::Rsa(pair) => pair.public_key().as_ref().into(),
        };
        Ok(Self { pair, public })
    }
}

impl PublicKeyData for IssuerKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match &self.pair {
            IssuerKeyPair::P256(_) => &rcgen::PKCS_ECDSA_P256_SHA256,
            IssuerKeyPair::P384(_) => &rcgen::PKCS_ECDSA_P384_SHA384,
            IssuerKeyPair::Rsa(_) => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

impl SigningKey for IssuerKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let rng = SystemRandom::new();
        let signed = match &self.pair {
            IssuerKeyPair::P256(pair) | IssuerKeyPair::P384(pair) => pair.sign(&rng, message).map(|s| s.as_ref().to_vec()),
            IssuerKeyPair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &rng, message, &mut signature).map(|()| signature)
            }
        };
        signed.map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
