//! Certificates and keys as they come in: PEM and DER, with typed errors.
//!
//! The SPIFFE rules are ours: `rustls-webpki` builds and verifies the chain, but has no notion of a URI name.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use lateen_model::identity::{IdentityError, SpiffeId};
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};
use zeroize::Zeroizing;

/// The most certificates that one chain or bundle may have.
pub const MAX_CHAIN_LEN: usize = 64;

/// The largest certificate that is looked at, in bytes of DER. A TLS handshake message is at most 64 KB (rustls).
pub const MAX_CERTIFICATE_LEN: usize = 64 * 1024;

/// Why a certificate, a chain or a key was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// There is no `CERTIFICATE` block in the text.
    #[error("no PEM block BEGIN CERTIFICATE found")]
    NoCertificate,
    /// The PEM armour is broken.
    #[error("broken PEM: {0}")]
    Pem(String),
    /// More than [`MAX_CHAIN_LEN`] certificates.
    #[error("more than {MAX_CHAIN_LEN} certificates in one chain")]
    ChainTooLong,
    /// Longer than [`MAX_CERTIFICATE_LEN`].
    #[error("certificate of {0} bytes is longer than {MAX_CERTIFICATE_LEN}")]
    TooLarge(usize),
    /// Not a DER-encoded X.509 certificate.
    #[error("not an X.509 certificate: {0}")]
    Encoding(String),
    /// A subject alternative name that is unreadable or ambiguous (e.g. it holds a NUL byte).
    #[error("subject alternative name: {0}")]
    AltName(&'static str),
    /// More than one SPIFFE URI (X509-SVID specification, section 2: exactly one URI SAN).
    #[error("{0} SPIFFE URIs in one certificate, where exactly one is allowed")]
    SeveralIdentities(usize),
    /// A SPIFFE URI that is not the first URI name: peers that look at the first one would see somebody else.
    #[error("the SPIFFE URI is not the first URI name of the certificate")]
    IdentityNotFirst,
    /// The SPIFFE URI is not an identity of the mesh.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is no private key block in the text.
    #[error("no PEM block with a private key found (PKCS#8 PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY)")]
    NoKey,
    /// There is more than one private key.
    #[error("more than one private key in one file")]
    SeveralKeys,
    /// The key is of a kind that cannot be used.
    #[error("unusable private key: {0}")]
    Key(String),
    /// The key does not belong to the leaf certificate.
    #[error("the private key does not belong to the first certificate of the chain")]
    KeyMismatch,
}

/// A subject alternative name of a certificate. Names of other kinds are of no use to a mesh and are not kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AltName {
    /// `dNSName`, possibly with a wildcard label.
    Dns(Box<str>),
    /// `uniformResourceIdentifier`.
    Uri(Box<str>),
    /// `iPAddress`.
    Ip(IpAddr),
    /// `rfc822Name`.
    Email(Box<str>),
}

/// What is known of one certificate, parsed once.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    identity: Option<SpiffeId>,
    names: Box<[AltName]>,
    subject: Box<str>,
    subject_hash: [u8; 32],
    serial: Box<[u8]>,
    fingerprint: [u8; 32],
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Certificate {
    /// Parses a DER certificate and checks its names. Says nothing about whether it is to be trusted.
    ///
    /// # Errors
    /// Anything that is not one certificate, any name with a NUL or a non-ASCII byte, more than one SPIFFE URI, and a SPIFFE
    /// URI that is not an identity of the mesh.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE_LEN {
            return Err(CertificateError::TooLarge(der.len()));
        }
        let (rest, x509) = X509Certificate::from_der(der).map_err(|e| CertificateError::Encoding(e.to_string()))?;
        if !rest.is_empty() {
            return Err(CertificateError::Encoding(format!("{} bytes after the certificate", rest.len())));
        }
        let names = alt_names(&x509)?;
        Ok(Self {
            identity: spiffe_identity(&names)?,
            names: names.into(),
            subject: distinguished_name(x509.subject()).into(),
            subject_hash: sha256(x509.subject().as_raw()),
            serial: x509.raw_serial().into(),
            fingerprint: sha256(der),
            not_before: system_time(x509.validity().not_before.timestamp()),
            not_after: system_time(x509.validity().not_after.timestamp()),
        })
    }

    /// The SPIFFE identity, if the certificate has one.
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.identity.as_ref()
    }

    /// Its DNS, URI, IP and e-mail names, in the certificate's order.
    pub fn names(&self) -> &[AltName] {
        &self.names
    }

    /// The subject in the form of RFC 2253, most specific part first; empty for workload certificates.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// SHA-256 of the DER-encoded subject.
    pub fn subject_hash(&self) -> &[u8; 32] {
        &self.subject_hash
    }

    /// The serial number, big-endian, as encoded.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The serial number in hexadecimal, e.g. `1f03…`.
    pub fn serial_hex(&self) -> String {
        hex(&self.serial)
    }

    /// SHA-256 of the whole certificate (`Hash=` in `x-forwarded-client-cert`, in hexadecimal).
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The fingerprint in hexadecimal.
    pub fn fingerprint_hex(&self) -> String {
        hex(&self.fingerprint)
    }

    /// The first moment at which it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last moment at which it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("identity", &self.identity)
            .field("subject", &self.subject)
            .field("serial", &self.serial_hex())
            .finish_non_exhaustive()
    }
}

/// Reads all certificates of a PEM text, in order. Blocks of other kinds are skipped.
///
/// # Errors
/// Broken armour, no certificate at all, or too many. The certificates themselves are not parsed.
pub fn chain_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut chain = Vec::new();
    for item in CertificateDer::pem_slice_iter(pem) {
        if chain.len() == MAX_CHAIN_LEN {
            return Err(CertificateError::ChainTooLong);
        }
        chain.push(item.map_err(|e| CertificateError::Pem(e.to_string()))?);
    }
    if chain.is_empty() { Err(CertificateError::NoCertificate) } else { Ok(chain) }
}

/// A private key, overwritten when it is dropped and never printed.
pub struct PrivateKey(Zeroizing<PrivateKeyDer<'static>>);

impl PrivateKey {
    /// Reads the one private key of a PEM text: PKCS#8, SEC 1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`).
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let mut keys = PrivateKeyDer::pem_slice_iter(pem);
        let first = keys.next().ok_or(CertificateError::NoKey)?.map_err(|e| CertificateError::Pem(e.to_string()))?;
        let key = Self(Zeroizing::new(first));
        match keys.next() {
            None => Ok(key),
            Some(_) => Err(CertificateError::SeveralKeys),
        }
    }

    pub(crate) fn der(&self) -> &PrivateKeyDer<'static> {
        &self.0
    }

    pub(crate) fn signing_key(&self) -> Result<Arc<dyn SigningKey>, CertificateError> {
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&self.0).map_err(|e| CertificateError::Key(e.to_string()))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

fn alt_names(x509: &X509Certificate<'_>) -> Result<Vec<AltName>, CertificateError> {
    let extension = x509
        .subject_alternative_name()
        .map_err(|_| CertificateError::AltName("the extension is malformed, or there are several"))?;
    extension.map_or(Ok(Vec::new()), |e| convert_names(&e.value.general_names))
}

/// Turns the names of a certificate or of a signing request into ours, refusing what two readers could read differently.
pub(crate) fn convert_names(names: &[GeneralName<'_>]) -> Result<Vec<AltName>, CertificateError> {
    let mut kept = Vec::with_capacity(names.len());
    for name in names {
        match name {
            GeneralName::DNSName(text) => kept.push(AltName::Dns(printable(text)?)),
            GeneralName::URI(text) => kept.push(AltName::Uri(printable(text)?)),
            GeneralName::RFC822Name(text) => kept.push(AltName::Email(printable(text)?)),
            GeneralName::IPAddress(bytes) => kept.push(AltName::Ip(ip_address(bytes)?)),
            GeneralName::Invalid(..) => return Err(CertificateError::AltName("a name cannot be decoded")),
            // Never matched against anything, so their contents cannot confuse anybody.
            GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_) => {}
        }
    }
    Ok(kept)
}

/// The SPIFFE URI among `names`, by the rules of the X509-SVID specification: one at most, and the first of the URIs.
pub(crate) fn spiffe_identity(names: &[AltName]) -> Result<Option<SpiffeId>, CertificateError> {
    let uris = || names.iter().filter_map(|n| if let AltName::Uri(uri) = n { Some(&**uri) } else { None });
    match uris().filter(|uri| is_spiffe_scheme(uri)).count() {
        0 => Ok(None),
        1 => match uris().next() {
            Some(first) if is_spiffe_scheme(first) => Ok(Some(SpiffeId::parse(first)?)),
            _ => Err(CertificateError::IdentityNotFirst),
        },
        several => Err(CertificateError::SeveralIdentities(several)),
    }
}

/// Whether a URI claims to be a SPIFFE ID, in whatever case: `SPIFFE://` is not an identity, but it is an attempt at one.
fn is_spiffe_scheme(uri: &str) -> bool {
    uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
}

fn printable(text: &str) -> Result<Box<str>, CertificateError> {
    if text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        Ok(text.into())
    } else {
        Err(CertificateError::AltName("a name holds a NUL, a control or a non-ASCII byte"))
    }
}

fn ip_address(bytes: &[u8]) -> Result<IpAddr, CertificateError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).map_err(|_| CertificateError::AltName("an IP address is not 4 or 16 bytes long"))?;
    Ok(v6.into())
}

/// RFC 2253: parts in reverse order, joined by commas, special characters escaped.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|rdn| {
            let attributes: Vec<String> = rdn
                .iter()
                .map(|a| {
                    let registry = x509_parser::objects::oid_registry();
                    let kind = x509_parser::objects::oid2abbrev(a.attr_type(), registry)
                        .map_or_else(|_| a.attr_type().to_id_string(), str::to_owned);
                    format!("{kind}={}", escape(a.as_str().unwrap_or("#?")))
                })
                .collect();
            attributes.join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for (index, c) in value.chars().enumerate() {
        let at_edge = index == 0 && matches!(c, ' ' | '#') || index + 1 == value.chars().count() && c == ' ';
        if at_edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn system_time(unix_seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(unix_seconds.unsigned_abs());
    let time = if unix_seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
