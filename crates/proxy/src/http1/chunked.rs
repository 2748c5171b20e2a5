//! The chunked coding (RFC 9112 §7.1), read step by step and strictly.

use super::parse::{Limits, has_head_end, parse_trailers};
use crate::http::{Head, StreamError};

/// Bytes of chunk extensions in one chunk, and in a whole body. Nobody uses them; without a bound they are an attack.
const MAX_EXTENSION: usize = 256;
const MAX_EXTENSIONS: usize = 16 * 1024;

/// Hexadecimal digits of a size: 64 bits.
const MAX_DIGITS: usize = 16;

/// What the next bytes of a chunked body are.
#[derive(Debug)]
pub enum Step {
    /// Not enough bytes to tell.
    NeedMore,
    /// The line that opens a chunk.
    Size {
        /// Bytes of the line.
        len: usize,
        /// Bytes of payload that follow; 0 in the last chunk.
        size: u64,
        /// Whether the line has nothing but the size.
        bare: bool,
    },
    /// Payload, so many bytes.
    Data(usize),
    /// The two bytes that close a chunk.
    DataEnd,
    /// The end of the body: so many bytes, with trailers if there are any.
    End(usize, Option<Box<Head>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers { scanned: usize },
    Done,
}

/// Reads a chunked body without holding any of it.
#[derive(Debug)]
pub struct ChunkDecoder {
    state: State,
    limits: Limits,
    extensions: usize,
}

impl ChunkDecoder {
    /// `limits` bound the trailers.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { state: State::Size, limits, extensions: 0 }
    }

    /// Whether the end has been read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Looks at the bytes that follow those of the last step, and takes the step.
    ///
    /// # Errors
    /// If the coding is broken. The decoder must not be used any further.
    pub fn step(&mut self, buffer: &[u8]) -> Result<Step, StreamError> {
        match self.state {
            State::Size => self.size(buffer),
            State::Data(left) => {
                if buffer.is_empty() {
                    return Ok(Step::NeedMore);
                }
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let left = left - n as u64;
                self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                Ok(Step::Data(n))
            }
            State::DataEnd => match buffer {
                [b'\r', b'\n', ..] => {
                    self.state = State::Size;
                    Ok(Step::DataEnd)
                }
                [] | [b'\r'] => Ok(Step::NeedMore),
                _ => Err(StreamError::Malformed("a chunk longer than its size")),
            },
            State::Trailers { scanned } => self.trailers(buffer, scanned),
            State::Done => Ok(Step::End(0, None)),
        }
    }

    fn size(&mut self, buffer: &[u8]) -> Result<Step, StreamError> {
        const BAD: StreamError = StreamError::Malformed("an invalid chunk size");
        let digits = buffer.iter().take(MAX_DIGITS + 1).take_while(|b| b.is_ascii_hexdigit()).count();
        if digits > MAX_DIGITS {
            return Err(BAD);
        }
        let Some(&after) = buffer.get(digits) else { return Ok(Step::NeedMore) };
        if digits == 0 || !matches!(after, b'\r' | b';' | b' ' | b'\t') {
            return Err(BAD);
        }
        let rest = &buffer[digits..];
        let line = rest.iter().take(MAX_EXTENSION + 1).position(|&b| b == b'\r');
        let extension = &rest[..line.unwrap_or(rest.len().min(MAX_EXTENSION + 1))];
        // White space may stand before an extension only, not between a size and its line's end.
        let after_space = extension.iter().find(|b| !matches!(b, b' ' | b'\t'));
        let is_extension = after_space.map_or(line.is_none() || extension.is_empty(), |&b| b == b';');
        if !is_extension || extension.iter().any(|&b| b != b'\t' && (b < 0x20 || b == 0x7f)) {
            return Err(BAD);
        }
        if extension.len() > MAX_EXTENSION || self.extensions + extension.len() > MAX_EXTENSIONS {
            return Err(StreamError::Malformed("chunk extensions larger than the limit"));
        }
        let Some(line) = line else { return Ok(Step::NeedMore) };
        match rest.get(line + 1) {
            None => return Ok(Step::NeedMore),
            Some(b'\n') => {}
            Some(_) => return Err(BAD),
        }
        self.extensions += line;
        let size = buffer[..digits].iter().fold(0_u64, |n, &b| {
            let digit = char::from(b).to_digit(16).unwrap_or_default();
            (n << 4) | u64::from(digit)
        });
        self.state = if size == 0 { State::Trailers { scanned: 0 } } else { State::Data(size) };
        Ok(Step::Size { len: digits + line + 2, size, bare: line == 0 })
    }

    fn trailers(&mut self, buffer: &[u8], scanned: usize) -> Result<Step, StreamError> {
        match buffer {
            [b'\r', b'\n', ..] => {
                self.state = State::Done;
                return Ok(Step::End(2, None));
            }
            [] | [b'\r'] => return Ok(Step::NeedMore),
            [b'\r' | b'\n', ..] => return Err(StreamError::Malformed("a line that does not end in CR LF")),
            _ => {}
        }
        if scanned > 0 && buffer.len() < self.limits.max_head_bytes && !has_head_end(buffer, scanned) {
            self.state = State::Trailers { scanned: buffer.len() };
            return Ok(Step::NeedMore);
        }
        let mut head = Box::new(Head::new());
        match parse_trailers(buffer, &mut head, self.limits)? {
            Some(n) => {
                self.state = State::Done;
                Ok(Step::End(n, (!head.is_empty()).then_some(head)))
            }
            None => {
                self.state = State::Trailers { scanned: buffer.len() };
                Ok(Step::NeedMore)
            }
        }
    }
}
