//! Our side of a client's HTTP/2 connection.

use super::body::{BodyReader, BodyWriter, reason_of, stream_error};
use super::gate::{Gate, Passage};
use super::websocket;
use crate::http::{
    BodyReader as AnyReader, Head, Io, PeerGone, ResetReason, Responder as AnyResponder, ServerExchange, StreamError,
    request_from_h2, response_to_h2,
};
use crate::http1::{HeadError, Limits, RequestKind};
use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use std::task::{Context, Poll};

/// How a connection is served. Window sizes bound what one stream, and one connection, can make us hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Bounds of the head of a request, in bytes after decompression with 32 a header (RFC 9113 §6.5.2), and of trailers.
    pub limits: Limits,
    /// Requests at a time.
    pub max_concurrent_streams: u32,
    /// Bytes of a request body that a client may send ahead of us.
    pub stream_window: u32,
    /// Bytes of all request bodies of a connection that a client may send ahead of us.
    pub connection_window: u32,
}

impl ServerConfig {
    /// For clients that nobody knows, as Istio serves them at gateways: few streams, and one window for all of them.
    #[must_use]
    pub fn edge() -> Self {
        Self { max_concurrent_streams: 100, connection_window: 1024 * 1024, ..Self::default() }
    }
}

/// Streams that a connection carries at a time.
const STREAMS: u32 = 256;

/// Bytes that a peer may send ahead of us on a stream: what Istio gives the streams of a gateway.
pub(super) const STREAM_WINDOW: u32 = 64 * 1024;

/// The same for a whole connection: room for all its streams. With less, a few streams that nobody reads would hold the window, and
/// all others up, for ever. It bounds what a connection can make us hold: 16 MiB.
pub(super) const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            max_concurrent_streams: STREAMS,
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
        }
    }
}

/// Bytes of a response body that are held for a client that does not read.
pub(super) const SEND_BUFFER: usize = 64 * 1024;

/// A client's connection. Its requests come from [`Self::next_request`], which must be polled all the time, for it also does
/// the reading and writing of all exchanges.
#[derive(Debug)]
pub struct ServerConnection<S> {
    connection: Connection<S, Bytes>,
    limits: Limits,
    draining: bool,
}

impl<S: Io> ServerConnection<S> {
    /// Reads the preface and exchanges settings.
    ///
    /// # Errors
    /// If the client does not speak HTTP/2.
    pub async fn handshake(io: S, config: ServerConfig) -> Result<Self, StreamError> {
        let mut builder = Builder::new();
        builder
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window)
            .max_concurrent_streams(config.max_concurrent_streams)
            .max_header_list_size(u32::try_from(config.limits.max_head_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            .enable_connect_protocol();
        let connection = builder.handshake(io).await.map_err(|e| stream_error(&e))?;
        Ok(Self { connection, limits: config.limits, draining: false })
    }

    /// The next request; `None` when the connection is over, in order. A request that could not be passed on as HTTP/1 is
    /// reset, one with too many headers answered 431, here. Cancelling it loses nothing.
    ///
    /// # Errors
    /// If the connection failed or was ended for a breach of the protocol; exchanges that are under way get errors of their
    /// own.
    pub async fn next_request(&mut self) -> Result<Option<ServerExchange<S>>, StreamError> {
        while let Some(next) = self.connection.accept().await {
            let (request, mut send) = next.map_err(|e| stream_error(&e))?;
            let (parts, body) = request.into_parts();
            match begin(&parts, self.limits) {
                Ok((head, kind)) => return Ok(Some(exchange(head, kind, body, send))),
                Err(HeadError::TooLarge) => {
                    let mut response = ::http::Response::new(());
                    *response.status_mut() = ::http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                    let _ = send.send_response(response, true);
                }
                Err(_) => send.send_reset(Reason::PROTOCOL_ERROR),
            }
        }
        Ok(None)
    }

    /// Tells the client to open no further streams (RFC 9113 §6.8); [`Self::next_request`] gives `None` when those that are
    /// open have ended.
    pub fn graceful_shutdown(&mut self) {
        if !self.draining {
            self.draining = true;
            self.connection.graceful_shutdown();
        }
    }

    /// Whether any exchange is under way.
    #[must_use]
    pub fn has_streams(&self) -> bool {
        self.connection.has_streams()
    }
}

fn begin(parts: &::http::request::Parts, limits: Limits) -> Result<(Head, RequestKind), HeadError> {
    let mut head = request_from_h2(parts, limits)?;
    if let Some(protocol) = parts.extensions.get::<h2::ext::Protocol>() {
        websocket::to_upgrade(&mut head, protocol.as_str()).map_err(|_| HeadError::Malformed("an invalid :protocol"))?;
    }
    let kind = RequestKind::of(&head);
    Ok((head, kind))
}

fn exchange<S>(head: Head, kind: RequestKind, body: RecvStream, send: SendResponse<Bytes>) -> ServerExchange<S> {
    let gate = head.asks_for_tunnel().then(Gate::new);
    let body = if gate.is_none() && body.is_end_stream() {
        AnyReader::Empty
    } else {
        AnyReader::H2(BodyReader::new(body, gate.clone()))
    };
    ServerExchange { head, body, responder: AnyResponder::H2(Responder { send, kind, gate }) }
}

/// Sends the response of one stream. Dropping it unused resets the stream.
#[derive(Debug)]
pub struct Responder {
    send: SendResponse<Bytes>,
    kind: RequestKind,
    gate: Option<Gate>,
}

impl Responder {
    /// See [`crate::http::Responder::send_interim`].
    ///
    /// # Errors
    /// If the stream is gone, or the response is not interim.
    pub fn send_interim(&mut self, head: &Head) -> Result<(), StreamError> {
        if !head.is_interim() {
            return Err(StreamError::Malformed("a final response sent as an interim one"));
        }
        let response = response_to_h2(head).map_err(StreamError::Malformed)?;
        self.send.send_informational(response).map_err(|e| stream_error(&e))
    }

    /// See [`crate::http::Responder::send_response`].
    ///
    /// # Errors
    /// If the stream is gone, or the status is interim.
    pub fn send_response(mut self, head: &Head, end: bool) -> Result<BodyWriter, StreamError> {
        if head.is_interim() {
            return Err(StreamError::Malformed("an interim response sent as the final one"));
        }
        let tunnel = self.kind.opens_tunnel(head.status());
        if head.status() == 101 && !tunnel {
            return Err(StreamError::Malformed("a 101 response to a request that asked for no upgrade"));
        }
        let mut response = match self.kind {
            RequestKind::Upgrade => response_to_h2(&websocket::from_switching(head)),
            _ => response_to_h2(head),
        }
        .map_err(StreamError::Malformed)?;
        let bodiless = self.kind == RequestKind::Head || matches!(head.status(), 204 | 304);
        if tunnel || head.status() == 204 {
            response.headers_mut().remove(::http::header::CONTENT_LENGTH);
        }
        let end = (end || bodiless) && !tunnel;
        let stream = self.send.send_response(response, end).map_err(|e| stream_error(&e))?;
        if let Some(gate) = &self.gate {
            gate.decide(if tunnel { Passage::Open } else { Passage::Refused });
        }
        Ok(BodyWriter::new(stream, None, end, bodiless))
    }

    /// See [`crate::http::Responder::poll_peer_gone`].
    pub fn poll_peer_gone(&mut self, cx: &mut Context<'_>) -> Poll<PeerGone> {
        self.send.poll_reset(cx).map(|r| PeerGone::Reset(r.map_or(ResetReason::Cancel, Into::into)))
    }

    /// Resets the stream.
    pub fn reset(mut self, reason: ResetReason) {
        self.send.send_reset(reason_of(reason));
    }
}
