//! Metrics that are read when they are scraped, beside those of the registry: clusters, the process, the subscription.

use super::pages::{numbers, seconds_since_epoch};
use crate::control_plane::ads::Subscription;
use crate::shared::Shared;
use crate::telemetry::gates::GateNumbers;
use crate::upstream::Cluster;
use crate::worker::WorkerHandle;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Appends metric families in Prometheus' text format.
struct Page<'a>(&'a mut String);

impl Page<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn labelled(&mut self, name: &str, label: (&str, &str), value: impl Display) {
        let _ = writeln!(self.0, "{name}{{{}=\"{}\"}} {value}", label.0, escape(label.1));
    }

    fn cluster(&mut self, name: &str, cluster: &Cluster, label: (&str, &str), value: u64) {
        let (key, of, cluster) = (label.0, label.1, escape(&cluster.name));
        let _ = writeln!(self.0, "{name}{{{key}=\"{of}\",cluster_name=\"{cluster}\"}} {value}");
    }

    fn plain(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }
}

/// Prometheus' text format: backslash, quote and line feed.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Clusters that carried traffic, the process, the identity and the subscription.
pub(super) fn append(text: &mut String, shared: &Shared, subscription: &Subscription) {
    let mut page = Page(text);
    let used = super::pages::used_clusters(shared);
    clusters(&mut page, &used);
    answers(&mut page, &used);
    gates(&mut page, &shared.telemetry.gates().numbers());
    process(&mut page, shared);
    control_plane(&mut page, subscription);
}

fn clusters(page: &mut Page<'_>, clusters: &[Arc<Cluster>]) {
    let rows: Vec<(&Cluster, Vec<(&'static str, u64)>)> = clusters.iter().map(|c| (c.as_ref(), numbers(c).collect())).collect();
    let mut names: Vec<&'static str> = rows.iter().flat_map(|(_, numbers)| numbers.iter().map(|(n, _)| *n)).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let family = format!("envoy_cluster_{}", name.replace('.', "_"));
        let kind = if name.ends_with("_active") { "gauge" } else { "counter" };
        page.family(&family, kind, cluster_help(name));
        for (cluster, numbers) in &rows {
            if let Some((_, number)) = numbers.iter().find(|(n, _)| *n == name) {
                page.labelled(&family, ("cluster_name", &cluster.name), number);
            }
        }
    }
}

fn cluster_help(name: &str) -> &'static str {
    match name {
        "upstream_rq_completed" => "Requests that were answered, by the cluster or in its place.",
        "upstream_rq_total" => "Requests sent to the cluster, retries included.",
        "upstream_rq_retry" => "Retries.",
        "upstream_rq_retry_success" => "Retries that were answered in a way that asks for no other one.",
        "upstream_rq_retry_limit_exceeded" => "Requests that were not tried again because their tries were used up.",
        "upstream_rq_retry_overflow" => "Requests that were not tried again because of the budget or the circuit breaker.",
        "upstream_rq_timeout" => "Requests whose whole time was over.",
        "upstream_rq_per_try_timeout" => "Tries whose time was over.",
        "upstream_rq_reset" => "Requests whose stream failed before there was a response.",
        "upstream_rq_active" => "Requests in flight.",
        "upstream_rq_pending_active" => "Requests that wait for a connection.",
        "upstream_rq_pending_overflow" => "Requests that a circuit breaker refused.",
        "upstream_cx_total" => "Connections opened.",
        "upstream_cx_active" => "Connections open.",
        "upstream_cx_connect_fail" => "Connections that could not be opened.",
        "upstream_cx_connect_timeout" => "Connections that could not be opened in time.",
        "upstream_cx_none_healthy" => "Requests for which there was no usable host.",
        "upstream_cx_overflow" => "Connections that a circuit breaker refused.",
        "ssl_handshake_fail" => "TLS handshakes that failed.",
        "outlier_detection.ejections_active" => "Hosts that are ejected.",
        "outlier_detection.ejections_enforced_total" => "Ejections.",
        "outlier_detection.ejections_overflow" => "Ejections that did not happen because too many hosts were ejected.",
        _ => "As Envoy's statistic of this name.",
    }
}

/// Answers by code and class, labelled as Istio's proxies label them.
fn answers(page: &mut Page<'_>, clusters: &[Arc<Cluster>]) {
    page.family("envoy_cluster_upstream_rq", "counter", "Answers by status.");
    for cluster in clusters {
        for (status, count) in cluster.stats.answers.all() {
            page.cluster("envoy_cluster_upstream_rq", cluster, ("response_code", &status.to_string()), count);
        }
    }
    page.family("envoy_cluster_upstream_rq_xx", "counter", "Answers by class of statuses.");
    for cluster in clusters {
        let classes = (1..=5).map(|class| (class, cluster.stats.answers.of_class(class)));
        for (class, count) in classes.filter(|(_, count)| *count > 0) {
            page.cluster("envoy_cluster_upstream_rq_xx", cluster, ("response_code_class", &format!("{class}xx")), count);
        }
    }
}

fn gates(page: &mut Page<'_>, gates: &[GateNumbers]) {
    // Those of one kind stand together, and have the same names.
    for of_kind in gates.chunk_by(|a, b| a.family == b.family) {
        let names = of_kind.first().into_iter().flat_map(|gate| &gate.numbers);
        for (index, (name, _)) in names.enumerate() {
            let family = format!("{}_{name}", of_kind[0].family);
            page.family(&family, "counter", gate_help(name));
            for gate in of_kind {
                let number = gate.numbers[index].1;
                match &gate.label {
                    Some((label, of)) => page.labelled(&family, (label, of), number),
                    None => page.plain(&family, number),
                }
            }
        }
    }
}

fn gate_help(name: &str) -> &'static str {
    match name {
        "allowed" => "What authorization policies let pass.",
        "denied" => "What authorization policies refused.",
        "enabled" => "Requests that a limit was asked for.",
        "ok" => "Requests for which there was a token.",
        "rate_limited" => "Requests for which there was no token.",
        _ => "Requests that were refused for want of a token.",
    }
}

fn process(page: &mut Page<'_>, shared: &Shared) {
    page.single("lateen_uptime_seconds", "gauge", "Time since the process began.", shared.started.elapsed().as_secs());
    page.single("lateen_workers", "gauge", "Worker threads.", shared.workers().len());
    let connections: usize = shared.workers().iter().map(WorkerHandle::connections).sum();
    page.single("lateen_downstream_connections_active", "gauge", "Connections of clients.", connections);
    page.single("lateen_requests_active", "gauge", "Requests and TCP connections in flight.", shared.drain.active());
    let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let help = "Certificates obtained.";
    page.single("lateen_certificate_renewals_total", "counter", help, read(&shared.renewals.succeeded));
    let help = "Requests for a certificate that failed.";
    page.single("lateen_certificate_renewal_failures_total", "counter", help, read(&shared.renewals.failed));
    if shared.settings.dns_capture {
        let stats = &shared.names.stats;
        let help = "DNS questions of the application.";
        page.single("dns_requests_total", "counter", help, read(&stats.requests));
        let help = "DNS questions that were passed on to the pod's own servers.";
        page.single("dns_upstream_requests_total", "counter", help, read(&stats.upstream_requests));
        let help = "DNS questions that none of the pod's own servers has answered.";
        page.single("dns_upstream_failures_total", "counter", help, read(&stats.upstream_failures));
    }
    if shared.settings.automatic_scope.above.is_some() {
        on_demand(page, shared);
    }
    if let Some(credential) = shared.identity.credential().load() {
        let help = "When the certificate in force ends, in seconds since 1970.";
        let end = seconds_since_epoch(credential.leaf().not_after());
        page.single("lateen_certificate_expiry_timestamp_seconds", "gauge", help, end);
    }
}

fn on_demand(page: &mut Page<'_>, shared: &Shared) {
    let (on_demand, stats) = (&shared.on_demand, &shared.on_demand.stats);
    let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let help = "Hosts and addresses that the mesh has and this proxy can learn.";
    page.single("lateen_on_demand_index_entries", "gauge", help, on_demand.index().len());
    let help = "Questions whose answers are held.";
    page.single("lateen_on_demand_known", "gauge", help, on_demand.known());
    let help = "Questions to the control plane about what the workload called for the first time.";
    page.single("lateen_on_demand_lookups_total", "counter", help, read(&stats.asked));
    let help = "Calls that failed because the control plane did not answer in time.";
    page.single("lateen_on_demand_lookups_failed_total", "counter", help, read(&stats.failed));
    let help = "Answers that were forgotten because nothing had used them for long.";
    page.single("lateen_on_demand_forgotten_total", "counter", help, read(&stats.forgotten));
    page.family("lateen_on_demand_wait_seconds_total", "counter", "How long calls waited for an answer, together.");
    let seconds = Duration::from_micros(read(&stats.waited_micros)).as_secs_f64();
    page.plain("lateen_on_demand_wait_seconds_total", seconds);
    page.family("lateen_on_demand_waits_total", "counter", "Calls that waited for an answer.");
    page.plain("lateen_on_demand_waits_total", read(&stats.waits));
}

fn control_plane(page: &mut Page<'_>, subscription: &Subscription) {
    let connected = u8::from(subscription.connection().borrow().connected);
    page.single("lateen_control_plane_connected", "gauge", "Whether the control plane is connected.", connected);
    for (name, help, value) in [
        ("lateen_xds_updates_total", "Responses of the control plane, by type.", |s| s.updates),
        ("lateen_xds_rejected_total", "Responses of which something was refused, by type.", |s| s.rejected),
    ] as [(&str, &str, fn(&crate::control_plane::ads::TypeStatus) -> u64); 2]
    {
        page.family(name, "counter", help);
        for (ty, status) in &subscription.types {
            page.labelled(name, ("type", ty.short_name()), value(status));
        }
    }
    let warming = subscription.store.warming();
    page.family("lateen_xds_warming", "gauge", "Resources that wait for what they refer to, by type.");
    for (ty, count) in [("CDS", warming.clusters), ("LDS", warming.listeners), ("RDS", warming.routes)] {
        page.labelled("lateen_xds_warming", ("type", ty), count);
    }
}

#[cfg(test)]
mod tests {
    use super::super::prometheus;
    use crate::control_plane::ads::tests::subscription_of;
    use crate::testing::exchange::{Mesh, Proxy, Upstream, serving};
    use crate::testing::{self, Encode, cluster, hcm, routes};
    use lateen_model::dataplane::{Direction, HttpFilter, OutlierDetection, PeerMetadata, RouteSource, StatsFilter};
    use lateen_testkit::prometheus::{Kind, read, value};
    use lateen_xds::ResourceType;
    use std::time::Duration;

    #[tokio::test]
    async fn the_page_is_one_that_a_strict_reader_takes() {
        let upstream = Upstream::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        let mut app = cluster("app|\\\"80\"", Some(&[&upstream.address.to_string()]));
        app.outlier_detection = Some(OutlierDetection {
            consecutive_5xx: 5,
            consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: 0,
            split_local_origin: false,
            interval: Duration::from_secs(1),
            base_ejection_time: Duration::from_secs(1),
            max_ejection_time: Duration::from_secs(1),
            max_ejection_percent: 10,
            error_statuses: Vec::new(),
        });
        let name = app.name.clone();
        let mut manager = hcm(RouteSource::Rds(String::new()));
        manager.http_filters = vec![
            HttpFilter::PeerMetadata(PeerMetadata { direction: Direction::Inbound, skip_external_clusters: false }),
            HttpFilter::Stats(StatsFilter { direction: Direction::Inbound, host_header_fallback: true }),
        ];
        let mut proxy = Proxy::new(&serving(manager, routes("inbound", &[&name])), &[app]);
        proxy.peer = Some(Mesh::new().peer("spiffe://cluster.local/ns/prod/sa/client", testing::OWN_URI, "istio-http/1.1").await);
        for _ in 0..3 {
            let answer = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        proxy.ask("nonsense\r\n\r\n").await;

        let mut subscription = subscription_of(&proxy.shared);
        let page = prometheus(&proxy.shared, &subscription);
        let families = read(std::str::from_utf8(&page.body).expect("UTF-8")).expect("a page");
        let of_cluster = |label, of| [(label, of), ("cluster_name", "app|\\\"80\"")];
        assert_eq!(value(&families, "envoy_cluster_upstream_rq", &of_cluster("response_code", "200")), Some(3.0));
        assert_eq!(value(&families, "envoy_cluster_upstream_rq_xx", &of_cluster("response_code_class", "2xx")), Some(3.0));

        // Clusters that are new take the place of those before.
        subscription.apply(ResourceType::Cds, "1".to_owned(), &[cluster("new", None).encoded()], &[]);
        let page = prometheus(&proxy.shared, &subscription);
        let text = String::from_utf8(page.body.to_vec()).expect("UTF-8");
        let families = read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let of = |name: &str| families.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("no {name}:\n{text}"));
        assert_eq!(of("istio_requests_total").kind, Kind::Counter);
        assert_eq!(of("istio_request_duration_milliseconds").kind, Kind::Histogram);
        assert_eq!(value(&families, "lateen_downstream_bad_requests_total", &[("code", "400")]), Some(1.0));
        assert_eq!(value(&families, "lateen_xds_updates_total", &[("type", "CDS")]), Some(1.0));
        assert_eq!(value(&families, "lateen_xds_warming", &[("type", "CDS")]), Some(1.0));
        assert!(families.iter().all(|f| !f.help.is_empty()), "{text}");
        assert!(!text.contains("As Envoy's statistic of this name"), "each has a help of its own:\n{text}");
    }

    #[tokio::test]
    async fn a_process_that_has_done_nothing() {
        let shared = testing::shared();
        let page = prometheus(&shared, &subscription_of(&shared));
        let text = String::from_utf8(page.body.to_vec()).expect("UTF-8");
        let families = read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(value(&families, "lateen_control_plane_connected", &[]), Some(0.0));
    }
}
