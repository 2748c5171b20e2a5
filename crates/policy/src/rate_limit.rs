//! Limits on requests (`envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`): whether there is a token.
//!
//! A bucket is one number, changed by compare and exchange: workers share it, and nobody waits. It is kept as the *theoretical
//! arrival time* of the generic cell rate algorithm (ITU-T I.371), which admits exactly what a bucket of so many tokens does that
//! fills evenly.

use crate::header_match::{HeaderMatcher, Purpose};
use crate::request::{ConnectionView, Peer, RequestView};
use lateen_model::dataplane::{RateLimitClient, RateLimitRule, RateLimits, TokenBucket};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Time is counted in parts of a nanosecond, so that no rate is rounded by more than a millionth; 2^64 of them are nine years.
const PARTS: u64 = 64;

/// A client's bucket may lie in so many places; of those, the one that is full for longest makes room.
const WAYS: usize = 4;

fn parts(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_mul(PARTS)
}

/// How fast tokens come back, and how many may be taken at once.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// The time in which one token comes back.
    emission: u64,
    /// How far ahead of time a token may be taken.
    tolerance: u64,
}

impl Rate {
    fn new(bucket: TokenBucket) -> Self {
        let emission = (parts(bucket.fill_interval) / u64::from(bucket.tokens_per_fill.max(1))).max(1);
        Self { emission, tolerance: emission.saturating_mul(u64::from(bucket.max_tokens.max(1)) - 1) }
    }
}

/// There is no token for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NoToken {
    parts: u64,
}

type Taken = Result<(), NoToken>;

/// A bucket: the time at which it will be full again. Zero is full.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    fn take(&self, rate: Rate, now: u64) -> Taken {
        let mut full = self.0.load(Ordering::Relaxed);
        loop {
            if full > now.saturating_add(rate.tolerance) {
                return Err(NoToken { parts: full - rate.tolerance - now });
            }
            let next = full.max(now).saturating_add(rate.emission);
            match self.0.compare_exchange_weak(full, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full = other,
            }
        }
    }
}

/// The bucket of one client. Two clients of one tag share it: of 2^64 tags, with a key that nobody knows.
#[derive(Debug, Default)]
struct Slot {
    /// Zero: nobody's.
    tag: AtomicU64,
    bucket: Bucket,
}

/// The buckets of clients: a table of fixed size.
#[derive(Debug)]
struct Clients {
    slots: Box<[Slot]>,
    hasher: RandomState,
}

impl Clients {
    fn new(count: u32) -> Self {
        let count = usize::try_from(count).unwrap_or(usize::MAX).next_power_of_two().max(WAYS);
        Self { slots: (0..count).map(|_| Slot::default()).collect(), hasher: RandomState::new() }
    }

    fn take(&self, client: &[u8], rate: Rate, now: u64) -> Taken {
        let tag = self.hasher.hash_one(client).max(1);
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let first = (tag.rotate_left(32) as usize % (self.slots.len() / WAYS)) * WAYS;
        let set = &self.slots[first..first + WAYS];
        self.slot(set, tag).bucket.take(rate, now)
    }

    /// The client's own, or one that is made its own, full.
    fn slot<'s>(&self, set: &'s [Slot], tag: u64) -> &'s Slot {
        let mut oldest = &set[0];
        for slot in set {
            if slot.tag.load(Ordering::Acquire) == tag {
                return slot;
            }
            let age = |slot: &Slot| (slot.tag.load(Ordering::Relaxed) != 0, slot.bucket.0.load(Ordering::Relaxed));
            if age(slot) < age(oldest) {
                oldest = slot;
            }
        }
        // Two clients that want the same place at the same moment: the later one has it, and the other begins anew at its next
        // request. A limit is never exceeded by more than one bucket for that.
        oldest.bucket.0.store(0, Ordering::Relaxed);
        oldest.tag.store(tag, Ordering::Release);
        oldest
    }
}

/// The state of a rule, which outlives the configuration that it came with.
#[derive(Debug)]
enum Buckets {
    Shared(Bucket),
    Each(Clients),
}

/// The state of all rules of a process: limits of one name and content have one, whichever listeners ask for it, and keep it when
/// the configuration changes around them.
#[derive(Debug, Default)]
pub struct Registry(Mutex<HashMap<String, Weak<Buckets>>>);

impl Registry {
    /// The state of a rule. Only configurations that are being made ask for it, no request does.
    fn buckets(&self, owner: &str, rule: &RateLimitRule, clients: u32) -> Arc<Buckets> {
        let key = format!("{owner} {clients} {rule:?}");
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        known.retain(|_, state| state.strong_count() > 0);
        let made = Arc::new(match rule.client {
            None => Buckets::Shared(Bucket::default()),
            Some(_) => Buckets::Each(Clients::new(clients)),
        });
        known.insert(key, Arc::downgrade(&made));
        made
    }
}

/// Compiled limits.
#[derive(Debug)]
pub struct Engine {
    rules: Vec<Rule>,
    retry_after: bool,
}

/// A request for which there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Seconds until there is one, for `retry-after`; at least 1.
    pub retry_after: Option<u64>,
}

#[derive(Debug)]
struct Rule {
    headers: Vec<HeaderMatcher>,
    client: Option<RateLimitClient>,
    rate: Rate,
    buckets: Arc<Buckets>,
}

impl Engine {
    /// Compiles limits, and finds their state.
    pub fn compile(model: &RateLimits, registry: &Registry) -> Self {
        let rule = |rule: &RateLimitRule| Rule {
            headers: rule.headers.iter().map(HeaderMatcher::new).collect(),
            client: rule.client.clone(),
            rate: Rate::new(rule.bucket),
            buckets: registry.buckets(&model.name, rule, model.max_clients),
        };
        Self { rules: model.rules.iter().map(rule).collect(), retry_after: model.retry_after }
    }

    /// Whether a request may pass: each rule that it matches has a token for it. Tokens that earlier rules gave are gone, as with
    /// Envoy. `now` is counted from any moment of the process, always the same.
    ///
    /// # Errors
    /// The first rule has no token.
    pub fn admit<C: ConnectionView, R: RequestView>(&self, connection: &C, request: &R, now: Duration) -> Result<(), Refusal> {
        let now = parts(now);
        let refused = |none: NoToken| Refusal {
            retry_after: self.retry_after.then(|| none.parts.div_ceil(parts(Duration::from_secs(1))).max(1)),
        };
        self.rules.iter().try_for_each(|rule| rule.take(connection, request, now)).map_err(refused)
    }
}

impl Rule {
    fn take<C: ConnectionView, R: RequestView>(&self, connection: &C, request: &R, now: u64) -> Taken {
        if !self.headers.iter().all(|header| header.matches(request, Purpose::Refuse)) {
            return Ok(());
        }
        match (&*self.buckets, &self.client) {
            (Buckets::Shared(bucket), _) => bucket.take(self.rate, now),
            (Buckets::Each(clients), Some(RateLimitClient::Identity)) => {
                let identity = match connection.peer() {
                    Peer::Verified(Some(uri)) => uri,
                    Peer::Verified(None) | Peer::Unauthenticated => "",
                };
                clients.take(identity.as_bytes(), self.rate, now)
            }
            (Buckets::Each(clients), Some(RateLimitClient::Address)) => match connection.client().to_canonical() {
                std::net::IpAddr::V4(ip) => clients.take(&ip.octets(), self.rate, now),
                std::net::IpAddr::V6(ip) => clients.take(&ip.octets(), self.rate, now),
            },
            (Buckets::Each(clients), Some(RateLimitClient::Header(name))) => {
                let mut values = request.header(name);
                match (values.next(), values.next()) {
                    (None, _) => Ok(()),
                    (Some(only), None) => clients.take(only, self.rate, now),
                    // As Envoy: all of them, in order.
                    (Some(_), Some(_)) => {
                        let all: Vec<&[u8]> = request.header(name).collect();
                        clients.take(&all.join(&b","[..]), self.rate, now)
                    }
                }
            }
            // A rule that tells clients apart has a table.
            (Buckets::Each(_), None) => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "rate_limit_tests.rs"]
mod tests;
