//! One name: what it stands for, and when it is asked for again.

use super::resolver::{Answer, Resolver};
use lateen_model::dataplane::{DnsBackoff, DnsDiscovery};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// One name of a cluster.
pub(super) struct Target {
    host: String,
    addresses: Vec<IpAddr>,
    due: Instant,
    failures: u32,
    changed: bool,
}

impl Target {
    /// A name that is asked for at `due`. An address stands for itself and is never asked for.
    pub(super) fn new(host: &str, due: Instant) -> Self {
        Self { host: host.to_owned(), addresses: Vec::new(), due, failures: 0, changed: false }
    }

    /// When it is to be asked for.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// What it stands for: the last good answer.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Whether it has come to stand for something else since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Asks for it.
    pub(super) async fn resolve(&mut self, resolver: &Resolver, dns: &DnsDiscovery) {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            self.answered(&Answer { addresses: vec![ip], life: None }, dns, rand::random());
            // Nothing will ever change.
            self.due = Instant::now() + Duration::from_secs(365 * 86_400);
            return;
        }
        match resolver.lookup(&self.host, dns.family).await {
            Ok(answer) => self.answered(&answer, dns, rand::random()),
            Err(error) => {
                tracing::warn!(host = self.host, %error, "a name cannot be resolved; its last good addresses stay");
                self.failed(dns, rand::random());
            }
        }
    }

    fn answered(&mut self, answer: &Answer, dns: &DnsDiscovery, chance: f64) {
        self.failures = 0;
        // The order of an answer turns from one to the next; it says nothing.
        let mut sorted = (self.addresses.clone(), answer.addresses.clone());
        sorted.0.sort_unstable();
        sorted.1.sort_unstable();
        let is_logical = dns.kind == lateen_model::dataplane::DnsKind::Logical;
        if sorted.0 != sorted.1 || is_logical && self.addresses.first() != answer.addresses.first() {
            tracing::debug!(host = self.host, addresses = ?answer.addresses, "resolved");
            self.addresses.clone_from(&answer.addresses);
            self.changed = true;
        }
        // A life of zero would be a question for each moment: Envoy's rule takes the cluster's wait then.
        let life = answer.life.filter(|life| dns.respect_ttl && !life.is_zero() && !answer.addresses.is_empty());
        self.due = Instant::now() + life.unwrap_or(dns.refresh) + dns.jitter.mul_f64(chance);
    }

    fn failed(&mut self, dns: &DnsDiscovery, chance: f64) {
        let wait = match dns.failure {
            None => dns.refresh,
            Some(backoff) => bound(backoff, self.failures).mul_f64(chance).max(Duration::from_millis(1)),
        };
        self.failures = self.failures.saturating_add(1);
        self.due = Instant::now() + wait + dns.jitter.mul_f64(chance);
    }
}

/// The longest wait after so many failures before this one.
fn bound(backoff: DnsBackoff, failures: u32) -> Duration {
    backoff.base.saturating_mul(1_u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX)).min(backoff.max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_model::dataplane::{DnsFamily, DnsKind};

    fn dns(failure: Option<DnsBackoff>) -> DnsDiscovery {
        DnsDiscovery {
            kind: DnsKind::Strict,
            localities: Vec::new(),
            family: DnsFamily::V4Only,
            refresh: Duration::from_secs(60),
            respect_ttl: true,
            failure,
            jitter: Duration::from_secs(2),
        }
    }

    fn answer(ips: &[[u8; 4]], life: Option<u64>) -> Answer {
        Answer { addresses: ips.iter().map(|ip| (*ip).into()).collect(), life: life.map(Duration::from_secs) }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_follow_the_answer_s_life_and_failures() {
        let start = Instant::now();
        let mut target = Target::new("a.example", start);
        let wait = |t: &Target| (t.due() - start).as_millis();
        target.answered(&answer(&[[10, 0, 0, 1]], Some(7)), &dns(None), 0.5);
        assert!(target.take_changed());
        assert_eq!(wait(&target), 8000, "the answer's life and half of the jitter");
        target.answered(&answer(&[[10, 0, 0, 1]], Some(0)), &dns(None), 0.0);
        assert!(!target.take_changed());
        assert_eq!(wait(&target), 60_000);
        target.failed(&dns(None), 0.0);
        assert_eq!((wait(&target), target.addresses().len()), (60_000, 1), "the last good address stays");
        let backoff = Some(DnsBackoff { base: Duration::from_secs(1), max: Duration::from_secs(5) });
        target.failures = 0;
        let waits: Vec<u128> = (0..5)
            .map(|_| {
                target.failed(&DnsDiscovery { jitter: Duration::ZERO, ..dns(backoff) }, 1.0);
                wait(&target)
            })
            .collect();
        assert_eq!(waits, [1000, 2000, 4000, 5000, 5000]);
        target.answered(&answer(&[], Some(30)), &dns(None), 0.0);
        assert!(target.take_changed() && target.addresses().is_empty(), "no address is an answer");
        assert_eq!(wait(&target), 60_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_order_of_an_answer_matters_only_to_logical_names() {
        let mut target = Target::new("a.example", Instant::now());
        let strict = dns(None);
        target.answered(&answer(&[[10, 0, 0, 1], [10, 0, 0, 2]], None), &strict, 0.0);
        assert!(target.take_changed());
        let turned = answer(&[[10, 0, 0, 2], [10, 0, 0, 1]], None);
        target.answered(&turned, &strict, 0.0);
        assert!(!target.take_changed());
        target.answered(&turned, &DnsDiscovery { kind: DnsKind::Logical, ..strict }, 0.0);
        assert!(target.take_changed());
    }
}
