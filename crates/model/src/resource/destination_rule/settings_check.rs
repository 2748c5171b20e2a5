//! What makes load balancing, connection pools and TLS settings valid.

use std::collections::BTreeSet;

use super::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, ConsistentHash, H2UpgradePolicy, HttpPoolSettings,
    LoadBalancerSettings, LocalityFailover, LocalityLbSetting, SimpleLb, TcpKeepalive, TcpPoolSettings, ZoneAwareLbSetting,
};
use crate::resource::check::{self, report_at};
use crate::resource::{Issues, shorten};

/// Maglev tables must be smaller (Envoy's bound).
const MAX_MAGLEV_TABLE: u64 = 5_000_011;

/// Rings must not be larger (Envoy's bound).
const MAX_RING: u64 = 8 * 1024 * 1024;

/// Labels that `failover` decides on already.
const LOCALITY_LABELS: &[&str] = &["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

pub(super) fn load_balancer(settings: &LoadBalancerSettings, has_outlier_detection: bool, issues: &mut Issues) {
    if settings.simple.is_some() && settings.consistent_hash.is_some() {
        issues.error("has simple and consistentHash: only one of them is allowed");
    }
    if settings.simple == Some(SimpleLb::LeastConn) {
        issues.warn_at("simple", "LEAST_CONN is deprecated: use LEAST_REQUEST");
    }
    issues.optional("consistentHash", settings.consistent_hash.as_ref(), consistent_hash);
    if settings.locality_lb_setting.is_some() && settings.zone_aware_lb_setting.is_some() {
        issues.error("has localityLbSetting and zoneAwareLbSetting: only one of them is allowed");
    }
    issues.optional("localityLbSetting", settings.locality_lb_setting.as_ref(), |issues, setting| {
        locality(setting, has_outlier_detection, issues);
    });
    issues.optional("zoneAwareLbSetting", settings.zone_aware_lb_setting.as_ref(), zone_aware);
    let fits = matches!(
        settings.simple,
        None | Some(SimpleLb::Unspecified | SimpleLb::RoundRobin | SimpleLb::LeastRequest | SimpleLb::LeastConn)
    ) && settings.consistent_hash.is_none();
    if (settings.warmup.is_some() || settings.warmup_duration_secs.is_some()) && !fits {
        issues.error("warmup works with ROUND_ROBIN and LEAST_REQUEST only");
    }
    if settings.warmup.is_some() && settings.warmup_duration_secs.is_some() {
        issues.error("has warmup and warmupDurationSecs: only one of them is allowed");
    }
    if let Some(duration) = settings.warmup_duration_secs {
        report_at(issues, "warmupDurationSecs", check::whole_millis(duration));
        issues.warn_at("warmupDurationSecs", "is deprecated: use warmup.duration");
    }
    issues.optional("warmup", settings.warmup.as_ref(), |issues, warmup| {
        match warmup.duration {
            None => issues.error_at("duration", "is required"),
            Some(duration) => report_at(issues, "duration", check::whole_millis(duration)),
        }
        if let Some(percent) = warmup.minimum_percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
            issues.error_at("minimumPercent", format!("is {percent}, must be 0 to 100"));
        }
        if let Some(aggression) = warmup.aggression.filter(|value| !value.is_finite() || *value <= 0.0) {
            issues.error_at("aggression", format!("is {aggression}, must be above 0"));
        }
    });
}

fn consistent_hash(issues: &mut Issues, hash: &ConsistentHash) {
    let keys = [
        hash.http_header_name.is_some(),
        hash.http_cookie.is_some(),
        hash.use_source_ip.is_some(),
        hash.http_query_parameter_name.is_some(),
    ];
    if keys.iter().filter(|set| **set).count() != 1 {
        issues.error("must set exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName");
    }
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        issues.error("has ringHash and maglev: only one of them is allowed");
    }
    if hash.minimum_ring_size.is_some() {
        issues.warn_at("minimumRingSize", "is deprecated: use ringHash.minimumRingSize");
    }
    issues.optional("httpCookie", hash.http_cookie.as_ref(), |issues, cookie| {
        issues.require("name", &cookie.name);
        let mut names = BTreeSet::new();
        issues.each("attributes", &cookie.attributes, |issues, attribute| {
            if !names.insert(attribute.name.to_ascii_lowercase()) {
                issues.error(format!("the attribute {:?} is listed twice", shorten(&attribute.name)));
            }
        });
    });
    let ring = hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size);
    for (key, size) in [("ringHash.minimumRingSize", ring), ("minimumRingSize", hash.minimum_ring_size)] {
        if let Some(size) = size.filter(|size| *size > MAX_RING) {
            issues.error_at(key, format!("is {size}, must not be above {MAX_RING}"));
        }
    }
    issues.optional("maglev", hash.maglev.as_ref(), |issues, maglev| {
        if let Some(size) = maglev.table_size.filter(|size| *size >= MAX_MAGLEV_TABLE || !is_prime(*size)) {
            issues.error_at("tableSize", format!("is {size}, must be a prime below {MAX_MAGLEV_TABLE}"));
        }
    });
}

fn is_prime(number: u64) -> bool {
    number >= 2 && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}

/// Checks preferences by place.
pub(crate) fn locality(setting: &LocalityLbSetting, has_outlier_detection: bool, issues: &mut Issues) {
    if !setting.distribute.is_empty() && !setting.failover.is_empty() {
        issues.error("has distribute and failover: only one of them is allowed");
    }
    let by_locality = |label: &String| LOCALITY_LABELS.contains(&label.split('=').next().unwrap_or_default());
    if !setting.failover.is_empty() && setting.failover_priority.iter().any(by_locality) {
        issues.error("has failover, and failoverPriority by region, zone or subzone: only one of them is allowed");
    }
    let mut froms: Vec<&str> = Vec::new();
    issues.each("distribute", &setting.distribute, |issues, rule| {
        if froms.iter().any(|earlier| localities_overlap(earlier, &rule.from)) {
            issues.error_at("from", format!("{:?} overlaps with an earlier locality", shorten(&rule.from)));
        }
        froms.push(&rule.from);
        let sum: u64 = rule.to.values().map(|weight| u64::from(*weight)).sum();
        if sum != 100 || rule.to.values().any(|weight| *weight == 0) {
            issues.error_at("to", format!("the weights must each be 1 to 100 and their sum 100; it is {sum}"));
        }
        let names: Vec<&String> = rule.to.keys().collect();
        let overlapping =
            names.iter().enumerate().any(|(at, one)| names[..at].iter().any(|other| localities_overlap(other, one)));
        if overlapping {
            issues.error_at("to", "localities must not overlap");
        }
    });
    failover(issues, &setting.failover);
    if (!setting.failover.is_empty() || !setting.failover_priority.is_empty()) && !has_outlier_detection {
        issues.warn("failover has no effect without outlierDetection");
    }
}

/// Checks preferences by zone.
pub(crate) fn zone_aware(issues: &mut Issues, setting: &ZoneAwareLbSetting) {
    let by_locality = |label: &String| LOCALITY_LABELS.contains(&label.split('=').next().unwrap_or_default());
    if setting.failover_priority.iter().any(by_locality) {
        issues.error_at("failoverPriority", "must not be by region, zone or subzone: these count by themselves");
    }
    failover(issues, &setting.failover);
}

fn failover(issues: &mut Issues, rules: &[LocalityFailover]) {
    issues.each("failover", rules, |issues, rule| {
        if rule.from == rule.to {
            issues.error("from and to must differ");
        }
        if [&rule.from, &rule.to].into_iter().any(|region| region.contains(['/', '*'])) {
            issues.error("from and to must be regions, without '/' and '*'");
        }
    });
}

/// Whether some locality is covered by both; `*` at the end covers the rest.
fn localities_overlap(one: &str, other: &str) -> bool {
    let (mut left, mut right) = (one.split('/'), other.split('/'));
    loop {
        match (left.next(), right.next()) {
            (None | Some("*"), _) | (_, None | Some("*")) => return true,
            (Some(a), Some(b)) if a != b => return false,
            _ => {}
        }
    }
}

/// Checks limits for connections and requests.
pub(crate) fn connection_pool(issues: &mut Issues, settings: &ConnectionPoolSettings) {
    if settings.tcp.is_none() && settings.http.is_none() {
        issues.error("must set tcp or http");
    }
    issues.optional("tcp", settings.tcp.as_ref(), tcp_pool);
    issues.optional("http", settings.http.as_ref(), http_pool);
}

fn tcp_pool(issues: &mut Issues, tcp: &TcpPoolSettings) {
    report_at(issues, "maxConnections", check::not_negative(tcp.max_connections));
    for (key, duration) in [("connectTimeout", tcp.connect_timeout), ("maxConnectionDuration", tcp.max_connection_duration)] {
        if let Some(duration) = duration {
            report_at(issues, key, check::whole_millis(duration));
        }
    }
    if let Some(timeout) = tcp.idle_timeout {
        report_at(issues, "idleTimeout", check::whole_millis_or_zero(timeout));
    }
    issues.optional("tcpKeepalive", tcp.tcp_keepalive.as_ref(), keepalive);
}

/// Checks probes of idle connections. The kernel counts whole seconds.
pub(crate) fn keepalive(issues: &mut Issues, keepalive: &TcpKeepalive) {
    for (key, duration) in [("time", keepalive.time), ("interval", keepalive.interval)] {
        if let Some(duration) = duration {
            report_at(issues, key, check::whole_millis(duration));
        }
    }
}

fn http_pool(issues: &mut Issues, http: &HttpPoolSettings) {
    for (key, number) in [
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ] {
        report_at(issues, key, check::not_negative(number));
    }
    if let Some(timeout) = http.idle_timeout {
        report_at(issues, "idleTimeout", check::whole_millis_or_zero(timeout));
    }
    if http.use_client_protocol && http.h2_upgrade_policy == H2UpgradePolicy::Upgrade {
        issues.error_at("useClientProtocol", "contradicts h2UpgradePolicy: UPGRADE");
    }
    issues.optional("http2KeepAlive", http.http2_keep_alive.as_ref(), |issues, keep_alive| {
        for (key, duration) in [("interval", keep_alive.interval), ("timeout", keep_alive.timeout)] {
            match duration {
                None => issues.error_at(key, "is required"),
                Some(duration) => report_at(issues, key, check::whole_millis(duration)),
            }
        }
    });
}

pub(super) fn tls(issues: &mut Issues, tls: &ClientTlsSettings) {
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
    ];
    let own_files = [("clientCertificate", &tls.client_certificate), ("privateKey", &tls.private_key)];
    let has_credential = !tls.credential_name.is_empty();
    match tls.mode {
        ClientTlsMode::IstioMutual => {
            let others = [("credentialName", &tls.credential_name), ("caCrl", &tls.ca_crl)];
            for (key, _) in files.iter().chain(&others).filter(|(_, value)| !value.is_empty()) {
                issues.error_at(key, "must not be set with ISTIO_MUTUAL, which uses the mesh's own certificates");
            }
            // Istio takes it and verifies all the same.
            if tls.insecure_skip_verify == Some(true) {
                issues.error_at("insecureSkipVerify", "contradicts ISTIO_MUTUAL, which always verifies the server");
            }
        }
        ClientTlsMode::Mutual if !has_credential => {
            for (key, _) in own_files.iter().filter(|(_, value)| value.is_empty()) {
                issues.error_at(key, "is required with MUTUAL, unless there is a credentialName");
            }
        }
        ClientTlsMode::Mutual | ClientTlsMode::Simple | ClientTlsMode::Disable => {}
    }
    if has_credential {
        issues.warn_at(
            "credentialName",
            "is for gateways and rules with a workloadSelector: other sidecars verify by the system's roots and show no certificate",
        );
        for (key, _) in files.iter().filter(|(_, value)| !value.is_empty()) {
            issues.error_at(key, "must not be set together with credentialName");
        }
    }
    if tls.insecure_skip_verify == Some(true) {
        skip_verify(tls, issues);
    }
}

fn skip_verify(tls: &ClientTlsSettings, issues: &mut Issues) {
    let contradicting = [
        ("caCertificates", !tls.ca_certificates.is_empty()),
        ("subjectAltNames", !tls.subject_alt_names.is_empty()),
        ("credentialName", !tls.credential_name.is_empty() && tls.mode == ClientTlsMode::Simple),
    ];
    for (key, _) in contradicting.into_iter().filter(|(_, present)| *present) {
        issues.error_at(key, "contradicts insecureSkipVerify: true");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localities_overlap_by_prefix() {
        for (one, other, expected) in [
            ("a/b/c", "a/b/c", true),
            ("a/*", "a/b/c", true),
            ("*", "a", true),
            ("a/b", "a/b/c", true),
            ("a/b/*", "a/c/*", false),
            ("a", "b", false),
        ] {
            assert_eq!(localities_overlap(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn primes() {
        for (number, expected) in [(0, false), (1, false), (2, true), (65537, true), (65536, false), (5_000_009, false)] {
            assert_eq!(is_prime(number), expected, "{number}");
        }
    }
}
