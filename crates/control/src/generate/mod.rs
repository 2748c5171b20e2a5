//! Pure functions from the world and a proxy's scope to the data plane's configuration, with Istio's names.

pub mod cluster;
pub mod delegate;
pub mod destination;
pub mod endpoint;
pub mod external;
pub mod gateway;
mod hash;
pub mod inbound;
pub mod l4;
pub mod listener;
pub mod locality;
pub mod mesh;
pub mod mtls;
pub mod on_demand;
pub mod proxy;
mod rate_limit;
pub mod rbac;
pub mod retry;
pub mod route;
pub mod scope;
pub mod secret;
pub mod tenancy;
pub mod tls;

pub use destination::MergedRule;
pub use proxy::Proxy;
pub use scope::{Scope, ScopeKey, ScopedService};

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod discovery_tests;
#[cfg(test)]
mod external_tests;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod locality_tests;
#[cfg(test)]
mod on_demand_tests;
