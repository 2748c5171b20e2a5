//! What a request costs in instructions, for a profiler: `scripts/profile-request` runs it under callgrind.

use super::exchange::serving;
use crate::config::{Listener, Terminal};
use crate::connection::Connection;
use crate::serve_http::serve_http;
use crate::stream::{Stream, Tcp};
use lateen_model::dataplane::{
    Direction, HttpFilter, PeerMetadata, RetryBackOff, RetryOn, RetryPolicy, RouteSource, StatsFilter, TransportProtocol,
};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use tokio::task::LocalSet;

/// What wrk sends and nginx answers.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: server:80\r\n\r\n";
const HEAD: &str = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 23 Nov 2026 07:00:00 GMT\r\nContent-Type: text/plain\r\n\
Content-Length: 1024\r\nConnection: keep-alive\r\n\r\n";

/// Answers each request of each connection.
fn application() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let answer = [HEAD.as_bytes(), &[b'x'; 1024]].concat();
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.expect("a connection"), answer.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(&answer);
                }
            });
        }
    });
    address
}

fn ask(mut stream: TcpStream, requests: usize) {
    let mut buffer = [0; 4096];
    for _ in 0..requests {
        stream.write_all(REQUEST).expect("the proxy reads");
        let mut got = 0;
        while !(got > 1024 && got >= head_end(&buffer[..got]).expect("a head") + 1024) {
            let n = stream.read(&mut buffer[got..]).expect("the proxy answers");
            assert!(n > 0, "the proxy closed");
            got += n;
        }
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// Istio's default.
fn retries() -> RetryPolicy {
    RetryPolicy {
        on: RetryOn::CONNECT_FAILURE,
        num_retries: 2,
        per_try_timeout: None,
        retriable_statuses: vec![503],
        avoid_previous_hosts: true,
        host_selection_attempts: 5,
        avoid_previous_priorities: None,
        back_off: RetryBackOff::default(),
    }
}

fn listener(direction: Direction, cluster: &str) -> lateen_model::dataplane::Listener {
    let mut hcm = super::hcm(RouteSource::Rds("80".to_owned()));
    hcm.http_filters = vec![
        HttpFilter::PeerMetadata(PeerMetadata { direction, skip_external_clusters: true }),
        HttpFilter::GrpcStats,
        HttpFilter::Alpn,
        HttpFilter::Fault,
        HttpFilter::Cors,
        HttpFilter::Stats(StatsFilter { direction, host_header_fallback: true }),
    ];
    let mut routes = super::routes("80", &[cluster]);
    routes.virtual_hosts[0].routes[0].action = match routes.virtual_hosts[0].routes[0].action.clone() {
        lateen_model::dataplane::RouteAction::Forward(mut forward) => {
            forward.retry = Some(retries());
            lateen_model::dataplane::RouteAction::Forward(forward)
        }
        other => other,
    };
    let mut listener = serving(hcm, routes);
    listener.direction = direction;
    listener
}

#[test]
#[ignore = "a profile: scripts/profile-request"]
fn a_hop() {
    let requests = std::env::var("REQUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let address = application().to_string();
    let name = "outbound|80||server.pair.svc.cluster.local";
    let clusters = [super::cluster(name, Some(&[&address]))];
    let proxy = super::exchange::Proxy::new(&listener(Direction::Outbound, name), &clusters);
    let own = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(own.local_addr().expect("bound")).expect("connects");
    let asking = std::thread::spawn(move || ask(client, requests));
    let (accepted, remote) = own.accept().expect("accepts");
    accepted.set_nonblocking(true).expect("a socket");
    let listener: Arc<Listener> = proxy.shared.snapshot.load_full().listeners.get("inbound").expect("in force").clone();
    let chain = listener.chain(lateen_policy::filter_chain::ChainChoice::Chain(0)).expect("one chain").clone();
    let Terminal::Http(hcm) = &chain.terminal else { panic!("HTTP") };
    let connection = Rc::new(Connection {
        id: 7,
        accepted_by: "inbound".into(),
        remote,
        destination: "10.1.0.4:8080".parse().expect("an address"),
        transport: TransportProtocol::RawBuffer,
        sni: None,
        protocols: Vec::new(),
        tls: None,
        forwarded_client_cert: std::cell::OnceCell::new(),
        opening: std::cell::RefCell::default(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(LocalSet::new().run_until(async {
        let stream = Stream::Plain(Tcp::new(tokio::net::TcpStream::from_std(accepted).expect("a socket")));
        Box::pin(serve_http(proxy.worker.clone(), connection, stream, listener.clone(), hcm.clone())).await;
    }));
    asking.join().expect("all were answered");
}
