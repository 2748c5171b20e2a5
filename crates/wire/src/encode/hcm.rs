//! The HTTP connection manager and its filters.

use super::common::{access_log, ads, boolean, duration, uint32};
use super::{rate_limit, rbac, route};
use crate::any::{Extended, OrderedKind, OrderedStruct, any, empty_any, typed_struct};
use crate::istio::{ALPN, ALPN_OVERRIDES, AlpnConfig, METADATA_EXCHANGE, PeerMetadataConfig, STATS, StatsConfig};
use crate::pb::{
    core, extensions::filters::http::grpc_stats::v3 as grpc_stats,
    extensions::filters::network::http_connection_manager::v3 as hcm, google, trace, tracing, typ,
};
use crate::rate_limit::LOCAL_RATE_LIMIT;
use lateen_model::dataplane as m;
use prost::{Message, Name};

pub(crate) const ROUTER: &str = "envoy.filters.http.router";
pub(crate) const HTTP_RBAC: &str = "envoy.filters.http.rbac";
pub(crate) const GRPC_STATS: &str = "envoy.filters.http.grpc_stats";
pub(crate) const FAULT: &str = "envoy.filters.http.fault";
pub(crate) const CORS: &str = "envoy.filters.http.cors";
pub(crate) const OPENTELEMETRY: &str = "envoy.tracers.opentelemetry";

/// The field number of `HttpConnectionManager.route_config`.
const ROUTE_CONFIG: u32 = 4;

/// Packed; routes that are written in it are as ordered as those that are resources of their own.
pub(super) fn manager(value: &m::HttpConnectionManager) -> google::Any {
    let entries = match &value.routes {
        m::RouteSource::Rds(_) => Vec::new(),
        m::RouteSource::Inline(routes) => vec![route::configuration(routes)],
    };
    let ordered = Extended { base: settings(value), tag: ROUTE_CONFIG, entries };
    google::Any { type_url: hcm::HttpConnectionManager::type_url(), value: ordered.encode_to_vec() }
}

/// Without routes that are written in it.
fn settings(value: &m::HttpConnectionManager) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager::{
        CodecType, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation, UpgradeConfig,
    };
    let mut http_filters: Vec<_> = value.http_filters.iter().map(http_filter).collect();
    http_filters.push(filter(ROUTER, empty_any("envoy.extensions.filters.http.router.v3.Router")));
    let normalization = value.path_normalization;
    let merge = matches!(normalization, m::PathNormalization::MergeSlashes | m::PathNormalization::DecodeAndMergeSlashes);
    let mut manager = hcm::HttpConnectionManager {
        stat_prefix: value.stat_prefix.clone(),
        codec_type: match value.codec {
            m::Codec::Auto => CodecType::Auto,
            m::Codec::Http1 => CodecType::Http1,
            m::Codec::Http2 => CodecType::Http2,
        }
        .into(),
        http_filters,
        use_remote_address: boolean(value.use_remote_address),
        xff_num_trusted_hops: value.xff_num_trusted_hops,
        generate_request_id: boolean(value.generate_request_id),
        preserve_external_request_id: value.preserve_external_request_id,
        proxy_100_continue: true,
        normalize_path: boolean(normalization != m::PathNormalization::None),
        merge_slashes: merge,
        path_with_escaped_slashes_action: if normalization == m::PathNormalization::DecodeAndMergeSlashes {
            PathWithEscapedSlashesAction::UnescapeAndForward
        } else {
            PathWithEscapedSlashesAction::KeepUnchanged
        }
        .into(),
        upgrade_configs: value
            .upgrades
            .iter()
            .map(|upgrade| UpgradeConfig { upgrade_type: upgrade.clone(), ..Default::default() })
            .collect(),
        stream_idle_timeout: value.stream_idle_timeout.map(duration),
        request_headers_timeout: value.request_headers_timeout.map(duration),
        max_request_headers_kb: uint32(value.max_request_headers_kib),
        tracing: value.tracing.as_ref().map(tracing_config),
        access_log: value.access_log.iter().map(access_log).collect(),
        ..Default::default()
    };
    if let m::RouteSource::Rds(name) = &value.routes {
        let rds = hcm::Rds { config_source: Some(ads()), route_config_name: name.clone() };
        manager.route_specifier = Some(RouteSpecifier::Rds(rds));
    }
    match &value.server_name {
        Some(name) => manager.server_name.clone_from(name),
        None => manager.server_header_transformation = ServerHeaderTransformation::PassThrough.into(),
    }
    if value.accept_http_10 {
        manager.http_protocol_options = Some(core::Http1ProtocolOptions { accept_http_10: true, ..Default::default() });
    }
    if let Some(timeout) = value.idle_timeout {
        manager.common_http_protocol_options =
            Some(core::HttpProtocolOptions { idle_timeout: Some(duration(timeout)), ..Default::default() });
    }
    forward_client_cert(&mut manager, value.forward_client_cert);
    manager
}

fn forward_client_cert(manager: &mut hcm::HttpConnectionManager, value: m::ForwardClientCert) {
    use hcm::http_connection_manager::{ForwardClientCertDetails, SetCurrentClientCertDetails};
    let details = match value {
        m::ForwardClientCert::Sanitize => ForwardClientCertDetails::Sanitize,
        m::ForwardClientCert::AppendForward => ForwardClientCertDetails::AppendForward,
        m::ForwardClientCert::SanitizeSet => ForwardClientCertDetails::SanitizeSet,
        m::ForwardClientCert::ForwardOnly => ForwardClientCertDetails::ForwardOnly,
    };
    manager.forward_client_cert_details = details.into();
    if matches!(value, m::ForwardClientCert::AppendForward | m::ForwardClientCert::SanitizeSet) {
        manager.set_current_client_cert_details =
            Some(SetCurrentClientCertDetails { subject: boolean(true), dns: true, uri: true, ..Default::default() });
    }
}

fn filter(name: &str, config: google::Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// Istio's filters are optional: an Envoy without them goes on without them. They are sent as `TypedStruct`, as Istio does,
/// because such an Envoy cannot dump its configuration with messages in it that it does not know.
fn http_filter(value: &m::HttpFilter) -> hcm::HttpFilter {
    let optional = |name, ty, config| hcm::HttpFilter { is_optional: true, ..filter(name, typed_struct(ty, config)) };
    match value {
        m::HttpFilter::PeerMetadata(peer) => optional(METADATA_EXCHANGE, PeerMetadataConfig::type_url(), peer_metadata(*peer)),
        m::HttpFilter::Rbac(rules) => filter(HTTP_RBAC, rbac::http(rules)),
        m::HttpFilter::RateLimit(limits) => filter(LOCAL_RATE_LIMIT, rate_limit::http(limits)),
        m::HttpFilter::GrpcStats => filter(GRPC_STATS, any(&grpc_stats_config())),
        m::HttpFilter::Alpn => optional(ALPN, AlpnConfig::type_url(), alpn()),
        m::HttpFilter::Fault => filter(FAULT, empty_any("envoy.extensions.filters.http.fault.v3.HTTPFault")),
        m::HttpFilter::Cors => filter(CORS, empty_any("envoy.extensions.filters.http.cors.v3.Cors")),
        m::HttpFilter::Stats(stats) => optional(STATS, StatsConfig::type_url(), self::stats(stats)),
    }
}

fn grpc_stats_config() -> grpc_stats::FilterConfig {
    grpc_stats::FilterConfig {
        emit_filter_state: true,
        per_method_stat_specifier: Some(grpc_stats::filter_config::PerMethodStatSpecifier::StatsForAllMethods(
            google::BoolValue { value: false },
        )),
        ..Default::default()
    }
}

fn alpn() -> OrderedStruct {
    let text = |text: &str| OrderedKind::String(text.to_owned());
    let overrides = ALPN_OVERRIDES.map(|(version, protocols)| {
        let protocols = OrderedKind::list(protocols.map(text));
        OrderedKind::Struct(OrderedStruct::default().with("upstream_protocol", text(version)).with("alpn_override", protocols))
    });
    OrderedStruct::default().with("alpn_override", OrderedKind::list(overrides))
}

fn stats(value: &m::StatsFilter) -> OrderedStruct {
    let mut config = OrderedStruct::default();
    if !value.host_header_fallback {
        config.set("disable_host_header_fallback", OrderedKind::Bool(true));
    }
    config
}

/// The peer's metadata are looked for in headers, then by address; own metadata are sent in headers.
fn peer_metadata(value: m::PeerMetadata) -> OrderedStruct {
    let empty = || OrderedKind::Struct(OrderedStruct::default());
    let method = |name, config| OrderedKind::Struct(OrderedStruct::default().with(name, config));
    let discovery = || OrderedKind::list([method("istio_headers", empty()), method("workload_discovery", empty())]);
    let propagation = |skip: bool| {
        let headers = OrderedStruct::default();
        let headers = if skip { headers.with("skip_external_clusters", OrderedKind::Bool(true)) } else { headers };
        OrderedKind::list([method("istio_headers", OrderedKind::Struct(headers))])
    };
    let mut config = OrderedStruct::default();
    if value.direction != m::Direction::Outbound {
        let skip = value.direction == m::Direction::Inbound && value.skip_external_clusters;
        config.set("downstream_discovery", discovery());
        config.set("downstream_propagation", propagation(skip));
    }
    if value.direction != m::Direction::Inbound {
        config.set("upstream_discovery", discovery());
        config.set("upstream_propagation", propagation(value.skip_external_clusters));
    }
    config
}

fn tracing_config(value: &m::Tracing) -> hcm::http_connection_manager::Tracing {
    use tracing::custom_tag::{Literal, Type};
    let percent = |value| Some(typ::Percent { value });
    hcm::http_connection_manager::Tracing {
        client_sampling: percent(100.0),
        random_sampling: percent(f64::from(value.random_sampling_hundredths) / 100.0),
        overall_sampling: percent(100.0),
        max_path_tag_length: uint32(value.max_path_tag_length),
        custom_tags: value
            .tags
            .iter()
            .map(|(tag, value)| tracing::CustomTag {
                tag: tag.clone(),
                r#type: Some(Type::Literal(Literal { value: value.clone() })),
            })
            .collect(),
        provider: value.provider.as_ref().map(provider),
        ..Default::default()
    }
}

fn provider(value: &m::TracingProvider) -> trace::tracing::Http {
    let grpc = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(core::grpc_service::EnvoyGrpc {
            cluster_name: value.cluster.clone(),
            authority: value.authority.clone(),
            ..Default::default()
        })),
        ..Default::default()
    };
    trace::tracing::Http {
        name: OPENTELEMETRY.to_owned(),
        config_type: Some(trace::tracing::http::ConfigType::TypedConfig(any(&trace::OpenTelemetryConfig {
            grpc_service: Some(grpc),
            service_name: value.service_name.clone(),
            ..Default::default()
        }))),
    }
}
