//! The HTTP connection manager and its filters.

use super::cluster::hundredths;
use super::common::{access_log, ads_only, duration, non_zero, short};
use super::cx::{Cx, Result, fields, is_set};
use super::{istio, rate_limit, rbac, route, typed};
use crate::istio::{AlpnConfig, PeerMetadataConfig, StatsConfig};
use crate::pb::{
    core, extensions::filters::http::cors::v3 as cors, extensions::filters::http::fault::v3 as fault,
    extensions::filters::http::grpc_stats::v3 as grpc_stats, extensions::filters::http::local_ratelimit::v3 as local_ratelimit,
    extensions::filters::http::rbac::v3 as http_rbac, extensions::filters::http::router::v3 as router,
    extensions::filters::network::http_connection_manager::v3 as hcm, google, trace, tracing, typ,
};
use hcm::http_connection_manager as nested;
use lateen_model::dataplane as m;
use prost::Name;
use std::time::Duration;

/// Envoy's defaults.
const MAX_HEAD_KIB: u32 = 60;
const MAX_PATH_TAG: u32 = 256;
const SERVER_NAME: &str = "envoy";

pub(super) fn manager(
    cx: &mut Cx,
    value: hcm::HttpConnectionManager,
    direction: m::Direction,
) -> Result<m::HttpConnectionManager> {
    fields!(cx, value => hcm::HttpConnectionManager {
        use: [
            codec_type, stat_prefix, http_filters, tracing, common_http_protocol_options, http_protocol_options,
            http2_protocol_options, server_name, server_header_transformation, max_request_headers_kb, stream_idle_timeout,
            request_headers_timeout, access_log, use_remote_address, xff_num_trusted_hops, generate_request_id,
            preserve_external_request_id, forward_client_cert_details, set_current_client_cert_details, proxy_100_continue,
            upgrade_configs, normalize_path, merge_slashes, path_with_escaped_slashes_action, route_specifier,
        ],
        refuse: [
            add_user_agent, http3_protocol_options, scheme_header_transformation, request_timeout,
            original_ip_detection_extensions, early_header_mutation_extensions, skip_xff_append, via,
            always_set_request_id_in_response, forward_client_cert_matcher, represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            local_reply_config, strip_matching_host_port, path_normalization_options, strip_trailing_host_dot,
            proxy_status_config, append_x_forwarded_port, forward_proto_config, strip_port_mode,
        ],
        ignore: [
            http1_safe_max_connection_duration, stream_flush_timeout, drain_timeout, drain_timeout_jitter, delayed_close_timeout,
            access_log_flush_interval, flush_access_log_on_new_request, access_log_options, internal_address_config,
            request_id_extension, stream_error_on_invalid_http_message, typed_header_validation_config, append_local_overload,
            add_proxy_protocol_connection_state,
        ],
    });
    let _always_passed_on = proxy_100_continue;
    cx.optional("http2_protocol_options", http2_protocol_options, http2_options)?;
    let normalization = Normalization { normalize_path, merge_slashes, path_with_escaped_slashes_action };
    Ok(m::HttpConnectionManager {
        codec: codec(cx, codec_type)?,
        routes: routes(cx, route_specifier)?,
        http_filters: self::http_filters(cx, http_filters, direction)?,
        server_name: self::server_name(cx, server_name, server_header_transformation)?,
        use_remote_address: use_remote_address.unwrap_or_default().value,
        xff_num_trusted_hops,
        forward_client_cert: forward_client_cert(cx, forward_client_cert_details, set_current_client_cert_details)?,
        generate_request_id: generate_request_id.is_none_or(|v| v.value),
        preserve_external_request_id,
        path_normalization: normalization.decode(cx)?,
        upgrades: upgrades(cx, upgrade_configs)?,
        accept_http_10: cx.optional("http_protocol_options", http_protocol_options, http1_options)?.unwrap_or(false),
        stream_idle_timeout: cx.optional("stream_idle_timeout", stream_idle_timeout, duration)?,
        request_headers_timeout: non_zero(cx.optional("request_headers_timeout", request_headers_timeout, duration)?),
        max_request_headers_kib: max_request_headers_kb.map_or(MAX_HEAD_KIB, |v| v.value),
        idle_timeout: cx.optional("common_http_protocol_options", common_http_protocol_options, common_options)?.flatten(),
        tracing: cx.optional("tracing", tracing, self::tracing)?,
        access_log: cx.each("access_log", access_log, self::access_log)?,
        stat_prefix,
    })
}

fn codec(cx: &Cx, value: i32) -> Result<m::Codec> {
    match nested::CodecType::try_from(value) {
        Ok(nested::CodecType::Auto) => Ok(m::Codec::Auto),
        Ok(nested::CodecType::Http1) => Ok(m::Codec::Http1),
        Ok(nested::CodecType::Http2) => Ok(m::Codec::Http2),
        _ => cx.fail_at("codec_type", "AUTO, HTTP1 and HTTP2 are supported"),
    }
}

fn routes(cx: &mut Cx, value: Option<nested::RouteSpecifier>) -> Result<m::RouteSource> {
    match value {
        Some(nested::RouteSpecifier::Rds(rds)) => cx.at("rds", |cx| {
            cx.required("config_source", rds.config_source, ads_only)?;
            if rds.route_config_name.is_empty() {
                return cx.fail_at("route_config_name", "is required");
            }
            Ok(m::RouteSource::Rds(rds.route_config_name))
        }),
        Some(nested::RouteSpecifier::RouteConfig(routes)) => {
            let routes = cx.at("route_config", |cx| route::configuration(cx, routes))?;
            Ok(m::RouteSource::Inline(Box::new(routes)))
        }
        Some(nested::RouteSpecifier::ScopedRoutes(_)) => {
            cx.fail_at("scoped_routes", "is not supported; rds and route_config are")
        }
        None => cx.fail("one of rds and route_config is required"),
    }
}

fn server_name(cx: &Cx, name: String, transformation: i32) -> Result<Option<String>> {
    use nested::ServerHeaderTransformation;
    match ServerHeaderTransformation::try_from(transformation) {
        Ok(ServerHeaderTransformation::Overwrite) if name.is_empty() => Ok(Some(SERVER_NAME.to_owned())),
        Ok(ServerHeaderTransformation::Overwrite) => Ok(Some(name)),
        Ok(ServerHeaderTransformation::PassThrough) => Ok(None),
        _ => cx.fail_at("server_header_transformation", "OVERWRITE and PASS_THROUGH are supported"),
    }
}

fn forward_client_cert(
    cx: &mut Cx,
    value: i32,
    details: Option<nested::SetCurrentClientCertDetails>,
) -> Result<m::ForwardClientCert> {
    use nested::ForwardClientCertDetails;
    let mode = match ForwardClientCertDetails::try_from(value) {
        Ok(ForwardClientCertDetails::Sanitize) => m::ForwardClientCert::Sanitize,
        Ok(ForwardClientCertDetails::ForwardOnly) => m::ForwardClientCert::ForwardOnly,
        Ok(ForwardClientCertDetails::AppendForward) => m::ForwardClientCert::AppendForward,
        Ok(ForwardClientCertDetails::SanitizeSet) => m::ForwardClientCert::SanitizeSet,
        _ => {
            let supported = "SANITIZE, FORWARD_ONLY, APPEND_FORWARD and SANITIZE_SET are supported";
            return cx.fail_at("forward_client_cert_details", supported);
        }
    };
    if matches!(mode, m::ForwardClientCert::AppendForward | m::ForwardClientCert::SanitizeSet) {
        cx.at("set_current_client_cert_details", |cx| {
            fields!(cx, details.unwrap_or_default() => nested::SetCurrentClientCertDetails {
                use: [subject, dns, uri],
                refuse: [cert, chain, issuer, format],
                ignore: [],
            });
            if subject.unwrap_or_default().value && dns && uri {
                Ok(())
            } else {
                cx.fail("subject, dns and uri must be set: all three are always forwarded")
            }
        })?;
    }
    Ok(mode)
}

struct Normalization {
    normalize_path: Option<google::BoolValue>,
    merge_slashes: bool,
    path_with_escaped_slashes_action: i32,
}

impl Normalization {
    fn decode(self, cx: &Cx) -> Result<m::PathNormalization> {
        use nested::PathWithEscapedSlashesAction as Action;
        let normalize = self.normalize_path.unwrap_or_default().value;
        let unescape = match Action::try_from(self.path_with_escaped_slashes_action) {
            Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => false,
            Ok(Action::UnescapeAndForward) => true,
            _ => {
                let supported = "KEEP_UNCHANGED and UNESCAPE_AND_FORWARD are supported";
                return cx.fail_at("path_with_escaped_slashes_action", supported);
            }
        };
        match (normalize, self.merge_slashes, unescape) {
            (false, false, false) => Ok(m::PathNormalization::None),
            (true, false, false) => Ok(m::PathNormalization::Base),
            (true, true, false) => Ok(m::PathNormalization::MergeSlashes),
            (true, true, true) => Ok(m::PathNormalization::DecodeAndMergeSlashes),
            _ => cx.fail_at("normalize_path", "merging needs normalizing, and unescaping needs both"),
        }
    }
}

fn upgrades(cx: &mut Cx, values: Vec<nested::UpgradeConfig>) -> Result<Vec<String>> {
    let upgrades = cx.each("upgrade_configs", values, |cx, value| {
        cx.refuse("filters", !value.filters.is_empty())?;
        let enabled = value.enabled.is_none_or(|v| v.value);
        Ok(enabled.then(|| value.upgrade_type.to_ascii_lowercase()))
    })?;
    Ok(upgrades.into_iter().flatten().collect())
}

/// Whether HTTP/1.0 is served.
fn http1_options(cx: &mut Cx, value: core::Http1ProtocolOptions) -> Result<bool> {
    fields!(cx, value => core::Http1ProtocolOptions {
        use: [accept_http_10, allow_absolute_url],
        refuse: [header_key_format, default_host_for_http_10, allow_chunked_length, allow_custom_methods],
        ignore: [
            enable_trailers, override_stream_error_on_invalid_http_message, send_fully_qualified_url, use_balsa_parser,
            ignore_http_11_upgrade,
        ],
    });
    cx.refuse("allow_absolute_url", allow_absolute_url.is_some_and(|v| !v.value))?;
    Ok(accept_http_10)
}

/// All of it is tuning, but for CONNECT and METADATA frames.
fn http2_options(cx: &mut Cx, value: core::Http2ProtocolOptions) -> Result<()> {
    cx.refuse("allow_metadata", value.allow_metadata)?;
    cx.refuse("allow_connect", value.allow_connect)?;
    if is_set(&value) {
        cx.note("the server's HTTP/2 settings are its own");
    }
    Ok(())
}

fn common_options(cx: &mut Cx, value: core::HttpProtocolOptions) -> Result<Option<Duration>> {
    fields!(cx, value => core::HttpProtocolOptions {
        use: [idle_timeout],
        refuse: [max_connection_duration, max_stream_duration, headers_with_underscores_action, max_requests_per_connection],
        ignore: [max_connection_duration_jitter, max_headers_count, max_response_headers_kb],
    });
    cx.optional("idle_timeout", idle_timeout, duration)
}

fn http_filters(cx: &mut Cx, values: Vec<hcm::HttpFilter>, direction: m::Direction) -> Result<Vec<m::HttpFilter>> {
    let last = values.len();
    let mut filters = Vec::new();
    let mut position = 0;
    let mut routed = false;
    cx.each("http_filters", values, |cx, value| {
        use hcm::http_filter::ConfigType;
        position += 1;
        let config = match value.config_type {
            Some(ConfigType::TypedConfig(config)) => config,
            Some(ConfigType::ConfigDiscovery(_)) => return cx.fail_at("config_discovery", "is not supported; typed_config is"),
            None => return cx.fail_at("typed_config", "is required"),
        };
        if value.disabled {
            cx.note("a disabled filter needs to be enabled by a route, and per-route configuration is refused");
            return Ok(());
        }
        if config.type_url == router::Router::type_url() {
            routed = position == last;
            return cx.at("typed_config", |cx| router(cx, typed(cx, &config)?));
        }
        filters.extend(cx.at("typed_config", |cx| http_filter(cx, &config, direction, value.is_optional))?);
        Ok(())
    })?;
    if routed { Ok(filters) } else { cx.fail_at("http_filters", "the last one, and only it, must be the router") }
}

/// Filters that do nothing until a route configures them, which is refused there.
const WITHOUT_EFFECT: [&str; 1] = ["type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession"];

fn http_filter(cx: &mut Cx, config: &google::Any, direction: m::Direction, optional: bool) -> Result<Option<m::HttpFilter>> {
    let url = istio::type_url(config);
    if url == PeerMetadataConfig::type_url() {
        return Ok(Some(m::HttpFilter::PeerMetadata(istio::peer_metadata(cx, config)?)));
    }
    if url == http_rbac::Rbac::type_url() {
        return Ok(rbac::http(cx, typed(cx, config)?)?.map(m::HttpFilter::Rbac));
    }
    if url == local_ratelimit::LocalRateLimit::type_url() {
        return Ok(Some(m::HttpFilter::RateLimit(rate_limit::http(cx, typed(cx, config)?)?)));
    }
    if url == grpc_stats::FilterConfig::type_url() {
        return Ok(Some(m::HttpFilter::GrpcStats));
    }
    if url == AlpnConfig::type_url() {
        istio::alpn(cx, config)?;
        return Ok(Some(m::HttpFilter::Alpn));
    }
    if url == StatsConfig::type_url() {
        return Ok(Some(m::HttpFilter::Stats(istio::stats(cx, config, direction)?)));
    }
    if url == fault::HttpFault::type_url() {
        if !config.value.is_empty() {
            return cx.fail("faults for all routes are not supported; a route's typed_per_filter_config is");
        }
        return Ok(Some(m::HttpFilter::Fault));
    }
    if url == cors::Cors::type_url() {
        return Ok(Some(m::HttpFilter::Cors));
    }
    if WITHOUT_EFFECT.contains(&url.as_str()) && config.value.is_empty() {
        cx.note("has no effect without configuration of its own or of a route");
        return Ok(None);
    }
    if optional {
        cx.note("an optional filter that is not known is skipped");
        return Ok(None);
    }
    cx.fail(format!(
        "{:?} is not supported; rbac, local_ratelimit, grpc_stats, fault, cors, router, istio.metadata_exchange, istio.alpn and istio.stats are",
        short(&url)
    ))
}

fn router(cx: &mut Cx, value: router::Router) -> Result<()> {
    fields!(cx, value => router::Router {
        use: [],
        refuse: [upstream_log, suppress_envoy_headers, strict_check_headers, respect_expected_rq_timeout, upstream_http_filters],
        ignore: [
            dynamic_stats, start_child_span, upstream_log_options, suppress_grpc_request_failure_code_stats,
            reject_connect_request_early_data,
        ],
    });
    Ok(())
}

fn tracing(cx: &mut Cx, value: nested::Tracing) -> Result<m::Tracing> {
    fields!(cx, value => nested::Tracing {
        use: [client_sampling, random_sampling, overall_sampling, max_path_tag_length, custom_tags, provider],
        refuse: [no_context_propagation],
        ignore: [verbose, spawn_upstream_span, operation, upstream_operation],
    });
    let all = typ::Percent { value: 100.0 };
    for (field, value) in [("client_sampling", client_sampling), ("overall_sampling", overall_sampling)] {
        if value.is_some_and(|v| v != all) {
            return cx.fail_at(field, "only 100 is supported");
        }
    }
    let tags = cx.each("custom_tags", custom_tags, custom_tag)?;
    Ok(m::Tracing {
        provider: cx.optional("provider", provider, self::provider)?,
        random_sampling_hundredths: cx.at("random_sampling", |cx| hundredths(cx, random_sampling.unwrap_or(all)))?,
        max_path_tag_length: max_path_tag_length.map_or(MAX_PATH_TAG, |v| v.value),
        tags: tags.into_iter().flatten().collect(),
    })
}

fn custom_tag(cx: &mut Cx, value: tracing::CustomTag) -> Result<Option<(String, String)>> {
    match value.r#type {
        Some(tracing::custom_tag::Type::Literal(literal)) => Ok(Some((value.tag, literal.value))),
        _ => {
            cx.note("only literal tags are set on spans");
            Ok(None)
        }
    }
}

fn provider(cx: &mut Cx, value: trace::tracing::Http) -> Result<m::TracingProvider> {
    let Some(trace::tracing::http::ConfigType::TypedConfig(config)) = value.config_type else {
        return cx.fail_at("typed_config", "is required");
    };
    cx.at("typed_config", |cx| {
        if config.type_url != trace::OpenTelemetryConfig::type_url() {
            return cx.fail(format!("{:?} is not supported; OpenTelemetryConfig is", short(&config.type_url)));
        }
        fields!(cx, typed::<trace::OpenTelemetryConfig>(cx, &config)? => trace::OpenTelemetryConfig {
            use: [grpc_service, service_name],
            refuse: [http_service, exporter, sampler],
            ignore: [
                resource_detectors, max_cache_size, set_telemetry_sdk_resource_attributes, set_service_name_resource_attribute,
                set_instrumentation_scope,
            ],
        });
        let (cluster, authority) = cx.required("grpc_service", grpc_service, receiver)?;
        Ok(m::TracingProvider { cluster, authority, service_name })
    })
}

fn receiver(cx: &mut Cx, value: core::GrpcService) -> Result<(String, String)> {
    fields!(cx, value => core::GrpcService {
        use: [target_specifier],
        refuse: [initial_metadata],
        ignore: [timeout, retry_policy],
    });
    match target_specifier {
        Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(target)) => Ok((target.cluster_name, target.authority)),
        _ => cx.fail("envoy_grpc is required"),
    }
}
