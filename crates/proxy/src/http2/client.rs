//! Our side of an HTTP/2 connection to an upstream.

use super::body::{BodyReader, BodyWriter, stream_error};
use super::gate::{Gate, Passage};
use super::keep_alive::{Heard, KeepAlive, LastHeard};
use super::server::{CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW};
use super::websocket::{self, Upgrade};
use crate::http::{
    BodyWriter as AnyWriter, ClientExchange, Head, Io, KnownHeader, ResponseReader as AnyResponse, Scheme, StreamError,
    request_to_h2, response_from_h2,
};
use crate::http1::{Limits, RequestKind};
use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use lateen_model::dataplane::Http2KeepAlive;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Interim responses before the final one; more are an attack or a fault.
const INTERIM: usize = 32;

/// How a connection is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Bounds of the head of a response, in bytes after decompression, and of trailers.
    pub limits: Limits,
    /// Bytes of a response body that an upstream may send ahead of us.
    pub stream_window: u32,
    /// Bytes of all response bodies of a connection that an upstream may send ahead of us.
    pub connection_window: u32,
    /// `:scheme` of requests that name none.
    pub scheme: Scheme,
    /// Whether PINGs tell if the upstream is still there.
    pub keep_alive: Option<Http2KeepAlive>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            scheme: Scheme::Http,
            keep_alive: None,
        }
    }
}

/// A connection to an upstream; clones share it.
#[derive(Clone)]
pub struct ClientConnection {
    send: SendRequest<Bytes>,
    limits: Limits,
    scheme: Scheme,
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConnection").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

/// Does the reading and writing of a connection; to be spawned. It ends when the connection does: after all
/// [`ClientConnection`]s are dropped and all streams have ended, after a GOAWAY likewise, or at a failure.
#[must_use = "a connection does nothing unless its driver is polled"]
#[derive(Debug)]
pub struct ClientDriver<S: Io> {
    connection: Connection<Heard<S>, Bytes>,
    keep_alive: Option<KeepAlive>,
}

impl<S: Io> Future for ClientDriver<S> {
    type Output = Result<(), StreamError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(result) = Pin::new(&mut self.connection).poll(cx) {
            return Poll::Ready(result.map_err(|e| stream_error(&e)));
        }
        match &mut self.keep_alive {
            // Dropping the driver ends every stream as a connection that was closed does.
            Some(keep_alive) => keep_alive.poll(cx).map(|()| Err(StreamError::Closed)),
            None => Poll::Pending,
        }
    }
}

impl ClientConnection {
    /// Sends the preface and the settings; requests may be sent before the upstream's settings have come.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn handshake<S: Io>(io: S, config: ClientConfig) -> Result<(Self, ClientDriver<S>), StreamError> {
        let mut builder = Builder::new();
        builder
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window)
            .max_header_list_size(u32::try_from(config.limits.max_head_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false);
        let heard = config.keep_alive.map(|_| LastHeard::default());
        let io = Heard::new(io, heard.clone());
        let (send, mut connection) = builder.handshake(io).await.map_err(|e| stream_error(&e))?;
        let keep_alive = config.keep_alive.zip(heard).zip(connection.ping_pong());
        let keep_alive = keep_alive.map(|((config, heard), pings)| KeepAlive::new(config, pings, heard));
        Ok((Self { send, limits: config.limits, scheme: config.scheme }, ClientDriver { connection, keep_alive }))
    }

    /// Waits until a stream may be opened.
    ///
    /// # Errors
    /// If the connection is over or takes no further streams; nothing was sent.
    pub async fn ready(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.send.poll_ready(cx)).await.map_err(|e| stream_error(&e))
    }

    /// Waits until the upstream takes upgrades, which it says in its first frame, if at all; a connection that was opened for
    /// an upgrade may be faster than that frame.
    pub async fn await_upgrades(&self) {
        /// Longer than a round trip; an upstream that takes none makes the client wait as long.
        const PATIENCE: Duration = Duration::from_millis(200);
        const LOOK: Duration = Duration::from_millis(2);
        let taken = async {
            while !self.accepts_upgrades() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, taken).await;
    }

    /// Streams that the upstream allows at a time.
    #[must_use]
    pub fn max_streams(&self) -> usize {
        self.send.current_max_send_streams()
    }

    /// Whether the upstream takes upgrades (RFC 8441). It is false until the upstream's settings have come.
    #[must_use]
    pub fn accepts_upgrades(&self) -> bool {
        self.send.is_extended_connect_protocol_enabled()
    }

    /// Sends a request, after [`Self::ready`]; `end` says that no body and no trailers follow.
    ///
    /// # Errors
    /// If the connection takes no further streams, or HTTP/2 or this upstream cannot carry the request. Nothing was sent then.
    pub fn send_request<S>(&mut self, head: &Head, end: bool) -> Result<ClientExchange<S>, StreamError> {
        let kind = RequestKind::of(head);
        let upgrade = Upgrade::of(head);
        let mut request = request_to_h2(head, self.scheme).map_err(StreamError::Malformed)?;
        if let Some(upgrade) = &upgrade {
            if !self.accepts_upgrades() {
                return Err(StreamError::Malformed("the upstream takes no upgrades over HTTP/2 (RFC 8441)"));
            }
            let protocol = std::str::from_utf8(&upgrade.protocol).map_err(|_| StreamError::Malformed("an invalid upgrade"))?;
            request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
            *request.method_mut() = ::http::Method::CONNECT;
            request.headers_mut().remove(KnownHeader::SecWebsocketKey.as_str());
        }
        let tunnel = head.asks_for_tunnel();
        let end = end && !tunnel;
        let (response, stream) = self.send.send_request(request, end).map_err(|e| stream_error(&e))?;
        let gate = tunnel.then(Gate::new);
        let reader = ResponseReader {
            response,
            kind,
            upgrade,
            gate: gate.clone(),
            limits: self.limits,
            interim: 0,
            body: None,
            begun: false,
        };
        Ok(ClientExchange { writer: AnyWriter::H2(BodyWriter::new(stream, gate, end, false)), response: AnyResponse::H2(reader) })
    }
}

/// Receives the response of one stream. Dropping it, and the writer, before the end resets the stream.
pub struct ResponseReader {
    response: ResponseFuture,
    kind: RequestKind,
    upgrade: Option<Upgrade>,
    gate: Option<Gate>,
    limits: Limits,
    interim: usize,
    body: Option<RecvStream>,
    begun: bool,
}

impl fmt::Debug for ResponseReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseReader").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl ResponseReader {
    /// See [`crate::http::ResponseReader::poll_head`].
    ///
    /// # Errors
    /// If no valid response comes.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, StreamError>> {
        if let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
            let (parts, ()) = interim.map_err(|e| stream_error(&e))?.into_parts();
            self.begun = true;
            self.interim += 1;
            if self.interim > INTERIM || parts.status == ::http::StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(StreamError::Malformed("too many interim responses, or a 101 in HTTP/2")));
            }
            return Poll::Ready(Ok(response_from_h2(&parts, self.limits)?));
        }
        let (parts, body) = ready!(Pin::new(&mut self.response).poll(cx)).map_err(|e| stream_error(&e))?.into_parts();
        self.begun = true;
        let mut head = response_from_h2(&parts, self.limits)?;
        if let Some(upgrade) = &self.upgrade {
            websocket::to_switching(&mut head, upgrade);
        }
        if let Some(gate) = &self.gate {
            let open = self.kind.opens_tunnel(head.status());
            if open {
                head.remove(KnownHeader::ContentLength);
            }
            gate.decide(if open { Passage::Open } else { Passage::Refused });
        }
        self.body = Some(body);
        Poll::Ready(Ok(head))
    }

    /// See [`crate::http::ResponseReader::has_begun`].
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// See [`crate::http::ResponseReader::into_body`].
    ///
    /// # Errors
    /// If the final head has not been received.
    pub fn into_body(self) -> Result<BodyReader, StreamError> {
        let body = self.body.ok_or(StreamError::Malformed("the response's head has not been received"))?;
        Ok(BodyReader::new(body, None))
    }
}
