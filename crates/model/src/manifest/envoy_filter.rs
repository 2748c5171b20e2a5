//! EnvoyFilter is refused: it changes the configuration of Envoy, which is nobody's promise. For each patch it is said what does the
//! same.

use super::de::Located;
use super::tree::{Node, Value};
use crate::resource::{FieldIssue, FieldPath, Segment, shorten};

/// The API group and kind.
pub(super) fn is_one(node: &Node) -> bool {
    let text = |field: &str| node.get(field).and_then(Node::as_str).unwrap_or_default();
    text("kind") == "EnvoyFilter" && text("apiVersion").starts_with("networking.istio.io/")
}

/// One problem for the object, and one for each of its patches.
pub(super) fn problems(node: &Node) -> Vec<Located> {
    let whole = "EnvoyFilter is not supported, and will not be: it patches Envoy's own configuration, which no version promises to \
                 keep. What to use instead is said for each patch";
    let mut found = vec![(FieldPath::root().key("kind"), whole.to_owned())];
    let patches = node.get("spec").and_then(|spec| spec.get("configPatches"));
    if let Some(Value::Sequence(patches)) = patches.map(|patches| &patches.value) {
        for (index, patch) in patches.iter().enumerate() {
            let mut path = FieldPath::root().key("spec").key("configPatches");
            path.push(Segment::Index(index));
            found.push((path, instead(patch)));
        }
    }
    found.into_iter().map(|(path, text)| (node.locate(&path), FieldIssue { path, text })).collect()
}

/// What does the same as a patch, by what it puts in, or else by where.
fn instead(patch: &Node) -> String {
    let apply_to = patch.get("applyTo").and_then(Node::as_str).unwrap_or_default();
    let mut words = Vec::new();
    collect(patch, &mut words, 0);
    let has = |part: &str| words.iter().any(|word| word.contains(part));
    let by_content = BY_CONTENT.iter().find(|(parts, _)| parts.iter().any(|part| has(part))).map(|(_, text)| *text);
    let by_place = BY_PLACE.iter().find(|(place, _)| *place == apply_to).map(|(_, text)| *text);
    match by_content.or(by_place) {
        Some(text) => format!("use instead: {text}"),
        None => format!("nothing does the same as a patch of {:?}", shorten(apply_to)),
    }
}

/// By names and types of what is patched in.
const BY_CONTENT: &[(&[&str], &str)] = &[
    (
        &["local_ratelimit", "LocalRateLimit"],
        "LocalRateLimit of policy.lateen.dev/v1alpha1, which limits requests of a pod, of a route and of each client",
    ),
    (
        &["http.ratelimit", "filters.ratelimit", "rate_limits", "RateLimitPerRoute"],
        "LocalRateLimit of policy.lateen.dev/v1alpha1: each pod keeps limits by itself, a service that all ask is not supported",
    ),
    (&["ext_authz"], "AuthorizationPolicy; asking an outside service (action CUSTOM) is not supported"),
    (&["jwt_authn"], "RequestAuthentication says which tokens are good, AuthorizationPolicy what they allow"),
    (&["http.rbac", "network.rbac"], "AuthorizationPolicy"),
    (&["http.cors", "cors.v3"], "VirtualService, spec.http.corsPolicy"),
    (&["http.fault", "HTTPFault"], "VirtualService, spec.http.fault"),
    (
        &["lua", "wasm", "golang", "dynamic_modules"],
        "VirtualService, spec.http.headers, rewrite, redirect and directResponse: proxies run no programs of others",
    ),
    (
        &["istio.stats", "stats_filter", "telemetry", "access_log", "AccessLog"],
        "the mesh configuration's accessLogFile, accessLogFormat and accessLogEncoding; metrics have Istio's names by themselves",
    ),
    (&["tracing", "tracer", "opentelemetry", "zipkin"], "the mesh configuration's tracing and extensionProviders"),
    (
        &["xff_num_trusted_hops", "use_remote_address", "forward_client_cert"],
        "gatewayTopology of the mesh configuration's defaultConfig, or of a pod's annotation proxy.istio.io/config",
    ),
    (&["server_header", "server_name", "generate_request_id"], "proxyHeaders of the mesh configuration's defaultConfig"),
    (&["retry_policy", "retry_on", "num_retries"], "VirtualService, spec.http.retries"),
    (&["hash_policy"], "DestinationRule, spec.trafficPolicy.loadBalancer.consistentHash"),
    (&["circuit_breakers", "outlier_detection"], "DestinationRule, spec.trafficPolicy.connectionPool and outlierDetection"),
    (
        &["tcp_keepalive", "idle_timeout", "max_connection_duration", "max_requests_per_connection"],
        "DestinationRule, spec.trafficPolicy.connectionPool; for the server's side Sidecar, spec.inboundConnectionPool",
    ),
    (&["tls_params", "DownstreamTlsContext"], "Gateway, spec.servers.tls"),
    (&["UpstreamTlsContext"], "DestinationRule, spec.trafficPolicy.tls"),
];

/// By the part of the configuration that is patched.
const BY_PLACE: &[(&str, &str)] = &[
    ("CLUSTER", "DestinationRule, spec.trafficPolicy, or a ServiceEntry for a service that is not known"),
    ("HTTP_ROUTE", "VirtualService, spec.http"),
    ("VIRTUAL_HOST", "VirtualService, spec.hosts and spec.http"),
    ("ROUTE_CONFIGURATION", "VirtualService"),
    ("HTTP_FILTER", "VirtualService, AuthorizationPolicy or LocalRateLimit: proxies have the filters that these need"),
    ("NETWORK_FILTER", "VirtualService (spec.http, spec.tcp, spec.tls), AuthorizationPolicy, or the mesh configuration"),
    ("FILTER_CHAIN", "Gateway, spec.servers; PeerAuthentication for a sidecar's side of TLS"),
    ("LISTENER", "Gateway, spec.servers; for sidecars Sidecar, spec.ingress and spec.egress"),
    ("LISTENER_FILTER", "a Service's port name or appProtocol, which says what is spoken"),
    ("BOOTSTRAP", "ProxyConfig, or the mesh configuration's defaultConfig"),
];

/// All keys and texts below a node, as far as they are looked at.
fn collect<'a>(node: &'a Node, words: &mut Vec<&'a str>, depth: usize) {
    // Deeper than any patch that anybody writes.
    if depth > 40 {
        return;
    }
    match &node.value {
        Value::Mapping(entries) => entries.iter().for_each(|entry| {
            words.push(entry.key.as_str());
            collect(&entry.value, words, depth + 1);
        }),
        Value::Sequence(items) => items.iter().for_each(|item| collect(item, words, depth + 1)),
        _ => words.extend(node.as_str()),
    }
}
