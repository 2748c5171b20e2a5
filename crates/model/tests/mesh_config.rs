//! The mesh's configuration: defaults, strictness, what is refused.

use std::time::Duration;

use lateen_model::mesh_config::{AccessLogEncoding, MeshConfig, ProviderKind};
use lateen_model::resource::OutboundTrafficMode;

fn message(text: &str) -> String {
    match MeshConfig::parse(text, "mesh") {
        Ok(parsed) => panic!("{text}\n{parsed:?}"),
        Err(rejection) => rejection.to_string(),
    }
}

fn good(text: &str) -> MeshConfig {
    MeshConfig::parse(text, "mesh").unwrap_or_else(|rejection| panic!("{rejection}")).config
}

#[test]
fn what_is_absent_has_istios_default() {
    for text in ["", "# nothing\n", "{}"] {
        assert_eq!(good(text), MeshConfig::default(), "{text:?}");
    }
    let config = good("accessLogFile: /dev/stdout\ndefaultConfig:\n  concurrency: 4\n");
    assert_eq!(config.trust_domain, "cluster.local");
    assert_eq!(config.root_namespace, "istio-system");
    assert_eq!(config.connect_timeout.get(), Duration::from_secs(10));
    assert_eq!(config.outbound_traffic_policy.mode, OutboundTrafficMode::AllowAny);
    assert_eq!(config.access_log_encoding, AccessLogEncoding::Text);
    assert_eq!(config.default_config.concurrency, Some(4));
    assert_eq!(config.default_config.drain_duration.get(), Duration::from_secs(45));
    assert_eq!(config.default_config.tracing.sampling, 1.0);
    assert!(config.enable_auto_mtls);
    assert_eq!(good("outboundTrafficPolicy: {}").outbound_traffic_policy.mode, OutboundTrafficMode::RegistryOnly);
}

#[test]
fn a_configuration_in_use_is_read() {
    let config = good(
        "
trustDomain: example.org
trustDomainAliases: [old.example.org]
enableTracing: true
accessLogEncoding: JSON
protocolDetectionTimeout: 5s
tcpKeepalive: {time: 60s, interval: 10s, probes: 3}
defaultHttpRetryPolicy: {attempts: 0}
meshMTLS: {minProtocolVersion: TLSV1_3}
pathNormalization: {normalization: MERGE_SLASHES}
defaultConfig:
  tracing: {sampling: 100}
  holdApplicationUntilProxyStarts: true
  terminationDrainDuration: 10s
  proxyHeaders: {server: {disabled: true}, requestId: {disabled: true}, metadataExchangeHeaders: {mode: IN_MESH}}
extensionProviders:
- name: spans
  opentelemetry: {service: otel.observability.svc.cluster.local, port: 4318, http: {path: /v1/traces, timeout: 5s}}
- name: log
  envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {path: '%REQ(:PATH)%'}}}
defaultProviders: {tracing: [spans], metrics: [prometheus], accessLogging: [log, envoy]}
",
    );
    assert_eq!(config.trust_domain().as_str(), "example.org");
    assert!(matches!(config.extension_providers[0].kind(), Some(ProviderKind::OpenTelemetry(otel)) if otel.port == 4318));
    assert!(matches!(config.extension_providers[1].kind(), Some(ProviderKind::FileAccessLog(log)) if log.path == "/dev/stdout"));
}

#[test]
fn wrong_and_unsupported_settings_are_refused() {
    for (text, expected) in [
        ("trustdomain: a", "mesh:1:1: trustdomain: unknown field; did you mean \"trustDomain\"?"),
        ("trustDomain: UPPER", "mesh:1:1: trustDomain: \"UPPER\" is not a trust domain"),
        ("connectTimeout: 0s", "mesh:1:1: connectTimeout: is 0s, must be at least 1ms"),
        ("rootNamespace: A", "mesh:1:1: rootNamespace: \"A\" must be a DNS label"),
        ("defaultConfig: {tracing: {sampling: 101}}", "mesh:1:27: defaultConfig.tracing.sampling: is 101, must be 0 to 100"),
        (
            "defaultHttpRetryPolicy: {attempts: 1, retryOn: x}",
            "mesh:1:39: defaultHttpRetryPolicy.retryOn: \"x\" is not a condition",
        ),
        ("defaultProviders: {tracing: [a]}", "mesh:1:30: defaultProviders.tracing[0]: there is no provider \"a\""),
        (
            "extensionProviders: [{name: a, prometheus: {}}]\ndefaultProviders: {tracing: [a]}",
            "mesh:2:30: defaultProviders.tracing[0]: \"a\" is not of the kind opentelemetry",
        ),
        ("extensionProviders: [{name: a}]", "mesh:1:22: extensionProviders[0]: must be of exactly one kind"),
        ("extensionProviders: [{name: a, zipkin: {service: b}}]", "mesh:1:32: extensionProviders[0].zipkin: is not supported"),
        (
            "extensionProviders: [{name: a, prometheus: {}}, {name: a, prometheus: {}}]",
            "mesh:1:50: extensionProviders[1].name: the provider",
        ),
        ("discoverySelectors: [{matchLabels: {a b: c}}]", "discoverySelectors[0].matchLabels"),
        ("proxyListenPort: 1", "mesh:1:1: proxyListenPort: is not supported"),
        ("meshMTLS: {cipherSuites: [ROT13]}", "meshMTLS.cipherSuites[0]: \"ROT13\" is no cipher suite"),
        ("outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}", "mesh:1:25: outboundTrafficPolicy.mode: is not supported"),
        ("a: [", "not YAML"),
        ("- a", "is a list, must be a mapping"),
    ] {
        let found = message(text);
        assert!(found.contains(expected), "{text}\n{found}");
    }
}
