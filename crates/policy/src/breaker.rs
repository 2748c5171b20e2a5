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

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(n: u32) -> CircuitBreakers {
        CircuitBreakers { max_connections: n, max_pending_requests: n, max_requests: n, max_retries: n, retry_budget: None }
    }

    #[test]
    fn permits_give_back() {
        let breakers = Breakers::new(limits(2));
        let first = breakers.try_acquire_connection().unwrap();
        let second = breakers.try_acquire_connection();
        assert!(second.is_some() && breakers.is_open(Resource::Connections));
        assert!(breakers.try_acquire_connection().is_none());
        assert_eq!(breakers.overflows(Resource::Connections), 1);
        drop(first);
        assert_eq!(breakers.active(Resource::Connections), 1);
        assert!(breakers.try_acquire_connection().is_some());
        // Resources do not share a limit.
        assert!(breakers.try_acquire_pending().is_some() && breakers.try_acquire_request().is_some());
    }

    #[test]
    fn zero_refuses_and_max_counts() {
        assert!(Breakers::new(limits(0)).try_acquire_pending().is_none());
        let breakers = Breakers::new(CircuitBreakers::default());
        let permits: Vec<_> = (0..100).map(|_| breakers.try_acquire_request().unwrap()).collect();
        assert_eq!(breakers.active(Resource::Requests), 100);
        assert!(!breakers.is_open(Resource::Requests));
        drop(permits);
        assert_eq!(breakers.active(Resource::Requests), 0);
    }

    #[test]
    fn retries_without_a_budget_use_max_retries() {
        let breakers = Breakers::new(limits(1));
        let held = breakers.try_acquire_retry();
        assert!(held.is_some() && breakers.try_acquire_retry().is_none());
        assert_eq!(breakers.overflows(Resource::Retries), 1);
    }

    /// `max(min_concurrency, percent of (active + pending))`; a budget makes max_retries meaningless.
    #[test]
    fn retry_budget() {
        let budget = RetryBudget { percent_hundredths: 2_000, min_concurrency: 3 };
        let breakers =
            Breakers::new(CircuitBreakers { max_retries: 0, retry_budget: Some(budget), ..CircuitBreakers::default() });
        assert_eq!(breakers.retry_limit(), 3);
        let mut held: Vec<_> = (0..15).map(|_| breakers.try_acquire_request().unwrap()).collect();
        assert_eq!(breakers.retry_limit(), 3);
        held.extend((0..10).map(|_| breakers.try_acquire_pending().unwrap()));
        assert_eq!(breakers.retry_limit(), 5);
        let retries: Vec<_> = (0..5).map(|_| breakers.try_acquire_retry().unwrap()).collect();
        assert!(breakers.try_acquire_retry().is_none());
        drop((held, retries));
        assert_eq!(breakers.retry_limit(), 3);
    }

    #[test]
    fn new_limits_keep_what_is_in_flight() {
        let old = Breakers::new(limits(5));
        let held: Vec<_> = (0..4).map(|_| old.try_acquire_request().unwrap()).collect();
        let new = old.with_limits(limits(4));
        assert!(new.try_acquire_request().is_none());
        drop(old);
        drop(held);
        assert_eq!(new.active(Resource::Requests), 0);
    }

    #[test]
    fn threads_never_exceed_a_limit() {
        let breakers = Breakers::new(limits(7));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let held =
                            (breakers.try_acquire_request(), breakers.try_acquire_request(), breakers.try_acquire_request());
                        assert!(breakers.active(Resource::Requests) <= 7);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(breakers.active(Resource::Requests), 0);
    }
}
