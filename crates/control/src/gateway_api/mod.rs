//! The Kubernetes Gateway API in the terms of the rest: Gateways, VirtualServices and DestinationRules as Istio has them, and the
//! statuses that tell what became of each object.
//!
//! [`translate`] is a pure function of the world. What it makes stands beside what people write, under names that nobody can
//! write (they contain `~`), and with [`Semantics::GatewayApi`](crate::world::Semantics), by which generation knows that paths
//! are compared by their elements and that a missing backend is answered with 500.

mod attach;
mod backend;
mod class;
mod features;
mod front;
mod frontend;
mod grpc;
mod http;
mod l4;
mod listener;
mod merge;
mod policy;
mod source;
mod status;
mod transition;

pub use class::managed;
pub use source::Sources;
pub use status::{Condition, ListenerStatus, ParentStatus, Status};
pub use transition::Transitions;

use crate::world::World;
use lateen_model::resource::{DestinationRule, Gateway, ObjectMeta, ResourceKey, VirtualService};
use listener::Ports;
use merge::Merger;
use std::collections::{BTreeMap, BTreeSet};

/// What a route's invalid backends are called: no cluster can have the name, so that requests for it are answered with 500.
pub const MISSING_BACKEND: &str = "missing-backend.invalid";

/// What the objects of the Gateway API come to.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// One for each listener of a Gateway.
    pub gateways: Vec<Gateway>,
    /// One for each listener and host, and one for each service and those who may see its routes.
    pub virtual_services: Vec<VirtualService>,
    /// One for each service that a BackendTLSPolicy is for.
    pub destination_rules: Vec<DestinationRule>,
    /// What became of each object.
    pub statuses: BTreeMap<ResourceKey, Status>,
    /// Services whose endpoints the statuses tell of, by namespace and name.
    pub fronts: BTreeSet<(String, String)>,
}

/// What the objects of the Gateway API come to in this world.
pub fn translate(world: &World) -> Translation {
    let mut out = Translation::default();
    let mut ports = Ports::of_all(world);
    let mut merger = Merger::default();
    let mut ancestors = policy::Ancestors::default();
    for route in attach::routes(world.gateway_api()) {
        let converted = route.convert(world);
        let mut parents = Vec::new();
        for parent in route.parents {
            let refused = match attach::attach(world, &ports, &route, parent) {
                None => continue,
                Some(Err(problem)) => Some(problem),
                // The rules that are right are programmed, whatever is wrong with others.
                Some(Ok(targets)) => {
                    if converted.refused.is_none() {
                        ports.count(&targets);
                    }
                    ancestors.note(&targets, &converted.backends);
                    merger.add(&ports, (&route, &converted), targets);
                    converted.refused.clone()
                }
            };
            parents.push(ParentStatus::new(parent, route.generation(), refused.as_ref(), converted.unresolved.as_ref()));
        }
        out.statuses.insert(route.key(), Status::Route { parents });
    }
    let terminated = merger.finish(&mut out);
    ports.finish(world, &terminated, &mut out);
    policy::translate(world, &ancestors, &mut out);
    class::statuses(world, &mut out);
    out
}

/// Metadata of something that is made: the age and the place of the oldest of what it is made from.
fn derived(from: &ObjectMeta, namespace: &str, name: String) -> ObjectMeta {
    ObjectMeta {
        name,
        namespace: namespace.to_owned(),
        creation_timestamp: from.creation_timestamp,
        provenance: from.provenance.clone(),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod status_tests;
#[cfg(test)]
mod tests;
