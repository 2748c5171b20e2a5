//! Metrics as Prometheus sees them, and their bounds.

use lateen_observe::istio::{
    GrpcStatus, HttpRecord, HttpSubject, Interned, Interner, IstioMetrics, Peer, Reporter, RequestProtocol, Service, TcpReport,
    TcpSubject,
};
use lateen_observe::metrics::{Buckets, Format, LabelSet, Limits, Registry, SeriesCache};
use lateen_observe::{ResponseFlag, ResponseFlags};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

fn registry(limits: Limits) -> Registry {
    Registry::new(limits)
}

/// The lines of one family, without the registry's own.
fn lines(registry: &Registry, family: &str) -> Vec<String> {
    let text = registry.render(Format::Prometheus);
    text.lines().filter(|line| line.starts_with(family)).map(str::to_owned).collect()
}

#[test]
fn golden_exposition() {
    let registry = registry(Limits::default());
    let (one, two) = (registry.shard(), registry.shard());
    let requests = registry.counter("demo_requests_total", "Requests.\nAll of \\them.").expect("a new family");
    let open = registry.gauge("demo_open", "Open now.").expect("a new family");
    let took = registry
        .histogram("demo_milliseconds", "Took.", Buckets::try_new(&[0.5, 1.0, 2.5], 1000).expect("ascending"))
        .expect("a new family");
    registry.gauge_fn("demo_build", "Build.", LabelSet::new([("tag", "1.0")]), || 1.0).expect("a new family");
    let label = LabelSet::new([("path", "a\"b\\c\nd")]);
    one.get(&requests, &label).add(2);
    two.get(&requests, &label).inc();
    one.get(&open, &LabelSet::none()).add(3);
    two.get(&open, &LabelSet::none()).add(-4);
    for micros in [400, 900, 900, 2_000] {
        one.get(&took, &LabelSet::none()).observe(micros);
    }
    two.get(&took, &LabelSet::none()).observe(9_300);
    let own = "# HELP lateen_metrics_series_evicted_total Series removed because they were idle.
# TYPE lateen_metrics_series_evicted_total counter
lateen_metrics_series_evicted_total 0
# HELP lateen_metrics_series_overflow_total Lookups that found no room for a series of their own.
# TYPE lateen_metrics_series_overflow_total counter
lateen_metrics_series_overflow_total 0
";
    let wanted = r#"# HELP demo_build Build.
# TYPE demo_build gauge
demo_build{tag="1.0"} 1
# HELP demo_milliseconds Took.
# TYPE demo_milliseconds histogram
demo_milliseconds_bucket{le="0.5"} 1
demo_milliseconds_bucket{le="1"} 3
demo_milliseconds_bucket{le="2.5"} 4
demo_milliseconds_bucket{le="+Inf"} 5
demo_milliseconds_sum 13.5
demo_milliseconds_count 5
# HELP demo_open Open now.
# TYPE demo_open gauge
demo_open -1
# HELP demo_requests_total Requests.\nAll of \\them.
# TYPE demo_requests_total counter
demo_requests_total{path="a\"b\\c\nd"} 3
"#;
    assert_eq!(registry.render(Format::Prometheus), format!("{wanted}{own}"));
    let open_metrics = registry.render(Format::OpenMetrics);
    assert!(open_metrics.contains("# TYPE demo_requests counter\ndemo_requests_total{"), "{open_metrics}");
    assert!(open_metrics.contains("le=\"1.0\"") && open_metrics.ends_with("\n# EOF\n"), "{open_metrics}");
}

#[test]
fn a_name_has_one_kind() {
    let registry = registry(Limits::default());
    registry.counter("x_total", "X.").expect("new");
    registry.counter("x_total", "X.").expect("the same again");
    assert!(registry.gauge("x_total", "X.").is_err());
    for name in ["", "1x", "a-b", "a b", "\u{e9}"] {
        assert!(registry.counter(name, "X.").is_err(), "{name}");
    }
}

#[test]
fn shards_are_summed_while_workers_count() {
    let registry = registry(Limits::default());
    let family = registry.counter("x_total", "X.").expect("new");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let counter = registry.shard().get(&family, &LabelSet::none());
                for _ in 0..10_000 {
                    counter.inc();
                }
            });
        }
        for _ in 0..10 {
            registry.render(Format::Prometheus);
        }
    });
    assert_eq!(lines(&registry, "x_total"), ["x_total 40000"]);
}

#[test]
fn idle_series_go_unless_someone_holds_them() {
    let registry = registry(Limits { idle: MINUTE, ..Limits::default() });
    let shard = registry.shard();
    let family = registry.counter("x_total", "X.").expect("new");
    let label = |value: &str| LabelSet::new([("l", value)]);
    let held = shard.get(&family, &label("held"));
    held.inc();
    shard.get(&family, &label("gone")).inc();
    let start = Instant::now();
    registry.sweep(start);
    registry.sweep(start + MINUTE / 2);
    assert_eq!(registry.series_count(), 2);
    let generation = registry.generation();
    registry.sweep(start + 2 * MINUTE);
    assert_eq!(lines(&registry, "x_total"), ["x_total{l=\"held\"} 1"]);
    assert!(registry.generation() > generation, "caches have to let go");
    held.inc();
    drop(held);
    registry.sweep(start + 3 * MINUTE);
    assert_eq!(registry.series_count(), 1, "it was used since the last sweep");
    registry.sweep(start + 4 * MINUTE);
    assert_eq!(registry.series_count(), 0);
    assert_eq!(lines(&registry, "lateen_metrics_series_evicted_total"), ["lateen_metrics_series_evicted_total 2"]);
}

#[test]
fn a_cache_lets_go_when_asked() {
    let registry = registry(Limits { idle: MINUTE, ..Limits::default() });
    let shard = registry.shard();
    let family = registry.counter("x_total", "X.").expect("new");
    let mut cache = SeriesCache::new(registry.clone());
    let mut resolved = 0;
    let mut count = |cache: &mut SeriesCache<u32, _>| {
        let resolve = || {
            resolved += 1;
            shard.get(&family, &LabelSet::none())
        };
        cache.get_or_resolve(7, resolve).inc();
    };
    let start = Instant::now();
    count(&mut cache);
    count(&mut cache);
    registry.sweep(start);
    registry.sweep(start + 2 * MINUTE);
    assert_eq!(lines(&registry, "x_total"), ["x_total 2"], "the cache holds it");
    count(&mut cache);
    assert_eq!(resolved, 2, "once, and again when the cache had started over");
    assert_eq!(lines(&registry, "x_total"), ["x_total 3"], "nothing was lost");
}

struct Ends {
    source: Arc<Interned<Peer>>,
    destination: Arc<Interned<Peer>>,
    service: Arc<Interned<Service>>,
}

fn frontend() -> Peer {
    Peer {
        workload: "frontend".into(),
        namespace: "production".into(),
        principal: "spiffe://cluster.local/ns/production/sa/frontend-sa".into(),
        app: "frontend".into(),
        version: "v1".into(),
        cluster: "Kubernetes".into(),
        canonical_service: "frontend".into(),
        canonical_revision: "v1".into(),
    }
}

fn ends() -> Ends {
    let mut peers = Interner::new(100);
    let order = Peer {
        workload: "order-service-v1".into(),
        principal: "spiffe://cluster.local/ns/production/sa/order-service-sa".into(),
        app: "order-service".into(),
        canonical_service: "order-service".into(),
        ..frontend()
    };
    let service = Service {
        host: "order-service.production.svc.cluster.local".into(),
        name: "order-service".into(),
        namespace: "production".into(),
    };
    Ends { source: peers.intern(frontend()), destination: peers.intern(order), service: Interner::new(100).intern(service) }
}

fn http<'a>(ends: &'a Ends, reporter: Reporter) -> HttpSubject<'a> {
    HttpSubject {
        reporter,
        source: &ends.source,
        destination: &ends.destination,
        service: &ends.service,
        protocol: RequestProtocol::Http,
        response_code: 200,
        grpc_status: None,
        flags: ResponseFlags::NONE,
        mutual_tls: true,
    }
}

const FROM_FRONTEND: &str = r#"source_workload="frontend",source_canonical_service="frontend",source_canonical_revision="v1",source_workload_namespace="production",source_principal="spiffe://cluster.local/ns/production/sa/frontend-sa",source_app="frontend",source_version="v1",source_cluster="Kubernetes""#;
const TO_ORDER: &str = r#"destination_workload="order-service-v1",destination_workload_namespace="production",destination_principal="spiffe://cluster.local/ns/production/sa/order-service-sa",destination_app="order-service",destination_version="v1",destination_service="order-service.production.svc.cluster.local",destination_canonical_service="order-service",destination_canonical_revision="v1",destination_service_name="order-service",destination_service_namespace="production",destination_cluster="Kubernetes""#;

#[test]
fn istio_http_metrics_have_istios_labels() {
    let registry = registry(Limits::default());
    let mut worker = IstioMetrics::register(&registry, "proxy", "0.1.0").expect("a new registry").worker();
    let ends = ends();
    let record = HttpRecord { duration: Duration::from_micros(700), request_bytes: 120, response_bytes: 4_000 };
    worker.http(&http(&ends, Reporter::Source)).record(&record);
    worker.http(&http(&ends, Reporter::Destination)).record(&record);
    worker.http(&http(&ends, Reporter::Destination)).record(&record);
    let subject = HttpSubject {
        response_code: 503,
        flags: ResponseFlags::from(ResponseFlag::UpstreamOverflow),
        mutual_tls: false,
        ..http(&ends, Reporter::Destination)
    };
    worker.http(&subject).record(&record);
    let subject = HttpSubject {
        protocol: RequestProtocol::Grpc,
        grpc_status: GrpcStatus::parse(b"14"),
        ..http(&ends, Reporter::Destination)
    };
    let series = worker.http(&subject);
    series.record(&record);
    series.record_messages(3, 5);
    let expected = |reporter: &str, protocol: &str, code: u16, grpc: &str, flags: &str, security: &str, value: u32| {
        format!(
            "istio_requests_total{{reporter=\"{reporter}\",{FROM_FRONTEND},{TO_ORDER},request_protocol=\"{protocol}\",\
             response_code=\"{code}\",grpc_response_status=\"{grpc}\",response_flags=\"{flags}\",\
             connection_security_policy=\"{security}\"}} {value}"
        )
    };
    let mut wanted = [
        expected("destination", "grpc", 200, "14", "-", "mutual_tls", 1),
        expected("destination", "http", 200, "", "-", "mutual_tls", 2),
        expected("destination", "http", 503, "", "UO", "none", 1),
        expected("source", "http", 200, "", "-", "unknown", 1),
    ];
    wanted.sort();
    let mut found = lines(&registry, "istio_requests_total");
    found.sort();
    assert_eq!(found, wanted);
    let destination: Vec<_> = lines(&registry, "istio_request_duration_milliseconds")
        .into_iter()
        .filter(|line| line.contains("reporter=\"source\"") && !line.contains("_bucket"))
        .collect();
    assert_eq!(destination.len(), 2);
    assert!(destination[0].ends_with("} 0.7") && destination[1].ends_with("} 1"), "{destination:?}");
    let buckets = lines(&registry, "istio_response_bytes_bucket{reporter=\"source\"");
    assert_eq!(buckets.len(), 20);
    assert!(buckets[10].ends_with(r#"le="2500"} 0"#) && buckets[11].ends_with(r#"le="5000"} 1"#), "{buckets:?}");
    assert!(lines(&registry, "istio_request_messages_total")[0].ends_with(" 3"));
    assert!(lines(&registry, "istio_response_messages_total")[0].ends_with(" 5"));
    assert_eq!(lines(&registry, "istio_build"), [r#"istio_build{component="proxy",tag="0.1.0"} 1"#]);
}

#[test]
fn tcp_bytes_are_reported_as_they_pass() {
    let registry = registry(Limits::default());
    let mut worker = IstioMetrics::register(&registry, "proxy", "0.1.0").expect("a new registry").worker();
    let ends = ends();
    let subject = TcpSubject {
        reporter: Reporter::Source,
        source: &ends.source,
        destination: &ends.destination,
        service: &ends.service,
        flags: ResponseFlags::NONE,
        mutual_tls: true,
    };
    let mut report = TcpReport::open(worker.tcp(&subject));
    let value = |family: &str| {
        let lines = lines(&registry, family);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(!lines[0].contains("response_code") && lines[0].contains("request_protocol=\"tcp\""), "{lines:?}");
        lines[0].rsplit_once(' ').expect("a value").1.to_owned()
    };
    assert_eq!(
        (value("istio_tcp_connections_opened_total"), value("istio_tcp_connections_closed_total")),
        ("1".into(), "0".into())
    );
    report.progress(100, 10);
    report.progress(150, 10);
    assert_eq!((value("istio_tcp_sent_bytes_total"), value("istio_tcp_received_bytes_total")), ("150".into(), "10".into()));
    report.close(worker.tcp(&subject), 160, 30);
    assert_eq!((value("istio_tcp_sent_bytes_total"), value("istio_tcp_received_bytes_total")), ("160".into(), "30".into()));
    assert_eq!(value("istio_tcp_connections_closed_total"), "1");
}

#[test]
fn labels_that_peers_choose_cannot_grow_without_bound() {
    let registry = registry(Limits { series: 40, reserve: 8, idle: MINUTE });
    let mut worker = IstioMetrics::register(&registry, "proxy", "0.1.0").expect("a new registry").worker();
    let ends = ends();
    let mut services = Interner::new(10);
    for index in 0..1_000 {
        let service = services.intern(Service::from_host(&format!("host-{index}"), "production"));
        let subject = HttpSubject { service: &service, response_code: 200 + index % 300, ..http(&ends, Reporter::Destination) };
        worker.http(&subject).record(&HttpRecord::default());
    }
    assert!(registry.series_count() <= 40 + 8 + 8 + 4, "{}", registry.series_count());
    let requests = lines(&registry, "istio_requests_total");
    let total: u64 = requests.iter().filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum();
    assert_eq!(total, 1_000, "every request is counted somewhere");
    let own = |line: &&String| {
        line.contains("destination_workload=\"order-service-v1\"") && line.contains("destination_service=\"other\"")
    };
    assert!(requests.iter().any(|line| own(&line)), "own labels stay: {requests:?}");
    assert!(requests.iter().any(|line| line.contains("response_code=\"other\"")), "{requests:?}");
    let overflow = lines(&registry, "lateen_metrics_series_overflow_total");
    assert_eq!(overflow.len(), 1);
    assert!(!overflow[0].ends_with(" 0"), "{overflow:?}");
    // When the flood is over and its series are gone, others find room again.
    let start = Instant::now();
    for minute in 0..3 {
        registry.sweep(start + minute * 2 * MINUTE);
        worker.http(&http(&ends, Reporter::Destination)).record(&HttpRecord::default());
    }
    registry.sweep(start + 7 * MINUTE);
    let service = services.intern(Service::from_host("late", "production"));
    worker.http(&HttpSubject { service: &service, ..http(&ends, Reporter::Destination) }).record(&HttpRecord::default());
    assert!(lines(&registry, "istio_requests_total").iter().any(|line| line.contains("destination_service=\"late\"")));
}
