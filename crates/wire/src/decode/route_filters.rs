//! What HTTP filters do on one route.

use super::common::{duration, short, string_match};
use super::cx::{Cx, Result, fields};
use super::typed;
use crate::pb::{
    core, extensions::filters::common::fault::v3 as common_fault, extensions::filters::http::cors::v3 as cors,
    extensions::filters::http::fault::v3 as fault, google, route, typ,
};
use lateen_model::dataplane as m;
use prost::Name;
use std::collections::{BTreeMap, HashMap};

pub(super) fn filters(cx: &mut Cx, value: HashMap<String, google::Any>) -> Result<m::RouteFilters> {
    let mut filters = m::RouteFilters::default();
    // In order, so that of several wrong ones always the same is named.
    for (name, config) in value.into_iter().collect::<BTreeMap<_, _>>() {
        if config.type_url == fault::HttpFault::type_url() {
            filters.fault = Some(http_fault(cx, typed(cx, &config)?)?);
        } else if config.type_url == cors::CorsPolicy::type_url() {
            filters.cors = Some(cors_policy(cx, typed(cx, &config)?)?);
        } else {
            let (name, url) = (short(&name), short(&config.type_url));
            return cx.fail(format!("{name:?}: {url:?} is not supported; HTTPFault and CorsPolicy are"));
        }
    }
    Ok(filters)
}

fn share(cx: &mut Cx, value: typ::FractionalPercent) -> Result<m::Share> {
    use typ::fractional_percent::DenominatorType;
    let factor = match DenominatorType::try_from(value.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return cx.fail_at("denominator", "is not known"),
    };
    let share = value.numerator.checked_mul(factor).and_then(m::Share::of_million);
    share.map_or_else(|| cx.fail_at("numerator", "is more than all"), Ok)
}

/// Nothing is nobody, as in Envoy.
fn optional_share(cx: &mut Cx, value: Option<typ::FractionalPercent>) -> Result<m::Share> {
    Ok(cx.optional("percentage", value, share)?.unwrap_or(m::Share::of_percent(0.0)))
}

fn runtime_share(cx: &mut Cx, value: core::RuntimeFractionalPercent) -> Result<m::Share> {
    // There is no runtime that could say something else.
    cx.required("default_value", value.default_value, share)
}

fn http_fault(cx: &mut Cx, value: fault::HttpFault) -> Result<m::Fault> {
    fields!(cx, value => fault::HttpFault {
        use: [delay, abort],
        refuse: [upstream_cluster, headers, downstream_nodes, response_rate_limit],
        ignore: [
            max_active_faults, delay_percent_runtime, abort_percent_runtime, delay_duration_runtime, abort_http_status_runtime,
            max_active_faults_runtime, response_rate_limit_percent_runtime, abort_grpc_status_runtime,
            disable_downstream_cluster_stats, filter_metadata,
        ],
    });
    Ok(m::Fault { delay: cx.optional("delay", delay, fault_delay)?, abort: cx.optional("abort", abort, fault_abort)? })
}

fn fault_delay(cx: &mut Cx, value: common_fault::FaultDelay) -> Result<m::FaultDelay> {
    use common_fault::fault_delay::FaultDelaySecifier;
    let duration = match value.fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(fixed)) => cx.at("fixed_delay", |cx| duration(cx, fixed))?,
        Some(FaultDelaySecifier::HeaderDelay(_)) => return cx.fail_at("header_delay", "is not supported; fixed_delay is"),
        None => return cx.fail("fixed_delay is required"),
    };
    Ok(m::FaultDelay { duration, share: optional_share(cx, value.percentage)? })
}

fn fault_abort(cx: &mut Cx, value: fault::FaultAbort) -> Result<m::FaultAbort> {
    use fault::fault_abort::ErrorType;
    fields!(cx, value => fault::FaultAbort { use: [percentage, error_type], refuse: [response_body], ignore: [] });
    let error = match error_type {
        Some(ErrorType::HttpStatus(status)) => match u16::try_from(status).ok().filter(|s| (200..600).contains(s)) {
            Some(status) => m::FaultError::Http(status),
            None => return cx.fail_at("http_status", "200 to 599 are allowed"),
        },
        Some(ErrorType::GrpcStatus(status)) => m::FaultError::Grpc(status),
        Some(ErrorType::HeaderAbort(_)) => {
            return cx.fail_at("header_abort", "is not supported; http_status and grpc_status are");
        }
        None => return cx.fail("one of http_status and grpc_status is required"),
    };
    Ok(m::FaultAbort { error, share: optional_share(cx, percentage)? })
}

fn cors_policy(cx: &mut Cx, value: cors::CorsPolicy) -> Result<m::Cors> {
    fields!(cx, value => cors::CorsPolicy {
        use: [
            allow_origin_string_match, allow_methods, allow_headers, expose_headers, max_age, allow_credentials, filter_enabled,
            forward_not_matching_preflights,
        ],
        refuse: [shadow_enabled, allow_private_network_access],
        ignore: [],
    });
    if let Some(enabled) = cx.optional("filter_enabled", filter_enabled, runtime_share)?
        && enabled != m::Share::ALL
    {
        return cx.fail_at("filter_enabled", "only 100 % is supported");
    }
    Ok(m::Cors {
        origins: cx.each("allow_origin_string_match", allow_origin_string_match, string_match)?,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials: allow_credentials.is_some_and(|v| v.value),
        forward_unmatched_preflights: forward_not_matching_preflights.is_none_or(|v| v.value),
    })
}

pub(super) fn mirror(cx: &mut Cx, value: route::route_action::RequestMirrorPolicy) -> Result<m::Mirror> {
    fields!(cx, value => route::route_action::RequestMirrorPolicy {
        use: [cluster, runtime_fraction, disable_shadow_host_suffix_append, trace_sampled],
        refuse: [cluster_header, request_headers_mutations, host_rewrite_literal],
        ignore: [],
    });
    if trace_sampled.is_none_or(|v| v.value) {
        cx.note_at("trace_sampled", "copies are in nobody's trace");
    }
    if cluster.is_empty() {
        return cx.fail_at("cluster", "is required");
    }
    let share = cx.optional("runtime_fraction", runtime_fraction, runtime_share)?.unwrap_or(m::Share::ALL);
    Ok(m::Mirror { cluster, share, keep_host: disable_shadow_host_suffix_append })
}
