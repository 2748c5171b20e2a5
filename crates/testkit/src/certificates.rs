//! Certificates for tests, good and bad. The product's own authority refuses to make most of these.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_model::identity::{SpiffeId, TrustDomain};
use lateen_tls::{CertificateAuthority, Credential, TrustBundle, WorkloadIdentity};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    SignatureAlgorithm,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Parses an identity of a test.
///
/// # Panics
/// If it is none.
pub fn spiffe(uri: &str) -> SpiffeId {
    SpiffeId::parse(uri).expect("a test's SPIFFE ID")
}

/// An authority that signs whatever a test asks for.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
    key_pem: String,
    /// From this authority's certificate towards the root; empty for a root.
    chain_pem: String,
    root_pem: String,
}

impl TestCa {
    /// A new P-256 root. All roots have the same name and different keys, as after a rotation.
    pub fn new() -> Self {
        Self::with_algorithm(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// A new root with a key of another kind.
    ///
    /// # Panics
    /// If the algorithm cannot make keys.
    pub fn with_algorithm(algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let params = ca_params("Test root");
        let cert_pem = params.self_signed(&key).expect("a root").pem();
        let key_pem = key.serialize_pem();
        let root_pem = cert_pem.clone();
        Self { issuer: Issuer::new(params, key), cert_pem, key_pem, chain_pem: String::new(), root_pem }
    }

    /// An authority that exists, such as a running mesh's: for certificates that it should never have issued.
    ///
    /// # Panics
    /// If the two do not belong together, or are not PEM.
    pub fn load(cert_pem: &str, key_pem: &str) -> Self {
        let key = KeyPair::from_pem(key_pem).expect("the authority's key");
        let issuer = Issuer::from_ca_cert_pem(cert_pem, key).expect("the authority's certificate");
        let (cert_pem, key_pem) = (cert_pem.to_owned(), key_pem.to_owned());
        Self { issuer, root_pem: cert_pem.clone(), cert_pem, key_pem, chain_pem: String::new() }
    }

    /// An intermediate authority under this one.
    ///
    /// # Panics
    /// Never, as long as rcgen works.
    pub fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = ca_params(name);
        let cert_pem = params.signed_by(&key, &self.issuer).expect("an intermediate").pem();
        let key_pem = key.serialize_pem();
        let chain_pem = format!("{cert_pem}{}", self.chain_pem);
        Self { issuer: Issuer::new(params, key), cert_pem, key_pem, chain_pem, root_pem: self.root_pem.clone() }
    }

    /// This authority's certificate, PEM.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// This authority's key, PKCS#8 PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The chain towards the root, PEM; empty for a root.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The root, PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The root as a bundle.
    ///
    /// # Panics
    /// Never: the root is ours.
    pub fn trust(&self) -> TrustBundle {
        TrustBundle::from_pem(self.root_pem.as_bytes()).expect("our root")
    }

    /// The product's own authority with this key.
    ///
    /// # Panics
    /// If the product refuses it.
    pub fn authority(&self) -> CertificateAuthority {
        CertificateAuthority::from_pem(
            self.cert_pem.as_bytes(),
            self.key_pem.as_bytes(),
            self.chain_pem.as_bytes(),
            self.root_pem.as_bytes(),
        )
        .expect("an authority")
    }

    /// Begins a leaf certificate without names, valid for a day, for clients and servers.
    pub fn leaf(&self) -> LeafBuilder<'_> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let now = SystemTime::now();
        LeafBuilder { ca: self, params, not_before: now - DAY, not_after: now + DAY }
    }

    /// A good certificate for a workload.
    pub fn workload(&self, id: &SpiffeId) -> Leaf {
        self.leaf().uri(id.as_uri()).issue()
    }

    /// A revocation list of this authority with one serial number on it, PEM, valid for a day.
    ///
    /// # Panics
    /// Never, as long as rcgen works.
    pub fn revocation_list(&self, serial: &[u8]) -> String {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let now = epoch + SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now - DAY,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - DAY,
            next_update: now + DAY,
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).and_then(|list| list.pem()).expect("a revocation list")
    }

    /// An identity that is ready: a good certificate, and this root.
    pub fn identity(&self, id: &SpiffeId) -> WorkloadIdentity {
        self.workload(id).identity(self)
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, TrustDomain::default().as_str());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    set_validity(&mut params, now - 10 * DAY, now + 10 * DAY);
    params
}

fn set_validity(params: &mut CertificateParams, not_before: SystemTime, not_after: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = |t: SystemTime| t.duration_since(UNIX_EPOCH).expect("after 1970");
    params.not_before = epoch + since_epoch(not_before);
    params.not_after = epoch + since_epoch(not_after);
}

/// Builds a leaf certificate.
#[must_use = "call issue()"]
pub struct LeafBuilder<'a> {
    ca: &'a TestCa,
    params: CertificateParams,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl LeafBuilder<'_> {
    /// Adds a URI name, whatever is in it (ASCII only, NUL included).
    ///
    /// # Panics
    /// If it is not ASCII.
    pub fn uri(mut self, uri: &str) -> Self {
        self.params.subject_alt_names.push(SanType::URI(uri.try_into().expect("ASCII")));
        self
    }

    /// Adds a DNS name.
    ///
    /// # Panics
    /// If it is not ASCII.
    pub fn dns(mut self, name: &str) -> Self {
        self.params.subject_alt_names.push(SanType::DnsName(name.try_into().expect("ASCII")));
        self
    }

    /// Adds an IP name.
    pub fn ip(mut self, address: std::net::IpAddr) -> Self {
        self.params.subject_alt_names.push(SanType::IpAddress(address));
        self
    }

    /// Sets the common name of the subject.
    pub fn common_name(mut self, name: &str) -> Self {
        self.params.distinguished_name.push(DnType::CommonName, name);
        self
    }

    /// Adds an extension as it is, e.g. alternative names that rcgen would not encode.
    pub fn extension(mut self, oid: &[u64], der: Vec<u8>) -> Self {
        self.params.custom_extensions.push(CustomExtension::from_oid_content(oid, der));
        self
    }

    /// Ended an hour ago.
    pub fn expired(mut self) -> Self {
        self.not_after = SystemTime::now() - Duration::from_secs(3600);
        self
    }

    /// Begins in an hour.
    pub fn not_yet_valid(mut self) -> Self {
        self.not_before = SystemTime::now() + Duration::from_secs(3600);
        self
    }

    /// Ends so long from now.
    pub fn ends_in(mut self, rest: Duration) -> Self {
        self.not_after = SystemTime::now() + rest;
        self
    }

    /// For servers only.
    pub fn server_only(mut self) -> Self {
        self.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// For clients only.
    pub fn client_only(mut self) -> Self {
        self.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self
    }

    /// A CA certificate where a leaf is expected.
    pub fn as_ca(mut self) -> Self {
        self.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    /// Signs it.
    ///
    /// # Panics
    /// If rcgen refuses the combination.
    pub fn issue(mut self) -> Leaf {
        set_validity(&mut self.params, self.not_before, self.not_after);
        let key = KeyPair::generate().expect("a key");
        let certificate = self.params.signed_by(&key, &self.ca.issuer).expect("a leaf");
        Leaf {
            der: certificate.der().to_vec(),
            chain_pem: format!("{}{}", certificate.pem(), self.ca.chain_pem),
            key_pem: key.serialize_pem(),
        }
    }
}

/// A leaf certificate with its key.
#[derive(Clone)]
pub struct Leaf {
    /// The leaf alone, DER.
    pub der: Vec<u8>,
    /// Leaf first, without the root.
    pub chain_pem: String,
    /// PKCS#8.
    pub key_pem: String,
}

impl Leaf {
    /// As the product takes it.
    ///
    /// # Panics
    /// If the product refuses it.
    pub fn credential(&self) -> Credential {
        Credential::from_pem(self.chain_pem.as_bytes(), self.key_pem.as_bytes()).expect("a usable credential")
    }

    /// An identity that is ready, trusting `ca`.
    pub fn identity(&self, ca: &TestCa) -> WorkloadIdentity {
        let identity = WorkloadIdentity::new();
        identity.install(self.credential());
        identity.install_trust(ca.trust());
        identity
    }
}
