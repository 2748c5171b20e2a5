//! The server's half: one [`Session`] per connection, and the gRPC shell around it.

mod change;
mod connections;
mod grpc;
mod session;
#[cfg(test)]
mod session_tests;
mod watch;

pub use change::{Change, Names};
pub use connections::{ClientStatus, Connection, Connections};
pub use grpc::{AdsService, Authenticator, BoxFuture, Peer, SdsService, ServerOptions};
pub use session::{Limits, Protocol, Response, Session, Violation};
pub use watch::{SyncState, TypeStatus};

use crate::{Generation, Node, Resource, ResourceType};
use lateen_model::identity::SpiffeId;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Which connection, in the life of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is connected.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The connection.
    pub connection: ConnectionId,
    /// The proxy as it describes itself; its namespace and service account are those of `identity` if there is one.
    pub node: Node,
    /// The proven identity; `None` on a plaintext port.
    pub identity: Option<SpiffeId>,
    /// Where it connects from.
    pub address: Option<SocketAddr>,
    /// Which form of the protocol it speaks.
    pub protocol: Protocol,
    /// When it connected.
    pub connected: SystemTime,
}

/// What the client watches of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch<'a> {
    /// Everything that this client is to have.
    Wildcard,
    /// These names, each once and in order. A name that must not exist for this client is left out of the answer.
    Names(&'a [Arc<str>]),
}

/// The answer of a [`Generator`].
#[derive(Clone, Debug, Default)]
pub struct Generated {
    /// The world that it was made from.
    pub generation: Generation,
    /// The resources; what was asked for and is missing here does not exist. In the order in which they are to be sent.
    pub resources: Vec<Arc<Resource>>,
}

/// Makes the resources of one connection. It may keep what it worked out about the proxy; it is dropped when the connection
/// ends.
///
/// Endpoints and routes that a cluster or a listener refers to must be answered even when they are empty: Envoy holds a
/// cluster or a listener back until it has them. The EDS name of a cluster must be the cluster's name (Istio's rule): after
/// a changed cluster its endpoints are sent again.
pub trait Generator: Send {
    /// Makes the resources of a type. Runs on the connection's task: it must not block on anything but the processor.
    fn generate(&mut self, ty: ResourceType, watch: Watch<'_>) -> Generated;

    /// The client's questions are these from now on ([`crate::on_demand`]). Whether that may change what its wildcard
    /// subscriptions hold.
    fn ask(&mut self, questions: &BTreeSet<Arc<str>>) -> bool {
        let _ = questions;
        false
    }

    /// Names of endpoints and routes that this client will ask for as soon as it has its clusters and listeners: they are sent
    /// along with these.
    fn implied(&mut self, ty: ResourceType) -> Vec<Arc<str>> {
        let _ = ty;
        Vec::new()
    }
}

/// The control plane, as the server sees it.
pub trait ControlPlane: Send + Sync + 'static {
    /// A proxy has connected and is authenticated. The answer makes its resources, or says why it gets none.
    ///
    /// # Errors
    /// [`Rejection`] ends the stream.
    fn connect(&self, client: &Arc<ClientInfo>) -> Result<Box<dyn Generator>, Rejection>;
}

/// Why a connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not yet, or not any more: the client should try again (gRPC `UNAVAILABLE`).
    #[error("{0}")]
    Unavailable(String),
    /// Never for this client (gRPC `PERMISSION_DENIED`).
    #[error("{0}")]
    Denied(String),
}
