//! Who talks to whom about what: the source of the labels.

use crate::ResponseFlags;
use crate::peer_metadata::PeerMetadata;
use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What Istio writes for a label that it does not know.
pub const UNKNOWN: &str = "unknown";

/// What stands for labels that a peer chose once the registry is full.
pub(super) const OTHER: &str = "other";

/// Text of a label: mostly one of a few constants.
pub type Text = Cow<'static, str>;

/// A workload at one end of a connection. [`Default`] knows nothing: every field is `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Name of the owner, e.g. the Deployment.
    pub workload: Text,
    /// Namespace of the workload.
    pub namespace: Text,
    /// SPIFFE URI of the verified certificate.
    pub principal: Text,
    /// Label `app`.
    pub app: Text,
    /// Label `version`.
    pub version: Text,
    /// Cluster id.
    pub cluster: Text,
    /// `service.istio.io/canonical-name` and its fallbacks.
    pub canonical_service: Text,
    /// `service.istio.io/canonical-revision` and its fallbacks.
    pub canonical_revision: Text,
}

impl Default for Peer {
    fn default() -> Self {
        Self::all(UNKNOWN)
    }
}

impl Peer {
    fn all(text: &'static str) -> Self {
        let text = Cow::Borrowed(text);
        Self {
            workload: text.clone(),
            namespace: text.clone(),
            principal: text.clone(),
            app: text.clone(),
            version: text.clone(),
            cluster: text.clone(),
            canonical_service: text.clone(),
            canonical_revision: text,
        }
    }

    pub(super) fn other() -> Self {
        Self::all(OTHER)
    }

    /// The peer that sent this metadata over a connection whose certificate names `principal`.
    pub fn from_metadata(metadata: &PeerMetadata, principal: Option<&str>) -> Self {
        let known = |text: &str| if text.is_empty() { Cow::Borrowed(UNKNOWN) } else { Cow::Owned(text.to_owned()) };
        let label = |name: &str| known(metadata.labels.get(name).map_or("", String::as_str));
        Self {
            workload: known(&metadata.workload_name),
            namespace: known(&metadata.namespace),
            principal: known(principal.unwrap_or_default()),
            app: label("app"),
            version: label("version"),
            cluster: known(&metadata.cluster_id),
            canonical_service: known(metadata.canonical_service()),
            canonical_revision: Cow::Owned(metadata.canonical_revision().to_owned()),
        }
    }

    /// A peer of which only the certificate is known.
    pub fn from_principal(principal: &str) -> Self {
        Self { principal: Cow::Owned(principal.to_owned()), ..Self::default() }
    }
}

/// The service that a request was for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Host, e.g. `payment.shop.svc.cluster.local`, or `PassthroughCluster` and the like.
    pub host: Text,
    /// Short name.
    pub name: Text,
    /// Namespace.
    pub namespace: Text,
}

impl Default for Service {
    fn default() -> Self {
        let text = Cow::Borrowed(UNKNOWN);
        Self { host: text.clone(), name: text.clone(), namespace: text }
    }
}

impl Service {
    pub(super) fn other() -> Self {
        let text = Cow::Borrowed(OTHER);
        Self { host: text.clone(), name: text.clone(), namespace: text }
    }

    /// The service of a `Host` header when the configuration names none: the short name is the host's first label, the
    /// namespace is the destination's. A port is dropped, and letters are folded, so that neither makes a series of its own.
    pub fn from_host(host: &str, destination_namespace: &str) -> Self {
        let without_port = match host.rsplit_once(':') {
            Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let host = without_port.to_ascii_lowercase();
        let is_address = host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok();
        let name = if is_address { host.clone() } else { host.split('.').next().unwrap_or_default().to_owned() };
        Self { host: host.into(), name: name.into(), namespace: destination_namespace.to_owned().into() }
    }

    /// One of the clusters that stand for traffic without a service: `PassthroughCluster`, `BlackHoleCluster`,
    /// `InboundPassthroughCluster`.
    pub fn of_cluster(name: &'static str) -> Self {
        Self { host: name.into(), name: name.into(), namespace: UNKNOWN.into() }
    }
}

/// A value with a number that is never given to another one, so that the number can be part of a key.
#[derive(Debug)]
pub struct Interned<T> {
    id: u32,
    value: T,
}

impl<T> Interned<T> {
    /// The number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The value.
    pub fn value(&self) -> &T {
        &self.value
    }
}

/// Numbers are unique in the process; two workers may number the same value differently.
static NEXT_ID: AtomicU32 = AtomicU32::new(0);

/// Gives equal values one number, for as long as someone holds it. Each worker has its own.
#[derive(Debug)]
pub struct Interner<T> {
    held: HashMap<T, Arc<Interned<T>>>,
    capacity: usize,
}

impl<T: Clone + Eq + Hash> Interner<T> {
    /// An interner that remembers about so many values that nobody holds.
    pub fn new(capacity: usize) -> Self {
        Self { held: HashMap::new(), capacity }
    }

    /// The numbered form of a value.
    pub fn intern(&mut self, value: T) -> Arc<Interned<T>> {
        if let Some(interned) = self.held.get(&value) {
            return Arc::clone(interned);
        }
        if self.held.len() >= self.capacity {
            self.held.retain(|_, interned| Arc::strong_count(interned) > 1);
            // What is held is bounded by the open connections; the next cleaning waits until it has doubled.
            self.capacity = self.capacity.max(2 * self.held.len());
        }
        let interned = Arc::new(Interned { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), value: value.clone() });
        self.held.insert(value, Arc::clone(&interned));
        interned
    }
}

/// Which side of the connection reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's sidecar.
    Source,
    /// The server's sidecar.
    Destination,
    /// A waypoint.
    Waypoint,
}

impl Reporter {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Waypoint => "waypoint",
        }
    }
}

/// The value of `request_protocol` for requests (TCP connections have `tcp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    /// Any HTTP version.
    Http,
    /// HTTP with a `content-type` of gRPC.
    Grpc,
}

impl RequestProtocol {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// A gRPC status code, 0 to 16: any other text that a server sends is not one, and makes no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GrpcStatus(u8);

impl GrpcStatus {
    /// Parses the value of a `grpc-status` header or trailer.
    pub fn parse(value: &[u8]) -> Option<Self> {
        match value {
            [ones @ b'0'..=b'9'] => Some(Self(ones - b'0')),
            [b'1', ones @ b'0'..=b'6'] => Some(Self(10 + ones - b'0')),
            _ => None,
        }
    }

    /// The number.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The name of the code, as Envoy's `%GRPC_STATUS%` writes it.
    pub const fn name(self) -> &'static str {
        const NAMES: [&str; 17] = [
            "OK",
            "Canceled",
            "Unknown",
            "InvalidArgument",
            "DeadlineExceeded",
            "NotFound",
            "AlreadyExists",
            "PermissionDenied",
            "ResourceExhausted",
            "FailedPrecondition",
            "Aborted",
            "OutOfRange",
            "Unimplemented",
            "Internal",
            "Unavailable",
            "DataLoss",
            "Unauthenticated",
        ];
        NAMES[self.0 as usize]
    }
}

/// What a request is counted under.
#[derive(Clone, Copy, Debug)]
pub struct HttpSubject<'a> {
    /// Who reports.
    pub reporter: Reporter,
    /// Who asked.
    pub source: &'a Interned<Peer>,
    /// Who answered.
    pub destination: &'a Interned<Peer>,
    /// What was asked for.
    pub service: &'a Interned<Service>,
    /// HTTP or gRPC.
    pub protocol: RequestProtocol,
    /// The status sent to the client; 0 when the client had gone before there was one.
    pub response_code: u16,
    /// Of gRPC, if a valid one came.
    pub grpc_status: Option<GrpcStatus>,
    /// Why the proxy answered itself, if it did.
    pub flags: ResponseFlags,
    /// Whether the source was verified by its certificate; shown by the destination's reporter only.
    pub mutual_tls: bool,
}

/// What a TCP connection is counted under.
#[derive(Clone, Copy, Debug)]
pub struct TcpSubject<'a> {
    /// Who reports.
    pub reporter: Reporter,
    /// Who connected.
    pub source: &'a Interned<Peer>,
    /// Who was connected to.
    pub destination: &'a Interned<Peer>,
    /// What the connection was for.
    pub service: &'a Interned<Service>,
    /// Why the connection failed, if it did.
    pub flags: ResponseFlags,
    /// Whether the source was verified by its certificate; shown by the destination's reporter only.
    pub mutual_tls: bool,
}

/// The numbers of a subject: equal numbers mean equal labels.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SubjectKey {
    source: u32,
    destination: u32,
    service: u32,
    flags: (u32, u64),
    /// Code, gRPC status, and what has few values, packed.
    rest: u64,
}

impl HttpSubject<'_> {
    pub(super) fn key(&self) -> SubjectKey {
        let grpc = self.grpc_status.map_or(u64::from(u8::MAX), |status| status.code().into());
        let small = reporter_bits(self.reporter) << 2
            | u64::from(self.mutual_tls) << 1
            | u64::from(self.protocol == RequestProtocol::Grpc);
        SubjectKey {
            source: self.source.id,
            destination: self.destination.id,
            service: self.service.id,
            flags: self.flags.key(),
            rest: u64::from(self.response_code) << 16 | grpc << 8 | small,
        }
    }
}

impl TcpSubject<'_> {
    pub(super) fn key(&self) -> SubjectKey {
        SubjectKey {
            source: self.source.id,
            destination: self.destination.id,
            service: self.service.id,
            flags: self.flags.key(),
            rest: reporter_bits(self.reporter) << 1 | u64::from(self.mutual_tls),
        }
    }
}

fn reporter_bits(reporter: Reporter) -> u64 {
    match reporter {
        Reporter::Source => 0,
        Reporter::Destination => 1,
        Reporter::Waypoint => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::{GrpcStatus, Interner, Peer, Service};
    use crate::peer_metadata::PeerMetadata;

    #[test]
    fn interning_gives_equal_values_one_number_and_forgets_what_nobody_holds() {
        let mut interner = Interner::new(4);
        let first = interner.intern(Peer::from_principal("spiffe://a/ns/b/sa/c"));
        let again = interner.intern(Peer::from_principal("spiffe://a/ns/b/sa/c"));
        assert_eq!(first.id(), again.id());
        for index in 0..100 {
            let other = interner.intern(Peer::from_principal(&format!("spiffe://a/ns/b/sa/{index}")));
            assert_ne!(other.id(), first.id());
        }
        assert!(interner.held.len() <= 5, "{}", interner.held.len());
        assert_eq!(interner.intern(first.value().clone()).id(), first.id());
    }

    #[test]
    fn grpc_statuses() {
        for (text, code) in [
            ("0", Some(0)),
            ("9", Some(9)),
            ("10", Some(10)),
            ("16", Some(16)),
            ("17", None),
            ("", None),
            ("00", None),
            ("-1", None),
        ] {
            assert_eq!(GrpcStatus::parse(text.as_bytes()).map(GrpcStatus::code), code, "{text}");
        }
        assert_eq!(GrpcStatus::parse(b"14").map(GrpcStatus::name), Some("Unavailable"));
    }

    #[test]
    fn services_of_hosts() {
        let service = Service::from_host("Pay.shop.svc.cluster.local:8080", "shop");
        assert_eq!((&*service.host, &*service.name, &*service.namespace), ("pay.shop.svc.cluster.local", "pay", "shop"));
        assert_eq!(Service::from_host("10.0.0.1:80", "x").name, "10.0.0.1");
        assert_eq!(Service::from_host("[::1]:80", "x").host, "[::1]");
    }

    #[test]
    fn peers_of_metadata() {
        let mut metadata = PeerMetadata { workload_name: "web-v1".into(), namespace: "shop".into(), ..PeerMetadata::default() };
        metadata.labels.insert("app".into(), "web".into());
        let peer = Peer::from_metadata(&metadata, Some("spiffe://cluster.local/ns/shop/sa/web"));
        assert_eq!((&*peer.workload, &*peer.app, &*peer.version), ("web-v1", "web", "unknown"));
        assert_eq!((&*peer.canonical_service, &*peer.canonical_revision, &*peer.cluster), ("web", "latest", "unknown"));
    }
}
