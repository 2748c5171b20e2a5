//! A whole mesh's manifests: what is written arrives typed, and survives JSON.

use std::time::Duration;

use lateen_model::manifest;
use lateen_model::resource::{
    Deployment, DestinationRule, Host, MutualTlsMode, Object, PeerAuthentication, Resource, Service, Sidecar, StringMatch,
    VirtualService,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {istio-injection: enabled}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: cart-sa, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  selector: {app: cart}
  ports:
  - {name: http, port: 80, targetPort: 8080}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart-v1, namespace: shop}
spec:
  replicas: 2
  selector:
    matchLabels: {app: cart, version: v1}
  template:
    metadata:
      labels: {app: cart, version: v1}
    spec:
      serviceAccountName: cart-sa
      containers:
      - name: app
        image: any
        command: ["lateen", "echo", "--port", "8080"]
        ports:
        - {name: http, containerPort: 8080}
        readinessProbe:
          httpGet: {path: /healthz, port: 8080}
---
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  trafficPolicy:
    connectionPool:
      http: {http1MaxPendingRequests: 100, http2MaxRequests: 100}
    outlierDetection: {consecutive5xxErrors: 5, interval: 1s, baseEjectionTime: 10s, maxEjectionPercent: 50}
  subsets:
  - name: v1
    labels: {version: v1}
  - name: v2
    labels: {version: v2}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  http:
  - match:
    - headers:
        x-canary:
          exact: "true" # quoted, so a string
    route:
    - destination: {host: cart, subset: v2}
  - route:
    - destination: {host: cart, subset: v1}
      weight: 95
    - destination: {host: cart, subset: v2}
      weight: 5
    timeout: 3s
    retries:
      attempts: 3
      perTryTimeout: 1s
      retryOn: "gateway-error,connect-failure,refused-stream"
---
apiVersion: networking.istio.io/v1alpha3
kind: Sidecar
metadata: {name: cart, namespace: shop}
spec:
  workloadSelector:
    matchLabels: {app: cart}
  egress:
  - hosts:
    - "./payment.shop.svc.cluster.local"
    - "istio-system/*"
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec:
  mtls:
    mode: STRICT  # plain text is refused
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  selector:
    matchLabels: {app: cart}
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/shop/sa/front-sa"]
    to:
    - operation: {methods: ["POST"], paths: ["/v1/carts", "/v1/carts/*"]}
"#;

/// What JSON makes of a spec is read as the same spec.
fn assert_survives_json<S: Serialize + DeserializeOwned + Default + PartialEq + std::fmt::Debug>(object: &Object<S>) {
    let json = serde_json::to_value(object).expect("plain data");
    let read: Object<S> = serde_json::from_value(json).expect("what was written");
    assert_eq!(read.spec, object.spec);
    assert_eq!(read.metadata.labels, object.metadata.labels);
}

fn resources() -> Vec<Resource> {
    let documents = manifest::read(MANIFESTS, "shop.yaml");
    let accept = |document: Result<manifest::Document, manifest::Rejection>| {
        let document = document.unwrap_or_else(|rejection| panic!("{rejection}"));
        assert!(document.warnings.is_empty(), "{:?}", document.warnings);
        document.resource
    };
    documents.into_iter().map(accept).collect()
}

fn check_virtual_service(object: &VirtualService) {
    let routes = &object.spec.http;
    assert_eq!(routes[0].matches[0].headers["x-canary"], StringMatch::Exact("true".to_owned()));
    assert_eq!(routes[1].route.iter().map(|entry| entry.weight).collect::<Vec<_>>(), [95, 5]);
    assert_eq!(routes[1].timeout.map(Duration::from), Some(Duration::from_secs(3)));
    let retries = routes[1].retries.as_ref().expect("written");
    assert_eq!((retries.attempts, retries.per_try_timeout.map(Duration::from)), (3, Some(Duration::from_secs(1))));
    let host = Host::resolve(&object.spec.hosts[0], &object.metadata.namespace, "cluster.local").expect("a name");
    assert_eq!(host.as_str(), "cart.shop.svc.cluster.local");
    assert!(object.applies_to_mesh());
}

fn check_destination_rule(object: &DestinationRule) {
    let policy = object.spec.traffic_policy.as_ref().expect("written");
    let pool = policy.connection_pool.as_ref().and_then(|pool| pool.http.as_ref()).expect("written");
    assert_eq!((pool.http1_max_pending_requests, pool.http2_max_requests), (100, 100));
    let detection = policy.outlier_detection.as_ref().expect("written");
    assert_eq!((detection.consecutive_5xx_errors, detection.max_ejection_percent), (Some(5), 50));
    assert_eq!(object.spec.subsets[1].labels["version"], "v2");
}

fn check_deployment(object: &Deployment) {
    let template = &object.spec.template;
    assert_eq!(object.spec.replicas, Some(2));
    assert_eq!(template.spec.service_account_name(), "cart-sa");
    assert_eq!(template.spec.containers[0].command, ["lateen", "echo", "--port", "8080"]);
}

fn check_rest(service: &Service, sidecar: &Sidecar, authentication: &PeerAuthentication) {
    assert_eq!(service.spec.ports[0].port, 80);
    assert!(!service.spec.is_headless() && service.export_to().is_none());
    let pod = [("app".to_owned(), "cart".to_owned())].into();
    assert!(sidecar.spec.workload_selector.as_ref().is_some_and(|selector| selector.matches(&pod)));
    assert_eq!(sidecar.spec.egress[0].hosts.len(), 2);
    assert_eq!(authentication.spec.mode(), MutualTlsMode::Strict);
}

#[test]
fn what_is_written_arrives() {
    let mut found = Vec::new();
    let (mut service, mut sidecar, mut authentication) = (None, None, None);
    for resource in resources() {
        found.push(resource.key().to_string());
        match &resource {
            Resource::VirtualService(object) => check_virtual_service(object),
            Resource::DestinationRule(object) => check_destination_rule(object),
            Resource::Deployment(object) => check_deployment(object),
            Resource::Service(object) => service = Some(object.clone()),
            Resource::Sidecar(object) => sidecar = Some(object.clone()),
            Resource::PeerAuthentication(object) => authentication = Some(object.clone()),
            Resource::AuthorizationPolicy(object) => assert_eq!(object.spec.rules.len(), 1),
            _ => {}
        }
    }
    check_rest(&service.expect("read"), &sidecar.expect("read"), &authentication.expect("read"));
    assert_eq!(found.len(), 9);
    assert_eq!(found[3], "Deployment shop/cart-v1");
}

#[test]
fn resources_survive_json() {
    for resource in resources() {
        match &resource {
            Resource::Service(object) => assert_survives_json(object),
            Resource::Deployment(object) => assert_survives_json(object),
            Resource::VirtualService(object) => assert_survives_json(object),
            Resource::DestinationRule(object) => assert_survives_json(object),
            Resource::Sidecar(object) => assert_survives_json(object),
            Resource::PeerAuthentication(object) => assert_survives_json(object),
            Resource::AuthorizationPolicy(object) => assert_survives_json(object),
            Resource::Gateway(object) => assert_survives_json(object),
            Resource::ServiceEntry(object) => assert_survives_json(object),
            Resource::WorkloadEntry(object) => assert_survives_json(object),
            Resource::WorkloadGroup(object) => assert_survives_json(object),
            Resource::StatefulSet(object) => assert_survives_json(object),
            Resource::WorkloadProxyConfig(object) => assert_survives_json(object),
            Resource::LocalRateLimit(object) => assert_survives_json(object),
            Resource::Namespace(_)
            | Resource::ServiceAccount(_)
            | Resource::ConfigMap(_)
            | Resource::Secret(_)
            | Resource::Pod(_)
            | Resource::Endpoints(_)
            | Resource::EndpointSlice(_)
            | Resource::GatewayClass(_)
            | Resource::KubeGateway(_)
            | Resource::KubeHttpRoute(_)
            | Resource::KubeGrpcRoute(_)
            | Resource::KubeTcpRoute(_)
            | Resource::KubeTlsRoute(_)
            | Resource::ReferenceGrant(_)
            | Resource::BackendTlsPolicy(_) => {}
        }
    }
}
