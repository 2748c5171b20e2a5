//! The control plane's metrics, under the names that Istio's dashboards and alerts use.

use crate::push::Memo;
use crate::world::World;
use lateen_xds::server::{Connections, SyncState};
use lateen_xds::{Resource, ResourceType};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bounds of histograms of durations, in seconds (Istio's for convergence).
const SECONDS: [f64; 9] = [0.01, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];

/// A counter without labels.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// So far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter for each value of a label.
#[derive(Debug, Default)]
pub struct LabelledCounter(Mutex<BTreeMap<String, u64>>);

impl LabelledCounter {
    /// One more.
    pub fn increment(&self, label: &str) {
        let mut map = lock(&self.0);
        match map.get_mut(label) {
            Some(n) => *n += 1,
            None => {
                map.insert(label.to_owned(), 1);
            }
        }
    }

    /// So far.
    pub fn get(&self, label: &str) -> u64 {
        lock(&self.0).get(label).copied().unwrap_or(0)
    }
}

#[derive(Debug, Default)]
struct Histogram(Mutex<HistogramState>);

#[derive(Debug, Default)]
struct HistogramState {
    buckets: [u64; SECONDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn observe(&self, value: Duration) {
        let seconds = value.as_secs_f64();
        let mut state = lock(&self.0);
        for (bucket, bound) in state.buckets.iter_mut().zip(SECONDS) {
            *bucket += u64::from(seconds <= bound);
        }
        state.count += 1;
        state.sum += seconds;
    }
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    started: Instant,
    /// Resources sent, by type.
    pub pushes: LabelledCounter,
    /// Why there was a push: kinds of what changed.
    pub triggers: LabelledCounter,
    /// Documents and states that came in.
    pub inbound_updates: LabelledCounter,
    /// Documents that were refused, by kind.
    pub rejected: LabelledCounter,
    /// Requests for certificates.
    pub csr: Counter,
    /// Certificates issued.
    pub issued: Counter,
    /// Callers that could not prove who they are.
    pub authentication_failures: Counter,
    /// Requests that could not be read.
    pub csr_parsing_errors: Counter,
    /// Requests that could not be signed.
    pub csr_signing_errors: Counter,
    /// Requests for another identity than the caller's.
    pub id_extraction_errors: Counter,
    /// When the root ends, in seconds since 1970.
    pub root_expiry: AtomicU64,
    convergence: Histogram,
    push_time: Histogram,
    debounce: Histogram,
    cache: Mutex<CacheGauges>,
    /// What is served; its gauges are counted when somebody looks.
    world: Mutex<Option<World>>,
}

#[derive(Debug, Default)]
struct CacheGauges {
    hits: u64,
    misses: u64,
    size: usize,
    /// Resources made, by type.
    made: [(&'static str, u64); 5],
}

#[derive(Debug, Default)]
struct WorldGauges {
    services: usize,
    virtual_services: usize,
    subsets: usize,
    endpoints_not_ready: usize,
    no_instances: usize,
}

impl WorldGauges {
    fn of(world: &World) -> Self {
        let mut gauges = Self::default();
        for (_, ns) in world.namespaces() {
            gauges.services += ns.services.len();
            gauges.virtual_services += ns.virtual_services.len();
            gauges.subsets += ns.destination_rules.iter().map(|r| r.resource.spec.subsets.len()).sum::<usize>();
            gauges.no_instances += ns.endpoints.values().filter(|e| e.ready.is_empty()).count();
            gauges.endpoints_not_ready += ns.workloads.values().filter(|w| !w.takes_traffic()).count();
        }
        gauges
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            pushes: LabelledCounter::default(),
            triggers: LabelledCounter::default(),
            inbound_updates: LabelledCounter::default(),
            rejected: LabelledCounter::default(),
            csr: Counter::default(),
            issued: Counter::default(),
            authentication_failures: Counter::default(),
            csr_parsing_errors: Counter::default(),
            csr_signing_errors: Counter::default(),
            id_extraction_errors: Counter::default(),
            root_expiry: AtomicU64::new(0),
            convergence: Histogram::default(),
            push_time: Histogram::default(),
            debounce: Histogram::default(),
            cache: Mutex::default(),
            world: Mutex::default(),
        }
    }
}

impl Metrics {
    /// A response was made.
    pub fn pushed(&self, ty: ResourceType, resources: &[Arc<Resource>]) {
        if !resources.is_empty() {
            self.pushes.increment(&ty.short_name().to_ascii_lowercase());
        }
    }

    /// A proxy has confirmed a change, so long after it was noticed.
    pub fn converged(&self, after: Duration) {
        self.convergence.observe(after);
    }

    /// A change was held back for so long.
    pub fn debounced(&self, held_back: Duration) {
        self.debounce.observe(held_back);
    }

    /// A push to all proxies was worked out.
    pub fn observe_push(&self, took: Duration, memo: &Memo, world: &World) {
        self.push_time.observe(took);
        let (reads, size) = memo.statistics();
        *lock(&self.cache) = CacheGauges { hits: reads.hits, misses: reads.misses, size, made: memo.work.by_name() };
        *lock(&self.world) = Some(world.clone());
    }

    /// The root certificate ends then.
    pub fn set_root_expiry(&self, at: SystemTime) {
        let seconds = at.duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or(0);
        self.root_expiry.store(seconds, Ordering::Relaxed);
    }

    /// The text of `/metrics` (Prometheus exposition format 0.0.4).
    pub fn render(&self, connections: &Connections) -> String {
        let mut out = Page(String::with_capacity(8 * 1024));
        let version = env!("CARGO_PKG_VERSION");
        out.header("pilot_info", "gauge", "Version of the control plane.");
        out.line("pilot_info", &[("version", version)], 1);
        out.header("istio_build", "gauge", "Build of the component.");
        out.line("istio_build", &[("component", "pilot"), ("tag", version)], 1);
        out.header("istiod_uptime_seconds", "gauge", "Seconds since the start.");
        out.line("istiod_uptime_seconds", &[], self.started.elapsed().as_secs());
        self.render_connections(&mut out, connections, version);
        out.labelled("pilot_xds_pushes", "Responses with resources, by type.", "type", &self.pushes);
        out.labelled("pilot_push_triggers", "Pushes, by what changed.", "type", &self.triggers);
        out.labelled("pilot_inbound_updates", "Updates that came in.", "type", &self.inbound_updates);
        out.labelled("pilot_total_rejected_configs", "Documents that were refused.", "type", &self.rejected);
        out.histogram("pilot_proxy_convergence_time", "From a change to its confirmation by a proxy.", &self.convergence);
        out.histogram("pilot_xds_push_time", "Working out what a change means for all proxies.", &self.push_time);
        out.histogram("pilot_debounce_time", "From a change to its push.", &self.debounce);
        self.render_world(&mut out);
        self.render_ca(&mut out);
        out.0
    }

    fn render_connections(&self, out: &mut Page, connections: &Connections, version: &str) {
        let list = connections.list();
        out.header("pilot_xds", "gauge", "Connected proxies.");
        out.line("pilot_xds", &[("version", version)], list.len() as u64);
        out.header("lateen_xds_sent_resources", "counter", "Resources sent to proxies.");
        out.line("lateen_xds_sent_resources", &[], connections.sent().0);
        out.header("lateen_xds_sent_bytes", "counter", "Bytes of the resources sent to proxies.");
        out.line("lateen_xds_sent_bytes", &[], connections.sent().1);
        let mut rejects: BTreeMap<ResourceType, u64> = BTreeMap::new();
        let mut expired = 0;
        let mut standing: Vec<(ResourceType, String, String)> = Vec::new();
        for connection in &list {
            let status = connection.status();
            expired += status.expired_nonces;
            for (ty, status) in status.types {
                *rejects.entry(ty).or_default() += status.nacks;
                if let SyncState::Nack(reason) = status.state {
                    standing.push((ty, connection.client().node.to_string(), reason));
                }
            }
        }
        out.header("pilot_total_xds_rejects", "counter", "Responses that connected proxies have refused.");
        for (ty, n) in rejects.iter().filter(|(_, n)| **n > 0) {
            out.line("pilot_total_xds_rejects", &[("type", ty.type_url())], *n);
        }
        for ty in [ResourceType::Cds, ResourceType::Eds, ResourceType::Lds, ResourceType::Rds] {
            let name = format!("pilot_xds_{}_reject", ty.short_name().to_ascii_lowercase());
            out.header(&name, "gauge", "Proxies whose last response of the type stands refused.");
            for (_, node, reason) in standing.iter().filter(|(t, ..)| *t == ty) {
                let reason: String = reason.chars().take(200).collect();
                out.line(&name, &[("node", node), ("err", &reason)], 1);
            }
        }
        out.header("pilot_xds_expired_nonce", "counter", "Requests that answered an older response.");
        out.line("pilot_xds_expired_nonce", &[], expired);
    }

    fn render_world(&self, out: &mut Page) {
        let world = lock(&self.world).clone();
        let world = world.as_ref().map(WorldGauges::of).unwrap_or_default();
        for (name, help, value) in [
            ("pilot_services", "Services.", world.services),
            ("pilot_virt_services", "VirtualServices.", world.virtual_services),
            ("pilot_destrule_subsets", "Subsets of DestinationRules.", world.subsets),
            ("pilot_endpoint_not_ready", "Pods that take no traffic.", world.endpoints_not_ready),
            ("pilot_eds_no_instances", "Services without an endpoint that takes traffic.", world.no_instances),
        ] {
            out.header(name, "gauge", help);
            out.line(name, &[], value as u64);
        }
        let cache = lock(&self.cache);
        out.header("xds_cache_reads", "counter", "Lookups of generated resources.");
        out.line("xds_cache_reads", &[("type", "hit")], cache.hits);
        out.line("xds_cache_reads", &[("type", "miss")], cache.misses);
        out.header("xds_cache_size", "gauge", "Generated resources that are kept.");
        out.line("xds_cache_size", &[], cache.size as u64);
        let help = "Resources worked out and encoded, for however many proxies.";
        out.header("lateen_xds_generated_resources", "counter", help);
        for (ty, made) in cache.made.iter().filter(|(ty, _)| !ty.is_empty()) {
            out.line("lateen_xds_generated_resources", &[("type", ty)], *made);
        }
    }

    fn render_ca(&self, out: &mut Page) {
        for (name, help, counter) in [
            ("citadel_server_csr_count", "Requests for certificates.", &self.csr),
            ("citadel_server_success_cert_issuance_count", "Certificates issued.", &self.issued),
            ("citadel_server_authentication_failure_count", "Callers that proved nothing.", &self.authentication_failures),
            ("citadel_server_csr_parsing_err_count", "Requests that could not be read.", &self.csr_parsing_errors),
            ("citadel_server_csr_sign_err_count", "Requests that could not be signed.", &self.csr_signing_errors),
            ("citadel_server_id_extraction_err_count", "Requests for another's identity.", &self.id_extraction_errors),
        ] {
            out.header(name, "counter", help);
            out.line(name, &[], counter.get());
        }
        let expiry = self.root_expiry.load(Ordering::Relaxed);
        out.header("citadel_server_root_cert_expiry_timestamp", "gauge", "When the root ends, in seconds since 1970.");
        out.line("citadel_server_root_cert_expiry_timestamp", &[], expiry);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or(0);
        out.header("citadel_server_root_cert_expiry_seconds", "gauge", "Seconds until the root ends.");
        out.line("citadel_server_root_cert_expiry_seconds", &[], expiry.saturating_sub(now));
    }
}

struct Page(String);

impl Page {
    fn header(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.push_str(name);
        self.labels(labels);
        let _ = writeln!(self.0, " {value}");
    }

    fn labels(&mut self, labels: &[(&str, &str)]) {
        if labels.is_empty() {
            return;
        }
        let escape = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
        let _ = write!(self.0, "{{{}}}", pairs.join(","));
    }

    fn labelled(&mut self, name: &str, help: &str, label: &str, counter: &LabelledCounter) {
        self.header(name, "counter", help);
        for (value, n) in lock(&counter.0).iter() {
            self.line(name, &[(label, value)], *n);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.header(name, "histogram", help);
        let state = lock(&histogram.0);
        for (bound, n) in SECONDS.iter().zip(state.buckets) {
            self.line(&format!("{name}_bucket"), &[("le", &bound.to_string())], n);
        }
        self.line(&format!("{name}_bucket"), &[("le", "+Inf")], state.count);
        let _ = writeln!(self.0, "{name}_sum {}", state.sum);
        self.line(&format!("{name}_count"), &[], state.count);
    }
}

/// Nothing panics while one of these locks is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_in_the_exposition_format() {
        let metrics = Metrics::default();
        metrics.pushes.increment("cds");
        metrics.rejected.increment("a\"b\\c\nd");
        metrics.converged(Duration::from_millis(50));
        let page = metrics.render(&Connections::new());
        assert!(page.contains("pilot_xds_pushes{type=\"cds\"} 1\n"));
        assert!(page.contains("pilot_total_rejected_configs{type=\"a\\\"b\\\\c\\nd\"} 1\n"));
        assert!(page.contains("pilot_proxy_convergence_time_bucket{le=\"0.01\"} 0\n"));
        assert!(page.contains("pilot_proxy_convergence_time_bucket{le=\"0.1\"} 1\n"));
        assert!(page.contains("pilot_proxy_convergence_time_bucket{le=\"+Inf\"} 1\n"));
        let families = lateen_testkit::prometheus::read(&page).unwrap_or_else(|error| panic!("{error}\n{page}"));
        let rejected = [("type", "a\"b\\c\nd")];
        assert_eq!(lateen_testkit::prometheus::value(&families, "pilot_total_rejected_configs", &rejected), Some(1.0));
    }
}
