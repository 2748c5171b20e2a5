//! Whether a failed try is tried again, when, and on which host (`RetryPolicy`; conditions as in Istio's `retryOn`).
//!
//! One [`RetryState`] belongs to one request. It decides by conditions and attempts; whether the cluster has room for another
//! retry is the circuit breaker's question ([`crate::breaker::Breakers::try_acquire_retry`]), asked after this one.

use crate::RequestView;
use lateen_model::dataplane::{RetryBackOff, RetryOn, RetryPolicy};
use rand::Rng;
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::time::Duration;

/// The most retries that a request's own header can ask for.
pub const MAX_RETRIES_BY_HEADER: u32 = 100;

/// The most entries that are read of a list in a request's header.
const MAX_LIST: usize = 32;

/// A response's head.
pub trait ResponseView {
    /// The status.
    fn status(&self) -> u16;

    /// The first value of a header of this lower-case name.
    fn header(&self, name: &str) -> Option<&[u8]>;

    /// `grpc-status`, where the head carries it (a response of trailers only).
    fn grpc_status(&self) -> Option<u32> {
        std::str::from_utf8(self.header("grpc-status")?).ok()?.parse().ok()
    }
}

/// Why a try ended without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// No connection, TLS included, or not in time.
    ConnectFailure,
    /// HTTP/2 REFUSED_STREAM, or a GOAWAY that did not include the stream.
    RefusedStream,
    /// The upstream reset the stream, closed the connection or broke the protocol.
    Reset,
    /// The try's own time was over.
    PerTryTimeout,
    /// A circuit breaker refused it; never tried again.
    Overflow,
}

/// A try that ended without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Why.
    pub reason: ResetReason,
    /// Whether the request's head had been sent upstream.
    pub request_started: bool,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again, after [`RetryState::back_off`]; an attempt has been taken.
    Retry,
    /// No condition holds: the outcome goes to the client.
    NotRetriable,
    /// A condition holds, but all attempts are used up (response flag `URX`).
    LimitExceeded,
}

/// What a request's headers ask for: those that its route has set, for clients may not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `x-envoy-retry-on` and `x-envoy-retry-grpc-on`, added to the policy's.
    pub on: RetryOn,
    /// `x-envoy-max-retries`, instead of the policy's number.
    pub max_retries: Option<u32>,
    /// `x-envoy-retriable-status-codes`, added to the policy's.
    pub statuses: SmallVec<[u16; 4]>,
    /// `x-envoy-retriable-header-names`: response headers whose presence is a failure.
    pub headers: SmallVec<[String; 1]>,
}

impl Overrides {
    /// Reads the headers; what cannot be understood is left out.
    pub fn from_headers<R: RequestView>(request: &R) -> Self {
        let mut overrides = Self::default();
        for name in ["x-envoy-retry-on", "x-envoy-retry-grpc-on"] {
            for condition in list(request, name).filter_map(RetryOn::from_name) {
                overrides.on = overrides.on.union(condition);
            }
        }
        overrides.max_retries = request
            .header_text("x-envoy-max-retries")
            .and_then(|v| v.trim().parse::<u32>().ok())
            .map(|n| n.min(MAX_RETRIES_BY_HEADER));
        overrides.statuses = list(request, "x-envoy-retriable-status-codes").filter_map(|s| s.parse().ok()).collect();
        overrides.headers = list(request, "x-envoy-retriable-header-names").map(str::to_ascii_lowercase).collect();
        overrides
    }
}

fn list<'a, R: RequestView>(request: &'a R, name: &str) -> impl Iterator<Item = &'a str> {
    let items = request.header_text(name).unwrap_or_default().split(',');
    items.take(MAX_LIST).map(str::trim).filter(|item| !item.is_empty())
}

/// The retries of one request.
#[derive(Clone, Debug)]
pub struct RetryState {
    on: RetryOn,
    remaining: u32,
    statuses: SmallVec<[u16; 4]>,
    headers: SmallVec<[String; 1]>,
    back_off: RetryBackOff,
    /// Retries that were granted.
    retries: u32,
    avoid_hosts: bool,
    selection_attempts: u32,
    tried: SmallVec<[SocketAddr; 4]>,
    priorities: PreviousPriorities,
}

/// Which priorities are avoided (`previous_priorities`).
#[derive(Clone, Copy, Debug, Default)]
struct PreviousPriorities {
    /// After this many tries the priorities tried so far are avoided; 0 is never.
    update_frequency: u32,
    tries: u32,
    seen: PrioritySet,
    avoided: PrioritySet,
}

/// A set of priorities; those above 63 are not remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrioritySet(u64);

impl PrioritySet {
    /// No priority.
    pub const EMPTY: Self = Self(0);

    /// Adds a priority.
    pub fn insert(&mut self, priority: u32) {
        self.0 |= 1u64.checked_shl(priority).unwrap_or(0);
    }

    /// Whether it is in the set.
    pub fn contains(self, priority: u32) -> bool {
        self.0 & 1u64.checked_shl(priority).unwrap_or(0) != 0
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl RetryState {
    /// The state of a request that begins; `None` if nothing can ever be tried again, so that nothing needs to be kept for it.
    pub fn new(policy: Option<&RetryPolicy>, overrides: &Overrides) -> Option<Self> {
        let on = policy.map_or(RetryOn::default(), |p| p.on).union(overrides.on);
        let remaining = overrides.max_retries.unwrap_or_else(|| policy.map_or(1, |p| p.num_retries));
        if on.is_empty() || remaining == 0 {
            return None;
        }
        let mut statuses: SmallVec<[u16; 4]> = policy.map(|p| p.retriable_statuses.as_slice()).unwrap_or_default().into();
        statuses.extend(overrides.statuses.iter().copied());
        let update_frequency = policy.and_then(|p| p.avoid_previous_priorities).unwrap_or(0);
        Some(Self {
            on,
            remaining,
            statuses,
            headers: overrides.headers.clone(),
            back_off: policy.map(|p| p.back_off).unwrap_or_default(),
            retries: 0,
            avoid_hosts: policy.is_some_and(|p| p.avoid_previous_hosts),
            selection_attempts: policy.map_or(1, |p| p.host_selection_attempts),
            tried: SmallVec::new(),
            priorities: PreviousPriorities { update_frequency, ..PreviousPriorities::default() },
        })
    }

    /// Whether any attempt is left: if not, a request's body need not be kept.
    pub fn can_retry(&self) -> bool {
        self.remaining > 0
    }

    /// Retries that were granted so far.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// Decides about a response head. A response is only ever retried before any of it was sent on.
    pub fn on_response<R: ResponseView>(&mut self, response: &R) -> Decision {
        self.decide(self.is_retriable_response(response))
    }

    /// Decides about a try without a response.
    pub fn on_reset(&mut self, reset: Reset) -> Decision {
        self.decide(self.is_retriable_reset(reset))
    }

    fn decide(&mut self, retriable: bool) -> Decision {
        if !retriable {
            return Decision::NotRetriable;
        }
        if self.remaining == 0 {
            return Decision::LimitExceeded;
        }
        self.remaining -= 1;
        self.retries += 1;
        Decision::Retry
    }

    fn is_retriable_response<R: ResponseView>(&self, response: &R) -> bool {
        let (on, status) = (self.on, response.status());
        let retriable = (on.intersects(RetryOn::SERVER_ERROR) && (500..600).contains(&status))
            || (on.intersects(RetryOn::GATEWAY_ERROR) && matches!(status, 502..=504))
            || (on.intersects(RetryOn::RETRIABLE_4XX) && status == 409)
            || (on.intersects(RetryOn::RETRIABLE_STATUS_CODES) && self.statuses.contains(&status))
            || (on.intersects(RetryOn::RETRIABLE_HEADERS) && self.headers.iter().any(|h| response.header(h).is_some()))
            || (on.intersects(GRPC) && response.grpc_status().is_some_and(|code| on.intersects(grpc_condition(code))));
        // Another Envoy ran into its rate limit: retrying would work against it, unless it was asked for.
        let unless_limited = on.intersects(RetryOn::ENVOY_RATE_LIMITED);
        if retriable != unless_limited && response.header("x-envoy-ratelimited").is_some() { unless_limited } else { retriable }
    }

    fn is_retriable_reset(&self, reset: Reset) -> bool {
        let on = self.on;
        // A reset would become a 503 or 504 for the client, so it counts as `5xx` and as `gateway-error`.
        let any = RetryOn::SERVER_ERROR.union(RetryOn::GATEWAY_ERROR).union(RetryOn::RESET);
        match reset.reason {
            ResetReason::Overflow => false,
            _ if on.intersects(any) => true,
            _ if on.intersects(RetryOn::RESET_BEFORE_REQUEST) && !reset.request_started => true,
            ResetReason::ConnectFailure => on.intersects(RetryOn::CONNECT_FAILURE),
            ResetReason::RefusedStream => on.intersects(RetryOn::REFUSED_STREAM),
            ResetReason::Reset | ResetReason::PerTryTimeout => false,
        }
    }

    /// The pause before the retry that was granted last: a random time below `base * 2^(retries - 1)`, at most `max` (full
    /// jitter).
    pub fn back_off<G: Rng + ?Sized>(&self, rng: &mut G) -> Duration {
        back_off(self.back_off, self.retries, rng)
    }

    /// Records the host of a try.
    pub fn on_host(&mut self, address: SocketAddr, priority: u32) {
        if self.avoid_hosts {
            self.tried.push(address);
        }
        let p = &mut self.priorities;
        if p.update_frequency > 0 {
            p.tries += 1;
            p.seen.insert(priority);
            if p.tries.is_multiple_of(p.update_frequency) {
                p.avoided = p.seen;
            }
        }
    }

    /// Whether another host should be picked instead of this one (`previous_hosts`).
    pub fn avoids(&self, address: SocketAddr) -> bool {
        self.tried.contains(&address)
    }

    /// Priorities that the next try should avoid (`previous_priorities`).
    pub fn avoided_priorities(&self) -> PrioritySet {
        self.priorities.avoided
    }

    /// How often another host is picked because one was avoided (`host_selection_retry_max_attempts`).
    pub fn host_selection_attempts(&self) -> u32 {
        self.selection_attempts
    }
}

/// The pause before the `n`-th retry (1 is the first).
pub fn back_off<G: Rng + ?Sized>(settings: RetryBackOff, n: u32, rng: &mut G) -> Duration {
    let doublings = 1u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX);
    let bound = settings.base.saturating_mul(doublings).min(settings.max.max(settings.base));
    let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 { Duration::ZERO } else { Duration::from_nanos(rng.random_range(0..nanos)) }
}

const GRPC: RetryOn = RetryOn::GRPC_CANCELLED
    .union(RetryOn::GRPC_DEADLINE_EXCEEDED)
    .union(RetryOn::GRPC_INTERNAL)
    .union(RetryOn::GRPC_RESOURCE_EXHAUSTED)
    .union(RetryOn::GRPC_UNAVAILABLE);

fn grpc_condition(code: u32) -> RetryOn {
    match code {
        1 => RetryOn::GRPC_CANCELLED,
        4 => RetryOn::GRPC_DEADLINE_EXCEEDED,
        8 => RetryOn::GRPC_RESOURCE_EXHAUSTED,
        13 => RetryOn::GRPC_INTERNAL,
        14 => RetryOn::GRPC_UNAVAILABLE,
        _ => RetryOn::default(),
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
