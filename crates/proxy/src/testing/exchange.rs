//! Requests through a proxy without threads: a client, the proxy's own serving of one connection, and an upstream, on loopback.

use super::Encode;
use crate::config::secrets::Secrets;
use crate::config::{Listener, Snapshot, Store, Terminal};
use crate::connection::Connection;
use crate::listener::Accepted;
use crate::serve_http::serve_http;
use crate::shared::Shared;
use crate::stream::{Stream, Tcp};
use crate::worker::Worker;
use lateen_model::dataplane::{self, HttpConnectionManager, RouteConfiguration, RouteSource, TransportProtocol};
use lateen_testkit::certificates::{TestCa, spiffe};
use lateen_testkit::prometheus::Family;
use lateen_tls::{ClientAuth, ClientParams, ClientTls, ConnectOptions, PeerExpectation, PeerInfo, ServerParams, ServerTls};
use lateen_xds::ResourceType;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::Instant;

/// The name of the proxy's only listener and of its only route configuration.
const NAME: &str = "inbound";

/// A proxy with one listener.
pub(crate) struct Proxy {
    pub(crate) shared: Arc<Shared>,
    pub(crate) worker: Rc<Worker>,
    /// The client's end of mTLS, as the proxy would have learnt it.
    pub(crate) peer: Option<PeerInfo>,
}

impl Proxy {
    /// Serves by this listener, with these clusters.
    pub(crate) fn new(listener: &dataplane::Listener, clusters: &[dataplane::Cluster]) -> Self {
        let shared = super::shared();
        let mut store = Store::new(Secrets::new(shared.identity.clone()), shared.telemetry.clone());
        let encoded: Vec<_> = clusters.iter().map(Encode::encoded).collect();
        for (ty, resources) in [(ResourceType::Cds, encoded), (ResourceType::Lds, vec![listener.encoded()])] {
            assert_eq!(store.apply(ty, &resources, &[], Instant::now()).rejections, []);
        }
        shared.snapshot.store(Arc::new(store.snapshot()));
        let worker = super::worker(&shared);
        Self { shared, worker, peer: None }
    }

    fn listener(&self) -> Arc<Listener> {
        let snapshot: Arc<Snapshot> = self.shared.snapshot.load_full();
        snapshot.listeners.get(NAME).expect("in force").clone()
    }

    /// Sends bytes on one connection and gives back all that comes until the proxy closes it: a request should ask for that.
    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> String {
        let request = request.as_ref();
        let (client, server) = connected().await;
        let connection = Rc::new(Connection {
            id: 7,
            accepted_by: NAME.into(),
            remote: "10.9.9.9:40000".parse().expect("an address"),
            destination: "10.1.0.4:8080".parse().expect("an address"),
            transport: if self.peer.is_some() { TransportProtocol::Tls } else { TransportProtocol::RawBuffer },
            sni: self.peer.as_ref().map(|_| "outbound_.80_._.a.prod.svc.cluster.local".to_owned()),
            protocols: Vec::new(),
            tls: self.peer.clone(),
            forwarded_client_cert: std::cell::OnceCell::new(),
            opening: std::cell::RefCell::default(),
        });
        let listener = self.listener();
        let chosen = lateen_policy::filter_chain::ChainChoice::Chain(0);
        let chain = listener.chain(chosen).expect("one chain").clone();
        let stream = Stream::Plain(Tcp::new(server));
        let serving = async {
            match &chain.terminal {
                Terminal::Http(hcm) => {
                    let (worker, hcm) = (self.worker.clone(), hcm.clone());
                    Box::pin(serve_http(worker, connection, stream, listener.clone(), hcm)).await;
                }
                Terminal::Tcp(_) => {
                    Box::pin(crate::tcp::serve(self.worker.clone(), connection, stream, chain.clone(), None)).await;
                }
            }
        };
        let asking = async {
            let (mut from, mut to) = client.into_split();
            to.write_all(request).await.expect("the proxy reads");
            let mut answer = Vec::new();
            // A reset is an end too.
            let _ = from.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        LocalSet::new().run_until(async { tokio::join!(serving, asking).1 }).await
    }

    /// Sends bytes on a connection that the listener has accepted, from detection on.
    pub(crate) async fn accept(&self, request: &[u8]) -> String {
        let (mut client, server) = connected().await;
        let accepted = Accepted {
            listener: NAME.into(),
            remote: server.peer_addr().expect("connected"),
            stream: server.into_std().expect("a socket"),
            guard: self.shared.workers()[0].connection_guard(),
        };
        let asking = async {
            client.write_all(request).await.expect("the proxy reads");
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        let serving = crate::connection::serve(self.worker.clone(), accepted);
        LocalSet::new().run_until(async { tokio::join!(serving, asking).1 }).await
    }

    /// The proxy's metrics.
    pub(crate) fn metrics(&self) -> Vec<Family> {
        let text = self.shared.telemetry.registry().render(lateen_observe::metrics::Format::Prometheus);
        lateen_testkit::prometheus::read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }
}

/// An inbound listener with this connection manager and these routes.
pub(crate) fn serving(mut hcm: HttpConnectionManager, routes: RouteConfiguration) -> dataplane::Listener {
    hcm.routes = RouteSource::Inline(Box::new(routes));
    let mut listener = super::listener(NAME, "0.0.0.0:15006", dataplane::Terminal::Http(Box::new(hcm)));
    listener.direction = dataplane::Direction::Inbound;
    listener
}

/// An inbound listener that passes bytes to a cluster.
pub(crate) fn passing(tcp: dataplane::TcpProxy) -> dataplane::Listener {
    let mut listener = super::listener(NAME, "0.0.0.0:15006", dataplane::Terminal::Tcp(tcp));
    listener.direction = dataplane::Direction::Inbound;
    listener
}

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.expect("connects"), accepted.expect("accepts").0)
}

/// An application that answers every connection with the same bytes, and remembers what it was asked.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// Answers once the whole of a request is there: its head, and its body as told by `content-length`.
    pub(crate) fn start(answer: &'static str) -> Self {
        Self::start_with(answer, None)
    }

    /// As [`Self::start`], behind TLS.
    pub(crate) fn start_tls(answer: &'static str, tls: ServerTls) -> Self {
        Self::start_with(answer, Some(tls))
    }

    fn start_with(answer: &'static str, tls: Option<ServerTls>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                while let Ok((stream, _)) = listener.accept().await {
                    match &tls {
                        None => answer_one(stream, &heard, answer).await,
                        Some(tls) => match lateen_tls::accept(stream, tls).await {
                            Ok((stream, _)) => answer_one(stream, &heard, answer).await,
                            Err(error) => eprintln!("upstream: {error}"),
                        },
                    }
                }
            });
        });
        Self { address, asked }
    }

    /// The last request.
    pub(crate) fn asked(&self) -> String {
        self.asked.lock().expect("not poisoned").last().cloned().unwrap_or_default()
    }
}

async fn answer_one(mut stream: impl AsyncRead + AsyncWrite + Unpin, heard: &Mutex<Vec<String>>, answer: &str) {
    let request = read_request(&mut stream).await;
    heard.lock().expect("not poisoned").push(request);
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = String::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                return text;
            }
        }
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => text.push_str(&String::from_utf8_lossy(&chunk[..n])),
            _ => return text,
        }
    }
}

/// Workloads of one mesh.
pub(crate) struct Mesh(TestCa);

impl Mesh {
    pub(crate) fn new() -> Self {
        Self(TestCa::new())
    }

    /// Makes the proxy itself a workload of the mesh, as the control plane would.
    pub(crate) fn admit(&self, proxy: &Proxy) {
        proxy.shared.identity.install_trust(self.0.trust());
        proxy.shared.identity.install(self.0.workload(&proxy.shared.settings.identity).credential());
    }

    /// A server that wants a certificate.
    pub(crate) fn server(&self, id: &str, alpn: &str) -> ServerTls {
        let identity = self.0.identity(&spiffe(id));
        let params = ServerParams {
            credential: identity.credential().clone(),
            client_auth: ClientAuth::Required(identity.trust().clone(), PeerExpectation::from_san_matches(&[])),
            params: dataplane::TlsParams::default(),
            alpn: vec![alpn.to_owned()],
        };
        ServerTls::new(params).expect("right")
    }

    /// What the server learns of a client.
    pub(crate) async fn peer(&self, client: &str, server: &str, alpn: &str) -> PeerInfo {
        let identity = self.0.identity(&spiffe(client));
        let params = ClientParams {
            credential: Some(identity.credential().clone()),
            trust: identity.trust().clone(),
            expectation: PeerExpectation::from_san_matches(&[]),
            params: dataplane::TlsParams::default(),
            alpn: vec![alpn.to_owned()],
            server_name: None,
            session_servers: 1,
        };
        let (server, client) = (self.server(server, alpn), ClientTls::new(params).expect("right"));
        let (a, b) = tokio::io::duplex(1 << 16);
        let connecting = lateen_tls::connect(a, &client, ConnectOptions::default());
        let (connected, accepted) = tokio::join!(connecting, lateen_tls::accept(b, &server));
        connected.expect("a handshake");
        accepted.expect("a handshake").1
    }
}

/// What is spoken to a cluster whose endpoints are workloads of the mesh.
pub(crate) fn mutual_tls() -> dataplane::TransportSocket {
    dataplane::TransportSocket::Tls(Box::new(dataplane::UpstreamTls {
        params: dataplane::TlsParams::default(),
        alpn: vec!["istio-http/1.1".to_owned()],
        sni: "outbound_.80_._.app.prod.svc.cluster.local".to_owned(),
        certificate: Some(dataplane::SecretRef::workload_certificate()),
        roots: Some(dataplane::SecretRef::workload_roots()),
        sans: Vec::new(),
        crl_file: None,
    }))
}

/// A place for a log, whose lines can be read when the proxy's telemetry is flushed.
pub(crate) struct LogFile(tempfile::TempDir);

impl LogFile {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    /// A log of this format.
    pub(crate) fn log(&self, format: &str) -> dataplane::AccessLog {
        dataplane::AccessLog {
            target: dataplane::AccessLogTarget::File(self.path().display().to_string()),
            format: dataplane::AccessLogFormat::Text(format.to_owned()),
            only_flag: None,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("access.log")
    }

    /// Ends the proxy and reads what it wrote.
    pub(crate) fn lines(&self, proxy: Proxy) -> Vec<String> {
        let Proxy { shared, worker, .. } = proxy;
        drop(worker);
        // Logs are closed when no listener has them any more.
        shared.snapshot.store(Arc::default());
        shared.telemetry.flush();
        std::fs::read_to_string(self.path()).expect("written").lines().map(str::to_owned).collect()
    }
}

/// The value of a header in what was sent or asked.
pub(crate) fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    head.lines().find_map(|line| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()))
}
