//! The gRPC service around [`Session`]: authentication, one task per stream, bounded queues.

use super::connections::{Connections, OpenGuard};
use super::session::{Limits, Protocol, Response, Session, Violation};
use super::{ClientInfo, ControlPlane, Rejection};
use crate::proto::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use crate::{Node, NodeError};
use lateen_model::identity::SpiffeId;
use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::codec::{BufferSettings, Codec};
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};

/// A future that can be sent to another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who is at the other end, as proven by the transport or by a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Identities that were proven; empty on a plaintext port, where nothing is checked.
    pub identities: Vec<SpiffeId>,
    /// Where it connects from.
    pub address: Option<SocketAddr>,
}

/// Authenticates a stream before anything of it is read.
pub trait Authenticator: Send + Sync + 'static {
    /// `metadata` holds the bearer token, `extensions` what the listener knows of the connection (`tonic`'s connect info).
    ///
    /// # Errors
    /// `UNAUTHENTICATED` where nothing is proven and something must be.
    fn authenticate<'a>(
        &'a self,
        metadata: &'a MetadataMap,
        extensions: &'a http::Extensions,
    ) -> BoxFuture<'a, Result<Peer, Status>>;
}

/// Settings of the service.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// `control_plane.identifier` of responses.
    pub identifier: String,
    /// What a client may ask for.
    pub limits: Limits,
    /// The largest request, in bytes (Istio: 4 MiB).
    pub max_request_bytes: usize,
    /// Streams accepted per second; more wait their turn (`PILOT_MAX_REQUESTS_PER_SECOND`).
    pub streams_per_second: u32,
    /// How long a stream may wait for its turn, and then for its first request.
    pub open_timeout: Duration,
    /// Responses that may wait for a client to read them.
    pub queue: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Self {
            identifier: "lateen".to_owned(),
            limits: Limits::default(),
            max_request_bytes: 4 << 20,
            // Istio's 15 + 5 per processor protects a control plane that makes everything for each proxy. Here a proxy that
            // connects costs about a millisecond of a processor (`lateen-bench control`, `connect.cpu_seconds`).
            streams_per_second: processors.saturating_mul(500),
            open_timeout: Duration::from_secs(30),
            queue: 1,
        }
    }
}

struct Shared {
    authenticator: Arc<dyn Authenticator>,
    control_plane: Arc<dyn ControlPlane>,
    connections: Arc<Connections>,
    options: ServerOptions,
    admission: Admission,
}

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`, as a `tower` service. Whoever serves it sets Istio's
/// transport settings: at most 100,000 streams, keep-alive after 30 s, given up after 10 s.
#[derive(Clone)]
pub struct AdsService(Arc<Shared>);

impl AdsService {
    /// A service that reports its connections in `connections`.
    pub fn new(
        authenticator: Arc<dyn Authenticator>,
        control_plane: Arc<dyn ControlPlane>,
        connections: Arc<Connections>,
        options: ServerOptions,
    ) -> Self {
        let admission = Admission::new(options.streams_per_second);
        Self(Arc::new(Shared { authenticator, control_plane, connections, options, admission }))
    }

    /// The same resources as a service for secrets alone, which is what an agent serves beside an Envoy (cluster
    /// `sds-grpc`): the messages and their rules are the same.
    pub fn secrets(&self) -> SdsService {
        SdsService(self.clone())
    }
}

impl tonic::server::NamedService for AdsService {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl<B> tower_service::Service<http::Request<B>> for AdsService
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let shared = self.0.clone();
        match request.uri().path().rsplit_once('/').map_or("", |(_, method)| method) {
            "StreamAggregatedResources" | "StreamSecrets" => serve::<Sotw, B>(shared, request),
            "DeltaAggregatedResources" | "DeltaSecrets" => serve::<Delta, B>(shared, request),
            _ => Box::pin(async { Ok(Status::unimplemented("the service has no such method").into_http()) }),
        }
    }
}

/// `envoy.service.secret.v3.SecretDiscoveryService`, as a `tower` service.
#[derive(Clone)]
pub struct SdsService(AdsService);

impl tonic::server::NamedService for SdsService {
    const NAME: &'static str = "envoy.service.secret.v3.SecretDiscoveryService";
}

impl<B> tower_service::Service<http::Request<B>> for SdsService
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        self.0.call(request)
    }
}

fn serve<F, B>(
    shared: Arc<Shared>,
    request: http::Request<B>,
) -> BoxFuture<'static, Result<http::Response<tonic::body::Body>, Infallible>>
where
    F: Form,
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    Box::pin(async move {
        let mut grpc = tonic::server::Grpc::new(SmallBuffers::<F>(PhantomData))
            .max_decoding_message_size(shared.options.max_request_bytes)
            .max_encoding_message_size(usize::MAX);
        Ok(grpc.streaming(Method::<F>(shared, PhantomData), request).await)
    })
}

/// What the two forms of the protocol differ in.
trait Form: Send + Sync + 'static {
    type Request: prost::Message + Default + Send + 'static;
    type Response: prost::Message + Default + Send + 'static;
    const PROTOCOL: Protocol;

    fn node(request: &Self::Request) -> Option<&proto::Node>;
    fn apply(request: &Self::Request, session: &mut Session) -> Result<(), Violation>;
    fn message(response: &Response, identifier: &str) -> Self::Response;
}

struct Sotw;

impl Form for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Sotw;

    fn node(request: &DiscoveryRequest) -> Option<&proto::Node> {
        request.node.as_ref()
    }

    fn apply(request: &DiscoveryRequest, session: &mut Session) -> Result<(), Violation> {
        session.on_request(request)
    }

    fn message(response: &Response, identifier: &str) -> DiscoveryResponse {
        response.to_sotw(identifier)
    }
}

struct Delta;

impl Form for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Delta;

    fn node(request: &DeltaDiscoveryRequest) -> Option<&proto::Node> {
        request.node.as_ref()
    }

    fn apply(request: &DeltaDiscoveryRequest, session: &mut Session) -> Result<(), Violation> {
        session.on_delta_request(request)
    }

    fn message(response: &Response, identifier: &str) -> DeltaDiscoveryResponse {
        response.to_delta(identifier)
    }
}

struct Method<F>(Arc<Shared>, PhantomData<F>);

/// Where a stream's buffers begin, in bytes, and at which size they are sent on. There are thousands of streams, and each is at
/// rest most of the time.
const BUFFERS: (usize, usize) = (512, 32 * 1024);

/// Protobuf with [`BUFFERS`].
struct SmallBuffers<F>(PhantomData<F>);

impl<F: Form> Codec for SmallBuffers<F> {
    type Encode = F::Response;
    type Decode = F::Request;
    type Encoder = tonic_prost::ProstEncoder<F::Response>;
    type Decoder = tonic_prost::ProstDecoder<F::Request>;

    fn encoder(&mut self) -> Self::Encoder {
        tonic_prost::ProstEncoder::new(BufferSettings::new(BUFFERS.0, BUFFERS.1))
    }

    fn decoder(&mut self) -> Self::Decoder {
        tonic_prost::ProstDecoder::new(BufferSettings::new(BUFFERS.0, BUFFERS.1))
    }
}

type Outcome<F> = Result<<F as Form>::Response, Status>;

/// Responses on their way. Boxed, because a queue has room for dozens of what it holds, however short it may be.
struct Outbound<F: Form>(mpsc::Receiver<Box<Outcome<F>>>);

impl<F: Form> tokio_stream::Stream for Outbound<F> {
    type Item = Outcome<F>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|item| item.map(|item| *item))
    }
}

impl<F: Form> tonic::server::StreamingService<F::Request> for Method<F> {
    type Response = F::Response;
    type ResponseStream = Outbound<F>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<F::Request>>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let (metadata, extensions, inbound) = request.into_parts();
            shared.admission.enter(shared.options.open_timeout).await?;
            let peer = shared.authenticator.authenticate(&metadata, &extensions).await?;
            let (outbound, responses) = mpsc::channel(shared.options.queue.max(1));
            tokio::spawn(async move {
                let stream = Stream::<F> { shared, inbound, outbound };
                stream.run(peer).await;
            });
            Ok(tonic::Response::new(Outbound(responses)))
        })
    }
}

/// One stream, on its own task: a client that does not read stops its own task and nobody else's.
struct Stream<F: Form> {
    shared: Arc<Shared>,
    inbound: Streaming<F::Request>,
    outbound: mpsc::Sender<Box<Outcome<F>>>,
}

impl<F: Form> Stream<F> {
    async fn run(mut self, peer: Peer) {
        if let Err(status) = self.serve(peer).await {
            // A client that is gone is not told.
            let _ = self.outbound.send(Box::new(Err(status))).await;
        }
    }

    async fn serve(&mut self, peer: Peer) -> Result<(), Status> {
        let Some(first) = self.first_request().await? else { return Ok(()) };
        let client = Arc::new(self.identify(&first, &peer)?);
        let generator = self.shared.control_plane.connect(&client).map_err(|rejection| match rejection {
            Rejection::Unavailable(reason) => Status::unavailable(reason),
            Rejection::Denied(reason) => Status::permission_denied(reason),
        })?;
        let guard = self.shared.connections.open(client.clone());
        let mut session = Session::new(client, generator, self.shared.options.limits, rand::random());
        apply::<F>(&first, &mut session)?;
        drop(first);
        let session = Arc::new(Mutex::new(session));
        guard.connection.serves(&session);
        self.exchange(&guard, &session).await
    }

    async fn first_request(&mut self) -> Result<Option<F::Request>, Status> {
        tokio::time::timeout(self.shared.options.open_timeout, self.inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no request came on the stream"))?
    }

    fn identify(&self, first: &F::Request, peer: &Peer) -> Result<ClientInfo, Status> {
        let node = F::node(first).ok_or(NodeError::Missing).and_then(Node::from_proto);
        let node = node.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let identity = proven_identity(&node, &peer.identities)?;
        Ok(ClientInfo {
            connection: self.shared.connections.next_id(),
            node,
            identity,
            address: peer.address,
            protocol: F::PROTOCOL,
            connected: SystemTime::now(),
        })
    }

    async fn exchange(&mut self, guard: &OpenGuard, session: &Mutex<Session>) -> Result<(), Status> {
        let connection = &guard.connection;
        loop {
            let (acked, has_work) = {
                let session = lock(session);
                (session.acked_generation(), session.has_work())
            };
            guard.acknowledged(acked);
            // In this order: what the client asks for comes before what the world pushes.
            tokio::select! {
                biased;
                () = self.outbound.closed() => return Ok(()),
                request = self.inbound.message() => match request? {
                    Some(request) => apply::<F>(&request, &mut lock(session))?,
                    None => return Ok(()),
                },
                () = connection.woken() => {
                    if let Some(reason) = connection.close_reason() {
                        return Err(Status::unavailable(reason));
                    }
                    if let Some(change) = connection.take_change() {
                        lock(session).on_change(&change);
                    }
                }
                permit = self.outbound.reserve(), if has_work => {
                    let Ok(permit) = permit else { return Ok(()) };
                    let response = lock(session).next_response();
                    if let Some(response) = response {
                        guard.sends(&response.resources);
                        permit.send(Box::new(Ok(F::message(&response, &self.shared.options.identifier))));
                    }
                }
            }
        }
    }
}

/// A session whose task has panicked is gone with its task.
fn lock(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

fn apply<F: Form>(request: &F::Request, session: &mut Session) -> Result<(), Status> {
    F::apply(request, session).map_err(|violation| match violation {
        Violation::TooManyNames(..) => Status::resource_exhausted(violation.to_string()),
        Violation::NameTooLong(..) | Violation::Wildcard(_) | Violation::Locator(_) => {
            Status::invalid_argument(violation.to_string())
        }
    })
}

/// The identity that stands behind a node: one of the proven ones must be of the node's namespace and, where it names one, of
/// its service account (`PILOT_ENABLE_XDS_IDENTITY_CHECK`).
fn proven_identity(node: &Node, identities: &[SpiffeId]) -> Result<Option<SpiffeId>, Status> {
    if identities.is_empty() {
        return Ok(None);
    }
    let account = node.metadata_str("SERVICE_ACCOUNT").filter(|a| !a.is_empty());
    let fits = |id: &&SpiffeId| id.namespace() == node.namespace && account.is_none_or(|account| id.service_account() == account);
    identities.iter().find(fits).cloned().map(Some).ok_or_else(|| {
        Status::permission_denied(format!(
            "the proxy says that it is in namespace {:?} with service account {:?}, but it has proven to be {}",
            node.namespace,
            account.unwrap_or_default(),
            identities.iter().map(SpiffeId::as_uri).collect::<Vec<_>>().join(", "),
        ))
    })
}

/// Lets so many streams in per second; the others wait their turn.
struct Admission {
    interval: Duration,
    burst: Duration,
    next: Mutex<Option<Instant>>,
}

impl Admission {
    fn new(per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), burst: Duration::from_secs(1), next: Mutex::new(None) }
    }

    async fn enter(&self, patience: Duration) -> Result<(), Status> {
        let turn = self.turn(Instant::now(), patience).ok_or_else(|| Status::unavailable("too many streams are being opened"))?;
        tokio::time::sleep_until(turn).await;
        Ok(())
    }

    /// The moment at which a stream that comes `now` is let in; `None` if that is too late.
    fn turn(&self, now: Instant, patience: Duration) -> Option<Instant> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        // `next` may lie in the past by at most the burst, which is what an idle server has saved up.
        let earliest = now.checked_sub(self.burst).unwrap_or(now);
        let slot = next.map_or(earliest, |next| next.max(earliest));
        if slot > now + patience {
            return None;
        }
        *next = Some(slot + self.interval);
        Some(slot.max(now))
    }
}
