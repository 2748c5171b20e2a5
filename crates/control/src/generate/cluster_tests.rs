//! What a DestinationRule makes of a cluster.

use super::fixture::{pod, proxy, world};
use super::proxy::{Proxy, ProxyRole};
use super::{MergedRule, Scope, cluster};
use lateen_model::dataplane::{CircuitBreakers, Cluster, Discovery, LbPolicy, RetryBudget, RetryQuota, TransportSocket};
use lateen_policy::breaker::Breakers;
use std::time::Duration;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: a}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
";

/// The limits of the cluster of `web` with this policy.
fn circuit_breakers(policy: &str) -> CircuitBreakers {
    cluster_of(policy, ProxyRole::Sidecar).circuit_breakers
}

/// The cluster of `web` with this policy, as this kind of proxy has it.
fn cluster_of(policy: &str, role: ProxyRole) -> Cluster {
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r, namespace: a}}\n\
         spec: {{host: web, trafficPolicy: {policy}}}\n"
    );
    let world = world(&format!("{SERVICE}{rule}"), &[pod("a", "one-0", [10, 0, 0, 1], &[("app", "one")])]);
    let proxy = Proxy { role, ..proxy(&world, "a", "one-0") };
    let scope = Scope::new(&world, &proxy);
    let scoped = scope.service("web.a.svc.cluster.local").unwrap();
    let rule = MergedRule::lookup_for(&world, &proxy, &scoped.service);
    cluster::of_service(&world, &proxy, scoped, &rule).remove(0)
}

#[test]
fn retries_are_bounded_unless_the_user_says_how() {
    let budget = |percent: u32, min_concurrency, seconds: Option<u64>| {
        Some(RetryBudget { percent_hundredths: percent * 100, min_concurrency, interval: seconds.map(Duration::from_secs) })
    };
    let quota = Some(RetryQuota { percent_hundredths: 2_000, min_retries: 100, interval: Duration::from_secs(10) });
    for (policy, retry_budget, retry_quota, max_retries) in [
        ("{loadBalancer: {simple: RANDOM}}", budget(20, 16, None), quota, u32::MAX),
        ("{connectionPool: {http: {http1MaxPendingRequests: 1}}}", budget(20, 16, None), quota, u32::MAX),
        ("{connectionPool: {http: {maxRetries: 7}}}", None, None, 7),
        ("{retryBudget: {percent: 50}}", budget(50, 3, None), None, u32::MAX),
        ("{retryBudget: {budgetInterval: 4s}}", budget(20, 3, Some(4)), None, u32::MAX),
        ("{retryBudget: {budgetInterval: 0s}}", budget(20, 3, None), None, u32::MAX),
        ("{retryBudget: {minRetryConcurrency: 9}, connectionPool: {http: {maxRetries: 7}}}", budget(20, 9, None), None, 7),
    ] {
        let found = circuit_breakers(policy);
        let found = (found.retry_budget, found.retry_quota, found.max_retries);
        assert_eq!(found, (retry_budget, retry_quota, max_retries), "{policy}");
    }
}

/// What the default is for: few requests that fail together are all tried again, a failing backend is not flooded.
#[test]
fn the_default_bounds_a_storm_and_no_burst() {
    let breakers = || Breakers::new(circuit_breakers("{loadBalancer: {simple: RANDOM}}"));
    let second = Duration::from_secs(1);
    let request = |breakers: &Breakers, now| {
        breakers.begin_request(|| now);
        breakers.try_acquire_request(|| now).unwrap()
    };
    for burst in [1, 3, 30, 64] {
        let breakers = breakers();
        let held: Vec<_> = (0..burst).map(|_| request(&breakers, second)).collect();
        drop(held);
        let retries: Vec<_> = (0..burst).map(|_| breakers.try_acquire_retry(true, || 2 * second)).collect();
        assert!(retries.iter().all(Option::is_some), "a burst of {burst} on a cluster that nobody used before");
    }
    // Each of 96 clients sends one request after another, every one of which fails after 50 ms and is tried again five times.
    let breakers = breakers();
    let (mut requests, mut retries, mut now) = (0_u32, 0_u32, second);
    let mut left = [0_u32; 96];
    while now < 61 * second {
        for left in &mut left {
            let retry = *left > 0 && breakers.try_acquire_retry(true, || now).is_some();
            *left = if retry { *left - 1 } else { 5 };
            *(if retry { &mut retries } else { &mut requests }) += 1;
            drop(if retry { breakers.try_acquire_request(|| now).unwrap() } else { request(&breakers, now) });
        }
        now += Duration::from_millis(50);
    }
    let share = f64::from(retries) / f64::from(requests);
    assert!((0.19..=0.2).contains(&share), "{retries} retries of {requests} requests");
}

#[test]
fn passthrough_goes_where_the_client_wanted_but_not_from_a_gateway() {
    let written = |tls: &str| cluster_of(&format!("{{loadBalancer: {{simple: PASSTHROUGH}}{tls}}}"), ProxyRole::Sidecar);
    let original = Discovery::OriginalDst { port_override: None };
    let automatic = written("");
    assert_eq!((&automatic.discovery, automatic.lb_policy), (&original, LbPolicy::ClusterProvided));
    assert!(matches!(automatic.transport, TransportSocket::Tls(_)), "{:?}", automatic.transport);
    let disabled = written(", tls: {mode: DISABLE}");
    assert_eq!((&disabled.discovery, disabled.transport), (&original, TransportSocket::Plaintext));
    // Shares of places have nothing to share.
    let shares = "{loadBalancer: {simple: PASSTHROUGH, localityLbSetting: {distribute: [{from: '*', to: {eu: 100}}]}}}";
    assert_eq!(cluster_of(shares, ProxyRole::Sidecar).weighted_localities, None);
    let gateway = cluster_of("{loadBalancer: {simple: PASSTHROUGH}}", ProxyRole::Router);
    assert!(matches!(gateway.discovery, Discovery::Eds { .. }), "{:?}", gateway.discovery);
    assert_eq!(gateway.lb_policy, LbPolicy::LeastRequest);
    assert!(matches!(gateway.transport, TransportSocket::ByEndpoint(_)), "{:?}", gateway.transport);
}

/// `inboundTrafficPolicy: LOCALHOST`; a Sidecar that says where the application is comes first.
#[test]
fn the_application_may_be_on_loopback() {
    let mesh = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'inboundTrafficPolicy: {mode: LOCALHOST}'}\n---\n";
    for (mesh, expected) in [("", None), (mesh, Some("127.0.0.1:80"))] {
        let world = world(&format!("{mesh}{SERVICE}"), &[pod("a", "one-0", [10, 0, 0, 1], &[("app", "web")])]);
        let clusters = cluster::inbound(&world, &proxy(&world, "a", "one-0"));
        let cluster = clusters.iter().find(|c| c.name == "inbound|80||").unwrap();
        let address = match &cluster.discovery {
            Discovery::Static(known) => Some(known.localities[0].endpoints[0].address.to_string()),
            _ => None,
        };
        assert_eq!(address.as_deref(), expected);
    }
}
