//! Certificates from outside: what is accepted, what is refused, and that nothing panics.
#![allow(clippy::unwrap_used, reason = "a helper that fails, fails the test")]

use lateen_model::identity::SpiffeId;
use lateen_testkit::certificates::{TestCa, spiffe};
use lateen_tls::{
    AltName, Certificate, CertificateError, Credential, PeerExpectation, PeerPolicy, PeerRole, PrivateKey, TrustBundle,
    TrustBundleError, TrustHandle, chain_from_pem,
};
use proptest::prelude::*;
use rustls_pki_types::CertificateDer;
use std::time::SystemTime;

const ID: &str = "spiffe://cluster.local/ns/production/sa/order-service-sa";

#[test]
fn what_a_certificate_says() {
    let ca = TestCa::new();
    let leaf = ca.leaf().uri(ID).dns("a.example").ip([10, 0, 0, 1].into()).issue();
    let certificate = Certificate::parse(&leaf.der).unwrap();
    assert_eq!(certificate.identity(), Some(&spiffe(ID)));
    let names = [AltName::Uri(ID.into()), AltName::Dns("a.example".into()), AltName::Ip([10, 0, 0, 1].into())];
    assert_eq!(certificate.names(), names);
    assert_eq!(certificate.subject(), "");
    assert_eq!(certificate.serial_hex().len(), certificate.serial().len() * 2);
    assert!(certificate.not_before() < SystemTime::now() && certificate.not_after() > SystemTime::now());
    assert_ne!(certificate.fingerprint(), Certificate::parse(&ca.workload(&spiffe(ID)).der).unwrap().fingerprint());

    let plain = ca.leaf().dns("b.example").common_name("a, \"quoted\" name").issue();
    let certificate = Certificate::parse(&plain.der).unwrap();
    assert_eq!((certificate.identity(), certificate.subject()), (None, "CN=a\\, \\\"quoted\\\" name"));
    let root = Certificate::parse(&chain_from_pem(ca.root_pem().as_bytes()).unwrap()[0]).unwrap();
    assert_eq!(root.subject(), "CN=Test root,O=cluster.local", "RFC 2253: most specific first");
}

#[test]
fn names_that_are_refused() {
    let ca = TestCa::new();
    let long = format!("spiffe://cluster.local/ns/{}/sa/b", "a".repeat(2048));
    for uri in [
        "spiffe://cluster.local/ns/a/sa/b\0",
        "spiffe://cluster.local\0/ns/a/sa/b",
        "spiffe://cluster.local/ns/a/sa/b?q",
        "spiffe://cluster.local/ns/a/sa/b#f",
        "spiffe://cluster.local:443/ns/a/sa/b",
        "spiffe://user@cluster.local/ns/a/sa/b",
        "spiffe://cluster.local/ns/a/sa/b/c",
        "spiffe://cluster.local/ns/a",
        "spiffe://cluster.local/",
        "spiffe:cluster.local",
        "SPIFFE://cluster.local/ns/a/sa/b",
        "spiffe://cluster.local/ns/a/sa/b\n",
        "http://x/\u{7f}",
        &long,
    ] {
        let der = ca.leaf().uri(uri).issue().der;
        let error = Certificate::parse(&der).expect_err(uri);
        assert!(matches!(error, CertificateError::AltName(_) | CertificateError::Identity(_)), "{uri:?}: {error}");
    }
    let two = ca.leaf().uri(ID).uri("spiffe://cluster.local/ns/a/sa/other").issue().der;
    assert_eq!(Certificate::parse(&two), Err(CertificateError::SeveralIdentities(2)));
    let second = ca.leaf().uri("https://example.com/").uri(ID).issue().der;
    assert_eq!(Certificate::parse(&second), Err(CertificateError::IdentityNotFirst));
    let nul_in_dns = ca.leaf().uri(ID).dns("good.example\0.evil.example").issue().der;
    assert!(matches!(Certificate::parse(&nul_in_dns), Err(CertificateError::AltName(_))));
}

/// GeneralNames as rcgen would not write them.
fn leaf_with_names(ca: &TestCa, general_names: &[u8]) -> Vec<u8> {
    let mut der = vec![0x30, u8::try_from(general_names.len()).unwrap()];
    der.extend_from_slice(general_names);
    ca.leaf().extension(&[2, 5, 29, 17], der).issue().der
}

#[test]
fn names_in_odd_encodings() {
    let ca = TestCa::new();
    let tlv = |tag: u8, value: &[u8]| [&[tag, u8::try_from(value.len()).unwrap()][..], value].concat();
    for (names, what) in [
        (tlv(0x86, b"spiffe://cluster.local/ns/a/sa/\xff"), "a URI that is not UTF-8"),
        (tlv(0x86, "spiffe://cluster.local/ns/a/sa/ä".as_bytes()), "a URI that is not ASCII"),
        (tlv(0x82, b"\xc3\x28"), "a DNS name that is not UTF-8"),
        (tlv(0x87, &[1, 2, 3]), "an IP address of three bytes"),
    ] {
        let parsed = Certificate::parse(&leaf_with_names(&ca, &names));
        assert!(matches!(parsed, Err(CertificateError::AltName(_))), "{what}: {parsed:?}");
    }
    // A user principal name in otherName, with a NUL: of no meaning here, so harmless.
    let upn = tlv(0xa0, &[tlv(0x06, &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 20, 2, 3]), tlv(0xa0, &tlv(0x0c, b"a\0b"))].concat());
    let with_uri = [upn, tlv(0x86, ID.as_bytes())].concat();
    assert_eq!(Certificate::parse(&leaf_with_names(&ca, &with_uri)).unwrap().identity(), Some(&spiffe(ID)));
    // The extension twice: which one counts?
    let uri = tlv(0x86, b"spiffe://cluster.local/ns/a/sa/other");
    let second = [&[0x30, u8::try_from(uri.len()).unwrap()][..], &uri].concat();
    let twice = ca.leaf().uri(ID).extension(&[2, 5, 29, 17], second).issue().der;
    assert!(Certificate::parse(&twice).is_err());
}

#[test]
fn pem_that_is_refused() {
    let ca = TestCa::new();
    let leaf = ca.workload(&spiffe(ID));
    assert_eq!(chain_from_pem(b"").unwrap_err(), CertificateError::NoCertificate);
    assert_eq!(chain_from_pem(leaf.key_pem.as_bytes()).unwrap_err(), CertificateError::NoCertificate);
    assert!(matches!(
        chain_from_pem(b"-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"),
        Err(CertificateError::Pem(_))
    ));
    assert!(matches!(chain_from_pem(&leaf.chain_pem.as_bytes()[..200]), Err(CertificateError::Pem(_))));
    assert_eq!(chain_from_pem(leaf.chain_pem.repeat(65).as_bytes()).unwrap_err(), CertificateError::ChainTooLong);

    assert_eq!(PrivateKey::from_pem(leaf.chain_pem.as_bytes()).unwrap_err(), CertificateError::NoKey);
    assert_eq!(PrivateKey::from_pem(leaf.key_pem.repeat(2).as_bytes()).unwrap_err(), CertificateError::SeveralKeys);
    assert_eq!(format!("{:?}", PrivateKey::from_pem(leaf.key_pem.as_bytes()).unwrap()), "PrivateKey(hidden)");

    let other = ca.workload(&spiffe(ID));
    let mixed = Credential::from_pem(leaf.chain_pem.as_bytes(), other.key_pem.as_bytes());
    assert_eq!(mixed.unwrap_err(), CertificateError::KeyMismatch);
    let debug = format!("{:?}", leaf.credential());
    assert!(debug.contains(ID) && !debug.to_lowercase().contains("key"), "{debug}");

    let error = TrustBundle::from_pem(b"nothing").unwrap_err();
    assert_eq!(error, TrustBundleError::Certificate(CertificateError::NoCertificate));
    let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let second_broken = format!("{}{broken}", ca.root_pem());
    assert!(matches!(TrustBundle::from_pem(second_broken.as_bytes()), Err(TrustBundleError::Anchor { index: 1, .. })));
}

#[test]
fn bundles_of_equal_contents_are_equal() {
    let (a, b) = (TestCa::new(), TestCa::new());
    let bundle = |pem: &str| TrustBundle::from_pem(pem.as_bytes()).unwrap();
    let both = bundle(&format!("{}{}", a.root_pem(), b.root_pem()));
    let reordered = bundle(&format!("a comment\n{}\n\n{}{}", b.root_pem(), a.root_pem(), b.root_pem()));
    assert_eq!(both.fingerprint(), reordered.fingerprint());
    assert_ne!(both.fingerprint(), bundle(a.root_pem()).fingerprint());
    assert_eq!(both.root_count(), 2);
    let handle = TrustHandle::new(bundle(a.root_pem()));
    assert!(!handle.replace(bundle(a.root_pem())) && handle.replace(both) && !handle.replace(reordered));
}

fn policy(ca: &TestCa) -> PeerPolicy {
    PeerPolicy::new(TrustHandle::new(ca.trust()), PeerExpectation::AnyInTrustBundle, PeerRole::Client)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = Certificate::parse(&bytes);
        let _ = chain_from_pem(&bytes);
        let _ = PrivateKey::from_pem(&bytes);
        let _ = TrustBundle::from_pem_with_crls(&bytes, &bytes);
    }

    #[test]
    fn a_certificate_with_a_changed_byte_is_never_trusted(position in any::<prop::sample::Index>(), flip in 1u8..) {
        thread_local!(static GOOD: (TestCa, Vec<u8>) = { let ca = TestCa::new(); let der = ca.workload(&spiffe(ID)).der; (ca, der) });
        GOOD.with(|(ca, good)| {
            let mut changed = good.clone();
            changed[position.index(good.len())] ^= flip;
            let _ = Certificate::parse(&changed);
            let policy = policy(ca);
            prop_assert!(policy.verify(&CertificateDer::from(changed), &[], SystemTime::now(), None).is_err());
            prop_assert!(policy.verify(&CertificateDer::from(good.clone()), &[], SystemTime::now(), None).is_ok());
            Ok(())
        })?;
    }

    /// Whatever URI an authority was made to sign: the certificate has the identity that the URI spells, or none, or is refused.
    #[test]
    fn an_identity_is_exactly_what_the_uri_spells(uri in "(spiffe|SPIFFE|https)?:?/?/?[ -~\\x00]{0,60}|spiffe://[a-zA-Z.:@]{0,9}/ns/[a-z./%]{0,9}/sa/[a-z/?#]{0,9}") {
        thread_local!(static CA: TestCa = TestCa::new());
        let der = CA.with(|ca| ca.leaf().uri(&uri).issue().der);
        match Certificate::parse(&der) {
            Ok(certificate) => match certificate.identity() {
                Some(id) => prop_assert_eq!(id.as_uri(), &uri),
                None => prop_assert!(!uri.to_ascii_lowercase().starts_with("spiffe:")),
            },
            Err(_) => prop_assert!(uri.contains('\0') || SpiffeId::parse(&uri).is_err()),
        }
    }
}
