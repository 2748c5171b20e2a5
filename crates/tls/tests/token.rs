//! Workload tokens: who is let in, and why others are not.
#![allow(clippy::unwrap_used, reason = "a helper that fails, fails the test")]

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lateen_tls::{
    MAX_TOKEN_LEN, PodReference, ServiceAccount, TOKEN_LEEWAY, TokenError, TokenIssuer, TokenRequest, TokenVerifier,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const ISSUER: &str = "https://lateen.local";

fn request() -> TokenRequest {
    TokenRequest {
        service_account: ServiceAccount { namespace: "production".into(), name: "order-service-sa".into() },
        pod: Some(PodReference { name: "order-v1-abc".into(), uid: "7f3a".into() }),
        audiences: vec!["istio-ca".into()],
        lifetime: Duration::from_secs(3600),
    }
}

fn verifier(issuer: &TokenIssuer) -> TokenVerifier {
    TokenVerifier::from_public_keys_pem(issuer.public_key_pem().as_bytes(), ISSUER, vec!["istio-ca".into()]).unwrap()
}

fn part(token: &str, index: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}

#[test]
fn a_token_tells_who_the_bearer_is() {
    let (issuer, now) = (TokenIssuer::generate(ISSUER).unwrap(), SystemTime::now());
    let token = issuer.issue(&request(), now).unwrap();
    let workload = verifier(&issuer).verify(&token, now).unwrap();
    assert_eq!((workload.service_account, workload.pod), (request().service_account, request().pod));
    assert!(workload.expires > now + Duration::from_secs(3598));
    let claims = part(&token, 1);
    assert_eq!(claims["sub"], "system:serviceaccount:production:order-service-sa");
    assert_eq!(claims["aud"], json!(["istio-ca"]));
    assert_eq!(
        claims["kubernetes.io"],
        json!({"namespace": "production", "serviceaccount": {"name": "order-service-sa"}, "pod": {"name": "order-v1-abc", "uid": "7f3a"}})
    );
    let jwks: Value = serde_json::from_str(&issuer.public_jwks()).unwrap();
    assert_eq!(jwks["keys"][0]["kid"], part(&token, 0)["kid"]);
    assert_eq!(URL_SAFE_NO_PAD.decode(jwks["keys"][0]["x"].as_str().unwrap()).unwrap().len(), 32);
    let without_pod = issuer.issue(&TokenRequest { pod: None, ..request() }, now).unwrap();
    assert_eq!(verifier(&issuer).verify(&without_pod, now).unwrap().pod, None);
}

#[test]
fn times_and_audiences() {
    let (issuer, now) = (TokenIssuer::generate(ISSUER).unwrap(), SystemTime::now());
    let verifier = verifier(&issuer);
    let token = issuer.issue(&request(), now).unwrap();
    let at = |offset: i64| {
        let distance = Duration::from_secs(offset.unsigned_abs());
        verifier.verify(&token, if offset < 0 { now - distance } else { now + distance })
    };
    let leeway = i64::try_from(TOKEN_LEEWAY.as_secs()).unwrap();
    assert!(at(0).is_ok() && at(3600 + leeway - 2).is_ok() && at(2 - leeway).is_ok());
    assert_eq!(at(3600 + leeway + 1), Err(TokenError::Expired));
    assert_eq!(at(-leeway - 2), Err(TokenError::NotYetValid));
    for (audiences, good) in [
        (vec!["istio-ca"], true),
        (vec!["other", "istio-ca"], true),
        (vec!["other"], false),
        (vec!["istio-ca2"], false),
        (vec![], false),
    ] {
        let audiences: Vec<String> = audiences.into_iter().map(str::to_owned).collect();
        let token = issuer.issue(&TokenRequest { audiences: audiences.clone(), ..request() }, now).unwrap();
        assert_eq!(verifier.verify(&token, now).is_ok(), good, "{audiences:?}");
    }
}

/// Takes a good token apart and puts it together again with one thing changed.
fn forge(token: &str, change: impl Fn(&mut Value, &mut Value)) -> String {
    let (mut header, mut claims) = (part(token, 0), part(token, 1));
    change(&mut header, &mut claims);
    let encode = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
    format!("{}.{}.{}", encode(&header), encode(&claims), token.rsplit_once('.').unwrap().1)
}

#[test]
fn forgeries() {
    let (issuer, now) = (TokenIssuer::generate(ISSUER).unwrap(), SystemTime::now());
    let verifier = verifier(&issuer);
    let token = issuer.issue(&request(), now).unwrap();
    let refused = |token: &str| verifier.verify(token, now).unwrap_err();
    assert_eq!(
        refused(&forge(&token, |_, c| c["sub"] = json!("system:serviceaccount:kube-system:admin"))),
        TokenError::Signature
    );
    assert_eq!(refused(&forge(&token, |_, c| c["exp"] = json!(9_999_999_999u64))), TokenError::Signature);
    for alg in ["none", "None", "HS256", "RS256", "es256", ""] {
        assert_eq!(refused(&forge(&token, |h, _| h["alg"] = json!(alg))), TokenError::Algorithm(alg.into()));
    }
    assert!(matches!(refused(&forge(&token, |h, _| h["crit"] = json!(["b64"]))), TokenError::Malformed(_)));
    let stranger = TokenIssuer::generate(ISSUER).unwrap();
    assert_eq!(refused(&stranger.issue(&request(), now).unwrap()), TokenError::Signature);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    for forged in [format!("{signed}."), format!("{signed}.AAAA"), format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0; 64]))] {
        assert_eq!(refused(&forged), TokenError::Signature);
    }
    for broken in [
        String::new(),
        "..".into(),
        "a.b".into(),
        signed.into(),
        format!("{signed}.{signature}="),
        format!("{token}.x"),
        format!(" {token}"),
        format!("Bearer {token}"),
        token.replacen('.', "!.", 1),
    ] {
        assert!(matches!(refused(&broken), TokenError::Malformed(_) | TokenError::Signature), "{broken}");
    }
    assert_eq!(refused(&"a".repeat(MAX_TOKEN_LEN + 1)), TokenError::TooLong(MAX_TOKEN_LEN + 1));
    assert!(!refused(&forge(&token, |_, c| c["iss"] = json!("x"))).to_string().contains(signature));
}

/// Signed by the right key, and still not acceptable.
#[test]
fn claims_that_contradict() {
    let now = SystemTime::now();
    let other = TokenIssuer::generate("https://elsewhere").unwrap();
    let verifier = verifier(&other);
    assert_eq!(verifier.verify(&other.issue(&request(), now).unwrap(), now), Err(TokenError::Issuer("https://elsewhere".into())));

    let issuer = TokenIssuer::generate(ISSUER).unwrap();
    let verifier = self::verifier(&issuer);
    // A colon in a name moves the border between namespace and account.
    for (namespace, name) in [("production", "a:b"), ("production:a", "b"), ("", "a"), ("a", "")] {
        let service_account = ServiceAccount { namespace: namespace.into(), name: name.into() };
        let token = issuer.issue(&TokenRequest { service_account, ..request() }, now).unwrap();
        assert!(matches!(verifier.verify(&token, now), Err(TokenError::Subject(_))), "{namespace:?} {name:?}");
    }
}

#[test]
fn key_files() {
    let (a, b) = (TokenIssuer::generate(ISSUER).unwrap(), TokenIssuer::generate(ISSUER).unwrap());
    let audiences = || vec!["istio-ca".to_owned()];
    let both = format!("{}{}", a.public_key_pem(), b.public_key_pem());
    let verifier = TokenVerifier::from_public_keys_pem(both.as_bytes(), ISSUER, audiences()).unwrap();
    let now = SystemTime::now();
    assert!([&a, &b].iter().all(|issuer| verifier.verify(&issuer.issue(&request(), now).unwrap(), now).is_ok()));

    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem();
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().public_key_pem();
    for pem in ["", "garbage", &p384, &rsa, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
        let error = TokenVerifier::from_public_keys_pem(pem.as_bytes(), ISSUER, audiences()).unwrap_err();
        assert!(matches!(error, TokenError::Key(_)), "{pem}");
    }
    assert!(TokenVerifier::from_public_keys_pem(both.as_bytes(), ISSUER, Vec::new()).is_err());
    assert!(!format!("{a:?}").to_ascii_lowercase().contains("private"));
}

proptest! {
    #[test]
    fn no_text_panics_or_passes(text in "[A-Za-z0-9_.=-]{0,200}|.{0,50}") {
        thread_local!(static VERIFIER: TokenVerifier = verifier(&TokenIssuer::generate(ISSUER).unwrap()));
        prop_assert!(VERIFIER.with(|v| v.verify(&text, SystemTime::now()).is_err()));
    }

    #[test]
    fn a_changed_character_never_passes(position in any::<prop::sample::Index>(), replacement in "[A-Za-z0-9_.-]") {
        thread_local!(static GOOD: (TokenVerifier, String) = {
            let issuer = TokenIssuer::generate(ISSUER).unwrap();
            (verifier(&issuer), issuer.issue(&request(), SystemTime::now()).unwrap())
        });
        GOOD.with(|(verifier, token)| {
            let at = position.index(token.len());
            let mut changed = token.clone();
            changed.replace_range(at..=at, &replacement);
            prop_assert!(changed == *token || verifier.verify(&changed, SystemTime::now()).is_err());
            Ok(())
        })?;
    }
}
