//! What HTTP filters do on one route.

use super::common::{boolean, duration, string_match};
use super::hcm::{CORS, FAULT};
use crate::any::{FilterEntry, any};
use crate::pb::{
    core, extensions::filters::common::fault::v3 as common_fault, extensions::filters::http::cors::v3 as cors,
    extensions::filters::http::fault::v3 as fault, route, typ,
};
use lateen_model::dataplane as m;
use typ::fractional_percent::DenominatorType;

/// `typed_per_filter_config`, in order of name.
pub(super) fn filters(value: &m::RouteFilters) -> Vec<FilterEntry> {
    let entry = |name: &str, config| FilterEntry { key: name.to_owned(), value: Some(config) };
    let cors = value.cors.as_ref().map(|policy| entry(CORS, any(&cors_policy(policy))));
    let fault = value.fault.as_ref().map(|faults| entry(FAULT, any(&http_fault(faults))));
    cors.into_iter().chain(fault).collect()
}

fn share(value: m::Share) -> typ::FractionalPercent {
    typ::FractionalPercent { numerator: value.millionths(), denominator: DenominatorType::Million.into() }
}

fn http_fault(value: &m::Fault) -> fault::HttpFault {
    use common_fault::fault_delay::FaultDelaySecifier;
    use fault::fault_abort::ErrorType;
    fault::HttpFault {
        delay: value.delay.as_ref().map(|delay| common_fault::FaultDelay {
            percentage: Some(share(delay.share)),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay.duration))),
        }),
        abort: value.abort.as_ref().map(|abort| fault::FaultAbort {
            percentage: Some(share(abort.share)),
            error_type: Some(match abort.error {
                m::FaultError::Http(status) => ErrorType::HttpStatus(status.into()),
                m::FaultError::Grpc(status) => ErrorType::GrpcStatus(status),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn cors_policy(value: &m::Cors) -> cors::CorsPolicy {
    cors::CorsPolicy {
        allow_origin_string_match: value.origins.iter().map(string_match).collect(),
        allow_methods: value.allow_methods.clone(),
        allow_headers: value.allow_headers.clone(),
        expose_headers: value.expose_headers.clone(),
        max_age: value.max_age.clone(),
        allow_credentials: value.allow_credentials.then(|| boolean(true)).flatten(),
        filter_enabled: Some(core::RuntimeFractionalPercent {
            default_value: Some(typ::FractionalPercent { numerator: 100, denominator: DenominatorType::Hundred.into() }),
            runtime_key: String::new(),
        }),
        forward_not_matching_preflights: boolean(value.forward_unmatched_preflights),
        ..Default::default()
    }
}

pub(super) fn mirror(value: &m::Mirror) -> route::route_action::RequestMirrorPolicy {
    route::route_action::RequestMirrorPolicy {
        cluster: value.cluster.clone(),
        runtime_fraction: Some(core::RuntimeFractionalPercent {
            default_value: Some(share(value.share)),
            runtime_key: String::new(),
        }),
        // Copies are in nobody's trace.
        trace_sampled: boolean(false),
        disable_shadow_host_suffix_append: value.keep_host,
        ..Default::default()
    }
}
