//! One way of an exchange: frames from a reader to a writer, counted, and kept as long as they may have to be sent again.

use super::mirror::Copy;
use crate::http::{BodyReader, BodyWriter, Frame, Head, PeerGone, ResetReason, StreamError};
use crate::stream::Stream;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// The most that is kept of a request's body for another try (Envoy's `per_connection_buffer_limit_bytes`).
const MAX_REPLAY: usize = 1024 * 1024;

/// Which side of a transfer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransferError {
    Read(StreamError),
    Write(StreamError),
}

/// Frames that were read, for another try.
#[derive(Debug)]
enum Replay {
    /// Nobody will ask for them.
    Off,
    /// All frames so far.
    Keeping { frames: Vec<Frame>, bytes: usize },
    /// There were too many.
    TooLarge,
}

/// A body on its way.
#[derive(Debug)]
pub(crate) struct Transfer {
    reader: BodyReader<Stream>,
    writer: Option<BodyWriter<Stream>>,
    replay: Replay,
    /// The next kept frame that the current writer has not been given.
    replayed: usize,
    bytes: u64,
    messages: Option<GrpcMessages>,
    trailers: Option<Box<Head>>,
    read_all: bool,
    /// Whether chunks pass as they are; `None` before the first writer.
    raw: Option<bool>,
    /// Copies for mirrors.
    copies: Vec<Copy>,
    /// When the last byte was sent on.
    finished: Option<Instant>,
    flushed: bool,
}

impl Transfer {
    /// A body that has not begun; `keep` if it may have to be sent again, `grpc` if messages are to be counted.
    pub(crate) fn new(reader: BodyReader<Stream>, keep: bool, grpc: bool) -> Self {
        let read_all = reader.is_end();
        Self {
            replay: if keep && !read_all { Replay::Keeping { frames: Vec::new(), bytes: 0 } } else { Replay::Off },
            reader,
            writer: None,
            replayed: 0,
            bytes: 0,
            messages: grpc.then(GrpcMessages::default),
            trailers: None,
            read_all,
            raw: None,
            copies: Vec::new(),
            finished: None,
            flushed: true,
        }
    }

    /// Gives every frame to mirrors too. To be said before the first one.
    pub(crate) fn copy_to(&mut self, copies: Vec<Copy>) {
        self.copies = copies;
    }

    /// Whether there is no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.read_all && self.bytes == 0 && self.trailers.is_none()
    }

    /// Whether the body can be given to another writer from its beginning.
    pub(crate) fn can_restart(&self) -> bool {
        match self.replay {
            Replay::Keeping { .. } => true,
            Replay::Off => self.is_empty(),
            Replay::TooLarge => false,
        }
    }

    /// Whether everything was received.
    pub(crate) fn read_all(&self) -> bool {
        self.read_all
    }

    /// Whether everything was sent on.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// When everything had been sent on.
    pub(crate) fn finished_at(&self) -> Option<Instant> {
        self.finished
    }

    /// Bytes of payload received.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it comes over HTTP/1.
    pub(crate) fn is_http1(&self) -> bool {
        matches!(self.reader, BodyReader::H1(_))
    }

    /// gRPC messages that passed.
    pub(crate) fn messages(&self) -> u64 {
        self.messages.as_ref().map_or(0, |m| m.count)
    }

    /// The trailers that passed.
    pub(crate) fn take_trailers(&mut self) -> Option<Box<Head>> {
        self.trailers.take()
    }

    /// Nothing will be sent again: what was kept is let go.
    pub(crate) fn forget(&mut self) {
        if self.replayed >= self.kept() {
            self.replay = Replay::Off;
        }
    }

    fn kept(&self) -> usize {
        if let Replay::Keeping { frames, .. } = &self.replay { frames.len() } else { 0 }
    }

    /// Whether a writer understands what was read, or will be.
    pub(crate) fn fits(&self, writer: &BodyWriter<Stream>) -> bool {
        self.raw != Some(true) || writer.accepts_raw()
    }

    /// Ready when who is to get the body does not want it any more. HTTP/1 can tell only when its own message was read whole.
    pub(crate) fn poll_peer_gone(&mut self, cx: &mut Context<'_>) -> Poll<PeerGone> {
        match &mut self.writer {
            Some(writer) => writer.poll_peer_gone(cx),
            None => Poll::Pending,
        }
    }

    /// Sends to this writer, from the beginning of the body. The first one decides whether chunks pass unopened.
    pub(crate) fn attach(&mut self, writer: BodyWriter<Stream>) {
        if self.raw.is_none() {
            let raw = self.messages.is_none() && self.copies.is_empty() && writer.accepts_raw();
            self.reader.set_raw(raw);
            self.raw = Some(raw && !self.read_all);
        }
        self.writer = Some(writer);
        self.replayed = 0;
        self.finished = None;
        self.flushed = false;
    }

    /// Lets the writer go, which has all it was to get.
    pub(crate) fn release(&mut self) {
        self.writer = None;
    }

    /// Gives the writer up in a way that its peer can see.
    pub(crate) fn reset(&mut self, reason: ResetReason) {
        if let Some(writer) = self.writer.take() {
            writer.reset(reason);
        }
    }

    /// Ready when everything was sent on and flushed. Without a writer it waits.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransferError>> {
        if self.finished.is_some() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let Some(writer) = &mut self.writer else { return Poll::Pending };
            if self.read_all && self.replayed >= kept(&self.replay) {
                ready!(writer.poll_finish(cx)).map_err(TransferError::Write)?;
                self.finished = Some(Instant::now());
                return Poll::Ready(Ok(()));
            }
            ready!(writer.poll_ready(cx)).map_err(TransferError::Write)?;
            if let Some(frame) = next_kept(&self.replay, self.replayed) {
                self.replayed += 1;
                let last = self.read_all && self.replayed == kept(&self.replay);
                writer.start_send(frame, last).map_err(TransferError::Write)?;
                self.flushed = false;
                continue;
            }
            match self.reader.poll_next(cx).map_err(TransferError::Read)? {
                Poll::Ready(Some(frame)) => self.pass(frame)?,
                Poll::Ready(None) => {
                    self.read_all = true;
                    self.end_copies();
                }
                Poll::Pending if self.flushed => return Poll::Pending,
                Poll::Pending => {
                    ready!(writer.poll_flush(cx)).map_err(TransferError::Write)?;
                    self.flushed = true;
                    return Poll::Pending;
                }
            }
        }
    }

    fn pass(&mut self, frame: Frame) -> Result<(), TransferError> {
        self.read_all = self.reader.is_end();
        match &frame {
            Frame::Data(data) => {
                self.bytes += data.len() as u64;
                if let Some(messages) = &mut self.messages {
                    messages.pass(data);
                }
            }
            Frame::Raw(_) => self.bytes += self.reader.take_raw_payload(),
            Frame::Trailers(trailers) => self.trailers = Some(trailers.clone()),
        }
        self.keep(&frame);
        for copied in &mut self.copies {
            copied.pass(Some(copy(&frame)));
        }
        if self.read_all {
            self.end_copies();
        }
        self.flushed = false;
        match &mut self.writer {
            Some(writer) => writer.start_send(frame, self.read_all).map_err(TransferError::Write),
            None => Ok(()),
        }
    }

    fn end_copies(&mut self) {
        for copied in &mut self.copies {
            copied.pass(None);
        }
        self.copies.clear();
    }

    fn keep(&mut self, frame: &Frame) {
        let Replay::Keeping { frames, bytes } = &mut self.replay else { return };
        let more = match frame {
            Frame::Data(data) | Frame::Raw(data) => data.len(),
            Frame::Trailers(trailers) => trailers.byte_size(),
        };
        if *bytes + more > MAX_REPLAY {
            self.replay = Replay::TooLarge;
            return;
        }
        *bytes += more;
        frames.push(copy(frame));
        self.replayed = frames.len();
    }
}

fn kept(replay: &Replay) -> usize {
    if let Replay::Keeping { frames, .. } = replay { frames.len() } else { 0 }
}

fn next_kept(replay: &Replay, at: usize) -> Option<Frame> {
    if let Replay::Keeping { frames, .. } = replay { frames.get(at).map(copy) } else { None }
}

/// Shares the bytes.
fn copy(frame: &Frame) -> Frame {
    match frame {
        Frame::Data(data) => Frame::Data(data.clone()),
        Frame::Raw(data) => Frame::Raw(data.clone()),
        Frame::Trailers(trailers) => Frame::Trailers(trailers.clone()),
    }
}

/// Counts the length-prefixed messages of a gRPC stream (gRPC over HTTP/2, "Length-Prefixed-Message").
#[derive(Debug, Default)]
struct GrpcMessages {
    count: u64,
    header: [u8; 5],
    header_len: usize,
    payload_left: u64,
}

impl GrpcMessages {
    fn pass(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.payload_left > 0 {
                let skipped = data.len().min(usize::try_from(self.payload_left).unwrap_or(usize::MAX));
                self.payload_left -= skipped as u64;
                data = &data[skipped..];
                continue;
            }
            let n = data.len().min(5 - self.header_len);
            self.header[self.header_len..self.header_len + n].copy_from_slice(&data[..n]);
            self.header_len += n;
            data = &data[n..];
            if self.header_len == 5 {
                self.header_len = 0;
                self.count += 1;
                let [_, length @ ..] = self.header;
                self.payload_left = u64::from(u32::from_be_bytes(length));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::GrpcMessages;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let stream: Vec<u8> =
            [3u32, 0, 300, 1].iter().flat_map(|n| [&[0][..], &n.to_be_bytes(), &vec![9; *n as usize]].concat()).collect();
        for size in [1, 2, 5, 7, 1000] {
            let mut messages = GrpcMessages::default();
            stream.chunks(size).for_each(|c| messages.pass(c));
            assert_eq!((messages.count, messages.payload_left), (4, 0), "{size}");
        }
    }
}
