//! A control plane in this process, and clients for it.
#![allow(dead_code, reason = "each test binary uses a part")]

use lateen_control::debounce::DebounceConfig;
use lateen_control::server::{Config, Running, start};
use lateen_control::source::Input;
use lateen_control::world::Settings;
use lateen_model::identity::TrustDomain;
use lateen_model::resource::{ClusterState, PodPort, PodRecord, TransportProtocol, WorkloadRef};
use lateen_tls::{CertificateAuthority, TokenIssuer, TokenVerifier};
use lateen_xds::client::{self, Connected, Endpoint, Handle, Update, Updates};
use lateen_xds::server::BoxFuture;
use lateen_xds::{Node, NodeType, ResourceType};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

pub(crate) const SCENARIO: &str = include_str!("../scenario.yaml");
/// Longer than anything takes on a busy machine; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Mesh {
    pub(crate) running: Option<Running>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) issuer: TokenIssuer,
    pub(crate) debounce: DebounceConfig,
    /// Where it listened first; a restarted one listens there again.
    address: Option<SocketAddr>,
}

impl Mesh {
    pub(crate) async fn start(debounce: DebounceConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        std::fs::write(dir.path().join("manifests/scenario.yaml"), SCENARIO).unwrap();
        let issuer = TokenIssuer::generate("test").unwrap();
        let mut mesh = Self { running: None, dir, issuer, debounce, address: None };
        mesh.run().await;
        mesh
    }

    /// Starts it, again if need be.
    pub(crate) async fn run(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
        let ca = self.dir.path().join("ca");
        let options = lateen_tls::RootOptions { trust_domain: TrustDomain::default(), lifetime: Duration::from_secs(86_400) };
        let authority = CertificateAuthority::load_or_create(&ca, &options).unwrap();
        let tokens =
            TokenVerifier::from_public_keys_pem(self.issuer.public_key_pem().as_bytes(), "test", vec!["istio-ca".into()]);
        let local = "127.0.0.1:0".parse().unwrap();
        let config = Config {
            settings: Settings::default(),
            manifests: vec![self.dir.path().join("manifests")],
            state_socket: Some(self.socket()),
            secure_grpc: local,
            plain_grpc: Some(self.address.unwrap_or(local)),
            http: vec![local],
            authority,
            tokens: Some(tokens.unwrap()),
            server_names: vec!["localhost".into()],
            debounce: self.debounce,
            streams_per_second: Some(1000),
        };
        let running = start(config).await.unwrap();
        self.address = running.plain_grpc;
        self.running = Some(running);
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("control.sock")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join("manifests").join(name), text).unwrap();
    }

    pub(crate) async fn pods(&self, generation: u64, pods: &[PodRecord]) {
        let names = ["legacy/batch", "production/frontend", "production/order-service", "production/payment-service"];
        let cluster_ips: BTreeMap<_, _> =
            names.iter().zip(1u8..).map(|(n, i)| ((*n).to_owned(), vec![[10, 96, 0, i].into()])).collect();
        let (done, applied) = oneshot::channel();
        let state = Arc::new(ClusterState { pods: pods.to_vec(), cluster_ips, generation });
        self.running().inputs.send(Input::Cluster { state, done }).await.unwrap();
        assert_eq!(tokio::time::timeout(PATIENCE, applied).await.unwrap().unwrap(), generation);
    }

    pub(crate) async fn ready(&self) {
        tokio::time::timeout(PATIENCE, self.running().ready()).await.unwrap();
    }

    pub(crate) fn client(&self, namespace: &str, name: &str) -> Client {
        Client::new(self.address.unwrap(), namespace, name)
    }

    /// A page over the Unix socket: status and body.
    pub(crate) async fn owner(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        request(tokio::net::UnixStream::connect(self.socket()).await.unwrap(), method, target, body).await
    }

    /// A page over TCP.
    pub(crate) async fn page(&self, target: &str) -> (u16, String) {
        request(TcpStream::connect(self.running().http[0]).await.unwrap(), "GET", target, "").await
    }

    /// The address of plaintext ADS.
    pub(crate) fn plain(&self) -> SocketAddr {
        self.address.unwrap()
    }

    pub(crate) async fn json(&self, target: &str) -> serde_json::Value {
        let (status, body) = self.page(target).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

async fn request(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, method: &str, target: &str, body: &str) -> (u16, String) {
    let head = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

pub(crate) fn pod(name: &str, ip: u8, app: &str, version: &str) -> PodRecord {
    let labels = [("app", app), ("version", version), ("security.istio.io/tlsMode", "istio")];
    PodRecord {
        name: name.to_owned(),
        namespace: "production".to_owned(),
        uid: name.to_owned(),
        hostname: String::new(),
        subdomain: String::new(),
        ips: vec![[10, 0, 0, ip].into()],
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        annotations: BTreeMap::new(),
        service_account: format!("{app}-sa"),
        workload: WorkloadRef { kind: "Deployment".to_owned(), name: app.to_owned() },
        node: "node".to_owned(),
        ports: vec![PodPort { name: "http".to_owned(), port: 8080, protocol: TransportProtocol::Tcp }],
        injected: true,
        ready: true,
        terminating: false,
        created: 0,
    }
}

pub(crate) fn pods() -> Vec<PodRecord> {
    vec![
        pod("frontend-0", 1, "frontend", "v1"),
        pod("order-v1-0", 2, "order-service", "v1"),
        pod("order-v1-1", 3, "order-service", "v1"),
        pod("order-v2-0", 4, "order-service", "v2"),
        pod("payment-0", 5, "payment-service", "v1"),
        pod("payment-1", 6, "payment-service", "v1"),
    ]
}

/// A way to a control plane which can be shut, so that nothing that is sent through it is read.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    shut: watch::Sender<bool>,
}

impl Gate {
    pub(crate) async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (shut, seen) = watch::channel(false);
        let gate = Self { address: listener.local_addr().unwrap(), shut };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(target).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(pass(from_client, to_server, seen.clone()));
                tokio::spawn(pass(from_server, to_client, seen.clone()));
            }
        });
        gate
    }

    pub(crate) fn shut(&self, yes: bool) {
        self.shut.send_replace(yes);
    }
}

async fn pass(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, mut shut: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 * 1024];
    while shut.wait_for(|shut| !shut).await.is_ok() {
        match from.read(&mut buffer).await {
            Ok(n) if n > 0 && to.write_all(&buffer[..n]).await.is_ok() => {}
            _ => return,
        }
    }
}

struct Plain(SocketAddr);

impl Endpoint for Plain {
    fn connect(&self) -> BoxFuture<'_, Result<Connected, String>> {
        let address = self.0;
        Box::pin(async move {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
            let channel = endpoint.connect().await.map_err(|e| e.to_string())?;
            Ok(Connected { channel, authorization: None })
        })
    }
}

/// A proxy that accepts everything and remembers it.
pub(crate) struct Client {
    pub(crate) handle: Handle,
    pub(crate) updates: Updates,
    pub(crate) resources: BTreeMap<(String, String), Vec<u8>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    pub(crate) fn new(address: SocketAddr, namespace: &str, name: &str) -> Self {
        let node = Node::new(NodeType::Sidecar, [10, 0, 0, 1].into(), name, namespace, "cluster.local");
        let options = client::Options { back_off: Duration::from_millis(20), ..client::Options::default() };
        let (handle, updates, run) = client::run(&node, Plain(address), options);
        let task = tokio::spawn(run);
        Self { handle, updates, resources: BTreeMap::new(), task }
    }

    /// Subscribes as a sidecar does and takes what there is.
    pub(crate) async fn sync(&mut self) {
        self.handle.subscribe_all(ResourceType::Cds);
        self.handle.subscribe_all(ResourceType::Lds);
        self.until(|c| !c.names("CDS").is_empty() && !c.names("LDS").is_empty()).await;
        let clusters: Vec<String> = self.names("CDS").into_iter().filter(|n| n.starts_with("outbound|")).collect();
        self.handle.subscribe(ResourceType::Eds, clusters.clone());
        self.handle.subscribe(ResourceType::Rds, ["80"]);
        self.until(|c| c.names("EDS").len() == clusters.len() && c.names("RDS").len() == 1).await;
    }

    pub(crate) fn names(&self, ty: &str) -> Vec<String> {
        self.resources.keys().filter(|(t, _)| t == ty).map(|(_, n)| n.clone()).collect()
    }

    pub(crate) async fn next(&mut self) -> Update {
        let update = tokio::time::timeout(PATIENCE, self.updates.recv()).await.expect("no update came").unwrap();
        let ty = update.ty.short_name().to_owned();
        for added in &update.added {
            self.resources.insert((ty.clone(), added.name.clone()), added.body.to_vec());
        }
        for name in &update.removed {
            self.resources.remove(&(ty.clone(), name.clone()));
        }
        self.handle.ack(update.id.clone());
        update
    }

    pub(crate) async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.next().await;
        }
    }
}
