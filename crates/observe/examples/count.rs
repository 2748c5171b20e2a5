//! What telemetry costs a request: `cargo run --release -p lateen-observe --example count`.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use lateen_observe::access_log::{LogFormat, LogRecord};
use lateen_observe::istio::{HttpRecord, HttpSubject, Interner, IstioMetrics, Peer, Reporter, RequestProtocol, Service};
use lateen_observe::metrics::{Format, Limits, Registry};
use lateen_observe::peer_metadata::{PeerCache, PeerMetadata};
use lateen_observe::request_id::RequestIds;
use lateen_observe::trace::{Sampler, TraceContext, TraceIds};
use lateen_observe::{HeaderLookup, ResponseFlags};
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

const ROUNDS: u32 = 2_000_000;

fn time(what: &str, mut round: impl FnMut(u32)) {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        for index in 0..ROUNDS {
            round(index);
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS));
    }
    println!("{best:8.1} ns  {what}");
}

fn main() {
    let registry = Registry::new(Limits::default());
    let mut worker = IstioMetrics::register(&registry, "proxy", "bench").expect("a new registry").worker();
    let (mut peers, mut services) = (Interner::new(100), Interner::new(100));
    let source = peers.intern(Peer::default());
    let destinations: Vec<_> = (0..16).map(|index| peers.intern(Peer::from_principal(&format!("spiffe://d/{index}")))).collect();
    let service = services.intern(Service::default());
    time("one request counted (counter and three histograms, 16 peers, 4 codes)", |index| {
        let subject = HttpSubject {
            reporter: Reporter::Source,
            source: &source,
            destination: &destinations[index as usize % 16],
            service: &service,
            protocol: RequestProtocol::Http,
            response_code: [200, 404, 500, 503][index as usize / 16 % 4],
            grpc_status: None,
            flags: ResponseFlags::NONE,
            mutual_tls: true,
        };
        let record =
            HttpRecord { duration: Duration::from_micros(u64::from(index % 10_000)), request_bytes: 300, response_bytes: 1_300 };
        worker.http(black_box(&subject)).record(black_box(&record));
    });
    let mut ids = RequestIds::new();
    time("a request id", |_| {
        black_box(ids.next_id());
    });
    let headers: &[(&str, &[u8])] = &[
        (":method", b"GET"),
        (":path", b"/v1/orders"),
        (":authority", b"order-service"),
        ("user-agent", b"curl/8"),
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
    ];
    let mut traces = TraceIds::new();
    time("a trace context continued and written, not sampled", |_| {
        let incoming = TraceContext::extract(black_box(headers));
        let own = traces.continue_or_start(incoming.as_ref(), None, Sampler::DEFAULT, None);
        own.inject(None, |name, value| {
            black_box((name, value));
        });
    });
    let encoded = PeerMetadata { workload_name: "web".into(), ..PeerMetadata::default() }.to_header();
    let mut cache = PeerCache::new(256);
    time("peer metadata of a known header", |_| {
        black_box(cache.get_or_decode(black_box(encoded.as_bytes()), |metadata| metadata));
    });
    let (mut out, mut scratch) = (Vec::new(), Vec::new());
    let held = Held(headers);
    for (name, format) in [("text", LogFormat::istio_text()), ("JSON", LogFormat::istio_json())] {
        time(&format!("an access log line, Istio's {name}"), |_| {
            out.clear();
            let address = std::net::SocketAddr::from(([10, 0, 0, 1], 8080)).into();
            let record = LogRecord {
                request_headers: &held,
                response_code: Some(200),
                duration: Some(Duration::from_millis(1)),
                upstream_host: Some(address),
                downstream_remote_address: Some(address),
                ..LogRecord::new(SystemTime::UNIX_EPOCH)
            };
            format.write(black_box(&record), &mut out, &mut scratch);
        });
    }
    let start = Instant::now();
    let bytes = registry.render(Format::Prometheus).len();
    println!("{:8.1} µs  a scrape of {} series, {bytes} bytes", start.elapsed().as_secs_f64() * 1e6, registry.series_count());
}

struct Held<'a>(&'a [(&'a str, &'a [u8])]);

impl HeaderLookup for Held<'_> {
    fn nth(&self, name: &str, index: usize) -> Option<&[u8]> {
        self.0.nth(name, index)
    }
}
