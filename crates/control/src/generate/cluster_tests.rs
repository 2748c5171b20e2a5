//! What a DestinationRule makes of a cluster.

use super::fixture::{pod, proxy, world};
use super::proxy::{Proxy, ProxyRole};
use super::{MergedRule, Scope, cluster};
use lateen_model::dataplane::{CircuitBreakers, Cluster, Discovery, LbPolicy, RetryBudget, TransportSocket};

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
    let budget = |percent: u32, min_concurrency| Some(RetryBudget { percent_hundredths: percent * 100, min_concurrency });
    for (policy, retry_budget, max_retries) in [
        ("{loadBalancer: {simple: RANDOM}}", budget(20, 16), u32::MAX),
        ("{connectionPool: {http: {http1MaxPendingRequests: 1}}}", budget(20, 16), u32::MAX),
        ("{connectionPool: {http: {maxRetries: 7}}}", None, 7),
        ("{retryBudget: {percent: 50}}", budget(50, 3), u32::MAX),
        ("{retryBudget: {minRetryConcurrency: 9}, connectionPool: {http: {maxRetries: 7}}}", budget(20, 9), 7),
    ] {
        let found = circuit_breakers(policy);
        assert_eq!((found.retry_budget, found.max_retries), (retry_budget, max_retries), "{policy}");
    }
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
