use super::*;
use proptest::prelude::*;

fn config() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 3,
        consecutive_gateway_failure: 0,
        consecutive_local_origin_failure: 0,
        split_local_origin: false,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(100),
        max_ejection_percent: 100,
        error_statuses: Vec::new(),
    }
}

const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn fail(detector: &Detector, host: &HostHealth, n: u32, now: Duration) -> Option<Ejection> {
    (0..n).filter_map(|_| detector.on_result(host, Outcome::Status(500), now)).last()
}

#[test]
fn consecutive_5xx() {
    let (detector, host) = (Detector::new(config(), 4), HostHealth::default());
    assert_eq!(fail(&detector, &host, 2, s(0)), None);
    assert_eq!(detector.on_result(&host, Outcome::Status(404), s(0)), None);
    assert_eq!(fail(&detector, &host, 2, s(0)), None, "a good answer starts again");
    let epoch = detector.epoch();
    assert_eq!(fail(&detector, &host, 1, s(0)), Some(Ejection { cause: Cause::Consecutive5xx, duration: s(30) }));
    assert!(host.is_ejected() && detector.epoch() != epoch);
    assert_eq!(detector.counts(), Counts { active: 1, enforced: 1, overflow: 0 });
    // Requests that were in flight still fail: nothing more happens.
    assert_eq!(fail(&detector, &host, 10, s(1)), None);
    assert_eq!(detector.counts().enforced, 1);
}

#[test]
fn gateway_failures_are_counted_apart() {
    let detector = Detector::new(OutlierDetection { consecutive_5xx: 0, consecutive_gateway_failure: 2, ..config() }, 4);
    let host = HostHealth::default();
    for status in [503, 500, 502, 501, 504] {
        assert_eq!(detector.on_result(&host, Outcome::Status(status), s(0)), None, "{status}");
    }
    let cause = detector.on_result(&host, Outcome::Status(503), s(0)).map(|e| e.cause);
    assert_eq!(cause, Some(Cause::ConsecutiveGatewayFailure));
    // Both limits at once: one ejection, by the gateway rule.
    let detector = Detector::new(OutlierDetection { consecutive_5xx: 1, consecutive_gateway_failure: 1, ..config() }, 4);
    let cause = detector.on_result(&HostHealth::default(), Outcome::Status(503), s(0)).map(|e| e.cause);
    assert_eq!(cause, Some(Cause::ConsecutiveGatewayFailure));
}

/// As Envoy 1.40 does.
#[test]
fn statuses_that_are_failures() {
    let (five, gateway) = (Some(Cause::Consecutive5xx), Some(Cause::ConsecutiveGatewayFailure));
    let (status, grpc) = (Outcome::Status, Outcome::Grpc);
    for (failures, limits, outcome, cause) in [
        (vec![429], (1, 0), status(429), five),
        (vec![429], (1, 1), status(429), five),
        (vec![429], (1, 1), status(503), None),
        (vec![429], (1, 1), status(200), None),
        (vec![429, 503], (1, 1), status(503), gateway),
        (vec![429, 503], (0, 1), status(429), None),
        (vec![500], (1, 1), status(500), five),
        (vec![200], (1, 1), status(200), five),
        (vec![200], (1, 1), grpc(200), None),
        (vec![429], (1, 0), grpc(503), five),
        (vec![], (1, 1), grpc(503), gateway),
        (vec![], (1, 1), grpc(501), five),
    ] {
        let (consecutive_5xx, consecutive_gateway_failure) = limits;
        let config =
            OutlierDetection { consecutive_5xx, consecutive_gateway_failure, error_statuses: failures.clone(), ..config() };
        let found = Detector::new(config, 4).on_result(&HostHealth::default(), outcome, s(0)).map(|e| e.cause);
        assert_eq!(found, cause, "{failures:?} {limits:?} {outcome:?}");
    }
    let config = OutlierDetection { consecutive_5xx: 2, error_statuses: vec![429], ..config() };
    let (detector, host) = (Detector::new(config, 4), HostHealth::default());
    for code in [429, 503, 429] {
        assert_eq!(detector.on_result(&host, status(code), s(0)), None, "another status is a success");
    }
}

#[test]
fn local_failures_count_as_statuses_unless_split() {
    for (kind, gateway) in [(LocalOrigin::ConnectFailed, true), (LocalOrigin::Timeout, true), (LocalOrigin::Reset, true)] {
        let limits = OutlierDetection { consecutive_5xx: 0, consecutive_gateway_failure: 1, ..config() };
        let ejected = Detector::new(limits, 1).on_result(&HostHealth::default(), Outcome::LocalOrigin(kind), s(0));
        assert_eq!(ejected.is_some(), gateway, "{kind:?}");
    }
    let split =
        OutlierDetection { consecutive_5xx: 1, consecutive_local_origin_failure: 2, split_local_origin: true, ..config() };
    let (detector, host) = (Detector::new(split, 1), HostHealth::default());
    let local = Outcome::LocalOrigin(LocalOrigin::Reset);
    assert_eq!(detector.on_result(&host, local, s(0)), None);
    assert_eq!(detector.on_result(&host, Outcome::Status(200), s(0)), None);
    assert_eq!(detector.on_result(&host, local, s(0)), None, "an answer resets the local counter");
    assert_eq!(detector.on_result(&host, Outcome::Success, s(0)), None);
    assert_eq!(detector.on_result(&host, local, s(0)), None, "so does a connection");
    assert_eq!(detector.on_result(&host, local, s(0)).map(|e| e.cause), Some(Cause::ConsecutiveLocalOriginFailure));
}

#[test]
fn zero_is_off() {
    let detector = Detector::new(OutlierDetection { consecutive_5xx: 0, ..config() }, 4);
    let host = HostHealth::default();
    for status in [500, 503].repeat(50) {
        assert_eq!(detector.on_result(&host, Outcome::Status(status), s(0)), None);
    }
    assert_eq!(detector.on_result(&host, Outcome::LocalOrigin(LocalOrigin::ConnectFailed), s(0)), None);
}

/// 30 s, 60 s, 90 s, then the maximum; each healthy interval takes one step back.
#[test]
fn ejection_times() {
    let (detector, host) = (Detector::new(config(), 1), HostHealth::default());
    let mut now = s(1000);
    for expected in [30, 60, 90, 100, 100, 100] {
        assert_eq!(fail(&detector, &host, 3, now).map(|e| e.duration), Some(s(expected)));
        assert_eq!(detector.sweep(now + s(expected) - Duration::from_millis(1), [&host].into_iter()), 0);
        assert!(host.is_ejected());
        now += s(expected);
        assert_eq!(detector.sweep(now, [&host].into_iter()), 1);
        assert!(!host.is_ejected());
        assert_eq!(detector.counts().active, 0);
    }
    // 5 (150 s are above the maximum by more than a base) is the highest multiplier; after four healthy intervals it is 1.
    for _ in 0..4 {
        now += s(10);
        detector.sweep(now, [&host].into_iter());
    }
    assert_eq!(fail(&detector, &host, 3, now).map(|e| e.duration), Some(s(60)));
    assert_eq!(host.ejections(), 7);
}

#[test]
fn a_host_that_comes_back_starts_afresh() {
    let (detector, host) =
        (Detector::new(OutlierDetection { consecutive_gateway_failure: 4, ..config() }, 1), HostHealth::default());
    for _ in 0..3 {
        detector.on_result(&host, Outcome::Status(503), s(0));
    }
    assert!(host.is_ejected(), "by the third 5xx, when the fourth gateway failure is one away");
    detector.sweep(s(30), [&host].into_iter());
    assert_eq!(detector.on_result(&host, Outcome::Status(503), s(31)), None);
}

#[test]
fn maximum_share() {
    for (hosts, percent, expected) in [
        (10, 10, 1),
        (10, 19, 1),
        (10, 20, 2),
        (10, 50, 5),
        (3, 50, 1),
        (3, 67, 2),
        (3, 10, 1),
        (3, 0, 1),
        (3, 100, 3),
        (1, 10, 1),
    ] {
        let detector = Detector::new(OutlierDetection { max_ejection_percent: percent, consecutive_5xx: 1, ..config() }, hosts);
        let all: Vec<HostHealth> = (0..hosts).map(|_| HostHealth::default()).collect();
        for host in &all {
            fail(&detector, host, 1, s(0));
        }
        let ejected = all.iter().filter(|h| h.is_ejected()).count();
        assert_eq!(ejected, expected, "{hosts} hosts, {percent} %");
        assert_eq!(detector.counts().overflow, u64::from(hosts) - expected as u64);
    }
}

#[test]
fn a_host_that_left_does_not_count() {
    let detector = Detector::new(OutlierDetection { max_ejection_percent: 50, consecutive_5xx: 1, ..config() }, 2);
    let (gone, other) = (HostHealth::default(), HostHealth::default());
    assert!(fail(&detector, &gone, 1, s(0)).is_some());
    assert!(fail(&detector, &other, 1, s(0)).is_none());
    detector.forget(&gone);
    detector.set_host_count(1);
    assert!(fail(&detector, &other, 1, s(0)).is_some());
    assert!(fail(&detector, &gone, 5, s(0)).is_none());
    assert_eq!(detector.counts().active, 1);
}

/// Several workers report at once: the bound holds at every moment and no ejection is lost or counted twice.
#[test]
fn threads_never_exceed_the_share() {
    let detector = Detector::new(OutlierDetection { max_ejection_percent: 30, consecutive_5xx: 1, ..config() }, 10);
    let hosts: Vec<HostHealth> = (0..10).map(|_| HostHealth::default()).collect();
    std::thread::scope(|scope| {
        for worker in 0..4usize {
            let (detector, hosts) = (&detector, &hosts);
            scope.spawn(move || {
                for i in 0..4000usize {
                    let now = s(i as u64);
                    detector.on_result(&hosts[(i * 7 + worker) % 10], Outcome::Status(503), now);
                    assert!(detector.counts().active <= 3);
                    if worker == 0 && i % 16 == 0 {
                        detector.sweep(now + s(1000), hosts.iter());
                    }
                }
            });
        }
    });
    let ejected = hosts.iter().filter(|h| h.is_ejected()).count();
    assert_eq!(detector.counts().active as usize, ejected);
    let enforced: u64 = hosts.iter().map(HostHealth::ejections).sum();
    assert_eq!(detector.counts().enforced, enforced);
    detector.sweep(s(100_000), hosts.iter());
    assert_eq!(detector.counts().active, 0);
}

proptest! {
    #[test]
    fn the_share_is_never_exceeded(
        hosts in 1u32..30,
        percent in 0u8..=100,
        events in prop::collection::vec((0usize..30, prop::sample::select(vec![200u16, 404, 500, 503]), 0u64..40), 1..300),
    ) {
        let detector = Detector::new(OutlierDetection { max_ejection_percent: percent, consecutive_5xx: 2, ..config() }, hosts);
        let all: Vec<HostHealth> = (0..hosts).map(|_| HostHealth::default()).collect();
        let mut now = s(0);
        for (host, status, seconds) in events {
            now += s(seconds);
            detector.on_result(&all[host % all.len()], Outcome::Status(status), now);
            if seconds > 20 {
                detector.sweep(now, all.iter());
            }
            let ejected = u32::try_from(all.iter().filter(|h| h.is_ejected()).count()).unwrap();
            prop_assert_eq!(ejected, detector.counts().active);
            prop_assert!(ejected <= 1 || ejected * 100 <= hosts * u32::from(percent), "{ejected} of {hosts}, {percent} %");
        }
        now += s(1000);
        detector.sweep(now, all.iter());
        prop_assert_eq!(detector.counts().active, 0);
    }
}
