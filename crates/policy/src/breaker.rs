//! Circuit breakers (`CircuitBreakers` of a cluster): how many connections, waiting requests, requests and retries may exist at
//! once. The counters are shared by all workers; each unit is held by a permit that gives it back when it is dropped.

use lateen_model::dataplane::{CircuitBreakers, RetryBudget};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Connections (`max_connections`).
    Connections,
    /// Requests that wait for a connection (`max_pending_requests`).
    Pending,
    /// Requests in flight (`max_requests`).
    Requests,
    /// Retries in flight (`max_retries`, or the budget).
    Retries,
}

#[derive(Debug)]
struct Counter {
    active: AtomicU32,
    /// Times that a unit was refused.
    overflows: AtomicU64,
}

impl Counter {
    fn new() -> Self {
        Self { active: AtomicU32::new(0), overflows: AtomicU64::new(0) }
    }

    /// Takes a unit unless `limit` are taken; never exceeds the limit, however many workers ask at once.
    fn try_take(&self, limit: u32) -> bool {
        let more = |active: u32| (active < limit).then_some(active + 1);
        let taken = self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !taken {
            self.overflows.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }
}

/// The circuit breakers of one cluster.
#[derive(Debug)]
pub struct Breakers {
    limits: CircuitBreakers,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Counters {
    connections: Counter,
    pending: Counter,
    requests: Counter,
    retries: Counter,
}

impl Counters {
    fn of(&self, resource: Resource) -> &Counter {
        match resource {
            Resource::Connections => &self.connections,
            Resource::Pending => &self.pending,
            Resource::Requests => &self.requests,
            Resource::Retries => &self.retries,
        }
    }
}

/// One unit of a resource, given back when dropped. It keeps the counters alive, not the limits: a cluster may be reconfigured
/// while units are out.
#[derive(Debug)]
#[must_use = "a permit that is dropped gives its unit back"]
pub struct Permit {
    counters: Arc<Counters>,
    resource: Resource,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counters.of(self.resource).active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Breakers {
    /// Breakers that nothing is taken from.
    pub fn new(limits: CircuitBreakers) -> Self {
        let counters =
            Counters { connections: Counter::new(), pending: Counter::new(), requests: Counter::new(), retries: Counter::new() };
        Self { limits, counters: Arc::new(counters) }
    }

    /// New limits for the same counters: what is in flight stays counted when a cluster is updated.
    #[must_use]
    pub fn with_limits(&self, limits: CircuitBreakers) -> Self {
        Self { limits, counters: Arc::clone(&self.counters) }
    }

    /// A connection, or `None` at the limit (Envoy refuses the request with flag `UO` only if it cannot wait either; a cluster
    /// without any connection is always allowed one).
    pub fn try_acquire_connection(&self) -> Option<Permit> {
        self.acquire(Resource::Connections, self.limits.max_connections)
    }

    /// A place among those that wait for a connection.
    pub fn try_acquire_pending(&self) -> Option<Permit> {
        self.acquire(Resource::Pending, self.limits.max_pending_requests)
    }

    /// A request in flight.
    pub fn try_acquire_request(&self) -> Option<Permit> {
        self.acquire(Resource::Requests, self.limits.max_requests)
    }

    /// A retry in flight: by the budget if there is one, else by `max_retries`.
    pub fn try_acquire_retry(&self) -> Option<Permit> {
        self.acquire(Resource::Retries, self.retry_limit())
    }

    /// How many retries may be in flight now: a share of the requests that are active or wait, but at least the budget's minimum.
    pub fn retry_limit(&self) -> u32 {
        let Some(RetryBudget { percent_hundredths, min_concurrency }) = self.limits.retry_budget else {
            return self.limits.max_retries;
        };
        let in_flight = u64::from(self.active(Resource::Requests)) + u64::from(self.active(Resource::Pending));
        let share = in_flight * u64::from(percent_hundredths) / 10_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(min_concurrency)
    }

    /// Units that are taken.
    pub fn active(&self, resource: Resource) -> u32 {
        self.counters.of(resource).active.load(Ordering::Relaxed)
    }

    /// How often a unit was refused.
    pub fn overflows(&self, resource: Resource) -> u64 {
        self.counters.of(resource).overflows.load(Ordering::Relaxed)
    }

    /// Whether the next unit would be refused (Envoy's gauges `cx_open`, `rq_pending_open`, `rq_open`, `rq_retry_open`).
    pub fn is_open(&self, resource: Resource) -> bool {
        let limit = match resource {
            Resource::Connections => self.limits.max_connections,
            Resource::Pending => self.limits.max_pending_requests,
            Resource::Requests => self.limits.max_requests,
            Resource::Retries => self.retry_limit(),
        };
        self.active(resource) >= limit
    }

    /// The limits.
    pub fn limits(&self) -> &CircuitBreakers {
        &self.limits
    }

    fn acquire(&self, resource: Resource, limit: u32) -> Option<Permit> {
        self.counters.of(resource).try_take(limit).then(|| Permit { counters: Arc::clone(&self.counters), resource })
    }
}
