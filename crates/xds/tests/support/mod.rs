//! A server with a fixed set of resources.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "test support")]

pub(crate) mod fixture;

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lateen_xds::client::{Connected, Endpoint};
use lateen_xds::server::{
    AdsService, Authenticator, BoxFuture, Change, ClientInfo, Connections, ControlPlane, Generated, Generator, Names, Peer,
    Rejection, SdsService, ServerOptions, Watch,
};
use lateen_xds::{Generation, Resource, ResourceType};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tower_service::Service;

/// Ends a test that hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("in time")
}

#[derive(Default)]
struct State {
    generation: u64,
    resources: BTreeMap<(ResourceType, String), Arc<Resource>>,
    ready: bool,
}

/// The resources of every client.
#[derive(Clone)]
pub(crate) struct Resources(Arc<Mutex<State>>);

impl Resources {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { generation: 1, ready: true, ..State::default() })))
    }

    pub(crate) fn put(&self, ty: ResourceType, name: &str, body: &[u8]) {
        let resource = Arc::new(Resource::new(name, Bytes::copy_from_slice(body)));
        self.0.lock().unwrap().resources.insert((ty, name.to_owned()), resource);
    }

    pub(crate) fn remove(&self, ty: ResourceType, name: &str) {
        self.0.lock().unwrap().resources.remove(&(ty, name.to_owned()));
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.0.lock().unwrap().ready = ready;
    }

    /// A new generation in which these may differ.
    pub(crate) fn next(&self, changes: &[(ResourceType, &str)]) -> Change {
        let mut state = self.0.lock().unwrap();
        state.generation += 1;
        let mut change = Change::new(Generation(state.generation));
        for (ty, name) in changes {
            change.names[*ty].merge(&[*name].into_iter().collect::<Names>());
        }
        change
    }
}

impl ControlPlane for Resources {
    fn connect(&self, _: &Arc<ClientInfo>) -> Result<Box<dyn Generator>, Rejection> {
        if self.0.lock().unwrap().ready {
            Ok(Box::new(self.clone()))
        } else {
            Err(Rejection::Unavailable("server is not ready to serve discovery information".to_owned()))
        }
    }
}

impl Generator for Resources {
    fn generate(&mut self, ty: ResourceType, watch: Watch<'_>) -> Generated {
        let state = self.0.lock().unwrap();
        let wanted = |name: &str| match watch {
            Watch::Wildcard => true,
            Watch::Names(names) => names.iter().any(|n| &**n == name),
        };
        let resources =
            state.resources.iter().filter(|((t, name), _)| *t == ty && wanted(name)).map(|(_, r)| r.clone()).collect();
        Generated { generation: Generation(state.generation), resources }
    }
}

/// What the authenticator says.
#[derive(Clone, Debug)]
pub(crate) enum Identities {
    /// A plaintext port.
    None,
    /// A port on which one must be proven, and is not.
    Unproven,
    /// This one.
    Proven(Peer),
}

impl Authenticator for Identities {
    fn authenticate<'a>(&'a self, _: &'a MetadataMap, _: &'a http::Extensions) -> BoxFuture<'a, Result<Peer, Status>> {
        Box::pin(async move {
            match self {
                Self::None => Ok(Peer::default()),
                Self::Unproven => Err(Status::unauthenticated("no token")),
                Self::Proven(peer) => Ok(peer.clone()),
            }
        })
    }
}

/// A server on a port of 127.0.0.1.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<Connections>,
    service: AdsService,
    running: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) async fn start(resources: &Resources, identities: Identities) -> Self {
        let connections = Connections::new();
        let service = AdsService::new(
            Arc::new(identities),
            Arc::new(resources.clone()),
            connections.clone(),
            ServerOptions { streams_per_second: 1000, ..ServerOptions::default() },
        );
        let mut server = Self { address: ([127, 0, 0, 1], 0).into(), connections, service, running: None };
        server.start_again().await;
        server
    }

    /// Starts, on the port it had.
    pub(crate) async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        self.running = Some(tokio::spawn(accept(listener, self.service.clone())));
    }

    /// Ends all streams and closes the port.
    pub(crate) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            let _ = running.await;
            within(async {
                while !self.connections.list().is_empty() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
    }

    pub(crate) fn change(&self, resources: &Resources, ty: ResourceType, name: &str, body: &[u8]) {
        resources.put(ty, name, body);
        self.connections.notify_all(&resources.next(&[(ty, name)]));
    }

    pub(crate) fn endpoint(&self) -> Plain {
        Plain(self.address)
    }

    pub(crate) async fn channel(&self) -> Channel {
        within(tonic::transport::Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect()).await.unwrap()
    }
}

/// Serves ADS and SDS; the connections end with the task.
async fn accept(listener: TcpListener, service: AdsService) {
    let mut open = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service.clone();
        let answer = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let mut ads = service.clone();
            let mut sds = service.secrets();
            async move {
                let path = request.uri().path().to_owned();
                if path.contains(SdsService::NAME) { sds.call(request).await } else { ads.call(request).await }
            }
        });
        open.spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer));
    }
}

/// Connects in clear text.
pub(crate) struct Plain(SocketAddr);

impl Endpoint for Plain {
    fn connect(&self) -> BoxFuture<'_, Result<Connected, String>> {
        Box::pin(async move {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.0)).map_err(|e| e.to_string())?;
            let channel = endpoint.connect().await.map_err(|e| e.to_string())?;
            Ok(Connected { channel, authorization: None })
        })
    }
}
