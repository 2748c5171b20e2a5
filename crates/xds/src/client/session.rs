//! What a client subscribes to, has accepted and has to say, without I/O.
//!
//! The session outlives connections: on a new one it subscribes again and says which versions it has, so that a server that
//! knows them sends nothing twice. Every [`Update`] is answered with [`Session::ack`] or [`Session::nack`]; only what was
//! accepted counts as had.

use crate::proto::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Node, Status};
use crate::server::Protocol;
use crate::{ResourceType, TypeMap, Version};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// gRPC status INVALID_ARGUMENT, which Envoy uses for a NACK.
const INVALID_ARGUMENT: i32 = 3;

/// Names one update: the connection it came on and its nonce.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpdateId {
    epoch: u64,
    ty: ResourceType,
    nonce: String,
}

impl UpdateId {
    /// The type of the update.
    pub fn ty(&self) -> ResourceType {
        self.ty
    }

    /// The server's nonce.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }
}

/// A new or changed resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// The server's version of it (in the state-of-the-world protocol, a hash of the bytes).
    pub version: String,
    /// The encoded message.
    pub body: Bytes,
}

/// What a server has changed. Must be answered once, with an ACK or a NACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// For the answer.
    pub id: UpdateId,
    /// The type of the resources.
    pub ty: ResourceType,
    /// The server's version of the whole response.
    pub version: String,
    /// New and changed resources, in the server's order. Some may be what the client has: then nothing is to be done.
    pub added: Vec<Added>,
    /// Resources that are gone.
    pub removed: Vec<String>,
}

/// A message for the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Of the delta protocol.
    Delta(Box<DeltaDiscoveryRequest>),
    /// Of the state-of-the-world protocol.
    Sotw(Box<DiscoveryRequest>),
}

/// An update that waits for its answer.
#[derive(Clone, Debug)]
struct Outstanding {
    id: UpdateId,
    version: String,
    added: Vec<(String, String)>,
    removed: Vec<String>,
}

#[derive(Clone, Debug)]
struct Answer {
    nonce: String,
    error: Option<String>,
}

/// The state of one type.
#[derive(Clone, Debug, Default)]
struct TypeState {
    wildcard: bool,
    names: BTreeSet<String>,
    /// Resources that were accepted, and their versions.
    accepted: BTreeMap<String, String>,
    outstanding: Vec<Outstanding>,
    // What follows belongs to the present connection.
    introduced: bool,
    subscribe: BTreeSet<String>,
    unsubscribe: BTreeSet<String>,
    /// Names whose subscription has ended on this connection.
    ended: BTreeSet<String>,
    answers: VecDeque<Answer>,
    nonce: String,
    accepted_version: String,
}

impl TypeState {
    fn is_wanted(&self) -> bool {
        self.wildcard || !self.names.is_empty()
    }

    /// What the server is told that this client has: what was accepted, and what the application may still accept. Of the
    /// latter the version is left empty, so that the server sends it again or says that it is gone; what the application may
    /// still remove is not mentioned, so that the server sends it if it is there.
    fn known_versions(&self) -> BTreeMap<String, String> {
        let mut versions = self.accepted.clone();
        for update in &self.outstanding {
            versions.extend(update.added.iter().map(|(name, _)| (name.clone(), String::new())));
            update.removed.iter().for_each(|name| {
                versions.remove(name);
            });
        }
        versions
    }

    /// Whether a name is subscribed again after its subscription has ended on this connection. In the state-of-the-world
    /// protocol the server may not have seen the end (the request may have expired), and what it sent meanwhile was dropped:
    /// it must be asked for everything once more, by a request without a nonce.
    fn begun_again(&self) -> bool {
        self.subscribe.iter().any(|name| self.ended.contains(name))
    }

    /// Forgets what belongs to a connection, or to a subscription that begins anew on it.
    fn forget_connection(&mut self) {
        self.subscribe.clear();
        self.unsubscribe.clear();
        self.ended.clear();
        self.answers.clear();
        self.nonce.clear();
    }

    fn names_changed(&self) -> bool {
        !self.subscribe.is_empty() || !self.unsubscribe.is_empty()
    }
}

/// The protocol state of a client.
#[derive(Debug)]
pub struct Session {
    protocol: Protocol,
    node: Node,
    types: TypeMap<TypeState>,
    connected: bool,
    epoch: u64,
    node_sent: bool,
    unasked: bool,
}

impl Session {
    /// A client that is not connected yet and subscribes to nothing.
    pub fn new(protocol: Protocol, node: Node) -> Self {
        Self { protocol, node, types: TypeMap::default(), connected: false, epoch: 0, node_sent: false, unasked: false }
    }

    /// Subscribes to everything of a type that the server has for this client.
    pub fn subscribe_all(&mut self, ty: ResourceType) {
        let state = &mut self.types[ty];
        if !std::mem::replace(&mut state.wildcard, true) {
            state.subscribe.insert("*".to_owned());
        }
    }

    /// Takes also endpoints and routes that it does not subscribe to (yet): a server that answers questions sends them along
    /// with the clusters and listeners that need them ([`crate::on_demand`]).
    pub fn accept_unasked(&mut self) {
        self.unasked = true;
    }

    /// Adds names to the subscription.
    pub fn subscribe<S: Into<String>>(&mut self, ty: ResourceType, names: impl IntoIterator<Item = S>) {
        let state = &mut self.types[ty];
        for name in names.into_iter().map(Into::into) {
            if state.names.insert(name.clone()) {
                // Also where the end of an earlier subscription is not sent yet: what came meanwhile was dropped, so that
                // the server must be told of both.
                state.subscribe.insert(name);
            }
        }
    }

    /// Takes names out of the subscription. The client is no longer told about them, and drops what it has itself.
    pub fn unsubscribe<S: AsRef<str>>(&mut self, ty: ResourceType, names: impl IntoIterator<Item = S>) {
        let state = &mut self.types[ty];
        for name in names {
            let Some(name) = state.names.take(name.as_ref()) else { continue };
            if !state.wildcard {
                state.accepted.remove(&name);
            }
            if state.introduced {
                state.ended.insert(name.clone());
            }
            if !state.subscribe.remove(&name) {
                state.unsubscribe.insert(name);
            }
        }
    }

    /// The names and versions of accepted resources.
    pub fn accepted(&self, ty: ResourceType) -> &BTreeMap<String, String> {
        &self.types[ty].accepted
    }

    /// A connection was made: everything is subscribed anew.
    pub fn on_connect(&mut self) {
        self.connected = true;
        self.node_sent = false;
        self.epoch += 1;
        for ty in ResourceType::ALL {
            let state = &mut self.types[ty];
            state.introduced = false;
            state.forget_connection();
        }
    }

    /// The connection was lost. What was accepted stays in force.
    pub fn on_disconnect(&mut self) {
        self.connected = false;
    }

    /// Takes a response of the delta protocol; `None` if it holds nothing that this client subscribes to.
    pub fn on_delta_response(&mut self, response: DeltaDiscoveryResponse) -> Option<Update> {
        let ty = ResourceType::from_type_url(&response.type_url)?;
        let unasked = self.unasked && matches!(ty, ResourceType::Eds | ResourceType::Rds);
        let state = &mut self.types[ty];
        if !state.introduced && !unasked {
            return None;
        }
        let wanted = |name: &str| unasked || state.wildcard || ty.is_wildcard() || state.names.contains(name);
        let mut added: Vec<Added> = Vec::with_capacity(response.resources.len());
        for resource in response.resources {
            if let Some(Any { value, .. }) = resource.resource
                && wanted(&resource.name)
            {
                added.push(Added { name: resource.name, version: resource.version, body: value });
            }
        }
        let mut removed = response.removed_resources;
        // A name in both lists cannot be told apart from a server's mistake; the resource is there.
        let there: BTreeSet<&str> = added.iter().map(|a| a.name.as_str()).collect();
        removed.retain(|name| !there.contains(name.as_str()));
        Some(self.deliver(ty, response.nonce, response.system_version_info, added, removed))
    }

    /// Takes a response of the state-of-the-world protocol; `None` if it is of a type that this client does not subscribe
    /// to.
    pub fn on_response(&mut self, response: DiscoveryResponse) -> Option<Update> {
        let ty = ResourceType::from_type_url(&response.type_url)?;
        let state = &mut self.types[ty];
        if !state.introduced {
            if self.connected {
                // It has crossed the end of the subscription, which it made a request without effect: say it again.
                state.answers.push_back(Answer { nonce: response.nonce, error: None });
            }
            return None;
        }
        let mut added = Vec::with_capacity(response.resources.len());
        for any in response.resources {
            let (name, body) = named(any);
            if state.wildcard || ty.is_wildcard() || state.names.contains(&name) {
                added.push(Added { name, version: Version::of(&body).to_string(), body });
            }
        }
        let mut removed = Vec::new();
        if ty.is_full_state() {
            let there: BTreeSet<&str> = added.iter().map(|a| a.name.as_str()).collect();
            let waiting = state.outstanding.iter().flat_map(|o| o.added.iter().map(|(name, _)| name));
            let had: BTreeSet<&String> = state.accepted.keys().chain(waiting).collect();
            removed.extend(had.into_iter().filter(|name| !there.contains(name.as_str())).cloned());
        }
        Some(self.deliver(ty, response.nonce, response.version_info, added, removed))
    }

    fn deliver(&mut self, ty: ResourceType, nonce: String, version: String, added: Vec<Added>, removed: Vec<String>) -> Update {
        let id = UpdateId { epoch: self.epoch, ty, nonce };
        let state = &mut self.types[ty];
        state.nonce.clone_from(&id.nonce);
        state.outstanding.push(Outstanding {
            id: id.clone(),
            version: version.clone(),
            added: added.iter().map(|a| (a.name.clone(), a.version.clone())).collect(),
            removed: removed.clone(),
        });
        Update { id, ty, version, added, removed }
    }

    /// The update is in force.
    pub fn ack(&mut self, id: &UpdateId) {
        if let Some(update) = self.take_outstanding(id) {
            let version = update.version.clone();
            self.accept(id.ty, update, |_| true);
            if id.epoch == self.epoch {
                let state = &mut self.types[id.ty];
                state.accepted_version = version;
                state.answers.push_back(Answer { nonce: id.nonce.clone(), error: None });
            }
        }
    }

    /// The update is refused as a whole; the client goes on with what it had. `reason` is shown to people.
    pub fn nack(&mut self, id: &UpdateId, reason: &str) {
        if self.take_outstanding(id).is_some() {
            self.refuse(id, reason);
        }
    }

    /// The resources of these names are refused; the rest of the update is in force.
    pub fn nack_partly(&mut self, id: &UpdateId, refused: &[String], reason: &str) {
        if let Some(update) = self.take_outstanding(id) {
            self.accept(id.ty, update, |name| !refused.iter().any(|r| r == name));
            self.refuse(id, reason);
        }
    }

    fn refuse(&mut self, id: &UpdateId, reason: &str) {
        if id.epoch == self.epoch {
            self.types[id.ty].answers.push_back(Answer { nonce: id.nonce.clone(), error: Some(reason.to_owned()) });
        }
    }

    fn accept(&mut self, ty: ResourceType, update: Outstanding, accepted: impl Fn(&str) -> bool) {
        let state = &mut self.types[ty];
        for (name, version) in update.added {
            let wanted = state.wildcard || ty.is_wildcard() || state.names.contains(&name);
            if wanted && accepted(&name) {
                state.accepted.insert(name, version);
            }
        }
        for name in &update.removed {
            state.accepted.remove(name);
        }
    }

    fn take_outstanding(&mut self, id: &UpdateId) -> Option<Outstanding> {
        let outstanding = &mut self.types[id.ty].outstanding;
        let index = outstanding.iter().position(|o| o.id == *id)?;
        Some(outstanding.remove(index))
    }

    /// The next message for the server, if there is one.
    pub fn next_request(&mut self) -> Option<Request> {
        if !self.connected {
            return None;
        }
        ResourceType::ALL.into_iter().find_map(|ty| match self.protocol {
            Protocol::Delta => self.next_delta(ty),
            Protocol::Sotw => self.next_sotw(ty),
        })
    }

    fn next_delta(&mut self, ty: ResourceType) -> Option<Request> {
        let state = &mut self.types[ty];
        let mut request = DeltaDiscoveryRequest { type_url: ty.type_url().to_owned(), ..Default::default() };
        if !state.introduced {
            if !state.is_wanted() {
                return None;
            }
            state.introduced = true;
            // Without names, a subscription to everything is the empty list for these types.
            let implied = state.wildcard && state.names.is_empty() && ty.is_wildcard();
            request.resource_names_subscribe = state.names.iter().cloned().collect();
            if state.wildcard && !implied {
                request.resource_names_subscribe.push("*".to_owned());
            }
            request.initial_resource_versions = state.known_versions().into_iter().collect();
            state.subscribe.clear();
            state.unsubscribe.clear();
        } else if let Some(answer) = state.answers.pop_front() {
            // Names never ride on an answer: Istio drops them when the nonce has expired meanwhile.
            request.response_nonce = answer.nonce;
            request.error_detail = answer.error.map(refusal);
        } else if !state.unsubscribe.is_empty() {
            // Alone, because a name may be in both lists.
            request.resource_names_unsubscribe = std::mem::take(&mut state.unsubscribe).into_iter().collect();
        } else if !state.subscribe.is_empty() {
            request.resource_names_subscribe = std::mem::take(&mut state.subscribe).into_iter().collect();
        } else {
            return None;
        }
        request.node = self.node();
        Some(Request::Delta(Box::new(request)))
    }

    fn next_sotw(&mut self, ty: ResourceType) -> Option<Request> {
        let epoch = self.epoch;
        let state = &mut self.types[ty];
        let mut request = DiscoveryRequest { type_url: ty.type_url().to_owned(), ..Default::default() };
        let unanswered = state.outstanding.iter().any(|o| o.id.epoch == epoch);
        if state.is_wanted() && (!state.introduced || state.begun_again()) {
            state.introduced = true;
            state.forget_connection();
        } else if let Some(answer) = state.answers.pop_front() {
            request.response_nonce = answer.nonce;
            if answer.error.is_none() {
                // An ACK carries all names. A NACK does too, but servers do not look at them.
                state.subscribe.clear();
                state.unsubscribe.clear();
            }
            request.error_detail = answer.error.map(refusal);
        } else if state.introduced && state.names_changed() && !unanswered {
            // With a response unanswered, its nonce would accept it and an older one has expired: names wait.
            state.subscribe.clear();
            state.unsubscribe.clear();
            request.response_nonce.clone_from(&state.nonce);
        } else {
            return None;
        }
        request.version_info.clone_from(&state.accepted_version);
        request.resource_names = state.names.iter().cloned().collect();
        // Without names, a subscription to everything is the empty list for these types.
        if state.wildcard && !(state.names.is_empty() && ty.is_wildcard()) {
            request.resource_names.push("*".to_owned());
        }
        if !state.is_wanted() {
            // That was the end of the subscription; a later one starts anew.
            state.introduced = false;
            state.nonce.clear();
        }
        request.node = self.node();
        Some(Request::Sotw(Box::new(request)))
    }

    /// The node goes with the first request of a connection only.
    fn node(&mut self) -> Option<Node> {
        (!std::mem::replace(&mut self.node_sent, true)).then(|| self.node.clone())
    }
}

fn refusal(reason: String) -> Status {
    Status { code: INVALID_ARGUMENT, message: reason, details: Vec::new() }
}

/// The name of a resource, which the state-of-the-world protocol does not carry: it is field 1 of every message that Envoy
/// names (and Istio's name table has none). A resource may also come wrapped in `Resource`, which names it.
fn named(any: Any) -> (String, Bytes) {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    if any.type_url == "type.googleapis.com/envoy.service.discovery.v3.Resource"
        && let Ok(resource) = <crate::proto::Resource as prost::Message>::decode(any.value.clone())
    {
        return (resource.name, resource.resource.unwrap_or_default().value);
    }
    let has_name = any.type_url != ResourceType::Nds.type_url();
    let named = has_name.then(|| <Named as prost::Message>::decode(any.value.clone()).ok()).flatten();
    (named.map(|n| n.name).unwrap_or_default(), any.value)
}
