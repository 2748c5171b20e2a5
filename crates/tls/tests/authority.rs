//! The certificate authority: what it signs, what it refuses, and where its own key comes from.
#![allow(clippy::unwrap_used, reason = "a helper that fails, fails the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_model::identity::TrustDomain;
use lateen_testkit::certificates::{TestCa, spiffe};
use lateen_tls::{
    CaError, CaErrorClass, CaFilesError, Certificate, CertificateAuthority, ClientParams, ClientTls, Credential, IssuancePolicy,
    PeerExpectation, RootOptions, ServerParams, ServerTls, TrustHandle, WorkloadIdentity, WorkloadKey, accept, chain_from_pem,
    connect,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use tempfile::TempDir;
use x509_parser::prelude::{FromDer, X509Certificate};

const ID: &str = "spiffe://cluster.local/ns/production/sa/order-service-sa";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn authority() -> CertificateAuthority {
    CertificateAuthority::in_memory(&TrustDomain::default(), 3650 * DAY).unwrap()
}

/// A request with any names, made by rcgen's own key type.
fn request(algorithm: &'static rcgen::SignatureAlgorithm, names: &[SanType]) -> String {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.to_vec();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn since_epoch(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn what_a_signed_certificate_holds() {
    let (ca, key) = (authority(), WorkloadKey::generate().unwrap());
    let before = SystemTime::now();
    let chain = ca.sign(&key.signing_request(&spiffe(ID)).unwrap(), &spiffe(ID), Duration::from_secs(7)).unwrap();
    assert_eq!(chain.len(), 2, "leaf and root");
    assert_eq!(chain[1], ca.roots_pem());

    let der = chain_from_pem(chain[0].as_bytes()).unwrap().remove(0);
    let leaf = Certificate::parse(&der).unwrap();
    assert_eq!((leaf.identity(), leaf.names().len(), leaf.subject()), (Some(&spiffe(ID)), 1, ""));
    let (start, end) = (since_epoch(leaf.not_before()), since_epoch(leaf.not_after()));
    let now = since_epoch(before);
    assert!((now - 120..=now - 118).contains(&start), "two minutes in the past");
    assert!((now + 7..=now + 9).contains(&end));
    assert_eq!(leaf.serial().len(), 16);

    let (_, x509) = X509Certificate::from_der(&der).unwrap();
    assert!(x509.subject_alternative_name().unwrap().unwrap().critical, "critical with an empty subject");
    let usage = x509.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment() && !usage.value.key_cert_sign());
    let purposes = x509.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any && purposes.other.is_empty());
    assert!(!x509.is_ca());
    let again = ca.sign(&key.signing_request(&spiffe(ID)).unwrap(), &spiffe(ID), Duration::ZERO).unwrap();
    let again = Certificate::parse(&chain_from_pem(again[0].as_bytes()).unwrap()[0]).unwrap();
    assert_ne!(leaf.serial(), again.serial());
}

/// The promise: authenticated as one workload, nobody gets a certificate for another.
#[test]
fn a_request_for_another_identity_is_refused() {
    let ca = authority();
    for other in [
        "spiffe://cluster.local/ns/production/sa/admin",
        "spiffe://other.domain/ns/production/sa/order-service-sa",
        "spiffe://cluster.local/ns/production/sa/order-service-sa/",
        "SPIFFE://cluster.local/ns/production/sa/order-service-sa",
        "https://admin.example/",
    ] {
        for names in [vec![uri(other)], vec![uri(ID), uri(other)], vec![uri(other), uri(ID)]] {
            let error = ca.sign(&request(&rcgen::PKCS_ECDSA_P256_SHA256, &names), &spiffe(ID), Duration::ZERO).unwrap_err();
            assert_eq!(error, CaError::OtherIdentity { requested: other.into(), authenticated: spiffe(ID) });
            assert_eq!(error.class(), CaErrorClass::Identity);
            assert!(error.to_string().contains(other) && error.to_string().contains(ID), "{error}");
        }
    }
    let nul = request(&rcgen::PKCS_ECDSA_P256_SHA256, &[uri("spiffe://cluster.local/ns/production/sa/order-service-sa\0")]);
    assert!(matches!(ca.sign(&nul, &spiffe(ID), Duration::ZERO), Err(CaError::Request(_))));
}

#[test]
fn other_names_of_a_request_have_no_effect() {
    let ca = authority();
    let dns = SanType::DnsName("admin.example".try_into().unwrap());
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256] {
        for names in [vec![], vec![uri(ID)], vec![dns.clone(), SanType::IpAddress([10, 0, 0, 1].into())]] {
            let chain = ca.sign(&request(algorithm, &names), &spiffe(ID), Duration::ZERO).unwrap();
            let leaf = Certificate::parse(&chain_from_pem(chain[0].as_bytes()).unwrap()[0]).unwrap();
            assert_eq!((leaf.identity(), leaf.names().len()), (Some(&spiffe(ID)), 1));
        }
    }
}

#[test]
fn requests_that_are_wrong() {
    let ca = authority();
    let good = request(&rcgen::PKCS_ECDSA_P256_SHA256, &[uri(ID)]);
    let der = |pem: &str| {
        use rustls_pki_types::pem::PemObject;
        rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    };
    let pem = |der: &[u8]| {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    };
    let bytes = der(&good);
    let mut forged = bytes.clone();
    *forged.last_mut().unwrap() ^= 1;
    let mut trailing = bytes.clone();
    trailing.push(0);
    // The key of another request, under the first one's signature.
    let other = der(&request(&rcgen::PKCS_ECDSA_P256_SHA256, &[uri(ID)]));
    let mut swapped = bytes.clone();
    let point = bytes.windows(4).position(|w| w == [0x03, 0x42, 0x00, 0x04]).unwrap();
    swapped[point..point + 68].copy_from_slice(&other[point..point + 68]);
    let sign = |text: &str| ca.sign(text, &spiffe(ID), Duration::ZERO).unwrap_err();
    assert_eq!(sign(&pem(&forged)), CaError::RequestSignature);
    assert_eq!(sign(&pem(&swapped)), CaError::RequestSignature);
    for text in [
        "",
        "garbage",
        &pem(&trailing),
        &pem(&bytes[..bytes.len() - 1]),
        &pem(b""),
        &good.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        &"x".repeat(70_000),
        &request(&rcgen::PKCS_ED25519, &[uri(ID)]),
    ] {
        let error = sign(text);
        assert!(matches!(error, CaError::Request(_)), "{error} for {}", text.chars().take(80).collect::<String>());
        assert_eq!(error.class(), CaErrorClass::Request);
    }
    // No change of any byte yields a certificate for somebody else, nor a panic.
    for index in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[index] = changed[index].wrapping_add(1);
        if let Ok(chain) = ca.sign(&pem(&changed), &spiffe(ID), Duration::ZERO) {
            let leaf = Certificate::parse(&chain_from_pem(chain[0].as_bytes()).unwrap()[0]).unwrap();
            assert_eq!(leaf.identity(), Some(&spiffe(ID)), "byte {index}");
        }
    }
}

#[test]
fn lifetimes() {
    let key = WorkloadKey::generate().unwrap();
    let csr = key.signing_request(&spiffe(ID)).unwrap();
    let rest = |ca: &CertificateAuthority, ttl: u64| {
        let chain = ca.sign(&csr, &spiffe(ID), Duration::from_secs(ttl))?;
        let leaf = Certificate::parse(&chain_from_pem(chain[0].as_bytes()).unwrap()[0]).unwrap();
        Ok::<_, CaError>(since_epoch(leaf.not_after()) - since_epoch(SystemTime::now()))
    };
    let near = |got: u64, wanted: u64| (wanted.saturating_sub(2)..=wanted).contains(&got);
    let ca = authority();
    assert!(near(rest(&ca, 0).unwrap(), 86_400), "24 h by default");
    assert!(near(rest(&ca, 1).unwrap(), 1));
    assert!(near(rest(&ca, 90 * 86_400).unwrap(), 90 * 86_400));
    let error = rest(&ca, 90 * 86_400 + 1).unwrap_err();
    assert_eq!((error.class(), matches!(error, CaError::TtlTooLong { .. })), (CaErrorClass::Request, true));
    assert!(rest(&ca, u64::MAX).is_err());

    let short = CertificateAuthority::in_memory(&TrustDomain::default(), Duration::from_secs(3600)).unwrap();
    assert!(near(rest(&short, 0).unwrap(), 3600), "no longer than the authority");
    assert!(near(rest(&short, 3000).unwrap(), 3000));
    assert!(matches!(rest(&short, 3700), Err(CaError::OutlivesAuthority { .. })));
    let policy = IssuancePolicy { default_ttl: Duration::from_secs(4), max_ttl: Duration::from_secs(8) };
    let strict = authority().with_policy(policy);
    assert!(near(rest(&strict, 0).unwrap(), 4));
    assert!(rest(&strict, 9).is_err());
    let ended = CertificateAuthority::in_memory(&TrustDomain::default(), Duration::ZERO);
    assert!(ended.is_err(), "an authority that has ended is none");
}

/// From key to traffic, by every kind of authority that can be plugged in.
#[tokio::test]
async fn authorities_of_all_kinds_issue_certificates_that_work() {
    let ec = TestCa::with_algorithm(&rcgen::PKCS_ECDSA_P384_SHA384);
    let rsa = TestCa::with_algorithm(&rcgen::PKCS_RSA_SHA256);
    let intermediate = TestCa::new().intermediate("Region").intermediate("Cluster");
    let under_rsa = rsa.intermediate("Cluster");
    for (what, ca, length) in [
        ("in memory", authority(), 2),
        ("P-256", TestCa::new().authority(), 2),
        ("P-384", ec.authority(), 2),
        ("RSA", rsa.authority(), 2),
        ("intermediate", intermediate.authority(), 4),
        ("EC under RSA", under_rsa.authority(), 3),
    ] {
        let ready = |id: &str| {
            let key = WorkloadKey::generate().unwrap();
            let answer = ca.sign(&key.signing_request(&spiffe(id)).unwrap(), &spiffe(id), Duration::ZERO).unwrap();
            assert_eq!(answer.len(), length, "{what}");
            let (credential, trust) = Credential::from_ca_response(&answer, &key).unwrap();
            let identity = WorkloadIdentity::new();
            identity.install(credential);
            identity.install_trust(trust);
            identity
        };
        let (server, client) = (ready(ID), ready("spiffe://cluster.local/ns/a/sa/client"));
        let server = ServerTls::new(ServerParams::mesh(&server, &[TrustDomain::default()])).unwrap();
        let client = ClientTls::new(ClientParams::mesh(&client, PeerExpectation::AnyOf([spiffe(ID)].into()))).unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (accepted, connected) = tokio::join!(accept(far, &server), connect(near, &client, Default::default()));
        assert_eq!(accepted.unwrap().1.spiffe(), Some(&spiffe("spiffe://cluster.local/ns/a/sa/client")), "{what}");
        assert_eq!(connected.unwrap().1.spiffe(), Some(&spiffe(ID)), "{what}");

        let istiod = ca.issue_server_credential(&["istiod.istio-system.svc", "10.0.0.1"], Duration::ZERO).unwrap();
        let params = ServerParams {
            credential: lateen_tls::CredentialHandle::new(istiod),
            client_auth: lateen_tls::ClientAuth::None,
            params: Default::default(),
            alpn: vec!["h2".into()],
        };
        let server = ServerTls::new(params).unwrap();
        let trust = TrustHandle::new(ca.trust_bundle());
        for name in ["istiod.istio-system.svc", "10.0.0.1"] {
            let client = ClientTls::new(ClientParams::server(trust.clone(), name.try_into().unwrap())).unwrap();
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (accepted, connected) = tokio::join!(accept(far, &server), connect(near, &client, Default::default()));
            assert!(accepted.is_ok() && connected.is_ok(), "{what} {name}");
        }
    }
}

#[test]
fn parts_that_do_not_fit_together() {
    let (a, b) = (TestCa::new(), TestCa::new());
    let leaf = a.workload(&spiffe(ID));
    let child = a.intermediate("child");
    let build = |cert: &str, key: &str, chain: &str, root: &str| {
        CertificateAuthority::from_pem(cert.as_bytes(), key.as_bytes(), chain.as_bytes(), root.as_bytes()).unwrap_err()
    };
    assert!(matches!(build(a.cert_pem(), b.key_pem(), "", a.root_pem()), CaError::AuthorityKey(_)));
    assert!(matches!(build(&leaf.chain_pem, &leaf.key_pem, "", a.root_pem()), CaError::Authority(_)), "not a CA");
    assert!(matches!(build(a.cert_pem(), a.key_pem(), "", b.root_pem()), CaError::Unverifiable(_)), "another root");
    assert!(matches!(build(child.cert_pem(), child.key_pem(), "", b.root_pem()), CaError::Unverifiable(_)));
    let grandchild = child.intermediate("grandchild");
    assert!(matches!(build(grandchild.cert_pem(), grandchild.key_pem(), "", a.root_pem()), CaError::Unverifiable(_)), "a gap");
    assert!(matches!(build("", a.key_pem(), "", a.root_pem()), CaError::Authority(_)));
    assert!(matches!(build(a.cert_pem(), "", "", a.root_pem()), CaError::AuthorityKey(_)));
    assert!(matches!(build(a.cert_pem(), a.key_pem(), "", ""), CaError::Roots(_)));
    let ed25519 = TestCa::with_algorithm(&rcgen::PKCS_ED25519);
    assert!(matches!(build(ed25519.cert_pem(), ed25519.key_pem(), "", ed25519.root_pem()), CaError::AuthorityKey(_)));
}

#[test]
fn a_root_of_our_own_is_made_once_and_kept() {
    let home = TempDir::new().unwrap();
    let directory = home.path().join("state/ca");
    let options = RootOptions { trust_domain: TrustDomain::try_new("my.mesh").unwrap(), ..RootOptions::default() };
    // Many at once, as after a restart that overlaps.
    let roots: Vec<String> = std::thread::scope(|scope| {
        let load = || CertificateAuthority::load_or_create(&directory, &options).unwrap().roots_pem().to_owned();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(roots.iter().all(|root| *root == roots[0]));
    let root = Certificate::parse(&chain_from_pem(roots[0].as_bytes()).unwrap()[0]).unwrap();
    assert_eq!(root.subject(), "O=my.mesh");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let key = directory.join("ca-key.pem");
    assert_eq!((mode(&directory), mode(&key)), (0o700, 0o600));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "nothing is left beside key and certificate");

    // A crash between the two files: the key stays, the certificate is made anew.
    let key_before = fs::read(&key).unwrap();
    fs::remove_file(directory.join("ca-cert.pem")).unwrap();
    let again = CertificateAuthority::load_or_create(&directory, &options).unwrap();
    assert_eq!(fs::read(&key).unwrap(), key_before);
    assert!(again.sign(&request(&rcgen::PKCS_ECDSA_P256_SHA256, &[]), &spiffe(ID), Duration::ZERO).is_ok());

    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = CertificateAuthority::load_or_create(&directory, &options).unwrap_err();
    assert!(matches!(error, CaFilesError::Permissions { mode: 0o640, .. }), "{error}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, "not a key").unwrap();
    let error = CertificateAuthority::load_or_create(&directory, &options).unwrap_err();
    assert!(error.to_string().contains(directory.to_str().unwrap()), "{error}");
    assert_eq!(fs::read(&key).unwrap(), b"not a key", "a broken key is not replaced behind the operator's back");
}

#[test]
fn authorities_are_plugged_in_under_both_sets_of_names() {
    let intermediate = TestCa::new().intermediate("Cluster");
    let sign = |directory: &Path| {
        let ca = CertificateAuthority::load_plugged_in(directory)?;
        Ok::<_, CaFilesError>(ca.sign(&request(&rcgen::PKCS_ECDSA_P256_SHA256, &[]), &spiffe(ID), Duration::ZERO).unwrap())
    };
    let istio = TempDir::new().unwrap();
    assert!(matches!(sign(istio.path()), Err(CaFilesError::NoFiles(_))));
    let put = |dir: &TempDir, name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    put(&istio, "ca-cert.pem", intermediate.cert_pem());
    put(&istio, "ca-key.pem", intermediate.key_pem());
    assert!(matches!(sign(istio.path()), Err(CaFilesError::NoFiles(_))));
    put(&istio, "root-cert.pem", intermediate.root_pem());
    assert_eq!(sign(istio.path()).unwrap().len(), 3, "the chain is optional");
    // With the certificate itself at its beginning and the root at its end, as Istio's tools write it.
    put(&istio, "cert-chain.pem", &format!("{}{}", intermediate.chain_pem(), intermediate.root_pem()));
    let chain = sign(istio.path()).unwrap();
    assert_eq!(
        chain[1..],
        [intermediate.cert_pem().to_owned(), intermediate.root_pem().to_owned()].map(|pem| pem.replace("\r\n", "\n"))
    );

    let manager = TempDir::new().unwrap();
    put(&manager, "tls.crt", intermediate.chain_pem());
    put(&manager, "tls.key", intermediate.key_pem());
    put(&manager, "ca.crt", intermediate.root_pem());
    assert_eq!(sign(manager.path()).unwrap().len(), 3);
    put(&manager, "tls.key", TestCa::new().key_pem());
    assert!(matches!(sign(manager.path()), Err(CaFilesError::Authority { source: CaError::AuthorityKey(_), .. })));
    put(&manager, "ca.crt", &"x".repeat(2_000_000));
    assert!(matches!(sign(manager.path()), Err(CaFilesError::Io { .. })));
}
