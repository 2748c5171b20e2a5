use super::*;
use crate::request::testing::Request;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::net::{IpAddr, Ipv4Addr};

struct Response(u16, Vec<(&'static str, &'static str)>);

impl ResponseView for Response {
    fn status(&self) -> u16 {
        self.0
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.1.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_bytes())
    }
}

fn policy(on: &str, num_retries: u32) -> RetryPolicy {
    RetryPolicy {
        on: on.split(',').map(|n| RetryOn::from_name(n).expect(n)).fold(RetryOn::default(), RetryOn::union),
        num_retries,
        per_try_timeout: None,
        retriable_statuses: vec![418],
        avoid_previous_hosts: true,
        host_selection_attempts: 5,
        avoid_previous_priorities: None,
        back_off: RetryBackOff::default(),
    }
}

fn state(on: &str) -> RetryState {
    RetryState::new(Some(&policy(on, 9)), &Overrides::default()).unwrap()
}

#[test]
fn responses() {
    let grpc = |code| Response(200, vec![("grpc-status", code)]);
    for (on, response, expected) in [
        ("5xx", Response(500, vec![]), true),
        ("5xx", Response(599, vec![]), true),
        ("5xx", Response(499, vec![]), false),
        ("gateway-error", Response(502, vec![]), true),
        ("gateway-error", Response(504, vec![]), true),
        ("gateway-error", Response(500, vec![]), false),
        ("gateway-error", Response(505, vec![]), false),
        ("retriable-4xx", Response(409, vec![]), true),
        ("retriable-4xx", Response(404, vec![]), false),
        ("retriable-status-codes", Response(418, vec![]), true),
        ("retriable-status-codes", Response(503, vec![]), false),
        ("reset", Response(503, vec![]), false),
        ("connect-failure", Response(503, vec![]), false),
        ("cancelled", grpc("1"), true),
        ("deadline-exceeded", grpc("4"), true),
        ("resource-exhausted", grpc("8"), true),
        ("internal", grpc("13"), true),
        ("unavailable", grpc("14"), true),
        ("unavailable", grpc("13"), false),
        ("unavailable", grpc("0"), false),
        ("unavailable", grpc("x"), false),
        ("5xx", grpc("14"), false),
        // A rate limit of another Envoy is only retried where asked for.
        ("5xx", Response(503, vec![("x-envoy-ratelimited", "true")]), false),
        ("envoy-ratelimited", Response(429, vec![("x-envoy-ratelimited", "true")]), true),
        ("envoy-ratelimited", Response(429, vec![]), false),
        // Istio's default policy: 503 alone is not retried.
        ("connect-failure,refused-stream,unavailable,cancelled", Response(503, vec![]), false),
        ("connect-failure,refused-stream,unavailable,cancelled", grpc("14"), true),
    ] {
        let decision = state(on).on_response(&response);
        assert_eq!(decision == Decision::Retry, expected, "{on} {} {:?}", response.0, response.1);
    }
}

#[test]
fn resets() {
    use ResetReason::{ConnectFailure, Overflow, PerTryTimeout, RefusedStream, Reset as Broken};
    for (on, reasons) in [
        ("5xx", vec![ConnectFailure, RefusedStream, Broken, PerTryTimeout]),
        ("gateway-error", vec![ConnectFailure, RefusedStream, Broken, PerTryTimeout]),
        ("reset", vec![ConnectFailure, RefusedStream, Broken, PerTryTimeout]),
        ("connect-failure", vec![ConnectFailure]),
        ("refused-stream", vec![RefusedStream]),
        ("retriable-4xx", vec![]),
        ("unavailable", vec![]),
    ] {
        for reason in [ConnectFailure, RefusedStream, Broken, PerTryTimeout, Overflow] {
            let decision = state(on).on_reset(Reset { reason, request_started: true });
            assert_eq!(decision == Decision::Retry, reasons.contains(&reason), "{on} {reason:?}");
        }
    }
    for started in [false, true] {
        for (reason, expected) in [(Broken, !started), (ConnectFailure, !started), (Overflow, false)] {
            let decision = state("reset-before-request").on_reset(Reset { reason, request_started: started });
            assert_eq!(decision == Decision::Retry, expected, "{reason:?} {started}");
        }
    }
}

#[test]
fn attempts_run_out() {
    let mut state = RetryState::new(Some(&policy("5xx", 2)), &Overrides::default()).unwrap();
    let bad = Response(500, vec![]);
    assert_eq!(state.on_response(&Response(200, vec![])), Decision::NotRetriable);
    assert_eq!([state.on_response(&bad), state.on_response(&bad)], [Decision::Retry, Decision::Retry]);
    assert!(!state.can_retry());
    assert_eq!(state.on_response(&bad), Decision::LimitExceeded);
    assert_eq!(state.on_response(&Response(404, vec![])), Decision::NotRetriable);
    assert_eq!(state.retries(), 2);
}

#[test]
fn nothing_is_kept_where_nothing_is_retried() {
    let mut off = policy("5xx", 1);
    off.on = RetryOn::default();
    assert!(RetryState::new(Some(&off), &Overrides::default()).is_none());
    assert!(RetryState::new(None, &Overrides::default()).is_none());
    let zero = Overrides { max_retries: Some(0), ..Overrides::default() };
    assert!(RetryState::new(Some(&policy("5xx", 2)), &zero).is_none());
}

#[test]
fn request_headers() {
    let request = Request::get("a", "/")
        .with("x-envoy-retry-on", "5xx, nonsense ,refused-stream,")
        .with("x-envoy-retry-grpc-on", "unavailable")
        .with("x-envoy-max-retries", "1000000")
        .with("x-envoy-retriable-status-codes", "404,x,405,99999999")
        .with("x-envoy-retriable-header-names", "X-Retry-Me");
    let overrides = Overrides::from_headers(&request);
    assert_eq!(overrides.on.names().collect::<Vec<_>>(), ["5xx", "refused-stream", "unavailable"]);
    assert_eq!(overrides.max_retries, Some(MAX_RETRIES_BY_HEADER));
    assert_eq!(overrides.statuses.as_slice(), [404, 405]);
    // They are enough without a policy, and are added to one.
    let mut alone = RetryState::new(None, &overrides).unwrap();
    assert_eq!(alone.on_response(&Response(500, vec![])), Decision::Retry);
    let mut both = RetryState::new(Some(&policy("retriable-status-codes,retriable-headers", 1)), &overrides).unwrap();
    for response in [Response(418, vec![]), Response(404, vec![]), Response(500, vec![]), Response(200, vec![("x-retry-me", "")])]
    {
        assert_eq!(both.on_response(&response), Decision::Retry, "{}", response.0);
    }
    let garbage = Request::get("a", "/").with("x-envoy-max-retries", "-1").with("x-envoy-retry-on", "");
    assert_eq!(Overrides::from_headers(&garbage), Overrides::default());
    let long = "404,".repeat(1000);
    assert_eq!(
        Overrides::from_headers(&Request::get("a", "/").with("x-envoy-retriable-status-codes", &long)).statuses.len(),
        MAX_LIST
    );
}

#[test]
fn back_off_doubles_with_full_jitter() {
    let mut rng = SmallRng::seed_from_u64(7);
    let settings = RetryBackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) };
    for (n, bound) in [(1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (40, 250), (u32::MAX, 250)] {
        let pauses: Vec<_> = (0..4000).map(|_| back_off(settings, n, &mut rng)).collect();
        let bound = Duration::from_millis(bound);
        assert!(pauses.iter().all(|p| *p < bound), "{n}");
        // Uniform: the mean of 4000 is within 5 % of the half (a deviation of 5.5 sigma).
        let mean = pauses.iter().sum::<Duration>() / 4000;
        assert!(mean.abs_diff(bound / 2) < bound / 40, "{n}: {mean:?}");
    }
    assert_eq!(back_off(RetryBackOff { base: Duration::ZERO, max: Duration::ZERO }, 1, &mut rng), Duration::ZERO);
    let inverted = RetryBackOff { base: Duration::from_secs(1), max: Duration::ZERO };
    assert!(back_off(inverted, 9, &mut rng) < Duration::from_secs(1));
}

#[test]
fn previous_hosts_and_priorities() {
    let host = |n| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)), 80);
    let mut p = policy("5xx", 3);
    p.avoid_previous_priorities = Some(2);
    let mut state = RetryState::new(Some(&p), &Overrides::default()).unwrap();
    assert!(!state.avoids(host(1)));
    state.on_host(host(1), 0);
    assert!(state.avoids(host(1)) && !state.avoids(host(2)));
    assert!(state.avoided_priorities().is_empty(), "only after two tries");
    state.on_host(host(2), 0);
    assert!(state.avoided_priorities().contains(0) && !state.avoided_priorities().contains(1));
    assert_eq!(state.host_selection_attempts(), 5);

    p.avoid_previous_hosts = false;
    let mut state = RetryState::new(Some(&p), &Overrides::default()).unwrap();
    state.on_host(host(1), 70);
    assert!(!state.avoids(host(1)));
}
