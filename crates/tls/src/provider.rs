//! The only crypto provider: rustls with aws-lc-rs, always named explicitly and never made the default of the process.

use std::sync::{Arc, LazyLock};

use lateen_model::dataplane::{TlsParams, TlsVersion};
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};

/// Why TLS parameters cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsParamsError {
    /// The lowest version is above the highest.
    #[error("minimum TLS version {min:?} is above the maximum {max:?}")]
    Versions {
        /// The lowest.
        min: TlsVersion,
        /// The highest.
        max: TlsVersion,
    },
    /// A cipher suite that nobody knows.
    #[error("cipher suite {0:?} is not known; the names are OpenSSL's, e.g. ECDHE-ECDSA-AES256-GCM-SHA384")]
    UnknownCipherSuite(String),
    /// TLS 1.2 only, with suites that this implementation leaves out.
    #[error(
        "none of the cipher suites is supported; those with static RSA, CBC or SHA-1 are not, having no forward secrecy or known weaknesses"
    )]
    NoCipherSuite,
}

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut default = rustls::crypto::aws_lc_rs::default_provider();
    // AES-128 with SHA-256 first, as BoringSSL and Go have it: where the processor has instructions for SHA-256, a handshake
    // costs a fifth less, a resumed one a third (`examples/tls_cost.rs`). The sort is stable.
    default.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(CryptoProvider {
        // What Envoy 1.40 negotiates too; the hybrid protects recorded traffic from later quantum computers.
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..default
    })
});

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

pub(crate) fn signature_algorithms() -> &'static WebPkiSupportedAlgorithms {
    &PROVIDER.signature_verification_algorithms
}

/// The provider with the cipher suites of `params`, and the versions to enable.
pub(crate) fn for_params(
    params: &TlsParams,
) -> Result<(Arc<CryptoProvider>, Vec<&'static SupportedProtocolVersion>), TlsParamsError> {
    let (min, max) = (params.min, params.max);
    if min > max {
        return Err(TlsParamsError::Versions { min, max });
    }
    let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::with_capacity(2);
    if max == TlsVersion::V1_3 {
        versions.push(&rustls::version::TLS13);
    }
    if min == TlsVersion::V1_2 {
        versions.push(&rustls::version::TLS12);
    }
    let chosen = params.cipher_suites.iter().map(|name| suite(name)).collect::<Result<Vec<_>, _>>()?;
    if chosen.is_empty() {
        return Ok((provider(), versions));
    }
    let chosen: Vec<SupportedCipherSuite> = chosen.into_iter().flatten().collect();
    if chosen.is_empty() {
        if max == TlsVersion::V1_2 {
            return Err(TlsParamsError::NoCipherSuite);
        }
        versions.retain(|v| v.version == rustls::ProtocolVersion::TLSv1_3);
    }
    // The list is of TLS 1.2 suites; those of TLS 1.3 are not configurable, as in Envoy.
    let is_tls13 = |s: &&SupportedCipherSuite| s.tls13().is_some();
    let cipher_suites = PROVIDER.cipher_suites.iter().filter(is_tls13).copied().chain(chosen).collect();
    Ok((Arc::new(CryptoProvider { cipher_suites, ..(*provider()).clone() }), versions))
}

/// The suite of an OpenSSL name; `None` for one that is known, but left out on purpose.
fn suite(name: &str) -> Result<Option<SupportedCipherSuite>, TlsParamsError> {
    Ok(match name {
        "ECDHE-ECDSA-AES256-GCM-SHA384" => Some(cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        "ECDHE-ECDSA-AES128-GCM-SHA256" => Some(cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        "ECDHE-ECDSA-CHACHA20-POLY1305" => Some(cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
        "ECDHE-RSA-AES256-GCM-SHA384" => Some(cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
        "ECDHE-RSA-AES128-GCM-SHA256" => Some(cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
        "ECDHE-RSA-CHACHA20-POLY1305" => Some(cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
        // In Istio's default list, and in what its validation allows: no forward secrecy, or CBC with SHA-1.
        "AES256-GCM-SHA384"
        | "AES128-GCM-SHA256"
        | "AES256-SHA"
        | "AES128-SHA"
        | "DES-CBC3-SHA"
        | "ECDHE-ECDSA-AES256-SHA"
        | "ECDHE-ECDSA-AES128-SHA"
        | "ECDHE-RSA-AES256-SHA"
        | "ECDHE-RSA-AES128-SHA" => None,
        other => return Err(TlsParamsError::UnknownCipherSuite(other.chars().take(80).collect())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(min: TlsVersion, max: TlsVersion, suites: &[&str]) -> TlsParams {
        TlsParams { min, max, cipher_suites: suites.iter().map(|s| (*s).to_owned()).collect() }
    }

    #[test]
    fn versions_and_suites() {
        use TlsVersion::{V1_2, V1_3};
        let istio = [
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "AES256-GCM-SHA384",
            "AES128-GCM-SHA256",
        ];
        let (provider, versions) = for_params(&params(V1_2, V1_3, &istio)).unwrap();
        assert_eq!(versions.len(), 2);
        assert_eq!(provider.cipher_suites.iter().filter(|s| s.tls13().is_none()).count(), 4);
        assert_eq!(provider.cipher_suites.iter().filter(|s| s.tls13().is_some()).count(), 3);

        let (_, versions) = for_params(&params(V1_2, V1_3, &["AES256-SHA"])).unwrap();
        assert_eq!(versions, [&rustls::version::TLS13], "only suites that are left out: TLS 1.3 remains");
        assert_eq!(for_params(&params(V1_2, V1_2, &["AES256-SHA"])).unwrap_err(), TlsParamsError::NoCipherSuite);
        assert_eq!(for_params(&params(V1_3, V1_2, &[])).unwrap_err(), TlsParamsError::Versions { min: V1_3, max: V1_2 });
        assert_eq!(
            for_params(&params(V1_2, V1_3, &["NULL-MD5"])).unwrap_err(),
            TlsParamsError::UnknownCipherSuite("NULL-MD5".into())
        );
    }
}
