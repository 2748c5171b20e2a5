//! Both sessions, wired together by a channel that loses connections, delays answers and refuses resources: when everything
//! has settled, the client has what the world holds.

use crate::ResourceType::{self, Cds, Eds};
use crate::client::{self, Request, Update};
use crate::proto::{DeltaDiscoveryResponse, DiscoveryResponse};
use crate::server::{self, Limits, Protocol, SyncState};
use crate::test_world::{Shared, World, client};
use bytes::Bytes;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::{Config, TestCaseError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    /// A cluster gets new content, or goes.
    Cluster(u8, Option<u64>),
    /// Endpoints get new content.
    Endpoints(u8, u64),
    /// The application asks for endpoints, or no longer.
    Want(u8, bool),
    /// So many messages arrive at the server.
    ToServer(u8),
    /// So many arrive at the client.
    ToClient(u8),
    /// The application answers one update; with `true`, one of a type that has waited less long.
    Answer(bool),
    /// The connection is lost, with everything that is under way.
    Lose,
    /// It is made again.
    Connect,
}

fn event() -> impl Strategy<Value = Event> {
    let name = || 0_u8..4;
    prop_oneof![
        (name(), proptest::option::of(1_u64..30)).prop_map(|(n, c)| Event::Cluster(n, c)),
        (name(), 1_u64..30).prop_map(|(n, c)| Event::Endpoints(n, c)),
        (name(), any::<bool>()).prop_map(|(n, w)| Event::Want(n, w)),
        (1_u8..4).prop_map(Event::ToServer),
        (1_u8..4).prop_map(Event::ToClient),
        any::<bool>().prop_map(Event::Answer),
        proptest::strategy::Just(Event::Lose),
        proptest::strategy::Just(Event::Connect),
    ]
}

enum Message {
    Delta(DeltaDiscoveryResponse),
    Sotw(DiscoveryResponse),
}

/// Contents that the application refuses.
fn is_bad(body: &[u8]) -> bool {
    body.last().is_some_and(|n| n % 7 == 0)
}

struct Pair {
    protocol: Protocol,
    world: Shared,
    client: client::Session,
    server: Option<server::Session>,
    to_server: VecDeque<Request>,
    to_client: VecDeque<Message>,
    updates: VecDeque<Update>,
    /// What the application has in force.
    in_force: BTreeMap<(ResourceType, String), Bytes>,
    wanted: BTreeSet<String>,
}

impl Pair {
    fn new(protocol: Protocol) -> Self {
        let world = Shared::with(&[(Cds, "0"), (Eds, "0"), (Eds, "1"), (Eds, "2"), (Eds, "3")]);
        let mut client = client::Session::new(protocol, crate::proto::Node::default());
        client.subscribe_all(Cds);
        Self {
            protocol,
            world,
            client,
            server: None,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            updates: VecDeque::new(),
            in_force: BTreeMap::new(),
            wanted: BTreeSet::new(),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Cluster(name, content) => self.change(Cds, *name, *content),
            Event::Endpoints(name, content) => self.change(Eds, *name, Some(*content)),
            Event::Want(name, true) => {
                self.client.subscribe(Eds, [name.to_string()]);
                self.wanted.insert(name.to_string());
            }
            Event::Want(name, false) => {
                self.client.unsubscribe(Eds, [name.to_string()]);
                self.wanted.remove(&name.to_string());
                self.in_force.remove(&(Eds, name.to_string()));
            }
            Event::ToServer(count) => self.deliver_to_server(*count),
            Event::ToClient(count) => self.deliver_to_client(*count),
            Event::Answer(late) => self.answer(*late),
            Event::Lose => {
                self.server = None;
                self.to_server.clear();
                self.to_client.clear();
                self.client.on_disconnect();
            }
            Event::Connect => {
                if self.server.is_none() {
                    let info = Arc::new(client(self.protocol));
                    self.server =
                        Some(server::Session::new(info, Box::new(self.world.clone()), Limits::default(), rand::random()));
                    self.client.on_connect();
                }
            }
        }
        while let Some(request) = self.client.next_request() {
            self.to_server.push_back(request);
        }
    }

    fn change(&mut self, ty: ResourceType, name: u8, content: Option<u64>) {
        let change = self.world.change(&[(ty, &name.to_string(), content)]);
        if let Some(server) = &mut self.server {
            server.on_change(&change);
        }
    }

    fn deliver_to_server(&mut self, count: u8) {
        let Some(server) = &mut self.server else { return };
        for _ in 0..count {
            match self.to_server.pop_front() {
                Some(Request::Delta(request)) => server.on_delta_request(&request).unwrap(),
                Some(Request::Sotw(request)) => server.on_request(&request).unwrap(),
                None => break,
            }
        }
        while let Some(response) = server.next_response() {
            self.to_client.push_back(match self.protocol {
                Protocol::Delta => Message::Delta(response.to_delta("test")),
                Protocol::Sotw => Message::Sotw(response.to_sotw("test")),
            });
        }
    }

    fn deliver_to_client(&mut self, count: u8) {
        for _ in 0..count {
            let update = match self.to_client.pop_front() {
                Some(Message::Delta(response)) => self.client.on_delta_response(response),
                Some(Message::Sotw(response)) => self.client.on_response(response),
                None => return,
            };
            self.updates.extend(update);
        }
    }

    /// The application takes what is good and refuses the rest, resource by resource.
    fn answer(&mut self, late: bool) {
        let Some(oldest) = self.updates.front().map(|update| update.ty) else { return };
        let other = self.updates.iter().position(|update| late && update.ty != oldest).unwrap_or(0);
        let Some(update) = self.updates.remove(other) else { return };
        let mut refused = Vec::new();
        for added in update.added {
            if update.ty == Eds && !self.wanted.contains(&added.name) {
                continue;
            }
            if is_bad(&added.body) {
                refused.push(added.name);
            } else {
                self.in_force.insert((update.ty, added.name), added.body);
            }
        }
        for name in update.removed {
            self.in_force.remove(&(update.ty, name));
        }
        if refused.is_empty() {
            self.client.ack(&update.id);
        } else {
            self.client.nack_partly(&update.id, &refused, &format!("bad: {}", refused.join(", ")));
        }
    }

    fn settle(&mut self) {
        self.apply(&Event::Connect);
        // Nothing that is bad stays in the world.
        let bad: Vec<(ResourceType, String)> = {
            let world = self.world.0.lock().unwrap();
            world.resources.iter().filter(|(key, n)| is_bad(&World::body(key, **n))).map(|(key, _)| key.clone()).collect()
        };
        for (ty, name) in bad {
            self.change(ty, name.parse().unwrap(), Some(1));
        }
        for _ in 0..200 {
            self.apply(&Event::ToServer(9));
            self.apply(&Event::ToClient(9));
            self.apply(&Event::Answer(false));
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let world = self.world.0.lock().unwrap();
        let expected: BTreeMap<_, _> = world
            .resources
            .iter()
            .filter(|((ty, name), _)| *ty == Cds || self.wanted.contains(name))
            .map(|(key, number)| (key.clone(), World::body(key, *number)))
            .collect();
        prop_assert_eq!(&self.in_force, &expected);
        let server = self.server.as_ref().unwrap();
        for (ty, status) in server.status() {
            prop_assert_eq!(status.state, SyncState::Synced, "{}", ty);
            prop_assert_eq!(status.acked_generation.0, world.generation, "{}", ty);
        }
        prop_assert!(!server.has_work());
        Ok(())
    }
}

proptest! {
    #![proptest_config(Config { cases: 400, ..Config::default() })]

    #[test]
    fn delta_settles(events in proptest::collection::vec(event(), 0..60)) {
        let mut pair = Pair::new(Protocol::Delta);
        events.iter().for_each(|event| pair.apply(event));
        pair.settle();
        pair.check()?;
    }

    #[test]
    fn sotw_settles(events in proptest::collection::vec(event(), 0..60)) {
        let mut pair = Pair::new(Protocol::Sotw);
        events.iter().for_each(|event| pair.apply(event));
        pair.settle();
        pair.check()?;
    }
}
