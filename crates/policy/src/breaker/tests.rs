use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// No clock is read where no limit looks back.
fn never() -> Duration {
    panic!("the time was asked for")
}

fn limits(n: u32) -> CircuitBreakers {
    CircuitBreakers {
        max_connections: n,
        max_pending_requests: n,
        max_requests: n,
        max_retries: n,
        retry_budget: None,
        retry_quota: None,
    }
}

#[test]
fn permits_give_back() {
    let breakers = Breakers::new(limits(2));
    let first = breakers.try_acquire_connection().unwrap();
    let second = breakers.try_acquire_connection();
    assert!(second.is_some() && breakers.is_open(Resource::Connections, never));
    assert!(breakers.try_acquire_connection().is_none());
    assert_eq!(breakers.overflows(Resource::Connections), 1);
    drop(first);
    assert_eq!(breakers.active(Resource::Connections), 1);
    assert!(breakers.try_acquire_connection().is_some());
    // Resources do not share a limit.
    assert!(breakers.try_acquire_pending().is_some() && breakers.try_acquire_request(never).is_some());
}

#[test]
fn zero_refuses_and_max_counts() {
    assert!(Breakers::new(limits(0)).try_acquire_pending().is_none());
    let breakers = Breakers::new(CircuitBreakers::default());
    let permits: Vec<_> = (0..100).map(|_| breakers.try_acquire_request(never).unwrap()).collect();
    assert_eq!(breakers.active(Resource::Requests), 100);
    assert!(!breakers.is_open(Resource::Requests, never));
    drop(permits);
    assert_eq!(breakers.active(Resource::Requests), 0);
}

#[test]
fn retries_without_a_budget_use_max_retries() {
    let breakers = Breakers::new(limits(1));
    let held = breakers.try_acquire_retry(false, never);
    assert!(held.is_some() && breakers.try_acquire_retry(false, never).is_none());
    assert_eq!(breakers.overflows(Resource::Retries), 1);
}

/// `max(min_concurrency, percent of (active + pending))`; a budget makes max_retries meaningless.
#[test]
fn retry_budget() {
    let budget = RetryBudget { percent_hundredths: 2_000, min_concurrency: 3, interval: None };
    let breakers = Breakers::new(CircuitBreakers { max_retries: 0, retry_budget: Some(budget), ..CircuitBreakers::default() });
    assert_eq!(breakers.retry_limit(never), 3);
    let mut held: Vec<_> = (0..15).map(|_| breakers.try_acquire_request(never).unwrap()).collect();
    assert_eq!(breakers.retry_limit(never), 3);
    held.extend((0..10).map(|_| breakers.try_acquire_pending().unwrap()));
    assert_eq!(breakers.retry_limit(never), 5);
    let retries: Vec<_> = (0..5).map(|_| breakers.try_acquire_retry(false, never).unwrap()).collect();
    assert!(breakers.try_acquire_retry(false, never).is_none());
    drop((held, retries));
    assert_eq!(breakers.retry_limit(never), 3);
}

#[test]
fn new_limits_keep_what_is_in_flight() {
    let old = Breakers::new(limits(5));
    let held: Vec<_> = (0..4).map(|_| old.try_acquire_request(never).unwrap()).collect();
    let new = old.with_limits(limits(4));
    assert!(new.try_acquire_request(never).is_none());
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
                    let held = (
                        breakers.try_acquire_request(never),
                        breakers.try_acquire_request(never),
                        breakers.try_acquire_request(never),
                    );
                    assert!(breakers.active(Resource::Requests) <= 7);
                    drop(held);
                }
            });
        }
    });
    assert_eq!(breakers.active(Resource::Requests), 0);
}

/// Retries that are granted one after another, each held.
fn granted(breakers: &Breakers, wanted: usize, now: Duration) -> Vec<Permit> {
    std::iter::from_fn(|| breakers.try_acquire_retry(false, || now)).take(wanted).collect()
}

/// `requests` that begin at `now` and end at once.
fn requests(breakers: &Breakers, requests: usize, now: Duration) {
    (0..requests).for_each(|_| {
        breakers.begin_request(|| now);
        drop(breakers.try_acquire_request(|| now).unwrap());
    });
}

/// Envoy 1.40 retries at ten requests in flight of which one fails, not at nine, whether the failed one is over or not.
#[test]
fn the_try_that_failed_counts() {
    for (in_flight, ended, allowed) in [(8, true, false), (9, true, true), (9, false, false), (10, false, true)] {
        let budget = RetryBudget { percent_hundredths: 1_000, min_concurrency: 0, interval: None };
        let breakers = Breakers::new(CircuitBreakers { retry_budget: Some(budget), ..CircuitBreakers::default() });
        let held: Vec<_> = (0..in_flight).map(|_| breakers.try_acquire_request(never)).collect();
        assert_eq!(breakers.try_acquire_retry(ended, never).is_some(), allowed, "{in_flight} in flight");
        drop(held);
    }
}

fn with_budget(percent: u32, min_concurrency: u32, interval: Duration) -> CircuitBreakers {
    let budget = RetryBudget { percent_hundredths: percent * 100, min_concurrency, interval: Some(interval) };
    CircuitBreakers { retry_budget: Some(budget), ..CircuitBreakers::default() }
}

/// As Envoy 1.40 was seen to do: retries in flight against the tries of the interval, whether those have ended or not.
#[test]
fn a_budget_with_an_interval() {
    let breakers = Breakers::new(with_budget(10, 0, 3 * SECOND));
    let start = 100 * SECOND;
    requests(&breakers, 100, start);
    requests(&breakers, 30, start + SECOND);
    for (after, limit) in [(1.0, 13), (2.6, 13), (3.0, 3), (3.6, 3), (4.0, 0)] {
        assert_eq!(breakers.retry_limit(|| start + Duration::from_secs_f64(after)), limit, "after {after} s");
    }
    let held = granted(&breakers, 99, start + SECOND);
    assert_eq!(held.len(), 13);
    drop(held);
    assert_eq!(granted(&breakers, 99, start + SECOND).len(), 13, "a retry that has ended makes room");

    // What has been in flight for longer than the interval counts no more.
    let held: Vec<_> = (0..50).map(|_| breakers.try_acquire_request(|| start + 10 * SECOND)).collect();
    assert_eq!(breakers.retry_limit(|| start + 14 * SECOND), 0);
    drop(held);
    assert_eq!(Breakers::new(with_budget(10, 4, SECOND)).retry_limit(|| start), 4, "so many at least");
}

fn with_quota(percent: u32, min_retries: u32) -> CircuitBreakers {
    let quota = RetryQuota { percent_hundredths: percent * 100, min_retries, interval: 10 * SECOND };
    CircuitBreakers { retry_quota: Some(quota), ..CircuitBreakers::default() }
}

/// So many retries in an interval, whether they are in flight or not.
#[test]
fn a_quota_of_retries() {
    let breakers = Breakers::new(with_quota(20, 5));
    let start = 100 * SECOND;
    assert_eq!(granted(&breakers, 99, start).len(), 5, "so many at least");
    assert_eq!(breakers.overflows(Resource::Retries), 1);
    assert_eq!(breakers.active(Resource::Retries), 0, "one that is refused is not in flight");
    requests(&breakers, 50, start + SECOND);
    drop(breakers.try_acquire_request(never).unwrap());
    assert_eq!(granted(&breakers, 99, start + SECOND).len(), 5, "a fifth of 50, of which 5 are gone");
    assert_eq!(granted(&breakers, 99, start + 9 * SECOND).len(), 0);
    assert_eq!(granted(&breakers, 99, start + 10 * SECOND).len(), 5, "the first five are forgotten");
}

/// One bad endpoint of three: every third request is tried again, with success, and none is refused that.
#[test]
fn retries_with_success_are_given_back() {
    let breakers = Breakers::new(with_quota(20, 5));
    for _ in 0..100 {
        requests(&breakers, 3, SECOND);
        drop(breakers.try_acquire_retry(false, || SECOND).unwrap());
        breakers.retry_succeeded(|| SECOND);
    }
    // Now all fail: a fifth of what was asked may be tried in vain.
    assert_eq!(granted(&breakers, 99, SECOND).len(), 60);
    // What succeeded is forgotten with the retries.
    assert_eq!(granted(&breakers, 99, 11 * SECOND).len(), 5);
}

#[test]
fn a_quota_holds_instead_of_other_limits() {
    let budget = with_budget(1, 1, SECOND).retry_budget;
    for limits in
        [CircuitBreakers { max_retries: 2, ..with_quota(20, 5) }, CircuitBreakers { retry_budget: budget, ..with_quota(20, 5) }]
    {
        let breakers = Breakers::new(limits);
        assert_eq!(granted(&breakers, 99, SECOND).len(), 5);
    }
}

#[test]
fn new_limits_keep_what_happened_in_the_same_interval() {
    let old = Breakers::new(CircuitBreakers { retry_budget: with_budget(50, 0, SECOND).retry_budget, ..with_quota(20, 5) });
    requests(&old, 10, SECOND);
    assert_eq!(granted(&old, 5, SECOND).len(), 5);
    let same = old.with_limits(CircuitBreakers { retry_budget: with_budget(100, 0, SECOND).retry_budget, ..with_quota(20, 6) });
    assert_eq!(granted(&same, 9, SECOND).len(), 1);
    let budget = same.with_limits(with_budget(100, 0, SECOND));
    assert_eq!(budget.retry_limit(|| SECOND), 10);
    let other = old.with_limits(with_budget(100, 0, 2 * SECOND));
    assert_eq!(other.retry_limit(|| SECOND), 0, "what was counted for another interval says nothing");
}

#[test]
fn threads_never_exceed_a_quota() {
    let breakers = Breakers::new(with_quota(20, 7));
    requests(&breakers, 1_000, SECOND);
    let granted: usize = std::thread::scope(|scope| {
        let threads = [(); 4]
            .map(|()| scope.spawn(|| (0..1_000).filter(|_| breakers.try_acquire_retry(false, || SECOND).is_some()).count()));
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!((150..=200).contains(&granted), "{granted}");
}
