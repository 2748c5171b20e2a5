//! Routes.

use super::common::{boolean, duration, header_match, inline_bytes, regex, string_match, uint32};
use super::hash;
use super::route_filters::{filters, mirror};
use crate::any::{Extended, any, empty_any};
use crate::pb::{core, extensions::retry::priority::previous_priorities::v3 as priorities, google, matcher, route};
use lateen_model::dataplane as m;
use prost::Message;
use std::collections::HashMap;
use std::time::Duration;

/// Field numbers of `RouteConfiguration.virtual_hosts`, `VirtualHost.routes` and `Route.typed_per_filter_config`.
const VIRTUAL_HOSTS: u32 = 2;
const ROUTES: u32 = 3;
const FILTERS: u32 = 13;

/// Its bytes are the same whenever it says the same.
pub(super) fn configuration(value: &m::RouteConfiguration) -> impl Message + use<> {
    let extended = |value: &m::Route| Extended { base: route(value), tag: FILTERS, entries: filters(&value.filters) };
    let hosts = value.virtual_hosts.iter().map(|host| Extended {
        base: virtual_host(host),
        tag: ROUTES,
        entries: host.routes.iter().map(extended).collect(),
    });
    Extended { base: settings(value), tag: VIRTUAL_HOSTS, entries: hosts.collect() }
}

/// Without virtual hosts.
fn settings(value: &m::RouteConfiguration) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: value.name.clone(),
        ignore_port_in_host_matching: value.ignore_port_in_host_matching,
        max_direct_response_body_size_bytes: uint32(value.max_direct_response_body_bytes),
        // A route may refer to a cluster that is on its way.
        validate_clusters: boolean(false),
        ..Default::default()
    }
}

/// Without routes.
fn virtual_host(value: &m::VirtualHost) -> route::VirtualHost {
    route::VirtualHost {
        name: value.name.clone(),
        domains: value.domains.clone(),
        include_request_attempt_count: value.include_request_attempt_count,
        require_tls: if value.require_tls {
            route::virtual_host::TlsRequirementType::All
        } else {
            route::virtual_host::TlsRequirementType::None
        }
        .into(),
        ..Default::default()
    }
}

/// Without what filters do.
fn route(value: &m::Route) -> route::Route {
    let (request_headers_to_add, request_headers_to_remove) = mutation(&value.request_headers);
    let (response_headers_to_add, response_headers_to_remove) = mutation(&value.response_headers);
    route::Route {
        name: value.name.clone(),
        r#match: Some(route_match(&value.matches)),
        metadata: value.config_source.as_deref().map(config_metadata),
        decorator: value.operation.as_ref().map(|operation| route::Decorator { operation: operation.clone(), propagate: None }),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        action: Some(match &value.action {
            m::RouteAction::Forward(forward) => route::route::Action::Route(route_action(forward)),
            m::RouteAction::Redirect(to) => route::route::Action::Redirect(redirect(to)),
            m::RouteAction::DirectResponse(response) => route::route::Action::DirectResponse(direct_response(response)),
        }),
        ..Default::default()
    }
}

/// Metadata `istio`, key `config`. Each map has one entry, so that its order is fixed.
fn config_metadata(path: &str) -> core::Metadata {
    let value = google::Value { kind: Some(google::value::Kind::StringValue(path.to_owned())) };
    let istio = google::Struct { fields: HashMap::from([("config".to_owned(), value)]) };
    core::Metadata { filter_metadata: HashMap::from([("istio".to_owned(), istio)]), ..Default::default() }
}

fn route_match(value: &m::RouteMatch) -> route::RouteMatch {
    use route::route_match::PathSpecifier;
    let path = match &value.path {
        m::PathMatch::Prefix(prefix) => PathSpecifier::Prefix(prefix.clone()),
        m::PathMatch::PathSeparatedPrefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.clone()),
        m::PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        m::PathMatch::Regex(pattern) => PathSpecifier::SafeRegex(regex(pattern.pattern())),
    };
    route::RouteMatch {
        path_specifier: Some(path),
        case_sensitive: boolean(value.case_sensitive),
        headers: value.headers.iter().map(header_match).collect(),
        query_parameters: value.query.iter().map(query_match).collect(),
        ..Default::default()
    }
}

fn query_match(value: &m::QueryMatch) -> route::QueryParameterMatcher {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier;
    let specifier = match &value.predicate {
        m::QueryPredicate::Present(present) => QueryParameterMatchSpecifier::PresentMatch(*present),
        m::QueryPredicate::Value(text) => QueryParameterMatchSpecifier::StringMatch(string_match(text)),
    };
    route::QueryParameterMatcher { name: value.name.clone(), query_parameter_match_specifier: Some(specifier) }
}

fn mutation(value: &m::HeaderMutation) -> (Vec<core::HeaderValueOption>, Vec<String>) {
    use core::header_value_option::HeaderAppendAction;
    let set = value.set.iter().map(|op| {
        let action = match op.append {
            m::HeaderAppend::AppendOrAdd => HeaderAppendAction::AppendIfExistsOrAdd,
            m::HeaderAppend::AddIfAbsent => HeaderAppendAction::AddIfAbsent,
            m::HeaderAppend::OverwriteOrAdd => HeaderAppendAction::OverwriteIfExistsOrAdd,
            m::HeaderAppend::OverwriteIfExists => HeaderAppendAction::OverwriteIfExists,
        };
        core::HeaderValueOption {
            header: Some(core::HeaderValue { key: op.name.clone(), value: op.value.clone(), raw_value: Vec::new() }),
            append_action: action.into(),
            // Envoy drops an empty header unless it is told to keep it.
            keep_empty_value: op.value.is_empty(),
            ..Default::default()
        }
    });
    (set.collect(), value.remove.clone())
}

fn route_action(value: &m::Forward) -> route::RouteAction {
    use route::route_action::{ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier};
    let mut action = route::RouteAction {
        cluster_specifier: Some(match &value.cluster {
            m::ClusterSpecifier::Single(name) => ClusterSpecifier::Cluster(name.clone()),
            m::ClusterSpecifier::Weighted(clusters) => ClusterSpecifier::WeightedClusters(route::WeightedCluster {
                clusters: clusters.iter().map(weighted).collect(),
                ..Default::default()
            }),
        }),
        cluster_not_found_response_code: match value.cluster_not_found_status {
            404 => ClusterNotFoundResponseCode::NotFound,
            500 => ClusterNotFoundResponseCode::InternalServerError,
            _ => ClusterNotFoundResponseCode::ServiceUnavailable,
        }
        .into(),
        timeout: Some(duration(value.timeout.unwrap_or(Duration::ZERO))),
        idle_timeout: value.idle_timeout.map(duration),
        retry_policy: value.retry.as_ref().map(retry_policy),
        host_rewrite_specifier: value.host_rewrite.as_ref().map(|rewrite| match rewrite {
            m::HostRewrite::Literal(host) => HostRewriteSpecifier::HostRewriteLiteral(host.clone()),
            m::HostRewrite::Auto => HostRewriteSpecifier::AutoHostRewrite(google::BoolValue { value: true }),
        }),
        request_mirror_policies: value.mirrors.iter().map(mirror).collect(),
        hash_policy: value.hash_policies.iter().map(hash::policy).collect(),
        ..Default::default()
    };
    #[expect(deprecated, reason = "Istio's field; the newer one ends the stream instead of answering with a timeout")]
    {
        action.max_grpc_timeout = value.max_grpc_timeout.map(duration);
    }
    match &value.path_rewrite {
        None => {}
        Some(m::PathRewrite::Prefix(prefix)) => action.prefix_rewrite.clone_from(prefix),
        Some(m::PathRewrite::Regex { pattern, substitution }) => {
            action.regex_rewrite =
                Some(matcher::RegexMatchAndSubstitute { pattern: Some(regex(pattern)), substitution: substitution.clone() });
        }
    }
    action
}

fn weighted(value: &m::WeightedCluster) -> route::weighted_cluster::ClusterWeight {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let (request_headers_to_add, request_headers_to_remove) = mutation(&value.request_headers);
    let (response_headers_to_add, response_headers_to_remove) = mutation(&value.response_headers);
    route::weighted_cluster::ClusterWeight {
        name: value.name.clone(),
        weight: uint32(value.weight),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        host_rewrite_specifier: value.host_rewrite.clone().map(HostRewriteSpecifier::HostRewriteLiteral),
        ..Default::default()
    }
}

fn retry_policy(value: &m::RetryPolicy) -> route::RetryPolicy {
    use route::retry_policy::{RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority};
    let previous_hosts = || RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(empty_any(
            "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        ))),
    };
    route::RetryPolicy {
        retry_on: value.on.names().collect::<Vec<_>>().join(","),
        num_retries: uint32(value.num_retries),
        per_try_timeout: value.per_try_timeout.map(duration),
        retriable_status_codes: value.retriable_statuses.iter().map(|&status| status.into()).collect(),
        retry_host_predicate: value.avoid_previous_hosts.then(previous_hosts).into_iter().collect(),
        host_selection_retry_max_attempts: value.host_selection_attempts.into(),
        retry_priority: value.avoid_previous_priorities.map(|frequency| RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(retry_priority::ConfigType::TypedConfig(any(&priorities::PreviousPrioritiesConfig {
                update_frequency: i32::try_from(frequency).unwrap_or(i32::MAX),
            }))),
        }),
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(duration(value.back_off.base)),
            max_interval: Some(duration(value.back_off.max)),
        }),
        ..Default::default()
    }
}

fn redirect(value: &m::Redirect) -> route::RedirectAction {
    use route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    route::RedirectAction {
        host_redirect: value.host.clone().unwrap_or_default(),
        port_redirect: value.port.unwrap_or_default().into(),
        response_code: match value.status {
            302 => RedirectResponseCode::Found,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::MovedPermanently,
        }
        .into(),
        strip_query: value.strip_query,
        scheme_rewrite_specifier: value.scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: match &value.path {
            m::RedirectPath::Keep => None,
            m::RedirectPath::Replace(path) => Some(PathRewriteSpecifier::PathRedirect(path.clone())),
            m::RedirectPath::Prefix(prefix) => Some(PathRewriteSpecifier::PrefixRewrite(prefix.clone())),
        },
    }
}

fn direct_response(value: &m::DirectResponse) -> route::DirectResponseAction {
    route::DirectResponseAction {
        status: value.status.into(),
        body: (!value.body.is_empty()).then(|| inline_bytes(&value.body)),
        body_format: None,
    }
}
