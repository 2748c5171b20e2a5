//! Routes.

use super::common::{duration, header_match, inline, metadata_str, non_zero, port, regex, short, string_match};
use super::cx::{Cx, Result, fields, is_set};
use super::{hash, route_filters, typed};
use crate::pb::{core, extensions::retry::priority::previous_priorities::v3 as priorities, matcher, route};
use lateen_model::dataplane as m;
use std::time::Duration;

/// Envoy's default for bodies of direct responses.
const MAX_BODY: u32 = 4096;
/// Envoy's default for a route.
const TIMEOUT: Duration = Duration::from_secs(15);

pub(super) fn configuration(cx: &mut Cx, value: route::RouteConfiguration) -> Result<m::RouteConfiguration> {
    fields!(cx, value => route::RouteConfiguration {
        use: [name, virtual_hosts, max_direct_response_body_size_bytes, ignore_port_in_host_matching, validate_clusters],
        refuse: [
            vhds, response_headers_to_add, response_headers_to_remove, request_headers_to_add, request_headers_to_remove,
            cluster_specifier_plugins, request_mirror_policies, vhost_header, ignore_path_parameters_in_path_matching,
            typed_per_filter_config, route_specifiers,
        ],
        ignore: [internal_only_headers, most_specific_header_mutations_wins, metadata],
    });
    let _clusters_may_come_later = validate_clusters;
    let virtual_hosts = cx.each("virtual_hosts", virtual_hosts, virtual_host)?;
    unique_domains(cx, &virtual_hosts)?;
    Ok(m::RouteConfiguration {
        name,
        virtual_hosts,
        ignore_port_in_host_matching,
        max_direct_response_body_bytes: max_direct_response_body_size_bytes.map_or(MAX_BODY, |v| v.value),
    })
}

fn unique_domains(cx: &Cx, hosts: &[m::VirtualHost]) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for domain in hosts.iter().flat_map(|host| &host.domains) {
        if !seen.insert(domain.as_str()) {
            return cx.fail_at("virtual_hosts", format!("domain {:?} stands in two places", short(domain)));
        }
    }
    Ok(())
}

fn virtual_host(cx: &mut Cx, value: route::VirtualHost) -> Result<m::VirtualHost> {
    fields!(cx, value => route::VirtualHost {
        use: [name, domains, routes, include_request_attempt_count, require_tls],
        refuse: [
            matcher, rate_limits, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
            response_headers_to_remove, cors, typed_per_filter_config, include_attempt_count_in_response, retry_policy,
            retry_policy_typed_config, hedge_policy, include_is_timeout_retry_header, request_mirror_policies, route_specifiers,
        ],
        ignore: [virtual_clusters, per_request_buffer_limit_bytes, request_body_buffer_limit, metadata],
    });
    if domains.is_empty() {
        return cx.fail_at("domains", "must not be empty");
    }
    let domains = cx.each("domains", domains, domain)?;
    let require_tls = match route::virtual_host::TlsRequirementType::try_from(require_tls) {
        Ok(route::virtual_host::TlsRequirementType::None) => false,
        Ok(route::virtual_host::TlsRequirementType::All) => true,
        _ => return cx.fail_at("require_tls", "NONE and ALL are supported"),
    };
    Ok(m::VirtualHost { name, domains, routes: cx.each("routes", routes, route)?, include_request_attempt_count, require_tls })
}

/// Exact, `*.suffix` or `*-suffix`, `prefix.*`, or `*`.
fn domain(cx: &mut Cx, text: String) -> Result<String> {
    let inner = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(&text);
    if text.is_empty() || inner.contains('*') {
        return cx.fail(format!("{:?}: a name, or one with a * at one end, is supported", short(&text)));
    }
    Ok(text.to_ascii_lowercase())
}

fn route(cx: &mut Cx, value: route::Route) -> Result<m::Route> {
    use route::route::Action;
    fields!(cx, value => route::Route {
        use: [
            name, r#match, metadata, decorator, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
            response_headers_to_remove, action, typed_per_filter_config,
        ],
        refuse: [tracing, route_specifiers],
        ignore: [per_request_buffer_limit_bytes, stat_prefix, request_body_buffer_limit],
    });
    let matches = cx.required("match", r#match, route_match)?;
    let action = match action {
        Some(Action::Route(value)) => m::RouteAction::Forward(Box::new(cx.at("route", |cx| forward(cx, value))?)),
        Some(Action::Redirect(value)) => m::RouteAction::Redirect(cx.at("redirect", |cx| redirect(cx, value))?),
        Some(Action::DirectResponse(value)) => {
            m::RouteAction::DirectResponse(cx.at("direct_response", |cx| direct_response(cx, value))?)
        }
        Some(Action::FilterAction(_) | Action::NonForwardingAction(_)) => {
            return cx.fail("filter_action and non_forwarding_action are not supported; route, redirect and direct_response are");
        }
        None => return cx.fail("one of route, redirect and direct_response is required"),
    };
    let request = cx.at("request_headers_to_add", |cx| mutation(cx, request_headers_to_add, request_headers_to_remove))?;
    let response = cx.at("response_headers_to_add", |cx| mutation(cx, response_headers_to_add, response_headers_to_remove))?;
    let filters = cx.at("typed_per_filter_config", |cx| route_filters::filters(cx, typed_per_filter_config))?;
    Ok(m::Route {
        filters,
        name,
        matches,
        action,
        operation: decorator.map(|d| d.operation).filter(|text| !text.is_empty()),
        request_headers: request,
        response_headers: response,
        config_source: metadata.and_then(|m| metadata_str(&m, "istio", "config").map(str::to_owned)),
    })
}

fn route_match(cx: &mut Cx, value: route::RouteMatch) -> Result<m::RouteMatch> {
    use route::route_match::PathSpecifier;
    fields!(cx, value => route::RouteMatch {
        use: [case_sensitive, headers, query_parameters, path_specifier],
        refuse: [runtime_fraction, cookies, grpc, tls_context, dynamic_metadata, filter_state],
        ignore: [],
    });
    let path = match path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => m::PathMatch::Prefix(prefix),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => m::PathMatch::PathSeparatedPrefix(prefix),
        Some(PathSpecifier::Path(path)) => m::PathMatch::Exact(path),
        Some(PathSpecifier::SafeRegex(value)) => m::PathMatch::Regex(cx.at("safe_regex", |cx| regex(cx, &value))?),
        Some(PathSpecifier::ConnectMatcher(_)) => return cx.fail_at("connect_matcher", "is not supported"),
        Some(PathSpecifier::PathMatchPolicy(_)) => return cx.fail_at("path_match_policy", "is not supported"),
        None => return cx.fail("one of prefix, path_separated_prefix, path and safe_regex is required"),
    };
    Ok(m::RouteMatch {
        path,
        case_sensitive: case_sensitive.is_none_or(|v| v.value),
        headers: cx.each("headers", headers, header_match)?,
        query: cx.each("query_parameters", query_parameters, query_match)?,
    })
}

fn query_match(cx: &mut Cx, value: route::QueryParameterMatcher) -> Result<m::QueryMatch> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier;
    let predicate = match value.query_parameter_match_specifier {
        None => m::QueryPredicate::Present(true),
        Some(QueryParameterMatchSpecifier::PresentMatch(present)) => m::QueryPredicate::Present(present),
        Some(QueryParameterMatchSpecifier::StringMatch(value)) => {
            m::QueryPredicate::Value(cx.at("string_match", |cx| string_match(cx, value))?)
        }
    };
    if value.name.is_empty() {
        return cx.fail_at("name", "must not be empty");
    }
    Ok(m::QueryMatch { name: value.name, predicate })
}

fn mutation(cx: &mut Cx, set: Vec<core::HeaderValueOption>, remove: Vec<String>) -> Result<m::HeaderMutation> {
    let mut operations = Vec::with_capacity(set.len());
    for value in set {
        operations.extend(header_value(cx, value)?);
    }
    Ok(m::HeaderMutation { remove: remove.into_iter().map(|name| name.to_ascii_lowercase()).collect(), set: operations })
}

/// `None` is an operation without effect.
fn header_value(cx: &mut Cx, value: core::HeaderValueOption) -> Result<Option<m::HeaderValueOp>> {
    use core::header_value_option::HeaderAppendAction;
    fields!(cx, value => core::HeaderValueOption {
        use: [header, append, append_action, keep_empty_value],
        refuse: [],
        ignore: [],
    });
    let header = header.unwrap_or_default();
    cx.refuse("raw_value", is_set(&header.raw_value))?;
    if header.key.is_empty() {
        return cx.fail_at("header", "key is required");
    }
    if header.value.is_empty() && !keep_empty_value {
        // Envoy drops an empty header then.
        return Ok(None);
    }
    let action = match append {
        Some(append) if append.value => m::HeaderAppend::AppendOrAdd,
        Some(_) => m::HeaderAppend::OverwriteOrAdd,
        None => match HeaderAppendAction::try_from(append_action) {
            Ok(HeaderAppendAction::AppendIfExistsOrAdd) => m::HeaderAppend::AppendOrAdd,
            Ok(HeaderAppendAction::AddIfAbsent) => m::HeaderAppend::AddIfAbsent,
            Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => m::HeaderAppend::OverwriteOrAdd,
            Ok(HeaderAppendAction::OverwriteIfExists) => m::HeaderAppend::OverwriteIfExists,
            Err(_) => return cx.fail_at("append_action", format!("{append_action} is not known")),
        },
    };
    Ok(Some(m::HeaderValueOp { name: header.key.to_ascii_lowercase(), value: header.value, append: action }))
}

fn forward(cx: &mut Cx, value: route::RouteAction) -> Result<m::Forward> {
    use route::route_action::{ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier};
    fields!(cx, value => route::RouteAction {
        use: [
            cluster_not_found_response_code, prefix_rewrite, regex_rewrite, timeout, idle_timeout, retry_policy, max_grpc_timeout,
            max_stream_duration, cluster_specifier, host_rewrite_specifier, priority, request_mirror_policies,
            hash_policy,
        ],
        refuse: [
            metadata_match, path_rewrite_policy, path_rewrite, append_x_forwarded_host, retry_policy_typed_config,
            rate_limits, cors, grpc_timeout_offset, upgrade_configs, internal_redirect_policy,
            internal_redirect_action, max_internal_redirects, hedge_policy,
        ],
        ignore: [flush_timeout, early_data_policy, include_vh_rate_limits],
    });
    if priority != i32::from(core::RoutingPriority::Default) {
        return cx.fail_at("priority", "only DEFAULT is supported");
    }
    let cluster = match cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => m::ClusterSpecifier::Single(name),
        Some(ClusterSpecifier::WeightedClusters(value)) => {
            m::ClusterSpecifier::Weighted(cx.at("weighted_clusters", |cx| weighted_clusters(cx, value))?)
        }
        Some(_) => return cx.fail("cluster and weighted_clusters are supported"),
        None => return cx.fail("one of cluster and weighted_clusters is required"),
    };
    let host_rewrite = match host_rewrite_specifier {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(m::HostRewrite::Literal(host)),
        Some(HostRewriteSpecifier::AutoHostRewrite(value)) => value.value.then_some(m::HostRewrite::Auto),
        Some(_) => return cx.fail("host_rewrite_literal and auto_host_rewrite are supported"),
    };
    let cluster_not_found_status = match ClusterNotFoundResponseCode::try_from(cluster_not_found_response_code) {
        Ok(ClusterNotFoundResponseCode::ServiceUnavailable) => 503,
        Ok(ClusterNotFoundResponseCode::NotFound) => 404,
        Ok(ClusterNotFoundResponseCode::InternalServerError) => 500,
        Err(_) => return cx.fail_at("cluster_not_found_response_code", "is not known"),
    };
    let grpc_limit = cx.optional("max_stream_duration", max_stream_duration, stream_duration)?.flatten();
    let max_grpc_timeout = cx.optional("max_grpc_timeout", max_grpc_timeout, duration)?;
    Ok(m::Forward {
        cluster,
        timeout: non_zero(Some(cx.optional("timeout", timeout, duration)?.unwrap_or(TIMEOUT))),
        idle_timeout: cx.optional("idle_timeout", idle_timeout, duration)?,
        max_grpc_timeout: max_grpc_timeout.or(grpc_limit),
        path_rewrite: rewritten_path(cx, prefix_rewrite, regex_rewrite)?,
        host_rewrite,
        mirrors: cx.each("request_mirror_policies", request_mirror_policies, route_filters::mirror)?,
        hash_policies: cx.each("hash_policy", hash_policy, hash::policy)?,
        retry: cx.optional("retry_policy", retry_policy, self::retry_policy)?.flatten(),
        cluster_not_found_status,
    })
}

/// The longest `grpc-timeout`; a limit on the stream itself is refused.
fn stream_duration(cx: &mut Cx, value: route::route_action::MaxStreamDuration) -> Result<Option<Duration>> {
    fields!(cx, value => route::route_action::MaxStreamDuration {
        use: [max_stream_duration, grpc_timeout_header_max],
        refuse: [grpc_timeout_header_offset],
        ignore: [],
    });
    if non_zero(cx.optional("max_stream_duration", max_stream_duration, duration)?).is_some() {
        return cx.fail_at("max_stream_duration", "only 0s is supported");
    }
    cx.optional("grpc_timeout_header_max", grpc_timeout_header_max, duration)
}

fn rewritten_path(
    cx: &mut Cx,
    prefix: String,
    substitute: Option<matcher::RegexMatchAndSubstitute>,
) -> Result<Option<m::PathRewrite>> {
    let substitute = cx.optional("regex_rewrite", substitute, |cx, value| {
        let pattern = cx.required("pattern", value.pattern, |cx, pattern| regex(cx, &pattern).map(|_| pattern.regex))?;
        Ok(m::PathRewrite::Regex { pattern, substitution: value.substitution })
    })?;
    match (prefix.is_empty(), substitute) {
        (true, substitute) => Ok(substitute),
        (false, None) => Ok(Some(m::PathRewrite::Prefix(prefix))),
        (false, Some(_)) => cx.fail_at("regex_rewrite", "excludes prefix_rewrite"),
    }
}

fn weighted_clusters(cx: &mut Cx, value: route::WeightedCluster) -> Result<Vec<m::WeightedCluster>> {
    fields!(cx, value => route::WeightedCluster {
        use: [clusters, total_weight],
        refuse: [random_value_specifier],
        ignore: [runtime_key_prefix],
    });
    let _it_is_the_sum = total_weight;
    let clusters = cx.each("clusters", clusters, weighted_cluster)?;
    if clusters.iter().map(|c| u64::from(c.weight)).sum::<u64>() == 0 {
        return cx.fail_at("clusters", "the sum of the weights must not be 0");
    }
    Ok(clusters)
}

fn weighted_cluster(cx: &mut Cx, value: route::weighted_cluster::ClusterWeight) -> Result<m::WeightedCluster> {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    fields!(cx, value => route::weighted_cluster::ClusterWeight {
        use: [
            name, weight, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
            response_headers_to_remove, host_rewrite_specifier,
        ],
        refuse: [cluster_header, metadata_match, typed_per_filter_config],
        ignore: [],
    });
    if name.is_empty() {
        return cx.fail_at("name", "is required");
    }
    Ok(m::WeightedCluster {
        name,
        weight: weight.map_or(0, |w| w.value),
        request_headers: cx.at("request_headers_to_add", |cx| mutation(cx, request_headers_to_add, request_headers_to_remove))?,
        response_headers: cx
            .at("response_headers_to_add", |cx| mutation(cx, response_headers_to_add, response_headers_to_remove))?,
        host_rewrite: host_rewrite_specifier.map(|HostRewriteSpecifier::HostRewriteLiteral(host)| host),
    })
}

/// `None` never tries again.
fn retry_policy(cx: &mut Cx, value: route::RetryPolicy) -> Result<Option<m::RetryPolicy>> {
    fields!(cx, value => route::RetryPolicy {
        use: [
            retry_on, num_retries, per_try_timeout, retry_priority, retry_host_predicate, host_selection_retry_max_attempts,
            retriable_status_codes, retry_back_off,
        ],
        refuse: [
            per_try_idle_timeout, retry_options_predicates, rate_limited_retry_back_off, retriable_headers,
            retriable_request_headers, refresh_cluster_on_retry,
        ],
        ignore: [],
    });
    let mut on = m::RetryOn::default();
    for name in retry_on.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match m::RetryOn::from_name(name) {
            Some(condition) => on = on.union(condition),
            None => cx.note_at("retry_on", "holds a condition that is not known, as Envoy would ignore it"),
        }
    }
    let avoid_previous_hosts = host_predicates(cx, retry_host_predicate)?;
    let avoid_previous_priorities = cx.optional("retry_priority", retry_priority, previous_priorities)?;
    let host_selection_attempts = u32::try_from(host_selection_retry_max_attempts.max(0)).unwrap_or(u32::MAX);
    let retriable_statuses = cx.each("retriable_status_codes", retriable_status_codes, |cx, status| {
        u16::try_from(status).ok().filter(|s| (100..600).contains(s)).map_or_else(|| cx.fail("is not an HTTP status"), Ok)
    })?;
    let per_try_timeout = non_zero(cx.optional("per_try_timeout", per_try_timeout, duration)?);
    let back_off = cx.optional("retry_back_off", retry_back_off, back_off)?.unwrap_or_default();
    let num_retries = num_retries.map_or(1, |n| n.value);
    if on.is_empty() || num_retries == 0 {
        return Ok(None);
    }
    Ok(Some(m::RetryPolicy {
        on,
        num_retries,
        per_try_timeout,
        retriable_statuses,
        avoid_previous_hosts,
        host_selection_attempts,
        avoid_previous_priorities,
        back_off,
    }))
}

fn host_predicates(cx: &mut Cx, values: Vec<route::retry_policy::RetryHostPredicate>) -> Result<bool> {
    let known = cx.each("retry_host_predicate", values, |cx, value| {
        if value.name == "envoy.retry_host_predicates.previous_hosts" {
            Ok(())
        } else {
            cx.fail(format!("{:?} is not supported; envoy.retry_host_predicates.previous_hosts is", short(&value.name)))
        }
    })?;
    Ok(!known.is_empty())
}

fn previous_priorities(cx: &mut Cx, value: route::retry_policy::RetryPriority) -> Result<u32> {
    use route::retry_policy::retry_priority::ConfigType;
    let Some(ConfigType::TypedConfig(config)) = value.config_type else {
        return cx.fail_at("typed_config", "is required");
    };
    let config: priorities::PreviousPrioritiesConfig = cx.at("typed_config", |cx| typed(cx, &config))?;
    u32::try_from(config.update_frequency).or_else(|_| cx.fail_at("update_frequency", "must not be negative"))
}

fn back_off(cx: &mut Cx, value: route::retry_policy::RetryBackOff) -> Result<m::RetryBackOff> {
    let base = cx.required("base_interval", value.base_interval, duration)?;
    let max = cx.optional("max_interval", value.max_interval, duration)?.unwrap_or_else(|| base.saturating_mul(10));
    if base.is_zero() || max < base {
        return cx.fail("base_interval must not be zero, nor above max_interval");
    }
    Ok(m::RetryBackOff { base, max })
}

fn redirect(cx: &mut Cx, value: route::RedirectAction) -> Result<m::Redirect> {
    use route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    fields!(cx, value => route::RedirectAction {
        use: [host_redirect, port_redirect, response_code, strip_query, scheme_rewrite_specifier, path_rewrite_specifier],
        refuse: [],
        ignore: [],
    });
    let status = match RedirectResponseCode::try_from(response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => return cx.fail_at("response_code", "is not known"),
    };
    let scheme = match scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) if !scheme.is_empty() => Some(scheme),
        _ => None,
    };
    let path = match path_rewrite_specifier {
        None => m::RedirectPath::Keep,
        Some(PathRewriteSpecifier::PathRedirect(path)) => m::RedirectPath::Replace(path),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => m::RedirectPath::Prefix(prefix),
        Some(_) => return cx.fail("path_redirect and prefix_rewrite are supported"),
    };
    let port = cx.at("port_redirect", |cx| port(cx, port_redirect))?;
    Ok(m::Redirect {
        scheme,
        host: Some(host_redirect).filter(|host| !host.is_empty()),
        port: Some(port).filter(|&port| port != 0),
        path,
        status,
        strip_query,
    })
}

fn direct_response(cx: &mut Cx, value: route::DirectResponseAction) -> Result<m::DirectResponse> {
    fields!(cx, value => route::DirectResponseAction { use: [status, body], refuse: [body_format], ignore: [] });
    let Some(status) = u16::try_from(status).ok().filter(|s| (200..600).contains(s)) else {
        return cx.fail_at("status", "200 to 599 are allowed");
    };
    Ok(m::DirectResponse { status, body: cx.optional("body", body, inline)?.unwrap_or_default() })
}
