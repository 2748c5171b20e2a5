//! Workloads at the other end, known from metadata exchange and from certificates, and what this one tells of itself.

use super::WorkerTelemetry;
use crate::bootstrap::Settings;
use crate::http::{Head, KnownHeader};
use crate::upstream::{Cluster, Host};
use foldhash::HashMap;
use lateen_observe::istio::{Interned, Interner, Peer, Service};
use lateen_observe::peer_metadata::{PeerCache, PeerMetadata};
use std::cell::RefCell;
use std::sync::Arc;

/// How many peers a worker remembers that nobody holds.
const REMEMBERED: usize = 1024;

/// What this workload tells others, made once.
#[derive(Clone)]
pub(crate) struct OwnIdentity {
    pub(super) id: Arc<str>,
    pub(super) header: Arc<str>,
    pub(super) frame: Arc<[u8]>,
    metadata: Arc<PeerMetadata>,
    uri: Arc<str>,
}

impl OwnIdentity {
    /// From the node's description.
    pub(crate) fn new(settings: &Settings) -> Self {
        let exchanged = PeerMetadata::EXCHANGED_LABELS;
        let labels = settings.labels.iter().filter(|(k, _)| exchanged.contains(&k.as_str()));
        let owner = settings.metadata.get("OWNER").and_then(|v| v.as_str()).unwrap_or_default();
        let metadata = PeerMetadata {
            id: settings.node_id.clone(),
            name: settings.pod_name.clone(),
            namespace: settings.namespace.clone(),
            owner: owner.to_owned(),
            workload_name: settings.workload.clone(),
            cluster_id: settings.cluster_id.clone(),
            labels: labels.map(|(k, v)| (k.clone(), v.clone())).collect(),
        };
        Self {
            id: metadata.id.as_str().into(),
            header: metadata.to_header().into(),
            frame: metadata.to_frame().into(),
            uri: settings.identity.as_uri().into(),
            metadata: Arc::new(metadata),
        }
    }
}

/// A workload, as metrics name it.
pub(crate) type PeerHandle = Arc<Interned<Peer>>;

/// What was decoded of a header, with the identities it came with (nearly always one).
struct Known {
    metadata: PeerMetadata,
    interned: RefCell<Vec<(Option<String>, PeerHandle)>>,
}

/// The service of one version of a cluster.
type ServiceOf = (std::sync::Weak<Cluster>, Arc<Interned<Service>>);

/// A worker's table of workloads and services.
pub(crate) struct Peers {
    decoded: PeerCache<Known>,
    peers: Interner<Peer>,
    services: Interner<Service>,
    by_cluster: HashMap<Arc<str>, ServiceOf>,
    unknown: PeerHandle,
    own: PeerHandle,
    own_verified: PeerHandle,
}

impl Peers {
    /// Knows this workload, and the unknown one.
    pub(super) fn new(own: &OwnIdentity) -> Self {
        let mut peers = Interner::new(REMEMBERED);
        Self {
            unknown: peers.intern(Peer::default()),
            own: peers.intern(Peer::from_metadata(&own.metadata, None)),
            own_verified: peers.intern(Peer::from_metadata(&own.metadata, Some(&own.uri))),
            decoded: PeerCache::new(REMEMBERED),
            services: Interner::new(REMEMBERED),
            by_cluster: HashMap::default(),
            peers,
        }
    }

    /// This workload; `verified` if its certificate was part of the matter.
    pub(super) fn own(&self, verified: bool) -> PeerHandle {
        if verified { self.own_verified.clone() } else { self.own.clone() }
    }

    /// A workload by what it sent.
    fn of_header(&mut self, header: &[u8], principal: Option<&str>) -> Option<PeerHandle> {
        let known = self.decoded.get_or_decode(header, |metadata| Known { metadata, interned: RefCell::default() })?;
        let found = known.interned.borrow().iter().find(|(p, _)| p.as_deref() == principal).map(|(_, peer)| peer.clone());
        Some(found.unwrap_or_else(|| {
            let peer = self.peers.intern(Peer::from_metadata(&known.metadata, principal));
            let mut interned = known.interned.borrow_mut();
            // A header that comes with ever new identities must not grow the table.
            interned.truncate(7);
            interned.push((principal.map(str::to_owned), peer.clone()));
            peer
        }))
    }

    /// A workload of which the certificate, at most, is known.
    pub(super) fn of_principal(&mut self, principal: Option<&str>) -> PeerHandle {
        match principal {
            Some(principal) => self.peers.intern(Peer::from_principal(principal)),
            None => self.unknown.clone(),
        }
    }

    /// A workload by what it sent over TCP.
    pub(super) fn of_metadata(&mut self, metadata: &PeerMetadata, principal: Option<&str>) -> PeerHandle {
        self.peers.intern(Peer::from_metadata(metadata, principal))
    }

    /// The workload behind an endpoint, as the control plane describes it.
    pub(super) fn of_host(&mut self, host: &Host, principal: Option<&str>) -> PeerHandle {
        let Some(workload) = &host.endpoint.workload else { return self.of_principal(principal) };
        let labels = [
            ("service.istio.io/canonical-name", &workload.canonical_name),
            ("service.istio.io/canonical-revision", &workload.canonical_revision),
        ];
        let metadata = PeerMetadata {
            workload_name: workload.workload.clone(),
            namespace: workload.namespace.clone(),
            cluster_id: workload.cluster_id.clone(),
            labels: labels.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), v.clone())).collect(),
            ..PeerMetadata::default()
        };
        self.of_metadata(&metadata, principal)
    }

    /// The service that a cluster stands for; `None` if it names none.
    pub(super) fn service_of_cluster(&mut self, cluster: &Arc<Cluster>) -> Option<Arc<Interned<Service>>> {
        if let Some((held, service)) = self.by_cluster.get(&cluster.name)
            && std::ptr::eq(held.as_ptr(), Arc::as_ptr(cluster))
        {
            return Some(service.clone());
        }
        let service = match &*cluster.name {
            "PassthroughCluster" => Service::of_cluster("PassthroughCluster"),
            "BlackHoleCluster" => Service::of_cluster("BlackHoleCluster"),
            "InboundPassthroughCluster" => Service::of_cluster("InboundPassthroughCluster"),
            _ => {
                let first = cluster.config.metadata.services.first()?;
                Service {
                    host: first.host.clone().into(),
                    name: first.name.clone().into(),
                    namespace: first.namespace.clone().into(),
                }
            }
        };
        let service = self.services.intern(service);
        self.by_cluster.retain(|_, (held, _)| held.strong_count() > 0);
        self.by_cluster.insert(cluster.name.clone(), (Arc::downgrade(cluster), service.clone()));
        Some(service)
    }

    /// The service by a `Host` header.
    pub(super) fn service_of_host(&mut self, host: &str, namespace: &str) -> Arc<Interned<Service>> {
        self.services.intern(Service::from_host(host, namespace))
    }

    /// No service is known.
    pub(super) fn unknown_service(&mut self) -> Arc<Interned<Service>> {
        self.services.intern(Service::default())
    }
}

impl WorkerTelemetry {
    /// The workload that sent this head, if it tells.
    pub(crate) fn peer_of_headers(&self, head: &Head, principal: Option<&str>) -> Option<PeerHandle> {
        let header = head.get(KnownHeader::XEnvoyPeerMetadata)?;
        self.peers.borrow_mut().of_header(header, principal)
    }
}
