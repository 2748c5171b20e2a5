//! A proxy as the control plane sees it: one gRPC stream of delta ADS that subscribes as Envoy does and acknowledges all.

use super::world::{EditKind, Workload, edit_in};
use lateen_xds::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use lateen_xds::{Node, NodeType, ResourceType};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// The outbound listener of port 80, which all services share, takes its routes from here.
const ROUTES: &str = "80";
const LARGEST_RESPONSE: usize = 1 << 30;

/// How a proxy deals with what it is sent once it is up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// It acknowledges at once.
    Fast,
    /// It acknowledges half a second later.
    Slow,
    /// It reads nothing.
    Stuck,
}

/// When an edit was made, and when which proxies had acknowledged it.
struct Edit {
    made: Instant,
    waits: Vec<Duration>,
}

/// What all proxies tell of themselves, on one thread.
#[derive(Default)]
pub(crate) struct Board {
    kind: Cell<Option<EditKind>>,
    edits: RefCell<BTreeMap<u16, Edit>>,
    /// Proxies that have had all types since they connected.
    pub(crate) synced: Cell<usize>,
    /// Connections that failed or were closed by the control plane.
    pub(crate) lost: Cell<u64>,
    /// Bytes of resources received so far.
    pub(crate) bytes: Cell<u64>,
    /// Responses received so far.
    pub(crate) responses: Cell<u64>,
    /// Something has changed.
    changed: Notify,
    /// All names and versions, each once.
    words: RefCell<HashSet<Rc<str>>>,
}

impl Board {
    /// An edit is made now.
    pub(crate) fn edit(&self, kind: EditKind, number: u16) {
        self.kind.set(Some(kind));
        self.edits.borrow_mut().insert(number, Edit { made: Instant::now(), waits: Vec::new() });
    }

    /// Forgets all edits and gives how long each took to reach each proxy.
    pub(crate) fn take(&self) -> Vec<Vec<Duration>> {
        std::mem::take(&mut *self.edits.borrow_mut()).into_values().map(|edit| edit.waits).collect()
    }

    /// Waits until a condition holds, at most this long; whether it does.
    pub(crate) async fn until(&self, limit: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        while !condition(self) {
            if tokio::time::timeout_at(deadline, self.changed.notified()).await.is_err() {
                return condition(self);
            }
        }
        true
    }

    /// How many proxies have acknowledged the newest edit.
    pub(crate) fn acknowledged(&self) -> usize {
        self.edits.borrow().last_key_value().map_or(0, |(_, edit)| edit.waits.len())
    }

    /// A proxy has acknowledged everything after `before`, up to `edit`: what was overtaken counts as reached.
    fn reached(&self, before: u16, edit: u16) {
        for (number, edit) in self.edits.borrow_mut().range_mut(..=edit) {
            if *number > before {
                edit.waits.push(edit.made.elapsed());
            }
        }
        self.changed.notify_one();
    }

    fn word(&self, text: &str) -> Rc<str> {
        let mut words = self.words.borrow_mut();
        match words.get(text) {
            Some(word) => Rc::clone(word),
            None => {
                let word: Rc<str> = text.into();
                words.insert(Rc::clone(&word));
                word
            }
        }
    }
}

/// A proxy; it outlives its streams, and tells a new one what it has.
pub(crate) struct Proxy {
    node: Node,
    pace: Pace,
    board: Rc<Board>,
    /// Versions by name, by type.
    has: HashMap<ResourceType, HashMap<Rc<str>, Rc<str>>>,
    edit: u16,
}

/// One stream of a proxy.
struct Session {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    missing: HashSet<ResourceType>,
}

impl Proxy {
    pub(crate) fn new(workload: &Workload, pace: Pace, board: Rc<Board>) -> Self {
        let domain = format!("{}.svc.cluster.local", workload.namespace);
        let mut node = Node::new(NodeType::Sidecar, workload.ip, &workload.name, &workload.namespace, &domain);
        node.metadata.insert("NAMESPACE".to_owned(), json!(workload.namespace));
        node.metadata.insert("SERVICE_ACCOUNT".to_owned(), json!("default"));
        node.metadata.insert("LABELS".to_owned(), json!(workload.labels));
        Self { node, pace, board, has: HashMap::new(), edit: 0 }
    }

    /// Stays connected; the future is dropped to disconnect. A lost connection is made anew after a tenth of a second.
    pub(crate) async fn run(&mut self, address: &str) {
        loop {
            if let Err(reason) = self.session(address).await
                && self.board.lost.replace(self.board.lost.get() + 1) == 0
            {
                eprintln!("the first connection that was lost: {reason}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn session(&mut self, address: &str) -> Result<(), String> {
        let (requests, outbound) = mpsc::channel(16);
        let mut session = Session { requests, missing: HashSet::new() };
        self.subscribe(&mut session).await;
        let mut stream = open(address, outbound).await?;
        let mut synced = false;
        loop {
            let response = stream.message().await.map_err(|status| status.to_string())?;
            let response = response.ok_or("the control plane closed the stream")?;
            if synced && self.pace == Pace::Slow {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            self.take(&mut session, &response).await;
            if !synced && session.missing.is_empty() {
                synced = true;
                self.board.synced.set(self.board.synced.get() + 1);
                self.board.changed.notify_one();
                if self.pace == Pace::Stuck {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// The first requests of a stream: clusters and listeners, then whatever was known of endpoints and routes.
    async fn subscribe(&self, session: &mut Session) {
        let mut node = Some(self.node.to_proto());
        for ty in [ResourceType::Cds, ResourceType::Eds, ResourceType::Lds, ResourceType::Rds] {
            let has = self.has.get(&ty);
            let known = has.into_iter().flatten().map(|(name, version)| (name.to_string(), version.to_string()));
            let initial: HashMap<_, _> = known.collect();
            let names = match ty {
                ResourceType::Cds | ResourceType::Lds => Vec::new(),
                ResourceType::Rds => vec![ROUTES.to_owned()],
                _ => initial.keys().cloned().collect(),
            };
            // What a proxy has already need not be answered: nothing differs.
            if initial.is_empty() {
                session.missing.insert(ty);
            }
            if ty == ResourceType::Eds && names.is_empty() {
                continue;
            }
            let request = DeltaDiscoveryRequest {
                node: node.take(),
                type_url: ty.type_url().to_owned(),
                resource_names_subscribe: names,
                initial_resource_versions: initial.into_iter().collect(),
                ..Default::default()
            };
            // The stream's end is found out by reading it.
            let _ = session.requests.send(request).await;
        }
    }

    async fn take(&mut self, session: &mut Session, response: &DeltaDiscoveryResponse) {
        let Some(ty) = ResourceType::ALL.into_iter().find(|ty| ty.type_url() == response.type_url) else { return };
        let new = self.remember(ty, response);
        let acknowledgement = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        let _ = session.requests.send(acknowledgement).await;
        session.missing.remove(&ty);
        let endpoints: Vec<_> = new.into_iter().filter(|name| name.starts_with("outbound|")).collect();
        if ty == ResourceType::Cds && !endpoints.is_empty() {
            let request = DeltaDiscoveryRequest {
                type_url: ResourceType::Eds.type_url().to_owned(),
                resource_names_subscribe: endpoints,
                ..Default::default()
            };
            let _ = session.requests.send(request).await;
        }
        if self.pace == Pace::Fast {
            self.note_edit(ty, response);
        }
    }

    /// Keeps the versions and gives the names that were not known.
    fn remember(&mut self, ty: ResourceType, response: &DeltaDiscoveryResponse) -> Vec<String> {
        let (board, has) = (&self.board, self.has.entry(ty).or_default());
        let mut new = Vec::new();
        let mut bytes = 0;
        for resource in &response.resources {
            bytes += resource.resource.as_ref().map_or(0, |any| any.value.len()) as u64;
            if has.insert(board.word(&resource.name), board.word(&resource.version)).is_none() {
                new.push(resource.name.clone());
            }
        }
        for name in &response.removed_resources {
            has.remove(name.as_str());
        }
        board.bytes.set(board.bytes.get() + bytes);
        board.responses.set(board.responses.get() + 1);
        new
    }

    fn note_edit(&mut self, ty: ResourceType, response: &DeltaDiscoveryResponse) {
        let Some(kind) = self.board.kind.get() else { return };
        if ty != (if kind == EditKind::Endpoint { ResourceType::Eds } else { ResourceType::Rds }) {
            return;
        }
        let values = response.resources.iter().filter_map(|resource| resource.resource.as_ref());
        let newest = values.filter_map(|any| edit_in(kind, &any.value)).max();
        if let Some(edit) = newest.filter(|edit| *edit > self.edit) {
            self.board.reached(self.edit, edit);
            self.edit = edit;
        }
    }
}

async fn open(
    address: &str,
    outbound: mpsc::Receiver<DeltaDiscoveryRequest>,
) -> Result<Streaming<DeltaDiscoveryResponse>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(LARGEST_RESPONSE);
    grpc.ready().await.map_err(|error| error.to_string())?;
    let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
    let path = http::uri::PathAndQuery::from_static(PATH);
    let stream = grpc.streaming(tonic::Request::new(ReceiverStream::new(outbound)), path, codec).await;
    stream.map(tonic::Response::into_inner).map_err(|status| status.to_string())
}
