//! What makes a `MeshConfig` valid, and what of it is not implemented.

use std::collections::BTreeSet;

use super::{ExtensionProvider, MeshConfig, OpenTelemetry, ProxyConfig};
use crate::identity::TrustDomain;
use crate::resource::check::{self, report, report_at};
use crate::resource::{
    FieldIssue, HttpRetry, Issues, OutboundTrafficMode, check_keepalive, check_locality, check_zone_aware, is_cipher_suite,
    retry_on, shorten,
};

/// Providers that exist without being defined.
const BUILT_IN: &[&str] = &["prometheus", "envoy"];

pub(super) fn validate(config: &MeshConfig, issues: &mut Issues) {
    if let Err(error) = TrustDomain::try_new(&config.trust_domain) {
        issues.error_at("trustDomain", error.to_string());
    }
    issues.each("trustDomainAliases", &config.trust_domain_aliases, |issues, name| {
        if let Err(error) = TrustDomain::try_new(name) {
            issues.error(error.to_string());
        }
    });
    report_at(issues, "rootNamespace", check::dns_label(&config.root_namespace));
    report_at(issues, "connectTimeout", check::whole_millis(config.connect_timeout));
    report_at(issues, "protocolDetectionTimeout", check::whole_millis_or_zero(config.protocol_detection_timeout));
    issues.optional("tcpKeepalive", config.tcp_keepalive.as_ref(), check_keepalive);
    issues.field("meshMTLS", |issues| {
        issues.each("cipherSuites", &config.mesh_mtls.cipher_suites, |issues, suite| {
            if !is_cipher_suite(suite) {
                issues.error(format!("{:?} is no cipher suite of TLS 1.2 that proxies have", shorten(suite)));
            }
        });
    });
    // Whether there is outlier detection is said elsewhere.
    issues.optional("zoneAwareLbSetting", config.zone_aware_lb_setting.as_ref(), check_zone_aware);
    issues.optional("localityLbSetting", config.locality_lb_setting.as_ref(), |issues, s| check_locality(s, true, issues));
    issues.each("discoverySelectors", &config.discovery_selectors, |issues, selector| selector.check(issues));
    if !config.service_settings.is_empty() {
        issues.warn_at("serviceSettings", "have no effect: there is one cluster, to which all services are local");
    }
    let retries = [
        ("defaultHttpRetryPolicy", &config.default_http_retry_policy),
        ("defaultInboundHttpRetryPolicy", &config.default_inbound_http_retry_policy),
    ];
    for (key, policy) in retries {
        issues.optional(key, policy.as_ref(), |issues, policy: &HttpRetry| {
            report_at(issues, "attempts", check::not_negative(policy.attempts));
            report_at(issues, "retryOn", retry_on(&policy.retry_on));
        });
    }
    let exports = [
        ("defaultServiceExportTo", &config.default_service_export_to),
        ("defaultVirtualServiceExportTo", &config.default_virtual_service_export_to),
        ("defaultDestinationRuleExportTo", &config.default_destination_rule_export_to),
    ];
    for (key, entries) in exports {
        issues.each(key, entries, |issues, entry| {
            if !matches!(entry.as_str(), "." | "*" | "~") {
                report(issues, check::dns_label(entry));
            }
        });
    }
    issues.field("defaultConfig", |issues| validate_proxy(&config.default_config, issues));
    validate_providers(config, issues);
}

fn validate_proxy(config: &ProxyConfig, issues: &mut Issues) {
    report_at(issues, "drainDuration", check::whole_millis(config.drain_duration));
    report_at(issues, "terminationDrainDuration", check::whole_millis_or_zero(config.termination_drain_duration));
    let sampling = config.tracing.sampling;
    if !(0.0..=100.0).contains(&sampling) {
        issues.field("tracing", |issues| issues.error_at("sampling", format!("is {sampling}, must be 0 to 100")));
    }
}

fn validate_providers(config: &MeshConfig, issues: &mut Issues) {
    let mut names = BTreeSet::new();
    issues.each("extensionProviders", &config.extension_providers, |issues, provider| {
        if issues.require("name", &provider.name) && !names.insert(provider.name.as_str()) {
            issues.error_at("name", format!("the provider {:?} is defined twice", shorten(&provider.name)));
        }
        validate_provider(provider, issues);
    });
    issues.field("defaultProviders", |issues| {
        let providers = &config.default_providers;
        let lists = [
            ("tracing", &providers.tracing, &["opentelemetry"][..]),
            ("metrics", &providers.metrics, &["prometheus"]),
            ("accessLogging", &providers.access_logging, &["envoyFileAccessLog"]),
        ];
        for (key, list, kinds) in lists {
            issues.each(key, list, |issues, name| {
                let found = config.extension_providers.iter().find(|provider| provider.name == *name);
                let fits = |provider: &ExtensionProvider| provider.kinds().iter().any(|(kind, set)| *set && kinds.contains(kind));
                match found {
                    Some(provider) if fits(provider) => {}
                    Some(_) => issues.error(format!("{:?} is not of the kind {}", shorten(name), kinds.join(" or "))),
                    None if (key, name.as_str()) == ("metrics", BUILT_IN[0]) => {}
                    None if (key, name.as_str()) == ("accessLogging", BUILT_IN[1]) => {}
                    None => issues.error(format!("there is no provider {:?} in extensionProviders", shorten(name))),
                }
            });
        }
    });
}

fn validate_provider(provider: &ExtensionProvider, issues: &mut Issues) {
    if provider.kinds().iter().filter(|(_, set)| *set).count() != 1 {
        issues.error("must be of exactly one kind: prometheus, envoyFileAccessLog or opentelemetry");
    }
    issues.optional("opentelemetry", provider.opentelemetry.as_ref(), |issues, provider: &OpenTelemetry| {
        issues.require("service", &provider.service);
        report_at(issues, "port", check::port(provider.port.into()));
        issues.optional("http", provider.http.as_ref(), |issues, http| {
            if !http.path.starts_with('/') {
                issues.error_at("path", "must begin with '/'");
            }
            issues.each("headers", &http.headers, |issues, header| report_at(issues, "name", check::header_name(&header.name)));
        });
    });
    issues.optional("envoyFileAccessLog", provider.envoy_file_access_log.as_ref(), |issues, log| {
        issues.require("path", &log.path);
        issues.optional("logFormat", log.log_format.as_ref(), |issues, format| {
            if format.text.is_some() && format.labels.is_some() {
                issues.error("has text and labels: only one of them is allowed");
            }
        });
    });
}

pub(super) fn unsupported(config: &MeshConfig) -> Vec<FieldIssue> {
    let mut issues = Issues::default();
    if config.outbound_traffic_policy.mode == OutboundTrafficMode::AllowAnyDynamicDns {
        issues.field("outboundTrafficPolicy", |issues| issues.unsupported_if(true, "mode"));
    }
    issues.field("meshMTLS", |issues| {
        issues.unsupported_if(!config.mesh_mtls.ecdh_curves.is_empty(), "ecdhCurves");
    });
    let fields = [
        ("proxyListenPort", config.proxy_listen_port != 15001),
        ("proxyInboundListenPort", config.proxy_inbound_listen_port != 15006),
        ("defaultTrafficPolicy", config.default_traffic_policy.is_some()),
        ("caCertificates", !config.ca_certificates.is_empty()),
        ("certificates", !config.certificates.is_empty()),
        ("tlsDefaults", config.tls_defaults.is_some()),
        ("serviceScopeConfigs", !config.service_scope_configs.is_empty()),
        ("serviceEntryVisibility", config.service_entry_visibility.is_some()),
        ("enableEnvoyAccessLogService", config.enable_envoy_access_log_service),
    ];
    for (key, set) in fields {
        issues.unsupported_if(set, key);
    }
    issues.field("defaultConfig", |issues| unsupported_proxy(&config.default_config, issues));
    issues.each("extensionProviders", &config.extension_providers, |issues, provider| {
        for (key, set) in provider.kinds() {
            issues.unsupported_if(set && provider.kind().is_none(), key);
        }
        issues.optional("opentelemetry", provider.opentelemetry.as_ref(), |issues, provider| {
            issues.unsupported_if(provider.grpc.is_some(), "grpc");
            issues.unsupported_if(provider.resource_detectors.is_some(), "resourceDetectors");
            issues.unsupported_if(provider.dynatrace_sampler.is_some(), "dynatraceSampler");
            issues.optional("http", provider.http.as_ref(), |issues, http| {
                issues
                    .each("headers", &http.headers, |issues, header| issues.unsupported_if(header.env_name.is_some(), "envName"));
            });
        });
    });
    issues.into_errors()
}

fn unsupported_proxy(config: &ProxyConfig, issues: &mut Issues) {
    issues.unsupported_if(config.readiness_probe.is_some(), "readinessProbe");
    issues.optional("gatewayTopology", config.gateway_topology.as_ref(), |issues, topology| {
        issues.unsupported_if(topology.proxy_protocol.is_some(), "proxyProtocol");
        let always = topology.forward_client_cert_details == super::ForwardClientCert::AlwaysForwardOnly;
        issues.unsupported_if(always, "forwardClientCertDetails");
    });
    issues.unsupported_if(config.interception_mode.as_deref().is_some_and(|mode| mode != "REDIRECT"), "interceptionMode");
    issues.unsupported_if(config.proxy_admin_port.is_some_and(|port| port != 15000), "proxyAdminPort");
    let tracing = &config.tracing;
    issues.field("tracing", |issues| {
        let fields = [
            ("customTags", tracing.custom_tags.is_some()),
            ("zipkin", tracing.zipkin.is_some()),
            ("lightstep", tracing.lightstep.is_some()),
            ("datadog", tracing.datadog.is_some()),
            ("stackdriver", tracing.stackdriver.is_some()),
            ("openCensusAgent", tracing.open_census_agent.is_some()),
        ];
        for (key, set) in fields {
            issues.unsupported_if(set, key);
        }
    });
    issues.optional("proxyHeaders", config.proxy_headers.as_ref(), |issues, headers| {
        issues.unsupported_if(headers.set_current_client_cert_details.is_some(), "setCurrentClientCertDetails");
        issues.unsupported_if(headers.preserve_http1_header_case == Some(true), "preserveHttp1HeaderCase");
    });
}
