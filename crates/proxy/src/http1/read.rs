//! The receiving half of a connection.

use super::chunked::{ChunkDecoder, Step};
use super::encode::write_chunk_size;
use super::framing::Framing;
use super::parse::Limits;
use crate::http::{Frame, Io, LENT, StreamError, give_read, take_read};
use bytes::{Bytes, BytesMut};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncReadExt;

/// What one read may take in when there is plenty.
const BULK: usize = 64 * 1024;

/// A piece of payload smaller than this is copied together with its neighbours.
const SMALL: usize = 4096;

/// What the next bytes belong to.
#[derive(Debug)]
pub(super) enum ReadState {
    /// A head, or nothing yet.
    Head,
    /// A body of so many more bytes.
    Length(u64),
    /// A chunked body.
    Chunked(ChunkDecoder),
    /// A body that ends with the connection.
    UntilClose,
    /// A tunnel that the response has not opened: they stay where they are.
    AwaitTunnel,
    /// A tunnel.
    Tunnel,
    /// The next message; this one has been read.
    Done,
    /// Nothing: the connection is unusable.
    Broken,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(super) struct ReadSide {
    pub(super) buffer: BytesMut,
    pub(super) state: ReadState,
    /// The peer has closed its direction.
    pub(super) eof: bool,
    failed: Option<io::ErrorKind>,
    /// The last read filled the room it had, so larger ones pay.
    bulk: bool,
    pub(super) raw: bool,
    /// Bytes of payload in chunks that were handed out as they are, and not asked for yet.
    pub(super) raw_payload: u64,
    queued: Option<Frame>,
}

/// Payload on its way out of the buffer.
enum Out {
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

impl Out {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(b) => b.len(),
            Self::Many(b) => b.len(),
        }
    }

    /// Adds a piece, or gives it back if it is better sent by itself.
    fn push(&mut self, piece: Bytes) -> Option<Bytes> {
        match self {
            Self::Nothing => *self = Self::One(piece),
            _ if piece.len() >= SMALL || self.len() + piece.len() > LENT => return Some(piece),
            Self::Many(all) => all.extend_from_slice(&piece),
            Self::One(first) => {
                let mut all = BytesMut::with_capacity(LENT.max(first.len() + piece.len()));
                all.extend_from_slice(first);
                all.extend_from_slice(&piece);
                *self = Self::Many(all);
            }
        }
        None
    }

    fn into_frame(self) -> Option<Frame> {
        match self {
            Self::Nothing => None,
            Self::One(b) => Some(Frame::Data(b)),
            Self::Many(b) => Some(Frame::Data(b.freeze())),
        }
    }
}

impl ReadSide {
    pub(super) fn new(buffer: BytesMut) -> Self {
        Self { buffer, state: ReadState::Head, eof: false, failed: None, bulk: false, raw: false, raw_payload: 0, queued: None }
    }

    /// Begins the body after a head.
    pub(super) fn begin_body(&mut self, framing: Framing, limits: Limits) {
        self.raw = false;
        self.raw_payload = 0;
        self.state = match framing {
            Framing::None | Framing::Length(0) => ReadState::Done,
            Framing::Length(n) => ReadState::Length(n),
            Framing::Chunked => ReadState::Chunked(ChunkDecoder::new(limits)),
            Framing::UntilClose => ReadState::UntilClose,
            Framing::Tunnel => ReadState::AwaitTunnel,
        };
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, ReadState::Done) && self.queued.is_none()
    }

    /// Reads more into the buffer; 0 at the end of the stream. While nothing comes and the buffer is empty, it is lent to
    /// others.
    pub(super) fn poll_fill<S: Io>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Err(StreamError::Io(kind)));
        }
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        self.make_room();
        let mut total = 0;
        loop {
            let room = self.buffer.capacity() - self.buffer.len();
            let result = pin!(io.read_buf(&mut self.buffer)).poll(cx);
            match result {
                Poll::Ready(Ok(0)) => self.eof = true,
                Poll::Ready(Ok(n)) => {
                    total += n;
                    let filled = n == room;
                    let was_bulk = self.bulk;
                    self.bulk = filled || (was_bulk && n >= SMALL);
                    // Reading on until nothing is left makes one write of what TLS hands out record by record.
                    if was_bulk && !filled {
                        continue;
                    }
                }
                Poll::Ready(Err(e)) => self.failed = Some(e.kind()),
                Poll::Pending if total == 0 => {
                    if self.buffer.is_empty() {
                        give_read(&mut self.buffer);
                    }
                    return Poll::Pending;
                }
                Poll::Pending => {}
            }
            return match self.failed {
                Some(kind) if total == 0 => Poll::Ready(Err(StreamError::Io(kind))),
                _ => Poll::Ready(Ok(total)),
            };
        }
    }

    fn make_room(&mut self) {
        let room = self.buffer.capacity() - self.buffer.len();
        if self.buffer.capacity() == 0 {
            self.buffer = if self.bulk { BytesMut::with_capacity(BULK) } else { take_read() };
        } else if self.bulk && room < BULK / 2 {
            self.buffer.reserve(BULK);
        } else if room < LENT / 4 {
            self.buffer.reserve(LENT);
        }
    }

    /// Gives an empty buffer back.
    pub(super) fn release(&mut self) {
        if self.buffer.is_empty() {
            give_read(&mut self.buffer);
            self.bulk = false;
        }
    }

    /// The next frame of the body.
    pub(super) fn poll_frame<S: Io>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        loop {
            if let Some(frame) = self.queued.take() {
                return Poll::Ready(Ok(Some(frame)));
            }
            match self.take_frame() {
                Ok(Some(frame)) => return Poll::Ready(Ok(Some(frame))),
                Ok(None) => {}
                Err(e) => return self.fail(e),
            }
            match self.state {
                ReadState::Done => return Poll::Ready(Ok(None)),
                // The response wakes the task when it opens the tunnel; it is sent by the same task.
                ReadState::AwaitTunnel => return Poll::Pending,
                ReadState::Head | ReadState::Broken => return Poll::Ready(Err(StreamError::Closed)),
                _ => {}
            }
            match ready!(self.poll_fill(io, cx)) {
                Ok(0) if matches!(self.state, ReadState::UntilClose | ReadState::Tunnel) => self.state = ReadState::Done,
                Ok(0) => return self.fail(StreamError::Closed),
                Ok(_) => {}
                Err(e) => return self.fail(e),
            }
        }
    }

    fn fail<T>(&mut self, error: StreamError) -> Poll<Result<T, StreamError>> {
        self.state = ReadState::Broken;
        Poll::Ready(Err(error))
    }

    /// A frame out of what is in the buffer.
    fn take_frame(&mut self) -> Result<Option<Frame>, StreamError> {
        match &mut self.state {
            ReadState::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                *left -= n as u64;
                if *left == 0 {
                    self.state = ReadState::Done;
                }
                Ok((n > 0).then(|| Frame::Data(self.buffer.split_to(n).freeze())))
            }
            ReadState::UntilClose | ReadState::Tunnel => {
                Ok((!self.buffer.is_empty()).then(|| Frame::Data(self.buffer.split().freeze())))
            }
            ReadState::Chunked(_) if self.raw => self.take_raw_chunks(),
            ReadState::Chunked(_) => self.take_chunks(),
            _ => Ok(None),
        }
    }

    /// Chunks with their sizes, as many as there are. The last chunk and the trailers are left out: the writer makes its own.
    fn take_raw_chunks(&mut self) -> Result<Option<Frame>, StreamError> {
        let ReadState::Chunked(decoder) = &mut self.state else { return Ok(None) };
        let mut run = 0;
        let mut frame = None;
        loop {
            match decoder.step(&self.buffer[run..])? {
                Step::NeedMore => break,
                Step::Data(n) => {
                    run += n;
                    self.raw_payload += n as u64;
                }
                Step::DataEnd => run += 2,
                Step::Size { len, size: 0, .. } => {
                    frame = (run > 0).then(|| Frame::Raw(self.buffer.split_to(run).freeze()));
                    run = 0;
                    drop(self.buffer.split_to(len));
                }
                Step::Size { len, bare: true, .. } => run += len,
                // An extension is for this hop; the chunk gets a line of its own.
                Step::Size { len, size, bare: false } => {
                    let before = self.buffer.split_to(run).freeze();
                    drop(self.buffer.split_to(len));
                    let mut line = Vec::with_capacity(18);
                    write_chunk_size(
                        &mut line,
                        usize::try_from(size).map_err(|_| StreamError::Malformed("an invalid chunk size"))?,
                    );
                    let line = Frame::Raw(line.into());
                    if before.is_empty() {
                        return Ok(Some(line));
                    }
                    self.queued = Some(line);
                    return Ok(Some(Frame::Raw(before)));
                }
                Step::End(n, trailers) => {
                    drop(self.buffer.split_to(n));
                    return Ok(self.end(frame, trailers));
                }
            }
        }
        if run > 0 {
            frame = Some(Frame::Raw(self.buffer.split_to(run).freeze()));
        }
        Ok(frame)
    }

    /// The payload of chunks; small ones are copied together, so that a body in chunks of one byte does not become a frame
    /// for each.
    fn take_chunks(&mut self) -> Result<Option<Frame>, StreamError> {
        let ReadState::Chunked(decoder) = &mut self.state else { return Ok(None) };
        let mut out = Out::Nothing;
        loop {
            let line = match decoder.step(&self.buffer)? {
                Step::NeedMore => return Ok(out.into_frame()),
                Step::Size { len, .. } => len,
                Step::DataEnd => 2,
                Step::Data(n) => {
                    if let Some(piece) = out.push(self.buffer.split_to(n).freeze()) {
                        self.queued = Some(Frame::Data(piece));
                        return Ok(out.into_frame());
                    }
                    continue;
                }
                Step::End(n, trailers) => {
                    drop(self.buffer.split_to(n));
                    return Ok(self.end(out.into_frame(), trailers));
                }
            };
            drop(self.buffer.split_to(line));
        }
    }

    fn end(&mut self, frame: Option<Frame>, trailers: Option<Box<crate::http::Head>>) -> Option<Frame> {
        self.state = ReadState::Done;
        let trailers = trailers.map(Frame::Trailers);
        if frame.is_none() {
            return trailers;
        }
        self.queued = trailers;
        frame
    }

    /// Throws away what is left of a body, up to `budget` bytes. False if there is more, or it cannot be read.
    pub(super) fn poll_discard<S: Io>(&mut self, io: &mut S, cx: &mut Context<'_>, budget: &mut usize) -> Poll<bool> {
        loop {
            match ready!(self.poll_frame(io, cx)) {
                Ok(None) => return Poll::Ready(true),
                Ok(Some(Frame::Data(data) | Frame::Raw(data))) if data.len() <= *budget => *budget -= data.len(),
                Ok(Some(Frame::Trailers(_))) => {}
                Ok(Some(_)) | Err(_) => return Poll::Ready(false),
            }
        }
    }
}
