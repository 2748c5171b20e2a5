//! Strategies for property tests: any resource that the model allows and a control plane may send.
//!
//! They keep to what the model promises beyond its types: names are not empty, domains are unique, sums of weights are not
//! zero, policies are sorted, a statistics filter has its listener's direction, and a value that stands for "none" on the wire
//! (a zero timeout where that means unlimited) is `None`.

mod cluster;
mod common;
mod listener;
mod rbac;
mod route;

pub use cluster::{cluster, cluster_load_assignment};
pub use common::secret;
pub use listener::listener;
pub use rbac::{http_rbac, network_rbac};
pub use route::route_configuration;
