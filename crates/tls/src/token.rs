//! Tokens by which a workload proves its service account to the control plane, of the shape of Kubernetes' projected
//! service account tokens: JWTs (RFC 7519), here always signed with ES256 (RFC 7518, section 3.4).
//!
//! The algorithm is not read from the token: only ES256 is accepted, so there is nothing to confuse.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{PublicKeyData, SignatureAlgorithm};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::certificate::{hex, sha256};

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_LEN: usize = 16 * 1024;

/// How far the clocks of issuer and verifier may differ.
pub const TOKEN_LEEWAY: Duration = Duration::from_secs(10);

const SUBJECT_PREFIX: &str = "system:serviceaccount:";

/// Why a token was not accepted, or a key could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`MAX_TOKEN_LEN`].
    #[error("token of {0} bytes is longer than {MAX_TOKEN_LEN}")]
    TooLong(usize),
    /// Not `header.payload.signature` in base64url, or not the JSON that is expected.
    #[error("malformed token: {0}")]
    Malformed(String),
    /// Another algorithm than ES256.
    #[error("token is signed with {0:?}, but only ES256 is accepted")]
    Algorithm(String),
    /// Not signed by a known key.
    #[error("token is not signed by a known key")]
    Signature,
    /// By another issuer.
    #[error("token issuer is {0:?}")]
    Issuer(String),
    /// For somebody else.
    #[error("token is for {0:?}, not for this audience")]
    Audience(Vec<String>),
    /// `exp` lies in the past.
    #[error("token has expired")]
    Expired,
    /// `nbf` or `iat` lies in the future.
    #[error("token is not valid yet")]
    NotYetValid,
    /// `sub` is not a service account, or contradicts the `kubernetes.io` claims.
    #[error("token subject: {0}")]
    Subject(String),
    /// The verifier's key file is unusable.
    #[error("token key: {0}")]
    Key(String),
    /// The issuer could not make a key or a signature.
    #[error("token could not be signed")]
    Signing,
}

/// A Kubernetes service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The pod that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodReference {
    /// Its name; its namespace is the service account's.
    pub name: String,
    /// Tells it from a later pod of the same name.
    pub uid: String,
}

/// What is to be put into a token.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// Who the bearer is.
    pub service_account: ServiceAccount,
    /// The bearer's pod, if the token is to be bound to one.
    pub pod: Option<PodReference>,
    /// Whom the token is for, e.g. `istio-ca`.
    pub audiences: Vec<String>,
    /// How long it is valid (Istio's projected tokens: 43,200 s).
    pub lifetime: Duration,
}

/// Who the bearer of a verified token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticatedWorkload {
    /// The account that it runs under.
    pub service_account: ServiceAccount,
    /// The pod that the token is bound to, if any.
    pub pod: Option<PodReference>,
    /// When the token ends.
    pub expires: SystemTime,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    /// RFC 7515, section 4.1.11: extensions that must be understood; none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: u64,
    #[serde(default)]
    nbf: u64,
    #[serde(default)]
    iat: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: KubernetesClaims,
}

/// RFC 7519, section 4.1.3: one string, or a list.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Serialize, Deserialize)]
struct KubernetesClaims {
    namespace: String,
    serviceaccount: NamedObject,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<PodReference>,
}

#[derive(Serialize, Deserialize)]
struct NamedObject {
    name: String,
}

/// Issues tokens with a P-256 key that lives in memory.
pub struct TokenIssuer {
    pair: EcdsaKeyPair,
    issuer: String,
    key_id: String,
}

impl TokenIssuer {
    /// Makes a new key; `issuer` becomes the claim `iss`.
    ///
    /// # Errors
    /// [`TokenError::Signing`] if the system gives no randomness.
    pub fn generate(issuer: impl Into<String>) -> Result<Self, TokenError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| TokenError::Signing)?;
        let key_id = hex(&sha256(pair.public_key().as_ref())[..8]);
        Ok(Self { pair, issuer: issuer.into(), key_id })
    }

    /// Issues a token that is valid from `now`.
    ///
    /// # Errors
    /// [`TokenError::Signing`].
    pub fn issue(&self, request: &TokenRequest, now: SystemTime) -> Result<String, TokenError> {
        let ServiceAccount { namespace, name } = &request.service_account;
        let issued = unix_seconds(now);
        let header = Header { alg: "ES256".into(), typ: Some("JWT".into()), kid: Some(self.key_id.clone()), crit: None };
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: format!("{SUBJECT_PREFIX}{namespace}:{name}"),
            aud: Audience::Several(request.audiences.clone()),
            exp: issued.saturating_add(request.lifetime.as_secs()),
            nbf: issued,
            iat: issued,
            kubernetes: KubernetesClaims {
                namespace: namespace.clone(),
                serviceaccount: NamedObject { name: name.clone() },
                pod: request.pod.clone(),
            },
        };
        let mut token = format!("{}.{}", encode(&header)?, encode(&claims)?);
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| TokenError::Signing)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Ok(token)
    }

    /// The public key as PEM (`PUBLIC KEY`), for [`TokenVerifier::from_public_keys_pem`].
    pub fn public_key_pem(&self) -> String {
        crate::pem::encode("PUBLIC KEY", &PublicPoint(self.pair.public_key().as_ref()).subject_public_key_info())
    }

    /// The public key as a JSON Web Key set (RFC 7517).
    pub fn public_jwks(&self) -> String {
        // An uncompressed point: 4, then x and y of 32 bytes each (SEC 1, section 2.3.3).
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let key =
            serde_json::json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.key_id, "x": x, "y": y});
        serde_json::json!({ "keys": [key] }).to_string()
    }
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer").field("issuer", &self.issuer).field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Verifies tokens of one issuer for one set of audiences.
#[derive(Clone, Debug)]
pub struct TokenVerifier {
    /// Uncompressed P-256 points.
    keys: Vec<Box<[u8]>>,
    issuer: String,
    audiences: Vec<String>,
}

impl TokenVerifier {
    /// Takes one or several P-256 keys (`PUBLIC KEY` blocks); a token passes if one of them signed it, if `issuer` issued it,
    /// and if it is for one of `audiences`.
    ///
    /// # Errors
    /// [`TokenError::Key`] for a text without keys or with a key of another kind, and for an empty list of audiences.
    pub fn from_public_keys_pem(pem: &[u8], issuer: impl Into<String>, audiences: Vec<String>) -> Result<Self, TokenError> {
        let mut keys = Vec::new();
        for item in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            keys.push(p256_point(&item.map_err(|e| TokenError::Key(e.to_string()))?)?);
        }
        if keys.is_empty() {
            return Err(TokenError::Key("no PEM block PUBLIC KEY found".into()));
        }
        if audiences.is_empty() {
            return Err(TokenError::Key("no audience to accept tokens for".into()));
        }
        Ok(Self { keys, issuer: issuer.into(), audiences })
    }

    /// Verifies a token as of `now`. Nothing in its payload is looked at before the signature has been verified.
    ///
    /// # Errors
    /// [`TokenError`], never with the token's text in it.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<AuthenticatedWorkload, TokenError> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(TokenError::TooLong(token.len()));
        }
        let malformed = |what: &str| TokenError::Malformed(what.to_owned());
        let (signed, signature) = token.rsplit_once('.').ok_or_else(|| malformed("not three parts"))?;
        let (header, payload) = signed.split_once('.').ok_or_else(|| malformed("not three parts"))?;
        let header: Header = decode(header, "header")?;
        if header.alg != "ES256" {
            return Err(TokenError::Algorithm(header.alg.chars().take(20).collect()));
        }
        if header.crit.is_some() {
            return Err(malformed("header \"crit\" asks for extensions that are not known"));
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed("signature is not base64url"))?;
        let signed_by = |key: &[u8]| UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(signed.as_bytes(), &signature);
        if !self.keys.iter().any(|key| signed_by(key).is_ok()) {
            return Err(TokenError::Signature);
        }
        self.check_claims(decode(payload, "payload")?, now)
    }

    fn check_claims(&self, claims: Claims, now: SystemTime) -> Result<AuthenticatedWorkload, TokenError> {
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer(claims.iss.chars().take(200).collect()));
        }
        let audiences = match claims.aud {
            Audience::One(one) => vec![one],
            Audience::Several(several) => several,
        };
        if !audiences.iter().any(|a| self.audiences.contains(a)) {
            return Err(TokenError::Audience(audiences));
        }
        let (now, leeway) = (unix_seconds(now), TOKEN_LEEWAY.as_secs());
        if claims.exp.saturating_add(leeway) <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf.max(claims.iat) > now.saturating_add(leeway) {
            return Err(TokenError::NotYetValid);
        }
        let subject = claims.sub.strip_prefix(SUBJECT_PREFIX).and_then(|rest| rest.split_once(':'));
        let (namespace, name) = subject.ok_or_else(|| TokenError::Subject("not system:serviceaccount:NAMESPACE:NAME".into()))?;
        if namespace != claims.kubernetes.namespace || name != claims.kubernetes.serviceaccount.name {
            return Err(TokenError::Subject("differs from the claim \"kubernetes.io\"".into()));
        }
        if namespace.is_empty() || name.is_empty() || name.contains(':') {
            return Err(TokenError::Subject("not system:serviceaccount:NAMESPACE:NAME".into()));
        }
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp));
        Ok(AuthenticatedWorkload {
            service_account: ServiceAccount { namespace: namespace.into(), name: name.into() },
            pod: claims.kubernetes.pod,
            expires: expires.ok_or_else(|| TokenError::Malformed("\"exp\" is out of range".into()))?,
        })
    }
}

struct PublicPoint<'a>(&'a [u8]);

impl PublicKeyData for PublicPoint<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

fn p256_point(der: &[u8]) -> Result<Box<[u8]>, TokenError> {
    let wrong = || TokenError::Key("must be an uncompressed P-256 public key".into());
    let (rest, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| wrong())?;
    let point: Box<[u8]> = info.subject_public_key.data.as_ref().into();
    // The encoding of a P-256 key is unique, so that comparing it checks algorithm, curve and form at once.
    let canonical = PublicPoint(&point).subject_public_key_info();
    if rest.is_empty() && point.len() == 65 && canonical == der { Ok(point) } else { Err(wrong()) }
}

fn encode(value: &impl Serialize) -> Result<String, TokenError> {
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).map_err(|_| TokenError::Signing)?))
}

fn decode<T: for<'de> Deserialize<'de>>(text: &str, part: &str) -> Result<T, TokenError> {
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed(format!("{part} is not base64url")))?;
    // serde_json's message may quote the payload: its position is enough.
    serde_json::from_slice(&json)
        .map_err(|e| TokenError::Malformed(format!("{part} is not the JSON that is expected, at column {}", e.column())))
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_that_differs_from_the_kubernetes_claims_is_refused() {
        let issuer = TokenIssuer::generate("issuer").unwrap();
        let pem = issuer.public_key_pem();
        let verifier = TokenVerifier::from_public_keys_pem(pem.as_bytes(), "issuer", vec!["us".into()]).unwrap();
        let now = SystemTime::now();
        let claims = |sub: &str, namespace: &str, name: &str| Claims {
            iss: "issuer".into(),
            sub: sub.into(),
            aud: Audience::One("us".into()),
            exp: unix_seconds(now) + 60,
            nbf: 0,
            iat: 0,
            kubernetes: KubernetesClaims {
                namespace: namespace.into(),
                serviceaccount: NamedObject { name: name.into() },
                pod: None,
            },
        };
        assert!(verifier.check_claims(claims("system:serviceaccount:a:b", "a", "b"), now).is_ok());
        for (sub, namespace, name) in [
            ("system:serviceaccount:a:b", "other", "b"),
            ("system:serviceaccount:a:b", "a", "other"),
            ("system:node:a:b", "a", "b"),
            ("a:b", "a", "b"),
            ("system:serviceaccount:a", "a", ""),
        ] {
            let refused = verifier.check_claims(claims(sub, namespace, name), now);
            assert!(matches!(refused, Err(TokenError::Subject(_))), "{sub} {namespace} {name}: {refused:?}");
        }
    }
}
