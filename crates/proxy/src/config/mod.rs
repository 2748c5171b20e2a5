//! Configuration: from the bytes that the control plane sends to the tables that requests consult.

mod compact;
pub(crate) mod compiled;
pub(crate) mod files;
mod lazy_cluster;
mod references;
pub(crate) mod secrets;
pub(crate) mod snapshot;
pub(crate) mod store;
mod warming;

pub(crate) use compiled::{Chain, CompiledHttpFilter, CompiledNetworkFilter, Hcm, Listener, RoutesOf, TcpRoute, Terminal};
pub(crate) use snapshot::Snapshot;
pub(crate) use store::Store;
