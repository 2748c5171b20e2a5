//! What changed between two worlds, in the terms that generation depends on.

use crate::debounce::Merge;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::Instant;

/// A short text that many places share.
pub type Name = Arc<str>;

/// What kind of thing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A service's ports, addresses, visibility, or the set of service accounts behind it.
    Service,
    /// The endpoints of a service, and nothing else of it.
    Endpoints,
    /// A pod's own labels, ports or addresses (what its own proxy is configured by).
    Workload,
    /// networking.istio.io.
    VirtualService,
    /// networking.istio.io.
    DestinationRule,
    /// networking.istio.io.
    Gateway,
    /// networking.istio.io.
    Sidecar,
    /// security.istio.io.
    PeerAuthentication,
    /// security.istio.io.
    AuthorizationPolicy,
    /// policy.lateen.dev.
    LocalRateLimit,
    /// Kubernetes.
    Secret,
    /// The ConfigMap `istio` of the root namespace.
    MeshConfig,
    /// The roots of trust.
    TrustBundle,
}

impl Kind {
    /// As Istio names it in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Endpoints => "Endpoints",
            Self::Workload => "Workload",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::Gateway => "Gateway",
            Self::Sidecar => "Sidecar",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::LocalRateLimit => "LocalRateLimit",
            Self::Secret => "Secret",
            Self::MeshConfig => "MeshConfig",
            Self::TrustBundle => "TrustBundle",
        }
    }
}

/// One thing that changed: was added, altered or removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
}

impl ChangeKey {
    /// Puts a key together.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

/// A set of changes and the time of the first.
#[derive(Clone, Debug)]
pub struct ChangeSet {
    keys: BTreeSet<ChangeKey>,
    /// When the first of the changes was noticed.
    pub since: Instant,
}

impl ChangeSet {
    /// Nothing yet.
    pub fn new(since: Instant) -> Self {
        Self { keys: BTreeSet::new(), since }
    }

    /// Adds a change.
    pub fn insert(&mut self, key: ChangeKey) {
        self.keys.insert(key);
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// All changes, ordered by kind, namespace and name.
    pub fn keys(&self) -> impl Iterator<Item = &ChangeKey> {
        self.keys.iter()
    }

    /// The kinds that changed, each once.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        let mut kinds: Vec<Kind> = self.keys.iter().map(|k| k.kind).collect();
        kinds.dedup();
        kinds.into_iter()
    }

    /// Whether anything of this kind changed.
    pub fn touches(&self, kind: Kind) -> bool {
        self.of(kind).next().is_some()
    }

    /// The changes of one kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &ChangeKey> {
        let first = ChangeKey { kind, namespace: "".into(), name: "".into() };
        self.keys.range(first..).take_while(move |k| k.kind == kind)
    }
}

impl Merge for ChangeSet {
    fn merge(&mut self, later: Self) {
        self.since = self.since.min(later.since);
        self.keys.extend(later.keys);
    }
}
