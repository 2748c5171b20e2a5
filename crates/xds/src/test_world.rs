//! A world for tests of both sessions.

use crate::server::{Change, ClientInfo, ConnectionId, Generated, Generator, Protocol, Watch};
use crate::{Generation, Node, NodeType, Resource, ResourceType, Version};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// A world whose resources have numbers for content.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) generation: u64,
    pub(crate) resources: BTreeMap<(ResourceType, String), u64>,
    /// What the generator was asked, in order.
    asked: Vec<(ResourceType, Option<Vec<String>>)>,
}

#[derive(Clone, Default)]
pub(crate) struct Shared(pub(crate) Arc<Mutex<World>>);

impl Shared {
    pub(crate) fn with(resources: &[(ResourceType, &str)]) -> Self {
        let shared = Self::default();
        {
            let mut world = shared.0.lock().unwrap();
            world.generation = 1;
            world.resources = resources.iter().map(|(ty, name)| ((*ty, (*name).to_owned()), 1)).collect();
        }
        shared
    }

    /// Changes resources (`None` removes) and says so.
    pub(crate) fn change(&self, changes: &[(ResourceType, &str, Option<u64>)]) -> Change {
        let mut world = self.0.lock().unwrap();
        world.generation += 1;
        let mut change = Change::new(Generation(world.generation));
        for (ty, name, content) in changes {
            match content {
                Some(content) => world.resources.insert((*ty, (*name).to_owned()), *content),
                None => world.resources.remove(&(*ty, (*name).to_owned())),
            };
            change.names[*ty].insert((*name).into());
        }
        change
    }

    pub(crate) fn asked(&self) -> Vec<(ResourceType, Option<Vec<String>>)> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }

    pub(crate) fn version(&self, ty: ResourceType, name: &str) -> String {
        let world = self.0.lock().unwrap();
        let key = (ty, name.to_owned());
        Version::of(&World::body(&key, world.resources[&key])).to_string()
    }
}

impl World {
    /// The bytes of a resource: its name in field 1, as in every resource of Envoy, and its number.
    pub(crate) fn body(key: &(ResourceType, String), number: u64) -> Bytes {
        #[derive(Clone, PartialEq, prost::Message)]
        struct Content {
            #[prost(string, tag = "1")]
            name: String,
            #[prost(uint64, tag = "2")]
            number: u64,
        }
        prost::Message::encode_to_vec(&Content { name: key.1.clone(), number }).into()
    }
}

impl Generator for Shared {
    fn generate(&mut self, ty: ResourceType, watch: Watch<'_>) -> Generated {
        let mut world = self.0.lock().unwrap();
        let names = match watch {
            Watch::Wildcard => None,
            Watch::Names(names) => Some(names.iter().map(ToString::to_string).collect::<Vec<_>>()),
        };
        world.asked.push((ty, names.clone()));
        let wanted = |name: &String| names.as_ref().is_none_or(|names| names.contains(name));
        let resources = world
            .resources
            .iter()
            .filter(|((t, name), _)| *t == ty && wanted(name))
            .map(|(key, number)| Arc::new(Resource::new(key.1.as_str(), World::body(key, *number))))
            .collect();
        Generated { generation: Generation(world.generation), resources }
    }
}

/// A sidecar.
pub(crate) fn client(protocol: Protocol) -> ClientInfo {
    let node = Node::new(NodeType::Sidecar, "10.0.0.1".parse().unwrap(), "pod", "ns", "ns.svc.cluster.local");
    ClientInfo { connection: ConnectionId(1), node, identity: None, address: None, protocol, connected: SystemTime::UNIX_EPOCH }
}
