//! How long a request and each of its tries may take.

use lateen_model::dataplane::Forward;
use std::time::Duration;

/// The longest `grpc-timeout` that is understood: eight digits of hours, cut to this (CVE-2021-28682 was an overflow here).
pub const MAX_GRPC_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The times of one request. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the end of the response, all tries together.
    pub global: Option<Duration>,
    /// For one try.
    pub per_try: Option<Duration>,
    /// No activity on the stream; `None`: the connection manager's setting holds.
    pub idle: Option<Duration>,
}

/// What a request's headers say about time (see [`Requested::from_headers`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requested {
    /// `grpc-timeout`, for a gRPC request.
    pub grpc: Option<Duration>,
    /// `x-envoy-upstream-rq-timeout-ms`; zero is unlimited.
    pub global: Option<Duration>,
    /// `x-envoy-upstream-rq-per-try-timeout-ms`; zero is unlimited.
    pub per_try: Option<Duration>,
}

impl Requested {
    /// Reads the headers. Clients must not be let set `x-envoy-*`: those are the route's own (ISTIO-SECURITY-2024-006 is about a
    /// wrong answer to that). `grpc-timeout` is part of gRPC and read for every `application/grpc` request. What cannot be
    /// understood counts as absent.
    pub fn from_headers<R: crate::RequestView>(request: &R) -> Self {
        let millis = |name| request.header_text(name).and_then(parse_millis);
        let grpc = is_grpc(request).then(|| request.header_text("grpc-timeout")).flatten().and_then(parse_grpc_timeout);
        Self { grpc, global: millis("x-envoy-upstream-rq-timeout-ms"), per_try: millis("x-envoy-upstream-rq-per-try-timeout-ms") }
    }
}

/// Whether a request is gRPC: `content-type` is `application/grpc`, or that followed by `+` or `;`.
pub fn is_grpc<R: crate::RequestView>(request: &R) -> bool {
    request.header_text("content-type").is_some_and(is_grpc_content_type)
}

/// Whether a `content-type` is gRPC's.
pub fn is_grpc_content_type(content_type: &str) -> bool {
    content_type.strip_prefix("application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

/// Envoy's rules: the route's timeout, replaced by `grpc-timeout` where the route honours it (cut to `max_grpc_timeout` if that is
/// not zero; a gRPC request without `grpc-timeout` gets `max_grpc_timeout` itself, zero being unlimited), replaced by
/// `x-envoy-upstream-rq-timeout-ms`. A per-try timeout that is not shorter than the global one has no effect.
pub fn effective(forward: &Forward, is_grpc: bool, requested: &Requested) -> Timeouts {
    let mut global = forward.timeout.filter(|t| !t.is_zero());
    if is_grpc && let Some(max) = forward.max_grpc_timeout {
        let asked = requested.grpc.unwrap_or(Duration::ZERO);
        let cut = match (max.is_zero(), asked.is_zero()) {
            (true, _) => asked,
            (false, true) => max,
            (false, false) => asked.min(max),
        };
        global = Some(cut).filter(|t| !t.is_zero());
    }
    if let Some(asked) = requested.global {
        global = Some(asked).filter(|t| !t.is_zero());
    }
    let configured = forward.retry.as_ref().and_then(|r| r.per_try_timeout);
    let per_try = requested.per_try.or(configured).filter(|t| !t.is_zero()).filter(|t| global.is_none_or(|g| *t < g));
    Timeouts { global, per_try, idle: forward.idle_timeout }
}

/// `grpc-timeout`: one to eight digits and a unit of `H M S m u n` (gRPC over HTTP/2, "Timeout"), cut to [`MAX_GRPC_TIMEOUT`].
/// `None` for anything else. [`effective`] takes a timeout of zero as no limit, as Envoy does.
pub fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    let duration = match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    };
    Some(duration.min(MAX_GRPC_TIMEOUT))
}

/// A number of milliseconds in at most ten digits.
fn parse_millis(text: &str) -> Option<Duration> {
    let text = text.trim();
    let valid = !text.is_empty() && text.len() <= 10 && text.bytes().all(|b| b.is_ascii_digit());
    valid.then(|| text.parse().ok().map(Duration::from_millis)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::Request;
    use lateen_model::dataplane::{ClusterSpecifier, RetryBackOff, RetryOn, RetryPolicy};

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn forward(timeout: Option<u64>, max_grpc: Option<u64>, per_try: Option<u64>) -> Forward {
        let retry = RetryPolicy {
            on: RetryOn::RESET,
            num_retries: 2,
            per_try_timeout: per_try.map(ms),
            retriable_statuses: vec![],
            avoid_previous_hosts: false,
            host_selection_attempts: 1,
            avoid_previous_priorities: None,
            back_off: RetryBackOff::default(),
        };
        Forward {
            cluster: ClusterSpecifier::Single("c".into()),
            timeout: timeout.map(ms),
            idle_timeout: Some(ms(7)),
            max_grpc_timeout: max_grpc.map(ms),
            path_rewrite: None,
            host_rewrite: None,
            retry: Some(retry),
            mirrors: Vec::new(),
            hash_policies: Vec::new(),
            cluster_not_found_status: 503,
        }
    }

    #[test]
    fn grpc_timeouts() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("100m", Some(ms(100))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(MAX_GRPC_TIMEOUT)),
            ("0S", Some(Duration::ZERO)),
            ("123456789m", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("5x", None),
            ("-5S", None),
            ("+5S", None),
            ("5 S", None),
            ("5é", None),
        ] {
            assert_eq!(parse_grpc_timeout(text), expected, "{text}");
        }
    }

    /// Columns: route timeout, max_grpc_timeout, per try, is gRPC, requested (grpc, global, per try) and what follows.
    #[test]
    fn effective_timeouts() {
        let asked = |grpc: Option<u64>, global: Option<u64>, per_try: Option<u64>| Requested {
            grpc: grpc.map(ms),
            global: global.map(ms),
            per_try: per_try.map(ms),
        };
        let nothing = Requested::default();
        for (f, grpc, requested, global, per_try) in [
            (forward(Some(100), None, None), false, nothing, Some(100), None),
            (forward(Some(0), None, None), false, nothing, None, None),
            (forward(None, None, Some(10)), false, nothing, None, Some(10)),
            (forward(Some(100), None, Some(10)), false, nothing, Some(100), Some(10)),
            (forward(Some(100), None, Some(100)), false, nothing, Some(100), None),
            (forward(Some(100), None, Some(200)), false, nothing, Some(100), None),
            // gRPC: ignored without max_grpc_timeout, bounded by it, unlimited by zero.
            (forward(Some(100), None, None), true, asked(Some(50), None, None), Some(100), None),
            (forward(Some(100), Some(80), None), true, asked(Some(50), None, None), Some(50), None),
            (forward(Some(100), Some(80), None), true, asked(Some(500), None, None), Some(80), None),
            (forward(Some(100), Some(80), None), true, nothing, Some(80), None),
            (forward(Some(100), Some(0), None), true, asked(Some(500), None, None), Some(500), None),
            (forward(Some(100), Some(0), None), true, nothing, None, None),
            (forward(Some(100), Some(80), None), false, asked(Some(50), None, None), Some(100), None),
            // Headers.
            (forward(Some(100), None, Some(10)), false, asked(None, Some(30), Some(20)), Some(30), Some(20)),
            (forward(Some(100), None, Some(10)), false, asked(None, Some(0), None), None, Some(10)),
            (forward(Some(100), None, Some(10)), false, asked(None, Some(5), None), Some(5), None),
        ] {
            let expected = Timeouts { global: global.map(ms), per_try: per_try.map(ms), idle: Some(ms(7)) };
            assert_eq!(effective(&f, grpc, &requested), expected, "{f:?} {grpc} {requested:?}");
        }
    }

    #[test]
    fn headers_that_are_understood_count() {
        let request = Request::get("a", "/")
            .with("content-type", "application/grpc+proto")
            .with("grpc-timeout", "3S")
            .with("x-envoy-upstream-rq-timeout-ms", "250")
            .with("x-envoy-upstream-rq-per-try-timeout-ms", "99999999999");
        let requested = Requested::from_headers(&request);
        assert_eq!(requested, Requested { grpc: Some(ms(3000)), global: Some(ms(250)), per_try: None });
    }

    #[test]
    fn grpc_content_types() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc_content_type(text), expected, "{text}");
        }
    }
}
