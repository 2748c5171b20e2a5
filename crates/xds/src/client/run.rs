//! Keeps a [`Session`] connected.

use super::session::{Request, Session, Update, UpdateId};
use super::stream::{self, Answers};
use crate::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use crate::server::{BoxFuture, Protocol};
use crate::{Node, ResourceType};
use rand::Rng;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::{Ascii, MetadataValue};
use tower_service::Service;

/// A channel to a server and the token for one stream on it.
#[derive(Debug)]
pub struct Connected {
    /// To the server, with whatever TLS it needs.
    pub channel: tonic::transport::Channel,
    /// Value of the `authorization` header, e.g. `Bearer …`.
    pub authorization: Option<MetadataValue<Ascii>>,
}

/// Makes channels to the server; called for every connection, so that tokens and roots are fresh.
pub trait Endpoint: Send + Sync {
    /// Connects.
    ///
    /// # Errors
    /// The reason, for people; the client tries again after its back-off.
    fn connect(&self) -> BoxFuture<'_, Result<Connected, String>>;
}

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which form of the protocol to speak.
    pub protocol: Protocol,
    /// The first pause before another attempt; the pause doubles from attempt to attempt, and each is drawn at random from
    /// its upper half.
    pub back_off: Duration,
    /// The longest pause.
    pub max_back_off: Duration,
    /// How long connecting and opening the stream may take.
    pub connect_timeout: Duration,
    /// Updates that may wait for the application.
    pub queue: usize,
    /// The largest response, in bytes.
    pub max_response_bytes: usize,
    /// Whether endpoints and routes are taken that were not asked for; see [`Session::accept_unasked`].
    pub accept_unasked: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            protocol: Protocol::Delta,
            back_off: Duration::from_millis(250),
            max_back_off: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(10),
            queue: 4,
            max_response_bytes: 256 << 20,
            accept_unasked: false,
        }
    }
}

/// Whether a client is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionState {
    /// Whether a stream is open now.
    pub connected: bool,
    /// Streams that were opened so far.
    pub connections: u64,
    /// Attempts that failed so far, and streams that were lost.
    pub failures: u64,
    /// Why the last attempt failed or the last stream was lost.
    pub last_error: Option<String>,
}

#[derive(Debug)]
enum Command {
    SubscribeAll(ResourceType),
    Subscribe(ResourceType, Vec<String>),
    Unsubscribe(ResourceType, Vec<String>),
    Ack(UpdateId),
    Nack(UpdateId, String),
    NackPartly(UpdateId, Vec<String>, String),
}

/// Controls a client that runs. Cheap to clone; none of its methods blocks, and all of them are without effect once the
/// client has ended.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    state: watch::Receiver<ConnectionState>,
}

impl Handle {
    /// Subscribes to everything of a type.
    pub fn subscribe_all(&self, ty: ResourceType) {
        self.send(Command::SubscribeAll(ty));
    }

    /// Adds names to a subscription.
    pub fn subscribe<S: Into<String>>(&self, ty: ResourceType, names: impl IntoIterator<Item = S>) {
        self.send(Command::Subscribe(ty, names.into_iter().map(Into::into).collect()));
    }

    /// Takes names out of a subscription.
    pub fn unsubscribe<S: Into<String>>(&self, ty: ResourceType, names: impl IntoIterator<Item = S>) {
        self.send(Command::Unsubscribe(ty, names.into_iter().map(Into::into).collect()));
    }

    /// The update is in force.
    pub fn ack(&self, update: UpdateId) {
        self.send(Command::Ack(update));
    }

    /// The update is refused.
    pub fn nack(&self, update: UpdateId, reason: impl Into<String>) {
        self.send(Command::Nack(update, reason.into()));
    }

    /// The resources of these names are refused; the rest of the update is in force.
    pub fn nack_partly(&self, update: UpdateId, refused: Vec<String>, reason: impl Into<String>) {
        self.send(Command::NackPartly(update, refused, reason.into()));
    }

    /// Whether the client is connected, now and when that changes.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.clone()
    }

    fn send(&self, command: Command) {
        // The client ends only with its application.
        let _ = self.commands.send(command);
    }
}

/// Updates, in the order in which the server sent them.
pub type Updates = mpsc::Receiver<Update>;

/// Makes a client. The future runs it, until the receiver of updates or all handles are dropped; it never ends by itself,
/// whatever the server does.
pub fn run<E: Endpoint>(node: &Node, endpoint: E, options: Options) -> (Handle, Updates, impl Future<Output = ()> + use<E>) {
    let (commands, commands_rx) = mpsc::unbounded_channel();
    let (updates, updates_rx) = mpsc::channel(options.queue.max(1));
    let (state, state_rx) = watch::channel(ConnectionState::default());
    let mut session = Session::new(options.protocol, node.to_proto());
    if options.accept_unasked {
        session.accept_unasked();
    }
    let client = Client { session, endpoint, options, commands: commands_rx, updates, state };
    (Handle { commands, state: state_rx }, updates_rx, client.run())
}

/// Why a stream ended.
enum End {
    /// The application is gone.
    Finished,
    /// The stream is; the reason is for people. `useful` tells whether anything was received.
    Lost { reason: String, useful: bool },
}

struct Client<E> {
    session: Session,
    endpoint: E,
    options: Options,
    commands: mpsc::UnboundedReceiver<Command>,
    updates: mpsc::Sender<Update>,
    state: watch::Sender<ConnectionState>,
}

impl<E: Endpoint> Client<E> {
    async fn run(mut self) {
        let mut attempt = 0_u32;
        loop {
            let end = match self.options.protocol {
                Protocol::Delta => self.connection::<Delta>().await,
                Protocol::Sotw => self.connection::<Sotw>().await,
            };
            self.session.on_disconnect();
            let End::Lost { reason, useful } = end else { return };
            tracing::warn!(%reason, "lost the control plane; the configuration stays as it is");
            self.state.send_modify(|state| {
                state.connected = false;
                state.failures += 1;
                state.last_error = Some(reason);
            });
            attempt = if useful { 0 } else { attempt.saturating_add(1) };
            let pause = pause(&self.options, attempt, rand::rng().random());
            if !self.wait(pause).await {
                return;
            }
        }
    }

    /// Lets time pass; `false` if the application is gone.
    async fn wait(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return true,
                () = self.updates.closed() => return false,
                command = self.commands.recv() => match command {
                    Some(command) => apply(&mut self.session, command),
                    None => return false,
                },
            }
        }
    }

    async fn connection<F: Form>(&mut self) -> End {
        let (requests, outbound) = mpsc::channel(4);
        let opening = tokio::time::timeout(self.options.connect_timeout, open::<F, E>(&self.endpoint, &self.options, outbound));
        // What the application says meanwhile waits in its queue.
        let inbound = tokio::select! {
            () = self.updates.closed() => return End::Finished,
            opened = opening => match opened {
                Ok(Ok(inbound)) => inbound,
                Ok(Err(reason)) => return End::Lost { reason, useful: false },
                Err(_) => return End::Lost { reason: "the control plane did not answer in time".to_owned(), useful: false },
            },
        };
        self.session.on_connect();
        self.state.send_modify(|state| {
            state.connected = true;
            state.connections += 1;
        });
        self.exchange::<F>(inbound, requests).await
    }

    async fn exchange<F: Form>(&mut self, mut inbound: Opening<F>, requests: mpsc::Sender<F::Request>) -> End {
        let mut waiting: Option<Update> = None;
        let mut request: Option<F::Request> = None;
        let mut useful = false;
        let lost = |reason: String, useful| End::Lost { reason, useful };
        loop {
            if request.is_none() {
                request = self.session.next_request().and_then(F::request);
            }
            tokio::select! {
                biased;
                () = self.updates.closed() => return End::Finished,
                command = self.commands.recv() => match command {
                    Some(command) => apply(&mut self.session, command),
                    None => return End::Finished,
                },
                permit = requests.reserve(), if request.is_some() => match (permit, request.take()) {
                    (Ok(permit), Some(message)) => permit.send(message),
                    _ => return lost("the stream was closed".to_owned(), useful),
                },
                permit = self.updates.reserve(), if waiting.is_some() => match (permit, waiting.take()) {
                    (Ok(permit), Some(update)) => permit.send(update),
                    _ => return End::Finished,
                },
                // While an update waits for the application nothing is read: the server is held back by flow control.
                message = inbound.message(), if waiting.is_none() => match message {
                    Ok(Some(response)) => {
                        useful = true;
                        waiting = F::response(&mut self.session, response);
                    }
                    Ok(None) => return lost("the control plane closed the stream".to_owned(), useful),
                    Err(status) => return lost(describe(&status), useful),
                },
            }
        }
    }
}

/// A stream whose response head has not come yet: a server may send it only with its first message.
struct Opening<F: Form> {
    pending: Option<BoxFuture<'static, Result<Answers, Status>>>,
    open: Option<Answers>,
    form: PhantomData<F>,
}

impl<F: Form> Opening<F> {
    /// The next message. May be dropped and called again without losing one.
    async fn message(&mut self) -> Result<Option<F::Response>, Status> {
        if let Some(pending) = &mut self.pending {
            let opened = pending.await;
            self.pending = None;
            self.open = Some(opened?);
        }
        match &mut self.open {
            Some(answers) => answers.message().await,
            None => Ok(None),
        }
    }
}

async fn open<F: Form, E: Endpoint>(
    endpoint: &E,
    options: &Options,
    outbound: mpsc::Receiver<F::Request>,
) -> Result<Opening<F>, String> {
    let Connected { mut channel, authorization } = endpoint.connect().await?;
    poll_fn(|cx| channel.poll_ready(cx)).await.map_err(|error| format!("cannot connect: {error}"))?;
    let pending = stream::call::<F::Request, F::Response>(channel, F::PATH, authorization, outbound, options.max_response_bytes);
    Ok(Opening { pending: Some(Box::pin(pending)), open: None, form: PhantomData })
}

/// What the two forms of the protocol differ in.
trait Form: 'static {
    type Request: prost::Message + Send + Sync + 'static;
    type Response: prost::Message + Default + Send + Sync + 'static;
    const PATH: &'static str;

    fn request(request: Request) -> Option<Self::Request>;
    fn response(session: &mut Session, response: Self::Response) -> Option<Update>;
}

struct Delta;

impl Form for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const PATH: &'static str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

    fn request(request: Request) -> Option<DeltaDiscoveryRequest> {
        match request {
            Request::Delta(request) => Some(*request),
            Request::Sotw(_) => None,
        }
    }

    fn response(session: &mut Session, response: DeltaDiscoveryResponse) -> Option<Update> {
        session.on_delta_response(response)
    }
}

struct Sotw;

impl Form for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const PATH: &'static str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

    fn request(request: Request) -> Option<DiscoveryRequest> {
        match request {
            Request::Sotw(request) => Some(*request),
            Request::Delta(_) => None,
        }
    }

    fn response(session: &mut Session, response: DiscoveryResponse) -> Option<Update> {
        session.on_response(response)
    }
}

fn apply(session: &mut Session, command: Command) {
    match command {
        Command::SubscribeAll(ty) => session.subscribe_all(ty),
        Command::Subscribe(ty, names) => session.subscribe(ty, names),
        Command::Unsubscribe(ty, names) => session.unsubscribe(ty, names),
        Command::Ack(id) => session.ack(&id),
        Command::Nack(id, reason) => session.nack(&id, &reason),
        Command::NackPartly(id, refused, reason) => session.nack_partly(&id, &refused, &reason),
    }
}

/// The pause before attempt number `attempt` (0 is the first): doubling, and `random` in [0, 1) picks from the upper half,
/// so that a thousand proxies do not come back at one moment.
fn pause(options: &Options, attempt: u32, random: f64) -> Duration {
    let longest =
        options.back_off.saturating_mul(1_u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX)).min(options.max_back_off);
    longest.mul_f64(0.5 + random / 2.0)
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
