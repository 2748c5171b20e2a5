//! TLS contexts and secrets.

use super::common::{inline, short, string_match};
use super::cx::{Cx, Result, fields};
use crate::encode::tls::SDS_CLUSTER;
use crate::pb::{core, extensions::transport_sockets::tls::v3 as tls};
use lateen_model::dataplane as m;

const DOWNSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const RAW: &str = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// The transport socket of a filter chain; `None` is plaintext.
pub(super) fn downstream(cx: &mut Cx, value: core::TransportSocket) -> Result<Option<Box<m::DownstreamTls>>> {
    let Some(core::transport_socket::ConfigType::TypedConfig(config)) = value.config_type else {
        return cx.fail_at("typed_config", "is required");
    };
    cx.at("typed_config", |cx| match config.type_url.as_str() {
        RAW => Ok(None),
        DOWNSTREAM => downstream_context(cx, cx.message(&config.value)?).map(|tls| Some(Box::new(tls))),
        url => cx.fail(format!("{} is not supported; DownstreamTlsContext and RawBuffer are", short(url))),
    })
}

/// The transport socket of a cluster; `None` is plaintext.
pub(super) fn upstream(cx: &mut Cx, value: core::TransportSocket) -> Result<Option<Box<m::UpstreamTls>>> {
    let Some(core::transport_socket::ConfigType::TypedConfig(config)) = value.config_type else {
        return cx.fail_at("typed_config", "is required");
    };
    cx.at("typed_config", |cx| match config.type_url.as_str() {
        RAW => Ok(None),
        UPSTREAM => upstream_context(cx, cx.message(&config.value)?).map(|tls| Some(Box::new(tls))),
        url => cx.fail(format!("{} is not supported; UpstreamTlsContext and RawBuffer are", short(url))),
    })
}

fn downstream_context(cx: &mut Cx, value: tls::DownstreamTlsContext) -> Result<m::DownstreamTls> {
    fields!(cx, value => tls::DownstreamTlsContext {
        use: [common_tls_context, require_client_certificate],
        refuse: [require_sni, ocsp_staple_policy],
        ignore: [
            disable_stateful_session_resumption, session_timeout, session_ticket_keys_type, full_scan_certs_on_sni_mismatch,
            prefer_client_ciphers,
        ],
    });
    let common = cx.required("common_tls_context", common_tls_context, common)?;
    let Some(certificate) = common.certificate else {
        return cx.fail_at("common_tls_context", "tls_certificate_sds_secret_configs must name the server's certificate");
    };
    let require = require_client_certificate.unwrap_or_default().value;
    if require && common.roots.is_none() {
        return cx.fail_at("require_client_certificate", "there are no roots to verify the client's certificate against");
    }
    Ok(m::DownstreamTls {
        params: common.params,
        alpn: common.alpn,
        certificate,
        client_roots: common.roots,
        client_sans: common.sans,
        require_client_certificate: require,
        crl_file: common.crl_file,
    })
}

fn upstream_context(cx: &mut Cx, value: tls::UpstreamTlsContext) -> Result<m::UpstreamTls> {
    fields!(cx, value => tls::UpstreamTlsContext {
        use: [common_tls_context, sni],
        refuse: [auto_host_sni, auto_sni_san_validation],
        ignore: [allow_renegotiation, max_session_keys, enforce_rsa_key_usage],
    });
    let common = cx.required("common_tls_context", common_tls_context, common)?;
    Ok(m::UpstreamTls {
        params: common.params,
        alpn: common.alpn,
        sni,
        certificate: common.certificate,
        roots: common.roots,
        sans: common.sans,
        crl_file: common.crl_file,
    })
}

struct Common {
    params: m::TlsParams,
    alpn: Vec<String>,
    certificate: Option<m::SecretRef>,
    roots: Option<m::SecretRef>,
    sans: Vec<m::StringMatch>,
    crl_file: Option<String>,
}

fn common(cx: &mut Cx, value: tls::CommonTlsContext) -> Result<Common> {
    use tls::common_tls_context::ValidationContextType;
    fields!(cx, value => tls::CommonTlsContext {
        use: [tls_params, tls_certificate_sds_secret_configs, alpn_protocols, validation_context_type],
        refuse: [
            tls_certificates, tls_certificate_provider_instance, custom_tls_certificate_selector,
            tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance, custom_handshaker,
        ],
        ignore: [key_log],
    });
    let params = cx.optional("tls_params", tls_params, params)?.unwrap_or_default();
    let mut certificates = cx.each("tls_certificate_sds_secret_configs", tls_certificate_sds_secret_configs, secret_ref)?;
    if certificates.len() > 1 {
        return cx.fail_at("tls_certificate_sds_secret_configs", "one certificate is supported");
    }
    let (roots, (sans, crl_file)) = match validation_context_type {
        None => (None, (Vec::new(), None)),
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
            (Some(cx.at("validation_context_sds_secret_config", |cx| secret_ref(cx, secret))?), (Vec::new(), None))
        }
        Some(ValidationContextType::CombinedValidationContext(value)) => {
            cx.at("combined_validation_context", |cx| combined(cx, value))?
        }
        Some(_) => {
            let supported = "validation_context_sds_secret_config and combined_validation_context are supported";
            return cx.fail_at("validation_context_type", supported);
        }
    };
    Ok(Common { params, alpn: alpn_protocols, certificate: certificates.pop(), roots, sans, crl_file })
}

fn combined(
    cx: &mut Cx,
    value: tls::common_tls_context::CombinedCertificateValidationContext,
) -> Result<(Option<m::SecretRef>, Expected)> {
    fields!(cx, value => tls::common_tls_context::CombinedCertificateValidationContext {
        use: [default_validation_context, validation_context_sds_secret_config],
        refuse: [validation_context_certificate_provider, validation_context_certificate_provider_instance],
        ignore: [],
    });
    let roots = cx.required("validation_context_sds_secret_config", validation_context_sds_secret_config, secret_ref)?;
    let expected = cx.optional("default_validation_context", default_validation_context, expected)?.unwrap_or_default();
    Ok((Some(roots), expected))
}

/// What a certificate is to be besides vouched for: its names, and the file of those that are revoked.
type Expected = (Vec<m::StringMatch>, Option<String>);

fn expected(cx: &mut Cx, value: tls::CertificateValidationContext) -> Result<Expected> {
    use tls::subject_alt_name_matcher::SanType;
    fields!(cx, value => tls::CertificateValidationContext {
        use: [match_typed_subject_alt_names, match_subject_alt_names, crl],
        refuse: [
            trusted_ca, ca_certificate_provider_instance, system_root_certs, watched_directory, verify_certificate_spki,
            verify_certificate_hash, require_signed_certificate_timestamp, allow_expired_certificate,
            trust_chain_verification, custom_validator_config, max_verify_depth,
        ],
        ignore: [only_verify_leaf_cert_crl, suppress_client_ca_list],
    });
    let typed = cx.each("match_typed_subject_alt_names", match_typed_subject_alt_names, |cx, value| {
        if value.san_type != i32::from(SanType::Uri) && value.san_type != i32::from(SanType::Dns) {
            return cx.fail_at("san_type", "URI and DNS are supported");
        }
        cx.required("matcher", value.matcher, string_match)
    })?;
    let untyped = cx.each("match_subject_alt_names", match_subject_alt_names, string_match)?;
    let mut sans: Vec<m::StringMatch> = Vec::with_capacity(typed.len() + untyped.len());
    for san in typed.into_iter().chain(untyped) {
        // One name may stand for a URI and for a DNS name.
        if !sans.contains(&san) {
            sans.push(san);
        }
    }
    let crl_file = cx.optional("crl", crl, |cx, value| match value.specifier {
        Some(core::data_source::Specifier::Filename(path)) => Ok(path),
        _ => cx.fail("must be a filename beside roots from SDS"),
    })?;
    Ok((sans, crl_file))
}

fn params(cx: &mut Cx, value: tls::TlsParameters) -> Result<m::TlsParams> {
    fields!(cx, value => tls::TlsParameters {
        use: [tls_minimum_protocol_version, tls_maximum_protocol_version, cipher_suites],
        refuse: [signature_algorithms, compliance_policies],
        ignore: [ecdh_curves],
    });
    let min = version(cx, "tls_minimum_protocol_version", tls_minimum_protocol_version)?.unwrap_or(m::TlsVersion::V1_2);
    let max = version(cx, "tls_maximum_protocol_version", tls_maximum_protocol_version)?.unwrap_or(m::TlsVersion::V1_3);
    if min > max {
        return cx.fail("the lowest version is above the highest");
    }
    Ok(m::TlsParams { min, max, cipher_suites })
}

fn version(cx: &Cx, field: &'static str, value: i32) -> Result<Option<m::TlsVersion>> {
    use tls::tls_parameters::TlsProtocol;
    match TlsProtocol::try_from(value) {
        Ok(TlsProtocol::TlsAuto) => Ok(None),
        Ok(TlsProtocol::TlSv12) => Ok(Some(m::TlsVersion::V1_2)),
        Ok(TlsProtocol::TlSv13) => Ok(Some(m::TlsVersion::V1_3)),
        _ => cx.fail_at(field, "TLSv1_2 and TLSv1_3 are supported"),
    }
}

fn secret_ref(cx: &mut Cx, value: tls::SdsSecretConfig) -> Result<m::SecretRef> {
    if value.name.is_empty() {
        return cx.fail_at("name", "is required");
    }
    let source = cx.required("sds_config", value.sds_config, secret_source)?;
    Ok(m::SecretRef { name: value.name, source })
}

fn secret_source(cx: &mut Cx, value: core::ConfigSource) -> Result<m::SecretSource> {
    use core::config_source::ConfigSourceSpecifier;
    use core::grpc_service::TargetSpecifier;
    match value.config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_)) => Ok(m::SecretSource::Ads),
        Some(ConfigSourceSpecifier::ApiConfigSource(api)) => {
            let agent = api.grpc_services.len() == 1
                && api
                    .grpc_services
                    .iter()
                    .all(|s| matches!(&s.target_specifier, Some(TargetSpecifier::EnvoyGrpc(g)) if g.cluster_name == SDS_CLUSTER));
            if agent {
                Ok(m::SecretSource::Workload)
            } else {
                cx.fail_at("api_config_source", format!("only envoy_grpc to cluster {SDS_CLUSTER:?} is supported"))
            }
        }
        _ => cx.fail(format!("ads and api_config_source to cluster {SDS_CLUSTER:?} are supported")),
    }
}

pub(super) fn secret(cx: &mut Cx, value: tls::Secret) -> Result<m::Secret> {
    let kind = match value.r#type {
        Some(tls::secret::Type::TlsCertificate(value)) => cx.at("tls_certificate", |cx| certificate(cx, value))?,
        Some(tls::secret::Type::ValidationContext(value)) => cx.at("validation_context", |cx| roots(cx, value))?,
        Some(_) => return cx.fail("tls_certificate and validation_context are supported"),
        None => return cx.fail("one of tls_certificate and validation_context is required"),
    };
    Ok(m::Secret { name: value.name, kind })
}

fn certificate(cx: &mut Cx, value: tls::TlsCertificate) -> Result<m::SecretKind> {
    fields!(cx, value => tls::TlsCertificate {
        use: [certificate_chain, private_key],
        refuse: [pkcs12, watched_directory, private_key_provider, password, tls_params],
        ignore: [ocsp_staple, signed_certificate_timestamp],
    });
    Ok(m::SecretKind::Certificate {
        chain_pem: cx.required("certificate_chain", certificate_chain, inline)?,
        private_key_pem: cx.required("private_key", private_key, inline)?,
    })
}

fn roots(cx: &mut Cx, value: tls::CertificateValidationContext) -> Result<m::SecretKind> {
    fields!(cx, value => tls::CertificateValidationContext {
        use: [trusted_ca, crl],
        refuse: [
            match_typed_subject_alt_names, match_subject_alt_names, ca_certificate_provider_instance, system_root_certs,
            watched_directory, verify_certificate_spki, verify_certificate_hash, require_signed_certificate_timestamp,
            allow_expired_certificate, trust_chain_verification, custom_validator_config, max_verify_depth,
        ],
        ignore: [only_verify_leaf_cert_crl, suppress_client_ca_list],
    });
    let trusted_ca_pem = cx.required("trusted_ca", trusted_ca, inline)?;
    let crl_pem = cx.optional("crl", crl, inline)?.unwrap_or_default();
    Ok(m::SecretKind::Roots { trusted_ca_pem, crl_pem })
}
