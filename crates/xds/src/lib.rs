//! The aggregated discovery service (ADS), state of the world and delta, client and server.
//!
//! The protocol is in state machines that do no I/O ([`server::Session`], [`client::Session`]); a thin gRPC shell around
//! each ([`server::AdsService`], [`client::run`]) moves messages between them and a connection.
//!
//! The control plane plugs in with [`server::ControlPlane`] and [`server::Generator`], and reports changes to
//! [`server::Connections`]. A proxy gets [`client::Update`]s and answers each with an ACK or a NACK.

pub mod client;
pub mod nds;
mod node;
pub mod on_demand;
pub mod proto;
mod resource;
mod resource_type;
pub mod server;

#[cfg(test)]
mod on_demand_tests;
#[cfg(test)]
mod pair_tests;
#[cfg(test)]
mod test_world;

pub use node::{Locality, Node, NodeError, NodeType};
pub use resource::{Generation, Resource, Version};
pub use resource_type::{ResourceType, TypeMap};
