//! The protocol on one connection, without I/O.
//!
//! Requests and changes of the world are noted as work ([`Session::on_request`], [`Session::on_delta_request`],
//! [`Session::on_change`]); [`Session::next_response`] does one piece of it: it asks the generator and answers what the
//! client does not have. Per type at most one response is under way; what happens meanwhile is coalesced. What clients ask
//! for has priority over what the world changes; within both, types go in push order.

use super::change::{Change, Names};
use super::watch::{InFlight, TypeStatus, WatchState};
use super::{ClientInfo, Generator, Watch};
use crate::proto::{
    Any, ControlPlane, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    Resource as ProtoResource,
};
use crate::{Generation, Resource, ResourceType, TypeMap, Version};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The two forms of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// State of the world: `StreamAggregatedResources`.
    Sotw,
    /// Incremental: `DeltaAggregatedResources`.
    Delta,
}

/// What a question can bring without being asked for by name, in push order.
const ASKED_FOR: [ResourceType; 4] = [ResourceType::Cds, ResourceType::Lds, ResourceType::Rds, ResourceType::Nds];

/// What a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Names that one connection may watch of one type.
    pub names_per_type: usize,
    /// The longest name, in bytes.
    pub name_length: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { names_per_type: 65_536, name_length: 4096 }
    }
}

/// A request that ends the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More names than [`Limits::names_per_type`].
    #[error("{0}: more than {1} names are watched on one connection")]
    TooManyNames(ResourceType, usize),
    /// A name longer than [`Limits::name_length`].
    #[error("{0}: a resource name is longer than {1} bytes")]
    NameTooLong(ResourceType, usize),
    /// `*` for a type whose resources are asked for by name.
    #[error("{0} is subscribed by name; \"*\" is not supported for it")]
    Wildcard(ResourceType),
    /// xDS resource locators (`xdstp`), which are not supported.
    #[error("{0}: resource locators are not supported; subscribe by resource name")]
    Locator(ResourceType),
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The type.
    pub ty: ResourceType,
    /// What the answer of the client repeats.
    pub nonce: String,
    /// The world that it was made from.
    pub generation: Generation,
    /// Resources that the client does not have in this version (in the state-of-the-world protocol, for clusters and
    /// listeners: all).
    pub resources: Vec<Arc<Resource>>,
    /// Names of resources that are gone; delta only.
    pub removed: Vec<Arc<str>>,
}

impl Response {
    /// As a message of the state-of-the-world protocol.
    pub fn to_sotw(&self, identifier: &str) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: self.generation.to_string(),
            resources: self.resources.iter().map(|r| self.any(r)).collect(),
            type_url: self.ty.type_url().to_owned(),
            nonce: self.nonce.clone(),
            control_plane: Some(ControlPlane { identifier: identifier.to_owned() }),
        }
    }

    /// As a message of the delta protocol.
    pub fn to_delta(&self, identifier: &str) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            system_version_info: self.generation.to_string(),
            resources: self
                .resources
                .iter()
                .map(|r| ProtoResource {
                    version: r.version().to_string(),
                    resource: Some(self.any(r)),
                    name: r.name().to_string(),
                    aliases: Vec::new(),
                })
                .collect(),
            type_url: self.ty.type_url().to_owned(),
            nonce: self.nonce.clone(),
            removed_resources: self.removed.iter().map(ToString::to_string).collect(),
            control_plane: Some(ControlPlane { identifier: identifier.to_owned() }),
        }
    }

    fn any(&self, resource: &Resource) -> Any {
        Any { type_url: self.ty.type_url().to_owned(), value: resource.body().clone() }
    }
}

/// The protocol state of one connection.
pub struct Session {
    client: Arc<ClientInfo>,
    generator: Box<dyn Generator>,
    limits: Limits,
    watches: TypeMap<Option<Box<WatchState>>>,
    /// The newest world that was reported.
    generation: Generation,
    /// Makes nonces of this connection unlike those of another.
    nonce_prefix: u64,
    responses: u64,
    expired_nonces: u64,
    /// Types that still have to say what the last questions have brought; before that these are not answered.
    owed: TypeMap<bool>,
}

impl Session {
    /// A new connection. `nonce_prefix` should differ from connection to connection (a random number).
    pub fn new(client: Arc<ClientInfo>, generator: Box<dyn Generator>, limits: Limits, nonce_prefix: u64) -> Self {
        Self {
            client,
            generator,
            limits,
            watches: TypeMap::default(),
            generation: Generation::default(),
            nonce_prefix,
            responses: 0,
            expired_nonces: 0,
            owed: TypeMap::default(),
        }
    }

    /// Whose connection it is.
    pub fn client(&self) -> &Arc<ClientInfo> {
        &self.client
    }

    /// Requests whose nonce was not that of the last response (metric `pilot_xds_expired_nonce`).
    pub fn expired_nonces(&self) -> u64 {
        self.expired_nonces
    }

    /// The types that the client watches, and how far it is with each.
    pub fn status(&self) -> impl Iterator<Item = (ResourceType, TypeStatus)> {
        self.watches.iter().filter_map(|(ty, watch)| Some((ty, watch.as_ref()?.status())))
    }

    /// The newest world of which the client has accepted everything that concerns it.
    pub fn acked_generation(&self) -> Generation {
        self.watches.iter().filter_map(|(_, w)| Some(w.as_ref()?.acked_generation)).min().unwrap_or(self.generation)
    }

    /// Notes a request of the state-of-the-world protocol.
    ///
    /// # Errors
    /// A [`Violation`] must end the stream.
    pub fn on_request(&mut self, request: &DiscoveryRequest) -> Result<(), Violation> {
        let Some(ty) = ResourceType::from_type_url(&request.type_url) else { return Ok(()) };
        if !request.resource_locators.is_empty() {
            return Err(Violation::Locator(ty));
        }
        if let Some(error) = &request.error_detail {
            if let Some(watch) = &mut self.watches[ty] {
                watch.nacked(&request.response_nonce, error.message.clone());
            }
            return Ok(());
        }
        let names = self.check_names(ty, &request.resource_names)?;
        match &mut self.watches[ty] {
            Some(watch) if !request.response_nonce.is_empty() => {
                if request.response_nonce != watch.sent_nonce {
                    self.expired_nonces += 1;
                } else if names.is_empty() && !watch.wildcard {
                    self.watches[ty] = None;
                } else {
                    watch.acked();
                    sotw_names(ty, watch, names);
                }
            }
            _ => {
                let wildcard = names.is_empty() && ty.is_wildcard() || names.contains("*");
                if names.is_empty() && !wildcard {
                    // A subscription that ends before its first response: there is no nonce that would say so.
                    self.watches[ty] = None;
                    return Ok(());
                }
                let pending = super::watch::Pending { requested: Names::All, must_respond: true, ..Default::default() };
                self.watches[ty] =
                    Some(Box::new(WatchState { wildcard, names: without_star(names), pending, ..Default::default() }));
            }
        }
        Ok(())
    }

    /// Notes a request of the delta protocol.
    ///
    /// # Errors
    /// A [`Violation`] must end the stream.
    pub fn on_delta_request(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Violation> {
        let Some(ty) = ResourceType::from_type_url(&request.type_url) else { return Ok(()) };
        if !request.resource_locators_subscribe.is_empty() || !request.resource_locators_unsubscribe.is_empty() {
            return Err(Violation::Locator(ty));
        }
        let subscribe = self.check_names(ty, &request.resource_names_subscribe)?;
        let Some(watch) = &mut self.watches[ty] else {
            return self.first_delta_request(ty, request, subscribe);
        };
        // Subscriptions are state of the client, not an answer: they hold also when they come with a NACK or with a nonce
        // that has expired. Istio drops them in that case, and such a client waits for ever.
        let nonce = &request.response_nonce;
        if let Some(error) = &request.error_detail {
            watch.nacked(nonce, error.message.clone());
        } else if !nonce.is_empty() && *nonce != watch.sent_nonce {
            self.expired_nonces += 1;
        } else if !nonce.is_empty() {
            watch.acked();
        }
        let asks = !subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
        delta_names(watch, subscribe, &request.resource_names_unsubscribe);
        if watch.names.len() > self.limits.names_per_type {
            return Err(Violation::TooManyNames(ty, self.limits.names_per_type));
        }
        if ty == ResourceType::Lookup && asks {
            self.ask();
        }
        Ok(())
    }

    /// The client's questions have changed, and with them what it is to have.
    fn ask(&mut self) {
        let Some(questions) = &self.watches[ResourceType::Lookup] else { return };
        if !self.generator.ask(&questions.names) {
            return;
        }
        for ty in ASKED_FOR {
            if let Some(watch) = &mut self.watches[ty] {
                watch.pending.changed = Names::All;
                self.owed[ty] = true;
            }
        }
    }

    /// The first request of a type on this connection: what the client says that it has counts as sent.
    fn first_delta_request(
        &mut self,
        ty: ResourceType,
        request: &DeltaDiscoveryRequest,
        mut names: BTreeSet<Arc<str>>,
    ) -> Result<(), Violation> {
        let known = self.check_names_of(ty, request.initial_resource_versions.keys())?;
        let unsubscribes_all = request.resource_names_unsubscribe.iter().any(|n| n == "*");
        let wildcard = (names.contains("*") || (names.is_empty() && ty.is_wildcard())) && !unsubscribes_all;
        if !wildcard {
            names.extend(known);
        }
        for name in &request.resource_names_unsubscribe {
            names.remove(name.as_str());
        }
        let mut watch = WatchState { wildcard, names: without_star(names), ..Default::default() };
        for (name, version) in &request.initial_resource_versions {
            watch.has.insert(name.as_str().into(), Version::parse(version));
        }
        watch.pending.requested = Names::All;
        // Envoy holds its start back until it is told that there is nothing.
        watch.pending.must_respond = wildcard && watch.has.is_empty();
        self.watches[ty] = Some(Box::new(watch));
        if ty == ResourceType::Lookup {
            self.ask();
            // On a new connection the questions come before the subscriptions, so that nothing that they hold is taken away.
            self.owed[ResourceType::Cds] = true;
            self.owed[ResourceType::Lds] = true;
        }
        Ok(())
    }

    /// Notes that the world has changed.
    pub fn on_change(&mut self, change: &Change) {
        self.generation = self.generation.max(change.generation);
        for ty in ResourceType::ALL {
            let Some(watch) = &mut self.watches[ty] else { continue };
            match &change.names[ty] {
                Names::None => {}
                Names::Some(names) if !watch.wildcard => {
                    names.iter().filter(|n| watch.names.contains(*n)).for_each(|n| watch.pending.changed.insert(n.clone()));
                }
                names => watch.pending.changed.merge(names),
            }
            watch.unaffected(change.generation);
        }
    }

    /// Whether [`Self::next_response`] has something to look at.
    pub fn has_work(&self) -> bool {
        self.next_type().is_some()
    }

    /// Makes the next response, if there is something to say to the client now.
    pub fn next_response(&mut self) -> Option<Response> {
        while let Some(ty) = self.next_type() {
            if let Some(response) = self.respond(ty) {
                return Some(response);
            }
        }
        None
    }

    fn next_type(&self) -> Option<ResourceType> {
        let owed = || self.owed.iter().any(|(_, owed)| *owed);
        let ready = || {
            let watches = self.watches.iter().filter_map(|(ty, w)| Some((ty, w.as_deref()?)));
            watches.filter(|(ty, w)| w.in_flight.is_none() && (*ty != ResourceType::Lookup || !owed()))
        };
        let requested = ready().find(|(_, w)| w.pending.is_requested());
        requested.or_else(|| ready().find(|(_, w)| !w.pending.is_empty())).map(|(ty, _)| ty)
    }

    /// Does what is pending of a type; `None` if the client has all of it.
    fn respond(&mut self, ty: ResourceType) -> Option<Response> {
        let watch = self.watches[ty].as_deref_mut()?;
        self.owed[ty] = false;
        let pending = std::mem::take(&mut watch.pending);
        let mut wanted = pending.requested.clone();
        wanted.merge(&pending.changed);
        wanted.merge(&pending.forced);
        let full = self.client.protocol == Protocol::Sotw && ty.is_full_state();
        let asked = Asked::new(watch, &wanted, full);
        let generated = self.generator.generate(ty, asked.watch());
        let generation = generated.generation;

        let removed = asked.removed(watch, ty, &pending.requested, &generated.resources);
        let differs = |r: &Resource| !watch.has_version(r) || pending.forced.contains(r.name());
        let changed: Vec<Arc<Resource>> = generated.resources.iter().filter(|r| differs(r)).cloned().collect();
        for name in &removed {
            watch.forget(name);
        }
        if changed.is_empty() && removed.is_empty() && !pending.must_respond {
            watch.unaffected(generation);
            return None;
        }
        for resource in &changed {
            watch.has.insert(resource.name().clone(), resource.version());
        }
        self.responses += 1;
        let nonce = format!("{generation}-{:016x}-{}", self.nonce_prefix, self.responses);
        watch.sent_nonce.clone_from(&nonce);
        let sent = if full { &generated.resources } else { &changed };
        let names = sent.iter().map(|r| r.name().clone()).collect();
        watch.in_flight = Some(InFlight { nonce: nonce.clone(), generation, names });
        match ty {
            ResourceType::Cds => {
                self.imply(ResourceType::Eds, |name| changed.iter().any(|c| c.name() == name));
                self.warm_endpoints(&changed);
            }
            ResourceType::Lds => self.imply(ResourceType::Rds, |_| true),
            _ => {}
        }
        let resources = if full { generated.resources } else { changed };
        // In the state-of-the-world protocol what is missing is gone.
        let removed = if self.client.protocol == Protocol::Delta { removed } else { Vec::new() };
        Some(Response { ty, nonce, generation, resources, removed })
    }

    /// Sends what the client will ask for next, if its questions have brought it.
    fn imply(&mut self, ty: ResourceType, concerned: impl Fn(&Arc<str>) -> bool) {
        if self.watches[ResourceType::Lookup].is_none() {
            return;
        }
        let implied: BTreeSet<Arc<str>> = self.generator.implied(ty).into_iter().collect();
        let watch = self.watches[ty].get_or_insert_default();
        let outdated: Vec<_> = watch.implied.iter().filter(|name| !implied.contains(*name)).cloned().collect();
        for name in outdated {
            watch.implied.remove(&name);
            watch.names.remove(&name);
            watch.forget(&name);
        }
        for name in implied.into_iter().filter(concerned) {
            if watch.names.insert(name.clone()) {
                watch.implied.insert(name.clone());
                watch.pending.requested.insert(name);
                self.owed[ty] = true;
            }
        }
    }

    /// A client that gets a cluster anew waits for its endpoints anew, also where they have not changed.
    fn warm_endpoints(&mut self, clusters: &[Arc<Resource>]) {
        let Some(watch) = &mut self.watches[ResourceType::Eds] else { return };
        for cluster in clusters.iter().filter(|c| watch.names.contains(c.name())) {
            watch.pending.forced.insert(cluster.name().clone());
        }
    }

    fn check_names(&self, ty: ResourceType, names: &[String]) -> Result<BTreeSet<Arc<str>>, Violation> {
        let names = self.check_names_of(ty, names.iter())?;
        if names.contains("*") && !ty.is_wildcard() {
            return Err(Violation::Wildcard(ty));
        }
        Ok(names)
    }

    fn check_names_of<'a>(
        &self,
        ty: ResourceType,
        names: impl Iterator<Item = &'a String>,
    ) -> Result<BTreeSet<Arc<str>>, Violation> {
        let mut checked = BTreeSet::new();
        for name in names {
            if name.len() > self.limits.name_length {
                return Err(Violation::NameTooLong(ty, self.limits.name_length));
            }
            checked.insert(Arc::from(name.as_str()));
            if checked.len() > self.limits.names_per_type {
                return Err(Violation::TooManyNames(ty, self.limits.names_per_type));
            }
        }
        Ok(checked)
    }
}

/// An ACK of the state-of-the-world protocol carries all names: only what is new is answered.
fn sotw_names(ty: ResourceType, watch: &mut WatchState, names: BTreeSet<Arc<str>>) {
    let wildcard = watch.wildcard && names.is_empty() || names.contains("*");
    let names = without_star(names);
    let added: Vec<_> = names.difference(&watch.names).cloned().collect();
    if !wildcard {
        let gone: Vec<_> = watch.names.difference(&names).cloned().collect();
        gone.iter().for_each(|name| watch.forget(name));
    }
    if wildcard && !watch.wildcard {
        watch.pending.requested = Names::All;
    } else if ty.is_full_state() && !added.is_empty() {
        watch.pending.requested.merge(&Names::All);
        watch.pending.must_respond = true;
    }
    for name in added {
        watch.pending.requested.insert(name.clone());
        watch.pending.forced.insert(name);
        watch.pending.must_respond = true;
    }
    watch.wildcard = wildcard;
    watch.names = names;
}

/// Changes of a delta subscription.
fn delta_names(watch: &mut WatchState, subscribe: BTreeSet<Arc<str>>, unsubscribe: &[String]) {
    if subscribe.contains("*") && !watch.wildcard {
        watch.wildcard = true;
        watch.pending.requested = Names::All;
    }
    for name in without_star(subscribe) {
        // Whoever asks for a name again wants it again (xDS: "the server must send it"), unless it is on its way unasked.
        if !watch.implied.remove(&name) {
            watch.has.remove(&name);
            watch.pending.requested.insert(name.clone());
        }
        watch.names.insert(name);
    }
    for name in unsubscribe {
        if name == "*" {
            watch.wildcard = false;
            let names = &watch.names;
            watch.has.retain(|name, _| names.contains(name));
        } else if let Some(name) = watch.names.take(name.as_str()) {
            watch.implied.remove(&name);
            watch.forget(&name);
            if watch.wildcard {
                // It is still covered by the wildcard, and the client has dropped it.
                watch.pending.requested.insert(name);
            }
        }
    }
}

fn without_star(mut names: BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
    names.remove("*");
    names
}

/// What the generator is asked.
enum Asked {
    Everything,
    Names { names: Vec<Arc<str>>, all: bool },
}

impl Asked {
    fn new(watch: &WatchState, wanted: &Names, full: bool) -> Self {
        match wanted {
            Names::Some(wanted) if !full => {
                let covered = |n: &&Arc<str>| watch.wildcard || watch.names.contains(*n);
                let mut names: Vec<_> = wanted.iter().filter(covered).cloned().collect();
                names.sort_unstable();
                Self::Names { names, all: false }
            }
            _ if watch.wildcard => Self::Everything,
            _ => Self::Names { names: watch.names.iter().cloned().collect(), all: true },
        }
    }

    fn watch(&self) -> Watch<'_> {
        match self {
            Self::Everything => Watch::Wildcard,
            Self::Names { names, .. } => Watch::Names(names),
        }
    }

    /// What the client has, or has just asked for by name, and what is not there.
    fn removed(&self, watch: &WatchState, ty: ResourceType, requested: &Names, generated: &[Arc<Resource>]) -> Vec<Arc<str>> {
        if !ty.is_full_state() {
            // Endpoints, routes and secrets go with what refers to them.
            return Vec::new();
        }
        let there: BTreeSet<&str> = generated.iter().map(|r| &**r.name()).collect();
        let gone = |name: &&Arc<str>| {
            let expected = watch.has.contains_key(*name) || (requested.contains(name) && watch.names.contains(*name));
            expected && !there.contains(&***name)
        };
        let gone: BTreeSet<&Arc<str>> = match self {
            Self::Names { names, all: false } => names.iter().filter(gone).collect(),
            Self::Everything | Self::Names { .. } => watch.has.keys().chain(&watch.names).filter(gone).collect(),
        };
        gone.into_iter().cloned().collect()
    }
}
