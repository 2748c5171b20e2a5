//! TLS contexts, secrets and where they come from.

use super::common::{ads, boolean, inline_bytes, string_match};
use super::{EncodeOptions, ProxyFlavor};
use crate::any::{any, empty_any};
use crate::istio::PEER_EXCHANGE;
use crate::pb::{core, extensions::transport_sockets::tls::v3 as tls, google, matcher};
use lateen_model::dataplane as m;

/// The cluster of the agent that serves the workload's own certificate (Istio's bootstrap).
pub(crate) const SDS_CLUSTER: &str = "sds-grpc";
const TLS_SOCKET: &str = "envoy.transport_sockets.tls";
const RAW_SOCKET: &str = "envoy.transport_sockets.raw_buffer";

fn sds(value: &m::SecretRef) -> tls::SdsSecretConfig {
    let source = match value.source {
        m::SecretSource::Ads => ads(),
        m::SecretSource::Workload => agent_source(),
    };
    tls::SdsSecretConfig { name: value.name.clone(), sds_config: Some(source) }
}

fn agent_source() -> core::ConfigSource {
    let grpc = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(core::grpc_service::EnvoyGrpc {
            cluster_name: SDS_CLUSTER.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let api = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc.into(),
        transport_api_version: core::ApiVersion::V3.into(),
        grpc_services: vec![grpc],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::ApiConfigSource(api)),
        initial_fetch_timeout: Some(google::Duration::default()),
        resource_api_version: core::ApiVersion::V3.into(),
        ..Default::default()
    }
}

fn params(value: &m::TlsParams) -> tls::TlsParameters {
    let version = |v| match v {
        m::TlsVersion::V1_2 => tls::tls_parameters::TlsProtocol::TlSv12,
        m::TlsVersion::V1_3 => tls::tls_parameters::TlsProtocol::TlSv13,
    };
    tls::TlsParameters {
        tls_minimum_protocol_version: version(value.min).into(),
        tls_maximum_protocol_version: version(value.max).into(),
        cipher_suites: value.cipher_suites.clone(),
        ..Default::default()
    }
}

/// Who agrees on metadata exchange must do it: its bytes would reach the application. A stock Envoy cannot, so it must not
/// agree.
fn alpn(protocols: &[String], options: EncodeOptions) -> Vec<String> {
    let exchanges = options.flavor != ProxyFlavor::StockEnvoy;
    protocols.iter().filter(|protocol| exchanges || *protocol != PEER_EXCHANGE).cloned().collect()
}

/// A SAN that looks like a URI is compared with URI SANs, any other with DNS SANs.
fn san(value: &m::StringMatch) -> tls::SubjectAltNameMatcher {
    use tls::subject_alt_name_matcher::SanType;
    let text = match &value.predicate {
        m::StringPredicate::Exact(t)
        | m::StringPredicate::Prefix(t)
        | m::StringPredicate::Suffix(t)
        | m::StringPredicate::Contains(t) => t,
        m::StringPredicate::Regex(regex) => regex.pattern(),
    };
    let kind = if text.contains("://") { SanType::Uri } else { SanType::Dns };
    typed_san(kind, string_match(value))
}

fn typed_san(kind: tls::subject_alt_name_matcher::SanType, matcher: matcher::StringMatcher) -> tls::SubjectAltNameMatcher {
    tls::SubjectAltNameMatcher { san_type: kind.into(), matcher: Some(matcher), oid: String::new() }
}

fn validation(
    roots: &m::SecretRef,
    sans: Vec<tls::SubjectAltNameMatcher>,
    crl_file: Option<&str>,
) -> tls::common_tls_context::ValidationContextType {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: sans,
            crl: crl_file.map(file),
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(sds(roots)),
        ..Default::default()
    })
}

fn file(path: &str) -> core::DataSource {
    core::DataSource { specifier: Some(core::data_source::Specifier::Filename(path.to_owned())), ..Default::default() }
}

pub(super) fn downstream(value: &m::DownstreamTls, options: EncodeOptions) -> core::TransportSocket {
    let sans = value.client_sans.iter().map(san).collect();
    let common = tls::CommonTlsContext {
        tls_params: Some(params(&value.params)),
        tls_certificate_sds_secret_configs: vec![sds(&value.certificate)],
        alpn_protocols: alpn(&value.alpn, options),
        validation_context_type: value.client_roots.as_ref().map(|roots| validation(roots, sans, value.crl_file.as_deref())),
        ..Default::default()
    };
    socket(
        TLS_SOCKET,
        any(&tls::DownstreamTlsContext {
            common_tls_context: Some(common),
            require_client_certificate: boolean(value.require_client_certificate),
            ..Default::default()
        }),
    )
}

pub(super) fn upstream(value: &m::UpstreamTls, options: EncodeOptions) -> core::TransportSocket {
    let sans = value.sans.iter().map(san).collect();
    let common = tls::CommonTlsContext {
        tls_params: Some(params(&value.params)),
        tls_certificate_sds_secret_configs: value.certificate.iter().map(sds).collect(),
        alpn_protocols: alpn(&value.alpn, options),
        validation_context_type: value.roots.as_ref().map(|roots| validation(roots, sans, value.crl_file.as_deref())),
        ..Default::default()
    };
    socket(
        TLS_SOCKET,
        any(&tls::UpstreamTlsContext { common_tls_context: Some(common), sni: value.sni.clone(), ..Default::default() }),
    )
}

pub(super) fn plaintext() -> core::TransportSocket {
    socket(RAW_SOCKET, empty_any("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"))
}

fn socket(name: &str, config: google::Any) -> core::TransportSocket {
    core::TransportSocket { name: name.to_owned(), config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)) }
}

pub(super) fn secret(value: &m::Secret) -> tls::Secret {
    let ty = match &value.kind {
        m::SecretKind::Certificate { chain_pem, private_key_pem } => tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: Some(inline_bytes(chain_pem)),
            private_key: Some(inline_bytes(private_key_pem)),
            ..Default::default()
        }),
        m::SecretKind::Roots { trusted_ca_pem, crl_pem } => {
            tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
                trusted_ca: Some(inline_bytes(trusted_ca_pem)),
                crl: (!crl_pem.is_empty()).then(|| inline_bytes(crl_pem)),
                ..Default::default()
            })
        }
    };
    tls::Secret { name: value.name.clone(), r#type: Some(ty) }
}
