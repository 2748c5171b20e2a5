//! What makes one HTTP route valid, apart from its conditions.

use super::fault::GRPC_STATUSES;
use super::validate::{check_destination, check_destination_field};
use super::{
    CorsPolicy, FaultInjection, HeaderOperations, Headers, HttpDirectResponse, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute,
    StringMatch,
};
use crate::dataplane::{HeaderValuePart, SubstitutionPart};
use crate::resource::check::{self, Check, report, report_at};
use crate::resource::{Issues, shorten};

/// The largest body of a direct response, in bytes.
const MAX_DIRECT_BODY: usize = 1024 * 1024;
/// Above it a warning is given: the body is part of every proxy's configuration.
const LARGE_DIRECT_BODY: usize = 100 * 1024;

/// Conditions of `retryOn` that have names.
const RETRY_CONDITIONS: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(super) fn check(route: &HttpRoute, is_delegate: bool, issues: &mut Issues) {
    check_action(route, is_delegate, issues);
    issues.each("route", &route.route, |issues, entry| {
        check_destination_field(entry.destination.as_ref(), issues);
        report_at(issues, "weight", check::not_negative(entry.weight));
        issues.optional("headers", entry.headers.as_ref(), check_headers);
    });
    check_weights(route.route.iter().map(|entry| entry.weight), issues);
    issues.optional("redirect", route.redirect.as_ref(), |issues, redirect| check_redirect(issues, redirect, route));
    issues.optional("directResponse", route.direct_response.as_ref(), check_direct_response);
    issues.optional("rewrite", route.rewrite.as_ref(), check_rewrite);
    issues.optional("headers", route.headers.as_ref(), check_headers);
    if let Some(timeout) = route.timeout {
        report_at(issues, "timeout", check::whole_millis_or_zero(timeout));
    }
    issues.optional("retries", route.retries.as_ref(), check_retries);
    issues.optional("fault", route.fault.as_ref(), check_fault);
    check_mirrors(route, issues);
    issues.optional("corsPolicy", route.cors_policy.as_ref(), check_cors);
    let rewrites_host = route.rewrite.as_ref().is_some_and(|rewrite| !rewrite.authority.is_empty());
    if rewrites_host && route.headers.as_ref().and_then(|headers| headers.request.as_ref()).is_some_and(changes_host) {
        issues.error_at("rewrite", "sets the authority, and so do the route's header operations: keep one of them");
    }
}

/// A route does exactly one thing.
fn check_action(route: &HttpRoute, is_delegate: bool, issues: &mut Issues) {
    let actions = [
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
        ("delegate", route.delegate.is_some()),
    ];
    let present: Vec<&str> = actions.iter().filter(|(_, present)| *present).map(|(name, _)| *name).collect();
    match present.as_slice() {
        [] => issues.error("must have one of route, redirect, directResponse and delegate"),
        ["delegate"] if is_delegate => {
            issues.error_at("delegate", "must not stand in a delegate (a VirtualService without hosts)");
        }
        [_] => {}
        several => issues.error(format!("has {}: only one of them is allowed", several.join(" and "))),
    }
    if route.redirect.is_some() || route.direct_response.is_some() {
        for (key, present) in [("fault", route.fault.is_some()), ("rewrite", route.rewrite.is_some())] {
            if present {
                issues.error_at(key, "is not allowed with redirect or directResponse");
            }
        }
    }
    issues.optional("delegate", route.delegate.as_ref(), |issues, delegate| {
        report_at(issues, "name", check::dns_subdomain(&delegate.name));
        if !delegate.namespace.is_empty() {
            report_at(issues, "namespace", check::dns_label(&delegate.namespace));
        }
    });
}

/// The weights of several destinations must not all be zero.
pub(super) fn check_weights(weights: impl ExactSizeIterator<Item = i32>, issues: &mut Issues) {
    if weights.len() > 1 && weights.map(i64::from).sum::<i64>() == 0 {
        issues.error_at("route", "has several destinations whose weights are all 0: give at least one a weight");
    }
}

fn check_redirect(issues: &mut Issues, redirect: &HttpRedirect, route: &HttpRoute) {
    let is_empty = redirect.uri.is_empty()
        && redirect.authority.is_empty()
        && redirect.port.is_none()
        && redirect.derive_port.is_none()
        && redirect.scheme.is_empty()
        && redirect.prefix_rewrite.is_empty();
    if is_empty {
        issues.error("must set at least one of uri, prefixRewrite, authority, port, derivePort and scheme");
    }
    if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        issues.error("has uri and prefixRewrite: only one of them is allowed");
    }
    let prefixes_only = || route.matches.iter().all(|m| matches!(m.uri, Some(StringMatch::Prefix(_))));
    if !redirect.prefix_rewrite.is_empty() && !prefixes_only() {
        issues.error_at("prefixRewrite", "needs a uri prefix in every match of the route");
    }
    if redirect.port.is_some() && redirect.derive_port.is_some() {
        issues.error("has port and derivePort: only one of them is allowed");
    }
    if let Some(port) = redirect.port {
        report_at(issues, "port", check::port(port.into()));
    }
    if let Some(code) = redirect.redirect_code.filter(|code| *code != 0 && !(300..=399).contains(code)) {
        issues.error_at("redirectCode", format!("is {code}, must be 300 to 399"));
    }
    if !matches!(redirect.scheme.as_str(), "" | "http" | "https") {
        issues.error_at("scheme", format!("is {:?}, must be http or https", shorten(&redirect.scheme)));
    }
}

fn check_direct_response(issues: &mut Issues, response: &HttpDirectResponse) {
    report_at(issues, "status", check::http_status(response.status.into()));
    issues.optional("body", response.body.as_ref(), |issues, body| {
        if body.string.is_some() && body.bytes.is_some() {
            issues.error("has string and bytes: only one of them is allowed");
        }
        let text = body.string.as_ref().map_or(0, String::len);
        let size = text.max(body.bytes.as_ref().map_or(0, |bytes| bytes.as_bytes().len()));
        if size > MAX_DIRECT_BODY {
            issues.error(format!("has {size} bytes; {MAX_DIRECT_BODY} are allowed"));
        } else if size > LARGE_DIRECT_BODY {
            issues.warn(format!("has {size} bytes, which every proxy keeps in memory"));
        }
    });
}

fn check_rewrite(issues: &mut Issues, rewrite: &HttpRewrite) {
    if rewrite.uri.is_empty() && rewrite.authority.is_empty() && rewrite.uri_regex_rewrite.is_none() {
        issues.error("must set at least one of uri, uriRegexRewrite and authority");
    }
    if !rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_some() {
        issues.error("has uri and uriRegexRewrite: only one of them is allowed");
    }
    issues.optional("uriRegexRewrite", rewrite.uri_regex_rewrite.as_ref(), |issues, regex| {
        let groups = match regex.matches.as_str() {
            "" => {
                issues.error_at("match", "is required");
                None
            }
            pattern => check::regex_at(issues, "match", pattern),
        };
        if regex.rewrite.is_empty() {
            issues.error_at("rewrite", "is required");
        } else if let Some(groups) = groups {
            report_at(issues, "rewrite", SubstitutionPart::parse(&regex.rewrite, groups).map(|_| ()));
        }
    });
}

fn check_retries(issues: &mut Issues, retries: &HttpRetry) {
    report_at(issues, "attempts", check::not_negative(retries.attempts));
    if retries.attempts == 0 {
        let others = [
            ("perTryTimeout", retries.per_try_timeout.is_some()),
            ("retryOn", !retries.retry_on.is_empty()),
            ("retryRemoteLocalities", retries.retry_remote_localities.is_some()),
        ];
        for (key, _) in others.into_iter().filter(|(_, present)| *present) {
            issues.error_at(key, "must not be set when attempts is 0 (or absent), which turns retries off");
        }
    }
    for (key, duration) in [("perTryTimeout", retries.per_try_timeout), ("backoff", retries.backoff)] {
        if let Some(duration) = duration {
            report_at(issues, key, check::whole_millis(duration));
        }
    }
    report_at(issues, "retryOn", retry_on(&retries.retry_on));
}

/// `retryOn`: conditions with commas between. Spaces are not trimmed, as in Istio.
pub(crate) fn retry_on(conditions: &str) -> Check {
    for condition in conditions.split(',').filter(|_| !conditions.is_empty()) {
        let is_status = || condition.parse::<u16>().is_ok_and(check::is_named_http_status);
        if !RETRY_CONDITIONS.contains(&condition) && !is_status() {
            let known = RETRY_CONDITIONS.join(", ");
            return Err(format!(
                "{:?} is not a condition (no spaces are allowed); known: {known}, and HTTP statuses",
                shorten(condition)
            ));
        }
    }
    Ok(())
}

fn check_fault(issues: &mut Issues, fault: &FaultInjection) {
    if fault.delay.is_none() && fault.abort.is_none() {
        issues.error("must set delay or abort");
    }
    issues.optional("delay", fault.delay.as_ref(), |issues, delay| {
        if delay.fixed_delay.is_some() && delay.exponential_delay.is_some() {
            issues.error("has fixedDelay and exponentialDelay: only one of them is allowed");
        }
        match delay.fixed_delay {
            Some(duration) => report_at(issues, "fixedDelay", check::whole_millis(duration)),
            None => issues.error_at("fixedDelay", "is required"),
        }
        if let Some(percent) = delay.percent {
            report_at(issues, "percent", check::whole_percent(percent));
        }
        issues.optional("percentage", delay.percentage.as_ref(), |issues, share| report(issues, check::percentage(*share)));
    });
    issues.optional("abort", fault.abort.as_ref(), |issues, abort| {
        let kinds = [abort.http_status.is_some(), abort.grpc_status.is_some(), abort.http2_error.is_some()];
        match kinds.iter().filter(|present| **present).count() {
            0 => issues.warn("has neither httpStatus nor grpcStatus and does nothing"),
            1 => {}
            _ => issues.error("only one of httpStatus, grpcStatus and http2Error is allowed"),
        }
        if let Some(status) = abort.http_status {
            report_at(issues, "httpStatus", check::http_status(status.into()));
        }
        if let Some(status) = abort.grpc_status.as_deref().filter(|status| !GRPC_STATUSES.contains(status)) {
            issues.error_at("grpcStatus", format!("{:?} is not one of {}", shorten(status), GRPC_STATUSES.join(", ")));
        }
        issues.optional("percentage", abort.percentage.as_ref(), |issues, share| report(issues, check::percentage(*share)));
    });
}

fn check_mirrors(route: &HttpRoute, issues: &mut Issues) {
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        issues.error("has mirror and mirrors: only one of them is allowed");
    }
    issues.optional("mirror", route.mirror.as_ref(), |issues, destination| check_destination(destination, issues));
    issues.each("mirrors", &route.mirrors, |issues, mirror| {
        check_destination_field(mirror.destination.as_ref(), issues);
        issues.optional("percentage", mirror.percentage.as_ref(), |issues, share| report(issues, check::percentage(*share)));
    });
    if let Some(percent) = route.mirror_percent {
        issues.warn_at("mirrorPercent", "is deprecated: use mirrorPercentage");
        if percent > 100 {
            issues.error_at("mirrorPercent", format!("is {percent}, must be 0 to 100"));
        }
    }
    issues.optional("mirrorPercentage", route.mirror_percentage.as_ref(), |issues, share| {
        report(issues, check::percentage(*share));
    });
}

fn check_cors(issues: &mut Issues, cors: &CorsPolicy) {
    const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];
    issues.each("allowOrigins", &cors.allow_origins, |issues, origin| {
        if let StringMatch::Regex(pattern) = origin {
            check::report_regex_at(issues, "regex", pattern);
        }
    });
    issues.each("allowMethods", &cors.allow_methods, |issues, method| {
        if !METHODS.contains(&method.as_str()) {
            issues.error(format!("{:?} is not one of {}", shorten(method), METHODS.join(", ")));
        }
    });
    for (key, names) in [("allowHeaders", &cors.allow_headers), ("exposeHeaders", &cors.expose_headers)] {
        issues.each(key, names, |issues, name| report(issues, check::header_name(name)));
    }
    if let Some(age) = cors.max_age.filter(|age| age.get().subsec_nanos() != 0) {
        issues.error_at("maxAge", format!("is {age}, must be whole seconds"));
    }
}

fn check_headers(issues: &mut Issues, headers: &Headers) {
    issues.optional("request", headers.request.as_ref(), |issues, changes| check_operations(changes, true, issues));
    issues.optional("response", headers.response.as_ref(), |issues, changes| check_operations(changes, false, issues));
}

fn check_operations(changes: &HeaderOperations, is_request: bool, issues: &mut Issues) {
    for (key, map) in [("set", &changes.set), ("add", &changes.add)] {
        issues.field(key, |issues| {
            for (name, value) in map {
                issues.field(name, |issues| {
                    if !(is_request && is_host(name)) {
                        report(issues, operation_name(name));
                    }
                    report(issues, header_value(value));
                });
            }
        });
    }
    issues.each("remove", &changes.remove, |issues, name| report(issues, operation_name(name)));
}

/// Whether a change of `name` changes the request's host.
fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

fn changes_host(changes: &HeaderOperations) -> bool {
    changes.set.keys().chain(changes.add.keys()).any(|name| is_host(name))
}

fn operation_name(name: &str) -> Check {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err("cannot be changed: only the host of a request can, by set or add".to_owned());
    }
    check::header_name(name)
}

/// A header's value: no control characters, and `%` only doubled or around one of Envoy's commands such as `%PROTOCOL%`. A
/// command that is not supported would be refused by every proxy, and with it all routes of the port.
fn header_value(value: &str) -> Check {
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err("must not have control characters".to_owned());
    }
    HeaderValuePart::parse(value).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_may_hold_commands_only() {
        for good in ["", "plain", "100%%", "%START_TIME%", "%REQ(X-A?Y):20%", "%PROTOCOL%/%DOWNSTREAM_LOCAL_ADDRESS%"] {
            assert_eq!(header_value(good), Ok(()), "{good:?}");
        }
        for bad in ["100%", "%", "%lower%", "%REQ(x%", "a\nb", "%%%", "%ABC", "%START_TIME(%s)%", "%UPSTREAM_METADATA(a:b)%"] {
            assert!(header_value(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn retry_conditions() {
        for good in ["", "5xx", "gateway-error,connect-failure,refused-stream", "retriable-status-codes,503"] {
            assert_eq!(retry_on(good), Ok(()), "{good:?}");
        }
        for bad in ["5xx, reset", "503,999", "nonsense", ",", "5xx,"] {
            assert!(retry_on(bad).is_err(), "{bad:?}");
        }
    }
}
