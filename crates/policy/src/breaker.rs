//! Circuit breakers (`CircuitBreakers` of a cluster): how many connections, waiting requests, requests and retries may exist at
//! once. The counters are shared by all workers; each unit is held by a permit that gives it back when it is dropped.
//!
//! Two limits look back: a budget of retries with an interval, and a quota of retries. Time is a [`Duration`] since an instant of
//! the caller's choice that never changes; it is asked for only where one of them is set.

mod window;

use lateen_model::dataplane::{CircuitBreakers, RetryBudget, RetryQuota};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use window::Window;

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
    /// Tries in the budget's interval.
    budget: Option<Arc<Window>>,
    /// Requests and retries in the quota's interval.
    quota: Option<Arc<Quota>>,
}

/// What a quota of retries counts.
#[derive(Debug)]
struct Quota {
    requests: Window,
    retries: Window,
    /// Retries that were worth it.
    successes: Window,
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
        let [budget, quota] = intervals(&limits);
        Self {
            limits,
            counters: Arc::new(counters),
            budget: budget.map(|interval| Arc::new(Window::new(interval))),
            quota: quota.map(|interval| Arc::new(Quota::new(interval))),
        }
    }

    /// New limits for the same counters: what is in flight stays counted when a cluster is updated, and what happened in an
    /// interval that does not change.
    #[must_use]
    pub fn with_limits(&self, limits: CircuitBreakers) -> Self {
        let mut new = Self::new(limits);
        new.counters = Arc::clone(&self.counters);
        let [budget, quota] = intervals(&new.limits);
        if let Some(kept) = self.budget.as_ref().filter(|window| Some(window.interval()) == budget) {
            new.budget = Some(Arc::clone(kept));
        }
        if let Some(kept) = self.quota.as_ref().filter(|kept| Some(kept.requests.interval()) == quota) {
            new.quota = Some(Arc::clone(kept));
        }
        new
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

    /// A request in flight, each try of it at `now`.
    pub fn try_acquire_request(&self, now: impl Fn() -> Duration) -> Option<Permit> {
        let permit = self.acquire(Resource::Requests, self.limits.max_requests)?;
        if let Some(tries) = &self.budget {
            tries.add(now());
        }
        Some(permit)
    }

    /// A request begins that may be tried several times.
    pub fn begin_request(&self, now: impl Fn() -> Duration) {
        if let Some(quota) = &self.quota {
            quota.requests.add(now());
        }
    }

    /// A retry had an answer that is not to be tried again: the quota gets it back, which bounds retries that fail, as those of a
    /// storm do, and not those that one bad endpoint among good ones makes necessary.
    pub fn retry_succeeded(&self, now: impl Fn() -> Duration) {
        if let Some(quota) = &self.quota {
            quota.successes.add(now());
        }
    }

    /// A retry in flight: by the quota if there is one, else by the budget, else by `max_retries`. The try that failed counts among
    /// the requests in flight, as in Envoy: `ended` if it has given its permit back already.
    pub fn try_acquire_retry(&self, ended: bool, now: impl Fn() -> Duration) -> Option<Permit> {
        let permit = self.acquire(Resource::Retries, self.retry_limit_with(ended.into(), &now))?;
        let (Some(quota), Some(limit)) = (&self.quota, self.limits.retry_quota) else { return Some(permit) };
        if quota.take(limit, now()) {
            return Some(permit);
        }
        self.counters.retries.overflows.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// How many retries may be in flight at `now`: any number with a quota; with a budget a share of the requests that are active or
    /// wait, or of those of the budget's interval, but at least the budget's minimum.
    pub fn retry_limit(&self, now: impl Fn() -> Duration) -> u32 {
        self.retry_limit_with(0, now)
    }

    fn retry_limit_with(&self, ended: u64, now: impl Fn() -> Duration) -> u32 {
        if self.quota.is_some() {
            return u32::MAX;
        }
        let Some(RetryBudget { percent_hundredths, min_concurrency, .. }) = self.limits.retry_budget else {
            return self.limits.max_retries;
        };
        let requests = match &self.budget {
            Some(tries) => u64::from(tries.count(now())),
            None => u64::from(self.active(Resource::Requests)) + u64::from(self.active(Resource::Pending)) + ended,
        };
        share(requests, percent_hundredths).max(min_concurrency)
    }

    /// Units that are taken.
    pub fn active(&self, resource: Resource) -> u32 {
        self.counters.of(resource).active.load(Ordering::Relaxed)
    }

    /// How often a unit was refused.
    pub fn overflows(&self, resource: Resource) -> u64 {
        self.counters.of(resource).overflows.load(Ordering::Relaxed)
    }

    /// Whether the next unit would be refused (Envoy's gauges `cx_open`, `rq_pending_open`, `rq_open`, `rq_retry_open`); a quota
    /// is not looked at.
    pub fn is_open(&self, resource: Resource, now: impl Fn() -> Duration) -> bool {
        let limit = match resource {
            Resource::Connections => self.limits.max_connections,
            Resource::Pending => self.limits.max_pending_requests,
            Resource::Requests => self.limits.max_requests,
            Resource::Retries => self.retry_limit(now),
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

impl Quota {
    fn new(interval: Duration) -> Self {
        Self { requests: Window::new(interval), retries: Window::new(interval), successes: Window::new(interval) }
    }

    /// Takes one retry, unless it would be one too many; never one too many, however many workers ask at once.
    fn take(&self, limit: RetryQuota, now: Duration) -> bool {
        self.retries.add(now);
        let retries = self.retries.count(now).saturating_sub(self.successes.count(now));
        let requests = self.requests.count(now).into();
        let taken = retries <= share(requests, limit.percent_hundredths).max(limit.min_retries);
        if !taken {
            self.retries.undo(now);
        }
        taken
    }
}

/// The intervals of the budget and of the quota.
fn intervals(limits: &CircuitBreakers) -> [Option<Duration>; 2] {
    [limits.retry_budget.and_then(|budget| budget.interval), limits.retry_quota.map(|quota| quota.interval)]
}

/// So many hundredths of a percent, rounded down as Envoy does.
fn share(of: u64, percent_hundredths: u32) -> u32 {
    u32::try_from(of * u64::from(percent_hundredths) / 10_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "breaker/tests.rs"]
mod tests;
