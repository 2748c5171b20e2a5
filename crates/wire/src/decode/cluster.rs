//! Clusters.

use super::common::{ads_only, duration, metadata_str, port, short, socket_address};
use super::cx::{Cx, Result, fields};
use super::proxy_protocol;
use super::{endpoint, error_matcher, hash, retry_quota, slow_start, tls, typed};
use crate::encode::cluster::HTTP_PROTOCOL_OPTIONS;
use crate::encode::retry_quota::NAMESPACE;
use crate::pb::{cluster, core, extensions::upstreams::http::v3 as upstream, google, typ};
use lateen_model::dataplane as m;
use std::time::Duration;

pub(super) fn cluster(cx: &mut Cx, value: cluster::Cluster) -> Result<m::Cluster> {
    fields!(cx, value => cluster::Cluster {
        use: [
            name, alt_stat_name, cluster_discovery_type, eds_cluster_config, load_assignment, lb_config, lb_policy,
            connect_timeout, transport_socket, transport_socket_matches, typed_extension_protocol_options, circuit_breakers,
            outlier_detection, common_lb_config, upstream_connection_options, upstream_bind_config, filters, metadata,
            dns_refresh_rate, dns_jitter, dns_failure_refresh_rate, respect_dns_ttl, dns_lookup_family, dns_resolvers,
            use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config,
        ],
        refuse: [
            transport_socket_matcher, health_checks, max_requests_per_connection, upstream_http_protocol_options,
            common_http_protocol_options, http_protocol_options, http2_protocol_options, lb_subset_config, protocol_selection,
            load_balancing_policy, upstream_config, connection_pool_per_downstream_connection, queuing_policies,
        ],
        ignore: [
            stats_matcher, per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout, wait_for_warm_on_init, cleanup_interval,
            close_connections_on_host_health_failure, ignore_health_on_host_removal, lrs_server, lrs_report_endpoint_metrics,
            track_timeout_budgets, track_cluster_stats, preconnect_policy,
        ],
    });
    if name.is_empty() {
        return cx.fail_at("name", "is required");
    }
    let own_resolver = !dns_resolvers.is_empty() || use_tcp_for_dns_lookups || dns_resolution_config.is_some();
    let dns = DnsSettings {
        refresh: dns_refresh_rate,
        jitter: dns_jitter,
        failure: dns_failure_refresh_rate,
        respect_ttl: respect_dns_ttl,
        family: dns_lookup_family,
        own_resolver: own_resolver || typed_dns_resolver_config.is_some(),
    };
    let fields = Endpoints { eds_cluster_config, load_assignment, lb_config: lb_config.as_ref(), dns };
    let discovery = discovery(cx, &name, cluster_discovery_type, fields)?;
    let lb_policy = self::lb_policy(cx, lb_policy, &discovery, lb_config.as_ref())?;
    let slow_start = slow_start::of(cx, lb_policy, lb_config.as_ref())?;
    let (healthy_panic_threshold, weighted_localities, zone_aware) =
        cx.optional("common_lb_config", common_lb_config, common_lb)?.unwrap_or_default();
    let metadata = metadata.unwrap_or_default();
    let mut circuit_breakers =
        cx.at("circuit_breakers", |cx| self::circuit_breakers(cx, circuit_breakers.unwrap_or_default()))?;
    circuit_breakers.retry_quota = retry_quota::of(cx, &metadata)?;
    let (transport, proxy_protocol) = transport(cx, transport_socket, transport_socket_matches)?;
    let (http, error_statuses) = http(cx, typed_extension_protocol_options)?;
    let mut outlier_detection = cx.optional("outlier_detection", outlier_detection, self::outlier_detection)?;
    if let Some(outlier) = &mut outlier_detection {
        outlier.error_statuses = error_statuses;
    }
    Ok(m::Cluster {
        name,
        stat_name: alt_stat_name,
        discovery,
        connect_timeout: cx.optional("connect_timeout", connect_timeout, duration)?.unwrap_or(Duration::from_secs(5)),
        lb_policy,
        slow_start,
        transport,
        proxy_protocol,
        http,
        circuit_breakers,
        outlier_detection,
        healthy_panic_threshold,
        weighted_localities,
        zone_aware,
        tcp_keepalive: cx.optional("upstream_connection_options", upstream_connection_options, tcp_keepalive)?.flatten(),
        bind_sources: cx.optional("upstream_bind_config", upstream_bind_config, bind_sources)?.unwrap_or_default(),
        tcp_metadata_exchange: upstream_filters(cx, filters)?,
        metadata: cluster_metadata(cx, &metadata),
    })
}

/// The fields that depend on the kind of discovery.
struct Endpoints<'a> {
    eds_cluster_config: Option<cluster::cluster::EdsClusterConfig>,
    load_assignment: Option<crate::pb::endpoint::ClusterLoadAssignment>,
    lb_config: Option<&'a cluster::cluster::LbConfig>,
    dns: DnsSettings,
}

/// How names are resolved; of no meaning to other kinds of discovery.
struct DnsSettings {
    refresh: Option<google::Duration>,
    jitter: Option<google::Duration>,
    failure: Option<cluster::cluster::RefreshRate>,
    respect_ttl: bool,
    family: i32,
    own_resolver: bool,
}

fn discovery(
    cx: &mut Cx,
    name: &str,
    ty: Option<cluster::cluster::ClusterDiscoveryType>,
    fields: Endpoints<'_>,
) -> Result<m::Discovery> {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig};
    let Endpoints { eds_cluster_config, load_assignment, lb_config, dns } = fields;
    // Unset is zero, STATIC.
    let ty = match ty {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(ty)) => match DiscoveryType::try_from(ty) {
            Ok(ty) => ty,
            Err(_) => return cx.fail_at("type", format!("{ty} is not known")),
        },
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            return cx
                .fail_at("cluster_type", "is not supported; types EDS, STATIC, STRICT_DNS, LOGICAL_DNS and ORIGINAL_DST are");
        }
    };
    let mut port_override = None;
    match lb_config {
        Some(LbConfig::OriginalDstLbConfig(value)) if ty == DiscoveryType::OriginalDst => {
            port_override = cx.at("original_dst_lb_config", |cx| {
                let value = value.clone();
                fields!(cx, value => cluster::cluster::OriginalDstLbConfig {
                    use: [upstream_port_override],
                    refuse: [use_http_header, http_header_name, metadata_key],
                    ignore: [],
                });
                cx.optional("upstream_port_override", upstream_port_override, |cx, value| port(cx, value.value))
            })?;
        }
        Some(LbConfig::LeastRequestLbConfig(value)) => {
            let two = value.choice_count.is_none_or(|c| c.value == 2);
            if !two || value.active_request_bias.is_some() {
                return cx.fail_at("least_request_lb_config", "only choice_count 2 is supported");
            }
        }
        _ => {}
    }
    match ty {
        DiscoveryType::Eds => cx.required("eds_cluster_config", eds_cluster_config, |cx, config| {
            cx.required("eds_config", config.eds_config, ads_only)?;
            let service_name = if config.service_name.is_empty() { name.to_owned() } else { config.service_name };
            Ok(m::Discovery::Eds { service_name })
        }),
        DiscoveryType::Static => {
            let assignment = load_assignment.unwrap_or_default();
            Ok(m::Discovery::Static(cx.at("load_assignment", |cx| endpoint::assignment(cx, assignment))?))
        }
        DiscoveryType::OriginalDst => Ok(m::Discovery::OriginalDst { port_override }),
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let kind = if ty == DiscoveryType::StrictDns { m::DnsKind::Strict } else { m::DnsKind::Logical };
            let assignment = load_assignment.unwrap_or_default();
            let localities = cx.at("load_assignment", |cx| endpoint::names(cx, assignment))?;
            dns_discovery(cx, kind, localities, dns).map(|dns| m::Discovery::Dns(Box::new(dns)))
        }
    }
}

fn dns_discovery(
    cx: &mut Cx,
    kind: m::DnsKind,
    localities: Vec<m::DnsLocality>,
    settings: DnsSettings,
) -> Result<m::DnsDiscovery> {
    use cluster::cluster::DnsLookupFamily;
    cx.refuse("dns_resolvers", settings.own_resolver)?;
    let names = localities.iter().map(|l| l.endpoints.len()).sum::<usize>();
    if kind == m::DnsKind::Logical && names != 1 {
        return cx.fail_at("load_assignment", "LOGICAL_DNS needs exactly one endpoint");
    }
    let family = match DnsLookupFamily::try_from(settings.family) {
        Ok(DnsLookupFamily::Auto) => m::DnsFamily::Auto,
        Ok(DnsLookupFamily::V4Only) => m::DnsFamily::V4Only,
        Ok(DnsLookupFamily::V6Only) => m::DnsFamily::V6Only,
        Ok(DnsLookupFamily::V4Preferred) => m::DnsFamily::V4Preferred,
        Ok(DnsLookupFamily::All) => m::DnsFamily::All,
        Err(_) => return cx.fail_at("dns_lookup_family", format!("{} is not known", settings.family)),
    };
    let failure = cx.optional("dns_failure_refresh_rate", settings.failure, |cx, value| {
        let base = cx.required("base_interval", value.base_interval, duration)?;
        // Envoy's default is ten times the base.
        let max = cx.optional("max_interval", value.max_interval, duration)?.unwrap_or(base.saturating_mul(10));
        if base.is_zero() || max < base {
            return cx.fail_at("max_interval", "must not be less than base_interval, which must not be zero");
        }
        Ok(m::DnsBackoff { base, max })
    })?;
    let refresh = cx.optional("dns_refresh_rate", settings.refresh, duration)?.unwrap_or(Duration::from_secs(5));
    if refresh < Duration::from_millis(1) {
        return cx.fail_at("dns_refresh_rate", "must be at least 1 ms");
    }
    Ok(m::DnsDiscovery {
        kind,
        localities,
        family,
        refresh,
        respect_ttl: settings.respect_ttl,
        failure,
        jitter: cx.optional("dns_jitter", settings.jitter, duration)?.unwrap_or_default(),
    })
}

fn lb_policy(
    cx: &mut Cx,
    value: i32,
    discovery: &m::Discovery,
    config: Option<&cluster::cluster::LbConfig>,
) -> Result<m::LbPolicy> {
    use cluster::cluster::LbPolicy;
    let policy = match LbPolicy::try_from(value) {
        Ok(LbPolicy::RoundRobin) => m::LbPolicy::RoundRobin,
        Ok(LbPolicy::LeastRequest) => m::LbPolicy::LeastRequest,
        Ok(LbPolicy::Random) => m::LbPolicy::Random,
        Ok(LbPolicy::RingHash) => hash::ring(cx, config)?,
        Ok(LbPolicy::Maglev) => hash::maglev(cx, config)?,
        Ok(LbPolicy::ClusterProvided) => m::LbPolicy::ClusterProvided,
        _ => {
            let supported = "ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH, MAGLEV and CLUSTER_PROVIDED are supported";
            return cx.fail_at("lb_policy", supported);
        }
    };
    let original = matches!(discovery, m::Discovery::OriginalDst { .. });
    if original != (policy == m::LbPolicy::ClusterProvided) {
        return cx.fail_at("lb_policy", "CLUSTER_PROVIDED goes with type ORIGINAL_DST, and only with it");
    }
    Ok(policy)
}

fn transport(
    cx: &mut Cx,
    socket: Option<core::TransportSocket>,
    matches: Vec<cluster::cluster::TransportSocketMatch>,
) -> Result<(m::TransportSocket, Option<m::ProxyProtocolVersion>)> {
    let mut versions = Vec::new();
    let socket = cx.optional("transport_socket", socket, |cx, socket| self::socket(cx, socket, &mut versions))?.flatten();
    let mut matches = cx.each("transport_socket_matches", matches, |cx, value| socket_match(cx, value, &mut versions))?;
    let version = versions.first().copied().flatten();
    if versions.iter().any(|v| *v != version) {
        return cx.fail("the transport sockets of a cluster must agree about the PROXY protocol");
    }
    let transport = match (socket, matches.is_empty()) {
        (None, true) => m::TransportSocket::Plaintext,
        (Some(tls), true) => m::TransportSocket::Tls(tls),
        (None, false) => m::TransportSocket::ByEndpoint(matches),
        (Some(tls), false) => {
            // What no match takes goes to the cluster's own socket.
            matches.push(m::TransportSocketMatch { name: "default".to_owned(), tls_mode: None, tls: Some(tls) });
            m::TransportSocket::ByEndpoint(matches)
        }
    };
    Ok((transport, version))
}

/// The TLS of a transport socket; what is said before it goes into `versions`.
fn socket(
    cx: &mut Cx,
    value: core::TransportSocket,
    versions: &mut Vec<Option<m::ProxyProtocolVersion>>,
) -> Result<Option<Box<m::UpstreamTls>>> {
    let (version, inner) = proxy_protocol::unwrap(cx, value)?;
    versions.push(version);
    tls::upstream(cx, inner)
}

fn socket_match(
    cx: &mut Cx,
    value: cluster::cluster::TransportSocketMatch,
    versions: &mut Vec<Option<m::ProxyProtocolVersion>>,
) -> Result<m::TransportSocketMatch> {
    let criteria = value.r#match.unwrap_or_default().fields;
    let tls_mode = cx.at("match", |cx| {
        let mut mode = None;
        for (key, value) in &criteria {
            mode = match (key.as_str(), &value.kind) {
                ("tlsMode", Some(google::value::Kind::StringValue(text))) if text == "istio" => Some(m::TlsMode::Istio),
                ("tlsMode", Some(google::value::Kind::StringValue(text))) if text == "disabled" => Some(m::TlsMode::Disabled),
                _ => return cx.fail(format!("{:?}: only tlsMode, istio or disabled, is supported", short(key))),
            };
        }
        Ok(mode)
    })?;
    let tls = cx.optional("transport_socket", value.transport_socket, |cx, value| socket(cx, value, versions))?.flatten();
    Ok(m::TransportSocketMatch { name: value.name, tls_mode, tls })
}

/// How HTTP is spoken, and which statuses are failures.
type Options = (m::UpstreamHttp, Vec<u16>);

fn http(cx: &mut Cx, options: std::collections::HashMap<String, google::Any>) -> Result<Options> {
    let mut sorted: Vec<_> = options.into_iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let default = m::UpstreamHttp {
        protocol: m::HttpProtocolOptions::Http1,
        idle_timeout: None,
        max_requests_per_connection: None,
        max_connection_duration: None,
        auto_sni: false,
        auto_san_validation: false,
    };
    let mut http = (default, Vec::new());
    cx.at("typed_extension_protocol_options", |cx| {
        for (key, config) in sorted {
            http = cx.key(&key, |cx| {
                if key != HTTP_PROTOCOL_OPTIONS {
                    return cx.fail(format!("is not supported; {HTTP_PROTOCOL_OPTIONS} is"));
                }
                protocol_options(cx, typed(cx, &config)?)
            })?;
        }
        Ok(())
    })?;
    Ok(http)
}

fn protocol_options(cx: &mut Cx, value: upstream::HttpProtocolOptions) -> Result<Options> {
    use upstream::http_protocol_options::{UpstreamProtocolOptions, explicit_http_config::ProtocolConfig};
    fields!(cx, value => upstream::HttpProtocolOptions {
        use: [common_http_protocol_options, upstream_http_protocol_options, upstream_protocol_options, outlier_detection],
        refuse: [
            http_filters, request_mirror_policies, hash_policy, retry_policy,
        ],
        ignore: [header_validation_config],
    });
    let common = common_http_protocol_options.unwrap_or_default();
    let (idle_timeout, max_requests_per_connection, max_connection_duration) = cx.at("common_http_protocol_options", |cx| {
        fields!(cx, common => core::HttpProtocolOptions {
            use: [idle_timeout, max_connection_duration, max_requests_per_connection],
            refuse: [max_stream_duration, headers_with_underscores_action],
            ignore: [max_connection_duration_jitter, max_headers_count, max_response_headers_kb],
        });
        let idle_timeout = cx.optional("idle_timeout", idle_timeout, duration)?;
        let age = cx.optional("max_connection_duration", max_connection_duration, duration)?;
        Ok((idle_timeout, max_requests_per_connection.map(|n| n.value).filter(|&n| n > 0), age))
    })?;
    let protocol = match upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => {
            cx.at("explicit_http_config", |cx| match config.protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(options)) => {
                    cx.at("http_protocol_options", |cx| http1(cx, options))?;
                    Ok(m::HttpProtocolOptions::Http1)
                }
                Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                    let (max_concurrent_streams, keep_alive) = cx.at("http2_protocol_options", |cx| http2(cx, options))?;
                    Ok(m::HttpProtocolOptions::Http2 { max_concurrent_streams, keep_alive })
                }
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => cx.fail_at("http3_protocol_options", "is not supported"),
                None => cx.fail("http_protocol_options or http2_protocol_options is required"),
            })?
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => cx.at("use_downstream_protocol_config", |cx| {
            cx.refuse("http3_protocol_options", config.http3_protocol_options.is_some())?;
            cx.optional("http_protocol_options", config.http_protocol_options, http1)?;
            let options = cx.optional("http2_protocol_options", config.http2_protocol_options, http2)?;
            let (max_concurrent_streams, keep_alive) = options.unwrap_or_default();
            if keep_alive.is_some() {
                return cx.fail_at("http2_protocol_options", "connection_keepalive is supported with explicit_http_config alone");
            }
            Ok(m::HttpProtocolOptions::Downstream { max_concurrent_streams })
        })?,
        Some(UpstreamProtocolOptions::AutoConfig(_)) => {
            return cx.fail_at("auto_config", "is not supported; explicit_http_config and use_downstream_protocol_config are");
        }
        None => return cx.fail("one of explicit_http_config and use_downstream_protocol_config is required"),
    };
    let by_request = upstream_http_protocol_options.unwrap_or_default();
    let (auto_sni, auto_san_validation) = cx.at("upstream_http_protocol_options", |cx| {
        fields!(cx, by_request => core::UpstreamHttpProtocolOptions {
            use: [auto_sni, auto_san_validation],
            refuse: [override_auto_sni_header],
            ignore: [],
        });
        Ok((auto_sni, auto_san_validation))
    })?;
    let statuses = cx.optional("outlier_detection", outlier_detection, error_matcher::statuses)?.unwrap_or_default();
    let http = m::UpstreamHttp {
        protocol,
        idle_timeout,
        max_requests_per_connection,
        max_connection_duration,
        auto_sni,
        auto_san_validation,
    };
    Ok((http, statuses))
}

fn http1(cx: &mut Cx, value: core::Http1ProtocolOptions) -> Result<()> {
    fields!(cx, value => core::Http1ProtocolOptions {
        use: [],
        refuse: [header_key_format, send_fully_qualified_url, allow_custom_methods],
        ignore: [
            allow_absolute_url, accept_http_10, default_host_for_http_10, enable_trailers, allow_chunked_length,
            override_stream_error_on_invalid_http_message, use_balsa_parser, ignore_http_11_upgrade,
        ],
    });
    Ok(())
}

/// Everything but the number of streams and the PINGs is tuning.
fn http2(cx: &mut Cx, value: core::Http2ProtocolOptions) -> Result<(Option<u32>, Option<m::Http2KeepAlive>)> {
    fields!(cx, value => core::Http2ProtocolOptions {
        use: [max_concurrent_streams, connection_keepalive],
        refuse: [allow_metadata, custom_settings_parameters],
        ignore: [
            allow_connect, hpack_table_size, initial_stream_window_size, initial_connection_window_size, max_outbound_frames,
            max_outbound_control_frames, max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream, max_inbound_window_update_frames_per_data_frame_sent,
            stream_error_on_invalid_http_messaging, override_stream_error_on_invalid_http_message,
            use_oghttp2_codec, max_metadata_size, enable_huffman_encoding, max_header_field_size_kb, disallow_obs_text,
            stream_reset_burst, stream_reset_rate,
        ],
    });
    let keep_alive = cx.optional("connection_keepalive", connection_keepalive, http2_keep_alive)?.flatten();
    Ok((max_concurrent_streams.map(|n| n.value), keep_alive))
}

/// Without an interval no PINGs are sent.
fn http2_keep_alive(cx: &mut Cx, value: core::KeepaliveSettings) -> Result<Option<m::Http2KeepAlive>> {
    fields!(cx, value => core::KeepaliveSettings {
        use: [interval, timeout],
        refuse: [interval_jitter, connection_idle_interval],
        ignore: [],
    });
    let timeout = cx.required("timeout", timeout, duration)?;
    let interval = cx.optional("interval", interval, duration)?.filter(|interval| !interval.is_zero());
    Ok(interval.map(|interval| m::Http2KeepAlive { interval, timeout }))
}

fn circuit_breakers(cx: &mut Cx, value: cluster::CircuitBreakers) -> Result<m::CircuitBreakers> {
    use cluster::circuit_breakers::Thresholds;
    cx.refuse("per_host_thresholds", !value.per_host_thresholds.is_empty())?;
    // Envoy's defaults, which hold where nothing is said.
    let mut breakers = m::CircuitBreakers {
        max_connections: 1024,
        max_pending_requests: 1024,
        max_requests: 1024,
        max_retries: 3,
        retry_budget: None,
        retry_quota: None,
    };
    cx.each("thresholds", value.thresholds, |cx, value| {
        fields!(cx, value => Thresholds {
            use: [
                priority, max_connections, max_pending_requests, max_requests, max_retries, retry_budget, track_remaining,
            ],
            refuse: [max_connection_pools],
            ignore: [],
        });
        let _gauges_are_always_there = track_remaining;
        if priority != i32::from(core::RoutingPriority::Default) {
            cx.note("routes of another priority are refused");
            return Ok(());
        }
        let limit = |value: Option<google::UInt32Value>, default| value.map_or(default, |v| v.value);
        breakers = m::CircuitBreakers {
            max_connections: limit(max_connections, 1024),
            max_pending_requests: limit(max_pending_requests, 1024),
            max_requests: limit(max_requests, 1024),
            max_retries: limit(max_retries, 3),
            retry_budget: cx.optional("retry_budget", retry_budget, |cx, budget| {
                let percent = budget.budget_percent.unwrap_or(typ::Percent { value: 20.0 });
                Ok(m::RetryBudget {
                    percent_hundredths: cx.at("budget_percent", |cx| hundredths(cx, percent))?,
                    min_concurrency: limit(budget.min_retry_concurrency, 3),
                    interval: cx.optional("budget_interval", budget.budget_interval, duration)?.filter(|i| !i.is_zero()),
                })
            })?,
            retry_quota: None,
        };
        Ok(())
    })?;
    Ok(breakers)
}

/// A percentage in hundredths.
pub(super) fn hundredths(cx: &mut Cx, value: typ::Percent) -> Result<u32> {
    if !(0.0..=100.0).contains(&value.value) {
        return cx.fail("is not a percentage: 0 to 100 are allowed");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be between 0 and 10,000")]
    let hundredths = (value.value * 100.0).round() as u32;
    Ok(hundredths)
}

fn percent(cx: &mut Cx, value: typ::Percent) -> Result<u8> {
    let hundredths = hundredths(cx, value)?;
    // Half a percent more or less does not matter where hosts are counted.
    u8::try_from((hundredths + 50) / 100).or_else(|_| cx.fail("is not a percentage: 0 to 100 are allowed"))
}

fn outlier_detection(cx: &mut Cx, value: cluster::OutlierDetection) -> Result<m::OutlierDetection> {
    fields!(cx, value => cluster::OutlierDetection {
        use: [
            consecutive_5xx, interval, base_ejection_time, max_ejection_percent, enforcing_consecutive_5xx,
            enforcing_success_rate, consecutive_gateway_failure, enforcing_consecutive_gateway_failure,
            split_external_local_origin_errors, consecutive_local_origin_failure, enforcing_consecutive_local_origin_failure,
            enforcing_local_origin_success_rate, max_ejection_time, enforcing_failure_percentage,
            enforcing_failure_percentage_local_origin, always_eject_one_host,
        ],
        refuse: [monitors, detect_degraded_hosts],
        ignore: [
            success_rate_minimum_hosts, success_rate_request_volume, success_rate_stdev_factor, failure_percentage_threshold,
            failure_percentage_minimum_hosts, failure_percentage_request_volume, max_ejection_time_jitter,
            successful_active_health_check_uneject_host,
        ],
    });
    let number = |value: Option<google::UInt32Value>, default: u32| value.map_or(default, |v| v.value);
    let none = "success rates and failure percentages are not evaluated; only 0 is supported";
    for (field, value, default) in [
        ("enforcing_success_rate", enforcing_success_rate, 100),
        ("enforcing_failure_percentage", enforcing_failure_percentage, 0),
        ("enforcing_failure_percentage_local_origin", enforcing_failure_percentage_local_origin, 0),
    ] {
        if number(value, default) != 0 {
            return cx.fail_at(field, none);
        }
    }
    if split_external_local_origin_errors && number(enforcing_local_origin_success_rate, 100) != 0 {
        cx.note_at("enforcing_local_origin_success_rate", "success rates are not evaluated");
    }
    if !always_eject_one_host.unwrap_or_default().value {
        cx.note_at("always_eject_one_host", "one host may always be ejected");
    }
    let base = cx.optional("base_ejection_time", base_ejection_time, duration)?.unwrap_or(Duration::from_secs(30));
    let longest = cx.optional("max_ejection_time", max_ejection_time, duration)?;
    let percent = number(max_ejection_percent, 10);
    let Ok(max_ejection_percent) = u8::try_from(percent.min(100)) else {
        return cx.fail_at("max_ejection_percent", "0 to 100 are allowed");
    };
    let local = number(consecutive_local_origin_failure, 5);
    let detector = |cx: &Cx, field, threshold, enforced: u32| match enforced {
        0 => Ok(0),
        100 => Ok(threshold),
        _ => cx.fail_at(field, "0 and 100 are supported"),
    };
    Ok(m::OutlierDetection {
        consecutive_5xx: detector(
            cx,
            "enforcing_consecutive_5xx",
            number(consecutive_5xx, 5),
            number(enforcing_consecutive_5xx, 100),
        )?,
        consecutive_gateway_failure: detector(
            cx,
            "enforcing_consecutive_gateway_failure",
            number(consecutive_gateway_failure, 5),
            number(enforcing_consecutive_gateway_failure, 0),
        )?,
        consecutive_local_origin_failure: detector(
            cx,
            "enforcing_consecutive_local_origin_failure",
            local,
            number(enforcing_consecutive_local_origin_failure, 100),
        )?,
        split_local_origin: split_external_local_origin_errors,
        interval: cx.optional("interval", interval, duration)?.unwrap_or(Duration::from_secs(10)),
        base_ejection_time: base,
        max_ejection_time: longest.unwrap_or_else(|| base.max(Duration::from_secs(300))),
        max_ejection_percent,
        // Said elsewhere.
        error_statuses: Vec::new(),
    })
}

/// The panic threshold, and how localities count.
type CommonLb = (Option<u8>, Option<m::WeightedLocality>, Option<m::ZoneAware>);

fn common_lb(cx: &mut Cx, value: cluster::cluster::CommonLbConfig) -> Result<CommonLb> {
    use cluster::cluster::common_lb_config::LocalityConfigSpecifier;
    fields!(cx, value => cluster::cluster::CommonLbConfig {
        use: [healthy_panic_threshold, locality_config_specifier],
        refuse: [],
        ignore: [
            update_merge_window, ignore_new_hosts_until_first_hc, close_connections_on_host_set_change,
            consistent_hashing_lb_config, override_host_status,
        ],
    });
    let (mut weighted, mut zone_aware) = (None, None);
    match locality_config_specifier {
        None => {}
        // Whose locality it is the proxy knows itself.
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            weighted = Some(m::WeightedLocality { local: m::Locality::default() });
        }
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(value)) => {
            zone_aware = Some(cx.at("zone_aware_lb_config", |cx| self::zone_aware(cx, value))?);
        }
    }
    Ok((cx.optional("healthy_panic_threshold", healthy_panic_threshold, percent)?, weighted, zone_aware))
}

fn zone_aware(cx: &mut Cx, value: cluster::cluster::common_lb_config::ZoneAwareLbConfig) -> Result<m::ZoneAware> {
    cx.refuse("fail_traffic_on_panic", value.fail_traffic_on_panic)?;
    Ok(m::ZoneAware {
        routing_percent: cx.optional("routing_enabled", value.routing_enabled, percent)?.unwrap_or(100),
        min_cluster_size: value.min_cluster_size.map_or(m::ZoneAware::DEFAULT_MIN_CLUSTER_SIZE, |v| v.value),
    })
}

fn tcp_keepalive(cx: &mut Cx, value: cluster::UpstreamConnectionOptions) -> Result<Option<m::TcpKeepalive>> {
    fields!(cx, value => cluster::UpstreamConnectionOptions {
        use: [tcp_keepalive],
        refuse: [],
        ignore: [set_local_interface_name_on_upstream_connections, happy_eyeballs_config],
    });
    let seconds = |value: Option<google::UInt32Value>| value.map(|v| Duration::from_secs(v.value.into()));
    Ok(tcp_keepalive.map(|keepalive| m::TcpKeepalive {
        probes: keepalive.keepalive_probes.map(|v| v.value),
        time: seconds(keepalive.keepalive_time),
        interval: seconds(keepalive.keepalive_interval),
    }))
}

fn bind_sources(cx: &mut Cx, value: core::BindConfig) -> Result<Vec<std::net::IpAddr>> {
    fields!(cx, value => core::BindConfig {
        use: [source_address, extra_source_addresses],
        refuse: [socket_options, local_address_selector, additional_source_addresses],
        ignore: [freebind, validate_network_namespaces],
    });
    let first = cx.optional("source_address", source_address, bind_source)?;
    let further = cx.each("extra_source_addresses", extra_source_addresses, |cx, extra| {
        fields!(cx, extra => core::ExtraSourceAddress { use: [address], refuse: [socket_options], ignore: [] });
        cx.required("address", address, bind_source)
    })?;
    Ok(first.into_iter().chain(further).collect())
}

fn bind_source(cx: &mut Cx, value: core::SocketAddress) -> Result<std::net::IpAddr> {
    let source = socket_address(cx, value)?;
    if source.port() == 0 { Ok(source.ip()) } else { cx.fail_at("port_value", "must be 0") }
}

/// Whether TCP metadata exchange is among them; nothing else is supported.
fn upstream_filters(cx: &mut Cx, filters: Vec<cluster::Filter>) -> Result<bool> {
    let mut exchange = false;
    cx.each("filters", filters, |cx, filter| {
        cx.refuse("config_discovery", filter.config_discovery.is_some())?;
        let config = filter.typed_config.unwrap_or_default();
        if !super::istio::is_tcp_metadata_exchange(&config) {
            let name = short(&filter.name);
            return cx.fail(format!("filter {name:?} is not supported; istio.metadata_exchange is"));
        }
        exchange = true;
        Ok(())
    })?;
    Ok(exchange)
}

/// Telemetry and people read it; what is not understood is left out.
fn cluster_metadata(cx: &mut Cx, value: &core::Metadata) -> m::ClusterMetadata {
    use google::value::Kind;
    let istio = value.filter_metadata.get("istio");
    let field = |key: &str| istio?.fields.get(key)?.kind.as_ref();
    let services = match field("services") {
        Some(Kind::ListValue(list)) => list.values.iter().filter_map(service).collect(),
        _ => Vec::new(),
    };
    let original_port = match field("default_original_port") {
        Some(Kind::NumberValue(number)) => whole_port(*number),
        _ => None,
    };
    let others = value.filter_metadata.keys().any(|key| !["istio", NAMESPACE].contains(&key.as_str()))
        || !value.typed_filter_metadata.is_empty();
    if others {
        cx.note_at("metadata", "only the namespaces istio and lateen are read");
    }
    m::ClusterMetadata {
        services,
        subset: metadata_str(value, "istio", "subset").map(str::to_owned),
        original_port,
        config_source: metadata_str(value, "istio", "config").map(str::to_owned),
        alpn_override: metadata_str(value, "istio", "alpn_override").map(|text| text != "false"),
        external: matches!(field("external"), Some(Kind::BoolValue(true))),
    }
}

fn whole_port(number: f64) -> Option<u16> {
    if number.fract() != 0.0 || !(0.0..=f64::from(u16::MAX)).contains(&number) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and in range")]
    Some(number as u16)
}

fn service(value: &google::Value) -> Option<m::ServiceRef> {
    let Some(google::value::Kind::StructValue(fields)) = &value.kind else { return None };
    let text = |key: &str| match &fields.fields.get(key)?.kind {
        Some(google::value::Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    };
    Some(m::ServiceRef {
        host: text("host")?,
        name: text("name").unwrap_or_default(),
        namespace: text("namespace").unwrap_or_default(),
    })
}
