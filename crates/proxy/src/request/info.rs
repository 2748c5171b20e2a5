//! What is learnt of a request on its way, for metrics, log and trace.

use crate::http::{Head, Version};
use crate::telemetry::peer::PeerHandle;
use crate::upstream::{Cluster, ConnectionMeta, Host};
use lateen_observe::ResponseFlags;
use lateen_observe::istio::GrpcStatus;
use lateen_policy::forwarded::Client;
use lateen_policy::route::CompiledRoute;
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// A request's record.
pub(crate) struct RequestInfo {
    pub(crate) started: Instant,
    pub(crate) start_time: SystemTime,
    pub(crate) protocol: Version,
    /// Head as received, in bytes.
    pub(crate) request_head_bytes: u64,
    pub(crate) request_body_bytes: u64,
    pub(crate) response_head_bytes: u64,
    pub(crate) response_body_bytes: u64,
    /// When the last byte of the request had come, and the first of the response.
    pub(crate) request_complete: Option<Instant>,
    /// When the last byte of the request had been sent to the upstream.
    pub(crate) request_sent: Option<Instant>,
    pub(crate) response_begun: Option<Instant>,
    pub(crate) client: Client,
    pub(crate) grpc: bool,
    pub(crate) grpc_status: Option<GrpcStatus>,
    pub(crate) request_messages: u64,
    pub(crate) response_messages: u64,
    pub(crate) route: Option<Arc<CompiledRoute>>,
    /// Which of the route's clusters was chosen.
    pub(crate) target: Option<usize>,
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// The name of a cluster that does not exist.
    pub(crate) missing_cluster: Option<String>,
    pub(crate) host: Option<Arc<Host>>,
    pub(crate) upstream: Option<Rc<ConnectionMeta>>,
    pub(crate) attempts: u32,
    pub(crate) flags: ResponseFlags,
    pub(crate) details: Cow<'static, str>,
    pub(crate) transport_failure: Option<String>,
    /// 0 until there is a response.
    pub(crate) response_code: u16,
    /// The status of an answer of our own, before gRPC's ways changed it.
    pub(crate) own_status: Option<u16>,
    pub(crate) response_head: Option<Head>,
    pub(crate) response_trailers: Option<Box<Head>>,
    /// The other proxy's workload, by metadata exchange: who asked (inbound) or who answered (outbound).
    pub(crate) peer: Option<PeerHandle>,
    pub(crate) trace: Option<crate::telemetry::trace::RequestTrace>,
    /// How long it is held up on purpose before anything is done with it.
    pub(crate) hold_up: Option<std::time::Duration>,
    /// The origin that its route's cross-origin rules allow.
    pub(crate) allowed_origin: Option<Box<str>>,
}

impl RequestInfo {
    /// The record of a request that has just come.
    pub(crate) fn new(head: &Head, client: Client) -> Self {
        Self {
            started: Instant::now(),
            start_time: SystemTime::now(),
            protocol: head.version(),
            request_head_bytes: head.byte_size() as u64,
            request_body_bytes: 0,
            response_head_bytes: 0,
            response_body_bytes: 0,
            request_complete: None,
            request_sent: None,
            response_begun: None,
            client,
            grpc: head.get_str(crate::http::KnownHeader::ContentType).is_some_and(lateen_policy::timeout::is_grpc_content_type),
            grpc_status: None,
            request_messages: 0,
            response_messages: 0,
            route: None,
            target: None,
            cluster: None,
            missing_cluster: None,
            host: None,
            upstream: None,
            attempts: 0,
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed("via_upstream"),
            transport_failure: None,
            response_code: 0,
            own_status: None,
            response_head: None,
            response_trailers: None,
            peer: None,
            trace: None,
            hold_up: None,
            allowed_origin: None,
        }
    }

    /// Takes `grpc-status` from a head or trailers.
    pub(crate) fn note_grpc_status(&mut self, head: &Head) {
        if let Some(status) = head.get(crate::http::KnownHeader::GrpcStatus) {
            self.grpc_status = GrpcStatus::parse(status);
        }
    }
}
