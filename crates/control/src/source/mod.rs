//! Where the mesh's state comes from. Each source is a task that turns what it sees into [`Input`]s; a Kubernetes watch
//! would be one more.

pub mod files;
mod settle;

use crate::resources::Query;
use crate::store::FileContent;
use lateen_model::resource::{ClusterChange, ClusterState};
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a source tells the core.
#[derive(Debug)]
pub enum Input {
    /// What some files hold now. The first of these, which may be empty, says that all files were read once.
    Files(Vec<FileContent>),
    /// The platform's pods and cluster IPs.
    Cluster {
        /// All of them.
        state: Arc<ClusterState>,
        /// Told the generation that is in force, once proxies have been notified.
        done: oneshot::Sender<u64>,
    },
    /// What is different in the platform's pods and cluster IPs.
    ClusterChange {
        /// To be made to the state that is in force.
        change: ClusterChange,
        /// Told the generation that is in force, once proxies have been notified; or, where the change is one of another state,
        /// that state's.
        done: oneshot::Sender<Result<u64, Option<u64>>>,
    },
    /// The roots of trust, PEM.
    Roots(Arc<[u8]>),
    /// Somebody wants to see resources.
    Show {
        /// Which.
        query: Query,
        /// Told them, as JSON, by kind, namespace and name.
        done: oneshot::Sender<Vec<serde_json::Value>>,
    },
}
