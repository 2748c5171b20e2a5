//! Outlier detection: a host that fails several times in a row is not used for a while (`OutlierDetection`).
//!
//! All state is atomic and shared by the workers. Time is a [`Duration`] since an instant of the caller's choice that never
//! changes. The detector does not hold the hosts; [`Detector::sweep`] is called with them every
//! [`Detector::interval`].
//!
//! **How many may be ejected.** One host always may; another only if the share of ejected hosts, *with it*, is at most
//! `max_ejection_percent`. (That is Envoy with `always_eject_one_host`, which a control plane must set to get the same
//! from an Envoy newer than 1.30.) The bound holds at every moment, however many workers report at once.

use lateen_model::dataplane::OutlierDetection;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// What a host did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with this HTTP status.
    Status(u16),
    /// It answered with a gRPC status that means this HTTP status. Which HTTP statuses are failures does not matter then.
    Grpc(u16),
    /// It answered something that has no status: a TCP connection was established.
    Success,
    /// It did not answer, seen from here.
    LocalOrigin(LocalOrigin),
}

/// How a host did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalOrigin {
    /// No connection; counts as 503.
    ConnectFailed,
    /// No answer in time; counts as 504.
    Timeout,
    /// The stream or connection was reset; counts as 503.
    Reset,
}

/// Which rule ejected a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// `consecutive_5xx`.
    Consecutive5xx,
    /// `consecutive_gateway_failure`.
    ConsecutiveGatewayFailure,
    /// `consecutive_local_origin_failure`.
    ConsecutiveLocalOriginFailure,
}

/// A host was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Why.
    pub cause: Cause,
    /// For how long, at least: the host comes back at the first sweep after it.
    pub duration: Duration,
}

/// What is known of one host; shared by all workers. A new host is healthy.
#[derive(Debug, Default)]
pub struct HostHealth {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    ejected: AtomicBool,
    /// It left the cluster and is not ejected any more.
    gone: AtomicBool,
    /// What `base_ejection_time` is multiplied by; falls by one in each interval in which the host is not ejected.
    multiplier: AtomicU32,
    /// When it was ejected last, in milliseconds.
    ejected_at: AtomicU64,
    /// How often it was ejected.
    ejections: AtomicU64,
}

impl HostHealth {
    /// Whether it must not be used.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Acquire)
    }

    /// How often it was ejected.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    fn reset_counters(&self) {
        for counter in [&self.consecutive_5xx, &self.consecutive_gateway, &self.consecutive_local] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// Counters for telemetry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Hosts that are ejected now.
    pub active: u32,
    /// Ejections, ever.
    pub enforced: u64,
    /// Ejections that the maximum percentage forbade.
    pub overflow: u64,
}

/// Decides for one cluster.
#[derive(Debug)]
pub struct Detector {
    config: OutlierDetection,
    hosts: AtomicU32,
    active: AtomicU32,
    enforced: AtomicU64,
    overflow: AtomicU64,
    epoch: AtomicU64,
}

impl Detector {
    /// A detector for a cluster of `hosts` hosts.
    pub fn new(config: OutlierDetection, hosts: u32) -> Self {
        Self {
            config,
            hosts: AtomicU32::new(hosts),
            active: AtomicU32::new(0),
            enforced: AtomicU64::new(0),
            overflow: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
        }
    }

    /// Between two sweeps.
    pub fn interval(&self) -> Duration {
        self.config.interval
    }

    /// Changes whenever some host is ejected or comes back: then lists of usable hosts must be made anew
    /// ([`crate::balance::Picker::pick`]).
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Counters for telemetry.
    pub fn counts(&self) -> Counts {
        Counts {
            active: self.active.load(Ordering::Relaxed),
            enforced: self.enforced.load(Ordering::Relaxed),
            overflow: self.overflow.load(Ordering::Relaxed),
        }
    }

    /// The cluster has this many hosts now.
    pub fn set_host_count(&self, hosts: u32) {
        self.hosts.store(hosts, Ordering::Release);
    }

    /// A host has left the cluster: it no longer counts as ejected, and never will again.
    pub fn forget(&self, host: &HostHealth) {
        host.gone.store(true, Ordering::SeqCst);
        self.release(host);
    }

    /// Records what a host did at `now`; the ejection, if that was one failure too many.
    pub fn on_result(&self, host: &HostHealth, outcome: Outcome, now: Duration) -> Option<Ejection> {
        let cause = match (outcome, self.config.split_local_origin) {
            (Outcome::Status(status), split) => self.answered(host, self.judged(status), split),
            (Outcome::Grpc(status), split) => self.answered(host, status, split),
            (Outcome::Success, true) => {
                host.consecutive_local.store(0, Ordering::Relaxed);
                None
            }
            (Outcome::Success, false) => self.count_status(host, 200),
            (Outcome::LocalOrigin(_), true) => {
                let cause = Cause::ConsecutiveLocalOriginFailure;
                reached(&host.consecutive_local, self.config.consecutive_local_origin_failure).then_some(cause)
            }
            (Outcome::LocalOrigin(LocalOrigin::Timeout), false) => self.count_status(host, 504),
            (Outcome::LocalOrigin(LocalOrigin::ConnectFailed | LocalOrigin::Reset), false) => self.count_status(host, 503),
        }?;
        self.eject(host, cause, now)
    }

    /// What a status counts as where it is said which ones are failures.
    fn judged(&self, status: u16) -> u16 {
        match self.config.error_statuses.as_slice() {
            [] => status,
            failures if !failures.contains(&status) => 200,
            _ => status.max(500),
        }
    }

    fn answered(&self, host: &HostHealth, status: u16, split: bool) -> Option<Cause> {
        if split {
            host.consecutive_local.store(0, Ordering::Relaxed);
        }
        self.count_status(host, status)
    }

    /// Counts a status; the rule whose limit was reached, gateway failures first as in Envoy.
    fn count_status(&self, host: &HostHealth, status: u16) -> Option<Cause> {
        if !(500..600).contains(&status) {
            // Most responses are good: look before writing, so that workers do not fight for the cache line.
            for counter in [&host.consecutive_5xx, &host.consecutive_gateway] {
                if counter.load(Ordering::Relaxed) != 0 {
                    counter.store(0, Ordering::Relaxed);
                }
            }
            return None;
        }
        let gateway = if matches!(status, 502..=504) {
            reached(&host.consecutive_gateway, self.config.consecutive_gateway_failure)
        } else {
            host.consecutive_gateway.store(0, Ordering::Relaxed);
            false
        };
        let server = reached(&host.consecutive_5xx, self.config.consecutive_5xx);
        match (gateway, server) {
            (true, _) => Some(Cause::ConsecutiveGatewayFailure),
            (false, true) => Some(Cause::Consecutive5xx),
            (false, false) => None,
        }
    }

    fn eject(&self, host: &HostHealth, cause: Cause, now: Duration) -> Option<Ejection> {
        if host.is_ejected() {
            return None;
        }
        let (hosts, max) = (self.hosts.load(Ordering::Acquire), self.config.max_ejection_percent);
        // The place is taken before the host is marked, so that the bound holds for every observer.
        let more = |active: u32| may_eject(active, hosts, max).then_some(active + 1);
        if self.active.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_err() {
            self.overflow.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        // Written before the mark, which publishes it to a sweep.
        host.ejected_at.store(millis(now), Ordering::Relaxed);
        if host.ejected.swap(true, Ordering::SeqCst) {
            self.active.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        if host.gone.load(Ordering::SeqCst) {
            self.release(host);
            return None;
        }
        let multiplier = self.raise_multiplier(host);
        host.ejections.fetch_add(1, Ordering::Relaxed);
        self.enforced.fetch_add(1, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        Some(Ejection { cause, duration: self.ejection_time(multiplier) })
    }

    /// One more, unless the time is at its maximum already, so that the multiplier does not grow where it would only take long to
    /// fall again.
    fn raise_multiplier(&self, host: &HostHealth) -> u32 {
        let multiplier = host.multiplier.load(Ordering::Relaxed);
        let (base, max) = (self.config.base_ejection_time, self.max_ejection_time());
        if base.saturating_mul(multiplier) < max.saturating_add(base) {
            host.multiplier.store(multiplier + 1, Ordering::Relaxed);
            multiplier + 1
        } else {
            multiplier
        }
    }

    fn max_ejection_time(&self) -> Duration {
        self.config.max_ejection_time.max(self.config.base_ejection_time)
    }

    fn ejection_time(&self, multiplier: u32) -> Duration {
        self.config.base_ejection_time.saturating_mul(multiplier.max(1)).min(self.max_ejection_time())
    }

    /// Takes the mark off; whether it was there.
    fn release(&self, host: &HostHealth) -> bool {
        let was_ejected = host.ejected.swap(false, Ordering::SeqCst);
        if was_ejected {
            self.active.fetch_sub(1, Ordering::SeqCst);
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        was_ejected
    }

    /// To be called every [`Self::interval`], by one worker: brings hosts back whose time is over, with fresh counters, and lets
    /// the multiplier of healthy hosts fall by one. Returns how many came back.
    pub fn sweep<'a>(&self, now: Duration, hosts: impl Iterator<Item = &'a HostHealth>) -> u32 {
        let mut back = 0;
        for host in hosts {
            if !host.is_ejected() {
                let less = |m: u32| m.checked_sub(1);
                // An error means that it is zero already.
                let _ = host.multiplier.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                continue;
            }
            let since = millis(now).saturating_sub(host.ejected_at.load(Ordering::Relaxed));
            if since >= millis(self.ejection_time(host.multiplier.load(Ordering::Relaxed))) {
                host.reset_counters();
                back += u32::from(self.release(host));
            }
        }
        back
    }
}

/// Counts one more; whether that is exactly the limit (0 is off). Beyond it nothing happens until the counter is reset, and a
/// limit that was reached starts again.
fn reached(counter: &AtomicU32, limit: u32) -> bool {
    if limit == 0 {
        return false;
    }
    let hit = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1) >= limit;
    if hit {
        counter.store(0, Ordering::Relaxed);
    }
    hit
}

/// Whether one more of `hosts` may be ejected beside `active`.
fn may_eject(active: u32, hosts: u32, max_percent: u8) -> bool {
    active == 0 || (u64::from(active) + 1) * 100 <= u64::from(hosts) * u64::from(max_percent.min(100))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;
