//! Bodies as frames, the same for both versions.

use super::head::Head;
use crate::{http1, http2};
use bytes::Bytes;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite};

/// What a connection runs over.
pub trait Io: AsyncRead + AsyncWrite + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Io for T {}

/// A piece of a body.
#[derive(Debug)]
pub enum Frame {
    /// Payload.
    Data(Bytes),
    /// Complete or partial chunks as they came over HTTP/1, sizes included, checked; what follows is in the next frame. Only
    /// from a reader that was asked for them with [`BodyReader::set_raw`].
    Raw(Bytes),
    /// The trailers, the last frame if there are any.
    Trailers(Box<Head>),
}

/// Why one stream of a connection was reset, or is to be (RFC 9113 §7). HTTP/1 can only close the connection for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// `NO_ERROR`: a complete response was sent and the rest of the request is not wanted.
    NoError,
    /// `PROTOCOL_ERROR`
    Protocol,
    /// `INTERNAL_ERROR`
    Internal,
    /// `FLOW_CONTROL_ERROR`
    FlowControl,
    /// `REFUSED_STREAM`, or a `GOAWAY` that leaves the stream out: the peer has not acted on the request, so it is safe to
    /// send again.
    RefusedStream,
    /// `CANCEL`
    Cancel,
    /// `CONNECT_ERROR`: the tunnel's far end failed.
    Connect,
    /// `ENHANCE_YOUR_CALM`
    EnhanceYourCalm,
    /// `HTTP_1_1_REQUIRED`
    Http11Required,
    /// Any other code.
    Other,
}

/// Why a message could not be received or sent whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer closed the connection, or our side of it was closed, before the message was complete.
    #[error("the connection was closed before the message was complete")]
    Closed,
    /// The transport failed.
    #[error("the connection failed: {0}")]
    Io(io::ErrorKind),
    /// The peer reset the stream.
    #[error("the stream was reset ({0:?})")]
    Reset(ResetReason),
    /// The peer broke the protocol; the text says how.
    #[error("protocol error: {0}")]
    Malformed(&'static str),
    /// A head or trailers were larger than the limit.
    #[error("the head is larger than the limit")]
    HeadTooLarge,
    /// What was written is not as long as its `content-length` says, or a frame came after the last.
    #[error("the body is not as long as its content-length says")]
    Length,
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}

/// How a peer left while it was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerGone {
    /// It closed its direction of an HTTP/1 connection in order. Nearly always it is gone; a rare client only says that it has
    /// nothing more to send.
    Closed,
    /// It reset the connection or the stream.
    Reset(ResetReason),
}

/// The body of a message that is received.
#[derive(Debug)]
pub enum BodyReader<S> {
    /// There is none.
    Empty,
    /// Over HTTP/1.
    H1(http1::BodyReader<S>),
    /// Over HTTP/2.
    H2(http2::BodyReader),
}

impl<S: Io> BodyReader<S> {
    /// Asks for chunks as they are ([`Frame::Raw`]) where the body comes in chunks. To be said before the first frame.
    pub fn set_raw(&mut self, raw: bool) {
        if let Self::H1(reader) = self {
            reader.set_raw(raw);
        }
    }

    /// Bytes of payload in the [`Frame::Raw`]s since it was asked last.
    pub fn take_raw_payload(&mut self) -> u64 {
        match self {
            Self::H1(reader) => reader.take_raw_payload(),
            Self::Empty | Self::H2(_) => 0,
        }
    }

    /// Whether everything has been received, so that no further frame comes.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::H1(reader) => reader.is_end(),
            Self::H2(reader) => reader.is_end(),
        }
    }

    /// The next frame, or `None` at the end. Dropping a reader before its end makes an HTTP/1 connection unusable for a next
    /// message and resets an HTTP/2 stream.
    ///
    /// # Errors
    /// If the rest of the body will not come.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        match self {
            Self::Empty => Poll::Ready(Ok(None)),
            Self::H1(reader) => reader.poll_next(cx),
            Self::H2(reader) => reader.poll_next(cx),
        }
    }

    /// As [`Self::poll_next`]; cancelling it loses nothing.
    ///
    /// # Errors
    /// If the rest of the body will not come.
    pub async fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

/// The body of a message that is sent. Its head, if still unsent, goes out with the first frames or the first flush.
#[derive(Debug)]
pub enum BodyWriter<S> {
    /// Over HTTP/1.
    H1(http1::BodyWriter<S>),
    /// Over HTTP/2.
    H2(http2::BodyWriter),
}

impl<S: Io> BodyWriter<S> {
    /// Whether [`Frame::Raw`] is understood: HTTP/1 with chunks.
    #[must_use]
    pub fn accepts_raw(&self) -> bool {
        match self {
            Self::H1(writer) => writer.accepts_raw(),
            Self::H2(_) => false,
        }
    }

    /// Whether the last frame has been given and everything has been handed to the transport.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match self {
            Self::H1(writer) => writer.is_finished(),
            Self::H2(writer) => writer.is_finished(),
        }
    }

    /// Waits until the next frame may be given.
    ///
    /// # Errors
    /// If the body cannot be sent on.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self {
            Self::H1(writer) => writer.poll_ready(cx),
            Self::H2(writer) => writer.poll_ready(cx),
        }
    }

    /// Takes a frame, after [`Self::poll_ready`]; `end` says that it is the last one. Trailers always are.
    ///
    /// # Errors
    /// If the frame does not fit the length that the head announced, or the body was finished before.
    pub fn start_send(&mut self, frame: Frame, end: bool) -> Result<(), StreamError> {
        match self {
            Self::H1(writer) => writer.start_send(frame, end),
            Self::H2(writer) => writer.start_send(frame, end),
        }
    }

    /// Hands everything to the transport.
    ///
    /// # Errors
    /// If the body cannot be sent on.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self {
            Self::H1(writer) => writer.poll_flush(cx),
            Self::H2(writer) => writer.poll_flush(cx),
        }
    }

    /// Ends the body if no frame has ended it yet, and flushes.
    ///
    /// # Errors
    /// If the body is shorter than announced or cannot be sent on.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self {
            Self::H1(writer) => writer.poll_finish(cx),
            Self::H2(writer) => writer.poll_finish(cx),
        }
    }

    /// Resolves when the peer no longer wants the body: it reset the stream or closed the connection. HTTP/1 can see this only
    /// after the peer's own message has been read to its end; poll that message's reader until then, in the same task.
    pub fn poll_peer_gone(&mut self, cx: &mut Context<'_>) -> Poll<PeerGone> {
        match self {
            Self::H1(writer) => writer.poll_peer_gone(cx),
            Self::H2(writer) => writer.poll_peer_gone(cx),
        }
    }

    /// Gives one frame and pushes it on as far as is needed to bound memory; small ones wait for company until [`Self::flush`]
    /// or [`Self::finish`].
    ///
    /// # Errors
    /// If the body cannot be sent on.
    pub async fn write(&mut self, frame: Frame) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_ready(cx)).await?;
        self.start_send(frame, false)
    }

    /// As [`Self::poll_flush`].
    ///
    /// # Errors
    /// If the body cannot be sent on.
    pub async fn flush(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// As [`Self::poll_finish`].
    ///
    /// # Errors
    /// If the body is shorter than announced or cannot be sent on.
    pub async fn finish(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_finish(cx)).await
    }

    /// Gives the body up, so that the peer can tell that it is not whole: closes the HTTP/1 connection, resets the HTTP/2
    /// stream.
    pub fn reset(self, reason: ResetReason) {
        match self {
            Self::H1(writer) => writer.abort(),
            Self::H2(writer) => writer.reset(reason),
        }
    }
}

/// Which side of a [`Pump`] failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PumpError {
    /// The body could not be received.
    Read(StreamError),
    /// The body could not be sent.
    Write(StreamError),
}

/// Moves a body from its reader to its writer: the frames of one batch leave in one write, and as soon as the reader has
/// nothing more at hand.
#[derive(Debug)]
pub struct Pump<R, W> {
    reader: BodyReader<R>,
    writer: BodyWriter<W>,
    bytes: u64,
    trailers: Option<Box<Head>>,
    read_all: bool,
    flushed: bool,
}

impl<R: Io, W: Io> Pump<R, W> {
    /// Chunks are passed on unopened where both sides are HTTP/1.
    #[must_use]
    pub fn new(mut reader: BodyReader<R>, writer: BodyWriter<W>) -> Self {
        reader.set_raw(writer.accepts_raw());
        Self { reader, writer, bytes: 0, trailers: None, read_all: false, flushed: false }
    }

    /// Bytes that were received so far, chunk sizes of raw frames included. A caller that sees it grow knows that the
    /// stream is not idle.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The trailers that went through.
    #[must_use]
    pub fn trailers(&self) -> Option<&Head> {
        self.trailers.as_deref()
    }

    /// The writer, to watch the peer or to reset.
    pub fn writer(&mut self) -> &mut BodyWriter<W> {
        &mut self.writer
    }

    /// The two sides again.
    #[must_use]
    pub fn into_parts(self) -> (BodyReader<R>, BodyWriter<W>) {
        (self.reader, self.writer)
    }

    /// Ready when the body has been sent whole and flushed.
    ///
    /// # Errors
    /// With the side that failed; the other side is left as it is.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        loop {
            if self.read_all {
                return self.writer.poll_finish(cx).map_err(PumpError::Write);
            }
            ready!(self.writer.poll_ready(cx)).map_err(PumpError::Write)?;
            match self.reader.poll_next(cx).map_err(PumpError::Read)? {
                Poll::Ready(Some(frame)) => self.pass(frame)?,
                Poll::Ready(None) => self.read_all = true,
                Poll::Pending if self.flushed => return Poll::Pending,
                Poll::Pending => {
                    ready!(self.writer.poll_flush(cx)).map_err(PumpError::Write)?;
                    self.flushed = true;
                    return Poll::Pending;
                }
            }
        }
    }

    fn pass(&mut self, frame: Frame) -> Result<(), PumpError> {
        self.flushed = false;
        self.read_all = self.reader.is_end();
        match &frame {
            Frame::Data(data) | Frame::Raw(data) => self.bytes += data.len() as u64,
            Frame::Trailers(trailers) => self.trailers = Some(trailers.clone()),
        }
        self.writer.start_send(frame, self.read_all).map_err(PumpError::Write)
    }

    /// As [`Self::poll`].
    ///
    /// # Errors
    /// With the side that failed.
    pub async fn run(&mut self) -> Result<(), PumpError> {
        poll_fn(|cx| self.poll(cx)).await
    }
}
