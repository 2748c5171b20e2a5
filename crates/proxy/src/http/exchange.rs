//! A request and its response, seen the same over both versions.

use super::body::{BodyReader, BodyWriter, Io, PeerGone, ResetReason, StreamError};
use super::head::Head;
use crate::{http1, http2};
use std::future::poll_fn;
use std::task::{Context, Poll};

/// A request that a client sent us, and the way to answer it.
#[derive(Debug)]
pub struct ServerExchange<S> {
    /// The request's head.
    pub head: Head,
    /// The request's body. Where a tunnel is asked for, it yields nothing until the response has opened the tunnel.
    pub body: BodyReader<S>,
    /// Sends the response.
    pub responder: Responder<S>,
}

/// Sends the response of an exchange. Dropping it without a response closes the HTTP/1 connection or resets the HTTP/2
/// stream with `INTERNAL_ERROR`.
#[derive(Debug)]
pub enum Responder<S> {
    /// Over HTTP/1.
    H1(http1::Responder<S>),
    /// Over HTTP/2.
    H2(http2::Responder),
}

impl<S: Io> Responder<S> {
    /// Sends an interim response (1xx other than 101) at once. An HTTP/1.0 client gets none.
    ///
    /// # Errors
    /// If it cannot be sent, or is not interim.
    pub async fn send_interim(&mut self, head: &Head) -> Result<(), StreamError> {
        match self {
            Self::H1(responder) => responder.send_interim(head).await,
            Self::H2(responder) => responder.send_interim(head),
        }
    }

    /// Queues the head of the final response; `end` says that no body and no trailers follow. Nothing may leave before the
    /// writer is given frames, flushed or finished. A 101, or a 2xx to `CONNECT`, opens the tunnel: the request's body reader
    /// and the writer then carry its bytes.
    ///
    /// # Errors
    /// If the stream is gone, or the status is interim.
    pub fn send_response(self, head: &Head, end: bool) -> Result<BodyWriter<S>, StreamError> {
        Ok(match self {
            Self::H1(responder) => BodyWriter::H1(responder.send_response(head, end)?),
            Self::H2(responder) => BodyWriter::H2(responder.send_response(head, end)?),
        })
    }

    /// Makes the connection end after this exchange: `connection: close` in HTTP/1, no effect on HTTP/2, whose connections are
    /// drained as a whole ([`http2::ServerConnection::graceful_shutdown`]).
    pub fn close_after(&mut self) {
        if let Self::H1(responder) = self {
            responder.close_after();
        }
    }

    /// Refuses the exchange without a response.
    pub fn reset(self, reason: ResetReason) {
        match self {
            Self::H1(responder) => responder.abort(),
            Self::H2(responder) => responder.reset(reason),
        }
    }

    /// Resolves when the client no longer waits. See [`BodyWriter::poll_peer_gone`] for what HTTP/1 needs.
    pub fn poll_peer_gone(&mut self, cx: &mut Context<'_>) -> Poll<PeerGone> {
        match self {
            Self::H1(responder) => responder.poll_peer_gone(cx),
            Self::H2(responder) => responder.poll_peer_gone(cx),
        }
    }

    /// As [`Self::poll_peer_gone`]; cancelling it loses nothing.
    pub async fn peer_gone(&mut self) -> PeerGone {
        poll_fn(|cx| self.poll_peer_gone(cx)).await
    }
}

/// A request that we sent to an upstream.
#[derive(Debug)]
pub struct ClientExchange<S> {
    /// Sends the request's body. Where a tunnel was asked for, it takes nothing until the response has opened the tunnel.
    pub writer: BodyWriter<S>,
    /// Receives the response, also while the body is still being sent.
    pub response: ResponseReader<S>,
}

/// Receives the response of an exchange. Dropping it gives the request up: closes the HTTP/1 connection (it is no longer
/// reusable) or resets the HTTP/2 stream with `CANCEL`.
#[derive(Debug)]
pub enum ResponseReader<S> {
    /// Over HTTP/1.
    H1(http1::ResponseReader<S>),
    /// Over HTTP/2.
    H2(http2::ResponseReader),
}

impl<S: Io> ResponseReader<S> {
    /// The next head: interim ones first ([`Head::is_interim`]), at last the final one.
    ///
    /// # Errors
    /// If no valid response comes. `Closed` and `Io` while [`Self::has_begun`] is false may mean that a pooled connection was
    /// stale.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, StreamError>> {
        match self {
            Self::H1(response) => response.poll_head(cx),
            Self::H2(response) => response.poll_head(cx),
        }
    }

    /// As [`Self::poll_head`]; cancelling it loses nothing.
    ///
    /// # Errors
    /// If no valid response comes.
    pub async fn head(&mut self) -> Result<Head, StreamError> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    /// Whether any byte of a response, interim or final, has come: then the request was acted on.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        match self {
            Self::H1(response) => response.has_begun(),
            Self::H2(response) => response.has_begun(),
        }
    }

    /// The body, after the final head.
    ///
    /// # Errors
    /// If the final head has not been received.
    pub fn into_body(self) -> Result<BodyReader<S>, StreamError> {
        match self {
            Self::H1(response) => Ok(BodyReader::H1(response.into_body()?)),
            Self::H2(response) => Ok(BodyReader::H2(response.into_body()?)),
        }
    }
}
