//! What a log line is made from.

use crate::istio::GrpcStatus;
use crate::{HeaderLookup, ResponseFlags};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// An address as Envoy prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// `IP:PORT`.
    Socket(SocketAddr),
    /// Any other form, e.g. of an internal listener.
    Named(&'a str),
}

impl From<SocketAddr> for Address<'_> {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

/// One side's view of a TLS session.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsInfo<'a> {
    /// E.g. `TLSv1.3`.
    pub version: Option<&'a str>,
    /// E.g. `TLS_AES_128_GCM_SHA256`.
    pub cipher: Option<&'a str>,
    /// URI names of the peer's certificate, joined by commas.
    pub peer_uri_san: Option<&'a str>,
    /// URI names of the own certificate.
    pub local_uri_san: Option<&'a str>,
}

/// Everything that an operator can print, borrowed for the moment of writing. A field that does not apply is `None`.
#[derive(Clone, Copy)]
pub struct LogRecord<'a> {
    /// When the request's first byte, or the connection, came.
    pub start: SystemTime,
    /// First byte in to last byte out.
    pub duration: Option<Duration>,
    /// First byte in to last byte of the request in.
    pub request_duration: Option<Duration>,
    /// First byte in to last byte of the request sent upstream.
    pub request_tx_duration: Option<Duration>,
    /// First byte in to first byte of the response from upstream.
    pub response_duration: Option<Duration>,
    /// First byte of the response from upstream to last byte of it sent downstream.
    pub response_tx_duration: Option<Duration>,
    /// E.g. `HTTP/1.1`.
    pub protocol: Option<&'static str>,
    /// Request headers, with `:method`, `:path`, `:authority` and `:scheme` under these names, whatever the protocol.
    pub request_headers: &'a dyn HeaderLookup,
    /// Response headers as sent downstream.
    pub response_headers: &'a dyn HeaderLookup,
    /// Response trailers.
    pub response_trailers: &'a dyn HeaderLookup,
    /// Status sent downstream; none prints as 0.
    pub response_code: Option<u16>,
    /// E.g. `via_upstream`, `no_healthy_upstream`, `rbac_access_denied_matched_policy[none]`.
    pub response_code_details: Option<&'a str>,
    /// E.g. `rbac_access_denied_matched_policy[none]` for a TCP connection.
    pub connection_termination_details: Option<&'a str>,
    /// Why the proxy answered or ended it itself.
    pub flags: ResponseFlags,
    /// Body bytes (HTTP) or all bytes (TCP) from downstream.
    pub bytes_received: u64,
    /// Body bytes (HTTP) or all bytes (TCP) to downstream.
    pub bytes_sent: u64,
    /// Why TLS or the connection to upstream failed.
    pub upstream_transport_failure_reason: Option<&'a str>,
    /// The endpoint that was used.
    pub upstream_host: Option<Address<'a>>,
    /// The cluster's name, e.g. `outbound|80||order-service.production.svc.cluster.local`.
    pub upstream_cluster: Option<&'a str>,
    /// Own address of the connection to upstream.
    pub upstream_local_address: Option<Address<'a>>,
    /// How many tries were made.
    pub upstream_request_attempts: Option<u32>,
    /// TLS to upstream.
    pub upstream_tls: TlsInfo<'a>,
    /// What downstream connected to (the original destination).
    pub downstream_local_address: Option<Address<'a>>,
    /// Who connected, after `x-forwarded-for` or PROXY protocol, where trusted.
    pub downstream_remote_address: Option<Address<'a>>,
    /// Who connected, on the wire.
    pub downstream_direct_remote_address: Option<Address<'a>>,
    /// TLS from downstream.
    pub downstream_tls: TlsInfo<'a>,
    /// SNI.
    pub requested_server_name: Option<&'a str>,
    /// The route's name; `default` for unnamed ones in Istio.
    pub route_name: Option<&'a str>,
    /// Of gRPC.
    pub grpc_status: Option<GrpcStatus>,
    /// Hexadecimal trace id.
    pub trace_id: Option<&'a str>,
    /// The request's id.
    pub stream_id: Option<&'a str>,
    /// The downstream connection's number.
    pub connection_id: Option<u64>,
}

impl LogRecord<'_> {
    /// A record that knows only when it began; fill in what applies with `..`.
    pub fn new(start: SystemTime) -> Self {
        Self {
            start,
            duration: None,
            request_duration: None,
            request_tx_duration: None,
            response_duration: None,
            response_tx_duration: None,
            protocol: None,
            request_headers: &(),
            response_headers: &(),
            response_trailers: &(),
            response_code: None,
            response_code_details: None,
            connection_termination_details: None,
            flags: ResponseFlags::NONE,
            bytes_received: 0,
            bytes_sent: 0,
            upstream_transport_failure_reason: None,
            upstream_host: None,
            upstream_cluster: None,
            upstream_local_address: None,
            upstream_request_attempts: None,
            upstream_tls: TlsInfo::default(),
            downstream_local_address: None,
            downstream_remote_address: None,
            downstream_direct_remote_address: None,
            downstream_tls: TlsInfo::default(),
            requested_server_name: None,
            route_name: None,
            grpc_status: None,
            trace_id: None,
            stream_id: None,
            connection_id: None,
        }
    }
}
